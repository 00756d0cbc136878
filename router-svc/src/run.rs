//! Starts a router: joins the bus, follows who owns what, and runs the shards it should own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use switchboard_bus::membership::{Membership, MembershipError, MembershipSettings};
use switchboard_bus::{Bus, BusError, Log, Pattern, ReaderName, Subscription};
use switchboard_proto::bus::{OwnerBeat, Role};
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, ShardCount, ShardId};
use switchboard_service_kit::health::Component;
use switchboard_service_kit::service::Context;
use switchboard_service_kit::summary;
use switchboard_service_kit::tasks::TaskKind;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics::RouterMetrics;
use crate::ownership::{Decision, Ownerships, Patience};
use crate::shard::{
    Limits, LinkLimits, MemoryLimits, Owners, PageLimits, Shard, ShardEnd, ShardSettings, UpkeepLimits,
    WindowBudget, WindowLimits,
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
    /// The bus did not take the membership.
    #[error("router cannot join the bus: is NATS there?")]
    Join(#[source] MembershipError),
}

/// Between two looks at who should own what.
const LOOK: Duration = Duration::from_millis(100);

/// Owner beats that may wait; a lost one is repeated by the next.
const BEATS: usize = 4096;

/// Starts a router. It claims its shards in the background and reports ready once every shard that
/// is its to own has an owner.
///
/// # Errors
/// [`StartError`] where the bus cannot be used.
pub async fn start(config: Config, deps: Deps, context: Context) -> Result<Running, StartError> {
    let incarnation = Incarnation::random();
    let metrics = RouterMetrics::register(&context.metrics);
    // Before joining: who is a member is handed shards by a beat.
    let beats = deps.bus.subscribe(Pattern::AllOwnerBeats, BEATS).await?;
    let stop = context.tasks.stop_token();
    let settings = MembershipSettings::default();
    let tracker = context.tasks.tracker();
    let bus = Arc::clone(&deps.bus);
    let membership = Membership::join(bus, Role::Router, incarnation, settings, &tracker, stop.clone())
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
            history_reading: config.history_reading,
        },
        ownerships: Ownerships::new(incarnation, deps.shards, patience),
        health: context.health.component("router"),
        deps,
        metrics,
        actors: JoinSet::new(),
        shards: HashMap::new(),
        owners: watch::Sender::new(Owners::new()),
        budget: Arc::new(WindowBudget::new(
            config.window_total as u64,
            config.window_bytes as u64,
        )),
        readers: config.readers.into(),
        begun: Instant::now(),
    };
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
    shards: HashMap<Id, (ShardId, CancellationToken)>,
    owners: watch::Sender<Owners>,
    budget: Arc<WindowBudget>,
    readers: Arc<[ReaderName]>,
    begun: Instant,
}

impl Router {
    async fn run(mut self, mut membership: Membership, mut beats: Subscription, stop: CancellationToken) {
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
            }
            let routers = membership.of_role(Role::Router);
            for decision in self.ownerships.decide(&routers, self.begun.elapsed()) {
                self.carry_out(decision);
            }
            self.report();
        }
        self.health.not_ready("stopping");
        for (_, token) in self.shards.values() {
            token.cancel();
        }
        while let Some(ended) = self.actors.join_next_with_id().await {
            self.ended(ended);
        }
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
                let token = CancellationToken::new();
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
                    readers: Arc::clone(&self.readers),
                };
                // Not by `Tasks`: the end of an actor, a panic included, is an input of ownership, and counted
                // as an ownership lost.
                let task = self.actors.spawn(actor.run(token.clone()));
                self.shards.insert(task.id(), (shard, token));
            }
            Decision::Release(shard) => {
                tracing::info!(%shard, "handing the shard to another router");
                self.cancel(shard);
            }
            Decision::Abandon(shard) => {
                tracing::warn!(%shard, "another router owns the shard under a higher epoch");
                self.cancel(shard);
            }
        }
    }

    fn cancel(&self, shard: ShardId) {
        for (_, token) in self.shards.values().filter(|(running, _)| *running == shard) {
            token.cancel();
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
                tracing::error!(%shard, reason = %end, "shard is given up until this router is restarted; \
                    bring back the log that has its records; see docs/operations.md, When a shard is stopped");
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
        if failed {
            self.metrics.ownerships_lost.inc();
        }
        self.ownerships.ended(shard, failed, self.begun.elapsed());
    }

    /// Ready: no shard is without an owner that shows life.
    fn report(&self) {
        match self.ownerships.without_owner(self.begun.elapsed()) {
            0 => self.health.ready(),
            shards => self.health.not_ready(format!("{shards} shards have no owner")),
        }
    }
}
