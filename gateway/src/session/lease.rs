//! Until when a connection and its subscriptions may stay, where tokens limit that, and what those
//! tokens say of them. No clock inside: callers say what time it is.
//!
//! Commands enter what tokens grant, the session's task ends what was not renewed. A channel has a
//! lease here only while it is asked for or held, so there are never more than channels.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::SubscribeResult;
use tokio::time::Instant;

use crate::auth::{Overrides, Stamp, UnixTime};

/// Seconds that a client may be told, at most: timers of SDKs end near 24 days, and a year is as good
/// as for ever.
const LONGEST_TTL: u64 = 365 * 24 * 3600;

/// When something ends that may be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry {
    /// What clients are told.
    pub(super) at: Instant,
    /// From then to the end, in which it may still be renewed.
    pub(super) grace: Duration,
}

/// Times beyond are as good as for ever, and would not fit into every clock.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Expiry {
    /// By the wall clock.
    pub(super) fn of(at: UnixTime, grace: Duration) -> Self {
        Self {
            at: Instant::now() + at.after(UnixTime::now()).min(LONGEST),
            grace,
        }
    }

    fn end(self) -> Instant {
        self.at + self.grace
    }

    /// Whole seconds until then, at least 1: clients that are told 0 come back at once, and again.
    pub(super) fn ttl(self, now: Instant) -> u32 {
        let left = self.at.saturating_duration_since(now);
        let seconds = left.as_millis().div_ceil(1000).clamp(1, u128::from(LONGEST_TTL));
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

/// What a subscription token grants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Lease {
    /// `None`: never.
    pub(super) expiry: Option<Expiry>,
    /// JSON that goes with what the connection publishes in the channel.
    pub(super) info: Bytes,
    /// JSON for the `subscribe` result.
    pub(super) data: Bytes,
    /// What the subscription may promise of its position.
    pub(super) promise: Promise,
    /// Options of the channel that are different for this subscription.
    pub(super) overrides: Overrides,
    /// By what the token can be revoked; `None`: there was none.
    pub(super) stamp: Option<Stamp>,
    /// It was.
    pub(super) is_revoked: bool,
}

/// What a client is told of its place in a channel that is stored. Everything, if no token says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Promise {
    /// It may come back and be given what it missed.
    pub(super) recoverable: bool,
    /// It is told where it is.
    pub(super) positioned: bool,
}

impl Default for Promise {
    fn default() -> Self {
        Self {
            recoverable: true,
            positioned: true,
        }
    }
}

impl Promise {
    /// By the `override` of a token and what the client asks for itself: an option that is not forced is for
    /// who asks for it. Recovery needs a position.
    pub(super) fn new(overrides: Overrides, asked: Self) -> Self {
        let recoverable = overrides.force_recovery.unwrap_or(true) || asked.recoverable;
        let positioned = overrides.force_positioning.unwrap_or(true) || asked.positioned;
        Self {
            recoverable,
            positioned: positioned || recoverable,
        }
    }

