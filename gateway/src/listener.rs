//! Accepts clients and speaks HTTP with them until they are upgraded or done.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::upgrade::Peer;

/// Until a request's head is there; also what a connection may idle between two requests.
const HEADER_READ_TIME: Duration = Duration::from_secs(10);

/// What a connection gets that is not a WebSocket by then. One that does not read what it asked for
/// must not keep its place for ever.
const HTTP_LIFE: Duration = Duration::from_secs(60);

/// What such a connection gets to end in when the gateway stops.
const HTTP_STOP: Duration = Duration::from_secs(1);

/// Between two tries to accept while the process is out of file descriptors or the like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `stop`; connections end by themselves then, as tasks of `tasks`. At most
/// `limit` connections that are not upgraded are served; more wait in the kernel's queue.
pub(crate) async fn listen(
    listener: TcpListener,
    router: Router,
    limit: usize,
    tasks: Tasks,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limit));
    let accepting = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let connection = connection(stream, peer, router.clone(), stop.clone());
                    tasks.spawn("http-connection", TaskKind::Replaceable, async move {
                        let _slot = slot;
                        connection.await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client; is the limit of open files (ulimit -n) too low?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, stop: CancellationToken) {
    // Small frames must not wait for each other's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "client is gone already");
        return;
    }
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        let answer = router.call(request);
        async move { Ok::<Response, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIME)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(serving);
    let served = tokio::select! {
        served = tokio::time::timeout(HTTP_LIFE, serving.as_mut()) => served,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(HTTP_STOP, serving).await
        }
    };
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "HTTP connection failed"),
        Err(_) => tracing::debug!(%peer, "HTTP connection ended, its time is over"),
    }
}
