//! What sessions are told by a link, in the client protocol's words.

use prost::Message as _;
use switchboard_proto::bus::change::What;
use switchboard_proto::bus::{Delivered, MembersChanged, Message, PayloadKind, Priority, Refusal};
use switchboard_proto::client::{
    ClientInfo, Error, Publication, PublishResult, Push, Reply, RpcResult, SubscribeResult,
};
use switchboard_proto::ids::Offset;
use switchboard_proto::tags;

use super::link::{Missed, Stored};

/// The result of a subscription. On success `offset` is the one that the client asked with, from which
/// it counts on with each publication. With it, of which kind its payloads are: JSON where all are.
pub(super) fn subscribed(
    log_epoch: &str,
    offset: Offset,
    missed: Missed<'_>,
) -> (SubscribeResult, PayloadKind) {
    let mut kind = PayloadKind::Json;
    let mut result = SubscribeResult {
        epoch: log_epoch.to_owned(),
        offset: offset.get(),
        recoverable: true,
        positioned: true,
        ..SubscribeResult::default()
    };
    match missed {
        Missed::NotAsked => {}
        Missed::Lost => result.was_recovering = true,
        Missed::All(since, messages) => {
            result.was_recovering = true;
            result.recovered = true;
            result.offset = since.get();
            (result.publications, kind) = publications(messages);
        }
    }
    (result, kind)
}

/// What a reply holds of these, and of which kind the payloads are: JSON where all are.
pub(super) fn publications(messages: &[Delivered]) -> (Vec<Publication>, PayloadKind) {
    let mut kind = PayloadKind::Json;
    let publications = messages
        .iter()
        // One that does not decode is passed over, as it is when it is delivered.
        .filter_map(|delivered| {
            let (_, reply, of_this) = publication(delivered).ok()?;
            if of_this != PayloadKind::Json {
                kind = of_this;
            }
            reply.push?.r#pub
        })
        .collect();
    (publications, kind)
}

/// The answer to `message.send`.
pub(super) fn sent(id: u32, message_id: &[u8], stored: &Stored) -> Reply {
    let is_duplicate = !stored.duplicate_of.is_empty();
    let message_id = if is_duplicate {
        &stored.duplicate_of
    } else {
        message_id
    };
    let data = serde_json::json!({
        "id": tags::id_text(message_id),
        "offset": stored.offset.get(),
        "epoch": stored.log_epoch,
        "duplicate": is_duplicate,
    });
    Reply {
        id,
        rpc: Some(RpcResult {
            data: data.to_string().into(),
        }),
        ..Reply::default()
    }
}

pub(super) fn published(id: u32) -> Reply {
    Reply {
        id,
        publish: Some(PublishResult {}),
        ..Reply::default()
    }
}

pub(super) fn error(id: u32, error: Error) -> Reply {
    Reply {
        id,
        error: Some(error),
        ..Reply::default()
    }
}

pub(super) fn refused(refusal: Refusal) -> Error {
    Error {
        code: refusal.code,
        message: refusal.message,
        temporary: refusal.temporary,
    }
}

/// The push for a delivered message, its channel, and of which kind its payload is.
pub(super) fn publication(delivered: &Delivered) -> Result<(String, Reply, PayloadKind), prost::DecodeError> {
    let (channel, reply, kind, _) = urgent_publication(delivered)?;
    Ok((channel, reply, kind))
}

/// What the message behind this push says of its channel's members, and the channel. Most say nothing, which their tags tell.
pub(super) fn members_changed(delivered: &Delivered, reply: &Reply) -> Option<(String, MembersChanged)> {
    let publication = reply.push.as_ref()?.r#pub.as_ref()?;
    if publication.tags.get(tags::CHANGE)? != "members" {
        return None;
    }
    let message = Message::decode(delivered.message.clone()).ok()?;
    match message.change?.what? {
        What::Members(event) => Some((message.channel, event)),
        What::Edit(_) | What::Delete(_) | What::React(_) => None,
    }
}

/// As [`publication`], and how urgent it is.
pub(super) fn urgent_publication(
    delivered: &Delivered,
) -> Result<(String, Reply, PayloadKind, Priority), prost::DecodeError> {
    let message = Message::decode(delivered.message.clone())?;
    let kind = message.kind();
    let priority = message.priority();
    let info = message.sender.map(|sender| ClientInfo {
        user: sender.user,
        client: sender.client,
        conn_info: sender.conn_info,
        chan_info: sender.chan_info,
    });
    let publication = Publication {
        data: message.payload,
        info,
        offset: delivered.offset,
        tags: message.tags,
        ..Publication::default()
    };
    let push = Push {
        channel: message.channel.clone(),
        r#pub: Some(publication),
        ..Push::default()
    };
    Ok((
        message.channel,
        Reply {
            push: Some(push),
            ..Reply::default()
        },
        kind,
        priority,
    ))
}
