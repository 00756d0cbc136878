//! What the service counts.

use prometheus_client::metrics::counter::Counter;
use switchboard_service_kit::grpc::GrpcMetrics;
use switchboard_service_kit::metrics::Metrics;

/// Handles; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct PresenceMetrics {
    pub(crate) reports: Counter,
    pub(crate) resyncs: Counter,
    pub(crate) transitions: Counter,
    pub(crate) expiries: Counter,
    pub(crate) joins: Counter,
    pub(crate) leaves: Counter,
    pub(crate) not_told: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) grpc: GrpcMetrics,
}

impl PresenceMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let counts = Self::default();
        metrics.register("presence", |registry| {
            let mut counter = |name, help, counter: &Counter| registry.register(name, help, counter.clone());
            counter("reports", "Reports of gateways that were taken", &counts.reports);
            counter(
                "resyncs",
                "Leases that gateways began: at their start, and where the store lost what it held or they were slow",
                &counts.resyncs,
            );
            counter(
                "transitions",
                "Changes of users' status, text or visibility that were told",
                &counts.transitions,
            );
            counter(
                "expiries",
                "Users with sessions at a gateway that was not heard of any more",
                &counts.expiries,
            );
            counter("joins", "Connections that came into channels", &counts.joins);
            counter("leaves", "Connections that left channels", &counts.leaves);
            counter(
                "not_told",
                "Changes that found the queue full or the bus away: those of users are told later, others are not",
                &counts.not_told,
            );
            counter(
                "unreadable",
                "Users that are stored as this release cannot read, and that were begun anew",
                &counts.unreadable,
            );
            counts.grpc.register(registry);
        });
        counts
    }
}
