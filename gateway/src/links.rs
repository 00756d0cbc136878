//! The gateway's side of its links: one actor per shard, which holds the shard's part of the table
//! channel ▶ local sessions. Sessions talk to it through [`Links`].

mod actor;
mod delivering;
mod history;
mod layout;
mod link;
mod replies;

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use switchboard_bus::{Bus, BusError, Pattern, Subject};
use switchboard_proto::bus::{Message, OwnerBeat, Refusal, Series};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::Reply;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, ShardCount, ShardId};
use switchboard_service_kit::health::Component;
use switchboard_service_kit::service::Context;
use switchboard_service_kit::tasks::TaskKind;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::actor::{Ask, LinkActor};
pub(crate) use self::history::{At, HistoryQuery};
use self::layout::LayoutCheck;
use self::link::Known;
pub(crate) use self::link::{Bounds, Link, Missed, Reset, Since, Stored, Timing, refusal};
#[cfg(feature = "simulation")]
pub(crate) use self::link::{Channels, Output, PublishAsked, Subscribe, Subscriber};
use crate::conversations::Events;
use crate::metrics::LinkMetrics;
use crate::session::SessionHandle;
use crate::statistics::Deliveries;

/// What links keep to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinksConfig {
    /// From a command to its answer, at most (P4).
    pub(crate) answer_timeout: Duration,
    /// Requests of sessions that wait for one link; above, sessions wait.
    pub(crate) queue: usize,
    /// Frames of an owner that wait for one link; above, the newest is lost and the link reset.
    pub(crate) frames: usize,
    /// Publishes of one link that wait for their answer; above, publishers are told to slow down.
    pub(crate) unanswered: usize,
    /// Bytes of these, likewise.
    pub(crate) unanswered_bytes: usize,
    /// Bytes of deliveries that all owners together may send before they are confirmed.
    pub(crate) unconfirmed_bytes: usize,
}

/// An owner can always have this much on the way.
const MIN_CREDIT: usize = 256 * 1024;

/// Hands what sessions ask for to the shard's link. Cheap to clone.
///
/// All calls wait while the link's queue is full, so a session that asks faster than its shard can
/// serve stops being read, and is answered with an error when the command's time is over. Answers are
/// put into the session's outgoing queue by the link itself, so that the replies and publications of a
/// channel keep their order (R2).
#[derive(Clone)]
pub(crate) struct Links {
    asks: Arc<[mpsc::Sender<Ask>]>,
    /// Whom to ask about each shard.
    known: Arc<[watch::Receiver<Option<Known>>]>,
    bus: Arc<dyn Bus>,
    shards: ShardCount,
    answer_timeout: Duration,
}

impl Links {
    /// Which life of its shard's log the channel's owner writes; `None`: no owner has said yet.
    pub(crate) fn log_ordinal(&self, channel: &ChannelName) -> Option<u32> {
        let known = self.known.get(usize::from(self.shard_of(channel).get()))?;
        known.borrow().map(|known| known.rank.0)
    }

    /// What carries the links.
    pub(crate) fn bus(&self) -> &dyn Bus {
        &*self.bus
    }

