//! What clients do, and what they were told.

use std::collections::{BTreeMap, BTreeSet};

use switchboard_gateway::simulation::Got;
use switchboard_proto::channel::ChannelName;

/// One client: a user with one connection at a time.
pub struct Client {
    pub number: usize,
    /// Its present connection; `None`: it has none.
    pub session: Option<Session>,
    pub subscriptions: BTreeMap<ChannelName, Subscription>,
    /// Publishes that wait for an answer, by command.
    pub waiting: BTreeMap<u32, Publishing>,
    /// Messages with a key that have to be sent again until they are stored.
    pub again: Vec<Publishing>,
    pub last_command: u32,
    /// It stays away until then.
    pub away_until: u64,
}

/// A connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Unique over the whole run.
    pub id: u64,
    /// The gateway process.
    pub gateway: usize,
}

/// A publish, as the client notes it.
#[derive(Debug, Clone)]
pub struct Publishing {
    pub channel: ChannelName,
    pub id: u64,
    pub has_key: bool,
    /// When it was first sent, and when last.
    pub first_us: u64,
    pub since_us: u64,
}

/// A channel of a client, over all its connections.
#[derive(Debug, Default)]
pub struct Subscription {
    pub is_running: bool,
    /// A subscribe command waits, since when.
    pub asked: Option<(u32, u64)>,
    /// Where it is: log epoch and offset.
    pub position: Option<(String, u64)>,
    /// Everything it was given, in pieces: one begins where nothing could be recovered.
    pub pieces: Vec<Piece>,
}

/// An unbroken run of messages: everything behind `from`.
#[derive(Debug, Clone, Default)]
pub struct Piece {
    pub from: u64,
    pub got: Vec<Got>,
    /// Where the client was when it was told that something is lost, and how far the log was purged for
    /// its channel then; `None`: it is the first piece.
    pub lost: Option<(u64, u64)>,
}

/// What all clients together did.
#[derive(Debug, Default)]
pub struct Notes {
    /// Messages by what clients call them: where they went.
    pub published: BTreeMap<u64, ChannelName>,
    /// Those of which a client was told that they are stored, at which offset.
    pub acknowledged: BTreeMap<u64, BTreeSet<u64>>,
    pub keyed: BTreeSet<u64>,
    /// What must not be, noted as it happened.
    pub faults: Vec<String>,
    pub recovered: u64,
    pub recovered_messages: u64,
    pub lost: u64,
    pub errors: u64,
}
