//! The `[router]` section.

use std::time::Duration;

use switchboard_bus::ReaderName;
use switchboard_service_kit::config::{Document, Section};

use crate::shard::STORE;

const MIB: u64 = 1024 * 1024;

/// What a router can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of messages in one batch, at most.
    pub batch_bytes: usize,
    /// Between the beginnings of two appends of a shard's messages, at least.
    pub append_interval: Duration,
    /// Bytes of publishes a shard holds while its append is in flight.
    pub queue_bytes: usize,
    /// Gateways a shard is linked to, at most.
    pub links: usize,
    /// Frames from gateways that wait for a shard, at most.
    pub frames: usize,
    /// Between two beats of an owner.
    pub owner_beat: Duration,
    /// Silence after which an owner is taken for dead.
    pub owner_silence: Duration,
    /// How long giving up a shard waits for the append in flight.
    pub release: Duration,
    /// How long a planned move waits for the router that is next to have read the log.
    pub hand_over: Duration,
    /// Bytes of recent messages that one shard keeps in memory.
    pub window_bytes: usize,
    /// How long they are kept.
    pub window_age: Duration,
    /// Bytes of recent messages of all shards of this process.
    pub window_total: usize,
    /// Channels, over all shards, whose newest message is known without reading.
    pub known_channels: usize,
    /// How long an idempotency key is known.
    pub key_window: Duration,
    /// Keys that are known, over all shards.
    pub known_keys: usize,
    /// Bytes of the log that are read for one question about history, at most.
    pub history_reading: usize,
    /// Percent of a shard's log above which its oldest records are purged.
    pub purge_above: u64,
    /// Readers of the log that a purge waits for.
    pub readers: Vec<ReaderName>,
    /// How long an answer of the message store is waited for.
    pub store_timeout: Duration,
}

/// Readers that may be named.
const MAX_READERS: usize = 16;

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
            append_interval: router.duration(
                "append_interval",
                Duration::ZERO,
                Duration::ZERO..=Duration::from_millis(100),
                "Between the beginnings of two appends of a shard's messages, at least, unless a whole record waits. Each message of \
                 a busy shard may wait for so long, and the log, its replicas and all readers have less to do; a shard that had \
                 nothing to append for as long does so at once.",
            ),
            queue_bytes: router.bytes(
                "queue_bytes",
                16 * 1024 * 1024,
                64 * 1024..=1024 * 1024 * 1024,
                "Bytes of publishes a shard holds while the log is busy; above, publishers are told to slow down.",
            ) as usize,
            links: router.integer("links", 1024, 1..=65_536, "Gateways a shard talks to, at most; a further one is not answered until another goes.") as usize,
            frames: router.integer(
                "frames",
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
            hand_over: router.duration(
                "hand_over",
                Duration::from_secs(5),
                Duration::ZERO..=Duration::from_secs(60),
                "How long a shard that moves to another router waits for that one to have read its log.",
            ),
            window_bytes: router.bytes(
                "window_bytes",
                64 * MIB,
                MIB..=1024 * MIB,
                "Bytes of its newest messages that a shard keeps in memory; older recoveries read the log.",
            ) as usize,
            window_age: router.duration(
                "window_age",
                Duration::from_secs(300),
                Duration::from_secs(1)..=Duration::from_secs(86_400),
                "How long a shard keeps messages in memory.",
            ),
            window_total: router.bytes(
                "window_total",
                512 * MIB,
                MIB..=1024 * 1024 * MIB,
                "Bytes of messages that all shards of a router keep in memory; above, each keeps its part of it.",
            ) as usize,
            known_channels: router.integer(
                "known_channels",
                1_000_000,
                1024..=1_000_000_000,
                "Channels, over all shards, whose newest message is known; a recovery of another one reads the log.",
            ) as usize,
            key_window: router.duration(
                "key_window",
                Duration::from_secs(300),
                Duration::from_secs(1)..=Duration::from_secs(3600),
                "How long an idempotency key is known; must be what the log was created with.",
            ),
            known_keys: router.integer(
                "known_keys",
                1_000_000,
                1024..=100_000_000,
                "Idempotency keys that are known, over all shards; above, messages with a key are refused until older keys go.",
            ) as usize,
            history_reading: router.bytes(
                "history_reading",
                64 * MIB,
                MIB..=1024 * MIB,
                "Bytes of a shard's log that are read for one question about history; a page that would need more ends before, and is refused where it would be empty then.",
            ) as usize,
            purge_above: router.integer(
                "purge_above",
                75,
                10..=89,
                "Percent of a shard's log above which its oldest records are purged, unless something still needs them.",
            ),
            readers: read_readers(&mut router),
            store_timeout: router.duration(
                "store_timeout",
                Duration::from_millis(1500),
                Duration::from_millis(50)..=Duration::from_secs(3),
                "How long an answer of the message store is waited for before the log is read instead. It is asked where router.readers \
                 names \"persistence\".",
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

impl Config {
    /// Whether messages are stored, and the store may be asked.
    pub(crate) fn has_store(&self) -> bool {
        self.readers.iter().any(|reader| reader.as_str() == STORE)
    }

    /// One more durable reader of the log, unless it is named already.
    pub fn read_by(&mut self, name: &str) {
        if let Some(reader) = ReaderName::new(name)
            && !self.readers.contains(&reader)
        {
            self.readers.push(reader);
        }
    }
}

fn read_readers(router: &mut Section<'_>) -> Vec<ReaderName> {
    let names = router.list(
        "readers",
        &[],
        "Durable readers of the log; nothing is purged that one of them is not done with.",
    );
    let mut readers = Vec::new();
    for name in &names {
        match ReaderName::new(name) {
            Some(reader) if readers.contains(&reader) => {
                router.fault("readers", format!("names {name} twice"), "name each reader once");
            }
            Some(reader) => readers.push(reader),
            None => router.fault(
                "readers",
                format!("holds {name:?}, which is no reader's name"),
                "write lower-case letters, digits and `-`, at most 32, such as \"persistence\"",
            ),
        }
    }
    if readers.len() > MAX_READERS {
        router.fault(
            "readers",
            format!("names {} readers", readers.len()),
            format!("name at most {MAX_READERS}"),
        );
    }
    readers
}
