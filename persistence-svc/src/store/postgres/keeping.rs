//! Expiry, holds and erasure in PostgreSQL.

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
use super::PostgresStore;

impl PostgresStore {
    pub(super) async fn changing(&self) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, StoreError> {
        Ok(self.database.pool.begin().await?)
    }
}

/// Advisory locks of the database, under one key ("switch", 2): writers share it, an erasure has it alone for one short transaction. The
/// server lets nobody overtake who waits, so an erasure is not kept out by ever new writes.
const BESIDE: &str = "SELECT pg_advisory_xact_lock_shared(8320234785195163650)";
const ALONE: &str = "SELECT pg_advisory_xact_lock(8320234785195163650)";

keeping!(
    sqlx::PgConnection,
    PostgresStore,
    sqlx::postgres::PgRow,
    users: "user_name IN (SELECT json_array_elements_text($1::json))",
    lock: "LOCK TABLE holds IN SHARE MODE",
    beside: BESIDE,
    alone: ALONE,
    lock_row: " FOR UPDATE"
);

/// Takes rows out of the index of search: by their time, which is what its partitions are of.
async fn unindex(connection: &mut sqlx::PgConnection, rows: &[&Kept]) -> Result<(), StoreError> {
    let times = rows.iter().map(|row| number(row.time_us));
    let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
        return Ok(());
    };
    let keys = keys(rows);
    // Only numbers are in it.
    let statement = format!(
        r#"DELETE FROM search WHERE log_time >= {first} AND log_time <= {last}
               AND (log_time, shard, log, "offset") IN (VALUES {keys})"#
    );
    sqlx::query(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}
