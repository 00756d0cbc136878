//! What the service counts.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use switchboard_service_kit::grpc::GrpcMetrics;
use switchboard_service_kit::metrics::Metrics;

use crate::store::Store;

/// Handles; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct PersistenceMetrics {
    pub(crate) rows: Counter,
    pub(crate) dead_letters: Counter,
    pub(crate) failures: Counter,
    pub(crate) grpc: GrpcMetrics,
    pub(crate) search: FollowerMetrics,
    pub(crate) statistics: FollowerMetrics,
    /// Users and channels that are known to be counted.
    pub(crate) statistics_known: Gauge,
    pub(crate) statistics_forgotten: Counter,
    pub(crate) expired: Counter,
    pub(crate) archive_files: Counter,
    pub(crate) failed_sweeps: Counter,
    pub(crate) failed_channels: Counter,
    pub(crate) bad_acts: Counter,
}

/// Of one follower.
#[derive(Debug, Clone, Default)]
pub struct FollowerMetrics {
    pub(crate) rows: Counter,
    pub(crate) failures: Counter,
    pub(crate) waits: Counter,
    pub(crate) lag_ms: Gauge,
}

impl FollowerMetrics {
    /// With names and words for messages, failures, waits and the lag.
    fn register(&self, registry: &mut Registry, words: [(&'static str, &'static str); 4]) {
        let [rows, failures, waits, lag] = words;
        for ((name, help), counter) in [
            (rows, &self.rows),
            (failures, &self.failures),
            (waits, &self.waits),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(lag.0, lag.1, self.lag_ms.clone());
    }
}

impl PersistenceMetrics {
    /// `store`: whose connections are told.
    pub(crate) fn register(metrics: &Metrics, store: Option<&Arc<dyn Store>>) -> Self {
        let counts = Self::default();
        metrics.register("persistence", |registry| {
            registry.register(
                "messages",
                "Messages written to the store; those that are read again count again",
                counts.rows.clone(),
            );
            registry.register(
                "dead_letters",
                "What was read from the log and is no message that can be stored",
                counts.dead_letters.clone(),
            );
            registry.register(
                "failed_writes",
                "Batches that the store did not take and that were tried again",
                counts.failures.clone(),
            );
            counts.grpc.register(registry);
            registry.register(
                "expired_messages",
                "Messages that were removed because they were over",
                counts.expired.clone(),
            );
            registry.register(
                "archive_files",
                "Files that were written to the archive",
                counts.archive_files.clone(),
            );
            registry.register(
                "failed_sweeps",
                "Looks for messages that are over that failed and are made again",
                counts.failed_sweeps.clone(),
            );
            registry.register(
                "failed_channels",
                "Channels that a look for messages that are over had to pass over",
                counts.failed_channels.clone(),
            );
            registry.register(
                "bad_acts",
                "Recorded erasures and holds that cannot be read or done; the others are",
                counts.bad_acts.clone(),
            );
            counts.search.register(
                registry,
                [
                    (
                        "search_messages",
                        "Messages that the index of search was brought up to here",
                    ),
                    (
                        "search_failures",
                        "Steps of indexing that failed and were tried again",
                    ),
                    (
                        "search_waits",
                        "Times that indexing waited for the writing of messages",
                    ),
                    (
                        "search_lag_milliseconds",
                        "The age of the oldest message that was not in the index at the last look",
                    ),
                ],
            );
            counts.statistics.register(
                registry,
                [
                    ("statistics_messages", "Messages that were counted here"),
                    (
                        "statistics_failures",
                        "Steps of counting that failed and were tried again",
                    ),
                    (
                        "statistics_waits",
                        "Times that counting waited for the writing of messages",
                    ),
                    (
                        "statistics_lag_milliseconds",
                        "The age of the oldest message that was not counted at the last look",
                    ),
                ],
            );
            registry.register(
                "statistics_known",
                "Users and channels that this process knows to be counted",
                counts.statistics_known.clone(),
            );
            registry.register(
                "statistics_forgotten",
                "Rows of statistics that were over and were removed",
                counts.statistics_forgotten.clone(),
            );
            if let Some(store) = store {
                registry.register_collector(Box::new(Connections(Arc::clone(store))));
            }
        });
        counts
    }
}

/// How connections to a database server are used, at the moment when it is asked. Of a store that is a file: nothing.
struct Connections(Arc<dyn Store>);

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connections").field(&self.0.pool()).finish()
    }
}

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(pool) = self.0.pool() else {
            return Ok(());
        };
        for (name, help, value) in [
            (
                "postgres_connections",
                "Connections to PostgreSQL that are open",
                pool.open,
            ),
            (
                "postgres_connections_idle",
                "Connections to PostgreSQL that are open and that nobody uses",
                pool.idle,
            ),
            (
                "postgres_connections_limit",
                "Connections to PostgreSQL that this process may open",
                pool.most,
            ),
        ] {
            let gauge = ConstGauge::new(i64::from(value));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (name, help, value) in [
            (
                "postgres_waits",
                "Calls of the message store that found all connections in use",
                pool.waits,
            ),
            (
                "postgres_timeouts",
                "Calls of the message store that got no connection, or no answer, in time",
                pool.timeouts,
            ),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
