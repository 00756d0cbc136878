//! What is taken to another store beside the messages: what they do not tell, or tell no more since the first of them expired.
//!
//! Hidden marks and receipts are written there by [`JoinStore::hide`](super::JoinStore::hide) and
//! [`ConversationStore::mark`](super::ConversationStore::mark); only heads and members need calls of their own.

pub(super) mod sql;

use std::collections::HashSet;

use async_trait::async_trait;
use switchboard_proto::bus::MemberRole;

use super::conversations::Mark;
use super::{Place, StoreError};

/// Rows of one call, at most.
pub const MAX_MOVED: usize = 1000;

/// What is read here and written there.
///
/// # Contract
/// * Whatever was written in the meantime and is later in the log stays as it is.
/// * Writing the same again changes nothing.
///
/// Pages are in the order of their keys, behind `after`, [`MAX_MOVED`] rows at most; the first is behind what is empty. Calls are bounded in
/// time as those of [`MessageStore`](super::MessageStore).
#[async_trait]
pub trait MoveStore: Send + Sync + 'static {
    /// The newest message of each channel, also where all expired.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn all_heads(&self, after: &str) -> Result<Vec<ChannelHead>, StoreError>;

    /// Up to where messages of channels are hidden.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn all_hidden(&self, after: &str) -> Result<Vec<(String, Place)>, StoreError>;

    /// Who is, or was, in a channel. `after`: a channel, and a user.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn all_members(&self, after: (&str, &str)) -> Result<Vec<MemberRow>, StoreError>;

    /// Up to where users have channels. `after`: a channel, and a user.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn all_receipts(&self, after: (&str, &str)) -> Result<Vec<Mark>, StoreError>;

    /// Takes heads over, and whom their channels name, but for these users; [`MAX_MOVED`] at most.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMuch`].
    async fn take_heads(&self, heads: &[ChannelHead], without: &HashSet<String>) -> Result<(), StoreError>;

    /// Takes members over, and counts those of their channels; [`MAX_MOVED`] at most. To be called before the messages are written: an
    /// old event that nothing newer is known of counts.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMuch`].
    async fn take_members(&self, members: &[MemberRow]) -> Result<(), StoreError>;
}

/// The newest message of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelHead {
    /// The channel.
    pub channel: String,
    /// Where the message stands.
    pub place: Place,
    /// Unix microseconds, of its record.
    pub time_us: u64,
}

/// What the newest event about a user says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRow {
    /// The channel.
    pub channel: String,
    /// Who.
    pub user: String,
    /// `None`: no member any more.
    pub role: Option<MemberRole>,
    /// The event.
    pub place: Place,
    /// The event with which the user came.
    pub since: Place,
}
