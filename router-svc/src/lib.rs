//! The router service: owns shards, and is the only writer of the log.
//!
//! A router claims the shards that rendezvous hashing gives it by appending a fence record, and runs
//! one actor per shard: it takes publishes from gateways over links, appends them in batches, and
//! only then answers and delivers them. It must never answer or deliver what the log has not
//! settled, and never touches a socket or a database.
//!
//! | file | what |
//! | --- | --- |
//! | `run` | start-up; starts and ends the shards' actors |
//! | `layout` | follows the layout in force |
//! | `ownership` | which shards this router should own (pure) |
//! | `shard/actor` | moves bytes between bus, log and owner |
//! | `shard/claim`, `shard/appender` | fence records; appends that are settled (L1, O1) |
//! | `shard/owner`, `shard/links` | what is appended, answered and delivered, in which order (pure) |

mod config;
mod layout;
mod maps;
mod metrics;
mod ownership;
mod rules;
mod run;
mod shard;
#[cfg(feature = "simulation")]
#[expect(missing_docs, reason = "for one crate of tests")]
pub mod simulation;

pub use config::Config;
pub use run::{Deps, Running, StartError, start};
