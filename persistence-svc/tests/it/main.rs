//! The conformance suite on both stores, and the writer on real ones.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "tests"
)]

mod postgres;
mod sqlite;
