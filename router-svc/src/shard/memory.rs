//! What an owner knows of its log. It is built by reading the log's tail at a take-over, and kept up by
//! the same steps with each record that the owner itself appends. No I/O and no clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use switchboard_bus::RecordAt;
use switchboard_bus::fold::{self, Does};
use switchboard_proto::bus::{Applied, Message, Removed as RemovedMark, Series, State};
use switchboard_proto::ids::{Incarnation, LogEpoch, Offset, Sequence};

use super::deleted::Deleted;
use super::hidden::Hidden;
use super::keys::{self, KeyName, Keys};
use super::publishers::Publishers;
use super::records::{Body, Entry, Reading};
use super::window::{Kept, Window, WindowLimits};
use crate::maps::HashMap;
use crate::rules::{Rule, is_kept};

/// What a shard's memory keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryLimits {
    pub(crate) window: WindowLimits,
    /// Stored numbers of one gateway that are known, at most.
    pub(crate) numbers: usize,
    /// A gateway that is silent this long asks for none of them any more.
    pub(crate) numbers_silence: Duration,
    /// Microseconds for which an idempotency key is known.
    pub(crate) keys_us: u64,
    /// Keys that are known, at most.
    pub(crate) keys: usize,
    /// Bytes of names of channels of which it is known up to where messages were removed, at most. All
    /// of them fit into one state record.
    pub(crate) removed: usize,
    /// Likewise of channels of which messages are hidden. All of them fit into the same state record.
    pub(crate) hidden: usize,
    /// Marks of deleted messages. All of them fit into the same state record.
    pub(crate) deleted: usize,
}

/// One message that enters the memory.
pub(crate) struct Entering {
    pub(crate) channel: Arc<str>,
    pub(crate) encoded: Bytes,
    pub(crate) source: Option<(Incarnation, Series, u64)>,
    pub(crate) key: Option<(KeyName, Bytes)>,
    /// Decoded, where it edits or deletes another message.
    pub(crate) change: Option<Box<Message>>,
}

/// `message`, where it edits or deletes another one.
pub(crate) fn changing(message: &Message, log: LogEpoch) -> Option<Box<Message>> {
    match fold::effect(message, log)? {
        (_, Does::Edit | Does::Delete) => Some(Box::new(message.clone())),
        (_, Does::React { .. }) => None,
    }
}

/// See the module.
pub(crate) struct Memory {
    pub(crate) window: Window,
    pub(crate) publishers: Publishers,
    pub(crate) keys: Keys,
    /// By source shard.
    pub(crate) applied: HashMap<u32, Applied>,
    pub(crate) removed: Removed,
    pub(crate) hidden: Hidden,
    /// Shared with readings of the log that are under way.
    pub(crate) deleted: Arc<Deleted>,
    log: LogEpoch,
    /// Everything up to here is derived, and stored where it went.
    pub(crate) derived_up_to: Offset,
    /// The newest state record; 0: there is none.
    pub(crate) state_at: Sequence,
    /// The newest take-overs that are known, the oldest first.
    fences: VecDeque<Sequence>,
}

/// Take-overs that are known, at most: far more than a window sees.
const FENCES: usize = 256;

impl Memory {
    /// A memory of what stands behind `from` in `log`.
    pub(crate) fn new(limits: MemoryLimits, from: Offset, log: LogEpoch) -> Self {
        Self {
            window: Window::new(limits.window, from),
            publishers: Publishers::new(limits.numbers, limits.numbers_silence, from),
            keys: Keys::new(limits.keys_us, limits.keys),
            applied: HashMap::default(),
            removed: Removed::new(limits.removed),
            hidden: Hidden::new(limits.hidden),
            deleted: Arc::new(Deleted::new(limits.deleted, log)),
            log,
            derived_up_to: Offset::ZERO,
            state_at: Sequence(0),
            fences: VecDeque::new(),
        }
    }

    /// Whether no owner of this log can have given `offset` out under `owner_epoch`: another had taken
    /// over before that place was written (O6).
    pub(crate) fn disproves(&self, owner_epoch: u64, offset: Offset) -> bool {
        self.fences
            .iter()
            .any(|fence| owner_epoch < fence.0 && offset.sequence() >= *fence)
    }

    /// The messages of the record at `sequence` enter.
    pub(crate) fn batch(
        &mut self,
        sequence: Sequence,
        time_us: u64,
        entries: impl Iterator<Item = Entering>,
        now: Duration,
    ) {
        let mut messages = Vec::new();
        let mut changes = Vec::new();
        for (index, entry) in entries.enumerate() {
            let offset = Offset::new(sequence, index);
            if let Some((gateway, series, number)) = entry.source {
                self.publishers.stored(gateway, series, number, offset, now);
            }
            if let Some((name, id)) = entry.key {
                self.keys.stored(name, offset, id, time_us);
            }
            if let Some(change) = entry.change {
                changes.push((offset, change));
            }
            messages.push(Kept {
                channel: entry.channel,
                message: entry.encoded,
            });
        }
        self.window.push(sequence, time_us, messages);
        for (offset, change) in changes {
            self.change(&change, offset);
        }
    }

