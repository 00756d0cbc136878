//! What a session does when the policy was replaced: it ends what it may not have any more.
//!
//! In the session's own task, between two commands, so that none was decided on by the policy before and is carried
//! out behind this.
//!
//! A client's subscription ends with a code on which SDKs subscribe again. Where that is not allowed its answer says
//! why, and where only the kind of the channel has changed they have one of the new kind.

use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::{DisconnectCode, UnsubscribeCode};

use super::Commands;
use crate::policy::{Action, Asking, BROADCAST, Policy};
use crate::session::subscriptions::By;

/// What the policy in force leaves of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Stays,
    /// The client subscribes again, or is refused.
    Again,
    /// One by the server that may not be.
    Over,
    /// One by the server that is promised what does not hold: it is made with the connection.
    Reconnect,
}

impl Commands {
    /// Looks at what the session holds, if the policy was replaced since it last did. Waits while a link's queue is
    /// full.
    pub(in crate::session) async fn apply_policy(&self) {
        if !self.session.take_policy_change() {
            return;
        }
        let policy = self.gateway.config.policy.now();
        for (channel, by) in self.session.subscriptions.all() {
            match self.outcome(&policy, &channel, by) {
                Outcome::Stays => {}
                Outcome::Again => {
                    self.end_subscription(channel.as_str(), UnsubscribeCode::InsufficientState)
                        .await
                }
                Outcome::Over => {
                    self.end_subscription(channel.as_str(), UnsubscribeCode::Server)
                        .await
                }
                Outcome::Reconnect => self.session.close(DisconnectCode::InsufficientState),
            }
        }
    }

    fn outcome(&self, policy: &Policy, channel: &ChannelName, by: By) -> Outcome {
        let (is_in, is_durable, is_the_clients) = match by {
            By::Client { is_durable, .. } => (self.session.leases.holds(channel), is_durable, true),
            By::Server { is_durable } | By::Backend { is_durable } => (true, is_durable, false),
        };
        let user = self.session.user();
        let who = Asking { user, is_in };
        // These two are not the policy's to give or to refuse.
        let is_ours = || {
            channel.as_str() == BROADCAST || ChannelName::inbox(user).is_some_and(|inbox| inbox == *channel)
        };
        let is_allowed =
            policy.decide(Action::Subscribe, channel, who).outcome.is_ok() || !is_the_clients && is_ours();
        let is_the_same = policy.is_durable(channel) == is_durable;
        match (is_the_clients, is_allowed, is_the_same) {
            (_, true, true) => Outcome::Stays,
            (true, _, _) => Outcome::Again,
            (false, false, _) => Outcome::Over,
            (false, true, false) => Outcome::Reconnect,
        }
    }
}
