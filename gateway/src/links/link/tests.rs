//! The link against a scripted owner. Each test is named after the rule that it attacks.

mod deliveries;
mod interest;
mod opening;
mod publishing;
mod random;
mod recovering;

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use bytes::Bytes;
use switchboard_proto::bus::{DownBeat, DownItem, SendChannels, Unknown, Wait};

use super::*;

const ANSWER: Duration = Duration::from_secs(4);
const SECOND: Duration = Duration::from_secs(1);

const TIMING: Timing = Timing {
    silence: Duration::from_secs(3),
    open_retry: SECOND,
    beat: SECOND,
};

const BOUNDS: Bounds = Bounds {
    frame: 1024,
    unanswered: 4,
    unanswered_bytes: 100,
    credit: 1000,
    questions: 2,
};

const LOG: &str = "1-00000001";
const OTHER_LOG: &str = "2-00000002";

/// What a session was told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Subscribed {
        session: u64,
        id: u32,
        channel: String,
        epoch: String,
        offset: u64,
        missed: Given,
    },
    /// Another page of what it missed.
    Page {
        session: u64,
        offsets: Vec<u64>,
    },
    NotSubscribed {
        session: u64,
        id: u32,
        code: u32,
    },
    Lost {
        session: u64,
        channel: String,
    },
    Answered {
        session: u64,
        id: u32,
        outcome: Result<u64, u32>,
    },
    Message {
        session: u64,
        offset: u64,
    },
    Ephemeral {
        session: u64,
    },
}

/// What came with the answer to a subscribe.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Given {
    NotAsked,
    /// The offset it asked with, and what it missed.
    All(u64, Vec<u64>),
    Lost,
}

/// A session that has always given up what it is told to have subscribed to.
const GIVES_UP: u64 = 99;

/// A session whose `connect` waits for its answer, which has no room for pages.
const CONNECTS: u64 = 1_000_000;

/// Sessions have room for a page, but for those that stand in `full`.
#[derive(Clone)]
struct Session {
    id: u64,
    full: Rc<RefCell<HashSet<u64>>>,
}

impl Subscriber for Session {
    type Publisher = Self;

    fn id(&self) -> u64 {
        self.id
    }

    fn has_room(&self) -> bool {
        !self.full.borrow().contains(&self.id)
    }

    fn has_answer_room(&self) -> bool {
        self.id == CONNECTS || self.has_room()
    }

    fn takes_in_answer(&self, bytes: usize) -> bool {
        self.id != CONNECTS || bytes == 0
    }
}

#[derive(Default)]
struct Seen {
    frames: Vec<Up>,
    told: Vec<Told>,
    stored: Vec<Stored>,
}

fn sorted<'a>(sessions: impl Iterator<Item = &'a Session>) -> Vec<u64> {
    let mut ids: Vec<u64> = sessions.map(|session| session.id).collect();
    ids.sort_unstable();
    ids
}

fn offsets(messages: &[Delivered]) -> Vec<u64> {
    messages.iter().map(|message| message.offset).collect()
}

fn text(message: &Bytes) -> &str {
    std::str::from_utf8(message).unwrap()
}

impl Output<Session> for Seen {
    fn up(&mut self, router: Incarnation, frame: Up) {
        assert_eq!(router, ROUTER, "frames go to the owner");
        self.frames.push(frame);
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
        self.told.push(Told::Subscribed {
            session: session.id,
            id,
            channel: channel.to_string(),
            epoch: log_epoch.to_owned(),
            offset: offset.get(),
            missed: match missed {
                Missed::NotAsked => Given::NotAsked,
                Missed::All(since, messages) => Given::All(since.get(), offsets(messages)),
                Missed::Lost => Given::Lost,
            },
        });
        session.id != GIVES_UP
    }

    fn missed(&mut self, session: &Session, _: &ChannelName, messages: &[Delivered]) {
        self.told.push(Told::Page {
            session: session.id,
            offsets: offsets(messages),
        });
    }