    /// An edit or a deletion is stored at `at`: from now on what it changes is shown as it says.
    fn change(&mut self, change: &Message, at: Offset) {
        let deleted = Arc::make_mut(&mut self.deleted);
        let Some(named) = deleted.named(change) else {
            return;
        };
        let was_deleted = deleted.has_target_of(change);
        deleted.note(change, at);
        match fold::effect(change, self.log) {
            Some((_, Does::Edit)) if was_deleted => self.window.blank(at),
            Some((_, Does::Edit)) => self.window.edit(named, change, at),
            Some((_, Does::Delete)) => self.window.delete(named, change),
            Some((_, Does::React { .. })) | None => {}
        }
    }

    pub(crate) fn apply(&mut self, applied: impl IntoIterator<Item = Applied>) {
        for applied in applied {
            self.applied.insert(applied.source, applied);
        }
    }

    /// The state record that says what this memory holds and purging would forget (L6).
    pub(crate) fn state(&self, derived_up_to: Offset) -> State {
        let mut applied: Vec<Applied> = self.applied.values().cloned().collect();
        applied.sort_unstable_by_key(|applied| applied.source);
        State {
            applied,
            derived_up_to: derived_up_to.get(),
            removed_up_to: self.removed.floor.get(),
            removed: self
                .removed
                .marks
                .iter()
                .map(|(channel, up_to)| RemovedMark {
                    channel: channel.to_string(),
                    up_to: up_to.get(),
                })
                .collect(),
            purged_before: self.removed.purged_before.0,
            frozen: false,
            hidden: self.hidden.marks(),
            deleted: self.deleted.marks(),
        }
    }

    /// Of the state record at `sequence`.
    fn load(&mut self, state: State, sequence: Sequence) {
        self.applied.clear();
        self.apply(state.applied);
        self.derived_up_to = Offset::from_u64(state.derived_up_to);
        self.removed.load(
            Sequence(state.purged_before),
            Offset::from_u64(state.removed_up_to),
            state.removed,
        );
        self.hidden.load(state.hidden, sequence);
        Arc::make_mut(&mut self.deleted).load(state.deleted.unwrap_or_default());
    }
}

/// Builds a [`Memory`] out of a log's tail.
pub(crate) struct TailReader {
    reading: Reading,
    is_closed: bool,
    memory: Memory,
    names: HashMap<String, Arc<str>>,
}

impl TailReader {
    /// Of a tail whose first record is at `from`.
    pub(crate) fn new(limits: MemoryLimits, from: Sequence, log: LogEpoch) -> Self {
        let from = Offset::end_of(Sequence(from.0.saturating_sub(1)));
        Self {
            reading: Reading::default(),
            is_closed: false,
            memory: Memory::new(limits, from, log),
            names: HashMap::default(),
        }
    }

    /// The next record.
    pub(crate) fn record(&mut self, at: &RecordAt) {
        let Some(body) = self.reading.record(at) else {
            return;
        };
        let head = self.reading.head.clone();
        self.memory.state_at = head.state_at;
        match body {
            Body::Fence => {
                if self.memory.fences.len() == FENCES {
                    self.memory.fences.pop_front();
                }
                self.memory.fences.push_back(at.sequence);
            }
            Body::State(state) => self.memory.load(state, at.sequence),
            Body::Closed => self.is_closed = true,
            Body::Batch(entries) => {
                self.memory.apply(head.applied);
                let (names, log) = (&mut self.names, self.memory.log);
                let entries = entries.into_iter().map(|entry| entering(entry, names, log));
                self.memory
                    .batch(at.sequence, head.time_us, entries, Duration::ZERO);
            }
        }
        if self.names.len() > 65_536 {
            self.names.clear();
        }
    }

    /// What was read; `first` is the first record that the log still has.
    pub(crate) fn finish(mut self, first: Sequence) -> Memory {
        // Somebody else than an owner may have purged: then nothing is known of what is gone.
        if first > self.memory.removed.purged_before.max(Sequence(1)) {
            let purged = Offset::end_of(Sequence(first.0.saturating_sub(1)));
            self.memory.removed.forget_up_to(purged);
            self.memory.removed.purged_before = first;
        }
        self.memory
    }

    /// The log's epoch is over: whatever stands behind its end, nobody owns the shard here (L5).
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Records that could not be decoded.
    pub(crate) fn damaged(&self) -> u64 {
        self.reading.damaged()
    }
}

