//! The endpoint for operators and their machines: is it alive, is it ready, what does it count.
//!
//! Meant for a private address: it asks nobody who they are. One request a connection, at most
//! [`MAX_CONNECTIONS`] at a time; beyond that new ones wait in the kernel's queue. Each connection
//! ends after [`CONNECTION_TIME`] whatever its peer does.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use crate::config::Document;
use crate::health::Health;
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::tasks::{TaskKind, Tasks};

/// Connections served at a time.
pub const MAX_CONNECTIONS: usize = 64;
/// Until a request's head must be there.
pub const HEADER_READ_TIME: Duration = Duration::from_secs(5);
/// A connection's whole life.
pub const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// Between two tries to accept while the process is out of file descriptors or the like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The section `[admin]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where to listen; port 0 means any free one.
    pub listen: SocketAddr,
}

impl AdminConfig {
    /// Reads the section `[admin]`. Services differ in the default, so that they start beside each
    /// other on one machine.
    pub fn read(document: &mut Document, default: SocketAddr) -> Self {
        let help = "Where /health/live, /health/ready and /metrics are served. Keep it private.";
        Self {
            listen: document.section("admin").address("listen", default, help),
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", remedy(key, source.kind()))]
pub struct BindError {
    /// The configuration key.
    pub key: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: std::io::Error,
}

fn remedy(key: &str, kind: ErrorKind) -> String {
    match kind {
        ErrorKind::AddrNotAvailable => {
            format!("this machine has no such address, set {key} to one that it has")
        }
        ErrorKind::PermissionDenied => {
            format!("ports below 1024 are for processes with the right to, set {key} to a higher one")
        }
        _ => format!("end the process that has this address, or set {key} to another"),
    }
}

/// Connections that may wait to be accepted; Linux takes less where `net.core.somaxconn` is lower. With fewer, clients
/// that all come back at one moment are not heard, and try again only a second later.
const BACKLOG: u32 = 4096;

/// Listens on `address`, which the configuration key `key` gave.
///
/// # Errors
/// [`BindError`].
pub async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    listen(address).map_err(|source| BindError { key, address, source })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restart gets its address while connections of before still linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// `/health/live`: 200 while the process runs. `/health/ready`: 200 or 503, with the components as
/// JSON. `/metrics`: OpenMetrics text.
pub fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/health/live", get(async || "alive\n"))
        .route("/health/ready", get(ready).with_state(health))
        .route("/metrics", get(metrics_page).with_state(metrics))
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let report = health.report();
    let components: Vec<_> = report
        .components
        .iter()
        .map(|component| {
            json!({
                "name": component.name,
                "ready": component.not_ready.is_none(),
                "why": component.not_ready,
            })
        })
        .collect();
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({ "ready": report.ready, "stopping": report.stopping, "components": components });
    (status, axum::Json(body))
}

async fn metrics_page(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], metrics.encode())
}

/// Starts to serve `router` on `listener`, and returns. It ends with the stop of `tasks`: give it a
/// [`Tasks::separate`] group, so that it answers while other tasks drain.
///
/// # Panics
/// Outside a Tokio runtime.
pub async fn serve(listener: TcpListener, router: Router, tasks: &Tasks) {
    let stop = tasks.stop_token();
    let connections = tasks.clone();
    tasks.spawn("admin", TaskKind::Essential, async move {
        let accepting = accept(listener, router, connections);
        stop.run_until_cancelled(accepting).await;
    });
}

async fn accept(listener: TcpListener, router: Router, tasks: Tasks) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let stop = tasks.stop_token();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = serve_connection(stream, router.clone());
                let stop = stop.clone();
                tasks.spawn("admin-connection", TaskKind::Replaceable, async move {
                    let _slot = slot;
                    let in_time = tokio::time::timeout(CONNECTION_TIME, connection);
                    if let Some(Err(_)) = stop.run_until_cancelled(in_time).await {
                        tracing::debug!("admin connection took too long");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin endpoint cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIME)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection failed");
    }
}

#[cfg(test)]
mod tests;