    fn not_subscribed(&mut self, session: &Session, id: u32, _: &ChannelName, code: ErrorCode) {
        self.told.push(not_subscribed(session.id, id, code));
    }

    fn lost(&mut self, session: &Session, channel: &ChannelName) {
        self.told.push(lost(session.id, channel.as_str()));
    }

    fn answered(&mut self, session: Session, id: u32, outcome: Result<Stored, Refusal>) {
        if let Ok(stored) = &outcome {
            self.stored.push(stored.clone());
        }
        self.told.push(Told::Answered {
            session: session.id,
            id,
            outcome: outcome
                .map(|stored| stored.offset.get())
                .map_err(|refusal| refusal.code),
        });
    }

    fn deliver(&mut self, message: &Delivered, channels: &mut Channels<Session>) {
        let offset = Offset::from_u64(message.offset);
        let sessions = sorted(channels.receivers(text(&message.message), offset));
        let told = sessions.into_iter().map(|session| Told::Message {
            session,
            offset: message.offset,
        });
        self.told.extend(told);
    }

    fn deliver_ephemeral(&mut self, message: &Bytes, channels: &Channels<Session>) {
        let sessions = sorted(channels.subscribers(text(message)));
        let told = sessions.into_iter().map(|session| Told::Ephemeral { session });
        self.told.extend(told);
    }
}

const ROUTER: Incarnation = Incarnation::from_u128(9);

/// A link, the frames it sent and what sessions were told; plays the owner.
struct Rig {
    link: Link<Session>,
    seen: Seen,
    now: Duration,
    down_number: u64,
    log: &'static str,
    full: Rc<RefCell<HashSet<u64>>>,
}

impl Rig {
    fn new() -> Self {
        Self::with(BOUNDS)
    }

    fn with(bounds: Bounds) -> Self {
        let shard = ShardId::new(3).unwrap();
        Self {
            link: Link::new(shard, Incarnation::from_u128(1), TIMING, bounds),
            seen: Seen::default(),
            now: Duration::from_secs(100),
            down_number: 0,
            log: LOG,
            full: Rc::default(),
        }
    }

    /// A link whose owner, with epoch 5, has answered, at position 50.
    fn up() -> Self {
        let mut rig = Self::new();
        rig.owner(5);
        rig.opened(50);
        rig.frames();
        rig.told();
        rig
    }

    /// As [`Rig::up`], and session 1 is live in channel "a", whose newest message is 30.
    fn live() -> Self {
        let mut rig = Self::up();
        rig.subscribe(1, 7, "a");
        rig.all_in_force(&[30]);
        assert_eq!(rig.told(), [subscribed(1, 7, "a", 50)]);
        rig
    }

    // ---- the owner

    /// Its beat, as that of log 1.
    fn owner(&mut self, owner_epoch: u64) -> Option<Reset> {
        self.owner_of(1, owner_epoch, false)
    }

    fn owner_of(&mut self, ordinal: u32, owner_epoch: u64, released: bool) -> Option<Reset> {
        let beat = OwnerBeat {
            shard: 3,
            router: ROUTER.to_bytes(),
            ordinal,
            owner_epoch,
            released,
            ..OwnerBeat::default()
        };
        self.link.owner_beat(&beat, self.now, &mut self.seen)
    }

    fn down(&mut self, items: Vec<down_item::Item>) -> Option<Reset> {
        self.down_number += 1;
        let frame = self.frame(self.down_number, items);
        self.link.down(frame, self.now, &mut self.seen)
    }

    fn frame(&self, number: u64, items: Vec<down_item::Item>) -> Down {
        let owner = self.link.owner.unwrap();
        let items = items
            .into_iter()
            .map(|item| DownItem { item: Some(item) })
            .collect();
        Down {
            shard: 3,
            ordinal: owner.ordinal,
            owner_epoch: owner.epoch,
            open: self.link.open,
            number,
            items,
        }
    }

    /// The first frame of the present opening, or one more before it is answered.
    fn opening(&mut self, item: down_item::Item) {
        if self.link.down_number == 0 {
            self.down_number = 0;
        }
        assert_eq!(self.down(vec![item]), None);
    }

