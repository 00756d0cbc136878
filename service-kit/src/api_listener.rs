//! Connections of backends: HTTP/1.1 and HTTP/2, over TLS or with prior knowledge, told apart by their first bytes. One on which nothing
//! is asked gives its place back.

mod activity;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::rt::Executor;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use self::activity::{Activity, Asked, Heard};
use crate::config::Section;
use crate::tasks::{TaskKind, Tasks};
use crate::tls::Tls;

/// Until a request's head must be there, also the next one's of a connection that is kept.
const HEAD_TIME: Duration = Duration::from_secs(75);

/// Between two pings on an HTTP/2 connection, and until its answer must be there.
const PING: Duration = Duration::from_secs(30);

/// Requests at a time on one HTTP/2 connection.
const STREAMS: u32 = 256;

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
    /// How long a connection keeps its place and asks nothing.
    pub times: Times,
}

/// How long a connection may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Until its TLS handshake must be done, and from then on until it has said what it speaks.
    pub handshake: Duration,
    /// Without a request, however well it answers pings.
    pub idle: Duration,
}

impl Times {
    /// Reads both out of the section of a listener.
    pub fn read(section: &mut Section<'_>) -> Self {
        Self {
            handshake: section.duration(
                "handshake_timeout",
                Duration::from_secs(10),
                Duration::from_millis(100)..=Duration::from_secs(600),
                "Until a new connection must have done its TLS handshake, and from then on until it must have begun to ask.",
            ),
            idle: section.duration(
                "idle_timeout",
                Duration::from_secs(300),
                Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60),
                "A connection on which nothing is asked for so long is closed, in an orderly way. A stream that is open is something asked.",
            ),
        }
    }
}

/// Serves until `tasks` stop. Not to be dropped before.
pub async fn listen(listening: Listening, tasks: Tasks) {
    let Listening {
        listener,
        router,
        tls,
        connections,
        times,
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
                        connection(stream, tls.as_deref(), router, times, &of_this).await;
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

async fn connection(stream: TcpStream, tls: Option<&Tls>, router: Router, times: Times, tasks: &Tasks) {
    stream.set_nodelay(true).ok();
    let Some(tls) = tls else {
        return serve(stream, router, times, tasks).await;
    };
    let handshake = tokio::time::timeout(times.handshake, tls.acceptor().accept(stream));
    match tasks.stop_token().run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => serve(stream, router, times, tasks).await,
        Some(Ok(Err(error))) => tracing::debug!(%error, "TLS handshake of a backend failed"),
        Some(Err(_)) => tracing::debug!("TLS handshake of a backend took too long"),
        None => {}
    }
}

async fn serve<S>(stream: S, router: Router, times: Times, tasks: &Tasks)
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
    let activity = Arc::new(Activity::default());
    let router = TowerToHyperService::new(router);
    let of_requests = Arc::clone(&activity);
    let service = service_fn(move |request| {
        let asked = Asked::on(&of_requests);
        let answering = router.call(request);
        async move {
            answering
                .await
                .map(|answer| answer.map(|body| asked.until_told(body)))
        }
    });
    let stream = TokioIo::new(Heard::new(stream, Arc::clone(&activity)));
    let mut serving = pin!(builder.serve_connection(stream, service));
    let stop = tasks.stop_token();
    tokio::select! {
        served = serving.as_mut() => return tell(served),
        () = stop.cancelled() => {}
        () = activity.until_silent(times) => tracing::debug!("a backend asks nothing on its connection"),
    }
    serving.as_mut().graceful_shutdown();
    if let Ok(served) = tokio::time::timeout(STOP, serving).await {
        tell(served);
    }
}

fn tell(served: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
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

#[cfg(test)]
mod tests;
