//! One shard's log: what readers and the committing thread know of it, and how a record is stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use fjall::{Keyspace, Slice};
use switchboard_proto::bus::Layout;
use switchboard_proto::ids::{LogEpoch, ShardId};
use tokio::sync::watch;

use crate::log::LogError;

/// Which log: a shard's may be followed by another with a higher ordinal (rule L5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LogName {
    pub(super) ordinal: u32,
    pub(super) shard: ShardId,
}

impl LogName {
    pub(super) fn of(layout: &Layout, shard: ShardId) -> Self {
        Self {
            ordinal: layout.ordinal(shard),
            shard,
        }
    }
}

/// The logs that are open, by name.
pub(super) type Shards = BTreeMap<LogName, Arc<Shard>>;

/// One shard's log, as readers see it.
pub(super) struct Shard {
    epoch: LogEpoch,
    records: Keyspace,
    extent: watch::Receiver<Extent>,
}

/// One shard's log, as the committing thread sees it.
pub(super) struct Writer {
    pub(super) records: Keyspace,
    /// What is committed; the thread stages changes in a copy.
    pub(super) committed: watch::Sender<Extent>,
}

/// Where a log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first record still there; `last + 1` where none is.
    pub(super) first: u64,
    /// The last record; 0 where none ever was.
    pub(super) last: u64,
    /// Bytes of all records before `first`.
    pub(super) bytes_before: u64,
    /// Bytes of all records up to `last`.
    pub(super) bytes_end: u64,
}

impl Extent {
    pub(super) const EMPTY: Self = Self {
        first: 1,
        last: 0,
        bytes_before: 0,
        bytes_end: 0,
    };

    /// Bytes of the records that are there.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes_end.saturating_sub(self.bytes_before)
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("epoch", &self.epoch)
            .field("extent", &*self.extent.borrow())
            .finish_non_exhaustive()
    }
}

impl Shard {
    pub(super) fn new(epoch: LogEpoch, records: Keyspace, extent: watch::Receiver<Extent>) -> Self {
        Self {
            epoch,
            records,
            extent,
        }
    }

    pub(super) fn epoch(&self) -> LogEpoch {
        self.epoch
    }

    pub(super) fn extent(&self) -> Extent {
        *self.extent.borrow()
    }

    /// Changes whenever [`Shard::extent`] does; closed with the log.
    pub(super) fn watch(&self) -> watch::Receiver<Extent> {
        self.extent.clone()
    }

    /// The record at `sequence`, if it is committed and there. Blocks on the disk.
    pub(super) fn record(&self, sequence: u64) -> Result<Option<Bytes>, LogError> {
        // The store shows a record a moment before its commit is complete.
        if sequence > self.extent().last {
            return Ok(None);
        }
        let value = self.records.get(sequence.to_be_bytes()).map_err(damaged)?;
        value.map(|value| Ok(split(value)?.1)).transpose()
    }

    /// Records from `from` to `to`, at most about `bytes` of them but at least one. Blocks on the
    /// disk.
    pub(super) fn records(&self, from: u64, to: u64, bytes: usize) -> Result<Vec<(u64, Bytes)>, LogError> {
        let mut found = Vec::new();
        let mut taken = 0;
        for guard in self.records.range(from.to_be_bytes()..=to.to_be_bytes()) {
            let (key, value) = guard.into_inner().map_err(damaged)?;
            let (_, record) = split(value)?;
            taken += record.len();
            found.push((number(&key)?, record));
            if taken >= bytes {
                break;
            }
        }
        Ok(found)
    }
}

/// A record as it is stored: `bytes_end` is the running count with it.
pub(super) fn joined(bytes_end: u64, record: &[u8]) -> Bytes {
    let mut value = BytesMut::with_capacity(8 + record.len());
    value.put_u64(bytes_end);
    value.put_slice(record);
    value.freeze()
}

/// What [`joined`] put together, without a copy.
pub(super) fn split(value: Slice) -> Result<(u64, Bytes), LogError> {
    let mut value = Bytes::from(value);
    if value.len() < 8 {
        return Err(LogError::Damaged("a record without its count".to_owned()));
    }
    let count = number(&value.split_to(8))?;
    Ok((count, value))
}

pub(super) fn number(bytes: &[u8]) -> Result<u64, LogError> {
    let bytes = bytes
        .try_into()
        .map_err(|_| LogError::Damaged(format!("a number of {} bytes", bytes.len())))?;
    Ok(u64::from_be_bytes(bytes))
}

pub(super) fn damaged(error: fjall::Error) -> LogError {
    match error {
        fjall::Error::Io(error) => LogError::Unavailable(error.to_string()),
        other => LogError::Damaged(other.to_string()),
    }
}

pub(super) fn unavailable(error: fjall::Error) -> LogError {
    LogError::Unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_is_split_again() {
        let value = Slice::from(joined(7, b"record"));
        assert_eq!(split(value).unwrap(), (7, Bytes::from_static(b"record")));
        assert!(split(Slice::from(&b"short"[..])).is_err());
    }
}
