//! Who is here, as far as this gateway knows and asks: it reports its sessions, and who of them is in which channel, to the presence
//! service, passes joins and leaves on to subscribers, and tells sessions what becomes of the users that they watch.
//!
//! Nothing waits for the presence service: without it, connecting, publishing and delivering go on.
//!
//! | module | what |
//! | --- | --- |
//! | `table` | what there is to report |
//! | `reporting` | reports it under a lease, and again where the service lost it |
//! | `joins` | joins and leaves to subscribers |
//! | `watching` | who watches whom, and what each was told; no I/O |
//! | `watches` | keeps what is watched true |

mod joins;
mod reporting;
mod table;
mod watches;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::presence::{ChannelMember, Device};
use switchboard_service_kit::config::Document;
use switchboard_service_kit::metrics::Metrics;
use tokio::sync::Notify;
use uuid::Uuid;

use self::table::Table;
pub(crate) use self::watches::{WatchError, glance, told};
use self::watching::Watching;
use crate::session::SessionHandle;

pub(crate) use self::joins::{info, pass_on};
pub(crate) use self::reporting::Reporting;
pub(crate) use self::watches::keep_true;

/// The section `[gateway.presence]`.
#[derive(Debug, Clone)]
pub struct PresenceConfig {
    /// Users that one connection watches, at most.
    pub watched_per_connection: usize,
    /// Users that are watched by any connection, at most.
    pub watched: usize,
    /// How long a connection's commands are only counted as activity once.
    pub activity_interval: Duration,
}

impl PresenceConfig {
    pub(crate) fn read(document: &mut Document) -> Self {
        let mut section = document.section("gateway.presence");
        let watched_per_connection = section.integer(
            "watched_per_connection",
            500,
            1..=10_000,
            "Users whose status one connection watches, at most; a watch of more is refused with error 106.",
        );
        let watched = section.integer(
            "watched",
            200_000,
            1..=10_000_000,
            "Users that any connection watches, at most; about 300 bytes each. A watch of more is refused with error 106.",
        );
        let activity_interval = section.duration(
            "activity_interval",
            Duration::from_secs(30),
            Duration::from_millis(100)..=Duration::from_secs(3600),
            "How often a connection's commands are reported as activity, at most: keep it well under presence.away_after.",
        );
        let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            watched_per_connection: size(watched_per_connection),
            watched: size(watched),
            activity_interval,
        }
    }
}

/// See the module. No call waits for more than a lock.
pub(crate) struct Presence {
    table: Mutex<Table>,
    /// There is something to report.
    changed: Notify,
    watching: Mutex<Watching>,
    /// What is watched has to be asked for again.
    ask_again: Notify,
    config: PresenceConfig,
    pub(crate) metrics: PresenceMetrics,
}

/// Handles; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct PresenceMetrics {
    reports: Counter,
    failed_reports: Counter,
    leases: Counter,
    joins_passed_on: Counter,
    told: Counter,
    asked_again: Counter,
    watched: Gauge,
}

impl PresenceMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let counts = Self::default();
        metrics.register("gateway_presence", |registry| {
            let mut counter = |name, help, counter: &Counter| registry.register(name, help, counter.clone());
            counter("reports", "Reports to the presence service that it took", &counts.reports);
            counter(
                "failed_reports",
                "Reports that were not answered, and are made again",
                &counts.failed_reports,
            );
            counter(
                "leases",
                "Times that everything was reported anew: at the start, and where the presence service had lost it",
                &counts.leases,
            );
            counter(
                "joins_passed_on",
                "Joins and leaves that were told to subscribers",
                &counts.joins_passed_on,
            );
            counter("told", "Changes of watched users that connections were told", &counts.told);
            counter(
                "asked_again",
                "Times that all watched users were asked for again, because changes may have been missed",
                &counts.asked_again,
            );
            registry.register("watched", "Users that connections watch", counts.watched.clone());
        });
        counts
    }
}

/// What a subscription says of presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Joining {
    /// The connection is seen in the channel.
    pub(crate) is_seen: bool,
    /// It is told who joins and leaves.
    pub(crate) is_told: bool,
}

impl Presence {
    pub(crate) fn new(config: PresenceConfig, metrics: PresenceMetrics) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            changed: Notify::new(),
            watching: Mutex::new(Watching::new(config.watched, config.watched_per_connection)),
            ask_again: Notify::new(),
            config,
            metrics,
        })
    }

    /// A session is connected, for as long as the guard lives.
    pub(crate) fn enter(self: &Arc<Self>, session: &Arc<SessionHandle>, device: Device) -> Here {
        self.table.lock().enter(session, device);
        self.changed.notify_one();
        Here {
            presence: Arc::clone(self),
            client: session.client(),
        }
    }

    /// A session runs on another device than was known. `false`: there is no such session.
    pub(crate) fn set_device(&self, client: Uuid, device: Device) -> bool {
        let is_there = self.table.lock().set_device(client, device);
        self.changed.notify_one();
        is_there
    }

    /// A session's subscription runs.
    pub(crate) fn joined(&self, client: Uuid, channel: &ChannelName, joining: Joining, infos: [Bytes; 2]) {
        if joining == Joining::default() {
            return;
        }
        let [conn_info, chan_info] = infos;
        let member = ChannelMember {
            client: Bytes::copy_from_slice(client.as_bytes()),
            conn_info,
            chan_info,
            ..ChannelMember::default()
        };
        if self.table.lock().joined(client, channel, joining, member) {
            self.changed.notify_one();
        }
    }

    /// It runs no more.
    pub(crate) fn left(&self, client: Uuid, channel: &str) {
        if self.table.lock().left(client, channel) {
            self.changed.notify_one();
        }
    }
}

/// A session's place among those that are reported.
#[must_use = "the session is here as long as this lives"]
pub(crate) struct Here {
    presence: Arc<Presence>,
    client: Uuid,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.presence.table.lock().leave(self.client);
        self.presence.watching.lock().leave(self.client);
        self.presence.changed.notify_one();
    }
}

#[cfg(test)]
mod tests;
