//! The presence store: users, channels, and the leases of gateways.
//!
//! Users and channels are shared out among [`PARTITIONS`] partitions by a hash of their name, each of them a world of its
//! own with its own leases, so that whatever must change together lies together: in Redis Cluster, in one slot. A session, or a
//! channel's member, is there as long as the lease under which it was written is in force *in its partition*: with the
//! lease all of them are gone, in one step.
//!
//! What a user is, is decided outside ([`crate::user`]): the store compares and sets.

mod memory;
mod redis;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use switchboard_proto::ids::Incarnation;

pub use self::memory::MemoryStore;
pub use self::redis::RedisStore;
use crate::user::{Lease, Leases};

/// Partitions of each store. Written down with what is stored: another number is another store.
pub const PARTITIONS: u16 = 16;

/// Users of one question, and entries of one look, at most.
pub const MAX_BATCH: usize = 500;

/// After how long news that nobody said were told are told by whoever looks.
const UNTOLD_AFTER: Duration = Duration::from_secs(1);

/// How long a gateway that begins a lease has to report all that it has.
pub const REPORTED_ANEW: Duration = Duration::from_secs(5);

/// The partition of a user or a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u16);

impl Partition {
    /// Where `name` lies.
    pub fn of(name: &str) -> Self {
        let hash = xxhash_rust::xxh3::xxh3_64(name.as_bytes());
        // Below PARTITIONS.
        Self(u16::try_from(hash % u64::from(PARTITIONS)).unwrap_or(0))
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }

    /// From 0.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// A gateway's report: which lease it is under, and which of its reports it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Under which lease.
    pub lease: Lease,
    /// Which of the gateway's reports; a late one is not applied.
    pub report: u64,
}

/// Users as they are stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loaded {
    /// The store's clock, in Unix milliseconds.
    pub now_ms: u64,
    /// The leases in force.
    pub leases: Leases,
    /// In the order of the question; `None`: nothing is known of the user.
    pub users: Vec<Option<Versioned>>,
}

/// A value, and the version that it is replaced by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// Changes with each write.
    pub version: u64,
    /// The encoded [`crate::user::User`].
    pub value: Bytes,
}

/// A user as she is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The user.
    pub user: String,
    /// The version that was loaded; `None`: nothing was there. Where another one is there now, nothing is written.
    pub expected: Option<u64>,
    /// `None`: she is forgotten.
    pub value: Option<Bytes>,
    /// When she is looked at again, in Unix milliseconds; `None`: not before something is reported.
    pub due_ms: Option<u64>,
    /// Leases that sessions of hers hold under.
    pub at: Vec<Lease>,
    /// Leases that none holds under any more.
    pub not_at: Vec<Lease>,
    /// What others are to be told: kept until [`PresenceStore::told`].
    pub news: Option<Bytes>,
}

/// What became of writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// One each: whether it was written. Where not, somebody else was first: load again.
    Done(Vec<bool>),
    /// The lease is not in force, or a later report came first. Nothing was written.
    NotHeld,
}

/// What is to be done in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// Users that are due, and users noted under leases that are over. With the latter, the leases.
    pub users: Vec<(String, Vec<Lease>)>,
    /// Channels with members under leases that are over.
    pub channels: Vec<(String, Lease)>,
    /// News that were written a second ago or earlier and that nobody said were told.
    pub untold: Vec<Bytes>,
    /// There are more users or channels than these.
    pub more: bool,
}

/// Joins and leaves of one channel at one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Moves {
    /// The channel.
    pub channel: String,
    /// Connections that are in it. One that was already stays, with what is said of it now.
    pub joined: Vec<Member>,
    /// Ids of connections that are not.
    pub left: Vec<Bytes>,
}

/// A connection in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The connection's id.
    pub client: Bytes,
    /// Its user; empty: anonymous.
    pub user: String,
    /// The encoded `ChannelMember`.
    pub value: Bytes,
}

/// What became of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Moved {
    /// The channel.
    pub channel: String,
    /// Encoded `ChannelMember`s of who was not there before, and of who was.
    pub joined: Vec<Bytes>,
    /// See above.
    pub left: Vec<Bytes>,
    /// Connections before and after, and users after.
    pub before: u64,
    /// See above.
    pub clients: u64,
    /// See above. Anonymous connections are one.
    pub users: u64,
    /// Gateways with connections in the channel after it.
    pub gateways: Vec<Incarnation>,
}

/// Who is in a channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InChannel {
    /// Encoded `ChannelMember`s; none where there are more than was asked for.
    pub members: Vec<Bytes>,
    /// Connections.
    pub clients: u64,
    /// Users; anonymous connections are one.
    pub users: u64,
}

/// Keeps who is here.
///
/// # Contract
/// * What is written under a lease counts from its write until the lease ends; it ends when it is not renewed in time, when
///   its gateway begins another, or when it is released.
/// * [`PresenceStore::save`] is atomic for each user, and under a lease it writes nothing once the lease is over or a later report of
///   the gateway was begun.
/// * News are kept with the write that makes them until they are told. They may be told twice, never not at all.
/// * A store that lost what it held knows no lease: gateways report anew.
/// * After an error it is unknown whether something was stored; repeating any call is without harm.
///
/// Every call ends within the backend's time limit. All are cancel safe in that a call that was dropped was carried out or not.
#[async_trait]
pub trait PresenceStore: Send + Sync + 'static {
    /// Begins or goes on with a lease for `lasts` from now, and notes the report that does so, so that earlier ones write nothing any
    /// more. `false`: it is not in force and does not begin, or a later report is known.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn hold(
        &self,
        partition: Partition,
        stamp: Stamp,
        begins: bool,
        lasts: Duration,
    ) -> Result<bool, StoreError>;

    /// Ends a lease, if it is in force.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn release(&self, partition: Partition, stamp: Stamp) -> Result<(), StoreError>;

    /// Users of a partition, [`MAX_BATCH`] at most.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn load(&self, partition: Partition, users: &[&str]) -> Result<Loaded, StoreError>;

    /// Writes users, each on its own. `stamp`: under this lease.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn save(
        &self,
        partition: Partition,
        stamp: Option<Stamp>,
        writes: &[Write],
    ) -> Result<Saved, StoreError>;

    /// What is to be done in a partition, [`MAX_BATCH`] of each kind at most. Ends leases that were not renewed. Where a gateway has begun
    /// another lease, what it wrote under the last one is left alone for [`REPORTED_ANEW`]: by then it has reported it again.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn look(&self, partition: Partition) -> Result<Look, StoreError>;

    /// These news were told.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn told(&self, partition: Partition, news: &[Bytes]) -> Result<(), StoreError>;

    /// Joins and leaves of a channel, under a lease. `None`: as [`Saved::NotHeld`].
    ///
    /// # Errors
    /// [`StoreError`].
    async fn moves(&self, stamp: Stamp, moves: &Moves) -> Result<Option<Moved>, StoreError>;

    /// Takes members out of a channel that are there under a lease that is over; [`MAX_BATCH`] at a time: `true` beside what moved says
    /// that there are more.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn clear(&self, channel: &str, lease: Lease) -> Result<(Moved, bool), StoreError>;

    /// Who is in a channel, without who is there under a lease that is over. Members where there are `most` of them at most.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn in_channel(&self, channel: &str, most: usize) -> Result<InChannel, StoreError>;
}

/// Why the store has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or not as it should.
    #[error("the presence store is not available: {0}")]
    Unavailable(String),
    /// It holds what cannot be read.
    #[error("the presence store holds what cannot be read: {0}")]
    Damaged(String),
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}
