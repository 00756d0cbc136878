//! Entries that other shards derive for this one, target's side (D1). No I/O and no clock.

use switchboard_proto::bus::{Applied, Derive, Derived};
use switchboard_proto::ids::Incarnation;

use super::derive::{Place, place};
use crate::maps::HashMap;
use crate::rules::{Rule, is_kept};

/// What is to be done about a frame.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It is of an owner that another has followed.
    Ignore,
    /// Say how far this shard is.
    Answer,
    /// Store these; the answer follows them.
    Store(Vec<(Place, bytes::Bytes)>),
}

/// Which owner of a source shard, of which life of its log, an entry came from. It stays with the entry
/// on its way into the log: by the time it is stored, another may have been heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceOwner {
    ordinal: u32,
    random: u32,
    pub(crate) owner_epoch: u64,
}

impl SourceOwner {
    /// Whether what was applied is of the same life of the source's log.
    pub(crate) fn is_same_log(self, applied: &Applied) -> bool {
        (self.ordinal, self.random) == (applied.ordinal, applied.random)
    }

    /// What a record says beside the entries of `source`, the last of which is `at`.
    pub(crate) fn applied(self, source: u32, at: Place) -> Applied {
        Applied {
            source,
            at: Some(at.into()),
            ordinal: self.ordinal,
            random: self.random,
            owner_epoch: self.owner_epoch,
        }
    }
}

struct Source {
    router: Incarnation,
    owner: SourceOwner,
    /// Entries up to here are stored, or queued to be.
    accepted: Place,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Applying {
    sources: HashMap<u32, Source>,
}

impl Applying {
    /// A frame of a source's owner; `applied` is what this shard's log says of that source.
    pub(crate) fn frame(&mut self, frame: Derive, applied: Option<&Applied>) -> Verdict {
        let Ok(router) = Incarnation::try_from(frame.router.as_ref()) else {
            return Verdict::Ignore;
        };
        let is_same_log = |ordinal, random| (ordinal, random) == (frame.ordinal, frame.random);
        let stored = applied
            .filter(|applied| is_same_log(applied.ordinal, applied.random))
            .map_or_else(Place::default, |applied| place(applied.at));
        let known = self
            .sources
            .get(&frame.source)
            .map(|source| {
                (
                    source.owner.ordinal,
                    source.owner.random,
                    source.owner.owner_epoch,
                )
            })
            .or_else(|| applied.map(|applied| (applied.ordinal, applied.random, applied.owner_epoch)));
        if let Some((ordinal, random, owner_epoch)) = known {
            let is_older =
                frame.ordinal < ordinal || (is_same_log(ordinal, random) && frame.owner_epoch < owner_epoch);
            if is_older && is_kept(Rule::D1) {
                return Verdict::Ignore;
            }
        }
        let accepted = match self.sources.get(&frame.source) {
            Some(source) if is_same_log(source.owner.ordinal, source.owner.random) => {
                source.accepted.max(stored)
            }
            // A new log of the source begins anew.
            Some(_) | None => stored,
        };
        let source = Source {
            router,
            owner: SourceOwner {
                ordinal: frame.ordinal,
                random: frame.random,
                owner_epoch: frame.owner_epoch,
            },
            accepted,
        };
        let source = self.sources.entry(frame.source).insert_entry(source).into_mut();
        if place(frame.after) > accepted && is_kept(Rule::D1) {
            // Something between is missing.
            return Verdict::Answer;
        }
        let new: Vec<_> = frame
            .entries
            .into_iter()
            .map(|Derived { at, message }| (place(at), message))
            .filter(|(at, _)| *at > accepted || !is_kept(Rule::D1))
            .collect();
        match new.last() {
            Some((last, _)) => {
                source.accepted = *last;
                Verdict::Store(new)
            }
            None => Verdict::Answer,
        }
    }

    /// Where answers to the source go, and which of its owners they answer.
    pub(crate) fn owner(&self, source: u32) -> Option<(Incarnation, SourceOwner)> {
        let source = self.sources.get(&source)?;
        Some((source.router, source.owner))
    }

    /// What was accepted of `source` and not stored is withdrawn: it will be sent again.
    pub(crate) fn withdraw(&mut self, source: u32) {
        self.sources.remove(&source);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use switchboard_proto::bus::DerivedAt;

    use super::*;

    fn at(offset: u64, index: u32) -> DerivedAt {
        DerivedAt { offset, index }
    }

    fn frame(owner_epoch: u64, after: (u64, u32), entries: &[(u64, u32)]) -> Derive {
        Derive {
            source: 3,
            target: 0,
            router: Incarnation::from_u128(9).to_bytes(),
            ordinal: 1,
            random: 7,
            owner_epoch,
            after: Some(at(after.0, after.1)),
            entries: entries
                .iter()
                .map(|(offset, index)| Derived {
                    at: Some(at(*offset, *index)),
                    message: Bytes::new(),
                })
                .collect(),
        }
    }

    fn stored(verdict: Verdict) -> Vec<(u64, u32)> {
        match verdict {
            Verdict::Store(entries) => entries
                .iter()
                .map(|(at, _)| (at.offset.get(), at.index))
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn d1_only_what_follows_is_taken_and_once() {
        let mut applying = Applying::default();
        let first = applying.frame(frame(5, (0, 0), &[(10, 0), (10, 1), (12, 0)]), None);
        assert_eq!(stored(first), [(10, 0), (10, 1), (12, 0)]);
        // Sent again with more behind it, before the first is stored.
        let again = applying.frame(frame(5, (0, 0), &[(10, 0), (10, 1), (12, 0), (13, 0)]), None);
        assert_eq!(stored(again), [(13, 0)]);
        let gap = applying.frame(frame(5, (20, 0), &[(21, 0)]), None);
        assert_eq!(gap, Verdict::Answer, "what stands between is missing");
        applying.withdraw(3);
        let after = applying.frame(frame(5, (0, 0), &[(10, 0)]), None);
        assert_eq!(stored(after), [(10, 0)], "what was withdrawn is taken anew");
    }

    #[test]
    fn d1_an_older_owner_of_the_source_is_refused_and_a_new_log_begins_anew() {
        let mut applying = Applying::default();
        assert_eq!(applying.frame(frame(7, (0, 0), &[]), None), Verdict::Answer);
        assert_eq!(
            applying.frame(frame(5, (0, 0), &[(10, 0)]), None),
            Verdict::Ignore
        );
        let applied = Applied {
            source: 3,
            at: Some(at(50, 0)),
            ordinal: 1,
            random: 7,
            owner_epoch: 7,
        };
        let mut fresh = Applying::default();
        assert_eq!(
            fresh.frame(frame(5, (0, 0), &[(60, 0)]), Some(&applied)),
            Verdict::Ignore
        );
        let known = fresh.frame(frame(7, (0, 0), &[(40, 0), (50, 0), (50, 1)]), Some(&applied));
        assert_eq!(stored(known), [(50, 1)], "the log tells what is stored");
        let mut new_log = frame(2, (0, 0), &[(4, 0)]);
        new_log.ordinal = 2;
        assert_eq!(stored(fresh.frame(new_log, Some(&applied))), [(4, 0)]);
        let (_, accepted) = fresh.owner(3).unwrap();
        assert_eq!((accepted.ordinal, accepted.owner_epoch), (2, 2));
    }
}
