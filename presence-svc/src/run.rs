//! Start: joins the bus, is seen there, and says how it is doing.

use std::sync::Arc;

use switchboard_bus::Bus;
use switchboard_bus::membership::{Membership, MembershipSettings};
use switchboard_proto::bus::Role;
use switchboard_proto::ids::Incarnation;
use switchboard_service_kit::service::Context;
use switchboard_service_kit::summary;

use crate::config::Config;
use crate::error::StartError;

/// What the service needs of the outside.
#[derive(Clone)]
pub struct Deps {
    /// The bus.
    pub bus: Arc<dyn Bus>,
}

/// A service that runs until its context's tasks are stopped. It listens on no address.
#[derive(Debug, Clone)]
pub struct Running {
    /// This life of the service.
    pub incarnation: Incarnation,
    /// Who is on the bus, as this service sees it.
    pub membership: Membership,
}

/// Joins the bus as [`Role::Presence`] and reports ready. The stop of `context.tasks` makes it leave
/// with a last beat that says so.
///
/// # Errors
/// [`StartError`] where the bus cannot be used.
pub async fn start(_config: Config, deps: Deps, context: Context) -> Result<Running, StartError> {
    let health = context.health.component("presence");
    let incarnation = Incarnation::random();
    let membership = Membership::join(
        deps.bus,
        Role::Presence,
        incarnation,
        MembershipSettings::default(),
        &context.tasks.tracker(),
        context.tasks.stop_token(),
    )
    .await
    .map_err(StartError::Join)?;
    let members = membership.clone();
    summary::spawn(&context.tasks, "presence", summary::INTERVAL, move || {
        vec![("members", members.members().len() as u64)]
    });
    health.ready();
    tracing::info!(%incarnation, "presence service has joined the bus");
    Ok(Running {
        incarnation,
        membership,
    })
}

#[cfg(test)]
mod tests;
