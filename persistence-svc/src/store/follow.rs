//! What followers ask of a store: where they are, and what is to be done.

use async_trait::async_trait;
use bytes::Bytes;
use switchboard_proto::ids::{LogEpoch, Offset, ShardId};

use super::StoreError;

/// Positions of followers, and the messages behind them.
///
/// A position is moved by the follower's own writing, in the same transaction (see [`Step`]).
#[async_trait]
pub trait FollowStore: Send + Sync + 'static {
    /// The logs in which the follower of this name has something to do.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn behind(&self, name: &str) -> Result<Vec<Behind>, StoreError>;

    /// Messages of one log after one offset, up to and with another, in order: `limit` at most.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn log_rows(
        &self,
        log: (ShardId, LogEpoch),
        after: Offset,
        up_to: Offset,
        limit: usize,
    ) -> Result<Vec<LogRow>, StoreError>;
}

/// A log that a follower has not done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// The shard.
    pub shard: ShardId,
    /// The life of its log.
    pub log: LogEpoch,
    /// Up to here it is done.
    pub done_to: Offset,
    /// Up to here messages are stored.
    pub stored_to: Offset,
}

/// The stretch of a log that a follower is done with by what it writes. A store takes it only if the follower's position is
/// still where the stretch begins: of two replicas that do the same, one writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The follower.
    pub name: &'static str,
    /// The shard.
    pub shard: ShardId,
    /// The life of its log.
    pub log: LogEpoch,
    /// The position before.
    pub from: Offset,
    /// The position after.
    pub to: Offset,
}

/// A stored message, as followers read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// Its place.
    pub offset: Offset,
    /// Unix microseconds, of its record.
    pub time_us: u64,
    /// Its channel.
    pub channel: String,
    /// The user who published it.
    pub sender: Option<String>,
    /// The encoded `Message`.
    pub message: Bytes,
}
