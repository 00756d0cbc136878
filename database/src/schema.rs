//! A schema's versions: the same numbers and names for both databases.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

use crate::postgres::PostgresDatabase;
use crate::sqlite::SqliteDatabase;

/// The migrations of one service: number, name, and statements.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// The table of those that a database has.
    pub table: &'static str,
    /// For PostgreSQL.
    pub postgres: &'static [(i64, &'static str, &'static str)],
    /// For SQLite.
    pub sqlite: &'static [(i64, &'static str, &'static str)],
}

/// Why a database has not the schema that it should have.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The database does not do it.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// It is another one.
    #[error("{0}")]
    Differs(String),
}

impl From<MigrateError> for SchemaError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) => Self::Database(error),
            other => Self::Differs(other.to_string()),
        }
    }
}

impl Schema {
    /// Whether the server has this schema.
    ///
    /// # Errors
    /// [`SchemaError`].
    pub async fn check_postgres(&self, postgres: &PostgresDatabase) -> Result<(), SchemaError> {
        let applied = sqlx::query_scalar(self.applied()).fetch_all(&postgres.pool).await;
        compare(applied, self.postgres)
    }

    /// Makes it, one process at a time.
    ///
    /// # Errors
    /// [`SchemaError`].
    pub async fn migrate_postgres(&self, postgres: &PostgresDatabase) -> Result<(), SchemaError> {
        Ok(self.migrator(self.postgres).run(&postgres.pool).await?)
    }

    /// Whether the file has this schema.
    ///
    /// # Errors
    /// [`SchemaError`].
    pub async fn check_sqlite(&self, sqlite: &SqliteDatabase) -> Result<(), SchemaError> {
        let applied = sqlx::query_scalar(self.applied())
            .fetch_all(&sqlite.readers)
            .await;
        compare(applied, self.sqlite)
    }

    /// Makes it.
    ///
    /// # Errors
    /// [`SchemaError`].
    pub async fn migrate_sqlite(&self, sqlite: &SqliteDatabase) -> Result<(), SchemaError> {
        let migrator = self.migrator(self.sqlite);
        // SQLite has no lock around migrations. Who lost a race for one against another process finds it done the next time, and may
        // lose the race for the one behind it: as often as there are migrations.
        let mut done = migrator.run(&sqlite.writer).await;
        for _ in migrator.iter() {
            if done.is_ok() {
                break;
            }
            done = migrator.run(&sqlite.writer).await;
        }
        Ok(done?)
    }

    fn applied(&self) -> sqlx::AssertSqlSafe<String> {
        sqlx::AssertSqlSafe(format!(
            "SELECT version FROM {} WHERE success ORDER BY version",
            self.table
        ))
    }

    fn migrator(&self, migrations: &[(i64, &'static str, &'static str)]) -> Migrator {
        let migrations = migrations.iter().map(|(number, name, sql)| {
            Migration::new(
                *number,
                (*name).into(),
                MigrationType::Simple,
                sql.into_sql_str(),
                false,
            )
        });
        let mut migrator = Migrator::with_migrations(migrations.collect());
        migrator.dangerous_set_table_name(self.table);
        migrator
    }
}

/// Compares the migrations that a database has with those of this release.
fn compare(
    applied: Result<Vec<i64>, sqlx::Error>,
    known: &[(i64, &'static str, &'static str)],
) -> Result<(), SchemaError> {
    let applied = match applied {
        Ok(applied) => applied,
        // There is no table of migrations.
        Err(sqlx::Error::Database(refusal)) if matches!(refusal.code().as_deref(), Some("42P01" | "1")) => {
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    };
    let known: Vec<i64> = known.iter().map(|(number, _, _)| *number).collect();
    if applied == known {
        return Ok(());
    }
    let newest = |versions: &[i64]| versions.last().copied().unwrap_or(0);
    Err(SchemaError::Differs(format!(
        "it has version {}, this release {}",
        newest(&applied),
        newest(&known)
    )))
}
