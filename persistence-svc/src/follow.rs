//! Followers: what is derived from stored messages and may lag behind them, such as the index of search.
//!
//! A follower reads each log in the order of its messages, and writes what it makes of them in one transaction with its
//! position in that log. So nothing counts twice and nothing is left out, whoever dies when, and a further replica that does the same step
//! finds that it was done. Replicas share the shards as readers of the log do; whose shard stands still is taken over by others.
//!
//! Messages come first: while the writer of this process has as much to do as it can, followers take a step a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use switchboard_bus::membership::{Membership, owners};
use switchboard_proto::bus::Role;
use switchboard_proto::ids::{Incarnation, LogEpoch, Offset, ShardCount, ShardId};
use switchboard_proto::time::now_us;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::FollowerMetrics;
use crate::store::{Behind, LogRow, Step, Store, StoreError};

/// Messages of one step, at most.
pub const STEP: usize = 2000;

/// Logs that are followed at the same time.
const AT_ONCE: usize = 2;

/// How often is looked for messages that other processes stored.
const LOOK: Duration = Duration::from_millis(500);

/// The shortest time between two looks: messages that come one by one are taken together.
const GATHER: Duration = Duration::from_millis(100);

/// The same while messages keep coming: a step costs about the same for one message and for fifty.
const GATHER_MORE: Duration = Duration::from_millis(500);

/// How long the writer counts as busy after a batch that was nearly full, or that failed.
const BUSY: Duration = Duration::from_secs(1);

/// A log in which nothing was done for so long is anybody's.
const ABANDONED: Duration = Duration::from_secs(10);

/// Something that is derived from messages.
#[async_trait]
pub trait Follower: Send + Sync + 'static {
    /// Its name among the positions in the store.
    fn name(&self) -> &'static str;

    /// Called before the first step, and again after a failure.
    ///
    /// # Errors
    /// [`StoreError`]: it is called again.
    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Writes what follows from messages that follow each other in a log, and with it the position. `false`: the position is not
    /// where the step begins, and nothing was written.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was written or, where the answer was lost, everything. The step is tried again.
    async fn apply(&self, step: &Step, rows: Vec<LogRow>) -> Result<bool, StoreError>;
}

/// What followers know of the writer in the same process.
#[derive(Debug, Default)]
pub struct Writes {
    more: Notify,
    busy_until: Mutex<Option<Instant>>,
}

impl Writes {
    /// Messages were stored. `is_much`: as many as one write may hold, or nearly.
    pub(crate) fn wrote(&self, is_much: bool) {
        if is_much {
            self.is_hindered();
        }
        self.more.notify_waiters();
    }

    /// Messages could not be stored, or are too many.
    pub(crate) fn is_hindered(&self) {
        *self.busy_until.lock() = Some(Instant::now() + BUSY);
    }

    fn is_busy(&self) -> bool {
        self.busy_until.lock().is_some_and(|until| Instant::now() < until)
    }
}

/// One follower at work in one replica.
#[derive(Clone)]
pub struct Following {
    /// Whose messages are followed.
    pub store: Arc<dyn Store>,
    /// What is made of them.
    pub follower: Arc<dyn Follower>,
    /// What else this process does to the store.
    pub writes: Arc<Writes>,
    /// Shards of the layout.
    pub shards: ShardCount,
    /// This replica among the members.
    pub incarnation: Incarnation,
    /// Who the replicas are.
    pub membership: Membership,
    /// Counts.
    pub metrics: FollowerMetrics,
}

/// How far a log was when it was looked at, and since when.
type Seen = HashMap<(ShardId, LogEpoch), (Offset, Instant)>;

/// What a round found.
struct Round {
    /// Messages that were not followed yet.
    is_any: bool,
    /// More of them than a step takes.
    is_more: bool,
}

