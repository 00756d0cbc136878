//! `publish` and `broadcast`: as a client's publish goes through the links, with no user behind it. What services ask to publish
//! (`for_services`) goes the same way.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use switchboard_proto::api::{
    BroadcastRequest, BroadcastResult, PublishRequest, PublishResponse, PublishResult,
};
use switchboard_proto::bus::{Message, PayloadKind, Priority};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::{json, tags};
use switchboard_service_kit::trace_context::TraceContext;
use tokio::time::Instant;
use uuid::Uuid;

use super::failure::Failure;
use super::{Api, Caller, Transport};
use crate::envelope::Envelope;
use crate::gateway::Gateway;
use crate::links::Publish;

/// Messages of one broadcast that are on the way at a time.
const AT_ONCE: usize = 64;

/// What is to be published, in whichever channels. Clones share the payload.
pub(super) struct Letter {
    pub(super) payload: Bytes,
    pub(super) kind: PayloadKind,
    /// It came as JSON, not as bytes that may be JSON.
    pub(super) is_json: bool,
    pub(super) skip_history: bool,
    /// Was checked.
    pub(super) envelope: Envelope,
}

/// The fields that `publish` and `broadcast` share.
macro_rules! letter {
    ($request:expr, $caller:expr) => {
        Letter::read(
            $caller,
            ($request.data, &$request.b64data),
            Envelope {
                key: $request.idempotency_key,
                priority: priority(&$request.priority)?,
                tags: $request.tags,
                reply_to: String::new(),
                thread: None,
            },
            $request.skip_history,
            $request.version,
        )
    };
}

impl Letter {
    fn read(
        caller: Caller,
        (data, b64data): (Bytes, &str),
        envelope: Envelope,
        skip_history: bool,
        version: u64,
    ) -> Result<Self, Failure> {
        envelope.check().map_err(Failure::bad)?;
        if version > 0 {
            return Err(Failure::because(
                ErrorCode::NotAvailable,
                "versions of publications are not available",
            ));
        }
        let Payload { data, kind, is_json } = Payload::read(caller, data, b64data)?;
        Ok(Self {
            payload: data,
            kind,
            is_json,
            skip_history,
            envelope,
        })
    }

    /// Publishes it in the name of `publisher`, who asked when `arrived`. The channel has to be in a namespace that exists.
    ///
    /// Not cancel safe: it may be stored or not.
    pub(super) async fn publish(
        &self,
        gateway: &Gateway,
        channel: &ChannelName,
        publisher: &str,
        arrived: Instant,
    ) -> Result<PublishResult, Failure> {
        let policy = gateway.config.policy.now();
        let kind = policy
            .payload(channel, &self.payload, self.kind, self.is_json)
            .map_err(|unfit| Failure::because(unfit.code, unfit.why))?;
        let is_durable = policy.is_durable(channel) && !self.skip_history;
        if !is_durable && !self.envelope.key.is_empty() {
            return Err(Failure::because(
                ErrorCode::NotAvailable,
                "an idempotency key needs a message that is stored",
            ));
        }
        let id = Uuid::now_v7();
        let trace = TraceContext::random(false);
        tracing::trace!(%channel, correlation_id = %trace.correlation_id(), "publish by a server");
        let mut message = Message {
            id: id.into_bytes().to_vec().into(),
            channel: channel.as_str().to_owned(),
            kind: kind.into(),
            payload: self.payload.clone(),
            trace: trace.to_bytes().to_vec().into(),
            api_key: publisher.to_owned(),
            ..Message::default()
        };
        self.envelope.clone().fill(&mut message);
        let publish = Publish::plain(&message, is_durable);
        let stored = gateway.links.publish_by_server(channel, publish, arrived).await?;
        let duplicate = !stored.duplicate_of.is_empty();
        let id = match duplicate {
            true => tags::id_text(&stored.duplicate_of),
            false => id.to_string(),
        };
        Ok(match is_durable {
            true => PublishResult {
                offset: stored.offset.get(),
                epoch: stored.log_epoch,
                id,
                duplicate,
            },
            false => PublishResult {
                id,
                ..PublishResult::default()
            },
        })
    }
}

/// The channel of this name, in a namespace that exists.
pub(super) fn channel(gateway: &Gateway, name: &str) -> Result<ChannelName, Failure> {
    let channel = ChannelName::parse(name, gateway.config.channel_name_length)
        .map_err(|_| Failure::bad("not a channel name"))?;
    gateway.config.policy.now().decide_for_server(&channel)?;
    Ok(channel)
}

/// What is to be said, from whichever field it came in.
pub(super) struct Payload {
    pub(super) data: Bytes,
    pub(super) kind: PayloadKind,
    /// It came as JSON, not as bytes that may be JSON.
    pub(super) is_json: bool,
}

impl Payload {
    pub(super) fn read(caller: Caller, data: Bytes, b64data: &str) -> Result<Self, Failure> {
        let (data, is_json) = if b64data.is_empty() {
            (data, caller.transport == Transport::Http)
        } else {
            let decoded = BASE64_STANDARD
                .decode(b64data)
                .map_err(|_| Failure::bad("b64data is not base64"))?;
            (decoded.into(), false)
        };
        if data.is_empty() {
            return Err(Failure::bad("publication without data"));
        }
        let kind = match json::is_payload(&data) {
            true => PayloadKind::Json,
            false if is_json => return Err(Failure::bad("data nests too deep")),
            false => PayloadKind::Binary,
        };
        Ok(Self { data, kind, is_json })
    }
}

fn priority(name: &str) -> Result<Priority, Failure> {
    match name {
        "low" => Ok(Priority::Low),
        "" | "normal" => Ok(Priority::Normal),
        "high" => Ok(Priority::High),
        "critical" => Ok(Priority::Critical),
        _ => Err(Failure::bad("priority is none of low, normal, high and critical")),
    }
}

impl Api {
    pub(super) async fn publish(
        &self,
        request: PublishRequest,
        caller: Caller,
    ) -> Result<PublishResult, Failure> {
        let letter = letter!(request, caller)?;
        self.publish_to(&request.channel, &letter, caller).await
    }

    pub(super) async fn broadcast(
        &self,
        request: BroadcastRequest,
        caller: Caller,
    ) -> Result<BroadcastResult, Failure> {
        let letter = letter!(request, caller)?;
        if request.channels.is_empty() {
            return Err(Failure::bad("broadcast without channels"));
        }
        if request.channels.len() > self.config.channels {
            return Err(Failure::because(
                ErrorCode::LimitExceeded,
                "more channels than gateway.api.channels",
            ));
        }
        let letter = &letter;
        let responses = stream::iter(request.channels)
            .map(async |channel| {
                let (result, error) = match self.publish_to(&channel, letter, caller).await {
                    Ok(result) => (Some(result), None),
                    Err(failure) => (None, Some(failure.into())),
                };
                PublishResponse { error, result }
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
        Ok(BroadcastResult { responses })
    }

    async fn publish_to(
        &self,
        channel: &str,
        letter: &Letter,
        caller: Caller,
    ) -> Result<PublishResult, Failure> {
        let channel = self.channel(channel)?;
        letter
            .publish(&self.gateway, &channel, caller.key, caller.arrived)
            .await
    }
}
