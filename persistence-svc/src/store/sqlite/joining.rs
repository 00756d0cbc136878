//! What is joined with what the owner of a shard has, in SQLite: a transaction that reads sees one moment.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::{Sqlite, SqliteConnection, Transaction};
use switchboard_proto::ids::{LogEpoch, Offset, ShardId};

use super::super::joining::{CLOCKS_US, HOLES, JoinStore, Joint, Reach, narrowed, told};
use super::super::{History, MAX_HEADS, Page, Place, StoreError, bounds, columns, log_number, number};
use super::{SqliteStore, page_query};

impl SqliteStore {
    async fn moment(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.readers.begin().await?)
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
    connection: &mut SqliteConnection,
    shard: ShardId,
    log: LogEpoch,
) -> Result<Option<Reach>, StoreError> {
    let (shard, log) = (i32::from(shard.get()), log_number(log));
    let row =
        sqlx::query("SELECT read_to, complete_to, owner_epoch FROM progress WHERE shard = ? AND log = ?")
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
    let newest =
        sqlx::query("SELECT first, last FROM holes WHERE shard = ? AND log = ? ORDER BY first DESC LIMIT ?")
            .bind(shard)
            .bind(log)
            .bind(HOLES)
            .fetch_all(&mut *connection)
            .await?
            .iter()
            .map(columns::hole)
            .collect::<Result<Vec<_>, _>>()?;
    let oldest = super::holes_of(connection, shard, log, 1).await?;
    Ok(Some(Reach {
        progress,
        holes: told(newest, oldest.first().copied()),
    }))
}

/// Up to where messages of the channel were removed, or are hidden.
///
/// What retention removes is to be the other half of this: the later place of both counts.
async fn removed_to(connection: &mut SqliteConnection, channel: &str) -> Result<Option<Place>, StoreError> {
    let row = sqlx::query(r#"SELECT log, "offset" FROM hidden WHERE channel = ?"#)
        .bind(channel)
        .fetch_optional(connection)
        .await?;
    row.map(|row| columns::place(&row, 0)).transpose()
}

/// A place before the first message of this time on in the shard; `None`: there is no such message.
async fn place_at(
    connection: &mut SqliteConnection,
    shard: ShardId,
    since_us: u64,
) -> Result<Option<Place>, StoreError> {
    let row = sqlx::query(
        r#"SELECT log, "offset" - 1 FROM messages WHERE log_time >= ? AND shard = ?
           ORDER BY log_time LIMIT 1"#,
    )
    .bind(number(since_us.saturating_sub(CLOCKS_US)))
    .bind(i32::from(shard.get()))
    .fetch_optional(connection)
    .await?;
    row.map(|row| columns::place(&row, 0)).transpose()
}

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
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
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
