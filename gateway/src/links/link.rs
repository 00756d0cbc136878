//! One link, gateway's side: a state machine without I/O and without a clock.
//!
//! It holds what the gateway knows of one shard: its owner, the position up to which the gateway has
//! everything, the channels with their local subscribers, and the publishes that wait for an answer.
//! Inputs are calls with the present time; what has to happen goes to an [`Output`].
//!
//! Invariants, each with a test below:
//! * A delivery applies only where nothing is missing before it (K4); whatever is odd resets the
//!   link (K1), and nothing else repairs it.
//! * A subscriber is answered once its channel's interest is in force at the owner, and gets every
//!   message after the offset it was answered (K4, R3), those it missed before included (R4 to R8).
//! * A publish is sent until it is answered, always with the same number (P1).
//! * Every command is answered within the answer timeout (P4), and what was answered with an error
//!   does not happen at this gateway later.

mod channels;
mod live;
mod publishes;

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use switchboard_proto::bus::{
    Answer, Delivered, Delivery, Down, Ephemeral, InForce, Interest, Open, OpenEnd, Opened, OwnerBeat,
    Position, Recover, Recovered, RecoveredOutcome, Refusal, Series, Up, UpBeat, UpItem, answer, down_item,
    up_item,
};
use switchboard_proto::channel::{ChannelName, ChannelSet};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::ids::{Incarnation, LogEpoch, Offset, ShardId};

use self::channels::{Asking, Channel, Placed, UNKNOWN, Waiting};
pub(crate) use self::channels::{Channels, Since};
use self::publishes::Publishes;
use crate::maps::HashMap;
use crate::rules::{Rule, is_kept};

/// Whoever subscribes and publishes: a session, as far as a link knows it.
pub(crate) trait Subscriber: Clone {
    /// Whoever publishes: a session too, or a caller of the server API.
    type Publisher;
    /// Unique among the gateway's sessions.
    fn id(&self) -> u64;
    /// It has room for another page of what it missed.
    fn has_room(&self) -> bool;
    /// It has room for the answer to a subscribe, with a page of what it missed.
    fn has_answer_room(&self) -> bool {
        self.has_room()
    }
    /// The answer that it waits for takes a page of so many bytes, which are counted then. `false`: the page follows
    /// the answer.
    fn takes_in_answer(&self, _bytes: usize) -> bool {
        true
    }
}

/// What a subscriber is given with its answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Missed<'a> {
    /// It did not ask.
    NotAsked,
    /// What it missed, or the beginning of it: the rest follows. The offset it asked with.
    All(Offset, &'a [Delivered]),
    /// Something of it is gone.
    Lost,
}

/// A publish that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) offset: Offset,
    pub(crate) log_epoch: String,
    /// The id of the message that was stored with the same key before. Empty: it is this one.
    pub(crate) duplicate_of: Bytes,
}

/// What a link causes.
pub(crate) trait Output<S: Subscriber> {
    /// Send a frame to the owner.
    fn up(&mut self, router: Incarnation, frame: Up);
    /// Command `id` succeeded: everything of `channel` after `offset` follows what is in `missed`. `false`:
    /// the session has given the channel up meanwhile, so nothing must follow.
    fn subscribed(
        &mut self,
        session: &S,
        id: u32,
        channel: &ChannelName,
        log_epoch: &str,
        offset: Offset,
        missed: Missed<'_>,
    ) -> bool;
    /// More of what a subscriber missed.
    fn missed(&mut self, session: &S, channel: &ChannelName, messages: &[Delivered]);
    /// Command `id` failed.
    fn not_subscribed(&mut self, session: &S, id: u32, channel: &ChannelName, code: ErrorCode);
    /// The subscription lost its place; the session has to subscribe again.
    fn lost(&mut self, session: &S, channel: &ChannelName);
    /// The publish of command `id` was stored, or not.
    fn answered(&mut self, publisher: S::Publisher, id: u32, outcome: Result<Stored, Refusal>);
    /// A message for these sessions.
    fn deliver(&mut self, message: &Delivered, channels: &mut Channels<S>);
    /// A message that is not stored, for these sessions.
    fn deliver_ephemeral(&mut self, message: &Bytes, channels: &Channels<S>);
}

/// Time limits of a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Silence of the owner after which the link is reset.
    pub(crate) silence: Duration,
    /// Between an opening and the next, while the owner does not answer; doubles with each up to four
    /// times as long, so that an owner with much to open is not given ever more to do.
    pub(crate) open_retry: Duration,
    /// Without another frame, a beat is sent this often.
    pub(crate) beat: Duration,
}

/// Sizes that a link keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of items in one frame, about.
    pub(crate) frame: usize,
    /// Publishes that wait for an answer; above, publishes are refused for the time being.
    pub(crate) unanswered: usize,
    /// Bytes of their messages, likewise.
    pub(crate) unanswered_bytes: usize,
    /// Bytes of deliveries that the owner may send unconfirmed (K6).
    pub(crate) credit: usize,
    /// Questions that are on the way at once; other channels wait.
    pub(crate) questions: usize,
}

