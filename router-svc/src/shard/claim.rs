//! Claiming a shard is appending a fence record (O1).

use switchboard_bus::{Log, LogError, LogInfo};
use switchboard_proto::bus::{Fence, Record, record};
use switchboard_proto::format::{self, FormatError};
use switchboard_proto::ids::{Incarnation, OwnerEpoch, Sequence, ShardCount, ShardId};

use super::appender::{Settled, append};
use super::owner::Ownership;
use super::takeover::ReadError;

/// Why a claim did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    /// Somebody else appended first.
    #[error("another router claimed the shard")]
    Lost,
    /// The log has no room for a fence.
    #[error("log refused the fence record: {0}")]
    Refused(String),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The last record is none that this release may follow.
    #[error("last record of the log is not readable")]
    Format(#[source] FormatError),
    /// The log's epoch is over, and the layout names no other yet.
    #[error(
        "the log of this epoch is closed and no other is in force yet; if no `switchboard log` command is \
         running, run the one that was interrupted again"
    )]
    Closed,
    /// The layout is not the one that this process runs with.
    #[error("the log has {found} shards now, and bus.shards is {configured} here")]
    OtherLayout {
        /// What the layout says.
        found: u32,
        /// What this process runs with.
        configured: u16,
    },
    /// The log was claimed, and its tail cannot be read.
    #[error("tail of the log is not readable: {0}")]
    Tail(#[from] ReadError),
}

/// A claim that succeeded.
pub(crate) struct Claimed {
    pub(crate) is: Ownership,
    /// How the log stood before the fence.
    pub(crate) info: LogInfo,
    /// The newest state record before the fence; 0: there is none.
    pub(crate) state_at: Sequence,
}

/// Takes the shard over, whoever had it.
///
/// Not cancel safe: when dropped, the fence may be stored or not, which deposes the older owner and
/// makes nobody the new one until the next claim.
pub(crate) async fn claim(
    log: &dyn Log,
    shard: ShardId,
    shards: ShardCount,
    router: Incarnation,
    time_us: u64,
) -> Result<Claimed, ClaimError> {
    let info = log.info(shard).await?;
    let state_at = newest_state(log, shard, &info).await?;
    let place = info.last.next();
    let fence = format::encode(&Record {
        owner_epoch: place.0,
        sequence: place.0,
        owner: router.to_bytes(),
        append_number: 1,
        time_us,
        state_at: state_at.0,
        body: Some(record::Body::Fence(Fence {})),
    });
    match append(log, shard, info.last, fence).await {
        Settled::Stored(sequence) if sequence == place => Ok(Claimed {
            is: Ownership {
                shard,
                shards,
                router,
                log_epoch: info.epoch,
                owner_epoch: OwnerEpoch(sequence.0),
            },
            info,
            state_at,
        }),
        // A fence at another place is void (L2); the next claim writes a valid one.
        Settled::Stored(_) | Settled::Deposed => Err(ClaimError::Lost),
        Settled::Refused(why) | Settled::LogLost(why) => Err(ClaimError::Refused(why)),
    }
}

/// The newest state record of a log that stands like this; 0: there is none.
///
/// Cancel safe: it only reads.
///
/// # Errors
/// [`ClaimError`], where nobody may write behind the last record, or it cannot be read.
pub(super) async fn newest_state(
    log: &dyn Log,
    shard: ShardId,
    info: &LogInfo,
) -> Result<Sequence, ClaimError> {
    let last = log.get(shard, info.last).await?;
    if last.is_none() && info.first <= info.last {
        // A new leader of the stream may not have it yet. Without it the state record would be forgotten,
        // and with it what was applied of other shards (L6).
        return Err(ClaimError::Log(LogError::Unavailable(format!(
            "the last record, {}, is not readable yet",
            info.last
        ))));
    }
    let Some(last) = last else {
        return Ok(Sequence(0));
    };
    // A newer release's log is not continued by an older one.
    let last: Record = format::decode(last).map_err(ClaimError::Format)?;
    match last.body {
        Some(record::Body::State(_)) => Ok(info.last),
        Some(record::Body::Closed(_)) => Err(ClaimError::Closed),
        Some(record::Body::Fence(_) | record::Body::Batch(_)) | None => Ok(Sequence(last.state_at)),
    }
}
