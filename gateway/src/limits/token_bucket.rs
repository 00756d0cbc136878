//! How often something may happen: so many times a second, and so many at once after a rest.
//!
//! A bucket is one instant (the generic cell rate algorithm), because there is one for each
//! connection and each address. No clock inside: callers say what time it is.

use std::time::Duration;

use tokio::time::Instant;

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Between two in the long run.
    interval: Duration,
    /// How far a bucket may run ahead of the clock.
    burst: Duration,
}

impl Rate {
    /// `per_second` times a second, and `burst` at once, 1 at least. `None` for 0 a second: as often
    /// as one likes.
    pub(crate) fn new(per_second: u32, burst: u32) -> Option<Self> {
        let interval = Duration::from_secs(1).checked_div(per_second)?;
        Some(Self {
            interval,
            burst: interval.saturating_mul(burst.max(1)),
        })
    }
}

impl Rate {
    /// How many may come at once.
    pub(crate) fn burst(&self) -> usize {
        whole(self.burst, self.interval)
    }
}

/// How often `interval` is over in `time`, begun ones included.
fn whole(time: Duration, interval: Duration) -> usize {
    let times = time.as_nanos().div_ceil(interval.as_nanos().max(1));
    usize::try_from(times).unwrap_or(usize::MAX)
}

/// What is left of a [`Rate`]: full at the beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenBucket {
    /// When it is full again, if nothing happens until then.
    full: Instant,
}

impl TokenBucket {
    pub(crate) fn new(now: Instant) -> Self {
        Self { full: now }
    }

    /// Takes one. `false`: there is none, and nothing changes.
    pub(crate) fn take(&mut self, rate: &Rate, now: Instant) -> bool {
        let full = self.full.max(now) + rate.interval;
        let allowed = full <= now + rate.burst;
        if allowed {
            self.full = full;
        }
        allowed
    }

    /// How many are taken that were not given back by time yet.
    pub(crate) fn used(&self, rate: &Rate, now: Instant) -> usize {
        whole(self.full.saturating_duration_since(now), rate.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut TokenBucket, rate: &Rate, now: Instant) -> usize {
        (0..1000).take_while(|_| bucket.take(rate, now)).count()
    }

    #[test]
    fn a_burst_then_the_rate_then_a_burst_again() {
        let rate = Rate::new(10, 5).unwrap();
        let begin = Instant::now();
        let mut bucket = TokenBucket::new(begin);
        assert_eq!(taken(&mut bucket, &rate, begin), 5);
        assert_eq!(taken(&mut bucket, &rate, begin + Duration::from_millis(99)), 0);
        assert_eq!(taken(&mut bucket, &rate, begin + Duration::from_millis(100)), 1);
        assert_eq!(taken(&mut bucket, &rate, begin + Duration::from_millis(350)), 2);
        assert_eq!(taken(&mut bucket, &rate, begin + Duration::from_secs(60)), 5);
    }

    #[test]
    fn none_a_second_is_no_limit_and_no_burst_is_one() {
        assert_eq!(Rate::new(0, 5), None);
        let rate = Rate::new(1_000_000, 0).unwrap();
        let begin = Instant::now();
        assert_eq!(taken(&mut TokenBucket::new(begin), &rate, begin), 1);
    }
}
