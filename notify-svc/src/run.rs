//! Start: opens the store and the providers, joins the bus, reads the log, and works the queue off.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use switchboard_bus::answering::{Answering, AnsweringMetrics, Answers};
use switchboard_bus::membership::{Membership, MembershipSettings};
use switchboard_bus::reader::{Reader, ReaderSettings};
use switchboard_bus::{Bus, Log, ReaderName};
use switchboard_database::config::DatabaseSettings;
use switchboard_proto::bus::Role;
use switchboard_proto::ids::{Incarnation, ShardCount};
use switchboard_proto::questions;
use switchboard_proto::time::now_us;
use switchboard_providers::guard::Guard;
use switchboard_service_kit::admin;
use switchboard_service_kit::api_listener::{self, Listening, Times};
use switchboard_service_kit::grpc::GrpcRunning;
use switchboard_service_kit::health::Component;
use switchboard_service_kit::service::Context;
use switchboard_service_kit::summary;
use switchboard_service_kit::tasks::TaskKind;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::accepting::Accepting;
use crate::checking::Checking;
use crate::config::Config;
use crate::deciding::Deciding;
use crate::error::StartError;
use crate::grpc;
use crate::judging::HOUR_US;
use crate::links::Links;
use crate::metrics::NotifyMetrics;
use crate::model::us;
use crate::public;
use crate::saying::Saying;
use crate::sending::{Providers, Sending};
use crate::service::{NobodyTold, Service};
use crate::store::{NotifyStore, PostgresStore, SqliteStore, StoreError};

/// The service's name among the readers of the log (`router.readers`).
pub const READER: &str = "notify";

/// The service's name in reports of health.
pub(crate) const COMPONENT: &str = "notify";

/// How often a store that cannot be used is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often is counted what waits.
const COUNTING: Duration = Duration::from_secs(1);

/// How often is removed what is over, and how much of it at a time.
const PURGING: Duration = Duration::from_secs(60);
const PURGED: usize = 5_000;

/// Connections from outside, at most.
const CONNECTIONS: usize = 256;

/// What the service needs of the outside.
#[derive(Clone)]
pub struct Deps {
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// The log; used only where messages of channels are told.
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
    /// Where the outside reaches it; `None`: nowhere.
    pub public: Option<SocketAddr>,
}

/// Opens the store that is configured. A server is connected to when it is first asked something.
///
/// # Errors
/// [`StartError`] says what is wrong and where.
pub fn open_store(settings: &DatabaseSettings) -> Result<Arc<dyn NotifyStore>, StartError> {
    match settings {
        DatabaseSettings::Sqlite(settings) => {
            settings.make_folder()?;
            Ok(Arc::new(SqliteStore::new(settings)))
        }
        DatabaseSettings::Postgres(settings) => {
            let store = PostgresStore::new(settings).map_err(|error| StartError::Url(error.to_string()))?;
            Ok(Arc::new(store))
        }
    }
}

