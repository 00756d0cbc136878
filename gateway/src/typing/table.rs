//! Who types where, and of whom others are to be told when. No I/O and no clock.
//!
//! A user may type at several connections, and types as long as any of them does. Others are told one thing at a time about one
//! user in one channel, so that a stop never overtakes its start; what has changed meanwhile is told behind that.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use switchboard_proto::channel::ChannelName;
use tokio::time::Instant;

use super::TypingConfig;

/// A user in a channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Typist(Arc<(ChannelName, Box<str>)>);

impl Typist {
    pub(super) fn new(channel: &ChannelName, user: &str) -> Self {
        Self(Arc::new((channel.clone(), user.into())))
    }

    pub(super) fn channel(&self) -> &ChannelName {
        &self.0.0
    }

    pub(super) fn user(&self) -> &str {
        &self.0.1
    }
}

/// What others are to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) typist: Typist,
    /// For how long he types if nothing more is said; `None`: he types no more.
    pub(super) lasts: Option<Duration>,
}

/// What is known of one typist.
#[derive(Debug, Default)]
struct Entry {
    /// The sessions at which he types, and until when.
    sessions: Vec<(u64, Instant)>,
    /// A start came that others were not told of.
    is_fresh: bool,
    /// Others think that he types.
    is_told: bool,
    /// When they were last told of a start.
    last_start: Option<Instant>,
    /// Others are being told something just now.
    is_being_told: bool,
    /// When he has to be looked at; `None`: not before others were told.
    alarm: Option<Instant>,
}

impl Entry {
    fn until(&self) -> Option<Instant> {
        self.sessions.iter().map(|(_, until)| *until).max()
    }

    /// From when on others may be told of a start.
    fn next_start(&self, interval: Duration) -> Option<Instant> {
        self.last_start.map(|last| last + interval)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    config: TypingConfig,
    typists: HashMap<Typist, Entry>,
    /// The alarm of each typist that has one.
    alarms: BTreeSet<(Instant, Typist)>,
    /// Sessions of all typists together.
    sessions: usize,
}

impl Table {
    pub(super) fn new(config: TypingConfig) -> Self {
        Self {
            config,
            typists: HashMap::new(),
            alarms: BTreeSet::new(),
            sessions: 0,
        }
    }

    /// How many sessions type in how many channels.
    pub(super) fn len(&self) -> usize {
        self.sessions
    }

    /// The typist types at this session. `false`: too many do.
    #[must_use]
    pub(super) fn start(&mut self, session: u64, typist: &Typist, now: Instant) -> bool {
        let until = now + self.config.timeout;
        // Typists who have just stopped are kept for a moment, and count too.
        let is_full = self.sessions.max(self.typists.len()) >= self.config.limit;
        let typing = self
            .typists
            .get_mut(typist)
            .and_then(|entry| entry.sessions.iter_mut().find(|(id, _)| *id == session));
        match typing {
            Some((_, end)) => *end = until,
            None if is_full => return false,
            None => {
                let entry = self.typists.entry(typist.clone()).or_default();
                entry.sessions.push((session, until));
                self.sessions += 1;
            }
        }
        if let Some(entry) = self.typists.get_mut(typist) {
            entry.is_fresh = true;
        }
        self.look(typist, now);
        true
    }

    /// The typist types no more at this session. `false`: he did not.
    pub(super) fn stop(&mut self, session: u64, typist: &Typist, now: Instant) -> bool {
        let Some(entry) = self.typists.get_mut(typist) else {
            return false;
        };
        let Some(index) = entry.sessions.iter().position(|(id, _)| *id == session) else {
            return false;
        };
        entry.sessions.swap_remove(index);
        self.sessions -= 1;
        self.look(typist, now);
        true
    }

