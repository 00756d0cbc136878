//! `typing.start`, `typing.stop`.

use bytes::Bytes;
use serde::Deserialize;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::Error;
use switchboard_proto::codes::ErrorCode;

use super::Asking;
use crate::policy::Asking as Who;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Where {
    channel: String,
}

/// For who is subscribed and may publish.
pub(super) async fn start(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let channel = asking.typed_in(&data).await?;
    let (gateway, session) = (&asking.gateway, &asking.session);
    let heard = async || {
        let deadline = asking.arrived + gateway.config.answer_timeout;
        gateway
            .moderation
            .lets_speak(session.user(), &channel, deadline)
            .await
    };
    heard().await?;
    gateway.typing.start(session.id(), session.user(), &channel)?;
    // Whoever ended the subscription, or muted the user, meanwhile may have looked before it was entered.
    let heard = heard().await;
    if !session.holds(&channel) || heard.is_err() {
        gateway.typing.stop(session.id(), session.user(), &channel);
        return Err(heard.err().unwrap_or(ErrorCode::PermissionDenied).into());
    }
    Ok(DONE)
}

/// As above. Without a start it changes nothing.
pub(super) async fn stop(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let channel = asking.typed_in(&data).await?;
    let session = &asking.session;
    asking.gateway.typing.stop(session.id(), session.user(), &channel);
    Ok(DONE)
}

const DONE: Bytes = Bytes::from_static(b"{}");

impl Asking {
    /// The channel, where the caller may say that he types there.
    async fn typed_in(&self, data: &[u8]) -> Result<ChannelName, Error> {
        let Where { channel } = self.parse(data, "typing.start and typing.stop want {channel}")?;
        let channel = self.channel(&channel)?;
        let who = Who {
            user: self.session.user(),
            is_in: self.session.holds(&channel),
        };
        self.gateway.config.policy.now().may_type(&channel, who)?;
        self.gateway.lets_in(&channel, who.user, self.arrived).await?;
        Ok(channel)
    }
}
