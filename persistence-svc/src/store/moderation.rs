//! Who may not speak, or not come at all, and which tokens count no more; and the audit log of how that came.
//!
//! Gateways follow the log by its numbers, so a number that is seen promises that all before it are seen, too.

pub(super) mod sql;

use async_trait::async_trait;

use super::StoreError;

/// Entries or restrictions of one page, and keys of one question, at most.
pub const MAX_MODERATED: usize = 400;

/// Acts of moderation, and what is in force by them.
///
/// # Contract
/// * An act, its entry in the log and what is in force since are stored together or not at all.
/// * Numbers begin with 1 and have no gaps. Who sees an entry sees all before it.
/// * What has ended by its time is in no answer.
///
/// Calls are bounded in time as those of [`MessageStore`](super::MessageStore). A dropped [`ModerationStore::moderate`] may still be
/// carried out; with a key it may be called again.
#[async_trait]
pub trait ModerationStore: Send + Sync + 'static {
    /// Does it, at the time `now_us`. Where the log has an act with the same key, nothing is done, and that one is the answer (`true`).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn moderate(&self, act: &Act, now_us: u64) -> Result<(Entry, bool), StoreError>;

    /// Entries of the log behind a number, in their order, `limit` at most (and [`MAX_MODERATED`]); and the newest entry's number.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn moderation_log(&self, after: u64, limit: usize) -> Result<(Vec<Entry>, u64), StoreError>;

    /// What is in force at the time `now_us`, in the order of keys, [`MAX_MODERATED`] at most; and an entry of the log up to which all
    /// acts are in it. Later ones may be.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn restrictions(
        &self,
        question: &Restrictions,
        now_us: u64,
    ) -> Result<(Vec<Restriction>, u64), StoreError>;

    /// Which of these are in force at the time `now_us`; [`MAX_MODERATED`] keys at most.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMuch`].
    async fn restricted(&self, keys: &[Key], now_us: u64) -> Result<Vec<Restriction>, StoreError>;
}

/// What can be in force. The numbers are those of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// No connection of a user.
    Block = 1,
    /// A user says nothing in a channel.
    Mute = 2,
    /// One token counts no more.
    Token = 3,
    /// Tokens that were issued before a time count no more.
    Tokens = 4,
}

impl Kind {
    pub(super) fn number(self) -> i64 {
        self as i64
    }

    fn of(number: i64) -> Result<Self, StoreError> {
        [Self::Block, Self::Mute, Self::Token, Self::Tokens]
            .into_iter()
            .find(|kind| kind.number() == number)
            .ok_or_else(|| StoreError::Damaged(format!("{number} as a kind of restriction")))
    }
}

/// What is restricted. What does not apply to the kind is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// How.
    pub kind: Kind,
    /// Whom; with [`Kind::Tokens`], empty: everybody.
    pub user: String,
    /// Where.
    pub channel: String,
    /// The token's id.
    pub token: String,
}

/// What somebody does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// What is concerned.
    pub key: Key,
    /// It is lifted, not placed.
    pub lifts: bool,
    /// When it ends by itself, in Unix microseconds; 0: never.
    pub until_us: u64,
    /// Of [`Kind::Tokens`]: in Unix microseconds.
    pub issued_before_us: u64,
    /// Why, in the caller's words.
    pub reason: String,
    /// Who, in the caller's words.
    pub actor: String,
    /// With which key of the API.
    pub api_key: String,
    /// Of the act, so that it is done once; empty: none.
    pub idempotency_key: String,
}

/// An act in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub number: u64,
    /// Unix microseconds.
    pub time_us: u64,
    /// With the times that are in force since.
    pub act: Act,
    /// Whether anything is different since.
    pub changed: bool,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restriction {
    /// What is restricted.
    pub key: Key,
    /// When it ends by itself, in Unix microseconds; 0: never.
    pub until_us: u64,
    /// Of [`Kind::Tokens`]: in Unix microseconds.
    pub issued_before_us: u64,
    /// Why.
    pub reason: String,
    /// The entry of the log that it is as of.
    pub number: u64,
}

/// A page of what is in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restrictions {
    /// Only of this kind.
    pub kind: Option<Kind>,
    /// Only of this user; empty: of all.
    pub user: String,
    /// Behind this one.
    pub after: Option<Key>,
    /// At most.
    pub limit: usize,
}

/// What follows from an act, where this is in force; `None`: nothing is.
pub(super) fn follows_from(act: &Act, current: Option<&Restriction>, number: u64) -> Option<Restriction> {
    if act.lifts {
        return None;
    }
    let mut next = Restriction {
        key: act.key.clone(),
        until_us: act.until_us,
        issued_before_us: act.issued_before_us,
        reason: act.reason.clone(),
        number,
    };
    // What was revoked does not come back by being revoked again.
    if let (Kind::Token | Kind::Tokens, Some(current)) = (act.key.kind, current) {
        next.issued_before_us = next.issued_before_us.max(current.issued_before_us);
        next.until_us = match (next.until_us, current.until_us) {
            (0, _) | (_, 0) => 0,
            (next, current) => next.max(current),
        };
    }
    match current {
        Some(current) if is_same(&next, current) => Some(current.clone()),
        _ => Some(next),
    }
}

fn is_same(one: &Restriction, other: &Restriction) -> bool {
    one.until_us == other.until_us
        && one.issued_before_us == other.issued_before_us
        && one.reason == other.reason
}

pub(super) fn few(keys: usize) -> Result<(), StoreError> {
    if keys > MAX_MODERATED {
        return Err(StoreError::TooMuch {
            asked: keys,
            most: MAX_MODERATED,
        });
    }
    Ok(())
}
