//! The store: notifications and their queue, devices, preferences, templates. One interface, a backend for PostgreSQL and one for
//! SQLite, and one conformance suite for both (`crate::conformance`).
//!
//! What must hold: what is enqueued is there after a crash; a delivery is claimed by one replica at a time, and by another once
//! its claim is over; what a replica settles after another has claimed it changes nothing but the list of attempts.

mod migrations;
mod postgres;
mod sql;
mod sqlite;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;
use switchboard_database::{Class, Pool, SchemaError, class};
use switchboard_proto::ids::{LogEpoch, OwnerEpoch, Sequence, ShardId};
use uuid::Uuid;

use crate::model::{Attempt, Delivery, Device, Notification, Outcome, State, Way};
use crate::templates::Template;

/// Notifications of one call, at most.
pub const MAX_BATCH: usize = 1_000;

/// Counts of what is new in the app go no further.
pub const MAX_COUNT: u32 = 10_000;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or did not answer in time. Worth another try.
    #[error("notification store unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// It refuses what it was given: a fault of this program or of the database's set-up.
    #[error("notification store refuses: {0}")]
    Refused(#[source] sqlx::Error),
    /// It cannot hold a value that it was given.
    #[error("notification store cannot hold this: {0}")]
    Data(#[source] sqlx::Error),
    /// The schema is not the one of this release.
    #[error(
        "the notification store's schema is not this release's ({0}): run `switchboard migrate` with this release"
    )]
    Schema(String),
    /// It holds what no release writes.
    #[error("notification store is damaged: {0}")]
    Damaged(String),
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

/// A notification with what it is to become.
#[derive(Debug, Clone)]
pub struct Enqueued {
    /// What is told.
    pub notification: Notification,
    /// How and when.
    pub deliveries: Vec<Delivery>,
    /// Where deliveries are told together: at most so many; then they are due at once.
    pub digest_most: u32,
}

/// What became of a notification that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its id: of a duplicate, the first one's.
    pub id: Uuid,
    /// Its user had one with its idempotency key.
    pub duplicate: bool,
}

/// How far a shard's log was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The shard.
    pub shard: ShardId,
    /// The life of its log.
    pub log: LogEpoch,
    /// The last record.
    pub read_to: Sequence,
    /// Whose records count.
    pub owner_epoch: OwnerEpoch,
}

/// What a replica takes to send.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// Which replica.
    pub by: Uuid,
    /// What is due now.
    pub now_us: u64,
    /// After this others may take it.
    pub until_us: u64,
    /// At most so many.
    pub limit: usize,
}

/// A delivery with what it tells.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The delivery.
    pub delivery: Delivery,
    /// What it tells.
    pub notification: Arc<Notification>,
}

/// What is known of a user.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The preferences' document; `None`: none were said.
    pub preferences: Option<String>,
    /// Conversations that are muted, and until when; 0: until it is taken back.
    pub mutes: HashMap<String, u64>,
    /// Devices.
    pub devices: Vec<Device>,
    /// What was sent in this hour.
    pub sent: HashMap<(String, Way), u64>,
}

/// What became of a delivery that was claimed.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Which.
    pub delivery: Uuid,
    /// Of whose claim.
    pub by: Uuid,
    /// How far it is now.
    pub state: State,
    /// Why.
    pub reason: String,
    /// When it is due again, where it waits.
    pub due_us: u64,
    /// Since when it waits, where that is longer: its age counts as well as its priority.
    pub since_us: Option<u64>,
    /// The tries that were made: more than one where a second provider was asked.
    pub attempts: Vec<Attempt>,
    /// What the provider's status reports call it.
    pub reference: Option<String>,
    /// It was shown in the app.
    pub shown: bool,
    /// It counts for its user's category and hour.
    pub counted: Option<(String, String, u64)>,
    /// Now.
    pub now_us: u64,
}

/// One notification with all that became of it.
#[derive(Debug, Clone)]
pub struct Told {
    /// What is told.
    pub notification: Notification,
    /// How.
    pub deliveries: Vec<(Delivery, Vec<Attempt>)>,
}

/// A delivery that failed.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Which.
    pub delivery: Delivery,
    /// Of which category.
    pub category: String,
    /// When it failed.
    pub settled_us: u64,
    /// The tries.
    pub attempts: Vec<Attempt>,
}

/// What waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Deliveries that wait, counted up to what was asked for.
    pub count: u64,
    /// When the oldest that could go was due; 0: none could.
    pub oldest_us: u64,
    /// Dead letters.
    pub dead: u64,
}

/// Sums of tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// On which way.
    pub way: Way,
    /// Who was asked.
    pub provider: String,
    /// What became of them.
    pub outcome: Outcome,
    /// How many.
    pub count: u64,
    /// Milliseconds of all of them.
    pub latency_ms: u64,
}

/// A device after a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// Something got through.
    Works,
    /// Nothing got through, since at least this.
    Failing(u64),
    /// Nothing is sent there any more.
    Disabled(u64),
}

