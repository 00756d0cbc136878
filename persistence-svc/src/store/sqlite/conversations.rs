//! Conversations in SQLite.

use async_trait::async_trait;
use sqlx::{Row as _, SqliteConnection};

use super::SqliteStore;
use crate::store::conversations::{
    ConversationPage, ConversationStore, Conversations, LOOK_BACK, MAX_CONSIDERED, MAX_LISTED, MAX_PAIRS,
    MAX_SHARED, Mark, Member, Reached, Standing, Status, Told, conversation, counts, cut, mark, member,
    numbers, roles, standing, stored, to_scan, too_much,
};
use crate::store::{Place, StoreError, Written, channel_hash, log_number, number, unsigned};

/// Folds what a write says of conversations, in its transaction.
pub(super) async fn fold(connection: &mut SqliteConnection, written: &Written) -> Result<(), StoreError> {
    let told = Told::by(written);
    let log = log_number(written.log);
    for (channel, offset, event) in &told.events {
        let at = Place {
            log: written.log,
            offset: *offset,
        };
        let now = standing_of(connection, channel).await?;
        if !counts(event, at, &now) {
            continue;
        }
        for (user, role) in roles(event) {
            sqlx::query(
                r#"INSERT INTO members AS old (channel, user_name, role, log, "offset", since_log, since_offset)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?4, ?5)
                   ON CONFLICT (channel, user_name) DO UPDATE
                   SET role = excluded.role, log = excluded.log, "offset" = excluded."offset",
                       since_log = iif(old.role > 0 AND excluded.role > 0, old.since_log, excluded.log),
                       since_offset = iif(old.role > 0 AND excluded.role > 0, old.since_offset, excluded."offset")
                   WHERE (old.log, old."offset") < (excluded.log, excluded."offset")"#,
            )
            .bind(*channel)
            .bind(user)
            .bind(role)
            .bind(log)
            .bind(number(offset.get()))
            .execute(&mut *connection)
            .await?;
        }
        let newest = numbers(now.changed.max(Some(at)));
        sqlx::query(
            r#"INSERT OR REPLACE INTO memberships (channel, log, "offset", members, owners)
               SELECT ?1, ?2, ?3, count(*) FILTER (WHERE role > 0), count(*) FILTER (WHERE role = 2)
               FROM members WHERE channel = ?1"#,
        )
        .bind(*channel)
        .bind(newest.0)
        .bind(newest.1)
        .execute(&mut *connection)
        .await?;
    }
    for (channel, offset) in &told.changes {
        sqlx::query(
            r#"INSERT INTO uncounted (channel, log, "offset") VALUES (?, ?, ?) ON CONFLICT DO NOTHING"#,
        )
        .bind(*channel)
        .bind(log)
        .bind(number(offset.get()))
        .execute(&mut *connection)
        .await?;
    }
    for (user, channel) in told.named {
        sqlx::query("INSERT INTO conversations (user_name, channel) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(user)
            .bind(channel)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The channel's members as a whole.
pub(super) async fn standing_of(
    connection: &mut SqliteConnection,
    channel: &str,
) -> Result<Standing, StoreError> {
    let row = sqlx::query(r#"SELECT 0, members, owners, log, "offset" FROM memberships WHERE channel = ?"#)
        .bind(channel)
        .fetch_optional(connection)
        .await?;
    row.map_or(Ok(Standing::default()), |row| standing(&row))
}

/// Users with a mark at this place or behind it, by one of the two pairs of statements.
async fn reached(
    connection: &mut SqliteConnection,
    (named, counted): (&'static str, &'static str),
    (channel, place, sender): (&str, Place, &str),
    (limit, count_to): (i64, i64),
) -> Result<Reached, StoreError> {
    let (log, offset) = numbers(Some(place));
    let users: Vec<String> = sqlx::query_scalar(named)
        .bind(channel)
        .bind(log)
        .bind(offset)
        .bind(sender)
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
    let count: i64 = sqlx::query_scalar(counted)
        .bind(channel)
        .bind(log)
        .bind(offset)
        .bind(sender)
        .bind(count_to)
        .fetch_one(connection)
        .await?;
    Ok(Reached {
        count: unsigned(count)?,
        users,
    })
}

const DELIVERED: (&str, &str) = (
    "SELECT user_name FROM receipts
     WHERE channel = ? AND (delivered_log, delivered_offset) >= (?, ?) AND user_name <> ?
     ORDER BY delivered_log, delivered_offset, user_name LIMIT ?",
    "SELECT count(*) FROM (SELECT 1 FROM receipts
     WHERE channel = ? AND (delivered_log, delivered_offset) >= (?, ?) AND user_name <> ? LIMIT ?)",
);

const READ: (&str, &str) = (
    "SELECT user_name FROM receipts
     WHERE channel = ? AND (read_log, read_offset) >= (?, ?) AND user_name <> ?
     ORDER BY read_log, read_offset, user_name LIMIT ?",
    "SELECT count(*) FROM (SELECT 1 FROM receipts
     WHERE channel = ? AND (read_log, read_offset) >= (?, ?) AND user_name <> ? LIMIT ?)",
);

#[async_trait]
impl ConversationStore for SqliteStore {
    async fn standings(&self, pairs: &[(&str, &str)]) -> Result<Vec<Standing>, StoreError> {
        too_much(pairs.len(), MAX_PAIRS)?;
        let pairs = serde_json::to_string(pairs).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let rows = sqlx::query(
            r#"SELECT COALESCE(member.role, 0), COALESCE(joined.members, 0), COALESCE(joined.owners, 0),
                   COALESCE(joined.log, 0), COALESCE(joined."offset", 0)
               FROM (SELECT key, value ->> 0 AS channel, value ->> 1 AS user_name FROM json_each(?)) AS given
               LEFT JOIN memberships AS joined ON joined.channel = given.channel
               LEFT JOIN members AS member ON member.channel = given.channel AND member.user_name = given.user_name
               ORDER BY given.key"#,
        )
        .bind(pairs)
        .fetch_all(&self.database.readers)
        .await?;
        rows.iter().map(standing).collect()
    }

    async fn shared(&self, user: &str, others: &[&str]) -> Result<Vec<String>, StoreError> {
        too_much(others.len(), MAX_PAIRS)?;
        let others = serde_json::to_string(others).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let rows = sqlx::query(
            "WITH joined AS (SELECT channel FROM members WHERE user_name = ?1 AND role > 0 ORDER BY channel LIMIT ?3),
                 named AS (SELECT channel FROM conversations WHERE user_name = ?1 ORDER BY channel LIMIT ?3)
             SELECT DISTINCT value FROM json_each(?2) AS given
             WHERE EXISTS (SELECT 1 FROM members JOIN joined USING (channel) WHERE user_name = given.value AND role > 0)
                 OR EXISTS (SELECT 1 FROM conversations JOIN named USING (channel) WHERE user_name = given.value)
             ORDER BY value",
        )
        .bind(user)
        .bind(others)
        .bind(i64::try_from(MAX_SHARED).unwrap_or(i64::MAX))
        .fetch_all(&self.database.readers)
        .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn members(&self, channel: &str, after: &str, limit: usize) -> Result<Vec<Member>, StoreError> {
        let rows = sqlx::query(
            "SELECT user_name, role, since_log, since_offset FROM members
             WHERE channel = ? AND user_name > ? AND role > 0 ORDER BY user_name LIMIT ?",
        )
        .bind(channel)
        .bind(after)
        .bind(i64::try_from(limit.min(MAX_LISTED)).unwrap_or(i64::MAX))
        .fetch_all(&self.database.readers)
        .await?;
        rows.iter().map(member).collect()
    }

    async fn mark(&self, marks: &[Mark]) -> Result<Vec<Mark>, StoreError> {
        too_much(marks.len(), MAX_PAIRS)?;
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        let mut moved = Vec::with_capacity(marks.len());
        for given in marks {
            let (delivered, read) = (numbers(given.delivered), numbers(given.read));
            let row = sqlx::query(
                "INSERT INTO receipts AS old (channel, user_name, delivered_log, delivered_offset, read_log, read_offset)
                 VALUES (?, ?, ?, ?, ?, ?)
                 ON CONFLICT (channel, user_name) DO UPDATE SET
                     delivered_log = iif((old.delivered_log, old.delivered_offset)
                         < (excluded.delivered_log, excluded.delivered_offset), excluded.delivered_log, old.delivered_log),
                     delivered_offset = iif((old.delivered_log, old.delivered_offset)
                         < (excluded.delivered_log, excluded.delivered_offset), excluded.delivered_offset, old.delivered_offset),
                     read_log = iif((old.read_log, old.read_offset)
                         < (excluded.read_log, excluded.read_offset), excluded.read_log, old.read_log),
                     read_offset = iif((old.read_log, old.read_offset)
                         < (excluded.read_log, excluded.read_offset), excluded.read_offset, old.read_offset)
                 WHERE (old.delivered_log, old.delivered_offset) < (excluded.delivered_log, excluded.delivered_offset)
                     OR (old.read_log, old.read_offset) < (excluded.read_log, excluded.read_offset)
                 RETURNING channel, user_name, delivered_log, delivered_offset, read_log, read_offset",
            )
            .bind(&given.channel)
            .bind(&given.user)
            .bind(delivered.0)
            .bind(delivered.1)
            .bind(read.0)
            .bind(read.1)
            .fetch_optional(&mut *transaction)
            .await?;
            moved.extend(row.map(|row| mark(&row)).transpose()?);
        }
        transaction.commit().await?;
        Ok(moved)
    }

    async fn status(
        &self,
        channel: &str,
        place: Place,
        limit: usize,
        count_to: u32,
    ) -> Result<Option<Status>, StoreError> {
        let limit = i64::try_from(limit.min(MAX_LISTED)).unwrap_or(i64::MAX);
        let mut connection = self.moment().await?;
        let (log, offset) = numbers(Some(place));
        let row = sqlx::query(
            r#"SELECT log_time, sender FROM messages
               WHERE channel_hash = ? AND channel = ? AND log = ? AND "offset" = ?
                       AND NOT EXISTS (SELECT 1 FROM hidden WHERE hidden.channel = messages.channel
                           AND (hidden.log, hidden."offset") >= (messages.log, messages."offset"))"#,
        )
        .bind(channel_hash(channel))
        .bind(channel)
        .bind(log)
        .bind(offset)
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let sender: Option<String> = row.try_get(1)?;
        let message = (channel, place, sender.as_deref().unwrap_or(""));
        let bounds = (limit, i64::from(count_to));
        Ok(Some(Status {
            time_us: unsigned(row.try_get(0)?)?,
            delivered: reached(&mut connection, DELIVERED, message, bounds).await?,
            read: reached(&mut connection, READ, message, bounds).await?,
            sender,
        }))
    }

    async fn conversations(&self, question: &Conversations) -> Result<ConversationPage, StoreError> {
        let limit = question.limit.min(MAX_LISTED);
        let (before, before_channel) = match &question.before {
            Some((time_us, channel)) => (number(*time_us), channel.as_str()),
            None => (i64::MAX, ""),
        };
        let mut connection = self.moment().await?;
        let rows = sqlx::query(
            r#"WITH mine AS (
                   SELECT * FROM (SELECT channel, role, since_log, since_offset FROM members
                       WHERE user_name = ?1 AND role > 0 LIMIT ?5)
                   UNION ALL
                   SELECT * FROM (SELECT channel, 0, 0, 0 FROM conversations WHERE user_name = ?1 LIMIT ?5)
               )
               SELECT mine.channel, mine.role, head.log, head."offset", head.log_time, COALESCE(joined.members, 0),
                   COALESCE(mark.read_log, 0), COALESCE(mark.read_offset, 0), mine.since_log, mine.since_offset
               FROM mine
               JOIN channels AS head ON head.name = mine.channel
               LEFT JOIN memberships AS joined ON joined.channel = mine.channel
               LEFT JOIN receipts AS mark ON mark.channel = mine.channel AND mark.user_name = ?1
               WHERE (head.log_time, mine.channel) < (?2, ?3)
               ORDER BY head.log_time DESC, mine.channel DESC LIMIT ?4"#,
        )
        .bind(&question.user)
        .bind(before)
        .bind(before_channel)
        .bind(i64::try_from(limit + 1).unwrap_or(i64::MAX))
        .bind(MAX_CONSIDERED)
        .fetch_all(&mut *connection)
        .await?;
        let mut page = ConversationPage {
            more: rows.len() > limit,
            ..ConversationPage::default()
        };
        for row in rows.iter().take(limit) {
            let (mut conversation, from) = conversation(row)?;
            let hash = channel_hash(&conversation.channel);
            let last = sqlx::query(
                r#"SELECT newest.* FROM (
                       SELECT log, "offset", log_time, message FROM messages WHERE channel_hash = ?1 AND channel = ?2
                           AND (log, "offset") > (COALESCE((SELECT log FROM hidden WHERE hidden.channel = ?2), -1),
                               COALESCE((SELECT "offset" FROM hidden WHERE hidden.channel = ?2), -1))
                       ORDER BY log DESC, "offset" DESC LIMIT ?3
                   ) AS newest
                   WHERE NOT EXISTS (SELECT 1 FROM uncounted AS change
                       WHERE change.channel = ?2 AND change.log = newest.log AND change."offset" = newest."offset")
                   ORDER BY log DESC, "offset" DESC LIMIT 1"#,
            )
            .bind(hash)
            .bind(&conversation.channel)
            .bind(LOOK_BACK)
            .fetch_optional(&mut *connection)
            .await?;
            conversation.last = last.map(|row| stored(&row)).transpose()?;
            let (log, offset) = numbers(from);
            let counted = sqlx::query(
                r#"SELECT count(*) FILTER (WHERE sender IS NOT ?1 AND NOT EXISTS (
                       SELECT 1 FROM uncounted AS change
                       WHERE change.channel = ?3 AND change.log = entry.log AND change."offset" = entry."offset"
                   )), count(*)
                   FROM (
                       SELECT log, "offset", sender FROM messages
                       WHERE channel_hash = ?2 AND channel = ?3 AND (log, "offset") > (?4, ?5)
                           AND (log, "offset") > (COALESCE((SELECT log FROM hidden WHERE hidden.channel = ?3), -1),
                               COALESCE((SELECT "offset" FROM hidden WHERE hidden.channel = ?3), -1))
                       ORDER BY log DESC, "offset" DESC LIMIT ?6
                   ) AS entry"#,
            )
            .bind(&question.user)
            .bind(hash)
            .bind(&conversation.channel)
            .bind(log)
            .bind(offset)
            .bind(to_scan(question.count_to))
            .fetch_one(&mut *connection)
            .await?;
            conversation.count(counted.try_get(0)?, counted.try_get(1)?, question.count_to)?;
            page.conversations.push(conversation);
        }
        cut(&mut page, question.bytes);
        Ok(page)
    }
}
