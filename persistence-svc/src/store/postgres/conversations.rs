//! Conversations in PostgreSQL.

use async_trait::async_trait;
use sqlx::{PgConnection, Row as _};

use super::PostgresStore;
use crate::store::conversations::{
    ConversationPage, ConversationStore, Conversations, LOOK_BACK, MAX_CONSIDERED, MAX_LISTED, MAX_PAIRS,
    MAX_SHARED, Mark, Member, Reached, Standing, Status, Told, conversation, counts, cut, mark, member,
    numbers, roles, standing, stored, to_scan, too_much,
};
use crate::store::{Place, StoreError, Written, channel_hash, log_number, number, unsigned};

/// Folds what a write says of conversations, in its transaction.
pub(super) async fn fold(connection: &mut PgConnection, written: &Written) -> Result<(), StoreError> {
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
        let (users, roles): (Vec<&str>, Vec<i64>) = roles(event).into_iter().unzip();
        sqlx::query(
            r#"INSERT INTO members AS old (channel, user_name, role, log, "offset", since_log, since_offset)
               SELECT $1, given.user_name, given.role, $2, $3, $2, $3
               FROM UNNEST($4::text[], $5::bigint[]) AS given (user_name, role)
               ON CONFLICT (channel, user_name) DO UPDATE
               SET role = excluded.role, log = excluded.log, "offset" = excluded."offset",
                   since_log = CASE WHEN old.role > 0 AND excluded.role > 0 THEN old.since_log ELSE excluded.log END,
                   since_offset = CASE WHEN old.role > 0 AND excluded.role > 0 THEN old.since_offset ELSE excluded."offset" END
               WHERE (old.log, old."offset") < (excluded.log, excluded."offset")"#,
        )
        .bind(channel)
        .bind(log)
        .bind(number(offset.get()))
        .bind(users)
        .bind(roles)
        .execute(&mut *connection)
        .await?;
        let newest = numbers(now.changed.max(Some(at)));
        sqlx::query(
            r#"INSERT INTO memberships (channel, log, "offset", members, owners)
               SELECT $1, $2, $3, count(*) FILTER (WHERE role > 0), count(*) FILTER (WHERE role = 2)
               FROM members WHERE channel = $1
               ON CONFLICT (channel) DO UPDATE
               SET log = excluded.log, "offset" = excluded."offset", members = excluded.members, owners = excluded.owners"#,
        )
        .bind(channel)
        .bind(newest.0)
        .bind(newest.1)
        .execute(&mut *connection)
        .await?;
    }
    if !told.changes.is_empty() {
        let (channels, offsets): (Vec<&str>, Vec<i64>) = told
            .changes
            .iter()
            .map(|(channel, offset)| (*channel, number(offset.get())))
            .unzip();
        sqlx::query(
            r#"INSERT INTO uncounted (channel, log, "offset")
               SELECT channel, $1, place FROM UNNEST($2::text[], $3::bigint[]) AS given (channel, place)
               ON CONFLICT DO NOTHING"#,
        )
        .bind(log)
        .bind(channels)
        .bind(offsets)
        .execute(&mut *connection)
        .await?;
    }
    if !told.named.is_empty() {
        let (users, channels): (Vec<&str>, Vec<&str>) = told.named.into_iter().unzip();
        sqlx::query(
            "INSERT INTO conversations (user_name, channel)
             SELECT user_name, channel FROM UNNEST($1::text[], $2::text[]) AS given (user_name, channel)
             ON CONFLICT DO NOTHING",
        )
        .bind(users)
        .bind(channels)
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// The channel's members as a whole.
pub(super) async fn standing_of(
    connection: &mut PgConnection,
    channel: &str,
) -> Result<Standing, StoreError> {
    let row = sqlx::query(
        r#"SELECT 0::bigint, members, owners, log, "offset" FROM memberships WHERE channel = $1 FOR UPDATE"#,
    )
    .bind(channel)
    .fetch_optional(connection)
    .await?;
    row.map_or(Ok(Standing::default()), |row| standing(&row))
}

/// Users with a mark at this place or behind it. `marks` is `delivered` or `read`.
async fn reached(
    connection: &mut PgConnection,
    marks: Marks,
    (channel, place, sender): (&str, Place, &str),
    (limit, count_to): (i64, i64),
) -> Result<Reached, StoreError> {
    let (named, counted) = match marks {
        Marks::Delivered => (
            "SELECT user_name FROM receipts
             WHERE channel = $1 AND (delivered_log, delivered_offset) >= ($2, $3) AND user_name <> $4
             ORDER BY delivered_log, delivered_offset, user_name LIMIT $5",
            "SELECT count(*) FROM (SELECT 1 FROM receipts
             WHERE channel = $1 AND (delivered_log, delivered_offset) >= ($2, $3) AND user_name <> $4 LIMIT $5) AS counted",
        ),
        Marks::Read => (
            "SELECT user_name FROM receipts
             WHERE channel = $1 AND (read_log, read_offset) >= ($2, $3) AND user_name <> $4
             ORDER BY read_log, read_offset, user_name LIMIT $5",
            "SELECT count(*) FROM (SELECT 1 FROM receipts
             WHERE channel = $1 AND (read_log, read_offset) >= ($2, $3) AND user_name <> $4 LIMIT $5) AS counted",
        ),
    };
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

