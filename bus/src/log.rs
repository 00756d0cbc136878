//! The log: one ordered list of records per shard, written by compare-and-set. The truth.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use switchboard_proto::bus::Layout;
use switchboard_proto::ids::{LogEpoch, Sequence, ShardId};

use crate::position::{CommitError, Committed, ReaderName, ReaderPosition, StoredReader};

/// A log per shard. Safety rests on [`Log::append`]'s compare-and-set alone (rule O1).
///
/// # Contract
/// * Sequences of a shard grow by one per stored record, also across a purge.
/// * A stored record is never changed, and never seen by one reader and later missing for another,
///   except by [`Log::purge`].
/// * What "stored" survives is the configured durability: memory, replicated, replicated and
///   fsynced.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Appends `record` if the last sequence of the shard's log is `expected`
    /// ([`Sequence`] 0 for a log that never had a record). Returns the record's sequence.
    ///
    /// Not cancel safe: a dropped call may still store the record.
    ///
    /// # Errors
    /// [`AppendError`]; only [`AppendError::Refused`] and [`AppendError::TooLarge`] on a *first*
    /// try say that the record is not stored (rule L1).
    async fn append(
        &self,
        shard: ShardId,
        expected: Sequence,
        record: Bytes,
    ) -> Result<Sequence, AppendError>;

    /// The bounds of a shard's log, as its leader sees them.
    ///
    /// # Errors
    /// [`LogError`].
    async fn info(&self, shard: ShardId) -> Result<LogInfo, LogError>;

    /// The record at `sequence`, read from the leader. `None`: not there yet, or purged;
    /// [`Log::info`] tells which.
    ///
    /// # Errors
    /// [`LogError`].
    async fn get(&self, shard: ShardId, sequence: Sequence) -> Result<Option<Bytes>, LogError>;

    /// Every record from `from` on, in order, without a hole, and then new ones as they are stored;
    /// the stream ends only with an error. Starts at the first record where `from` was purged: the
    /// caller sees it by the sequence.
    ///
    /// # Errors
    /// [`LogError`] when reading cannot begin.
    async fn read(&self, shard: ShardId, from: Sequence) -> Result<RecordStream, LogError>;

    /// Removes all records below `before`. Never removes the last one, and does nothing for
    /// `before` ≤ 1 (rule L4).
    ///
    /// # Errors
    /// [`LogError`].
    async fn purge(&self, shard: ShardId, before: Sequence) -> Result<(), LogError>;

    /// Moves the committed position of `reader` in `shard` up to `position`, and returns the one that
    /// is then in force: a later one where it was further already, as after a late commit of a
    /// replica that no longer reads the shard. As durable as a record.
    ///
    /// Not cancel safe: a dropped call may still commit.
    ///
    /// # Errors
    /// [`CommitError`]; nothing is committed but, perhaps, with [`CommitError::Log`].
    async fn commit(
        &self,
        reader: &ReaderName,
        shard: ShardId,
        position: ReaderPosition,
    ) -> Result<ReaderPosition, CommitError>;

    /// The committed position of `reader` in `shard` as it is stored, of whichever life of the log;
    /// `None` where nothing was ever committed, be it that nobody knows the reader.
    ///
    /// # Errors
    /// [`LogError`].
    async fn position(&self, reader: &ReaderName, shard: ShardId)
    -> Result<Option<ReaderPosition>, LogError>;

    /// All positions that are stored, by reader and shard. For operators: it asks once per position.
    ///
    /// # Errors
    /// [`LogError`].
    async fn positions(&self) -> Result<Vec<StoredReader>, LogError>;

    /// Where `reader` goes on in `shard`, and the log that this is about. Replicas of a service share
    /// a reader: two on one shard read the same records, and neither's commit moves the position back.
    ///
    /// # Errors
    /// [`LogError`].
    async fn committed(&self, reader: &ReaderName, shard: ShardId) -> Result<(Committed, LogInfo), LogError> {
        // In this order: a position that another replica commits meanwhile is not beyond the end.
        let stored = self.position(reader, shard).await?;
        let log = self.info(shard).await?;
        Ok((Committed::of(stored, log.epoch, log.last), log))
    }

    /// The layout record in force; `None` where none was created yet (rule L7).
    ///
    /// # Errors
    /// [`LogError`].
    async fn layout(&self) -> Result<Option<Layout>, LogError>;

    /// Creates the layout record, unless there is one, and each shard's log, unless it exists;
    /// returns the layout that is in force, which may differ from `wanted`.
    ///
    /// # Errors
    /// [`LogError`].
    async fn create(&self, wanted: &Layout) -> Result<Layout, LogError>;

    /// The logs with the ordinals of `layout`, whether they exist or not. The result keeps to them
    /// whatever comes into force, so that nothing meant for one log hits another (rule L5). A log that
    /// was opened, and not made by this, keeps to the first of each shard.
    fn of(&self, layout: &Layout) -> Arc<dyn Log>;

    /// Creates the shard's log, with its ordinal here, unless it exists. Does not bring it into force.
    ///
    /// # Errors
    /// [`LogError`].
    async fn create_log(&self, shard: ShardId) -> Result<(), LogError>;

    /// Whether the log of each of `layout`'s shards exists and keeps what this trait promises.
    ///
    /// # Errors
    /// [`LogError::Missing`]; [`LogError::Damaged`] tells which log differs in what.
    async fn check(&self, layout: &Layout) -> Result<(), LogError>;

    /// Brings `to` into force, if `from` is.
    ///
    /// # Errors
    /// [`LogError::LayoutChanged`] where another layout is in force; where it is `to`, it is no error.
    async fn change_layout(&self, from: &Layout, to: &Layout) -> Result<(), LogError>;

    /// Removes the shard's log with all its records. One that does not exist is no error.
    ///
    /// # Errors
    /// [`LogError`].
    async fn remove(&self, shard: ShardId) -> Result<(), LogError>;

    /// The largest record, in bytes.
    fn max_record(&self) -> usize;
}

