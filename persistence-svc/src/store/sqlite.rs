//! The message store in one SQLite file.

mod changes;
mod conversations;
mod follow;
mod joining;
mod keeping;
mod moderation;
mod moving;
mod search;
mod statistics;

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::query::Query;
use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, Database, Sqlite, SqliteConnection};
use switchboard_database::{SqliteDatabase, SqliteSettings};
use switchboard_proto::ids::{LogEpoch, ShardId};

use super::changes::fold;
use super::migrations::SCHEMA;
use super::{
    DeadLetter, History, Hole, MAX_HEADS, MAX_LIMIT, MessageStore, Page, Place, Pool, Progress, StoreError,
    Written, bounds, channel_hash, columns, follows, heads_of, log_number, number,
};

/// See the module.
#[derive(Debug)]
pub struct SqliteStore {
    database: SqliteDatabase,
}

impl SqliteStore {
    /// A store that opens the file when it is first asked something.
    pub fn new(settings: &SqliteSettings) -> Self {
        Self {
            database: SqliteDatabase::new(settings),
        }
    }

    /// Where questions go.
    fn reader(&self) -> &SqlitePool {
        &self.database.readers
    }

    /// A call as it is: nothing of it can hang longer than the pool and the file's lock wait.
    async fn asking<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        call.await
    }
}

/// Rows of one statement: each statement is a way to the thread of SQLite and back, which costs more than what is done there. Few
/// sizes, so that each statement stays prepared.
const ROWS: [usize; 3] = [64, 8, 1];

type Asking<'q> = Query<'q, Sqlite, <Sqlite as Database>::Arguments>;

/// `INSERT` of many rows: `into` names table and columns, each of which `bind` gives a value, and `tail` says what comes after the values.
async fn insert_many<'q, T>(
    connection: &mut SqliteConnection,
    (into, columns, tail): (&str, usize, &str),
    rows: &'q [T],
    bind: impl Fn(Asking<'q>, &'q T) -> Asking<'q>,
) -> Result<(), StoreError> {
    let values = format!("({})", vec!["?"; columns].join(", "));
    let mut left = rows;
    for size in ROWS {
        if left.len() < size {
            continue;
        }
        let statement = format!(
            "INSERT INTO {into} VALUES {} {tail}",
            vec![values.as_str(); size].join(", ")
        );
        let chunks = left.chunks_exact(size);
        left = chunks.remainder();
        for chunk in chunks {
            // Nothing in it was given by anybody.
            let query = sqlx::query(AssertSqlSafe(statement.clone()));
            chunk.iter().fold(query, &bind).execute(&mut *connection).await?;
        }
    }
    Ok(())
}

