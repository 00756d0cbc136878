//! What happens, every second: one look for all who watch, and none where nobody does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use switchboard_proto::messages::{LiveResponse, StatisticsTick};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::MissedTickBehavior;

use super::between;

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);

/// Ticks that somebody may be behind; then seconds were missed.
const BEHIND: usize = 16;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ticking {
    /// `None`: there was no answer.
    ticks: broadcast::Sender<Option<StatisticsTick>>,
    places: Arc<Semaphore>,
}

impl Ticking {
    /// For so many who watch, at most.
    pub fn new(most: usize) -> Self {
        Self {
            ticks: broadcast::channel(BEHIND).0,
            places: Arc::new(Semaphore::new(most)),
        }
    }

    /// Takes a `look` every second while somebody watches; `None`: it failed. Never ends; cancel safe.
    pub async fn run<F>(&self, mut look: impl FnMut() -> F)
    where
        F: Future<Output = Option<LiveResponse>>,
    {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<LiveResponse> = None;
        loop {
            interval.tick().await;
            if self.ticks.receiver_count() == 0 {
                before = None;
                continue;
            }
            let now = look().await;
            let tick = match (&before, &now) {
                (Some(before), Some(now)) => Some(between(before, now)),
                (None, Some(_)) => {
                    before = now;
                    continue;
                }
                (_, None) => None,
            };
            // Nobody may watch any more.
            self.ticks.send(tick).ok();
            before = now;
        }
    }

    /// What happens from now on. It ends where seconds may have been missed: ask anew. `None`: as many watch as may.
    pub fn watch(&self) -> Option<impl Stream<Item = StatisticsTick> + Send + use<>> {
        struct Watch {
            ticks: broadcast::Receiver<Option<StatisticsTick>>,
            _place: OwnedSemaphorePermit,
        }
        let watch = Watch {
            _place: Arc::clone(&self.places).try_acquire_owned().ok()?,
            ticks: self.ticks.subscribe(),
        };
        Some(stream::unfold(watch, async |mut watch| {
            match watch.ticks.recv().await {
                Ok(Some(tick)) => Some((tick, watch)),
                Ok(None) | Err(_) => None,
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::StreamExt as _;
    use switchboard_proto::messages::LiveCount;

    use super::*;
    use crate::statistics::ALL;

    #[tokio::test(start_paused = true)]
    async fn ticks_are_told_to_all_and_end_where_one_is_missed() {
        let ticking = Ticking::new(2);
        let looks = AtomicU64::new(0);
        let look = || {
            let looks = looks.fetch_add(1, Ordering::Relaxed) + 1;
            let told = (looks < 4).then(|| LiveResponse {
                at_ms: looks * 1000,
                counts: vec![LiveCount {
                    namespace: ALL.to_owned(),
                    messages: looks * 10,
                    ..LiveCount::default()
                }],
            });
            std::future::ready(told)
        };
        let watching = async {
            // Nobody watches: nobody looks.
            tokio::time::sleep(TICK * 5).await;
            assert_eq!(looks.load(Ordering::Relaxed), 0);
            let (one, other) = (ticking.watch().unwrap(), ticking.watch().unwrap());
            assert!(ticking.watch().is_none(), "no more than may");
            let (one, other) = tokio::join!(one.collect::<Vec<_>>(), other.collect::<Vec<_>>());
            assert_eq!(one, other);
            let told = one
                .iter()
                .map(|tick| (tick.at_ms, tick.over_ms, tick.rates[0].messages));
            assert_eq!(told.collect::<Vec<_>>(), [(2_000, 1_000, 10), (3_000, 1_000, 10)]);
            assert!(ticking.watch().is_some(), "places are given back");
        };
        tokio::select! {
            () = ticking.run(look) => unreachable!("it never ends"),
            () = watching => {}
        }
    }
}
