//! Who may not come, or not speak, and which tokens count no more. See `docs/moderation.md`.
//!
//! Acts are kept by the message store, in a log whose numbers have no gaps; a gateway keeps what is in force in memory, follows the
//! log, and carries out what each entry says on the sessions that it has.
//!
//! | module | what |
//! | --- | --- |
//! | `state` | what is in force |
//! | `follow` | being as far as the log |
//! | `judge` | who is refused |
//! | `carry_out` | who has to go |
//! | `config` | the section of the configuration |
//!
//! What must hold, each with a test in `run/tests/moderation.rs`:
//! * A session either begins after an act is known here, and is refused, or is found when it is carried out.
//! * An act is carried out in the time of a question to the store after this gateway was told of it, and within
//!   `gateway.moderation.interval` of that where it was not told.
//! * What there is no room for is asked of the store, and nobody is let in, or heard, by a store that does not answer.

mod carry_out;
mod config;
mod follow;
mod judge;
mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use switchboard_bus::Bus;
use switchboard_service_kit::metrics::Metrics;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub use self::config::ModerationConfig;
pub(crate) use self::follow::follow;
pub(crate) use self::judge::Refused;
use self::state::State;

/// How far this gateway is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The store was not read yet.
    Unknown,
    /// There is no store, and so nothing is in force.
    NoStore,
    /// All entries of the log up to this one are known here, and carried out.
    UpTo(u64),
}

/// See the module. No call waits for more than a lock, unless it says so.
pub(crate) struct Moderation {
    config: ModerationConfig,
    bus: Arc<dyn Bus>,
    state: RwLock<State>,
    /// Something may be in force that concerns what users say.
    restricts_speech: AtomicBool,
    standing: watch::Sender<Standing>,
    /// The log has to be looked at now.
    wanted: Notify,
    begun: Instant,
    metrics: ModerationMetrics,
}

/// Handles; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct ModerationMetrics {
    entries: Gauge,
    number: Gauge,
    carried_out: Counter,
    loads: Counter,
    failures: Counter,
    not_kept: Counter,
    asked: Counter,
    refused_connects: Counter,
    refused_speech: Counter,
    closed: Counter,
}

impl ModerationMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let these = Self::default();
        metrics.register("gateway_moderation", |registry| {
            let mut gauge = |name, help, gauge: &Gauge| registry.register(name, help, gauge.clone());
            gauge(
                "restrictions",
                "Restrictions that are kept in memory",
                &these.entries,
            );
            gauge(
                "number",
                "The entry of the audit log up to which all is carried out",
                &these.number,
            );
            let mut counter = |name, help, counter: &Counter| registry.register(name, help, counter.clone());
            counter(
                "acts",
                "Entries of the audit log that were carried out",
                &these.carried_out,
            );
            counter(
                "loads",
                "Times that all restrictions were read: at the start, and after the store had gone back",
                &these.loads,
            );
            counter(
                "failures",
                "Times that the store did not say what is new",
                &these.failures,
            );
            counter(
                "not_kept",
                "Restrictions that found no room in memory (gateway.moderation.restrictions)",
                &these.not_kept,
            );
            counter(
                "asked",
                "Times that the store was asked about somebody, because not all restrictions are in memory",
                &these.asked,
            );
            counter(
                "refused_connects",
                "Connects and refreshes of blocked users or with revoked tokens",
                &these.refused_connects,
            );
            counter(
                "refused_speech",
                "What muted or blocked users wanted to say",
                &these.refused_speech,
            );
            counter(
                "ended",
                "Connections and subscriptions that were ended by an act",
                &these.closed,
            );
        });
        these
    }
}

impl Moderation {
    pub(crate) fn new(config: ModerationConfig, bus: Arc<dyn Bus>, metrics: ModerationMetrics) -> Arc<Self> {
        Arc::new(Self {
            state: RwLock::new(State::new(config.restrictions)),
            config,
            bus,
            restricts_speech: AtomicBool::new(false),
            standing: watch::Sender::new(Standing::Unknown),
            wanted: Notify::new(),
            begun: Instant::now(),
            metrics,
        })
    }

    /// The log may have grown: it is looked at now.
    pub(crate) fn look(&self) {
        self.wanted.notify_one();
    }

    /// Waits until all entries up to `number` are carried out here, `within` this time at most. `false`: they are not. Cancel safe.
    pub(crate) async fn caught_up(&self, number: u64, within: Duration) -> bool {
        let mut standing = self.standing.subscribe();
        self.look();
        let is_there = standing.wait_for(|standing| match standing {
            Standing::UpTo(known) => *known >= number,
            Standing::Unknown | Standing::NoStore => false,
        });
        matches!(tokio::time::timeout(within, is_there).await, Ok(Ok(_)))
    }

    /// What the state says of it, with what follows from that.
    fn changed(&self, state: &State) {
        self.restricts_speech
            .store(state.restricts_speech(), Ordering::Release);
        self.metrics.entries.set(size(state.len()));
    }
}

fn size(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
