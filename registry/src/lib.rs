//! The registry of sessions: which user is connected, with what, on which gateway, since when; and the subscriptions
//! that are kept for users. It is what a gateway knows of the others' sessions.
//!
//! | module | what |
//! | --- | --- |
//! | [`Registry`] | the contract; `conformance` tests it on both backends |
//! | [`memory`] | in this process |
//! | [`redis`] | in Redis, alone or as a cluster; no other crate may see it |
//! | [`Announcer`] | a gateway's side: keeps the registry true over outages, and gateways going without it |
//! | [`config`] | the section `[registry]` |
//!
//! Without its store nobody is worse off than with one gateway: connecting and publishing go on.

mod announcer;
mod by_client;
pub mod config;
#[cfg(feature = "conformance")]
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a suite of tests, compiled for tests only"
)]
pub mod conformance;
pub mod memory;
pub mod redis;
mod registry;

pub use announcer::{Announcer, AnnouncerSettings, OverLimit, Registration};
pub use registry::{
    Admission, Announced, Change, Device, FORGOTTEN_AFTER, KeepError, KeptSubscription, LONGEST_KEPT, Lease,
    MAX_DEVICE_TEXT, MAX_SESSIONS_PER_USER, MAX_SUBSCRIPTION_SIZE, NewSession, Registry, RegistryError,
    Session, SubscriptionOptions, SubscriptionOverrides, UserPage,
};
