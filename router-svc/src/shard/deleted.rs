//! What was deleted from this shard's log: whose content is not shown, although the log has it until it is purged. No I/O and
//! no clock.
//!
//! The window forgets the content as soon as the deletion is stored. What is read from the log is another matter: a page may end before
//! the deletion comes. So the owner knows what is deleted, by marks in each state record (L6).
//!
//! Invariants, tested here and in `owner/tests/changes.rs`:
//! * Of a message that a stored deletion names, and of its edits, no content is shown: each has a mark, or lies at or before the floor, up
//!   to which nothing of the log is shown.
//! * Marks are bounded. Where there is no room the one that ends first goes, and the floor rises to its end.
//! * A mark goes only after the last message that it hides.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::fold::{self, Does, MessageId, Target};
use switchboard_proto::bus::{Deleted as Marks, Message};
use switchboard_proto::ids::{LogEpoch, Offset, Sequence};

/// What a mark hides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Marked {
    /// The message at this offset, and its edits.
    At(Offset),
    /// Entries derived from this message and from its edits. Also: edits of it, where it stands in an older log.
    Copy(MessageId),
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deleted {
    log: LogEpoch,
    /// Up to where what they hide may stand.
    marks: BTreeMap<Marked, Offset>,
    floor: Offset,
    limit: usize,
}

impl Deleted {
    /// At most `limit` marks, of messages in `log`.
    pub(crate) fn new(limit: usize, log: LogEpoch) -> Self {
        Self {
            log,
            marks: BTreeMap::new(),
            floor: Offset::ZERO,
            limit,
        }
    }

    /// Marks that are held, for metrics.
    pub(crate) fn len(&self) -> usize {
        self.marks.len()
    }

    /// Nothing of the log up to here is to be shown.
    pub(crate) fn floor(&self) -> Offset {
        self.floor
    }

    /// What `change` changes, as marks name it.
    pub(crate) fn named(&self, change: &Message) -> Option<Marked> {
        match fold::effect(change, self.log)?.0 {
            Target::Here(offset) => Some(Marked::At(offset)),
            Target::Copy(id) => Some(Marked::Copy(id)),
            Target::Elsewhere(..) => Some(Marked::Copy(MessageId::new(&fold::about(change)?.id)?)),
        }
    }

    /// Whether what `change` changes is known to be deleted.
    pub(crate) fn has_target_of(&self, change: &Message) -> bool {
        self.named(change)
            .is_some_and(|named| self.marks.contains_key(&named))
    }

    /// `change` is stored at `at`, the newest message of the log.
    pub(crate) fn note(&mut self, change: &Message, at: Offset) {
        let Some(named) = self.named(change) else { return };
        match fold::effect(change, self.log) {
            Some((_, Does::Delete)) => {
                self.marks.insert(named, at);
                self.make_room();
            }
            // It came too late, and is hidden itself.
            Some((_, Does::Edit)) => {
                if let Some(until) = self.marks.get_mut(&named) {
                    *until = at;
                }
            }
            Some((_, Does::React { .. })) | None => {}
        }
    }

    fn make_room(&mut self) {
        while self.marks.len() > self.limit {
            let first = self.marks.iter().min_by_key(|(_, until)| **until);
            let Some((named, until)) = first.map(|(named, until)| (*named, *until)) else {
                return;
            };
            self.marks.remove(&named);
            self.floor = self.floor.max(until);
        }
    }

    /// Whether the message at `offset` has no content any more.
    fn covers(&self, offset: Offset, message: &Message) -> bool {
        if self.marks.contains_key(&Marked::At(offset)) {
            return true;
        }
        if message.origin.is_some()
            && MessageId::new(&message.id).is_some_and(|id| self.marks.contains_key(&Marked::Copy(id)))
        {
            return true;
        }
        matches!(fold::effect(message, self.log), Some((_, Does::Edit))) && self.has_target_of(message)
    }

    /// The message at `offset`, as it is to be shown.
    pub(crate) fn shown(&self, offset: Offset, encoded: Bytes) -> Bytes {
        if self.marks.is_empty() {
            return encoded;
        }
        match Message::decode(encoded.clone()) {
            Ok(message) if self.covers(offset, &message) => fold::deleted(message).encode_to_vec().into(),
            Ok(_) | Err(_) => encoded,
        }
    }

    /// Records below `first` are gone from the log.
    pub(crate) fn purged(&mut self, first: Sequence) {
        self.marks.retain(|_, until| until.sequence() >= first);
    }

    /// Whether [`Deleted::purged`] would change anything.
    pub(crate) fn has_before(&self, first: Sequence) -> bool {
        self.marks.values().any(|until| until.sequence() < first)
    }

