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
use switchboard_client::{Tls, TlsError};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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

/// Whom to trust behind `wss://`: read once, not for each connection.
fn trusted(plan: &Plan) -> Result<Option<Tls>, TlsError> {
    match &plan.ca_file {
        Some(file) => Tls::with_ca_file(file).map(Some),
        None if plan.urls.iter().any(|url| url.starts_with("wss:")) => Tls::of_this_machine().map(Some),
        None => Ok(None),
    }
}

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
    /// As long as there is no load.
    resting: JoinSet<anyhow::Result<Member>>,
    load_is_near: CancellationToken,
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
            tls: trusted(&plan)?,
            plan,
            run,
            counters: Counters::default(),
            late: Times::default(),
            answered: Times::default(),
            delivered: Times::default(),
            back: Times::default(),
        });
        let load_is_near = CancellationToken::new();
        let mut resting = JoinSet::new();
        let mut opening = stream::iter(numbers)
            .map(|number| Member::open(Arc::clone(&shared), number))
            .buffer_unordered(OPENING);
        while let Some(member) = opening.next().await {
            resting.spawn(member?.rest(load_is_near.clone()));
        }
        drop(opening);
        Ok(Self {
            shared,
            share,
            members: Vec::new(),
            resting,
            load_is_near,
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
        self.load_is_near.cancel();
        while let Some(rested) = self.resting.join_next().await {
            self.members.push(rested.context("a connection's task ended")??);
        }
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
        if talkers.is_empty() {
            return None;
        }
        let all = match self.shared.plan.talkers {
            0 => self.shared.plan.listeners,
            talkers => talkers,
        };
        let count = talkers.len() as f64;
        let between = match self.shared.plan.pace {
            Pace::Open(rate) => Duration::from_secs_f64(all as f64 / rate / count),
            Pace::Once => self.shared.plan.warm_up.div_f64(2.0 * count),
            Pace::Closed(_) => return None,
        };
        // Processes do not talk all at the same moment.
        let begin = load.begin + between.mul_f64(self.share.index as f64 / self.share.of as f64);
        let end = match self.shared.plan.pace {
            // Half a step less, so that each is told once.
            Pace::Once => begin + between.mul_f64(count - 0.5),
            Pace::Open(_) | Pace::Closed(_) => load.end,
        };
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
        Cuts::Together(_, over) => {
            let middle = load.measure + (load.end - load.measure) / 2;
            middle + over.mul_f64(rand::rng().random_range(0.0..1.0))
        }
    }
}
