//! All services together, seen from outside. One binary, so that it links once.

#![expect(
    clippy::indexing_slicing,
    reason = "a reply that is not what it should be fails the test"
)]

mod binaries;
mod child;
mod client;
mod cluster;
mod commands;
mod deaths;
mod delivery;
mod demo_page;
mod front_door;
mod history;
mod inboxes;
mod load;
mod log_life;
mod memory;
mod nats_permissions;
mod process;
mod protocol;
mod readers;
mod recovery;
mod sdks;
mod slow;
mod system;
mod tools;