/// A record and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordAt {
    /// Its place.
    pub sequence: Sequence,
    /// Its bytes.
    pub record: Bytes,
}

/// Records in order; see [`Log::read`].
pub type RecordStream = BoxStream<'static, Result<RecordAt, LogError>>;

/// The bounds of a shard's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogInfo {
    /// The log's life.
    pub epoch: LogEpoch,
    /// The first record still there; `last + 1` where none is.
    pub first: Sequence,
    /// The last record; 0 where none ever was.
    pub last: Sequence,
    /// Bytes the log takes.
    pub bytes: u64,
    /// Bytes it may take; `None`: the backend sets no limit.
    pub max_bytes: Option<u64>,
}

/// Why an append has no sequence.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The log did not end where expected. Proves nothing by itself: our own earlier try may have
    /// been stored (rule L1).
    #[error("the log does not end at {expected}")]
    WrongLast {
        /// The sequence named.
        expected: Sequence,
    },
    /// The log is full. Nothing was stored by this try.
    #[error("log refused the record: {0}")]
    Refused(String),
    /// The record exceeds [`Log::max_record`]. Nothing was sent.
    #[error("record of {size} bytes exceeds the log's limit of {limit}")]
    TooLarge {
        /// Bytes of the record.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// No answer, or one that says nothing: stored or not.
    #[error("append not answered: {0}")]
    Unknown(String),
}

/// Why the log could not be read or managed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The shard's log does not exist.
    #[error("log of shard {0} does not exist: create it with `switchboard migrate`")]
    Missing(ShardId),
    /// The server or its leader cannot be reached, or did not answer. Worth another try.
    #[error("log unavailable: {0}")]
    Unavailable(String),
    /// The store holds something that it should not.
    #[error("log is damaged: {0}")]
    Damaged(String),
    /// A reader was handed records that do not follow each other (rule L8). Read again from the
    /// position.
    #[error("expected record {expected}, was given {found}")]
    Hole {
        /// The next sequence.
        expected: Sequence,
        /// What came.
        found: Sequence,
    },
    /// Somebody else changed the layout meanwhile.
    #[error("the layout was changed by somebody else at the same time: look at it, then try again")]
    LayoutChanged,
}
