//! The message store: every durable message as a row, and how far each shard's log is in it.
//!
//! Two backends, PostgreSQL and SQLite, pass one suite ([`conformance`](crate::conformance)). What a store holds is read from
//! the log and can be read from there again: rows are keyed by what stands in the record, so a record that is
//! written twice, or by two replicas at once, is there once.

mod changes;
mod columns;
pub mod conversations;
pub mod follow;
mod joining;
pub mod keeping;
mod migrations;
pub mod moderation;
pub mod moving;
mod postgres;
mod progress;
pub mod search;
mod sqlite;
pub mod statistics;

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use switchboard_proto::bus::Change;
use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};

pub use changes::{ChangeStore, Fold, MAX_FOLDS, MAX_REACTIONS, MAX_USERS, Reaction};
pub use conversations::ConversationStore;
pub use follow::{Behind, FollowStore, LogRow, Step};
pub use joining::{JoinStore, Joint, Reach};
pub use keeping::KeepStore;
pub use moderation::ModerationStore;
pub use moving::MoveStore;
pub use postgres::PostgresStore;
pub use progress::{Hole, Progress};
pub use search::SearchStore;
pub use sqlite::SqliteStore;
pub use statistics::StatisticsStore;
use switchboard_database::{Class, SchemaError, class, number};
pub use switchboard_database::{Pool, PostgresSettings, SqliteSettings};

/// What a [`History`] question may ask for at most, in messages.
pub const MAX_LIMIT: usize = 10_000;

/// Channels of one question about heads, at most.
pub const MAX_HEADS: usize = 10_000;

/// What carrying the log into a store takes.
pub trait LogStore: MessageStore + JoinStore {}

impl<S: MessageStore + JoinStore> LogStore for S {}

/// Everything that is asked of a store.
pub trait Store:
    LogStore
    + ConversationStore
    + FollowStore
    + SearchStore
    + ChangeStore
    + KeepStore
    + MoveStore
    + StatisticsStore
    + ModerationStore
{
}

impl<S> Store for S where
    S: LogStore
        + ConversationStore
        + FollowStore
        + SearchStore
        + ChangeStore
        + KeepStore
        + MoveStore
        + StatisticsStore
        + ModerationStore
{
}

/// A store of messages.
///
/// # Contract
/// * [`MessageStore::write`] is all or nothing: the rows are there exactly if the progress says so.
/// * Writing the same again changes nothing, also where two do it at the same time.
/// * A row that was written is found by the next question, whoever asks.
///
/// All calls are bounded in time by the backend's settings. None is cancel safe in the sense that a dropped
/// [`MessageStore::write`] may still be carried out; it may be called again.
#[async_trait]
pub trait MessageStore: Send + Sync + 'static {
    /// How far this life of the shard's log is in the store; `None`: nothing of it was ever written.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn progress(&self, shard: ShardId, log: LogEpoch) -> Result<Option<Progress>, StoreError>;

    /// Stores what stands in consecutive records, and how far that is, in one transaction. Records that are
    /// in the store already are passed over. Where `written.after` is beyond `written.read_after`, what lies between
    /// is a hole: it is recorded, and [`Progress::complete_to`] stays before it.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is stored then or, where the answer was lost, everything. [`StoreError::WentBack`] where the
    /// store has not what was read before: read again from its progress.
    async fn write(&self, written: &Written) -> Result<Progress, StoreError>;

    /// Messages of one channel, in order, within the bounds of the question.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn history(&self, question: &History) -> Result<Page, StoreError>;

    /// The newest message of each of these channels that is stored, [`MAX_HEADS`] channels at most; those without
    /// one are left out. One query, however many they are.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMany`] where there are more channels.
    async fn heads(&self, channels: &[&str]) -> Result<HashMap<String, Place>, StoreError>;

    /// Stretches of a shard's log that are not in the store, in order; the first hundred.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn holes(&self, shard: ShardId, log: LogEpoch) -> Result<Vec<Hole>, StoreError>;

    /// What could not be stored as a message, the newest first, `limit` at most (and [`MAX_LIMIT`]).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError>;

    /// Whether the store can be used: it is reached, and its schema is this release's.
    ///
    /// # Errors
    /// [`StoreError`] says what to do.
    async fn check(&self) -> Result<(), StoreError>;

    /// Creates the schema, or brings it up to this release's. Several processes may do so at the same time.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn migrate(&self) -> Result<(), StoreError>;

    /// What must be done from time to time so that writing goes on: creates the partitions that are needed soon.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn maintain(&self, now_us: u64) -> Result<(), StoreError>;

    /// How connections to the server are used; `None`: there is none.
    fn pool(&self) -> Option<Pool>;

    /// Closes all connections, and waits until they are closed.
    async fn close(&self);
}

/// A place in the history of a channel: a life of its shard's log, and an offset in it. Orders by the log's ordinal
/// first, as histories do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The life of the log.
    pub log: LogEpoch,
    /// The offset.
    pub offset: Offset,
}

/// What consecutive records of a shard's log hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The shard.
    pub shard: ShardId,
    /// The life of its log.
    pub log: LogEpoch,
    /// Up to where the log was read before. Where these do not follow it, what lies between was purged unread.
    pub read_after: Sequence,
    /// The record before the first of these.
    pub after: Sequence,
    /// The last of these.
    pub up_to: Sequence,
    /// Of the last record that counts: what a reader that goes on behind `up_to` needs to know of void records (rule L2).
    pub owner_epoch: OwnerEpoch,
    /// Messages, in order.
    pub rows: Vec<Row>,
    /// What is no message.
    pub dead: Vec<DeadLetter>,
}

