//! What sessions are told by a link, in the client protocol's words.

use prost::Message as _;
use switchboard_proto::bus::{Delivered, Message, PayloadKind, Refusal};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::{
    ClientInfo, Error, Publication, PublishResult, Push, Reply, SubscribeResult, UnsubscribeResult,
};
use switchboard_proto::codes::UnsubscribeCode;
use switchboard_proto::ids::Offset;

pub(super) fn subscribed(id: u32, log_epoch: &str, offset: Offset) -> Reply {
    let result = SubscribeResult {
        epoch: log_epoch.to_owned(),
        offset: offset.get(),
        ..SubscribeResult::default()
    };
    Reply {
        id,
        subscribe: Some(result),
        ..Reply::default()
    }
}

pub(super) fn unsubscribed(id: u32) -> Reply {
    Reply {
        id,
        unsubscribe: Some(UnsubscribeResult {}),
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

pub(super) fn unsubscribe_push(channel: &ChannelName, code: UnsubscribeCode) -> Reply {
    let push = Push {
        channel: channel.as_str().to_owned(),
        unsubscribe: Some(code.into()),
        ..Push::default()
    };
    Reply {
        push: Some(push),
        ..Reply::default()
    }
}

/// The push for a delivered message, its channel, and of which kind its payload is.
pub(super) fn publication(delivered: &Delivered) -> Result<(String, Reply, PayloadKind), prost::DecodeError> {
    let message = Message::decode(delivered.message.clone())?;
    let kind = message.kind();
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
    ))
}
