//! Starts the services in the order of what they need, and stops them in the reverse.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use switchboard_bus::config::{Backend, Backends, OpenError};
use switchboard_bus::{Bus, Log};
use switchboard_gateway::ApiRunning;
use switchboard_proto::ids::ShardCount;
use switchboard_service_kit::admin::{self, BindError};
use switchboard_service_kit::grpc::GrpcRunning;
use switchboard_service_kit::service::Context;
use switchboard_service_kit::tasks::{TaskFailure, Tasks};

use crate::config::{Config, Service};

/// A running system. Dropping it does not stop it; [`Switchboard::stop`] does.
#[derive(Debug)]
pub struct Switchboard {
    context: Context,
    /// In the order in which they are stopped: whoever holds clients first, whoever others need last.
    groups: Vec<Tasks>,
    /// The operators' endpoint, stopped after everything else.
    aside: Tasks,
    gateway: Option<SocketAddr>,
    /// Whether the gateway speaks TLS.
    tls: bool,
    api: Option<ApiRunning>,
    messages: Option<GrpcRunning>,
    presence: Option<GrpcRunning>,
    notifications: Option<GrpcRunning>,
    notify_public: Option<SocketAddr>,
    admin: SocketAddr,
    data: Option<PathBuf>,
    budget: Duration,
}

/// How a stop went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Tasks that did not end by themselves within `shutdown.budget`.
    pub forced: Vec<&'static str>,
}

