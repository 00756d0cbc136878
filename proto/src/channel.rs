//! Channel names, parsed once where they enter and carried as [`ChannelName`].

use std::fmt;
use std::sync::Arc;

/// The most bytes a channel name may have unless configured lower.
pub const MAX_CHANNEL_LENGTH: usize = 255;

/// A valid channel name: `room:42`, `dm:#alice,bob`, `#alice`, `$broadcast`.
///
/// The part before the first `:` is the namespace. What follows the last `#` is the list of the
/// users who may be there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Arc<str>);

/// Why a name is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum InvalidChannel {
    /// The name is empty.
    #[error("channel name is empty")]
    Empty,
    /// The name is too long.
    #[error("channel name has {length} bytes, more than {limit}")]
    TooLong {
        /// Bytes found.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The name holds something other than printable ASCII.
    #[error("channel name has a character that is not printable ASCII")]
    Character,
    /// The namespace is empty or holds something other than letters, digits, `-`, `_`, `.`.
    #[error("channel namespace may hold only letters, digits, '-', '_' and '.'")]
    Namespace,
    /// The list of users is empty, has an empty or repeated name, or is not sorted.
    #[error("users behind '#' must be sorted and none empty or repeated")]
    Users,
}

/// As [`ChannelName::namespace`], of a name that was one when it was written.
pub fn namespace_of(channel: &str) -> Option<&str> {
    let (namespace, _) = channel.split_once(':')?;
    Some(namespace.strip_prefix('$').unwrap_or(namespace))
}

impl ChannelName {
    /// Parses a name of at most `limit` bytes.
    ///
    /// # Errors
    /// [`InvalidChannel`], in words for whoever sent it.
    pub fn parse(name: &str, limit: usize) -> Result<Self, InvalidChannel> {
        if name.is_empty() {
            return Err(InvalidChannel::Empty);
        }
        if name.len() > limit {
            return Err(InvalidChannel::TooLong {
                length: name.len(),
                limit,
            });
        }
        if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidChannel::Character);
        }
        if let Some((namespace, _)) = name.split_once(':') {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            // `$` in front marks a private channel, not a part of the namespace's name.
            let bare = namespace.strip_prefix('$').unwrap_or(namespace);
            if bare.is_empty() || !bare.bytes().all(allowed) {
                return Err(InvalidChannel::Namespace);
            }
        }
        if let Some((_, users)) = name.rsplit_once('#') {
            let users: Vec<&str> = users.split(',').collect();
            let sorted = users.is_sorted_by(|a, b| a < b);
            if !sorted || users.iter().any(|user| user.is_empty()) {
                return Err(InvalidChannel::Users);
            }
        }
        Ok(Self(name.into()))
    }

    /// The part before the first `:`, without a private channel's `$`.
    pub fn namespace(&self) -> Option<&str> {
        namespace_of(&self.0)
    }

    /// Each member's inbox channel, where this is a conversation (`dm:#alice,bob`): what is said in it
    /// is entered there too. `None` for anything else, an inbox itself included.
    pub fn inboxes(&self) -> Option<impl Iterator<Item = ChannelName>> {
        let (conversation, users) = self.0.rsplit_once('#')?;
        let users = (!conversation.is_empty()).then_some(users)?;
        Some(users.split(',').filter_map(Self::inbox))
    }

    /// A user's own inbox channel, `#alice`; `None` where the user's id cannot stand in a name.
    pub fn inbox(user: &str) -> Option<Self> {
        let name = format!("#{user}");
        let is_one_user = !user.contains([',', '#', ':']);
        is_one_user
            .then(|| Self::parse(&name, MAX_CHANNEL_LENGTH).ok())
            .flatten()
    }

    /// The users who may be there; `None` where the name does not limit them.
    pub fn users(&self) -> Option<impl Iterator<Item = &str>> {
        let (_, users) = self.0.rsplit_once('#')?;
        Some(users.split(','))
    }

    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Count and hash of a set of channels, so that two sides can tell whether they hold the same without
