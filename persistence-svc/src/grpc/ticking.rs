//! What happens, every second: one look at the store for all streams, and none where nobody watches.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use switchboard_bus::answering::Answering;
use switchboard_bus::statistics::between;
use switchboard_proto::messages::{LiveRequest, LiveResponse, StatisticsTick};
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::MissedTickBehavior;
use tonic::Status;

use crate::service::Service;

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);

/// Ticks that a stream may be behind; then it ends.
const BEHIND: usize = 16;

pub(crate) type Ticks = Pin<Box<dyn Stream<Item = Result<StatisticsTick, Status>> + Send>>;

/// See the module.
pub(crate) struct Ticking {
    /// `None`: the store could not be asked.
    ticks: broadcast::Sender<Option<StatisticsTick>>,
    places: Arc<Semaphore>,
}

impl Ticking {
    /// For so many streams, at most.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            ticks: broadcast::channel(BEHIND).0,
            places: Arc::new(Semaphore::new(most)),
        }
    }

    /// Looks until the tasks stop.
    pub(crate) fn start(&self, service: Arc<Service>, answering: Answering, tasks: &Tasks) {
        let (ticks, stop) = (self.ticks.clone(), tasks.stop_token());
        let looking = async move {
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut before: Option<LiveResponse> = None;
            loop {
                interval.tick().await;
                if ticks.receiver_count() == 0 {
                    before = None;
                    continue;
                }
                let now = answering.beside(service.live(LiveRequest {})).await.ok();
                let tick = match (&before, &now) {
                    (Some(before), Some(now)) => Some(between(before, now)),
                    (None, Some(_)) => {
                        before = now;
                        continue;
                    }
                    (_, None) => None,
                };
                // Nobody may listen any more.
                ticks.send(tick).ok();
                before = now;
            }
        };
        tasks.spawn("statistics-ticks", TaskKind::Essential, async move {
            stop.run_until_cancelled(looking).await;
        });
    }

    /// One more stream.
    pub(crate) fn watch(&self) -> Result<Ticks, Status> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted("as many watch as may (persistence.statistics.watches)")
        })?;
        let watch = Watch {
            ticks: self.ticks.subscribe(),
            is_over: false,
            _place: place,
        };
        Ok(Box::pin(stream::unfold(watch, Watch::next)))
    }
}

struct Watch {
    ticks: broadcast::Receiver<Option<StatisticsTick>>,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<StatisticsTick, Status>, Self)> {
        if self.is_over {
            return None;
        }
        if let Ok(Some(tick)) = self.ticks.recv().await {
            return Some((Ok(tick), self));
        }
        self.is_over = true;
        let missed = Status::unavailable("seconds may have been missed: ask anew");
        Some((Err(missed), self))
    }
}
