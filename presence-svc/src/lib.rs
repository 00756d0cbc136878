//! The presence service.
//!
//! **Its duty is not built yet.** Today it joins the bus, so that other processes see it, reports
//! its health and leaves in order; it neither reads nor stores nor answers anything.
//!
//! What it will be: who is here. Sessions, devices, status, last seen, auto-away and typing, fed by
//! the session events of gateways, kept in Redis (in memory on one machine), and told to those who
//! watch.

mod config;
mod error;
mod run;

pub use config::Config;
pub use error::StartError;
pub use run::{Deps, Running, start};