    /// What others are to be told by now, `most` at most. Of each the caller has to say what became of it, by [`Table::told`].
    pub(super) fn due(&mut self, now: Instant, most: usize) -> Vec<Told> {
        let mut due = Vec::new();
        while due.len() < most {
            let Some((at, typist)) = self.alarms.first().cloned() else {
                break;
            };
            if at > now {
                break;
            }
            self.alarms.pop_first();
            let Some(entry) = self.typists.get_mut(&typist) else {
                continue;
            };
            entry.alarm = None;
            let before = entry.sessions.len();
            entry.sessions.retain(|(_, until)| *until > now);
            self.sessions -= before - entry.sessions.len();
            let until = entry.until();
            let may_start = entry
                .next_start(self.config.interval)
                .is_none_or(|next| next <= now);
            let lasts = match until {
                Some(until) if entry.is_fresh && may_start => {
                    entry.is_fresh = false;
                    entry.last_start = Some(now);
                    Some(until.saturating_duration_since(now))
                }
                None if entry.is_told => None,
                // Nothing to tell yet, or for ever.
                Some(_) | None => {
                    self.rest(typist, now);
                    continue;
                }
            };
            // Also where it does not arrive, as far as is known here: a stop is told in any case.
            entry.is_told = lasts.is_some();
            entry.is_being_told = true;
            due.push(Told { typist, lasts });
        }
        due
    }

    /// When [`Table::due`] has something at the earliest.
    pub(super) fn next_alarm(&self) -> Option<Instant> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// Others were told, or could not be.
    pub(super) fn told(&mut self, typist: &Typist, now: Instant) {
        if let Some(entry) = self.typists.get_mut(typist) {
            entry.is_being_told = false;
            self.rest(typist.clone(), now);
        }
    }

    /// Something has changed: looks at the typist at once, unless others are being told of him just now.
    fn look(&mut self, typist: &Typist, now: Instant) {
        if self.typists.get(typist).is_some_and(|entry| !entry.is_being_told) {
            self.rest(typist.clone(), now);
        }
    }

