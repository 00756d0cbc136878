//! The message store in PostgreSQL.

mod changes;
mod conversations;
mod follow;
mod joining;
mod keeping;
mod moderation;
mod moving;
mod search;
mod statistics;

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::postgres::PgPool;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Database, PgConnection, Postgres};
use switchboard_database::{PostgresDatabase, PostgresSettings};
use switchboard_proto::ids::{LogEpoch, ShardId};

use super::changes::fold;
use super::migrations::SCHEMA;
use super::{
    DeadLetter, History, Hole, MAX_HEADS, MAX_LIMIT, MessageStore, Page, Place, Pool, Progress, StoreError,
    Written, bounds, channel_hash, columns, follows, heads_of, log_number, number,
};

/// Microseconds of a day, which is what a partition holds.
const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;

/// Days before and behind today that get a partition when a message of such a day comes; others go to the default one.
const DAYS_BACK: u64 = 400;
const DAYS_AHEAD: u64 = 2;

/// Whoever makes a partition holds this advisory lock of the database.
const PARTITION_LOCK: i64 = 0x7377_6974_6368_0001;

/// See the module.
#[derive(Debug)]
pub struct PostgresStore {
    database: PostgresDatabase,
    /// Days that have a partition, as far as it is known.
    partitions: Mutex<BTreeSet<(&'static str, u64)>>,
}

impl PostgresStore {
    /// A store that connects when it is first asked something.
    ///
    /// # Errors
    /// What is wrong with the URL, which is not repeated: it may hold a password.
    pub fn new(settings: &PostgresSettings) -> Result<Self, sqlx::Error> {
        Ok(Self {
            database: PostgresDatabase::new(settings)?,
            partitions: Mutex::default(),
        })
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let done = self.database.within(call).await;
        if let Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)) = &done {
            self.database.count_timeout();
        }
        done
    }

    /// Where questions go.
    fn reader(&self) -> &PgPool {
        &self.database.pool
    }

    async fn asking<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        self.within(call).await
    }

    /// Makes the partitions of a table for these days that are not there yet.
    async fn partitions(&self, table: &'static str, days: BTreeSet<u64>) -> Result<(), StoreError> {
        let missing: Vec<u64> = {
            let known = self.partitions.lock();
            days.into_iter()
                .filter(|day| !known.contains(&(table, *day)))
                .collect()
        };
        for day in missing {
            let mut transaction = self.database.pool.begin().await?;
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(PARTITION_LOCK)
                .execute(&mut *transaction)
                .await?;
            let name = format!("{table}_{day}");
            let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
                .bind(&name)
                .fetch_one(&mut *transaction)
                .await?;
            if !exists {
                // Nothing in it comes from outside.
                let (from, to) = (day * DAY_US, (day + 1) * DAY_US);
                let create =
                    format!("CREATE TABLE {name} PARTITION OF {table} FOR VALUES FROM ({from}) TO ({to})");
                match sqlx::query(AssertSqlSafe(create))
                    .execute(&mut *transaction)
                    .await
                {
                    Ok(_) => {}
                    // A clock that was wrong has put messages of this day into the default partition: there the others go, too.
                    Err(sqlx::Error::Database(refusal)) if refusal.code().as_deref() == Some("23514") => {
                        tracing::warn!(table, day, "messages of this day stay in the default partition");
                        transaction.rollback().await?;
                        self.partitions.lock().insert((table, day));
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            transaction.commit().await?;
            self.partitions.lock().insert((table, day));
        }
        Ok(())
    }

    async fn store(&self, written: &Written) -> Result<Progress, StoreError> {
        let today = switchboard_proto::time::now_us() / DAY_US;
        let days: BTreeSet<u64> = written.rows.iter().map(|row| row.time_us / DAY_US).collect();
        let usual = today.saturating_sub(DAYS_BACK)..=today + DAYS_AHEAD;
        self.partitions(
            "messages",
            days.into_iter().filter(|day| usual.contains(day)).collect(),
        )
        .await?;

        let (shard, log) = (i32::from(written.shard.get()), log_number(written.log));
        let mut transaction = self.database.pool.begin().await?;
        sqlx::query("INSERT INTO progress VALUES ($1, $2, 0, 0, 0) ON CONFLICT DO NOTHING")
            .bind(shard)
            .bind(log)
            .execute(&mut *transaction)
            .await?;
        // Two replicas that write one shard do so one after the other.
        let row = sqlx::query(
            "SELECT read_to, complete_to, owner_epoch FROM progress WHERE shard = $1 AND log = $2 FOR UPDATE",
        )
        .bind(shard)
        .bind(log)
        .fetch_one(&mut *transaction)
        .await?;
        let progress = columns::progress(&row)?;
        follows(written, progress)?;
        if written.up_to <= progress.complete_to {
            return Ok(progress);
        }
        let holes = holes_of(&mut transaction, shard, log, None).await?;
        let written = &*keeping::forgetting(&mut transaction, written).await?;
        insert_rows(&mut transaction, written).await?;
        conversations::fold(&mut transaction, written).await?;
        fold(&mut *transaction, written, progress, &holes).await?;
        insert_dead(&mut transaction, written).await?;
        let (next, left) = progress.advance(&holes, written.after, written.up_to, written.owner_epoch);
        if left != holes {
            replace_holes(&mut transaction, shard, log, &left).await?;
        }
        sqlx::query(
            "UPDATE progress SET read_to = $3, complete_to = $4, owner_epoch = $5 WHERE shard = $1 AND log = $2",
        )
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
}

async fn insert_rows(connection: &mut PgConnection, written: &Written) -> Result<(), StoreError> {
    if written.rows.is_empty() {
        return Ok(());
    }
    let (shard, log) = (i32::from(written.shard.get()), log_number(written.log));
    let rows = &written.rows;
    let times: Vec<i64> = rows.iter().map(|row| number(row.time_us)).collect();
    let offsets: Vec<i64> = rows.iter().map(|row| number(row.offset.get())).collect();
    let hashes: Vec<i64> = rows.iter().map(|row| channel_hash(&row.channel)).collect();
    let channels: Vec<&str> = rows.iter().map(|row| row.channel.as_str()).collect();
    let senders: Vec<Option<&str>> = rows.iter().map(|row| row.sender.as_deref()).collect();
    let messages: Vec<&[u8]> = rows.iter().map(|row| row.message.as_ref()).collect();
    sqlx::query(
        r#"INSERT INTO messages (log_time, shard, log, "offset", channel_hash, channel, sender, message)
           SELECT time, $1, $2, place, hash, name, user_name, encoded
           FROM UNNEST($3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::bytea[])
               AS given (time, place, hash, name, user_name, encoded)
           ON CONFLICT DO NOTHING"#,
    )
    .bind(shard)
    .bind(log)
    .bind(times)
    .bind(offsets)
    .bind(hashes)
    .bind(channels)
    .bind(senders)
    .bind(messages)
    .execute(&mut *connection)
    .await?;
    let heads = heads_of(written);
    let names: Vec<&str> = heads.iter().map(|row| row.channel.as_str()).collect();
    let offsets: Vec<i64> = heads.iter().map(|row| number(row.offset.get())).collect();
    let times: Vec<i64> = heads.iter().map(|row| number(row.time_us)).collect();
    sqlx::query(
        r#"INSERT INTO channels (name, log, "offset", log_time)
           SELECT name, $1, place, time FROM UNNEST($2::text[], $3::bigint[], $4::bigint[]) AS given (name, place, time)
           ON CONFLICT (name) DO UPDATE
           SET log = excluded.log, "offset" = excluded."offset", log_time = excluded.log_time
           WHERE (channels.log, channels."offset") < (excluded.log, excluded."offset")"#,
    )
    .bind(log)
    .bind(names)
    .bind(offsets)
    .bind(times)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_dead(connection: &mut PgConnection, written: &Written) -> Result<(), StoreError> {
    for dead in &written.dead {
        sqlx::query(
            r#"INSERT INTO dead_letters (shard, log, "offset", reason, bytes) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT DO NOTHING"#,
        )
        .bind(i32::from(dead.shard.get()))
        .bind(log_number(dead.log))
        .bind(number(dead.offset.get()))
        .bind(&dead.reason)
        .bind(dead.bytes.as_ref())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

async fn holes_of(
    connection: &mut PgConnection,
    shard: i32,
    log: i64,
    limit: Option<i64>,
) -> Result<Vec<Hole>, StoreError> {
    sqlx::query("SELECT first, last FROM holes WHERE shard = $1 AND log = $2 ORDER BY first LIMIT $3")
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
    connection: &mut PgConnection,
    shard: i32,
    log: i64,
    holes: &[Hole],
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM holes WHERE shard = $1 AND log = $2")
        .bind(shard)
        .bind(log)
        .execute(&mut *connection)
        .await?;
    for hole in holes {
        sqlx::query("INSERT INTO holes (shard, log, first, last) VALUES ($1, $2, $3, $4)")
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
fn page_query<'q>(
    question: &'q History,
    (first, last): ((i64, i64), (i64, i64)),
) -> Query<'q, Postgres, <Postgres as Database>::Arguments> {
    let forward = r#"SELECT log, "offset", log_time, message FROM messages
        WHERE channel_hash = $1 AND channel = $2 AND (log, "offset") >= ($3, $4) AND (log, "offset") <= ($5, $6)
            AND log_time >= $7
        ORDER BY log, "offset" LIMIT $8"#;
    let backward = r#"SELECT log, "offset", log_time, message FROM messages
        WHERE channel_hash = $1 AND channel = $2 AND (log, "offset") >= ($3, $4) AND (log, "offset") <= ($5, $6)
            AND log_time >= $7
        ORDER BY log DESC, "offset" DESC LIMIT $8"#;
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
impl MessageStore for PostgresStore {
    async fn progress(&self, shard: ShardId, log: LogEpoch) -> Result<Option<Progress>, StoreError> {
        self.within(async {
            sqlx::query(
                "SELECT read_to, complete_to, owner_epoch FROM progress WHERE shard = $1 AND log = $2",
            )
            .bind(i32::from(shard.get()))
            .bind(log_number(log))
            .fetch_optional(&self.database.pool)
            .await?
            .map(|row| columns::progress(&row))
            .transpose()
        })
        .await
    }

    async fn write(&self, written: &Written) -> Result<Progress, StoreError> {
        self.within(self.store(written)).await
    }

    async fn history(&self, question: &History) -> Result<Page, StoreError> {
        let Some(bounds) = bounds(question) else {
            return Ok(Page::default());
        };
        self.within(async {
            let rows = page_query(question, bounds).fetch(&self.database.pool);
            columns::page(rows, question, limit(question)).await
        })
        .await
    }

    async fn heads(&self, channels: &[&str]) -> Result<HashMap<String, Place>, StoreError> {
        if channels.len() > MAX_HEADS {
            return Err(StoreError::TooMany {
                asked: channels.len(),
            });
        }
        self.within(async {
            let rows = sqlx::query(r#"SELECT name, log, "offset" FROM channels WHERE name = ANY($1)"#)
                .bind(channels)
                .fetch_all(&self.database.pool)
                .await?;
            rows.iter().map(columns::head).collect()
        })
        .await
    }

    async fn holes(&self, shard: ShardId, log: LogEpoch) -> Result<Vec<Hole>, StoreError> {
        self.within(async {
            let mut connection = self.database.pool.acquire().await?;
            holes_of(
                &mut connection,
                i32::from(shard.get()),
                log_number(log),
                Some(100),
            )
            .await
        })
        .await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.within(async {
            let rows = sqlx::query(
                r#"SELECT shard, log, "offset", reason, bytes FROM dead_letters
                   ORDER BY log DESC, "offset" DESC, shard LIMIT $1"#,
            )
            .bind(i64::try_from(limit.min(MAX_LIMIT)).unwrap_or(i64::MAX))
            .fetch_all(&self.database.pool)
            .await?;
            rows.iter().map(columns::dead_letter).collect()
        })
        .await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.within(async { Ok(SCHEMA.check_postgres(&self.database).await?) })
            .await
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        Ok(SCHEMA.migrate_postgres(&self.database).await?)
    }

    async fn maintain(&self, now_us: u64) -> Result<(), StoreError> {
        let today = now_us / DAY_US;
        self.within(async {
            for table in ["messages", "search"] {
                self.partitions(table, (today..=today + DAYS_AHEAD).collect())
                    .await?;
            }
            Ok(())
        })
        .await
    }

    fn pool(&self) -> Option<Pool> {
        Some(self.database.state())
    }

    async fn close(&self) {
        self.database.pool.close().await;
    }
}
