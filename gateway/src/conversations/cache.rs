//! Who is known to be a member, and for how long that is believed. No I/O and no clock.
//!
//! What must hold, each with a test:
//! * What an event says counts from then on: what the store says counts only if it knew that event.
//! * It is bounded. Where that makes it forget an event, whoever asked the store before is told to ask again.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use switchboard_proto::bus::MemberRole;
use switchboard_proto::ids::{LogEpoch, Offset};
use tokio::time::Instant;

/// A place in a channel's history.
pub(crate) type Place = (LogEpoch, Offset);

/// What an event says is known at least so long: longer than any question to the store takes.
const EVENT: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Cache {
    entries: LruCache<Box<str>, Entry>,
    ttl: Duration,
    /// Events that were forgotten before their time.
    forgotten: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    role: Option<MemberRole>,
    /// The newest event that it knows of; `None`: there was none.
    as_of: Option<Place>,
    until: Instant,
    is_event: bool,
}

impl Cache {
    /// `capacity` entries, each believed for `ttl`.
    pub(super) fn new(capacity: NonZeroUsize, ttl: Duration) -> Self {
        Self {
            entries: LruCache::new(capacity),
            ttl,
            forgotten: 0,
        }
    }

    /// What the user is in the channel; `None`: it is not known.
    pub(super) fn role(&mut self, channel: &str, user: &str, now: Instant) -> Option<Option<MemberRole>> {
        let entry = self.entries.get(&*key(channel, user))?;
        (entry.until > now).then_some(entry.role)
    }

    /// Changes whenever an event was forgotten that an answer of the store may not know yet.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Takes what the store says, which knows events up to `as_of`. What the user is, after all that is known.
    pub(super) fn answered(
        &mut self,
        channel: &str,
        user: &str,
        role: Option<MemberRole>,
        as_of: Option<Place>,
        now: Instant,
    ) -> Option<MemberRole> {
        let entry = Entry {
            role,
            as_of,
            until: now + self.ttl,
            is_event: false,
        };
        self.learn(channel, user, entry, now)
    }

    /// Takes what the event at `place` says.
    pub(super) fn told(
        &mut self,
        channel: &str,
        user: &str,
        role: Option<MemberRole>,
        place: Place,
        now: Instant,
    ) {
        let entry = Entry {
            role,
            as_of: Some(place),
            until: now + self.ttl.max(EVENT),
            is_event: true,
        };
        self.learn(channel, user, entry, now);
    }

    fn learn(&mut self, channel: &str, user: &str, entry: Entry, now: Instant) -> Option<MemberRole> {
        let key = key(channel, user);
        if let Some(known) = self.entries.peek(&*key)
            && known.until > now
            && known.as_of > entry.as_of
        {
            return known.role;
        }
        let is_full = self.entries.len() == self.entries.cap().get();
        if is_full && !self.entries.contains(&*key) {
            let oldest = self.entries.pop_lru();
            if oldest.is_some_and(|(_, oldest)| oldest.is_event && oldest.until > now) {
                self.forgotten += 1;
            }
        }
        self.entries.put(key, entry);
        entry.role
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// No name of a channel holds a zero byte.
fn key(channel: &str, user: &str) -> Box<str> {
    format!("{channel}\0{user}").into()
}

#[cfg(test)]
mod tests {
    use switchboard_proto::ids::Sequence;

    use super::*;

    const MEMBER: Option<MemberRole> = Some(MemberRole::Member);

    fn cache(capacity: usize) -> (Cache, Instant) {
        let capacity = NonZeroUsize::new(capacity).unwrap();
        (Cache::new(capacity, Duration::from_secs(20)), Instant::now())
    }

    fn at(sequence: u64) -> Place {
        let log = LogEpoch {
            ordinal: 1,
            random: 1,
        };
        (log, Offset::new(Sequence(sequence), 0))
    }

    #[test]
    fn what_the_store_says_is_believed_for_a_while() {
        let (mut cache, now) = cache(9);
        assert_eq!(cache.role("room", "bob", now), None);
        assert_eq!(cache.answered("room", "bob", MEMBER, Some(at(1)), now), MEMBER);
        assert_eq!(cache.role("room", "bob", now), Some(MEMBER));
        assert_eq!(cache.role("room", "bo", now), None);
        assert_eq!(cache.role("room", "bob", now + Duration::from_secs(20)), None);
        cache.answered("room", "eve", None, None, now);
        assert_eq!(cache.role("room", "eve", now), Some(None));
    }

    #[test]
    fn an_answer_that_did_not_know_the_event_does_not_count() {
        let (mut cache, now) = cache(9);
        cache.told("room", "bob", None, at(5), now);
        assert_eq!(cache.answered("room", "bob", MEMBER, Some(at(4)), now), None);
        assert_eq!(cache.role("room", "bob", now), Some(None));
        cache.told("room", "bob", MEMBER, at(3), now);
        assert_eq!(cache.role("room", "bob", now), Some(None), "an older event");
        assert_eq!(cache.answered("room", "bob", MEMBER, Some(at(6)), now), MEMBER);
        let next = (
            LogEpoch {
                ordinal: 2,
                random: 0,
            },
            Offset::new(Sequence(1), 0),
        );
        cache.told("room", "bob", None, next, now);
        assert_eq!(
            cache.role("room", "bob", now),
            Some(None),
            "a new life of the log"
        );
    }

    #[test]
    fn an_event_that_had_to_be_forgotten_is_told() {
        let (mut cache, now) = cache(2);
        cache.told("room", "a", None, at(1), now);
        cache.answered("room", "b", MEMBER, None, now);
        assert_eq!(cache.forgotten(), 0);
        cache.answered("room", "c", MEMBER, None, now);
        assert_eq!(cache.forgotten(), 1);
        cache.answered("room", "d", MEMBER, None, now);
        assert_eq!(cache.forgotten(), 1, "what the store says may be forgotten");
        assert_eq!(cache.len(), 2);
    }
}