/// Why a system did not start. Each says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Bus or log cannot be used.
    #[error(transparent)]
    Backends(#[from] OpenError),
    /// See [`BindError`].
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The registry cannot be used as configured.
    #[error(transparent)]
    Registry(#[from] switchboard_registry::config::OpenError),
    /// See [`switchboard_gateway::StartError`].
    #[error(transparent)]
    Gateway(#[from] switchboard_gateway::StartError),
    /// See [`switchboard_router_svc::StartError`].
    #[error(transparent)]
    Router(#[from] switchboard_router_svc::StartError),
    /// See [`switchboard_persistence_svc::StartError`].
    #[error(transparent)]
    Persistence(#[from] switchboard_persistence_svc::StartError),
    /// See [`switchboard_presence_svc::StartError`].
    #[error(transparent)]
    Presence(#[from] switchboard_presence_svc::StartError),
    /// See [`switchboard_notify_svc::StartError`].
    #[error(transparent)]
    Notify(#[from] switchboard_notify_svc::StartError),
}

impl Switchboard {
    /// Opens the backends and starts the configured services. Returns as soon as everything
    /// listens; [`Switchboard::ready`] waits until messages can cross.
    ///
    /// # Errors
    /// [`StartError`]; whatever was started before it is stopped again.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let runs = |service| config.services.contains(&service);
        let stores = runs(Service::Persistence) && config.persistence.store.is_some();
        let tells = runs(Service::Notify) && config.notify.reads_the_log();
        if stores || tells || config.services.contains(&Service::Router) {
            let backends = config.bus.open("switchboard").await?;
            return Box::pin(Self::start_on(config, &backends)).await;
        }
        // Who owns no shard, stores nothing and tells of no channel needs no right to the log.
        let bus = config.bus.open_bus("switchboard").await?;
        let shards = config.bus.shards;
        Box::pin(Self::start_with(config, bus, None, shards)).await
    }

    /// As [`Switchboard::start`], on backends that are open already: several systems in one process
    /// may share the embedded ones.
    ///
    /// # Errors
    /// As [`Switchboard::start`].
    pub async fn start_on(config: Config, backends: &Backends) -> Result<Self, StartError> {
        let Backends { bus, log, shards } = backends.clone();
        Box::pin(Self::start_with(config, bus, Some(log), shards)).await
    }

    /// `log` is there where a router is to be started, or messages are to be stored.
    async fn start_with(
        config: Config,
        bus: Arc<dyn Bus>,
        log: Option<Arc<dyn Log>>,
        shards: ShardCount,
    ) -> Result<Self, StartError> {
        let context = Context::new();
        let aside = context.tasks.separate();
        let listener = admin::bind("admin.listen", config.node.admin.listen).await?;
        let admin = listener.local_addr().map_err(|source| BindError {
            key: "admin.listen",
            address: config.node.admin.listen,
            source,
        })?;
        let data = match &config.bus.backend {
            Backend::Embedded { path, .. } => Some(path.clone()),
            Backend::Nats(_) => None,
        };
        let mut system = Self {
            groups: Vec::new(),
            gateway: None,
            tls: false,
            api: None,
            messages: None,
            presence: None,
            notifications: None,
            notify_public: None,
            admin,
            data,
            budget: config.node.shutdown_budget,
            context,
            aside,
        };
        let router = admin::router(system.context.health.clone(), system.context.metrics.clone());
        admin::serve(listener, router, &system.aside).await;
        match system.start_services(config, &bus, log, shards).await {
            Ok(()) => Ok(system),
            Err(error) => {
                system.stop().await;
                Err(error)
            }
        }
    }

    async fn start_services(
        &mut self,
        config: Config,
        bus: &Arc<dyn Bus>,
        log: Option<Arc<dyn Log>>,
        shards: ShardCount,
    ) -> Result<(), StartError> {
        let runs = |service| config.services.contains(&service);
        if let Some(log) = log.clone().filter(|_| runs(Service::Router)) {
            let deps = switchboard_router_svc::Deps {
                bus: Arc::clone(bus),
                log,
                shards,
            };
            let context = self.service();
            switchboard_router_svc::start(config.router, deps, context).await?;
        }
        if runs(Service::Persistence) {
            let deps = switchboard_persistence_svc::Deps {
                bus: Arc::clone(bus),
                log: log.clone(),
                shards,
                data: self.data.clone(),
            };
            let context = self.service();
            let started = Box::pin(switchboard_persistence_svc::start(
                config.persistence,
                deps,
                context,
            ));
            self.messages = started.await?.grpc;
        }
        if runs(Service::Presence) {
            let deps = switchboard_presence_svc::Deps {
                bus: Arc::clone(bus),
                registry: config.registry.clone(),
                data: self.data.clone(),
            };
            let started = Box::pin(switchboard_presence_svc::start(
                config.presence,
                deps,
                self.service(),
            ));
            self.presence = started.await?.grpc;
        }
        if runs(Service::Notify) {
            let deps = switchboard_notify_svc::Deps {
                bus: Arc::clone(bus),
                log: log.clone(),
                shards,
                data: self.data.clone(),
            };
            let started = Box::pin(switchboard_notify_svc::start(
                *config.notify,
                deps,
                self.service(),
            ));
            let running = started.await?;
            self.notifications = running.grpc;
            self.notify_public = running.public;
        }
        if runs(Service::Gateway) {
            let deps = switchboard_gateway::Deps {
                bus: Arc::clone(bus),
                shards,
                registry: config.registry.open()?,
                data: self.data.clone(),
                extra: switchboard_console::router(),
            };
            let context = self.service();
            let gateway = Box::pin(switchboard_gateway::start(config.gateway, deps, context)).await?;
            self.gateway = Some(gateway.address);
            self.tls = gateway.tls;
            self.api = gateway.api;
        }
        Ok(())
    }

    /// The context of one more service, with tasks of its own that are stopped before the others'.
    fn service(&mut self) -> Context {
        let tasks = self.context.tasks.separate();
        self.groups.insert(0, tasks.clone());
        Context {
            tasks,
            ..self.context.clone()
        }
    }

    /// Where clients connect; `None` without a gateway.
    pub fn websocket_url(&self) -> Option<String> {
        let scheme = if self.tls { "wss" } else { "ws" };
        self.gateway
            .map(|address| format!("{scheme}://{address}/connection/websocket"))
    }

    /// The demo page; `None` without a gateway.
    pub fn demo_url(&self) -> Option<String> {
        let scheme = if self.tls { "https" } else { "http" };
        self.gateway.map(|address| format!("{scheme}://{address}/"))
    }

    /// The server API, for backends; `None`: it is off.
    pub fn api_url(&self) -> Option<String> {
        self.api.as_ref().map(|api| format!("http://{}/api", api.address))
    }

    /// The file of the key that was made for the server API; `None`: one is configured, or the API is off.
    pub fn api_key_file(&self) -> Option<&std::path::Path> {
        self.api.as_ref()?.key_file.as_deref()
    }

    /// `MessageService`, for backends; `None`: it is off.
    pub fn messages(&self) -> Option<&GrpcRunning> {
        self.messages.as_ref()
    }

    /// `PresenceService`, for backends; `None`: it is off.
    pub fn presence(&self) -> Option<&GrpcRunning> {
        self.presence.as_ref()
    }

    /// `NotificationService`, for backends; `None`: it is off.
    pub fn notifications(&self) -> Option<&GrpcRunning> {
        self.notifications.as_ref()
    }

    /// Where links of e-mails and providers' reports lead; `None`: nowhere.
    pub fn notify_public(&self) -> Option<SocketAddr> {
        self.notify_public
    }

    /// Health and metrics, for operators.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// Where data is kept on this machine; `None`: elsewhere.
    pub fn data_folder(&self) -> Option<&std::path::Path> {
        self.data.as_deref()
    }

    /// Waits until every service is ready: each shard has an owner, each gateway its links. Cancel
    /// safe.
    pub async fn ready(&self) {
        while !self.context.health.report().ready {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for the first failure that the system cannot go on after. Cancel safe.
    pub async fn failed(&self) -> TaskFailure {
        let mut failures: Vec<_> = self
            .groups
            .iter()
            .chain([&self.aside])
            .map(|tasks| Box::pin(tasks.failed()))
            .collect();
        std::future::poll_fn(|context| {
            for failure in &mut failures {
                if let std::task::Poll::Ready(failure) = failure.as_mut().poll(context) {
                    return std::task::Poll::Ready(failure);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Stops: no longer ready, clients are asked to reconnect elsewhere, queues are flushed, shards
    /// handed over. All of it takes `shutdown.budget` at most.
    pub async fn stop(self) -> Stopped {
        self.context.health.stop();
        let deadline = tokio::time::Instant::now() + self.budget;
        let mut forced = Vec::new();
        let groups: Vec<&Tasks> = self.groups.iter().chain([&self.aside]).collect();
        for (index, tasks) in groups.iter().enumerate() {
            // Whoever takes too long must not leave the others, routers last, without any time.
            let others = u32::try_from(groups.len() - 1 - index).unwrap_or(u32::MAX);
            let kept = (self.budget / 10)
                .min(Duration::from_secs(2))
                .saturating_mul(others);
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            forced.extend(tasks.stop(left.saturating_sub(kept)).await.forced);
        }
        Stopped { forced }
    }
}
