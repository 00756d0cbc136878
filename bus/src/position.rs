//! How far a durable reader of the log is: what its committed position says, and when it moves.
//!
//! Both backends store one position per reader and shard and decide with [`ReaderPosition::advance`]
//! what a commit does, so that replicas of a service may share a reader without knowing each other.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use switchboard_proto::bus::StoredPosition;
use switchboard_proto::format;
use switchboard_proto::ids::{InvalidId, LogEpoch, Sequence, ShardId};

use crate::log::{LogError, LogInfo};

/// Names a reader of the log, the same for all replicas that share its work: `persistence`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReaderName(Arc<str>);

impl ReaderName {
    /// Lower-case letters, digits and `-`, 1 to 32 of them; `None` otherwise. It becomes a part of
    /// subjects and keys.
    pub fn new(name: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=32).contains(&name.len()) && name.bytes().all(allowed);
        fits.then(|| Self(name.into()))
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ReaderName {
    type Err = InvalidId;

    fn from_str(name: &str) -> Result<Self, InvalidId> {
        Self::new(name).ok_or(InvalidId("reader's name"))
    }
}

/// A place in one life of a shard's log: the reader is done with everything up to and with `up_to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderPosition {
    /// The log's life that `up_to` is a place in.
    pub epoch: LogEpoch,
    /// The last record that the reader is done with.
    pub up_to: Sequence,
}

/// One reader's position in one shard, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReader {
    /// The reader.
    pub reader: ReaderName,
    /// The shard.
    pub shard: ShardId,
    /// How far it is.
    pub position: ReaderPosition,
}

/// What a stored position says about the log in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Nothing was ever committed: the reader begins with the first record.
    Nothing,
    /// The reader is done with everything up to and with this record, and goes on behind it.
    UpTo(Sequence),
    /// The position is in an earlier life of the log and says nothing about this one, with whose
    /// first record the reader begins. What it had not read of the earlier life is its own business
    /// (rule L5).
    OtherLog(ReaderPosition),
    /// The position is in a later life of the log, or beyond its end: the log went back, as a
    /// restored backup does (rule O6). Just after an election it may be a leader that is not up to
    /// date: who is told so asks again before believing it.
    WentBack(ReaderPosition),
}

impl Committed {
    /// What `stored` says about a log of `epoch` that ends with `last`. The position must have been
    /// read before the end was asked for: a reader moves on meanwhile.
    pub fn of(stored: Option<ReaderPosition>, epoch: LogEpoch, last: Sequence) -> Self {
        match stored {
            None => Self::Nothing,
            Some(stored) if stored.epoch.ordinal > epoch.ordinal => Self::WentBack(stored),
            Some(stored) if stored.epoch != epoch => Self::OtherLog(stored),
            Some(stored) if stored.up_to > last => Self::WentBack(stored),
            Some(stored) => Self::UpTo(stored.up_to),
        }
    }
}

/// Why a position was not committed. It is then where it was.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The log does not have that record.
    #[error("commit of record {up_to} of shard {shard}'s log, which ends with {last}")]
    Beyond {
        /// The shard.
        shard: ShardId,
        /// The record named.
        up_to: Sequence,
        /// The log's last one.
        last: Sequence,
    },
    /// The log, or the position that is stored, is of another life: read again from the beginning
    /// of the log in force.
    #[error("commit in log {named} of shard {shard}, but {found} is in force")]
    OtherLog {
        /// The shard.
        shard: ShardId,
        /// The life named.
        named: LogEpoch,
        /// The life in force.
        found: LogEpoch,
    },
    /// The store could not be asked, or gave no answer: committed or not. Commit again, or read
    /// again from the position.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What a commit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advance {
    /// The stored position stays: it is there already, or further.
    Stays(ReaderPosition),
    /// The position named is stored.
    Moves,
}

impl ReaderPosition {
    /// Whether the log has the place that is to be committed.
    pub(crate) fn check(self, shard: ShardId, log: &LogInfo) -> Result<(), CommitError> {
        if self.epoch != log.epoch {
            return Err(CommitError::OtherLog {
                shard,
                named: self.epoch,
                found: log.epoch,
            });
        }
        if self.up_to > log.last {
            return Err(CommitError::Beyond {
                shard,
                up_to: self.up_to,
                last: log.last,
            });
        }
        Ok(())
    }

