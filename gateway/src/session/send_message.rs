//! The rpc `message.send`: what `publish` has no field for.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use switchboard_proto::bus::{MessageAt, Priority};

use crate::envelope::Envelope;

/// What a client asks to be sent.
#[derive(Debug)]
pub(super) struct SendMessage<'a> {
    pub(super) channel: String,
    data: &'a RawValue,
    pub(super) envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<'a> {
    channel: String,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    key: String,
    #[serde(default)]
    priority: Urgency,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    reply_to: String,
    /// The offset of the message that began the thread.
    thread: Option<u64>,
    /// The life of the log that it is of; empty: the one in force.
    #[serde(default)]
    thread_epoch: String,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Urgency {
    Low,
    #[default]
    Normal,
    High,
    Critical,
}

impl From<Urgency> for Priority {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Low => Self::Low,
            Urgency::Normal => Self::Normal,
            Urgency::High => Self::High,
            Urgency::Critical => Self::Critical,
        }
    }
}

impl<'a> SendMessage<'a> {
    /// Parses the rpc's data; a fault in words for the operator, which hold nothing of what was sent.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, &'static str> {
        let parsed: Request<'_> = serde_json::from_slice(data)
            .map_err(|_| "message.send wants {channel, data, key?, priority?, tags?, reply_to?, thread?, thread_epoch?}")?;
        let Request {
            channel,
            data,
            key,
            priority,
            tags,
            reply_to,
            thread,
            thread_epoch,
        } = parsed;
        let envelope = Envelope {
            key,
            priority: priority.into(),
            tags,
            reply_to,
            thread: thread.map(|offset| MessageAt {
                offset,
                log_epoch: thread_epoch,
                ..MessageAt::default()
            }),
        };
        envelope.check()?;
        Ok(SendMessage {
            channel,
            data,
            envelope,
        })
    }

    /// The payload, as it stands.
    pub(super) fn data(&self) -> Bytes {
        Bytes::copy_from_slice(self.data.get().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use switchboard_proto::bus::Message;

    use super::*;

    #[test]
    fn everything_that_can_be_said_is_in_the_message() {
        let data = br#"{"channel":"room:1","data":{"a": 1},"key":"k","priority":"high","tags":{"lang":"en"},"reply_to":"x"}"#;
        let request = SendMessage::parse(data).unwrap();
        assert_eq!(request.data(), r#"{"a": 1}"#);
        let mut message = Message {
            id: Bytes::from_static(&[1; 16]),
            ..Message::default()
        };
        request.envelope.fill(&mut message);
        assert_eq!((message.key.as_str(), message.priority()), ("k", Priority::High));
        let tags: Vec<(&str, &str)> = message
            .tags
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let expected = [
            ("lang", "en"),
            ("sb-id", "01010101-0101-0101-0101-010101010101"),
            ("sb-priority", "high"),
            ("sb-reply-to", "x"),
        ];
        assert_eq!(tags, expected);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let long = "x".repeat(300);
        for wrong in [
            "".to_owned(),
            "[]".to_owned(),
            r#"{"channel":"a"}"#.to_owned(),
            r#"{"data":1}"#.to_owned(),
            r#"{"channel":"a","data":1,"colour":"red"}"#.to_owned(),
            r#"{"channel":"a","data":1,"priority":"urgent"}"#.to_owned(),
            r#"{"channel":"a","data":1,"tags":{"sb-id":"x"}}"#.to_owned(),
            format!(r#"{{"channel":"a","data":1,"key":"{long}"}}"#),
            format!(r#"{{"channel":"a","data":1,"reply_to":"{long}"}}"#),
            format!(r#"{{"channel":"a","data":1,"tags":{{"a":"{long}"}}}}"#),
        ] {
            assert!(SendMessage::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