#[derive(Clone, Copy)]
enum Marks {
    Delivered,
    Read,
}

impl PostgresStore {
    async fn list(&self, question: &Conversations) -> Result<ConversationPage, StoreError> {
        let limit = question.limit.min(MAX_LISTED);
        let (before, before_channel) = match &question.before {
            Some((time_us, channel)) => (number(*time_us), channel.as_str()),
            None => (i64::MAX, ""),
        };
        let mut connection = self.moment().await?;
        let rows = sqlx::query(
            r#"WITH mine AS (
                   (SELECT channel, role, since_log, since_offset FROM members
                    WHERE user_name = $1 AND role > 0 LIMIT $5)
                   UNION ALL
                   (SELECT channel, 0, 0, 0 FROM conversations WHERE user_name = $1 LIMIT $5)
               )
               SELECT mine.channel, mine.role, head.log, head."offset", head.log_time, COALESCE(joined.members, 0),
                   COALESCE(mark.read_log, 0), COALESCE(mark.read_offset, 0), mine.since_log, mine.since_offset
               FROM mine
               JOIN channels AS head ON head.name = mine.channel
               LEFT JOIN memberships AS joined ON joined.channel = mine.channel
               LEFT JOIN receipts AS mark ON mark.channel = mine.channel AND mark.user_name = $1
               WHERE (head.log_time, mine.channel) < ($2, $3)
               ORDER BY head.log_time DESC, mine.channel DESC LIMIT $4"#,
        )
        .bind(&question.user)
        .bind(before)
        .bind(before_channel)
        .bind(i64::try_from(limit + 1).unwrap_or(i64::MAX))
        .bind(MAX_CONSIDERED)
        .fetch_all(&mut *connection)
        .await?;
        let mut page = ConversationPage::default();
        let mut unread_from = Vec::with_capacity(rows.len());
        for row in rows.iter().take(limit) {
            let (conversation, from) = conversation(row)?;
            page.conversations.push(conversation);
            unread_from.push(numbers(from));
        }
        page.more = rows.len() > limit;
        let channels: Vec<&str> = page
            .conversations
            .iter()
            .map(|one| one.channel.as_str())
            .collect();
        let hashes: Vec<i64> = channels.iter().map(|channel| channel_hash(channel)).collect();
        let (logs, offsets): (Vec<i64>, Vec<i64>) = unread_from.into_iter().unzip();
        let lasts = sqlx::query(
            r#"SELECT last.log, last."offset", last.log_time, last.message, given.place
               FROM UNNEST($1::text[], $2::bigint[]) WITH ORDINALITY AS given (channel, hash, place)
               CROSS JOIN LATERAL (
                   SELECT newest.* FROM (
                       SELECT log, "offset", log_time, message FROM messages
                       WHERE channel_hash = given.hash AND channel = given.channel
                           AND (log, "offset") > (COALESCE((SELECT log FROM hidden WHERE hidden.channel = given.channel), -1),
                               COALESCE((SELECT "offset" FROM hidden WHERE hidden.channel = given.channel), -1))
                       ORDER BY log DESC, "offset" DESC LIMIT $3
                   ) AS newest
                   WHERE NOT EXISTS (SELECT 1 FROM uncounted AS change
                       WHERE change.channel = given.channel AND change.log = newest.log AND change."offset" = newest."offset")
                   ORDER BY log DESC, "offset" DESC LIMIT 1
               ) AS last"#,
        )
        .bind(&channels)
        .bind(&hashes)
        .bind(LOOK_BACK)
        .fetch_all(&mut *connection)
        .await?;
        let counted = sqlx::query(
            r#"SELECT unread.counted, unread.scanned, given.place
               FROM UNNEST($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
                   WITH ORDINALITY AS given (channel, hash, from_log, from_offset, place)
               CROSS JOIN LATERAL (
                   SELECT count(*) FILTER (WHERE sender IS DISTINCT FROM $5 AND NOT EXISTS (
                       SELECT 1 FROM uncounted AS change
                       WHERE change.channel = given.channel AND change.log = entry.log AND change."offset" = entry."offset"
                   )) AS counted, count(*) AS scanned
                   FROM (
                       SELECT log, "offset", sender FROM messages
                       WHERE channel_hash = given.hash AND channel = given.channel
                           AND (log, "offset") > (given.from_log, given.from_offset)
                           AND (log, "offset") > (COALESCE((SELECT log FROM hidden WHERE hidden.channel = given.channel), -1),
                               COALESCE((SELECT "offset" FROM hidden WHERE hidden.channel = given.channel), -1))
                       ORDER BY log DESC, "offset" DESC LIMIT $6
                   ) AS entry
               ) AS unread"#,
        )
        .bind(&channels)
        .bind(&hashes)
        .bind(&logs)
        .bind(&offsets)
        .bind(&question.user)
        .bind(to_scan(question.count_to))
        .fetch_all(&mut *connection)
        .await?;
        let at = |place: i64| usize::try_from(place - 1).unwrap_or(usize::MAX);
        for row in &lasts {
            if let Some(conversation) = page.conversations.get_mut(at(row.try_get(4)?)) {
                conversation.last = Some(stored(row)?);
            }
        }
        for row in &counted {
            if let Some(conversation) = page.conversations.get_mut(at(row.try_get(2)?)) {
                conversation.count(row.try_get(0)?, row.try_get(1)?, question.count_to)?;
            }
        }
        cut(&mut page, question.bytes);
        Ok(page)
    }
}

