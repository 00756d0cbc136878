//! Edits, deletions, reactions and replies, folded into what is stored, in the transaction that stores them.
//!
//! A row of `messages` is kept as it is to be shown: with its newest edit's payload, and without any once it is deleted. The
//! tables of `0004_changes.sql` tell the rest. What each change does is said in [`switchboard_bus::fold`].
//!
//! What must hold, each with a test in the conformance suite:
//! * Each record is folded once, in the transaction that makes it part of the progress, so that a replay counts nothing twice.
//! * The order in which records come does not matter: a hole may be filled when what follows it is long folded.
//! * A batch without a change costs a look at each message, and no statement.
//!
//! Who derives something else from rows (the search index, the archive) reads the changes as rows, in the order of the log,
//! like all others: a row with `change` says that its target's row is another one now. [`ChangeStore::message`] gives that.

pub(super) mod sql;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::fold::{self, Does, MessageId, Target};
use switchboard_proto::bus::Message;
use switchboard_proto::ids::{Offset, Sequence};

use super::{Hole, Page, Place, Progress, Row, StoreError, Stored, Written, log_number, number};

/// Reactions that are told of one message, at most; those of most users first.
pub use switchboard_bus::fold::MAX_REACTIONS;

/// Users that are named for one reaction, at most; the first first.
pub const MAX_USERS: usize = 20;

/// Messages of one question about folds, at most.
pub const MAX_FOLDS: usize = 10_000;

/// Rows of an inbox that are looked through for the entry that a change is about, at most.
pub(super) const MAX_COPIES: i64 = 10_000;

/// How long before its record's time a message may say that it was made, or behind it, to be found at once; it is looked for
/// everywhere then.
const SKEW_US: u64 = 24 * 60 * 60 * 1_000_000;

/// Likewise for an inbox entry, which is not looked for everywhere.
const COPY_SKEW_US: u64 = 10 * 60 * 1_000_000;

/// What became of messages.
#[async_trait]
pub trait ChangeStore: Send + Sync + 'static {
    /// The message of `channel` at `place`, as it is to be shown. `made_us`: when it was made, where that is known; it is found
    /// sooner then.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn message(
        &self,
        channel: &str,
        place: Place,
        made_us: Option<u64>,
    ) -> Result<Option<Stored>, StoreError>;

    /// What became of the messages of `channel` at these places, [`MAX_FOLDS`] at most; those to which nothing happened are left
    /// out.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMany`].
    async fn folds(&self, channel: &str, places: &[Place]) -> Result<HashMap<Place, Fold>, StoreError>;

    /// Messages of the thread that the message of `channel` at `root` began, behind `after`, oldest first: `limit` at most,
    /// and about `bytes` of them.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn thread(
        &self,
        channel: &str,
        root: Place,
        after: Option<Place>,
        limit: usize,
        bytes: usize,
    ) -> Result<Page, StoreError>;
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fold {
    /// When it was edited last, in Unix microseconds. `None`: never, or it is deleted.
    pub edited_us: Option<u64>,
    /// How often it was edited.
    pub edits: u64,
    /// When it was deleted.
    pub deleted_us: Option<u64>,
    /// Who feels what about it; none once it is deleted. [`MAX_REACTIONS`] at most, those of most users first.
    pub reactions: Vec<Reaction>,
    /// Messages of its thread, deleted ones among them.
    pub replies: u64,
    /// When the newest of these came.
    pub replied_us: Option<u64>,
}

/// A reaction to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaction {
    /// What it is.
    pub reaction: String,
    /// Of how many users.
    pub count: u64,
    /// Who, the first first; [`MAX_USERS`] at most.
    pub users: Vec<String>,
}

/// A change at its place, and when it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) place: Place,
    pub(super) time_us: u64,
}

/// A row of `folds`: grows together from changes in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    /// The edit that holds: the latest.
    pub(super) edit: Option<At>,
    pub(super) edits: u64,
    /// The first deletion.
    pub(super) delete: Option<At>,
    /// The newest reply.
    pub(super) reply: Option<At>,
    pub(super) replies: u64,
}

