//! Lines that stand beside the messages of an export.

use serde::{Deserialize, Serialize};
use switchboard_proto::bus::MemberRole;
use switchboard_proto::ids::Offset;

use crate::keeping::packed::epoch;
use crate::store::Place;
use crate::store::conversations::Mark;
use crate::store::moving::{ChannelHead, MemberRow};

/// A place as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct At {
    epoch: String,
    offset: u64,
}

impl At {
    fn of(place: Place) -> Self {
        Self {
            epoch: place.log.to_string(),
            offset: place.offset.get(),
        }
    }

    fn place(&self) -> Result<Place, String> {
        Ok(Place {
            log: epoch(&self.epoch)?,
            offset: Offset::from_u64(self.offset),
        })
    }
}

/// What messages do not tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Line {
    /// The newest message of a channel.
    Head { channel: String, at: At, time_us: u64 },
    /// Up to where messages of a channel are hidden.
    Hidden { channel: String, at: At },
    /// Who is in a channel; without a role no more.
    Member {
        channel: String,
        user: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        role: Option<Role>,
        at: At,
        since: At,
    },
    /// Up to where a user has a channel.
    Receipt {
        channel: String,
        user: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        delivered: Option<At>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        read: Option<At>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    Member,
    Owner,
}

/// What a line says.
#[derive(Debug)]
pub(super) enum Beside {
    Head(ChannelHead),
    Hidden(String, Place),
    Member(MemberRow),
    Receipt(Mark),
}

impl Line {
    pub(super) fn of_head(head: &ChannelHead) -> Self {
        Self::Head {
            channel: head.channel.clone(),
            at: At::of(head.place),
            time_us: head.time_us,
        }
    }

    pub(super) fn of_hidden((channel, place): &(String, Place)) -> Self {
        Self::Hidden {
            channel: channel.clone(),
            at: At::of(*place),
        }
    }

    pub(super) fn of_member(member: &MemberRow) -> Self {
        Self::Member {
            channel: member.channel.clone(),
            user: member.user.clone(),
            role: member.role.map(|role| match role {
                MemberRole::Member => Role::Member,
                MemberRole::Owner => Role::Owner,
            }),
            at: At::of(member.place),
            since: At::of(member.since),
        }
    }

    pub(super) fn of_receipt(mark: &Mark) -> Self {
        Self::Receipt {
            channel: mark.channel.clone(),
            user: mark.user.clone(),
            delivered: mark.delivered.map(At::of),
            read: mark.read.map(At::of),
        }
    }

    /// What it says; the reason why it says nothing that can be.
    pub(super) fn beside(self) -> Result<Beside, String> {
        Ok(match self {
            Self::Head { channel, at, time_us } => Beside::Head(ChannelHead {
                channel,
                place: at.place()?,
                time_us,
            }),
            Self::Hidden { channel, at } => Beside::Hidden(channel, at.place()?),
            Self::Member {
                channel,
                user,
                role,
                at,
                since,
            } => Beside::Member(MemberRow {
                channel,
                user,
                role: role.map(|role| match role {
                    Role::Member => MemberRole::Member,
                    Role::Owner => MemberRole::Owner,
                }),
                place: at.place()?,
                since: since.place()?,
            }),
            Self::Receipt {
                channel,
                user,
                delivered,
                read,
            } => Beside::Receipt(Mark {
                channel,
                user,
                delivered: delivered.as_ref().map(At::place).transpose()?,
                read: read.as_ref().map(At::place).transpose()?,
            }),
        })
    }
}