/// Joins the bus as [`Role::Notify`] and, where a store is configured, tells. A store that cannot be used is no error: the service is
/// not ready until it can. The stop of `context.tasks` ends what is being sent, and leaves the bus with a last beat that says so.
///
/// # Errors
/// [`StartError`] where the bus cannot be used, or a setting is wrong.
pub async fn start(config: Config, deps: Deps, context: Context) -> Result<Running, StartError> {
    let health = context.health.component(COMPONENT);
    let incarnation = Incarnation::random();
    let metrics = NotifyMetrics::register(&context.metrics);
    let membership = Membership::join(
        Arc::clone(&deps.bus),
        Role::Notify,
        incarnation,
        MembershipSettings::default(),
        &context.tasks.tracker(),
        context.tasks.stop_token(),
    )
    .await
    .map_err(StartError::Join)?;
    let store = config.store.as_ref().map(open_store).transpose()?;
    let (members, counts) = (membership.clone(), metrics.clone());
    summary::spawn(&context.tasks, "notify", summary::INTERVAL, move || {
        vec![
            ("members", members.members().len() as u64),
            ("accepted", counts.accepted.get()),
            ("decided", counts.decided.get()),
            ("claimed", counts.claimed.get()),
        ]
    });
    let prepared = CancellationToken::new();
    let mut public = None;
    let service = match store {
        None => {
            prepared.cancel();
            health.ready();
            None
        }
        Some(store) => {
            health.not_ready("the notification store was not reached yet");
            let links = match (&config.public.url, &config.public.secret) {
                (Some(url), Some(secret)) => Some(Links::new(url, secret)),
                _ => None,
            };
            if let Some(links) = &links {
                let outside = public::Outside {
                    store: Arc::clone(&store),
                    links: links.clone(),
                    twilio: config
                        .providers
                        .twilio
                        .as_ref()
                        .map(|twilio| twilio.auth_token.clone()),
                };
                public = Some(listen(config.public.listen, outside, &context).await?);
            }
            Some(tell(
                &config,
                &deps,
                store,
                links,
                &membership,
                incarnation,
                &metrics,
                &prepared,
                health,
                &context,
            )?)
        }
    };
    let answers: Arc<dyn Answers> = match &service {
        Some(service) => Arc::clone(service) as Arc<dyn Answers>,
        None => Arc::new(NobodyTold),
    };
    let answering = Answering {
        bus: Arc::clone(&deps.bus),
        service: questions::Service::Notifications,
        answers,
        metrics: AnsweringMetrics::register("notify", &context.metrics),
        places: Arc::new(Semaphore::new(config.questions)),
        limit: config.question_timeout,
    };
    let grpc = match config.grpc {
        Some(grpc) => {
            let asked = grpc::Asked {
                service,
                answering: answering.clone(),
                metrics: metrics.grpc.clone(),
            };
            Some(grpc::start(grpc, asked, deps.data.as_deref(), &context).await?)
        }
        None => None,
    };
    let stop = context.tasks.stop_token();
    context.tasks.supervise("questions", move || {
        let (answering, stop, prepared) = (answering.clone(), stop.clone(), prepared.clone());
        async move {
            // Questions to tables that are still to be made would be faults; where nobody answers, who asks tries again.
            if stop.run_until_cancelled(prepared.cancelled()).await.is_none() {
                return;
            }
            if let Err(error) = answering.run(stop).await {
                tracing::warn!(%error, "questions cannot be taken yet");
            }
        }
    });
    tracing::info!(%incarnation, "notify service has joined the bus");
    Ok(Running {
        incarnation,
        membership,
        grpc,
        public,
    })
}

async fn listen(
    address: SocketAddr,
    outside: public::Outside,
    context: &Context,
) -> Result<SocketAddr, StartError> {
    let listener = admin::bind("notify.listen", address).await?;
    let bound = listener.local_addr().unwrap_or(address);
    let listening = Listening {
        listener,
        router: public::router(outside),
        tls: None,
        connections: CONNECTIONS,
        times: Times {
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(60),
        },
    };
    let tasks = context.tasks.clone();
    context.tasks.spawn(
        "public",
        TaskKind::Essential,
        api_listener::listen(listening, tasks),
    );
    tracing::info!(listen = %bound, "links that unsubscribe and providers' reports are taken");
    Ok(bound)
}

/// Begins to read the log and to work the queue off, as soon as the store can be used.
#[expect(clippy::too_many_arguments, reason = "all of what a start has, once")]
fn tell(
    config: &Config,
    deps: &Deps,
    store: Arc<dyn NotifyStore>,
    links: Option<Links>,
    membership: &Membership,
    incarnation: Incarnation,
    metrics: &NotifyMetrics,
    prepared: &CancellationToken,
    health: Component,
    context: &Context,
) -> Result<Arc<Service>, StartError> {
    let providers = Arc::new(Providers::open(&config.providers, &config.queue, &config.public)?);
    tracing::info!(
        providers = providers.names().join(", "),
        "notifications are sent by these"
    );
    let web_push_key = providers.web_push_key.clone().unwrap_or_default();
    let wake = Arc::new(Notify::new());
    let saying = Arc::new(Saying::new(Arc::clone(&store)));
    let categories = Arc::new(config.categories.clone());
    let accepting = Accepting {
        store: Arc::clone(&store),
        saying: Arc::clone(&saying),
        categories: Arc::clone(&categories),
        metrics: metrics.clone(),
        wake: Arc::clone(&wake),
        waiting: Arc::new(AtomicU64::new(0)),
        most: config.limits.waiting,
    };
    let checking = Checking {
        bus: Arc::clone(&deps.bus),
    };
    let sending = Sending {
        store: Arc::clone(&store),
        bus: Arc::clone(&deps.bus),
        checking: checking.clone(),
        saying: Arc::clone(&saying),
        providers,
        categories: Arc::clone(&categories),
        settings: config.queue.clone(),
        links,
        metrics: metrics.clone(),
        me: Uuid::now_v7(),
        wake,
        begun: Arc::default(),
    };
    let reader = deps
        .log
        .as_ref()
        .filter(|_| config.reads_the_log())
        .zip(ReaderName::new(READER))
        .map(|(log, name)| Reader {
            log: Arc::clone(log),
            shards: deps.shards,
            name,
            role: Role::Notify,
            incarnation,
            settings: ReaderSettings {
                // Each message may be told to a thousand users.
                batch_bytes: 64 << 10,
                ..ReaderSettings::default()
            },
            handler: Arc::new(Deciding {
                store: Arc::clone(&store),
                bus: Arc::clone(&deps.bus),
                accepting: accepting.clone(),
                checking,
                categories,
                rules: Arc::new(config.rules.clone()),
                known: parking_lot::Mutex::default(),
            }),
        });
    let work = Work {
        store: Arc::clone(&store),
        migrate: config.migrate,
        health,
        prepared: prepared.clone(),
        stop: context.tasks.stop_token(),
        membership: membership.clone(),
        incarnation,
        reader,
        sending,
        waiting: Arc::clone(&accepting.waiting),
        most: config.limits.waiting,
        keep_us: us(config.queue.keep),
        metrics: metrics.clone(),
    };
    context.tasks.supervise("notify", move || work.clone().run());
    Ok(Arc::new(Service {
        store,
        saying,
        accepting,
        limits: config.limits.clone(),
        web_push_key,
        guard: Guard::allowing(config.providers.networks.clone()),
    }))
}

