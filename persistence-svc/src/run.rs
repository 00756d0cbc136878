//! Start: joins the bus, is seen there, and reads the log into the store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use switchboard_bus::answering::{Answering, AnsweringMetrics, Answers};
use switchboard_bus::membership::{Membership, MembershipSettings};
use switchboard_bus::reader::{Reader, ReaderSettings};
use switchboard_bus::statistics::Ticking;
use switchboard_bus::{Bus, Log, ReaderName};
use switchboard_proto::bus::Role;
use switchboard_proto::ids::{Incarnation, ShardCount};
use switchboard_proto::questions;
use switchboard_proto::time::now_us;
use switchboard_service_kit::grpc::GrpcRunning;
use switchboard_service_kit::health::Component;
use switchboard_service_kit::service::Context;
use switchboard_service_kit::summary;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::StartError;
use crate::follow::{Follower, Following, Writes};
use crate::grpc;
use crate::keeping::{ArchiveSettings, KeepError, Keeper, Policy};
use crate::metrics::{FollowerMetrics, PersistenceMetrics};
use crate::search::analyser::Analyser;
use crate::search::text::Fields;
use crate::search::{Indexer, Searching};
use crate::service::{NothingStored, Service};
use crate::statistics::{Counting, StatisticsSettings};
use crate::store::Store;
use crate::writer::Writer;

/// The service's name among the readers of the log (`router.readers`).
pub const READER: &str = "persistence";

/// The service's name in reports of health.
pub(crate) const COMPONENT: &str = "persistence";

/// How often a store that cannot be used is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often the store is asked whether it can still be used, and is given what it needs soon.
const MAINTENANCE: Duration = Duration::from_secs(10);

/// How often statistics that are over are removed.
const FORGETTING: Duration = Duration::from_secs(600);

/// What the service needs of the outside.
#[derive(Clone)]
pub struct Deps {
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// The log; used only where messages are stored.
    pub log: Option<Arc<dyn Log>>,
    /// Shards of its layout.
    pub shards: ShardCount,
    /// Where this machine keeps a key that it is told nowhere; `None`: in a cluster, where keys are configured.
    pub data: Option<PathBuf>,
}

/// A service that runs until its context's tasks are stopped.
#[derive(Debug, Clone)]
pub struct Running {
    /// This life of the service.
    pub incarnation: Incarnation,
    /// Who is on the bus, as this service sees it.
    pub membership: Membership,
    /// Where it is asked over gRPC; `None`: nowhere.
    pub grpc: Option<GrpcRunning>,
}

