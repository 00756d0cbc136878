//! Runs one link: moves frames between the bus, the [`Link`] and the sessions, and decides nothing
//! itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use switchboard_bus::{Bus, BusError, Subject, Subscription, fold};
use switchboard_proto::bus::{Delivered, Down, MembersChanged, OwnerBeat, Refusal, Up};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::Reply;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, Offset, ShardCount, ShardId};
use switchboard_proto::time::now_us;
use switchboard_service_kit::health::Component;
use switchboard_service_kit::tasks::Tasks;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::delivering::Delivering;
use super::link::{
    Channels, Known, Link, Missed, Output, PublishAsked, Reset, Since, Stored, Subscribe, Subscriber,
};
use super::{Asker, Publish, Publisher, replies};
use crate::conversations::{Events, Told};
use crate::metrics::LinkMetrics;
use crate::session::{SessionHandle, SharedReply};
use crate::statistics::Deliveries;

/// What a session asks of a link.
pub(super) enum Ask {
    Subscribe {
        asker: Asker,
        channel: ChannelName,
        since: Option<Since>,
    },
    Unsubscribe {
        session: Arc<SessionHandle>,
        then: Option<Box<Reply>>,
        channel: ChannelName,
    },
    Publish {
        publisher: Publisher,
        /// The command's.
        id: u32,
        /// When the command's frame, or the call, came.
        arrived: Instant,
        publish: Publish,
    },
}

impl Subscriber for Arc<SessionHandle> {
    type Publisher = Publisher;

    fn id(&self) -> u64 {
        SessionHandle::id(self)
    }

    fn has_room(&self) -> bool {
        SessionHandle::has_room(self)
    }

    fn has_answer_room(&self) -> bool {
        SessionHandle::has_answer_room(self)
    }

    fn takes_in_answer(&self, bytes: usize) -> bool {
        SessionHandle::takes_in_answer(self, bytes)
    }
}

/// How many links are up; all of them: the gateway is ready.
#[derive(Clone)]
pub(super) struct Readiness {
    /// Held while the health is told, so that the last change has the last word.
    up: Arc<Mutex<usize>>,
    all: usize,
    health: Component,
}

impl Readiness {
    pub(super) fn new(shards: ShardCount, health: Component) -> Self {
        Self {
            up: Arc::default(),
            all: usize::from(shards.get()),
            health,
        }
    }

    fn changed(&self, is_up: bool) {
        let mut up = self.up.lock();
        *up = if is_up { *up + 1 } else { up.saturating_sub(1) };
        if *up == self.all {
            self.health.ready();
        } else {
            self.health.not_ready(format!(
                "{} of {} shards have no link to an owner",
                self.all - *up,
                self.all
            ));
        }
    }
}

/// See the module.
pub(super) struct LinkActor {
    pub(super) shard: ShardId,
    pub(super) link: Link<Arc<SessionHandle>>,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) asked: mpsc::Receiver<Ask>,
    /// From a command's arrival to its answer, at most (P4).
    pub(super) answer_timeout: Duration,
    pub(super) owner_beats: mpsc::Receiver<OwnerBeat>,
    pub(super) frames: Subscription,
    /// Told to whoever asks the owner apart from the link.
    pub(super) known: watch::Sender<Option<Known>>,
    /// Tasks that write to many sessions.
    pub(super) tasks: Tasks,
    pub(super) metrics: LinkMetrics,
    pub(super) ready: Readiness,
    /// Where what channels say of their members goes.
    pub(super) events: Events,
    /// Where deliveries are counted.
    pub(super) deliveries: Arc<Deliveries>,
}

/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(100);

/// Requests or frames that are taken in one turn: they share one frame to the owner, and no input
/// starves another.
const A_TURN: usize = 256;

