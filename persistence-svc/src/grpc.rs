//! `MessageService` over gRPC, for backends: the methods that other services ask over the bus, by the same handlers, in the same places
//! and times. Reflection and health stand beside it, and need no key.
//!
//! Who has the key, or a certificate that one of the configured authorities signed, may ask everything of everybody: no user's
//! rights are looked at.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use switchboard_bus::messages::AskError;
use switchboard_proto::messages::message_service_server::{MessageService, MessageServiceServer};
use switchboard_proto::messages::{self, Method, method};
use switchboard_service_kit::admin::{self, BindError};
use switchboard_service_kit::api_key::{self, KeyError, Keys};
use switchboard_service_kit::api_listener::{self, Listening};
use switchboard_service_kit::service::Context;
use switchboard_service_kit::tasks::TaskKind;
use switchboard_service_kit::tls::{Tls, TlsError};
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::answering::Answering;
use crate::config::GrpcConfig;
use crate::service::{Service, each_method};

/// Where a key that was made here stands in the data folder.
const KEY_FILE: &str = "persistence-key";

/// How often the health that is told is looked at.
const HEALTH: Duration = Duration::from_millis(500);

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
        "persistence.grpc is enabled, and nobody has to prove anything: set persistence.grpc.key, or \
         persistence.grpc.tls.client_ca_file"
    )]
    Open,
}

/// Listens, until the context's tasks are stopped. `data`: where a key may be kept; `None`: in a cluster.
///
/// # Errors
/// [`GrpcError`].
pub(crate) async fn start(
    config: GrpcConfig,
    answering: Answering,
    data: Option<&Path>,
    context: &Context,
) -> Result<GrpcRunning, GrpcError> {
    let by_certificate = config.tls.as_ref().is_some_and(|tls| tls.is_mutual());
    let (keys, key_file) = match (&*config.keys, data) {
        ([], _) if by_certificate => (None, None),
        ([], None) => return Err(GrpcError::Open),
        ([], Some(folder)) => {
            let (key, file) = api_key::kept_in(folder, KEY_FILE)?;
            (Some(Keys::new(&[key])), Some(file))
        }
        (keys, _) => (Some(Keys::new(keys)), None),
    };
    let tls = match config.tls {
        Some(tls) => {
            let (tls, seen) = Tls::load(tls).await?;
            let metrics = answering.metrics.clone();
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
    let listener = admin::bind("persistence.grpc.listen", config.listen).await?;
    let address = listener.local_addr().map_err(GrpcError::Address)?;
    let (router, reporter) = router(answering, keys, config.request_size);
    context.tasks.spawn(
        "grpc-health",
        TaskKind::Essential,
        tell_health(reporter, context.clone()),
    );
    let is_tls = tls.is_some();
    let listening = Listening {
        listener,
        router,
        tls,
        connections: config.connections,
    };
    let listening = api_listener::listen(listening, context.tasks.clone());
    context
        .tasks
        .spawn("grpc-listener", TaskKind::Essential, listening);
    match key_file.as_deref().map(Path::display) {
        Some(file) => tracing::info!(%address, tls = is_tls, key_file = %file, "MessageService listens"),
        None => tracing::info!(%address, tls = is_tls, "MessageService listens"),
    }
    if !address.ip().is_loopback() && !is_tls {
        tracing::warn!(%address, "MessageService speaks plain HTTP/2: whoever can read the network can read its key and all messages");
    }
    Ok(GrpcRunning {
        address,
        tls: is_tls,
        key_file,
    })
}

fn router(answering: Answering, keys: Option<Keys>, request_size: usize) -> (Router, HealthReporter) {
    let keys = keys.map(Arc::new);
    let metrics = answering.metrics.clone();
    let service = MessageServiceServer::new(Grpc(answering)).max_decoding_message_size(request_size);
    let guarded = InterceptedService::new(service, move |request: Request<()>| {
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
        .register_encoded_file_descriptor_set(messages::DESCRIPTORS)
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

/// Tells by `grpc.health.v1.Health` whether the store can be used.
async fn tell_health(reporter: HealthReporter, context: Context) {
    let stop = context.tasks.stop_token();
    loop {
        let report = context.health.report();
        let is_ready = !report.stopping
            && report
                .components
                .iter()
                .any(|component| component.name == crate::run::COMPONENT && component.not_ready.is_none());
        let status = match is_ready {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        // Without a name the whole server is meant.
        for service in ["", messages::SERVICE] {
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

struct Grpc(Answering);

impl Grpc {
    fn service(&self) -> Result<&Service, Status> {
        let service = self.0.service.as_deref();
        service.ok_or_else(|| {
            status(AskError::NotAvailable(
                "nothing is stored here (persistence.store)".to_owned(),
            ))
        })
    }

    /// Waits for an answer, in a place and within the time that a question over the bus has.
    async fn answered<T>(
        &self,
        answer: impl Future<Output = Result<T, AskError>>,
    ) -> Result<Response<T>, Status> {
        let metrics = &self.0.metrics;
        let Ok(_place) = self.0.places.try_acquire() else {
            metrics.refused_questions.inc();
            return Err(Status::resource_exhausted(
                "too many questions are at work (persistence.questions)",
            ));
        };
        metrics.questions.inc();
        let answer = match tokio::time::timeout(self.0.limit, answer).await {
            Ok(answer) => answer.map_err(status),
            Err(_) => Err(Status::deadline_exceeded(
                "it took too long (persistence.question_timeout)",
            )),
        };
        if answer.is_err() {
            metrics.unanswered_questions.inc();
        }
        answer.map(Response::new)
    }
}

macro_rules! over_grpc {
    ($($method:ident => $answer:ident,)*) => {
        #[tonic::async_trait]
        impl MessageService for Grpc {
            $(async fn $answer(
                &self,
                request: Request<<method::$method as Method>::Request>,
            ) -> Result<Response<<method::$method as Method>::Response>, Status> {
                self.answered(self.service()?.$answer(request.into_inner())).await
            })*
        }
    };
}
each_method!(over_grpc);

fn status(error: AskError) -> Status {
    match error {
        AskError::Invalid(words) => Status::invalid_argument(words),
        AskError::NotFound(words) => Status::not_found(words),
        AskError::Unavailable(words) => Status::unavailable(words),
        AskError::Denied(words) => Status::permission_denied(words),
        AskError::NotAvailable(words) => Status::unimplemented(words),
        AskError::Internal(words) => Status::internal(words),
    }
}

#[cfg(test)]
mod tests;
