//! Why the service does not start.

use switchboard_bus::BusError;
use switchboard_bus::membership::MembershipError;
use switchboard_registry::config::OpenError;
use switchboard_service_kit::grpc::GrpcError;

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bus did not take the subscription to beats.
    #[error("presence service cannot join the bus: see that the bus of section [bus] can be reached")]
    Join(#[source] MembershipError),
    /// The bus did not take another subscription.
    #[error("presence service cannot listen on the bus")]
    Bus(#[source] BusError),
    /// Redis cannot be used as configured.
    #[error("presence service cannot open its store")]
    Store(#[from] OpenError),
    /// It cannot be asked over gRPC.
    #[error(transparent)]
    Grpc(#[from] GrpcError),
}
