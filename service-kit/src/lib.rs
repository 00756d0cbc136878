//! What the start-up of every service shares: configuration, telemetry, metrics, tasks and their
//! stop, health, the admin endpoint, the keys, TLS and connections of what backends ask, and the frame that a `main` puts around all of it.
//!
//! What it must never hold: words of the domain (channel, session, user), a backend, the bus. It
//! depends on nothing else of ours, and there is no process-wide state beyond the log subscriber:
//! two whole nodes run in one test process. The list of modules is closed; a new one needs a
//! decision record.

pub mod admin;
pub mod api_key;
pub mod api_listener;
pub mod config;
pub mod grpc;
pub mod health;
pub mod metrics;
pub mod run;
pub mod service;
pub mod summary;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod trace_context;
