//! Subjects as types: the one place where a subject is spelled.
//!
//! Ids are the only variable parts, never a user's or a channel's name, so that no input can become
//! a wildcard or break the bus's line protocol.

use std::fmt;
use std::sync::Arc;

use switchboard_proto::ids::{Incarnation, ShardId};

use crate::position::ReaderName;

/// The first token of every subject, `sb` unless configured, so that two installations may share
/// one NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectPrefix(Arc<str>);

impl SubjectPrefix {
    /// Letters, digits, `-` and `_`, 1 to 32 of them; `None` otherwise.
    pub fn new(prefix: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let fits = (1..=32).contains(&prefix.len()) && prefix.bytes().all(allowed);
        fits.then(|| Self(prefix.into()))
    }

    /// As it stands in subjects.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject under which a shard's records are stored. Only routers may publish there
    /// (rule L8).
    pub(crate) fn log_subject(&self, ordinal: u32, shard: ShardId) -> String {
        format!("{}.log.{ordinal}.{shard}", self.0)
    }

    /// The stream that stores a shard's records. The ordinal of the log epoch is part of it (rule
    /// L5).
    pub(crate) fn log_stream(&self, ordinal: u32, shard: ShardId) -> String {
        format!("{}_LOG_{ordinal}_{shard}", self.0.to_ascii_uppercase())
    }

    /// The subject under which the layout record is stored.
    pub(crate) fn layout_subject(&self) -> String {
        format!("{}.layout", self.0)
    }

    /// The stream that stores the layout record.
    pub(crate) fn layout_stream(&self) -> String {
        format!("{}_LAYOUT", self.0.to_ascii_uppercase())
    }

    /// The subject under which a reader's position in a shard is stored. Not below the log's, so that
    /// a reader needs no right to publish there (rule L8).
    pub(crate) fn reader_subject(&self, reader: &ReaderName, shard: ShardId) -> String {
        format!("{}.reader.{reader}.{shard}", self.0)
    }

    /// All of these.
    pub(crate) fn reader_subjects(&self) -> String {
        format!("{}.reader.*.*", self.0)
    }

    /// What [`SubjectPrefix::reader_subject`] was made of.
    pub(crate) fn reader_of(&self, subject: &str) -> Option<(ReaderName, ShardId)> {
        let rest = subject.strip_prefix(&*self.0)?.strip_prefix(".reader.")?;
        let (reader, shard) = rest.split_once('.')?;
        Some((ReaderName::new(reader)?, ShardId::new(shard.parse().ok()?)?))
    }

    /// The stream that stores readers' positions.
    pub(crate) fn reader_stream(&self) -> String {
        format!("{}_READERS", self.0.to_ascii_uppercase())
    }

    /// A subject that nobody ever subscribes to: a request there is answered at once by the server
    /// itself, which so has read everything sent to it before on the same connection.
    pub(crate) fn nobody(&self) -> String {
        format!("{}.nobody", self.0)
    }
}

impl Default for SubjectPrefix {
    fn default() -> Self {
        Self("sb".into())
    }
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// From gateways to the owner of a shard. Names the router too, so that a frame meant for one
    /// owner never reaches its successor.
    LinkUp {
        /// The shard.
        shard: ShardId,
        /// The owner's process.
        router: Incarnation,
    },
    /// From a shard's owner to one gateway.
    LinkDown {
        /// The gateway's process.
        gateway: Incarnation,
        /// The shard.
        shard: ShardId,
    },
    /// From the owner of one shard to the owner of another, and back: derived entries. Names the router,
    /// as above.
    Derive {
        /// The shard of who receives it.
        shard: ShardId,
        /// The receiver's process.
        router: Incarnation,
    },
    /// Requests to the owner of a shard: what was said in a channel. Names the router, as above.
    History {
        /// The shard.
        shard: ShardId,
        /// The owner's process.
        router: Incarnation,
    },
    /// Questions about what is stored: to any replica of the persistence service.
    Messages,
    /// What gateways tell the presence service, and questions about who is here: to any replica of it.
    Presence,
    /// Questions to any replica of the notify service.
    Notifications,
    /// What services that have no links ask of any gateway.
    Publishing,
    /// From replicas of the presence service to whoever watches users: what changed.
    PresenceChanges,
    /// From the presence service to one gateway: who joined and left channels that it has subscribers of.
    Joins {
        /// The gateway's process.
        gateway: Incarnation,
    },
    /// Owners say that they own.
    OwnerBeat {
        /// The shard.
        shard: ShardId,
    },
    /// Processes say that they live.
    MemberBeat,
    /// From one gateway to all gateways, itself among them: what the server API asks about their sessions.
    Control,
    /// Their answers.
    ControlAnswer {
        /// Who asked.
        gateway: Incarnation,
    },
}

