//! The clients: some talk, with a key or without, some listen, and all come back when their connection ends; some come and go all the
//! time, and some come only when all is over and want everything from the beginning on. Each keeps its own record of what it was told, and at the end
//! the history of each room is read, which has to say the same. Others are only there, and watched.

mod historian;
mod listener;
mod neighbour;
mod neighbours;
mod talker;
mod visitor;
mod watcher;
mod way;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use switchboard_loadgen::checker::{Senders, Violations};
use switchboard_loadgen::numbers::Numbers;
use switchboard_proto::time::now_us;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::historian::{Entry, Historian};
use self::listener::{Listened, Listener};
pub(super) use self::neighbours::{Neighbours, Presence};
use self::talker::{Talked, Talker};
use self::visitor::{Visited, Visitor};
use self::way::Ways;
use super::schedule::Victims;
use super::verdict::Verdict;

const ROOMS: u32 = 6;
const LISTENERS: u32 = 3;
/// In each room, of whom every third has no key.
const TALKERS: u32 = 3;
const VISITORS: u32 = 2;

/// Until a refused message is sent again, and until an ended connection is opened again.
const AGAIN: Duration = Duration::from_millis(50);

/// Everybody, at it.
pub(super) struct Crowd {
    begun: Instant,
    talking: JoinSet<Talked>,
    listening: JoinSet<Listened>,
    visiting: JoinSet<Visited>,
    /// One for each room, who listens to it from its beginning on once nobody talks any more.
    latecomers: Vec<Listener>,
    /// One for each room, in their order, who reads what it was told.
    historians: Vec<Historian>,
    /// Cancelled when nobody talks any more.
    quiet: CancellationToken,
    /// What was acknowledged, by room, once nobody talks any more.
    all: watch::Sender<Option<Arc<Acknowledged>>>,
    /// Cancelled when nobody waits for more.
    over: CancellationToken,
}

type Acknowledged = BTreeMap<u32, Senders>;

/// What they were told, all together.
pub(super) struct Told {
    begun: Instant,
    talked: Vec<Talked>,
    listened: Vec<Listened>,
    visited: Vec<Visited>,
    latecomers: Vec<Listener>,
    historians: Vec<Historian>,
    /// By room, as far as it was read.
    histories: BTreeMap<u32, Vec<Entry>>,
    acknowledged: Arc<Acknowledged>,
}

impl Crowd {
    /// Everybody is connected and subscribed, and begins.
    pub(super) async fn gather(urls: &[String]) -> Result<(Self, Neighbours)> {
        let run = now_us();
        let mut ways = Ways::to(urls, run);
        let neighbours = Neighbours::gather(&mut ways, run)?;
        let mut crowd = Self {
            begun: Instant::now(),
            talking: JoinSet::new(),
            listening: JoinSet::new(),
            visiting: JoinSet::new(),
            latecomers: Vec::new(),
            historians: Vec::new(),
            quiet: CancellationToken::new(),
            all: watch::Sender::new(None),
            over: CancellationToken::new(),
        };
        for room in 0..ROOMS {
            let channel = format!("room:faults-{run}-{room}");
            let mut from_the_beginning = None;
            for _ in 0..LISTENERS {
                let mut way = ways.next()?;
                let (client, place) = way.subscribe(&channel, None).await?;
                from_the_beginning.get_or_insert_with(|| place.clone());
                let listener = Listener::new(way, room, &channel, place);
                let (all, over) = (crowd.all.subscribe(), crowd.over.clone());
                crowd.listening.spawn(listener.listen(Some(client), all, over));
            }
            if let Some(place) = from_the_beginning {
                let latecomer = Listener::new(ways.next()?, room, &channel, place);
                crowd.latecomers.push(latecomer);
            }
            crowd.historians.push(Historian::new(ways.next()?, &channel));
        }
        crowd.begun = Instant::now();
        for room in 0..ROOMS {
            for number in 0..TALKERS {
                let talker = Talker {
                    way: ways.next()?,
                    channel: format!("room:faults-{run}-{room}"),
                    sender: room * TALKERS + number + 1,
                    has_key: number % 3 != 2,
                    run,
                    talked: Talked::in_room(room),
                };
                crowd.talking.spawn(talker.talk(crowd.quiet.clone()));
            }
        }
        for _ in 0..VISITORS {
            let visitor = Visitor::new(ways.next()?);
            crowd.visiting.spawn(visitor.visit(crowd.quiet.clone()));
        }
        Ok((crowd, neighbours))
    }

    /// Nobody begins a message any more; those that were begun are still acknowledged, and whoever listens gets `settle` to
    /// have everything.
    pub(super) async fn dismiss(mut self, settle: Duration) -> Told {
        self.quiet.cancel();
        let (mut talked, mut visited) = (Vec::new(), Vec::new());
        let end = async {
            tokio::join!(
                ended(&mut self.talking, &mut talked),
                ended(&mut self.visiting, &mut visited)
            )
        };
        // Who does not end is missing in the verdict.
        timeout(settle, end).await.ok();
        let mut acknowledged = Acknowledged::new();
        for one in &talked {
            let room = acknowledged.entry(one.room).or_default();
            room.extend(one.acknowledged.clone());
        }
        let acknowledged = Arc::new(acknowledged);
        self.all.send_replace(Some(Arc::clone(&acknowledged)));
        let listened = all_listened(self.listening, &self.over, settle).await;
        Told {
            begun: self.begun,
            talked,
            listened,
            visited,
            latecomers: self.latecomers,
            historians: self.historians,
            histories: BTreeMap::new(),
            acknowledged,
        }
    }
}

