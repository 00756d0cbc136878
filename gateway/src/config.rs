//! The `[gateway]` section.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use switchboard_proto::channel::MAX_CHANNEL_LENGTH;
use switchboard_service_kit::config::{Document, Origin};

use crate::api::ApiConfig;
use crate::auth::TokensConfig;
use crate::client_address::Proxies;
use crate::conversations::ConversationsConfig;
use crate::limits::LimitsConfig;
use crate::moderation::ModerationConfig;
use crate::notifications::NotificationsConfig;
use crate::origin::Origins;
use crate::policy::{Bounds, CurrentPolicy, Policy};
use crate::presence::PresenceConfig;
use crate::typing::TypingConfig;
use switchboard_service_kit::tls::{self, TlsConfig};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What a publish command takes in a frame besides its data: the channel's name, the id, the braces.
const FRAME_SLACK: u64 = 1024;

/// What a gateway can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Clients need no token and may do everything. Only on loopback.
    pub insecure: bool,
    /// How tokens are verified.
    pub tokens: TokensConfig,
    /// Who may do what in which channel. Of all keys these alone may change while the gateway runs.
    pub policy: CurrentPolicy,
    /// The file in which they may; `None`: there is none.
    pub origin: Option<Origin>,
    /// Between two looks at that file; `None`: it is looked at on SIGHUP alone.
    pub reload_interval: Option<Duration>,
    /// Which web pages may connect.
    pub origins: Origins,
    /// WebSocket connections, at most.
    pub max_connections: usize,
    /// Connections that are plain HTTP (still), at most.
    pub http_connections: usize,
    /// From the opening of a WebSocket to a successful `connect`, at most.
    pub connect_timeout: Duration,
    /// Between two pings. Whole seconds.
    pub ping_interval: Duration,
    /// From a ping to its pong, at most. Shorter than `ping_interval`.
    pub pong_timeout: Duration,
    /// What one write to a socket may take.
    pub write_timeout: Duration,
    /// From a command to its answer, at most (P4).
    pub answer_timeout: Duration,
    /// Over how long a stopping gateway spreads the closing of its sessions.
    pub drain_spread: Duration,
    /// Between two reports of what was delivered.
    pub statistics_interval: Duration,
    /// Bytes of a WebSocket message from a client, at most.
    pub max_frame: usize,
    /// Bytes that wait for one client, at most.
    pub outgoing_queue: usize,
    /// Bytes of a publication's data, at most.
    pub publish_size: usize,
    /// Channels of one connection, at most.
    pub channels_per_connection: usize,
    /// Bytes of a channel's name, at most.
    pub channel_name_length: usize,
    /// Publications in one answer to `history`, at most.
    pub history_limit: u32,
    /// Bytes of their messages, about.
    pub history_bytes: usize,
    /// Questions about history that owners are asked at a time, at most.
    pub history_questions: usize,
    /// Rpcs of all sessions that are worked on at a time.
    pub rpc_questions: usize,
    /// Whether users are subscribed to their inbox.
    pub inbox: bool,
    /// Whether everybody is subscribed to the broadcast.
    pub broadcast: bool,
    /// Whether clients are told of maintenance, of limits that are near, and of changes.
    pub system_messages: bool,
    /// For how long users are typing, and how many.
    pub(crate) typing: TypingConfig,
    /// Requests of sessions that wait for one link.
    pub link_queue: usize,
    /// Frames of an owner that wait for one link.
    pub link_frames: usize,
    /// Publishes of one link that wait for their answer.
    pub link_unanswered: usize,
    /// Bytes of these.
    pub link_unanswered_bytes: usize,
    /// Bytes of deliveries that may be on the way.
    pub link_unconfirmed_bytes: usize,
    /// `[gateway.tls]`; `None`: plain HTTP.
    pub tls: Option<TlsConfig>,
    /// `[gateway.proxies]`.
    pub proxies: Proxies,
    /// `[gateway.limits]`.
    pub limits: LimitsConfig,
    /// `[gateway.api]`.
    pub api: ApiConfig,
    /// `[gateway.conversations]`.
    pub conversations: ConversationsConfig,
    /// `[gateway.moderation]`.
    pub moderation: ModerationConfig,
    /// `[gateway.notifications]`.
    pub notifications: NotificationsConfig,
    /// `[gateway.presence]`.
    pub presence: PresenceConfig,
}

