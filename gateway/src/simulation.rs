//! The gateway's links for a simulation that plays owners, bus, sessions and time around them.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use switchboard_proto::bus::{Delivered, Down, Message, OwnerBeat, Refusal, Series, Up};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::ids::{Incarnation, Offset, ShardCount, ShardId};

use crate::links::{
    Bounds, Channels, Link, Missed, Output, PublishAsked, Since, Stored, Subscribe, Subscriber, Timing,
};
pub use crate::rules::{Rule, break_rule};

/// A message as a client gets it: its offset, and the id that the client gave it.
pub type Got = (u64, u64);

/// What a session is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Subscribed {
        session: u64,
        id: u32,
        channel: String,
        epoch: String,
        offset: u64,
        missed: Recovered,
    },
    NotSubscribed {
        session: u64,
        id: u32,
        channel: String,
    },
    Lost {
        session: u64,
        channel: String,
    },
    Published {
        session: u64,
        id: u32,
        /// The offset and whether it is another's; `None`: an error.
        stored: Option<(u64, bool)>,
    },
    Message {
        session: u64,
        channel: String,
        got: Got,
    },
}

/// What a subscriber is given with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    NotAsked,
    All(u64, Vec<Got>),
    Lost,
}

/// A session whose room the simulation decides.
#[derive(Debug, Clone, Copy)]
struct Session(u64);

impl Subscriber for Session {
    type Publisher = Self;

    fn id(&self) -> u64 {
        self.0
    }

    fn has_room(&self) -> bool {
        true
    }
}

#[derive(Default)]
struct Events {
    events: Vec<Event>,
    up: Vec<(Incarnation, Up)>,
}

fn got(delivered: &Delivered) -> (String, Got) {
    let message = Message::decode(delivered.message.clone()).unwrap_or_default();
    let text = String::from_utf8_lossy(&message.payload);
    (message.channel, (delivered.offset, text.parse().unwrap_or(0)))
}

impl Output<Session> for Events {
    fn up(&mut self, router: Incarnation, frame: Up) {
        self.up.push((router, frame));
    }

    fn subscribed(
        &mut self,
        session: &Session,
        id: u32,
        channel: &ChannelName,
        log_epoch: &str,
        offset: Offset,
        missed: Missed<'_>,
    ) -> bool {
        let missed = match missed {
            Missed::NotAsked => Recovered::NotAsked,
            Missed::Lost => Recovered::Lost,
            Missed::All(since, messages) => Recovered::All(
                since.get(),
                messages.iter().map(|delivered| got(delivered).1).collect(),
            ),
        };
        self.events.push(Event::Subscribed {
            session: session.0,
            id,
            channel: channel.to_string(),
            epoch: log_epoch.to_owned(),
            offset: offset.get(),
            missed,
        });
        true
    }

    fn missed(&mut self, session: &Session, _: &ChannelName, messages: &[Delivered]) {
        for delivered in messages {
            let (channel, got) = got(delivered);
            self.events.push(Event::Message {
                session: session.0,
                channel,
                got,
            });
        }
    }

    fn not_subscribed(&mut self, session: &Session, id: u32, channel: &ChannelName, _: ErrorCode) {
        self.events.push(Event::NotSubscribed {
            session: session.0,
            id,
            channel: channel.to_string(),
        });
    }

    fn lost(&mut self, session: &Session, channel: &ChannelName) {
        self.events.push(Event::Lost {
            session: session.0,
            channel: channel.to_string(),
        });
    }

    fn answered(&mut self, session: Session, id: u32, outcome: Result<Stored, Refusal>) {
        self.events.push(Event::Published {
            session: session.0,
            id,
            stored: outcome
                .ok()
                .map(|stored| (stored.offset.get(), !stored.duplicate_of.is_empty())),
        });
    }

    fn deliver(&mut self, message: &Delivered, channels: &mut Channels<Session>) {
        let (channel, got) = got(message);
        let mut sessions: Vec<u64> = channels
            .receivers(&channel, Offset::from_u64(message.offset))
            .map(|session| session.0)
            .collect();
        sessions.sort_unstable();
        for session in sessions {
            self.events.push(Event::Message {
                session,
                channel: channel.clone(),
                got,
            });
        }
    }

