//! The sections of a service that say where its database is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use switchboard_service_kit::config::{Document, Section};

use crate::{PostgresSettings, SqliteSettings};

/// A database with its settings.
#[derive(Debug, Clone)]
pub enum DatabaseSettings {
    /// A file of this process.
    Sqlite(SqliteSettings),
    /// A server.
    Postgres(PostgresSettings),
}

/// Which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is stored.
    None,
    /// A file of this process.
    Sqlite,
    /// A server.
    Postgres,
}

/// What a configuration calls them.
pub const KINDS: [(&str, Kind); 3] = [
    ("none", Kind::None),
    ("sqlite", Kind::Sqlite),
    ("postgres", Kind::Postgres),
];

/// What holds where nothing is configured.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Whether something is stored, in a file: where this one process has all there is.
    pub sqlite: bool,
    /// The file.
    pub path: PathBuf,
}

impl Defaults {
    /// Of a service that is one of many.
    pub fn of_many(path: &str) -> Self {
        Self {
            sqlite: false,
            path: path.into(),
        }
    }

    /// As a configuration calls it.
    pub fn kind(&self) -> &'static str {
        if self.sqlite { "sqlite" } else { "none" }
    }
}

/// A file's folder cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the folder of {path}")]
pub struct FolderError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

impl SqliteSettings {
    /// Makes the folder that the file is in.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn make_folder(&self) -> Result<(), FolderError> {
        let Some(folder) = self.path.parent() else {
            return Ok(());
        };
        std::fs::create_dir_all(folder).map_err(|source| FolderError {
            path: self.path.clone(),
            source,
        })
    }
}

/// Reads the sections of both databases, `names`, so that a file may keep the settings of the one not in use. `file`: as the help of
/// the file's path calls it.
pub fn read(
    document: &mut Document,
    kind: Kind,
    (sqlite, postgres): (&'static str, &'static str),
    (path, file): (&Path, &str),
) -> Option<DatabaseSettings> {
    let sqlite = read_sqlite(&mut document.section(sqlite), path, file);
    let postgres = read_postgres(&mut document.section(postgres), kind == Kind::Postgres);
    match kind {
        Kind::None => None,
        Kind::Sqlite => Some(DatabaseSettings::Sqlite(sqlite)),
        Kind::Postgres => Some(DatabaseSettings::Postgres(postgres)),
    }
}

fn read_sqlite(section: &mut Section<'_>, default: &Path, file: &str) -> SqliteSettings {
    let help = format!(
        "The file. The default is {file} in the folder of bus.embedded.path, where that is not the default itself."
    );
    SqliteSettings {
        path: section.path("path", &default.to_string_lossy(), &help),
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
