//! The server API: what backends ask, over HTTP and gRPC on a listener of its own. See `docs/server-api.md`.
//!
//! | module | what |
//! | --- | --- |
//! | `http`, `grpc` | the two ways to ask |
//! | `publishing`, `calls`, `members`, `moderation` | what each call does, the same for both |
//! | `notifications` | what the notify service is asked, over HTTP |
//! | `control` | asking all gateways about their sessions |
//! | `answering` | what this gateway answers to that |
//! | `for_services` | what services without links ask of any gateway |
//!
//! What must hold: without a key nothing is told but that one is needed; a call that is answered with a result
//! is done, at every gateway that is there; whatever a request can make grow has a bound.

mod answering;
mod calls;
mod changing;
mod config;
mod control;
mod failure;
mod for_services;
mod grpc;
mod http;
mod members;
mod moderation;
mod notifications;
mod publishing;
mod statistics;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use switchboard_bus::statistics::Ticking;
use switchboard_proto::api::{self, BatchRequest, BatchResponse, Command, Reply};
use switchboard_proto::codes::ErrorCode;
use switchboard_service_kit::admin::{self, BindError};
use switchboard_service_kit::api_key::{self, KeyError, Keys};
use switchboard_service_kit::api_listener::{self, Listening};
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::answering::Answering;
pub use self::config::ApiConfig;
pub(crate) use self::control::Gateways;
use self::failure::Failure;
pub(crate) use self::for_services::answer_services;
use crate::gateway::Gateway;
use crate::metrics::ApiMethod;

/// Where a key that was made here stands in the data folder.
const KEY_FILE: &str = "api-key";

/// Calls of one batch, and of one older request that holds several.
const BATCH: usize = 1000;

/// Calls of a parallel batch that are carried out at a time.
const BATCH_AT_ONCE: usize = 32;

/// Where a server API is, and where the key is kept that opens it.
#[derive(Debug, Clone)]
pub struct ApiRunning {
    /// Where it listens.
    pub address: SocketAddr,
    /// The file of a key that was made here; `None`: the key is configured.
    pub key_file: Option<PathBuf>,
}

/// Why a gateway's server API does not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// See [`BindError`].
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system does not say where it listens.
    #[error("the address of the server API's listener is not known")]
    Address(#[source] std::io::Error),
    /// See [`KeyError`].
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// How a call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// Payloads are JSON values.
    Http,
    /// Payloads are bytes, which may be JSON.
    Grpc,
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
struct Caller {
    /// The name of the key that was given.
    key: &'static str,
    transport: Transport,
    /// When the request came: what is published by it, in however many channels, is answered within one time limit.
    arrived: Instant,
}

/// See the module. One handler behind HTTP and gRPC.
struct Api {
    config: ApiConfig,
    keys: Keys,
    gateway: Arc<Gateway>,
    gateways: Arc<Gateways>,
    /// A place for each request that is carried out.
    places: Semaphore,
    /// What happens, for who watches it.
    ticking: Ticking,
    stop: CancellationToken,
}

/// Starts the server API; `None` where there is to be none. `data`: where a key may be kept; `None`: in a cluster,
/// whose gateways share one.
pub(crate) async fn start(
    gateway: Arc<Gateway>,
    gateways: Arc<Gateways>,
    data: Option<&Path>,
    tasks: &Tasks,
) -> Result<Option<ApiRunning>, ApiError> {
    let config = gateway.config.api.clone();
    if !config.enabled {
        return Ok(None);
    }
    let (keys, key_file) = match (&*config.keys, data) {
        ([], None) => {
            tracing::info!(
                "the server API is off: set gateway.api.key, the same for all gateways, to have it"
            );
            return Ok(None);
        }
        ([], Some(folder)) => {
            let (key, file) = api_key::kept_in(folder, KEY_FILE)?;
            (Keys::new(&[key]), Some(file))
        }
        (keys, _) => (Keys::new(keys), None),
    };
    let listener = admin::bind("gateway.api.listen", config.listen).await?;
    let address = listener.local_addr().map_err(ApiError::Address)?;
    let api = Arc::new(Api {
        places: Semaphore::new(config.requests),
        ticking: Ticking::new(config.live_streams),
        stop: tasks.stop_token(),
        keys,
        gateway,
        gateways,
        config,
    });
    let router = grpc::router(&api)
        .merge(http::router(&api))
        .merge(statistics::router(&api))
        .fallback(http::nothing);
    let (watched, stop) = (Arc::clone(&api), tasks.stop_token());
    tasks.spawn("statistics-ticks", TaskKind::Essential, async move {
        let look = || {
            let watched = Arc::clone(&watched);
            async move { watched.look().await }
        };
        stop.run_until_cancelled(watched.ticking.run(look)).await;
    });
    let listening = Listening {
        listener,
        router,
        tls: None,
        connections: api.config.connections,
        times: api.config.times,
    };
    let listening = api_listener::listen(listening, tasks.clone());
    tasks.spawn("api-listener", TaskKind::Essential, listening);
    let file = key_file.as_deref().map(Path::display);
    match file {
        Some(file) => tracing::info!(%address, key_file = %file, "server API listens"),
        None => tracing::info!(%address, "server API listens"),
    }
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "the server API speaks plain HTTP: whoever can read the network can read its key");
    }
    Ok(Some(ApiRunning { address, key_file }))
}