async fn insert_rows(connection: &mut SqliteConnection, written: &Written) -> Result<(), StoreError> {
    let (shard, log) = (i32::from(written.shard.get()), log_number(written.log));
    let messages = r#"messages (log_time, shard, log, "offset", channel_hash, channel, sender, message)"#;
    insert_many(
        connection,
        (messages, 8, "ON CONFLICT DO NOTHING"),
        &written.rows,
        |query, row| {
            query
                .bind(number(row.time_us))
                .bind(shard)
                .bind(log)
                .bind(number(row.offset.get()))
                .bind(channel_hash(&row.channel))
                .bind(row.channel.as_str())
                .bind(row.sender.as_deref())
                .bind(row.message.as_ref())
        },
    )
    .await?;
    let newer = r#"ON CONFLICT (name) DO UPDATE
        SET log = excluded.log, "offset" = excluded."offset", log_time = excluded.log_time
        WHERE (channels.log, channels."offset") < (excluded.log, excluded."offset")"#;
    insert_many(
        connection,
        (r#"channels (name, log, "offset", log_time)"#, 4, newer),
        &heads_of(written),
        |query, row| {
            query
                .bind(row.channel.as_str())
                .bind(log)
                .bind(number(row.offset.get()))
                .bind(number(row.time_us))
        },
    )
    .await?;
    let dead_letters = r#"dead_letters (shard, log, "offset", reason, bytes)"#;
    insert_many(
        connection,
        (dead_letters, 5, "ON CONFLICT DO NOTHING"),
        &written.dead,
        |query, dead| {
            query
                .bind(i32::from(dead.shard.get()))
                .bind(log_number(dead.log))
                .bind(number(dead.offset.get()))
                .bind(dead.reason.as_str())
                .bind(dead.bytes.as_ref())
        },
    )
    .await
}

async fn progress_of(
    connection: &mut SqliteConnection,
    shard: i32,
    log: i64,
) -> Result<Option<Progress>, StoreError> {
    sqlx::query("SELECT read_to, complete_to, owner_epoch FROM progress WHERE shard = ? AND log = ?")
        .bind(shard)
        .bind(log)
        .fetch_optional(connection)
        .await?
        .map(|row| columns::progress(&row))
        .transpose()
}

async fn holes_of(
    connection: &mut SqliteConnection,
    shard: i32,
    log: i64,
    limit: i64,
) -> Result<Vec<Hole>, StoreError> {
    sqlx::query("SELECT first, last FROM holes WHERE shard = ? AND log = ? ORDER BY first LIMIT ?")
        .bind(shard)
        .bind(log)
        .bind(limit)
        .fetch_all(connection)
        .await?
        .iter()
        .map(columns::hole)
        .collect()
}

async fn replace_holes(
    connection: &mut SqliteConnection,
    shard: i32,
    log: i64,
    holes: &[Hole],
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM holes WHERE shard = ? AND log = ?")
        .bind(shard)
        .bind(log)
        .execute(&mut *connection)
        .await?;
    for hole in holes {
        sqlx::query("INSERT INTO holes (shard, log, first, last) VALUES (?, ?, ?, ?)")
            .bind(shard)
            .bind(log)
            .bind(number(hole.first.0))
            .bind(number(hole.last.0))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Messages that a question takes, at most.
fn limit(question: &History) -> usize {
    question.limit.min(MAX_LIMIT)
}

/// The rows of a question: `log`, `offset`, `log_time`, `message`.
fn page_query<'q>(question: &'q History, (first, last): ((i64, i64), (i64, i64))) -> Asking<'q> {
    let forward = r#"SELECT log, "offset", log_time, message FROM messages
        WHERE channel_hash = ? AND channel = ? AND (log, "offset") >= (?, ?) AND (log, "offset") <= (?, ?)
            AND log_time >= ?
        ORDER BY log, "offset" LIMIT ?"#;
    let backward = r#"SELECT log, "offset", log_time, message FROM messages
        WHERE channel_hash = ? AND channel = ? AND (log, "offset") >= (?, ?) AND (log, "offset") <= (?, ?)
            AND log_time >= ?
        ORDER BY log DESC, "offset" DESC LIMIT ?"#;
    sqlx::query(if question.reverse { backward } else { forward })
        .bind(channel_hash(&question.channel))
        .bind(&question.channel)
        .bind(first.0)
        .bind(first.1)
        .bind(last.0)
        .bind(last.1)
        .bind(number(question.since_us.unwrap_or(0)))
        // One more tells whether there is more.
        .bind(i64::try_from(limit(question) + 1).unwrap_or(i64::MAX))
}

#[async_trait]
impl MessageStore for SqliteStore {
    async fn progress(&self, shard: ShardId, log: LogEpoch) -> Result<Option<Progress>, StoreError> {
        let mut connection = self.database.readers.acquire().await?;
        progress_of(&mut connection, i32::from(shard.get()), log_number(log)).await
    }

    async fn write(&self, written: &Written) -> Result<Progress, StoreError> {
        let (shard, log) = (i32::from(written.shard.get()), log_number(written.log));
        // It reads before it writes: a lock that is taken at the first write could come too late.
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        let progress = progress_of(&mut transaction, shard, log)
            .await?
            .unwrap_or(Progress::START);
        follows(written, progress)?;
        if written.up_to <= progress.complete_to {
            return Ok(progress);
        }
        let holes = holes_of(&mut transaction, shard, log, i64::MAX).await?;
        let written = &*keeping::forgetting(&mut transaction, written).await?;
        insert_rows(&mut transaction, written).await?;
        conversations::fold(&mut transaction, written).await?;
        fold(&mut *transaction, written, progress, &holes).await?;
        let (next, left) = progress.advance(&holes, written.after, written.up_to, written.owner_epoch);
        if left != holes {
            replace_holes(&mut transaction, shard, log, &left).await?;
        }
        sqlx::query("INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?)")
            .bind(shard)
            .bind(log)
            .bind(number(next.read_to.0))
            .bind(number(next.complete_to.0))
            .bind(number(next.owner_epoch.0))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(next)
    }

    async fn history(&self, question: &History) -> Result<Page, StoreError> {
        let Some(bounds) = bounds(question) else {
            return Ok(Page::default());
        };
        let rows = page_query(question, bounds).fetch(&self.database.readers);
        columns::page(rows, question, limit(question)).await
    }

    async fn heads(&self, channels: &[&str]) -> Result<HashMap<String, Place>, StoreError> {
        if channels.len() > MAX_HEADS {
            return Err(StoreError::TooMany {
                asked: channels.len(),
            });
        }
        let names =
            serde_json::to_string(channels).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let rows = sqlx::query(
            r#"SELECT name, log, "offset" FROM channels WHERE name IN (SELECT value FROM json_each(?))"#,
        )
        .bind(names)
        .fetch_all(&self.database.readers)
        .await?;
        rows.iter().map(columns::head).collect()
    }

    async fn holes(&self, shard: ShardId, log: LogEpoch) -> Result<Vec<Hole>, StoreError> {
        let mut connection = self.database.readers.acquire().await?;
        holes_of(&mut connection, i32::from(shard.get()), log_number(log), 100).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        let rows = sqlx::query(
            r#"SELECT shard, log, "offset", reason, bytes FROM dead_letters
               ORDER BY log DESC, "offset" DESC, shard LIMIT ?"#,
        )
        .bind(i64::try_from(limit.min(MAX_LIMIT)).unwrap_or(i64::MAX))
        .fetch_all(&self.database.readers)
        .await?;
        rows.iter().map(columns::dead_letter).collect()
    }

    async fn check(&self) -> Result<(), StoreError> {
        Ok(SCHEMA.check_sqlite(&self.database).await?)
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        Ok(SCHEMA.migrate_sqlite(&self.database).await?)
    }

    async fn maintain(&self, _now_us: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn pool(&self) -> Option<Pool> {
        None
    }

    async fn close(&self) {
        self.database.close().await;
    }
}
