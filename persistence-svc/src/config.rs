//! The section `[persistence]`: where messages are stored.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use switchboard_database::config::{self as database, DatabaseSettings, Defaults, FolderError, KINDS};
use switchboard_service_kit::config::{Document, Section};
use switchboard_service_kit::grpc::{GrpcConfig, Sections};

use crate::keeping::KeepingSettings;
use crate::search::language::{LANGUAGES, Language};
use crate::statistics::StatisticsSettings;
use crate::store::{PostgresStore, SqliteStore, Store};

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

/// Where messages are stored.
#[derive(Debug, Clone)]
pub struct StoreSettings(pub DatabaseSettings);

/// Why a store cannot be opened. Whether the database is there is not asked.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is none. It is not repeated, for it may hold a password.
    #[error("persistence.postgres.url cannot be read: {0}; write postgres://user@host:port/database")]
    Url(String),
    /// The folder of the file.
    #[error("{0} (persistence.sqlite.path)")]
    Folder(FolderError),
}

/// Where the file is, unless configured.
pub const SQLITE_PATH: &str = "./data/messages.db";

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
        let kind = section.choice(
            "store",
            &KINDS,
            defaults.kind(),
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
        let sections = ("persistence.sqlite", "persistence.postgres");
        let store = database::read(document, kind, sections, (&defaults.path, "messages.db"));
        Self {
            store: store.map(StoreSettings),
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
        match &self.0 {
            DatabaseSettings::Sqlite(settings) => {
                settings.make_folder().map_err(OpenError::Folder)?;
                Ok(Arc::new(SqliteStore::new(settings)))
            }
            DatabaseSettings::Postgres(settings) => {
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
