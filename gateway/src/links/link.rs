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
//!   message after the offset it was answered (K4, R3).
//! * Every command is answered within the answer timeout (P4), and what was answered with an error
//!   does not happen at this gateway later.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use prost::Message as _;
use switchboard_proto::bus::{
    Answer, Delivered, Delivery, Down, Interest, Open, OpenEnd, OwnerBeat, Position, Publish, Refusal,
    Series, Up, UpBeat, UpItem, answer, down_item, up_item,
};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::ids::{Incarnation, Offset, ShardId};

/// Whoever subscribes and publishes: a session, as far as a link knows it.
pub(crate) trait Subscriber: Clone {
    /// Unique among the gateway's sessions.
    fn id(&self) -> u64;
}

/// What a link causes.
pub(crate) trait Output<S> {
    /// Send a frame to the owner.
    fn up(&mut self, router: Incarnation, frame: Up);
    /// Command `id` succeeded: everything of `channel` after `offset` will follow. `false`: the
    /// session has given the channel up meanwhile, so nothing must follow.
    fn subscribed(
        &mut self,
        session: &S,
        id: u32,
        channel: &ChannelName,
        log_epoch: &str,
        offset: Offset,
    ) -> bool;
    /// Command `id` failed.
    fn not_subscribed(&mut self, session: &S, id: u32, channel: &ChannelName, code: ErrorCode);
    /// The subscription lost its place; the session has to subscribe again.
    fn lost(&mut self, session: &S, channel: &ChannelName);
    /// The publish of command `id` was stored, or not.
    fn answered(&mut self, session: &S, id: u32, outcome: Result<Offset, Refusal>);
    /// A message for these sessions.
    fn deliver(&mut self, message: &Delivered, channels: &Channels<S>);
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
    /// `Open` was sent.
    Opening { since: Duration },
    /// The owner answered.
    Up,
}

/// The gateway's place in the shard's log.
#[derive(Debug, Clone)]
struct Place {
    ordinal: u32,
    owner_epoch: u64,
    offset: Offset,
    log_epoch: String,
}

struct Waiting<S> {
    session: S,
    id: u32,
    deadline: Duration,
}

struct Channel<S> {
    sessions: HashMap<u64, S>,
    waiting: Vec<Waiting<S>>,
    /// The frame of this opening that asked for it.
    asked: u64,
    /// The owner said that the interest is in force: what follows the position arrives.
    held: bool,
}

/// The local subscribers by channel: what a delivery is looked up in.
pub(crate) struct Channels<S>(HashMap<ChannelName, Channel<S>>);

impl<S> Channels<S> {
    /// The subscribers of `channel`, none where the gateway has no interest (any more).
    pub(crate) fn subscribers(&self, channel: &str) -> impl Iterator<Item = &S> {
        self.0
            .get(channel)
            .into_iter()
            .flat_map(|channel| channel.sessions.values())
    }