/// Joins the bus as [`Role::Persistence`] and, where a store is configured, reads the log into it. A store that cannot be used is
/// no error: the service is not ready until it can. The stop of `context.tasks` ends what is being written, and leaves the bus
/// with a last beat that says so.
///
/// # Errors
/// [`StartError`] where the bus cannot be used, or a setting is wrong.
pub async fn start(config: Config, deps: Deps, context: Context) -> Result<Running, StartError> {
    let health = context.health.component(COMPONENT);
    let store = match &config.store {
        Some(settings) => Some(settings.open()?),
        None => None,
    };
    let incarnation = Incarnation::random();
    let metrics = PersistenceMetrics::register(&context.metrics, store.as_ref());
    let analyser = config.search.as_ref().map(|search| {
        let fields = Fields::new(&search.fields);
        Arc::new(Analyser::new(&search.languages, fields))
    });
    let service = |store: &Arc<dyn Store>| {
        let service = Service::new(Arc::clone(store), deps.shards).with_statistics(config.statistics.clone());
        Arc::new(match &analyser {
            Some(analyser) => service.with_search(Searching::new(Arc::clone(store), Arc::clone(analyser))),
            None => service,
        })
    };
    let service = store.as_ref().map(service);
    let answers: Arc<dyn Answers> = match &service {
        Some(service) => Arc::clone(service) as Arc<dyn Answers>,
        None => Arc::new(NothingStored),
    };
    let answering = Answering {
        bus: Arc::clone(&deps.bus),
        service: questions::Service::Messages,
        answers,
        metrics: AnsweringMetrics::register("persistence", &context.metrics),
        places: Arc::new(Semaphore::new(config.questions)),
        limit: config.question_timeout,
    };
    let membership = Membership::join(
        deps.bus,
        Role::Persistence,
        incarnation,
        MembershipSettings::default(),
        &context.tasks.tracker(),
        context.tasks.stop_token(),
    )
    .await
    .map_err(StartError::Join)?;
    let members = membership.clone();
    let counts = metrics.clone();
    summary::spawn(&context.tasks, "persistence", summary::INTERVAL, move || {
        vec![
            ("members", members.members().len() as u64),
            ("messages", counts.rows.get()),
            ("dead_letters", counts.dead_letters.get()),
        ]
    });
    let grpc = match config.grpc {
        Some(grpc) => {
            let asked = grpc::Asked {
                service,
                answering: answering.clone(),
                metrics: metrics.grpc.clone(),
                ticking: Ticking::new(
                    config
                        .statistics
                        .as_ref()
                        .map_or(0, |statistics| statistics.watches),
                ),
            };
            Some(grpc::start(grpc, asked, deps.data.as_deref(), &context).await?)
        }
        None => None,
    };
    let stop = context.tasks.stop_token();
    // Questions to tables that are still to be made would be faults; where nobody answers, who asks tries again.
    let prepared = CancellationToken::new();
    if store.is_none() || deps.log.is_none() {
        prepared.cancel();
    }
    let is_prepared = prepared.clone();
    context.tasks.supervise("questions", move || {
        let (answering, stop, is_prepared) = (answering.clone(), stop.clone(), is_prepared.clone());
        async move {
            if stop.run_until_cancelled(is_prepared.cancelled()).await.is_none() {
                return;
            }
            if let Err(error) = answering.run(stop).await {
                tracing::warn!(%error, "questions cannot be taken yet");
            }
        }
    });
    match (store, deps.log, ReaderName::new(READER)) {
        (Some(store), Some(log), Some(name)) => {
            health.not_ready("the message store was not reached yet");
            let writes = Arc::new(Writes::default());
            let follow = |follower: Arc<dyn Follower>, metrics: &FollowerMetrics| Following {
                store: Arc::clone(&store),
                follower,
                writes: Arc::clone(&writes),
                shards: deps.shards,
                incarnation,
                membership: membership.clone(),
                metrics: metrics.clone(),
            };
            let mut following = Vec::new();
            if let Some((analyser, search)) = analyser.zip(config.search.as_ref()) {
                let indexer = Indexer::new(Arc::clone(&store), analyser, &search.to_string());
                following.push(follow(Arc::new(indexer), &metrics.search));
            }
            if let Some(settings) = &config.statistics {
                let known = metrics.statistics_known.clone();
                let counting = Counting::new(Arc::clone(&store), settings.clone(), known);
                following.push(follow(Arc::new(counting), &metrics.statistics));
            }
            let archive = config.keeping.archive.as_ref().map(ArchiveSettings::open);
            let work = Work {
                keeping: Sweeping {
                    keeper: Keeper::new(Arc::clone(&store), archive.transpose()?)
                        .counting(metrics.bad_acts.clone()),
                    policy: config.keeping.policy.clone(),
                    interval: config.keeping.interval,
                    incarnation,
                    metrics: metrics.clone(),
                },
                following,
                statistics: config.statistics,
                store: Arc::clone(&store),
                migrate: config.migrate,
                health,
                prepared,
                stop: context.tasks.stop_token(),
                membership: membership.clone(),
                reader: Reader {
                    log,
                    shards: deps.shards,
                    name,
                    role: Role::Persistence,
                    incarnation,
                    settings: ReaderSettings {
                        batch_bytes: config.batch_bytes,
                        linger: config.linger,
                        ..ReaderSettings::default()
                    },
                    handler: Arc::new(Writer::new(store, metrics).telling(writes, config.batch_bytes / 2)),
                },
            };
            context.tasks.supervise("persistence", move || work.clone().run());
        }
        _ => health.ready(),
    }
    tracing::info!(%incarnation, "persistence service has joined the bus");
    Ok(Running {
        incarnation,
        membership,
        grpc,
    })
}

/// How messages are removed once they are over.
#[derive(Clone)]
struct Sweeping {
    keeper: Keeper,
    policy: Policy,
    interval: Duration,
    incarnation: Incarnation,
    metrics: PersistenceMetrics,
}