/// A request that has a result.
trait Call: Sized {
    type Result;
    const METHOD: ApiMethod;

    fn carry_out(
        self,
        api: &Api,
        caller: Caller,
    ) -> impl Future<Output = Result<Self::Result, Failure>> + Send;
}

macro_rules! calls {
    ($($request:ident -> $result:ident, $method:ident: |$api:ident, $this:ident, $caller:pat_param| $call:expr;)+) => {
        $(impl Call for api::$request {
            type Result = api::$result;
            const METHOD: ApiMethod = ApiMethod::$method;

            async fn carry_out(self, $api: &Api, $caller: Caller) -> Result<Self::Result, Failure> {
                let $this = self;
                $call
            }
        })+
    };
}

calls! {
    PublishRequest -> PublishResult, Publish: |api, request, caller| api.publish(request, caller).await;
    BroadcastRequest -> BroadcastResult, Broadcast: |api, request, caller| api.broadcast(request, caller).await;
    SubscribeRequest -> SubscribeResult, Subscribe: |api, request, _| api.subscribe(request).await;
    UnsubscribeRequest -> UnsubscribeResult, Unsubscribe: |api, request, _| api.unsubscribe(request).await;
    DisconnectRequest -> DisconnectResult, Disconnect: |api, request, _| api.disconnect(request).await;
    RefreshRequest -> RefreshResult, Refresh: |api, request, _| api.refresh(request).await;
    PresenceRequest -> PresenceResult, Presence: |api, request, _| api.presence(request).await;
    PresenceStatsRequest -> PresenceStatsResult, PresenceStats: |api, request, _| api.presence_stats(request).await;
    HistoryRequest -> HistoryResult, History: |api, request, caller| {
        let result = api.history(request).await?;
        Ok(match caller.transport {
            Transport::Http => http::as_json(result),
            Transport::Grpc => result,
        })
    };
    HistoryRemoveRequest -> HistoryRemoveResult, HistoryRemove: |api, request, _| api.history_remove(request).await;
    ChannelsRequest -> ChannelsResult, Channels: |api, request, _| api.channels(request).await;
    InfoRequest -> InfoResult, Info: |api, request, _| api.info(request).await;
    RpcRequest -> RpcResult, Rpc: |api, request, _| api.rpc(&request);
    SystemMessageRequest -> SystemMessageResult, SystemMessage: |api, request, _| api.system_message(request).await;
    ChannelMembersAddRequest -> ChannelMembersAddResult, ChannelMembersAdd: |api, request, caller| {
        api.add_members(request, caller).await
    };
    ChannelMembersRemoveRequest -> ChannelMembersRemoveResult, ChannelMembersRemove: |api, request, caller| {
        api.remove_members(request, caller).await
    };
    ChannelMembersListRequest -> ChannelMembersListResult, ChannelMembersList: |api, request, caller| {
        api.list_members(request, caller).await
    };
    MessageEditRequest -> MessageChangeResult, MessageEdit: |api, request, caller| api.edit(request, caller).await;
    MessageDeleteRequest -> MessageChangeResult, MessageDelete: |api, request, caller| api.delete(request, caller).await;
    BlockUserRequest -> ModerationResult, BlockUser: |api, request, caller| api.block_user(request, caller).await;
    UnblockUserRequest -> ModerationResult, UnblockUser: |api, request, caller| api.unblock_user(request, caller).await;
    MuteUserRequest -> ModerationResult, MuteUser: |api, request, caller| api.mute_user(request, caller).await;
    UnmuteUserRequest -> ModerationResult, UnmuteUser: |api, request, caller| api.unmute_user(request, caller).await;
    RevokeTokenRequest -> ModerationResult, RevokeToken: |api, request, caller| api.revoke_token(request, caller).await;
    InvalidateUserTokensRequest -> ModerationResult, InvalidateUserTokens: |api, request, caller| api.invalidate_user_tokens(request, caller).await;
    ModerationLogRequest -> ModerationLogResult, ModerationLog: |api, request, caller| api.moderation_log(request, caller).await;
    ModerationStateRequest -> ModerationStateResult, ModerationState: |api, request, caller| api.moderation_state(request, caller).await;
}