    fn deliver_ephemeral(&mut self, _: &Bytes, _: &Channels<Session>) {}
}

/// All links of one gateway.
pub struct SimulatedGateway {
    links: Vec<Link<Session>>,
    shards: ShardCount,
    out: Events,
}

/// From a command to its answer.
const ANSWER: Duration = Duration::from_secs(4);

impl SimulatedGateway {
    pub fn new(gateway: Incarnation, shards: ShardCount, credit: usize) -> Self {
        let timing = Timing {
            silence: Duration::from_secs(3),
            open_retry: Duration::from_secs(1),
            beat: Duration::from_secs(1),
        };
        let bounds = Bounds {
            frame: 4096,
            unanswered: 1000,
            unanswered_bytes: 1 << 20,
            credit,
            questions: 2,
        };
        Self {
            links: shards
                .iter()
                .map(|shard| Link::new(shard, gateway, timing, bounds))
                .collect(),
            shards,
            out: Events::default(),
        }
    }

    fn with(&mut self, shard: ShardId, act: impl FnOnce(&mut Link<Session>, &mut Events)) {
        if let Some(link) = self.links.get_mut(usize::from(shard.get())) {
            act(link, &mut self.out);
        }
    }

    fn shard_of(&self, channel: &str) -> ShardId {
        ShardId::of_channel(channel, self.shards)
    }

    pub fn owner_beat(&mut self, shard: ShardId, beat: &OwnerBeat, now: Duration) {
        self.with(shard, |link, out| {
            link.owner_beat(beat, now, out);
        });
    }

    pub fn down(&mut self, shard: ShardId, frame: Down, now: Duration) {
        self.with(shard, |link, out| {
            link.down(frame, now, out);
        });
    }

    pub fn tick(&mut self, now: Duration) {
        for link in &mut self.links {
            link.tick(now, &mut self.out);
        }
    }

    pub fn disruption(&mut self, now: Duration) {
        for link in &mut self.links {
            link.disruption(now, &mut self.out);
        }
    }

    /// `since`: epoch and offset where the client left off. `channel` has to be a channel's name.
    pub fn subscribe(
        &mut self,
        session: u64,
        id: u32,
        channel: &ChannelName,
        since: Option<(String, u64)>,
        now: Duration,
    ) {
        let asked = Subscribe {
            session: Session(session),
            id,
            channel: channel.clone(),
            since: since.map(|(epoch, offset)| Since {
                epoch,
                offset: Offset::from_u64(offset),
            }),
            deadline: now + ANSWER,
        };
        self.with(self.shard_of(channel.as_str()), |link, out| {
            link.subscribe(asked, now, out);
        });
    }

    pub fn unsubscribe(&mut self, session: u64, channel: &ChannelName) {
        self.with(self.shard_of(channel.as_str()), |link, out| {
            link.unsubscribe(session, channel, out);
        });
    }

    pub fn publish(&mut self, session: u64, id: u32, message: &Message, now: Duration) {
        let series = if message.key.is_empty() {
            Series::Plain
        } else {
            Series::Keyed
        };
        let asked = PublishAsked {
            publisher: Session(session),
            id,
            series,
            message: message.encode_to_vec().into(),
            deadline: now + ANSWER,
        };
        self.with(self.shard_of(&message.channel), |link, out| {
            link.publish(asked, now, out);
        });
    }

    /// What is to be sent since the last call, by shard, and what sessions were told.
    pub fn flush(&mut self, now: Duration) -> (Vec<(ShardId, Incarnation, Up)>, Vec<Event>) {
        let mut frames = Vec::new();
        for (shard, link) in self.shards.iter().zip(&mut self.links) {
            link.flush(now, &mut self.out);
            frames.extend(
                self.out
                    .up
                    .drain(..)
                    .map(|(router, frame)| (shard, router, frame)),
            );
        }
        (frames, std::mem::take(&mut self.out.events))
    }

    /// Links that are up.
    pub fn is_up(&self) -> bool {
        self.links.iter().all(Link::is_up)
    }
}
