//! Edits, deletions and reactions: a change of a message is checked here and published as a message of the same channel.
//!
//! One function for whoever asks, a client or a backend. What must hold, each with a test in `run/tests/changes.rs`:
//! * A user changes only what she sent, and only within the namespace's time; an anonymous user changes nothing.
//! * What is changed exists in that channel, is no change itself, and is not deleted.
//! * What is not known is not guessed: where neither the owner nor the store can tell, the answer is a temporary error.

use bytes::Bytes;
use prost::Message as _;
use serde_json::json;
use switchboard_bus::fold::{self, MAX_REACTION, MAX_REACTIONS};
use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::bus::{Change, Delete, Edit, Message, MessageAt, PayloadKind, React, Sender, change};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::Error;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::messages::{FoldsRequest, MessageRequest, Method, Place, method};
use switchboard_proto::{tags, time};
use switchboard_service_kit::trace_context::TraceContext;
use tokio::time::Instant;
use uuid::Uuid;

use crate::envelope::Envelope;
use crate::gateway::Gateway;
use crate::links::{At, Publish, Stored};
use crate::policy::{Asking as Who, Changing};

/// What is to become of which message.
pub(crate) struct Wanted {
    pub(crate) channel: ChannelName,
    pub(crate) offset: u64,
    /// The life of the log that it is of; empty: the one in force.
    pub(crate) epoch: String,
    /// Idempotency key; empty: none.
    pub(crate) key: String,
    pub(crate) what: What,
}

/// What is done to a message.
pub(crate) enum What {
    Edit {
        data: Bytes,
        kind: PayloadKind,
        /// Its sender speaks JSON.
        is_json: bool,
    },
    Delete,
    React {
        reaction: String,
        remove: bool,
    },
}

/// Who asks.
pub(crate) enum By {
    User {
        sender: Sender,
        /// Subscribed to the channel.
        is_in: bool,
    },
    /// A backend may change whatever anybody sent.
    Server {
        /// The name of its key.
        api_key: String,
    },
}

impl What {
    fn changing(&self) -> Changing {
        match self {
            Self::Edit { .. } => Changing::Edit,
            Self::Delete => Changing::Delete,
            Self::React { .. } => Changing::React,
        }
    }
}

/// What is wrong with the request, for who sent it.
pub(crate) fn bad(words: &str) -> Error {
    Error {
        message: format!("{}: {words}", ErrorCode::BadRequest.words()),
        ..Error::from(ErrorCode::BadRequest)
    }
}

/// A message that may be changed, and the life of the log that it stands in.
struct Target {
    log_epoch: String,
    /// It is of the life that is in force.
    is_here: bool,
    message: Message,
}