/// A message as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its place in the log.
    pub offset: Offset,
    /// Unix microseconds, of its record.
    pub time_us: u64,
    /// Its channel.
    pub channel: String,
    /// The user who published it; `None`: a server, or an anonymous user.
    pub sender: Option<String>,
    /// The encoded `Message`.
    pub message: Bytes,
    /// What it says of the channel or of another message; `None`: it is a message like others.
    pub change: Option<Change>,
}

/// What was read from the log and is no message that can be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The shard.
    pub shard: ShardId,
    /// The life of its log.
    pub log: LogEpoch,
    /// Its place. Of a record that is not readable as a whole: the place of its first entry.
    pub offset: Offset,
    /// Why.
    pub reason: String,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A question about one channel's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The channel.
    pub channel: String,
    /// Only messages behind this place.
    pub after: Option<Place>,
    /// Only messages before this place.
    pub before: Option<Place>,
    /// Only messages of this time on, in Unix microseconds.
    pub since_us: Option<u64>,
    /// Newest first.
    pub reverse: bool,
    /// Messages, at most; more than [`MAX_LIMIT`] counts as that.
    pub limit: usize,
    /// Bytes of messages after which the page ends. The first message is given whatever its size.
    pub bytes: usize,
}

impl History {
    /// The whole history of a channel, `limit` messages of it at most, oldest first.
    pub fn of(channel: impl Into<String>, limit: usize) -> Self {
        Self {
            channel: channel.into(),
            after: None,
            before: None,
            since_us: None,
            reverse: false,
            limit,
            bytes: usize::MAX,
        }
    }
}

/// Messages of one channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// In the order that was asked for.
    pub messages: Vec<Stored>,
    /// There may be more behind the last of these, within the same bounds.
    pub more: bool,
}

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Where it stands.
    pub place: Place,
    /// Unix microseconds.
    pub time_us: u64,
    /// The encoded `Message`.
    pub message: Bytes,
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or did not answer in time. Worth another try.
    #[error("message store unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// It refuses what it was given: a fault of this program or of the database's set-up.
    #[error("message store refuses: {0}")]
    Refused(#[source] sqlx::Error),
    /// It was restored, or emptied, since it was asked last.
    #[error(
        "message store went back: it has records up to {read_to}, and was given what follows {read_after}"
    )]
    WentBack {
        /// Up to where it has records.
        read_to: Sequence,
        /// What it was given follows this one.
        read_after: Sequence,
    },
    /// It cannot hold a value that it was given.
    #[error("message store cannot hold this: {0}")]
    Data(#[source] sqlx::Error),
    /// The schema is not the one of this release.
    #[error(
        "the message store's schema is not this release's ({0}): run `switchboard migrate` with this release"
    )]
    Schema(String),
    /// It holds what no release writes.
    #[error("message store is damaged: {0}")]
    Damaged(String),
    /// The index of search was made with other settings than this process has.
    #[error("the index of search has other settings than [persistence.search] of this process")]
    OtherIndex,
    /// The question is too large.
    #[error("{asked} channels in one question, {MAX_HEADS} are allowed")]
    TooMany {
        /// Channels asked for.
        asked: usize,
    },
    /// The question holds too much.
    #[error("{asked} entries in one question, {most} are allowed")]
    TooMuch {
        /// Entries asked for.
        asked: usize,
        /// Entries allowed.
        most: usize,
    },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match class(&error) {
            Class::Data => Self::Data(error),
            Class::Refused => Self::Refused(error),
            Class::Unavailable => Self::Unavailable(error),
        }
    }
}

impl From<SchemaError> for StoreError {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Database(error) => error.into(),
            SchemaError::Differs(how) => Self::Schema(how),
        }
    }
}

/// A log epoch as both backends write it: one number that orders by ordinal.
fn log_number(log: LogEpoch) -> i64 {
    number(log.as_number())
}

fn log_of(number: i64) -> Result<LogEpoch, StoreError> {
    Ok(LogEpoch::from_number(unsigned(number)?))
}

fn unsigned(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value)
        .map_err(|_| StoreError::Damaged(format!("{value} where no negative number is written")))
}

/// What rows of a channel are found by. Names are compared as well: two may have one hash.
fn channel_hash(channel: &str) -> i64 {
    xxhash_rust::xxh3::xxh3_64(channel.as_bytes()).cast_signed()
}

/// The bounds of a question as the lives of the log have them: first and last place, both included. `None`: nothing can be
/// within.
fn bounds(question: &History) -> Option<((i64, i64), (i64, i64))> {
    let first = match question.after {
        None => (0, 0),
        Some(after) => (log_number(after.log), number(after.offset.get()).checked_add(1)?),
    };
    let last = match question.before {
        None => (i64::MAX, i64::MAX),
        Some(before) => (
            log_number(before.log),
            number(before.offset.get()).checked_sub(1)?,
        ),
    };
    (first <= last).then_some((first, last))
}

/// What is written follows what is stored.
fn follows(written: &Written, progress: Progress) -> Result<(), StoreError> {
    if written.read_after > progress.read_to {
        return Err(StoreError::WentBack {
            read_to: progress.read_to,
            read_after: written.read_after,
        });
    }
    Ok(())
}

/// Heads of the channels of a batch: of each the newest.
fn heads_of(written: &Written) -> Vec<&Row> {
    let mut heads: HashMap<&str, &Row> = HashMap::new();
    for row in &written.rows {
        heads.insert(row.channel.as_str(), row);
    }
    let mut heads: Vec<&Row> = heads.into_values().collect();
    // In one order, so that two replicas that write the same never wait for each other in a circle.
    heads.sort_unstable_by(|one, other| one.channel.cmp(&other.channel));
    heads
}
