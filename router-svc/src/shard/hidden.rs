//! What backends removed from the history of channels (`history_remove`): up to which offset a channel's messages are
//! hidden. No I/O and no clock.
//!
//! The log is one of many channels and cannot let go of one channel's messages. They stay until they are purged, and are
//! not shown: neither to who asks for history nor to who recovers. All marks stand in each state record (L6), so a new
//! owner knows them.
//!
//! Invariants, tested here and in `owner/tests`:
//! * A mark holds from the moment at which a state record with it is stored, and is not answered before.
//! * A mark is never forgotten to make room: where there is none, the call is refused.
//! * A mark goes only after the last message that it hides, and after the state record that had it first: what reads
//!   the log, such as the message store, has read the mark by then, and hides by itself.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use switchboard_proto::bus::Removed as Mark;
use switchboard_proto::ids::{Offset, Sequence};

use super::memory::MARK;

/// See the module.
#[derive(Clone)]
pub(crate) struct Hidden {
    marks: BTreeMap<Arc<str>, Hides>,
    /// Bytes of the names in `marks`, with what each costs besides in a record.
    bytes: usize,
    limit: usize,
}

#[derive(Debug, Clone, Copy)]
struct Hides {
    up_to: Offset,
    /// A state record that has it; `None`: it is not written yet.
    written: Option<Sequence>,
}

/// There is no room for a mark.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

impl Hidden {
    /// Marks of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            marks: BTreeMap::new(),
            bytes: 0,
            limit,
        }
    }

    /// Messages of `channel` up to here are not shown.
    pub(crate) fn up_to(&self, channel: &str) -> Offset {
        self.marks.get(channel).map_or(Offset::ZERO, |hides| hides.up_to)
    }

    /// Bytes that the marks take in a state record, about, for metrics.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that `channel` is hidden up to `up_to`.
    ///
    /// # Errors
    /// [`NoRoom`]: nothing was changed.
    pub(crate) fn hide(&mut self, channel: &str, up_to: Offset) -> Result<(), NoRoom> {
        let cost = channel.len() + MARK;
        if !self.marks.contains_key(channel) && self.bytes + cost > self.limit {
            return Err(NoRoom);
        }
        self.enter(channel.into(), up_to, None);
        Ok(())
    }

    /// The marks of the state record at `sequence` replace all. They are kept even if they take more than the limit, which may
    /// have been lowered.
    pub(crate) fn load(&mut self, marks: Vec<Mark>, sequence: Sequence) {
        self.marks.clear();
        self.bytes = 0;
        for mark in marks {
            self.enter(mark.channel.into(), Offset::from_u64(mark.up_to), Some(sequence));
        }
    }

    /// All marks stand in the state record at `sequence`.
    pub(crate) fn written_in(&mut self, sequence: Sequence) {
        for hides in self.marks.values_mut() {
            hides.written.get_or_insert(sequence);
        }
    }

    fn enter(&mut self, channel: Arc<str>, up_to: Offset, written: Option<Sequence>) {
        match self.marks.entry(channel) {
            Entry::Occupied(mut mark) => {
                let mark = mark.get_mut();
                if up_to > mark.up_to {
                    *mark = Hides { up_to, written };
                }
            }
            Entry::Vacant(place) => {
                self.bytes += place.key().len() + MARK;
                place.insert(Hides { up_to, written });
            }
        }
    }

    /// Records below `first` are gone from the log, and it is noted what was in them: their marks have nothing left to
    /// hide here.
    pub(crate) fn purged(&mut self, first: Sequence) {
        let bytes = &mut self.bytes;
        self.marks.retain(|channel, hides| {
            let is_read = hides.written.is_some_and(|written| written < first);
            let stays = hides.up_to.sequence() >= first || !is_read;
            if !stays {
                *bytes -= channel.len() + MARK;
            }
            stays
        });
    }

    /// As a state record carries them.
    pub(crate) fn marks(&self) -> Vec<Mark> {
        let marks = self.marks.iter().map(|(channel, hides)| Mark {
            channel: channel.to_string(),
            up_to: hides.up_to.get(),
        });
        marks.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> Offset {
        Offset::new(Sequence(sequence), 0)
    }

    #[test]
    fn a_mark_is_refused_where_there_is_no_room_and_none_is_forgotten() {
        let mut hidden = Hidden::new(2 * (1 + MARK));
        assert_eq!(hidden.hide("a", at(1)), Ok(()));
        assert_eq!(hidden.hide("b", at(2)), Ok(()));
        assert_eq!(hidden.hide("c", at(3)), Err(NoRoom));
        assert_eq!(hidden.hide("a", at(4)), Ok(()), "it has its place");
        assert_eq!(hidden.hide("a", at(2)), Ok(()));
        let up_to = ["a", "b", "c"].map(|channel| hidden.up_to(channel));
        assert_eq!(up_to, [at(4), at(2), Offset::ZERO]);
        // What is purged makes room, once nobody has to read the mark.
        hidden.purged(Sequence(3));
        assert_eq!(hidden.up_to("b"), at(2));
        hidden.written_in(Sequence(5));
        hidden.purged(Sequence(5));
        assert_eq!(hidden.up_to("b"), at(2));
        hidden.hide("a", at(6)).unwrap();
        hidden.written_in(Sequence(7));
        hidden.purged(Sequence(6));
        assert_eq!(hidden.up_to("b"), Offset::ZERO);
        assert_eq!(hidden.up_to("a"), at(6));
        assert_eq!(hidden.hide("c", at(5)), Ok(()));
    }

    #[test]
    fn a_lowered_limit_forgets_nothing() {
        let mut hidden = Hidden::new(100);
        hidden.hide("a", at(1)).unwrap();
        hidden.hide("b", at(2)).unwrap();
        let mut loaded = Hidden::new(1);
        loaded.load(hidden.marks(), Sequence(8));
        assert_eq!((loaded.up_to("a"), loaded.up_to("b")), (at(1), at(2)));
        assert_eq!(loaded.hide("c", at(3)), Err(NoRoom));
        loaded.purged(Sequence(9));
        assert_eq!(loaded.bytes(), 0);
    }
}
