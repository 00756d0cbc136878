//! Deliveries by namespace and latency, since they were taken.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use switchboard_bus::statistics::Latency;
use switchboard_proto::channel::namespace_of;
use switchboard_proto::ids::{ShardCount, ShardId};

/// A place for each link, which alone writes it; so many entries in each as there are namespaces.
pub(crate) struct Deliveries {
    links: Vec<Mutex<HashMap<String, Latency>>>,
}

impl Deliveries {
    pub(crate) fn new(shards: ShardCount) -> Self {
        Self {
            links: shards.iter().map(|_| Mutex::default()).collect(),
        }
    }

    /// A message was handed to so many sessions, so many microseconds after it was made.
    pub(crate) fn count(&self, shard: ShardId, channel: &str, latency_us: u64, receivers: u64) {
        let Some(link) = self.links.get(usize::from(shard.get())) else {
            return;
        };
        let namespace = namespace_of(channel).unwrap_or_default();
        let mut link = link.lock();
        let latency = match link.get_mut(namespace) {
            Some(latency) => latency,
            None => link.entry(namespace.to_owned()).or_default(),
        };
        latency.add(latency_us / 1000, receivers);
    }

    /// What was counted, which is not counted any more.
    pub(super) fn take(&self) -> BTreeMap<String, Latency> {
        let mut all: BTreeMap<String, Latency> = BTreeMap::new();
        for link in &self.links {
            for (namespace, latency) in link.lock().drain() {
                all.entry(namespace).or_default().merge(latency.buckets());
            }
        }
        all
    }
}

impl Deliveries {
    /// What was taken and is still to be reported.
    pub(super) fn give_back(&self, rest: BTreeMap<String, Latency>) {
        if let Some(link) = self.links.first() {
            let mut link = link.lock();
            for (namespace, latency) in rest {
                link.entry(namespace).or_default().merge(latency.buckets());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_not_counted_again() {
        let deliveries = Deliveries::new(ShardCount::new(2).unwrap());
        let shard = |number| ShardId::new(number).unwrap();
        deliveries.count(shard(0), "room:1", 1_500, 3);
        deliveries.count(shard(1), "$room:2", 999, 2);
        deliveries.count(shard(1), "lobby", 6_000_000, 1);
        deliveries.count(shard(9), "room:1", 0, 1);
        let taken = deliveries.take();
        let counts = |namespace: &str| {
            let buckets = taken[namespace].buckets();
            (buckets[0], buckets[1], buckets[19])
        };
        assert_eq!(taken.len(), 2);
        assert_eq!(counts("room"), (2, 3, 0));
        assert_eq!(counts(""), (0, 0, 1));
        assert!(deliveries.take().is_empty());
    }
}
