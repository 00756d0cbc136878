//! The section `[persistence]`: where messages are stored.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use switchboard_service_kit::config::{Document, Section};
use switchboard_service_kit::grpc::{GrpcConfig, Sections};

use crate::keeping::KeepingSettings;
use crate::search::language::{LANGUAGES, Language};
use crate::statistics::StatisticsSettings;
use crate::store::{PostgresSettings, PostgresStore, SqliteSettings, SqliteStore, Store};

/// The section `[persistence]` with its stores' own sections.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where messages are stored; `None`: nowhere.
    pub store: Option<StoreSettings>,
    /// Whether the schema is made, or brought up to this release's, at start.
    pub migrate: bool,
    /// Bytes of records in one write of a shard, about.
    pub batch_bytes: usize,
    /// How long the first record of a write waits for others.
    pub linger: Duration,
    /// Questions of other services that are at work at a time, at most.
    pub questions: usize,
    /// What one of them may take.
    pub question_timeout: Duration,
    /// How messages are searched; `None`: not at all.
    pub search: Option<SearchSettings>,
    /// What is counted; `None`: nothing.
    pub statistics: Option<StatisticsSettings>,
    /// How long messages are kept.
    pub keeping: KeepingSettings,
    /// Who asks over gRPC, and where; `None`: nobody.
    pub grpc: Option<GrpcConfig>,
}

/// How messages are searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchSettings {
    /// Languages whose words are reduced to stems.
    pub languages: Vec<Language>,
    /// Fields of payloads in which texts stand; empty: all.
    pub fields: Vec<String>,
}

/// A store with its own settings.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// A file of this process.
    Sqlite(SqliteSettings),
    /// A server.
    Postgres(PostgresSettings),
}

/// Why a store cannot be opened. Whether the database is there is not asked.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is none. It is not repeated, for it may hold a password.
    #[error("persistence.postgres.url cannot be read: {0}; write postgres://user@host:port/database")]
    Url(String),
    /// The folder of the file.
    #[error("cannot make the folder of {path} (persistence.sqlite.path)")]
    Folder {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Sqlite,
    Postgres,
}

/// What holds where nothing is configured.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Whether messages are stored, in a file: where this one process has all there is.
    pub sqlite: bool,
    /// The file.
    pub path: PathBuf,
}

impl Default for Defaults {
    /// Of a service that is one of many.
    fn default() -> Self {
        Self {
            sqlite: false,
            path: SQLITE_PATH.into(),
        }
    }
}

/// Where the file is, unless configured.
const SQLITE_PATH: &str = "./data/messages.db";

impl std::fmt::Display for SearchSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let languages: Vec<&str> = self.languages.iter().map(|language| language.name()).collect();
        write!(
            f,
            "languages {}; fields {}",
            languages.join(","),
            self.fields.join(",")
        )
    }
}

impl Config {
    /// Reads the section and those of its stores.
    pub fn read(document: &mut Document, defaults: &Defaults) -> Self {
        let seconds = Duration::from_secs;
        let mut section = document.section("persistence");
        let kinds = [
            ("none", Kind::None),
            ("sqlite", Kind::Sqlite),
            ("postgres", Kind::Postgres),
        ];
        let kind = section.choice(
            "store",
            &kinds,
            if defaults.sqlite { "sqlite" } else { "none" },
            "Where messages are stored for good: nowhere, in a file of this one process, or in PostgreSQL. Routers must name \
             \"persistence\" in router.readers, or the log forgets what was not stored yet and nobody asks the store; in one process \
             with the router that is done. The default is sqlite where one process runs everything on the embedded bus, none \
             elsewhere.",
        );
        let migrate = section.boolean(
            "migrate",
            true,
            "Make the store's schema, or bring it up to this release's, at start. Otherwise run `switchboard migrate`.",
        );
        let batch_bytes = section.bytes(
            "batch_bytes",
            1 << 20,
            (16 << 10)..=(64 << 20),
            "Bytes of records in one write of a shard, about; so much memory is taken for each shard that is read.",
        );
        let linger = section.duration(
            "linger",
            Duration::from_millis(100),
            Duration::ZERO..=seconds(5),
            "How long the first record of a write waits for others.",
        );
        let questions = section.integer(
            "questions",
            256,
            1..=10_000,
            "Questions of other services, and over gRPC, that are at work at a time, at most; further ones are refused for the time being.",
        );
        let question_timeout = section.duration(
            "question_timeout",
            seconds(3),
            Duration::from_millis(100)..=seconds(60),
            "What one of them may take. Clients wait 4 s for an answer.",
        );
        let grpc = read_grpc(document);
        let search = read_search(&mut document.section("persistence.search"));
        let statistics = StatisticsSettings::read(document);
        let keeping = KeepingSettings::read(document);
        // Read always, so that a file may keep the settings of the store not in use.
        let sqlite = read_sqlite(&mut document.section("persistence.sqlite"), &defaults.path);
        let postgres = read_postgres(
            &mut document.section("persistence.postgres"),
            kind == Kind::Postgres,
        );
        Self {
            store: match kind {
                Kind::None => None,
                Kind::Sqlite => Some(StoreSettings::Sqlite(sqlite)),
                Kind::Postgres => Some(StoreSettings::Postgres(postgres)),
            },
            migrate,
            batch_bytes: usize::try_from(batch_bytes).unwrap_or(usize::MAX),
            linger,
            questions: usize::try_from(questions).unwrap_or(usize::MAX),
            question_timeout,
            search,
            statistics,
            grpc,
            keeping,
        }
    }
}

