//! Why the service does not start.

use switchboard_bus::membership::MembershipError;
use switchboard_registry::config::OpenError;

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bus did not take the subscription to beats.
    #[error("presence service cannot join the bus: see that the bus of section [bus] can be reached")]
    Join(#[source] MembershipError),
    /// Redis cannot be used as configured.
    #[error("presence service cannot open its store")]
    Store(#[from] OpenError),
}