    fn opened(&mut self, position: u64) {
        let opened = Opened {
            log_epoch: self.log.to_owned(),
            position,
        };
        self.opening(down_item::Item::Opened(opened));
    }

    fn send_channels(&mut self) {
        self.opening(down_item::Item::SendChannels(SendChannels {}));
    }

    fn in_force(&mut self, up_number: u64, heads: &[u64]) {
        let heads = heads.to_vec();
        let item = down_item::Item::InForce(InForce { up_number, heads });
        assert_eq!(self.down(vec![item]), None);
    }

    /// All interest that was sent so far.
    fn all_in_force(&mut self, heads: &[u64]) -> Vec<Up> {
        let frames = self.frames();
        self.in_force(frames.last().unwrap().number, heads);
        frames
    }

    fn deliver(&mut self, after: u64, up_to: u64, messages: &[(u64, &'static str)]) -> Option<Reset> {
        self.down(vec![delivery(after, up_to, messages)])
    }

    fn answer(&mut self, series: Series, number: u64, outcome: answer::Outcome) {
        self.down(vec![down_item::Item::Answer(Answer {
            series: series.into(),
            number,
            outcome: Some(outcome),
            duplicate_of: Bytes::new(),
        })]);
    }

    /// Everything behind the question's offset up to `up_to`.
    fn recovered(&mut self, question: u64, up_to: u64, messages: &[u64], more: bool) {
        self.recovered_as(RecoveredOutcome::Complete, question, up_to, messages, more);
    }

    fn recovered_as(
        &mut self,
        outcome: RecoveredOutcome,
        question: u64,
        up_to: u64,
        messages: &[u64],
        more: bool,
    ) {
        let messages = messages
            .iter()
            .map(|offset| Delivered {
                offset: *offset,
                message: Bytes::from_static(b"a"),
            })
            .collect();
        let item = down_item::Item::Recovered(Recovered {
            question,
            outcome: outcome.into(),
            up_to,
            messages,
            more,
        });
        assert_eq!(self.down(vec![item]), None);
    }

    // ---- sessions

    fn session(&self, id: u64) -> Session {
        let full = Rc::clone(&self.full);
        Session { id, full }
    }

    fn subscribe(&mut self, session: u64, id: u32, channel: &str) {
        self.ask(session, id, channel, None);
    }

    /// Subscribes and wants what it missed since then.
    fn recover(&mut self, session: u64, id: u32, channel: &str, offset: u64) {
        let offset = Offset::from_u64(offset);
        let epoch = LOG.to_owned();
        self.ask(session, id, channel, Some(Since { epoch, offset }));
    }

    fn ask(&mut self, session: u64, id: u32, channel: &str, since: Option<Since>) {
        let asked = Subscribe {
            session: self.session(session),
            id,
            channel: name(channel),
            since,
            deadline: self.now + ANSWER,
        };
        self.link.subscribe(asked, self.now, &mut self.seen);
    }

    fn unsubscribe(&mut self, session: u64, channel: &str) {
        self.link.unsubscribe(session, &name(channel), &mut self.seen);
    }

    fn publish(&mut self, session: u64, id: u32) {
        self.publish_in(Series::Plain, session, id, b"m");
    }

    fn publish_in(&mut self, series: Series, session: u64, id: u32, message: &'static [u8]) {
        let asked = PublishAsked {
            publisher: self.session(session),
            id,
            series,
            message: Bytes::from_static(message),
            deadline: self.now + ANSWER,
        };
        self.link.publish(asked, self.now, &mut self.seen);
    }

    fn has_room(&mut self, session: u64, has_room: bool) {
        if has_room {
            self.full.borrow_mut().remove(&session);
        } else {
            self.full.borrow_mut().insert(session);
        }
    }

    // ---- what came of it

    fn tick(&mut self, later: Duration) -> Option<Reset> {
        self.now += later;
        self.link.tick(self.now, &mut self.seen)
    }

    /// The frames since the last call.
    fn frames(&mut self) -> Vec<Up> {
        self.link.flush(self.now, &mut self.seen);
        std::mem::take(&mut self.seen.frames)
    }

    /// Their items.
    fn items(&mut self) -> Vec<up_item::Item> {
        items(&self.frames())
    }

    /// The questions among them.
    fn questions(&mut self) -> Vec<Recover> {
        let questions = self.items().into_iter().filter_map(|item| match item {
            up_item::Item::Recover(recover) => Some(recover),
            _ => None,
        });
        questions.collect()
    }

    /// The one question that is asked; its number.
    fn question(&mut self, channel: &str, after: u64) -> u64 {
        let questions = self.questions();
        let [question] = questions.as_slice() else {
            panic!("not one question: {questions:?}");
        };
        assert_eq!((question.channel.as_str(), question.after), (channel, after));
        question.question
    }

    fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.seen.told)
    }
}

