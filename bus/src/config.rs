//! The section `[bus]`: which backend carries messages and holds the log, and how to open it.
//!
//! Every process that is not a test opens its bus and log here, so that all of them read the same
//! keys and check the layout the same way (rule L7).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use switchboard_proto::bus::Layout;
use switchboard_proto::ids::{MAX_SHARDS, SHARD_HASH, ShardCount};
use switchboard_proto::layout::DEFAULT_KEY_WINDOW;
use switchboard_proto::time::now_us;
use switchboard_service_kit::config::Document;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::embedded::{self, EmbeddedBus, EmbeddedDurability, EmbeddedLog};
use crate::nats::{
    ConnectError, NatsAuthentication, NatsBus, NatsConfig, NatsConnection, NatsDurability, NatsLog,
    NatsLogConfig,
};
use crate::{Bus, Log, LogError, SubjectPrefix};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// The folder of the embedded log, unless configured.
pub const EMBEDDED_LOG: &str = "./data/log";

/// The section `[bus]` with its backend's own section.
#[derive(Debug, Clone)]
pub struct BusConfig {
    /// Which backend, and all it needs.
    pub backend: Backend,
    /// The first token of every subject.
    pub prefix: SubjectPrefix,
    /// Whether a layout and logs that are missing are created at the start.
    pub create: bool,
    /// How many shards there are: what a created layout gets, and what an existing one must have.
    pub shards: ShardCount,
    /// For how long idempotency keys are known: likewise, for those that know it. The processes of routers and the
    /// operator's commands set it from `router.key_window`.
    pub key_window: Option<Duration>,
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
    Nats(NatsSettings),
}

/// How NATS is reached, and what its streams are created with.
#[derive(Debug, Clone)]
pub struct NatsSettings {
    /// Servers, each `nats://host:port` or `tls://host:port`.
    pub urls: Vec<String>,
    /// How this process proves who it is.
    pub authentication: NatsAuthentication,
    /// Servers that hold each record: 1, 3 or 5.
    pub replicas: usize,
    /// Bytes that one shard's stream takes.
    pub max_bytes: u64,
    /// What an acknowledged record survives.
    pub durability: NatsDurability,
}

/// An open bus and log.
#[derive(Clone)]
pub struct Backends {
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// The logs that the layout in force names, which was checked.
    pub log: Arc<dyn Log>,
    /// The shards of the layout.
    pub shards: ShardCount,
}

/// Why bus and log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The embedded log.
    #[error("cannot open the embedded log (bus.embedded.path)")]
    Embedded(#[from] embedded::OpenError),
    /// NATS.
    #[error("cannot reach NATS (bus.nats.urls)")]
    Nats(#[from] ConnectError),
    /// The servers take smaller messages only.
    #[error(
        "NATS takes messages of {found} bytes at most, and 1 MiB is needed: set max_payload of every server to 1MB or \
         more"
    )]
    Payload {
        /// Their `max_payload`.
        found: usize,
    },
    /// The log, or its layout, cannot be read, checked or created.
    #[error("cannot use the log")]
    Log(#[from] LogError),
    /// The log was never set up.
    #[error("the log has no layout: set bus.create = true, or run `switchboard migrate` once")]
    NoLayout,
    /// The log has another number of shards.
    #[error("bus.shards is {configured}, but the log has {layout} shards: set bus.shards = {layout}")]
    Shards {
        /// What is configured.
        configured: u16,
        /// What the layout says.
        layout: u32,
    },
    /// The log places channels by another hash.
    #[error(
        "the log places channels by the hash {found:?}, this release knows only {SHARD_HASH:?}: \
         run a release that knows it"
    )]
    Hash {
        /// What the layout says.
        found: String,
    },
    /// Routers of this log know idempotency keys for another time.
    #[error(
        "router.key_window is {configured:?}, but the log was created with {layout:?}: set router.key_window = \"{}s\"",
        layout.as_secs()
    )]
    KeyWindow {
        /// What is configured.
        configured: Duration,
        /// What the layout says.
        layout: Duration,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Embedded,
    Nats,
}