/// Checks what is wanted and publishes it. Answers with the id of the message that tells of the change, and its place.
///
/// Not cancel safe: when dropped, the change may be published or not.
///
/// # Errors
/// As who asked is told them. Error 100, temporary: it is not known whether it is stored.
pub(crate) async fn publish(
    gateway: &Gateway,
    by: By,
    wanted: Wanted,
    arrived: Instant,
) -> Result<(Bytes, Stored), Error> {
    let channel = &wanted.channel;
    may(gateway, &by, &wanted)?;
    if let By::User { sender, .. } = &by {
        gateway.lets_in(channel, &sender.user, arrived).await?;
        // To take back what was said stays everybody's right.
        if !matches!(wanted.what, What::Delete) {
            let deadline = arrived + gateway.config.answer_timeout;
            gateway
                .moderation
                .lets_speak(&sender.user, channel, deadline)
                .await?;
        }
    }
    let envelope = Envelope {
        key: wanted.key,
        ..Envelope::default()
    };
    envelope.check().map_err(bad)?;
    let target = find(gateway, channel, wanted.offset, &wanted.epoch, arrived).await?;
    check(
        gateway,
        &by,
        &wanted.what,
        channel,
        &target,
        !envelope.key.is_empty(),
    )?;
    if let What::React {
        reaction,
        remove: false,
    } = &wanted.what
    {
        has_room(gateway, channel, &target, wanted.offset, reaction, arrived).await?;
    }
    let of = Some(MessageAt {
        offset: wanted.offset,
        log_epoch: target.log_epoch.clone(),
        id: target.message.id.clone(),
    });
    let (sender, api_key) = match by {
        By::User { sender, .. } => (Some(sender), String::new()),
        By::Server { api_key } => (None, api_key),
    };
    let (name, payload, kind, what) = match wanted.what {
        What::Edit { data, kind, .. } => {
            // What nobody may read stays so.
            let kind = match target.message.kind() {
                PayloadKind::Opaque => PayloadKind::Opaque,
                PayloadKind::Unspecified | PayloadKind::Json | PayloadKind::Binary => kind,
            };
            ("edit", data, kind, change::What::Edit(Edit { target: of }))
        }
        What::Delete => {
            let nothing = Bytes::from_static(b"null");
            (
                "delete",
                nothing,
                PayloadKind::Json,
                change::What::Delete(Delete { target: of }),
            )
        }
        What::React { reaction, remove } => {
            let user = sender.as_ref().map_or("", |sender| sender.user.as_str());
            let data = json!({ "reaction": reaction, "user": user, "remove": remove });
            let what = change::What::React(React {
                target: of,
                reaction,
                remove,
            });
            ("react", data.to_string().into(), PayloadKind::Json, what)
        }
    };
    let trace = TraceContext::random(false);
    tracing::trace!(%channel, correlation_id = %trace.correlation_id(), change = name, "publish of a change");
    let mut message = Message {
        id: Uuid::now_v7().into_bytes().to_vec().into(),
        channel: channel.as_str().to_owned(),
        kind: kind.into(),
        payload,
        sender,
        trace: trace.to_bytes().to_vec().into(),
        api_key,
        change: Some(Change { what: Some(what) }),
        ..Message::default()
    };
    envelope.fill(&mut message);
    let mut tag = |name: &str, value: String| message.tags.insert(name.to_owned(), value);
    tag(tags::CHANGE, name.to_owned());
    tag(tags::TARGET, wanted.offset.to_string());
    if !target.is_here {
        tag(tags::TARGET_EPOCH, target.log_epoch);
    }
    let stored = gateway
        .links
        .publish_by_server(channel, Publish::plain(&message, true), arrived)
        .await
        .map_err(|refusal| Error {
            code: refusal.code,
            message: refusal.message,
            temporary: refusal.temporary,
        })?;
    Ok((message.id, stored))
}

/// What can be told before the message is looked for.
fn may(gateway: &Gateway, by: &By, wanted: &Wanted) -> Result<(), Error> {
    let policy = gateway.config.policy.now();
    let channel = &wanted.channel;
    match by {
        By::User { sender, is_in } => {
            let who = Who {
                user: &sender.user,
                is_in: *is_in,
            };
            policy.may_change(wanted.what.changing(), channel, who)?;
        }
        By::Server { .. } => policy.decide_for_server(channel)?,
    }
    if !policy.is_durable(channel) {
        return Err(ErrorCode::NotAvailable.into());
    }
    match &wanted.what {
        What::Edit { data, kind, is_json } => {
            if data.is_empty() {
                return Err(bad("an edit without data"));
            }
            let fits = policy.payload(channel, data, *kind, *is_json);
            fits.map_err(|unfit| Error::from(unfit.code))?;
        }
        What::Delete => {}
        What::React { reaction, .. } => {
            let is_one = (1..=MAX_REACTION).contains(&reaction.len());
            if !is_one || reaction.chars().any(char::is_control) {
                return Err(bad("a reaction is 1 to 64 bytes without control characters"));
            }
        }
    }
    Ok(())
}