impl Following {
    /// Follows until `stop`. What fails is logged and tried again. Cancel safe.
    pub async fn run(self, stop: CancellationToken) {
        let name = self.follower.name();
        let mut pause = GATHER;
        let mut gather = GATHER;
        let mut is_prepared = false;
        let mut seen = Seen::new();
        while !stop.is_cancelled() {
            let done = match is_prepared {
                true => Ok(()),
                false => self.follower.prepare().await,
            };
            let done = match done {
                Ok(()) => {
                    is_prepared = true;
                    self.round(&mut seen, &stop).await
                }
                Err(error) => Err(error),
            };
            let wait = match done {
                Ok(round) => {
                    pause = GATHER;
                    gather = if round.is_any { GATHER_MORE } else { GATHER };
                    if round.is_more { Duration::ZERO } else { LOOK }
                }
                Err(error) => {
                    tracing::warn!(follower = name, %error, "messages are not followed, tried again");
                    self.metrics.failures.inc();
                    is_prepared = false;
                    pause = (pause * 2).min(ABANDONED);
                    pause
                }
            };
            let more = self.writes.more.notified();
            let rest = async {
                if self.writes.is_busy() {
                    self.metrics.waits.inc();
                    tokio::time::sleep(BUSY).await;
                } else if !wait.is_zero() {
                    tokio::time::sleep(gather).await;
                    drop(tokio::time::timeout(wait, more).await);
                }
            };
            stop.run_until_cancelled(rest).await;
        }
    }

    /// One step in each log that is this replica's and has something to do.
    async fn round(&self, seen: &mut Seen, stop: &CancellationToken) -> Result<Round, StoreError> {
        let behind = self.store.behind(self.follower.name()).await?;
        let now = Instant::now();
        seen.retain(|log, _| behind.iter().any(|behind| (behind.shard, behind.log) == *log));
        let owners = owners(self.shards, &self.membership.of_role(Role::Persistence));
        let mine: Vec<Behind> = behind
            .into_iter()
            .filter(|behind| {
                let (was, since) = seen
                    .entry((behind.shard, behind.log))
                    .or_insert((behind.done_to, now));
                if *was != behind.done_to {
                    (*was, *since) = (behind.done_to, now);
                }
                let owner = owners.get(usize::from(behind.shard.get())).copied().flatten();
                owner == Some(self.incarnation) || now - *since >= ABANDONED
            })
            .collect();
        let mut lag = Duration::ZERO;
        let mut round = Round {
            is_any: !mine.is_empty(),
            is_more: false,
        };
        let mut steps = futures_util::stream::iter(mine)
            .map(|behind| self.clone().step(behind))
            .buffer_unordered(AT_ONCE);
        // One log that fails holds up no other; its fault is told when the others have had their turn.
        let mut failed = None;
        while let Some(done) = steps.next().await {
            match done {
                Ok((was_behind, has_more)) => {
                    lag = lag.max(was_behind);
                    round.is_more |= has_more;
                }
                Err(error) => failed = Some(error),
            }
            if stop.is_cancelled() || self.writes.is_busy() {
                break;
            }
        }
        self.metrics
            .lag_ms
            .set(i64::try_from(lag.as_millis()).unwrap_or(i64::MAX));
        failed.map_or(Ok(round), Err)
    }

    /// How old the first message of the step was, and whether there is more behind it.
    async fn step(self, behind: Behind) -> Result<(Duration, bool), StoreError> {
        let Behind {
            shard,
            log,
            done_to,
            stored_to,
        } = behind;
        let rows = self
            .store
            .log_rows((shard, log), done_to, stored_to, STEP)
            .await?;
        let age = rows
            .first()
            .map_or(0, |first| now_us().saturating_sub(first.time_us));
        let count = rows.len();
        let to = match rows.last() {
            Some(last) if count == STEP => last.offset,
            _ => stored_to,
        };
        let step = Step {
            name: self.follower.name(),
            shard,
            log,
            from: done_to,
            to,
        };
        if self.follower.apply(&step, rows).await? {
            self.metrics.rows.inc_by(count as u64);
        }
        Ok((Duration::from_micros(age), to != stored_to))
    }
}

#[cfg(test)]
mod tests;
