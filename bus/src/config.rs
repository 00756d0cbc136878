//! The section `[bus]`: which backend carries messages and holds the log, and how to open it.
//!
//! Every process that is not a test opens its bus and log here, so that all of them read the same
//! keys and check the layout the same way (rule L7).

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use switchboard_proto::bus::Layout;
use switchboard_proto::ids::{MAX_SHARDS, SHARD_HASH, ShardCount};
use switchboard_service_kit::config::{Document, Section};

use crate::embedded::{self, EmbeddedBus, EmbeddedDurability, EmbeddedLog};
use crate::{Bus, Log, LogError, SubjectPrefix};

/// The section `[bus]` with its backend's own section.
#[derive(Debug, Clone)]
pub struct BusConfig {
    /// Which backend, and all it needs.
    pub backend: Backend,
    /// The first token of every subject.
    pub prefix: SubjectPrefix,
    /// Whether a layout and logs that are missing are created at the start.
    pub create: bool,
    /// How many shards a layout gets that is created.
    pub shards: ShardCount,
}

/// A backend with its own settings.
#[derive(Debug, Clone)]
pub enum Backend {
    /// In this process and a folder of this machine.
    Embedded {
        /// The folder.
        path: PathBuf,
        /// What an acknowledged record survives.
        durability: EmbeddedDurability,
        /// Bytes of records that one shard's log takes.
        max_bytes: u64,
    },
    /// NATS with JetStream.
    Nats(NatsConfig),
}