    /// Starts one link actor per shard. They find their owners by themselves.
    ///
    /// # Errors
    /// [`BusError`] where the bus does not take a subscription.
    pub(crate) async fn start(
        config: LinksConfig,
        bus: &Arc<dyn Bus>,
        shards: ShardCount,
        gateway: Incarnation,
        context: &Context,
        metrics: &LinkMetrics,
        (health, events, deliveries): (Component, Events, Arc<Deliveries>),
    ) -> Result<Self, BusError> {
        let mut beats = bus.subscribe(Pattern::AllOwnerBeats, config.frames).await?;
        let mut asks = Vec::with_capacity(usize::from(shards.get()));
        let mut owners = Vec::with_capacity(usize::from(shards.get()));
        let mut all_known = Vec::with_capacity(usize::from(shards.get()));
        let ready = actor::Readiness::new(shards, health);
        for shard in shards.iter() {
            let down = Subject::LinkDown { gateway, shard };
            let frames = bus.subscribe(Pattern::Exactly(down), config.frames).await?;
            let (ask, asked) = mpsc::channel(config.queue);
            let (owner, owner_beats) = mpsc::channel(16);
            let (known, is_known) = watch::channel(None);
            all_known.push(is_known);
            asks.push(ask);
            owners.push(owner);
            let timing = Timing {
                silence: Duration::from_secs(3),
                open_retry: Duration::from_secs(1),
                beat: Duration::from_secs(1),
            };
            let bounds = Bounds {
                frame: 256 * 1024,
                unanswered: config.unanswered,
                unanswered_bytes: config.unanswered_bytes,
                credit: (config.unconfirmed_bytes / usize::from(shards.get())).max(MIN_CREDIT),
                questions: 8,
            };
            let actor = LinkActor {
                shard,
                link: Link::new(shard, gateway, timing, bounds),
                bus: Arc::clone(bus),
                asked,
                answer_timeout: config.answer_timeout,
                owner_beats,
                frames,
                known,
                tasks: context.tasks.clone(),
                metrics: metrics.clone(),
                ready: ready.clone(),
                events: events.clone(),
                deliveries: Arc::clone(&deliveries),
            };
            context
                .tasks
                .spawn("link", TaskKind::Essential, actor.run(context.tasks.stop_token()));
        }
        let stop = context.tasks.stop_token();
        let mut layout = LayoutCheck::new(shards, context.health.component("layout"));
        context
            .tasks
            .spawn("owner-beats", TaskKind::Essential, async move {
                while let Some(Some(beat)) = stop.run_until_cancelled(beats.next()).await {
                    let beat = match format::decode::<OwnerBeat>(beat.payload) {
                        Ok(beat) => beat,
                        Err(error) => {
                            tracing::warn!(%error, "owner beat dropped");
                            continue;
                        }
                    };
                    if !layout.is_ours(&beat, Instant::now()) {
                        continue;
                    }
                    // A beat that finds a full queue is repeated by the next.
                    if let Some(owner) = usize::try_from(beat.shard)
                        .ok()
                        .and_then(|shard| owners.get(shard))
                    {
                        owner.try_send(beat).ok();
                    }
                }
            });
        Ok(Self {
            asks: asks.into(),
            known: all_known.into(),
            bus: Arc::clone(bus),
            shards,
            answer_timeout: config.answer_timeout,
        })
    }

    /// Subscribes to `channel` and answers the command (a `subscribe` result or an error) before any
    /// publication of the channel.
    ///
    /// Not cancel safe: when dropped, the subscription may be asked for or not.
    pub(crate) async fn subscribe(&self, asker: Asker, channel: ChannelName, since: Option<Since>) {
        let shard = self.shard_of(&channel);
        let late = (asker.clone(), channel.clone());
        let ask = Ask::Subscribe {
            asker,
            channel,
            since,
        };
        if !self.ask_in_time(shard, late.0.arrived, ask).await {
            let (asker, channel) = late;
            asker
                .session
                .not_subscribed(&channel, asker.id, ErrorCode::Internal);
        }
    }

