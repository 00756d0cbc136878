//! What is joined with what the owner of a shard has, in PostgreSQL: a transaction that reads sees one moment.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::{PgConnection, Postgres, Transaction};
use switchboard_proto::ids::{LogEpoch, Offset, ShardId};

use super::super::joining::{CLOCKS_US, HOLES, JoinStore, Joint, Reach, narrowed, told};
use super::super::{History, MAX_HEADS, Page, Place, StoreError, bounds, columns, log_number, number};
use super::{PostgresStore, page_query};

impl PostgresStore {
    async fn moment(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        Ok(self.pool.begin_with(begin).await?)
    }

    async fn read_joint(
        &self,
        question: &History,
        shard: ShardId,
        log: Option<LogEpoch>,
    ) -> Result<Joint, StoreError> {
        let mut moment = self.moment().await?;
        let reach = match log {
            Some(log) => reach(&mut moment, shard, log).await?,
            None => None,
        };
        let removed_to = removed_to(&mut moment, &question.channel).await?;
        let from = match question.since_us {
            Some(since_us) => match place_at(&mut moment, shard, since_us).await? {
                Some(place) => Some(place),
                None => {
                    return Ok(Joint {
                        page: Page::default(),
                        reach,
                        removed_to,
                    });
                }
            },
            None => None,
        };
        let narrow = narrowed(question, removed_to, from);
        let page = match bounds(&narrow) {
            Some(bounds) => {
                let rows = page_query(&narrow, bounds).fetch(&mut *moment);
                columns::page(rows, &narrow, super::limit(&narrow)).await?
            }
            None => Page::default(),
        };
        Ok(Joint {
            page,
            reach,
            removed_to,
        })
    }
}

async fn reach(
    connection: &mut PgConnection,
    shard: ShardId,
    log: LogEpoch,
) -> Result<Option<Reach>, StoreError> {
    let (shard, log) = (i32::from(shard.get()), log_number(log));
    let row =
        sqlx::query("SELECT read_to, complete_to, owner_epoch FROM progress WHERE shard = $1 AND log = $2")
            .bind(shard)
            .bind(log)
            .fetch_optional(&mut *connection)
            .await?;
    let Some(row) = row else { return Ok(None) };
    let progress = columns::progress(&row)?;
    if progress.complete_to >= progress.read_to {
        return Ok(Some(Reach {
            progress,
            holes: Vec::new(),
        }));
    }
    let newest = sqlx::query(
        "SELECT first, last FROM holes WHERE shard = $1 AND log = $2 ORDER BY first DESC LIMIT $3",
    )
    .bind(shard)
    .bind(log)
    .bind(HOLES)
    .fetch_all(&mut *connection)
    .await?
    .iter()
    .map(columns::hole)
    .collect::<Result<Vec<_>, _>>()?;
    let oldest = super::holes_of(connection, shard, log, Some(1)).await?;
    Ok(Some(Reach {
        progress,
        holes: told(newest, oldest.first().copied()),
    }))
}

/// Up to where messages of the channel were removed, or are hidden.
///
/// What retention removes is to be the other half of this: the later place of both counts.
async fn removed_to(connection: &mut PgConnection, channel: &str) -> Result<Option<Place>, StoreError> {
    let row = sqlx::query(r#"SELECT log, "offset" FROM hidden WHERE channel = $1"#)
        .bind(channel)
        .fetch_optional(connection)
        .await?;
    row.map(|row| columns::place(&row, 0)).transpose()
}

/// A place before the first message of this time on in the shard; `None`: there is no such message.
async fn place_at(
    connection: &mut PgConnection,
    shard: ShardId,
    since_us: u64,
) -> Result<Option<Place>, StoreError> {
    let row = sqlx::query(
        r#"SELECT log, "offset" - 1 FROM messages WHERE log_time >= $1 AND shard = $2
           ORDER BY log_time LIMIT 1"#,
    )
    .bind(number(since_us.saturating_sub(CLOCKS_US)))
    .bind(i32::from(shard.get()))
    .fetch_optional(connection)
    .await?;
    row.map(|row| columns::place(&row, 0)).transpose()
}

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
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }
}
