//! Keeping the log usable: state records, its fill mark, and purging (L3, L4, L6). No I/O and no clock.
//!
//! A log is kept as long as there is room: without a message store, what is purged is gone. Above a part of its size
//! the oldest records go, after it was noted what was in them and no durable reader needs them.
//!
//! Invariants, tested in `owner/tests`:
//! * Nothing is purged that the window, a key, a derivation or a state record still needs, nor before every configured
//!   reader is known to be done with it.
//! * What was removed is stored in a state record before it is purged.
//! * Over the fill mark publishes are refused, and fences and state records still fit.

use std::collections::VecDeque;

use switchboard_bus::{LogInfo, RecordAt};
use switchboard_proto::ids::{Offset, Sequence};

use super::memory::Removed;
use super::readers::Readers;
use super::records::{Body, Reading};

/// What upkeep keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpkeepLimits {
    /// Records after which a state record is due.
    pub(crate) state_records: u64,
    /// Bytes after which a state record is due.
    pub(crate) state_bytes: usize,
    /// Microseconds for which keys are needed.
    pub(crate) keys_us: u64,
    /// Percent of the log's size above which publishes are refused.
    pub(crate) full: u64,
    /// Likewise for entries derived from other shards.
    pub(crate) overfull: u64,
    /// Percent of the log's size above which the oldest records are purged, down to `purge_to`.
    pub(crate) purge_above: u64,
    pub(crate) purge_to: u64,
    /// Whether durable readers are configured, for which a purge waits.
    pub(crate) readers: bool,
}

/// A purge in the making.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purge {
    None,
    /// Records are read to note what is in them; the next, and the first that stays.
    Noting(Sequence, Sequence),
    /// All are noted: a state record first, then the log is purged below this.
    Due(Sequence),
    /// It was carried out; how many answers of the leader it takes until one is known to be of later.
    Settling(u8),
}

/// A purge takes at least this part of the records, because each costs a state record.
const WORTH: u64 = 16;

/// See the module.
pub(crate) struct Upkeep {
    limits: UpkeepLimits,
    first: Sequence,
    last: Sequence,
    bytes: u64,
    max_bytes: Option<u64>,
    records_since: u64,
    bytes_since: usize,
    /// Where keys that are needed begin; `None`: not known yet.
    keys_from: Option<Sequence>,
    /// When which record was written, about once a second.
    times: VecDeque<(u64, Sequence)>,
    purge: Purge,
    /// What a purge in the making will remove.
    noted: Option<Removed>,
    reading: Reading,
    readers: Readers,
    purges: u64,
}

impl Upkeep {
    pub(crate) fn new(limits: UpkeepLimits, info: LogInfo) -> Self {
        Self {
            limits,
            first: info.first,
            last: info.last,
            bytes: info.bytes,
            max_bytes: info.max_bytes,
            // A new owner begins with one.
            records_since: limits.state_records,
            bytes_since: 0,
            keys_from: None,
            times: VecDeque::new(),
            purge: Purge::None,
            noted: None,
            reading: Reading::default(),
            readers: Readers::new(limits.readers),
            purges: 0,
        }
    }

    /// How full the log is, in percent of what it may take; 0 where nothing is set.
    pub(crate) fn fill(&self) -> u64 {
        let Some(max_bytes) = self.max_bytes else { return 0 };
        (u128::from(self.bytes) * 100 / u128::from(max_bytes.max(1))) as u64
    }

    /// Publishes have to be refused.
    pub(crate) fn is_full(&self) -> bool {
        self.fill() >= self.limits.full
    }

    /// Entries of other shards have to be refused, too. Later than publishes: while they wait, those
    /// shards cannot be purged, and two full ones would wait for each other.
    pub(crate) fn is_overfull(&self) -> bool {
        self.fill() >= self.limits.overfull
    }

    /// Purges that were carried out, for metrics.
    pub(crate) fn purges(&self) -> u64 {
        self.purges
    }

    pub(crate) fn readers(&self) -> &Readers {
        &self.readers
    }

    pub(crate) fn readers_mut(&mut self) -> &mut Readers {
        &mut self.readers
    }

    /// The first record that the log still has, as its leader said when it was last asked.
    pub(crate) fn first(&self) -> Sequence {
        self.first
    }

    /// The last record of the log, as its leader said when it was last asked.
    pub(crate) fn last(&self) -> Sequence {
        self.last
    }

    /// How the log stands, as its leader says.
    pub(crate) fn info(&mut self, info: LogInfo) {
        self.first = info.first;
        self.last = info.last;
        self.bytes = info.bytes;
        self.max_bytes = info.max_bytes;
        // One question to the leader is on the way at a time: the first answer may be of before.
        match self.purge {
            Purge::Settling(0 | 1) => self.purge = Purge::None,
            Purge::Settling(more) => self.purge = Purge::Settling(more - 1),
            Purge::None | Purge::Noting(..) | Purge::Due(_) => {}
        }
    }

    /// A state record is due for a reason of the owner's.
    pub(crate) fn want_state(&mut self) {
        self.records_since = self.limits.state_records;
    }

