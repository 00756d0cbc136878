//! A whole gateway on a real socket, with a real WebSocket client, and no shard owner: what a session
//! does by itself.

mod bad_input;
mod harness;
mod life;
mod limits;
mod proxies;
mod tls;
mod upgrades;
