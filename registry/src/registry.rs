//! The registry: which sessions users have, on which gateways, and the subscriptions kept for them.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::format::FormatError;
use switchboard_proto::ids::Incarnation;
use uuid::Uuid;

/// Sessions of one user that are registered, at most. Those beyond it are connected all the same, and not found.
pub const MAX_SESSIONS_PER_USER: usize = 10_000;

/// Bytes of a client's name and of its version that are kept, at most; the rest is cut off.
pub const MAX_DEVICE_TEXT: usize = 64;

/// Bytes of a kept subscription's info and data together, at most.
pub const MAX_SUBSCRIPTION_SIZE: usize = 16 * 1024;

/// How long a subscription may be kept, at most.
pub const LONGEST_KEPT: Duration = Duration::from_secs(366 * 24 * 3600);

/// How long a session that was neither announced again nor ended is remembered: the bound for what a lost command
/// leaves behind. Gateways announce each of theirs again three times as often.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(15 * 60);

/// A time during which a gateway's sessions hold: as long as it renews the lease. When it does not, all of them
/// are gone in one step.
///
/// A gateway begins a lease with a higher number when it finds that its last one is gone, and announces all of its
/// sessions anew: what was written under the last one never comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    /// Whose.
    pub gateway: Incarnation,
    /// Which of its leases, from 1.
    pub number: u64,
}

/// What a client says of itself, in its `connect`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    name: String,
    version: String,
}

impl Device {
    /// Each is cut after [`MAX_DEVICE_TEXT`] bytes.
    pub fn new(name: &str, version: &str) -> Self {
        let cut = |text: &str| text[..text.floor_char_boundary(MAX_DEVICE_TEXT)].to_owned();
        Self {
            name: cut(name),
            version: cut(version),
        }
    }

    /// Such as `js`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Such as `5.1`.
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// A session as its gateway announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession {
    /// The connection's id, as clients see it.
    pub client: Uuid,
    /// What the client says of itself.
    pub device: Device,
    /// Unix microseconds of its beginning.
    pub since_us: u64,
}

/// A session of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The connection's id, as clients see it.
    pub client: Uuid,
    /// The gateway that holds it.
    pub gateway: Incarnation,
    /// What the client says of itself.
    pub device: Device,
    /// Unix microseconds of its beginning.
    pub since_us: u64,
}

/// What happened to one user's sessions at a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The user, never empty.
    pub user: String,
    /// Sessions that began, or go on.
    pub connected: Vec<NewSession>,
    /// Sessions that ended.
    pub disconnected: Vec<Uuid>,
    /// Whether the user has a session at this gateway now.
    pub is_here: bool,
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// Whether the lease is still in force. Where it is not, nobody sees what was announced.
    pub held: bool,
    /// Sessions that were not registered, for [`MAX_SESSIONS_PER_USER`].
    pub left_out: usize,
}

/// Whether a session may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may, and is registered.
    Admitted,
    /// The user has as many sessions as there may be; nothing was registered.
    OverLimit,
}

/// Some of a gateway's users.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserPage {
    /// In no order. One that is there all the time stands on at least one page, perhaps on two.
    pub users: Vec<String>,
    /// Where the next page begins; `None`: this is the last.
    pub next: Option<u64>,
}

/// A subscription that a user is given at each connect, on every device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSubscription {
    /// The channel.
    pub channel: ChannelName,
    /// JSON that goes with what the user publishes in the channel; empty: none.
    pub info: Bytes,
    /// JSON for the client; empty: none.
    pub data: Bytes,
    /// What holds instead of the channel's configuration.
    pub overrides: SubscriptionOverrides,
    /// Unix milliseconds, by the store's clock, from which on it is no more.
    pub until_ms: u64,
}

