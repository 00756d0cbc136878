//! Followers' positions in SQLite.

use async_trait::async_trait;
use sqlx::SqliteConnection;
use switchboard_proto::ids::{LogEpoch, Offset, ShardId};

use super::SqliteStore;
use crate::store::{Behind, FollowStore, LogRow, MAX_LIMIT, Step, StoreError, columns, log_number, number};

/// Moves a follower's position within its transaction. `false`: it is elsewhere, and the transaction must not be committed.
pub(super) async fn moved(connection: &mut SqliteConnection, step: &Step) -> Result<bool, StoreError> {
    let (shard, log) = (i32::from(step.shard.get()), log_number(step.log));
    sqlx::query("INSERT INTO followers VALUES (?, ?, ?, 0) ON CONFLICT DO NOTHING")
        .bind(step.name)
        .bind(shard)
        .bind(log)
        .execute(&mut *connection)
        .await?;
    let moved = sqlx::query(
        "UPDATE followers SET done_to = ? WHERE name = ? AND shard = ? AND log = ? AND done_to = ?",
    )
    .bind(number(step.to.get()))
    .bind(step.name)
    .bind(shard)
    .bind(log)
    .bind(number(step.from.get()))
    .execute(connection)
    .await?;
    Ok(moved.rows_affected() == 1)
}

#[async_trait]
impl FollowStore for SqliteStore {
    async fn behind(&self, name: &str) -> Result<Vec<Behind>, StoreError> {
        sqlx::query(
            "SELECT progress.shard, progress.log, COALESCE(done_to, 0), read_to
             FROM progress LEFT JOIN followers
                 ON followers.name = ? AND followers.shard = progress.shard AND followers.log = progress.log
             WHERE ((read_to << 12) | 4095) > COALESCE(done_to, 0)
             ORDER BY progress.shard, progress.log",
        )
        .bind(name)
        .fetch_all(&self.database.readers)
        .await?
        .iter()
        .map(columns::behind)
        .collect()
    }

    async fn log_rows(
        &self,
        (shard, log): (ShardId, LogEpoch),
        after: Offset,
        up_to: Offset,
        limit: usize,
    ) -> Result<Vec<LogRow>, StoreError> {
        sqlx::query(
            r#"SELECT "offset", log_time, channel, sender, message FROM messages
               WHERE shard = ? AND log = ? AND "offset" > ? AND "offset" <= ?
               ORDER BY "offset" LIMIT ?"#,
        )
        .bind(i32::from(shard.get()))
        .bind(log_number(log))
        .bind(number(after.get()))
        .bind(number(up_to.get()))
        .bind(i64::try_from(limit.min(MAX_LIMIT)).unwrap_or(i64::MAX))
        .fetch_all(&self.database.readers)
        .await?
        .iter()
        .map(columns::log_row)
        .collect()
    }
}
