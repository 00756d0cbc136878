//! Expiry, holds and erasure in SQLite. Its one writer is lock enough.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use sqlx::AssertSqlSafe;

use super::super::changes::{RowKey, fold_again};
use super::super::columns::{self, Columns as _};
use super::super::keeping::sql::{everywhere, keeping, not_held};
use super::super::keeping::{
    Erasure, Forgetting, Hold, Holds, KeepStore, Kept, MAX_HOLDS, MAX_KEPT, Over, Subject, edges, few,
    forgotten, keys, users_of,
};
use super::super::search::Document;
use super::super::{Place, StoreError, Written, channel_hash, log_number, number, unsigned};
use super::SqliteStore;
use super::search::{SHIFT, first_of};

impl SqliteStore {
    pub(super) async fn changing(&self) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>, StoreError> {
        Ok(self.database.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

keeping!(
    sqlx::SqliteConnection,
    SqliteStore,
    sqlx::sqlite::SqliteRow,
    users: "user_name IN (SELECT value FROM json_each($1))",
    lock: "SELECT 1",
    beside: "SELECT 1",
    alone: "SELECT 1",
    lock_row: ""
);

/// Takes rows out of the index of search.
async fn unindex(connection: &mut sqlx::SqliteConnection, rows: &[&Kept]) -> Result<(), StoreError> {
    for row in rows {
        let first = first_of(row.time_us);
        let id: Option<i64> = sqlx::query_scalar(
            r#"SELECT id FROM search_places WHERE id >= ? AND id < ? AND shard = ? AND log = ? AND "offset" = ?"#,
        )
        .bind(first)
        .bind(first.saturating_add(2 << SHIFT))
        .bind(i32::from(row.shard.get()))
        .bind(log_number(row.place.log))
        .bind(number(row.place.offset.get()))
        .fetch_optional(&mut *connection)
        .await?;
        let Some(id) = id else { continue };
        for statement in [
            "DELETE FROM search WHERE rowid = ?",
            "DELETE FROM search_places WHERE id = ?",
        ] {
            sqlx::query(statement).bind(id).execute(&mut *connection).await?;
        }
    }
    Ok(())
}
