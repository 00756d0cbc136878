//! Followers' positions in PostgreSQL.

use async_trait::async_trait;
use sqlx::PgConnection;
use switchboard_proto::ids::{LogEpoch, Offset, ShardId};

use super::PostgresStore;
use crate::store::{Behind, FollowStore, LogRow, MAX_LIMIT, Step, StoreError, columns, log_number, number};

/// Moves a follower's position within its transaction. `false`: it is elsewhere, and the transaction must not be committed.
/// Two that move it wait for each other.
pub(super) async fn moved(connection: &mut PgConnection, step: &Step) -> Result<bool, StoreError> {
    let (shard, log) = (i32::from(step.shard.get()), log_number(step.log));
    sqlx::query("INSERT INTO followers VALUES ($1, $2, $3, 0) ON CONFLICT DO NOTHING")
        .bind(step.name)
        .bind(shard)
        .bind(log)
        .execute(&mut *connection)
        .await?;
    let moved = sqlx::query(
        "UPDATE followers SET done_to = $5 WHERE name = $1 AND shard = $2 AND log = $3 AND done_to = $4",
    )
    .bind(step.name)
    .bind(shard)
    .bind(log)
    .bind(number(step.from.get()))
    .bind(number(step.to.get()))
    .execute(connection)
    .await?;
    Ok(moved.rows_affected() == 1)
}

#[async_trait]
impl FollowStore for PostgresStore {
    async fn behind(&self, name: &str) -> Result<Vec<Behind>, StoreError> {
        self.within(async {
            sqlx::query(
                "SELECT progress.shard, progress.log, COALESCE(done_to, 0), read_to
                 FROM progress LEFT JOIN followers
                     ON followers.name = $1 AND followers.shard = progress.shard AND followers.log = progress.log
                 WHERE (read_to << 12) | 4095 > COALESCE(done_to, 0)
                 ORDER BY progress.shard, progress.log",
            )
            .bind(name)
            .fetch_all(&self.database.pool)
            .await?
            .iter()
            .map(columns::behind)
            .collect()
        })
        .await
    }

    async fn log_rows(
        &self,
        (shard, log): (ShardId, LogEpoch),
        after: Offset,
        up_to: Offset,
        limit: usize,
    ) -> Result<Vec<LogRow>, StoreError> {
        self.within(async {
            sqlx::query(
                r#"SELECT "offset", log_time, channel, sender, message FROM messages
                   WHERE shard = $1 AND log = $2 AND "offset" > $3 AND "offset" <= $4
                   ORDER BY "offset" LIMIT $5"#,
            )
            .bind(i32::from(shard.get()))
            .bind(log_number(log))
            .bind(number(after.get()))
            .bind(number(up_to.get()))
            .bind(i64::try_from(limit.min(MAX_LIMIT)).unwrap_or(i64::MAX))
            .fetch_all(&self.database.pool)
            .await?
            .iter()
            .map(columns::log_row)
            .collect()
        })
        .await
    }
}
