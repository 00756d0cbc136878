//! The persistence service.
//!
//! **Its duty is not built yet.** Today it joins the bus, so that other processes see it, reports
//! its health and leaves in order; it neither reads nor stores nor answers anything.
//!
//! What it will be: the reader of the log that carries every durable message into PostgreSQL (SQLite
//! on one machine), its position committed with the rows; and who answers history, search, unread
//! counts, receipts, members and statistics from there, archives, and enforces retention.

mod config;
mod error;
mod run;

pub use config::Config;
pub use error::StartError;
pub use run::{Deps, Running, start};
