//! The embedded backend: one process, one machine, nothing else installed.
//!
//! Same contracts as the NATS backend, proved by the same suite; it is smaller, never weaker.

mod bus;
mod log;

pub use bus::EmbeddedBus;
pub use log::{EmbeddedDurability, EmbeddedLog, OpenError};
