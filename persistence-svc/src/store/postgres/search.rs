//! The index of search in PostgreSQL: a `tsvector` for each message, which holds what the analyser made and nothing of
//! PostgreSQL's own, under a GIN index.

mod walk;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use switchboard_proto::time::now_us;

use self::walk::{PIECE, Piece, SPANS, Spans, Walk};
use super::follow::moved;
use super::keeping::still_said;
use super::{DAY_US, DAYS_AHEAD, DAYS_BACK, PostgresStore};
use crate::search::query::{Clause, Item};
use crate::store::search::{
    Dialect, Document, Find, Hit, Hits, Loaded, MAX_HITS, Mark, SearchStore, any, channel_form, marked,
    sender_form, words,
};
use crate::store::{Place, Step, StoreError, channel_hash, columns, log_number, number};

/// The kinds of forms that stand for a span of time, by size.
const SPAN_KINDS: [char; 3] = ['t', 'u', 'v'];

/// Entries that are looked at to learn whether the beginning of a word is a common one.
const TRIAL: usize = 8000;

/// Channels of a question up to which the index is asked for them. More are looked for in what it has of the words, until it turns out that
/// these are mostly said elsewhere: for each entry the index would go through all of the channels.
const FEW_CHANNELS: usize = 8;

/// Entries that are looked at to learn whether many channels hold much of what is looked for.
const CHANNELS_TRIAL: usize = 4000;

/// Entries of a piece that holds a beginning of a word in the index.
const PREFIX_PIECE: usize = 20_000;

struct Tsquery;

impl Dialect for Tsquery {
    const AND: &'static str = "&";
    const OR: &'static str = "|";

    fn form(&self, form: &str, prefix: bool, into: &mut String) {
        quote(form, into);
        if prefix {
            into.push_str(":*");
        }
    }
}

fn quote(form: &str, into: &mut String) {
    into.push('\'');
    for letter in form.chars() {
        if matches!(letter, '\'' | '\\') {
            into.push(letter);
        }
        into.push(letter);
    }
    into.push('\'');
}

/// A `tsvector` as PostgreSQL reads it.
fn vector(document: &Document) -> String {
    let mut text = String::with_capacity(document.forms.len() * 16 + 96);
    for (form, places) in &document.forms {
        quote(form, &mut text);
        for (number, place) in places.iter().enumerate() {
            text.push(if number == 0 { ':' } else { ',' });
            text.push_str(&place.to_string());
        }
        text.push(' ');
    }
    let mut mark = |form: String| {
        quote(&form, &mut text);
        text.push(' ');
    };
    mark(channel_form(&document.channel));
    if let Some(sender) = &document.sender {
        mark(sender_form(sender));
    }
    for (kind, length) in SPAN_KINDS.into_iter().zip(SPANS) {
        mark(marked(kind, document.time_us >> length));
    }
    text
}

/// What a question is to the index, but for the time.
struct Asked {
    /// The channels, one of which it must be in; empty: any.
    channels: String,
    /// The same, where these are many: hashes of their names.
    many: Option<Vec<i64>>,
    /// What a message must have, words in any order. Without the beginnings of words; empty: there is nothing else.
    plain: String,
    /// The same with them.
    full: String,
    /// All of the question.
    exact: String,
    has_prefix: bool,
}

impl Asked {
    fn new(find: &Find<'_>) -> Self {
        let clause = |clause: &Clause, join: &str, into: &mut String| {
            any(&Tsquery, &clause.any, into, |dialect, item: &Item, into| {
                words(dialect, item, join, into)
            });
        };
        let (mut channels, mut plain) = (String::new(), String::new());
        let add = |into: &mut String, form: &dyn Fn(&mut String)| {
            if !into.is_empty() {
                into.push_str(Tsquery::AND);
            }
            form(into);
        };
        if let Some(names) = find.channels {
            let forms: Vec<String> = names.iter().map(|channel| channel_form(channel)).collect();
            any(&Tsquery, &forms, &mut channels, |dialect, form, into| {
                dialect.form(form, false, into)
            });
        }
        if let Some(sender) = find.sender {
            add(&mut plain, &|into| quote(&sender_form(sender), into));
        }
        let (beginnings, others): (Vec<&Clause>, Vec<&Clause>) =
            find.query.wanted().partition(|clause| clause.has_prefix());
        for wanted in others {
            add(&mut plain, &|into| clause(wanted, Tsquery::AND, into));
        }
        let mut full = plain.clone();
        for wanted in &beginnings {
            add(&mut full, &|into| clause(wanted, Tsquery::AND, into));
        }
        let mut exact = String::new();
        for each in &find.query.clauses {
            add(&mut exact, &|into| {
                if each.negated {
                    into.push('!');
                }
                clause(each, "<->", into);
            });
        }
        // Without words there is nothing else to ask for.
        let many = find
            .channels
            .filter(|names| names.len() > FEW_CHANNELS && !plain.is_empty());
        Self {
            channels,
            many: many.map(|names| names.iter().map(|name| channel_hash(name)).collect()),
            plain,
            full,
            exact,
            has_prefix: !beginnings.is_empty(),
        }
    }

