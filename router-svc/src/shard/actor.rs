//! Runs one shard: moves bytes between bus, log and [`Owner`], and decides nothing itself.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use switchboard_bus::{Bus, BusError, Log, Pattern, Subject};
use switchboard_proto::bus::{Down, OwnerBeat, Up};
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, Sequence, ShardCount, ShardId};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::appender::{Settled, append};
use super::claim::{ClaimError, claim};
use super::owner::{Limits, Output, Owner, Ownership, StepDown};
use crate::metrics::RouterMetrics;

/// What a shard's actor keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShardSettings {
    pub(crate) limits: Limits,
    /// Between two owner beats.
    pub(crate) owner_beat: Duration,
    /// Frames from gateways that may wait for the actor.
    pub(crate) inbox: usize,
    /// How long a stop waits for the append in flight.
    pub(crate) release: Duration,
}

/// Everything an actor works with.
pub(crate) struct Shard {
    pub(crate) shard: ShardId,
    pub(crate) shards: ShardCount,
    pub(crate) router: Incarnation,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) settings: ShardSettings,
    pub(crate) metrics: RouterMetrics,
}

/// Why an actor ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShardEnd {
    /// The claim did not succeed.
    #[error("claim failed: {0}")]
    Claim(#[from] ClaimError),
    /// Another router's record is in the log.
    #[error("another router took the shard over")]
    Deposed,
    /// The log lost what it had acknowledged.
    #[error("the log lost acknowledged records: {0}")]
    LogLost(String),
    /// See [`StepDown`].
    #[error(transparent)]
    StepDown(#[from] StepDown),
    /// The bus is gone.
    #[error(transparent)]
    Bus(#[from] BusError),
}

type Appending = Pin<Box<dyn Future<Output = Settled> + Send>>;

/// What the owner wants done, collected during one turn of the loop.
#[derive(Default)]
struct Turn {
    append: Option<(Sequence, Bytes)>,
    down: Vec<(Incarnation, Down)>,
}

impl Output for Turn {
    fn append(&mut self, expected: Sequence, record: Bytes) {
        self.append = Some((expected, record));
    }

    fn down(&mut self, gateway: Incarnation, frame: Down) {
        self.down.push((gateway, frame));
    }
}

/// Frames that are taken in one turn, so that beats and the log's answer are not starved.
const FRAMES_A_TURN: usize = 256;

impl Shard {
    /// Claims the shard and owns it until `stop`, then gives it up in order: the append in flight is
    /// settled and answered first.
    ///
    /// # Errors
    /// [`ShardEnd`] where it stops owning for another reason; the shard may be claimed again.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), ShardEnd> {
        let up = Subject::LinkUp {
            shard: self.shard,
            router: self.router,
        };
        let mut frames = self
            .bus
            .subscribe(Pattern::Exactly(up), self.settings.inbox)
            .await?;
        let claimed = claim(self.log.as_ref(), self.shard, self.shards, self.router, time_us());
        let is = tokio::select! {
            is = claimed => is?,
            () = stop.cancelled() => return Ok(()),
        };
        tracing::info!(shard = %self.shard, owner_epoch = %is.owner_epoch, "shard claimed");
        self.metrics.claims.inc();
        self.metrics.owned_shards.inc();
        let result = self.own(is, &mut frames, &stop).await;
        self.metrics.owned_shards.dec();
        if matches!(result, Err(ShardEnd::Deposed)) {
            // There is an owner: nobody else should claim.
            return result;
        }
        // Gateways stop sending here, and the successor need not wait for silence.
        let released = self.beat(is, true).await;
        tracing::info!(shard = %self.shard, owner_epoch = %is.owner_epoch, "shard released");
        result.and(released)
    }

    async fn own(
        &self,
        is: Ownership,
        frames: &mut switchboard_bus::Subscription,
        stop: &CancellationToken,
    ) -> Result<(), ShardEnd> {
        let begun = Instant::now();
        let mut owner = Owner::new(is, self.settings.limits);
        let mut appending: Option<Appending> = None;
        let mut beats = tokio::time::interval(self.settings.owner_beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut give_up: Option<Instant> = None;
        loop {
            let stopping = give_up.is_some();
            tokio::select! {
                biased;
                settled = settled(&mut appending) => {
                    appending = None;
                    match settled {
                        Settled::Stored(sequence) => {
                            let messages = owner.stored(sequence)?;
                            self.metrics.appends.inc();
                            self.metrics.messages.inc_by(messages as u64);
                        }
                        Settled::Refused(why) => {
                            tracing::error!(shard = %self.shard, why, "log refuses messages");
                            self.metrics.refused.inc();
                            owner.refused("the log does not take messages now");
                        }
                        Settled::Deposed => return Err(ShardEnd::Deposed),
                        Settled::LogLost(why) => return Err(ShardEnd::LogLost(why)),
                    }
                }
                () = stop.cancelled(), if !stopping => give_up = Some(Instant::now() + self.settings.release),
                _ = beats.tick() => {
                    owner.tick(begun.elapsed());
                    if !stopping {
                        self.beat(is, false).await?;
                    }
                    self.measure(&owner);
                }
                frame = frames.next(), if !stopping => {
                    let Some(frame) = frame else { return Err(BusError::Closed.into()) };
                    let now = begun.elapsed();
                    self.up(&mut owner, frame.payload, now);
                    for _ in 1..FRAMES_A_TURN {
                        let Some(frame) = frames.try_next() else { break };
                        self.up(&mut owner, frame.payload, now);
                    }
                }
            }
            let mut turn = Turn::default();
            owner.flush(begun.elapsed(), time_us(), &mut turn);
            if let Some((expected, record)) = turn.append {
                let (log, shard) = (Arc::clone(&self.log), self.shard);
                appending = Some(Box::pin(async move {
                    append(log.as_ref(), shard, expected, record).await
                }));
            }
            for (gateway, frame) in turn.down {
                self.down(gateway, &frame).await?;
            }
            if give_up.is_some_and(|deadline| owner.is_idle() || Instant::now() >= deadline) {
                return Ok(());
            }
        }
    }

    fn up(&self, owner: &mut Owner, payload: Bytes, now: Duration) {
        match format::decode::<Up>(payload) {
            Ok(frame) => owner.up(frame, now),
            Err(error) => {
                self.metrics.bad_frames.inc();
                tracing::warn!(shard = %self.shard, %error, "frame from a gateway dropped");
            }
        }
    }

    async fn down(&self, gateway: Incarnation, frame: &Down) -> Result<(), ShardEnd> {
        let subject = Subject::LinkDown {
            gateway,
            shard: self.shard,
        };
        match self.bus.publish(subject, format::encode(frame)).await {
            Ok(()) => Ok(()),
            Err(BusError::Closed) => Err(BusError::Closed.into()),
            // The gateway sees the gap and opens its link anew.
            Err(error @ BusError::Unreachable(_)) => {
                tracing::debug!(shard = %self.shard, %gateway, %error, "frame to a gateway lost");
                Ok(())
            }
            Err(error) => {
                tracing::warn!(shard = %self.shard, %gateway, %error, "frame to a gateway lost");
                Ok(())
            }
        }
    }

    async fn beat(&self, is: Ownership, released: bool) -> Result<(), ShardEnd> {
        let beat = OwnerBeat {
            shard: u32::from(self.shard.get()),
            router: self.router.to_bytes(),
            ordinal: is.log_epoch.ordinal,
            owner_epoch: is.owner_epoch.0,
            released,
        };
        let subject = Subject::OwnerBeat { shard: self.shard };
        match self.bus.publish(subject, format::encode(&beat)).await {
            Ok(()) | Err(BusError::Unreachable(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn measure(&self, owner: &Owner) {
        let shard = self.metrics.of(self.shard);
        shard.position.set(owner.position().sequence().0.cast_signed());
        shard.links.set(owner.links().len() as i64);
        shard.channels.set(owner.links().channel_count() as i64);
        shard.queued_bytes.set(owner.queued_bytes() as i64);
    }
}

/// The outcome of the append in flight; pending where there is none. Cancel safe.
async fn settled(appending: &mut Option<Appending>) -> Settled {
    match appending {
        Some(append) => append.await,
        None => std::future::pending().await,
    }
}

/// Unix microseconds. Information only: nothing about order or safety depends on it.
fn time_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
