//! Taking a shard over: a fence, then the log's tail, read in order until the own fence comes (O1, O2).

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use switchboard_bus::{Log, LogInfo, RecordAt};
use switchboard_proto::bus::Record;
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, LogEpoch, Offset, Sequence, ShardCount, ShardId};
use tokio::time::Instant;

use super::claim::{ClaimError, Claimed, claim};
use super::keys;
use super::memory::{Memory, MemoryLimits, TailReader};
use super::owner::Ownership;
use super::records::{Body, Reading};
use super::successor::Following;

/// A shard that is owned, and what its log says.
pub(crate) struct TakenOver {
    pub(crate) is: Ownership,
    pub(crate) memory: Memory,
    /// How the log stood when it was claimed.
    pub(crate) info: LogInfo,
    /// Keys of these records, the second excluded, are still to be read (P5).
    pub(crate) older_keys: (Sequence, Sequence),
    /// Records of the tail that were read behind the claim, and how long they took.
    pub(crate) records: u64,
    /// Records that were read before (O5).
    pub(crate) read_ahead: u64,
    pub(crate) took: Duration,
}

/// An owner that cannot read its log for so long is none (O3).
const PATIENCE: Duration = Duration::from_secs(12);

/// Between two tries to read.
const PAUSE: Duration = Duration::from_millis(50);