fn name(channel: &str) -> ChannelName {
    ChannelName::parse(channel, 255).unwrap()
}

fn items(frames: &[Up]) -> Vec<up_item::Item> {
    frames
        .iter()
        .flat_map(|frame| &frame.items)
        .filter_map(|item| item.item.clone())
        .collect()
}

fn delivery(after: u64, up_to: u64, messages: &[(u64, &'static str)]) -> down_item::Item {
    let messages = messages
        .iter()
        .map(|(offset, channel)| Delivered {
            offset: *offset,
            message: Bytes::from_static(channel.as_bytes()),
        })
        .collect();
    down_item::Item::Delivery(Delivery {
        after,
        up_to,
        messages,
    })
}

fn interest(add: &[&str], remove: &[&str]) -> up_item::Item {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    up_item::Item::Interest(Interest {
        add: owned(add),
        remove: owned(remove),
    })
}

fn set(channels: &[&str]) -> ChannelSet {
    let mut set = ChannelSet::default();
    channels.iter().for_each(|channel| set.insert(channel));
    set
}

fn position(owner_epoch: u64, offset: u64) -> Position {
    Position {
        ordinal: 1,
        random: 1,
        owner_epoch,
        offset,
    }
}

/// The opening item, in full.
fn open(held: Option<Position>, channels: &[&str], sent_since: Option<Position>) -> up_item::Item {
    let ChannelSet { count, hash } = set(channels);
    up_item::Item::Open(Open {
        position: held,
        channels: count,
        channels_hash: hash,
        sent_since,
        credit: BOUNDS.credit as u64,
    })
}

fn beat(channels: &[&str]) -> up_item::Item {
    let ChannelSet { count, hash } = set(channels);
    up_item::Item::Beat(UpBeat {
        channels: count,
        channels_hash: hash,
    })
}

fn subscribed(session: u64, id: u32, channel: &str, offset: u64) -> Told {
    with_missed(session, id, channel, offset, Given::NotAsked)
}

/// Recovered from `since`: `messages` came with the answer.
fn caught_up(session: u64, id: u32, offset: u64, since: u64, messages: &[u64]) -> Told {
    with_missed(session, id, "a", offset, Given::All(since, messages.to_vec()))
}

fn with_missed(session: u64, id: u32, channel: &str, offset: u64, missed: Given) -> Told {
    let (channel, epoch) = (channel.to_owned(), LOG.to_owned());
    Told::Subscribed {
        session,
        id,
        channel,
        epoch,
        offset,
        missed,
    }
}

fn not_subscribed(session: u64, id: u32, code: ErrorCode) -> Told {
    Told::NotSubscribed {
        session,
        id,
        code: code.code(),
    }
}

fn lost(session: u64, channel: &str) -> Told {
    let channel = channel.to_owned();
    Told::Lost { session, channel }
}

fn answered(session: u64, id: u32, outcome: Result<u64, u32>) -> Told {
    Told::Answered { session, id, outcome }
}

fn message(session: u64, offset: u64) -> Told {
    Told::Message { session, offset }
}

fn page(session: u64, offsets: &[u64]) -> Told {
    let offsets = offsets.to_vec();
    Told::Page { session, offsets }
}