    /// Room for the end of a subscription to `channel`, which its link must learn of: waits as long as it takes.
    ///
    /// Cancel safe: nothing has happened. So a session takes a channel out of its own table only once it has room,
    /// or one that ends meanwhile would stay in the link's for ever.
    pub(crate) async fn room(&self, channel: &ChannelName) -> Room<'_> {
        match self.asks.get(usize::from(self.shard_of(channel).get())) {
            Some(link) => Room(link.reserve().await.ok()),
            None => Room(None),
        }
    }

    /// Publishes to `channel`, which is the message's, and answers the command once the message is
    /// stored or refused.
    ///
    /// Not cancel safe, as above.
    pub(crate) async fn publish(&self, asker: Asker, channel: &ChannelName, publish: Publish) {
        let shard = self.shard_of(channel);
        let late = asker.clone();
        let Asker { session, id, arrived } = asker;
        let ask = Ask::Publish {
            publisher: Publisher::Session(session),
            id,
            arrived,
            publish,
        };
        if !self.ask_in_time(shard, late.arrived, ask).await {
            late.answer_late();
        }
    }

    /// As [`Links::publish`], for a caller of the server API, who asked when `arrived`.
    ///
    /// Not cancel safe, as above.
    ///
    /// # Errors
    /// What the owner or the link refused with; error 100, temporary: it is not known whether it is stored.
    pub(crate) async fn publish_by_server(
        &self,
        channel: &ChannelName,
        publish: Publish,
        arrived: Instant,
    ) -> Result<Stored, Refusal> {
        let (publisher, answer) = oneshot::channel();
        let ask = Ask::Publish {
            publisher: Publisher::Server(publisher),
            id: 0,
            arrived,
            publish,
        };
        self.ask_in_time(self.shard_of(channel), arrived, ask).await;
        // The link answers in time. It has dropped the question where it was stopped, or had no room.
        answer.await.unwrap_or_else(|_| Err(refusal(ErrorCode::Internal)))
    }

    pub(crate) fn shard_of(&self, channel: &ChannelName) -> ShardId {
        ShardId::of_channel(channel.as_str(), self.shards)
    }

    /// Waits for room in the link's queue; `false` once the command's time is over (P4).
    async fn ask_in_time(&self, shard: ShardId, arrived: Instant, ask: Ask) -> bool {
        let Some(link) = self.asks.get(usize::from(shard.get())) else {
            return true;
        };
        match tokio::time::timeout_at(arrived + self.answer_timeout, link.reserve()).await {
            Ok(Ok(room)) => {
                room.send(ask);
                true
            }
            // Stopped: every session is being closed.
            Ok(Err(_)) => true,
            Err(_) => false,
        }
    }
}

/// A place in a link's queue. None: the link was stopped, and every session is being closed.
pub(crate) struct Room<'a>(Option<mpsc::Permit<'a, Ask>>);

impl Room<'_> {
    /// Ends the subscription, and tells the session `then`, behind everything of the channel (R2). None: the session
    /// is going. `channel` is the one that the room is for.
    pub(crate) fn unsubscribe(self, session: &Arc<SessionHandle>, then: Option<Reply>, channel: ChannelName) {
        if let Self(Some(room)) = self {
            room.send(Ask::Unsubscribe {
                session: Arc::clone(session),
                then: then.map(Box::new),
                channel,
            });
        }
    }
}

/// A message to publish, and how its sender is answered.
pub(crate) struct Publish {
    series: Series,
    /// An encoded `Message`.
    message: bytes::Bytes,
    /// Its id, where the command was `message.send`, whose answer tells it.
    send_id: Option<bytes::Bytes>,
    /// It is stored before it is answered and delivered.
    is_durable: bool,
}

impl Publish {
    /// By the command `publish`.
    pub(crate) fn plain(message: &Message, is_durable: bool) -> Self {
        Self {
            series: series(message),
            message: message.encode_to_vec().into(),
            send_id: None,
            is_durable,
        }
    }

    /// By the rpc `message.send`.
    pub(crate) fn send(message: &Message, is_durable: bool) -> Self {
        Self {
            send_id: Some(message.id.clone()),
            ..Self::plain(message, is_durable)
        }
    }
}

fn series(message: &Message) -> Series {
    if message.key.is_empty() {
        Series::Plain
    } else {
        Series::Keyed
    }
}

/// Who is told what became of a publish.
pub(crate) enum Publisher {
    Session(Arc<SessionHandle>),
    /// A caller of the server API. One that waits no more is not told.
    Server(oneshot::Sender<Result<Stored, Refusal>>),
}

/// Whose command it is, and since when it waits for its answer.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) session: Arc<SessionHandle>,
    /// The command's.
    pub(crate) id: u32,
    /// When the command's frame came.
    pub(crate) arrived: Instant,
}

impl Asker {
    /// The command was never handed on, and its time is over.
    fn answer_late(&self) {
        self.session
            .reply(&replies::error(self.id, ErrorCode::Internal.into()));
    }
}

#[cfg(test)]
impl Links {
    /// Takes a place in the queue of the channel's link, until what it returns is dropped.
    pub(crate) async fn occupy(&self, channel: &ChannelName) -> impl Sized + use<> {
        let link = self.asks[usize::from(self.shard_of(channel).get())].clone();
        link.reserve_owned().await.unwrap()
    }
}
