//! A whole gateway on a real socket, with a real WebSocket client. No shard has an owner, but where a test
//! plays one.

mod api;
mod bad_input;
mod changes;
mod harness;
mod history;
mod history_list;
mod life;
mod limits;
mod members;
mod moderation;
mod notifications;
mod overrides;
mod owner;
mod permissions;
mod pings;
mod policy_change;
mod priorities;
mod protobuf;
mod proxies;
mod publishing;
mod recovery;
mod registry;
mod system_messages;
mod tls;
mod tokens;
mod typing;
mod upgrades;
