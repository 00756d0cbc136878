//! Who is blocked, or comes with a token that was revoked, is refused.
//!
//! What is asked before something begins is asked again once it has: whoever carried an act out in between found nothing to end.

use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::{DisconnectCode, ErrorCode};
use tokio::time::Instant;

use super::{Commands, Violation};
use crate::auth::{Identity, Stamp, SubscriptionGrant};
use crate::moderation::Refused;

/// How a connection ends whose client would come back with the same.
fn end(refused: Refused) -> Option<Violation> {
    let (code, why) = match refused {
        Refused::Blocked => (DisconnectCode::UserBlocked, "the user is blocked"),
        Refused::Token => (DisconnectCode::InvalidToken, "the token was revoked"),
        Refused::Unknown => return None,
    };
    Some(Violation {
        code,
        why: why.into(),
    })
}

impl Commands {
    /// Whether the user may come with the token. `false`: it is not known, which is answered. Cancel safe.
    pub(super) async fn is_welcome(&self, id: u32, identity: &Identity) -> Result<bool, Violation> {
        let (user, stamp) = (&identity.user, identity.stamp.as_ref());
        match self
            .gateway
            .moderation
            .lets_in(user, stamp, self.deadline())
            .await
        {
            Ok(()) => Ok(true),
            Err(refused) => match end(refused) {
                Some(violation) => Err(violation),
                None => {
                    self.refuse(id, ErrorCode::Internal, "not known whether the user is blocked");
                    Ok(false)
                }
            },
        }
    }

    /// As [`Commands::is_welcome`], for a session that others find already. Where it is not known the client comes back. Cancel safe.
    pub(super) async fn is_still_welcome(&self, stamp: Option<&Stamp>) -> Result<(), Violation> {
        let user = self.session.user();
        let moderation = &self.gateway.moderation;
        let said = match moderation.says(user, stamp) {
            Err(Refused::Unknown) => moderation.lets_in(user, stamp, self.deadline()).await,
            said => said,
        };
        let Err(refused) = said else { return Ok(()) };
        Err(end(refused).unwrap_or(Violation {
            code: DisconnectCode::ForceReconnect,
            why: "not known whether the user is blocked".into(),
        }))
    }

    /// Whether a subscription token was not revoked. `false`: refused, and answered. Cancel safe.
    pub(super) async fn is_grant_welcome(&self, id: u32, grant: &SubscriptionGrant) -> bool {
        let user = self.session.user();
        let stamp = Some(&grant.stamp);
        let code = match self
            .gateway
            .moderation
            .lets_in(user, stamp, self.deadline())
            .await
        {
            Ok(()) => return true,
            Err(Refused::Unknown) => ErrorCode::Internal,
            Err(Refused::Blocked | Refused::Token) => ErrorCode::PermissionDenied,
        };
        self.refuse(id, code, "the token was revoked, or that is not known");
        false
    }

    /// Ends what was just granted by a token, if that was revoked meanwhile.
    pub(super) fn revoke_if_over(&self, stamp: &Stamp) {
        if self.gateway.moderation.says(self.session.user(), Some(stamp)) == Err(Refused::Token) {
            self.session.revoke_subscriptions(|other| other == stamp);
        }
    }

    /// Whether the user may say something in the channel. `false`: refused, and answered. Cancel safe.
    pub(super) async fn is_heard(&self, id: u32, channel: &ChannelName) -> bool {
        let user = self.session.user();
        let moderation = &self.gateway.moderation;
        match moderation.lets_speak(user, channel, self.deadline()).await {
            Ok(()) => true,
            Err(code) => {
                self.refuse(id, code, "the user is muted in the channel, or that is not known");
                false
            }
        }
    }

    fn deadline(&self) -> Instant {
        self.arrived + self.gateway.config.answer_timeout
    }
}