impl StoreSettings {
    /// Opens the store. A server is connected to when it is first asked something, and may be missing until then.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and where.
    pub fn open(&self) -> Result<Arc<dyn Store>, OpenError> {
        match self {
            Self::Sqlite(settings) => {
                if let Some(folder) = settings.path.parent() {
                    std::fs::create_dir_all(folder).map_err(|source| OpenError::Folder {
                        path: settings.path.clone(),
                        source,
                    })?;
                }
                Ok(Arc::new(SqliteStore::new(settings)))
            }
            Self::Postgres(settings) => {
                let store =
                    PostgresStore::new(settings).map_err(|error| OpenError::Url(error.to_string()))?;
                Ok(Arc::new(store))
            }
        }
    }
}

fn read_grpc(document: &mut Document) -> Option<GrpcConfig> {
    let sections = Sections {
        grpc: "persistence.grpc",
        tls: "persistence.grpc.tls",
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8009)),
        enabled: "Whether backends can ask MessageService over gRPC: all messages of everybody. See messages-api.md.",
    };
    GrpcConfig::read(document, sections)
}

fn read_search(section: &mut Section<'_>) -> Option<SearchSettings> {
    let enabled = section.boolean(
        "enabled",
        true,
        "Whether stored messages can be searched. Indexing comes after storing: under load it lags.",
    );
    let names = section.list(
        "languages",
        &["english"],
        "Languages whose words are found in all their forms; four at most, each makes the index larger. A change makes the index anew. \
         One of arabic, danish, dutch, english, finnish, french, german, greek, hungarian, italian, norwegian, portuguese, romanian, \
         russian, spanish, swedish, tamil, turkish. None: words are found as they are written.",
    );
    let fields = section.list(
        "fields",
        &[],
        "Fields of JSON payloads whose texts can be searched, inner ones as \"body.text\"; empty: every text. A change makes the index \
         anew.",
    );
    let mut languages: Vec<Language> = Vec::new();
    for name in &names {
        match Language::named(name) {
            Some(language) if !languages.contains(&language) => languages.push(language),
            Some(_) => {}
            None => {
                let known: Vec<&str> = LANGUAGES.iter().map(|(name, _)| *name).collect();
                section.fault(
                    "languages",
                    format!("has no known language {name:?}"),
                    format!("choose among {}", known.join(", ")),
                );
            }
        }
    }
    if languages.len() > 4 {
        section.fault(
            "languages",
            "has more than four languages",
            "name the most used ones",
        );
    }
    enabled.then_some(SearchSettings { languages, fields })
}

fn read_sqlite(section: &mut Section<'_>, default: &Path) -> SqliteSettings {
    let default = default.to_string_lossy();
    SqliteSettings {
        path: section.path(
            "path",
            &default,
            "The file. The default is messages.db in the folder of bus.embedded.path, where that is not the default itself.",
        ),
        connections: connections(section, 4, "Connections that read, at most; one more writes."),
        wait: wait(section),
    }
}

fn read_postgres(section: &mut Section<'_>, is_used: bool) -> PostgresSettings {
    let url = section.secret(
        "url",
        "The database, as `postgres://user@host:port/database?sslmode=verify-full`.",
    );
    if is_used && url.is_none() {
        section.fault(
            "url",
            "is missing",
            "name the database: postgres://user@host:port/database",
        );
    }
    PostgresSettings {
        url: url.unwrap_or_default(),
        password: section.secret("password", "The password, instead of one in the URL."),
        connections: connections(section, 8, "Connections of this process, at most."),
        wait: wait(section),
        statement: section.duration(
            "statement_timeout",
            Duration::from_secs(30),
            Duration::from_millis(100)..=Duration::from_secs(600),
            "What one statement may take; the server ends it then.",
        ),
    }
}

fn connections(section: &mut Section<'_>, default: u64, help: &str) -> u32 {
    u32::try_from(section.integer("connections", default, 1..=1000, help)).unwrap_or(u32::MAX)
}

fn wait(section: &mut Section<'_>) -> Duration {
    section.duration(
        "connection_timeout",
        Duration::from_secs(5),
        Duration::from_millis(100)..=Duration::from_secs(60),
        "How long a call waits for a connection.",
    )
}
