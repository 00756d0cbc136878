//! Reports to the presence service: one on the way at a time, numbered, under a lease that each of them renews.

use std::sync::Arc;
use std::time::Duration;

use switchboard_bus::Bus;
use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::ids::Incarnation;
use switchboard_proto::presence::{ReportRequest, method};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Presence;

/// What happens within this time is reported together.
const COALESCE: Duration = Duration::from_millis(50);

/// Without anything to report, a report says that the gateway is there.
const BEAT: Duration = Duration::from_secs(1);

/// How long an answer is waited for: less than a lease.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// From a failure to the next try.
const RETRY: Duration = Duration::from_millis(500);

/// Sessions and members of one report, at most; fewer where reports of so many are not answered in time.
const REPORT: usize = 2_000;
const SMALLEST: usize = 50;

/// After a lease that followed another, all gateways have reported anew by then: what is watched is asked for again.
const SETTLED: Duration = Duration::from_secs(6);

/// What ending the lease may take when the gateway stops; else it ends by itself.
const RELEASE: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Reporting {
    presence: Arc<Presence>,
    bus: Arc<dyn Bus>,
    me: Incarnation,
    lease: u64,
    number: u64,
    /// The lease in `lease` was begun.
    has_begun: bool,
    is_failing: bool,
    /// Entries of the next report.
    size: usize,
    settled: Option<Instant>,
}

impl Reporting {
    pub(crate) fn new(presence: Arc<Presence>, bus: Arc<dyn Bus>, me: Incarnation) -> Self {
        Self {
            presence,
            bus,
            me,
            lease: 1,
            number: 0,
            has_begun: false,
            is_failing: false,
            size: REPORT,
            settled: None,
        }
    }

    /// Reports until the stop, and then that the gateway is gone.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(self.turn()).await.is_some() {}
        if self.has_begun {
            let ends = ReportRequest {
                ends: true,
                ..self.next()
            };
            tokio::time::timeout(RELEASE, self.ask(&ends)).await.ok();
        }
    }

    /// Cancel safe at the end only: what was taken may be lost with it.
    async fn turn(&mut self) {
        if let Err(error) = self.report().await {
            self.presence.metrics.failed_reports.inc();
            if !self.is_failing {
                tracing::warn!(%error, "the presence service does not answer: who is here is not known, all else goes on");
                self.is_failing = true;
            }
            if self.presence.table.lock().gives_up() {
                self.lease += 1;
                self.has_begun = false;
            }
            // Gateways whose service comes back do not all come at once.
            tokio::time::sleep(RETRY.mul_f64(0.5 + rand::random::<f64>())).await;
        }
    }

    async fn report(&mut self) -> Result<(), AskError> {
        if !self.has_begun {
            let begins = ReportRequest {
                begins: true,
                ..self.next()
            };
            if !self.ask(&begins).await? {
                // A later one is known, perhaps from a report of ours that was not answered.
                self.lease += 1;
                return Ok(());
            }
            self.has_begun = true;
            self.presence.metrics.leases.inc();
            if self.lease > 1 {
                self.settled = Some(Instant::now() + SETTLED);
            }
            self.presence.table.lock().touch_all();
        } else if !self.presence.table.lock().has_more() {
            self.wait().await;
        }
        if self.settled.is_some_and(|settled| settled <= Instant::now()) {
            self.settled = None;
            self.presence.ask_again.notify_one();
        }
        let mut report = self.next();
        let taken = {
            let mut table = self.presence.table.lock();
            table.touch_active(self.presence.config.activity_interval);
            table.take(&mut report, self.size, self.bus.max_payload() / 2)
        };
        let held = self.ask(&report).await;
        match held {
            Ok(true) => {
                self.presence.metrics.reports.inc();
                self.size = (self.size * 2).min(REPORT);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("the presence service answers again");
                }
                Ok(())
            }
            Ok(false) => {
                self.lease += 1;
                self.has_begun = false;
                Ok(())
            }
            // The same would be refused again, and with it the lease would end: the rest goes on.
            Err(error @ AskError::Invalid(_)) => {
                tracing::error!(%error, "the presence service refuses a report, which is left out");
                Err(error)
            }
            Err(error) => {
                self.presence.table.lock().failed(&taken);
                self.size = (self.size / 2).max(SMALLEST);
                Err(error)
            }
        }
    }

    /// Until there is something to report, and then a little for more of it, or until it is time to say that the gateway is there.
    async fn wait(&self) {
        let until = Instant::now() + BEAT;
        let happens = async {
            self.presence.changed.notified().await;
            tokio::time::sleep(COALESCE).await;
        };
        tokio::time::timeout_at(until, happens).await.ok();
    }

    fn next(&mut self) -> ReportRequest {
        self.number += 1;
        ReportRequest {
            gateway: self.me.to_bytes(),
            lease: self.lease,
            number: self.number,
            ..ReportRequest::default()
        }
    }

    async fn ask(&self, report: &ReportRequest) -> Result<bool, AskError> {
        let answer = ask::<method::Report>(self.bus.as_ref(), report, PATIENCE).await?;
        Ok(answer.held)
    }
}