    /// Sets the typist's alarm, or forgets him where there is nothing more to come.
    fn rest(&mut self, typist: Typist, now: Instant) {
        let Some(entry) = self.typists.get_mut(&typist) else {
            return;
        };
        if let Some(alarm) = entry.alarm.take() {
            self.alarms.remove(&(alarm, typist.clone()));
        }
        let next_start = entry.next_start(self.config.interval).unwrap_or(now);
        // The first that ends: until then nothing changes by itself.
        let end = entry.sessions.iter().map(|(_, until)| *until).min();
        let alarm = match end {
            Some(end) if entry.is_fresh => end.min(next_start.max(now)),
            Some(end) => end,
            None if entry.is_told => now,
            // Kept, so that one who stops and starts in turn is not told of more often than others.
            None if next_start > now => next_start,
            None => {
                self.typists.remove(&typist);
                if self.typists.is_empty() {
                    self.typists.shrink_to(0);
                }
                return;
            }
        };
        entry.alarm = Some(alarm);
        self.alarms.insert((alarm, typist));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(6);
    const INTERVAL: Duration = Duration::from_secs(3);

    /// A table, and a time that goes on as a test says.
    struct Bench {
        table: Table,
        now: Instant,
    }

    fn typist(user: &str) -> Typist {
        Typist::new(&ChannelName::parse("room:1", 255).unwrap(), user)
    }

    impl Bench {
        fn new(limit: usize) -> Self {
            let config = TypingConfig {
                timeout: TIMEOUT,
                interval: INTERVAL,
                limit,
            };
            Self {
                table: Table::new(config),
                now: Instant::now(),
            }
        }

        fn start(&mut self, session: u64, user: &str) -> bool {
            self.table.start(session, &typist(user), self.now)
        }

        fn stop(&mut self, session: u64, user: &str) -> bool {
            self.table.stop(session, &typist(user), self.now)
        }

        /// What is due without saying that it was told.
        fn due(&mut self) -> Vec<(String, Option<u64>)> {
            let due = self.table.due(self.now, 10);
            due.into_iter()
                .map(|told| {
                    let user = told.typist.user().to_owned();
                    (user, told.lasts.map(|lasts| lasts.as_secs()))
                })
                .collect()
        }

        /// What others are told by now.
        fn tell(&mut self) -> Vec<(String, Option<u64>)> {
            let due = self.due();
            for (user, _) in &due {
                self.table.told(&typist(user), self.now);
            }
            due
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }

    fn starts(user: &str, lasts: u64) -> Vec<(String, Option<u64>)> {
        vec![(user.to_owned(), Some(lasts))]
    }

    fn stops(user: &str) -> Vec<(String, Option<u64>)> {
        vec![(user.to_owned(), None)]
    }

    #[test]
    fn a_start_is_told_at_once_and_ends_by_itself() {
        let mut bench = Bench::new(10);
        assert!(bench.start(1, "alice"));
        assert_eq!(bench.tell(), starts("alice", 6));
        assert_eq!(bench.tell(), []);
        assert_eq!(bench.table.next_alarm(), Some(bench.now + TIMEOUT));
        bench.pass(5);
        assert_eq!(bench.tell(), []);
        bench.pass(1);
        assert_eq!(bench.tell(), stops("alice"));
        assert_eq!(bench.table.len(), 0);
        assert!(
            bench.table.typists.is_empty() && bench.table.alarms.is_empty(),
            "nothing is kept"
        );
    }

    #[test]
    fn starts_that_come_soon_are_told_together_once_the_interval_is_over() {
        let mut bench = Bench::new(10);
        bench.start(1, "alice");
        bench.tell();
        for _ in 0..2 {
            bench.pass(1);
            bench.start(1, "alice");
            assert_eq!(bench.tell(), []);
        }
        bench.pass(1);
        assert_eq!(
            bench.tell(),
            starts("alice", 5),
            "for as long as the newest lasts"
        );
        bench.pass(5);
        assert_eq!(bench.tell(), stops("alice"));
    }

    #[test]
    fn one_who_starts_and_stops_in_turn_is_told_of_no_more_often() {
        let mut bench = Bench::new(10);
        let mut told = Vec::new();
        for _ in 0..30 {
            bench.start(1, "alice");
            told.extend(bench.tell());
            bench.stop(1, "alice");
            told.extend(bench.tell());
            bench.pass(1);
        }
        let expected: Vec<_> = (0..10)
            .flat_map(|_| [starts("alice", 6), stops("alice")].concat())
            .collect();
        assert_eq!(told, expected);
        bench.pass(3);
        assert_eq!(bench.tell(), []);
        assert!(bench.table.typists.is_empty(), "nothing is kept");
    }

    #[test]
    fn a_user_types_as_long_as_one_device_does() {
        let mut bench = Bench::new(10);
        bench.start(1, "alice");
        assert_eq!(bench.tell(), starts("alice", 6));
        bench.pass(1);
        bench.start(2, "alice");
        assert!(bench.stop(1, "alice"));
        assert!(!bench.stop(1, "alice"), "it does not type any more");
        assert_eq!(bench.tell(), []);
        bench.pass(2);
        assert_eq!(bench.tell(), starts("alice", 4));
        bench.stop(2, "alice");
        assert_eq!(bench.tell(), stops("alice"));
    }

    #[test]
    fn a_stop_waits_for_its_start_and_is_told_behind_it() {
        let mut bench = Bench::new(10);
        bench.start(1, "alice");
        assert_eq!(bench.due(), starts("alice", 6));
        bench.stop(1, "alice");
        assert_eq!(bench.due(), [], "the start is on its way");
        bench.table.told(&typist("alice"), bench.now);
        assert_eq!(bench.tell(), stops("alice"));
        // One that nobody was told of needs no stop.
        bench.pass(1);
        bench.start(1, "alice");
        bench.stop(1, "alice");
        bench.pass(10);
        assert_eq!(bench.tell(), []);
    }

    #[test]
    fn the_table_is_bounded_and_those_who_stop_make_room() {
        let mut bench = Bench::new(2);
        assert!(bench.start(1, "alice"));
        assert!(bench.start(2, "alice"));
        assert!(!bench.start(3, "bob"), "full");
        assert!(bench.start(1, "alice"), "no more than it was");
        bench.tell();
        bench.stop(1, "alice");
        assert!(bench.start(3, "bob"));
        assert_eq!(bench.table.len(), 2);
    }
}
