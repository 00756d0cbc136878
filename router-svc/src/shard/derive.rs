//! Entries that this shard's messages cause in other shards, source's side: what is said in a
//! conversation is entered in each member's inbox (D1 to D4). No I/O and no clock.
//!
//! Entries for one target are an ordered stream. One frame of it is on the way at a time; the target
//! says up to where it has stored them, and whatever it says is followed, forwards and backwards.
//!
//! Invariants, tested in `owner/tests`:
//! * Every entry of a stored message reaches its target, once, in the order of the source.
//! * A target that does not answer holds back only its own entries, and costs bounded memory: what
//!   does not fit is read again from the window or the log.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::RecordAt;
use switchboard_proto::bus::{Derivation, Derive, Derived, DerivedAt, Message, Origin};
use switchboard_proto::channel::{ChannelName, MAX_CHANNEL_LENGTH};
use switchboard_proto::ids::{Incarnation, Offset, Sequence, ShardId};
use switchboard_proto::tags;

use super::owner::Ownership;
use super::records::{Body, Reading};
use super::window::Window;

/// How often a message may be passed on (D4).
const MAX_HOPS: u32 = 4;

/// Bytes of entries in one frame, about.
const FRAME: usize = 128 * 1024;

/// Bytes of entries that wait for one target; beyond, they are read again.
const PENDING: usize = 1024 * 1024;

/// An unanswered frame, or question, is repeated.
const RETRY: Duration = Duration::from_secs(1);

/// An entry's place in its stream. The order is the stream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place {
    pub(crate) offset: Offset,
    pub(crate) index: u32,
}

impl From<DerivedAt> for Place {
    fn from(at: DerivedAt) -> Self {
        Self {
            offset: Offset::from_u64(at.offset),
            index: at.index,
        }
    }
}

impl From<Place> for DerivedAt {
    fn from(place: Place) -> Self {
        Self {
            offset: place.offset.get(),
            index: place.index,
        }
    }
}

