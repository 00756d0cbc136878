//! What is joined with what the owner of a shard has, in SQLite: a transaction that reads sees one moment.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::{Sqlite, SqliteConnection, Transaction};
use switchboard_proto::ids::{LogEpoch, Offset, ShardId};

use super::super::columns::Columns as _;
use super::super::joining::sql::joining;
use super::super::joining::{CLOCKS_US, HOLES, JoinStore, Joint, Reach, narrowed, told};
use super::super::{
    History, MAX_HEADS, Page, Place, StoreError, bounds, channel_hash, columns, log_number, number,
};
use super::{SqliteStore, page_query};

impl SqliteStore {
    /// What is read in it is of one moment.
    pub(super) async fn moment(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.database.readers.begin().await?)
    }
}

// The newest row of a life tells by itself whether any is young enough; others would all be looked at.
joining!(SqliteConnection, SqliteStore, "$4 IS NOT NULL");

#[async_trait]
impl JoinStore for SqliteStore {
    async fn joint(
        &self,
        question: &History,
        shard: ShardId,
        log: Option<LogEpoch>,
    ) -> Result<Joint, StoreError> {
        self.read_joint(question, shard, log).await
    }

    async fn joint_heads(
        &self,
        channels: &[&str],
        shard: ShardId,
        log: LogEpoch,
    ) -> Result<(HashMap<String, Place>, Option<Reach>), StoreError> {
        if channels.len() > MAX_HEADS {
            return Err(StoreError::TooMany {
                asked: channels.len(),
            });
        }
        let names =
            serde_json::to_string(channels).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let mut moment = self.moment().await?;
        let reach = reach(&mut moment, shard, log).await?;
        let rows = sqlx::query(
            r#"SELECT name, log, "offset" FROM channels WHERE name IN (SELECT value FROM json_each(?))"#,
        )
        .bind(names)
        .fetch_all(&mut *moment)
        .await?;
        let heads = rows.iter().map(columns::head).collect::<Result<_, _>>()?;
        Ok((heads, reach))
    }

    async fn hide(&self, log: LogEpoch, marks: &[(String, Offset)]) -> Result<(), StoreError> {
        if marks.is_empty() {
            return Ok(());
        }
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        for (channel, up_to) in marks {
            sqlx::query(
                r#"INSERT INTO hidden (channel, log, "offset") VALUES (?, ?, ?)
                   ON CONFLICT (channel) DO UPDATE SET log = excluded.log, "offset" = excluded."offset"
                   WHERE (hidden.log, hidden."offset") < (excluded.log, excluded."offset")"#,
            )
            .bind(channel.as_str())
            .bind(log_number(log))
            .bind(number(up_to.get()))
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
