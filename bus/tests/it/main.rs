//! The conformance suite on both backends, and what only one of them can do.
#![expect(clippy::unwrap_used, reason = "fixtures are tests, too")]

mod embedded;
mod nats;
