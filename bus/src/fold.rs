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

/// Reactions of one message that are told, and beyond which no further one is taken.
pub const MAX_REACTIONS: usize = 64;

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
        change::What::Members(_) => return None,
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

/// As [`made_us`], of an encoded message.
pub fn encoded_made_us(message: &[u8]) -> Option<u64> {
    // Fields are encoded in their order, and the id is the first: 16 bytes.
    made_us(message.strip_prefix(&[0x0a, 16])?.get(..16)?)
}

/// The message that a change is about, as the change names it; `None`: it is no change of a message.
pub fn about(message: &Message) -> Option<&MessageAt> {
    match message.change.as_ref()?.what.as_ref()? {
        change::What::Edit(edit) => edit.target.as_ref(),
        change::What::Delete(delete) => delete.target.as_ref(),
        change::What::React(react) => react.target.as_ref(),
        change::What::Members(_) => None,
    }
}

/// What is to be shown of all messages of a log, folded the slow way: what windows and stores are compared with in tests.
#[cfg(any(test, feature = "conformance"))]
#[must_use]
pub fn folded_log(log: LogEpoch, messages: &[(Offset, Message)]) -> Vec<(Offset, Message)> {
    let names = |of: Offset, said: &Message, change: &Message| {
        change.channel == said.channel
            && match effect(change, log) {
                Some((Target::Here(offset), _)) => offset == of,
                Some((Target::Copy(id), _)) => {
                    said.origin == change.origin && MessageId::new(&said.id) == Some(id)
                }
                Some((Target::Elsewhere(..), _)) | None => false,
            }
    };
    let does = |change: &Message, what: Does<'_>| effect(change, log).is_some_and(|(_, does)| does == what);
    let is_deleted = |of: Offset, said: &Message| {
        let mut changes = messages.iter();
        changes.any(|(_, change)| names(of, said, change) && does(change, Does::Delete))
    };
    let shown = messages.iter().map(|(offset, message)| {
        let edited_is_deleted = || {
            let mut said = messages.iter();
            said.any(|(of, said)| names(*of, said, message) && is_deleted(*of, said))
        };
        let newest = messages
            .iter()
            .rfind(|(_, change)| names(*offset, message, change) && does(change, Does::Edit));
        let message = message.clone();
        let shown = if is_deleted(*offset, &message) || (does(&message, Does::Edit) && edited_is_deleted()) {
            deleted(message)
        } else if let Some((at, edit)) = newest {
            edited(message, edit, *at)
        } else {
            message
        };
        (*offset, shown)
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use switchboard_proto::bus::{Delete, Edit, Header, Origin, React};

    use super::*;

    const LOG: LogEpoch = LogEpoch {
        ordinal: 2,
        random: 7,
    };

    fn said() -> Message {
        Message {
            id: Bytes::from_static(b"0123456789abcdef"),
            channel: "room:1".to_owned(),
            kind: PayloadKind::Opaque.into(),
            payload: Bytes::from_static(b"secret"),
            sender: Some(Sender {
                user: "alice".to_owned(),
                client: "c".to_owned(),
                conn_info: Bytes::from_static(b"secret"),
                chan_info: Bytes::from_static(b"secret"),
            }),
            tags: BTreeMap::from([
                (tags::ID.to_owned(), "x".to_owned()),
                (tags::REPLY_TO.to_owned(), "secret".to_owned()),
                ("topic".to_owned(), "secret".to_owned()),
            ]),
            headers: vec![Header {
                name: "secret".to_owned(),
                value: Bytes::new(),
            }],
            key: "secret".to_owned(),
            ..Message::default()
        }
    }

    fn at(offset: u64, log_epoch: &str) -> Option<MessageAt> {
        Some(MessageAt {
            offset,
            log_epoch: log_epoch.to_owned(),
            id: said().id,
        })
    }

    fn change(what: change::What) -> Message {
        Message {
            change: Some(Change { what: Some(what) }),
            ..said()
        }
    }

    #[test]
    fn nothing_of_the_content_is_left() {
        let encoded = deleted_bytes(&said().encode_to_vec().into());
        assert!(!String::from_utf8_lossy(&encoded).contains("secret"));
        let left = Message::decode(encoded).unwrap();
        assert!(is_deleted(&left));
        assert_eq!(
            (left.payload.as_ref(), left.kind()),
            (b"null".as_ref(), PayloadKind::Json)
        );
        assert_eq!(left.sender.as_ref().unwrap().user, "alice");
        assert_eq!(left.tags[tags::ID], "x");
        assert_eq!(deleted(left.clone()), left, "once is enough");
        assert_eq!(deleted_bytes(&Bytes::from_static(b"\xff")), Bytes::new());
    }

    #[test]
    fn an_edit_brings_its_payload_and_nothing_else_and_nothing_back() {
        let edit = Message {
            payload: Bytes::from_static(b"1"),
            kind: PayloadKind::Json.into(),
            ..change(change::What::Edit(Edit { target: at(5, "") }))
        };
        let message = edited(said(), &edit, Offset::from_u64(9));
        assert_eq!(
            (message.payload.as_ref(), message.kind()),
            (b"1".as_ref(), PayloadKind::Json)
        );
        assert_eq!(
            (message.tags[tags::EDITED].as_str(), message.change.is_none()),
            ("9", true)
        );
        let gone = deleted(said());
        assert_eq!(edited(gone.clone(), &edit, Offset::from_u64(9)), gone);
    }

    #[test]
    fn a_change_names_its_target_in_its_own_log_or_another_or_by_the_id() {
        let offset = Offset::from_u64(5);
        let old = LogEpoch {
            ordinal: 1,
            random: 9,
        };
        let delete = |target| change(change::What::Delete(Delete { target }));
        let of = |message: &Message| effect(message, LOG).map(|(target, _)| target);
        assert_eq!(of(&delete(at(5, ""))), Some(Target::Here(offset)));
        assert_eq!(of(&delete(at(5, &LOG.to_string()))), Some(Target::Here(offset)));
        assert_eq!(
            of(&delete(at(5, &old.to_string()))),
            Some(Target::Elsewhere(old, offset))
        );
        assert_eq!(of(&delete(at(5, "what?"))), None);
        assert_eq!(of(&delete(None)), None);
        let entry = Message {
            origin: Some(Origin::default()),
            ..delete(at(5, ""))
        };
        assert_eq!(of(&entry), MessageId::new(&said().id).map(Target::Copy));
        let reply = Message {
            thread: at(5, ""),
            ..said()
        };
        assert_eq!(thread(&reply, LOG), Some(Target::Here(offset)));
        assert!(effect(&reply, LOG).is_none() && thread(&said(), LOG).is_none());
    }

    #[test]
    fn a_reaction_is_short_text() {
        let react = |reaction: &str| {
            change(change::What::React(React {
                target: at(5, ""),
                reaction: reaction.to_owned(),
                remove: true,
            }))
        };
        let long = "x".repeat(MAX_REACTION + 1);
        for wrong in ["", "a\0b", long.as_str()] {
            assert_eq!(effect(&react(wrong), LOG), None, "{wrong:?}");
        }
        let (reaction, remove) = ("👍", true);
        let expected = Some((
            Target::Here(Offset::from_u64(5)),
            Does::React { reaction, remove },
        ));
        assert_eq!(effect(&react("👍"), LOG), expected);
    }

    #[test]
    fn what_is_no_change_is_seen_as_such() {
        let encoded = |message: &Message| message.encode_to_vec();
        assert!(!is_foldable(&encoded(&said())));
        assert!(!is_foldable(b"room:odd 1/0"));
        assert!(is_foldable(&encoded(&change(
            change::What::Edit(Edit::default())
        ))));
        let reply = Message {
            thread: at(5, ""),
            ..said()
        };
        assert!(is_foldable(&encoded(&reply)));
    }

    #[test]
    fn a_uuid_says_when_it_was_made() {
        let id = [0x01, 0x8f, 0, 0, 0, 1, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(made_us(&id), Some(0x018f_0000_0001 * 1000));
        assert_eq!(made_us(&[0; 16]), None, "of another version");
        assert_eq!(made_us(b""), None);
        let message = Message {
            id: id.to_vec().into(),
            channel: "room:1".to_owned(),
            ..Message::default()
        };
        assert_eq!(encoded_made_us(&message.encode_to_vec()), made_us(&id));
        assert_eq!(encoded_made_us(&Message::default().encode_to_vec()), None);
    }
}
