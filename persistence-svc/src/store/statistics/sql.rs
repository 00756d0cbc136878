//! What both databases do by the same statements; a macro makes each backend's part of [`StatisticsStore`](super::StatisticsStore).
//!
//! Rows are written in one order, table by table in one order, so two that write never wait for each other in a circle.

use std::collections::HashMap;

use switchboard_bus::statistics::BUCKETS;

use super::{Counted, Given, Period, Report};
use crate::store::{StoreError, number};

/// Different users and channels that were counted first, by period, its beginning and namespace.
pub(in crate::store) type Fresh = HashMap<(i64, i64, String), (i64, i64)>;

fn json(rows: &[Given<'_>]) -> Result<String, StoreError> {
    serde_json::to_string(rows).map_err(|error| StoreError::Damaged(error.to_string()))
}

pub(in crate::store) fn seen(counted: &Counted) -> Result<String, StoreError> {
    let rows: Vec<Given<'_>> = counted
        .seen
        .iter()
        .map(|seen| Given {
            period: seen.period.number(),
            at: number(seen.at),
            namespace: &seen.namespace,
            kind: seen.kind.number(),
            hash: seen.hash,
            ..Given::default()
        })
        .collect();
    json(&rows)
}

pub(in crate::store) fn channels(counted: &Counted) -> Result<String, StoreError> {
    let rows: Vec<Given<'_>> = counted
        .channels
        .iter()
        .map(|((period, at, channel), (namespace, messages))| Given {
            period: period.number(),
            at: number(*at),
            channel,
            namespace,
            messages: number(*messages),
            ..Given::default()
        })
        .collect();
    json(&rows)
}

/// Sums with the users and channels that are `fresh` in them.
pub(in crate::store) fn sums(counted: &Counted, fresh: &Fresh) -> Result<String, StoreError> {
    let rows: Vec<Given<'_>> = counted
        .sums
        .iter()
        .map(|((period, namespace, at), (messages, bytes))| {
            let key = (period.number(), number(*at), namespace.clone());
            let (users, channels) = fresh.get(&key).copied().unwrap_or_default();
            Given {
                period: key.0,
                at: key.1,
                namespace,
                messages: number(*messages),
                bytes: number(*bytes),
                users,
                channels,
                ..Given::default()
            }
        })
        .collect();
    json(&rows)
}

/// A gateway's deliveries by each period.
pub(in crate::store) fn deliveries(report: &Report) -> Result<String, StoreError> {
    let mut rows = Vec::new();
    for period in Period::EACH {
        for (namespace, latency) in &report.deliveries {
            let mut row = serde_json::Map::new();
            row.insert("period".to_owned(), period.number().into());
            row.insert("namespace".to_owned(), namespace.as_str().into());
            row.insert("at".to_owned(), number(period.begin(report.at)).into());
            for (bucket, count) in latency.buckets().iter().enumerate() {
                row.insert(format!("b{bucket}"), number(*count).into());
            }
            rows.push(row);
        }
    }
    serde_json::to_string(&rows).map_err(|error| StoreError::Damaged(error.to_string()))
}

/// What `text` says of each bucket's column, between commas.
pub(in crate::store) fn each_bucket(text: impl Fn(&str) -> String) -> String {
    let columns: Vec<String> = (0..BUCKETS).map(|bucket| text(&format!("b{bucket}"))).collect();
    columns.join(", ")
}

/// `$store`: the store, which has `changing`, a transaction that writes, `asking` and `reader`. `$moved`: moves a follower's
/// position. `$rows`: the JSON array `$1` as rows `given` with the columns of `Given`; `$buckets`: as rows with period, namespace,
/// at, and the buckets. `$names`: a condition that `namespace` is in the JSON array `$4`.
macro_rules! statistics {
    ($store:ty, $moved:path, $rows:literal, $buckets:expr, $names:literal) => {
        #[async_trait]
        impl StatisticsStore for $store {
            async fn count(&self, step: &Step, counted: &Counted) -> Result<bool, StoreError> {
                self.asking(async {
                    let mut transaction = self.changing().await?;
                    if !$moved(&mut transaction, step).await? {
                        return Ok(false);
                    }
                    let mut fresh = Fresh::new();
                    if !counted.seen.is_empty() {
                        let rows = sqlx::query(concat!(
                            "INSERT INTO statistics_seen (period, at, namespace, kind, hash)
                             SELECT period, at, namespace, kind, hash FROM ",
                            $rows,
                            " WHERE true ORDER BY period, at, namespace, kind, hash
                             ON CONFLICT DO NOTHING RETURNING period, at, namespace, kind"
                        ))
                        .bind(sql::seen(counted)?)
                        .fetch_all(&mut *transaction)
                        .await?;
                        for row in &rows {
                            let key = (row.number(0)?, row.number(1)?, row.text(2)?);
                            let (users, channels) = fresh.entry(key).or_default();
                            match row.number(3)? == Kind::User.number() {
                                true => *users += 1,
                                false => *channels += 1,
                            }
                        }
                    }
                    if !counted.channels.is_empty() {
                        sqlx::query(concat!(
                            "INSERT INTO statistics_channels AS old (period, at, channel, namespace, messages)
                             SELECT period, at, channel, namespace, messages FROM ",
                            $rows,
                            " WHERE true ORDER BY period, at, channel
                             ON CONFLICT (period, at, channel) DO UPDATE SET messages = old.messages + excluded.messages"
                        ))
                        .bind(sql::channels(counted)?)
                        .execute(&mut *transaction)
                        .await?;
                    }
                    if !counted.sums.is_empty() {
                        sqlx::query(concat!(
                            "INSERT INTO statistics AS old (period, namespace, at, messages, bytes, users, channels)
                             SELECT period, namespace, at, messages, bytes, users, channels FROM ",
                            $rows,
                            " WHERE true ORDER BY period, namespace, at
                             ON CONFLICT (period, namespace, at) DO UPDATE
                             SET messages = old.messages + excluded.messages, bytes = old.bytes + excluded.bytes,
                                 users = old.users + excluded.users, channels = old.channels + excluded.channels"
                        ))
                        .bind(sql::sums(counted, &fresh)?)
                        .execute(&mut *transaction)
                        .await?;
                    }
                    transaction.commit().await?;
                    Ok(true)
                })
                .await
            }

            async fn add_deliveries(&self, report: &Report) -> Result<bool, StoreError> {
                self.asking(async {
                    let mut transaction = self.changing().await?;
                    let newer = sqlx::query(
                        "INSERT INTO statistics_reports AS old (gateway, number, at) VALUES ($1, $2, $3)
                         ON CONFLICT (gateway) DO UPDATE SET number = excluded.number, at = excluded.at
                         WHERE old.number < excluded.number",
                    )
                    .bind(&report.gateway)
                    .bind(number(report.number))
                    .bind(number(report.at))
                    .execute(&mut *transaction)
                    .await?;
                    if newer.rows_affected() == 0 {
                        return Ok(false);
                    }
                    let columns = sql::each_bucket(str::to_owned);
                    // Nothing in it was given by anybody.
                    let statement = format!(
                        "INSERT INTO statistics_deliveries AS old (period, namespace, at, {columns})
                         SELECT period, namespace, at, {columns} FROM {}
                         WHERE true ORDER BY period, namespace, at
                         ON CONFLICT (period, namespace, at) DO UPDATE SET {}",
                        $buckets,
                        sql::each_bucket(|column| format!("{column} = old.{column} + excluded.{column}"))
                    );
                    sqlx::query(AssertSqlSafe(statement))
                        .bind(sql::deliveries(report)?)
                        .execute(&mut *transaction)
                        .await?;
                    transaction.commit().await?;
                    Ok(true)
                })
                .await
            }

            async fn counted_namespaces(&self) -> Result<Vec<String>, StoreError> {
                self.asking(async {
                    // Of months there are few rows.
                    sqlx::query(
                        "SELECT namespace FROM statistics WHERE period = $1
                         UNION SELECT namespace FROM statistics_deliveries WHERE period = $1
                         ORDER BY namespace",
                    )
                    .bind(Period::Month.number())
                    .fetch_all(self.reader())
                    .await?
                    .iter()
                    .map(|row| Ok(row.text(0)?))
                    .collect()
                })
                .await
            }

            async fn points(&self, span: &Span, namespaces: &[String]) -> Result<Points, StoreError> {
                self.asking(async {
                    let names = serde_json::to_string(namespaces)
                        .map_err(|error| StoreError::Damaged(error.to_string()))?;
                    let most = i64::try_from(MAX_POINTS).unwrap_or(i64::MAX);
                    let mut points = Points::new();
                    let rows = sqlx::query(concat!(
                        "SELECT namespace, at, messages, bytes, users, channels FROM statistics
                         WHERE period = $1 AND at >= $2 AND at < $3 AND ",
                        $names,
                        " ORDER BY namespace, at LIMIT $5"
                    ))
                    .bind(span.period.number())
                    .bind(number(span.from))
                    .bind(number(span.to))
                    .bind(&names)
                    .bind(most)
                    .fetch_all(self.reader())
                    .await?;
                    for row in &rows {
                        let key = (row.text(0)?, unsigned(row.number(1)?)?);
                        let point = Point {
                            messages: unsigned(row.number(2)?)?,
                            bytes: unsigned(row.number(3)?)?,
                            users: unsigned(row.number(4)?)?,
                            channels: unsigned(row.number(5)?)?,
                            latency: Latency::default(),
                        };
                        points.insert(key, point);
                    }
                    let statement = format!(
                        "SELECT namespace, at, {} FROM statistics_deliveries
                         WHERE period = $1 AND at >= $2 AND at < $3 AND {} ORDER BY namespace, at LIMIT $5",
                        sql::each_bucket(str::to_owned),
                        $names
                    );
                    let rows = sqlx::query(AssertSqlSafe(statement))
                        .bind(span.period.number())
                        .bind(number(span.from))
                        .bind(number(span.to))
                        .bind(&names)
                        .bind(most)
                        .fetch_all(self.reader())
                        .await?;
                    for row in &rows {
                        let key = (row.text(0)?, unsigned(row.number(1)?)?);
                        let mut counts = [0; BUCKETS];
                        for (bucket, count) in counts.iter_mut().enumerate() {
                            *count = unsigned(row.number(bucket + 2)?)?;
                        }
                        points.entry(key).or_default().latency.merge(&counts);
                    }
                    Ok(points)
                })
                .await
            }

            async fn top_channels(
                &self,
                span: &Span,
                namespace: Option<&str>,
                limit: usize,
            ) -> Result<Vec<(String, u64)>, StoreError> {
                self.asking(async {
                    sqlx::query(
                        "SELECT channel, CAST(sum(messages) AS BIGINT) AS all_messages FROM statistics_channels
                         WHERE period = $1 AND at >= $2 AND at < $3 AND ($4 OR namespace = $5)
                         GROUP BY channel ORDER BY all_messages DESC, channel LIMIT $6",
                    )
                    .bind(span.period.number())
                    .bind(number(span.from))
                    .bind(number(span.to))
                    .bind(namespace.is_none())
                    .bind(namespace.unwrap_or_default())
                    .bind(i64::try_from(limit.min(MAX_TOP)).unwrap_or(i64::MAX))
                    .fetch_all(self.reader())
                    .await?
                    .iter()
                    .map(|row| Ok((row.text(0)?, unsigned(row.number(1)?)?)))
                    .collect()
                })
                .await
            }

            async fn forget_statistics(&self, over: &Forgotten) -> Result<u64, StoreError> {
                self.asking(async {
                    // Each statement by itself: together with others it would wait for a count that waits for it.
                    for period in Period::EACH {
                        for statement in [
                            "DELETE FROM statistics WHERE period = $1 AND (namespace, at) IN
                                 (SELECT namespace, at FROM statistics WHERE period = $1 AND at < $2 LIMIT $3)",
                            "DELETE FROM statistics_deliveries WHERE period = $1 AND (namespace, at) IN
                                 (SELECT namespace, at FROM statistics_deliveries WHERE period = $1 AND at < $2 LIMIT $3)",
                        ] {
                            let mut transaction = self.changing().await?;
                            let done = sqlx::query(statement)
                                .bind(period.number())
                                .bind(number(over.before(period)))
                                .bind(FORGOTTEN)
                                .execute(&mut *transaction)
                                .await?;
                            transaction.commit().await?;
                            if done.rows_affected() > 0 {
                                return Ok(done.rows_affected());
                            }
                        }
                        // Of the last period that is over by then, and all before it.
                        let oldest = sqlx::query(
                            "SELECT at, namespace, kind, hash FROM statistics_seen WHERE period = $1 AND at < $2
                             ORDER BY at, namespace, kind, hash LIMIT 1",
                        )
                        .bind(period.number())
                        .bind(number(period.begin(over.settled)))
                        .fetch_optional(self.reader())
                        .await?;
                        let Some(oldest) = oldest else { continue };
                        let at = oldest.number(0)?;
                        // A stretch of the key, so that no more than that is read.
                        let end = sqlx::query(
                            "SELECT namespace, kind, hash FROM statistics_seen WHERE period = $1 AND at = $2
                             ORDER BY namespace, kind, hash LIMIT 1 OFFSET $3",
                        )
                        .bind(period.number())
                        .bind(at)
                        .bind(FORGOTTEN)
                        .fetch_optional(self.reader())
                        .await?;
                        let (namespace, kind, hash) = match &end {
                            Some(end) => (end.text(0)?, end.number(1)?, end.number(2)?),
                            None => (char::MAX.to_string(), 0, 0),
                        };
                        let mut transaction = self.changing().await?;
                        let done = sqlx::query(
                            "DELETE FROM statistics_seen WHERE period = $1 AND at = $2 AND (namespace, kind, hash) < ($3, $4, $5)",
                        )
                        .bind(period.number())
                        .bind(at)
                        .bind(namespace)
                        .bind(kind)
                        .bind(hash)
                        .execute(&mut *transaction)
                        .await?;
                        transaction.commit().await?;
                        return Ok(done.rows_affected());
                    }
                    for (period, before) in [(Period::Day, over.channel_days), (Period::Month, over.days)] {
                        let mut transaction = self.changing().await?;
                        let done = sqlx::query(
                            "DELETE FROM statistics_channels WHERE period = $1 AND at =
                                 (SELECT min(at) FROM statistics_channels WHERE period = $1 AND at < $2)",
                        )
                        .bind(period.number())
                        .bind(number(before))
                        .execute(&mut *transaction)
                        .await?;
                        transaction.commit().await?;
                        if done.rows_affected() > 0 {
                            return Ok(done.rows_affected());
                        }
                        let crowded = sqlx::query(
                            "SELECT at FROM statistics_channels WHERE period = $1 AND at < $2
                             GROUP BY at HAVING count(*) > $3 ORDER BY at LIMIT 1",
                        )
                        .bind(period.number())
                        .bind(number(period.begin(over.settled)))
                        .bind(number(over.channels))
                        .fetch_optional(self.reader())
                        .await?;
                        let Some(crowded) = crowded else { continue };
                        let at = crowded.number(0)?;
                        let first = sqlx::query(
                            "SELECT messages, channel FROM statistics_channels WHERE period = $1 AND at = $2
                             ORDER BY messages DESC, channel LIMIT 1 OFFSET $3",
                        )
                        .bind(period.number())
                        .bind(at)
                        .bind(number(over.channels))
                        .fetch_optional(self.reader())
                        .await?;
                        let Some(first) = first else { continue };
                        let mut transaction = self.changing().await?;
                        let done = sqlx::query(
                            "DELETE FROM statistics_channels WHERE period = $1 AND at = $2
                                 AND (messages < $3 OR (messages = $3 AND channel >= $4))",
                        )
                        .bind(period.number())
                        .bind(at)
                        .bind(first.number(0)?)
                        .bind(first.text(1)?)
                        .execute(&mut *transaction)
                        .await?;
                        transaction.commit().await?;
                        return Ok(done.rows_affected());
                    }
                    let mut transaction = self.changing().await?;
                    let done = sqlx::query("DELETE FROM statistics_reports WHERE at < $1")
                        .bind(number(over.settled))
                        .execute(&mut *transaction)
                        .await?;
                    transaction.commit().await?;
                    Ok(done.rows_affected())
                })
                .await
            }
        }
    };
}
pub(in crate::store) use statistics;
