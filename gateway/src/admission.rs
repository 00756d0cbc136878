//! Whether a connection is let in: by the address of its client, and by how many there are already.
//!
//! It is asked twice. When a connection is accepted, nothing has been spent on it yet, and an address
//! that comes too quickly or holds too much is turned away for next to nothing. When a request asks
//! for a WebSocket, the client behind a trusted proxy is known too.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::client_address::Proxies;
use crate::config::Config;
use crate::limited_log::LimitedLog;
use crate::limits::addresses::{AddressSlot, Addresses, Kind};
use crate::metrics::{GatewayMetrics, Refused};

/// Whose connection it is, as an extension of its requests: a client, or a trusted proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender(pub(crate) IpAddr);

/// Why a connection is not let in, in words for whoever opened it and for the operator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal {
    pub(crate) reason: Refused,
    pub(crate) status: StatusCode,
    pub(crate) why: &'static str,
}

/// See the module.
pub(crate) struct Admission {
    pub(crate) proxies: Proxies,
    addresses: Arc<Addresses>,
    /// One permit for each WebSocket.
    websockets: Arc<Semaphore>,
    metrics: GatewayMetrics,
    log: LimitedLog<Refused>,
}

/// A WebSocket that counts for the gateway and for its address.
#[must_use = "the connection is counted as long as this lives"]
pub(crate) struct WebSocketSlot {
    _all: OwnedSemaphorePermit,
    _address: AddressSlot,
}

impl Admission {
    pub(crate) fn new(config: &Config, metrics: GatewayMetrics) -> Arc<Self> {
        Arc::new(Self {
            proxies: config.proxies.clone(),
            addresses: Addresses::new(&config.limits),
            websockets: Arc::new(Semaphore::new(config.max_connections)),
            metrics,
            log: LimitedLog::new(),
        })
    }

    /// A connection was accepted from `sender`. A trusted proxy may open as many as it likes, and
    /// gets no slot.
    ///
    /// # Errors
    /// [`Refusal`], which has not been noted yet.
    pub(crate) fn accepted(&self, sender: IpAddr) -> Result<Option<AddressSlot>, Refusal> {
        if self.proxies.trusts(sender) {
            return Ok(None);
        }
        self.arrives(sender)?;
        match self.addresses.take(sender, Kind::Http) {
            Some(slot) => Ok(Some(slot)),
            None => Err(Refusal {
                reason: Refused::HttpAddressLimit,
                status: StatusCode::TOO_MANY_REQUESTS,
                why: "too many connections of this address that are not WebSockets; see \
                      gateway.limits.http_connections_per_address",
            }),
        }
    }

    /// The client whose request came from `sender` with these headers.
    pub(crate) fn client(&self, sender: IpAddr, headers: &HeaderMap) -> IpAddr {
        self.proxies.client(sender, headers)
    }

    /// `client`, whose request came from `sender`, asks for a WebSocket.
    ///
    /// # Errors
    /// [`Refusal`], which has not been noted yet.
    pub(crate) fn websocket(&self, sender: IpAddr, client: IpAddr) -> Result<WebSocketSlot, Refusal> {
        if self.proxies.trusts(sender) {
            self.arrives(client)?;
        }
        let Some(address) = self.addresses.take(client, Kind::WebSocket) else {
            return Err(Refusal {
                reason: Refused::AddressLimit,
                status: StatusCode::TOO_MANY_REQUESTS,
                why: "too many connections of this address; see gateway.limits.connections_per_address, and \
                      gateway.proxies if it is a proxy's",
            });
        };
        match Arc::clone(&self.websockets).try_acquire_owned() {
            Ok(permit) => Ok(WebSocketSlot {
                _all: permit,
                _address: address,
            }),
            Err(_) => Err(Refusal {
                reason: Refused::Limit,
                status: StatusCode::SERVICE_UNAVAILABLE,
                why: "too many connections; see gateway.max_connections",
            }),
        }
    }

    fn arrives(&self, address: IpAddr) -> Result<(), Refusal> {
        if self.addresses.arrives(address, Instant::now()) {
            return Ok(());
        }
        Err(Refusal {
            reason: Refused::AddressRate,
            status: StatusCode::TOO_MANY_REQUESTS,
            why: "too many new connections of this address; see gateway.limits.connect_rate, and gateway.proxies if \
                  it is a proxy's",
        })
    }

    /// Counts a connection that was not let in, and says so in the log, unless that has just been
    /// said.
    pub(crate) fn refused(&self, address: IpAddr, reason: Refused, why: &dyn Display) {
        self.metrics.refused(reason);
        if let Some(left_out) = self.log.may_write(reason, Instant::now()) {
            tracing::info!(%address, reason = reason.as_str(), %why, left_out, "connection refused");
        }
    }
}
