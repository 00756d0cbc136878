//! Which shards this router should own: a state machine without I/O and without a clock.
//!
//! Membership and rendezvous hashing say who should; owners' beats say who does. Nothing here is
//! needed for safety, which the fence alone gives (O1). It keeps routers out of each other's way:
//! nobody claims from an owner that shows life, and who lost a claim backs off (O3).

use std::time::Duration;

use crate::maps::{HashMap, HashSet};
use switchboard_proto::bus::OwnerBeat;
use switchboard_proto::ids::{Incarnation, ShardCount, ShardId};

/// What is to be done about a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nobody shows life there and it is ours to own.
    Claim(ShardId),
    /// Another router that lives should own it.
    Release(ShardId),
    /// It is ours to own next: follow its log while this one still owns it (O5).
    Prepare(ShardId, Incarnation),
    /// It no longer is.
    Forget(ShardId),
    /// Another router took it with a higher epoch: what this one appends would be refused.
    Abandon(ShardId),
}

/// Times that ownership keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Silence after which an owner is taken for dead. Zero where no other router can exist.
    pub(crate) silence: Duration,
    /// First pause after a claim or an ownership that failed; doubles up to `pause_max`.
    pub(crate) pause: Duration,
    pub(crate) pause_max: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    router: Incarnation,
    rank: (u32, u64),
    at: Duration,
    released: bool,
}

#[derive(Debug, Clone, Copy)]
struct Failed {
    pause: Duration,
    until: Duration,
}

/// A shard whose actor runs here.
#[derive(Debug, Clone, Copy)]
struct Running {
    /// The highest owner known when it was claimed: only one above that deposes us.
    above: (u32, u64),
    told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// To own.
    Own,
    /// To hand it over.
    Release,
    /// To step down, for there is a higher owner.
    Abandon,
}

/// See the module.
pub(crate) struct Ownerships {
    me: Incarnation,
    shards: ShardCount,
    patience: Patience,
    seen: HashMap<ShardId, Seen>,
    failed: HashMap<ShardId, Failed>,
    running: HashMap<ShardId, Running>,
    /// Shards that are followed, and whose they are.
    preparing: HashMap<ShardId, Incarnation>,
    /// Shards whose log lost what it had acknowledged: nobody may write them before an operator has
    /// looked.
    broken: HashSet<ShardId>,
    /// Who should own what, for these routers.
    assigned: (Vec<Incarnation>, Vec<Option<Incarnation>>),
}

impl Ownerships {
    pub(crate) fn new(me: Incarnation, shards: ShardCount, patience: Patience) -> Self {
        Self {
            me,
            shards,
            patience,
            seen: HashMap::default(),
            failed: HashMap::default(),
            running: HashMap::default(),
            preparing: HashMap::default(),
            broken: HashSet::default(),
            assigned: (Vec::new(), Vec::new()),
        }
    }

    /// Somebody says that it owns a shard, or gives it up.
    pub(crate) fn beat(&mut self, beat: &OwnerBeat, now: Duration) {
        let Some(shard) = ShardId::new(beat.shard) else {
            return;
        };
        let Ok(router) = Incarnation::try_from(beat.router.as_ref()) else {
            return;
        };
        let rank = (beat.ordinal, beat.owner_epoch);
        let seen = Seen {
            router,
            rank,
            at: now,
            released: beat.released,
        };
        // An older owner that still beats does not hide the newer one.
        if self.seen.get(&shard).is_none_or(|known| rank >= known.rank) {
            self.seen.insert(shard, seen);
        }
    }

    /// The shard's actor ended, of itself or as it was told.
    pub(crate) fn ended(&mut self, shard: ShardId, failed: bool, now: Duration) {
        let abandoned = self
            .running
            .remove(&shard)
            .is_some_and(|running| running.told == Told::Abandon);
        if failed || abandoned {
            let pause = match self.failed.get(&shard) {
                // An ownership that lasted was no failure of the claim before it.
                Some(last) if now < last.until + self.patience.pause_max => {
                    (last.pause * 2).min(self.patience.pause_max)
                }
                Some(_) | None => self.patience.pause,
            };
            self.failed.insert(
                shard,
                Failed {
                    pause,
                    until: now + pause,
                },
            );
        } else {
            self.failed.remove(&shard);
        }
    }

