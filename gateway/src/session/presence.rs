//! What a session says of itself to the presence service: that it is here, when it was active, and which channels it is seen in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use switchboard_bus::messages::ask;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::{ConnectRequest, Error, PresenceResult, PresenceStatsResult, Reply};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::presence::{
    ChannelMembersRequest, ChannelMembersResponse, Device, MAX_DEVICE_TEXT, method,
};
use tokio::time::Instant;

use super::SessionHandle;
use super::rpc::told;
use super::subscriptions::By;
use crate::gateway::Gateway;
use crate::policy::CurrentPolicy;
use crate::presence::{Here, Joining, Presence, info};

/// See the module. Knows the gateway's presence from `connect` on.
pub(super) struct Present {
    of: OnceLock<(Arc<Presence>, CurrentPolicy)>,
    begun: Instant,
    /// Milliseconds since `begun`.
    active: AtomicU64,
}

/// What is asked about a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listing {
    Members,
    Counts,
}

impl Present {
    pub(super) fn new() -> Self {
        Self {
            of: OnceLock::new(),
            begun: Instant::now(),
            active: AtomicU64::new(0),
        }
    }
}

impl SessionHandle {
    /// The session is connected, for as long as the guard lives.
    pub(super) fn enter(self: &Arc<Self>, gateway: &Gateway, request: &ConnectRequest) -> Here {
        let presence = &gateway.presence;
        let known = (Arc::clone(presence), gateway.config.policy.clone());
        self.present.of.get_or_init(|| known);
        let cut = |text: &str| text[..text.floor_char_boundary(MAX_DEVICE_TEXT)].to_owned();
        let device = Device {
            name: cut(&request.name),
            app_version: cut(&request.version),
            ..Device::default()
        };
        presence.enter(self, device)
    }

    /// A command came.
    pub(crate) fn note_activity(&self, at: Instant) {
        let since = at.saturating_duration_since(self.present.begun);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.present.active.store(millis, Ordering::Relaxed);
    }

    /// When the last command came.
    pub(crate) fn last_active(&self) -> Instant {
        self.present.begun + Duration::from_millis(self.present.active.load(Ordering::Relaxed))
    }

    /// A subscription runs: who is there sees the session, where that is so in the channel.
    pub(super) fn joined(&self, channel: &ChannelName, by: By) {
        let Some((presence, policy)) = self.present.of.get() else {
            return;
        };
        let rules = policy.now().presence_rules(channel);
        let own = self.leases.overrides(channel);
        let is_told = match by {
            By::Client { hears_joins, .. } => hears_joins,
            By::Server { .. } | By::Backend { .. } => false,
        };
        let is_forced = own.force_push_join_leave.unwrap_or(rules.force_push_join_leave);
        let joining = Joining {
            is_seen: own.presence.unwrap_or(rules.presence) || own.join_leave.unwrap_or(rules.join_leave),
            is_told: is_told || is_forced,
        };
        let sender = self.sender(channel);
        presence.joined(
            self.client,
            channel,
            joining,
            [sender.conn_info, sender.chan_info],
        );
        // It may have been given up meanwhile, by another task.
        if !self.subscriptions.holds(channel) {
            self.left(channel.as_str());
        }
    }

    /// A subscription runs no more.
    pub(super) fn left(&self, channel: &str) {
        if let Some((presence, _)) = self.present.of.get() {
            presence.left(self.client, channel);
        }
    }
}

impl Gateway {
    /// Who is in a channel.
    ///
    /// # Errors
    /// [`ErrorCode::NotAvailable`] where that is not known in the channel; else as the presence service answers.
    pub(crate) async fn channel_members(
        &self,
        channel: &ChannelName,
        arrived: Instant,
    ) -> Result<ChannelMembersResponse, Error> {
        if !self.config.policy.now().presence_rules(channel).presence {
            return Err(ErrorCode::NotAvailable.into());
        }
        let request = ChannelMembersRequest {
            channel: channel.as_str().to_owned(),
        };
        let due = arrived + self.config.answer_timeout;
        let within = due.saturating_duration_since(Instant::now());
        let answer = ask::<method::ChannelMembers>(self.links.bus(), &request, within).await;
        answer.map_err(told)
    }
}

/// The answer to `presence` or `presence_stats`.
///
/// # Errors
/// As clients are told them; [`ErrorCode::LimitExceeded`] where too many are there to be named.
pub(super) async fn list(
    gateway: &Gateway,
    channel: &ChannelName,
    listing: Listing,
    arrived: Instant,
) -> Result<Reply, Error> {
    let found = gateway.channel_members(channel, arrived).await?;
    match listing {
        Listing::Members if found.too_many => Err(ErrorCode::LimitExceeded.into()),
        Listing::Members => {
            let members = found.members.into_iter().map(info);
            let presence = members.map(|info| (info.client.clone(), info)).collect();
            Ok(Reply {
                presence: Some(PresenceResult { presence }),
                ..Reply::default()
            })
        }
        Listing::Counts => {
            let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
            let stats = PresenceStatsResult {
                num_clients: count(found.clients),
                num_users: count(found.users),
            };
            Ok(Reply {
                presence_stats: Some(stats),
                ..Reply::default()
            })
        }
    }
}