impl LinkActor {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let begun = Instant::now();
        let mut disruptions = self.bus.disruptions();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = Turn {
            shard: self.shard,
            frames: Vec::new(),
            metrics: self.metrics.clone(),
            deliveries: Arc::clone(&self.deliveries),
            delivering: Delivering::new(self.metrics.clone(), self.tasks.clone()),
            sends: HashMap::new(),
            members: Vec::new(),
        };
        let mut was_up = false;
        let mut dropped = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {
                    let reset = self.link.tick(begun.elapsed(), &mut turn);
                    self.note(reset);
                    self.measure();
                }
                Ok(()) = disruptions.changed() => {
                    let reset = self.link.disruption(begun.elapsed(), &mut turn);
                    self.note(reset);
                }
                Some(beat) = self.owner_beats.recv() => {
                    let reset = self.link.owner_beat(&beat, begun.elapsed(), &mut turn);
                    self.note(reset);
                }
                frame = self.frames.next() => {
                    let Some(frame) = frame else { return };
                    self.down(frame.payload, begun.elapsed(), &mut turn);
                    for _ in 1..A_TURN {
                        let Some(frame) = self.frames.try_next() else { break };
                        self.down(frame.payload, begun.elapsed(), &mut turn);
                    }
                }
                Some(ask) = self.asked.recv() => {
                    self.ask(ask, begun, &mut turn);
                    for _ in 1..A_TURN {
                        let Ok(ask) = self.asked.try_recv() else { break };
                        self.ask(ask, begun, &mut turn);
                    }
                }
            }
            // The numbers would tell as well, but only with the next frame.
            if self.frames.dropped() != dropped {
                dropped = self.frames.dropped();
                let reset = self.link.disruption(begun.elapsed(), &mut turn);
                self.note(reset);
            }
            self.tell_of_members(&mut turn);
            self.link.flush(begun.elapsed(), &mut turn);
            turn.delivering.run();
            for (router, frame) in turn.frames.drain(..) {
                let subject = Subject::LinkUp {
                    shard: self.shard,
                    router,
                };
                // The owner sees the gap and stays silent, which resets the link.
                match self.bus.publish(subject, format::encode(&frame)).await {
                    Ok(()) => {}
                    // The connection tells it once.
                    Err(error @ BusError::Unreachable(_)) => {
                        tracing::debug!(shard = %self.shard, %error, "frame to the owner lost");
                    }
                    Err(error) => tracing::warn!(shard = %self.shard, %error, "frame to the owner lost"),
                }
            }
            let known = self.link.known();
            self.known.send_if_modified(|last| {
                let is_new = *last != known;
                *last = known;
                is_new
            });
            if self.link.is_up() != was_up {
                was_up = !was_up;
                self.ready.changed(was_up);
            }
        }
    }

    fn ask(&mut self, ask: Ask, begun: Instant, turn: &mut Turn) {
        let now = begun.elapsed();
        match ask {
            Ask::Subscribe {
                asker: Asker { session, id, arrived },
                channel,
                since,
            } => {
                let deadline = arrived.saturating_duration_since(begun) + self.answer_timeout;
                let asked = Subscribe {
                    session,
                    id,
                    channel,
                    since,
                    deadline,
                };
                self.link.subscribe(asked, now, turn);
            }
            Ask::Unsubscribe {
                session,
                then,
                channel,
            } => {
                self.link.unsubscribe(session.id(), &channel, turn);
                if let Some(then) = then {
                    session.reply_in(&channel, &then);
                }
            }
            Ask::Publish {
                publisher,
                id,
                arrived,
                publish,
            } => {
                let deadline = arrived.saturating_duration_since(begun) + self.answer_timeout;
                if let (Some(message_id), Publisher::Session(session)) = (publish.send_id, &publisher) {
                    turn.sends.insert((session.id(), id), message_id);
                }
                if !publish.is_durable {
                    self.link.publish_ephemeral(publisher, id, publish.message, turn);
                    return;
                }
                let asked = PublishAsked {
                    publisher,
                    id,
                    series: publish.series,
                    message: publish.message,
                    deadline,
                };
                self.link.publish(asked, now, turn);
            }
        }
    }

    fn down(&mut self, payload: Bytes, now: Duration, turn: &mut Turn) {
        match format::decode::<Down>(payload) {
            Ok(frame) => {
                let reset = self.link.down(frame, now, turn);
                self.note(reset);
            }
            Err(error) => tracing::warn!(shard = %self.shard, %error, "frame from an owner dropped"),
        }
    }

    /// Passes on what was delivered of channels' members.
    fn tell_of_members(&self, turn: &mut Turn) {
        let Some(log) = self.link.log() else { return };
        for (channel, offset, event) in turn.members.drain(..) {
            self.events.told(Told {
                channel,
                place: (log, offset),
                event,
            });
        }
    }

    fn note(&self, reset: Option<Reset>) {
        if let Some(reason) = reset {
            self.metrics.reset(reason);
            tracing::debug!(shard = %self.shard, ?reason, "link opens anew");
        }
    }

    fn measure(&self) {
        self.metrics.measure(
            self.shard,
            self.link.channel_count(),
            self.link.unanswered_count(),
            self.link.behind_count(),
        );
    }
}

/// What the link wants done in one turn: frames are collected, and sessions are told at once; what they are told is
/// written at the end of the turn.
struct Turn {
    shard: ShardId,
    frames: Vec<(Incarnation, Up)>,
    metrics: LinkMetrics,
    deliveries: Arc<Deliveries>,
    delivering: Delivering,
    /// Ids of the messages of `message.send` commands that wait, by session and command.
    sends: HashMap<(u64, u32), Bytes>,
    /// What was delivered of channels' members, and where it stands.
    members: Vec<(String, Offset, MembersChanged)>,
}