impl Config {
    /// What an operator should know, though it is no fault. A line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.tokens.warnings();
        if !self.insecure && self.tokens.lets_nobody_in() {
            warnings.push(
                "no client can connect: no key is configured in [gateway.tokens], and gateway.insecure is off".to_owned(),
            );
        }
        warnings
    }

    /// Reads the section.
    pub fn read(document: &mut Document) -> Self {
        let mut gateway = document.section("gateway");
        let seconds = Duration::from_secs;
        let listen = gateway.address(
            "listen",
            SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            "Where clients connect.",
        );
        let insecure = gateway.boolean(
            "insecure",
            false,
            "Clients need no token and may do everything; for development, on a loopback address only. \
             `switchboard` without a configuration file has it on.",
        );
        if insecure && !listen.ip().is_loopback() {
            gateway.fault(
                "insecure",
                format!("true, but {listen} can be reached from other machines, where anybody could connect"),
                "set gateway.insecure to false, or gateway.listen to a loopback address such as 127.0.0.1:8000",
            );
        }
        let allowed = gateway.list(
            "allowed_origins",
            &[],
            "Origins of web pages that may connect, such as \"https://app.example.com\"; `*` stands for any characters; empty: \
             pages of the same host, and with gateway.insecure pages of this machine.",
        );
        for origin in &allowed {
            if origin != "*" && !origin.contains("://") {
                gateway.fault(
                    "allowed_origins",
                    format!("\"{origin}\" is not an origin"),
                    "write scheme and host, and the port if it is not the scheme's own: \"https://app.example.com\"",
                );
            }
        }
        let max_connections = gateway.integer(
            "max_connections",
            10_000,
            1..=1_000_000,
            "WebSocket connections, at most; above, new ones get HTTP 503. Each needs a file descriptor (ulimit -n).",
        );
        let http_connections = gateway.integer(
            "http_connections",
            1024,
            1..=100_000,
            "Connections that are not WebSockets (yet), at most; above, new ones wait in the kernel's queue.",
        );
        let connect_timeout = gateway.duration(
            "connect_timeout",
            seconds(10),
            Duration::from_millis(100)..=seconds(60),
            "From the opening of a connection to its successful `connect`; then it is closed as stale.",
        );
        let ping_interval = gateway.duration(
            "ping_interval",
            seconds(25),
            seconds(1)..=seconds(600),
            "Between two pings to a client; whole seconds.",
        );
        if ping_interval.subsec_nanos() != 0 {
            gateway.fault(
                "ping_interval",
                format!(
                    "{ping_interval:?} is not a whole number of seconds, which is all clients can be told"
                ),
                "set whole seconds, such as \"25s\"",
            );
        }
        let pong_timeout = gateway.duration(
            "pong_timeout",
            seconds(8),
            Duration::from_millis(100)..=seconds(600),
            "Within which a client answers a ping, else it is disconnected; shorter than ping_interval.",
        );
        if pong_timeout >= ping_interval {
            gateway.fault(
                "pong_timeout",
                format!("{pong_timeout:?} is not shorter than gateway.ping_interval, {ping_interval:?}"),
                "shorten gateway.pong_timeout or lengthen gateway.ping_interval",
            );
        }
        let write_timeout = gateway.duration(
            "write_timeout",
            seconds(1),
            Duration::from_millis(50)..=seconds(60),
            "What one write to a client may take, else it is disconnected.",
        );
        let answer_timeout = gateway.duration(
            "answer_timeout",
            seconds(4),
            Duration::from_millis(100)..=Duration::from_millis(4500),
            "Within which every command is answered; clients give up after 5s.",
        );
        let statistics_interval = gateway.duration(
            "statistics_interval",
            Duration::from_secs(1),
            Duration::from_millis(500)..=Duration::from_secs(60),
            "How often is reported what was delivered and how fast, for statistics.",
        );
        let drain_spread = gateway.duration(
            "drain_spread",
            seconds(1),
            Duration::ZERO..=seconds(600),
            "Over how long a stopping gateway spreads the closing of its connections, so that clients do not all \
             come back at once; shorter than shutdown.budget.",
        );
        let max_frame = gateway.bytes(
            "max_frame",
            128 * KIB,
            KIB..=4 * MIB,
            "Bytes of one WebSocket message from a client, at most; over it the connection is closed with 1009.",
        );
        let outgoing_queue = gateway.bytes(
            "outgoing_queue",
            MIB,
            64 * KIB..=256 * MIB,
            "Bytes that wait for one client, at most; over it the client is disconnected as slow.",
        );
        let publish_size = gateway.bytes(
            "publish_size",
            64 * KIB,
            // What a link puts into one frame, and so into one record of the log.
            1..=256 * KIB,
            "Bytes of a publication's data, at most; over it the publish is refused with error 106.",
        );
        let channels_per_connection = gateway.integer(
            "channels_per_connection",
            128,
            1..=65_536,
            "Channels that one connection may be subscribed to; a further one is refused with error 106.",
        );
        let channel_name_length = gateway.integer(
            "channel_name_length",
            MAX_CHANNEL_LENGTH as u64,
            1..=MAX_CHANNEL_LENGTH as u64,
            "Bytes of a channel's name, at most; a longer one is refused with error 107.",
        );
        let history_limit = gateway.integer(
            "history_limit",
            300,
            1..=10_000,
            "Publications that one answer to `history` holds, at most.",
        );
        let history_bytes = gateway.bytes(
            "history_bytes",
            256 * KIB,
            KIB..=384 * KIB,
            "Bytes of their messages, about, and a quarter of outgoing_queue at most; an answer that would have more ends earlier.",
        );
        let history_questions = gateway.integer(
            "history_questions",
            64,
            1..=4096,
            "Questions about history of all clients that owners are asked at a time; more wait. Times history_bytes it is what may come \
             at once, besides link_unconfirmed_bytes: both together less than what NATS keeps for a slow client (`max_pending`).",
        );
        let rpc_questions = gateway.integer(
            "rpc_questions",
            64,
            1..=4096,
            "Rpcs of all clients that are worked on at a time, beside `message.send`; more wait. Most of them ask the message store.",
        );
        let inbox = gateway.boolean(
            "inbox",
            true,
            "Every connection of a user is subscribed to the user's inbox channel, `#alice`, by the server.",
        );
        let broadcast = gateway.boolean(
            "broadcast",
            false,
            "Every connection is subscribed to `$broadcast` by the server.",
        );
        let system_messages = gateway.boolean(
            "system_messages",
            true,
            "Clients are told of maintenance, of limits that they are near to, and of changes of what they may, by the protocol's \
             `message` push.",
        );
        let typing = TypingConfig::read(&mut gateway);
        let reload_interval = gateway.duration(
            "reload_interval",
            seconds(10),
            Duration::ZERO..=seconds(3600),
            "How often the configuration file is looked at for a change of [channels] and [namespaces.NAME], which is in force, \
             without a restart, once it was there at two looks. SIGHUP looks at once. 0s: on SIGHUP alone.",
        );
        let link_queue = gateway.integer(
            "link_queue",
            1024,
            1..=1_048_576,
            "Requests of sessions that wait for one shard's link; above, the sessions wait.",
        );
        let link_frames = gateway.integer(
            "link_frames",
            4096,
            16..=1_048_576,
            "Frames of a shard's owner that wait for its link; above, the newest is lost and that link \
             opens anew.",
        );
        let link_unanswered = gateway.integer(
            "link_unanswered",
            65_536,
            1..=4_194_304,
            "Publishes of one link that wait for their answer; above, publishers are told to slow down.",
        );
        let link_unanswered_bytes = gateway.bytes(
            "link_unanswered_bytes",
            16 * MIB,
            MIB..=1024 * MIB,
            "Bytes of these; above, publishers are told to slow down.",
        );
        let link_unconfirmed_bytes = gateway.bytes(
            "link_unconfirmed_bytes",
            16 * MIB,
            MIB..=1024 * MIB,
            "Bytes of deliveries that all shards together may have on the way to this gateway; above, they wait. \
             Less than half of what NATS keeps for a slow client (`max_pending`).",
        );
        if max_frame < publish_size + FRAME_SLACK {
            gateway.fault(
                "publish_size",
                format!("a publish of that size does not fit into max_frame with the {FRAME_SLACK} bytes around it"),
                "raise gateway.max_frame, or lower gateway.publish_size",
            );
        }
        if outgoing_queue < 2 * publish_size {
            gateway.fault(
                "outgoing_queue",
                "smaller than two publications, so that one could disconnect every subscriber as slow",
                "raise it to twice gateway.publish_size at least",
            );
        }
        let mut tokens = TokensConfig::read(document, answer_timeout);
        if insecure {
            // Tokens can be tried out where nobody needs one.
            tokens.for_this_machine();
        }
        Self {
            listen,
            insecure,
            tokens,
            policy: CurrentPolicy::new(Policy::read(
                document,
                Bounds {
                    insecure,
                    publish_size,
                    name_length: channel_name_length,
                },
            )),
            origin: document.origin(),
            reload_interval: Some(reload_interval).filter(|interval| !interval.is_zero()),
            origins: Origins::new(allowed, insecure),
            max_connections: size(max_connections),
            http_connections: size(http_connections),
            connect_timeout,
            ping_interval,
            pong_timeout,
            write_timeout,
            answer_timeout,
            drain_spread,
            statistics_interval,
            max_frame: size(max_frame),
            outgoing_queue: size(outgoing_queue),
            publish_size: size(publish_size),
            channels_per_connection: size(channels_per_connection),
            channel_name_length: size(channel_name_length),
            history_limit: u32::try_from(history_limit).unwrap_or(u32::MAX),
            history_bytes: size(history_bytes),
            history_questions: size(history_questions),
            rpc_questions: size(rpc_questions),
            inbox,
            broadcast,
            system_messages,
            typing,
            link_queue: size(link_queue),
            link_frames: size(link_frames),
            link_unanswered: size(link_unanswered),
            link_unanswered_bytes: size(link_unanswered_bytes),
            link_unconfirmed_bytes: size(link_unconfirmed_bytes),
            tls: TlsConfig::read(
                &mut document.section("gateway.tls"),
                tls::HTTP1,
                "With it the gateway speaks TLS (https, wss) and nothing else.",
            ),
            proxies: Proxies::read(document),
            limits: LimitsConfig::read(document),
            api: ApiConfig::read(document),
            conversations: ConversationsConfig::read(document),
            moderation: ModerationConfig::read(document),
            notifications: NotificationsConfig::read(document),
            presence: PresenceConfig::read(document),
        }
    }

    /// What namespaces cannot widen, also when they are read again.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            insecure: self.insecure,
            publish_size: self.publish_size as u64,
            name_length: self.channel_name_length as u64,
        }
    }
}