fn entering(entry: Entry, names: &mut HashMap<String, Arc<str>>, log: LogEpoch) -> Entering {
    let change = changing(&entry.message, log);
    let key = keys::name(&entry.message).map(|name| (name, entry.message.id.clone()));
    let channel = entry.message.channel;
    let channel = match names.get(&channel) {
        Some(known) => Arc::clone(known),
        None => {
            let name: Arc<str> = channel.as_str().into();
            names.insert(channel, Arc::clone(&name));
            name
        }
    };
    Entering {
        channel,
        encoded: entry.encoded,
        // Without its fence in the tail, a publisher is known all the same: what it stored is.
        source: entry.source.filter(|_| is_kept(Rule::P2)),
        key,
        change,
    }
}

/// Up to where each channel's messages were removed from the log. Bounded: what is not known of a
/// channel by itself is known by a bound for all.
pub(crate) struct Removed {
    marks: BTreeMap<Arc<str>, Offset>,
    floor: Offset,
    /// Marks in the order in which they were made, the oldest first.
    order: VecDeque<Arc<str>>,
    /// Only records below this may be gone from the log.
    pub(crate) purged_before: Sequence,
    /// Bytes of the names in `marks`, with what each costs besides in a record.
    bytes: usize,
    limit: usize,
}

/// What a mark costs in a record besides its name.
pub(crate) const MARK: usize = 16;

impl Removed {
    fn new(limit: usize) -> Self {
        Self {
            marks: BTreeMap::new(),
            floor: Offset::ZERO,
            order: VecDeque::new(),
            purged_before: Sequence(0),
            bytes: 0,
            limit,
        }
    }

    /// Nothing, with the same limit.
    pub(crate) fn nothing(&self) -> Self {
        Self::new(self.limit)
    }

    /// What was noted apart holds from now on.
    pub(crate) fn merge(&mut self, noted: Self) {
        if noted.floor > Offset::ZERO {
            // Of the channels that it had no room for it knows only this bound. An older mark of one of them would
            // hide it.
            self.forget_up_to(noted.floor);
        }
        for channel in noted.order {
            if let Some(mark) = noted.marks.get(&channel) {
                self.note(&channel, *mark);
            }
        }
    }

    fn load(&mut self, purged_before: Sequence, floor: Offset, marks: Vec<RemovedMark>) {
        self.purged_before = purged_before;
        self.floor = floor;
        self.marks.clear();
        self.order.clear();
        self.bytes = 0;
        for mark in marks {
            self.note(&mark.channel, Offset::from_u64(mark.up_to));
        }
    }

    /// No message of `channel` behind this was ever removed.
    pub(crate) fn up_to(&self, channel: &str) -> Offset {
        self.marks.get(channel).copied().unwrap_or(self.floor)
    }

    /// The message at `offset` is about to be removed.
    pub(crate) fn note(&mut self, channel: &str, offset: Offset) {
        match self.marks.get_mut(channel) {
            Some(mark) => *mark = (*mark).max(offset),
            None => {
                let name: Arc<str> = channel.into();
                self.bytes += name.len() + MARK;
                self.marks.insert(Arc::clone(&name), offset);
                self.order.push_back(name);
            }
        }
        while self.bytes > self.limit {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            self.bytes -= oldest.len() + MARK;
            if let Some(mark) = self.marks.remove(&oldest) {
                self.floor = self.floor.max(mark);
            }
        }
    }

    /// Anything up to here may be gone.
    fn forget_up_to(&mut self, offset: Offset) {
        self.floor = self.floor.max(offset);
        self.marks.clear();
        self.order.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> Offset {
        Offset::new(Sequence(sequence), 0)
    }

    /// Room for two channels of one letter.
    fn removed() -> Removed {
        Removed::new(2 * (1 + MARK))
    }

    #[test]
    fn r5_an_older_mark_does_not_hide_what_a_later_purge_removed() {
        let mut removed = removed();
        removed.note("b", at(1));
        removed.note("a", at(2));
        // More channels than there is room for: of `a` the later purge knows only a bound.
        let mut noted = removed.nothing();
        for (channel, sequence) in [("a", 10), ("b", 11), ("c", 12)] {
            noted.note(channel, at(sequence));
        }
        removed.merge(noted);
        for (channel, sequence) in [("a", 10), ("b", 11), ("c", 12)] {
            assert!(removed.up_to(channel) >= at(sequence), "{channel}");
        }
    }

    #[test]
    fn marks_of_other_channels_stay_sharp_where_all_fit() {
        let mut removed = removed();
        removed.note("a", at(1));
        let mut noted = removed.nothing();
        noted.note("b", at(10));
        removed.merge(noted);
        assert_eq!((removed.up_to("a"), removed.up_to("b")), (at(1), at(10)));
        assert_eq!(removed.up_to("c"), Offset::ZERO);
    }
}
