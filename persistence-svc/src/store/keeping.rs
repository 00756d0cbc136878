//! What is removed from the store and what is kept: expiry, legal holds, erasure.
//!
//! What expires is the beginning of a channel, and `hidden` remembers up to where, in the transaction that deletes the rows: so
//! whoever comes back from before there is told that messages are gone, as with `history_remove`, and is never left with a hole. An
//! erasure keeps each row at its place and takes out what was said. It stands in `erasures` before the first row is touched, and is
//! applied to what is written later: a log that is read again, an archive that is read back.

pub(super) mod sql;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Write as _};

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::fold;
use switchboard_proto::bus::change::What;
use switchboard_proto::bus::{Change, Message};
use switchboard_proto::ids::ShardId;

use super::{Place, Row, StoreError, Written, log_number, number};

/// Rows of one call, at most.
pub const MAX_KEPT: usize = 10_000;

/// Holds, at most: all of them are looked at with each removal.
pub const MAX_HOLDS: usize = 10_000;

/// What is removed, and what is kept from it.
///
/// # Contract
/// * A row that is held is not deleted and not blanked, also where the hold is placed at the same time.
/// * A channel remembers up to where its rows were deleted in the transaction that deletes them.
/// * What an erasure covers is never stored unblanked once [`KeepStore::erase`] has returned, whoever writes it.
///
/// Every call may be made again, and changes nothing then. Calls are bounded in time as those of
/// [`MessageStore`](super::MessageStore).
#[async_trait]
pub trait KeepStore: Send + Sync + 'static {
    /// Channels of which something is or was stored, by name, behind `after`, `limit` at most (and [`MAX_KEPT`]).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn channels(&self, after: &str, limit: usize) -> Result<Vec<String>, StoreError>;

    /// The oldest messages of a channel, as far as they are over, in order; `limit` at most (and [`MAX_KEPT`]). Messages of users
    /// who are held are left out.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn over(&self, channel: &str, over: Over, limit: usize) -> Result<Vec<Kept>, StoreError>;

    /// Deletes rows, with what is derived from them, and remembers for each channel that they were the last of what is gone.
    /// What is held stays. How many rows were deleted.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMuch`].
    async fn remove(&self, rows: &[Kept]) -> Result<u64, StoreError>;

    /// Writes rows that were deleted back, erasures applied. Up to where their channels' messages are not shown does not change.
    /// How many rows were not there.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMuch`].
    async fn restore(&self, rows: &[Kept]) -> Result<u64, StoreError>;

    /// All holds.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn holds(&self) -> Result<Vec<Hold>, StoreError>;

    /// Places a hold; one of the same subject stays as it is.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMuch`] where there are [`MAX_HOLDS`].
    async fn hold(&self, hold: &Hold) -> Result<(), StoreError>;

    /// Lifts a hold that was placed by then, in Unix microseconds; `false`: there was none. What it kept from erasures is to be blanked
    /// now, and until [`KeepStore::lifted`] says that it is, [`KeepStore::lifts`] tells of it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn lift(&self, subject: &Subject, at_us: u64) -> Result<bool, StoreError>;

    /// All that a lifted hold kept from erasures is blanked.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn lifted(&self, subject: &Subject) -> Result<(), StoreError>;

    /// Holds whose lifting was broken off.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn lifts(&self) -> Result<Vec<Subject>, StoreError>;

    /// All erasures, by user.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn erasures(&self) -> Result<Vec<Erasure>, StoreError>;

    /// Records an erasure, which is unfinished until [`KeepStore::erased`] says otherwise, and deletes the user's memberships,
    /// reactions, receipts and conversations, but for those of channels that are held. `within`: only of what a hold covered that was
    /// lifted. What the user said is blanked by [`KeepStore::blank`], piece by piece. Reactions and memberships that are newer than the
    /// erasure go as well.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn erase(&self, erasure: &Erasure, within: Option<&Subject>) -> Result<(), StoreError>;

    /// All that an erasure covers is blanked.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn erased(&self, erasure: &Erasure) -> Result<(), StoreError>;

    /// Erasures that were broken off.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn unfinished(&self) -> Result<Vec<Erasure>, StoreError>;

    /// The time of the oldest row, in Unix microseconds; `None`: there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn oldest_us(&self) -> Result<Option<u64>, StoreError>;

    /// What a user said in this span of time, its end excluded, in the order of rows' keys, behind the row `after`; `limit` at
    /// most (and [`MAX_KEPT`]).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn said_by(
        &self,
        user: &str,
        span: (u64, u64),
        after: Option<&Kept>,
        limit: usize,
    ) -> Result<Vec<Kept>, StoreError>;

    /// Takes out of these rows what was said, and who said it. What is held stays. The rows that are blank now.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMuch`].
    async fn blank(&self, rows: &[Kept]) -> Result<Vec<Kept>, StoreError>;
}

