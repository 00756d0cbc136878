//! The gateway: holds clients' sockets, checks what they ask for, and passes it on over links to the
//! shards' owners.
//!
//! It keeps nothing that a restart would lose for anybody, and never decides where a message goes.
//!
//! | module | what |
//! | --- | --- |
//! | [`run`] | starts it and drains it |
//! | `listener`, `tls`, `proxy_protocol`, `upgrade`, `origin` | from a TCP connection to a WebSocket |
//! | `admission`, `client_address`, `limits` | whether it gets there |
//! | `auth` | who a client is: tokens and their keys |
//! | `policy` | who may do what in which channel |
//! | `session` | one client's connection |
//! | `sessions` | which of them are here, by connection and by user |
//! | `envelope` | what a message carries besides its payload |
//! | `api` | the server API, over HTTP and gRPC |
//! | `system_message` | what clients are told about the gateway itself |
//! | `moderation` | who may not come or speak, and which tokens count no more |
//! | `notifications` | asking the notify service |
//! | `typing` | who is typing in which channel |
//! | `links` | the shards' links, and the table channel ▶ local sessions |
//!
//! What must hold: a client's bad input or a panic in its session ends that session alone
//! (`session`); everything a client can make grow has a bound in [`Config`].

mod admission;
mod api;
mod auth;
mod changes;
mod client_address;
mod config;
mod conversations;
mod envelope;
mod error;
mod gateway;
mod limited_log;
mod limits;
mod links;
mod listener;
mod maps;
mod metrics;
mod moderation;
mod notifications;
mod origin;
mod policy;
mod presence;
mod proxy_protocol;
mod rules;
mod run;
mod session;
mod sessions;
#[cfg(feature = "simulation")]
#[expect(missing_docs, reason = "for one crate of tests")]
pub mod simulation;
mod statistics;
mod system_message;
mod typing;
mod upgrade;

pub use api::{ApiConfig, ApiError, ApiRunning};
pub use auth::{IssueError, JwksError, TokenRequest, TokensConfig};
pub use config::Config;
pub use conversations::ConversationsConfig;
pub use error::StartError;
pub use moderation::ModerationConfig;
pub use notifications::NotificationsConfig;
pub use origin::Origins;
pub use policy::{CurrentPolicy, Policy};
pub use presence::PresenceConfig;
pub use run::{Deps, Running, start};