/// Claims the shard and reads what its owner has to know, as far as `following` has not read it already.
///
/// Not cancel safe, as [`claim`].
///
/// # Errors
/// [`ClaimError`]; the fence may be stored then, so that nobody owns the shard until the next claim.
pub(crate) async fn take_over(
    log: &dyn Log,
    shard: ShardId,
    shards: ShardCount,
    router: Incarnation,
    limits: MemoryLimits,
    time_us: u64,
    following: Option<Following>,
) -> Result<TakenOver, ClaimError> {
    let Claimed { is, info, state_at } = claim(log, shard, shards, router, time_us).await?;
    let begun = Instant::now();
    let fence = Sequence(is.owner_epoch.0);
    let mut oldest = Sequence(info.first.0.max(1));
    let followed = match following {
        Some(following) => following.finish().await,
        None => None,
    };
    let mut tail = match followed {
        Some(followed)
            if followed.log == info.epoch
                && followed.tail.next >= oldest
                && followed.tail.is_of(log, shard).await =>
        {
            followed.tail
        }
        Some(_) | None => Tail::begin(log, shard, &info, state_at, limits, time_us).await,
    };
    let known = tail.read;
    while tail.next <= fence {
        if let Err(error) = tail.read_to(fence, log, shard).await {
            if begun.elapsed() > PATIENCE {
                return Err(error.into());
            }
            tracing::debug!(%shard, %error, next = %tail.next, "tail of the log not read, trying again");
            // The owner before may have sent a purge that is carried out only now: that is no hole. It
            // spared the last state record, and so all that is needed.
            if let Ok(now) = log.info(shard).await
                && now.first > tail.next
            {
                if now.first > fence {
                    return Err(ClaimError::Lost);
                }
                oldest = now.first;
                tail = Tail::new(limits, oldest, info.epoch);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    if tail.reader.is_closed() {
        return Err(ClaimError::Closed);
    }
    if tail.reader.damaged() > 0 {
        let records = tail.reader.damaged();
        tracing::error!(%shard, records, "records of the log are not readable and were passed over");
    }
    let since = time_us.saturating_sub(limits.keys_us);
    // What was followed from may have been purged since.
    let from = tail.from.max(oldest);
    let keys_from = first_since(log, shard, oldest, from, since).await.min(from);
    Ok(TakenOver {
        is,
        memory: tail.reader.finish(oldest),
        info,
        older_keys: (keys_from, from),
        records: tail.read.saturating_sub(known),
        read_ahead: known,
        took: begun.elapsed(),
    })
}

/// The records of a log from some place on, as far as they were read.
pub(crate) struct Tail {
    reader: TailReader,
    from: Sequence,
    /// The next one to read.
    next: Sequence,
    /// Records that were read, and the last of them.
    read: u64,
    last: Bytes,
}

impl Tail {
    fn new(limits: MemoryLimits, from: Sequence, log: LogEpoch) -> Self {
        Self {
            reader: TailReader::new(limits, from, log),
            from,
            next: from,
            read: 0,
            last: Bytes::new(),
        }
    }

    /// From where an owner has to know a log that stands as `info` says, with its newest state record at
    /// `state_at`.
    pub(super) async fn begin(
        log: &dyn Log,
        shard: ShardId,
        info: &LogInfo,
        state_at: Sequence,
        limits: MemoryLimits,
        time_us: u64,
    ) -> Self {
        let oldest = Sequence(info.first.0.max(1));
        // As much as the window holds, with a little more for what is not messages.
        let records = info.last.0.saturating_sub(oldest.0) + 1;
        let each = (info.bytes / records.max(1)).max(1);
        let by_bytes = (limits.window.bytes as u64 + limits.window.bytes as u64 / 4) / each;
        let by_bytes = Sequence(info.last.0.saturating_sub(by_bytes));
        let since = time_us.saturating_sub(limits.window.age_us);
        let by_time = first_since(log, shard, oldest, info.last, since).await;
        let mut from = by_bytes.max(by_time).max(oldest);
        if state_at >= oldest {
            // What was applied since stands only there (L6).
            from = from.min(state_at);
        }
        Self::new(limits, from, info.epoch)
    }

    pub(super) fn next(&self) -> Sequence {
        self.next
    }

    /// # Errors
    /// [`ReadError::Hole`] where it is not the next one.
    pub(super) fn record(&mut self, at: &RecordAt) -> Result<(), ReadError> {
        if at.sequence != self.next {
            // Purged under us, or a reader that jumps: nothing may be missing before the fence.
            return Err(ReadError::Hole(self.next, at.sequence));
        }
        self.reader.record(at);
        self.read += 1;
        self.next = self.next.next();
        self.last = at.record.clone();
        Ok(())
    }

    /// Whether the log still has what was read last. A log that lost records to the fall of most of its
    /// servers, and was written on, has another at that place.
    async fn is_of(&self, log: &dyn Log, shard: ShardId) -> bool {
        if self.read == 0 {
            return true;
        }
        let last = Sequence(self.next.0.saturating_sub(1));
        matches!(log.get(shard, last).await, Ok(Some(record)) if record == self.last)
    }

    async fn read_to(&mut self, fence: Sequence, log: &dyn Log, shard: ShardId) -> Result<(), ReadError> {
        let mut records = log.read(shard, self.next).await?;
        while self.next <= fence {
            match tokio::time::timeout(Duration::from_secs(2), records.next()).await {
                Ok(Some(at)) => self.record(&at?)?,
                Ok(None) => return Err(ReadError::Ended),
                Err(_) => return Err(ReadError::Silent),
            }
        }
        Ok(())
    }
}

/// Why a log's tail is not read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Log(#[from] switchboard_bus::LogError),
    #[error("the reader ended")]
    Ended,
    #[error("no record within 2 s")]
    Silent,
    #[error("expected record {0}, was given {1}")]
    Hole(Sequence, Sequence),
}

/// A record at or before the first that was written at or after `time_us`: found by steps back that
/// double, so by few reads and up to twice too far. What cannot be read counts as old enough.
async fn first_since(
    log: &dyn Log,
    shard: ShardId,
    oldest: Sequence,
    last: Sequence,
    time_us: u64,
) -> Sequence {
    let mut step = 64;
    while last.0 > oldest.0 + step {
        let place = Sequence(last.0 - step);
        match log.get(shard, place).await {
            Ok(Some(record)) => {
                if format::decode::<Record>(record).is_ok_and(|record| record.time_us < time_us) {
                    return place;
                }
            }
            // Purged meanwhile, so is all before it.
            Ok(None) => return place,
            Err(_) => {}
        }
        step *= 2;
    }
    oldest
}

/// A key that was read back.
pub(crate) struct OlderKey {
    pub(crate) name: keys::KeyName,
    pub(crate) offset: Offset,
    pub(crate) id: bytes::Bytes,
    pub(crate) time_us: u64,
}

/// Keys that are read in one go.
const KEYS_A_PAGE: usize = 4096;

/// Reads keys from `from` on, before `before`, about a page of them. Returns the place to go on from.
///
/// Cancel safe: nothing is changed.
///
/// # Errors
/// In words, where the log cannot be read.
pub(crate) async fn read_older_keys(
    log: &dyn Log,
    shard: ShardId,
    from: Sequence,
    before: Sequence,
) -> Result<(Vec<OlderKey>, Sequence), String> {
    let mut found = Vec::new();
    let mut next = from;
    let mut reading = Reading::default();
    let mut records = log.read(shard, from).await.map_err(|error| error.to_string())?;
    while next < before && found.len() < KEYS_A_PAGE {
        let at = match tokio::time::timeout(Duration::from_secs(2), records.next()).await {
            Ok(Some(Ok(at))) => at,
            Ok(Some(Err(error))) => return Err(error.to_string()),
            Ok(None) | Err(_) => return Err("no record within 2 s".to_owned()),
        };
        next = at.sequence.next();
        if at.sequence >= before {
            break;
        }
        let Some(Body::Batch(entries)) = reading.record(&at) else {
            continue;
        };
        let time_us = reading.head.time_us;
        for (index, entry) in entries.into_iter().enumerate() {
            if let Some(name) = keys::name(&entry.message) {
                found.push(OlderKey {
                    name,
                    offset: Offset::new(at.sequence, index),
                    id: entry.message.id,
                    time_us,
                });
            }
        }
    }
    Ok((found, next.max(from)))
}
