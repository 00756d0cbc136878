//! What both databases do by the same statements, so that they stand here once; a macro makes each backend's functions of them.

/// A condition on a row with a channel: it is between `$2` and `$3`, without a namespace where `$4` is 1, and no hold of a channel or a
/// namespace covers it. The namespace without a name is that of the channels that have none, as [`super::namespace`] has it.
macro_rules! not_held {
    () => {
        "channel >= $2 AND channel <= $3 AND ($4 = 0 OR channel NOT LIKE '%:%' OR channel LIKE ':%')
         AND NOT EXISTS (SELECT 1 FROM holds
             WHERE (kind = 'channel' AND name = channel)
                 OR (kind = 'namespace' AND name <> '' AND channel >= name || ':' AND channel < name || ';')
                 OR (kind = 'namespace' AND name = '' AND (channel NOT LIKE '%:%' OR channel LIKE ':%')))"
    };
}
pub(in crate::store) use not_held;

/// The first and the last channel that there can be.
pub(in crate::store) fn everywhere() -> (String, String) {
    (String::new(), char::MAX.to_string())
}

/// `$connection`: the backend's connection. `$store`: the store, which has `changing`, a transaction that writes. `$users`: a
/// condition that a user is in the JSON array `$1`. `$lock`: keeps holds from being placed until the transaction ends. `$beside`: taken
/// by whoever writes messages before it looks for erasures, until its transaction ends; `$alone`: waits for all of them, and keeps others
/// out. So each write either knows of an erasure, or is there to be blanked. `$lock_row`: what takes a row's lock.
/// `$clean`: a statement for each row that is deleted, with its time, shard, log and offset.
macro_rules! keeping {
    (
        $connection:ty, $store:ty, $row:ty, users: $users:literal, lock: $lock:literal, beside: $beside:expr, alone: $alone:expr,
        lock_row: $lock_row:literal
    ) => {
        fn kept(row: &$row) -> Result<Kept, StoreError> {
            Ok(Kept {
                time_us: unsigned(row.number(0)?)?,
                shard: columns::shard(row.shard(1)?)?,
                place: columns::place(row, 2)?,
                channel: row.text(4)?,
                sender: row.optional_text(5)?,
                message: row.bytes(6)?.into(),
            })
        }

        fn subject(kind: &str, name: &str) -> Result<Subject, StoreError> {
            Subject::new(kind, name)
                .ok_or_else(|| StoreError::Damaged(format!("{kind:?} as a kind of hold")))
        }

        fn held(row: &$row) -> Result<Hold, StoreError> {
            Ok(Hold {
                subject: subject(&row.text(0)?, &row.text(1)?)?,
                since_us: unsigned(row.number(2)?)?,
                reason: row.text(3)?,
            })
        }

        fn erasure(row: &$row) -> Result<Erasure, StoreError> {
            Ok(Erasure {
                user: row.text(0)?,
                until_us: unsigned(row.number(1)?)?,
            })
        }

        async fn holds_of(connection: &mut $connection) -> Result<Vec<Hold>, StoreError> {
            sqlx::query("SELECT kind, name, since_us, reason FROM holds ORDER BY kind, name")
                .fetch_all(connection)
                .await?
                .iter()
                .map(held)
                .collect()
        }

        async fn erasures_of(
            connection: &mut $connection,
            users: &[&str],
        ) -> Result<HashMap<String, u64>, StoreError> {
            if users.is_empty() {
                return Ok(HashMap::new());
            }
            let users =
                serde_json::to_string(users).map_err(|error| StoreError::Damaged(error.to_string()))?;
            sqlx::query(concat!("SELECT user_name, until_us FROM erasures WHERE ", $users))
                .bind(users)
                .fetch_all(connection)
                .await?
                .iter()
                .map(|row| Ok((row.text(0)?, unsigned(row.number(1)?)?)))
                .collect()
        }

        /// What is to be written, without what was erased.
        pub(super) async fn forgetting<'w>(
            connection: &mut $connection,
            written: &'w Written,
        ) -> Result<Cow<'w, Written>, StoreError> {
            sqlx::query($beside).execute(&mut *connection).await?;
            let erasures = erasures_of(connection, &users_of(written)).await?;
            if erasures.is_empty() {
                return Ok(Cow::Borrowed(written));
            }
            let holds = Holds::new(holds_of(connection).await?);
            let forgetting = Forgetting {
                erasures: &erasures,
                holds: &holds,
            };
            Ok(forgetting.written(written))
        }

        /// Those of whose senders nothing was taken out since they were read. To be called when the follower's position is locked: what
        /// is blanked later waits for it, and is taken out of the index then.
        pub(super) async fn still_said<'d>(
            connection: &mut $connection,
            (shard, log): (i32, i64),
            documents: &'d [Document],
        ) -> Result<Cow<'d, [Document]>, StoreError> {
            let users: HashSet<&str> = documents.iter().filter_map(|document| document.sender.as_deref()).collect();
            let users: Vec<&str> = users.into_iter().collect();
            let erasures = erasures_of(connection, &users).await?;
            if erasures.is_empty() {
                return Ok(Cow::Borrowed(documents));
            }
            let mut said = Vec::with_capacity(documents.len());
            for document in documents {
                let user = document.sender.as_deref().filter(|user| erasures.contains_key(*user));
                let is_said = match user {
                    Some(user) => sqlx::query(
                        r#"SELECT 1 FROM messages
                           WHERE log_time = $1 AND shard = $2 AND log = $3 AND "offset" = $4 AND sender = $5"#,
                    )
                    .bind(number(document.time_us))
                    .bind(shard)
                    .bind(log)
                    .bind(number(document.offset.get()))
                    .bind(user)
                    .fetch_optional(&mut *connection)
                    .await?
                    .is_some(),
                    None => true,
                };
                if is_said {
                    said.push(document.clone());
                }
            }
            Ok(Cow::Owned(said))
        }

        #[async_trait]
        impl KeepStore for $store {
            async fn channels(&self, after: &str, limit: usize) -> Result<Vec<String>, StoreError> {
                self.asking(async {
                    let rows =
                        sqlx::query("SELECT name FROM channels WHERE name > $1 ORDER BY name LIMIT $2")
                            .bind(after)
                            .bind(i64::try_from(limit.min(MAX_KEPT)).unwrap_or(i64::MAX))
                            .fetch_all(self.reader())
                            .await?;
                    rows.iter().map(|row| Ok(row.text(0)?)).collect()
                })
                .await
            }

            async fn over(&self, channel: &str, over: Over, limit: usize) -> Result<Vec<Kept>, StoreError> {
                if over == Over::default() {
                    return Ok(Vec::new());
                }
                self.asking(async {
                    let last = match over.count {
                        Some(count) => sqlx::query(
                            r#"SELECT log, "offset" FROM messages WHERE channel_hash = $1 AND channel = $2
                               ORDER BY log DESC, "offset" DESC LIMIT 1 OFFSET $3"#,
                        )
                        .bind(channel_hash(channel))
                        .bind(channel)
                        .bind(number(count))
                        .fetch_optional(self.reader())
                        .await?
                        .map(|row| columns::place(&row, 0))
                        .transpose()?,
                        None => None,
                    };
                    let rows = sqlx::query(
                        r#"SELECT log_time, shard, log, "offset", channel, sender, message FROM messages
                           WHERE channel_hash = $1 AND channel = $2
                               AND NOT EXISTS (SELECT 1 FROM holds WHERE kind = 'user' AND name = sender)
                           ORDER BY log, "offset" LIMIT $3"#,
                    )
                    .bind(channel_hash(channel))
                    .bind(channel)
                    .bind(i64::try_from(limit.min(MAX_KEPT)).unwrap_or(i64::MAX))
                    .fetch_all(self.reader())
                    .await?;
                    let mut kept_rows = Vec::new();
                    for row in &rows {
                        let row = kept(row)?;
                        let is_over = last.is_some_and(|last| row.place <= last)
                            || over.before_us.is_some_and(|before| row.time_us < before);
                        if !is_over {
                            break;
                        }
                        kept_rows.push(row);
                    }
                    Ok(kept_rows)
                })
                .await
            }

            async fn remove(&self, rows: &[Kept]) -> Result<u64, StoreError> {
                few(rows)?;
                self.asking(async {
                    let mut transaction = self.changing().await?;
                    sqlx::query($lock).execute(&mut *transaction).await?;
                    let holds = Holds::new(holds_of(&mut transaction).await?);
                    let rows: Vec<Kept> = rows
                        .iter()
                        .filter(|row| !holds.message(&row.channel, row.sender.as_deref()))
                        .cloned()
                        .collect();
                    for (channel, edge) in edges(&rows) {
                        sqlx::query(
                            r#"INSERT INTO hidden (channel, log, "offset") VALUES ($1, $2, $3)
                               ON CONFLICT (channel) DO UPDATE SET log = excluded.log, "offset" = excluded."offset"
                               WHERE (hidden.log, hidden."offset") < (excluded.log, excluded."offset")"#,
                        )
                        .bind(channel)
                        .bind(log_number(edge.log))
                        .bind(number(edge.offset.get()))
                        .execute(&mut *transaction)
                        .await?;
                    }
                    let mut deleted = 0;
                    for some in rows.chunks(500) {
                        let some: Vec<&Kept> = some.iter().collect();
                        deleted += delete(&mut transaction, &some).await?;
                    }
                    transaction.commit().await?;
                    Ok(deleted)
                })
                .await
            }

            async fn restore(&self, rows: &[Kept]) -> Result<u64, StoreError> {
                few(rows)?;
                self.asking(async {
                    let mut transaction = self.changing().await?;
                    sqlx::query($beside).execute(&mut *transaction).await?;
                    let users: HashSet<&str> = rows.iter().filter_map(|row| row.sender.as_deref()).collect();
                    let users: Vec<&str> = users.into_iter().collect();
                    let erasures = erasures_of(&mut transaction, &users).await?;
                    let holds = Holds::new(holds_of(&mut transaction).await?);
                    let forgetting = Forgetting {
                        erasures: &erasures,
                        holds: &holds,
                    };
                    let mut restored = 0;
                    for row in rows {
                        let row = forgetting.kept(row);
                        restored += sqlx::query(
                            r#"INSERT INTO messages
                                   (log_time, shard, log, "offset", channel_hash, channel, sender, message)
                               VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING"#,
                        )
                        .bind(number(row.time_us))
                        .bind(i32::from(row.shard.get()))
                        .bind(log_number(row.place.log))
                        .bind(number(row.place.offset.get()))
                        .bind(channel_hash(&row.channel))
                        .bind(row.channel.as_str())
                        .bind(row.sender.as_deref())
                        .bind(row.message.as_ref())
                        .execute(&mut *transaction)
                        .await?
                        .rows_affected();
                        put_head(&mut transaction, &row.channel, row.place, row.time_us).await?;
                        let key = RowKey {
                            time_us: row.time_us,
                            shard: i32::from(row.shard.get()),
                            place: row.place,
                        };
                        fold_again(&mut *transaction, &row.channel, key, &row.message).await?;
                    }
                    transaction.commit().await?;
                    Ok(restored)
                })
                .await
            }

            async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
                self.asking(async {
                    let mut connection = self.reader().acquire().await?;
                    holds_of(&mut connection).await
                })
                .await
            }

            async fn hold(&self, hold: &Hold) -> Result<(), StoreError> {
                self.asking(async {
                    let mut transaction = self.changing().await?;
                    // Counted there: with each hold all others are not to be read.
                    let others = sqlx::query("SELECT count(*) FROM holds WHERE NOT (kind = $1 AND name = $2)")
                        .bind(hold.subject.kind())
                        .bind(hold.subject.name())
                        .fetch_one(&mut *transaction)
                        .await?;
                    let others = usize::try_from(others.number(0)?).unwrap_or(usize::MAX);
                    if others >= MAX_HOLDS {
                        return Err(StoreError::TooMuch {
                            asked: others.saturating_add(1),
                            most: MAX_HOLDS,
                        });
                    }
                    sqlx::query(
                        "INSERT INTO holds (kind, name, since_us, reason) VALUES ($1, $2, $3, $4)
                         ON CONFLICT DO NOTHING",
                    )
                    .bind(hold.subject.kind())
                    .bind(hold.subject.name())
                    .bind(number(hold.since_us))
                    .bind(hold.reason.as_str())
                    .execute(&mut *transaction)
                    .await?;
                    transaction.commit().await?;
                    Ok(())
                })
                .await
            }

            async fn lift(&self, subject: &Subject, at_us: u64) -> Result<bool, StoreError> {
                self.asking(async {
                    let mut transaction = self.changing().await?;
                    let done = sqlx::query("DELETE FROM holds WHERE kind = $1 AND name = $2 AND since_us <= $3")
                        .bind(subject.kind())
                        .bind(subject.name())
                        .bind(number(at_us))
                        .execute(&mut *transaction)
                        .await?
                        .rows_affected()
                        > 0;
                    if done {
                        sqlx::query("INSERT INTO lifts (kind, name) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                            .bind(subject.kind())
                            .bind(subject.name())
                            .execute(&mut *transaction)
                            .await?;
                    }
                    transaction.commit().await?;
                    Ok(done)
                })
                .await
            }

            async fn lifts(&self) -> Result<Vec<Subject>, StoreError> {
                self.asking(async {
                    sqlx::query("SELECT kind, name FROM lifts ORDER BY kind, name")
                        .fetch_all(self.reader())
                        .await?
                        .iter()
                        .map(|row| subject(&row.text(0)?, &row.text(1)?))
                        .collect()
                })
                .await
            }

            async fn lifted(&self, subject: &Subject) -> Result<(), StoreError> {
                self.asking(async {
                    let mut transaction = self.changing().await?;
                    sqlx::query("DELETE FROM lifts WHERE kind = $1 AND name = $2")
                        .bind(subject.kind())
                        .bind(subject.name())
                        .execute(&mut *transaction)
                        .await?;
                    transaction.commit().await?;
                    Ok(())
                })
                .await
            }

            async fn erasures(&self) -> Result<Vec<Erasure>, StoreError> {
                self.asking(async {
                    sqlx::query("SELECT user_name, until_us FROM erasures ORDER BY user_name")
                        .fetch_all(self.reader())
                        .await?
                        .iter()
                        .map(erasure)
                        .collect()
                })
                .await
            }

            async fn unfinished(&self) -> Result<Vec<Erasure>, StoreError> {
                self.asking(async {
                    sqlx::query("SELECT user_name, until_us FROM erasures WHERE done = 0 ORDER BY user_name")
                        .fetch_all(self.reader())
                        .await?
                        .iter()
                        .map(erasure)
                        .collect()
                })
                .await
            }

            async fn erased(&self, erasure: &Erasure) -> Result<(), StoreError> {
                self.asking(async {
                    let mut transaction = self.changing().await?;
                    sqlx::query("UPDATE erasures SET done = 1 WHERE user_name = $1 AND until_us = $2")
                        .bind(erasure.user.as_str())
                        .bind(number(erasure.until_us))
                        .execute(&mut *transaction)
                        .await?;
                    transaction.commit().await?;
                    Ok(())
                })
                .await
            }

            async fn erase(&self, erasure: &Erasure, within: Option<&Subject>) -> Result<(), StoreError> {
                self.asking(async {
                    let mut transaction = self.changing().await?;
                    // What is being written is there when what the user said is looked for, or is written without it.
                    sqlx::query($alone).execute(&mut *transaction).await?;
                    // Nobody places a hold until it is decided what is held.
                    sqlx::query($lock).execute(&mut *transaction).await?;
                    // What is left over of one that is recorded is no erasure of its own, and must not become one of everything.
                    if within.is_none() {
                        sqlx::query(
                            "INSERT INTO erasures (user_name, until_us, done) VALUES ($1, $2, 0)
                             ON CONFLICT (user_name) DO UPDATE SET until_us = excluded.until_us, done = 0
                             WHERE erasures.until_us <= excluded.until_us",
                        )
                        .bind(erasure.user.as_str())
                        .bind(number(erasure.until_us))
                        .execute(&mut *transaction)
                        .await?;
                    }
                    let (first, last) = within.map_or_else(everywhere, Subject::channels);
                    let bare = within.is_some_and(|within| matches!(within, Subject::Namespace(name) if name.is_empty()));
                    let holds = Holds::new(holds_of(&mut transaction).await?);
                    if !holds.user(&erasure.user) {
                        for statement in [
                            concat!(
                                "UPDATE memberships SET members = members - 1 WHERE channel IN
                                     (SELECT channel FROM members WHERE user_name = $1 AND role > 0 AND ",
                                not_held!(),
                                ")"
                            ),
                            concat!(
                                "UPDATE memberships SET owners = owners - 1 WHERE channel IN
                                     (SELECT channel FROM members WHERE user_name = $1 AND role = 2 AND ",
                                not_held!(),
                                ")"
                            ),
                            concat!("DELETE FROM members WHERE user_name = $1 AND ", not_held!()),
                            concat!("DELETE FROM reactions WHERE user_name = $1 AND ", not_held!()),
                            concat!("DELETE FROM receipts WHERE user_name = $1 AND ", not_held!()),
                            concat!("DELETE FROM conversations WHERE user_name = $1 AND ", not_held!()),
                        ] {
                            sqlx::query(statement)
                                .bind(erasure.user.as_str())
                                .bind(first.as_str())
                                .bind(last.as_str())
                                .bind(i64::from(bare))
                                .execute(&mut *transaction)
                                .await?;
                        }
                    }
                    transaction.commit().await?;
                    Ok(())
                })
                .await
            }

            async fn oldest_us(&self) -> Result<Option<u64>, StoreError> {
                self.asking(async {
                    let row = sqlx::query("SELECT log_time FROM messages ORDER BY log_time LIMIT 1")
                        .fetch_optional(self.reader())
                        .await?;
                    row.map(|row| unsigned(row.number(0)?)).transpose()
                })
                .await
            }

            async fn said_by(
                &self,
                user: &str,
                span: (u64, u64),
                after: Option<&Kept>,
                limit: usize,
            ) -> Result<Vec<Kept>, StoreError> {
                let (from, shard, log, offset) = match after {
                    Some(row) => (
                        number(row.time_us),
                        i32::from(row.shard.get()),
                        log_number(row.place.log),
                        number(row.place.offset.get()),
                    ),
                    // Before all of that time.
                    None => (number(span.0), -1, 0, 0),
                };
                self.asking(async {
                    sqlx::query(
                        r#"SELECT log_time, shard, log, "offset", channel, sender, message FROM messages
                           WHERE log_time >= $1 AND log_time < $2 AND sender = $3
                               AND (log_time, shard, log, "offset") > ($1, $4, $5, $6)
                           ORDER BY log_time, shard, log, "offset" LIMIT $7"#,
                    )
                    .bind(from)
                    .bind(number(span.1))
                    .bind(user)
                    .bind(shard)
                    .bind(log)
                    .bind(offset)
                    .bind(i64::try_from(limit.min(MAX_KEPT)).unwrap_or(i64::MAX))
                    .fetch_all(self.reader())
                    .await?
                    .iter()
                    .map(kept)
                    .collect()
                })
                .await
            }

            async fn blank(&self, rows: &[Kept]) -> Result<Vec<Kept>, StoreError> {
                few(rows)?;
                self.asking(async {
                    let mut transaction = self.changing().await?;
                    sqlx::query($lock).execute(&mut *transaction).await?;
                    let holds = Holds::new(holds_of(&mut transaction).await?);
                    let mut blanked = Vec::new();
                    for row in rows {
                        if holds.message(&row.channel, row.sender.as_deref()) {
                            continue;
                        }
                        // As it is now: it may have been changed since it was read.
                        let message = sqlx::query(concat!(
                            r#"SELECT message FROM messages
                               WHERE log_time = $1 AND shard = $2 AND log = $3 AND "offset" = $4"#,
                            $lock_row
                        ))
                        .bind(number(row.time_us))
                        .bind(i32::from(row.shard.get()))
                        .bind(log_number(row.place.log))
                        .bind(number(row.place.offset.get()))
                        .fetch_optional(&mut *transaction)
                        .await?;
                        let Some(message) = message else { continue };
                        let row = Kept {
                            sender: None,
                            message: forgotten(&message.bytes(0)?.into()),
                            ..row.clone()
                        };
                        sqlx::query(
                            r#"UPDATE messages SET sender = NULL, message = $5
                               WHERE log_time = $1 AND shard = $2 AND log = $3 AND "offset" = $4"#,
                        )
                        .bind(number(row.time_us))
                        .bind(i32::from(row.shard.get()))
                        .bind(log_number(row.place.log))
                        .bind(number(row.place.offset.get()))
                        .bind(row.message.as_ref())
                        .execute(&mut *transaction)
                        .await?;
                        blanked.push(row);
                    }
                    transaction.commit().await?;
                    Ok(blanked)
                })
                .await
            }
        }

        /// A channel has a message at this place; of two the later in the log is its head.
        pub(super) async fn put_head(
            connection: &mut $connection,
            channel: &str,
            place: Place,
            time_us: u64,
        ) -> Result<(), StoreError> {
            sqlx::query(
                r#"INSERT INTO channels (name, log, "offset", log_time) VALUES ($1, $2, $3, $4)
                   ON CONFLICT (name) DO UPDATE
                   SET log = excluded.log, "offset" = excluded."offset", log_time = excluded.log_time
                   WHERE (channels.log, channels."offset") < (excluded.log, excluded."offset")"#,
            )
            .bind(channel)
            .bind(log_number(place.log))
            .bind(number(place.offset.get()))
            .bind(number(time_us))
            .execute(connection)
            .await?;
            Ok(())
        }

        /// Deletes rows and what is derived from them.
        async fn delete(connection: &mut $connection, rows: &[&Kept]) -> Result<u64, StoreError> {
            let times = rows.iter().map(|row| number(row.time_us));
            let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
                return Ok(0);
            };
            let keys = keys(rows);
            // Only numbers are in it.
            let statement = format!(
                r#"DELETE FROM messages WHERE log_time >= {first} AND log_time <= {last}
                       AND (log_time, shard, log, "offset") IN (VALUES {keys})"#
            );
            let deleted = sqlx::query(AssertSqlSafe(statement))
                .execute(&mut *connection)
                .await?
                .rows_affected();
            for row in rows {
                for statement in [
                    // That it was deleted holds for what is read back from an archive, where it may stand as it was before.
                    r#"DELETE FROM folds WHERE channel_hash = $1 AND channel = $2 AND log = $3 AND "offset" = $4
                         AND delete_log IS NULL"#,
                    r#"DELETE FROM reactions WHERE channel_hash = $1 AND channel = $2 AND log = $3 AND "offset" = $4"#,
                    "DELETE FROM changes WHERE channel_hash = $1 AND channel = $2 AND target_log = $3
                         AND target_offset = $4",
                ] {
                    sqlx::query(statement)
                        .bind(channel_hash(&row.channel))
                        .bind(row.channel.as_str())
                        .bind(log_number(row.place.log))
                        .bind(number(row.place.offset.get()))
                        .execute(&mut *connection)
                        .await?;
                }
                sqlx::query(r#"DELETE FROM uncounted WHERE channel = $1 AND log = $2 AND "offset" = $3"#)
                    .bind(row.channel.as_str())
                    .bind(log_number(row.place.log))
                    .bind(number(row.place.offset.get()))
                    .execute(&mut *connection)
                    .await?;
            }
            unindex(connection, rows).await?;
            Ok(deleted)
        }
    };
}

pub(in crate::store) use keeping;
