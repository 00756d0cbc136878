//! What is joined with what the owner of a shard has: messages, or heads, together with how far the store is, all of one moment.
//!
//! A page and a reach that were read one after the other would leave a hole, or a message twice, for whoever goes on in the log
//! where the reach ends.

pub(super) mod sql;

use std::collections::HashMap;

use async_trait::async_trait;
use switchboard_proto::ids::{LogEpoch, Offset, ShardId};

use super::{History, Hole, Page, Place, Progress, StoreError};

/// Holes that are told one by one; of more, the oldest are told as one.
pub(super) const HOLES: i64 = 100;

/// How much earlier than its time a message may stand in the log, in microseconds: owners' clocks differ by less.
pub(super) const CLOCKS_US: u64 = 60 * 1_000_000;

/// How far a life of a shard's log is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Up to where.
    pub progress: Progress,
    /// What is not there before that, in order.
    pub holes: Vec<Hole>,
}

/// A page, and what is true together with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Joint {
    /// The messages. None that is hidden is among them.
    pub page: Page,
    /// How far the store is in the life of the log that was named; `None`: nothing of it was ever written, or none was named.
    pub reach: Option<Reach>,
    /// Messages of the channel up to here were removed, or are hidden: the later of both.
    pub removed_to: Option<Place>,
}

/// What makes the store's answers fit to those of others.
#[async_trait]
pub trait JoinStore: Send + Sync + 'static {
    /// As [`MessageStore::history`](super::MessageStore::history), of a channel of `shard`, with what is true at the same moment. A
    /// question with [`History::since_us`] reads on from about that time, and not all that is older.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn joint(
        &self,
        question: &History,
        shard: ShardId,
        log: Option<LogEpoch>,
    ) -> Result<Joint, StoreError>;

    /// As [`MessageStore::heads`](super::MessageStore::heads), with how far the store is at the same moment.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMany`].
    async fn joint_heads(
        &self,
        channels: &[&str],
        shard: ShardId,
        log: LogEpoch,
    ) -> Result<(HashMap<String, Place>, Option<Reach>), StoreError>;

    /// Messages of these channels up to these places are not shown any more. Marks only move forward; writing one again
    /// changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn hide(&self, log: LogEpoch, marks: &[(String, Offset)]) -> Result<(), StoreError>;
}

/// The question without what is hidden, or older than its time allows.
pub(super) fn narrowed(question: &History, removed_to: Option<Place>, from: Option<Place>) -> History {
    History {
        after: question.after.max(removed_to).max(from),
        ..question.clone()
    }
}

/// One more hole than [`HOLES`] was read, newest first.
pub(super) fn told(mut holes: Vec<Hole>, oldest: Option<Hole>) -> Vec<Hole> {
    if let Some(oldest) = oldest
        && let Some(last) = holes.last_mut()
        && oldest.first < last.first
    {
        last.first = oldest.first;
    }
    holes.reverse();
    holes
}