/// sending it (rules K2, K5). Adding and removing commute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChannelSet {
    /// How many.
    pub count: u32,
    /// The sum of their hashes, which wraps.
    pub hash: u64,
}

impl ChannelSet {
    /// A channel that was not in the set enters it.
    pub fn insert(&mut self, channel: &str) {
        self.count = self.count.wrapping_add(1);
        self.hash = self.hash.wrapping_add(hash(channel));
    }

    /// A channel that was in the set leaves it.
    pub fn remove(&mut self, channel: &str) {
        self.count = self.count.wrapping_sub(1);
        self.hash = self.hash.wrapping_sub(hash(channel));
    }
}

fn hash(channel: &str) -> u64 {
    // Seeded, so that it shares nothing with the hash that chose the shard.
    xxhash_rust::xxh3::xxh3_64_with_seed(channel.as_bytes(), 0x5b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_compared_by_what_is_in_them() {
        let mut one = ChannelSet::default();
        let mut other = ChannelSet::default();
        one.insert("a");
        one.insert("b");
        other.insert("b");
        assert_ne!(one, other);
        other.insert("c");
        assert_ne!(one, other, "as many, but others");
        other.remove("c");
        other.insert("a");
        assert_eq!(one, other, "in another order");
    }

    fn parse(name: &str) -> Result<ChannelName, InvalidChannel> {
        ChannelName::parse(name, MAX_CHANNEL_LENGTH)
    }

    #[test]
    fn parts_of_a_name() {
        let room = parse("room:42").unwrap();
        assert_eq!(room.namespace(), Some("room"));
        assert!(room.users().is_none());
        let conversation = parse("dm:#alice,bob").unwrap();
        assert_eq!(conversation.namespace(), Some("dm"));
        assert_eq!(
            conversation.users().unwrap().collect::<Vec<_>>(),
            ["alice", "bob"]
        );
        let inbox = parse("#alice").unwrap();
        assert_eq!(inbox.namespace(), None);
        assert_eq!(inbox.users().unwrap().collect::<Vec<_>>(), ["alice"]);
        let inboxes: Vec<_> = conversation
            .inboxes()
            .unwrap()
            .map(|inbox| inbox.to_string())
            .collect();
        assert_eq!(inboxes, ["#alice", "#bob"]);
        assert!(inbox.inboxes().is_none(), "an inbox has no inboxes");
        assert_eq!(ChannelName::inbox("alice"), Some(inbox.clone()));
        for none in ["", "a,b", "a#b", "a b", "ä", &"x".repeat(255)] {
            assert_eq!(ChannelName::inbox(none), None, "{none}");
        }
        assert!(room.inboxes().is_none());
        assert_eq!(parse("$broadcast").unwrap().namespace(), None);
        assert_eq!(parse("$room:1").unwrap().namespace(), Some("room"));
        assert_eq!(parse("a:b:c").unwrap().namespace(), Some("a"));
    }

    #[test]
    fn what_is_not_a_name() {
        assert_eq!(parse(""), Err(InvalidChannel::Empty));
        assert_eq!(
            parse(&"x".repeat(256)),
            Err(InvalidChannel::TooLong {
                length: 256,
                limit: 255
            })
        );
        assert_eq!(parse("a b"), Err(InvalidChannel::Character));
        assert_eq!(parse("a\nb"), Err(InvalidChannel::Character));
        assert_eq!(parse("müll"), Err(InvalidChannel::Character));
        assert_eq!(parse(":a"), Err(InvalidChannel::Namespace));
        assert_eq!(parse("a/b:c"), Err(InvalidChannel::Namespace));
        assert_eq!(parse("dm:#"), Err(InvalidChannel::Users));
        assert_eq!(parse("dm:#bob,alice"), Err(InvalidChannel::Users));
        assert_eq!(parse("dm:#bob,bob"), Err(InvalidChannel::Users));
        assert_eq!(parse("dm:#bob,"), Err(InvalidChannel::Users));
    }
}
