//! What an announcer counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use switchboard_service_kit::metrics::Metrics;

use super::table::Fill;

/// Handles; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct AnnouncerMetrics {
    sessions: Gauge,
    waiting: Gauge,
    pub(super) failures: Counter,
    pub(super) resyncs: Counter,
    pub(super) left_out: Counter,
    pub(super) not_asked: Counter,
    pub(super) not_restored: Counter,
}

impl AnnouncerMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register("registry", |registry| {
            registry.register("sessions", "Sessions of this gateway that are registered", own.sessions.clone());
            registry.register(
                "waiting",
                "Users of this gateway to whom something happened that the registry was not told",
                own.waiting.clone(),
            );
            registry.register("failures", "Calls that the registry's store did not answer", own.failures.clone());
            registry.register(
                "resyncs",
                "Times that all sessions of this gateway were registered anew, as the store had lost them",
                own.resyncs.clone(),
            );
            registry.register(
                "left_out",
                "Sessions that were not registered, for a bound",
                own.left_out.clone(),
            );
            registry.register(
                "not_asked",
                "Sessions that were let in without asking the registry for their user's others, as it did not answer",
                own.not_asked.clone(),
            );
            registry.register(
                "not_restored",
                "Sessions that began without their user's kept subscriptions, as the registry did not answer",
                own.not_restored.clone(),
            );
        });
        own
    }

    pub(super) fn fill(&self, fill: Fill) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.sessions.set(number(fill.stored));
        self.waiting.set(number(fill.waiting));
    }
}