    /// The marks of a state record replace all. They are kept even if they are more than the limit, which may
    /// have been lowered.
    pub(crate) fn load(&mut self, marks: Marks) {
        self.floor = Offset::from_u64(marks.floor);
        self.marks.clear();
        let mut offset = 0_u64;
        for (distance, behind) in marks.offsets.into_iter().zip(marks.until) {
            offset = offset.saturating_add(distance);
            let until = Offset::from_u64(offset.saturating_add(behind));
            self.marks.insert(Marked::At(Offset::from_u64(offset)), until);
        }
        for (id, until) in marks.copies.into_iter().zip(marks.copies_until) {
            let until = Offset::from_u64(until);
            self.marks.insert(Marked::Copy(MessageId(id)), until);
        }
    }

    /// As a state record carries them; `None`: there is nothing to carry.
    pub(crate) fn marks(&self) -> Option<Marks> {
        if self.marks.is_empty() && self.floor == Offset::ZERO {
            return None;
        }
        let mut marks = Marks {
            floor: self.floor.get(),
            ..Marks::default()
        };
        let mut before = 0;
        for (named, until) in &self.marks {
            match named {
                Marked::At(offset) => {
                    marks.offsets.push(offset.get() - before);
                    marks.until.push(until.get().saturating_sub(offset.get()));
                    before = offset.get();
                }
                Marked::Copy(id) => {
                    marks.copies.push(id.0);
                    marks.copies_until.push(until.get());
                }
            }
        }
        Some(marks)
    }
}

#[cfg(test)]
mod tests {
    use switchboard_proto::bus::{Change, Delete, Edit, MessageAt, change};

    use super::*;

    const LOG: LogEpoch = LogEpoch {
        ordinal: 1,
        random: 7,
    };

    fn at(sequence: u64) -> Offset {
        Offset::new(Sequence(sequence), 0)
    }

    fn change(what: change::What) -> Message {
        Message {
            payload: Bytes::from_static(b"\"said\""),
            change: Some(Change { what: Some(what) }),
            ..Message::default()
        }
    }

    fn target(sequence: u64) -> Option<MessageAt> {
        Some(MessageAt {
            offset: at(sequence).get(),
            ..MessageAt::default()
        })
    }

    fn delete(sequence: u64) -> Message {
        change(change::What::Delete(Delete {
            target: target(sequence),
        }))
    }

    fn edit(sequence: u64) -> Message {
        change(change::What::Edit(Edit {
            target: target(sequence),
        }))
    }

    fn shows(deleted: &Deleted, sequence: u64, message: &Message) -> bool {
        let encoded = Bytes::from(message.encode_to_vec());
        let shown = deleted.shown(at(sequence), encoded);
        String::from_utf8_lossy(&shown).contains("said")
    }

    fn said() -> Message {
        Message {
            payload: Bytes::from_static(b"\"said\""),
            ..Message::default()
        }
    }

    #[test]
    fn a_deletion_hides_the_message_and_its_edits_however_late_they_are() {
        let mut deleted = Deleted::new(10, LOG);
        assert!(shows(&deleted, 3, &said()) && shows(&deleted, 4, &edit(3)));
        deleted.note(&delete(3), at(5));
        deleted.note(&edit(3), at(6));
        for (sequence, message) in [(3, said()), (4, edit(3)), (6, edit(3))] {
            assert!(!shows(&deleted, sequence, &message), "{sequence}");
        }
        assert!(shows(&deleted, 2, &said()) && shows(&deleted, 4, &edit(2)));
        // As long as anything that it hides is in the log.
        deleted.purged(Sequence(6));
        assert!(!shows(&deleted, 6, &edit(3)));
        deleted.purged(Sequence(7));
        assert_eq!(deleted.len(), 0);
    }

    #[test]
    fn where_there_is_no_room_the_floor_rises() {
        let mut deleted = Deleted::new(2, LOG);
        deleted.note(&delete(1), at(10));
        deleted.note(&delete(9), at(11));
        deleted.note(&edit(1), at(12));
        assert_eq!(deleted.floor(), Offset::ZERO);
        deleted.note(&delete(2), at(13));
        assert_eq!(deleted.floor(), at(11), "of the mark that ended first");
        assert!(!shows(&deleted, 1, &said()) && !shows(&deleted, 2, &said()));
    }

    #[test]
    fn a_state_record_carries_all() {
        let mut deleted = Deleted::new(3, LOG);
        for (target, event) in [(7, 20), (3, 21), (5, 22), (1, 23)] {
            deleted.note(&delete(target), at(event));
        }
        let id: Vec<u8> = (0..16).collect();
        let mut copy = delete(4);
        copy.origin = Some(switchboard_proto::bus::Origin::default());
        if let Some(change::What::Delete(delete)) = copy.change.as_mut().and_then(|c| c.what.as_mut()) {
            delete.target.as_mut().unwrap().id = id.clone().into();
        }
        deleted.note(&copy, at(24));
        let mut loaded = Deleted::new(3, LOG);
        loaded.load(deleted.marks().unwrap());
        assert_eq!(loaded, deleted);
        let entry = Message {
            id: id.into(),
            origin: Some(switchboard_proto::bus::Origin::default()),
            ..said()
        };
        assert!(!shows(&loaded, 15, &entry));
        assert_eq!(Deleted::new(3, LOG).marks(), None);
    }
}
