//! The JSON encoding of the client protocol.
//!
//! A frame is one or more messages joined by a newline. Payload fields hold a JSON value of the
//! application as its untouched text: it is checked to be JSON where it enters, copied out of the
//! frame once, and written around from there on, never parsed again.
//!
//! What must hold, each with a test:
//! * Reading what was written gives the same message.
//! * No raw newline is ever inside a written message, whatever a payload holds: clients split there.
//! * Zero values are left out, except the few that SDKs read without a default (see [`write_reply`]).

mod read;
mod write;

#[cfg(test)]
pub(crate) mod tests;

pub use read::{DecodeError, Fault, MAX_NESTING, commands, is_payload, nesting, replies};
pub(crate) use read::{or_default, payload};
pub(crate) use write::as_it_stands;
pub use write::{write_command, write_reply};
