//! A run from its beginning to its report, with the connections in this process or in several.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep_until};

use crate::generator::{Acknowledged, Generator, Progress, Seen, Share};
use crate::plan::Plan;
use crate::processes::Children;
use crate::report::{Report, Used};
use crate::server;

/// From the last connection that is opened to the load: all processes begin together.
const BEFORE_LOAD: Duration = Duration::from_millis(300);

/// Between two lines of progress.
const LINES: Duration = Duration::from_secs(5);

/// Runs it, with the connections shared out over `processes` more processes of this program (0 or 1: in this one).
///
/// # Errors
/// A plan that makes no sense; connections that cannot be opened in the beginning, or do not come back; a
/// process to look at that is not there.
pub async fn run(plan: Plan, processes: usize) -> anyhow::Result<Report> {
    plan.check()?;
    let before = server::read(&plan.pids)?;
    let run = format!("{:016x}", rand::random::<u64>());
    let mut workers = match processes {
        0 | 1 => {
            let all = Share { index: 0, of: 1 };
            Workers::Here(Box::new(Generator::open(plan.clone(), run, all).await?))
        }
        of => Workers::Children(Children::open(&plan, &run, of).await?),
    };
    if plan.progress {
        eprintln!("{} connections are open", plan.connections());
    }
    let begin = Instant::now() + BEFORE_LOAD;
    let watch: Box<dyn Fn() -> Progress + Send> = match &workers {
        Workers::Here(generator) => Box::new(generator.watch()),
        Workers::Children(children) => Box::new(children.watch()),
    };
    let (used, acknowledged) = tokio::try_join!(observe(&plan, begin, watch), workers.load(begin))?;
    let seen = workers.settle(acknowledged).await?;
    let memory = before.iter().map(|usage| usage.bytes).collect();
    Ok(Report::new(&plan, processes.max(1), seen, used, memory))
}

enum Workers {
    Here(Box<Generator>),
    Children(Children),
}

impl Workers {
    async fn load(&mut self, begin: Instant) -> anyhow::Result<Acknowledged> {
        match self {
            Self::Here(generator) => generator.load(begin).await,
            Self::Children(children) => children.load(begin).await,
        }
    }

    async fn settle(self, all: Acknowledged) -> anyhow::Result<Seen> {
        match self {
            Self::Here(generator) => Ok(generator.settle(all).await),
            Self::Children(children) => children.settle(all).await,
        }
    }
}

/// Tells how it goes while there is load; what the server used while it was measured.
async fn observe(
    plan: &Plan,
    begin: Instant,
    watch: Box<dyn Fn() -> Progress + Send>,
) -> anyhow::Result<Vec<Used>> {
    let measure = begin + plan.warm_up;
    let end = measure + plan.duration;
    progress(plan, "warm-up", begin, measure, &watch).await;
    let before = server::read(&plan.pids)?;
    progress(plan, "measuring", measure, end, &watch).await;
    let after = server::read(&plan.pids).context("after the load")?;
    let used = plan.pids.iter().zip(before).zip(after);
    Ok(used
        .map(|((pid, before), after)| Used {
            pid: *pid,
            processor: after.processor.saturating_sub(before.processor),
            bytes: after.bytes,
        })
        .collect())
}

async fn progress(
    plan: &Plan,
    phase: &str,
    from: Instant,
    to: Instant,
    watch: &(dyn Fn() -> Progress + Send),
) {
    let mut last = (from, watch());
    while last.0 < to {
        let next = to.min(last.0 + LINES);
        sleep_until(next).await;
        let now = watch();
        let seconds = (next - last.0).as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        if plan.progress {
            eprintln!(
                "{phase:<9} {:>4} s: {:>9.0} publishes/s, {:>9.0} deliveries/s, {} refused, {} came back",
                (next - from).as_secs(),
                rate(now.said, last.1.said),
                rate(now.deliveries, last.1.deliveries),
                now.refused,
                now.returned
            );
        }
        last = (next, now);
    }
}
