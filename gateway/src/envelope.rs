//! What a message carries besides its payload, as the rpc `message.send` and the server API take it.

use std::collections::BTreeMap;

use switchboard_proto::bus::{Message, MessageAt, Priority};
use switchboard_proto::ids::LogEpoch;
use switchboard_proto::tags;

/// Bytes of an idempotency key, at most.
const MAX_KEY: usize = 128;

/// Tags of one message, and bytes of each name and value, at most.
const MAX_TAGS: usize = 16;
const MAX_TAG: usize = 256;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Envelope {
    /// A second message of the same sender with the same key, in the same channel, is the first.
    pub(crate) key: String,
    pub(crate) priority: Priority,
    pub(crate) tags: BTreeMap<String, String>,
    /// The id of the message that this one answers.
    pub(crate) reply_to: String,
    /// The message that began the thread which this one belongs to.
    pub(crate) thread: Option<MessageAt>,
}

impl Envelope {
    /// Says what is wrong, in words for the operator, which hold nothing of what was sent.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        self.check_of_ours()?;
        match self.tags.keys().any(|name| name.starts_with(tags::PREFIX)) {
            true => Err("message with a tag that begins with sb-"),
            false => Ok(()),
        }
    }

    /// As [`Envelope::check`], of what a service of ours publishes, which may have tags of ours.
    pub(crate) fn check_of_ours(&self) -> Result<(), &'static str> {
        let is_short = |text: &String| text.len() <= MAX_TAG;
        if self.key.len() > MAX_KEY {
            return Err("message with a key of more than 128 bytes");
        }
        if self.reply_to.len() > MAX_TAG {
            return Err("message with a reply_to of more than 256 bytes");
        }
        if self.tags.len() > MAX_TAGS
            || !self
                .tags
                .iter()
                .all(|(name, value)| is_short(name) && is_short(value))
        {
            return Err("message with more than 16 tags, or one of more than 256 bytes");
        }
        if let Some(thread) = &self.thread {
            let is_epoch = thread.log_epoch.is_empty() || thread.log_epoch.parse::<LogEpoch>().is_ok();
            if thread.offset == 0 || !is_epoch {
                return Err("message in a thread that there cannot be");
            }
        }
        Ok(())
    }

    /// Puts it on `message`, whose id is set.
    pub(crate) fn fill(self, message: &mut Message) {
        let named = match self.priority {
            Priority::Low => Some("low"),
            Priority::Normal => None,
            Priority::High => Some("high"),
            Priority::Critical => Some("critical"),
        };
        message.tags = self.tags;
        message.key = self.key;
        message.set_priority(self.priority);
        let mut tag = |name: &str, value: String| message.tags.insert(name.to_owned(), value);
        tag(tags::ID, tags::id_text(&message.id));
        if let Some(named) = named {
            tag(tags::PRIORITY, named.to_owned());
        }
        if !self.reply_to.is_empty() {
            tag(tags::REPLY_TO, self.reply_to);
        }
        if let Some(thread) = self.thread {
            tag(tags::THREAD, thread.offset.to_string());
            if !thread.log_epoch.is_empty() {
                tag(tags::THREAD_EPOCH, thread.log_epoch.clone());
            }
            message.thread = Some(thread);
        }
    }
}