/// Why a link was reset, for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reset {
    /// A frame is missing.
    Gap,
    /// Another owner took the shard.
    NewOwner,
    /// The owner was silent, or did not answer the opening.
    Silence,
    /// The bus may have lost something.
    Disruption,
    /// The owner asked for it.
    Asked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    router: Incarnation,
    ordinal: u32,
    epoch: u64,
}

impl Owner {
    /// Rule O4: only a higher one is followed.
    fn rank(&self) -> (u32, u64) {
        (self.ordinal, self.epoch)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No owner is known.
    Down,
    /// `Open` was sent; the owner last said something then.
    Opening { since: Duration },
    /// The owner answered.
    Up,
}

/// The gateway's place in the shard's log.
#[derive(Debug, Clone)]
struct Place {
    owner_epoch: u64,
    offset: Offset,
    log: LogEpoch,
    /// The log epoch as clients see it.
    log_epoch: String,
}

impl Place {
    fn position(&self) -> Position {
        Position {
            ordinal: self.log.ordinal,
            random: self.log.random,
            owner_epoch: self.owner_epoch,
            offset: self.offset.get(),
        }
    }
}

/// A subscribe command, as a link is asked to carry it out.
pub(crate) struct Subscribe<S> {
    pub(crate) session: S,
    pub(crate) id: u32,
    pub(crate) channel: ChannelName,
    /// `Some`: it wants what it missed.
    pub(crate) since: Option<Since>,
    /// When it has to be answered (P4).
    pub(crate) deadline: Duration,
}

/// A publish, as a link is asked to carry it out.
pub(crate) struct PublishAsked<P> {
    pub(crate) publisher: P,
    pub(crate) id: u32,
    pub(crate) series: Series,
    /// An encoded `Message`.
    pub(crate) message: Bytes,
    /// When it has to be answered (P4).
    pub(crate) deadline: Duration,
}

/// Whom to ask about a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// The owner that is followed.
    pub(crate) router: Incarnation,
    /// Its (log ordinal, owner epoch), by which owners are told apart (O4).
    pub(crate) rank: (u32, u64),
    /// Sessions were told of this log's messages up to here.
    pub(crate) told: Offset,
}

/// See the module.
pub(crate) struct Link<S: Subscriber> {
    shard: ShardId,
    gateway: Incarnation,
    timing: Timing,
    bounds: Bounds,
    owner: Option<Owner>,
    phase: Phase,
    /// Counts the openings of this gateway's life.
    open: u64,
    /// Openings since the owner last answered one.
    tries: u32,
    up_number: u64,
    down_number: u64,
    heard: Duration,
    sent: Duration,
    place: Option<Place>,
    /// The highest offset that a publish was answered with.
    answered: Offset,
    channels: Channels<S>,
    /// Channels that the owner is to hold: announced, and not taken back.
    set: ChannelSet,
    /// Channels that were announced with this opening, and dropped before it was answered.
    dropped: Vec<ChannelName>,
    /// Channels whose interest was sent in this opening, by the number of the frame.
    asked: VecDeque<(u64, ChannelName)>,
    publishes: Publishes<S::Publisher>,
    /// Sessions in `waiting` and `behind` anywhere, so that a tick without any costs nothing.
    waiting: usize,
    behind: usize,
    /// Questions on the way, by number.
    questions: HashMap<u64, ChannelName>,
    last_question: u64,
    /// Channels that have to ask, in turn.
    wants: VecDeque<ChannelName>,
    /// Bytes of deliveries since the owner was last told the position.
    unconfirmed: usize,
    /// The frame that collects items until the next flush, and its size.
    frame: Option<(Up, usize)>,
    /// Frames that grew to the size limit.
    full_frames: Vec<Up>,
}

impl<S: Subscriber> Link<S> {
    pub(crate) fn new(shard: ShardId, gateway: Incarnation, timing: Timing, bounds: Bounds) -> Self {
        Self {
            shard,
            gateway,
            timing,
            bounds,
            owner: None,
            phase: Phase::Down,
            open: 0,
            tries: 0,
            up_number: 0,
            down_number: 0,
            heard: Duration::ZERO,
            sent: Duration::ZERO,
            place: None,
            answered: Offset::ZERO,
            channels: Channels(HashMap::default()),
            set: ChannelSet::default(),
            dropped: Vec::new(),
            asked: VecDeque::new(),
            publishes: Publishes::new(),
            waiting: 0,
            behind: 0,
            questions: HashMap::default(),
            last_question: 0,
            wants: VecDeque::new(),
            unconfirmed: 0,
            frame: None,
            full_frames: Vec::new(),
        }
    }

