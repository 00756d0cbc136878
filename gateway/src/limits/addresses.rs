//! Connections by address: how many there are, and how quickly they come.
//!
//! An IPv6 address counts as its /64 network: that is the least a customer is given, and all of it is
//! the same customer's.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::LimitsConfig;
use super::token_bucket::{Rate, TokenBucket};

/// What a connection is, as far as its address is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Accepted, and no WebSocket.
    Http,
    /// A WebSocket.
    WebSocket,
}

/// Clients choose the keys, so hashing is the standard library's, which resists collisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key(IpAddr);

impl From<IpAddr> for Key {
    fn from(address: IpAddr) -> Self {
        const NETWORK: u128 = !0 << 64;
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// See the module.
pub(crate) struct Addresses {
    http: Option<usize>,
    websockets: Option<usize>,
    rate: Option<Rate>,
    remembered: usize,
    state: Mutex<State>,
}

struct State {
    /// Connections there are. Never 0: it has no more entries than there are connections.
    held: HashMap<(Key, Kind), usize>,
    /// Full ones too, as long as nobody else needs the place. Not made for its full size at once.
    buckets: LruCache<Key, TokenBucket, RandomState>,
}

impl Addresses {
    pub(crate) fn new(config: &LimitsConfig) -> Arc<Self> {
        Arc::new(Self {
            http: config.http_connections_per_address,
            websockets: config.connections_per_address,
            rate: config.connects,
            remembered: config.addresses,
            state: Mutex::new(State {
                held: HashMap::new(),
                buckets: LruCache::unbounded_with_hasher(RandomState::new()),
            }),
        })
    }

    /// A new connection comes from `address`. `false`: they come too quickly.
    pub(crate) fn arrives(&self, address: IpAddr, now: Instant) -> bool {
        let Some(rate) = &self.rate else {
            return true;
        };
        let mut state = self.state.lock();
        let bucket = state
            .buckets
            .get_or_insert_mut(address.into(), || TokenBucket::new(now));
        let allowed = bucket.take(rate, now);
        if state.buckets.len() > self.remembered {
            state.buckets.pop_lru();
        }
        allowed
    }

    /// Counts a connection of `address` for as long as the slot lives. `None`: there are as many as
    /// there may be.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr, kind: Kind) -> Option<AddressSlot> {
        let limit = match kind {
            Kind::Http => self.http,
            Kind::WebSocket => self.websockets,
        };
        let Some(limit) = limit else {
            return Some(AddressSlot(None));
        };
        let key = (Key::from(address), kind);
        let mut state = self.state.lock();
        let held = state.held.entry(key).or_insert(0);
        if *held >= limit {
            // At least 1 is held, as no limit is 0.
            return None;
        }
        *held += 1;
        Some(AddressSlot(Some((Arc::clone(self), key))))
    }

    fn give_back(&self, key: (Key, Kind)) {
        let mut state = self.state.lock();
        if let Entry::Occupied(mut held) = state.held.entry(key) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        // A flood's memory is not kept after it.
        if state.held.capacity() > 1024 && state.held.len() < state.held.capacity() / 8 {
            let kept = state.held.len() * 2;
            state.held.shrink_to(kept);
        }
    }
}

/// A connection that counts for its address.
#[must_use = "the connection is counted as long as this lives"]
pub(crate) struct AddressSlot(Option<(Arc<Addresses>, (Key, Kind))>);

impl Drop for AddressSlot {
    fn drop(&mut self) {
        if let Some((addresses, key)) = self.0.take() {
            addresses.give_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn addresses(websockets: usize, connects: Option<Rate>, remembered: usize) -> Arc<Addresses> {
        Arc::new(Addresses {
            http: None,
            websockets: Some(websockets),
            rate: connects,
            remembered,
            state: Mutex::new(State {
                held: HashMap::new(),
                buckets: LruCache::unbounded_with_hasher(RandomState::new()),
            }),
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_slot_counts_while_it_lives() {
        let addresses = addresses(2, None, 16);
        let take = |address| addresses.take(ip(address), Kind::WebSocket);
        let one = take("192.0.2.1").unwrap();
        let other = take("::ffff:192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());
        assert!(
            addresses.take(ip("192.0.2.1"), Kind::Http).is_some(),
            "another kind"
        );
        let elsewhere = take("192.0.2.2").unwrap();
        drop(one);
        let again = take("192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());
        drop((other, elsewhere, again));
        assert!(addresses.state.lock().held.is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let addresses = addresses(1, None, 16);
        let _one = addresses.take(ip("2001:db8:0:1::1"), Kind::WebSocket).unwrap();
        assert!(
            addresses
                .take(ip("2001:db8:0:1:ffff::2"), Kind::WebSocket)
                .is_none()
        );
        assert!(addresses.take(ip("2001:db8:0:2::1"), Kind::WebSocket).is_some());
    }

    #[test]
    fn who_comes_too_quickly_has_to_wait_and_nobody_else() {
        let addresses = addresses(1, Rate::new(1, 2), 16);
        let now = Instant::now();
        let arrives = |address, now| addresses.arrives(ip(address), now);
        assert!(arrives("192.0.2.1", now) && arrives("192.0.2.1", now));
        assert!(!arrives("192.0.2.1", now));
        assert!(arrives("192.0.2.2", now));
        assert!(arrives("192.0.2.1", now + Duration::from_secs(1)));
    }

    #[test]
    fn the_address_not_seen_for_longest_is_forgotten() {
        let addresses = addresses(1, Rate::new(1, 1), 2);
        let now = Instant::now();
        let arrives = |address| addresses.arrives(ip(address), now);
        assert!(arrives("192.0.2.1"));
        assert!(arrives("192.0.2.2"));
        // Seen again, if only to be refused.
        assert!(!arrives("192.0.2.1"));
        assert!(arrives("192.0.2.3"));
        assert!(!arrives("192.0.2.1"));
        assert!(arrives("192.0.2.2"), "forgotten");
        assert_eq!(addresses.state.lock().buckets.len(), 2);
    }
}