    /// The shard's log lost what it had acknowledged. It is not claimed again in this life.
    pub(crate) fn broken(&mut self, shard: ShardId) {
        self.broken.insert(shard);
    }

    /// The shard's log was followed by another, which lost nothing.
    pub(crate) fn repaired(&mut self, shard: ShardId) {
        self.broken.remove(&shard);
        self.failed.remove(&shard);
    }

    /// What is to be done now, given the routers that are there. Claims and preparations are taken as begun.
    pub(crate) fn decide(&mut self, routers: &[Incarnation], now: Duration) -> Vec<Decision> {
        if self.assigned.1.is_empty() || self.assigned.0 != routers {
            let owners = switchboard_bus::membership::owners(self.shards, routers);
            self.assigned = (routers.to_vec(), owners);
        }
        let mut decisions = Vec::new();
        for (shard, owner) in self.shards.iter().zip(&self.assigned.1) {
            let seen = self.seen.get(&shard).copied();
            match self.running.get_mut(&shard) {
                Some(running) if running.told == Told::Own => {
                    let deposed =
                        seen.is_some_and(|seen| seen.router != self.me && seen.rank > running.above);
                    if deposed {
                        running.told = Told::Abandon;
                        decisions.push(Decision::Abandon(shard));
                    } else if owner.is_some_and(|owner| owner != self.me) {
                        running.told = Told::Release;
                        decisions.push(Decision::Release(shard));
                    }
                }
                Some(_) => {}
                None => {
                    let free = match seen {
                        Some(seen) => {
                            seen.released
                                || seen.router == self.me
                                || is_silent(self.patience.silence, seen, now)
                        }
                        // Since the start nobody was heard.
                        None => now >= self.patience.silence,
                    };
                    let paused = self.failed.get(&shard).is_some_and(|failed| now < failed.until);
                    if *owner == Some(self.me) && free && !paused && !self.broken.contains(&shard) {
                        let above = seen.map_or((0, 0), |seen| seen.rank);
                        self.running.insert(
                            shard,
                            Running {
                                above,
                                told: Told::Own,
                            },
                        );
                        self.preparing.remove(&shard);
                        decisions.push(Decision::Claim(shard));
                        continue;
                    }
                    // An owner that has fallen silent is claimed from soon: what was read stays of use.
                    let next_to = seen
                        .filter(|seen| *owner == Some(self.me) && seen.router != self.me)
                        .map(|seen| seen.router);
                    let followed = self.preparing.get(&shard).copied();
                    if followed.is_some() && followed != next_to {
                        self.preparing.remove(&shard);
                        decisions.push(Decision::Forget(shard));
                    }
                    if let Some(router) = next_to.filter(|_| !free && followed != next_to) {
                        self.preparing.insert(shard, router);
                        decisions.push(Decision::Prepare(shard, router));
                    }
                }
            }
        }
        decisions
    }

    /// Shards of which no owner was heard lately.
    pub(crate) fn without_owner(&self, now: Duration) -> usize {
        let owned = |shard: &ShardId| {
            self.seen.get(shard).is_some_and(|seen| {
                !seen.released && now.saturating_sub(seen.at) < self.patience.silence.max(LIVELY)
            })
        };
        self.shards.iter().filter(|shard| !owned(shard)).count()
    }
}

fn is_silent(silence: Duration, seen: Seen, now: Duration) -> bool {
    now.saturating_sub(seen.at) >= silence
}

