//! The conformance suite on both backends, and what only one of them can do.

mod embedded;
mod nats;
