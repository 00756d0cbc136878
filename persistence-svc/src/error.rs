//! Why the service does not start.

use switchboard_bus::membership::MembershipError;
use switchboard_service_kit::grpc::GrpcError;

use crate::config::OpenError;
use crate::keeping::archive::ArchiveError;

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bus did not take the subscription to beats.
    #[error("persistence service cannot join the bus: see that the bus of section [bus] can be reached")]
    Join(#[source] MembershipError),
    /// The store's settings are wrong.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// It cannot be asked over gRPC.
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    /// The archive's settings are wrong, or its folder cannot be made.
    #[error("persistence service has no archive (section [persistence.archive])")]
    Archive(#[from] ArchiveError),
}
