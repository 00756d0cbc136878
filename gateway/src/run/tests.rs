//! A whole gateway on a real socket, with a real WebSocket client, and no shard owner: what a session
//! does by itself.

mod bad_input;
mod harness;
mod life;
mod limits;
mod permissions;
mod pings;
mod protobuf;
mod proxies;
mod tls;
mod tokens;
mod upgrades;
