//! Joins and leaves, from the presence service to the subscribers of the channel that are told.

use std::sync::Arc;

use switchboard_bus::Subscription;
use switchboard_proto::bus::{PayloadKind, Priority};
use switchboard_proto::client::{ClientInfo, Join, Leave, Push, Reply};
use switchboard_proto::format;
use switchboard_proto::presence::{ChannelChange, ChannelChanges, ChannelMember};
use uuid::Uuid;

use super::Presence;
use crate::session::SharedReply;

/// Passes on what comes. Ends with the bus.
pub(crate) async fn pass_on(presence: Arc<Presence>, mut joins: Subscription) {
    while let Some(message) = joins.next().await {
        match format::decode::<ChannelChanges>(message.payload) {
            Ok(changes) => changes
                .changes
                .into_iter()
                .for_each(|change| presence.tell(change)),
            Err(error) => tracing::warn!(%error, "joins and leaves cannot be read"),
        }
    }
}

impl Presence {
    fn tell(&self, change: ChannelChange) {
        let told = self.table.lock().told_of(&change.channel);
        let Some(member) = change.member.filter(|_| !told.is_empty()) else {
            return;
        };
        let info = Some(info(member));
        let channel = change.channel;
        let push = match change.joined {
            true => Push {
                channel: channel.clone(),
                join: Some(Join { info }),
                ..Push::default()
            },
            false => Push {
                channel: channel.clone(),
                leave: Some(Leave { info }),
                ..Push::default()
            },
        };
        let reply = Reply {
            push: Some(push),
            ..Reply::default()
        };
        let shared = SharedReply::ephemeral(reply, PayloadKind::Json, &channel, Priority::Normal);
        for session in &told {
            session.push_shared(&shared);
        }
        self.metrics.joins_passed_on.inc();
    }
}

/// A member as clients are told of it.
pub(crate) fn info(member: ChannelMember) -> ClientInfo {
    ClientInfo {
        user: member.user,
        client: Uuid::from_slice(&member.client)
            .map(|client| client.to_string())
            .unwrap_or_default(),
        conn_info: member.conn_info,
        chan_info: member.chan_info,
    }
}
