//! Starts a router: joins the bus, follows who owns what, and runs the shards it should own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use switchboard_bus::membership::{Membership, MembershipError, MembershipSettings};
use switchboard_bus::{Bus, BusError, Log, LogError, Pattern, ReaderName, Subscription};
use switchboard_proto::bus::{Layout, OwnerBeat, Role};
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, ShardCount, ShardId};
use switchboard_service_kit::health::Component;
use switchboard_service_kit::service::Context;
use switchboard_service_kit::summary;
use switchboard_service_kit::tasks::TaskKind;
use tokio::sync::{Semaphore, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::layout;
use crate::metrics::RouterMetrics;
use crate::ownership::{Decision, Ownerships, Patience};
use crate::shard::{
    Ending, Following, Limits, LinkLimits, MemoryLimits, Owners, PageLimits, Preparation, Shard, ShardEnd,
    ShardSettings, UpkeepLimits, WindowBudget, WindowLimits,
};

/// What a router needs of the outside.
#[derive(Clone)]
pub struct Deps {
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// The log, whose layout was checked.
    pub log: Arc<dyn Log>,
    /// Shards of the layout.
    pub shards: ShardCount,
}

/// A router that runs until its context's tasks are stopped.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// This life of the router.
    pub incarnation: Incarnation,
}

