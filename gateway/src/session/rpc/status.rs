//! `message.status`: to whom a message was delivered, and who has read it.

use bytes::Bytes;
use serde::Deserialize;
use switchboard_proto::client::Error;
use switchboard_proto::messages::{self, MessageStatusRequest, Place, method};

use super::Asking;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Status {
    channel: String,
    offset: u64,
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    limit: u32,
}

/// For who may read the channel.
pub(super) async fn status(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let Status {
        channel,
        offset,
        epoch,
        limit,
    } = asking.parse(&data, "message.status wants {channel, offset, epoch?, limit?}")?;
    let channel = asking.channel(&channel)?;
    asking.may_read(&channel).await?;
    let (log_epoch, is_in_force) = asking.epoch(&channel, epoch, offset).await?;
    let request = MessageStatusRequest {
        channel: channel.as_str().to_owned(),
        place: Some(Place { log_epoch, offset }),
        shard: is_in_force.then(|| asking.gateway.links.shard_of(&channel).get().into()),
        limit,
    };
    let status = asking.ask::<method::MessageStatus>(&request).await?;
    let reached = |reached: Option<messages::Reached>| {
        let reached = reached.unwrap_or_default();
        let mut told = serde_json::json!({"count": reached.count, "users": reached.users});
        if let (true, Some(told)) = (reached.at_least, told.as_object_mut()) {
            told.insert("at_least".to_owned(), true.into());
        }
        told
    };
    let answer = serde_json::json!({
        "sent": {"user": status.sender, "time": status.time_us / 1000},
        "delivered": reached(status.delivered),
        "read": reached(status.read),
    });
    Ok(answer.to_string().into())
}
