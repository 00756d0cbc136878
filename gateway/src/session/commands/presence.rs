//! `presence` and `presence_stats`: who is in a channel.

use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::ErrorCode;

use super::{Commands, Violation, violation};
use crate::policy::{Action, Asking};
use crate::session::presence::Listing;
use crate::session::questions::Wanted;

impl Commands {
    /// Answered beside the commands. Where nobody is known to be there at all, that is said before it is looked at who asks.
    pub(super) async fn presence(&self, id: u32, channel: &str, listing: Listing) -> Result<(), Violation> {
        if channel.is_empty() {
            return Err(violation("presence without channel"));
        }
        let Some(channel) = self.channel(id, channel) else {
            return Ok(());
        };
        let policy = self.gateway.config.policy.now();
        if policy.decide_for_server(&channel).is_ok() && !policy.presence_rules(&channel).presence {
            self.refuse(id, ErrorCode::NotAvailable, "the namespace's presence is off");
            return Ok(());
        }
        if self.may(Action::Presence, id, &channel, self.session.holds(&channel))
            && self.is_let_in(id, &channel).await
        {
            self.ask(id, Wanted::Presence { channel, listing });
        }
        Ok(())
    }

    /// Whether who subscribes may be told who joins and leaves.
    pub(super) fn may_hear_joins(&self, channel: &ChannelName) -> bool {
        let policy = self.gateway.config.policy.now();
        let who = Asking {
            user: self.session.user(),
            // It is about to be.
            is_in: true,
        };
        policy.presence_rules(channel).join_leave
            && policy.decide(Action::Presence, channel, who).outcome.is_ok()
    }
}
