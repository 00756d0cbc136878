//! `message.edit`, `message.delete` and `message.react`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_proto::client::Error;
use switchboard_proto::messages::Fold;
use switchboard_proto::tags;

use super::Asking;
use crate::changes::{By, Wanted, What, publish};
use crate::session::Encoding;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EditRequest<'a> {
    channel: String,
    offset: u64,
    #[serde(default)]
    epoch: String,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteRequest {
    channel: String,
    offset: u64,
    #[serde(default)]
    epoch: String,
    #[serde(default)]
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReactRequest {
    channel: String,
    offset: u64,
    #[serde(default)]
    epoch: String,
    reaction: String,
    #[serde(default)]
    remove: bool,
    #[serde(default)]
    key: String,
}

/// Answers `message.edit`.
pub(super) async fn edit(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let request: EditRequest<'_> =
        asking.parse(&data, "message.edit wants {channel, offset, epoch?, data, key?}")?;
    let payload = Bytes::copy_from_slice(request.data.get().as_bytes());
    let encoding = asking.session.encoding;
    let wanted = Wanted {
        channel: asking.channel(&request.channel)?,
        offset: request.offset,
        epoch: request.epoch,
        key: request.key,
        what: What::Edit {
            kind: encoding.payload_kind(&payload),
            data: payload,
            is_json: encoding == Encoding::Json,
        },
    };
    asking.change(wanted).await
}

/// Answers `message.delete`.
pub(super) async fn delete(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let request: DeleteRequest =
        asking.parse(&data, "message.delete wants {channel, offset, epoch?, key?}")?;
    let wanted = Wanted {
        channel: asking.channel(&request.channel)?,
        offset: request.offset,
        epoch: request.epoch,
        key: request.key,
        what: What::Delete,
    };
    asking.change(wanted).await
}

/// Answers `message.react`.
pub(super) async fn react(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let request: ReactRequest = asking.parse(
        &data,
        "message.react wants {channel, offset, epoch?, reaction, remove?, key?}",
    )?;
    let wanted = Wanted {
        channel: asking.channel(&request.channel)?,
        offset: request.offset,
        epoch: request.epoch,
        key: request.key,
        what: What::React {
            reaction: request.reaction,
            remove: request.remove,
        },
    };
    asking.change(wanted).await
}

impl Asking {
    async fn change(&self, wanted: Wanted) -> Result<Bytes, Error> {
        let by = By::User {
            sender: self.session.sender(&wanted.channel),
            is_in: self.session.holds(&wanted.channel),
        };
        let (id, stored) = publish(&self.gateway, by, wanted, self.arrived).await?;
        let is_duplicate = !stored.duplicate_of.is_empty();
        let id = if is_duplicate { &stored.duplicate_of } else { &id };
        let answer = serde_json::json!({
            "id": tags::id_text(id),
            "offset": stored.offset.get(),
            "epoch": stored.log_epoch,
            "duplicate": is_duplicate,
        });
        Ok(answer.to_string().into())
    }
}

/// What became of a message, as lists of messages tell it beside the message: nothing where nothing happened. Times are Unix
/// milliseconds.
#[derive(Serialize, Default)]
pub(super) struct Folded<'a> {
    #[serde(skip_serializing_if = "is_zero")]
    edited: u64,
    #[serde(skip_serializing_if = "is_zero")]
    edits: u64,
    #[serde(skip_serializing_if = "is_zero")]
    deleted: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reactions: Vec<Reaction<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    replies: u64,
    #[serde(skip_serializing_if = "is_zero")]
    replied: u64,
}

#[derive(Serialize)]
struct Reaction<'a> {
    reaction: &'a str,
    count: u64,
    users: &'a [String],
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What became of a message, for JSON.
pub(super) fn folded(fold: &Fold) -> Folded<'_> {
    let reactions = fold.reactions.iter().map(|reaction| Reaction {
        reaction: &reaction.reaction,
        count: reaction.count,
        users: &reaction.users,
    });
    Folded {
        edited: fold.edited_us / 1000,
        edits: fold.edits,
        deleted: fold.deleted_us / 1000,
        reactions: reactions.collect(),
        replies: fold.replies,
        replied: fold.replied_us / 1000,
    }
}
