//! What became of deliveries, written down many at a time.

use std::time::Duration;

use switchboard_proto::time::now_us;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{SETTLED, Sending};
use crate::model::{State, us};
use crate::store::{Claimed, Settled};

impl Sending {
    pub(super) fn settled(&self, claimed: &Claimed, state: State, reason: &str) -> Settled {
        Settled {
            delivery: claimed.delivery.id,
            by: self.me,
            state,
            reason: reason.to_owned(),
            due_us: 0,
            since_us: None,
            attempts: Vec::new(),
            reference: None,
            shown: false,
            counted: None,
            now_us: now_us(),
        }
    }

    /// It is asked again after `wait`, and keeps the age that it has: what was put off does not come behind what is new.
    pub(super) fn put_off(&self, claimed: &Claimed, wait: Duration, reason: &str) -> Settled {
        Settled {
            due_us: now_us() + us(wait),
            since_us: Some(claimed.notification.created_us),
            ..self.settled(claimed, State::Held, reason)
        }
    }

    pub(super) async fn end(
        &self,
        claimed: &Claimed,
        state: State,
        reason: &str,
        settled: &mpsc::Sender<Settled>,
    ) {
        settled.send(self.settled(claimed, state, reason)).await.ok();
    }

    pub(super) async fn hold(
        &self,
        claimed: &Claimed,
        until_us: u64,
        reason: &str,
        settled: &mpsc::Sender<Settled>,
    ) {
        let held = Settled {
            due_us: until_us,
            ..self.settled(claimed, State::Held, reason)
        };
        settled.send(held).await.ok();
    }

    /// Writes down what became of deliveries, many at a time, until nobody sends any more.
    pub(super) async fn settle(self, mut settling: mpsc::Receiver<Settled>, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(SETTLED);
        while settling.recv_many(&mut batch, SETTLED).await > 0 {
            let mut pause = Duration::from_millis(50);
            // While the store cannot be used claims run out, and what was sent is sent again: it is tried for as long as they last.
            let end = Instant::now() + self.settings.lease;
            while let Err(error) = self.store.settle(&batch).await {
                let is_over = Instant::now() + pause > end;
                // A stop has its time, too.
                if is_over || (stop.is_cancelled() && pause > Duration::from_secs(1)) {
                    tracing::error!(%error, deliveries = batch.len(), "what was sent is not written down, and will be sent again");
                    break;
                }
                tracing::warn!(%error, "what was sent is not written down yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            for settled in batch.drain(..) {
                self.metrics.settled(settled.state);
            }
        }
    }
}
