//! Why the service does not start.

use switchboard_bus::BusError;
use switchboard_bus::membership::MembershipError;
use switchboard_database::config::FolderError;
use switchboard_service_kit::admin::BindError;
use switchboard_service_kit::grpc::GrpcError;

use crate::sending::ProviderError;

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bus did not take the subscription to beats.
    #[error("notify service cannot join the bus: see that the bus of section [bus] can be reached")]
    Join(#[source] MembershipError),
    /// The bus cannot be used.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The URL of the database is none. It is not repeated, for it may hold a password.
    #[error("notify.postgres.url cannot be read: {0}; write postgres://user@host:port/database")]
    Url(String),
    /// The folder of the file.
    #[error("{0} (notify.sqlite.path)")]
    Folder(#[from] FolderError),
    /// A provider's settings.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// See [`BindError`].
    #[error(transparent)]
    Bind(#[from] BindError),
    /// See [`GrpcError`].
    #[error(transparent)]
    Grpc(#[from] GrpcError),
}