/// All these numbers have a range far below what the smallest address space holds.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let mut document = Document::parse(text, []).unwrap();
        let config = Config::read(&mut document);
        document
            .finish()
            .map(|_| config)
            .map_err(|faults| faults.to_string())
    }

    #[test]
    fn defaults_are_without_fault() {
        let config = read("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8000");
        assert!(!config.insecure);
        assert_eq!(config.max_frame, 131_072);
        assert_eq!(config.outgoing_queue, 1_048_576);
    }

    #[test]
    fn insecure_is_for_loopback_only() {
        assert!(read("[gateway]\ninsecure = true").unwrap().insecure);
        assert!(read("[gateway]\ninsecure = true\nlisten = \"[::1]:0\"").is_ok());
        for listen in ["0.0.0.0:8000", "[::]:8000", "192.0.2.1:8000"] {
            let faults = read(&format!("[gateway]\ninsecure = true\nlisten = \"{listen}\"")).unwrap_err();
            assert!(
                faults.contains("gateway.insecure") && faults.contains(listen),
                "{faults}"
            );
            assert!(read(&format!("[gateway]\nlisten = \"{listen}\"")).is_ok());
        }
    }

    #[test]
    fn what_does_not_fit_together_is_a_fault_of_its_own() {
        let faults = read(
            "[gateway]\nping_interval = \"1500ms\"\npong_timeout = \"2s\"\nallowed_origins = [\"example.com\"]",
        )
        .unwrap_err();
        for key in [
            "gateway.ping_interval",
            "gateway.pong_timeout",
            "gateway.allowed_origins",
        ] {
            assert!(faults.contains(key), "{key} in {faults}");
        }
    }
}
