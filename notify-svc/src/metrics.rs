//! What the service counts.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use switchboard_service_kit::grpc::GrpcMetrics;
use switchboard_service_kit::metrics::Metrics;

use crate::model::{Outcome, State};
use crate::store::Waiting;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    provider: &'static str,
    result: Word,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProviderLabel {
    provider: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: Word,
}

/// One of few.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

/// Handles; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct NotifyMetrics {
    pub(crate) accepted: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) refused: Counter,
    pub(crate) decided: Counter,
    pub(crate) claimed: Counter,
    pub(crate) late: Counter,
    pub(crate) digests: Counter,
    pub(crate) devices_removed: Counter,
    attempts: Family<AttemptLabels, Counter>,
    seconds: Family<ProviderLabel, Histogram, fn() -> Histogram>,
    settled: Family<StateLabel, Counter>,
    waiting: Gauge,
    dead_letters: Gauge,
    oldest_seconds: Gauge,
    pub(crate) grpc: GrpcMetrics,
}

/// Seconds that a provider takes.
fn buckets() -> Histogram {
    Histogram::new([0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

impl NotifyMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let counts = Self {
            accepted: Counter::default(),
            duplicates: Counter::default(),
            refused: Counter::default(),
            decided: Counter::default(),
            claimed: Counter::default(),
            late: Counter::default(),
            digests: Counter::default(),
            devices_removed: Counter::default(),
            attempts: Family::default(),
            seconds: Family::new_with_constructor(buckets),
            settled: Family::default(),
            waiting: Gauge::default(),
            dead_letters: Gauge::default(),
            oldest_seconds: Gauge::default(),
            grpc: GrpcMetrics::default(),
        };
        metrics.register("notify", |registry| {
            let mut counter = |name, help, counter: &Counter| registry.register(name, help, counter.clone());
            counter("accepted", "Notifications that were accepted", &counts.accepted);
            counter(
                "duplicates",
                "Notifications that were there already, by their idempotency key",
                &counts.duplicates,
            );
            counter(
                "refused",
                "Notifications that were refused, because as many wait as may",
                &counts.refused,
            );
            counter(
                "decided",
                "Notifications that messages of channels caused",
                &counts.decided,
            );
            counter(
                "claimed",
                "Deliveries that this process took from the queue",
                &counts.claimed,
            );
            counter(
                "late",
                "Deliveries that were left to the next who takes them, because they came to their turn too late",
                &counts.late,
            );
            counter(
                "digests",
                "Deliveries that were made of several",
                &counts.digests,
            );
            counter(
                "devices_removed",
                "Devices that a provider calls gone",
                &counts.devices_removed,
            );
            registry.register(
                "attempts",
                "Tries, by provider and by what became of them",
                counts.attempts.clone(),
            );
            registry.register(
                "attempt_seconds",
                "How long providers take",
                counts.seconds.clone(),
            );
            registry.register(
                "settled",
                "Deliveries by what became of them",
                counts.settled.clone(),
            );
            registry.register("waiting", "Deliveries that wait", counts.waiting.clone());
            registry.register(
                "dead_letters",
                "Deliveries that failed for good and that nobody has looked at",
                counts.dead_letters.clone(),
            );
            registry.register(
                "oldest_seconds",
                "For how long the oldest delivery that could be sent waits",
                counts.oldest_seconds.clone(),
            );
            counts.grpc.register(registry);
        });
        counts
    }

    pub(crate) fn attempt(&self, provider: &'static str, outcome: Outcome, latency: Duration) {
        let result = Word(outcome.word());
        self.attempts
            .get_or_create(&AttemptLabels { provider, result })
            .inc();
        self.seconds
            .get_or_create(&ProviderLabel { provider })
            .observe(latency.as_secs_f64());
    }

    pub(crate) fn settled(&self, state: State) {
        let state = Word(state.word());
        self.settled.get_or_create(&StateLabel { state }).inc();
    }

    pub(crate) fn waits(&self, waiting: Waiting, now_us: u64) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.waiting.set(gauge(waiting.count));
        self.dead_letters.set(gauge(waiting.dead));
        let oldest = match waiting.oldest_us {
            0 => 0,
            oldest_us => now_us.saturating_sub(oldest_us) / 1_000_000,
        };
        self.oldest_seconds.set(gauge(oldest));
    }
}
