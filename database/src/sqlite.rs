//! One SQLite file.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

/// Where the file is and what it may take.
#[derive(Debug, Clone)]
pub struct SqliteSettings {
    /// The file; it is made where it is missing.
    pub path: PathBuf,
    /// Connections that read, at most. One more writes.
    pub connections: u32,
    /// How long a call waits for a connection.
    pub wait: Duration,
}

/// Pools of a file.
#[derive(Debug, Clone)]
pub struct SqliteDatabase {
    /// SQLite has one writer at a time: here they queue without polling the file. A transaction that writes begins with
    /// `BEGIN IMMEDIATE`, for a lock that is taken at the first write could come too late.
    pub writer: SqlitePool,
    /// Where questions go.
    pub readers: SqlitePool,
}

impl SqliteDatabase {
    /// Opens the file when it is first asked something.
    pub fn new(settings: &SqliteSettings) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(&settings.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What is committed has to outlast a power cut: others forget what is safe here.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(settings.wait);
        let pool = |connections, options: SqliteConnectOptions| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(settings.wait)
                .test_before_acquire(false)
                .connect_lazy_with(options)
        };
        Self {
            writer: pool(1, options.clone()),
            readers: pool(settings.connections, options),
        }
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