impl Subject {
    /// The subject as the bus spells it, behind `prefix`.
    pub fn to_text(self, prefix: &SubjectPrefix) -> String {
        let prefix = prefix.as_str();
        match self {
            Self::LinkUp { shard, router } => format!("{prefix}.link.up.{shard}.{router}"),
            Self::LinkDown { gateway, shard } => format!("{prefix}.link.down.{gateway}.{shard}"),
            Self::Derive { shard, router } => format!("{prefix}.derive.{shard}.{router}"),
            Self::History { shard, router } => format!("{prefix}.history.{shard}.{router}"),
            Self::Messages => format!("{prefix}.messages"),
            Self::Presence => format!("{prefix}.presence"),
            Self::Notifications => format!("{prefix}.notifications"),
            Self::Publishing => format!("{prefix}.publishing"),
            Self::PresenceChanges => format!("{prefix}.watch"),
            Self::Joins { gateway } => format!("{prefix}.joins.{gateway}"),
            Self::OwnerBeat { shard } => format!("{prefix}.owner.{shard}"),
            Self::MemberBeat => format!("{prefix}.member"),
            Self::Control => format!("{prefix}.control"),
            Self::ControlAnswer { gateway } => format!("{prefix}.answer.{gateway}"),
        }
    }
}

/// What a subscriber asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// One subject.
    Exactly(Subject),
    /// [`Subject::OwnerBeat`] of every shard.
    AllOwnerBeats,
}

impl Pattern {
    /// The pattern as the bus spells it, behind `prefix`.
    pub fn to_text(self, prefix: &SubjectPrefix) -> String {
        match self {
            Self::Exactly(subject) => subject.to_text(prefix),
            Self::AllOwnerBeats => format!("{}.owner.*", prefix.as_str()),
        }
    }
}

/// Subscribers of one group share a subject's messages: each goes to one of them, in no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueueGroup(pub &'static str);

impl fmt::Display for QueueGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling() {
        let prefix = SubjectPrefix::default();
        let shard = ShardId::new(7).unwrap();
        let life = Incarnation::from_u128(0xab);
        let hex = "000000000000000000000000000000ab";
        assert_eq!(
            Subject::LinkUp { shard, router: life }.to_text(&prefix),
            format!("sb.link.up.7.{hex}")
        );
        assert_eq!(
            Subject::LinkDown { gateway: life, shard }.to_text(&prefix),
            format!("sb.link.down.{hex}.7")
        );
        assert_eq!(
            Subject::Derive { shard, router: life }.to_text(&prefix),
            format!("sb.derive.7.{hex}")
        );
        assert_eq!(
            Subject::History { shard, router: life }.to_text(&prefix),
            format!("sb.history.7.{hex}")
        );
        assert_eq!(Pattern::AllOwnerBeats.to_text(&prefix), "sb.owner.*");
        assert_eq!(Subject::Messages.to_text(&prefix), "sb.messages");
        assert_eq!(Subject::Presence.to_text(&prefix), "sb.presence");
        assert_eq!(Subject::Notifications.to_text(&prefix), "sb.notifications");
        assert_eq!(Subject::Publishing.to_text(&prefix), "sb.publishing");
        assert_eq!(Subject::PresenceChanges.to_text(&prefix), "sb.watch");
        assert_eq!(
            Subject::Joins { gateway: life }.to_text(&prefix),
            format!("sb.joins.{hex}")
        );
        assert_eq!(Subject::Control.to_text(&prefix), "sb.control");
        assert_eq!(
            Subject::ControlAnswer { gateway: life }.to_text(&prefix),
            format!("sb.answer.{hex}")
        );
    }

    #[test]
    fn spelling_of_what_is_stored() {
        let prefix = SubjectPrefix::new("blue-1").unwrap();
        let shard = ShardId::new(7).unwrap();
        assert_eq!(prefix.log_subject(2, shard), "blue-1.log.2.7");
        assert_eq!(prefix.log_stream(2, shard), "BLUE-1_LOG_2_7");
        assert_eq!(prefix.layout_subject(), "blue-1.layout");
        assert_eq!(prefix.layout_stream(), "BLUE-1_LAYOUT");
        let reader = ReaderName::new("persistence").unwrap();
        let subject = prefix.reader_subject(&reader, shard);
        assert_eq!(subject, "blue-1.reader.persistence.7");
        assert_eq!(prefix.reader_of(&subject), Some((reader, shard)));
        for other in ["sb.reader.persistence.7", "blue-1.reader.7", "blue-1.reader.p.x"] {
            assert_eq!(prefix.reader_of(other), None, "{other}");
        }
        assert_eq!(prefix.reader_subjects(), "blue-1.reader.*.*");
        assert_eq!(prefix.reader_stream(), "BLUE-1_READERS");
    }

    #[test]
    fn prefix_cannot_hold_more_than_one_token() {
        for wrong in ["", "a.b", "a*", ">", "a b", &"x".repeat(33)] {
            assert!(SubjectPrefix::new(wrong).is_none(), "{wrong}");
        }
        assert_eq!(SubjectPrefix::new("blue-1").unwrap().as_str(), "blue-1");
    }
}
