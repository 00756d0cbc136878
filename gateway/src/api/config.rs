//! The section `[gateway.api]`.

use std::net::{Ipv4Addr, SocketAddr};

use switchboard_service_kit::api_key::{self, NamedKeys};
use switchboard_service_kit::api_listener::Times;
use switchboard_service_kit::config::Document;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What the server API can be told.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Whether there is one at all.
    pub enabled: bool,
    /// Where backends ask.
    pub listen: SocketAddr,
    /// The keys that are accepted, by the names of their configuration keys.
    pub(super) keys: NamedKeys,
    /// Bytes of one request, at most.
    pub request_size: usize,
    /// Requests carried out at a time, at most.
    pub requests: usize,
    /// Connections, at most.
    pub connections: usize,
    /// Streams of live statistics, at most.
    pub live_streams: usize,
    /// How long one may be silent.
    pub times: Times,
    /// Channels in one broadcast, and in one answer to `channels`, at most.
    pub channels: usize,
}

impl ApiConfig {
    pub(crate) fn read(document: &mut Document) -> Self {
        let mut api = document.section("gateway.api");
        let enabled = api.boolean(
            "enabled",
            true,
            "Whether backends can ask this gateway, over HTTP and gRPC. See server-api.md.",
        );
        let listen = api.address(
            "listen",
            SocketAddr::from((Ipv4Addr::LOCALHOST, 8008)),
            "Where backends ask. Plain HTTP: on another address than a loopback one, keep the network private.",
        );
        let keys = api_key::read(
            &mut api,
            "What backends prove themselves with; the same for all gateways. Not set: with the embedded bus one is made and kept \
             in the data folder, with NATS the server API is off.",
        );
        let request_size = api.bytes(
            "request_size",
            4 * MIB,
            KIB..=64 * MIB,
            "Bytes of one request, at most; a larger one is refused with HTTP 413 or gRPC's OUT_OF_RANGE.",
        );
        let requests = api.integer(
            "requests",
            256,
            1..=65_536,
            "Requests that are carried out at a time; further ones are answered with error 111.",
        );
        let connections = api.integer(
            "connections",
            1024,
            1..=100_000,
            "Connections of backends, at most; more wait in the kernel's queue.",
        );
        let times = Times::read(&mut api);
        let channels = api.integer(
            "channels",
            10_000,
            1..=100_000,
            "Channels of one `broadcast`, and of one answer to `channels`, at most; over it the call is answered with error 106.",
        );
        let live_streams = api.integer(
            "live_streams",
            32,
            1..=10_000,
            "Streams of live statistics at a time, at most; a further one is refused with HTTP 429.",
        );
        let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            enabled,
            listen,
            keys,
            request_size: size(request_size),
            requests: size(requests),
            connections: size(connections),
            times,
            channels: size(channels),
            live_streams: size(live_streams),
        }
    }
}
