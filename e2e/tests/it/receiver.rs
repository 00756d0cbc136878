//! A server of an application that receives webhooks: it keeps what it was sent, and answers as it is told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::Value;

/// One webhook.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// `webhook-id`: the same when it is sent again.
    pub(crate) id: String,
    pub(crate) body: Value,
}

#[derive(Debug)]
struct Kept {
    received: Mutex<Vec<Received>>,
    answer: AtomicU16,
}

/// See the module. It ends with its runtime.
pub(crate) struct Receiver {
    address: SocketAddr,
    kept: Arc<Kept>,
}

async fn take(State(kept): State<Arc<Kept>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let answer = StatusCode::from_u16(kept.answer.load(Ordering::Relaxed)).unwrap_or_default();
    let is_signed = header("webhook-signature").starts_with("v1,") && !header("webhook-timestamp").is_empty();
    if !is_signed {
        return StatusCode::UNAUTHORIZED;
    }
    if answer.is_success() {
        kept.received.lock().push(Received {
            id: header("webhook-id"),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        });
    }
    answer
}

impl Receiver {
    pub(crate) async fn start() -> Result<Self> {
        let kept = Arc::new(Kept {
            received: Mutex::default(),
            answer: AtomicU16::new(204),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr().context("no address")?;
        let router = Router::new()
            .route("/hook", post(take))
            .with_state(Arc::clone(&kept));
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, kept })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// The status of what comes from now on.
    pub(crate) fn answer(&self, status: u16) {
        self.kept.answer.store(status, Ordering::Relaxed);
    }

    /// What was taken with success.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.kept.received.lock().clone()
    }

    /// How often each webhook was taken, by its id.
    pub(crate) fn times(&self) -> HashMap<String, usize> {
        let mut times = HashMap::new();
        for received in self.kept.received.lock().iter() {
            *times.entry(received.id.clone()).or_default() += 1;
        }
        times
    }
}
