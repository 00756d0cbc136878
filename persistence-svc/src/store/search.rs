//! What search asks of a store: an index of forms of words, and the messages behind what it finds.

use async_trait::async_trait;
use bytes::Bytes;
use switchboard_proto::ids::{Offset, ShardId};

use super::{Place, Step, StoreError};
use crate::search::query::{Item, Query};

/// Places that one call of [`SearchStore::find`] gives, at most.
pub const MAX_HITS: usize = 1024;

/// Channels of one question, at most.
pub const MAX_CHANNELS: usize = 256;

/// An index over messages.
///
/// # Contract
/// * [`SearchStore::find`] leaves out no message that is indexed and is what the question looks for. It may give others: the caller looks at
///   the messages.
/// * Where it looks does not depend on who else writes: the same question over the same messages gives the same.
#[async_trait]
pub trait SearchStore: Send + Sync + 'static {
    /// Writes the forms of messages into the index and moves the follower's position, in one transaction. `false`: somebody
    /// else did this step.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::OtherIndex`] where the index is not of `settings`.
    async fn index(&self, settings: &str, step: &Step, documents: &[Document]) -> Result<bool, StoreError>;

    /// Makes the index one of these settings. One of others, or of none, is emptied, and its follower begins anew: `true`.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn prepare_index(&self, follower: &str, settings: &str) -> Result<bool, StoreError>;

    /// Places of messages that may be what is looked for, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn find(&self, find: &Find<'_>) -> Result<Hits, StoreError>;

    /// The messages at these places, in any order; those that are gone are left out.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn load(&self, hits: &[Hit]) -> Result<Vec<Loaded>, StoreError>;

    /// The message at a place of a channel, and where it stands in the index.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn stored_at(&self, channel: &str, place: Place) -> Result<Option<Loaded>, StoreError>;

    /// Puts other forms into the place of a message's, or none. What the follower has not reached yet it leaves to it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn reindex(&self, follower: &str, hit: &Hit, document: Option<&Document>)
    -> Result<(), StoreError>;
}

/// What the index holds of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its place.
    pub offset: Offset,
    /// Unix microseconds.
    pub time_us: u64,
    /// Each form once, with the places of the words that it stands for.
    pub forms: Vec<(String, Vec<u16>)>,
    /// Its channel.
    pub channel: String,
    /// Its sender.
    pub sender: Option<String>,
}

/// A place in the order in which a store goes through its index: by time, and by whatever the store tells messages of
/// one time by. Opaque.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub(crate) [i64; 4]);

impl Mark {
    /// Before all.
    pub(crate) const START: Self = Self([0; 4]);
    /// Behind all.
    pub(crate) const END: Self = Self([i64::MAX; 4]);

    /// The next one: nothing is between.
    pub(crate) fn next(self) -> Self {
        let Self([time, two, three, last]) = self;
        Self([time, two, three, last.saturating_add(1)])
    }
}

/// A question to the index.
#[derive(Debug, Clone, Copy)]
pub struct Find<'a> {
    /// The words.
    pub query: &'a Query,
    /// Only in these channels, [`MAX_CHANNELS`] at most; `None`: in all.
    pub channels: Option<&'a [String]>,
    /// Only of this user.
    pub sender: Option<&'a str>,
    /// Only of this time on, in Unix microseconds.
    pub from_us: u64,
    /// Only before this time.
    pub to_us: u64,
    /// Only before this place.
    pub before: Mark,
    /// Places, at most; more than [`MAX_HITS`] counts as that.
    pub most: usize,
    /// Entries of the index that are looked at, about.
    pub effort: usize,
}

/// What the index has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hits {
    /// Newest first.
    pub hits: Vec<Hit>,
    /// Everything from here on was looked through; before it there may be more. [`Mark::START`]: there is none.
    pub looked_to: Mark,
    /// Entries that were looked at.
    pub effort: usize,
}

/// A place that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// In the store's order.
    pub mark: Mark,
    /// Unix microseconds.
    pub time_us: u64,
    /// The shard.
    pub shard: ShardId,
    /// The message.
    pub place: Place,
}

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Where it is.
    pub hit: Hit,
    /// Its channel.
    pub channel: String,
    /// The user who published it.
    pub sender: Option<String>,
    /// The encoded `Message`.
    pub message: Bytes,
}

/// What no word's form begins with: it marks forms that stand for what is no word.
const NO_WORD: char = '\u{e000}';

/// Under which a message is found by its channel. Two channels may have one; names are compared on the message.
pub(super) fn channel_form(channel: &str) -> String {
    marked('c', xxhash_rust::xxh3::xxh3_64(channel.as_bytes()))
}

/// Under which a message is found by its sender.
pub(super) fn sender_form(user: &str) -> String {
    marked('s', xxhash_rust::xxh3::xxh3_64(user.as_bytes()))
}

/// A form that is no word's: of this kind and number.
pub(super) fn marked(kind: char, number: u64) -> String {
    let mut digits = [0_u8; 13];
    let mut left = number;
    let mut from = digits.len();
    loop {
        let digit = u8::try_from(left % 36).unwrap_or_default();
        from -= 1;
        if let Some(place) = digits.get_mut(from) {
            *place = if digit < 10 {
                b'0' + digit
            } else {
                b'a' + digit - 10
            };
        }
        left /= 36;
        if left == 0 {
            break;
        }
    }
    let digits = digits.get(from..).unwrap_or_default();
    let mut form = String::with_capacity(4 + digits.len());
    form.push(NO_WORD);
    form.push(kind);
    form.extend(digits.iter().map(|digit| char::from(*digit)));
    form
}

/// Writes expressions in the language of one store's index.
pub(super) trait Dialect {
    /// One form, as it is or as a beginning.
    fn form(&self, form: &str, prefix: bool, into: &mut String);
    const AND: &'static str;
    const OR: &'static str;
}

/// Any of these, in brackets.
pub(super) fn any<D: Dialect, T>(
    dialect: &D,
    items: &[T],
    into: &mut String,
    mut one: impl FnMut(&D, &T, &mut String),
) {
    into.push('(');
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            into.push_str(D::OR);
        }
        one(dialect, item, into);
    }
    into.push(')');
}

/// The words of an item, joined by `join`.
pub(super) fn words<D: Dialect>(dialect: &D, item: &Item, join: &str, into: &mut String) {
    into.push('(');
    for (number, forms) in item.words.iter().enumerate() {
        if number > 0 {
            into.push_str(join);
        }
        let prefix = item.prefix && number + 1 == item.words.len();
        any(dialect, forms, into, |dialect, form, into| {
            dialect.form(form, prefix, into)
        });
    }
    into.push(')');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_forms_are_short_and_differ() {
        assert_eq!(marked('a', 0), "\u{e000}a0");
        assert_eq!(marked('b', 35 * 36 + 10), "\u{e000}bza");
        assert_eq!(marked('c', u64::MAX), "\u{e000}c3w5e11264sgsf");
        assert_ne!(channel_form("a"), sender_form("a"));
    }
}
