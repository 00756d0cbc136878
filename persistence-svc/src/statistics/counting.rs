//! The follower that counts messages.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use lru::LruCache;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use prost::Message as _;
use switchboard_bus::statistics::ALL;
use switchboard_proto::bus::Message;
use switchboard_proto::channel::namespace_of;
use switchboard_proto::ids::{LogEpoch, Offset, ShardId};
use switchboard_proto::time::now_us;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{FOLLOWER, StatisticsSettings};
use crate::follow::Follower;
use crate::store::statistics::{Counted, Kind, Period, Seen};
use crate::store::{LogRow, Step, Store, StoreError};

/// See the module.
pub struct Counting {
    store: Arc<dyn Store>,
    settings: StatisticsSettings,
    /// Who and what the store has counted already. What is forgotten here is asked there.
    known: Mutex<LruCache<u64, ()>>,
    /// Up to where each log was counted here.
    counted_to: Mutex<HashMap<(ShardId, LogEpoch), Offset>>,
    known_count: Gauge,
}

impl Counting {
    /// Counts what is in `store`. `known`: how many users and channels it remembers.
    pub fn new(store: Arc<dyn Store>, settings: StatisticsSettings, known: Gauge) -> Self {
        let capacity = NonZeroUsize::new(settings.known).unwrap_or(NonZeroUsize::MIN);
        Self {
            store,
            settings,
            known: Mutex::new(LruCache::new(capacity)),
            counted_to: Mutex::default(),
            known_count: known,
        }
    }

    /// What messages say, at this Unix second; all that is to be told apart is in it.
    fn counted(&self, rows: &[LogRow], now: u64) -> Counted {
        let mut counted = Counted::default();
        for row in rows {
            let Ok(message) = Message::decode(row.message.clone()) else {
                continue;
            };
            if message.origin.is_some() {
                // What an inbox holds was said elsewhere.
                continue;
            }
            let at = row.time_us / 1_000_000;
            let namespace = namespace_of(&row.channel).unwrap_or_default();
            let is_said = message.change.is_none();
            let sender = row.sender.as_deref().filter(|sender| !sender.is_empty());
            for period in Period::EACH {
                let begin = period.begin(at);
                let is_kept = begin >= self.settings.kept_from(period, now);
                if !is_kept || (!is_said && !period.tells_apart()) {
                    continue;
                }
                for namespace in [ALL, namespace] {
                    let key = (period, namespace.to_owned(), begin);
                    let (messages, bytes) = counted.sums.entry(key).or_default();
                    if is_said {
                        *messages += 1;
                        *bytes += message.payload.len() as u64;
                    }
                    if !period.tells_apart() {
                        continue;
                    }
                    let mut seen = |kind, name: &str| {
                        counted.seen.push(Seen {
                            period,
                            at: begin,
                            namespace: namespace.to_owned(),
                            kind,
                            hash: xxh3_64(name.as_bytes()).cast_signed(),
                        });
                    };
                    if let Some(sender) = sender {
                        seen(Kind::User, sender);
                    }
                    if is_said {
                        seen(Kind::Channel, &row.channel);
                    }
                }
                if is_said && matches!(period, Period::Day | Period::Month) {
                    let key = (period, begin, row.channel.clone());
                    let of_channel = counted.channels.entry(key);
                    of_channel.or_insert_with(|| (namespace.to_owned(), 0)).1 += 1;
                }
            }
        }
        counted.seen.sort_unstable();
        counted.seen.dedup();
        counted
    }
}

/// What a process remembers of it.
fn key(seen: &Seen) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&[seen.period as u8, seen.kind as u8]);
    hasher.update(&seen.at.to_le_bytes());
    hasher.update(&seen.hash.to_le_bytes());
    hasher.update(seen.namespace.as_bytes());
    hasher.digest()
}

#[async_trait]
impl Follower for Counting {
    fn name(&self) -> &'static str {
        FOLLOWER
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        // After a failure it may be another database.
        self.known.lock().clear();
        Ok(())
    }

    async fn apply(&self, step: &Step, rows: Vec<LogRow>) -> Result<bool, StoreError> {
        let mut counted = self.counted(&rows, now_us() / 1_000_000);
        {
            let mut known = self.known.lock();
            let before = self.counted_to.lock().get(&(step.shard, step.log)).copied();
            if before.is_some_and(|before| step.from < before) {
                // The store went back: it may have lost who was counted, too.
                known.clear();
            }
            counted.seen.retain(|seen| known.get(&key(seen)).is_none());
        }
        if !self.store.count(step, &counted).await? {
            return Ok(false);
        }
        self.counted_to.lock().insert((step.shard, step.log), step.to);
        let mut known = self.known.lock();
        for seen in &counted.seen {
            known.put(key(seen), ());
        }
        self.known_count
            .set(i64::try_from(known.len()).unwrap_or(i64::MAX));
        Ok(true)
    }
}
