//! Start: opens the store, joins the bus, and takes reports and questions.

use std::path::PathBuf;
use std::sync::Arc;

use switchboard_bus::Bus;
use switchboard_bus::answering::{Answering, AnsweringMetrics, Answers};
use switchboard_bus::membership::{Membership, MembershipSettings};
use switchboard_proto::bus::Role;
use switchboard_proto::ids::Incarnation;
use switchboard_proto::questions;
use switchboard_registry::config::RegistryConfig;
use switchboard_service_kit::grpc::GrpcRunning;
use switchboard_service_kit::service::Context;
use switchboard_service_kit::summary;
use switchboard_service_kit::tasks::TaskKind;
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::error::StartError;
use crate::grpc;
use crate::metrics::PresenceMetrics;
use crate::service::Service;
use crate::store::{MemoryStore, PresenceStore, RedisStore};
use crate::telling::Telling;
use crate::tending::Tending;

/// The service's name in reports of health.
pub(crate) const COMPONENT: &str = "presence";

/// What the service needs of the outside.
#[derive(Clone)]
pub struct Deps {
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// Where who is here is kept: with the registry of sessions.
    pub registry: RegistryConfig,
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

/// Joins the bus as [`Role::Presence`] and answers. A store that cannot be used is no error: the service is not ready until it can.
/// The stop of `context.tasks` makes it leave with a last beat that says so.
///
/// # Errors
/// [`StartError`] where the bus cannot be used, or a setting is wrong.
pub async fn start(config: Config, deps: Deps, context: Context) -> Result<Running, StartError> {
    let health = context.health.component(COMPONENT);
    health.not_ready("the presence store was not reached yet");
    let (store, is_shared): (Arc<dyn PresenceStore>, bool) = match deps.registry.open_link()? {
        None => (Arc::new(MemoryStore::default()), false),
        Some((link, prefix)) => (Arc::new(RedisStore::new(link, &prefix)), true),
    };
    let incarnation = Incarnation::random();
    let metrics = PresenceMetrics::register(&context.metrics);
    let (telling, told) = Telling::new(
        Arc::clone(&deps.bus),
        Arc::clone(&store),
        incarnation,
        metrics.clone(),
    );
    let service = Arc::new(Service {
        store,
        settings: config.settings,
        telling,
        metrics: metrics.clone(),
    });
    let membership = Membership::join(
        Arc::clone(&deps.bus),
        Role::Presence,
        incarnation,
        MembershipSettings::default(),
        &context.tasks.tracker(),
        context.tasks.stop_token(),
    )
    .await
    .map_err(StartError::Join)?;
    let (members, counts) = (membership.clone(), metrics.clone());
    summary::spawn(&context.tasks, "presence", summary::INTERVAL, move || {
        vec![
            ("members", members.members().len() as u64),
            ("reports", counts.reports.get()),
            ("transitions", counts.transitions.get()),
        ]
    });
    let stop = context.tasks.stop_token();
    context
        .tasks
        .spawn("telling", TaskKind::Essential, told.run(stop.clone()));
    let tending = Tending {
        service: Arc::clone(&service),
        membership: membership.clone(),
        me: incarnation,
        every: config.look_interval,
        health,
        is_shared,
    };
    context
        .tasks
        .spawn("tending", TaskKind::Essential, tending.run(stop.clone()));
    let answering = Answering {
        bus: Arc::clone(&deps.bus),
        service: questions::Service::Presence,
        answers: Arc::clone(&service) as Arc<dyn Answers>,
        metrics: AnsweringMetrics::register("presence", &context.metrics),
        places: Arc::new(Semaphore::new(config.questions)),
        limit: config.question_timeout,
    };
    let grpc = match config.grpc {
        Some(grpc) => {
            let watched = grpc::Watched::follow(deps.bus.as_ref(), config.watches, &context.tasks);
            let asked = grpc::Asked {
                service,
                answering: answering.clone(),
                watched: watched.await.map_err(StartError::Bus)?,
            };
            Some(grpc::start(grpc, asked, deps.data.as_deref(), &context).await?)
        }
        None => None,
    };
    context.tasks.supervise("questions", move || {
        let (answering, stop) = (answering.clone(), stop.clone());
        async move {
            if let Err(error) = answering.run(stop).await {
                tracing::warn!(%error, "questions cannot be taken yet");
            }
        }
    });
    tracing::info!(%incarnation, "presence service has joined the bus");
    Ok(Running {
        incarnation,
        membership,
        grpc,
    })
}

#[cfg(test)]
mod tests;
