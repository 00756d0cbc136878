//! The store in PostgreSQL.

use switchboard_database::{Pool, PostgresDatabase, PostgresSettings};

use super::StoreError;
use super::migrations::SCHEMA;
use super::sql::notify_store;

/// See the module.
#[derive(Debug)]
pub struct PostgresStore {
    database: PostgresDatabase,
}

impl PostgresStore {
    /// A store that connects when it is first asked something.
    ///
    /// # Errors
    /// What is wrong with the URL, which is not repeated: it may hold a password.
    pub fn new(settings: &PostgresSettings) -> Result<Self, sqlx::Error> {
        Ok(Self {
            database: PostgresDatabase::new(settings)?,
        })
    }

    fn reader(&self) -> &sqlx::PgPool {
        &self.database.pool
    }

    /// Where single statements that change something go.
    fn writer(&self) -> &sqlx::PgPool {
        &self.database.pool
    }

    async fn begin(&self) -> Result<sqlx::PgTransaction<'static>, StoreError> {
        Ok(self.database.pool.begin().await?)
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let done = self.database.within(call).await;
        if let Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)) = &done {
            self.database.count_timeout();
        }
        done
    }

    async fn make_schema(&self) -> Result<(), StoreError> {
        Ok(SCHEMA.migrate_postgres(&self.database).await?)
    }

    async fn check_schema(&self) -> Result<(), StoreError> {
        self.within(async { Ok(SCHEMA.check_postgres(&self.database).await?) })
            .await
    }

    fn state(&self) -> Option<Pool> {
        Some(self.database.state())
    }

    async fn end(&self) {
        self.database.pool.close().await;
    }
}

notify_store!(PostgresStore, sqlx::Postgres, "FOR UPDATE SKIP LOCKED");
