//! The channels of one session: which it asked for and which it has.
//!
//! The session's task enters and takes out channels; links say how it went. Each request carries the
//! id of its `subscribe` command, because a client may subscribe, unsubscribe and subscribe again
//! before the link has seen the first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::ErrorCode;

/// See the module.
pub(crate) struct Subscriptions {
    channels: Mutex<HashMap<ChannelName, Subscription>>,
    /// Set with `channels` locked: backends ask from other tasks, also when the session is over.
    is_over: AtomicBool,
    limit: usize,
}

struct Subscription {
    /// The `subscribe` command, or for one of the server's the `connect` command.
    command: u32,
    /// The link took it up.
    running: bool,
    by: By,
}

/// Who asked for a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The client. `or_error`: it wants error 112 rather than a subscription that could not recover.
    /// `is_durable`: what is published there is stored, so that there is a position to go on from.
    /// `hears_joins`: it asked to be told who joins and leaves, and may be.
    Client {
        or_error: bool,
        is_durable: bool,
        hears_joins: bool,
    },
    /// The server: it comes with the connect reply, and the connection ends with it. `is_durable` as above.
    Server { is_durable: bool },
    /// A backend, while the connection lasts, through the server API; otherwise as the server's.
    Backend { is_durable: bool },
}

impl Subscriptions {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            channels: Mutex::default(),
            is_over: AtomicBool::new(false),
            limit,
        }
    }

    /// Enters what is asked for, before the link is asked. [`ErrorCode::Expired`]: the session is over.
    pub(super) fn begin(&self, channel: &ChannelName, command: u32, by: By) -> Result<(), ErrorCode> {
        let mut channels = self.channels.lock();
        if self.is_over.load(Ordering::Relaxed) {
            return Err(ErrorCode::Expired);
        }
        let full = channels.len() >= self.limit;
        match channels.entry(channel.clone()) {
            Entry::Occupied(_) => Err(ErrorCode::AlreadySubscribed),
            Entry::Vacant(_) if full => Err(ErrorCode::LimitExceeded),
            Entry::Vacant(entry) => {
                entry.insert(Subscription {
                    command,
                    running: false,
                    by,
                });
                Ok(())
            }
        }
    }

    /// How many there are, and how many there may be.
    pub(super) fn fill(&self) -> (usize, usize) {
        (self.channels.lock().len(), self.limit)
    }

    /// Whether the client asked for the channel and did not give it up.
    pub(super) fn holds(&self, channel: &ChannelName) -> bool {
        self.channels.lock().contains_key(channel)
    }

    /// All of them, and who asked for each.
    pub(super) fn all(&self) -> Vec<(ChannelName, By)> {
        let channels = self.channels.lock();
        channels
            .iter()
            .map(|(channel, subscription)| (channel.clone(), subscription.by))
            .collect()
    }

    /// The channel, where the client asked for it and did not give it up.
    pub(super) fn held(&self, channel: &str) -> Option<ChannelName> {
        let channels = self.channels.lock();
        channels
            .get_key_value(channel)
            .map(|(channel, _)| channel.clone())
    }

    /// Whether the server subscribed the session to the channel.
    pub(super) fn is_the_servers(&self, channel: &str) -> bool {
        let channels = self.channels.lock();
        let by = channels.get(channel).map(|subscription| subscription.by);
        matches!(by, Some(By::Server { .. } | By::Backend { .. }))
    }

    /// The client gives the channel up. The name, where the link has to be asked to end it: nothing may come
    /// between, or the session's end would not find the channel.
    pub(super) fn give_up(&self, channel: &str) -> Option<ChannelName> {
        let (channel, _) = self.channels.lock().remove_entry(channel)?;
        Some(channel)
    }

    /// The link takes command `command` up. Who asked for it; `None`: nobody any more.
    pub(super) fn subscribed(&self, channel: &ChannelName, command: u32) -> Option<By> {
        let mut channels = self.channels.lock();
        let asked = channels
            .get_mut(channel)
            .filter(|asked| asked.command == command)?;
        asked.running = true;
        Some(asked.by)
    }

    /// The command failed. Who asked for it; `None`: nobody any more.
    pub(super) fn refused(&self, channel: &ChannelName, command: u32) -> Option<By> {
        let mut channels = self.channels.lock();
        let is_meant = channels
            .get(channel)
            .is_some_and(|asked| asked.command == command);
        if !is_meant {
            return None;
        }
        channels.remove(channel).map(|asked| asked.by)
    }

    /// A running subscription ended from our side. Who asked for it; `None`: it was given up already.
    pub(super) fn lost(&self, channel: &ChannelName) -> Option<By> {
        let mut channels = self.channels.lock();
        // One that does not run yet is a later request, which the link will still answer.
        let running = channels.get(channel).is_some_and(|asked| asked.running);
        if !running {
            return None;
        }
        channels.remove(channel).map(|asked| asked.by)
    }

    /// The session is over and will begin none: all channels that links have to forget.
    pub(super) fn end(&self) -> Vec<ChannelName> {
        let mut channels = self.channels.lock();
        self.is_over.store(true, Ordering::Relaxed);
        std::mem::take(&mut *channels).into_keys().collect()
    }

    /// Those that links have taken up.
    pub(super) fn running(&self) -> Vec<ChannelName> {
        let channels = self.channels.lock();
        let running = channels.iter().filter(|(_, subscription)| subscription.running);
        running.map(|(channel, _)| channel.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: By = By::Client {
        or_error: false,
        is_durable: true,
        hears_joins: false,
    };

    fn room(name: &str) -> ChannelName {
        ChannelName::parse(name, 255).unwrap()
    }

    #[test]
    fn a_channel_is_held_once_also_while_it_is_asked_for() {
        let subscriptions = Subscriptions::new(2);
        let room = room("room");
        assert_eq!(subscriptions.begin(&room, 1, CLIENT), Ok(()));
        assert_eq!(
            subscriptions.begin(&room, 2, CLIENT),
            Err(ErrorCode::AlreadySubscribed)
        );
        assert_eq!(subscriptions.subscribed(&room, 1), Some(CLIENT));
        assert_eq!(
            subscriptions.begin(&room, 3, CLIENT),
            Err(ErrorCode::AlreadySubscribed)
        );
        assert_eq!(subscriptions.give_up("room"), Some(room.clone()));
        assert_eq!(subscriptions.give_up("room"), None);
        assert_eq!(subscriptions.begin(&room, 4, CLIENT), Ok(()));
    }

    #[test]
    fn channels_are_bounded_and_those_that_end_make_room() {
        let subscriptions = Subscriptions::new(2);
        let (a, b, c) = (room("a"), room("b"), room("c"));
        subscriptions.begin(&a, 1, CLIENT).unwrap();
        subscriptions.begin(&b, 2, CLIENT).unwrap();
        assert_eq!(subscriptions.begin(&c, 3, CLIENT), Err(ErrorCode::LimitExceeded));
        assert_eq!(
            subscriptions.begin(&a, 3, CLIENT),
            Err(ErrorCode::AlreadySubscribed)
        );
        subscriptions.refused(&a, 1);
        assert_eq!(subscriptions.begin(&c, 4, CLIENT), Ok(()));
    }

    #[test]
    fn what_became_of_an_earlier_request_does_not_touch_the_later() {
        let subscriptions = Subscriptions::new(2);
        let room = room("room");
        subscriptions.begin(&room, 1, CLIENT).unwrap();
        subscriptions.give_up("room");
        assert_eq!(
            subscriptions.subscribed(&room, 1),
            None,
            "the link must not keep it"
        );
        subscriptions.begin(&room, 3, CLIENT).unwrap();
        assert_eq!(subscriptions.subscribed(&room, 1), None);
        assert_eq!(subscriptions.refused(&room, 1), None);
        assert_eq!(subscriptions.lost(&room), None);
        assert_eq!(
            subscriptions.subscribed(&room, 3),
            Some(CLIENT),
            "the later one is untouched"
        );
        assert_eq!(subscriptions.lost(&room), Some(CLIENT));
        assert_eq!(subscriptions.lost(&room), None);
    }

    #[test]
    fn the_end_finds_all_and_links_find_none() {
        let subscriptions = Subscriptions::new(4);
        let (a, b) = (room("a"), room("b"));
        subscriptions.begin(&a, 1, CLIENT).unwrap();
        subscriptions.begin(&b, 2, CLIENT).unwrap();
        assert!(subscriptions.subscribed(&a, 1).is_some());
        let mut channels = subscriptions.end();
        channels.sort();
        assert_eq!(channels, [a, b.clone()]);
        assert_eq!(subscriptions.subscribed(&b, 2), None);
        let late = By::Backend { is_durable: true };
        assert_eq!(subscriptions.begin(&b, 3, late), Err(ErrorCode::Expired));
        assert!(subscriptions.end().is_empty(), "nothing begins behind the end");
    }
}
