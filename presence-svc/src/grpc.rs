//! `PresenceService` over gRPC, for backends: what other services ask over the bus, by the same handlers, in the same places and
//! times; and what changes, as a stream. See [`switchboard_service_kit::grpc`] for who may ask.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream};
use switchboard_bus::answering::Answering;
use switchboard_bus::messages::AskError;
use switchboard_bus::{Bus, BusError, Pattern, Subject};
use switchboard_proto::format;
use switchboard_proto::presence::presence_service_server::{PresenceService, PresenceServiceServer};
use switchboard_proto::presence::watch_event::Event;
use switchboard_proto::presence::{
    self as wire, Changes, ChannelCountsRequest, ChannelCountsResponse, ChannelMembersRequest,
    ChannelMembersResponse, GetUserRequest, GetUserResponse, GetUsersRequest, GetUsersResponse,
    SetUserRequest, SetUserResponse, WatchEvent, WatchRequest,
};
use switchboard_service_kit::grpc::{self, GrpcConfig, GrpcError, GrpcRunning};
use switchboard_service_kit::service::Context;
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tonic::{Request, Response, Status};

use crate::service::{MAX_ASKED, Service};

/// Where a key that was made here stands in the data folder.
const KEY_FILE: &str = "presence-key";

/// Frames of changes that a stream may be behind; beyond it the stream ends.
const BEHIND: usize = 1_024;

/// What is asked over gRPC.
pub(crate) struct Asked {
    pub(crate) service: Arc<Service>,
    pub(crate) answering: Answering,
    pub(crate) watched: Watched,
}

/// All changes, as all replicas tell them.
pub(crate) struct Watched {
    /// `None`: some may have been missed.
    changes: broadcast::Sender<Option<Arc<Changes>>>,
    places: Arc<Semaphore>,
}

impl Watched {
    /// Follows them until the tasks stop.
    ///
    /// # Errors
    /// [`BusError`].
    pub(crate) async fn follow(bus: &dyn Bus, most: usize, tasks: &Tasks) -> Result<Self, BusError> {
        let pattern = Pattern::Exactly(Subject::PresenceChanges);
        let mut heard = bus.subscribe(pattern, BEHIND).await?;
        let (changes, _) = broadcast::channel(BEHIND);
        let mut disruptions = bus.disruptions();
        let (sender, stop) = (changes.clone(), tasks.stop_token());
        tasks.spawn("grpc-changes", TaskKind::Essential, async move {
            // Of each replica, the last number. A few hundred are never alive at once; the rest are dead.
            let mut numbers: HashMap<Vec<u8>, u64> = HashMap::new();
            while let Some(Some(message)) = stop.run_until_cancelled(heard.next()).await {
                let Ok(changes) = format::decode::<Changes>(message.payload) else {
                    continue;
                };
                if numbers.len() > 256 {
                    numbers.clear();
                }
                let last = numbers.insert(changes.replica.to_vec(), changes.number);
                // Nobody may listen.
                if last.is_some_and(|last| last + 1 != changes.number)
                    || disruptions.has_changed().unwrap_or(false)
                {
                    disruptions.mark_unchanged();
                    sender.send(None).ok();
                }
                sender.send(Some(Arc::new(changes))).ok();
            }
        });
        Ok(Self {
            changes,
            places: Arc::new(Semaphore::new(most)),
        })
    }
}

/// Listens, until the context's tasks are stopped. `data`: where a key may be kept; `None`: in a cluster.
///
/// # Errors
/// [`GrpcError`].
pub(crate) async fn start(
    config: GrpcConfig,
    asked: Asked,
    data: Option<&Path>,
    context: &Context,
) -> Result<GrpcRunning, GrpcError> {
    let metrics = asked.service.metrics.grpc.clone();
    let service = PresenceServiceServer::new(asked).max_decoding_message_size(config.request_size);
    let served = grpc::Grpc {
        service,
        name: wire::SERVICE,
        descriptors: wire::DESCRIPTORS,
        component: crate::run::COMPONENT,
        kept_key: data.map(|folder| (folder, KEY_FILE)),
        metrics,
    };
    grpc::start(config, served, context).await
}

