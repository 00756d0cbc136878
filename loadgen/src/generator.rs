//! The connections of one process, through the phases of a run: open, load, settle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use futures_util::stream;
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::checker::{Senders, Violations};
use crate::member::{Counters, Load, Member, Shared};
use crate::pacer;
use crate::plan::{Cuts, Pace, Plan};
use crate::server;
use crate::times::{Counts, Times};

/// Connections that a process is opening at a time.
const OPENING: usize = 50;

/// Files that a process needs besides its connections.
const OTHER_FILES: u64 = 64;

/// Which of the connections this process has: every `of`th from `index` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) index: usize,
    pub(crate) of: usize,
}

/// What was acknowledged, by room.
pub(crate) type Acknowledged = BTreeMap<usize, Senders>;

/// How it stands, while there is load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) said: u64,
    pub(crate) refused: u64,
    pub(crate) deliveries: u64,
    pub(crate) returned: u64,
}

/// What the connections of one process, or of all, saw.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) progress: Progress,
    pub(crate) acknowledged: u64,
    /// Was due, and never begun: the generator did not keep up.
    pub(crate) skipped: u64,
    /// The fewest pings that a connection has seen.
    pub(crate) pings: Option<u64>,
    pub(crate) late: Counts,
    pub(crate) answered: Counts,
    pub(crate) delivered: Counts,
    pub(crate) back: Counts,
    pub(crate) violations: Violations,
}

impl Progress {
    pub(crate) fn add(&mut self, other: Self) {
        self.said += other.said;
        self.refused += other.refused;
        self.deliveries += other.deliveries;
        self.returned += other.returned;
    }
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.progress.add(other.progress);
        self.acknowledged += other.acknowledged;
        self.skipped += other.skipped;
        self.pings = self.pings.into_iter().chain(other.pings).min();
        self.late.add(other.late);
        self.answered.add(other.answered);
        self.delivered.add(other.delivered);
        self.back.add(other.back);
        self.violations.add(other.violations);
    }
}

/// See the module.
pub(crate) struct Generator {
    shared: Arc<Shared>,
    share: Share,
    members: Vec<Member>,
    skipped: u64,
}

impl Generator {
    /// Opens this process's connections.
    ///
    /// # Errors
    /// One that cannot be opened, and too few file descriptors.
    pub(crate) async fn open(plan: Plan, run: String, share: Share) -> anyhow::Result<Self> {
        let numbers: Vec<usize> = (share.index..plan.connections())
            .step_by(share.of.max(1))
            .collect();
        let needed = numbers.len() as u64 + OTHER_FILES;
        if let Some(limit) = server::open_files() {
            ensure!(
                needed <= limit,
                "{needed} files are needed and {limit} allowed: use more --processes, or raise `ulimit -n`"
            );
        }
        let shared = Arc::new(Shared {
            plan,
            run,
            counters: Counters::default(),
            late: Times::default(),
            answered: Times::default(),
            delivered: Times::default(),
            back: Times::default(),
        });
        let opened: Vec<anyhow::Result<Member>> = stream::iter(numbers)
            .map(|number| Member::open(Arc::clone(&shared), number))
            .buffer_unordered(OPENING)
            .collect()
            .await;
        Ok(Self {
            members: opened.into_iter().collect::<anyhow::Result<_>>()?,
            shared,
            share,
            skipped: 0,
        })
    }