#[async_trait]
impl ConversationStore for PostgresStore {
    async fn standings(&self, pairs: &[(&str, &str)]) -> Result<Vec<Standing>, StoreError> {
        too_much(pairs.len(), MAX_PAIRS)?;
        let (channels, users): (Vec<&str>, Vec<&str>) = pairs.iter().copied().unzip();
        self.within(async {
            let rows = sqlx::query(
                r#"SELECT COALESCE(member.role, 0), COALESCE(joined.members, 0), COALESCE(joined.owners, 0),
                       COALESCE(joined.log, 0), COALESCE(joined."offset", 0)
                   FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY AS given (channel, user_name, place)
                   LEFT JOIN memberships AS joined ON joined.channel = given.channel
                   LEFT JOIN members AS member ON member.channel = given.channel AND member.user_name = given.user_name
                   ORDER BY given.place"#,
            )
            .bind(&channels)
            .bind(&users)
            .fetch_all(&self.database.pool)
            .await?;
            rows.iter().map(standing).collect()
        })
        .await
    }

    async fn shared(&self, user: &str, others: &[&str]) -> Result<Vec<String>, StoreError> {
        too_much(others.len(), MAX_PAIRS)?;
        self.within(async {
            let rows = sqlx::query(
                "WITH joined AS (SELECT channel FROM members WHERE user_name = $1 AND role > 0 ORDER BY channel LIMIT $3),
                     named AS (SELECT channel FROM conversations WHERE user_name = $1 ORDER BY channel LIMIT $3)
                 SELECT DISTINCT other FROM UNNEST($2::text[]) AS given (other)
                 WHERE EXISTS (SELECT 1 FROM members JOIN joined USING (channel) WHERE user_name = other AND role > 0)
                     OR EXISTS (SELECT 1 FROM conversations JOIN named USING (channel) WHERE user_name = other)
                 ORDER BY other",
            )
            .bind(user)
            .bind(others)
            .bind(i64::try_from(MAX_SHARED).unwrap_or(i64::MAX))
            .fetch_all(&self.database.pool)
            .await?;
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
        })
        .await
    }