impl BusConfig {
    /// Reads `[bus]`, `[bus.embedded]` and `[bus.nats]`.
    pub fn read(document: &mut Document) -> Self {
        let mut bus = document.section("bus");
        let kinds = [("embedded", Kind::Embedded), ("nats", Kind::Nats)];
        let help = "Where messages travel and the log is: in this one process, or in NATS with JetStream.";
        let kind = bus.choice("backend", &kinds, "embedded", help);
        let prefix = bus.text(
            "prefix",
            SubjectPrefix::default().as_str(),
            "First token of every NATS subject and stream, so that installations can share a NATS.",
        );
        let prefix = SubjectPrefix::new(&prefix).unwrap_or_else(|| {
            bus.fault(
                "prefix",
                format!("{prefix:?} cannot be a token of a subject"),
                "use 1 to 32 letters, digits, - and _",
            );
            SubjectPrefix::default()
        });
        let create = bus.boolean(
            "create",
            kind == Kind::Embedded,
            "Create the log's layout and shards at the start if they are missing. \
             The default is true for embedded, false for nats.",
        );
        let shards = bus.integer(
            "shards",
            if kind == Kind::Embedded { 4 } else { 16 },
            1..=u64::from(MAX_SHARDS),
            "Shards of the log; must be what the log has, see `switchboard log`. The default is 4 for embedded, 16 for nats.",
        );
        #[expect(
            clippy::expect_used,
            reason = "the reader above returns nothing outside these bounds"
        )]
        let shards = u32::try_from(shards)
            .ok()
            .and_then(ShardCount::new)
            .expect("within the bounds");
        // Both are read always, so that a file may keep the settings of the backend not in use.
        let embedded = read_embedded(document);
        let nats = Backend::Nats(read_nats(document));
        let backend = if kind == Kind::Embedded { embedded } else { nats };
        Self {
            backend,
            prefix,
            create,
            shards,
            key_window: None,
        }
    }

    /// As [`BusConfig::read`], for a process that needs others on its bus: a backend that only one
    /// process can use is a fault.
    pub fn read_shared(document: &mut Document) -> Self {
        let config = Self::read(document);
        if matches!(config.backend, Backend::Embedded { .. }) {
            document.section("bus").fault(
                "backend",
                "embedded serves one process only, and this one needs others",
                "set \"nats\", or run all services in one process with `switchboard`",
            );
        }
        config
    }

    /// Opens bus and log, and checks the log's layout, or creates it where [`BusConfig::create`] says
    /// so. `service` names this process to the backend.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and what to do.
    pub async fn open(&self, service: &str) -> Result<Backends, OpenError> {
        let log = self.open_log(service).await?;
        let layout = self.check_layout(&*log).await?;
        Ok(Backends {
            bus: self.open_bus(service).await?,
            log: log.of(&layout),
            shards: self.shards,
        })
    }

    /// Opens the bus alone, for a service that neither reads nor writes the log and needs no right to. Whether the
    /// layout is the configured one is told by what owners say (rule L7).
    ///
    /// # Errors
    /// [`OpenError::Nats`].
    pub async fn open_bus(&self, service: &str) -> Result<Arc<dyn Bus>, OpenError> {
        Ok(match &self.backend {
            Backend::Embedded { .. } => EmbeddedBus::new(self.prefix.clone()),
            Backend::Nats(settings) => self.open_nats_bus(settings, service).await?,
        })
    }

    /// Opens the log as it is: nothing is checked or created. For the operator's commands.
    ///
    /// # Errors
    /// [`OpenError::Embedded`], [`OpenError::Nats`].
    pub async fn open_log(&self, service: &str) -> Result<Arc<dyn Log>, OpenError> {
        Ok(match &self.backend {
            Backend::Embedded {
                path,
                durability,
                max_bytes,
            } => {
                // Blocks, but nothing can go on before it is open.
                EmbeddedLog::open_limited(path, *durability, Some(*max_bytes))?
            }
            Backend::Nats(settings) => self.open_nats_log(settings, service).await?,
        })
    }

    async fn open_nats_bus(&self, settings: &NatsSettings, service: &str) -> Result<Arc<NatsBus>, OpenError> {
        let connection = connect(&settings.connection(service)).await?;
        // Each subscription's task ends when the subscription is dropped. Nothing else may end one: a
        // service that drains still needs the bus.
        Ok(NatsBus::new(
            connection,
            self.prefix.clone(),
            TaskTracker::new(),
            CancellationToken::new(),
        ))
    }

    /// On a connection of its own, so that reading much of the log does not hold up the links.
    async fn open_nats_log(&self, settings: &NatsSettings, service: &str) -> Result<Arc<NatsLog>, OpenError> {
        let mut connection = settings.connection(service);
        connection.name += " log";
        let config = NatsLogConfig {
            prefix: self.prefix.clone(),
            replicas: settings.replicas,
            max_bytes: settings.max_bytes,
            durability: settings.durability,
        };
        Ok(NatsLog::new(connect(&connection).await?, config))
    }

    /// The layout in force. Whoever differs from it must not start (rule L7).
    async fn check_layout(&self, log: &dyn Log) -> Result<Layout, OpenError> {
        let layout = if self.create {
            let key_window = self.key_window.unwrap_or(DEFAULT_KEY_WINDOW);
            log.create(&Layout::new(self.shards, key_window, now_us()))
                .await?
        } else {
            log.layout().await?.ok_or(OpenError::NoLayout)?
        };
        if layout.hash != SHARD_HASH {
            return Err(OpenError::Hash { found: layout.hash });
        }
        if layout.shards != u32::from(self.shards.get()) {
            return Err(OpenError::Shards {
                configured: self.shards.get(),
                layout: layout.shards,
            });
        }
        if let Some(configured) = self.key_window.filter(|window| *window != layout.key_window()) {
            return Err(OpenError::KeyWindow {
                configured,
                layout: layout.key_window(),
            });
        }
        if !self.create {
            log.check(&layout).await?;
        }
        Ok(layout)
    }
}