    /// What the index is asked for a piece. `with_channels`: also for the channels, where it is many.
    fn of(&self, piece: &Piece, is_full: bool, with_channels: bool) -> String {
        let (mut spans, mut words) = (String::new(), &self.full);
        if let Spans::Of { size, first, last } = piece.spans {
            let kind = SPAN_KINDS.get(size).copied().unwrap_or('t');
            let forms: Vec<String> = (first..=last).map(|span| marked(kind, span)).collect();
            any(&Tsquery, &forms, &mut spans, |dialect, form, into| {
                dialect.form(form, false, into)
            });
            if !is_full {
                words = &self.plain;
            }
        }
        let channels = match with_channels || self.many.is_none() {
            true => self.channels.as_str(),
            false => "",
        };
        let parts = [&spans, channels, words]
            .into_iter()
            .filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join(Tsquery::AND)
    }
}

impl PostgresStore {
    /// Days that have a table of the index, newest first.
    async fn index_days(connection: &mut PgConnection) -> Result<Vec<u64>, StoreError> {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT relname::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
             WHERE inhparent = 'search'::regclass",
        )
        .fetch_all(connection)
        .await?;
        let mut days: Vec<u64> = names
            .iter()
            .filter_map(|name| name.strip_prefix("search_")?.parse().ok())
            .collect();
        days.sort_unstable_by(|one, other| other.cmp(one));
        Ok(days)
    }

    async fn look_through(&self, find: &Find<'_>) -> Result<Hits, StoreError> {
        let asked = Asked::new(find);
        let mut transaction = self.database.pool.begin().await?;
        // The one index answers, whatever the statistics of the tables say.
        sqlx::query(
            "SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true),
                 set_config('work_mem', '16MB', true), set_config('max_parallel_workers_per_gather', '0', true)",
        )
        .execute(&mut *transaction)
        .await?;
        let days = Self::index_days(&mut transaction).await?;
        let Mark([before_us, ..]) = find.before;
        let until = find
            .to_us
            .min(u64::try_from(before_us).unwrap_or(0).saturating_add(1));
        let mut walk = Walk::new(find.from_us, until, now_us() + 1, days);
        let most = find.most.min(MAX_HITS);
        let mut found = Hits {
            hits: Vec::new(),
            looked_to: Mark::START,
            effort: 0,
        };
        let mut before = find.before;
        // Beginnings of words are looked for in the messages themselves, until it turns out that they are rare.
        let mut is_full = !asked.has_prefix;
        let mut with_channels = asked.many.is_none();
        while let Some(piece) = walk.next() {
            let text = asked.of(&piece, is_full, with_channels);
            let looked_for = LookedFor {
                text: &text,
                exact: &asked.exact,
                channels: asked.many.as_deref(),
                before,
            };
            if piece.is_smallest || (asked.has_prefix && is_full) {
                let limit = if is_full { PREFIX_PIECE } else { PIECE };
                let entries = ordered(&mut transaction, &piece, &looked_for, limit).await?;
                found.effort += entries.len();
                found
                    .hits
                    .extend(entries.iter().filter(|(_, is_hit)| *is_hit).map(|(hit, _)| *hit));
                match entries.last() {
                    Some((last, _)) if entries.len() == limit => {
                        before = last.mark;
                        walk.go_on_at(last.time_us + 1);
                    }
                    _ => walk.looked(&piece, entries.len()),
                }
            } else {
                let (count, mut hits) = unordered(&mut transaction, &piece, &looked_for).await?;
                if count > PIECE {
                    found.effort += PIECE / 8;
                    walk.too_much(&piece);
                    continue;
                }
                hits.sort_unstable_by_key(|hit| std::cmp::Reverse(hit.mark));
                found.effort += count;
                found.hits.append(&mut hits);
                walk.looked(&piece, count);
            }
            let next = walk.next();
            let looked_to = match next {
                // Whoever goes on begins below the last entry of a piece that was too full, or below a whole piece.
                Some(next) => before.min(Mark([number(next.to), 0, 0, 0])),
                None => Mark::START,
            };
            found.looked_to = looked_to;
            if found.hits.len() > most {
                found.hits.truncate(most);
                found.looked_to = found.hits.last().map_or(looked_to, |hit| hit.mark);
            }
            if next.is_none() || found.hits.len() >= most || found.effort >= find.effort {
                break;
            }
            let is_sparse = |hits: usize, effort: usize| {
                // More effort would not find enough of them.
                let left = find.effort.saturating_sub(effort);
                hits * left < (most - hits) * effort
            };
            if !with_channels && found.effort >= CHANNELS_TRIAL {
                with_channels = is_sparse(found.hits.len(), found.effort);
            }
            if asked.has_prefix && is_full {
                walk.by_days();
            } else if asked.has_prefix && found.effort >= TRIAL {
                is_full = is_sparse(found.hits.len(), found.effort);
                if is_full {
                    walk.by_days();
                }
            }
        }
        transaction.commit().await?;
        Ok(found)
    }
}