/// Why a router did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bus did not take a subscription.
    #[error("router cannot listen on the bus: is NATS there?")]
    Bus(#[from] BusError),
    /// The layout cannot be read.
    #[error("router cannot read the layout of the log")]
    Log(#[from] LogError),
    /// The log was never set up.
    #[error("the log has no layout: run `switchboard migrate` once")]
    NoLayout,
    /// The bus did not take the membership.
    #[error("router cannot join the bus: is NATS there?")]
    Join(#[source] MembershipError),
}

/// Between two looks at who should own what.
const LOOK: Duration = Duration::from_millis(100);

/// Logs that are read ahead at a time: each takes the memory of a window before it counts in the budget.
const FOLLOWED: usize = 4;

/// Owner beats that may wait; a lost one is repeated by the next.
const BEATS: usize = 4096;

/// Starts a router. It claims its shards in the background and reports ready once every shard that
/// is its to own has an owner.
///
/// # Errors
/// [`StartError`] where the bus cannot be used.
pub async fn start(config: Config, deps: Deps, context: Context) -> Result<Running, StartError> {
    let incarnation = Incarnation::random();
    let layout = deps.log.layout().await?;
    let layout = watch::Sender::new(Arc::new(layout.ok_or(StartError::NoLayout)?));
    let metrics = RouterMetrics::register(&context.metrics);
    // Before joining: who is a member is handed shards by a beat.
    let beats = deps.bus.subscribe(Pattern::AllOwnerBeats, BEATS).await?;
    let stop = context.tasks.stop_token();
    let settings = MembershipSettings::default();
    let tracker = context.tasks.tracker();
    let bus = Arc::clone(&deps.bus);
    let member = stop.child_token();
    let membership = Membership::join(bus, Role::Router, incarnation, settings, &tracker, member.clone())
        .await
        .map_err(StartError::Join)?;
    let silence = if deps.bus.is_private() {
        Duration::ZERO
    } else {
        config.owner_silence
    };
    let shards = deps.shards;
    let patience = Patience {
        silence,
        pause: Duration::from_millis(200),
        pause_max: Duration::from_secs(5),
    };
    let router = Router {
        incarnation,
        settings: ShardSettings {
            limits: limits(&config, deps.shards),
            owner_beat: config.owner_beat,
            frames: config.frames,
            release: config.release,
            hand_over: config.hand_over,
            history_reading: config.history_reading,
            store_timeout: config.store_timeout,
        },
        ownerships: Ownerships::new(incarnation, deps.shards, patience),
        health: context.health.component("router"),
        deps,
        metrics,
        actors: JoinSet::new(),
        shards: HashMap::new(),
        followings: HashMap::new(),
        abandoned: HashSet::new(),
        readings: Arc::new(Semaphore::new(FOLLOWED)),
        owners: watch::Sender::new(Owners::new()),
        layout: layout.subscribe(),
        other_layout: None,
        member,
        budget: Arc::new(WindowBudget::new(
            config.window_total as u64,
            config.window_bytes as u64,
        )),
        readers: config.readers.into(),
        begun: Instant::now(),
    };
    context.tasks.spawn(
        "layout",
        TaskKind::Essential,
        layout::follow(Arc::clone(&router.deps.log), layout),
    );
    let counted = router.metrics.clone();
    summary::spawn(&context.tasks, "router", summary::INTERVAL, move || {
        vec![
            (
                "owned_shards",
                u64::try_from(counted.owned_shards.get()).unwrap_or(0),
            ),
            ("appends", counted.appends.get()),
            ("messages", counted.messages.get()),
            ("ownerships_lost", counted.ownerships_lost.get()),
        ]
    });
    context
        .tasks
        .spawn("router", TaskKind::Essential, router.run(membership, beats, stop));
    tracing::info!(%incarnation, shards = shards.get(), "router has joined the bus");
    Ok(Running { incarnation })
}

/// What a shard's owner keeps to.
fn limits(config: &Config, shards: ShardCount) -> Limits {
    let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let each = |all: usize| (all / usize::from(shards.get())).max(1);
    Limits {
        batch_bytes: config.batch_bytes,
        append_interval: config.append_interval,
        queue_bytes: config.queue_bytes,
        links: LinkLimits {
            links: config.links,
            openings: 8,
            silence: Duration::from_secs(10),
            beat: Duration::from_secs(1),
        },
        memory: MemoryLimits {
            window: WindowLimits {
                bytes: config.window_bytes,
                age_us: us(config.window_age),
                heads: each(config.known_channels),
            },
            numbers: 131_072,
            numbers_silence: Duration::from_secs(60),
            keys_us: us(config.key_window),
            keys: each(config.known_keys),
            removed: 256 * 1024,
            hidden: 128 * 1024,
            // About as many bytes in a state record.
            deleted: 8192,
        },
        upkeep: UpkeepLimits {
            state_records: 4096,
            state_bytes: 16 * 1024 * 1024,
            keys_us: us(config.key_window),
            full: 90,
            overfull: 97,
            purge_above: config.purge_above,
            // Enough at once that it does not happen all the time.
            purge_to: config.purge_above * 4 / 5,
            readers: !config.readers.is_empty(),
        },
        // Small beside the queue of a client that it is for.
        page: PageLimits {
            bytes: 32 * 1024,
            messages: 512,
        },
        store: config.has_store(),
    }
}

struct Router {
    incarnation: Incarnation,
    settings: ShardSettings,
    ownerships: Ownerships,
    health: Component,
    deps: Deps,
    metrics: RouterMetrics,
    actors: JoinSet<Result<(), ShardEnd>>,
    shards: HashMap<Id, (ShardId, Ending)>,
    /// Logs of shards that are to be owned here next.
    followings: HashMap<ShardId, Following>,
    /// Shards whose actors end because another owner was heard of.
    abandoned: HashSet<ShardId>,
    readings: Arc<Semaphore>,
    owners: watch::Sender<Owners>,
    layout: watch::Receiver<Arc<Layout>>,
    /// The number of shards in force, where it is not this process's: it owns nothing any more.
    other_layout: Option<u32>,
    /// Ends the membership.
    member: CancellationToken,
    budget: Arc<WindowBudget>,
    readers: Arc<[ReaderName]>,
    begun: Instant,
}

impl Router {
    async fn run(mut self, mut membership: Membership, mut beats: Subscription, stop: CancellationToken) {
        let mut known = Arc::clone(&self.layout.borrow());
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = look.tick() => {}
                () = membership.changed() => {}
                beat = beats.next() => {
                    let Some(beat) = beat else { break };
                    self.heard(beat.payload);
                    while let Some(beat) = beats.try_next() {
                        self.heard(beat.payload);
                    }
                }
                Some(ended) = self.actors.join_next_with_id() => self.ended(ended),
                Ok(()) = self.layout.changed() => self.layout_changed(&mut known),
            }
            if self.other_layout.is_some() {
                self.report();
                continue;
            }
            let routers = membership.of_role(Role::Router);
            for decision in self.ownerships.decide(&routers, self.begun.elapsed()) {
                self.carry_out(decision);
            }
            self.report();
        }
        self.health.not_ready("stopping");
        let me = self.incarnation;
        let is_last = !membership
            .of_role(Role::Router)
            .iter()
            .any(|router| *router != me);
        for (_, ending) in self.shards.values() {
            let token = if is_last { &ending.stop } else { &ending.hand_over };
            token.cancel();
        }
        loop {
            tokio::select! {
                ended = self.actors.join_next_with_id() => match ended {
                    Some(ended) => self.ended(ended),
                    None => return,
                },
                // Derived entries go to the owners of other shards until the end.
                Some(beat) = beats.next() => self.heard(beat.payload),
            }
        }
    }

    /// Another layout is in force than `known`.
    fn layout_changed(&mut self, known: &mut Arc<Layout>) {
        let layout = Arc::clone(&self.layout.borrow_and_update());
        let configured = self.deps.shards;
        if layout.shard_count() != Some(configured) {
            if self.other_layout.replace(layout.shards).is_none() {
                tracing::error!(
                    configured = configured.get(),
                    in_force = layout.shards,
                    "the log has another number of shards now: set bus.shards to it and restart this process"
                );
            }
            // The others do not count on this process any more.
            self.member.cancel();
            self.shards.values().for_each(|(_, ending)| ending.stop.cancel());
            self.followings.clear();
        } else {
            for shard in configured.iter() {
                if layout.ordinal(shard) > known.ordinal(shard) {
                    tracing::info!(%shard, ordinal = layout.ordinal(shard), "the shard has a new log");
                    self.ownerships.repaired(shard);
                }
            }
        }
        if layout.is_frozen() != known.is_frozen() {
            tracing::warn!(
                frozen = layout.is_frozen(),
                "publishes are refused while the number of shards is being changed"
            );
        }
        *known = layout;
    }

    fn heard(&mut self, beat: bytes::Bytes) {
        match format::decode::<OwnerBeat>(beat) {
            Ok(beat) => {
                self.ownerships.beat(&beat, self.begun.elapsed());
                self.note_owner(&beat);
            }
            Err(error) => tracing::warn!(%error, "owner beat dropped"),
        }
    }

    /// Shards' actors have to find each other.
    fn note_owner(&self, beat: &OwnerBeat) {
        let (Some(shard), Ok(router)) = (
            ShardId::new(beat.shard).filter(|shard| shard.get() < self.deps.shards.get()),
            Incarnation::try_from(beat.router.as_ref()),
        ) else {
            return;
        };
        let rank = (beat.ordinal, beat.owner_epoch);
        self.owners.send_if_modified(|owners| {
            let is_higher = owners.get(&shard).is_none_or(|(_, known)| rank > *known);
            if is_higher {
                owners.insert(shard, (router, rank));
            }
            is_higher
        });
    }

    fn carry_out(&mut self, decision: Decision) {
        match decision {
            Decision::Claim(shard) => {
                let ending = Ending::default();
                let actor = Shard {
                    shard,
                    shards: self.deps.shards,
                    router: self.incarnation,
                    bus: Arc::clone(&self.deps.bus),
                    log: Arc::clone(&self.deps.log),
                    settings: self.settings,
                    metrics: self.metrics.clone(),
                    owners: self.owners.subscribe(),
                    budget: Arc::clone(&self.budget),
                    layout: self.layout.clone(),
                    readers: Arc::clone(&self.readers),
                    following: self.followings.remove(&shard),
                };
                // Not by `Tasks`: the end of an actor, a panic included, is an input of ownership, and counted
                // as an ownership lost.
                let task = self.actors.spawn(actor.run(ending.clone()));
                self.shards.insert(task.id(), (shard, ending));
            }
            Decision::Release(shard) => {
                tracing::info!(%shard, "handing the shard to another router");
                self.ending(shard, |ending| ending.hand_over.cancel());
            }
            Decision::Prepare(shard, owner) => {
                let preparation = Preparation {
                    bus: Arc::clone(&self.deps.bus),
                    log: Arc::clone(&self.deps.log),
                    shard,
                    limits: self.settings.limits.memory,
                    owner,
                    readings: Arc::clone(&self.readings),
                };
                self.followings.insert(shard, Following::begin(preparation));
            }
            Decision::Forget(shard) => {
                self.followings.remove(&shard);
            }
            Decision::Abandon(shard) => {
                tracing::warn!(%shard, "another router owns the shard under a higher epoch");
                self.ending(shard, |ending| ending.stop.cancel());
                if self.shards.values().any(|(running, _)| *running == shard) {
                    self.abandoned.insert(shard);
                }
            }
        }
    }

    fn ending(&self, shard: ShardId, tell: impl Fn(&Ending)) {
        for (_, ending) in self.shards.values().filter(|(running, _)| *running == shard) {
            tell(ending);
        }
    }

    fn ended(&mut self, ended: Result<(Id, Result<(), ShardEnd>), tokio::task::JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some((shard, _)) = self.shards.remove(&id) else {
            return;
        };
        let failed = match ended {
            Ok((_, Ok(()))) => false,
            Ok((_, Err(end))) if end.is_final() => {
                tracing::error!(%shard, reason = %end, "shard is stopped: bring back the log that has its records and \
                    restart the routers, or begin a new one with `switchboard log new-epoch --shard {shard}`; see \
                    docs/operations.md, When a shard is stopped");
                self.ownerships.broken(shard);
                true
            }
            Ok((_, Err(end))) => {
                tracing::warn!(%shard, reason = %end, "shard no longer owned here");
                true
            }
            Err(panic) => {
                tracing::error!(%shard, %panic, "shard's actor panicked, it will be started again");
                true
            }
        };
        // Heard of another owner's higher epoch before the log refused anything: lost as well.
        let is_abandoned = self.abandoned.remove(&shard);
        if failed || is_abandoned {
            self.metrics.ownerships_lost.inc();
        }
        self.ownerships.ended(shard, failed, self.begun.elapsed());
    }

    /// Ready: no shard is without an owner that shows life.
    fn report(&self) {
        if let Some(in_force) = self.other_layout {
            let shards = self.deps.shards.get();
            self.health.not_ready(format!(
                "bus.shards is {shards}, but the log has {in_force} shards now: set bus.shards = {in_force} and restart"
            ));
            return;
        }
        match self.ownerships.without_owner(self.begun.elapsed()) {
            0 => self.health.ready(),
            shards => self.health.not_ready(format!("{shards} shards have no owner")),
        }
    }
}
