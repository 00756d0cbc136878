//! The statements of [`Folding`](super::Folding) and [`ChangeStore`](super::ChangeStore): both databases take the same, so they
//! stand here once, and a macro makes each backend's implementation of them.

/// `$connection`: the backend's connection. `$store`: the store, which has `asking` and `reader`. `$lock`: what takes a row's lock, and
/// `$lock_message` that of the row of `messages` alone: what is read to be replaced is not to be blanked by somebody else in between.
macro_rules! changes {
    ($connection:ty, $store:ty, $row:ty, $lock:literal, $lock_message:literal) => {
        use std::collections::HashMap;

        use async_trait::async_trait;
        use sqlx::{AssertSqlSafe, Row as _};

        use crate::store::changes::{
            At, ChangeStore, Feeling, Fold, Folding, Found, Key, Kind, MAX_COPIES, MAX_FOLDS, MAX_USERS, RowKey,
            State, around, reactions, values,
        };
        use crate::store::{
            History, MAX_LIMIT, Page, Place, StoreError, Stored, channel_hash, columns, log_number, number,
            unsigned,
        };

        /// `log`, `offset`, time, from this column on; all of them or none.
        fn at(row: &$row, from: usize) -> Result<Option<At>, StoreError> {
            if row.try_get::<Option<i64>, _>(from)?.is_none() {
                return Ok(None);
            }
            Ok(Some(At {
                place: columns::place(row, from)?,
                time_us: unsigned(row.try_get(from + 2)?)?,
            }))
        }

        /// The columns of `folds` behind its key, from this one on.
        fn state(row: &$row, from: usize) -> Result<State, StoreError> {
            Ok(State {
                edit: at(row, from)?,
                edits: unsigned(row.try_get(from + 3)?)?,
                delete: at(row, from + 4)?,
                reply: at(row, from + 7)?,
                replies: unsigned(row.try_get(from + 10)?)?,
            })
        }

        /// `log_time`, `shard`, `log`, `offset`, `message`.
        fn found(row: &$row) -> Result<Found, StoreError> {
            let message: Vec<u8> = row.try_get(4)?;
            Ok(Found {
                key: RowKey {
                    time_us: unsigned(row.try_get(0)?)?,
                    shard: row.try_get(1)?,
                    place: columns::place(row, 2)?,
                },
                message: message.into(),
            })
        }

        const FIND: &str = r#"SELECT log_time, shard, log, "offset", message FROM messages
            WHERE channel_hash = $1 AND channel = $2 AND log = $3 AND "offset" = $4
                AND log_time >= $5 AND log_time <= $6
            LIMIT 1"#;

        /// Until the transaction ends nobody else changes it.
        const FIND_TO_REPLACE: &str = concat!(
            r#"SELECT log_time, shard, log, "offset", message FROM messages
               WHERE channel_hash = $1 AND channel = $2 AND log = $3 AND "offset" = $4
                   AND log_time >= $5 AND log_time <= $6
               LIMIT 1"#,
            $lock
        );

        async fn find_in(
            connection: &mut $connection,
            channel: &str,
            place: Place,
            made_us: Option<u64>,
            statement: &'static str,
        ) -> Result<Option<Found>, StoreError> {
            for (from, to) in around(made_us) {
                let row = sqlx::query(statement)
                .bind(channel_hash(channel))
                .bind(channel)
                .bind(log_number(place.log))
                .bind(number(place.offset.get()))
                .bind(number(from))
                .bind(number(to))
                .fetch_optional(&mut *connection)
                .await?;
                if let Some(row) = row {
                    return found(&row).map(Some);
                }
            }
            Ok(None)
        }

        #[async_trait]
        impl Folding for $connection {
            async fn state(&mut self, key: &Key) -> Result<Option<State>, StoreError> {
                sqlx::query(concat!(
                    r#"SELECT edit_log, edit_offset, edit_time, edits, delete_log, delete_offset, delete_time,
                           reply_log, reply_offset, reply_time, replies
                       FROM folds WHERE channel_hash = $1 AND log = $2 AND "offset" = $3 AND channel = $4"#,
                    $lock
                ))
                .bind(channel_hash(&key.channel))
                .bind(log_number(key.place.log))
                .bind(number(key.place.offset.get()))
                .bind(key.channel.as_str())
                .fetch_optional(&mut *self)
                .await?
                .map(|row| state(&row, 0))
                .transpose()
            }

            async fn put_state(&mut self, key: &Key, state: &State) -> Result<(), StoreError> {
                let mut query = sqlx::query(
                    r#"INSERT INTO folds (channel_hash, log, "offset", channel, edit_log, edit_offset, edit_time,
                           delete_log, delete_offset, delete_time, reply_log, reply_offset, reply_time, edits, replies)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
                       ON CONFLICT (channel_hash, log, "offset", channel) DO UPDATE SET
                           edit_log = excluded.edit_log, edit_offset = excluded.edit_offset,
                           edit_time = excluded.edit_time, delete_log = excluded.delete_log,
                           delete_offset = excluded.delete_offset, delete_time = excluded.delete_time,
                           reply_log = excluded.reply_log, reply_offset = excluded.reply_offset,
                           reply_time = excluded.reply_time, edits = excluded.edits, replies = excluded.replies"#,
                )
                .bind(channel_hash(&key.channel))
                .bind(log_number(key.place.log))
                .bind(number(key.place.offset.get()))
                .bind(key.channel.as_str());
                for at in [state.edit, state.delete, state.reply] {
                    query = query
                        .bind(at.map(|at| log_number(at.place.log)))
                        .bind(at.map(|at| number(at.place.offset.get())))
                        .bind(at.map(|at| number(at.time_us)));
                }
                query
                    .bind(number(state.edits))
                    .bind(number(state.replies))
                    .execute(&mut *self)
                    .await?;
                Ok(())
            }

            async fn find(&mut self, key: &Key, made_us: Option<u64>) -> Result<Option<Found>, StoreError> {
                find_in(self, &key.channel, key.place, made_us, FIND_TO_REPLACE).await
            }

            async fn entries(
                &mut self,
                channel: &str,
                since_us: u64,
                before: Place,
            ) -> Result<Vec<Found>, StoreError> {
                sqlx::query(
                    r#"SELECT log_time, shard, log, "offset", message FROM messages
                       WHERE channel_hash = $1 AND channel = $2 AND log_time >= $3 AND (log, "offset") < ($4, $5)
                       ORDER BY log, "offset" LIMIT $6"#,
                )
                .bind(channel_hash(channel))
                .bind(channel)
                .bind(number(since_us))
                .bind(log_number(before.log))
                .bind(number(before.offset.get()))
                .bind(MAX_COPIES)
                .fetch_all(&mut *self)
                .await?
                .iter()
                .map(found)
                .collect()
            }

            async fn replace(&mut self, row: RowKey, message: &[u8]) -> Result<(), StoreError> {
                sqlx::query(
                    r#"UPDATE messages SET message = $5
                       WHERE log_time = $1 AND shard = $2 AND log = $3 AND "offset" = $4"#,
                )
                .bind(number(row.time_us))
                .bind(row.shard)
                .bind(log_number(row.place.log))
                .bind(number(row.place.offset.get()))
                .bind(message)
                .execute(&mut *self)
                .await?;
                Ok(())
            }

            async fn add(&mut self, target: &Key, kind: Kind, row: RowKey) -> Result<(), StoreError> {
                sqlx::query(
                    r#"INSERT INTO changes (channel_hash, target_log, target_offset, kind, log, "offset", channel,
                           log_time, shard)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING"#,
                )
                .bind(channel_hash(&target.channel))
                .bind(log_number(target.place.log))
                .bind(number(target.place.offset.get()))
                .bind(kind.number())
                .bind(log_number(row.place.log))
                .bind(number(row.place.offset.get()))
                .bind(target.channel.as_str())
                .bind(number(row.time_us))
                .bind(row.shard)
                .execute(&mut *self)
                .await?;
                Ok(())
            }

            async fn edits(&mut self, target: &Key) -> Result<Vec<Found>, StoreError> {
                sqlx::query(concat!(
                    r#"SELECT m.log_time, m.shard, m.log, m."offset", m.message
                       FROM changes c JOIN messages m ON m.log_time = c.log_time AND m.shard = c.shard
                           AND m.log = c.log AND m."offset" = c."offset"
                       WHERE c.channel_hash = $1 AND c.target_log = $2 AND c.target_offset = $3 AND c.kind = $4
                           AND c.channel = $5"#,
                    $lock_message
                ))
                .bind(channel_hash(&target.channel))
                .bind(log_number(target.place.log))
                .bind(number(target.place.offset.get()))
                .bind(Kind::Edit.number())
                .bind(target.channel.as_str())
                .fetch_all(&mut *self)
                .await?
                .iter()
                .map(found)
                .collect()
            }

            async fn feel(&mut self, target: &Key, feeling: &Feeling<'_>) -> Result<(), StoreError> {
                sqlx::query(
                    r#"INSERT INTO reactions (channel_hash, log, "offset", reaction, user_name, channel, event_log,
                           event_offset, present)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                       ON CONFLICT (channel_hash, log, "offset", reaction, user_name, channel) DO UPDATE SET
                           event_log = excluded.event_log, event_offset = excluded.event_offset,
                           present = excluded.present
                       WHERE (reactions.event_log, reactions.event_offset)
                           < (excluded.event_log, excluded.event_offset)"#,
                )
                .bind(channel_hash(&target.channel))
                .bind(log_number(target.place.log))
                .bind(number(target.place.offset.get()))
                .bind(feeling.reaction)
                .bind(feeling.user)
                .bind(target.channel.as_str())
                .bind(log_number(feeling.since.log))
                .bind(number(feeling.since.offset.get()))
                .bind(feeling.present)
                .execute(&mut *self)
                .await?;
                Ok(())
            }

            async fn forget_feelings(&mut self, target: &Key) -> Result<(), StoreError> {
                sqlx::query(
                    r#"DELETE FROM reactions
                       WHERE channel_hash = $1 AND log = $2 AND "offset" = $3 AND channel = $4"#,
                )
                .bind(channel_hash(&target.channel))
                .bind(log_number(target.place.log))
                .bind(number(target.place.offset.get()))
                .bind(target.channel.as_str())
                .execute(&mut *self)
                .await?;
                Ok(())
            }
        }

        #[async_trait]
        impl ChangeStore for $store {
            async fn message(
                &self,
                channel: &str,
                place: Place,
                made_us: Option<u64>,
            ) -> Result<Option<Stored>, StoreError> {
                self.asking(async {
                    let mut connection = self.reader().acquire().await?;
                    let found = find_in(&mut connection, channel, place, made_us, FIND).await?;
                    Ok(found.map(|found| Stored {
                        place,
                        time_us: found.key.time_us,
                        message: found.message,
                    }))
                })
                .await
            }

            async fn folds(
                &self,
                channel: &str,
                places: &[Place],
            ) -> Result<HashMap<Place, Fold>, StoreError> {
                if places.len() > MAX_FOLDS {
                    return Err(StoreError::TooMany { asked: places.len() });
                }
                if places.is_empty() {
                    return Ok(HashMap::new());
                }
                // Numbers, and nothing that comes from outside.
                let asked = values(places);
                let states = format!(
                    r#"SELECT log, "offset", edit_log, edit_offset, edit_time, edits, delete_log, delete_offset,
                           delete_time, reply_log, reply_offset, reply_time, replies
                       FROM folds WHERE channel_hash = $1 AND channel = $2 AND (log, "offset") IN (VALUES {asked})"#
                );
                let feelings = format!(
                    r#"SELECT log, "offset", reaction, user_name, total FROM (
                           SELECT log, "offset", reaction, user_name,
                               count(*) OVER (PARTITION BY log, "offset", reaction) AS total,
                               row_number() OVER (
                                   PARTITION BY log, "offset", reaction ORDER BY event_log, event_offset
                               ) AS nth
                           FROM reactions WHERE channel_hash = $1 AND channel = $2 AND present
                               AND (log, "offset") IN (VALUES {asked})
                       ) AS counted WHERE nth <= $3 ORDER BY log, "offset", reaction, nth"#
                );
                let (states, feelings) = self
                    .asking(async {
                        let mut connection = self.reader().acquire().await?;
                        let states = sqlx::query(AssertSqlSafe(states))
                            .persistent(false)
                            .bind(channel_hash(channel))
                            .bind(channel)
                            .fetch_all(&mut *connection)
                            .await?;
                        let feelings = sqlx::query(AssertSqlSafe(feelings))
                            .persistent(false)
                            .bind(channel_hash(channel))
                            .bind(channel)
                            .bind(MAX_USERS as i64)
                            .fetch_all(&mut *connection)
                            .await?;
                        Ok((states, feelings))
                    })
                    .await?;
                let mut folds = HashMap::new();
                for row in &states {
                    folds.insert(columns::place(row, 0)?, state(row, 2)?.told());
                }
                let mut felt: HashMap<Place, Vec<(String, String, u64)>> = HashMap::new();
                for row in &feelings {
                    let one = (row.try_get(2)?, row.try_get(3)?, unsigned(row.try_get(4)?)?);
                    felt.entry(columns::place(row, 0)?).or_default().push(one);
                }
                for (place, rows) in felt {
                    let fold: &mut Fold = folds.entry(place).or_default();
                    if fold.deleted_us.is_none() {
                        fold.reactions = reactions(rows);
                    }
                }
                Ok(folds)
            }

            async fn thread(
                &self,
                channel: &str,
                root: Place,
                after: Option<Place>,
                limit: usize,
                bytes: usize,
            ) -> Result<Page, StoreError> {
                let limit = limit.min(MAX_LIMIT);
                let question = History {
                    bytes,
                    ..History::of(channel, limit)
                };
                let after = after.map_or((0, 0), |after| {
                    (log_number(after.log), number(after.offset.get()))
                });
                self.asking(async {
                    let rows = sqlx::query(
                        r#"SELECT m.log, m."offset", m.log_time, m.message
                           FROM changes c JOIN messages m ON m.log_time = c.log_time AND m.shard = c.shard
                               AND m.log = c.log AND m."offset" = c."offset"
                           WHERE c.channel_hash = $1 AND c.target_log = $2 AND c.target_offset = $3 AND c.kind = $4
                               AND c.channel = $5 AND (c.log, c."offset") > ($6, $7)
                               AND NOT EXISTS (SELECT 1 FROM hidden WHERE hidden.channel = m.channel
                                   AND (hidden.log, hidden."offset") >= (m.log, m."offset"))
                           ORDER BY c.log, c."offset" LIMIT $8"#,
                    )
                    .bind(channel_hash(channel))
                    .bind(log_number(root.log))
                    .bind(number(root.offset.get()))
                    .bind(Kind::Reply.number())
                    .bind(channel)
                    .bind(after.0)
                    .bind(after.1)
                    // One more tells whether there is more.
                    .bind(i64::try_from(limit + 1).unwrap_or(i64::MAX))
                    .fetch(self.reader());
                    columns::page(rows, &question, limit).await
                })
                .await
            }
        }
    };
}

pub(in crate::store) use changes;
