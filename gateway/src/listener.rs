//! Accepts clients and speaks HTTP with them until they are upgraded or done.
//!
//! A connection costs more with each step, so whatever can refuse it comes before what is dear: its
//! address (from the PROXY protocol, where that is on), what that address may still have, the TLS
//! handshake, and only then a request.

use std::convert::Infallible;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::admission::{Refusal, Sender};
use crate::gateway::Gateway;
use crate::metrics::{Counted, Refused};
use crate::proxy_protocol::{self, Source};
use switchboard_service_kit::tls::Tls;

/// What a connection gets to take its refusal in.
const REFUSAL_LIFE: Duration = Duration::from_secs(2);

/// What a connection that is not a WebSocket gets to end in when the gateway stops.
const HTTP_STOP: Duration = Duration::from_secs(1);

/// Between two tries to accept while the process is out of file descriptors or the like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What connections are served with.
pub(crate) struct Door {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) router: Router,
    /// `None`: plain HTTP.
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) stop: CancellationToken,
}

/// Serves until the door's `stop`; connections end by themselves then, as tasks of `tasks`. At most
/// `gateway.http_connections` that are not upgraded are served; more wait in the kernel's queue.
pub(crate) async fn listen(listener: TcpListener, door: Door, tasks: Tasks) {
    let slots = Arc::new(Semaphore::new(door.gateway.config.http_connections));
    let door = Arc::new(door);
    let accepting = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let door = Arc::clone(&door);
                    tasks.spawn("http-connection", TaskKind::Replaceable, async move {
                        let _slot = slot;
                        let _counted = Counted::new(&door.gateway.metrics.http_connections);
                        door.connection(stream, peer).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client; is the limit of open files (ulimit -n) too low?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    door.stop.run_until_cancelled(accepting).await;
}

impl Door {
    async fn connection(&self, mut stream: TcpStream, peer: SocketAddr) {
        // Small frames must not wait for each other's acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "client is gone already");
            return;
        }
        let admission = &self.gateway.admission;
        let limits = &self.gateway.config.limits;
        let deadline = Instant::now() + limits.handshake_timeout;
        let Some(sender) = self.sender(&mut stream, peer.ip().to_canonical(), deadline).await else {
            return;
        };
        let _slot = match admission.accepted(sender) {
            Ok(slot) => slot,
            Err(refusal) => {
                admission.refused(sender, refusal.reason, &refusal.why);
                // Behind a handshake an answer would cost what is to be saved, and whoever holds more than its
                // part of the connections gets no more of them, be it to read an answer.
                if self.tls.is_none() && refusal.reason == Refused::AddressRate {
                    self.serve(stream, sender, refusing(refusal), REFUSAL_LIFE).await;
                }
                return;
            }
        };
        let Some(tls) = &self.tls else {
            self.serve(stream, sender, self.router.clone(), limits.http_lifetime)
                .await;
            return;
        };
        let handshake = timeout_at(deadline, tls.acceptor().accept(stream));
        let refuse = |why: &dyn Display| admission.refused(sender, Refused::TlsHandshake, why);
        match self.stop.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => {
                let served = self.serve(stream, sender, self.router.clone(), limits.http_lifetime);
                Box::pin(served).await;
            }
            Some(Ok(Err(error))) => refuse(&format_args!("TLS handshake failed: {error}")),
            Some(Err(_)) => refuse(&"TLS handshake took longer than gateway.limits.handshake_timeout"),
            None => {}
        }
    }

    /// Whose connection it is; `None` where that should be said and is not.
    async fn sender(&self, stream: &mut TcpStream, peer: IpAddr, deadline: Instant) -> Option<IpAddr> {
        let admission = &self.gateway.admission;
        if !admission.proxies.expects_header(peer) {
            return Some(peer);
        }
        let reading = timeout_at(deadline, proxy_protocol::read(stream));
        let refuse = |why: &dyn Display| admission.refused(peer, Refused::ProxyHeader, why);
        match self.stop.run_until_cancelled(reading).await? {
            Ok(Ok(Source::Client(address))) => return Some(address),
            Ok(Ok(Source::Proxy)) => return Some(peer),
            Ok(Err(error)) => refuse(&error),
            Err(_) => refuse(&"PROXY header took longer than gateway.limits.handshake_timeout"),
        }
        None
    }

    /// Speaks HTTP, for `lifetime` at most. One that does not read what it asked for must not keep its
    /// place for ever.
    async fn serve<S>(&self, stream: S, sender: IpAddr, router: Router, lifetime: Duration)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let asked = AtomicBool::new(false);
        let router = TowerToHyperService::new(router);
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(Sender(sender));
            let answer = router.call(request);
            async move { Ok::<Response, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
        });
        let serving = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.gateway.config.limits.handshake_timeout)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(serving);
        let served = tokio::select! {
            served = timeout(lifetime, serving.as_mut()) => served,
            () = self.stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                timeout(HTTP_STOP, serving).await
            }
        };
        let admission = &self.gateway.admission;
        match served {
            Ok(Ok(())) => {}
            // Between two requests a connection just idles.
            Ok(Err(error)) if error.is_timeout() && !asked.load(Ordering::Relaxed) => {
                let why = "no request within gateway.limits.handshake_timeout";
                admission.refused(sender, Refused::HeadTimeout, &why);
            }
            Ok(Err(error)) => tracing::debug!(%sender, %error, "HTTP connection failed"),
            Err(_) if self.stop.is_cancelled() => {}
            Err(_) => {
                let why = "not a WebSocket within gateway.limits.http_lifetime";
                admission.refused(sender, Refused::HttpLifetime, &why);
            }
        }
    }
}

/// Answers whatever is asked with a refusal, once.
fn refusing(refusal: Refusal) -> Router {
    let Refusal { status, why, .. } = refusal;
    let close = [(axum::http::header::CONNECTION, "close")];
    Router::new().fallback(async move || (status, close, why))
}
