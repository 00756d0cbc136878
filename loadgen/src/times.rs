//! Histograms of times that many connections share, and what is told of them.

use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Connections share one of so many: a histogram for each would take more memory than the connection.
const PARTS: usize = 8;

/// Times in microseconds, up to a minute, to three digits.
pub(crate) struct Times {
    parts: [Mutex<Histogram<u64>>; PARTS],
}

/// Times as pairs of a value and its count, for other processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts(Vec<(u64, u64)>);

/// What is told of times, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// 999 of 1,000 took no longer.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3)
        .unwrap_or_else(|error| unreachable!("these bounds are allowed: {error}"))
}

impl Default for Times {
    fn default() -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::new(histogram())),
        }
    }
}

impl Times {
    /// Notes a time of the connection with this number.
    pub(crate) fn note(&self, number: u32, us: u64) {
        if let Some(part) = self.parts.get(number as usize % PARTS) {
            part.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .saturating_record(us);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut all = histogram();
        for part in &self.parts {
            // All have the same bounds.
            all.add(&*part.lock().unwrap_or_else(PoisonError::into_inner))
                .ok();
        }
        let counts = all.iter_recorded();
        Counts(
            counts
                .map(|step| (step.value_iterated_to(), step.count_at_value()))
                .collect(),
        )
    }
}

impl Counts {
    /// Both together.
    pub(crate) fn add(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn latency(&self) -> Latency {
        let mut all = histogram();
        for (value, count) in &self.0 {
            all.saturating_record_n(*value, *count);
        }
        Latency {
            count: all.len(),
            p50_us: all.value_at_quantile(0.5),
            p99_us: all.value_at_quantile(0.99),
            p999_us: all.value_at_quantile(0.999),
            max_us: all.max(),
        }
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |us: u64| us as f64 / 1000.0;
        write!(
            f,
            "p50 {:>9.3} ms   p99 {:>9.3} ms   p99.9 {:>9.3} ms   max {:>9.3} ms   ({})",
            ms(self.p50_us),
            ms(self.p99_us),
            ms(self.p999_us),
            ms(self.max_us),
            self.count
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_two_processes_are_times_of_one() {
        let (one, other) = (Times::default(), Times::default());
        for us in 1..=1000 {
            one.note(us, u64::from(us));
            other.note(us, u64::from(us) + 1000);
        }
        let mut all = one.counts();
        all.add(other.counts());
        let text = serde_json::to_string(&all).unwrap();
        let latency = serde_json::from_str::<Counts>(&text).unwrap().latency();
        assert_eq!((latency.count, latency.p50_us), (2000, 1000));
        assert!((1975..=1985).contains(&latency.p99_us), "{latency}");
        assert!((2000..=2001).contains(&latency.max_us), "{latency}");
    }
}
