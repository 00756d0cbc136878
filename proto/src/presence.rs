//! What the presence service is told, asked and answers: the messages of its service (generated), and each method as a type, for
//! who asks over the bus.

use std::fmt;

use crate::questions::{Service, methods};

/// The messages themselves (generated).
#[allow(clippy::all, unreachable_pub, missing_docs, reason = "generated code")]
mod generated {
    include!("generated/switchboard.presence.rs");
}

pub use generated::*;

/// The service's name, and descriptors of all of it, as reflection answers with them.
pub const SERVICE: &str = "switchboard.presence.PresenceService";
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/switchboard.presence.descriptors");

/// Bytes of a user's id, at most.
pub const MAX_USER: usize = 255;

/// Bytes of each thing that a client says of its device, at most.
pub const MAX_DEVICE_TEXT: usize = 64;

methods! {
    Service::Presence;
    /// What happened at a gateway. Over the bus only.
    Report: ReportRequest => ReportResponse,
    /// What others see of users.
    GetUsers: GetUsersRequest => GetUsersResponse,
    /// All that is known of one user.
    GetUser: GetUserRequest => GetUserResponse,
    /// Changes what a user chose.
    SetUser: SetUserRequest => SetUserResponse,
    /// Who is in a channel.
    ChannelMembers: ChannelMembersRequest => ChannelMembersResponse,
    /// How many are in channels.
    ChannelCounts: ChannelCountsRequest => ChannelCountsResponse,
}

impl Status {
    /// As clients spell it; `None` for [`Status::Unspecified`] and what no client may say.
    pub fn from_word(word: &str) -> Option<Self> {
        [
            Self::Online,
            Self::Away,
            Self::Busy,
            Self::Invisible,
            Self::Offline,
        ]
        .into_iter()
        .find(|status| status.word() == word)
    }

    /// As clients read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Away => "away",
            Self::Busy => "busy",
            Self::Invisible => "invisible",
            Self::Unspecified | Self::Offline => "offline",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Visibility {
    /// As clients and the configuration spell it.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Everybody, Self::Shared, Self::Nobody]
            .into_iter()
            .find(|visibility| visibility.word() == word)
    }

    /// As clients and the configuration read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "default",
            Self::Everybody => "everybody",
            Self::Shared => "shared",
            Self::Nobody => "nobody",
        }
    }
}
