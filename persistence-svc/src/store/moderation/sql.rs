//! What both databases do by the same statements; a macro makes each backend's functions of them.

use super::super::columns::Columns;
use super::super::{StoreError, unsigned};
use super::{Act, Entry, Key, Kind, Restriction, Restrictions};

/// `kind`, `user_name`, `channel`, `token`, from this column on.
fn key(row: &impl Columns, from: usize) -> Result<Key, StoreError> {
    Ok(Key {
        kind: Kind::of(row.number(from)?)?,
        user: row.text(from + 1)?,
        channel: row.text(from + 2)?,
        token: row.text(from + 3)?,
    })
}

/// The key, `until_us`, `issued_before_us`, `reason`, `number`.
pub(in crate::store) fn restriction(row: &impl Columns) -> Result<Restriction, StoreError> {
    Ok(Restriction {
        key: key(row, 0)?,
        until_us: unsigned(row.number(4)?)?,
        issued_before_us: unsigned(row.number(5)?)?,
        reason: row.text(6)?,
        number: unsigned(row.number(7)?)?,
    })
}

/// The columns of `moderation_log`, in their order.
pub(in crate::store) fn entry(row: &impl Columns) -> Result<Entry, StoreError> {
    Ok(Entry {
        number: unsigned(row.number(0)?)?,
        time_us: unsigned(row.number(1)?)?,
        act: Act {
            key: key(row, 2)?,
            until_us: unsigned(row.number(6)?)?,
            issued_before_us: unsigned(row.number(7)?)?,
            reason: row.text(8)?,
            actor: row.text(9)?,
            api_key: row.text(10)?,
            idempotency_key: row.text(11)?,
            lifts: row.number(12)? != 0,
        },
        changed: row.number(13)? != 0,
    })
}

/// What [`restriction`] reads.
macro_rules! restrictions {
    ($condition:literal) => {
        concat!(
            "SELECT kind, user_name, channel, token, until_us, issued_before_us, reason, number FROM restrictions WHERE ",
            $condition
        )
    };
}
pub(in crate::store) use restrictions;

/// What [`entry`] reads.
macro_rules! entries {
    ($condition:literal) => {
        concat!(
            "SELECT number, time_us, kind, user_name, channel, token, until_us, issued_before_us, reason, actor, api_key, \
             idempotency_key, lifted, changed FROM moderation_log WHERE ",
            $condition
        )
    };
}
pub(in crate::store) use entries;

/// Where a page begins.
pub(in crate::store) enum From {
    /// There is nothing behind.
    Nowhere,
    First,
    FirstOfKind,
    Behind,
    BehindOfKind,
}

/// A page of one kind is found by the key alone: there may be millions of another kind before it.
pub(in crate::store) fn from(question: &Restrictions) -> From {
    match (question.kind, &question.after) {
        (None, None) => From::First,
        (None, Some(_)) => From::Behind,
        (Some(kind), Some(after)) if after.kind == kind => From::BehindOfKind,
        (Some(kind), Some(after)) if after.kind > kind => From::Nowhere,
        (Some(_), _) => From::FirstOfKind,
    }
}

