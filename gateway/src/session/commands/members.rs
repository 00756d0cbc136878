//! Channels with members: a command of who is none is refused.

use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::ErrorCode;

use super::Commands;

impl Commands {
    /// Whether the channel's members include the user, if it has any. `false`: refused, and answered. Cancel safe.
    pub(super) async fn is_let_in(&self, id: u32, channel: &ChannelName) -> bool {
        let user = self.session.user();
        match self.gateway.lets_in(channel, user, self.arrived).await {
            Ok(()) => true,
            Err(code) => {
                self.refuse(id, code, "not known to be a member of the channel");
                false
            }
        }
    }

    /// Whether the user was removed while subscription `id` was entered: whoever removed him may have looked at the session before
    /// that. It is taken out again, and the command answered.
    pub(super) fn is_shut_out(&self, id: u32, channel: &ChannelName) -> bool {
        let is_shut_out = self.gateway.has_shut_out(channel, self.session.user());
        if is_shut_out {
            self.session
                .not_subscribed(channel, id, ErrorCode::PermissionDenied);
        }
        is_shut_out
    }
}
