use axum::body::Body;
use axum::routing::get;
use hyper::body::{Bytes, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

use super::*;
use crate::metrics::Metrics;

/// Longer than any machine takes; a test that waits so long fails.
const LONG: Duration = Duration::from_secs(20);
const NEVER: Duration = Duration::from_secs(3600);

/// Listens with one place.
async fn listening(tasks: &Tasks, router: Router, times: Times) -> std::net::SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let listening = Listening {
        listener,
        router,
        tls: None,
        connections: 1,
        times,
    };
    let listening = listen(listening, tasks.clone());
    tasks.spawn("api-listener", TaskKind::Replaceable, listening);
    address
}

fn greeting() -> Router {
    Router::new().route("/", get(async || "hello"))
}

async fn ask(stream: &mut TcpStream) {
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        .await
        .unwrap();
}

/// Waits for the answer to one request.
async fn is_answered(stream: &mut TcpStream) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let read = tokio::time::timeout(LONG, stream.read_buf(&mut answer)).await;
        assert_ne!(read.expect("no answer").unwrap(), 0, "closed");
    }
}

#[tokio::test]
async fn who_says_nothing_or_too_little_gives_its_place_back() {
    let tasks = Tasks::new(&Metrics::default());
    let times = Times {
        handshake: Duration::from_millis(200),
        idle: NEVER,
    };
    let address = listening(&tasks, greeting(), times).await;
    for said in [&b""[..], b"PRI * HTT"] {
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(said).await.unwrap();
        let mut other = TcpStream::connect(address).await.unwrap();
        ask(&mut other).await;
        is_answered(&mut other).await;
        // It is not the one that has spoken that is silent.
        ask(&mut other).await;
        is_answered(&mut other).await;
    }
}

#[tokio::test]
async fn who_asks_nothing_any_more_gives_its_place_back() {
    let tasks = Tasks::new(&Metrics::default());
    let times = Times {
        handshake: Duration::from_millis(100),
        idle: Duration::from_millis(300),
    };
    let address = listening(&tasks, greeting(), times).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    ask(&mut idle).await;
    is_answered(&mut idle).await;
    // With HTTP/2 pings keep a connection, and its client answers them without asking anything.
    let mut http2 = TcpStream::connect(address).await.unwrap();
    http2
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut other = TcpStream::connect(address).await.unwrap();
    ask(&mut other).await;
    is_answered(&mut other).await;
}

/// Says its word when it is told to.
struct Later(Option<oneshot::Receiver<()>>);

impl hyper::body::Body for Later {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(waiting) = &mut self.0 else {
            return Poll::Ready(None);
        };
        match Pin::new(waiting).poll(context) {
            Poll::Ready(_) => {
                self.0 = None;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"hello")))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(5)
    }
}

#[tokio::test]
async fn answer_that_takes_long_is_told_to_its_end() {
    let tasks = Tasks::new(&Metrics::default());
    let idle = Duration::from_millis(100);
    let times = Times {
        handshake: idle,
        idle,
    };
    let (go_on, waiting) = oneshot::channel();
    let waiting = Arc::new(parking_lot::Mutex::new(Some(waiting)));
    let router = Router::new().route("/", get(async move || Body::new(Later(waiting.lock().take()))));
    let address = listening(&tasks, router, times).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask(&mut stream).await;
    // Many times as long as a silent one is borne.
    tokio::time::sleep(idle * 8).await;
    go_on.send(()).unwrap();
    is_answered(&mut stream).await;
}
