//! A gRPC service for backends: its settings, a key or certificates that open it, reflection, and health.
//!
//! Who has the key, or a certificate that one of the configured authorities signed, may ask everything: no user's rights are looked at.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tonic::body::Body as TonicBody;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::admin::{self, BindError};
use crate::api_key::{self, KeyError, Keys, NamedKeys};
use crate::api_listener::{self, Listening, Times};
use crate::config::Document;
use crate::service::Context;
use crate::tasks::TaskKind;
use crate::tls::{self, Tls, TlsConfig, TlsError};

/// How often the health that is told is looked at.
const HEALTH: Duration = Duration::from_millis(500);

/// Where a service is asked.
#[derive(Debug, Clone)]
pub struct GrpcConfig {
    section: &'static str,
    /// Where backends ask.
    pub listen: SocketAddr,
    keys: NamedKeys,
    /// `None`: without TLS.
    pub tls: Option<TlsConfig>,
    /// Bytes of one request, at most.
    pub request_size: usize,
    /// Connections, at most.
    pub connections: usize,
    /// How long one may be silent.
    pub times: Times,
}

/// What is different from service to service.
#[derive(Debug, Clone, Copy)]
pub struct Sections {
    /// Such as `persistence.grpc`.
    pub grpc: &'static str,
    /// Such as `persistence.grpc.tls`.
    pub tls: &'static str,
    /// Where it listens, unless configured.
    pub listen: SocketAddr,
    /// Whether backends can ask at all, in words.
    pub enabled: &'static str,
}

impl GrpcConfig {
    /// Reads the sections; `None`: it is not enabled.
    pub fn read(document: &mut Document, sections: Sections) -> Option<Self> {
        let mut section = document.section(sections.grpc);
        let enabled = section.boolean("enabled", false, sections.enabled);
        let listen = section.address(
            "listen",
            sections.listen,
            "Where backends ask. On another address than a loopback one, set its TLS, or keep the network private.",
        );
        let keys = api_key::read(
            &mut section,
            "What backends prove themselves with. Not set: with the embedded bus one is made and kept in the data folder; else \
             client_ca_file of its TLS is needed.",
        );
        let request_size = section.bytes(
            "request_size",
            1 << 20,
            1024..=(64 << 20),
            "Bytes of one request, at most; a larger one is refused with OUT_OF_RANGE.",
        );
        let connections = section.integer(
            "connections",
            1024,
            1..=100_000,
            "Connections of backends, at most; more wait in the kernel's queue.",
        );
        let times = Times::read(&mut section);
        let tls = TlsConfig::read_mutual(
            &mut document.section(sections.tls),
            tls::HTTP,
            "With it the listener speaks TLS and nothing else.",
        );
        let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
        enabled.then(|| Self {
            section: sections.grpc,
            listen,
            keys,
            tls,
            request_size: size(request_size),
            connections: size(connections),
            times,
        })
    }
}

/// What is counted. Handles; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct GrpcMetrics {
    /// Calls without a key that is accepted.
    pub unauthorized: Counter,
    tls_reloads: Counter,
    failed_tls_reloads: Counter,
}

impl GrpcMetrics {
    /// Registers them among a service's.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "grpc_unauthorized",
            "Calls over gRPC without a key that is accepted",
            self.unauthorized.clone(),
        );
        registry.register(
            "grpc_tls_reloads",
            "New TLS certificates of the listener for gRPC that are in force",
            self.tls_reloads.clone(),
        );
        registry.register(
            "grpc_failed_tls_reloads",
            "New TLS certificates of the listener for gRPC that are no good",
            self.failed_tls_reloads.clone(),
        );
    }
}

/// What is served.
pub struct Grpc<'a, S> {
    /// The service itself.
    pub service: S,
    /// Its name, and its descriptors, as reflection answers with them.
    pub name: &'static str,
    /// See above.
    pub descriptors: &'static [u8],
    /// The component whose health it has.
    pub component: &'static str,
    /// Where a key may be kept, and in which file there; `None`: in a cluster, where keys are configured.
    pub kept_key: Option<(&'a Path, &'static str)>,
    /// What is counted.
    pub metrics: GrpcMetrics,
}

/// A service as tonic generates it.
pub trait Served:
    Service<axum::http::Request<TonicBody>, Response = axum::http::Response<TonicBody>, Error = Infallible>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Served for S where
    S: Service<
            axum::http::Request<TonicBody>,
            Response = axum::http::Response<TonicBody>,
            Error = Infallible,
        > + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Where the service is asked, and where the key is kept that opens it.
#[derive(Debug, Clone)]
pub struct GrpcRunning {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The file of a key that was made here; `None`: it is configured, or certificates are asked for instead.
    pub key_file: Option<PathBuf>,
}