    async fn members(&self, channel: &str, after: &str, limit: usize) -> Result<Vec<Member>, StoreError> {
        self.within(async {
            let rows = sqlx::query(
                "SELECT user_name, role, since_log, since_offset FROM members
                 WHERE channel = $1 AND user_name > $2 AND role > 0 ORDER BY user_name LIMIT $3",
            )
            .bind(channel)
            .bind(after)
            .bind(i64::try_from(limit.min(MAX_LISTED)).unwrap_or(i64::MAX))
            .fetch_all(&self.database.pool)
            .await?;
            rows.iter().map(member).collect()
        })
        .await
    }

    async fn mark(&self, marks: &[Mark]) -> Result<Vec<Mark>, StoreError> {
        too_much(marks.len(), MAX_PAIRS)?;
        let mut marks: Vec<&Mark> = marks.iter().collect();
        // In one order, so that two replicas that write the same never wait for each other in a circle.
        marks.sort_unstable_by_key(|mark| (&mark.channel, &mark.user));
        let channels: Vec<&str> = marks.iter().map(|mark| mark.channel.as_str()).collect();
        let users: Vec<&str> = marks.iter().map(|mark| mark.user.as_str()).collect();
        let delivered = marks.iter().map(|mark| numbers(mark.delivered));
        let (delivered_logs, delivered_offsets): (Vec<i64>, Vec<i64>) = delivered.unzip();
        let read = marks.iter().map(|mark| numbers(mark.read));
        let (read_logs, read_offsets): (Vec<i64>, Vec<i64>) = read.unzip();
        self.within(async {
            let rows = sqlx::query(
                "INSERT INTO receipts AS old (channel, user_name, delivered_log, delivered_offset, read_log, read_offset)
                 SELECT * FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
                 ON CONFLICT (channel, user_name) DO UPDATE SET
                     delivered_log = CASE WHEN (old.delivered_log, old.delivered_offset)
                         < (excluded.delivered_log, excluded.delivered_offset) THEN excluded.delivered_log ELSE old.delivered_log END,
                     delivered_offset = CASE WHEN (old.delivered_log, old.delivered_offset)
                         < (excluded.delivered_log, excluded.delivered_offset) THEN excluded.delivered_offset ELSE old.delivered_offset END,
                     read_log = CASE WHEN (old.read_log, old.read_offset)
                         < (excluded.read_log, excluded.read_offset) THEN excluded.read_log ELSE old.read_log END,
                     read_offset = CASE WHEN (old.read_log, old.read_offset)
                         < (excluded.read_log, excluded.read_offset) THEN excluded.read_offset ELSE old.read_offset END
                 WHERE (old.delivered_log, old.delivered_offset) < (excluded.delivered_log, excluded.delivered_offset)
                     OR (old.read_log, old.read_offset) < (excluded.read_log, excluded.read_offset)
                 RETURNING channel, user_name, delivered_log, delivered_offset, read_log, read_offset",
            )
            .bind(&channels)
            .bind(&users)
            .bind(&delivered_logs)
            .bind(&delivered_offsets)
            .bind(&read_logs)
            .bind(&read_offsets)
            .fetch_all(&self.database.pool)
            .await?;
            rows.iter().map(mark).collect()
        })
        .await
    }

    async fn status(
        &self,
        channel: &str,
        place: Place,
        limit: usize,
        count_to: u32,
    ) -> Result<Option<Status>, StoreError> {
        let limit = i64::try_from(limit.min(MAX_LISTED)).unwrap_or(i64::MAX);
        self.within(async {
            let mut connection = self.moment().await?;
            let (log, offset) = numbers(Some(place));
            let row = sqlx::query(
                r#"SELECT log_time, sender FROM messages
                   WHERE channel_hash = $1 AND channel = $2 AND log = $3 AND "offset" = $4
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
            let delivered = reached(&mut connection, Marks::Delivered, message, bounds).await?;
            let read = reached(&mut connection, Marks::Read, message, bounds).await?;
            Ok(Some(Status {
                time_us: unsigned(row.try_get(0)?)?,
                delivered,
                read,
                sender,
            }))
        })
        .await
    }

    async fn conversations(&self, question: &Conversations) -> Result<ConversationPage, StoreError> {
        self.within(self.list(question)).await
    }
}
