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
    gateway.typing.start(session.id(), session.user(), &channel)?;
    // Whoever ended the subscription meanwhile may have looked before it was entered.
    if !session.holds(&channel) {
        gateway.typing.stop(session.id(), session.user(), &channel);
        return Err(ErrorCode::PermissionDenied.into());
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
