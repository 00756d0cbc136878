//! What a change does to the message that it is about: edits, deletions, reactions and replies are messages of the same
//! channel, and whoever shows the channel's messages folds the former into the latter.
//!
//! The owner's window, what is read from the log, and the message store must show the same, so what that is stands here.
//! No I/O and no clock.
//!
//! The rules, each with a test here or in `persistence-svc`'s conformance suite:
//! * Of two edits the later in the log holds. What is deleted stays deleted, whatever comes before or behind it.
//! * A deletion takes the content of the message *and of its edits*: their places and who sent them stay.
//! * A change of a message that is not there, or of another channel's, does nothing.

use bytes::Bytes;
use prost::Message as _;
use switchboard_proto::bus::{Change, Message, MessageAt, PayloadKind, Sender, change};
use switchboard_proto::ids::{LogEpoch, Offset};
use switchboard_proto::tags;

/// Bytes of a reaction, at most. A longer one is none.
pub const MAX_REACTION: usize = 64;

/// What a message without content says.
const NOTHING: Bytes = Bytes::from_static(b"null");

/// Of a message's tags these stay when it is deleted: they tell what it is, not what was said.
const STRUCTURE: [&str; 7] = [
    tags::ID,
    tags::CHANNEL,
    tags::CHANGE,
    tags::TARGET,
    tags::TARGET_EPOCH,
    tags::THREAD,
    tags::THREAD_EPOCH,
];

/// What a message does to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does<'a> {
    /// Its payload is the other's from now on.
    Edit,
    /// The other is gone.
    Delete,
    /// Its sender feels so about the other, or no longer.
    React {
        /// Never empty, and at most [`MAX_REACTION`] bytes.
        reaction: &'a str,
        /// No longer.
        remove: bool,
    },
}

/// Which message a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The one at this place of the same life of the log.
    Here(Offset),
    /// The one at this place of another life of it.
    Elsewhere(LogEpoch, Offset),
    /// In an inbox: the entry that was derived from the message with this id.
    Copy(MessageId),
}

/// A message's id, as far as it is needed to tell it from others: the half of the UUID that is random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

impl MessageId {
    /// Of a UUID's 16 bytes; `None`: these are none.
    pub fn new(id: &[u8]) -> Option<Self> {
        let random: [u8; 8] = id.get(8..16)?.try_into().ok()?;
        (id.len() == 16).then_some(Self(u64::from_be_bytes(random)))
    }
}

/// What makes a message more than one, decoded without the rest: nothing is allocated for a message that is no more.
#[derive(Clone, PartialEq, prost::Message)]
struct Peek {
    #[prost(message, optional, tag = "13")]
    change: Option<Change>,
    #[prost(message, optional, tag = "14")]
    thread: Option<MessageAt>,
}

/// Whether an encoded `Message` is of interest to who folds: it is a change, or belongs to a thread.
pub fn is_foldable(encoded: &[u8]) -> bool {
    Peek::decode(encoded).is_ok_and(|peek| peek.change.is_some() || peek.thread.is_some())
}

/// What `message`, which stands in `log`, does to which message; `None`: nothing that is known here.
pub fn effect(message: &Message, log: LogEpoch) -> Option<(Target, Does<'_>)> {
    let target = about(message)?;
    let does = match message.change.as_ref()?.what.as_ref()? {
        change::What::Edit(_) => Does::Edit,
        change::What::Delete(_) => Does::Delete,
        change::What::React(react) => {
            let reaction = react.reaction.as_str();
            let is_one = (1..=MAX_REACTION).contains(&reaction.len()) && !reaction.contains('\0');
            let remove = react.remove;
            is_one.then_some(Does::React { reaction, remove })?
        }
        change::What::Members(_) | change::What::Erase(_) => return None,
    };
    if message.origin.is_some() {
        return Some((Target::Copy(MessageId::new(&target.id)?), does));
    }
    Some((place(target, log)?, does))
}

/// The message that began the thread which `message` belongs to. An inbox entry belongs to none: its conversation's message
/// does.
pub fn thread(message: &Message, log: LogEpoch) -> Option<Target> {
    match &message.origin {
        None => place(message.thread.as_ref()?, log),
        Some(_) => None,
    }
}

fn place(at: &MessageAt, log: LogEpoch) -> Option<Target> {
    let offset = Offset::from_u64(at.offset);
    if at.log_epoch.is_empty() {
        return Some(Target::Here(offset));
    }
    let of: LogEpoch = at.log_epoch.parse().ok()?;
    Some(if of == log {
        Target::Here(offset)
    } else {
        Target::Elsewhere(of, offset)
    })
}

/// Whether the message was deleted, or is an edit of one that was.
pub fn is_deleted(message: &Message) -> bool {
    message.tags.contains_key(tags::DELETED)
}

/// `message`, with what `edit` says since it was stored at `at`.
#[must_use]
pub fn edited(mut message: Message, edit: &Message, at: Offset) -> Message {
    if is_deleted(&message) || is_deleted(edit) {
        return message;
    }
    message.payload.clone_from(&edit.payload);
    message.kind = edit.kind;
    message.tags.insert(tags::EDITED.to_owned(), at.to_string());
    message
}

/// What is left of a message, or of an edit of it, that was deleted.
#[must_use]
pub fn deleted(message: Message) -> Message {
    let mut tags = message.tags;
    tags.retain(|name, _| STRUCTURE.contains(&name.as_str()));
    tags.insert(tags::DELETED.to_owned(), "true".to_owned());
    Message {
        kind: PayloadKind::Json.into(),
        payload: NOTHING,
        sender: message.sender.map(|sender| Sender {
            user: sender.user,
            client: sender.client,
            ..Sender::default()
        }),
        tags,
        headers: Vec::new(),
        key: String::new(),
        ..message
    }
}

/// As [`edited`], of encoded messages. What does not decode stays as it is.
pub fn edited_bytes(encoded: &Bytes, edit: &Message, at: Offset) -> Bytes {
    match Message::decode(encoded.clone()) {
        Ok(message) => edited(message, edit, at).encode_to_vec().into(),
        Err(_) => encoded.clone(),
    }
}

/// As [`deleted`], of an encoded message. What does not decode says nothing any more.
pub fn deleted_bytes(encoded: &Bytes) -> Bytes {
    match Message::decode(encoded.clone()) {
        Ok(message) => deleted(message).encode_to_vec().into(),
        Err(_) => Bytes::new(),
    }
}

/// When the message with this id was made, in Unix microseconds: a UUID of version 7 says so, to the millisecond.
pub fn made_us(id: &[u8]) -> Option<u64> {
    let is_v7 = id.len() == 16 && id.get(6).is_some_and(|byte| byte >> 4 == 7);
    let millis = id.get(..6).filter(|_| is_v7)?;
    let millis = millis.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    Some(millis * 1000)
}

/// The message that a change is about, as the change names it; `None`: it is no change of a message.
pub fn about(message: &Message) -> Option<&MessageAt> {
    match message.change.as_ref()?.what.as_ref()? {
        change::What::Edit(edit) => edit.target.as_ref(),
        change::What::Delete(delete) => delete.target.as_ref(),
        change::What::React(react) => react.target.as_ref(),
        change::What::Members(_) | change::What::Erase(_) => None,
    }
}