impl Turn {
    /// Keeps what a delivered message says of its channel's members.
    fn note_members(&mut self, delivered: &Delivered, reply: &Reply) {
        if let Some((channel, event)) = replies::members_changed(delivered, reply) {
            let offset = Offset::from_u64(delivered.offset);
            self.members.push((channel, offset, event));
        }
    }
}

impl Output<Arc<SessionHandle>> for Turn {
    fn up(&mut self, router: Incarnation, frame: Up) {
        self.frames.push((router, frame));
    }

    fn subscribed(
        &mut self,
        session: &Arc<SessionHandle>,
        id: u32,
        channel: &ChannelName,
        log_epoch: &str,
        offset: Offset,
        missed: Missed<'_>,
    ) -> bool {
        self.metrics.recovery(&missed);
        let (result, kind) = replies::subscribed(log_epoch, offset, missed);
        session.subscribed(channel, id, result, kind)
    }

    fn missed(&mut self, session: &Arc<SessionHandle>, channel: &ChannelName, messages: &[Delivered]) {
        for delivered in messages {
            match replies::urgent_publication(delivered) {
                Ok((_, reply, kind, priority)) => {
                    self.note_members(delivered, &reply);
                    if session.queue_shared(&SharedReply::stored(reply, kind, channel.as_str(), priority)) {
                        self.delivering.add(session);
                    }
                }
                Err(error) => {
                    tracing::error!(shard = %self.shard, %channel, offset = delivered.offset, %error, "undecodable message skipped");
                }
            }
        }
    }

    fn not_subscribed(
        &mut self,
        session: &Arc<SessionHandle>,
        id: u32,
        channel: &ChannelName,
        code: ErrorCode,
    ) {
        self.metrics.error(code.code());
        session.not_subscribed(channel, id, code);
    }

    fn lost(&mut self, session: &Arc<SessionHandle>, channel: &ChannelName) {
        session.lost(channel);
    }

    fn answered(&mut self, publisher: Publisher, id: u32, outcome: Result<Stored, Refusal>) {
        let session = match publisher {
            Publisher::Session(session) => session,
            Publisher::Server(answer) => {
                if let Err(refusal) = &outcome {
                    self.metrics.error(refusal.code);
                }
                // One that waits no more is not told.
                answer.send(outcome).ok();
                return;
            }
        };
        let send_id = match self.sends.is_empty() {
            true => None,
            false => self.sends.remove(&(session.id(), id)),
        };
        let reply = match (outcome, send_id) {
            (Ok(_), None) => replies::published(id),
            (Ok(stored), Some(message_id)) => replies::sent(id, &message_id, &stored),
            (Err(refusal), _) => {
                self.metrics.error(refusal.code);
                replies::error(id, replies::refused(refusal))
            }
        };
        if session.queue_reply(&reply) {
            self.delivering.add(&session);
        }
    }

    fn deliver(&mut self, delivered: &Delivered, channels: &mut Channels<Arc<SessionHandle>>) {
        let (channel, reply, kind, priority) = match replies::urgent_publication(delivered) {
            Ok(publication) => publication,
            Err(error) => {
                tracing::error!(shard = %self.shard, offset = delivered.offset, %error, "undecodable message skipped");
                return;
            }
        };
        self.note_members(delivered, &reply);
        // Encoded at most once per encoding, however many receive it.
        let shared = SharedReply::stored(reply, kind, &channel, priority);
        let mut receivers = 0;
        for session in channels.receivers(&channel, Offset::from_u64(delivered.offset)) {
            if session.queue_shared(&shared) {
                self.delivering.add(session);
            }
            receivers += 1;
        }
        self.metrics.delivered(receivers);
        if receivers > 0
            && let Some(made_us) = fold::encoded_made_us(&delivered.message)
        {
            let latency_us = now_us().saturating_sub(made_us);
            self.deliveries.count(self.shard, &channel, latency_us, receivers);
        }
    }

    fn deliver_ephemeral(&mut self, message: &Bytes, channels: &Channels<Arc<SessionHandle>>) {
        let delivered = Delivered {
            offset: 0,
            message: message.clone(),
        };
        match replies::urgent_publication(&delivered) {
            Ok((channel, reply, kind, priority)) => {
                let shared = SharedReply::ephemeral(reply, kind, &channel, priority);
                let mut receivers = 0;
                for session in channels.subscribers(&channel) {
                    if session.queue_shared(&shared) {
                        self.delivering.add(session);
                    }
                    receivers += 1;
                }
                self.metrics.delivered(receivers);
            }
            Err(error) => {
                tracing::error!(shard = %self.shard, %error, "undecodable message skipped");
            }
        }
    }
}