/// The message that stands at a place of the channel, told by the owner of its shard or, where the log does not have it (any more), by
/// the store.
async fn find(
    gateway: &Gateway,
    channel: &ChannelName,
    offset: u64,
    epoch: &str,
    arrived: Instant,
) -> Result<Target, Error> {
    let none = || bad("there is no such message");
    let Some(before) = offset.checked_sub(1) else {
        return Err(none());
    };
    let (now, at) = gateway.links.message_behind(channel, before, arrived).await?;
    let is_here = epoch.is_empty() || epoch == now;
    let log_epoch = if is_here { now } else { epoch.to_owned() };
    let encoded = match at {
        At::Message(encoded) if is_here => encoded,
        At::Nothing if is_here => return Err(none()),
        At::Message(_) | At::Nothing | At::Purged => {
            let request = MessageRequest {
                channel: channel.as_str().to_owned(),
                place: Some(Place {
                    log_epoch: log_epoch.clone(),
                    offset,
                }),
                made_us: 0,
            };
            let asked = store::<method::Message>(gateway, &request, arrived).await;
            let stored = asked.map_err(crate::session::told)?;
            stored.message.ok_or_else(none)?.message
        }
    };
    let message = Message::decode(encoded).map_err(|_| none())?;
    Ok(Target {
        log_epoch,
        is_here,
        message,
    })
}

async fn store<M: Method>(
    gateway: &Gateway,
    request: &M::Request,
    arrived: Instant,
) -> Result<M::Response, AskError> {
    let due = arrived + gateway.config.answer_timeout;
    let within = due.saturating_duration_since(Instant::now());
    ask::<M>(gateway.links.bus(), request, within).await
}

/// Whether the message may be changed so. With a key it may be that it was already, and its owner tells.
fn check(
    gateway: &Gateway,
    by: &By,
    what: &What,
    channel: &ChannelName,
    target: &Target,
    has_key: bool,
) -> Result<(), Error> {
    let message = &target.message;
    if message.change.is_some() {
        return Err(bad("a change cannot be changed"));
    }
    if message.origin.is_some() {
        return Err(bad("an inbox entry is changed in its conversation"));
    }
    if fold::is_deleted(message) && !has_key {
        return Err(bad("the message is deleted"));
    }
    let changing = what.changing();
    let By::User { sender, .. } = by else {
        return Ok(());
    };
    if changing == Changing::React {
        return Ok(());
    }
    let is_own = message.sender.as_ref().is_some_and(|of| of.user == sender.user);
    if !is_own {
        return Err(ErrorCode::PermissionDenied.into());
    }
    let within = gateway.config.policy.now().changes_within(changing, channel);
    if let Some(within) = within {
        let made_us = fold::made_us(&message.id).unwrap_or(0);
        let within_us = u64::try_from(within.as_micros()).unwrap_or(u64::MAX);
        if time::now_us().saturating_sub(made_us) > within_us {
            return Err(ErrorCode::PermissionDenied.into());
        }
    }
    Ok(())
}

/// Whether the message takes one more reaction. Reactions are counted in the store, a moment behind: a few more may slip in, and are
/// not told.
async fn has_room(
    gateway: &Gateway,
    channel: &ChannelName,
    target: &Target,
    offset: u64,
    reaction: &str,
    arrived: Instant,
) -> Result<(), Error> {
    let request = FoldsRequest {
        channel: channel.as_str().to_owned(),
        places: vec![Place {
            log_epoch: target.log_epoch.clone(),
            offset,
        }],
    };
    let folds = match store::<method::Folds>(gateway, &request, arrived).await {
        Ok(response) => response.folds,
        // Nobody counts them.
        Err(AskError::NotAvailable(_)) => return Ok(()),
        Err(error) => return Err(crate::session::told(error)),
    };
    let reactions = folds
        .into_iter()
        .filter_map(|at| at.fold)
        .flat_map(|fold| fold.reactions);
    let known: Vec<String> = reactions.map(|known| known.reaction).collect();
    if known.len() >= MAX_REACTIONS && !known.iter().any(|known| known == reaction) {
        return Err(ErrorCode::LimitExceeded.into());
    }
    Ok(())
}