#[derive(Clone)]
struct Work {
    store: Arc<dyn NotifyStore>,
    migrate: bool,
    health: Component,
    /// Cancelled once the store can be asked.
    prepared: CancellationToken,
    stop: CancellationToken,
    membership: Membership,
    incarnation: Incarnation,
    reader: Option<Reader>,
    sending: Sending,
    waiting: Arc<AtomicU64>,
    most: u64,
    keep_us: u64,
    metrics: NotifyMetrics,
}

impl Work {
    /// Reads and sends until the stop.
    async fn run(self) {
        loop {
            let error = match self.stop.run_until_cancelled(self.prepare()).await {
                Some(Ok(())) => break,
                Some(Err(error)) => error,
                None => return,
            };
            tracing::warn!(%error, "the notification store cannot be used yet");
            self.health.not_ready(error.to_string());
            let pause = self.stop.run_until_cancelled(tokio::time::sleep(RETRY));
            if pause.await.is_none() {
                return;
            }
        }
        self.health.ready();
        self.prepared.cancel();
        let reading = async {
            if let Some(reader) = &self.reader {
                reader
                    .clone()
                    .run(self.membership.clone(), self.stop.clone())
                    .await;
            }
        };
        let sending = self.sending.clone().run(self.stop.clone());
        tokio::join!(reading, sending, self.count(), self.purge());
        self.store.close().await;
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        if self.migrate {
            self.store.migrate().await?;
        }
        self.store.check().await
    }

    /// Counts what waits, which is also how the store is known to be there.
    async fn count(&self) {
        let waiting = || self.stop.run_until_cancelled(tokio::time::sleep(COUNTING));
        while waiting().await.is_some() {
            let now = now_us();
            match self.store.waiting(now, self.most).await {
                Ok(waiting) => {
                    self.waiting.store(waiting.count, Ordering::Relaxed);
                    self.metrics.waits(waiting, now);
                    self.health.ready();
                }
                Err(error) => {
                    tracing::warn!(%error, "the notification store cannot be used");
                    self.health.not_ready(error.to_string());
                }
            }
        }
    }

    /// Removes what is over, in one process at a time where they see each other.
    async fn purge(&self) {
        let waiting = || self.stop.run_until_cancelled(tokio::time::sleep(PURGING));
        while waiting().await.is_some() {
            if self.membership.of_role(Role::Notify).first() != Some(&self.incarnation) {
                continue;
            }
            let now = now_us();
            let (before_us, hour) = (
                now.saturating_sub(self.keep_us),
                (now / HOUR_US).saturating_sub(1),
            );
            let mut all = 0;
            while !self.stop.is_cancelled() {
                match self.store.purge(before_us, hour, PURGED).await {
                    Ok(purged) => {
                        all += purged;
                        if purged < PURGED as u64 {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "what is over stays for now");
                        break;
                    }
                }
            }
            if all > 0 {
                tracing::info!(purged = all, "notifications are over");
            }
        }
    }
}

#[cfg(test)]
mod tests;
