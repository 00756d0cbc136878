//! What both databases do by the same statements; a macro makes each backend's functions of them.
//!
//! Rows of one statement are bound by their number, so a statement has at most [`ROWS`] of them: few sizes, and far below what a
//! database takes.

use uuid::Uuid;

use super::StoreError;

/// Rows of one statement.
pub(super) const ROWS: usize = 100;

/// Tries to put a row in the place of another that somebody else puts there, too.
pub(super) const TRIES: usize = 10;

/// The columns of a notification, in the order in which they are read.
pub(super) const NOTIFICATION: &str =
    r#"id, content, shard, log, "offset", created_us, expires_us, shown_us, seen_us, read_us"#;

/// The columns of a delivery, in the order in which they are read.
pub(super) const DELIVERY: &str = "id, notification, user_name, way, device, unless, state, reason, advance_us, due_us, attempts, claims, digest";

/// The columns of an attempt, in the order in which they are read.
pub(super) const ATTEMPT: &str = "delivery, time_us, provider, result, reason, reference, latency_ms";

pub(super) fn bytes(id: Uuid) -> Vec<u8> {
    id.into_bytes().to_vec()
}

pub(super) fn id(bytes: &[u8]) -> Result<Uuid, StoreError> {
    Uuid::from_slice(bytes).map_err(|_| StoreError::Damaged(format!("an id of {} bytes", bytes.len())))
}

pub(super) fn unsigned(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value)
        .map_err(|_| StoreError::Damaged(format!("{value} where no negative number is written")))
}

pub(super) fn small(value: i32) -> Result<u32, StoreError> {
    u32::try_from(value)
        .map_err(|_| StoreError::Damaged(format!("{value} where no negative number is written")))
}

pub(super) fn known<T>(value: Option<T>, what: &str) -> Result<T, StoreError> {
    value.ok_or_else(|| StoreError::Damaged(format!("a {what} that no release writes")))
}

