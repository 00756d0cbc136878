//! The notify service.
//!
//! **Its duty is not built yet.** Today it joins the bus, so that other processes see it, reports
//! its health and leaves in order; it neither reads nor stores nor answers anything.
//!
//! What it will be: the reader of the log that decides who must be told although they are away, by
//! which way (push, e-mail, SMS, webhook) and when; that sends, tries again, and keeps what could not
//! be delivered in a list of dead letters.

mod config;
mod error;
mod run;

pub use config::Config;
pub use error::StartError;
pub use run::{Deps, Running, start};