    /// A record of this size is appended.
    pub(crate) fn appending(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.bytes_since += bytes;
        self.records_since += 1;
    }

    /// A batch is stored.
    pub(crate) fn appended(&mut self, sequence: Sequence, time_us: u64) {
        let is_due = self
            .times
            .back()
            .is_none_or(|(last, _)| time_us.saturating_sub(*last) >= 1_000_000);
        if is_due {
            self.times.push_back((time_us, sequence));
        }
    }

    /// Keys that are needed begin in this record.
    pub(crate) fn keys_from(&mut self, from: Sequence) {
        self.keys_from = Some(from);
    }

    /// Time goes by: what may go, and whether something has to.
    pub(crate) fn tick(
        &mut self,
        now_us: u64,
        window_start: Offset,
        derived_up_to: Offset,
        state_at: Sequence,
    ) {
        while let [(_, _), (next_us, next), ..] = self.times.make_contiguous() {
            if now_us.saturating_sub(*next_us) <= self.limits.keys_us {
                break;
            }
            self.keys_from = self.keys_from.map(|from| from.max(*next));
            self.times.pop_front();
        }
        let begins = match self.purge {
            Purge::None => self.purge_wanted(window_start, derived_up_to),
            Purge::Noting(..) | Purge::Due(_) | Purge::Settling(_) => None,
        };
        let Some((before, worth)) = begins else {
            self.readers.rest();
            return;
        };
        let Some(before) = self.readers.allow(before, worth) else {
            return;
        };
        if state_at < before {
            // The last state record stays, and so would all that follows it: a new one first.
            self.records_since = self.limits.state_records;
        } else {
            self.reading = Reading::default();
            self.noted = None;
            self.purge = Purge::Noting(self.first, before);
        }
    }

    /// Where the log is to be purged to make room: below which record, as far as this owner is concerned, and
    /// above which it is worth a state record.
    fn purge_wanted(&self, window_start: Offset, derived_up_to: Offset) -> Option<(Sequence, Sequence)> {
        if self.fill() < self.limits.purge_above {
            return None;
        }
        let keys_from = self.keys_from?;
        let floor = [
            window_start.sequence().next(),
            derived_up_to.sequence(),
            keys_from,
            self.last,
        ]
        .into_iter()
        .min()
        .unwrap_or_default();
        // Records are about the same size on average.
        let records = self.last.0.saturating_sub(self.first.0);
        let stay = records * self.limits.purge_to / self.fill().max(1);
        let before = floor.min(Sequence(self.last.0.saturating_sub(stay)));
        let worth = Sequence(self.first.0 + records / WORTH);
        (before > worth).then_some((before, worth))
    }

    /// What has to be read now, both ends included.
    pub(crate) fn wants(&self) -> Option<(Sequence, Sequence)> {
        match self.purge {
            Purge::Noting(next, before) => Some((next, Sequence(before.0.saturating_sub(1)))),
            Purge::None | Purge::Due(_) | Purge::Settling(_) => None,
        }
    }

    /// A page of the log came, or could not be read.
    pub(crate) fn page(&mut self, page: Result<&[RecordAt], ()>, removed: &Removed) {
        let Purge::Noting(mut next, before) = self.purge else {
            return;
        };
        let Ok(records) = page else {
            // Later again.
            self.purge = Purge::None;
            self.noted = None;
            return;
        };
        let noted = self.noted.get_or_insert_with(|| removed.nothing());
        for at in records {
            next = at.sequence.next();
            if let Some(Body::Batch(entries)) = self.reading.record(at) {
                for (index, entry) in entries.iter().enumerate() {
                    noted.note(&entry.message.channel, Offset::new(at.sequence, index));
                }
            }
        }
        self.purge = if next >= before || records.is_empty() {
            Purge::Due(before)
        } else {
            Purge::Noting(next, before)
        };
    }

    /// Whether a state record has to be appended now; and below which record to purge once it is
    /// stored (0: nothing).
    pub(crate) fn state_due(&mut self, removed: &mut Removed) -> Option<Sequence> {
        let purge = match self.purge {
            Purge::Due(before) => Some(before),
            Purge::None | Purge::Noting(..) | Purge::Settling(_) => None,
        };
        let is_due = self.records_since >= self.limits.state_records
            || self.bytes_since >= self.limits.state_bytes
            || purge.is_some();
        if !is_due {
            return None;
        }
        if let Some(before) = purge {
            removed.purged_before = removed.purged_before.max(before);
            // Not before: until now all of it could be recovered (R5).
            if let Some(noted) = self.noted.take() {
                removed.merge(noted);
            }
        }
        Some(purge.unwrap_or_default())
    }

    /// The state record that [`Upkeep::state_due`] asked for is stored; `purge` is what that returned.
    pub(crate) fn state_stored(&mut self, purge: Sequence) {
        self.records_since = 0;
        self.bytes_since = 0;
        if purge > Sequence(0) {
            self.purges += 1;
            self.purge = Purge::Settling(2);
        }
    }

    /// The log did not take the state record: later again.
    pub(crate) fn state_refused(&mut self) {
        self.records_since = 0;
        self.bytes_since = 0;
        self.purge = Purge::None;
    }
}