    /// Whether the owner answered this opening.
    pub(crate) fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Whom to ask apart from the link; `None`: no owner is known.
    pub(crate) fn known(&self) -> Option<Known> {
        self.owner.map(|owner| {
            // What another log held says nothing about this owner's (L5).
            let place = self.place.as_ref();
            let place = place.filter(|place| place.log.ordinal == owner.ordinal);
            Known {
                router: owner.router,
                rank: owner.rank(),
                told: place.map_or(Offset::ZERO, |place| place.offset.max(self.answered)),
            }
        })
    }

    /// The life of the shard's log that deliveries are of; `None`: no owner has said yet.
    pub(crate) fn log(&self) -> Option<LogEpoch> {
        self.place.as_ref().map(|place| place.log)
    }

    /// Channels with interest, for metrics.
    pub(crate) fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// Publishes without an answer, for metrics.
    pub(crate) fn unanswered_count(&self) -> usize {
        self.publishes.len()
    }

    /// Sessions that are being given what they missed, for metrics.
    pub(crate) fn behind_count(&self) -> usize {
        self.behind
    }

    // ---- what sessions ask for

    /// Subscribes; the answer comes through `out`, now or once the owner was asked, but at the deadline.
    pub(crate) fn subscribe(&mut self, asked: Subscribe<S>, now: Duration, out: &mut impl Output<S>) {
        let Subscribe {
            session,
            id,
            channel,
            since,
            deadline,
        } = asked;
        if deadline <= now {
            out.not_subscribed(&session, id, &channel, ErrorCode::Internal);
            return;
        }
        let is_new = match self.channels.0.entry(channel.clone()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(Channel::new());
                true
            }
        };
        if let Some(entry) = self.channels.0.get_mut(&channel) {
            self.waiting += 1;
            entry.waiting.push(Waiting {
                session,
                id,
                deadline,
                since,
            });
        }
        if !is_new {
            // Also while the link is down (R4): a reopening continues at the position.
            self.settle(&channel, out);
        } else if self.phase == Phase::Up {
            self.ask(channel.clone());
            if !is_kept(Rule::K4) {
                self.settle(&channel, out);
            }
        }
        // While the link opens, it is announced once that is answered.
    }

    /// Ends a subscription, also one that still waits for its answer: that is answered first.
    pub(crate) fn unsubscribe(&mut self, session: u64, channel: &ChannelName, out: &mut impl Output<S>) {
        let Some(entry) = self.channels.0.get_mut(channel) else {
            return;
        };
        entry.live.remove(session);
        let behind = entry.behind.len();
        entry.behind.retain(|placed| placed.session.id() != session);
        self.behind -= behind - entry.behind.len();
        for given_up in entry
            .waiting
            .extract_if(.., |waiting| waiting.session.id() == session)
        {
            self.waiting -= 1;
            out.not_subscribed(&given_up.session, given_up.id, channel, ErrorCode::Internal);
        }
        self.drop_if_unused(channel);
    }

    /// Publishes; the answer comes through `out`, at the deadline at the latest (P4).
    pub(crate) fn publish(
        &mut self,
        asked: PublishAsked<S::Publisher>,
        now: Duration,
        out: &mut impl Output<S>,
    ) {
        let PublishAsked {
            publisher,
            id,
            series,
            message,
            deadline,
        } = asked;
        if deadline <= now {
            out.answered(publisher, id, Err(refusal(ErrorCode::Internal)));
            return;
        }
        if self.publishes.len() >= self.bounds.unanswered
            || self.publishes.bytes() + message.len() > self.bounds.unanswered_bytes
        {
            out.answered(publisher, id, Err(refusal(ErrorCode::TooManyRequests)));
            return;
        }
        let position = match (&self.place, self.phase) {
            (Some(place), Phase::Up) => Some(place.position()),
            _ => None,
        };
        let publish = self
            .publishes
            .push(series, publisher, id, message, deadline, position);
        if let Some(publish) = publish {
            self.push(up_item::Item::Publish(publish));
        }
    }

    /// Publishes what is not stored: answered as soon as it is on the way, and lost where that fails.
    pub(crate) fn publish_ephemeral(
        &mut self,
        publisher: S::Publisher,
        id: u32,
        message: Bytes,
        out: &mut impl Output<S>,
    ) {
        let log_epoch = match (&self.place, self.phase) {
            (Some(place), Phase::Up) => place.log_epoch.clone(),
            _ => return out.answered(publisher, id, Err(refusal(ErrorCode::Internal))),
        };
        self.push(up_item::Item::Ephemeral(Ephemeral { message }));
        let stored = Stored {
            offset: Offset::ZERO,
            log_epoch,
            duplicate_of: Bytes::new(),
        };
        out.answered(publisher, id, Ok(stored));
    }

    // ---- what the bus brings

    /// An owner says that it owns, or gives up.
    pub(crate) fn owner_beat(
        &mut self,
        beat: &OwnerBeat,
        now: Duration,
        out: &mut impl Output<S>,
    ) -> Option<Reset> {
        let Ok(router) = Incarnation::try_from(beat.router.as_ref()) else {
            return None;
        };
        let owner = Owner {
            router,
            ordinal: beat.ordinal,
            epoch: beat.owner_epoch,
        };
        if let Some(known) = self.owner {
            if beat.released && owner == known {
                if matches!(self.phase, Phase::Opening { .. }) {
                    // Without its answer nobody knows what its later frames are about.
                    self.open += 1;
                }
                self.phase = Phase::Down;
                return None;
            }
            if owner.rank() <= known.rank() {
                return None;
            }
        }
        if beat.released {
            return None;
        }
        self.owner = Some(owner);
        self.reset(now, out);
        Some(Reset::NewOwner)
    }

    /// A frame from an owner.
    pub(crate) fn down(&mut self, frame: Down, now: Duration, out: &mut impl Output<S>) -> Option<Reset> {
        let owner = self.owner?;
        let current = (frame.ordinal, frame.owner_epoch) == owner.rank()
            && frame.open == self.open
            && frame.shard == u32::from(self.shard.get());
        // What an earlier opening or a deposed owner still has on the way concerns nobody. What an
        // owner sent before it gave up does, also where its last beat came first.
        if !current || frame.number <= self.down_number {
            return None;
        }
        if frame.number != self.down_number + 1 && is_kept(Rule::K1) {
            return self.broken(Reset::Gap, now, out);
        }
        self.down_number = frame.number;
        self.heard = now;
        if let Phase::Opening { since } = &mut self.phase {
            // Also an owner that only says "wait" is there (K3).
            *since = now;
        }
        for item in frame.items.into_iter().filter_map(|item| item.item) {
            match item {
                down_item::Item::Opened(opened) => {
                    if self.phase != Phase::Down && !self.opened(opened, owner, now, out) {
                        return self.broken(Reset::Gap, now, out);
                    }
                }
                down_item::Item::SendChannels(_) => self.send_channels(),
                down_item::Item::InForce(in_force) => self.in_force(in_force, out),
                down_item::Item::Answer(answer) => self.answer(answer, out),
                down_item::Item::Delivery(delivery) => {
                    if !self.delivery(delivery, owner, out) {
                        return self.broken(Reset::Gap, now, out);
                    }
                }
                down_item::Item::Recovered(recovered) => self.recovered(recovered, out),
                down_item::Item::Ephemeral(ephemeral) => {
                    self.unconfirmed += ephemeral.message.len();
                    out.deliver_ephemeral(&ephemeral.message, &self.channels);
                }
                down_item::Item::Reset(_) => return self.broken(Reset::Asked, now, out),
                down_item::Item::Beat(_) | down_item::Item::Wait(_) => {}
            }
        }
        None
    }

    /// The link cannot go on as it is. One whose owner gave up waits for the next owner.
    fn broken(&mut self, why: Reset, now: Duration, out: &mut impl Output<S>) -> Option<Reset> {
        if self.phase == Phase::Down {
            return None;
        }
        self.reset(now, out);
        Some(why)
    }

    /// The bus may have lost something.
    pub(crate) fn disruption(&mut self, now: Duration, out: &mut impl Output<S>) -> Option<Reset> {
        self.broken(Reset::Disruption, now, out)
    }

    /// Time goes by: answers that are due, silence, beats.
    pub(crate) fn tick(&mut self, now: Duration, out: &mut impl Output<S>) -> Option<Reset> {
        self.expire(now, out);
        let silent = match self.phase {
            Phase::Down => false,
            Phase::Opening { since } => {
                now.saturating_sub(since)
                    >= self.timing.open_retry * (1 << self.tries.saturating_sub(1).min(2))
            }
            Phase::Up => now.saturating_sub(self.heard) >= self.timing.silence,
        };
        if silent {
            self.reset(now, out);
            return Some(Reset::Silence);
        }
        if self.behind > 0 || self.waiting > 0 {
            self.continue_pages();
        }
        // Also while it waits for its turn to open: owners forget who is silent (K3).
        if self.phase != Phase::Down
            && self.frame.is_none()
            && now.saturating_sub(self.sent) >= self.timing.beat
        {
            self.beat();
        }
        None
    }

    /// Sends what was collected since the last flush, in as few frames as the size allows.
    pub(crate) fn flush(&mut self, now: Duration, out: &mut impl Output<S>) {
        self.ask_questions();
        if self.phase == Phase::Up && self.frame.is_none() && self.unconfirmed > self.bounds.credit / 4 {
            self.beat();
        }
        let last = self.frame.take().map(|(frame, _)| frame);
        let Some(owner) = self.owner else { return };
        let confirmed = self.place.as_ref().map_or(0, |place| place.offset.get());
        let (open_plain, open_keyed) = self.publishes.open();
        for mut frame in self.full_frames.drain(..).chain(last) {
            frame.confirmed = confirmed;
            frame.open_plain = open_plain;
            frame.open_keyed = open_keyed;
            self.unconfirmed = 0;
            self.sent = now;
            out.up(owner.router, frame);
        }
    }

    // ---- inside: opening

    /// Opens the link anew (K1, K2).
    fn reset(&mut self, now: Duration, out: &mut impl Output<S>) {
        self.expire(now, out);
        self.open += 1;
        self.tries = self.tries.saturating_add(1);
        self.up_number = 0;
        self.down_number = 0;
        self.frame = None;
        self.full_frames.clear();
        self.asked.clear();
        self.dropped.clear();
        self.questions.clear();
        self.unconfirmed = 0;
        self.phase = Phase::Opening { since: now };
        self.set = ChannelSet::default();
        for (name, channel) in &mut self.channels.0 {
            channel.asked = 0;
            // A channel that was only asked for is asked for again.
            if channel.held {
                self.set.insert(name.as_str());
            }
            if channel.asking.take().is_some() && !channel.wants {
                channel.wants = true;
                self.wants.push_back(name.clone());
            }
        }
        let open = Open {
            position: self.place.as_ref().map(Place::position),
            channels: self.set.count,
            channels_hash: self.set.hash,
            sent_since: self.publishes.sent_since(),
            credit: self.bounds.credit as u64,
        };
        self.push(up_item::Item::Open(open));
    }

    /// The owner does not hold the set that was announced: all of it, what was dropped since included.
    fn send_channels(&mut self) {
        if !matches!(self.phase, Phase::Opening { .. }) {
            return;
        }
        let announced: Vec<ChannelName> = self
            .channels
            .0
            .iter()
            .filter(|(_, channel)| channel.held)
            .map(|(name, _)| name.clone())
            .collect();
        for channel in announced {
            self.announce(channel);
        }
        // Not what was asked for again under the same name since: that comes behind their removal.
        for channel in self.dropped.clone() {
            let number = self.push_interest(&channel);
            self.asked.push_back((number, channel));
        }
        self.push(up_item::Item::OpenEnd(OpenEnd {}));
    }

    /// `false`: the owner says something that makes no sense.
    fn opened(&mut self, opened: Opened, owner: Owner, now: Duration, out: &mut impl Output<S>) -> bool {
        let Ok(log) = opened.log_epoch.parse::<LogEpoch>() else {
            return false;
        };
        let offset = Offset::from_u64(opened.position);
        let before = self.place.replace(Place {
            owner_epoch: owner.epoch,
            offset,
            log,
            log_epoch: opened.log_epoch,
        });
        self.phase = Phase::Up;
        self.tries = 0;
        match before {
            Some(before) if before.log != log => self.log_changed(out),
            Some(before) if offset > before.offset => self.fell_behind(before.offset),
            Some(before) => {
                // Deliveries begin where the owner says, and what we have already is passed over.
                if let Some(place) = &mut self.place {
                    place.offset = offset.max(before.offset);
                }
            }
            None => {}
        }
        for channel in std::mem::take(&mut self.dropped) {
            self.set.remove(channel.as_str());
            self.push(up_item::Item::Interest(Interest {
                add: Vec::new(),
                remove: vec![channel.as_str().to_owned()],
            }));
            // Taken again meanwhile: that it was listed counts no more, so it is asked for anew.
            if let Some(entry) = self.channels.0.get_mut(&channel) {
                entry.asked = 0;
            }
        }
        let new: Vec<ChannelName> = self
            .channels
            .0
            .iter()
            .filter(|(_, channel)| !channel.held && channel.asked == 0)
            .map(|(name, _)| name.clone())
            .collect();
        for channel in new {
            self.ask(channel);
        }
        self.expire(now, out);
        if self.waiting > 0 {
            let held: Vec<ChannelName> = self
                .channels
                .0
                .iter()
                .filter(|(_, channel)| channel.held && !channel.waiting.is_empty())
                .map(|(name, _)| name.clone())
                .collect();
            for channel in held {
                self.settle(&channel, out);
            }
        }
        if let Some(position) = self.place.as_ref().map(Place::position) {
            for publish in self.publishes.send_again(&position) {
                self.push(up_item::Item::Publish(publish));
            }
        }
        true
    }

    /// Another log: every position is void (L5).
    fn log_changed(&mut self, out: &mut impl Output<S>) {
        self.answered = Offset::ZERO;
        for (name, channel) in &mut self.channels.0 {
            channel.head = Offset::from_u64(UNKNOWN);
            let behind = channel.behind.drain(..).inspect(|_| self.behind -= 1);
            for placed in channel.live.take().chain(behind) {
                out.lost(&placed.session, name);
            }
        }
        let names: Vec<ChannelName> = self.channels.0.keys().cloned().collect();
        for name in names {
            self.drop_if_unused(&name);
        }
    }

    /// The owner cannot continue at our position, `had`: every session gets what is missing between as
    /// it would after an absence of its own (R8).
    fn fell_behind(&mut self, had: Offset) {
        for (name, channel) in &mut self.channels.0 {
            channel.head = Offset::from_u64(UNKNOWN);
            for mut placed in channel.live.take() {
                placed.has = placed.has.max(had);
                channel.behind.push(placed);
                self.behind += 1;
            }
            if !channel.behind.is_empty() && !channel.wants {
                channel.wants = true;
                self.wants.push_back(name.clone());
            }
        }
    }

    // ---- inside: interest

    /// Asks for a channel beyond those that were announced.
    fn ask(&mut self, channel: ChannelName) {
        self.set.insert(channel.as_str());
        self.announce(channel);
    }

    fn push_interest(&mut self, channel: &ChannelName) -> u64 {
        self.push(up_item::Item::Interest(Interest {
            add: vec![channel.as_str().to_owned()],
            remove: Vec::new(),
        }))
    }

    fn announce(&mut self, channel: ChannelName) {
        let number = self.push_interest(&channel);
        if let Some(entry) = self.channels.0.get_mut(&channel) {
            entry.asked = number;
        }
        self.asked.push_back((number, channel));
    }

    fn in_force(&mut self, in_force: InForce, out: &mut impl Output<S>) {
        let mut heads = in_force.heads.into_iter();
        while let Some((number, name)) = self
            .asked
            .pop_front_if(|(number, _)| *number <= in_force.up_number)
        {
            let head = heads.next().unwrap_or(UNKNOWN);
            // A channel that was dropped and asked for again waits for the later answer.
            let Some(channel) = self
                .channels
                .0
                .get_mut(&name)
                .filter(|channel| channel.asked == number)
            else {
                continue;
            };
            channel.held = true;
            channel.head = Offset::from_u64(head);
            self.settle(&name, out);
        }
    }

    /// Interest ends with the last subscriber.
    fn drop_if_unused(&mut self, name: &ChannelName) {
        if !self.channels.0.get(name).is_some_and(Channel::is_unused) {
            return;
        }
        let Some(channel) = self.channels.0.remove(name) else {
            return;
        };
        match self.phase {
            Phase::Up => {
                if channel.held || channel.asked > 0 {
                    self.set.remove(name.as_str());
                    let item = Interest {
                        add: Vec::new(),
                        remove: vec![name.as_str().to_owned()],
                    };
                    self.push(up_item::Item::Interest(item));
                }
            }
            // It was announced, and is taken back once that was answered.
            Phase::Opening { .. } if channel.held => self.dropped.push(name.clone()),
            Phase::Opening { .. } | Phase::Down => {}
        }
    }

    fn beat(&mut self) {
        self.push(up_item::Item::Beat(UpBeat {
            channels: self.set.count,
            channels_hash: self.set.hash,
        }));
    }

    // ---- inside: subscribers and what they missed

    /// Answers all of a channel's waiting subscribers that can be answered from what is known here.
    fn settle(&mut self, name: &ChannelName, out: &mut impl Output<S>) {
        let (Some(place), Some(channel)) = (&self.place, self.channels.0.get_mut(name)) else {
            return;
        };
        if !channel.held && is_kept(Rule::K4) {
            return;
        }
        let mut wants = false;
        for waiting in std::mem::take(&mut channel.waiting) {
            let Waiting {
                session, id, since, ..
            } = &waiting;
            let missed = match since {
                None => Missed::NotAsked,
                Some(since) if !since.epoch.is_empty() && since.epoch != place.log_epoch => Missed::Lost,
                Some(since) if channel.head <= since.offset && since.offset <= place.offset => {
                    Missed::All(since.offset, &[])
                }
                Some(_) => {
                    wants = true;
                    channel.waiting.push(waiting);
                    continue;
                }
            };
            self.waiting -= 1;
            if out.subscribed(session, *id, name, &place.log_epoch, place.offset, missed) {
                let placed = Placed {
                    session: session.clone(),
                    has: place.offset,
                };
                channel.live.insert(placed);
            }
        }
        if wants && !channel.wants && channel.asking.is_none() {
            channel.wants = true;
            self.wants.push_back(name.clone());
        }
        self.drop_if_unused(name);
    }

    /// Asks for what channels need, as many at once as the bounds allow. Subscribers that left off at
    /// the same place share a question.
    fn ask_questions(&mut self) {
        while self.phase == Phase::Up && self.questions.len() < self.bounds.questions {
            let Some(name) = self.wants.pop_front() else {
                return;
            };
            let Some(channel) = self.channels.0.get_mut(&name) else {
                continue;
            };
            channel.wants = false;
            if channel.asking.is_some() || !channel.held {
                continue;
            }
            let Some(after) = channel.asks_from() else {
                continue;
            };
            self.last_question += 1;
            let question = self.last_question;
            channel.asking = Some(Asking { question, after });
            self.questions.insert(question, name.clone());
            self.push(up_item::Item::Recover(Recover {
                question,
                channel: name.as_str().to_owned(),
                after: after.get(),
            }));
        }
    }

    /// Subscribers that had no room for their next page, or their first, may have it now.
    fn continue_pages(&mut self) {
        for (name, channel) in &mut self.channels.0 {
            let is_ready =
                channel.held && !channel.wants && channel.asking.is_none() && channel.asks_from().is_some();
            if is_ready {
                channel.wants = true;
                self.wants.push_back(name.clone());
            }
        }
    }

    /// The owner's answer to a question.
    fn recovered(&mut self, recovered: Recovered, out: &mut impl Output<S>) {
        let Some(name) = self.questions.remove(&recovered.question) else {
            return;
        };
        self.unconfirmed += size(&recovered.messages);
        let (Some(place), Some(channel)) = (&self.place, self.channels.0.get_mut(&name)) else {
            return;
        };
        let Some(asking) = channel
            .asking
            .take_if(|asking| asking.question == recovered.question)
        else {
            return;
        };
        let is_all = recovered.outcome() == RecoveredOutcome::Complete && !recovered.more;
        if is_all {
            // Also where there was a head: the owner's may have been a bound, far behind the newest.
            let newest = recovered.messages.last();
            channel.head = match newest {
                Some(newest) => Offset::from_u64(newest.offset),
                None => channel.head.min(asking.after),
            };
        }
        let answer = PageOf {
            outcome: recovered.outcome(),
            after: asking.after,
            up_to: Offset::from_u64(recovered.up_to),
            more: recovered.more,
            messages: &recovered.messages,
        };
        for waiting in std::mem::take(&mut channel.waiting) {
            let Some(since) = &waiting.since else {
                channel.waiting.push(waiting);
                continue;
            };
            let (missed, has, is_all) = match answer.of(since.offset) {
                Part::Nothing => {
                    channel.waiting.push(waiting);
                    continue;
                }
                Part::Unknown => {
                    self.waiting -= 1;
                    out.not_subscribed(&waiting.session, waiting.id, &name, ErrorCode::Internal);
                    continue;
                }
                Part::Lost => (Missed::Lost, place.offset, true),
                // Its first page waits for room like those that follow (R7).
                Part::Messages(messages, _) if !messages.is_empty() && !waiting.session.has_answer_room() => {
                    channel.waiting.push(waiting);
                    continue;
                }
                // The reply to `connect` holds the pages of all its channels, in one frame.
                Part::Messages(messages, _)
                    if !messages.is_empty() && !waiting.session.takes_in_answer(size(messages)) =>
                {
                    (Missed::All(since.offset, &[]), since.offset, false)
                }
                Part::Messages(messages, is_all) => {
                    (Missed::All(since.offset, messages), answer.up_to, is_all)
                }
            };
            self.waiting -= 1;
            let Waiting { session, id, .. } = waiting;
            if !out.subscribed(&session, id, &name, &place.log_epoch, place.offset, missed) {
                continue;
            }
            let placed = Placed { session, has };
            if is_all {
                channel.live.insert(placed);
            } else {
                self.behind += 1;
                channel.behind.push(placed);
            }
        }
        for mut placed in std::mem::take(&mut channel.behind) {
            match answer.of(placed.has) {
                Part::Nothing => channel.behind.push(placed),
                Part::Unknown | Part::Lost => {
                    self.behind -= 1;
                    out.lost(&placed.session, &name);
                }
                // Asked for by others, who have room.
                Part::Messages(messages, _) if !messages.is_empty() && !placed.session.has_room() => {
                    channel.behind.push(placed);
                }
                Part::Messages(messages, is_all) => {
                    if !messages.is_empty() {
                        out.missed(&placed.session, &name, messages);
                    }
                    placed.has = answer.up_to;
                    if is_all {
                        self.behind -= 1;
                        channel.live.insert(placed);
                    } else {
                        channel.behind.push(placed);
                    }
                }
            }
        }
        if channel.asks_from().is_some() && !channel.wants {
            channel.wants = true;
            self.wants.push_back(name.clone());
        }
        self.drop_if_unused(&name);
    }

    // ---- inside: answers and deliveries

    fn answer(&mut self, answer: Answer, out: &mut impl Output<S>) {
        let Some(publish) = self.publishes.take(answer.series(), answer.number) else {
            return;
        };
        if let Some(answer::Outcome::Offset(offset)) = answer.outcome {
            self.answered = self.answered.max(Offset::from_u64(offset));
        }
        let outcome = match answer.outcome {
            Some(answer::Outcome::Offset(offset)) => Ok(Stored {
                offset: Offset::from_u64(offset),
                log_epoch: self
                    .place
                    .as_ref()
                    .map(|place| place.log_epoch.clone())
                    .unwrap_or_default(),
                duplicate_of: answer.duplicate_of,
            }),
            Some(answer::Outcome::Refused(refusal)) => Err(refusal),
            Some(answer::Outcome::Unknown(_)) | None => Err(refusal(ErrorCode::Internal)),
        };
        out.answered(publish.publisher, publish.id, outcome);
    }

    /// `false` where something before it is missing.
    fn delivery(&mut self, delivery: Delivery, owner: Owner, out: &mut impl Output<S>) -> bool {
        let Some(place) = &mut self.place else {
            return false;
        };
        let had = place.offset;
        if Offset::from_u64(delivery.after) > had {
            return false;
        }
        // Before the fan-out reads the table (K4).
        place.offset = had.max(Offset::from_u64(delivery.up_to));
        place.owner_epoch = owner.epoch;
        for message in &delivery.messages {
            self.unconfirmed += message.message.len() + 16;
            let offset = Offset::from_u64(message.offset);
            if offset > had {
                out.deliver(message, &mut self.channels);
            }
        }
        true
    }

    /// Answers what is due (P4).
    fn expire(&mut self, now: Duration, out: &mut impl Output<S>) {
        for publish in self.publishes.expire(now) {
            out.answered(publish.publisher, publish.id, Err(refusal(ErrorCode::Internal)));
        }
        if self.waiting == 0 {
            return;
        }
        let mut unused = Vec::new();
        for (name, channel) in &mut self.channels.0 {
            let waiting = &mut self.waiting;
            channel.waiting.retain(|entry| {
                let due = entry.deadline <= now;
                if due {
                    *waiting -= 1;
                    out.not_subscribed(&entry.session, entry.id, name, ErrorCode::Internal);
                }
                !due
            });
            if channel.is_unused() {
                unused.push(name.clone());
            }
        }
        for name in unused {
            self.drop_if_unused(&name);
        }
    }

    /// Adds an item to the frame in the making; returns the frame's number.
    fn push(&mut self, item: up_item::Item) -> u64 {
        let item = UpItem { item: Some(item) };
        let size = item.encoded_len() + 4;
        let full = self
            .frame
            .as_ref()
            .is_some_and(|(_, bytes)| bytes + size > self.bounds.frame);
        if full && let Some((frame, _)) = self.frame.take() {
            self.full_frames.push(frame);
        }
        let (frame, bytes) = self.frame.get_or_insert_with(|| {
            self.up_number += 1;
            let frame = Up {
                gateway: self.gateway.to_bytes(),
                open: self.open,
                number: self.up_number,
                ..Up::default()
            };
            (frame, 0)
        });
        *bytes += size;
        let number = frame.number;
        match (
            item.item,
            frame.items.last_mut().and_then(|last| last.item.as_mut()),
        ) {
            // Neighbouring changes of the same kind are one item; order between kinds is kept.
            (Some(up_item::Item::Interest(more)), Some(up_item::Item::Interest(last)))
                if more.remove.is_empty() == last.remove.is_empty() =>
            {
                last.add.extend(more.add);
                last.remove.extend(more.remove);
            }
            (item, _) => frame.items.push(UpItem { item }),
        }
        number
    }
}

