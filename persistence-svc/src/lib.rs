//! The persistence service: carries every durable message from the log into a message store.
//!
//! It is a durable reader of the log ([`switchboard_bus::reader`]): replicas share the shards, a batch of records is
//! one write ([`writer`]), and how far a shard is stored is committed together with the rows ([`store`]). So a death
//! at any moment means reading again, and what is read again is there already. Without `persistence.store` it only joins the bus.
//!
//! Other services ask over the bus ([`switchboard_bus::answering`]), and backends over gRPC ([`grpc`]), what is stored; each question is a method of [`service`]. What is derived
//! exactly with the rows (members, changes) is folded in the transaction that writes them; what may lag (the index of [`search`])
//! is done by followers ([`follow`]).

mod config;
#[cfg(feature = "conformance")]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a suite of tests, compiled for tests only"
)]
pub mod conformance;
mod error;
pub mod follow;
mod grpc;
pub mod keeping;
mod metrics;
pub mod moving;
mod run;
pub mod search;
pub mod service;
pub mod statistics;
pub mod store;
mod writer;

pub use config::{Config, OpenError, SQLITE_PATH, StoreSettings};
pub use error::StartError;
pub use metrics::PersistenceMetrics;
pub use run::{Deps, READER, Running, start};
pub use writer::Writer;
