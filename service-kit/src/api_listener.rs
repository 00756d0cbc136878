//! Connections of backends: HTTP/1.1 and HTTP/2, over TLS or with prior knowledge, told apart by their first bytes.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::tasks::{TaskKind, Tasks};
use crate::tls::Tls;

/// Until a request's head must be there, also the next one's of a connection that is kept.
const HEAD_TIME: Duration = Duration::from_secs(75);

/// Between two pings on an HTTP/2 connection, and until its answer must be there.
const PING: Duration = Duration::from_secs(30);

/// Requests at a time on one HTTP/2 connection.
const STREAMS: u32 = 256;

/// Until a TLS handshake must be done.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a connection gets to end in at the stop.
const STOP: Duration = Duration::from_secs(1);

/// Between two tries to accept while the process is out of file descriptors or the like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is served, and to whom.
pub struct Listening {
    /// Where.
    pub listener: TcpListener,
    /// What answers.
    pub router: Router,
    /// `None`: without TLS.
    pub tls: Option<Arc<Tls>>,
    /// Connections, at most; more wait in the kernel's queue.
    pub connections: usize,
}

/// Serves until `tasks` stop. Not to be dropped before.
pub async fn listen(listening: Listening, tasks: Tasks) {
    let Listening {
        listener,
        router,
        tls,
        connections,
    } = listening;
    let places = Arc::new(Semaphore::new(connections));
    let stop = tasks.stop_token();
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let router = router.clone();
                    let (tls, of_this) = (tls.clone(), tasks.clone());
                    tasks.spawn("api-connection", TaskKind::Replaceable, async move {
                        let _place = place;
                        connection(stream, tls.as_deref(), router, &of_this).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a backend; is the limit of open files (ulimit -n) too low?");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}

async fn connection(stream: TcpStream, tls: Option<&Tls>, router: Router, tasks: &Tasks) {
    stream.set_nodelay(true).ok();
    let Some(tls) = tls else {
        return serve(stream, router, tasks).await;
    };
    let handshake = tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream));
    match tasks.stop_token().run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => serve(stream, router, tasks).await,
        Some(Ok(Err(error))) => tracing::debug!(%error, "TLS handshake of a backend failed"),
        Some(Err(_)) => tracing::debug!("TLS handshake of a backend took too long"),
        None => {}
    }
}

async fn serve<S>(stream: S, router: Router, tasks: &Tasks)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(Tracked(tasks.tracker()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(STREAMS);
    let service = TowerToHyperService::new(router);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let stop = tasks.stop_token();
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(STOP, serving).await {
                Ok(served) => served,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection of a backend failed");
    }
}

/// Spawns where a stop waits for it.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