/// A message on a wire; absent is the beginning.
pub(crate) fn place(at: Option<DerivedAt>) -> Place {
    at.map(Place::from).unwrap_or_default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TargetOwner {
    router: Incarnation,
    rank: (u32, u64),
}

struct Target {
    owner: Option<TargetOwner>,
    /// Everything up to here is stored there; `None`: it has not said yet (D2).
    confirmed: Option<Place>,
    /// Entries behind `confirmed`, in order.
    pending: VecDeque<(Place, Bytes)>,
    bytes: usize,
    /// `Some`: entries of messages up to here are in `pending` or stored, and what follows has to be
    /// read. `None`: all are.
    lagging: Option<Offset>,
    /// Where the frame that is on the way ends, and when it was sent.
    sent: Option<(Place, Duration)>,
    asked: Option<Duration>,
    /// The reading of the log that runs serves it.
    scanned: bool,
}

impl Target {
    fn has_room(&self) -> bool {
        self.bytes < PENDING
    }

    fn push(&mut self, at: Place, message: Bytes) {
        self.bytes += message.len();
        self.pending.push_back((at, message));
    }

    fn confirm(&mut self, at: Place, derived_up_to: Offset) {
        match self.confirmed {
            Some(confirmed) if at >= confirmed => {
                while let Some((_, message)) = self.pending.pop_front_if(|(place, _)| *place <= at) {
                    self.bytes -= message.len();
                }
                self.confirmed = Some(at);
                if self.sent.is_some_and(|(end, _)| end <= at) {
                    self.sent = None;
                }
            }
            // It is not where we thought, or we did not know: its word counts.
            Some(_) | None => {
                self.confirmed = Some(at);
                self.pending.clear();
                self.bytes = 0;
                self.sent = None;
                self.scanned = false;
                // The rest of that message's entries, too.
                let from = Offset::from_u64(at.offset.get().saturating_sub(1));
                self.lagging = Some(from.max(derived_up_to));
            }
        }
    }
}

/// See the module.
pub(crate) struct Deriver {
    is: Ownership,
    targets: Vec<Target>,
    derived_up_to: Offset,
    scan: Option<Scan>,
}

/// A reading of the log for targets that lag behind the window.
struct Scan {
    reading: Reading,
    next: Sequence,
    to: Sequence,
}

impl Deriver {
    /// Everything up to `derived_up_to` is stored where it goes.
    pub(crate) fn new(is: Ownership, derived_up_to: Offset) -> Self {
        let targets = is
            .shards
            .iter()
            .map(|_| Target {
                owner: None,
                confirmed: None,
                pending: VecDeque::new(),
                bytes: 0,
                lagging: Some(derived_up_to),
                sent: None,
                asked: None,
                scanned: false,
            })
            .collect();
        Self {
            is,
            targets,
            derived_up_to,
            scan: None,
        }
    }

    /// A target's owner was heard; only a higher one is followed.
    pub(crate) fn owner(&mut self, target: ShardId, router: Incarnation, rank: (u32, u64)) {
        let Some(target) = self.targets.get_mut(usize::from(target.get())) else {
            return;
        };
        if target.owner.is_none_or(|owner| rank > owner.rank) {
            target.owner = Some(TargetOwner { router, rank });
            // What was on the way to the one before may be lost, and may be stored.
            target.sent = None;
            target.asked = None;
            target.confirmed = None;
            target.scanned = false;
        }
    }

    /// A message is stored, the next of this shard. `channel` is its channel.
    pub(crate) fn stored(&mut self, offset: Offset, channel: &str, encoded: &Bytes) {
        // Most channels cause nothing, which has to cost nothing.
        if !channel.contains('#') {
            return;
        }
        for (target, index, message) in entries(&self.is, channel, encoded) {
            let Some(target) = self.targets.get_mut(usize::from(target.get())) else {
                continue;
            };
            if target.lagging.is_some() {
                continue;
            }
            if target.has_room() {
                target.push(Place { offset, index }, message);
            } else {
                target.lagging = Some(Offset::from_u64(offset.get().saturating_sub(1)));
                // Entries of the same message that already fitted are read again with the others.
                while let Some((_, message)) = target.pending.pop_back_if(|(at, _)| at.offset == offset) {
                    target.bytes -= message.len();
                }
            }
        }
    }

    /// The target's owner says how far it is.
    pub(crate) fn derivation(&mut self, answer: &Derivation) {
        let is_mine =
            answer.source == u32::from(self.is.shard.get()) && answer.source_epoch == self.is.owner_epoch.0;
        let target = usize::try_from(answer.target)
            .ok()
            .and_then(|target| self.targets.get_mut(target));
        let Some(target) = target.filter(|_| is_mine) else {
            return;
        };
        // What an owner says that another has followed is old.
        if target
            .owner
            .is_some_and(|owner| owner.rank == (answer.ordinal, answer.owner_epoch))
        {
            target.confirm(place(answer.applied), self.derived_up_to);
        }
    }

    /// Everything up to here is derived, and stored where it went (D3). `position` is the owner's.
    pub(crate) fn derived_up_to(&mut self, position: Offset) -> Offset {
        let before = |offset: Offset| Offset::from_u64(offset.get().saturating_sub(1));
        let of = |target: &Target| match (target.pending.front(), target.lagging) {
            (Some((at, _)), _) => before(at.offset),
            (None, Some(lagging)) => lagging,
            (None, None) => position,
        };
        let all = self.targets.iter().map(of).min().unwrap_or(position);
        self.derived_up_to = self.derived_up_to.max(all);
        self.derived_up_to
    }

    /// Entries that wait for their targets, for metrics.
    pub(crate) fn pending(&self) -> usize {
        self.targets.iter().map(|target| target.pending.len()).sum()
    }

    /// Sends what may go, after filling up from the window.
    pub(crate) fn pump(&mut self, window: &Window, now: Duration, mut send: impl FnMut(Incarnation, Derive)) {
        for number in 0..self.targets.len() {
            self.fill(number, window);
            let is = self.is;
            let Some(target) = self.targets.get_mut(number) else {
                continue;
            };
            let Some(owner) = target.owner else { continue };
            let frame = |after: Place, entries: Vec<Derived>| Derive {
                source: u32::from(is.shard.get()),
                // At most MAX_SHARDS.
                target: number as u32,
                router: is.router.to_bytes(),
                ordinal: is.log_epoch.ordinal,
                random: is.log_epoch.random,
                owner_epoch: is.owner_epoch.0,
                after: Some(after.into()),
                entries,
            };
            let due = |since: Option<Duration>| since.is_none_or(|since| now.saturating_sub(since) >= RETRY);
            match target.confirmed {
                None => {
                    if due(target.asked) {
                        target.asked = Some(now);
                        send(owner.router, frame(Place::default(), Vec::new()));
                    }
                }
                Some(confirmed) => {
                    if target.pending.is_empty() || !due(target.sent.map(|(_, at)| at)) {
                        continue;
                    }
                    let mut entries = Vec::new();
                    let mut bytes = 0;
                    let mut end = confirmed;
                    for (at, message) in &target.pending {
                        if bytes + message.len() > FRAME && !entries.is_empty() {
                            break;
                        }
                        bytes += message.len();
                        end = *at;
                        entries.push(Derived {
                            at: Some((*at).into()),
                            message: message.clone(),
                        });
                    }
                    target.sent = Some((end, now));
                    send(owner.router, frame(confirmed, entries));
                }
            }
        }
    }

    /// Takes entries that a target lacks out of the window, as far as they fit.
    fn fill(&mut self, number: usize, window: &Window) {
        let is = self.is;
        let Some(target) = self.targets.get_mut(number) else {
            return;
        };
        let (Some(mut from), Some(confirmed)) = (target.lagging, target.confirmed) else {
            return;
        };
        if from < window.start() || target.bytes > PENDING / 2 {
            return;
        }
        let wanted = |shard: ShardId| usize::from(shard.get()) == number;
        for (offset, kept) in window.since(from) {
            if kept.channel.contains('#') {
                if !target.has_room() {
                    target.lagging = Some(from);
                    return;
                }
                for (_, index, message) in
                    entries(&is, &kept.channel, &kept.message).filter(|(shard, ..)| wanted(*shard))
                {
                    let at = Place { offset, index };
                    if at > confirmed {
                        target.push(at, message);
                    }
                }
            }
            from = offset;
        }
        target.lagging = None;
    }

    /// What has to be read now, both ends included.
    pub(crate) fn wants(&mut self, window: &Window) -> Option<(Sequence, Sequence)> {
        if self.scan.is_none() {
            let mut oldest = None;
            for target in &mut self.targets {
                let lagging = target.lagging.filter(|lagging| *lagging < window.start());
                target.scanned =
                    lagging.is_some() && target.confirmed.is_some() && target.bytes <= PENDING / 2;
                if target.scanned {
                    oldest = oldest.min(lagging).or(lagging);
                }
            }
            let oldest = oldest?;
            self.scan = Some(Scan {
                reading: Reading::default(),
                next: Sequence(oldest.sequence().0.max(1)),
                to: window.start().sequence(),
            });
        }
        let scan = self.scan.as_ref()?;
        Some((scan.next, scan.to))
    }

    /// A page of the log came, or could not be read.
    pub(crate) fn page(&mut self, page: Result<&[RecordAt], ()>) {
        let Some(mut scan) = self.scan.take() else {
            return;
        };
        // Tried again from where the targets are.
        let Ok(records) = page else { return };
        let is = self.is;
        for at in records {
            scan.next = at.sequence.next();
            let end = Offset::end_of(at.sequence);
            let entries_of_record = match scan.reading.record(at) {
                Some(Body::Batch(entries)) => entries,
                Some(Body::Fence | Body::State(_) | Body::Closed) | None => Vec::new(),
            };
            for (index, entry) in entries_of_record.iter().enumerate() {
                let offset = Offset::new(at.sequence, index);
                let channel = entry.message.channel.as_str();
                if !channel.contains('#') {
                    continue;
                }
                for (shard, index, message) in entries(&is, channel, &entry.encoded) {
                    let Some(target) = self.targets.get_mut(usize::from(shard.get())) else {
                        continue;
                    };
                    let at = Place { offset, index };
                    let is_new = target.confirmed.is_some_and(|confirmed| at > confirmed)
                        && target.lagging.is_some_and(|lagging| offset > lagging);
                    if target.scanned && is_new {
                        target.push(at, message);
                    }
                }
            }
            for target in self.targets.iter_mut().filter(|target| target.scanned) {
                target.lagging = target.lagging.map(|lagging| lagging.max(end));
            }
        }
        if records.is_empty() {
            scan.next = scan.to.next();
        }
        let is_full = self.targets.iter().any(|target| target.bytes > PENDING);
        if scan.next > scan.to {
            // Nothing is left between the log's end of this reading and the window.
            let done = Offset::end_of(scan.to);
            for target in self.targets.iter_mut().filter(|target| target.scanned) {
                target.lagging = target.lagging.map(|lagging| lagging.max(done));
            }
        } else if !is_full {
            self.scan = Some(scan);
        }
    }
}

/// The entries that a message causes: the shard each goes to, its number among those for that shard,
/// and the entry.
fn entries(is: &Ownership, channel: &str, encoded: &Bytes) -> impl Iterator<Item = (ShardId, u32, Bytes)> {
    let shards = is.shards;
    let mut numbers: Vec<(ShardId, u32)> = Vec::new();
    derived(channel, encoded).into_iter().map(move |message| {
        let shard = ShardId::of_channel(&message.channel, shards);
        let known = numbers.iter_mut().find(|(known, _)| *known == shard);
        let index = match known {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                numbers.push((shard, 0));
                0
            }
        };
        (shard, index, message.encode_to_vec().into())
    })
}

fn derived(channel: &str, encoded: &Bytes) -> Vec<Message> {
    let Ok(name) = ChannelName::parse(channel, MAX_CHANNEL_LENGTH) else {
        return Vec::new();
    };
    let Some(inboxes) = name.inboxes() else {
        return Vec::new();
    };
    let Ok(message) = Message::decode(encoded.clone()) else {
        return Vec::new();
    };
    let hops = message.origin.as_ref().map_or(0, |origin| origin.hops) + 1;
    if hops > MAX_HOPS {
        return Vec::new();
    }
    let mut tags = message.tags.clone();
    tags.insert(tags::CHANNEL.to_owned(), channel.to_owned());
    tags.entry(tags::ID.to_owned())
        .or_insert_with(|| tags::id_text(&message.id));
    inboxes
        .map(|inbox| Message {
            channel: inbox.as_str().to_owned(),
            tags: tags.clone(),
            // The key has done its work: it belongs to the message, not to its entries.
            key: String::new(),
            origin: Some(Origin {
                channel: channel.to_owned(),
                hops,
            }),
            ..message.clone()
        })
        .collect()
}
