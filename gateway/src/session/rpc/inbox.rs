//! `inbox.list`: a user's conversations, those with the newest entries first.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_proto::bus::{Message, PayloadKind};
use switchboard_proto::channel::{ChannelName, MAX_CHANNEL_LENGTH};
use switchboard_proto::client::Error;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::json;
use switchboard_proto::messages::{self, Conversation, ConversationsRequest, Role, method};

use super::Asking;
use crate::policy::{Action, Asking as PolicyAsking};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    cursor: String,
    #[serde(default)]
    limit: u32,
    #[serde(default)]
    count_to: u32,
}

#[derive(Serialize)]
struct Answer {
    conversations: Vec<Told>,
    #[serde(skip_serializing_if = "String::is_empty")]
    cursor: String,
}

#[derive(Serialize)]
struct Told {
    channel: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    members: u64,
    /// Unix milliseconds.
    time: u64,
    unread: u64,
    #[serde(skip_serializing_if = "is_not")]
    unread_at_least: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<At>,
    head: At,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Last>,
}

#[derive(Serialize)]
struct At {
    offset: u64,
    epoch: String,
}

#[derive(Serialize)]
struct Last {
    offset: u64,
    epoch: String,
    /// Unix milliseconds.
    time: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    /// Where it is not JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_not(flag: &bool) -> bool {
    !flag
}

pub(super) async fn list(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let List {
        cursor,
        limit,
        count_to,
    } = asking.parse(&data, "inbox.list wants {cursor?, limit?, count_to?}")?;
    let request = ConversationsRequest {
        user: asking.user()?,
        cursor,
        limit,
        count_to,
        bytes: asking.answer_bytes(),
    };
    let page = asking.ask::<method::Conversations>(&request).await?;
    let conversations = page
        .conversations
        .into_iter()
        .map(|conversation| told(&asking, conversation))
        .collect();
    let answer = Answer {
        conversations,
        cursor: page.cursor,
    };
    let answer = serde_json::to_vec(&answer).map_err(|_| ErrorCode::Internal)?;
    Ok(answer.into())
}

fn told(asking: &Asking, conversation: Conversation) -> Told {
    let role = match conversation.role() {
        Role::None => None,
        Role::Member => Some("member"),
        Role::Owner => Some("owner"),
    };
    let channel = ChannelName::parse(&conversation.channel, MAX_CHANNEL_LENGTH).ok();
    let named = channel
        .as_ref()
        .and_then(|channel| Some(channel.users()?.count() as u64));
    // What was said there is for who may read it; that it exists is not hidden from who is in it.
    let may_read = channel.is_some_and(|channel| {
        let who = |is_in| PolicyAsking {
            user: asking.session.user(),
            is_in,
        };
        let policy = asking.gateway.config.policy.now();
        let allows = |action, is_in| policy.decide(action, &channel, who(is_in)).outcome.is_ok();
        allows(Action::Subscribe, false) || allows(Action::History, asking.session.holds(&channel))
    });
    let at = |place: messages::Place| At {
        offset: place.offset,
        epoch: place.log_epoch,
    };
    Told {
        role,
        members: named.unwrap_or(conversation.members),
        time: conversation.time_us / 1000,
        unread: conversation.unread,
        unread_at_least: conversation.unread_at_least,
        read: conversation.read.map(at),
        head: at(conversation.head.unwrap_or_default()),
        last: conversation.last.filter(|_| may_read).and_then(last),
        channel: conversation.channel,
    }
}

/// `None`: it cannot be read any more.
fn last(last: messages::LastMessage) -> Option<Last> {
    let message = Message::decode(last.message).ok()?;
    let place = last.place.unwrap_or_default();
    // What is encrypted is not looked at.
    let is_json = message.kind() == PayloadKind::Json && json::is_payload(&message.payload);
    let text = is_json.then(|| String::from_utf8(message.payload.to_vec()).ok());
    let data = text.flatten().and_then(|text| RawValue::from_string(text).ok());
    Some(Last {
        offset: place.offset,
        epoch: place.log_epoch,
        time: last.time_us / 1000,
        user: message.sender.map_or_else(String::new, |sender| sender.user),
        b64data: data.is_none().then(|| BASE64_STANDARD.encode(&message.payload)),
        data,
        tags: message.tags,
    })
}