    /// What committing `self`, which was [checked](Self::check), does where `stored` is stored: a
    /// position never moves back, also not to an earlier life of the log.
    pub(crate) fn advance(self, shard: ShardId, stored: Option<Self>) -> Result<Advance, CommitError> {
        match stored {
            Some(stored) if stored.epoch == self.epoch && stored.up_to >= self.up_to => {
                Ok(Advance::Stays(stored))
            }
            Some(stored) if stored.epoch.ordinal > self.epoch.ordinal => Err(CommitError::OtherLog {
                shard,
                named: self.epoch,
                found: stored.epoch,
            }),
            Some(_) | None => Ok(Advance::Moves),
        }
    }

    /// As it is written down.
    pub(crate) fn encode(self) -> Bytes {
        format::encode(&StoredPosition {
            log_epoch: self.epoch.to_string(),
            up_to: self.up_to.0,
        })
    }

    /// What [`ReaderPosition::encode`] wrote.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, LogError> {
        let damaged = |what: String| LogError::Damaged(format!("a reader's position: {what}"));
        let stored: StoredPosition = format::decode(bytes).map_err(|error| damaged(error.to_string()))?;
        let epoch = stored.log_epoch.parse();
        Ok(Self {
            epoch: epoch.map_err(|error: InvalidId| damaged(error.to_string()))?,
            up_to: Sequence(stored.up_to),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn epoch(ordinal: u32, random: u32) -> LogEpoch {
        LogEpoch { ordinal, random }
    }

    fn at(epoch: LogEpoch, up_to: u64) -> ReaderPosition {
        ReaderPosition {
            epoch,
            up_to: Sequence(up_to),
        }
    }

    #[test]
    fn names_fit_into_subjects() {
        for name in ["persistence", "notify-2", "x"] {
            assert_eq!(ReaderName::new(name).unwrap().to_string(), name);
        }
        let long = "x".repeat(33);
        for name in ["", "a.b", "*", ">", "A", "a b", "a/b", "ä", long.as_str()] {
            assert_eq!(ReaderName::new(name), None, "{name}");
        }
    }

    #[test]
    fn l5_a_position_counts_in_its_own_log_only() {
        let log = epoch(2, 7);
        let of = |stored| Committed::of(stored, log, Sequence(10));
        assert_eq!(of(None), Committed::Nothing);
        assert_eq!(of(Some(at(log, 10))), Committed::UpTo(Sequence(10)));
        for other in [at(epoch(1, 7), 3), at(epoch(2, 8), 3)] {
            assert_eq!(of(Some(other)), Committed::OtherLog(other));
        }
        for beyond in [at(log, 11), at(epoch(3, 7), 3)] {
            assert_eq!(of(Some(beyond)), Committed::WentBack(beyond));
        }
    }

    #[test]
    fn a_position_moves_forward_only() {
        let shard = ShardId::new(0).unwrap();
        let advance = |wanted: ReaderPosition, stored| wanted.advance(shard, stored);
        let stored = at(epoch(2, 7), 10);
        assert_eq!(advance(stored, None).unwrap(), Advance::Moves);
        assert_eq!(
            advance(at(epoch(2, 7), 9), Some(stored)).unwrap(),
            Advance::Stays(stored)
        );
        assert_eq!(advance(stored, Some(stored)).unwrap(), Advance::Stays(stored));
        assert_eq!(
            advance(at(epoch(2, 7), 11), Some(stored)).unwrap(),
            Advance::Moves
        );
        assert_eq!(advance(at(epoch(3, 1), 1), Some(stored)).unwrap(), Advance::Moves);
        let earlier = advance(at(epoch(1, 7), 99), Some(stored));
        assert!(
            matches!(earlier, Err(CommitError::OtherLog { found, .. }) if found == stored.epoch),
            "{earlier:?}"
        );
    }

    #[test]
    fn what_is_written_is_read() {
        let position = at(epoch(3, 0xab), 42);
        assert_eq!(ReaderPosition::decode(position.encode()).unwrap(), position);
        for damaged in [Bytes::new(), Bytes::from_static(&[format::FORMAT])] {
            assert!(ReaderPosition::decode(damaged).is_err());
        }
    }
}