    /// Tells how it stands, also while it is under load.
    pub(crate) fn watch(&self) -> impl Fn() -> Progress + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move || {
            let Counters {
                said,
                refused,
                deliveries,
                returned,
            } = &shared.counters;
            let [said, refused, deliveries, returned] =
                [said, refused, deliveries, returned].map(|counter| counter.load(Ordering::Relaxed));
            Progress {
                said,
                refused,
                deliveries,
                returned,
            }
        }
    }

    /// Puts on the load from `begin` on, until all that was said is answered; what was acknowledged.
    ///
    /// # Errors
    /// A connection that does not come back.
    pub(crate) async fn load(&mut self, begin: Instant) -> anyhow::Result<Acknowledged> {
        let plan = &self.shared.plan;
        let measure = begin + plan.warm_up;
        let load = Load {
            begin,
            measure,
            end: measure + plan.duration,
        };
        let pacer = self.pacer(load);
        let mut talking = JoinSet::new();
        for mut member in std::mem::take(&mut self.members) {
            if self.shared.plan.is_cut(member.number() as usize) {
                member.cut_at = Some(cut_at(self.shared.plan.cuts, load));
            }
            talking.spawn(member.talk(load));
        }
        while let Some(ended) = talking.join_next().await {
            self.members.push(ended.context("a connection's task ended")??);
        }
        if let Some(pacer) = pacer {
            self.skipped = pacer.await.context("the pacer ended")?;
        }
        let mut acknowledged = Acknowledged::new();
        for member in self.members.iter().filter(|member| member.talks()) {
            let room = acknowledged.entry(member.room()).or_default();
            room.insert(member.number(), member.acknowledged().clone());
        }
        Ok(acknowledged)
    }

    /// Begins to tell who has to say something when, if the plan has times.
    fn pacer(&mut self, load: Load) -> Option<tokio::task::JoinHandle<u64>> {
        let talkers: Vec<_> = self
            .members
            .iter_mut()
            .filter(|member| member.talks())
            .map(Member::listen_to_pacer)
            .collect();
        let all = match self.shared.plan.talkers {
            0 => self.shared.plan.listeners,
            talkers => talkers,
        };
        let (between, end) = match self.shared.plan.pace {
            Pace::Open(rate) => (
                Duration::from_secs_f64(all as f64 / rate / talkers.len() as f64),
                load.end,
            ),
            Pace::Once => {
                let time = self.shared.plan.warm_up / 2;
                let between = time / u32::try_from(talkers.len()).unwrap_or(u32::MAX).max(1);
                // Half a step more or less, so that as many are told as there are.
                let steps = between * u32::try_from(talkers.len()).unwrap_or(u32::MAX);
                (between, load.begin + steps.saturating_sub(between / 2))
            }
            Pace::Closed(_) => return None,
        };
        if talkers.is_empty() {
            return None;
        }
        // Processes do not talk all at the same moment.
        let begin = load.begin + between.mul_f64(self.share.index as f64 / self.share.of as f64);
        let tell = move || pacer::tell(talkers, begin.into_std(), end.into_std(), between);
        Some(tokio::task::spawn_blocking(tell))
    }

    /// Listens until everybody has what was acknowledged by `all` processes, or the time is over.
    pub(crate) async fn settle(self, all: Acknowledged) -> Seen {
        let all = Arc::new(all);
        let watch = self.watch();
        let mut settling = JoinSet::new();
        for member in self.members {
            let all = Arc::clone(&all);
            settling.spawn(async move {
                let none = Senders::new();
                let room = all.get(&member.room()).unwrap_or(&none);
                member.settle(room).await
            });
        }
        let members = settling.join_all().await;
        let none = Senders::new();
        let mut violations = Violations::default();
        for member in &members {
            violations.add(member.verdict(all.get(&member.room()).unwrap_or(&none)));
        }
        Seen {
            progress: watch(),
            acknowledged: members.iter().map(|member| member.acknowledged().len()).sum(),
            skipped: self.skipped,
            pings: members.iter().map(Member::pings).min(),
            late: self.shared.late.counts(),
            answered: self.shared.answered.counts(),
            delivered: self.shared.delivered.counts(),
            back: self.shared.back.counts(),
            violations,
        }
    }
}

fn cut_at(cuts: Cuts, load: Load) -> Instant {
    match cuts {
        Cuts::Scattered(_) => {
            let after = rand::rng().random_range(0.1..0.9);
            load.begin + (load.end - load.begin).mul_f64(after)
        }
        Cuts::Together(_) => load.measure + (load.end - load.measure) / 2,
    }
}