/// What is looked for in a piece.
struct LookedFor<'a> {
    /// In the index.
    text: &'a str,
    /// Of what that has.
    exact: &'a str,
    /// In one of these, which the index was not asked for.
    channels: Option<&'a [i64]>,
    before: Mark,
}

/// How many entries of a piece the index has, [`PIECE`] and one at most, and which of them are what is looked for.
async fn unordered(
    connection: &mut PgConnection,
    piece: &Piece,
    looked_for: &LookedFor<'_>,
) -> Result<(usize, Vec<Hit>), StoreError> {
    let Mark([time, shard, log, offset]) = looked_for.before;
    let row = sqlx::query(
        r#"SELECT count(*), array_agg(log_time) FILTER (WHERE hit), array_agg(shard) FILTER (WHERE hit),
               array_agg(log) FILTER (WHERE hit), array_agg("offset") FILTER (WHERE hit)
           FROM (
               SELECT log_time, shard, log, "offset",
                   ($10::bigint[] IS NULL OR channel_hash = ANY($10))
                       AND (log_time, shard::bigint, log, "offset") < ($6, $7, $8, $9) AND words @@ $4::tsquery AS hit
               FROM search WHERE log_time >= $1 AND log_time < $2 AND words @@ $3::tsquery LIMIT $5
           ) AS entries"#,
    )
    .bind(number(piece.from))
    .bind(number(piece.to))
    .bind(looked_for.text)
    .bind(looked_for.exact)
    .bind(i64::try_from(PIECE + 1).unwrap_or(i64::MAX))
    .bind(time)
    .bind(shard)
    .bind(log)
    .bind(offset)
    .bind(looked_for.channels)
    .fetch_one(connection)
    .await?;
    let count: i64 = row.try_get(0)?;
    let times: Option<Vec<i64>> = row.try_get(1)?;
    let shards: Option<Vec<i32>> = row.try_get(2)?;
    let logs: Option<Vec<i64>> = row.try_get(3)?;
    let offsets: Option<Vec<i64>> = row.try_get(4)?;
    let mut hits = Vec::new();
    let columns = times
        .into_iter()
        .flatten()
        .zip(shards.into_iter().flatten())
        .zip(logs.into_iter().flatten())
        .zip(offsets.into_iter().flatten());
    for (((time, shard), log), offset) in columns {
        hits.push(hit(time, shard, log, offset)?);
    }
    Ok((usize::try_from(count).unwrap_or(usize::MAX), hits))
}

