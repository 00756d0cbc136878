//! The index of search in SQLite: FTS5 over what the analyser made. Its tokenizer only parts it at spaces again.
//!
//! Row numbers are times, so FTS5 goes through matches in their order and stops where enough was found. Phrases are not in this
//! index: their words are, and whether they follow each other is seen in the messages.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

use super::follow::moved;
use super::keeping::still_said;
use super::{SqliteStore, insert_many};
use crate::search::query::{Clause, Item};
use crate::store::search::{
    Dialect, Document, Find, Hit, Hits, Loaded, MAX_HITS, Mark, SearchStore, any, channel_form, sender_form,
    words,
};
use crate::store::{Place, Step, StoreError, channel_hash, columns, log_number, number};

/// Messages of one millisecond have so many row numbers.
pub(super) const SHIFT: u32 = 20;

/// Times beyond do not fit; no clock says such.
const LAST_MS: u64 = 1 << 42;

struct Fts5;

impl Dialect for Fts5 {
    const AND: &'static str = " AND ";
    const OR: &'static str = " OR ";

    fn form(&self, form: &str, prefix: bool, into: &mut String) {
        into.push('"');
        // Forms hold none; what does not parse would be a fault, not a danger.
        into.extend(form.chars().filter(|letter| *letter != '"'));
        into.push('"');
        if prefix {
            into.push('*');
        }
    }
}

fn clause(clause: &Clause, into: &mut String) {
    any(&Fts5, &clause.any, into, |dialect, item: &Item, into| {
        words(dialect, item, Fts5::AND, into)
    });
}

fn expression(find: &Find<'_>) -> String {
    let mut text = String::from("(");
    for (number, wanted) in find.query.wanted().enumerate() {
        if number > 0 {
            text.push_str(Fts5::AND);
        }
        clause(wanted, &mut text);
    }
    if let Some(channels) = find.channels {
        text.push_str(Fts5::AND);
        any(&Fts5, channels, &mut text, |dialect, channel, into| {
            dialect.form(&channel_form(channel), false, into);
        });
    }
    if let Some(sender) = find.sender {
        text.push_str(Fts5::AND);
        Fts5.form(&sender_form(sender), false, &mut text);
    }
    text.push(')');
    for excluded in &find.query.clauses {
        // The words of a phrase may be there, if not as the phrase.
        if excluded.negated && excluded.any.iter().all(|item| item.words.len() == 1) {
            text.push_str(" NOT ");
            clause(excluded, &mut text);
        }
    }
    text
}

pub(super) fn first_of(time_us: u64) -> i64 {
    number((time_us / 1000).min(LAST_MS) << SHIFT)
}

/// A row number for each document, free and of its time.
async fn free(connection: &mut SqliteConnection, documents: &[Document]) -> Result<Vec<i64>, StoreError> {
    let firsts: BTreeSet<i64> = documents
        .iter()
        .map(|document| first_of(document.time_us))
        .collect();
    let firsts = serde_json::to_string(&firsts).map_err(|error| StoreError::Damaged(error.to_string()))?;
    let taken = sqlx::query(
        "SELECT value, (SELECT max(id) FROM search_places WHERE id >= value AND id < value + ?) FROM json_each(?)",
    )
    .bind(1_i64 << SHIFT)
    .bind(firsts)
    .fetch_all(connection)
    .await?;
    let mut next = HashMap::with_capacity(taken.len());
    for row in &taken {
        let (first, last): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
        // A million messages of one millisecond run into the next one.
        next.insert(first, last.map_or(first, |last| last + 1));
    }
    let mut take = |document: &Document| {
        let first = first_of(document.time_us);
        let next = next.entry(first).or_insert(first);
        *next += 1;
        *next - 1
    };
    Ok(documents.iter().map(&mut take).collect())
}

/// All that is found by: its forms, its channel, its sender.
fn found_by(document: &Document) -> String {
    let mut text = String::new();
    for (form, _) in &document.forms {
        text.push_str(form);
        text.push(' ');
    }
    text.push_str(&channel_form(&document.channel));
    if let Some(sender) = &document.sender {
        text.push(' ');
        text.push_str(&sender_form(sender));
    }
    text
}

async fn insert(
    connection: &mut SqliteConnection,
    shard: i32,
    log: i64,
    documents: &[Document],
) -> Result<(), StoreError> {
    if documents.is_empty() {
        return Ok(());
    }
    let ids = free(connection, documents).await?;
    let rows: Vec<(i64, &Document)> = ids.into_iter().zip(documents).collect();
    let places = r#"search_places (id, log_time, shard, log, "offset")"#;
    insert_many(connection, (places, 5, ""), &rows, |query, (id, document)| {
        query
            .bind(id)
            .bind(number(document.time_us))
            .bind(shard)
            .bind(log)
            .bind(number(document.offset.get()))
    })
    .await?;
    insert_many(
        connection,
        ("search (rowid, words)", 2, ""),
        &rows,
        |query, (id, document)| query.bind(id).bind(found_by(document)),
    )
    .await
}

/// `id`, `log_time`, `shard`, `log`, `offset`.
fn hit(row: &SqliteRow) -> Result<Hit, StoreError> {
    columns::hit(
        Mark([row.try_get(0)?, 0, 0, 0]),
        row.try_get(1)?,
        row.try_get(2)?,
        (row.try_get(3)?, row.try_get(4)?),
    )
}