#[derive(Clone)]
struct Work {
    store: Arc<dyn Store>,
    following: Vec<Following>,
    statistics: Option<StatisticsSettings>,
    keeping: Sweeping,
    migrate: bool,
    health: Component,
    /// Cancelled once the store can be asked.
    prepared: CancellationToken,
    stop: CancellationToken,
    membership: Membership,
    reader: Reader,
}

impl Work {
    /// Reads the log into the store until the stop.
    async fn run(self) {
        loop {
            let error = match self.stop.run_until_cancelled(self.prepare()).await {
                Some(Ok(())) => break,
                Some(Err(error)) => error,
                None => return,
            };
            tracing::warn!(%error, "the message store cannot be used yet");
            self.health.not_ready(error.to_string());
            if self
                .stop
                .run_until_cancelled(tokio::time::sleep(RETRY))
                .await
                .is_none()
            {
                return;
            }
        }
        self.health.ready();
        self.prepared.cancel();
        let reading = self
            .reader
            .clone()
            .run(self.membership.clone(), self.stop.clone());
        let following = self.following.iter().cloned();
        let following = join_all(following.map(|following| following.run(self.stop.clone())));
        tokio::join!(reading, following, self.maintain(), self.sweep(), self.forget());
        self.store.close().await;
    }

    async fn prepare(&self) -> Result<(), KeepError> {
        if self.migrate {
            self.store.migrate().await?;
        }
        self.store.check().await?;
        self.store.maintain(now_us()).await?;
        // Before the first record is read into a store that is new.
        self.keeping.keeper.recall().await
    }

    /// Removes what is over, in one process at a time where they see each other.
    async fn sweep(&self) {
        let Sweeping {
            keeper,
            policy,
            interval,
            incarnation,
            metrics,
        } = &self.keeping;
        while self
            .stop
            .run_until_cancelled(tokio::time::sleep(*interval))
            .await
            .is_some()
        {
            if self.membership.of_role(Role::Persistence).first() != Some(incarnation) {
                continue;
            }
            match self
                .stop
                .run_until_cancelled(keeper.sweep(policy, now_us()))
                .await
            {
                Some(Ok(swept)) => {
                    metrics.expired.inc_by(swept.expired);
                    metrics.archive_files.inc_by(swept.files);
                    metrics.failed_channels.inc_by(swept.failed);
                    if swept.failed > 0 {
                        tracing::warn!(
                            channels = swept.failed,
                            "channels were passed over: what is over in them stays for now"
                        );
                    }
                    if swept.expired > 0 {
                        tracing::info!(messages = swept.expired, files = swept.files, "messages expired");
                    }
                }
                Some(Err(error)) => {
                    metrics.failed_sweeps.inc();
                    tracing::warn!(%error, "what is over stays for now");
                }
                None => return,
            }
        }
    }

    /// Forgets sums that are over, in one process at a time where they see each other.
    async fn forget(&self) {
        let Some(statistics) = &self.statistics else {
            return;
        };
        let Sweeping {
            incarnation, metrics, ..
        } = &self.keeping;
        let waiting = || self.stop.run_until_cancelled(tokio::time::sleep(FORGETTING));
        while waiting().await.is_some() {
            if self.membership.of_role(Role::Persistence).first() != Some(incarnation) {
                continue;
            }
            let forgetting = statistics.forget(&self.store, now_us() / 1_000_000);
            match self.stop.run_until_cancelled(forgetting).await {
                Some(Ok(forgotten)) => drop(metrics.statistics_forgotten.inc_by(forgotten)),
                Some(Err(error)) => tracing::warn!(%error, "statistics that are over stay for now"),
                None => return,
            }
        }
    }

    async fn maintain(&self) {
        while self
            .stop
            .run_until_cancelled(tokio::time::sleep(MAINTENANCE))
            .await
            .is_some()
        {
            let done = match self.store.check().await {
                Ok(()) => self.store.maintain(now_us()).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => self.health.ready(),
                Err(error) => {
                    tracing::warn!(%error, "the message store cannot be used");
                    self.health.not_ready(error.to_string());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
