//! What all sessions of a gateway share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Tokens;
use crate::config::Config;
use crate::links::Links;
use crate::metrics::GatewayMetrics;
use crate::session::{Encoding, Limits, SessionHandle};

/// See the module.
pub(crate) struct Gateway {
    pub(crate) config: Config,
    pub(crate) tokens: Tokens,
    pub(crate) links: Links,
    pub(crate) metrics: GatewayMetrics,
    /// Cancelled when the gateway begins to stop.
    pub(crate) stop: CancellationToken,
    /// One permit for each WebSocket.
    pub(crate) slots: Arc<Semaphore>,
    /// Holds a token of each session: empty when all have ended.
    pub(crate) sessions: TaskTracker,
    last_session: AtomicU64,
}

impl Gateway {
    pub(crate) fn new(
        config: Config,
        tokens: Tokens,
        links: Links,
        metrics: GatewayMetrics,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(config.max_connections)),
            config,
            tokens,
            links,
            metrics,
            stop,
            sessions: TaskTracker::new(),
            last_session: AtomicU64::new(0),
        })
    }

    /// A session with an id of its own.
    pub(crate) fn new_session(&self, encoding: Encoding) -> Arc<SessionHandle> {
        let id = self.last_session.fetch_add(1, Ordering::Relaxed) + 1;
        let limits = Limits {
            outgoing: self.config.outgoing_queue,
            channels: self.config.channels_per_connection,
        };
        SessionHandle::new(id, encoding, limits)
    }
}
