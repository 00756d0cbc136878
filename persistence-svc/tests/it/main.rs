//! The conformance suite on both stores, and the writer on real ones.
#![expect(clippy::unwrap_used, reason = "fixtures are tests, too")]

mod postgres;
mod s3;
mod sqlite;
