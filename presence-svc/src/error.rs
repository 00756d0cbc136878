//! Why the service does not start.

use switchboard_bus::membership::MembershipError;

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bus did not take the subscription to beats.
    #[error("presence service cannot join the bus: see that the bus of section [bus] can be reached")]
    Join(#[source] MembershipError),
}
