//! The conformance suite on both stores, and what only PostgreSQL's locks can do wrong.
#![expect(clippy::unwrap_used, reason = "fixtures are tests, too")]

mod postgres;
mod sqlite;