    /// Channels with interest.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

struct Unanswered<S> {
    session: S,
    id: u32,
    number: u64,
    deadline: Duration,
    /// The message, until it is sent.
    unsent: Option<bytes::Bytes>,
}

/// See the module.
pub(crate) struct Link<S> {
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
    channels: Channels<S>,
    /// Channels whose interest was sent in this opening, by the number of the frame.
    asked: VecDeque<(u64, ChannelName)>,
    /// Publishes in the order of their numbers.
    unanswered: VecDeque<Unanswered<S>>,
    publish_number: u64,
    /// Sessions in `waiting` anywhere, so that a tick without any costs nothing.
    waiting: usize,
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
            channels: Channels(HashMap::new()),
            asked: VecDeque::new(),
            unanswered: VecDeque::new(),
            publish_number: 0,
            waiting: 0,
            frame: None,
            full_frames: Vec::new(),
        }
    }

    /// Whether the owner answered this opening.
    pub(crate) fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// Channels with interest, for metrics.
    pub(crate) fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// Publishes without an answer, for metrics.
    pub(crate) fn unanswered_count(&self) -> usize {
        self.unanswered.len()
    }

    // ---- what sessions ask for

    /// Subscribes; the answer comes through `out`, now or once the owner knows of the interest, but at
    /// `deadline` (P4).
    pub(crate) fn subscribe(
        &mut self,
        session: S,
        id: u32,
        channel: ChannelName,
        deadline: Duration,
        now: Duration,
        out: &mut impl Output<S>,
    ) {
        if deadline <= now {
            out.not_subscribed(&session, id, &channel, ErrorCode::Internal);
            return;
        }
        match self.channels.0.entry(channel.clone()) {
            Entry::Occupied(mut entry) => {
                let entry = entry.get_mut();
                match &self.place {
                    // Also while the link is down (R4): a reopening continues at the position.
                    Some(place) if entry.held => {
                        if out.subscribed(&session, id, &channel, &place.log_epoch, place.offset) {
                            entry.sessions.insert(session.id(), session);
                        }
                    }
                    Some(_) | None => {
                        entry.waiting.push(Waiting {
                            session,
                            id,
                            deadline,
                        });
                        self.waiting += 1;
                    }
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(Channel {
                    sessions: HashMap::new(),
                    waiting: vec![Waiting {
                        session,
                        id,
                        deadline,
                    }],
                    asked: 0,
                    held: false,
                });
                self.waiting += 1;
                // While the link is down the next opening announces it.
                if self.phase != Phase::Down {
                    self.ask(channel);
                }
            }
        }
    }

    /// Ends a subscription, also one that still waits for its answer: that is answered first.
    pub(crate) fn unsubscribe(&mut self, session: u64, channel: &ChannelName, out: &mut impl Output<S>) {
        let Some(entry) = self.channels.0.get_mut(channel) else {
            return;
        };
        entry.sessions.remove(&session);
        for given_up in entry
            .waiting
            .extract_if(.., |waiting| waiting.session.id() == session)
        {
            self.waiting -= 1;
            out.not_subscribed(&given_up.session, given_up.id, channel, ErrorCode::Internal);
        }
        self.drop_if_unused(channel);
    }

    /// Publishes an encoded `Message`; the answer comes through `out`, at `deadline` at the latest (P4).
    pub(crate) fn publish(
        &mut self,
        session: S,
        id: u32,
        message: bytes::Bytes,
        deadline: Duration,
        now: Duration,
        out: &mut impl Output<S>,
    ) {
        if deadline <= now {
            out.answered(&session, id, Err(refusal(ErrorCode::Internal)));
            return;
        }
        if self.unanswered.len() >= self.bounds.unanswered {
            out.answered(&session, id, Err(refusal(ErrorCode::TooManyRequests)));
            return;
        }
        self.publish_number += 1;
        let number = self.publish_number;
        let unsent = if self.phase == Phase::Up {
            self.push(up_item::Item::Publish(Publish {
                series: Series::Plain.into(),
                number,
                message,
            }));
            None
        } else {
            Some(message)
        };
        self.unanswered.push_back(Unanswered {
            session,
            id,
            number,
            deadline,
            unsent,
        });
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
        if frame.number != self.down_number + 1 {
            if self.phase == Phase::Down {
                return None;
            }
            self.reset(now, out);
            return Some(Reset::Gap);
        }
        self.down_number = frame.number;
        self.heard = now;
        for item in frame.items.into_iter().filter_map(|item| item.item) {
            match item {
                down_item::Item::Opened(opened) if self.phase != Phase::Down => {
                    self.opened(opened, owner, out)
                }
                down_item::Item::Opened(_) => {}
                down_item::Item::Applied(applied) => self.applied(applied.up_number, out),
                down_item::Item::Answer(answer) => self.answer(answer, out),
                down_item::Item::Delivery(delivery) => {
                    if !self.delivery(delivery, owner, out) {
                        if self.phase == Phase::Down {
                            return None;
                        }
                        self.reset(now, out);
                        return Some(Reset::Gap);
                    }
                }
                down_item::Item::Beat(_) => {}
            }
        }
        None
    }

    /// The bus may have lost something.
    pub(crate) fn disruption(&mut self, now: Duration, out: &mut impl Output<S>) -> Option<Reset> {
        self.owner?;
        self.reset(now, out);
        Some(Reset::Disruption)
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
        if self.phase == Phase::Up
            && self.frame.is_none()
            && now.saturating_sub(self.sent) >= self.timing.beat
        {
            self.push(up_item::Item::Beat(UpBeat {}));
        }
        None
    }

    /// Sends what was collected since the last flush, in as few frames as the size allows.
    pub(crate) fn flush(&mut self, now: Duration, out: &mut impl Output<S>) {
        let last = self.frame.take().map(|(frame, _)| frame);
        let Some(owner) = self.owner else { return };
        for frame in self.full_frames.drain(..).chain(last) {
            out.up(owner.router, frame);
            self.sent = now;
        }
    }

    // ---- inside

    /// Opens the link anew (K1, K2).
    fn reset(&mut self, now: Duration, out: &mut impl Output<S>) {
        self.open += 1;
        self.tries = self.tries.saturating_add(1);
        self.up_number = 0;
        self.down_number = 0;
        self.frame = None;
        self.full_frames.clear();
        self.asked.clear();
        self.phase = Phase::Opening { since: now };
        // Whether what was sent is stored is not known, and saying it again could double it.
        let sent = self
            .unanswered
            .iter()
            .take_while(|publish| publish.unsent.is_none())
            .count();
        for publish in self.unanswered.drain(..sent) {
            out.answered(&publish.session, publish.id, Err(refusal(ErrorCode::Internal)));
        }
        let position = self.place.as_ref().map(|place| Position {
            ordinal: place.ordinal,
            owner_epoch: place.owner_epoch,
            offset: place.offset.get(),
        });
        self.push(up_item::Item::Open(Open { position }));
        let channels: Vec<ChannelName> = self.channels.0.keys().cloned().collect();
        for channel in channels {
            self.ask(channel);
        }
        self.push(up_item::Item::OpenEnd(OpenEnd {}));
    }

    fn opened(&mut self, opened: switchboard_proto::bus::Opened, owner: Owner, out: &mut impl Output<S>) {
        let offset = Offset::from_u64(opened.position);
        let lost = self.place.as_ref().is_some_and(|place| {
            place.log_epoch != opened.log_epoch || place.ordinal != owner.ordinal || offset > place.offset
        });
        self.place = Some(Place {
            ordinal: owner.ordinal,
            owner_epoch: owner.epoch,
            offset,
            log_epoch: opened.log_epoch,
        });
        self.phase = Phase::Up;
        self.tries = 0;
        if lost {
            // What lies between the two positions may be of any channel that was held.
            for (name, channel) in &mut self.channels.0 {
                channel.held = false;
                for (_, session) in channel.sessions.drain() {
                    out.lost(&session, name);
                }
            }
        }
        let mut publishes = std::mem::take(&mut self.unanswered);
        for publish in &mut publishes {
            if let Some(message) = publish.unsent.take() {
                let number = publish.number;
                self.push(up_item::Item::Publish(Publish {
                    series: Series::Plain.into(),
                    number,
                    message,
                }));
            }
        }
        self.unanswered = publishes;
    }

    fn applied(&mut self, up_number: u64, out: &mut impl Output<S>) {
        let Some(place) = self.place.clone() else { return };
        while let Some((number, name)) = self.asked.pop_front_if(|(number, _)| *number <= up_number) {
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
            for Waiting { session, id, .. } in channel.waiting.drain(..) {
                self.waiting -= 1;
                if out.subscribed(&session, id, &name, &place.log_epoch, place.offset) {
                    channel.sessions.insert(session.id(), session);
                }
            }
            self.drop_if_unused(&name);
        }
    }

    fn answer(&mut self, answer: Answer, out: &mut impl Output<S>) {
        // Numbers are sorted, so the search stays short however many wait.
        let Ok(index) = self
            .unanswered
            .binary_search_by_key(&answer.number, |publish| publish.number)
        else {
            return;
        };
        let Some(publish) = self.unanswered.remove(index) else {
            return;
        };
        let outcome = match answer.outcome {
            Some(answer::Outcome::Offset(offset)) => Ok(Offset::from_u64(offset)),
            Some(answer::Outcome::Refused(refusal)) => Err(refusal),
            None => Err(refusal(ErrorCode::Internal)),
        };
        out.answered(&publish.session, publish.id, outcome);
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
        place.offset = had.max(Offset::from_u64(delivery.up_to));
        place.owner_epoch = owner.epoch;
        for message in &delivery.messages {
            if Offset::from_u64(message.offset) > had {
                out.deliver(message, &self.channels);
            }
        }
        true
    }

    /// Answers what is due (P4).
    fn expire(&mut self, now: Duration, out: &mut impl Output<S>) {
        // In the order of numbers, which is almost but not quite that of deadlines.
        if self.unanswered.iter().any(|publish| publish.deadline <= now) {
            self.unanswered.retain(|publish| {
                let due = publish.deadline <= now;
                if due {
                    out.answered(&publish.session, publish.id, Err(refusal(ErrorCode::Internal)));
                }
                !due
            });
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
            if channel.sessions.is_empty() && channel.waiting.is_empty() {
                unused.push(name.clone());
            }
        }
        for name in unused {
            self.drop_if_unused(&name);
        }
    }

    fn ask(&mut self, channel: ChannelName) {
        let item = Interest {
            add: vec![channel.as_str().to_owned()],
            remove: Vec::new(),
        };
        let number = self.push(up_item::Item::Interest(item));
        if let Some(entry) = self.channels.0.get_mut(&channel) {
            entry.asked = number;
        }
        self.asked.push_back((number, channel));
    }

    /// Interest ends with the last subscriber.
    fn drop_if_unused(&mut self, channel: &ChannelName) {
        let unused = self
            .channels
            .0
            .get(channel)
            .is_some_and(|entry| entry.sessions.is_empty() && entry.waiting.is_empty());
        if unused {
            self.channels.0.remove(channel);
            if self.phase != Phase::Down {
                let item = Interest {
                    add: Vec::new(),
                    remove: vec![channel.as_str().to_owned()],
                };
                self.push(up_item::Item::Interest(item));
            }
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
                items: Vec::new(),
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

fn refusal(code: ErrorCode) -> Refusal {
    Refusal {
        code: code.code(),
        message: code.words().to_owned(),
        temporary: code.is_temporary(),
    }
}

#[cfg(test)]
mod tests;