/// Keeps which sessions there are. A user is a text that is not empty: anonymous sessions are not registered.
///
/// # Contract
/// * A session is found, by [`Registry::sessions`], from its announcement until it is announced as ended, or its
///   gateway's lease ends or is followed by another.
/// * Nothing else is atomic between users: a reader may see one of two changes.
/// * After an error it is unknown whether something was stored; repeating any call is without harm.
/// * A store that lost what it held says so: [`Registry::renew`] and [`Registry::announce`] find no lease.
/// * Every call ends within the backend's time limit. All are cancel safe in that a call that was dropped was carried
///   out or not.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// Begins a lease, and ends the one that its gateway had.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`].
    async fn begin(&self, lease: Lease, lasts: Duration) -> Result<(), RegistryError>;

    /// Lets a lease go on for so long from now. `false`: it is not in force, and nothing was changed.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`].
    async fn renew(&self, lease: Lease, lasts: Duration) -> Result<bool, RegistryError>;

    /// Ends a lease, if it is in force: a gateway that stops.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`].
    async fn release(&self, lease: Lease) -> Result<(), RegistryError>;

    /// Tells what happened. A session that is known already is replaced.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`]: some of it may be stored.
    async fn announce(&self, lease: Lease, changes: &[Change]) -> Result<Announced, RegistryError>;

    /// Registers a session unless its user has `limit` others already, over all gateways. Of several at once, no more
    /// than `limit` are admitted. Above [`MAX_SESSIONS_PER_USER`], that is the limit.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`]: it may be registered.
    async fn admit(
        &self,
        lease: Lease,
        user: &str,
        session: &NewSession,
        limit: usize,
    ) -> Result<Admission, RegistryError>;

    /// A user's sessions, in no order, at most [`MAX_SESSIONS_PER_USER`].
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`], [`RegistryError::Format`].
    async fn sessions(&self, user: &str) -> Result<Vec<Session>, RegistryError>;

    /// How many sessions a user has.
    ///
    /// # Errors
    /// As [`Registry::sessions`].
    async fn count(&self, user: &str) -> Result<usize, RegistryError> {
        Ok(self.sessions(user).await?.len())
    }

    /// The gateways that hold a user's sessions, each once, in order: whom to ask about the user.
    ///
    /// # Errors
    /// As [`Registry::sessions`].
    async fn gateways(&self, user: &str) -> Result<Vec<Incarnation>, RegistryError> {
        let sessions = self.sessions(user).await?;
        let mut gateways: Vec<Incarnation> = sessions.iter().map(|session| session.gateway).collect();
        gateways.sort_unstable();
        gateways.dedup();
        Ok(gateways)
    }

    /// Some users with sessions at a gateway: about `count`, from where `after` says (`None`: from the beginning).
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`].
    async fn users(
        &self,
        gateway: Incarnation,
        after: Option<u64>,
        count: usize,
    ) -> Result<UserPage, RegistryError>;

    /// Keeps a subscription for so long from now, at most [`LONGEST_KEPT`]; one of the same channel is replaced.
    ///
    /// # Errors
    /// [`KeepError::Full`], [`KeepError::TooLarge`], or as the store's.
    async fn keep_subscription(
        &self,
        user: &str,
        channel: &ChannelName,
        options: &SubscriptionOptions,
        lasts: Duration,
    ) -> Result<(), KeepError>;

    /// Keeps it no longer. Whether it was kept.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`].
    async fn forget_subscription(&self, user: &str, channel: &ChannelName) -> Result<bool, RegistryError>;

    /// What is kept for a user, by channel's name.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`], [`RegistryError::Format`].
    async fn kept_subscriptions(&self, user: &str) -> Result<Vec<KeptSubscription>, RegistryError>;
}

/// What a kept subscription says besides the channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubscriptionOptions {
    /// JSON that goes with what the user publishes in the channel; empty: none.
    pub info: Bytes,
    /// JSON for the client; empty: none.
    pub data: Bytes,
    /// What holds instead of the channel's configuration.
    pub overrides: SubscriptionOverrides,
}

/// What a backend said of one subscription; `None`: as the channel's configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscriptionOverrides {
    /// The user is seen in the channel.
    pub presence: Option<bool>,
    /// Joining and leaving is told to others.
    pub join_leave: Option<bool>,
    /// What was missed is recovered.
    pub force_recovery: Option<bool>,
    /// The client is told its position.
    pub force_positioning: Option<bool>,
    /// The client is told of others' joining and leaving.
    pub force_push_join_leave: Option<bool>,
}

/// Why the registry has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The store does not answer, or not as it should.
    #[error("the registry's store is not available: {0}")]
    Unavailable(String),
    /// What the store holds cannot be read.
    #[error("the registry's store holds what cannot be read")]
    Format(#[from] FormatError),
}

/// Why a subscription is not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// As many are kept for the user as may be.
    #[error("{limit} subscriptions are kept for this user already; see registry.kept_per_user")]
    Full {
        /// How many may be.
        limit: usize,
    },
    /// More than [`MAX_SUBSCRIPTION_SIZE`].
    #[error("info and data of {size} bytes, more than {MAX_SUBSCRIPTION_SIZE}")]
    TooLarge {
        /// Bytes found.
        size: usize,
    },
    /// The store.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl SubscriptionOptions {
    /// Whether a backend may store it.
    pub(crate) fn check(&self) -> Result<(), KeepError> {
        let size = self.info.len() + self.data.len();
        if size > MAX_SUBSCRIPTION_SIZE {
            return Err(KeepError::TooLarge { size });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_of_itself_is_cut_between_characters() {
        let device = Device::new(&"é".repeat(100), "1.0");
        assert_eq!(device.name(), "é".repeat(MAX_DEVICE_TEXT / 2));
        assert_eq!(device.version(), "1.0");
        let odd = format!("a{}", "é".repeat(100));
        assert_eq!(Device::new(&odd, "").name().len(), MAX_DEVICE_TEXT - 1);
    }
}
