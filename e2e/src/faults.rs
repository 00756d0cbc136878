//! Faults under load: a cluster of processes over three nats-servers and Redis, clients that talk and listen, and, by a seed,
//! processes that are killed, stopped and woken, restarted, cut off and slowed down, and disks that are full. The verdict is told from each
//! client's own record.
//!
//! | module | what |
//! | --- | --- |
//! | [`schedule`] | what is done when, by the seed |
//! | [`arena`] | the cluster, and how a fault is done to it |
//! | [`proxy`] | the network between a process and the servers it speaks to |
//! | [`routes`] | the network between the nats-servers |
//! | [`crowd`] | the clients, and what they were told |
//! | [`verdict`] | whether that is as promised |
//! | [`spoiler`] | a server that breaks promises, to show that the verdict notices |

mod arena;
mod crowd;
mod proxy;
mod routes;
mod schedule;
mod spoiler;
mod verdict;

use std::time::Duration;

use anyhow::Result;
use futures_util::future::try_join_all;
use tokio::time::Instant;

pub use self::schedule::{Act, Fault, Victim, Victims, schedule};
pub use self::spoiler::Spoil;
pub use self::verdict::Verdict;

use crate::child;

use self::arena::Arena;
use self::crowd::Crowd;
use self::spoiler::Spoiler;

/// How long after the last fault everybody gets to have everything.
const SETTLE: Duration = Duration::from_secs(60);

/// The same where a server loses messages: there is nothing to wait for.
const NOTHING_COMES: Duration = Duration::from_secs(2);

/// Puts load on a new cluster for `length`, does to it what `seed` says, and tells how it went. What is done
/// is printed as it is done; where the verdict is bad, what the processes logged follows.
///
/// # Errors
/// The cluster does not start, or cannot be done to what is to be done. That a promise is broken is no error:
/// see [`Verdict::is_as_promised`].
pub async fn run(victims: Victims, seed: u64, length: Duration) -> Result<Verdict> {
    let mut arena = Arena::start(victims).await?;
    let (crowd, neighbours) = Crowd::gather(&arena.urls()).await?;
    let begin = Instant::now();
    let faults = schedule(victims, seed, length);
    let count = faults.len();
    arena.carry_out(&faults, begin).await?;
    tokio::time::sleep_until(begin + length).await;
    let telling = async {
        let mut told = crowd.dismiss(SETTLE).await;
        // Nobody remembers what was said, so that those who come now are told what the log holds.
        arena.kill_routers()?;
        told.let_latecomers_in(SETTLE).await;
        told.read_histories(SETTLE).await;
        anyhow::Ok(told)
    };
    let (told, presence) = tokio::join!(telling, neighbours.dismiss(SETTLE));
    let verdict = told?.verdict(victims, seed, count, Some(presence));
    if !verdict.is_as_promised() {
        // The next run of this seed may go well: it says what is done, not how that falls together with the load.
        child::show(true);
    }
    arena.stop().await?;
    Ok(verdict)
}

/// Without faults, and with a server between that breaks promises now and then: one cluster, and groups of spoils one after the other, each
/// spoil with clients of its own for so long. Refusals are measured by what is allowed where Redis is the victim.
///
/// # Errors
/// As [`run`].
pub async fn run_spoiled(groups: &[(&[Spoil], Duration)]) -> Result<Vec<(Spoil, Verdict)>> {
    let arena = Arena::start(Victims::Redis).await?;
    let mut verdicts = Vec::new();
    for (spoils, length) in groups {
        let each = spoils.iter().map(|spoil| spoiled(*spoil, &arena, *length));
        verdicts.extend(try_join_all(each).await?);
    }
    arena.stop().await?;
    Ok(verdicts)
}

async fn spoiled(spoil: Spoil, arena: &Arena, length: Duration) -> Result<(Spoil, Verdict)> {
    let spoiler = Spoiler::start(spoil, &arena.urls()).await?;
    // What passes is done to, and not what is said of who is there.
    let (crowd, _) = Crowd::gather(&spoiler.urls()).await?;
    tokio::time::sleep(length).await;
    let mut told = crowd.dismiss(NOTHING_COMES).await;
    told.let_latecomers_in(NOTHING_COMES).await;
    told.read_histories(SETTLE).await;
    Ok((spoil, told.verdict(Victims::Redis, 0, 0, None)))
}
