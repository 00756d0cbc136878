//! Latencies as they are counted: gateways count deliveries in buckets, the message store adds these up, and whoever tells of them makes
//! quantiles. Also what happened between two looks at counts that go on growing.
//!
//! It stands here because gateways and the persistence service count alike.

mod ticking;

use std::collections::{BTreeMap, HashMap};

use switchboard_proto::messages::{LiveResponse, StatisticsRate, StatisticsTick};

pub use self::ticking::Ticking;

/// The series of all namespaces together.
pub const ALL: &str = "*";

/// Upper bounds of the buckets in milliseconds, each exclusive. What is slower falls into one more.
pub const BOUNDS_MS: [u64; 19] = [
    1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 1000, 2000, 5000,
];

/// Buckets.
pub const BUCKETS: usize = BOUNDS_MS.len() + 1;

/// Seconds after which a minute that was not told of before is an old one, and none that has begun.
const OLD: u64 = 120;

/// Deliveries by latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency([u64; BUCKETS]);

impl Latency {
    /// Counts as many deliveries that took so long.
    pub fn add(&mut self, ms: u64, deliveries: u64) {
        let bucket = BOUNDS_MS.partition_point(|bound| *bound <= ms);
        if let Some(count) = self.0.get_mut(bucket) {
            *count = count.saturating_add(deliveries);
        }
    }

    /// Adds counts by bucket; missing ones are none, further ones are left out.
    pub fn merge(&mut self, buckets: &[u64]) {
        for (count, more) in self.0.iter_mut().zip(buckets) {
            *count = count.saturating_add(*more);
        }
    }

    /// Counts by bucket.
    pub fn buckets(&self) -> &[u64; BUCKETS] {
        &self.0
    }

    /// All deliveries.
    pub fn deliveries(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Below this were so many of a thousand, in microseconds; within a bucket as if its deliveries were spread evenly. Where it falls
    /// behind the last bound, that bound. 0: there were none.
    pub fn permille_us(&self, permille: u64) -> u64 {
        let wanted = u128::from(self.deliveries()) * u128::from(permille.min(1000));
        let mut before = 0_u128;
        let mut lower = 0;
        for (number, count) in self.0.iter().enumerate() {
            let count = u128::from(*count) * 1000;
            if count > 0 && before + count >= wanted {
                let upper = BOUNDS_MS.get(number).copied().unwrap_or(lower);
                let share = u128::from((upper - lower) * 1000) * wanted.saturating_sub(before) / count;
                return lower * 1000 + u64::try_from(share).unwrap_or(0);
            }
            before += count;
            lower = BOUNDS_MS.get(number).copied().unwrap_or(lower);
        }
        0
    }
}

/// What happened between two looks. Minutes that only the later one has begun in between; those that only the earlier one has are over.
pub fn between(before: &LiveResponse, after: &LiveResponse) -> StatisticsTick {
    let known: HashMap<(&str, u64), _> = before
        .counts
        .iter()
        .map(|count| ((count.namespace.as_str(), count.minute), count))
        .collect();
    let mut rates: BTreeMap<&str, (u64, u64, Latency)> = BTreeMap::new();
    // Who looked before may not have told of minutes as old as that.
    let oldest = (before.at_ms / 1000).saturating_sub(OLD);
    for count in &after.counts {
        let was = known.get(&(count.namespace.as_str(), count.minute));
        if was.is_none() && count.minute < oldest {
            continue;
        }
        let (messages, bytes, latency) = rates.entry(&count.namespace).or_default();
        *messages += count.messages.saturating_sub(was.map_or(0, |was| was.messages));
        *bytes += count.bytes.saturating_sub(was.map_or(0, |was| was.bytes));
        let more: Vec<u64> = count
            .latency
            .iter()
            .enumerate()
            .map(|(number, now)| {
                let was = was.and_then(|was| was.latency.get(number)).copied();
                now.saturating_sub(was.unwrap_or(0))
            })
            .collect();
        latency.merge(&more);
    }
    rates.entry(ALL).or_default();
    let rates = rates
        .into_iter()
        .map(|(namespace, (messages, bytes, latency))| StatisticsRate {
            namespace: namespace.to_owned(),
            messages,
            bytes,
            deliveries: latency.deliveries(),
            latency_p50_us: latency.permille_us(500),
            latency_p99_us: latency.permille_us(990),
        })
        .filter(|rate| rate.namespace == ALL || rate.messages > 0 || rate.deliveries > 0);
    StatisticsTick {
        at_ms: after.at_ms,
        over_ms: after.at_ms.saturating_sub(before.at_ms),
        rates: rates.collect(),
    }
}

#[cfg(test)]
mod tests {
    use switchboard_proto::messages::LiveCount;

    use super::*;

    #[test]
    fn latencies_fall_below_their_bounds() {
        let mut latency = Latency::default();
        for ms in [0, 1, 4, 5, 6, 4999, 5000, u64::MAX] {
            latency.add(ms, 1);
        }
        let mut expected = [0; BUCKETS];
        for (bucket, count) in [(0, 1), (1, 1), (3, 1), (4, 2), (18, 1), (19, 2)] {
            expected[bucket] = count;
        }
        assert_eq!(latency.buckets(), &expected);
        assert_eq!(latency.deliveries(), 8);
    }

    #[test]
    fn quantiles_lie_in_their_buckets() {
        let mut latency = Latency::default();
        assert_eq!(latency.permille_us(500), 0);
        latency.add(12, 100);
        assert_eq!(latency.permille_us(500), 12_500);
        latency.add(60, 1);
        assert_eq!(latency.permille_us(990), 14_999);
        latency.add(60, 1);
        assert!((50_000..=70_000).contains(&latency.permille_us(990)));
        latency.add(9_000, 1_000_000);
        assert_eq!(latency.permille_us(990), 5_000_000);
        latency.add(0, u64::MAX);
        assert!(latency.permille_us(500) < 1_000);
    }

    fn count(namespace: &str, minute: u64, messages: u64, slow: u64) -> LiveCount {
        LiveCount {
            namespace: namespace.to_owned(),
            minute,
            messages,
            bytes: messages * 10,
            latency: vec![messages, slow],
        }
    }

    #[test]
    fn what_happened_between_is_the_difference_over_minutes() {
        let look = |at_ms, counts| LiveResponse { at_ms, counts };
        let before = look(
            1_000,
            vec![
                count(ALL, 60, 5, 0),
                count("room", 60, 5, 0),
                count("dm", 0, 9, 9),
            ],
        );
        let after = look(
            2_000,
            vec![
                count(ALL, 60, 7, 1),
                count(ALL, 120, 2, 0),
                count("room", 60, 7, 1),
                count("room", 120, 2, 0),
                count("quiet", 60, 0, 0),
            ],
        );
        let tick = between(&before, &after);
        assert_eq!((tick.at_ms, tick.over_ms), (2_000, 1_000));
        let told: Vec<_> = tick
            .rates
            .iter()
            .map(|rate| {
                (
                    rate.namespace.as_str(),
                    rate.messages,
                    rate.bytes,
                    rate.deliveries,
                )
            })
            .collect();
        assert_eq!(told, [(ALL, 4, 40, 5), ("room", 4, 40, 5)]);
        assert_eq!(
            between(&after, &after).rates.len(),
            1,
            "of all together it is always told"
        );
    }
}
