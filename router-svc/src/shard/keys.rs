//! Idempotency keys: a second message with the same key, from the same sender to the same channel, is
//! the first (P5, P6). No I/O and no clock.
//!
//! Invariants, each with a test below:
//! * A key enters when its message is queued, so that a second one cannot slip in before the first is
//!   stored; a message that is withdrawn takes its key with it.
//! * A key younger than the window is never forgotten: at the bound, new ones are refused.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::maps::HashMap;
use bytes::Bytes;
use switchboard_proto::bus::Message;
use switchboard_proto::ids::Offset;

/// Whose key it is, for which channel (P6).
pub(crate) type KeyName = Arc<str>;

/// The name of a message's key; `None` where it has none.
pub(crate) fn name(message: &Message) -> Option<KeyName> {
    if message.key.is_empty() {
        return None;
    }
    // A user's on all of her connections, an anonymous client's on its own. With the lengths, no choice
    // of names makes one sender's key another's.
    let (kind, who) = match &message.sender {
        Some(sender) if sender.user.is_empty() => ('c', sender.client.as_str()),
        Some(sender) => ('u', sender.user.as_str()),
        None => ('s', ""),
    };
    let channel = &message.channel;
    let key = &message.key;
    Some(format!("{kind}{}:{who}{}:{channel}{key}", who.len(), channel.len()).into())
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// Its message is on the way into the log.
    Queued,
    /// Its message is stored.
    Stored {
        offset: Offset,
        /// The message's id.
        id: Bytes,
        /// When, in Unix microseconds.
        time_us: u64,
    },
}

/// See the module.
pub(crate) struct Keys {
    keys: HashMap<KeyName, Key>,
    /// Stored keys, oldest first.
    order: VecDeque<(u64, KeyName)>,
    window_us: u64,
    limit: usize,
}