impl State {
    pub(super) fn told(&self) -> Fold {
        let edit = self.edit.filter(|_| self.delete.is_none());
        Fold {
            edited_us: edit.map(|edit| edit.time_us),
            edits: edit.map_or(0, |_| self.edits),
            deleted_us: self.delete.map(|delete| delete.time_us),
            reactions: Vec::new(),
            replies: self.replies,
            replied_us: self.reply.map(|reply| reply.time_us),
        }
    }
}

/// A message that is or may be changed: its channel and place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) channel: String,
    pub(super) place: Place,
}

/// The whole key of a row of `messages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowKey {
    pub(super) time_us: u64,
    pub(super) shard: i32,
    pub(super) place: Place,
}

/// A row of `messages` that may be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) key: RowKey,
    pub(super) message: Bytes,
}

/// `kind` of a row of `changes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Edit = 1,
    Reply = 2,
}

impl Kind {
    pub(super) fn number(self) -> i16 {
        self as i16
    }
}

/// The spans of time in which a message is looked for, one after the other.
pub(super) fn around(made_us: Option<u64>) -> impl Iterator<Item = (u64, u64)> {
    let near = made_us.map(|made| (made.saturating_sub(SKEW_US), made.saturating_add(SKEW_US)));
    near.into_iter().chain([(0, u64::MAX)])
}

/// Places as rows of SQL.
pub(super) fn values(places: &[Place]) -> String {
    let mut values = String::new();
    for place in places {
        let comma = if values.is_empty() { "" } else { ", " };
        let (log, offset) = (log_number(place.log), number(place.offset.get()));
        // Into a string it does not fail.
        write!(values, "{comma}({log}, {offset})").ok();
    }
    values
}

/// Who feels what.
pub(super) struct Feeling<'a> {
    pub(super) reaction: &'a str,
    pub(super) user: &'a str,
    pub(super) since: Place,
    pub(super) present: bool,
}

/// What folding does inside a backend's transaction.
#[async_trait]
pub(super) trait Folding: Send {
    async fn state(&mut self, key: &Key) -> Result<Option<State>, StoreError>;
    async fn put_state(&mut self, key: &Key, state: &State) -> Result<(), StoreError>;
    /// The row at a place; see [`ChangeStore::message`].
    async fn find(&mut self, key: &Key, made_us: Option<u64>) -> Result<Option<Found>, StoreError>;
    /// Rows of `channel` before `before`, from about `since_us` on, oldest first, [`MAX_COPIES`] at most.
    async fn entries(
        &mut self,
        channel: &str,
        since_us: u64,
        before: Place,
    ) -> Result<Vec<Found>, StoreError>;
    async fn replace(&mut self, row: RowKey, message: &[u8]) -> Result<(), StoreError>;
    async fn add(&mut self, target: &Key, kind: Kind, row: RowKey) -> Result<(), StoreError>;
    /// The edits of a message that are stored.
    async fn edits(&mut self, target: &Key) -> Result<Vec<Found>, StoreError>;
    /// Of two feelings of one user the later in the log holds.
    async fn feel(&mut self, target: &Key, feeling: &Feeling<'_>) -> Result<(), StoreError>;
    /// Nobody's feelings about it are kept.
    async fn forget_feelings(&mut self, target: &Key) -> Result<(), StoreError>;
}

/// A row of the batch that changes something.
struct Event {
    row: RowKey,
    message: Message,
}

impl Event {
    fn at(&self) -> At {
        At {
            place: self.row.place,
            time_us: self.row.time_us,
        }
    }

