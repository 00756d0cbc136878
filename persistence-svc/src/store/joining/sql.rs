//! What both databases read of one moment by the same statements, so that they stand here once; a macro makes each backend's
//! functions of them.

/// `$connection`: the backend's connection. `$store`: the store, which has `moment`. `$young`: a condition that may leave out rows of before
/// `$4` where that makes fewer of them to be looked at.
macro_rules! joining {
    ($connection:ty, $store:ty, $young:literal) => {
        impl $store {
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
                    Some(since_us) => match place_at(&mut moment, &question.channel, since_us).await? {
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
            connection: &mut $connection,
            shard: ShardId,
            log: LogEpoch,
        ) -> Result<Option<Reach>, StoreError> {
            let (shard, log) = (i32::from(shard.get()), log_number(log));
            let row = sqlx::query(
                "SELECT read_to, complete_to, owner_epoch FROM progress WHERE shard = $1 AND log = $2",
            )
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
            let oldest = sqlx::query(
                "SELECT first, last FROM holes WHERE shard = $1 AND log = $2 ORDER BY first LIMIT 1",
            )
            .bind(shard)
            .bind(log)
            .fetch_optional(connection)
            .await?
            .as_ref()
            .map(columns::hole)
            .transpose()?;
            Ok(Some(Reach {
                progress,
                holes: told(newest, oldest),
            }))
        }

        /// Up to where messages of the channel were removed, or are hidden.
        async fn removed_to(
            connection: &mut $connection,
            channel: &str,
        ) -> Result<Option<Place>, StoreError> {
            let row = sqlx::query(r#"SELECT log, "offset" FROM hidden WHERE channel = $1"#)
                .bind(channel)
                .fetch_optional(connection)
                .await?;
            row.map(|row| columns::place(&row, 0)).transpose()
        }

        /// A place before the first message of this time on, in the life of the log in which the channel has it; `None`: the channel has no such
        /// message. Each life is asked by the shard that it was of: what was said before the number of shards was changed, or in
        /// another installation, stands in another one than what is said now.
        async fn place_at(
            connection: &mut $connection,
            channel: &str,
            since_us: u64,
        ) -> Result<Option<Place>, StoreError> {
            let since = number(since_us.saturating_sub(CLOCKS_US));
            let mut found = None;
            let mut before = i64::MAX;
            loop {
                let newest = sqlx::query(concat!(
                    "SELECT log, log_time, shard FROM messages
                     WHERE channel_hash = $1 AND channel = $2 AND log < $3 AND ",
                    $young,
                    r#" ORDER BY log DESC, "offset" DESC LIMIT 1"#
                ))
                .bind(channel_hash(channel))
                .bind(channel)
                .bind(before)
                .bind(since)
                .fetch_optional(&mut *connection)
                .await?;
                let Some(newest) = newest else {
                    return Ok(found);
                };
                let (log, time, shard) = (newest.number(0)?, newest.number(1)?, newest.shard(2)?);
                if time < since {
                    return Ok(found);
                }
                let row = sqlx::query(
                    r#"SELECT log, "offset" - 1 FROM messages WHERE log_time >= $1 AND shard = $2 AND log = $3
                       ORDER BY log_time LIMIT 1"#,
                )
                .bind(since)
                .bind(shard)
                .bind(log)
                .fetch_optional(&mut *connection)
                .await?;
                found = row.map(|row| columns::place(&row, 0)).transpose()?;
                before = log;
            }
        }
    };
}

pub(in crate::store) use joining;
