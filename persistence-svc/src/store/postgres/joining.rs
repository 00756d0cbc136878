//! What is joined with what the owner of a shard has, in PostgreSQL: a transaction that reads sees one moment.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::{PgConnection, Postgres, Transaction};
use switchboard_proto::ids::{LogEpoch, Offset, ShardId};

use super::super::columns::Columns as _;
use super::super::joining::sql::joining;
use super::super::joining::{CLOCKS_US, HOLES, JoinStore, Joint, Reach, narrowed, told};
use super::super::{
    History, MAX_HEADS, Page, Place, StoreError, bounds, channel_hash, columns, log_number, number,
};
use super::{PostgresStore, page_query};

impl PostgresStore {
    /// What is read in it is of one moment.
    pub(super) async fn moment(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        Ok(self.database.pool.begin_with(begin).await?)
    }
}

// Whole partitions are older.
joining!(PgConnection, PostgresStore, "log_time >= $4");

#[async_trait]
impl JoinStore for PostgresStore {
    async fn joint(
        &self,
        question: &History,
        shard: ShardId,
        log: Option<LogEpoch>,
    ) -> Result<Joint, StoreError> {
        self.within(self.read_joint(question, shard, log)).await
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
        self.within(async {
            let mut moment = self.moment().await?;
            let reach = reach(&mut moment, shard, log).await?;
            let rows = sqlx::query(r#"SELECT name, log, "offset" FROM channels WHERE name = ANY($1)"#)
                .bind(channels)
                .fetch_all(&mut *moment)
                .await?;
            let heads = rows.iter().map(columns::head).collect::<Result<_, _>>()?;
            Ok((heads, reach))
        })
        .await
    }

    async fn hide(&self, log: LogEpoch, marks: &[(String, Offset)]) -> Result<(), StoreError> {
        if marks.is_empty() {
            return Ok(());
        }
        let channels: Vec<&str> = marks.iter().map(|(channel, _)| channel.as_str()).collect();
        let offsets: Vec<i64> = marks.iter().map(|(_, up_to)| number(up_to.get())).collect();
        self.within(async {
            sqlx::query(
                r#"INSERT INTO hidden (channel, log, "offset")
                   SELECT name, $1, place FROM UNNEST($2::text[], $3::bigint[]) AS given (name, place)
                   ON CONFLICT (channel) DO UPDATE SET log = excluded.log, "offset" = excluded."offset"
                   WHERE (hidden.log, hidden."offset") < (excluded.log, excluded."offset")"#,
            )
            .bind(log_number(log))
            .bind(channels)
            .bind(offsets)
            .execute(&self.database.pool)
            .await?;
            Ok(())
        })
        .await
    }
}