impl Asked {
    async fn answered<T>(
        &self,
        answer: impl Future<Output = Result<T, AskError>> + Send,
    ) -> Result<Response<T>, Status> {
        self.answering
            .beside(answer)
            .await
            .map(Response::new)
            .map_err(|unanswered| self.answering.status(unanswered))
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

#[tonic::async_trait]
impl PresenceService for Asked {
    async fn get_users(
        &self,
        request: Request<GetUsersRequest>,
    ) -> Result<Response<GetUsersResponse>, Status> {
        self.answered(self.service.get_users(request.into_inner())).await
    }

    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<GetUserResponse>, Status> {
        self.answered(self.service.get_user(request.into_inner())).await
    }

    async fn set_user(&self, request: Request<SetUserRequest>) -> Result<Response<SetUserResponse>, Status> {
        self.answered(self.service.set_user(request.into_inner())).await
    }

    async fn channel_members(
        &self,
        request: Request<ChannelMembersRequest>,
    ) -> Result<Response<ChannelMembersResponse>, Status> {
        self.answered(self.service.channel_members(request.into_inner()))
            .await
    }

    async fn channel_counts(
        &self,
        request: Request<ChannelCountsRequest>,
    ) -> Result<Response<ChannelCountsResponse>, Status> {
        self.answered(self.service.channel_counts(request.into_inner()))
            .await
    }

    type WatchStream = Events;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Events>, Status> {
        let request = request.into_inner();
        if request.users.len() > MAX_ASKED {
            let words = format!(
                "{} users in one watch, {MAX_ASKED} are allowed",
                request.users.len()
            );
            return Err(Status::invalid_argument(words));
        }
        let Ok(place) = Arc::clone(&self.watched.places).try_acquire_owned() else {
            return Err(Status::resource_exhausted(
                "as many watch as may (presence.grpc_watches)",
            ));
        };
        // First, so that no change falls between.
        let changes = self.watched.changes.subscribe();
        let mut first = Vec::new();
        if !request.users.is_empty() {
            let users = GetUsersRequest {
                users: request.users.clone(),
            };
            first = self
                .answered(self.service.get_users(users))
                .await?
                .into_inner()
                .users;
        }
        let versions = first
            .iter()
            .map(|user| (user.user.clone(), user.version))
            .collect();
        let first: Vec<_> = first
            .into_iter()
            .map(|user| Ok(event(Event::User(user))))
            .collect();
        let watch = Watch {
            request,
            versions,
            changes,
            waiting: VecDeque::new(),
            is_over: false,
            _place: place,
        };
        let following = stream::unfold(watch, Watch::next);
        Ok(Response::new(Box::pin(stream::iter(first).chain(following))))
    }
}

/// One stream.
struct Watch {
    request: WatchRequest,
    /// What was told of the users that were asked for.
    versions: HashMap<String, u64>,
    changes: broadcast::Receiver<Option<Arc<Changes>>>,
    waiting: VecDeque<WatchEvent>,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    /// The next event, and what follows; `None`: it is over.
    async fn next(mut self) -> Option<(Result<WatchEvent, Status>, Self)> {
        loop {
            if let Some(next) = self.waiting.pop_front() {
                return Some((Ok(next), self));
            }
            if self.is_over {
                return None;
            }
            match self.changes.recv().await {
                Ok(Some(changes)) => self.tell(&changes),
                Err(RecvError::Closed) => return None,
                Ok(None) | Err(RecvError::Lagged(_)) => {
                    self.is_over = true;
                    let missed = Status::unavailable("changes may have been missed: ask anew");
                    return Some((Err(missed), self));
                }
            }
        }
    }

    fn tell(&mut self, changes: &Changes) {
        for user in &changes.users {
            let is_new = match self.versions.get_mut(&user.user) {
                Some(version) => {
                    let is_new = *version < user.version;
                    *version = user.version.max(*version);
                    is_new
                }
                None => self.request.everybody,
            };
            if is_new {
                self.waiting.push_back(event(Event::User(user.clone())));
            }
        }
        if self.request.channels {
            let channels = changes.channels.iter().cloned();
            self.waiting
                .extend(channels.map(|channel| event(Event::Channel(channel))));
        }
    }
}

fn event(event: Event) -> WatchEvent {
    WatchEvent { event: Some(event) }
}
