//! What the policy says to a command, answered where it says no.

use switchboard_proto::bus::PayloadKind;
use switchboard_proto::channel::ChannelName;

use super::Commands;
use crate::policy::{Action, Asking, Unfit};
use crate::session::Encoding;

impl Commands {
    /// Whether the client may. `is_in` is as in [`Asking`]. `false`: refused, and answered.
    pub(super) fn may(&self, action: Action, id: u32, channel: &ChannelName, is_in: bool) -> bool {
        let who = Asking {
            user: self.session.user(),
            is_in,
        };
        let policy = self.gateway.config.policy.now();
        let decision = policy.decide(action, channel, who);
        match decision.outcome {
            Ok(()) => true,
            Err(code) => {
                self.refuse(id, code, decision.words());
                false
            }
        }
    }

    /// How `data` is to be published. `None`: refused, and answered.
    pub(super) async fn may_publish(
        &self,
        id: u32,
        channel: &ChannelName,
        data: &[u8],
    ) -> Option<PayloadKind> {
        if !self.may(Action::Publish, id, channel, self.session.holds(channel))
            || !self.is_let_in(id, channel).await
            || !self.is_heard(id, channel).await
        {
            return None;
        }
        let encoding = self.session.encoding;
        let kind = encoding.payload_kind(data);
        let policy = self.gateway.config.policy.now();
        match policy.payload(channel, data, kind, encoding == Encoding::Json) {
            Ok(kind) => Some(kind),
            Err(Unfit { code, why }) => {
                self.refuse(id, code, why);
                None
            }
        }
    }
}
