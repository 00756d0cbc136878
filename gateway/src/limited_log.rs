//! Log lines that a stranger can cause, kept from filling the log: a few of a kind in so much time, and
//! the next one says how many were left out.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lines of one kind in [`INTERVAL`], at most: enough to see who it is and what they do.
const LINES: u32 = 10;

/// See [`LINES`].
const INTERVAL: Duration = Duration::from_secs(10);

/// See the module. `K` is the kind of a line and has few values: each is kept.
pub(crate) struct LimitedLog<K>(Mutex<HashMap<K, Interval>>);

struct Interval {
    begin: Instant,
    written: u32,
    /// Since a line was last written.
    left_out: u64,
}

impl<K: Hash + Eq> LimitedLog<K> {
    pub(crate) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Whether a line of this kind may be written now: then how many were left out before it.
    pub(crate) fn may_write(&self, kind: K, now: Instant) -> Option<u64> {
        let mut intervals = self.0.lock();
        let interval = intervals.entry(kind).or_insert(Interval {
            begin: now,
            written: 0,
            left_out: 0,
        });
        if now >= interval.begin + INTERVAL {
            interval.begin = now;
            interval.written = 0;
        }
        if interval.written == LINES {
            interval.left_out += 1;
            return None;
        }
        interval.written += 1;
        Some(std::mem::take(&mut interval.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_of_a_kind_and_the_next_counts() {
        let log = LimitedLog::new();
        let now = Instant::now();
        let written = |kind, now| {
            (0..1010)
                .filter_map(|_| log.may_write(kind, now))
                .collect::<Vec<_>>()
        };
        assert_eq!(written("a", now), [0; 10]);
        assert_eq!(written("b", now), [0; 10]);
        let first_counts = [1000, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(written("a", now + INTERVAL), first_counts);
        assert_eq!(written("a", now + INTERVAL * 2), first_counts);
    }
}
