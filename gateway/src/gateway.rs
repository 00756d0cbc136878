//! What all sessions of a gateway share.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use switchboard_registry::Announcer;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::api::Gateways;
use crate::auth::Tokens;
use crate::config::Config;
use crate::conversations::{Memberships, Receipts};
use crate::limited_log::LimitedLog;
use crate::limits::users::Users;
use crate::links::Links;
use crate::metrics::GatewayMetrics;
use crate::moderation::Moderation;
use crate::presence::Presence;
use crate::session::{Encoding, Limits, SessionHandle};
use crate::sessions::Sessions;
use crate::typing::{Typing, TypingMetrics};

/// See the module.
pub(crate) struct Gateway {
    pub(crate) config: Config,
    pub(crate) tokens: Tokens,
    pub(crate) links: Links,
    /// By which all gateways are asked about their sessions.
    pub(crate) gateways: Arc<Gateways>,
    /// Who is a member of which channel.
    pub(crate) memberships: Arc<Memberships>,
    /// Up to where users have read.
    pub(crate) receipts: Receipts,
    /// Who may not come or speak, and which tokens count no more.
    pub(crate) moderation: Arc<Moderation>,
    /// Who is here.
    pub(crate) presence: Arc<Presence>,
    /// Who is typing where, of those who are connected here.
    pub(crate) typing: Typing,
    /// By which the other gateways know of sessions.
    pub(crate) announcer: Announcer,
    pub(crate) metrics: GatewayMetrics,
    /// Cancelled when the gateway begins to stop.
    pub(crate) stop: CancellationToken,
    /// Who gets a connection.
    pub(crate) admission: Arc<Admission>,
    /// Places of questions about history that owners are asked.
    pub(crate) questions: Arc<Semaphore>,
    /// Places of rpcs, most of which ask the message store: one that hangs holds up no history that owners know.
    pub(crate) rpcs: Arc<Semaphore>,
    /// How many of them one user gets.
    pub(crate) users: Arc<Users>,
    /// Lines about connections that we ended, by the code.
    pub(crate) ends: LimitedLog<u16>,
    /// Who is connected.
    pub(crate) sessions: Arc<Sessions>,
    /// Holds a token of each session: empty when all have ended.
    pub(crate) session_tasks: TaskTracker,
    last_session: AtomicU64,
}

/// What conversations need beside the links.
pub(crate) struct Conversations {
    pub(crate) gateways: Arc<Gateways>,
    pub(crate) memberships: Arc<Memberships>,
    pub(crate) receipts: Receipts,
    pub(crate) moderation: Arc<Moderation>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) typing_metrics: TypingMetrics,
}

impl Gateway {
    pub(crate) fn new(
        config: Config,
        tokens: Tokens,
        links: Links,
        Conversations {
            gateways,
            memberships,
            receipts,
            moderation,
            presence,
            typing_metrics,
        }: Conversations,
        announcer: Announcer,
        metrics: GatewayMetrics,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            admission: Admission::new(&config, metrics.clone()),
            questions: Arc::new(Semaphore::new(config.history_questions)),
            rpcs: Arc::new(Semaphore::new(config.rpc_questions)),
            users: Users::new(config.limits.connections_per_user),
            ends: LimitedLog::new(),
            typing: Typing::new(config.typing, typing_metrics),
            config,
            tokens,
            links,
            gateways,
            memberships,
            receipts,
            moderation,
            presence,
            announcer,
            metrics,
            stop,
            sessions: Arc::default(),
            session_tasks: TaskTracker::new(),
            last_session: AtomicU64::new(0),
        })
    }

    /// A session with an id of its own, of a client at `address`.
    pub(crate) fn new_session(&self, address: IpAddr, encoding: Encoding) -> Arc<SessionHandle> {
        let id = self.last_session.fetch_add(1, Ordering::Relaxed) + 1;
        let limits = Limits {
            outgoing: self.config.outgoing_queue,
            channels: self.config.channels_per_connection,
            system_messages: self.config.system_messages,
        };
        SessionHandle::new(id, address, encoding, limits)
    }
}