    fn place(&self) -> Place {
        self.row.place
    }
}

/// Folds what `written` brings. `progress` and `holes` are from before it; its rows are in `messages` already.
pub(super) async fn fold(
    store: &mut impl Folding,
    written: &Written,
    progress: Progress,
    holes: &[Hole],
) -> Result<(), StoreError> {
    let is_new = |row: &Row| is_new(row.offset.sequence(), progress, holes);
    let mut targets: BTreeMap<Key, Vec<Event>> = BTreeMap::new();
    for row in written.rows.iter().filter(|row| fold::is_foldable(&row.message)) {
        if !is_new(row) {
            continue;
        }
        let Ok(message) = Message::decode(row.message.clone()) else {
            continue;
        };
        let event = Event {
            row: key_of(written, row),
            message,
        };
        if let Some(place) = target(store, &event).await? {
            let channel = row.channel.clone();
            targets.entry(Key { channel, place }).or_default().push(event);
        }
    }
    for (key, events) in targets {
        fold_into(store, &key, &events).await?;
    }
    for row in &written.rows {
        // It fills a hole: what is behind it was folded already.
        if row.offset.sequence() <= progress.read_to && is_new(row) {
            fold_late(store, &row.channel, key_of(written, row)).await?;
        }
    }
    Ok(())
}

/// Does to a row that is stored again what became of its message since, and does its own deletion again. So deletions win, in whichever
/// order rows come back.
pub(super) async fn fold_again(
    store: &mut impl Folding,
    channel: &str,
    row: RowKey,
    message: &Bytes,
) -> Result<(), StoreError> {
    fold_late(store, channel, row).await?;
    if !fold::is_foldable(message) {
        return Ok(());
    }
    let Ok(message) = Message::decode(message.clone()) else {
        return Ok(());
    };
    let is_edit = match fold::effect(&message, row.place.log) {
        Some((_, Does::Edit)) => true,
        Some((_, Does::Delete)) => false,
        Some((_, Does::React { .. })) | None => return Ok(()),
    };
    let event = Event { row, message };
    let Some(place) = target(store, &event).await? else {
        return Ok(());
    };
    let key = Key {
        channel: channel.to_owned(),
        place,
    };
    if !is_edit {
        return fold_into(store, &key, &[event]).await;
    }
    let is_deleted = store
        .state(&key)
        .await?
        .is_some_and(|state| state.delete.is_some());
    if is_deleted
        && let Some(edit) = store
            .find(
                &Key {
                    place: row.place,
                    ..key
                },
                Some(row.time_us),
            )
            .await?
    {
        blank(store, &edit).await?;
    }
    Ok(())
}

/// Whether a record was not folded yet: it is behind what was read, or was a hole.
fn is_new(sequence: Sequence, progress: Progress, holes: &[Hole]) -> bool {
    sequence > progress.read_to
        || holes
            .iter()
            .any(|hole| (hole.first..=hole.last).contains(&sequence))
}

fn key_of(written: &Written, row: &Row) -> RowKey {
    RowKey {
        time_us: row.time_us,
        shard: i32::from(written.shard.get()),
        place: Place {
            log: written.log,
            offset: row.offset,
        },
    }
}

/// Which message the event is about.
async fn target(store: &mut impl Folding, event: &Event) -> Result<Option<Place>, StoreError> {
    let (message, log) = (&event.message, event.place().log);
    let named = match fold::effect(message, log) {
        Some((target, _)) => Some(target),
        None => fold::thread(message, log),
    };
    let place = |log, offset: Offset| Place { log, offset };
    Ok(match named {
        None => None,
        Some(Target::Here(offset)) => Some(place(log, offset)),
        Some(Target::Elsewhere(log, offset)) => Some(place(log, offset)),
        Some(Target::Copy(id)) => copy_of(store, id, event).await?,
    })
}

/// The inbox entry that was derived from a message.
async fn copy_of(
    store: &mut impl Folding,
    id: MessageId,
    event: &Event,
) -> Result<Option<Place>, StoreError> {
    let made_us = target_id(&event.message).and_then(fold::made_us);
    let since_us = made_us.map_or(0, |made| made.saturating_sub(COPY_SKEW_US));
    let entries = store
        .entries(&event.message.channel, since_us, event.place())
        .await?;
    let copy = entries.iter().find(|entry| {
        Message::decode(entry.message.clone()).is_ok_and(|message| {
            MessageId::new(&message.id) == Some(id) && message.origin == event.message.origin
        })
    });
    Ok(copy.map(|copy| copy.key.place))
}

fn target_id(message: &Message) -> Option<&[u8]> {
    fold::about(message).map(|at| at.id.as_ref())
}

/// Folds these changes of one message, in the order of the log.
async fn fold_into(store: &mut impl Folding, key: &Key, events: &[Event]) -> Result<(), StoreError> {
    let mut state = store.state(key).await?.unwrap_or_default();
    let before = state;
    for event in events {
        let at = Some(event.at());
        match fold::effect(&event.message, event.place().log) {
            Some((_, Does::Edit)) => {
                state.edits += 1;
                state.edit = state.edit.max(at);
                store.add(key, Kind::Edit, event.row).await?;
            }
            Some((_, Does::Delete)) => {
                state.delete = Some(state.delete.map_or(event.at(), |first| first.min(event.at())));
            }
            Some((_, Does::React { reaction, remove })) => {
                let user = event
                    .message
                    .sender
                    .as_ref()
                    .map_or("", |sender| sender.user.as_str());
                if state.delete.is_none() && !user.is_empty() {
                    let feeling = Feeling {
                        reaction,
                        user,
                        since: event.place(),
                        present: !remove,
                    };
                    store.feel(key, &feeling).await?;
                }
            }
            None => {
                state.replies += 1;
                state.reply = state.reply.max(at);
                store.add(key, Kind::Reply, event.row).await?;
            }
        }
    }
    if state != before {
        store.put_state(key, &state).await?;
    }
    // Where a change is of another message than it is about, it says so itself.
    let made_us = events
        .iter()
        .find_map(|event| fold::made_us(target_id(&event.message)?));
    if state.delete.is_some() {
        if before.delete.is_none() {
            store.forget_feelings(key).await?;
        }
        if state.edits != before.edits || before.delete.is_none() {
            for edit in store.edits(key).await? {
                blank(store, &edit).await?;
            }
        }
        if before.delete.is_none()
            && let Some(row) = store.find(key, made_us).await?
        {
            blank(store, &row).await?;
        }
        return Ok(());
    }
    let holds = events
        .iter()
        .rfind(|event| state.edit != before.edit && Some(event.at()) == state.edit);
    if let Some(edit) = holds
        && let Some(row) = store.find(key, made_us).await?
    {
        let message = fold::edited_bytes(&row.message, &edit.message, edit.place().offset);
        store.replace(row.key, &message).await?;
    }
    Ok(())
}

/// A row came when changes of it may be folded already.
async fn fold_late(store: &mut impl Folding, channel: &str, row: RowKey) -> Result<(), StoreError> {
    let key = Key {
        channel: channel.to_owned(),
        place: row.place,
    };
    let Some(state) = store.state(&key).await? else {
        return Ok(());
    };
    let Some(found) = store.find(&key, Some(row.time_us)).await? else {
        return Ok(());
    };
    if state.delete.is_some() {
        return blank(store, &found).await;
    }
    let Some(edit) = state.edit else { return Ok(()) };
    let edits = store.edits(&key).await?;
    let Some(holds) = edits.iter().find(|found| found.key.place == edit.place) else {
        return Ok(());
    };
    if let Ok(message) = Message::decode(holds.message.clone()) {
        let message = fold::edited_bytes(&found.message, &message, edit.place.offset);
        store.replace(found.key, &message).await?;
    }
    Ok(())
}

async fn blank(store: &mut impl Folding, row: &Found) -> Result<(), StoreError> {
    store.replace(row.key, &fold::deleted_bytes(&row.message)).await
}

/// Reactions of one message out of rows in the order of (reaction, first user first), each with the count of all users.
pub(super) fn reactions(rows: impl IntoIterator<Item = (String, String, u64)>) -> Vec<Reaction> {
    let mut reactions: Vec<Reaction> = Vec::new();
    for (reaction, user, count) in rows {
        match reactions.last_mut() {
            Some(last) if last.reaction == reaction => last.users.push(user),
            Some(_) | None => reactions.push(Reaction {
                reaction,
                count,
                users: vec![user],
            }),
        }
    }
    reactions.sort_by(|one, other| (other.count, &one.reaction).cmp(&(one.count, &other.reaction)));
    reactions.truncate(MAX_REACTIONS);
    reactions
}
