//! Users who are there all the time, and who watches them: whether what is told of them is so. Somebody who was never away is not told to be
//! gone; nobody who went stays.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::ended;
use super::neighbour::{Neighbour, Stayed};
use super::watcher::{Known, Observed, Watcher};
use super::way::Ways;

const NEIGHBOURS: usize = 8;

/// Who gave signs all this time before it is told to be gone is told so wrongly: the grace, and what the telling may take where a network stands
/// still meanwhile.
const STAYED: Duration = Duration::from_secs(11);

/// Between two signs of somebody who is well, at most.
const SIGNS: Duration = Duration::from_millis(1500);

/// Who goes without a word is gone within 5 s and a grace of 5 s; three times that is allowed.
const GONE: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct Presence {
    /// Times that somebody who was there was told to be gone.
    pub(in super::super) flickers: u64,
    /// Users, and members of the channel, that were there when all was over, and were not told to be.
    pub(in super::super) unseen: u64,
    /// That were told to be there after they went.
    pub(in super::super) ghosts: u64,
    /// How long until the last was told to be gone.
    pub(in super::super) gone_after: Duration,
}

/// Everybody, at it.
pub(in super::super) struct Neighbours {
    staying: JoinSet<Stayed>,
    watching: JoinSet<Vec<Observed>>,
    known: watch::Receiver<Known>,
    leave: CancellationToken,
    over: CancellationToken,
}

impl Neighbours {
    pub(super) fn gather(ways: &mut Ways, run: u64) -> Result<Self> {
        let channel = format!("here:{run}");
        let (leave, over) = (CancellationToken::new(), CancellationToken::new());
        let mut staying = JoinSet::new();
        let mut users = Vec::new();
        for _ in 0..NEIGHBOURS {
            let way = ways.next()?;
            users.push(way.user().to_owned());
            staying.spawn(Neighbour::new(way, &channel).stay(leave.clone()));
        }
        let (sender, known) = watch::channel(Known::default());
        let watcher = Watcher::new(ways.next()?, users, &channel, sender);
        let mut watching = JoinSet::new();
        watching.spawn(watcher.watch(over.clone()));
        Ok(Self {
            staying,
            watching,
            known,
            leave,
            over,
        })
    }

    /// After the last fault: within `settle` everybody has to be told to be there; then they go, and have to be told to be gone.
    pub(in super::super) async fn dismiss(mut self, settle: Duration) -> Presence {
        let all = u32::try_from(NEIGHBOURS).unwrap_or(u32::MAX);
        let unseen = self.differing(true, all, settle).await;
        self.leave.cancel();
        let mut stayed = Vec::new();
        ended(&mut self.staying, &mut stayed).await;
        let went = Instant::now();
        let ghosts = self.differing(false, 0, GONE).await;
        let gone_after = went.elapsed();
        self.over.cancel();
        let mut observed = Vec::new();
        ended(&mut self.watching, &mut observed).await;
        let observed: Vec<Observed> = observed.into_iter().flatten().collect();
        Presence {
            flickers: flickers(&stayed, &observed, went),
            unseen,
            ghosts,
            gone_after,
        }
    }

    /// Waits until all users are told to be there, or not to be, and the channel to have so many members. How many are told otherwise
    /// at last.
    async fn differing(&mut self, are_there: bool, members: u32, within: Duration) -> u64 {
        let differing = |known: &Known| {
            let users = known.users.values().filter(|is_there| **is_there == are_there);
            let users = NEIGHBOURS - users.count().min(NEIGHBOURS);
            let members = known
                .members
                .map_or(NEIGHBOURS as u64, |are| u64::from(are.abs_diff(members)));
            users as u64 + members
        };
        let waiting = self.known.wait_for(|known| differing(known) == 0);
        if timeout(within, waiting).await.is_ok_and(|known| known.is_ok()) {
            return 0;
        }
        let differing = differing(&self.known.borrow());
        // What came at the last moment is in time.
        differing
    }
}

/// Times that somebody was told to be gone who had given signs all the time. What was told after they `went` is right.
fn flickers(stayed: &[Stayed], observed: &[Observed], went: Instant) -> u64 {
    let wrong = observed.iter().filter(|observed| {
        let of = stayed.iter().find(|stayed| stayed.user == observed.user);
        let was_there = of.is_some_and(|stayed| gave_signs(&stayed.well, observed.at));
        !observed.is_there && observed.at < went && was_there
    });
    wrong.count() as u64
}

/// Whether there were signs in the time before `at` without a pause.
fn gave_signs(well: &[Instant], at: Instant) -> bool {
    let Some(since) = at.checked_sub(STAYED) else {
        return false;
    };
    let mut last = since;
    let is_first_old = well.first().is_some_and(|first| *first <= since);
    for sign in well.iter().filter(|sign| **sign > since && **sign <= at) {
        if *sign - last > SIGNS {
            return false;
        }
        last = *sign;
    }
    is_first_old && at - last <= SIGNS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gave_signs_all_the_time_is_told_to_be_gone_wrongly() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let stayed = |user: &str, seconds: &[u64]| Stayed {
            user: user.to_owned(),
            well: seconds.iter().map(|seconds| at(*seconds)).collect(),
        };
        let all: Vec<u64> = (1..40).collect();
        let with_a_pause: Vec<u64> = (1..40).filter(|second| !(20..23).contains(second)).collect();
        let stayed = [stayed("alice", &all), stayed("bob", &with_a_pause)];
        let gone = |user: &str, seconds: u64| Observed {
            at: at(seconds),
            user: user.to_owned(),
            is_there: false,
        };
        let count = |observed: Observed| flickers(&stayed, &[observed], at(39));
        assert_eq!(count(gone("alice", 30)), 1);
        assert_eq!(count(gone("alice", 5)), 0, "not long enough");
        assert_eq!(count(gone("alice", 39)), 0, "she went");
        assert_eq!(count(gone("bob", 30)), 0, "he was away");
        assert_eq!(count(gone("bob", 35)), 1, "long before");
        assert_eq!(count(gone("carol", 30)), 0);
        let back = Observed {
            is_there: true,
            ..gone("alice", 30)
        };
        assert_eq!(count(back), 0);
    }
}
