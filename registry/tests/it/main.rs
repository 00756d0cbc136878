//! The conformance suite on all backends, and what only a store of its own can do to a registry: go away.
#![expect(clippy::unwrap_used, reason = "fixtures are tests, too")]

mod memory;
mod outage;
mod redis;
