//! The notify service: reaches people who are away.
//!
//! | module | what |
//! | --- | --- |
//! | `deciding` | a durable reader of the log: which messages are told, and to whom |
//! | `accepting` | what backends ask for, and what messages cause, becomes notifications with their deliveries |
//! | [`store`] | these, and all that is known of users' devices and wishes, in PostgreSQL or SQLite |
//! | `sending` | takes what is due, hands it to providers, and writes down what became of it |
//! | `judging`, `checking`, `preferences`, `quiet_hours` | whether a delivery is still wanted, right before it is sent |
//! | `saying`, [`templates`] | what it says |
//! | `service`, `grpc` | what backends and users ask |
//! | `links`, `public` | unsubscribing by a link, and providers' reports |
//!
//! What must hold: what was accepted is sent, put off, or ended for a reason that can be looked up, whoever dies; and it is sent once,
//! but for the time between a provider's taking it and its being written down. See `docs/notifications.md`.

mod accepting;
mod checking;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
mod deciding;
mod error;
mod grpc;
mod judging;
mod links;
mod metrics;
pub mod model;
mod preferences;
mod public;
mod quiet_hours;
mod run;
mod saying;
mod sending;
mod service;
pub mod store;
pub mod templates;

pub use config::{Config, SQLITE_PATH};
pub use error::StartError;
pub use run::{Deps, READER, Running, open_store, start};
pub use sending::{ProviderError, web_push_keys};
