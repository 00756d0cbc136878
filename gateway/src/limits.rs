//! What one address, one user and one connection may take of a gateway, so that none of them takes it
//! from the others.
//!
//! Each gateway counts for itself; a user's connections are then counted over all gateways (`session`). [`addresses`] holds
//! connections and their rate by address, [`users`] connections by user; commands are counted where they are carried out (`session`).

pub(crate) mod addresses;
pub(crate) mod token_bucket;
pub(crate) mod users;

use std::time::Duration;

use switchboard_service_kit::config::Document;

use self::token_bucket::Rate;

/// What one of many may take. `None` is no limit.
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    /// WebSockets of one address.
    pub(crate) connections_per_address: Option<usize>,
    /// Connections of one address that are not WebSockets.
    pub(crate) http_connections_per_address: Option<usize>,
    /// WebSockets of one user.
    pub(crate) connections_per_user: Option<usize>,
    /// New connections of one address.
    pub(crate) connects: Option<Rate>,
    /// Addresses whose rate is remembered.
    pub(crate) addresses: usize,
    /// Commands of one connection.
    pub(crate) commands: Option<Rate>,
    /// Refused commands, less those that were not, at which a connection is closed.
    pub(crate) command_refusals: u32,
    /// From accepting a connection to its TLS handshake, and from there to a request's head.
    pub(crate) handshake_timeout: Duration,
    /// What a connection gets in all that does not become a WebSocket.
    pub(crate) http_lifetime: Duration,
    /// How long a connection may hold no subscription and send no command; `None`: as long as it likes.
    pub(crate) idle_timeout: Option<Duration>,
}

impl LimitsConfig {
    /// Reads the section `[gateway.limits]`.
    pub(crate) fn read(document: &mut Document) -> Self {
        let mut section = document.section("gateway.limits");
        let seconds = Duration::from_secs;
        let connections_per_address = section.integer(
            "connections_per_address",
            1000,
            0..=1_000_000,
            "WebSocket connections of one client address (of one /64 network, where it is IPv6); a further one gets HTTP 429. 0: no \
             limit. Name proxies in gateway.proxies, else all their clients count as one.",
        );
        let http_connections_per_address = section.integer(
            "http_connections_per_address",
            256,
            0..=100_000,
            "Connections of one address that are not WebSockets (yet); a further one is closed without an answer. 0: no limit. Not \
             for trusted proxies.",
        );
        let connect_rate = section.integer(
            "connect_rate",
            100,
            0..=1_000_000,
            "New connections a second from one address, in the long run; above, they get HTTP 429, or are closed before a TLS \
             handshake. 0: no limit.",
        );
        let connect_burst = section.integer(
            "connect_burst",
            1000,
            1..=1_000_000,
            "New connections from one address at once, after a rest.",
        );
        let addresses = section.integer(
            "addresses",
            65_536,
            16..=16_777_216,
            "Addresses whose connect_rate is kept in mind, about 150 bytes each; above, the one that was not seen for longest is \
             forgotten and may begin anew.",
        );
        let connections_per_user = section.integer(
            "connections_per_user",
            100,
            0..=1_000_000,
            "Connections of one user, over all gateways where registry.backend is redis; a further one is closed with 3504. 0: no limit. \
             Clients without a user are not counted.",
        );
        let command_rate = section.integer(
            "command_rate",
            1000,
            0..=1_000_000,
            "Commands a second on one connection, in the long run; above, they are refused with error 111. 0: no limit.",
        );
        let command_burst = section.integer(
            "command_burst",
            2000,
            1..=1_000_000,
            "Commands on one connection at once, after a rest.",
        );
        let command_refusals = section.integer(
            "command_refusals",
            1000,
            1..=1_000_000,
            "A connection is closed with 3013 when so many more of its commands were refused than carried out since it kept to \
             command_rate.",
        );
        let handshake_timeout = section.duration(
            "handshake_timeout",
            seconds(10),
            Duration::from_millis(50)..=seconds(60),
            "What a new connection gets for its PROXY header and TLS handshake, and then for the head of a request (also while it is \
             idle between two).",
        );
        let http_lifetime = section.duration(
            "http_lifetime",
            seconds(60),
            Duration::from_millis(50)..=seconds(3600),
            "What a connection gets in all that does not become a WebSocket.",
        );
        let idle_timeout = section.duration(
            "idle_timeout",
            Duration::ZERO,
            Duration::ZERO..=seconds(24 * 3600),
            "How long a connection may have no subscription (also none by the server, such as the inbox) and send no command (pongs are \
             none); then it is closed with 3502, on which SDKs do not come back by themselves. 0s: no limit.",
        );
        Self {
            connections_per_address: limit(connections_per_address),
            http_connections_per_address: limit(http_connections_per_address),
            connections_per_user: limit(connections_per_user),
            connects: Rate::new(number(connect_rate), number(connect_burst)),
            addresses: usize::try_from(addresses).unwrap_or(usize::MAX),
            commands: Rate::new(number(command_rate), number(command_burst)),
            command_refusals: number(command_refusals),
            handshake_timeout,
            http_lifetime,
            idle_timeout: Some(idle_timeout).filter(|timeout| !timeout.is_zero()),
        }
    }
}

/// All of these have a range far below the types' own.
fn number(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn limit(limit: u64) -> Option<usize> {
    usize::try_from(limit).ok().filter(|limit| *limit > 0)
}