/// An owner heard this lately is there, also where no silence is waited for.
const LIVELY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        silence: Duration::from_millis(1200),
        pause: Duration::from_millis(200),
        pause_max: Duration::from_secs(5),
    };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn router(number: u128) -> Incarnation {
        Incarnation::from_u128(number)
    }

    fn beat(shard: u32, router: Incarnation, owner_epoch: u64, released: bool) -> OwnerBeat {
        OwnerBeat {
            shard,
            router: router.to_bytes(),
            ordinal: 1,
            owner_epoch,
            released,
            ..OwnerBeat::default()
        }
    }

    fn one_shard(me: Incarnation) -> (Ownerships, ShardId) {
        let shard = ShardId::new(0).unwrap();
        (Ownerships::new(me, ShardCount::new(1).unwrap(), PATIENCE), shard)
    }

    #[test]
    fn alone_it_claims_everything_after_the_silence_at_the_start() {
        let me = router(1);
        let shards = ShardCount::new(4).unwrap();
        let mut ownerships = Ownerships::new(me, shards, PATIENCE);
        assert_eq!(ownerships.decide(&[me], ms(1100)), []);
        assert_eq!(
            ownerships.decide(&[me], ms(1200)),
            shards.iter().map(Decision::Claim).collect::<Vec<_>>()
        );
        assert_eq!(
            ownerships.decide(&[me], ms(1300)),
            [],
            "claims are taken as begun"
        );
    }

    #[test]
    fn o3_nobody_claims_from_an_owner_that_shows_life() {
        let (me, other) = (router(1), router(2));
        let (mut ownerships, shard) = one_shard(me);
        for time in (0..5000).step_by(250) {
            ownerships.beat(&beat(0, other, 7, false), ms(time));
            let decisions = ownerships.decide(&[me], ms(time));
            assert!(!decisions.contains(&Decision::Claim(shard)), "{decisions:?}");
        }
        assert_eq!(ownerships.decide(&[me], ms(5900)), []);
        assert_eq!(ownerships.decide(&[me], ms(6000)), [Decision::Claim(shard)]);
    }

    #[test]
    fn o5_who_is_to_own_a_shard_next_follows_it_until_the_claim() {
        let (me, other, third) = (router(1), router(2), router(3));
        let (mut ownerships, shard) = one_shard(me);
        ownerships.beat(&beat(0, other, 7, false), ms(0));
        assert_eq!(ownerships.decide(&[me], ms(0)), [Decision::Prepare(shard, other)]);
        assert_eq!(ownerships.decide(&[me], ms(100)), [], "told once");
        ownerships.beat(&beat(0, third, 9, false), ms(200));
        assert_eq!(
            ownerships.decide(&[me], ms(200)),
            [Decision::Forget(shard), Decision::Prepare(shard, third)],
            "another owner is told that it is followed"
        );
        assert_eq!(
            ownerships.decide(&[third], ms(300)),
            [Decision::Forget(shard)],
            "not ours to own any more"
        );
        assert_eq!(
            ownerships.decide(&[me], ms(400)),
            [Decision::Prepare(shard, third)]
        );
        ownerships.beat(&beat(0, third, 9, true), ms(500));
        assert_eq!(ownerships.decide(&[me], ms(500)), [Decision::Claim(shard)]);
        assert_eq!(ownerships.decide(&[me], ms(600)), []);
    }

    #[test]
    fn released_shard_is_claimed_at_once() {
        let (me, other) = (router(1), router(2));
        let (mut ownerships, shard) = one_shard(me);
        ownerships.beat(&beat(0, other, 7, false), ms(2000));
        assert_eq!(
            ownerships.decide(&[me], ms(2000)),
            [Decision::Prepare(shard, other)]
        );
        ownerships.beat(&beat(0, other, 7, true), ms(2010));
        assert_eq!(ownerships.decide(&[me], ms(2010)), [Decision::Claim(shard)]);
    }

    #[test]
    fn o3_who_lost_backs_off_longer_each_time() {
        let me = router(1);
        let (mut ownerships, shard) = one_shard(me);
        let mut now = ms(1200);
        let mut pauses = Vec::new();
        for _ in 0..4 {
            assert_eq!(ownerships.decide(&[me], now), [Decision::Claim(shard)]);
            ownerships.ended(shard, true, now);
            let lost = now;
            while ownerships.decide(&[me], now).is_empty() {
                now += ms(10);
            }
            pauses.push((now - lost).as_millis());
            // The claim that was just decided is the next round's.
            ownerships.running.clear();
        }
        assert_eq!(pauses, [200, 400, 800, 1600]);
    }

    #[test]
    fn o4_hearing_of_a_higher_owner_ends_the_lower() {
        let (me, other) = (router(1), router(2));
        let (mut ownerships, shard) = one_shard(me);
        assert_eq!(ownerships.decide(&[me], ms(1200)), [Decision::Claim(shard)]);
        ownerships.beat(&beat(0, me, 7, false), ms(1210));
        ownerships.beat(&beat(0, other, 9, false), ms(2000));
        ownerships.beat(&beat(0, me, 7, false), ms(2100));
        assert_eq!(ownerships.decide(&[me], ms(2100)), [Decision::Abandon(shard)]);
        ownerships.ended(shard, true, ms(2200));
        let decisions = ownerships.decide(&[me], ms(2900));
        assert_eq!(
            decisions,
            [Decision::Prepare(shard, other)],
            "the higher one lives"
        );
    }

    #[test]
    fn claim_behind_a_release_is_kept_until_its_own_beat_is_heard() {
        let (me, other) = (router(1), router(2));
        let (mut ownerships, shard) = one_shard(me);
        ownerships.beat(&beat(0, other, 7, true), ms(2000));
        assert_eq!(ownerships.decide(&[me], ms(2000)), [Decision::Claim(shard)]);
        assert_eq!(ownerships.decide(&[me], ms(2001)), []);
        ownerships.beat(&beat(0, me, 8, false), ms(2010));
        // What the older owner still had on the way.
        ownerships.beat(&beat(0, other, 7, false), ms(2011));
        assert_eq!(ownerships.decide(&[me], ms(2011)), []);
    }

    #[test]
    fn abandoned_shard_is_not_claimed_again_at_once() {
        let (me, other) = (router(1), router(2));
        let (mut ownerships, shard) = one_shard(me);
        assert_eq!(ownerships.decide(&[me], ms(1200)), [Decision::Claim(shard)]);
        ownerships.beat(&beat(0, other, 9, true), ms(1300));
        assert_eq!(ownerships.decide(&[me], ms(1300)), [Decision::Abandon(shard)]);
        ownerships.ended(shard, false, ms(1300));
        assert_eq!(ownerships.decide(&[me], ms(1300)), []);
        assert_eq!(ownerships.decide(&[me], ms(1500)), [Decision::Claim(shard)]);
    }

    #[test]
    fn broken_shard_is_left_alone_until_it_has_another_log() {
        let me = router(1);
        let (mut ownerships, shard) = one_shard(me);
        assert_eq!(ownerships.decide(&[me], ms(1200)), [Decision::Claim(shard)]);
        ownerships.broken(shard);
        ownerships.ended(shard, true, ms(1300));
        assert_eq!(ownerships.decide(&[me], ms(60_000)), []);
        assert_eq!(ownerships.without_owner(ms(60_000)), 1);
        ownerships.repaired(shard);
        assert_eq!(ownerships.decide(&[me], ms(60_000)), [Decision::Claim(shard)]);
    }

    #[test]
    fn joining_router_is_given_its_shards_by_release() {
        let (me, other) = (router(1), router(2));
        let shards = ShardCount::new(4).unwrap();
        let mut ownerships = Ownerships::new(me, shards, PATIENCE);
        assert_eq!(ownerships.decide(&[me], ms(1200)).len(), 4);
        let released = ownerships.decide(&[me, other], ms(1300));
        assert_eq!(released.len(), 2);
        assert!(
            released
                .iter()
                .all(|decision| matches!(decision, Decision::Release(_)))
        );
        assert_eq!(ownerships.decide(&[me, other], ms(1400)), [], "told once");
    }
}