/// A row with its whole key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Unix microseconds, of its record.
    pub time_us: u64,
    /// The shard.
    pub shard: ShardId,
    /// Its place.
    pub place: Place,
    /// Its channel.
    pub channel: String,
    /// The user who published it.
    pub sender: Option<String>,
    /// The encoded `Message`, as it is shown.
    pub message: Bytes,
}

/// When a message is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Over {
    /// Before this time, in Unix microseconds.
    pub before_us: Option<u64>,
    /// When so many newer ones are in its channel.
    pub count: Option<u64>,
}

/// Whom or what a hold is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// All messages of a channel.
    Channel(String),
    /// All messages of the channels of a namespace; empty: of those without one.
    Namespace(String),
    /// All messages of a user.
    User(String),
}

impl Subject {
    /// The first and the last channel, by name, that may be covered by it. A user's are all.
    pub(super) fn channels(&self) -> (String, String) {
        match self {
            Self::Channel(channel) => (channel.clone(), channel.clone()),
            // Of those without one; a condition leaves out the others.
            Self::Namespace(namespace) if namespace.is_empty() => (String::new(), char::MAX.to_string()),
            Self::Namespace(namespace) => (format!("{namespace}:"), format!("{namespace}:{}", char::MAX)),
            Self::User(_) => (String::new(), char::MAX.to_string()),
        }
    }

    /// Of a kind and a name.
    pub fn new(kind: &str, name: &str) -> Option<Self> {
        let name = name.to_owned();
        match kind {
            "channel" => Some(Self::Channel(name)),
            "namespace" => Some(Self::Namespace(name)),
            "user" => Some(Self::User(name)),
            _ => None,
        }
    }

    /// Its kind: `channel`, `namespace` or `user`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Channel(_) => "channel",
            Self::Namespace(_) => "namespace",
            Self::User(_) => "user",
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Channel(name) | Self::Namespace(name) | Self::User(name) => name,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// Bytes of a hold's name, and of its reason, at most: what no channel and no user has as a name is held by nobody.
pub const MAX_NAME: usize = 1024;
pub const MAX_REASON: usize = 4096;

/// Why something is no hold, or no erasure, that a store can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unkeepable {
    /// A channel or a user without a name.
    #[error("the name is empty")]
    Empty,
    /// More than [`MAX_NAME`] bytes.
    #[error("the name has more than {MAX_NAME} bytes")]
    LongName,
    /// More than [`MAX_REASON`] bytes.
    #[error("the reason has more than {MAX_REASON} bytes")]
    LongReason,
    /// Databases do not take a zero byte in a text.
    #[error("there is a zero byte in it")]
    Zero,
    /// A time that no database holds.
    #[error("its time is beyond all times")]
    Time,
}

fn keepable(name: &str, reason: &str, at_us: u64) -> Result<(), Unkeepable> {
    if name.len() > MAX_NAME {
        return Err(Unkeepable::LongName);
    }
    if reason.len() > MAX_REASON {
        return Err(Unkeepable::LongReason);
    }
    if name.contains('\0') || reason.contains('\0') {
        return Err(Unkeepable::Zero);
    }
    i64::try_from(at_us).map(|_| ()).map_err(|_| Unkeepable::Time)
}