/// `$store`: the backend, which has `reader`, `begin`, `within` and so on. `$database`: as sqlx calls it. `$lock`: what keeps replicas
/// from waiting for each other.
macro_rules! notify_store {
    ($store:ident, $database:ty, $lock:literal) => {
        mod statements {
            use std::collections::{BTreeMap, HashMap, HashSet};
            use std::sync::Arc;

            use async_trait::async_trait;
            use sqlx::{AssertSqlSafe, Database, QueryBuilder, Row as _};
            use switchboard_database::{Pool, number};
            use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};
            use uuid::Uuid;

            use super::$store;
            use super::super::sql::{ATTEMPT, DELIVERY, NOTIFICATION, ROWS, TRIES, bytes, id, known, small, unsigned};
            use super::super::{
                Claim, Claimed, DeadLetter, DeviceState, Enqueued, Facts, Kept, MAX_COUNT, NotifyStore,
                Progress, Settled, StoreError, Sum, Told, Waiting,
            };
            use crate::model::{
                TOGETHER,
                Attempt, Delivery, Device, Notification, Outcome, Said, State, Unless, Way,
            };
            use crate::templates::Template;

            type Row = <$database as Database>::Row;
            type Connection = <$database as Database>::Connection;
            type Builder = QueryBuilder<$database>;

            fn notification(row: &Row) -> Result<Notification, StoreError> {
                let content: String = row.try_get(1)?;
                let said = match (
                    row.try_get::<Option<i32>, _>(2)?,
                    row.try_get::<Option<i64>, _>(3)?,
                    row.try_get::<Option<i64>, _>(4)?,
                ) {
                    (Some(shard), Some(log), Some(offset)) => Some(Said {
                        shard: known(ShardId::new(small(shard)?), "shard")?,
                        log: LogEpoch::from_number(unsigned(log)?),
                        offset: Offset::from_u64(unsigned(offset)?),
                    }),
                    _ => None,
                };
                Ok(Notification {
                    id: id(&row.try_get::<Vec<u8>, _>(0)?)?,
                    content: serde_json::from_str(&content)
                        .map_err(|error| StoreError::Damaged(format!("a notification: {error}")))?,
                    said,
                    created_us: unsigned(row.try_get(5)?)?,
                    expires_us: unsigned(row.try_get(6)?)?,
                    shown_us: unsigned(row.try_get(7)?)?,
                    seen_us: unsigned(row.try_get(8)?)?,
                    read_us: unsigned(row.try_get(9)?)?,
                })
            }

            fn delivery(row: &Row) -> Result<Delivery, StoreError> {
                Ok(Delivery {
                    id: id(&row.try_get::<Vec<u8>, _>(0)?)?,
                    notification: id(&row.try_get::<Vec<u8>, _>(1)?)?,
                    user: row.try_get(2)?,
                    way: known(Way::of(row.try_get(3)?), "way")?,
                    device: row.try_get(4)?,
                    unless: known(Unless::of(row.try_get(5)?), "condition")?,
                    state: known(State::of(row.try_get(6)?), "state")?,
                    reason: row.try_get(7)?,
                    advance_us: unsigned(row.try_get(8)?)?,
                    due_us: unsigned(row.try_get(9)?)?,
                    attempts: small(row.try_get(10)?)?,
                    claims: small(row.try_get(11)?)?,
                    digest: row.try_get(12)?,
                })
            }

            /// With its delivery.
            fn attempt(row: &Row) -> Result<(Uuid, Attempt), StoreError> {
                let attempt = Attempt {
                    time_us: unsigned(row.try_get(1)?)?,
                    provider: row.try_get(2)?,
                    outcome: known(Outcome::of(row.try_get(3)?), "outcome")?,
                    reason: row.try_get(4)?,
                    reference: row.try_get(5)?,
                    latency_ms: unsigned(row.try_get(6)?)?,
                };
                Ok((id(&row.try_get::<Vec<u8>, _>(0)?)?, attempt))
            }

            /// `column IN (ids)`.
            fn among(builder: &mut Builder, column: &str, ids: &[Uuid]) {
                builder.push(column).push(" IN (");
                let mut list = builder.separated(", ");
                for one in ids {
                    list.push_bind(bytes(*one));
                }
                builder.push(")");
            }

            async fn insert_deliveries(
                connection: &mut Connection,
                deliveries: &[&Delivery],
                claimed_by: Option<Uuid>,
            ) -> Result<HashSet<Uuid>, StoreError> {
                let mut new = HashSet::with_capacity(deliveries.len());
                for chunk in deliveries.chunks(ROWS) {
                    let mut builder = Builder::new(
                        "INSERT INTO notify_deliveries (id, notification, user_name, way, device, unless, state, reason,
                             advance_us, due_us, rank_us, attempts, claims, claimed_by, digest, settled_us) ",
                    );
                    builder.push_values(chunk, |mut row, delivery| {
                        row.push_bind(bytes(delivery.id))
                            .push_bind(bytes(delivery.notification))
                            .push_bind(delivery.user.clone())
                            .push_bind(delivery.way.number())
                            .push_bind(delivery.device.clone())
                            .push_bind(delivery.unless.number())
                            .push_bind(delivery.state.number())
                            .push_bind(delivery.reason.clone())
                            .push_bind(number(delivery.advance_us))
                            .push_bind(number(delivery.due_us))
                            .push_bind(number(delivery.due_us) - number(delivery.advance_us))
                            .push_bind(i32::try_from(delivery.attempts).unwrap_or(i32::MAX))
                            .push_bind(i32::try_from(delivery.claims).unwrap_or(i32::MAX))
                            .push_bind(claimed_by.map(bytes))
                            .push_bind(delivery.digest.clone())
                            .push_bind(0_i64);
                    });
                    builder.push(" ON CONFLICT DO NOTHING RETURNING id");
                    for row in builder.build().fetch_all(&mut *connection).await? {
                        new.insert(id(&row.try_get::<Vec<u8>, _>(0)?)?);
                    }
                }
                Ok(new)
            }

            async fn insert(
                connection: &mut Connection,
                batch: &[Enqueued],
            ) -> Result<Vec<Kept>, StoreError> {
                let mut new = HashSet::new();
                // In one order of keys, so that no two callers with the same ones wait for each other in a circle. Of one key in one
                // batch the first stays the first.
                let mut ordered: Vec<&Enqueued> = batch.iter().collect();
                ordered.sort_by_key(|enqueued| {
                    let content = &enqueued.notification.content;
                    (content.user.as_str(), content.idempotency_key.as_str())
                });
                for chunk in ordered.chunks(ROWS) {
                    let mut builder = Builder::new(
                        r#"INSERT INTO notify_notifications (id, user_name, category, idempotency_key, conversation, shard, log,
                               "offset", created_us, expires_us, content) "#,
                    );
                    let mut contents = Vec::with_capacity(chunk.len());
                    for Enqueued { notification, .. } in chunk {
                        contents.push(
                            serde_json::to_string(&notification.content)
                                .map_err(|error| StoreError::Damaged(error.to_string()))?,
                        );
                    }
                    builder.push_values(chunk.iter().zip(contents), |mut row, (enqueued, text)| {
                        let Notification {
                            id,
                            content,
                            said,
                            created_us,
                            expires_us,
                            ..
                        } = &enqueued.notification;
                        let key = Some(content.idempotency_key.clone()).filter(|key| !key.is_empty());
                        row.push_bind(bytes(*id))
                            .push_bind(content.user.clone())
                            .push_bind(content.category.clone())
                            .push_bind(key)
                            .push_bind(content.conversation.clone())
                            .push_bind(said.map(|said| i32::from(said.shard.get())))
                            .push_bind(said.map(|said| number(said.log.as_number())))
                            .push_bind(said.map(|said| number(said.offset.get())))
                            .push_bind(number(*created_us))
                            .push_bind(number(*expires_us))
                            .push_bind(text);
                    });
                    builder.push(" ON CONFLICT DO NOTHING RETURNING id");
                    for row in builder.build().fetch_all(&mut *connection).await? {
                        new.insert(id(&row.try_get::<Vec<u8>, _>(0)?)?);
                    }
                }
                let deliveries: Vec<&Delivery> = batch
                    .iter()
                    .filter(|enqueued| new.contains(&enqueued.notification.id))
                    .flat_map(|enqueued| &enqueued.deliveries)
                    .collect();
                insert_deliveries(connection, &deliveries, None).await?;
                let mut kept = Vec::with_capacity(batch.len());
                for Enqueued { notification, .. } in batch {
                    // What stands twice in the batch is new once.
                    if new.remove(&notification.id) {
                        kept.push(Kept {
                            id: notification.id,
                            duplicate: false,
                        });
                        continue;
                    }
                    // Also by its own id: who did not hear the answer hands in the same again.
                    let first: Option<Vec<u8>> = sqlx::query_scalar(
                        "SELECT id FROM notify_notifications WHERE (user_name = $1 AND idempotency_key = $2) OR id = $3",
                    )
                    .bind(&notification.content.user)
                    .bind(&notification.content.idempotency_key)
                    .bind(bytes(notification.id))
                    .fetch_optional(&mut *connection)
                    .await?;
                    // It was removed since: the next try is the first.
                    let first = first.ok_or(StoreError::Unavailable(sqlx::Error::RowNotFound))?;
                    kept.push(Kept {
                        id: id(&first)?,
                        duplicate: true,
                    });
                }
                Ok(kept)
            }

            /// What is told together is due when the first of it is, and at once where there is enough.
            async fn gather(
                connection: &mut Connection,
                digest: &str,
                most: u32,
                now_us: u64,
            ) -> Result<(), StoreError> {
                let row = sqlx::query(
                    "SELECT COUNT(*), COALESCE(MIN(due_us), 0) FROM notify_deliveries
                     WHERE digest = $1 AND state <= 2 AND state <> 1 AND reason = $2",
                )
                .bind(digest)
                .bind(TOGETHER)
                .fetch_one(&mut *connection)
                .await?;
                let count = unsigned(row.try_get(0)?)?;
                let due_us = if count >= u64::from(most) { number(now_us) } else { row.try_get(1)? };
                sqlx::query(
                    "UPDATE notify_deliveries SET due_us = $2, rank_us = $2 - advance_us
                     WHERE digest = $1 AND state <= 2 AND state <> 1 AND due_us > $2 AND reason = $3",
                )
                .bind(digest)
                .bind(due_us)
                .bind(TOGETHER)
                .execute(connection)
                .await?;
                Ok(())
            }

            async fn with_notifications(
                connection: &mut Connection,
                deliveries: Vec<Delivery>,
            ) -> Result<Vec<Claimed>, StoreError> {
                let mut found: HashMap<Uuid, Arc<Notification>> = HashMap::new();
                let mut ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.notification).collect();
                ids.sort_unstable();
                ids.dedup();
                for chunk in ids.chunks(ROWS) {
                    let mut builder =
                        Builder::new(format!("SELECT {NOTIFICATION} FROM notify_notifications WHERE "));
                    among(&mut builder, "id", chunk);
                    for row in builder.build().fetch_all(&mut *connection).await? {
                        match notification(&row) {
                            Ok(notification) => drop(found.insert(notification.id, Arc::new(notification))),
                            Err(error @ StoreError::Damaged(_)) => {
                                tracing::error!(%error, "a notification cannot be read");
                            }
                            Err(error) => return Err(error),
                        }
                    }
                }
                let (mut claimed, mut unreadable) = (Vec::with_capacity(deliveries.len()), Vec::new());
                for delivery in deliveries {
                    match found.get(&delivery.notification).cloned() {
                        Some(notification) => claimed.push(Claimed { delivery, notification }),
                        None => unreadable.push(delivery.id),
                    }
                }
                if !unreadable.is_empty() {
                    // One row of another release does not stop the queue.
                    let mut builder = Builder::new(
                        "UPDATE notify_deliveries SET state = 5, reason = 'this release cannot read it', claimed_by = NULL WHERE ",
                    );
                    among(&mut builder, "id", &unreadable);
                    builder.build().execute(connection).await?;
                }
                Ok(claimed)
            }

            /// Claims these, which the transaction holds, and keeps their order: what an update answers with has none.
            async fn take(
                connection: &mut Connection,
                due: Vec<Vec<u8>>,
                claim: Claim,
            ) -> Result<Vec<Claimed>, StoreError> {
                let due = due.iter().map(|one| id(one)).collect::<Result<Vec<_>, _>>()?;
                let mut taken = HashMap::with_capacity(due.len());
                for chunk in due.chunks(ROWS) {
                    let mut builder = Builder::new("UPDATE notify_deliveries SET state = 1, claims = claims + 1, claimed_by = ");
                    builder.push_bind(bytes(claim.by)).push(", due_us = ").push_bind(number(claim.until_us));
                    builder.push(", rank_us = ").push_bind(number(claim.until_us)).push(" - advance_us WHERE ");
                    among(&mut builder, "id", chunk);
                    builder.push(format!(" RETURNING {DELIVERY}"));
                    for row in builder.build().fetch_all(&mut *connection).await? {
                        let delivery = delivery(&row)?;
                        taken.insert(delivery.id, delivery);
                    }
                }
                let deliveries = due.iter().filter_map(|one| taken.remove(one)).collect();
                with_notifications(connection, deliveries).await
            }

            async fn attempts_of(
                connection: &mut Connection,
                deliveries: &[Uuid],
            ) -> Result<HashMap<Uuid, Vec<Attempt>>, StoreError> {
                let mut attempts: HashMap<Uuid, Vec<Attempt>> = HashMap::new();
                for chunk in deliveries.chunks(ROWS) {
                    let mut builder = Builder::new(format!("SELECT {ATTEMPT} FROM notify_attempts WHERE "));
                    among(&mut builder, "delivery", chunk);
                    builder.push(" ORDER BY time_us, number");
                    for row in builder.build().fetch_all(&mut *connection).await? {
                        let (of, attempt) = attempt(&row)?;
                        attempts.entry(of).or_default().push(attempt);
                    }
                }
                Ok(attempts)
            }

            /// Whether it took effect.
            async fn settle_one(connection: &mut Connection, settled: &Settled) -> Result<Option<Way>, StoreError> {
                for (number_of, attempt) in (1_i32..).zip(&settled.attempts) {
                    // Also of a claim that was over: it was made. Who did not hear the answer settles the same again, and it was made
                    // once: its number is its place among those of its settlement.
                    sqlx::query(
                        "INSERT INTO notify_attempts (delivery, number, time_us, way, provider, result, reason, reference, latency_ms)
                         SELECT id, $8, $2, way, $3, $4, $5, $6, $7 FROM notify_deliveries WHERE id = $1
                         ON CONFLICT DO NOTHING",
                    )
                    .bind(bytes(settled.delivery))
                    .bind(number(attempt.time_us))
                    .bind(&attempt.provider)
                    .bind(attempt.outcome.number())
                    .bind(&attempt.reason)
                    .bind(&attempt.reference)
                    .bind(number(attempt.latency_ms))
                    .bind(number_of)
                    .execute(&mut *connection)
                    .await?;
                }
                let changed = sqlx::query(
                    "UPDATE notify_deliveries SET state = $3, reason = $4, due_us = $5, rank_us = $9 - advance_us,
                         attempts = attempts + $6, claims = 0, claimed_by = NULL, reference = COALESCE($7, reference), settled_us = $8
                     WHERE id = $1 AND claimed_by = $2 AND state = 1 RETURNING way, notification",
                )
                .bind(bytes(settled.delivery))
                .bind(bytes(settled.by))
                .bind(settled.state.number())
                .bind(&settled.reason)
                .bind(number(settled.due_us))
                .bind(i32::try_from(settled.attempts.len()).unwrap_or(i32::MAX))
                .bind(settled.reference.as_deref())
                .bind(number(settled.now_us))
                .bind(number(settled.since_us.unwrap_or(settled.due_us)))
                .fetch_optional(&mut *connection)
                .await?;
                let Some(changed) = changed else { return Ok(None) };
                if settled.shown {
                    sqlx::query("UPDATE notify_notifications SET shown_us = $2 WHERE id = $1 AND shown_us = 0")
                        .bind(changed.try_get::<Vec<u8>, _>(1)?)
                        .bind(number(settled.now_us))
                        .execute(connection)
                        .await?;
                }
                Ok(Some(known(Way::of(changed.try_get(0)?), "way")?))
            }

            fn device(row: &Row) -> Result<(String, Device), StoreError> {
                let address: String = row.try_get(5)?;
                let device = Device {
                    id: row.try_get(1)?,
                    way: known(Way::of(row.try_get(2)?), "way")?,
                    provider: row.try_get(3)?,
                    token: row.try_get(4)?,
                    address: serde_json::from_str(&address)
                        .map_err(|_| StoreError::Damaged("a device's address".to_owned()))?,
                    registered_us: unsigned(row.try_get(6)?)?,
                    failing_us: unsigned(row.try_get(7)?)?,
                    disabled: row.try_get::<i32, _>(8)? != 0,
                };
                Ok((row.try_get(0)?, device))
            }

            #[async_trait]
            impl NotifyStore for $store {
                async fn migrate(&self) -> Result<(), StoreError> {
                    self.make_schema().await
                }

                async fn check(&self) -> Result<(), StoreError> {
                    self.check_schema().await
                }

                fn pool(&self) -> Option<Pool> {
                    self.state()
                }

                async fn close(&self) {
                    self.end().await;
                }

                async fn enqueue(
                    &self,
                    batch: &[Enqueued],
                    progress: Option<Progress>,
                ) -> Result<Vec<Kept>, StoreError> {
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        let kept = insert(&mut transaction, batch).await?;
                        let mut digests: HashMap<&str, (u32, u64)> = HashMap::new();
                        for enqueued in batch {
                            for digest in enqueued.deliveries.iter().filter_map(|one| one.digest.as_deref()) {
                                digests.insert(digest, (enqueued.digest_most, enqueued.notification.created_us));
                            }
                        }
                        // In one order, so that no two replicas wait for each other in a circle.
                        let mut digests: Vec<_> = digests.into_iter().collect();
                        digests.sort_unstable();
                        for (digest, (most, now_us)) in digests {
                            gather(&mut transaction, digest, most, now_us).await?;
                        }
                        if let Some(progress) = progress {
                            sqlx::query(
                                "INSERT INTO notify_progress (shard, log, read_to, owner_epoch) VALUES ($1, $2, $3, $4)
                                 ON CONFLICT (shard, log) DO UPDATE SET read_to = excluded.read_to, owner_epoch = excluded.owner_epoch
                                 WHERE notify_progress.read_to < excluded.read_to",
                            )
                            .bind(i32::from(progress.shard.get()))
                            .bind(number(progress.log.as_number()))
                            .bind(number(progress.read_to.0))
                            .bind(number(progress.owner_epoch.0))
                            .execute(&mut *transaction)
                            .await?;
                        }
                        transaction.commit().await?;
                        Ok(kept)
                    })
                    .await
                }

                async fn progress(
                    &self,
                    shard: ShardId,
                    log: LogEpoch,
                ) -> Result<Option<Progress>, StoreError> {
                    self.within(async {
                        let row = sqlx::query(
                            "SELECT read_to, owner_epoch FROM notify_progress WHERE shard = $1 AND log = $2",
                        )
                        .bind(i32::from(shard.get()))
                        .bind(number(log.as_number()))
                        .fetch_optional(self.reader())
                        .await?;
                        row.map(|row| {
                            Ok(Progress {
                                shard,
                                log,
                                read_to: Sequence(unsigned(row.try_get(0)?)?),
                                owner_epoch: OwnerEpoch(unsigned(row.try_get(1)?)?),
                            })
                        })
                        .transpose()
                    })
                    .await
                }

                async fn cancel(&self, notifications: &[Uuid], now_us: u64) -> Result<u64, StoreError> {
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        let mut cancelled = 0;
                        for chunk in notifications.chunks(ROWS) {
                            let mut builder = Builder::new(
                                "UPDATE notify_deliveries SET state = 6, reason = 'cancelled', settled_us = ",
                            );
                            builder.push_bind(number(now_us)).push(" WHERE state IN (0, 2) AND ");
                            among(&mut builder, "notification", chunk);
                            cancelled += builder.build().execute(&mut *transaction).await?.rows_affected();
                        }
                        transaction.commit().await?;
                        Ok(cancelled)
                    })
                    .await
                }

                async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>, StoreError> {
                    self.within(async {
                        let text = format!(
                            "SELECT id FROM notify_deliveries WHERE state <= 2 AND rank_us <= $1 AND due_us <= $1
                             ORDER BY rank_us LIMIT $2 {}",
                            $lock
                        );
                        let mut transaction = self.begin().await?;
                        let due = sqlx::query_scalar(AssertSqlSafe(text))
                            .bind(number(claim.now_us))
                            .bind(i64::try_from(claim.limit).unwrap_or(i64::MAX))
                            .fetch_all(&mut *transaction)
                            .await?;
                        let claimed = take(&mut transaction, due, claim).await?;
                        transaction.commit().await?;
                        Ok(claimed)
                    })
                    .await
                }

                async fn claim_digest(&self, digest: &str, claim: Claim) -> Result<Vec<Claimed>, StoreError> {
                    self.within(async {
                        let text = format!(
                            "SELECT id FROM notify_deliveries WHERE digest = $1 AND state <= 2 AND state <> 1 AND device = ''
                             ORDER BY rank_us LIMIT $2 {}",
                            $lock
                        );
                        let mut transaction = self.begin().await?;
                        let due = sqlx::query_scalar(AssertSqlSafe(text))
                            .bind(digest)
                            .bind(i64::try_from(claim.limit).unwrap_or(i64::MAX))
                            .fetch_all(&mut *transaction)
                            .await?;
                        let claimed = take(&mut transaction, due, claim).await?;
                        transaction.commit().await?;
                        Ok(claimed)
                    })
                    .await
                }

                async fn facts(
                    &self,
                    users: &[&str],
                    now_us: u64,
                    hour: u64,
                ) -> Result<HashMap<String, Facts>, StoreError> {
                    self.within(async {
                        let mut facts: HashMap<String, Facts> = HashMap::new();
                        let mut connection = self.reader().acquire().await?;
                        for chunk in users.chunks(ROWS) {
                            let asked = |text: &str| {
                                let mut builder = Builder::new(text);
                                builder.push(" WHERE user_name IN (");
                                let mut list = builder.separated(", ");
                                for user in chunk {
                                    list.push_bind((*user).to_owned());
                                }
                                builder.push(")");
                                builder
                            };
                            let mut builder = asked("SELECT user_name, document FROM notify_preferences");
                            for row in builder.build().fetch_all(&mut *connection).await? {
                                facts.entry(row.try_get(0)?).or_default().preferences = Some(row.try_get(1)?);
                            }
                            let mut builder = asked("SELECT user_name, conversation, until_us FROM notify_mutes");
                            builder.push(" AND (until_us = 0 OR until_us > ").push_bind(number(now_us)).push(")");
                            for row in builder.build().fetch_all(&mut *connection).await? {
                                let user = facts.entry(row.try_get(0)?).or_default();
                                user.mutes.insert(row.try_get(1)?, unsigned(row.try_get(2)?)?);
                            }
                            let mut builder = asked(
                                "SELECT user_name, id, way, provider, token, address, registered_us, failing_us, disabled
                                 FROM notify_devices",
                            );
                            builder.push(" ORDER BY registered_us, id");
                            for row in builder.build().fetch_all(&mut *connection).await? {
                                match device(&row) {
                                    Ok((user, device)) => facts.entry(user).or_default().devices.push(device),
                                    // Another release wrote it: it is no reason to tell nobody.
                                    Err(error @ StoreError::Damaged(_)) => {
                                        tracing::warn!(%error, "a device is passed over");
                                    }
                                    Err(error) => return Err(error),
                                }
                            }
                            let mut builder = asked("SELECT user_name, category, way, sent FROM notify_counts");
                            builder.push(" AND hour = ").push_bind(number(hour));
                            for row in builder.build().fetch_all(&mut *connection).await? {
                                let user = facts.entry(row.try_get(0)?).or_default();
                                let way = known(Way::of(row.try_get(2)?), "way")?;
                                user.sent.insert((row.try_get(1)?, way), unsigned(row.try_get(3)?)?);
                            }
                        }
                        Ok(facts)
                    })
                    .await
                }

                async fn spread(
                    &self,
                    delivery: &Delivery,
                    by: Uuid,
                    devices: &[&str],
                ) -> Result<Option<Vec<Delivery>>, StoreError> {
                    let Some((first, others)) = devices.split_first() else {
                        return Ok(None);
                    };
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        let changed = sqlx::query(
                            "UPDATE notify_deliveries SET device = $3, digest = NULL
                             WHERE id = $1 AND claimed_by = $2 AND state = 1 AND device = ''",
                        )
                        .bind(bytes(delivery.id))
                        .bind(bytes(by))
                        .bind(*first)
                        .execute(&mut *transaction)
                        .await?
                        .rows_affected();
                        if changed == 0 {
                            return Ok(None);
                        }
                        let new = |device: &str| Delivery {
                            id: Uuid::now_v7(),
                            device: device.to_owned(),
                            digest: None,
                            ..delivery.clone()
                        };
                        let mut added: Vec<Delivery> = others.iter().map(|device| new(device)).collect();
                        let all: Vec<&Delivery> = added.iter().collect();
                        let inserted = insert_deliveries(&mut transaction, &all, Some(by)).await?;
                        transaction.commit().await?;
                        added.retain(|delivery| inserted.contains(&delivery.id));
                        Ok(Some(added))
                    })
                    .await
                }

                async fn merge(
                    &self,
                    merged: &[Uuid],
                    by: Uuid,
                    digest: &Enqueued,
                    now_us: u64,
                ) -> Result<bool, StoreError> {
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        let mut changed = 0;
                        for chunk in merged.chunks(ROWS) {
                            let mut builder = Builder::new(
                                "UPDATE notify_deliveries SET state = 3, claimed_by = NULL, claims = 0, reason = ",
                            );
                            builder
                                .push_bind(format!("in the digest {}", digest.notification.id))
                                .push(", settled_us = ")
                                .push_bind(number(now_us))
                                .push(" WHERE state = 1 AND claimed_by = ")
                                .push_bind(bytes(by))
                                .push(" AND ");
                            among(&mut builder, "id", chunk);
                            changed += builder.build().execute(&mut *transaction).await?.rows_affected();
                        }
                        if changed != merged.len() as u64 {
                            return Ok(false);
                        }
                        insert(&mut transaction, std::slice::from_ref(digest)).await?;
                        transaction.commit().await?;
                        Ok(true)
                    })
                    .await
                }

                async fn settle(&self, settled: &[Settled]) -> Result<(), StoreError> {
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        // Rows are locked in one order, here and below, so that no two replicas wait for each other in a circle.
                        let mut ordered: Vec<&Settled> = settled.iter().collect();
                        ordered.sort_by_key(|one| one.delivery);
                        let mut counts: BTreeMap<(&str, &str, i32, u64), i64> = BTreeMap::new();
                        for one in ordered {
                            let changed = settle_one(&mut transaction, one).await?;
                            if let (Some(way), Some((user, category, hour))) = (changed, &one.counted) {
                                *counts.entry((user.as_str(), category.as_str(), way.number(), *hour)).or_default() += 1;
                            }
                        }
                        for ((user, category, way, hour), sent) in counts {
                            sqlx::query(
                                "INSERT INTO notify_counts (user_name, category, way, hour, sent) VALUES ($1, $2, $3, $4, $5)
                                 ON CONFLICT (user_name, category, way, hour) DO UPDATE SET sent = notify_counts.sent + excluded.sent",
                            )
                            .bind(user)
                            .bind(category)
                            .bind(way)
                            .bind(number(hour))
                            .bind(sent)
                            .execute(&mut *transaction)
                            .await?;
                        }
                        transaction.commit().await?;
                        Ok(())
                    })
                    .await
                }

                async fn report(
                    &self,
                    reference: &str,
                    failed: Option<&str>,
                    now_us: u64,
                ) -> Result<bool, StoreError> {
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        let state = if failed.is_some() { State::Failed } else { State::Delivered };
                        sqlx::query(
                            "UPDATE notify_deliveries SET state = $2, reason = $3, settled_us = $4 WHERE reference = $1 AND state = 3",
                        )
                        .bind(reference)
                        .bind(state.number())
                        .bind(failed.unwrap_or("the provider says that it arrived"))
                        .bind(number(now_us))
                        .execute(&mut *transaction)
                        .await?;
                        let count: i64 =
                            sqlx::query_scalar("SELECT COUNT(*) FROM notify_deliveries WHERE reference = $1")
                                .bind(reference)
                                .fetch_one(&mut *transaction)
                                .await?;
                        transaction.commit().await?;
                        Ok(count > 0)
                    })
                    .await
                }

                async fn told(&self, asked: Uuid) -> Result<Option<Told>, StoreError> {
                    self.within(async {
                        let mut connection = self.reader().acquire().await?;
                        let text = format!("SELECT {NOTIFICATION} FROM notify_notifications WHERE id = $1");
                        let row = sqlx::query(AssertSqlSafe(text))
                            .bind(bytes(asked))
                            .fetch_optional(&mut *connection)
                            .await?;
                        let Some(row) = row else { return Ok(None) };
                        let notification = notification(&row)?;
                        let text = format!(
                            "SELECT {DELIVERY} FROM notify_deliveries WHERE notification = $1 ORDER BY way, unless, device"
                        );
                        let rows = sqlx::query(AssertSqlSafe(text))
                            .bind(bytes(asked))
                            .fetch_all(&mut *connection)
                            .await?;
                        let deliveries = rows.iter().map(delivery).collect::<Result<Vec<_>, _>>()?;
                        let ids: Vec<Uuid> = deliveries.iter().map(|one| one.id).collect();
                        let mut attempts = attempts_of(&mut connection, &ids).await?;
                        let deliveries = deliveries
                            .into_iter()
                            .map(|one| {
                                let attempts = attempts.remove(&one.id).unwrap_or_default();
                                (one, attempts)
                            })
                            .collect();
                        Ok(Some(Told {
                            notification,
                            deliveries,
                        }))
                    })
                    .await
                }

                async fn inbox(
                    &self,
                    user: &str,
                    before: Option<(u64, Uuid)>,
                    limit: usize,
                ) -> Result<Vec<Notification>, StoreError> {
                    self.within(async {
                        let (shown_us, last) = before.unwrap_or((u64::MAX, Uuid::max()));
                        let text = format!(
                            "SELECT {NOTIFICATION} FROM notify_notifications
                             WHERE user_name = $1 AND shown_us > 0 AND (shown_us, id) < ($2, $3)
                             ORDER BY shown_us DESC, id DESC LIMIT $4"
                        );
                        let rows = sqlx::query(AssertSqlSafe(text))
                            .bind(user)
                            .bind(number(shown_us))
                            .bind(bytes(last))
                            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                            .fetch_all(self.reader())
                            .await?;
                        rows.iter().map(notification).collect()
                    })
                    .await
                }

                async fn news(&self, user: &str) -> Result<(u32, u32), StoreError> {
                    self.within(async {
                        let row = sqlx::query(
                            "SELECT COUNT(*), COALESCE(SUM(CASE WHEN seen_us = 0 THEN 1 ELSE 0 END), 0) FROM
                                 (SELECT seen_us FROM notify_notifications WHERE user_name = $1 AND shown_us > 0 AND read_us = 0
                                  LIMIT $2) AS news",
                        )
                        .bind(user)
                        .bind(i64::from(MAX_COUNT))
                        .fetch_one(self.reader())
                        .await?;
                        let count = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
                        Ok((count(row.try_get(1)?), count(row.try_get(0)?)))
                    })
                    .await
                }

                async fn mark(
                    &self,
                    user: &str,
                    ids: &[Uuid],
                    read: bool,
                    now_us: u64,
                ) -> Result<(), StoreError> {
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        let now = number(now_us);
                        let changed = |read: bool| {
                            let mut builder = Builder::new("UPDATE notify_notifications SET seen_us = CASE WHEN seen_us = 0 THEN ");
                            builder.push_bind(now).push(" ELSE seen_us END");
                            if read {
                                builder.push(", read_us = ").push_bind(now);
                            }
                            builder.push(" WHERE shown_us > 0 AND user_name = ").push_bind(user.to_owned());
                            builder.push(if read { " AND read_us = 0" } else { " AND seen_us = 0 AND read_us = 0" });
                            builder
                        };
                        if ids.is_empty() {
                            changed(read).build().execute(&mut *transaction).await?;
                        }
                        for chunk in ids.chunks(ROWS) {
                            let mut builder = changed(read);
                            builder.push(" AND ");
                            among(&mut builder, "id", chunk);
                            builder.build().execute(&mut *transaction).await?;
                        }
                        transaction.commit().await?;
                        Ok(())
                    })
                    .await
                }

                async fn set_preferences(&self, user: &str, document: &str) -> Result<(), StoreError> {
                    self.within(async {
                        sqlx::query(
                            "INSERT INTO notify_preferences (user_name, document) VALUES ($1, $2)
                             ON CONFLICT (user_name) DO UPDATE SET document = excluded.document",
                        )
                        .bind(user)
                        .bind(document)
                        .execute(self.writer())
                        .await?;
                        Ok(())
                    })
                    .await
                }

                async fn mute(
                    &self,
                    user: &str,
                    conversation: &str,
                    until_us: Option<u64>,
                    now_us: u64,
                    most: u64,
                ) -> Result<bool, StoreError> {
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        sqlx::query(
                            "DELETE FROM notify_mutes WHERE user_name = $1 AND (conversation = $2 OR (until_us > 0 AND until_us <= $3))",
                        )
                        .bind(user)
                        .bind(conversation)
                        .bind(number(now_us))
                        .execute(&mut *transaction)
                        .await?;
                        if let Some(until_us) = until_us {
                            let count: i64 = sqlx::query_scalar(
                                "SELECT COUNT(*) FROM notify_mutes WHERE user_name = $1 AND conversation <> $2",
                            )
                            .bind(user)
                            .bind(conversation)
                            .fetch_one(&mut *transaction)
                            .await?;
                            if unsigned(count)? >= most {
                                return Ok(false);
                            }
                            sqlx::query(
                                "INSERT INTO notify_mutes (user_name, conversation, until_us) VALUES ($1, $2, $3)
                                 ON CONFLICT (user_name, conversation) DO UPDATE SET until_us = excluded.until_us",
                            )
                            .bind(user)
                            .bind(conversation)
                            .bind(number(until_us))
                            .execute(&mut *transaction)
                            .await?;
                        }
                        transaction.commit().await?;
                        Ok(true)
                    })
                    .await
                }

                async fn put_device(
                    &self,
                    user: &str,
                    device: &Device,
                    most: u64,
                ) -> Result<bool, StoreError> {
                    let address = serde_json::to_string(&device.address)
                        .map_err(|error| StoreError::Damaged(error.to_string()))?;
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        // Of several that keep the same one at once each but the first finds it there at its second try.
                        for _ in 0..TRIES {
                            // An app that another user has signed in to, or that was installed anew, is one place.
                            sqlx::query(
                                "DELETE FROM notify_devices WHERE (user_name = $1 AND id = $2) OR (provider = $3 AND token = $4)",
                            )
                            .bind(user)
                            .bind(&device.id)
                            .bind(&device.provider)
                            .bind(device.token.as_deref())
                            .execute(&mut *transaction)
                            .await?;
                            // Without those that somebody else has put there since: they are what this one takes the place of.
                            let count: i64 = sqlx::query_scalar(
                                "SELECT COUNT(*) FROM notify_devices
                                 WHERE user_name = $1 AND id <> $2 AND COALESCE(provider <> $3 OR token <> $4, TRUE)",
                            )
                            .bind(user)
                            .bind(&device.id)
                            .bind(&device.provider)
                            .bind(device.token.as_deref())
                            .fetch_one(&mut *transaction)
                            .await?;
                            if unsigned(count)? >= most {
                                return Ok(false);
                            }
                            let kept = sqlx::query(
                                "INSERT INTO notify_devices
                                     (user_name, id, way, provider, token, address, registered_us, failing_us, disabled)
                                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
                            )
                            .bind(user)
                            .bind(&device.id)
                            .bind(device.way.number())
                            .bind(&device.provider)
                            .bind(device.token.as_deref())
                            .bind(&address)
                            .bind(number(device.registered_us))
                            .bind(number(device.failing_us))
                            .bind(i32::from(device.disabled))
                            .execute(&mut *transaction)
                            .await?
                            .rows_affected();
                            if kept == 1 {
                                transaction.commit().await?;
                                return Ok(true);
                            }
                        }
                        Err(StoreError::Unavailable(sqlx::Error::RowNotFound))
                    })
                    .await
                }

                async fn remove_device(&self, user: &str, id: &str) -> Result<bool, StoreError> {
                    self.within(async {
                        let removed =
                            sqlx::query("DELETE FROM notify_devices WHERE user_name = $1 AND id = $2")
                                .bind(user)
                                .bind(id)
                                .execute(self.writer())
                                .await?
                                .rows_affected();
                        Ok(removed > 0)
                    })
                    .await
                }

                async fn device_state(
                    &self,
                    user: &str,
                    id: &str,
                    state: DeviceState,
                ) -> Result<(), StoreError> {
                    let (failing_us, disabled) = match state {
                        DeviceState::Works => (0, 0),
                        DeviceState::Failing(since_us) => (since_us, 0),
                        DeviceState::Disabled(since_us) => (since_us, 1),
                    };
                    self.within(async {
                        sqlx::query(
                            // Of several sends at once one may find it failing that another has switched off already.
                            if matches!(state, DeviceState::Failing(_)) {
                                "UPDATE notify_devices SET failing_us = $3 WHERE user_name = $1 AND id = $2 AND failing_us = 0
                                     AND disabled = $4"
                            } else {
                                "UPDATE notify_devices SET failing_us = $3, disabled = $4 WHERE user_name = $1 AND id = $2"
                            },
                        )
                        .bind(user)
                        .bind(id)
                        .bind(number(failing_us))
                        .bind(disabled)
                        .execute(self.writer())
                        .await?;
                        Ok(())
                    })
                    .await
                }

                async fn templates(&self) -> Result<Vec<Template>, StoreError> {
                    self.within(async {
                        let rows = sqlx::query("SELECT document FROM notify_templates ORDER BY name, language")
                            .fetch_all(self.reader())
                            .await?;
                        rows.iter()
                            .map(|row| {
                                let document: String = row.try_get(0)?;
                                serde_json::from_str(&document)
                                    .map_err(|error| StoreError::Damaged(format!("a template: {error}")))
                            })
                            .collect()
                    })
                    .await
                }

                async fn put_template(&self, template: &Template, most: u64) -> Result<bool, StoreError> {
                    let document = serde_json::to_string(template)
                        .map_err(|error| StoreError::Damaged(error.to_string()))?;
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        sqlx::query(
                            "INSERT INTO notify_templates (name, language, document) VALUES ($1, $2, $3)
                             ON CONFLICT (name, language) DO UPDATE SET document = excluded.document",
                        )
                        .bind(&template.name)
                        .bind(&template.language)
                        .bind(document)
                        .execute(&mut *transaction)
                        .await?;
                        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM notify_templates")
                            .fetch_one(&mut *transaction)
                            .await?;
                        if unsigned(count)? > most {
                            return Ok(false);
                        }
                        transaction.commit().await?;
                        Ok(true)
                    })
                    .await
                }

                async fn delete_template(&self, name: &str, language: &str) -> Result<bool, StoreError> {
                    self.within(async {
                        let deleted =
                            sqlx::query("DELETE FROM notify_templates WHERE name = $1 AND language = $2")
                                .bind(name)
                                .bind(language)
                                .execute(self.writer())
                                .await?
                                .rows_affected();
                        Ok(deleted > 0)
                    })
                    .await
                }

                async fn dead_letters(
                    &self,
                    user: Option<&str>,
                    before: Option<(u64, Uuid)>,
                    limit: usize,
                ) -> Result<Vec<DeadLetter>, StoreError> {
                    self.within(async {
                        let mut connection = self.reader().acquire().await?;
                        let (settled_us, last) = before.unwrap_or((u64::MAX, Uuid::max()));
                        let text = format!(
                            "SELECT {DELIVERY}, settled_us,
                                 (SELECT category FROM notify_notifications n WHERE n.id = notify_deliveries.notification)
                             FROM notify_deliveries WHERE state = 5 AND (settled_us, id) < ($1, $2) AND ($3 = '' OR user_name = $3)
                             ORDER BY settled_us DESC, id DESC LIMIT $4"
                        );
                        let rows = sqlx::query(AssertSqlSafe(text))
                            .bind(number(settled_us))
                            .bind(bytes(last))
                            .bind(user.unwrap_or(""))
                            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                            .fetch_all(&mut *connection)
                            .await?;
                        let mut letters = Vec::with_capacity(rows.len());
                        for row in &rows {
                            letters.push(DeadLetter {
                                delivery: delivery(row)?,
                                settled_us: unsigned(row.try_get(13)?)?,
                                category: row.try_get(14)?,
                                attempts: Vec::new(),
                            });
                        }
                        let ids: Vec<Uuid> = letters.iter().map(|letter| letter.delivery.id).collect();
                        let mut attempts = attempts_of(&mut connection, &ids).await?;
                        for letter in &mut letters {
                            letter.attempts = attempts.remove(&letter.delivery.id).unwrap_or_default();
                        }
                        Ok(letters)
                    })
                    .await
                }

                async fn retry(&self, deliveries: &[Uuid], now_us: u64) -> Result<u64, StoreError> {
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        let mut retried = 0;
                        for chunk in deliveries.chunks(ROWS) {
                            let mut builder = Builder::new(
                                "UPDATE notify_deliveries SET state = 0, reason = 'tried again', attempts = 0, settled_us = 0, due_us = ",
                            );
                            builder
                                .push_bind(number(now_us))
                                .push(", rank_us = ")
                                .push_bind(number(now_us))
                                .push(" - advance_us WHERE state = 5 AND ");
                            among(&mut builder, "id", chunk);
                            retried += builder.build().execute(&mut *transaction).await?.rows_affected();
                        }
                        transaction.commit().await?;
                        Ok(retried)
                    })
                    .await
                }

                async fn drop_dead(&self, deliveries: &[Uuid], now_us: u64) -> Result<u64, StoreError> {
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        let mut dropped = 0;
                        for chunk in deliveries.chunks(ROWS) {
                            let mut builder = Builder::new(
                                "UPDATE notify_deliveries SET state = 6, reason = 'dropped', settled_us = ",
                            );
                            builder.push_bind(number(now_us)).push(" WHERE state = 5 AND ");
                            among(&mut builder, "id", chunk);
                            dropped += builder.build().execute(&mut *transaction).await?.rows_affected();
                        }
                        transaction.commit().await?;
                        Ok(dropped)
                    })
                    .await
                }

                async fn sums(&self, from_us: u64, to_us: u64) -> Result<Vec<Sum>, StoreError> {
                    self.within(async {
                        let rows = sqlx::query(
                            "SELECT way, provider, result, COUNT(*), CAST(SUM(latency_ms) AS BIGINT) FROM notify_attempts
                             WHERE time_us >= $1 AND time_us < $2 GROUP BY way, provider, result ORDER BY way, provider, result",
                        )
                        .bind(number(from_us))
                        .bind(number(to_us))
                        .fetch_all(self.reader())
                        .await?;
                        rows.iter()
                            .map(|row| {
                                Ok(Sum {
                                    way: known(Way::of(row.try_get(0)?), "way")?,
                                    provider: row.try_get(1)?,
                                    outcome: known(Outcome::of(row.try_get(2)?), "outcome")?,
                                    count: unsigned(row.try_get(3)?)?,
                                    latency_ms: unsigned(row.try_get(4)?)?,
                                })
                            })
                            .collect()
                    })
                    .await
                }

                async fn waiting(&self, now_us: u64, most: u64) -> Result<Waiting, StoreError> {
                    self.within(async {
                        let row = sqlx::query(
                            "SELECT (SELECT COUNT(*) FROM (SELECT 1 FROM notify_deliveries WHERE state <= 2 LIMIT $2) AS counted),
                                 COALESCE((SELECT MIN(due_us) FROM notify_deliveries WHERE state <= 2 AND due_us <= $1), 0),
                                 (SELECT COUNT(*) FROM (SELECT 1 FROM notify_deliveries WHERE state = 5 LIMIT $2) AS dead)",
                        )
                        .bind(number(now_us))
                        .bind(number(most))
                        .fetch_one(self.reader())
                        .await?;
                        Ok(Waiting {
                            count: unsigned(row.try_get(0)?)?,
                            oldest_us: unsigned(row.try_get(1)?)?,
                            dead: unsigned(row.try_get(2)?)?,
                        })
                    })
                    .await
                }

                async fn purge(&self, before_us: u64, hour: u64, limit: usize) -> Result<u64, StoreError> {
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        sqlx::query("DELETE FROM notify_counts WHERE hour < $1")
                            .bind(number(hour))
                            .execute(&mut *transaction)
                            .await?;
                        let purged = sqlx::query(
                            "DELETE FROM notify_notifications WHERE id IN (
                                 SELECT id FROM notify_notifications n WHERE created_us < $1 AND shown_us < $1 AND NOT EXISTS
                                     (SELECT 1 FROM notify_deliveries d
                                      WHERE d.notification = n.id AND (d.state <= 2 OR d.settled_us >= $1))
                                 ORDER BY created_us LIMIT $2)",
                        )
                        .bind(number(before_us))
                        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                        .execute(&mut *transaction)
                        .await?
                        .rows_affected();
                        transaction.commit().await?;
                        Ok(purged)
                    })
                    .await
                }

                async fn forget(&self, user: &str) -> Result<(), StoreError> {
                    self.within(async {
                        let mut transaction = self.begin().await?;
                        for statement in [
                            "DELETE FROM notify_notifications WHERE user_name = $1",
                            "DELETE FROM notify_devices WHERE user_name = $1",
                            "DELETE FROM notify_preferences WHERE user_name = $1",
                            "DELETE FROM notify_mutes WHERE user_name = $1",
                            "DELETE FROM notify_counts WHERE user_name = $1",
                        ] {
                            sqlx::query(statement).bind(user).execute(&mut *transaction).await?;
                        }
                        transaction.commit().await?;
                        Ok(())
                    })
                    .await
                }
            }
        }
    };
}
pub(super) use notify_store;
