//! Every type that crosses a wire or is written down: the client protocol, links, log records,
//! membership, and the ids they are made of.
//!
//! Callers meet these types and never each other's code; that is how services stay apart. The crate
//! has no I/O, no configuration and no policy, and depends on nothing of ours.
//!
//! | module | what |
//! | --- | --- |
//! | [`client`] | the client protocol's messages, one set of types for JSON and Protobuf |
//! | [`json`] | their JSON encoding; payload bytes are embedded, never parsed again |
//! | [`protobuf`] | their Protobuf encoding |
//! | [`codes`] | error, disconnect and unsubscribe codes |
//! | [`api`] | the server API's messages, and with the feature `grpc` its service |
//! | [`bus`] | messages, log records, link frames, member beats |
//! | [`messages`] | what the persistence service is asked and answers, with the feature `grpc` its service |
//! | [`presence`] | what the presence service is told, asked and answers, with the feature `grpc` its service |
//! | [`notifications`] | what the notify service is asked and answers, with the feature `grpc` its service |
//! | [`publishing`] | what gateways are asked by services that have no links |
//! | [`questions`] | what a service that is asked over the bus can be asked |
//! | [`registry`] | what the registry of sessions writes down |
//! | [`format`] | the format byte in front of everything that is written down or sent on the bus |
//! | [`ids`] | typed ids: shards, offsets, epochs, incarnations |
//! | [`channel`] | channel names, parsed once |
//! | [`layout`] | what a layout record says |
//! | [`tags`] | names of the tags that Switchboard itself sets |

pub mod channel;
pub mod codes;
pub mod format;
pub mod ids;
pub mod json;
pub mod layout;
pub mod messages;
pub mod notifications;
pub mod presence;
pub mod protobuf;
pub mod publishing;
pub mod questions;
pub mod tags;
pub mod time;

/// The client protocol's messages (generated).
#[allow(
    clippy::all,
    clippy::expect_used,
    unreachable_pub,
    missing_docs,
    reason = "generated code"
)]
pub mod client {
    include!("generated/switchboard.client.rs");
}

/// The server API's messages (generated).
#[allow(clippy::all, unreachable_pub, missing_docs, reason = "generated code")]
pub mod api {
    include!("generated/centrifugal.centrifugo.api.rs");

    /// The service's name, and descriptors of all of it, as reflection answers with them.
    pub const SERVICE: &str = "centrifugal.centrifugo.api.CentrifugoApi";
    pub const DESCRIPTORS: &[u8] = include_bytes!("generated/centrifugal.centrifugo.api.descriptors");
}

/// Messages, log records, link frames and member beats (generated).
#[allow(clippy::all, unreachable_pub, missing_docs, reason = "generated code")]
pub mod bus {
    include!("generated/switchboard.bus.rs");
}

/// What the registry of sessions writes down (generated).
#[allow(clippy::all, unreachable_pub, missing_docs, reason = "generated code")]
pub mod registry {
    include!("generated/switchboard.registry.rs");
}