impl Hold {
    /// Whether a store can keep it. To be asked before it is written down anywhere.
    ///
    /// # Errors
    /// [`Unkeepable`].
    pub fn check(&self) -> Result<(), Unkeepable> {
        match &self.subject {
            Subject::Channel(name) | Subject::User(name) if name.is_empty() => Err(Unkeepable::Empty),
            subject => keepable(subject.name(), &self.reason, self.since_us),
        }
    }
}

impl Erasure {
    /// As [`Hold::check`].
    ///
    /// # Errors
    /// [`Unkeepable`].
    pub fn check(&self) -> Result<(), Unkeepable> {
        match self.user.is_empty() {
            true => Err(Unkeepable::Empty),
            false => keepable(&self.user, "", self.until_us),
        }
    }
}

/// A legal hold: what is about its subject is neither expired nor erased until it is lifted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Whom or what it is about.
    pub subject: Subject,
    /// Since when, in Unix microseconds.
    pub since_us: u64,
    /// Why, in the words of whoever placed it.
    pub reason: String,
}

/// What a user said up to a time is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// Who.
    pub user: String,
    /// Up to when, in Unix microseconds, included.
    pub until_us: u64,
}

/// All holds, to be asked: each by its subject, with when it was placed.
#[derive(Debug, Clone, Default)]
pub struct Holds(HashMap<Subject, u64>);

impl Holds {
    /// Of these.
    pub fn new(holds: impl IntoIterator<Item = Hold>) -> Self {
        Self(
            holds
                .into_iter()
                .map(|hold| (hold.subject, hold.since_us))
                .collect(),
        )
    }

    /// Whether all of a channel is held.
    pub fn channel(&self, channel: &str) -> bool {
        self.of_channel(channel).is_some()
    }

    /// Since when a channel is held.
    fn of_channel(&self, channel: &str) -> Option<u64> {
        if self.0.is_empty() {
            return None;
        }
        let since = |subject| self.0.get(&subject).copied();
        let of_namespace = since(Subject::Namespace(namespace(channel).to_owned()));
        let of_channel = since(Subject::Channel(channel.to_owned()));
        of_namespace.into_iter().chain(of_channel).min()
    }

    /// Whether what a user said is held wherever it stands.
    pub fn user(&self, user: &str) -> bool {
        self.0.contains_key(&Subject::User(user.to_owned()))
    }

    /// Whether what somebody said in a channel was held already when something was erased. A later hold brings nothing back.
    fn preceded(&self, erased_us: u64, channel: &str, sender: Option<&str>) -> bool {
        let of_user = sender.and_then(|user| self.0.get(&Subject::User(user.to_owned())).copied());
        let since = self.of_channel(channel).into_iter().chain(of_user).min();
        since.is_some_and(|since| since <= erased_us)
    }

    /// Whether what somebody said in a channel is held.
    pub fn message(&self, channel: &str, sender: Option<&str>) -> bool {
        self.channel(channel) || sender.is_some_and(|user| self.user(user))
    }
}

/// The namespace of a channel; empty: none.
pub fn namespace(channel: &str) -> &str {
    channel.split_once(':').map_or("", |(namespace, _)| namespace)
}

/// What is left of a message whose sender was erased: its place among the others, and what it does to others' messages.
pub fn forgotten(encoded: &Bytes) -> Bytes {
    let Ok(message) = Message::decode(encoded.clone()) else {
        return Bytes::new();
    };
    let change = left(message.change.clone());
    Message {
        sender: None,
        trace: Bytes::new(),
        change,
        ..fold::deleted(message)
    }
    .encode_to_vec()
    .into()
}

/// Deletions of others' messages and memberships of others stay as they are. Edits and reactions are the user's own words.
fn left(change: Option<Change>) -> Option<Change> {
    change.filter(|change| matches!(change.what, Some(What::Delete(_) | What::Members(_))))
}

