//! What durable readers still need of a shard's log (L4). No I/O and no clock.
//!
//! How far they are is asked for only while a purge is wanted, and may be told late: a position only moves
//! forward, so an old one keeps too much and never too little.

use switchboard_bus::{Committed, ReaderName, ReaderPosition};
use switchboard_proto::ids::{LogEpoch, Sequence};

/// How far a reader is, as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct ReaderAt {
    pub(crate) reader: ReaderName,
    pub(crate) position: Option<ReaderPosition>,
}

/// See the module.
pub(crate) struct Readers {
    /// Whether there are any that a purge waits for.
    any: bool,
    /// What was told last: up to where each is done.
    done: Vec<(ReaderName, Sequence)>,
    is_asking: bool,
    /// Whether they, and nothing else, keep the log from being purged.
    is_holding: bool,
}

impl Readers {
    pub(crate) fn new(any: bool) -> Self {
        Self {
            any,
            done: Vec::new(),
            is_asking: false,
            is_holding: false,
        }
    }

    /// Their positions in a log of `epoch`. Who never committed, and who is in another log, has nothing yet.
    pub(crate) fn told(&mut self, told: &[ReaderAt], epoch: LogEpoch) {
        self.done = told
            .iter()
            .map(|at| {
                // A reader may be further than its owner knows of.
                let end = Sequence(u64::MAX);
                let done = match Committed::of(at.position, epoch, end) {
                    Committed::UpTo(done) => done,
                    Committed::Nothing | Committed::OtherLog(_) | Committed::WentBack(_) => Sequence(0),
                };
                (at.reader.clone(), done)
            })
            .collect();
    }

    /// A purge below `before` is wanted and worth it from `worth` on: below which record it may go, if it may.
    pub(crate) fn allow(&mut self, before: Sequence, worth: Sequence) -> Option<Sequence> {
        if !self.any {
            return Some(before);
        }
        self.is_asking = true;
        let needed = self.done.iter().map(|(_, done)| done.next()).min();
        let allowed = before.min(needed.unwrap_or_default());
        self.is_holding = allowed <= worth;
        (!self.is_holding).then_some(allowed)
    }

    /// No purge is wanted.
    pub(crate) fn rest(&mut self) {
        self.is_asking = false;
        self.is_holding = false;
    }

    /// Their positions are wanted.
    pub(crate) fn is_asking(&self) -> bool {
        self.is_asking
    }

    /// How many records each is behind `last`; nothing while no purge is wanted.
    pub(crate) fn lags(&self, last: Sequence) -> impl Iterator<Item = (&ReaderName, u64)> {
        let asked = self.done.iter().filter(|_| self.is_asking);
        asked.map(move |(reader, done)| (reader, last.0.saturating_sub(done.0)))
    }

    /// Who keeps the log from being purged: the one that is least far, and who is as far.
    pub(crate) fn holding(&self) -> impl Iterator<Item = (&ReaderName, Sequence)> {
        let lowest = self.done.iter().map(|(_, done)| *done).min();
        let held = self.done.iter().filter(|_| self.is_holding);
        held.filter(move |(_, done)| Some(*done) == lowest)
            .map(|(reader, done)| (reader, *done))
    }
}