/// `$connection`: the backend's connection. `$store`: the store, which has `changing`, a transaction that writes.
macro_rules! moderation {
    ($connection:ty, $store:ty) => {
        async fn current(
            connection: &mut $connection,
            key: &Key,
            now_us: u64,
        ) -> Result<Option<Restriction>, StoreError> {
            sqlx::query(restrictions!(
                "kind = $1 AND user_name = $2 AND channel = $3 AND token = $4 AND (until_us = 0 OR until_us > $5)"
            ))
            .bind(key.kind.number())
            .bind(key.user.as_str())
            .bind(key.channel.as_str())
            .bind(key.token.as_str())
            .bind(number(now_us))
            .fetch_optional(connection)
            .await?
            .map(|row| restriction(&row))
            .transpose()
        }

        async fn put(connection: &mut $connection, restriction: &Restriction) -> Result<(), StoreError> {
            let Restriction { key, .. } = restriction;
            sqlx::query(
                "INSERT INTO restrictions
                     (kind, user_name, channel, token, until_us, issued_before_us, reason, number)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT (kind, user_name, channel, token) DO UPDATE SET until_us = excluded.until_us,
                     issued_before_us = excluded.issued_before_us, reason = excluded.reason, number = excluded.number",
            )
            .bind(key.kind.number())
            .bind(key.user.as_str())
            .bind(key.channel.as_str())
            .bind(key.token.as_str())
            .bind(number(restriction.until_us))
            .bind(number(restriction.issued_before_us))
            .bind(restriction.reason.as_str())
            .bind(number(restriction.number))
            .execute(connection)
            .await?;
            Ok(())
        }

        async fn note(connection: &mut $connection, entry: &Entry) -> Result<(), StoreError> {
            let Entry { act, .. } = entry;
            sqlx::query(
                "INSERT INTO moderation_log (number, time_us, kind, user_name, channel, token, until_us, issued_before_us,
                     reason, actor, api_key, idempotency_key, lifted, changed)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            )
            .bind(number(entry.number))
            .bind(number(entry.time_us))
            .bind(act.key.kind.number())
            .bind(act.key.user.as_str())
            .bind(act.key.channel.as_str())
            .bind(act.key.token.as_str())
            .bind(number(act.until_us))
            .bind(number(act.issued_before_us))
            .bind(act.reason.as_str())
            .bind(act.actor.as_str())
            .bind(act.api_key.as_str())
            .bind(act.idempotency_key.as_str())
            .bind(i64::from(act.lifts))
            .bind(i64::from(entry.changed))
            .execute(connection)
            .await?;
            Ok(())
        }

        #[async_trait]
        impl ModerationStore for $store {
            async fn moderate(&self, act: &Act, now_us: u64) -> Result<(Entry, bool), StoreError> {
                self.asking(async {
                    let mut transaction = self.changing().await?;
                    // Whoever acts at the same time waits here.
                    let next: i64 = sqlx::query_scalar(
                        "UPDATE moderation_head SET number = number + 1 WHERE one = 1 RETURNING number",
                    )
                    .fetch_one(&mut *transaction)
                    .await?;
                    let next = unsigned(next)?;
                    if !act.idempotency_key.is_empty()
                        && let Some(row) = sqlx::query(entries!("idempotency_key = $1 AND idempotency_key <> ''"))
                            .bind(act.idempotency_key.as_str())
                            .fetch_optional(&mut *transaction)
                            .await?
                    {
                        let first = entry(&row)?;
                        transaction.rollback().await?;
                        return Ok((first, true));
                    }
                    // A part: whoever acts does not wait for a million that ended together.
                    sqlx::query(
                        "DELETE FROM restrictions WHERE (kind, user_name, channel, token) IN
                             (SELECT kind, user_name, channel, token FROM restrictions
                              WHERE until_us > 0 AND until_us <= $1 ORDER BY until_us LIMIT 1000)",
                    )
                    .bind(number(now_us))
                    .execute(&mut *transaction)
                    .await?;
                    let before = current(&mut transaction, &act.key, now_us).await?;
                    let after = follows_from(act, before.as_ref(), next);
                    let changed = before != after;
                    let mut act = act.clone();
                    match &after {
                        Some(after) => {
                            act.until_us = after.until_us;
                            act.issued_before_us = after.issued_before_us;
                            if changed {
                                put(&mut transaction, after).await?;
                            }
                        }
                        None => {
                            sqlx::query(
                                "DELETE FROM restrictions
                                 WHERE kind = $1 AND user_name = $2 AND channel = $3 AND token = $4",
                            )
                            .bind(act.key.kind.number())
                            .bind(act.key.user.as_str())
                            .bind(act.key.channel.as_str())
                            .bind(act.key.token.as_str())
                            .execute(&mut *transaction)
                            .await?;
                        }
                    }
                    let entry = Entry {
                        number: next,
                        time_us: now_us,
                        act,
                        changed,
                    };
                    note(&mut transaction, &entry).await?;
                    transaction.commit().await?;
                    Ok((entry, false))
                })
                .await
            }

            async fn moderation_log(&self, after: u64, limit: usize) -> Result<(Vec<Entry>, u64), StoreError> {
                self.asking(async {
                    let last: i64 = sqlx::query_scalar("SELECT number FROM moderation_head WHERE one = 1")
                        .fetch_one(self.reader())
                        .await?;
                    let last = unsigned(last)?;
                    if last <= after {
                        return Ok((Vec::new(), last));
                    }
                    let entries: Vec<Entry> = sqlx::query(entries!("number > $1 ORDER BY number LIMIT $2"))
                        .bind(number(after))
                        .bind(i64::try_from(limit.min(MAX_MODERATED)).unwrap_or(i64::MAX))
                        .fetch_all(self.reader())
                        .await?
                        .iter()
                        .map(entry)
                        .collect::<Result<_, _>>()?;
                    let newest = entries.last().map_or(last, |entry| entry.number.max(last));
                    Ok((entries, newest))
                })
                .await
            }

            async fn restrictions(
                &self,
                question: &Restrictions,
                now_us: u64,
            ) -> Result<(Vec<Restriction>, u64), StoreError> {
                self.asking(async {
                    // First: what is done between both reads is told again by who follows the log from there.
                    let last: i64 = sqlx::query_scalar("SELECT number FROM moderation_head WHERE one = 1")
                        .fetch_one(self.reader())
                        .await?;
                    let from = match from(question) {
                        From::Nowhere => return Ok((Vec::new(), unsigned(last)?)),
                        From::First => "$1 = $1 AND $2 = $2 AND $3 = $3 AND $4 = $4",
                        From::FirstOfKind => "kind = $1 AND $2 = $2 AND $3 = $3 AND $4 = $4",
                        From::Behind => "(kind, user_name, channel, token) > ($1, $2, $3, $4)",
                        From::BehindOfKind => "kind = $1 AND (user_name, channel, token) > ($2, $3, $4)",
                    };
                    let of_user = match question.user.as_str() {
                        "" => "$6 = $6",
                        _ => "user_name = $6",
                    };
                    // Nothing in it was given by anybody.
                    let statement = format!(
                        "{} {from} AND (until_us = 0 OR until_us > $5) AND {of_user}
                         ORDER BY kind, user_name, channel, token LIMIT $7",
                        restrictions!("")
                    );
                    let of_kind = question.kind.or(question.after.as_ref().map(|after| after.kind));
                    let text = |part: fn(&Key) -> &str| question.after.as_ref().map_or("", part);
                    let restrictions: Vec<Restriction> = sqlx::query(AssertSqlSafe(statement))
                        .bind(of_kind.map_or(0, Kind::number))
                        .bind(text(|after| &after.user))
                        .bind(text(|after| &after.channel))
                        .bind(text(|after| &after.token))
                        .bind(number(now_us))
                        .bind(question.user.as_str())
                        .bind(i64::try_from(question.limit.min(MAX_MODERATED)).unwrap_or(i64::MAX))
                        .fetch_all(self.reader())
                        .await?
                        .iter()
                        .map(restriction)
                        .collect::<Result<_, _>>()?;
                    Ok((restrictions, unsigned(last)?))
                })
                .await
            }

            async fn restricted(&self, keys: &[Key], now_us: u64) -> Result<Vec<Restriction>, StoreError> {
                few(keys.len())?;
                self.asking(async {
                    let mut connection = self.reader().acquire().await?;
                    let mut found = Vec::new();
                    for key in keys {
                        found.extend(current(&mut connection, key, now_us).await?);
                    }
                    Ok(found)
                })
                .await
            }
        }
    };
}

pub(in crate::store) use moderation;
