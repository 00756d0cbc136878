//! A planned move that nobody notices (O5): the router that is to own a shard next reads the shard's log
//! while the owner goes on, and says when it is at the end. Only then does the owner give the shard up, so
//! that behind the fence there is next to nothing to read.
//!
//! Nothing here is needed for safety. What was read ahead is used only if it is the log that was claimed,
//! without a hole up to the fence; otherwise the take-over reads back as after a death.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use switchboard_bus::{Bus, Log, LogError, Subject};
use switchboard_proto::bus::{BetweenOwners, Successor, between_owners};
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, LogEpoch, ShardId};
use switchboard_proto::time::now_us;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::claim::{ClaimError, newest_state};
use super::memory::MemoryLimits;
use super::takeover::{ReadError, Tail};

/// Between two signs to the owner.
const SIGN: Duration = Duration::from_millis(200);

/// Between two tries to read.
const PAUSE: Duration = Duration::from_millis(200);

/// An owner that hears nothing of a successor for so long waits for none.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

/// The signs that an owner got of its successor.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    heard: Option<Instant>,
    is_ready: bool,
}

impl Signs {
    pub(crate) fn heard(&mut self, is_ready: bool, now: Instant) {
        self.heard = Some(now);
        self.is_ready = is_ready;
    }

    /// Whether an owner that was told at `since` to hand its shard over does so now: the successor is
    /// ready, or none shows life.
    pub(crate) fn may_hand_over(&self, since: Instant, now: Instant) -> bool {
        match self.heard {
            Some(heard) if now.saturating_duration_since(heard) < SILENCE => self.is_ready,
            Some(_) | None => now.saturating_duration_since(since) >= SILENCE,
        }
    }
}

/// What a router follows a log with.
#[derive(Clone)]
pub(crate) struct Preparation {
    pub(crate) bus: Arc<dyn Bus>,
    /// Of any layout: the one in force is looked up.
    pub(crate) log: Arc<dyn Log>,
    pub(crate) shard: ShardId,
    pub(crate) limits: MemoryLimits,
    /// The owner.
    pub(crate) owner: Incarnation,
    /// As many logs are read at a time as it has permits.
    pub(crate) readings: Arc<Semaphore>,
}

/// A log that is being followed. Dropped: it no longer is.
pub(crate) struct Following {
    stop: CancellationToken,
    // One task, aborted when dropped.
    task: JoinSet<Option<Followed>>,
}

/// A log that was read up to its end, or nearly.
pub(crate) struct Followed {
    pub(crate) log: LogEpoch,
    pub(crate) tail: Tail,
}

impl Following {
    pub(crate) fn begin(preparation: Preparation) -> Self {
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(preparation.run(stop.clone()));
        Self { stop, task }
    }

    /// What was read so far, if anything. Not cancel safe: what was read is lost with it.
    pub(crate) async fn finish(mut self) -> Option<Followed> {
        self.stop.cancel();
        match self.task.join_next().await? {
            Ok(followed) => followed,
            Err(error) => {
                tracing::error!(%error, "following a shard's log ended badly");
                None
            }
        }
    }
}

