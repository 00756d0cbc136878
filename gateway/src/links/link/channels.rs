//! The table channel ▶ local sessions of one link: who is subscribed, who waits for an answer, and who
//! is still being given what it missed.

use switchboard_proto::channel::ChannelName;
use switchboard_proto::ids::Offset;

use super::Subscriber;
use super::live::Live;
use crate::maps::HashMap;
use crate::rules::{Rule, is_kept};

/// Where a client left off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Since {
    /// The log epoch; empty: whichever it is.
    pub(crate) epoch: String,
    pub(crate) offset: Offset,
}

/// A subscribe command that is not answered yet.
pub(super) struct Waiting<S> {
    pub(super) session: S,
    pub(super) id: u32,
    pub(super) deadline: std::time::Duration,
    /// `Some`: it wants what it missed.
    pub(super) since: Option<Since>,
}

/// A session, and up to where it has everything of the channel.
pub(super) struct Placed<S> {
    pub(super) session: S,
    pub(super) has: Offset,
}

/// A question that is on the way to the owner.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    pub(super) question: u64,
    pub(super) after: Offset,
}

pub(super) struct Channel<S> {
    /// Given everything as it comes.
    pub(super) live: Live<S>,
    pub(super) waiting: Vec<Waiting<S>>,
    /// Subscribed, and given page by page what it missed (R7).
    pub(super) behind: Vec<Placed<S>>,
    /// The frame of this opening that asked for it; 0: none did.
    pub(super) asked: u64,
    /// The owner said that the interest is in force: what follows the position arrives.
    pub(super) held: bool,
    /// No message of the channel that came before is behind this (R4).
    pub(super) head: Offset,
    pub(super) asking: Option<Asking>,
    /// It stands in the list of channels that want to ask.
    pub(super) wants: bool,
}

/// Nothing is known of the channel's newest message.
pub(super) const UNKNOWN: u64 = u64::MAX;

impl<S> Channel<S> {
    pub(super) fn new() -> Self {
        Self {
            live: Live::None,
            waiting: Vec::new(),
            behind: Vec::new(),
            asked: 0,
            held: false,
            head: Offset::from_u64(UNKNOWN),
            asking: None,
            wants: false,
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.live.is_empty() && self.waiting.is_empty() && self.behind.is_empty()
    }
}

impl<S: Subscriber> Channel<S> {
    /// From where on its subscribers have to be given something, the first of those that have room.
    pub(super) fn asks_from(&self) -> Option<Offset> {
        let waiting = self
            .waiting
            .iter()
            .filter(|waiting| waiting.session.has_answer_room());
        let waiting = waiting.filter_map(|waiting| waiting.since.as_ref().map(|since| since.offset));
        let behind = self.behind.iter().filter(|placed| placed.session.has_room());
        waiting.chain(behind.map(|placed| placed.has)).min()
    }
}

/// The local subscribers by channel: what a delivery is looked up in.
pub(crate) struct Channels<S>(pub(super) HashMap<ChannelName, Channel<S>>);

impl<S: Subscriber> Channels<S> {
    /// A message of `channel` at `offset` came. Who is to be given it: all that do not have it (R1).
    pub(crate) fn receivers(&mut self, channel: &str, offset: Offset) -> impl Iterator<Item = &S> {
        let channel = self.0.get_mut(channel);
        let channel = channel.map(|channel| {
            channel.head = channel.head.max(offset);
            &*channel
        });
        channel
            .into_iter()
            .flat_map(|channel| channel.live.values())
            .filter(move |placed| placed.has < offset || !is_kept(Rule::R1))
            .map(|placed| &placed.session)
    }

    /// Who is there for a message that is not stored.
    pub(crate) fn subscribers(&self, channel: &str) -> impl Iterator<Item = &S> {
        self.0
            .get(channel)
            .into_iter()
            .flat_map(|channel| channel.live.values())
            .map(|placed| &placed.session)
    }

    /// Channels with interest.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