/// The newest entries of a piece, and whether each is what is looked for.
async fn ordered(
    connection: &mut PgConnection,
    piece: &Piece,
    looked_for: &LookedFor<'_>,
    limit: usize,
) -> Result<Vec<(Hit, bool)>, StoreError> {
    let Mark([time, shard, log, offset]) = looked_for.before;
    let rows = sqlx::query(
        r#"SELECT log_time, shard, log, "offset", ($10::bigint[] IS NULL OR channel_hash = ANY($10)) AND words @@ $4::tsquery
           FROM search WHERE log_time >= $1 AND log_time < $2 AND words @@ $3::tsquery
               AND (log_time, shard::bigint, log, "offset") < ($6, $7, $8, $9)
           ORDER BY log_time DESC, shard DESC, log DESC, "offset" DESC LIMIT $5"#,
    )
    .bind(number(piece.from))
    .bind(number(piece.to))
    .bind(looked_for.text)
    .bind(looked_for.exact)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .bind(time)
    .bind(shard)
    .bind(log)
    .bind(offset)
    .bind(looked_for.channels)
    .fetch_all(connection)
    .await?;
    let entry = |row: &PgRow| {
        let found = hit(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
        Ok((found, row.try_get(4)?))
    };
    rows.iter().map(entry).collect()
}

fn hit(time: i64, shard: i32, log: i64, offset: i64) -> Result<Hit, StoreError> {
    columns::hit(
        Mark([time, shard.into(), log, offset]),
        time,
        shard,
        (log, offset),
    )
}

#[async_trait]
impl SearchStore for PostgresStore {
    async fn index(&self, settings: &str, step: &Step, documents: &[Document]) -> Result<bool, StoreError> {
        self.within(async {
            let today = now_us() / DAY_US;
            let usual = today.saturating_sub(DAYS_BACK)..=today + DAYS_AHEAD;
            let days = documents.iter().map(|document| document.time_us / DAY_US);
            self.partitions("search", days.filter(|day| usual.contains(day)).collect())
                .await?;
            let mut transaction = self.database.pool.begin().await?;
            // What a crash of the server loses is indexed again, for the position is lost with it.
            sqlx::query("SET LOCAL synchronous_commit = off")
                .execute(&mut *transaction)
                .await?;
            // Held until the commit: nobody empties the index in between.
            let is_own = sqlx::query("SELECT 1 FROM search_settings WHERE settings = $1 FOR SHARE")
                .bind(settings)
                .fetch_optional(&mut *transaction)
                .await?;
            if is_own.is_none() {
                return Err(StoreError::OtherIndex);
            }
            if !moved(&mut transaction, step).await? {
                return Ok(false);
            }
            let of = (i32::from(step.shard.get()), log_number(step.log));
            let documents = still_said(&mut transaction, of, documents).await?;
            insert(&mut transaction, of.0, of.1, &documents).await?;
            transaction.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn prepare_index(&self, follower: &str, settings: &str) -> Result<bool, StoreError> {
        self.within(async {
            let mut transaction = self.database.pool.begin().await?;
            sqlx::query("LOCK TABLE search_settings IN EXCLUSIVE MODE")
                .execute(&mut *transaction)
                .await?;
            let known: Option<String> = sqlx::query_scalar("SELECT settings FROM search_settings")
                .fetch_optional(&mut *transaction)
                .await?;
            if known.as_deref() == Some(settings) {
                return Ok(false);
            }
            for statement in ["TRUNCATE search", "DELETE FROM search_settings"] {
                sqlx::query(statement).execute(&mut *transaction).await?;
            }
            sqlx::query("DELETE FROM followers WHERE name = $1")
                .bind(follower)
                .execute(&mut *transaction)
                .await?;
            sqlx::query("INSERT INTO search_settings (settings) VALUES ($1)")
                .bind(settings)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn find(&self, find: &Find<'_>) -> Result<Hits, StoreError> {
        self.within(self.look_through(find)).await
    }

    async fn load(&self, hits: &[Hit]) -> Result<Vec<Loaded>, StoreError> {
        let times: Vec<i64> = hits.iter().map(|hit| number(hit.time_us)).collect();
        let shards: Vec<i32> = hits.iter().map(|hit| i32::from(hit.shard.get())).collect();
        let logs: Vec<i64> = hits.iter().map(|hit| log_number(hit.place.log)).collect();
        let offsets: Vec<i64> = hits.iter().map(|hit| number(hit.place.offset.get())).collect();
        self.within(async {
            // One look into the key of its day for each.
            let rows = sqlx::query(
                r#"SELECT found.log_time, found.shard, found.log, found.place, channel, sender, message
                   FROM UNNEST($1::bigint[], $2::integer[], $3::bigint[], $4::bigint[])
                       AS found (log_time, shard, log, place)
                   CROSS JOIN LATERAL (
                       SELECT channel, sender, message FROM messages
                       WHERE messages.log_time = found.log_time AND messages.shard = found.shard
                           AND messages.log = found.log AND messages."offset" = found.place
                           AND NOT EXISTS (SELECT 1 FROM hidden WHERE hidden.channel = messages.channel
                               AND (hidden.log, hidden."offset") >= (messages.log, messages."offset"))
                       LIMIT 1
                   ) AS stored"#,
            )
            .bind(times)
            .bind(shards)
            .bind(logs)
            .bind(offsets)
            .fetch_all(&self.database.pool)
            .await?;
            let loaded = |row: &PgRow| {
                let found = hit(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
                columns::loaded(row, 4, found)
            };
            rows.iter().map(loaded).collect()
        })
        .await
    }

    async fn stored_at(&self, channel: &str, place: Place) -> Result<Option<Loaded>, StoreError> {
        self.within(async {
            let row = sqlx::query(
                r#"SELECT log_time, shard, log, "offset", channel, sender, message FROM messages
                   WHERE channel_hash = $1 AND log = $2 AND "offset" = $3 AND channel = $4 LIMIT 1"#,
            )
            .bind(channel_hash(channel))
            .bind(log_number(place.log))
            .bind(number(place.offset.get()))
            .bind(channel)
            .fetch_optional(&self.database.pool)
            .await?;
            let loaded = |row: &PgRow| {
                let found = hit(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
                columns::loaded(row, 4, found)
            };
            row.as_ref().map(loaded).transpose()
        })
        .await
    }

    async fn reindex(
        &self,
        follower: &str,
        hit: &Hit,
        document: Option<&Document>,
    ) -> Result<(), StoreError> {
        let (shard, log, offset) = (
            i32::from(hit.shard.get()),
            log_number(hit.place.log),
            number(hit.place.offset.get()),
        );
        self.within(async {
            let mut transaction = self.database.pool.begin().await?;
            // The follower waits meanwhile. Where it has not been, it will find what is stored by then.
            let done: Option<i64> = sqlx::query_scalar(
                "SELECT done_to FROM followers WHERE name = $1 AND shard = $2 AND log = $3 FOR UPDATE",
            )
            .bind(follower)
            .bind(shard)
            .bind(log)
            .fetch_optional(&mut *transaction)
            .await?;
            if done.is_none_or(|done| done < offset) {
                return Ok(());
            }
            let mut span = String::new();
            if let [kind, ..] = SPAN_KINDS
                && let [length, ..] = SPANS
            {
                quote(&marked(kind, hit.time_us >> length), &mut span);
            }
            sqlx::query(
                r#"DELETE FROM search WHERE log_time = $1 AND shard = $2 AND log = $3 AND "offset" = $4
                       AND words @@ $5::tsquery"#,
            )
            .bind(number(hit.time_us))
            .bind(shard)
            .bind(log)
            .bind(offset)
            .bind(span)
            .execute(&mut *transaction)
            .await?;
            if let Some(document) = document {
                insert(&mut transaction, shard, log, std::slice::from_ref(document)).await?;
            }
            transaction.commit().await?;
            Ok(())
        })
        .await
    }
}

async fn insert(
    connection: &mut PgConnection,
    shard: i32,
    log: i64,
    documents: &[Document],
) -> Result<(), StoreError> {
    if documents.is_empty() {
        return Ok(());
    }
    let times: Vec<i64> = documents
        .iter()
        .map(|document| number(document.time_us))
        .collect();
    let offsets: Vec<i64> = documents
        .iter()
        .map(|document| number(document.offset.get()))
        .collect();
    let words: Vec<String> = documents.iter().map(vector).collect();
    let channels: Vec<i64> = documents
        .iter()
        .map(|document| channel_hash(&document.channel))
        .collect();
    sqlx::query(
        r#"INSERT INTO search (log_time, shard, log, "offset", words, channel_hash)
           SELECT time, $1, $2, place, forms::tsvector, channel
           FROM UNNEST($3::bigint[], $4::bigint[], $5::text[], $6::bigint[]) AS given (time, place, forms, channel)"#,
    )
    .bind(shard)
    .bind(log)
    .bind(times)
    .bind(offsets)
    .bind(words)
    .bind(channels)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::analyser::Analyser;
    use crate::search::language::Language;
    use crate::search::query::Query;
    use crate::search::text::Fields;

    #[test]
    fn questions_in_the_index_s_words() {
        let analyser = Analyser::new(&[Language::English], Fields::default());
        let query = Query::parse("\"big dogs\" OR cat run* -\"x y\"", &analyser, None).unwrap();
        let find = Find {
            query: &query,
            channels: None,
            sender: None,
            from_us: 0,
            to_us: 1,
            before: Mark::END,
            most: 1,
            effort: 1,
        };
        let asked = Asked::new(&find);
        assert_eq!(asked.plain, "((('big')&('dogs'|'dog'))|(('cat')))");
        assert_eq!(asked.full, "((('big')&('dogs'|'dog'))|(('cat')))&((('run':*)))");
        assert_eq!(
            asked.exact,
            "((('big')<->('dogs'|'dog'))|(('cat')))&((('run':*)))&!((('x')<->('y')))"
        );
    }
}