impl NatsSettings {
    fn connection(&self, service: &str) -> NatsConfig {
        NatsConfig::new(self.urls.clone(), self.authentication.clone(), service)
    }
}

fn read_embedded(document: &mut Document) -> Backend {
    let mut embedded = document.section("bus.embedded");
    let path = embedded.path("path", EMBEDDED_LOG, "Folder of the embedded log.");
    let levels = [
        ("memory", EmbeddedDurability::Memory),
        ("synced", EmbeddedDurability::Synced),
    ];
    let durability = embedded.choice(
        "durability",
        &levels,
        "synced",
        "What an acknowledged message survives: the death of the process (memory), or a power cut too (synced).",
    );
    let help = "What one shard's log may take; when it is full, publishes are refused.";
    let max_bytes = embedded.bytes("max_bytes", 4 * GIB, 16 * MIB..=16 * TIB, help);
    Backend::Embedded {
        path,
        durability,
        max_bytes,
    }
}

fn read_nats(document: &mut Document) -> NatsSettings {
    let mut nats = document.section("bus.nats");
    let urls = nats.list(
        "urls",
        &["nats://127.0.0.1:4222"],
        "NATS servers, each nats://host:port or tls://host:port.",
    );
    if urls.is_empty() {
        nats.fault(
            "urls",
            "names no server",
            "name at least one, such as [\"nats://127.0.0.1:4222\"]",
        );
    }
    for url in &urls {
        let known = ["nats://", "tls://"]
            .iter()
            .any(|scheme| url.strip_prefix(scheme).is_some_and(|host| !host.is_empty()));
        // The password belongs into its own key, where it is never printed.
        if !known || url.contains('@') {
            nats.fault(
                "urls",
                "holds something else than nats://host:port or tls://host:port",
                "write each server like this; user and password have keys of their own",
            );
        }
    }
    let credentials = nats.optional_text("credentials_file", "NATS credentials file (user JWT and key).");
    let user = nats.optional_text("user", "NATS user, where there is no credentials file.");
    let password = nats.secret("password", "Password of that user.");
    let authentication = match (credentials, user, password) {
        (None, None, None) => NatsAuthentication::None,
        (Some(file), None, None) => NatsAuthentication::CredentialsFile(file.into()),
        (None, Some(user), Some(password)) => NatsAuthentication::Password { user, password },
        (Some(_), _, _) => {
            let remedy = "keep either credentials_file, or user and password";
            nats.fault("credentials_file", "given together with user or password", remedy);
            NatsAuthentication::None
        }
        (None, user, _) => {
            let (given, missing) = if user.is_some() {
                ("user", "password")
            } else {
                ("password", "user")
            };
            nats.fault(
                given,
                format!("given without {missing}"),
                format!("add {missing}, or remove {given}"),
            );
            NatsAuthentication::None
        }
    };
    let replicas = nats.integer(
        "replicas",
        1,
        1..=5,
        "Servers that hold each record of the log: 1, 3 or 5.",
    );
    if replicas.is_multiple_of(2) {
        nats.fault(
            "replicas",
            format!("{replicas} replicas survive no more than {}", replicas - 1),
            "set 1, 3 or 5",
        );
    }
    let help = "What one shard's stream may take on each replica; when it is full, publishes are refused.";
    let max_bytes = nats.bytes("max_bytes", GIB, 16 * MIB..=16 * TIB, help);
    let levels = [
        ("memory", NatsDurability::Memory),
        ("replicated", NatsDurability::Replicated),
        ("replicated-and-fsynced", NatsDurability::ReplicatedAndFsynced),
    ];
    let durability = nats.choice(
        "durability",
        &levels,
        "replicated",
        "What an acknowledged message survives: while most replicas run (memory), on the disks of the replicas but \
         perhaps not synced (replicated), or synced, which needs `sync_interval: always` on every server \
         (replicated-and-fsynced).",
    );
    NatsSettings {
        urls,
        authentication,
        replicas: usize::try_from(replicas).unwrap_or(1),
        max_bytes,
        durability,
    }
}

/// Bytes of a message that servers have to take, as they do by default: batches, frames and answers are larger than
/// half of it. Where one is too large it is lost again each time that it is sent again.
const PAYLOAD: usize = 1 << 20;

async fn connect(config: &NatsConfig) -> Result<NatsConnection, OpenError> {
    let connection = NatsConnection::connect(config).await?;
    let found = connection.max_payload();
    if found < PAYLOAD {
        return Err(OpenError::Payload { found });
    }
    Ok(connection)
}

#[cfg(test)]
mod tests;