    /// Takes out of a result what is not promised.
    fn limit(self, result: &mut SubscribeResult) {
        result.recoverable &= self.recoverable;
        result.positioned &= self.positioned;
        if !self.positioned {
            result.epoch = String::new();
            result.offset = 0;
        }
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Leases(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    connection: Option<Expiry>,
    /// With the `subscribe` command that asked for the channel.
    channels: HashMap<ChannelName, (u32, Lease)>,
    /// The first end of `channels`.
    next: Option<Instant>,
}

impl Inner {
    fn note_next(&mut self) {
        let ends = self.channels.values().filter_map(|(_, lease)| lease.expiry);
        self.next = ends.map(Expiry::end).min();
    }
}

impl Leases {
    /// The connection ends then; `None`: never.
    pub(super) fn connection(&self, expiry: Option<Expiry>) {
        self.0.lock().connection = expiry;
    }

    /// When the connection's time ends, grace included.
    pub(super) fn connection_end(&self) -> Option<Instant> {
        self.0.lock().connection.map(Expiry::end)
    }

    /// When the first subscription's time ends, grace included.
    pub(super) fn next_channel_end(&self) -> Option<Instant> {
        self.0.lock().next
    }

    /// Command `id` asks for `channel` with a token; `None`: without one.
    pub(super) fn enter(&self, channel: &ChannelName, id: u32, lease: Option<Lease>) {
        let mut inner = self.0.lock();
        match lease {
            Some(lease) => drop(inner.channels.insert(channel.clone(), (id, lease))),
            // Nothing is left of an earlier one.
            None => drop(inner.channels.remove(channel)),
        }
        inner.note_next();
    }

    /// A token renews the lease of a channel. Its `data` is not told again. `false`: there is none
    /// to renew.
    pub(super) fn renew(&self, channel: &ChannelName, lease: Lease) -> bool {
        let mut inner = self.0.lock();
        let Some((_, held)) = inner.channels.get_mut(channel) else {
            return false;
        };
        // These were told when the subscription was made, and hold as long as it does.
        *held = Lease {
            promise: held.promise,
            overrides: held.overrides,
            ..lease
        };
        inner.note_next();
        true
    }

    /// The channel is held no more.
    pub(super) fn forget(&self, channel: &str) {
        let mut inner = self.0.lock();
        if inner.channels.remove(channel).is_some() {
            inner.note_next();
        }
    }

    /// Command `id`, which asked for the channel, failed.
    pub(super) fn refused(&self, channel: &ChannelName, id: u32) {
        let mut inner = self.0.lock();
        if inner.channels.get(channel).is_some_and(|(asked, _)| *asked == id) {
            inner.channels.remove(channel);
            inner.note_next();
        }
    }

    /// The result of `subscribe` command `id`, with what its token granted.
    pub(super) fn granted(
        &self,
        channel: &ChannelName,
        id: u32,
        mut result: SubscribeResult,
        now: Instant,
    ) -> SubscribeResult {
        let inner = self.0.lock();
        let asked = inner.channels.get(channel).filter(|(asked, _)| *asked == id);
        if let Some((_, lease)) = asked {
            if let Some(expiry) = lease.expiry {
                result.expires = true;
                result.ttl = expiry.ttl(now);
            }
            if !lease.data.is_empty() {
                result.data = lease.data.clone();
            }
            lease.promise.limit(&mut result);
        }
        result
    }

    /// What goes with publications in `channel`; empty: nothing.
    pub(super) fn channel_info(&self, channel: &ChannelName) -> Bytes {
        let inner = self.0.lock();
        inner
            .channels
            .get(channel)
            .map(|(_, lease)| lease.info.clone())
            .unwrap_or_default()
    }

    /// Whether the channel is asked for or held with a token.
    pub(super) fn holds(&self, channel: &ChannelName) -> bool {
        self.0.lock().channels.contains_key(channel)
    }

    /// What the token of a subscription says differently from the channel's configuration.
    pub(super) fn overrides(&self, channel: &ChannelName) -> Overrides {
        let inner = self.0.lock();
        inner
            .channels
            .get(channel)
            .map(|(_, lease)| lease.overrides)
            .unwrap_or_default()
    }

    /// Ends now what was granted by such tokens. How many channels that are.
    pub(super) fn revoke(&self, such: impl Fn(&Stamp) -> bool, now: Instant) -> usize {
        let mut inner = self.0.lock();
        let mut revoked = 0;
        for (_, lease) in inner.channels.values_mut() {
            if !lease.is_revoked && lease.stamp.as_ref().is_some_and(&such) {
                lease.is_revoked = true;
                lease.expiry = Some(Expiry {
                    at: now,
                    grace: Duration::ZERO,
                });
                revoked += 1;
            }
        }
        if revoked > 0 {
            inner.note_next();
        }
        revoked
    }

    /// Takes out the channels whose time is over, and says whether their tokens were revoked.
    pub(super) fn take_ended(&self, now: Instant) -> Vec<(ChannelName, bool)> {
        let mut inner = self.0.lock();
        let is_over = |lease: &Lease| lease.expiry.is_some_and(|expiry| expiry.end() <= now);
        let ended: Vec<(ChannelName, bool)> = inner
            .channels
            .extract_if(|_, (_, lease)| is_over(lease))
            .map(|(channel, (_, lease))| (channel, lease.is_revoked))
            .collect();
        if !ended.is_empty() {
            inner.note_next();
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn room(name: &str) -> ChannelName {
        ChannelName::parse(name, 255).unwrap()
    }

    fn lease(at: Instant) -> Lease {
        let expiry = Expiry { at, grace: SECOND };
        Lease {
            expiry: Some(expiry),
            info: Bytes::from_static(b"1"),
            data: Bytes::from_static(b"2"),
            ..Lease::default()
        }
    }

    #[test]
    fn clients_are_told_whole_seconds_and_never_none() {
        let now = Instant::now();
        let ttl = |left| {
            let at = now + left;
            Expiry { at, grace: SECOND }.ttl(now)
        };
        assert_eq!(ttl(Duration::ZERO), 1);
        assert_eq!(ttl(Duration::from_millis(1001)), 2);
        assert_eq!(ttl(SECOND * 60), 60);
        assert_eq!(u64::from(ttl(SECOND * 1_000_000_000)), LONGEST_TTL);
        let past = Expiry {
            at: now,
            grace: SECOND,
        };
        assert_eq!(past.ttl(now + SECOND), 1);
    }

    #[test]
    fn what_is_not_renewed_ends_behind_its_grace_and_only_that() {
        let now = Instant::now();
        let leases = Leases::default();
        leases.enter(&room("a"), 1, Some(lease(now + SECOND)));
        leases.enter(&room("b"), 2, Some(lease(now + SECOND * 5)));
        leases.enter(&room("c"), 3, Some(Lease::default()));
        assert_eq!(leases.next_channel_end(), Some(now + SECOND * 2));
        assert!(leases.take_ended(now + SECOND).is_empty(), "grace");
        assert_eq!(leases.take_ended(now + SECOND * 2), [(room("a"), false)]);
        assert!(leases.take_ended(now + SECOND * 2).is_empty());
        assert_eq!(leases.next_channel_end(), Some(now + SECOND * 6));
        assert!(leases.renew(&room("b"), lease(now + SECOND * 9)));
        assert!(!leases.renew(&room("a"), lease(now)), "it is over");
        assert_eq!(leases.next_channel_end(), Some(now + SECOND * 10));
        leases.forget("b");
        assert_eq!(leases.next_channel_end(), None);
    }

    /// As the flags of a request and of a token go together in the protocol.
    #[test]
    fn what_a_token_does_not_force_is_for_who_asks_for_it() {
        let promise = |recovery, positioning, asked: (bool, bool)| {
            let overrides = Overrides {
                force_recovery: recovery,
                force_positioning: positioning,
                ..Overrides::default()
            };
            let (recoverable, positioned) = asked;
            let asked = Promise {
                recoverable,
                positioned,
            };
            let promise = Promise::new(overrides, asked);
            (promise.recoverable, promise.positioned)
        };
        let nothing = (false, false);
        assert_eq!(promise(None, None, nothing), (true, true));
        assert_eq!(promise(Some(true), Some(false), nothing), (true, true));
        assert_eq!(promise(Some(false), None, nothing), (false, true));
        assert_eq!(promise(Some(false), Some(false), nothing), (false, false));
        assert_eq!(promise(Some(false), Some(false), (false, true)), (false, true));
        assert_eq!(promise(Some(false), Some(false), (true, false)), (true, true));
    }

    #[test]
    fn a_result_promises_no_more_than_the_token_allows() {
        let now = Instant::now();
        let full = SubscribeResult {
            recoverable: true,
            positioned: true,
            epoch: "1-0".to_owned(),
            offset: 9,
            ..SubscribeResult::default()
        };
        let result = |recoverable, positioned| {
            let leases = Leases::default();
            let promise = Promise {
                recoverable,
                positioned,
            };
            let overrides = Overrides {
                presence: Some(true),
                ..Overrides::default()
            };
            let lease = Lease {
                promise,
                overrides,
                ..Lease::default()
            };
            leases.enter(&room("a"), 1, Some(lease));
            let result = leases.granted(&room("a"), 1, full.clone(), now);
            // A refresh changes nothing of it.
            assert!(leases.renew(&room("a"), Lease::default()));
            assert_eq!(leases.granted(&room("a"), 1, full.clone(), now), result);
            assert_eq!(leases.overrides(&room("a")), overrides);
            result
        };
        assert_eq!(result(true, true), full);
        let positioned = SubscribeResult {
            recoverable: false,
            ..full.clone()
        };
        assert_eq!(result(false, true), positioned);
        assert_eq!(result(false, false), SubscribeResult::default());
        // What is not stored promises nothing, whatever a token says.
        let leases = Leases::default();
        leases.enter(&room("a"), 1, Some(Lease::default()));
        let none = SubscribeResult::default();
        assert_eq!(leases.granted(&room("a"), 1, none.clone(), now), none);
    }

    #[test]
    fn the_answer_to_a_subscribe_says_what_its_token_grants() {
        let now = Instant::now();
        let leases = Leases::default();
        leases.enter(&room("a"), 7, Some(lease(now + SECOND * 9)));
        let plain = SubscribeResult {
            offset: 4,
            ..SubscribeResult::default()
        };
        assert_eq!(leases.granted(&room("a"), 8, plain.clone(), now), plain);
        let result = leases.granted(&room("a"), 7, plain.clone(), now);
        assert_eq!((result.expires, result.ttl, result.offset), (true, 9, 4));
        assert_eq!(result.data, "2");
        assert_eq!(leases.channel_info(&room("a")), "1");
        // A request that failed takes nothing of a later one with it.
        leases.enter(&room("a"), 9, Some(lease(now)));
        leases.refused(&room("a"), 7);
        assert!(leases.granted(&room("a"), 9, plain.clone(), now).expires);
        leases.refused(&room("a"), 9);
        assert_eq!(leases.granted(&room("a"), 9, plain.clone(), now), plain);
        assert_eq!(leases.channel_info(&room("a")), "");
    }
}