/// Waits until they have everything, or so long.
async fn all_listened(
    mut listening: JoinSet<Listened>,
    over: &CancellationToken,
    settle: Duration,
) -> Vec<Listened> {
    let mut listened = Vec::new();
    let in_time = timeout(settle, ended(&mut listening, &mut listened)).await;
    if in_time.is_err() {
        over.cancel();
        ended(&mut listening, &mut listened).await;
    }
    listened
}

/// Waits for all of them, and keeps what each was told.
async fn ended<T: 'static>(tasks: &mut JoinSet<T>, told: &mut Vec<T>) {
    while let Some(ended) = tasks.join_next().await {
        told.extend(ended);
    }
}

impl Told {
    /// Those who want everything from the beginning on come, and get `settle` to have it.
    pub(super) async fn let_latecomers_in(&mut self, settle: Duration) {
        let all = watch::Sender::new(Some(Arc::clone(&self.acknowledged)));
        let over = CancellationToken::new();
        let mut listening = JoinSet::new();
        for latecomer in self.latecomers.drain(..) {
            listening.spawn(latecomer.listen(None, all.subscribe(), over.clone()));
        }
        self.listened.extend(all_listened(listening, &over, settle).await);
    }

    /// What each room's history says now, which may take `settle`.
    pub(super) async fn read_histories(&mut self, settle: Duration) {
        let mut reading = JoinSet::new();
        for (room, historian) in (0..).zip(self.historians.drain(..)) {
            reading.spawn(async move { (room, historian.read().await) });
        }
        let mut read = Vec::new();
        // What is not read in time is missing in the verdict.
        timeout(settle, ended(&mut reading, &mut read)).await.ok();
        self.histories.extend(read);
    }

    /// In how many places records are not what the histories say.
    fn differing(&self) -> u64 {
        let differing = self.listened.iter().filter_map(|one| {
            let history = self.histories.get(&one.room)?;
            Some(historian::differing(&one.record, history))
        });
        differing.sum()
    }

    /// `presence`: what was told of who is there; `None`: nobody asked.
    pub(super) fn verdict(
        self,
        victims: Victims,
        seed: u64,
        faults: usize,
        presence: Option<Presence>,
    ) -> Verdict {
        let presence = presence.unwrap_or_default();
        let mut violations = Violations::default();
        let none = Senders::new();
        for one in &self.listened {
            let room = self.acknowledged.get(&one.room).unwrap_or(&none);
            violations.add(one.receiver.verdict(room));
        }
        let acknowledged = self
            .acknowledged
            .values()
            .flat_map(BTreeMap::values)
            .map(Numbers::len)
            .sum();
        let missing = |expected: u32, are: usize| u64::from(expected).saturating_sub(are as u64);
        Verdict {
            victims,
            seed,
            faults,
            acknowledged,
            received: self.listened.iter().map(|one| one.received).sum(),
            returned: self.talked.iter().map(|one| one.returned).sum::<u64>()
                + self.listened.iter().map(|one| one.returned).sum::<u64>(),
            missing: missing(ROOMS * TALKERS, self.talked.len())
                + missing(ROOMS * (LISTENERS + 1), self.listened.len())
                + missing(VISITORS, self.visited.len())
                + missing(ROOMS, self.histories.len()),
            refused_for_good: self.talked.iter().map(|one| one.refused_for_good).sum(),
            violations,
            differing: self.differing(),
            silence: (0..ROOMS)
                .map(|room| self.silence(room))
                .max()
                .unwrap_or(Duration::MAX),
            refusal: self.slowest_of(|one| one.refusal),
            shut: self.shut(),
            slowest: self.slowest_of(|one| one.answer),
            flickers: presence.flickers,
            unseen: presence.unseen,
            ghosts: presence.ghosts,
            gone_after: presence.gone_after,
        }
    }

    fn slowest_of(&self, what: impl Fn(&Talked) -> Duration) -> Duration {
        self.talked.iter().map(what).max().unwrap_or_default()
    }

    /// The longest time without an acknowledgement in a room.
    fn silence(&self, room: u32) -> Duration {
        let talked = || self.talked.iter().filter(move |one| one.room == room);
        let answers = talked().flat_map(|one| one.answers.iter().copied());
        longest(self.begun, answers, talked().map(|one| one.ended))
    }

    /// The longest time in which nobody who came was let in.
    fn shut(&self) -> Duration {
        let visited = || self.visited.iter();
        let let_in = visited().flat_map(|one| one.let_in.iter().copied());
        longest(self.begun, let_in, visited().map(|one| one.ended))
    }
}

/// The longest time from one to the next, from `begun` on to the last end. Nobody who ended: for ever.
fn longest(
    begun: Instant,
    times: impl Iterator<Item = Instant>,
    ended: impl Iterator<Item = Instant>,
) -> Duration {
    let Some(end) = ended.max() else {
        return Duration::MAX;
    };
    let mut times: Vec<Instant> = times.chain([begun, end]).collect();
    times.sort_unstable();
    let between = times.iter().zip(times.iter().skip(1));
    between.map(|(one, next)| *next - *one).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_at_the_beginning_and_at_the_end_counts() {
        let begun = Instant::now();
        let at = |seconds: &[u64]| -> Vec<Instant> {
            let at = seconds
                .iter()
                .map(|seconds| begun + Duration::from_secs(*seconds));
            at.collect()
        };
        let gap = |times: &[u64], ended: &[u64]| {
            longest(begun, at(times).into_iter(), at(ended).into_iter()).as_secs()
        };
        assert_eq!(gap(&[3, 1, 7], &[8]), 4);
        assert_eq!(gap(&[5, 6, 7], &[8]), 5);
        assert_eq!(gap(&[1, 2], &[3, 8]), 6);
        assert_eq!(gap(&[], &[8]), 8);
        assert_eq!(gap(&[1], &[]), Duration::MAX.as_secs());
    }
}