impl Preparation {
    async fn run(self, stop: CancellationToken) -> Option<Followed> {
        let mut signs = tokio::time::interval(SIGN);
        signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let readings = Arc::clone(&self.readings);
        let permit = readings.acquire();
        tokio::pin!(permit);
        // Kept until the shard is taken over: what was read takes memory until then.
        let _permit = loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                permit = &mut permit => break permit,
                _ = signs.tick() => self.sign(false).await,
            }
        };
        loop {
            let mut followed = None;
            match self.follow(&mut followed, &mut signs, &stop).await {
                Ok(()) => return followed,
                Err(error) => {
                    tracing::debug!(shard = %self.shard, %error, "log not followed, trying again");
                }
            }
            drop(followed);
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(PAUSE) => self.sign(false).await,
            }
        }
    }

    /// `Ok`: it was stopped.
    async fn follow(
        &self,
        followed: &mut Option<Followed>,
        signs: &mut tokio::time::Interval,
        stop: &CancellationToken,
    ) -> Result<(), ClaimError> {
        let layout = self.log.layout().await?;
        let log = self.log.of(&layout.ok_or(LogError::Missing(self.shard))?);
        let info = log.info(self.shard).await?;
        let state_at = newest_state(log.as_ref(), self.shard, &info).await?;
        let tail = Tail::begin(log.as_ref(), self.shard, &info, state_at, self.limits, now_us()).await;
        let mut records = log.read(self.shard, tail.next()).await?;
        let tail = &mut followed
            .insert(Followed {
                log: info.epoch,
                tail,
            })
            .tail;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = signs.tick() => self.sign(tail.next() > info.last).await,
                at = records.next() => {
                    let at = at.ok_or(ReadError::Ended)?.map_err(ReadError::Log)?;
                    tail.record(&at)?;
                    if tail.next() == info.last.next() {
                        self.sign(true).await;
                    }
                }
            }
        }
    }

    /// One that is lost is made up for by the next.
    async fn sign(&self, ready: bool) {
        let successor = Successor {
            shard: u32::from(self.shard.get()),
            ready,
        };
        let frame = BetweenOwners {
            item: Some(between_owners::Item::Successor(successor)),
        };
        let subject = Subject::Derive {
            shard: self.shard,
            router: self.owner,
        };
        if let Err(error) = self.bus.publish(subject, format::encode(&frame)).await {
            tracing::debug!(shard = %self.shard, %error, "sign to the owner lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use switchboard_bus::embedded::{EmbeddedBus, EmbeddedDurability, EmbeddedLog};
    use switchboard_bus::{Pattern, SubjectPrefix};
    use switchboard_proto::bus::Layout;
    use switchboard_proto::ids::ShardCount;

    use switchboard_testkit::wait_until;

    use super::*;
    use crate::shard::takeover::{TakenOver, take_over};
    use crate::shard::window::WindowLimits;

    #[test]
    fn o5_an_owner_waits_for_a_successor_that_shows_life_and_no_longer() {
        let told = Instant::now();
        let at = |millis| told + Duration::from_millis(millis);
        let mut signs = Signs::default();
        assert!(!signs.may_hand_over(told, at(900)), "it may still be heard");
        assert!(signs.may_hand_over(told, at(1000)), "nobody is there");
        signs.heard(false, at(800));
        assert!(!signs.may_hand_over(told, at(1700)), "it reads");
        assert!(signs.may_hand_over(told, at(1800)), "it is gone");
        signs.heard(true, at(1900));
        assert!(signs.may_hand_over(told, at(1901)), "it is ready");

        let mut before = Signs::default();
        before.heard(true, at(0));
        assert!(!before.may_hand_over(at(1100), at(1100)), "it was ready long ago");
    }

    const LIMITS: MemoryLimits = MemoryLimits {
        window: WindowLimits {
            bytes: 1 << 20,
            age_us: 600_000_000,
            heads: 1000,
        },
        numbers: 1000,
        numbers_silence: Duration::from_secs(60),
        keys_us: 300_000_000,
        keys: 100,
        removed: 10_000,
        hidden: 10_000,
        deleted: 100,
    };

    const DEADLINE: Duration = Duration::from_secs(10);

    fn shard() -> ShardId {
        ShardId::new(0).unwrap()
    }

    fn one() -> ShardCount {
        ShardCount::new(1).unwrap()
    }

    async fn claim(log: &dyn Log, router: u128, following: Option<Following>) -> TakenOver {
        let router = Incarnation::from_u128(router);
        take_over(log, shard(), one(), router, LIMITS, now_us(), following)
            .await
            .unwrap()
    }

    /// A log with three records, on its first epoch.
    async fn written(folder: &std::path::Path) -> (Arc<EmbeddedLog>, Layout) {
        let log = EmbeddedLog::open(folder, EmbeddedDurability::Memory).unwrap();
        let layout = log
            .create(&Layout::new(one(), Duration::from_secs(300), 1))
            .await
            .unwrap();
        let in_force = log.of(&layout);
        for router in 1..=3 {
            claim(in_force.as_ref(), router, None).await;
        }
        (log, layout)
    }

    fn follow(bus: &Arc<EmbeddedBus>, log: &Arc<EmbeddedLog>, readings: &Arc<Semaphore>) -> Following {
        Following::begin(Preparation {
            bus: Arc::clone(bus) as Arc<dyn Bus>,
            log: Arc::clone(log) as Arc<dyn Log>,
            shard: shard(),
            limits: LIMITS,
            owner: Incarnation::from_u128(3),
            readings: Arc::clone(readings),
        })
    }

    #[tokio::test]
    async fn o5_what_was_read_ahead_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (log, layout) = written(folder.path()).await;
        let bus = EmbeddedBus::new(SubjectPrefix::default());
        let owner = Subject::Derive {
            shard: shard(),
            router: Incarnation::from_u128(3),
        };
        let mut signs = bus.subscribe(Pattern::Exactly(owner), 100).await.unwrap();
        let readings = Arc::new(Semaphore::new(1));
        let busy = Arc::clone(&readings).acquire_owned().await.unwrap();
        let following = follow(&bus, &log, &readings);
        let mut next = async || {
            let sign = tokio::time::timeout(DEADLINE, signs.next())
                .await
                .unwrap()
                .unwrap();
            match format::decode::<BetweenOwners>(sign.payload)
                .unwrap()
                .item
                .unwrap()
            {
                between_owners::Item::Successor(sign) => sign.ready,
                other => panic!("{other:?}"),
            }
        };
        assert!(!next().await, "others are read first, and it shows life");
        drop(busy);
        wait_until(DEADLINE, async || next().await).await.unwrap();

        let in_force = log.of(&layout);
        let taken = claim(in_force.as_ref(), 4, Some(following)).await;
        // Its own fence alone is left to read, unless that was read ahead, too.
        let read = (taken.read_ahead, taken.records);
        assert!([(3, 1), (4, 0)].contains(&read), "{read:?}");
        let alike = claim(in_force.as_ref(), 4, None).await;
        assert_eq!((alike.read_ahead, alike.records), (0, 5));
        assert_eq!(readings.available_permits(), 1, "it is given back");
    }

    #[tokio::test]
    async fn o5_what_was_read_of_another_log_is_of_no_use() {
        let folder = tempfile::tempdir().unwrap();
        let (log, layout) = written(folder.path()).await;
        let bus = EmbeddedBus::new(SubjectPrefix::default());
        let following = follow(&bus, &log, &Arc::new(Semaphore::new(1)));
        let other = tempfile::tempdir().unwrap();
        let (anew, _) = written(other.path()).await;
        let taken = claim(anew.of(&layout).as_ref(), 4, Some(following)).await;
        assert_eq!((taken.read_ahead, taken.records), (0, 4));
    }
}