/// Why the service cannot be asked over gRPC.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// See [`BindError`].
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system does not say where it listens.
    #[error("the address of the listener for gRPC is not known")]
    Address(#[source] std::io::Error),
    /// See [`KeyError`].
    #[error(transparent)]
    Key(#[from] KeyError),
    /// See [`TlsError`].
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Anybody could ask.
    #[error(
        "{section} is enabled, and nobody has to prove anything: set {section}.key, or {section}.tls.client_ca_file"
    )]
    Open {
        /// The section.
        section: &'static str,
    },
}

/// Listens, until the context's tasks are stopped.
///
/// # Errors
/// [`GrpcError`].
pub async fn start<S>(
    config: GrpcConfig,
    grpc: Grpc<'_, S>,
    context: &Context,
) -> Result<GrpcRunning, GrpcError>
where
    S: Served,
    S::Future: Send + 'static,
{
    let by_certificate = config.tls.as_ref().is_some_and(TlsConfig::is_mutual);
    let (keys, key_file) = match (&*config.keys, grpc.kept_key) {
        ([], _) if by_certificate => (None, None),
        ([], None) => {
            return Err(GrpcError::Open {
                section: config.section,
            });
        }
        ([], Some((folder, name))) => {
            let (key, file) = api_key::kept_in(folder, name)?;
            (Some(Keys::new(&[key])), Some(file))
        }
        (keys, _) => (Some(Keys::new(keys)), None),
    };
    let tls = match config.tls {
        Some(tls) => {
            let (tls, seen) = Tls::load(tls).await?;
            let metrics = grpc.metrics.clone();
            let reloaded = move |is_good| {
                let counter = match is_good {
                    true => &metrics.tls_reloads,
                    false => &metrics.failed_tls_reloads,
                };
                counter.inc();
            };
            let watching = Arc::clone(&tls).watch(seen, reloaded, context.tasks.stop_token());
            context
                .tasks
                .spawn("grpc-tls-reload", TaskKind::Essential, watching);
            Some(tls)
        }
        None => None,
    };
    let listener = admin::bind(config.section, config.listen).await?;
    let address = listener.local_addr().map_err(GrpcError::Address)?;
    let (name, component) = (grpc.name, grpc.component);
    let (router, reporter) = router(grpc, keys);
    context.tasks.spawn(
        "grpc-health",
        TaskKind::Essential,
        tell_health(reporter, name, component, context.clone()),
    );
    let is_tls = tls.is_some();
    let listening = Listening {
        listener,
        router,
        tls,
        connections: config.connections,
        times: config.times,
    };
    let listening = api_listener::listen(listening, context.tasks.clone());
    context
        .tasks
        .spawn("grpc-listener", TaskKind::Essential, listening);
    match key_file.as_deref().map(Path::display) {
        Some(file) => {
            tracing::info!(%address, tls = is_tls, key_file = %file, service = name, "gRPC listens")
        }
        None => tracing::info!(%address, tls = is_tls, service = name, "gRPC listens"),
    }
    if !address.ip().is_loopback() && !is_tls {
        tracing::warn!(%address, service = name, "gRPC speaks plain HTTP/2: whoever can read the network can read its key and all it tells");
    }
    Ok(GrpcRunning {
        address,
        tls: is_tls,
        key_file,
    })
}

fn router<S>(grpc: Grpc<'_, S>, keys: Option<Keys>) -> (Router, HealthReporter)
where
    S: Served,
    S::Future: Send + 'static,
{
    let keys = keys.map(Arc::new);
    let metrics = grpc.metrics;
    let guarded = InterceptedService::new(grpc.service, move |request: Request<()>| {
        let Some(keys) = &keys else {
            // The handshake has asked for a certificate.
            return Ok(request);
        };
        let headers = request.metadata().clone().into_headers();
        match keys.given(&headers) {
            Some(_) => Ok(request),
            None => {
                metrics.unauthorized.inc();
                Err(Status::unauthenticated(
                    "no key that is accepted: authorization: apikey KEY",
                ))
            }
        }
    });
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut routes = Routes::new(guarded).add_service(health);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(grpc.descriptors)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1();
    match reflection {
        Ok(reflection) => routes = routes.add_service(reflection),
        // Its descriptors are part of the program, and a test asks for them.
        Err(error) => tracing::error!(%error, "no gRPC reflection"),
    }
    let router = routes
        .prepare()
        .into_axum_router()
        .fallback(async || Status::unimplemented("no such method").into_http::<Body>());
    (router, reporter)
}

/// Tells by `grpc.health.v1.Health` whether the component is ready.
async fn tell_health(
    reporter: HealthReporter,
    name: &'static str,
    component: &'static str,
    context: Context,
) {
    let stop = context.tasks.stop_token();
    loop {
        let report = context.health.report();
        let is_ready = !report.stopping
            && (report.components.iter()).any(|known| known.name == component && known.not_ready.is_none());
        let status = match is_ready {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        // Without a name the whole server is meant.
        for service in ["", name] {
            reporter.set_service_status(service, status).await;
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(HEALTH))
            .await
            .is_none()
        {
            return;
        }
    }
}
