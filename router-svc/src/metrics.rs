//! What a router counts.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use switchboard_bus::ReaderName;
use switchboard_proto::ids::ShardId;
use switchboard_service_kit::metrics::Metrics;

/// Handles; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct RouterMetrics {
    pub(crate) owned_shards: Gauge,
    pub(crate) claims: Counter,
    pub(crate) prepared_claims: Counter,
    pub(crate) ownerships_lost: Counter,
    pub(crate) appends: Counter,
    pub(crate) append_seconds: Times,
    pub(crate) delivery_seconds: Times,
    pub(crate) messages: Counter,
    pub(crate) refused: Counter,
    pub(crate) bad_frames: Counter,
    pub(crate) history_questions: Counter,
    pub(crate) history_readings: Counter,
    pub(crate) history_too_far: Counter,
    pub(crate) store_questions: Counter,
    pub(crate) store_failures: Counter,
    reader_lags: Family<ReaderLabel, Gauge>,
    shards: Arc<ShardFamilies>,
}

/// Seconds from 50 µs to 5 s, in buckets.
#[derive(Clone)]
pub(crate) struct Times(Histogram);

impl Default for Times {
    fn default() -> Self {
        const BOUNDS: [f64; 16] = [
            0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
            2.0, 5.0,
        ];
        Self(Histogram::new(BOUNDS))
    }
}

impl Times {
    pub(crate) fn took(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

/// Declares the gauges of a shard: the field, and what it says.
macro_rules! shard_gauges {
    ($($name:ident: $help:literal,)*) => {
        #[derive(Default)]
        struct ShardFamilies {
            $($name: Family<ShardLabel, Gauge>,)*
        }

        impl ShardFamilies {
            fn register(&self, registry: &mut Registry) {
                $(registry.register(concat!("shard_", stringify!($name)), $help, self.$name.clone());)*
            }

            fn of(&self, label: &ShardLabel) -> ShardMetrics {
                ShardMetrics {
                    $($name: self.$name.get_or_create_owned(label),)*
                }
            }

            fn forget(&self, label: &ShardLabel) {
                $(self.$name.remove(label);)*
            }
        }

        /// The gauges of one shard.
        pub(crate) struct ShardMetrics {
            $(pub(crate) $name: Gauge,)*
        }
    };
}

shard_gauges! {
    first_sequence: "Sequence of the first record that the shard's log still has",
    last_sequence: "Sequence of the shard's last record",
    links: "Gateways linked to the shard",
    lagging_links: "Of those, how many have to confirm before they are sent more",
    link_resets: "Links that the owner ended, since it took over",
    channels: "Channels of the shard that some gateway is interested in",
    queued_bytes: "Bytes of publishes that wait for the append in flight",
    window_bytes: "Bytes of recent messages in memory",
    hidden_bytes: "Bytes that the marks of removed histories take in a state record",
    deleted_marks: "Marks of deleted messages that the log still has",
    known_channels: "Channels whose newest message is known",
    known_keys: "Idempotency keys that are known",
    publishers: "Gateways whose publishes are told from repeats",
    duplicates: "Publishes that were recognised as repeats, since the owner took over",
    waiting_recoveries: "Recoveries that wait for the log to be read",
    log_readings: "Readings of the log for recoveries, since the owner took over",
    underived: "Entries that wait to be stored by other shards",
    fill_percent: "How full the shard's log is",
    purges: "Purges of the shard's log, since the owner took over",
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShardLabel {
    shard: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReaderLabel {
    shard: u16,
    /// One of the few that are configured.
    reader: String,
}

impl RouterMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let router = Self::default();
        metrics.register("router", |registry| {
            registry.register(
                "owned_shards",
                "Shards owned by this router",
                router.owned_shards.clone(),
            );
            registry.register("claims", "Shards claimed", router.claims.clone());
            registry.register(
                "prepared_claims",
                "Of those, how many whose log had been read while another router still owned them",
                router.prepared_claims.clone(),
            );
            registry.register(
                "ownerships_lost",
                "Ownerships and claims that ended for another reason than a release",
                router.ownerships_lost.clone(),
            );
            registry.register("appends", "Batches appended to the log", router.appends.clone());
            registry.register(
                "append_seconds",
                "From when a batch is handed to the log until the log has it",
                router.append_seconds.0.clone(),
            );
            registry.register(
                "delivery_seconds",
                "From when the log has a batch until its deliveries and answers are handed to the bus",
                router.delivery_seconds.0.clone(),
            );
            registry.register("messages", "Messages in those batches", router.messages.clone());
            registry.register(
                "refused_appends",
                "Batches that the log refused",
                router.refused.clone(),
            );
            registry.register(
                "bad_frames",
                "Undecodable frames from gateways and other owners",
                router.bad_frames.clone(),
            );
            registry.register(
                "history_questions",
                "Questions of gateways about what was said in a channel",
                router.history_questions.clone(),
            );
            registry.register(
                "history_readings",
                "Of those, how many the log was read for",
                router.history_readings.clone(),
            );
            registry.register(
                "history_too_far",
                "Of those, how many were refused because they would take more than router.history_reading",
                router.history_too_far.clone(),
            );
            registry.register(
                "store_questions",
                "Questions that recoveries put to the message store",
                router.store_questions.clone(),
            );
            registry.register(
                "store_failures",
                "Of those, how many had no answer, so that the log was read or the client told to try again",
                router.store_failures.clone(),
            );
            registry.register(
                "reader_lag_records",
                "Records that a durable reader is behind, while the log is to be purged and waits for readers",
                router.reader_lags.clone(),
            );
            router.shards.register(registry);
        });
        router
    }

    pub(crate) fn of(&self, shard: ShardId) -> ShardMetrics {
        self.shards.of(&ShardLabel { shard: shard.get() })
    }

    /// The shard is not owned here any more: what was last measured of it is no news.
    pub(crate) fn forget(&self, shard: ShardId) {
        self.shards.forget(&ShardLabel { shard: shard.get() });
    }

    /// How far behind a reader is; `None`: not of interest now.
    pub(crate) fn reader_lag(&self, shard: ShardId, reader: &ReaderName, lag: Option<u64>) {
        let label = ReaderLabel {
            shard: shard.get(),
            reader: reader.to_string(),
        };
        match lag {
            Some(lag) => {
                self.reader_lags.get_or_create(&label).set(lag.cast_signed());
            }
            None => {
                self.reader_lags.remove(&label);
            }
        }
    }
}