impl Api {
    /// Carries out a request, if there is a place for it. Over HTTP/1.1 it is given up where the backend hangs up.
    async fn call<C: Call>(&self, request: C, caller: Caller) -> Result<C::Result, Failure> {
        match self.places.try_acquire() {
            Ok(_place) => self.part(request, caller).await,
            Err(_) => Err(self.too_many(C::METHOD)),
        }
    }

    fn too_many(&self, method: ApiMethod) -> Failure {
        let failure = Failure::because(ErrorCode::TooManyRequests, "see gateway.api.requests");
        self.gateway.metrics.api_call(method, failure.code);
        failure
    }

    /// Carries out what has a place already.
    async fn part<C: Call>(&self, request: C, caller: Caller) -> Result<C::Result, Failure> {
        let result = request.carry_out(self, caller).await;
        let code = result.as_ref().err().map_or(0, |failure| failure.code);
        self.gateway.metrics.api_call(C::METHOD, code);
        if let Err(failure) = &result {
            tracing::debug!(
                method = C::METHOD.as_str(),
                code = failure.code,
                "call of a backend refused"
            );
        }
        result
    }

    /// Several calls, in their order or all at once.
    async fn batch(&self, request: BatchRequest, caller: Caller) -> Result<BatchResponse, Failure> {
        let Ok(_place) = self.places.try_acquire() else {
            return Err(self.too_many(ApiMethod::Batch));
        };
        if request.commands.len() > BATCH {
            self.gateway
                .metrics
                .api_call(ApiMethod::Batch, ErrorCode::LimitExceeded.code());
            return Err(Failure::because(
                ErrorCode::LimitExceeded,
                "batch of more than 1000 commands",
            ));
        }
        let at_once = if request.parallel { BATCH_AT_ONCE } else { 1 };
        let replies = stream::iter(request.commands)
            .map(|command| self.command(command, caller))
            .buffered(at_once)
            .collect()
            .await;
        self.gateway.metrics.api_call(ApiMethod::Batch, 0);
        Ok(BatchResponse { replies })
    }

    async fn command(&self, command: Command, caller: Caller) -> Reply {
        macro_rules! first {
            ($($name:ident)+) => {
                $(if let Some(request) = command.$name {
                    return match self.part(request, caller).await {
                        Ok(result) => Reply { $name: Some(result), ..Reply::default() },
                        Err(failure) => Reply { error: Some(failure.into()), ..Reply::default() },
                    };
                })+
            };
        }
        first!(publish broadcast subscribe unsubscribe disconnect presence presence_stats history history_remove info rpc
            refresh channels);
        Reply {
            error: Some(Failure::from(ErrorCode::MethodNotFound).into()),
            ..Reply::default()
        }
    }
}
