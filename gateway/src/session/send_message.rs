//! The rpc `message.send`: what `publish` has no field for.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use switchboard_proto::bus::{Message, Priority};
use switchboard_proto::tags;

/// Bytes of an idempotency key, at most.
const MAX_KEY: usize = 128;

/// Tags of one message, and bytes of each name and value, at most.
const MAX_TAGS: usize = 16;
const MAX_TAG: usize = 256;

/// What a client asks to be sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SendMessage<'a> {
    pub(super) channel: String,
    #[serde(borrow)]
    data: &'a RawValue,
    /// A second message of the same user with the same key, in the same channel, is the first.
    #[serde(default)]
    key: String,
    #[serde(default)]
    priority: Urgency,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// The id of the message that this one answers.
    #[serde(default)]
    reply_to: String,
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

impl<'a> SendMessage<'a> {
    /// Parses the rpc's data; a fault in words for the operator, which hold nothing of what was sent.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, &'static str> {
        let parsed: Self = serde_json::from_slice(data)
            .map_err(|_| "message.send wants {channel, data, key?, priority?, tags?, reply_to?}")?;
        let is_short = |text: &String| text.len() <= MAX_TAG;
        if parsed.key.len() > MAX_KEY {
            return Err("message.send with a key of more than 128 bytes");
        }
        if parsed.reply_to.len() > MAX_TAG {
            return Err("message.send with a reply_to of more than 256 bytes");
        }
        if parsed.tags.len() > MAX_TAGS
            || !parsed
                .tags
                .iter()
                .all(|(name, value)| is_short(name) && is_short(value))
        {
            return Err("message.send with more than 16 tags, or one of more than 256 bytes");
        }
        if parsed.tags.keys().any(|name| name.starts_with(tags::PREFIX)) {
            return Err("message.send with a tag that begins with sb-");
        }
        Ok(parsed)
    }

    /// The payload, as it stands.
    pub(super) fn data(&self) -> Bytes {
        Bytes::copy_from_slice(self.data.get().as_bytes())
    }

    /// Puts everything but channel and payload into `message`.
    pub(super) fn fill(self, message: &mut Message) {
        let (priority, named) = match self.priority {
            Urgency::Low => (Priority::Low, Some("low")),
            Urgency::Normal => (Priority::Normal, None),
            Urgency::High => (Priority::High, Some("high")),
            Urgency::Critical => (Priority::Critical, Some("critical")),
        };
        message.tags = self.tags;
        message.key = self.key;
        message.set_priority(priority);
        let mut tag = |name: &str, value: String| message.tags.insert(name.to_owned(), value);
        tag(tags::ID, tags::id_text(&message.id));
        if let Some(named) = named {
            tag(tags::PRIORITY, named.to_owned());
        }
        if !self.reply_to.is_empty() {
            tag(tags::REPLY_TO, self.reply_to);
        }
    }
}

#[cfg(test)]
mod tests {
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
        request.fill(&mut message);
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
