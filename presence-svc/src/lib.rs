//! The presence service: who is here.
//!
//! Gateways report their sessions, and who is in which channel, under a lease; the service keeps that in Redis (in memory on
//! one machine), derives from it what each user's status is, and tells what changed to whoever watches. Nothing of it is
//! in the log: a store that lost everything is filled again by the gateways.
//!
//! | module | what |
//! | --- | --- |
//! | [`user`] | what a user is: the state machine, without I/O |
//! | [`store`] | where it is kept: compare and set, leases; `conformance` tests it on both backends |
//! | [`service`] | reports and questions |
//! | `tending` | what time does: leases, grace, auto-away |
//! | `telling` | what others are told |

mod config;
#[cfg(test)]
mod conformance;
mod error;
mod grpc;
mod metrics;
mod run;
pub mod service;
pub mod store;
mod telling;
mod tending;
pub mod user;

pub use config::Config;
pub use error::StartError;
pub use run::{Deps, Running, start};