/// See the module.
#[async_trait]
pub trait NotifyStore: Send + Sync + 'static {
    /// Makes the schema, or brings it up to this release's.
    async fn migrate(&self) -> Result<(), StoreError>;
    /// Whether it can be used.
    async fn check(&self) -> Result<(), StoreError>;
    /// How connections to a server are used.
    fn pool(&self) -> Option<Pool>;
    /// Ends all connections.
    async fn close(&self);

    /// Keeps all of these, or none, and how far the log that they came from was read. At most [`MAX_BATCH`] where no log is read.
    async fn enqueue(&self, batch: &[Enqueued], progress: Option<Progress>) -> Result<Vec<Kept>, StoreError>;
    /// How far a log was read.
    async fn progress(&self, shard: ShardId, log: LogEpoch) -> Result<Option<Progress>, StoreError>;
    /// Ends deliveries of these notifications that wait. One that is being sent is not among them.
    async fn cancel(&self, notifications: &[Uuid], now_us: u64) -> Result<u64, StoreError>;

    /// Takes what is due, the most urgent first.
    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>, StoreError>;
    /// Takes what is told together with this digest's due part, whenever it is due.
    async fn claim_digest(&self, digest: &str, claim: Claim) -> Result<Vec<Claimed>, StoreError>;
    /// What is known of these users; `hour`: whose counts are wanted.
    async fn facts(
        &self,
        users: &[&str],
        now_us: u64,
        hour: u64,
    ) -> Result<HashMap<String, Facts>, StoreError>;
    /// Makes one delivery for each device of one that was claimed and has none yet, all claimed by the same. Answers with those that
    /// were added; `None`: it is another's by now, or there are no devices.
    async fn spread(
        &self,
        delivery: &Delivery,
        by: Uuid,
        devices: &[&str],
    ) -> Result<Option<Vec<Delivery>>, StoreError>;
    /// Puts a digest in the place of deliveries that were claimed, all or nothing: `false` where a claim was over.
    async fn merge(
        &self,
        merged: &[Uuid],
        by: Uuid,
        digest: &Enqueued,
        now_us: u64,
    ) -> Result<bool, StoreError>;
    /// Writes what became of deliveries that were claimed. What was claimed by others meanwhile stays theirs.
    async fn settle(&self, settled: &[Settled]) -> Result<(), StoreError>;
    /// A provider's report on what it was given: delivered, or failed for a reason. Whether it is known.
    async fn report(&self, reference: &str, failed: Option<&str>, now_us: u64) -> Result<bool, StoreError>;

    /// One notification.
    async fn told(&self, id: Uuid) -> Result<Option<Told>, StoreError>;
    /// What a user was shown, the newest first, behind `before`.
    async fn inbox(
        &self,
        user: &str,
        before: Option<(u64, Uuid)>,
        limit: usize,
    ) -> Result<Vec<Notification>, StoreError>;
    /// How much of it is neither seen nor read: unseen, unread. Counted up to [`MAX_COUNT`].
    async fn news(&self, user: &str) -> Result<(u32, u32), StoreError>;
    /// Marks some of it, or all.
    async fn mark(&self, user: &str, ids: &[Uuid], read: bool, now_us: u64) -> Result<(), StoreError>;

    /// Writes a user's preferences.
    async fn set_preferences(&self, user: &str, document: &str) -> Result<(), StoreError>;
    /// Mutes a conversation until then, or no longer. `false`: the user mutes as many
    /// as may be, and nothing was changed.
    async fn mute(
        &self,
        user: &str,
        conversation: &str,
        until_us: Option<u64>,
        now_us: u64,
        most: u64,
    ) -> Result<bool, StoreError>;
    /// Keeps a device, and takes its token from whoever had it. `false`: the user has as many as may be.
    async fn put_device(&self, user: &str, device: &Device, most: u64) -> Result<bool, StoreError>;
    /// Forgets a device.
    async fn remove_device(&self, user: &str, id: &str) -> Result<bool, StoreError>;
    /// Notes how a device does.
    async fn device_state(&self, user: &str, id: &str, state: DeviceState) -> Result<(), StoreError>;

    /// All templates.
    async fn templates(&self) -> Result<Vec<Template>, StoreError>;
    /// Keeps a template. `false`: there are as many as may be.
    async fn put_template(&self, template: &Template, most: u64) -> Result<bool, StoreError>;
    /// Forgets a template.
    async fn delete_template(&self, name: &str, language: &str) -> Result<bool, StoreError>;

    /// What failed, the newest first, behind `before`.
    async fn dead_letters(
        &self,
        user: Option<&str>,
        before: Option<(u64, Uuid)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError>;
    /// Queues dead letters anew.
    async fn retry(&self, deliveries: &[Uuid], now_us: u64) -> Result<u64, StoreError>;
    /// Gives dead letters up.
    async fn drop_dead(&self, deliveries: &[Uuid], now_us: u64) -> Result<u64, StoreError>;
    /// Sums of tries.
    async fn sums(&self, from_us: u64, to_us: u64) -> Result<Vec<Sum>, StoreError>;
    /// What waits.
    async fn waiting(&self, now_us: u64, most: u64) -> Result<Waiting, StoreError>;

    /// Removes what was accepted before then and waits no more, and counts that are over. At most `limit`.
    async fn purge(&self, before_us: u64, hour: u64, limit: usize) -> Result<u64, StoreError>;
    /// Removes all that is known of a user.
    async fn forget(&self, user: &str) -> Result<(), StoreError>;
}
