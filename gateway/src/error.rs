//! Why a gateway does not start.

use switchboard_bus::BusError;
use switchboard_bus::membership::MembershipError;
use switchboard_service_kit::admin::BindError;

use crate::api::ApiError;
use crate::auth::JwksError;
use switchboard_service_kit::tls::TlsError;

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address of the configuration cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system does not say where the gateway listens.
    #[error("the address of the gateway's listener is not known")]
    Address(#[source] std::io::Error),
    /// The certificate cannot be used.
    #[error("gateway cannot serve TLS")]
    Tls(#[from] TlsError),
    /// The bus did not take a subscription.
    #[error("gateway cannot listen on the bus: is NATS there?")]
    Bus(#[from] BusError),
    /// See [`ApiError`].
    #[error(transparent)]
    Api(#[from] ApiError),
    /// See [`JwksError`].
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// See [`MembershipError`].
    #[error("gateway cannot join the bus: is NATS there?")]
    Membership(#[from] MembershipError),
}