#[async_trait]
impl SearchStore for SqliteStore {
    async fn index(&self, settings: &str, step: &Step, documents: &[Document]) -> Result<bool, StoreError> {
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        let is_own = sqlx::query("SELECT 1 FROM search_settings WHERE settings = ?")
            .bind(settings)
            .fetch_optional(&mut *transaction)
            .await?;
        if is_own.is_none() {
            return Err(StoreError::OtherIndex);
        }
        if !moved(&mut transaction, step).await? {
            return Ok(false);
        }
        let (shard, log) = (i32::from(step.shard.get()), log_number(step.log));
        let documents = still_said(&mut transaction, (shard, log), documents).await?;
        insert(&mut transaction, shard, log, &documents).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn prepare_index(&self, follower: &str, settings: &str) -> Result<bool, StoreError> {
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        let known: Option<String> = sqlx::query_scalar("SELECT settings FROM search_settings")
            .fetch_optional(&mut *transaction)
            .await?;
        if known.as_deref() == Some(settings) {
            return Ok(false);
        }
        for statement in [
            "INSERT INTO search (search) VALUES ('delete-all')",
            "DELETE FROM search_places",
            "DELETE FROM search_settings",
        ] {
            sqlx::query(statement).execute(&mut *transaction).await?;
        }
        sqlx::query("DELETE FROM followers WHERE name = ?")
            .bind(follower)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("INSERT INTO search_settings (id, settings) VALUES (1, ?)")
            .bind(settings)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn find(&self, find: &Find<'_>) -> Result<Hits, StoreError> {
        let most = find.most.min(MAX_HITS);
        let Mark([before, rest @ ..]) = find.before;
        // A place just behind a row still has the row before it.
        let before = before.saturating_add(i64::from(rest != [0; 3]));
        let below = before.min(first_of(find.to_us.saturating_add(999)));
        // Inside the first and the last millisecond the message's own time tells.
        let rows = sqlx::query(
            r#"SELECT id, log_time, shard, log, "offset"
               FROM (SELECT rowid AS found FROM search WHERE search MATCH ? AND rowid >= ? AND rowid < ? ORDER BY rowid DESC)
               JOIN search_places ON id = found
               WHERE log_time >= ? AND log_time < ? ORDER BY found DESC LIMIT ?"#,
        )
        .bind(expression(find))
        .bind(first_of(find.from_us))
        .bind(below)
        .bind(number(find.from_us))
        .bind(number(find.to_us))
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_all(&self.database.readers)
        .await?;
        let hits: Vec<Hit> = rows.iter().map(hit).collect::<Result<_, StoreError>>()?;
        let looked_to = match hits.last() {
            Some(last) if hits.len() == most => last.mark,
            _ => Mark::START,
        };
        Ok(Hits {
            effort: hits.len(),
            hits,
            looked_to,
        })
    }

    async fn load(&self, hits: &[Hit]) -> Result<Vec<Loaded>, StoreError> {
        let mut found = Vec::with_capacity(hits.len());
        let mut connection = self.database.readers.acquire().await?;
        for hit in hits {
            let row = sqlx::query(
                r#"SELECT channel, sender, message FROM messages
                   WHERE log_time = ? AND shard = ? AND log = ? AND "offset" = ?
                       AND NOT EXISTS (SELECT 1 FROM hidden WHERE hidden.channel = messages.channel
                           AND (hidden.log, hidden."offset") >= (messages.log, messages."offset"))"#,
            )
            .bind(number(hit.time_us))
            .bind(i32::from(hit.shard.get()))
            .bind(log_number(hit.place.log))
            .bind(number(hit.place.offset.get()))
            .fetch_optional(&mut *connection)
            .await?;
            if let Some(row) = row {
                found.push(columns::loaded(&row, 0, *hit)?);
            }
        }
        Ok(found)
    }

    async fn stored_at(&self, channel: &str, place: Place) -> Result<Option<Loaded>, StoreError> {
        let row = sqlx::query(
            r#"SELECT COALESCE((SELECT id FROM search_places WHERE id >= (log_time / 1000) << 20 AND log_time = messages.log_time
                       AND shard = messages.shard AND log = messages.log AND "offset" = messages."offset"
                       AND id < (messages.log_time / 1000 + 2) << 20), 0),
                   log_time, shard, log, "offset", channel, sender, message
               FROM messages WHERE channel_hash = ? AND log = ? AND "offset" = ? AND channel = ? LIMIT 1"#,
        )
        .bind(channel_hash(channel))
        .bind(log_number(place.log))
        .bind(number(place.offset.get()))
        .bind(channel)
        .fetch_optional(&self.database.readers)
        .await?;
        row.as_ref()
            .map(|row| columns::loaded(row, 5, hit(row)?))
            .transpose()
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
        let mut transaction = self.database.writer.begin_with("BEGIN IMMEDIATE").await?;
        let done: Option<i64> =
            sqlx::query_scalar("SELECT done_to FROM followers WHERE name = ? AND shard = ? AND log = ?")
                .bind(follower)
                .bind(shard)
                .bind(log)
                .fetch_optional(&mut *transaction)
                .await?;
        if done.is_none_or(|done| done < offset) {
            return Ok(());
        }
        let first = first_of(hit.time_us);
        let id: Option<i64> = sqlx::query_scalar(
            r#"SELECT id FROM search_places WHERE id >= ? AND id < ? AND shard = ? AND log = ? AND "offset" = ?"#,
        )
        .bind(first)
        .bind(first.saturating_add(2 << SHIFT))
        .bind(shard)
        .bind(log)
        .bind(offset)
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(id) = id {
            for statement in [
                "DELETE FROM search WHERE rowid = ?",
                "DELETE FROM search_places WHERE id = ?",
            ] {
                sqlx::query(statement).bind(id).execute(&mut *transaction).await?;
            }
        }
        if let Some(document) = document {
            insert(&mut transaction, shard, log, std::slice::from_ref(document)).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
