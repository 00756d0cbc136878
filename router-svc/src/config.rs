//! The `[router]` section.

use std::time::Duration;

use switchboard_service_kit::config::Document;

/// What a router can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of messages in one batch, at most.
    pub batch_bytes: usize,
    /// Bytes of publishes a shard holds while its append is in flight.
    pub queue_bytes: usize,
    /// Gateways a shard is linked to, at most.
    pub links: usize,
    /// Frames from gateways that wait for a shard, at most.
    pub inbox: usize,
    /// Between two beats of an owner.
    pub owner_beat: Duration,
    /// Silence after which an owner is taken for dead.
    pub owner_silence: Duration,
    /// How long giving up a shard waits for the append in flight.
    pub release: Duration,
}

impl Config {
    /// Reads the section.
    pub fn read(document: &mut Document) -> Self {
        let mut router = document.section("router");
        let config = Self {
            batch_bytes: router.bytes(
                "batch_bytes",
                512 * 1024,
                4 * 1024..=768 * 1024,
                "Bytes of messages in one record of the log, at most.",
            ) as usize,
            queue_bytes: router.bytes(
                "queue_bytes",
                16 * 1024 * 1024,
                64 * 1024..=1024 * 1024 * 1024,
                "Bytes of publishes a shard holds while the log is busy; above, publishers are told to slow down.",
            ) as usize,
            links: router.integer("links", 1024, 1..=65_536, "Gateways a shard talks to, at most; a further one is not answered until another goes.") as usize,
            inbox: router.integer(
                "inbox",
                8192,
                16..=1_048_576,
                "Frames from gateways that wait for a shard; above, the newest is dropped and the link reset.",
            ) as usize,
            owner_beat: router.duration(
                "owner_beat",
                Duration::from_millis(250),
                Duration::from_millis(50)..=Duration::from_secs(2),
                "Between two beats of a shard's owner.",
            ),
            owner_silence: router.duration(
                "owner_silence",
                Duration::from_millis(1200),
                Duration::from_millis(200)..=Duration::from_secs(30),
                "Silence after which a shard's owner is taken for dead.",
            ),
            release: router.duration(
                "release",
                Duration::from_secs(2),
                Duration::ZERO..=Duration::from_secs(60),
                "How long giving up a shard waits for the append in flight.",
            ),
        };
        if config.owner_silence < config.owner_beat * 3 {
            router.fault(
                "owner_silence",
                "shorter than three owner beats, so a beat that is late would cost an owner its shard",
                "set it to at least three times router.owner_beat",
            );
        }
        config
    }
}