/// An answer to a question, for everybody who asked it.
struct PageOf<'a> {
    outcome: RecoveredOutcome,
    after: Offset,
    up_to: Offset,
    more: bool,
    messages: &'a [Delivered],
}

/// What it is to one of them.
enum Part<'a> {
    /// It says nothing about where that one left off.
    Nothing,
    /// These were missed; `true`: and nothing else.
    Messages(&'a [Delivered], bool),
    Lost,
    Unknown,
}

impl<'a> PageOf<'a> {
    /// For somebody who has everything up to `has`.
    fn of(&self, has: Offset) -> Part<'a> {
        match self.outcome {
            _ if has < self.after => Part::Nothing,
            // What was removed concerns who left off before; whoever is asked for is answered.
            RecoveredOutcome::Lost if has < self.up_to || has == self.after => Part::Lost,
            RecoveredOutcome::Lost => Part::Nothing,
            RecoveredOutcome::Unavailable => Part::Unknown,
            RecoveredOutcome::Complete if self.more && has >= self.up_to => Part::Nothing,
            // The owner alone tells whether there is such an offset (R5).
            RecoveredOutcome::Complete if has > self.up_to => Part::Nothing,
            RecoveredOutcome::Complete => {
                let first = self
                    .messages
                    .partition_point(|message| message.offset <= has.get());
                Part::Messages(self.messages.get(first..).unwrap_or_default(), !self.more)
            }
        }
    }
}

fn size(messages: &[Delivered]) -> usize {
    messages.iter().map(|message| message.message.len()).sum()
}

pub(crate) fn refusal(code: ErrorCode) -> Refusal {
    Refusal {
        code: code.code(),
        message: code.words().to_owned(),
        temporary: code.is_temporary(),
    }
}

#[cfg(test)]
mod tests;
