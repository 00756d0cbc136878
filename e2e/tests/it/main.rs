//! All services together, seen from outside. One binary, so that it links once.

#![expect(
    clippy::indexing_slicing,
    reason = "a reply that is not what it should be fails the test"
)]

mod backend;
mod binaries;
mod budget;
mod changes;
mod client;
mod cluster_script;
mod commands;
mod conversations;
mod deaths;
mod delivery;
mod demo_page;
mod expiry;
mod faults;
mod front_door;
mod history;
mod inboxes;
mod keeping;
mod load;
mod log_life;
mod mail;
mod memory;
mod message_store;
mod messages_api;
mod moderation;
mod moving;
mod nats_permissions;
mod notifications;
mod presence;
mod protocol;
mod readers;
mod receiver;
mod recovery;
mod registry;
mod sdks;
mod search;
mod server_api;
mod slow;
mod statistics;
mod stored_history;
mod system;
mod tools;
