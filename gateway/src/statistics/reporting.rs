//! Reports of deliveries: one on the way at a time, numbered, and sent again under its number until it is answered, so that each counts
//! once. Until then what is counted meanwhile goes with the next.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use switchboard_bus::Bus;
use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::ids::Incarnation;
use switchboard_proto::messages::{NamespaceDeliveries, ReportDeliveriesRequest, method};
use switchboard_service_kit::metrics::Metrics;
use tokio_util::sync::CancellationToken;

use super::Deliveries;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// The longest pause after reports that were not answered, and where nothing is counted.
const LONGEST: Duration = Duration::from_secs(60);

/// Namespaces of one report, at most.
const NAMESPACES: usize = 1_000;

/// What a last report may take when the gateway stops.
const LAST: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Reporting {
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) me: Incarnation,
    /// Between two reports.
    pub(crate) interval: Duration,
    pub(crate) metrics: ReportMetrics,
}

/// Handles; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReportMetrics {
    reports: Counter,
    failed: Counter,
    dropped: Counter,
}

impl ReportMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let counts = Self::default();
        metrics.register("gateway_delivery", |registry| {
            for (name, help, counter) in [
                (
                    "reports",
                    "Reports of deliveries that were counted",
                    &counts.reports,
                ),
                (
                    "failed_reports",
                    "Reports of deliveries that were not answered, and are made again",
                    &counts.failed,
                ),
                (
                    "dropped_reports",
                    "Reports of deliveries that were refused, or that nobody counts",
                    &counts.dropped,
                ),
            ] {
                registry.register(name, help, counter.clone());
            }
        });
        counts
    }
}

impl Reporting {
    /// Reports until the stop, and once more then.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut report = ReportDeliveriesRequest {
            gateway: self.me.as_bytes().to_vec().into(),
            ..ReportDeliveriesRequest::default()
        };
        let mut pause = self.interval;
        while stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
        {
            self.fill(&mut report);
            let Some(sent) = stop.run_until_cancelled(self.send(&mut report, PATIENCE)).await else {
                break;
            };
            pause = match sent {
                Ok(()) => self.interval,
                Err(AskError::NotAvailable(_)) => {
                    self.drop(&mut report);
                    LONGEST
                }
                // The same would be refused again.
                Err(error @ AskError::Invalid(_)) => {
                    tracing::error!(%error, "a report of deliveries is refused, and left out");
                    self.drop(&mut report);
                    self.interval
                }
                Err(error) => {
                    tracing::debug!(%error, "report of deliveries not answered");
                    self.metrics.failed.inc();
                    (pause * 2).min(LONGEST)
                }
            };
        }
        // What was on the way, and then what came since.
        let last = async {
            for _ in 0..2 {
                self.fill(&mut report);
                if self.send(&mut report, LAST).await.is_err() {
                    break;
                }
            }
        };
        tokio::time::timeout(LAST, last).await.ok();
    }

    /// With what is new, where the report before was answered.
    fn fill(&self, report: &mut ReportDeliveriesRequest) {
        if !report.deliveries.is_empty() {
            return;
        }
        report.number += 1;
        let mut taken = self.deliveries.take();
        // More go with the next.
        if let Some(first) = taken.keys().nth(NAMESPACES).cloned() {
            self.deliveries.give_back(taken.split_off(&first));
        }
        report.deliveries = taken
            .into_iter()
            .map(|(namespace, latency)| NamespaceDeliveries {
                namespace,
                latency: latency.buckets().to_vec(),
            })
            .collect();
    }

    async fn send(&self, report: &mut ReportDeliveriesRequest, within: Duration) -> Result<(), AskError> {
        if report.deliveries.is_empty() {
            return Ok(());
        }
        ask::<method::ReportDeliveries>(&*self.bus, report, within).await?;
        report.deliveries.clear();
        self.metrics.reports.inc();
        Ok(())
    }

    fn drop(&self, report: &mut ReportDeliveriesRequest) {
        report.deliveries.clear();
        self.metrics.dropped.inc();
    }
}