/// What is known of erasures when rows are to be written.
pub(super) struct Forgetting<'a> {
    pub(super) erasures: &'a HashMap<String, u64>,
    pub(super) holds: &'a Holds,
}

impl Forgetting<'_> {
    /// Whether the user is to be taken out of a message of this time and channel, that `sender` sent.
    fn is_erased(&self, user: &str, time_us: u64, (channel, sender): (&str, Option<&str>)) -> bool {
        let until = self.erasures.get(user);
        until.is_some_and(|until| time_us <= *until && !self.holds.preceded(*until, channel, sender))
    }

    /// Blanks a row that an erasure covers.
    pub(super) fn kept(&self, row: &Kept) -> Kept {
        match row.sender.as_deref() {
            Some(user) if self.is_erased(user, row.time_us, (&row.channel, Some(user))) => Kept {
                sender: None,
                message: forgotten(&row.message),
                ..row.clone()
            },
            _ => row.clone(),
        }
    }

    /// As [`Forgetting::kept`]; takes the user out of events about members, too.
    fn row(&self, row: &mut Row) {
        let time_us = row.time_us;
        let (channel, sender) = (row.channel.clone(), row.sender.clone());
        let of = (channel.as_str(), sender.as_deref());
        if let Some(user) = row.sender.as_deref()
            && self.is_erased(user, time_us, of)
        {
            row.sender = None;
            row.message = forgotten(&row.message);
            row.change = left(row.change.take());
        }
        if let Some(What::Members(members)) = row.change.as_mut().and_then(|change| change.what.as_mut()) {
            let before = members.added.len() + members.removed.len();
            members
                .added
                .retain(|member| !self.is_erased(&member.user, time_us, of));
            members.removed.retain(|user| !self.is_erased(user, time_us, of));
            if members.added.len() + members.removed.len() < before
                && let Ok(message) = Message::decode(row.message.clone())
            {
                // The payload tells clients the same.
                let message = Message {
                    change: row.change.clone(),
                    ..fold::deleted(message)
                };
                row.message = message.encode_to_vec().into();
            }
        }
    }

    pub(super) fn written<'w>(&self, written: &'w Written) -> Cow<'w, Written> {
        if self.erasures.is_empty() {
            return Cow::Borrowed(written);
        }
        let mut written = written.clone();
        for row in &mut written.rows {
            self.row(row);
        }
        Cow::Owned(written)
    }
}

/// Users of whom rows tell, as JSON: senders, and members of events.
pub(super) fn users_of(written: &Written) -> Vec<&str> {
    let mut users: HashSet<&str> = HashSet::new();
    for row in &written.rows {
        users.extend(row.sender.as_deref());
        if let Some(What::Members(members)) = row.change.as_ref().and_then(|change| change.what.as_ref()) {
            users.extend(members.added.iter().map(|member| member.user.as_str()));
            users.extend(members.removed.iter().map(String::as_str));
        }
    }
    users.into_iter().collect()
}

/// Keys of rows as rows of SQL.
pub(super) fn keys(rows: &[&Kept]) -> String {
    let mut keys = String::new();
    for row in rows {
        let comma = if keys.is_empty() { "" } else { ", " };
        let (time, shard) = (number(row.time_us), i32::from(row.shard.get()));
        let (log, offset) = (log_number(row.place.log), number(row.place.offset.get()));
        // Into a string it does not fail.
        write!(keys, "{comma}({time}, {shard}, {log}, {offset})").ok();
    }
    keys
}

/// Of each channel the last of these rows.
pub(super) fn edges(rows: &[Kept]) -> BTreeMap<&str, Place> {
    let mut edges: BTreeMap<&str, Place> = BTreeMap::new();
    for row in rows {
        let edge = edges.entry(&row.channel).or_insert(row.place);
        *edge = row.place.max(*edge);
    }
    edges
}

pub(super) fn few(rows: &[Kept]) -> Result<(), StoreError> {
    if rows.len() > MAX_KEPT {
        return Err(StoreError::TooMuch {
            asked: rows.len(),
            most: MAX_KEPT,
        });
    }
    Ok(())
}
