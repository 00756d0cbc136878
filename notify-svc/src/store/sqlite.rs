//! The store in one SQLite file.

use switchboard_database::{Pool, SqliteDatabase, SqliteSettings};

use super::StoreError;
use super::migrations::SCHEMA;
use super::sql::notify_store;

/// See the module.
#[derive(Debug)]
pub struct SqliteStore {
    database: SqliteDatabase,
}

impl SqliteStore {
    /// A store that opens the file when it is first asked something.
    pub fn new(settings: &SqliteSettings) -> Self {
        Self {
            database: SqliteDatabase::new(settings),
        }
    }

    fn reader(&self) -> &sqlx::SqlitePool {
        &self.database.readers
    }

    /// Where single statements that change something go.
    fn writer(&self) -> &sqlx::SqlitePool {
        &self.database.writer
    }

    async fn begin(&self) -> Result<sqlx::SqliteTransaction<'static>, StoreError> {
        // It reads before it writes: a lock that is taken at the first write could come too late.
        Ok(self.database.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// A call as it is: nothing of it can hang longer than the pool and the file's lock wait.
    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        call.await
    }

    async fn make_schema(&self) -> Result<(), StoreError> {
        Ok(SCHEMA.migrate_sqlite(&self.database).await?)
    }

    async fn check_schema(&self) -> Result<(), StoreError> {
        Ok(SCHEMA.check_sqlite(&self.database).await?)
    }

    fn state(&self) -> Option<Pool> {
        None
    }

    async fn end(&self) {
        self.database.close().await;
    }
}

// One writer at a time needs no locks of rows.
notify_store!(SqliteStore, sqlx::Sqlite, "");
