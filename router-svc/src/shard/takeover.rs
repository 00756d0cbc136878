//! Taking a shard over: a fence, then the log's tail, read in order until the own fence comes (O1, O2).

use std::time::Duration;

use futures_util::StreamExt as _;
use switchboard_bus::{Log, LogInfo};
use switchboard_proto::bus::Record;
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, Offset, Sequence, ShardCount, ShardId};
use tokio::time::Instant;

use super::claim::{ClaimError, Claimed, claim};
use super::keys;
use super::memory::{Memory, MemoryLimits, TailReader};
use super::owner::Ownership;
use super::records::{Body, Reading};

/// A shard that is owned, and what its log says.
pub(crate) struct TakenOver {
    pub(crate) is: Ownership,
    pub(crate) memory: Memory,
    /// How the log stood when it was claimed.
    pub(crate) info: LogInfo,
    /// Keys of these records, the second excluded, are still to be read (P5).
    pub(crate) older_keys: (Sequence, Sequence),
    /// Records of the tail, and how long they took.
    pub(crate) records: u64,
    pub(crate) took: Duration,
}

/// An owner that cannot read its log for so long is none (O3).
const PATIENCE: Duration = Duration::from_secs(12);

/// Between two tries to read.
const PAUSE: Duration = Duration::from_millis(50);

/// Claims the shard and reads what its owner has to know.
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
) -> Result<TakenOver, ClaimError> {
    let Claimed { is, info, state_at } = claim(log, shard, shards, router, time_us).await?;
    let begun = Instant::now();
    let fence = Sequence(is.owner_epoch.0);
    let mut oldest = Sequence(info.first.0.max(1));
    let since = |age_us: u64| time_us.saturating_sub(age_us);
    // As much as the window holds, with a little more for what is not messages.
    let records = info.last.0.saturating_sub(oldest.0) + 1;
    let each = (info.bytes / records.max(1)).max(1);
    let by_bytes = (limits.window.bytes as u64 + limits.window.bytes as u64 / 4) / each;
    let by_bytes = Sequence(info.last.0.saturating_sub(by_bytes));
    let by_time = first_since(log, shard, oldest, info.last, since(limits.window.age_us)).await;
    let mut from = by_bytes.max(by_time).max(oldest);
    if state_at >= oldest {
        // What was applied since stands only there (L6).
        from = from.min(state_at);
    }
    let mut tail = TailReader::new(limits, from);
    let mut read = 0;
    let mut next = from;
    while next <= fence {
        if let Err(error) = read_tail(log, shard, fence, &mut next, &mut read, &mut tail).await {
            if begun.elapsed() > PATIENCE {
                return Err(ClaimError::Tail(error.to_string()));
            }
            tracing::debug!(%shard, %error, %next, "tail of the log not read, trying again");
            // The owner before may have sent a purge that is carried out only now: that is no hole. It
            // spared the last state record, and so all that is needed.
            if let Ok(now) = log.info(shard).await
                && now.first > next
            {
                if now.first > fence {
                    return Err(ClaimError::Lost);
                }
                oldest = now.first;
                from = oldest;
                next = oldest;
                read = 0;
                tail = TailReader::new(limits, from);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    if tail.is_closed() {
        return Err(ClaimError::Closed);
    }
    if tail.damaged() > 0 {
        tracing::error!(%shard, records = tail.damaged(), "records of the log are not readable and were passed over");
    }
    let keys_from = first_since(log, shard, oldest, from, since(limits.keys_us))
        .await
        .min(from);
    Ok(TakenOver {
        is,
        memory: tail.finish(oldest),
        info,
        older_keys: (keys_from, from),
        records: read,
        took: begun.elapsed(),
    })
}

async fn read_tail(
    log: &dyn Log,
    shard: ShardId,
    fence: Sequence,
    next: &mut Sequence,
    read: &mut u64,
    tail: &mut TailReader,
) -> Result<(), ReadError> {
    let mut records = log.read(shard, *next).await?;
    while *next <= fence {
        let at = match tokio::time::timeout(Duration::from_secs(2), records.next()).await {
            Ok(Some(at)) => at?,
            Ok(None) => return Err(ReadError::Ended),
            Err(_) => return Err(ReadError::Silent),
        };
        if at.sequence != *next {
            // Purged under us, or a reader that jumps: nothing may be missing before the fence.
            return Err(ReadError::Hole(*next, at.sequence));
        }
        tail.record(&at);
        *read += 1;
        *next = next.next();
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
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
