//! In which order a frame may leave, compared with others of the same client.
//!
//! Each channel is a lane, inside which nothing is ever reordered (R2). What belongs to no channel has a
//! lane of its own.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use switchboard_proto::bus::Priority;

/// What decides where a frame goes in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) struct Way {
    /// A hash of the channel's name. Two channels with the same one share a lane, which keeps the order of
    /// both and costs no more than that one's priority holds for the other.
    pub(super) lane: u32,
    pub(super) precedence: Precedence,
    /// May be dropped before the client is closed as slow.
    pub(super) is_droppable: bool,
}

/// How urgent a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precedence {
    Low,
    Normal,
    /// Somebody waits for it, and gives up after 5 seconds: not reordered by itself, and never overtaken.
    Answer,
    High,
    Critical,
}

/// The lane of what belongs to no channel.
const NO_CHANNEL: u32 = 0;

impl Way {
    /// An answer that belongs to no channel, or is told by its id alone from others of its channel.
    pub(in crate::session) const ANSWER: Self = Self {
        lane: NO_CHANNEL,
        precedence: Precedence::Answer,
        is_droppable: false,
    };

    /// A message of the server's to this client, in the lane of [`Way::ANSWER`]: before the backlog of all
    /// channels.
    pub(in crate::session) const SYSTEM: Self = Self {
        precedence: Precedence::Critical,
        ..Self::ANSWER
    };

    /// An answer that has to keep its place in `channel`.
    pub(in crate::session) fn answer_in(channel: &str) -> Self {
        Self {
            lane: lane(channel),
            ..Self::ANSWER
        }
    }

    /// What nobody asked for at this moment, in `channel`.
    pub(in crate::session) fn push_in(channel: &str, priority: Priority) -> Self {
        Self {
            lane: lane(channel),
            precedence: match priority {
                Priority::Low => Precedence::Low,
                Priority::Normal => Precedence::Normal,
                Priority::High => Precedence::High,
                Priority::Critical => Precedence::Critical,
            },
            is_droppable: false,
        }
    }

    /// As [`Way::push_in`], of a message that is not stored: one of low priority may be dropped.
    pub(in crate::session) fn ephemeral_in(channel: &str, priority: Priority) -> Self {
        let way = Self::push_in(channel, priority);
        Self {
            is_droppable: way.precedence == Precedence::Low,
            ..way
        }
    }
}

fn lane(channel: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    channel.hash(&mut hasher);
    // The lower half of a hash is a hash.
    let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
    u32::from_le_bytes([a, b, c, d]).max(NO_CHANNEL + 1)
}

/// Frames of a higher rank leave first.
pub(super) const RANKS: usize = 4;

impl Precedence {
    /// Among frames of several priorities. An answer goes with the most urgent, so that nothing that came after
    /// it leaves before it.
    pub(super) fn rank(self) -> usize {
        match self {
            Self::Low => 0,
            Self::Normal => 1,
            Self::High => 2,
            Self::Critical | Self::Answer => 3,
        }
    }

    /// Where all waiting frames may leave as they came. An answer alone is no reason to reorder them.
    pub(super) fn rank_in_order(self) -> usize {
        match self {
            Self::Answer => Self::Normal.rank(),
            Self::Low | Self::Normal | Self::High | Self::Critical => self.rank(),
        }
    }
}