impl Keys {
    /// A table of at most `limit` keys, each kept for `window_us` microseconds.
    pub(crate) fn new(window_us: u64, limit: usize) -> Self {
        Self {
            keys: HashMap::default(),
            order: VecDeque::new(),
            window_us,
            limit,
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Key> {
        self.keys.get(name)
    }

    /// A message with this key is queued. `false`: the table is full, refuse it.
    pub(crate) fn queue(&mut self, name: KeyName) -> bool {
        if self.keys.len() >= self.limit {
            return false;
        }
        self.keys.insert(name, Key::Queued);
        true
    }

    /// The message will not be stored.
    pub(crate) fn withdraw(&mut self, name: &str) {
        if self.keys.get(name) == Some(&Key::Queued) {
            self.keys.remove(name);
        }
    }

    /// The message is stored, by a record of `time_us`. The limit does not hold here: what is stored is
    /// known.
    pub(crate) fn stored(&mut self, name: KeyName, offset: Offset, id: Bytes, time_us: u64) {
        self.keys
            .insert(Arc::clone(&name), Key::Stored { offset, id, time_us });
        self.order.push_back((time_us, name));
    }

    /// A key from before the tail, read back after a take-over. Of two the newer counts, also where both
    /// are read back: the reading begins before the window, so a key may have been used again in it.
    pub(crate) fn older(&mut self, name: KeyName, offset: Offset, id: Bytes, time_us: u64) {
        match self.keys.get(&name) {
            Some(Key::Stored { offset: known, .. }) if *known < offset => {}
            Some(_) => return,
            None => {}
        }
        self.keys
            .insert(Arc::clone(&name), Key::Stored { offset, id, time_us });
        // Not quite in order: it only makes some younger ones stay a little longer.
        self.order.push_front((time_us, name));
    }

    /// Forgets keys that are older than the window.
    pub(crate) fn tick(&mut self, now_us: u64) {
        while let Some((time_us, name)) = self
            .order
            .pop_front_if(|(time_us, _)| now_us.saturating_sub(*time_us) > self.window_us)
        {
            // One that was used again after its window stands in the order a second time.
            if matches!(self.keys.get(&name), Some(Key::Stored { time_us: at, .. }) if *at == time_us) {
                self.keys.remove(&name);
            }
        }
    }

    /// Keys in the table, for metrics.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use switchboard_proto::bus::Sender;
    use switchboard_proto::ids::Sequence;

    use super::*;

    const SECOND: u64 = 1_000_000;

    fn message(user: &str, client: &str, channel: &str, key: &str) -> Message {
        Message {
            channel: channel.to_owned(),
            key: key.to_owned(),
            sender: Some(Sender {
                user: user.to_owned(),
                client: client.to_owned(),
                ..Sender::default()
            }),
            ..Message::default()
        }
    }

    fn key(text: &str) -> KeyName {
        text.into()
    }

    fn at(sequence: u64) -> Offset {
        Offset::new(Sequence(sequence), 0)
    }

    #[test]
    fn p6_keys_belong_to_a_user_and_a_channel() {
        let alice = name(&message("alice", "1", "room:1", "k")).unwrap();
        assert_eq!(
            name(&message("alice", "2", "room:1", "k")).unwrap(),
            alice,
            "on all her devices"
        );
        for (user, client, channel, key) in [
            ("bob", "1", "room:1", "k"),
            ("alice", "1", "room:2", "k"),
            ("alice", "1", "room:1", "l"),
            ("", "1", "room:1", "k"),
            ("alic", "1", "eroom:1", "k"),
            ("alice", "1", "room:", "1k"),
        ] {
            assert_ne!(name(&message(user, client, channel, key)).unwrap(), alice);
        }
        let anonymous = name(&message("", "1", "room:1", "k")).unwrap();
        assert_ne!(name(&message("", "2", "room:1", "k")).unwrap(), anonymous);
        assert_eq!(name(&message("alice", "1", "room:1", "")), None);
    }

    #[test]
    fn p5_a_key_is_there_from_the_queue_on_and_goes_with_a_withdrawal() {
        let mut keys = Keys::new(300 * SECOND, 10);
        assert!(keys.queue(key("a")));
        assert_eq!(keys.get("a"), Some(&Key::Queued));
        keys.withdraw("a");
        assert_eq!(keys.get("a"), None);
        assert!(keys.queue(key("a")));
        keys.stored(key("a"), at(5), Bytes::from_static(b"id"), 0);
        keys.withdraw("a");
        assert!(matches!(keys.get("a"), Some(Key::Stored { offset, .. }) if *offset == at(5)));
    }

    #[test]
    fn p5_a_young_key_is_never_forgotten_new_ones_are_refused() {
        let mut keys = Keys::new(300 * SECOND, 2);
        for text in ["a", "b"] {
            assert!(keys.queue(key(text)));
            keys.stored(key(text), at(5), Bytes::new(), 0);
        }
        assert!(!keys.queue(key("c")));
        keys.tick(300 * SECOND);
        assert!(!keys.queue(key("c")), "just as old as the window");
        keys.tick(300 * SECOND + 1);
        assert_eq!(keys.len(), 0);
        assert!(keys.queue(key("c")));
    }

    #[test]
    fn keys_read_back_do_not_hide_newer_ones() {
        let mut keys = Keys::new(300 * SECOND, 10);
        keys.stored(key("a"), at(9), Bytes::new(), 100 * SECOND);
        keys.older(key("a"), at(3), Bytes::new(), 10 * SECOND);
        keys.older(key("b"), at(4), Bytes::new(), 20 * SECOND);
        assert!(matches!(keys.get("a"), Some(Key::Stored { offset, .. }) if *offset == at(9)));
        assert!(matches!(keys.get("b"), Some(Key::Stored { offset, .. }) if *offset == at(4)));
        keys.tick(320 * SECOND + 1);
        assert_eq!(keys.get("b"), None);
        assert!(keys.get("a").is_some());
    }

    #[test]
    fn p5_of_two_uses_that_are_read_back_the_younger_is_known() {
        let mut keys = Keys::new(300 * SECOND, 10);
        keys.older(key("a"), at(3), Bytes::from_static(b"1"), 10 * SECOND);
        keys.older(key("a"), at(4), Bytes::from_static(b"2"), 320 * SECOND);
        keys.tick(330 * SECOND);
        assert!(
            matches!(keys.get("a"), Some(Key::Stored { offset, .. }) if *offset == at(4)),
            "used ten seconds ago"
        );
        keys.tick(620 * SECOND + 1);
        assert_eq!((keys.get("a"), keys.len()), (None, 0));
    }
}
