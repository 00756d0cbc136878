//! What was said in a channel: answers `history` from the window, and from the message store and the log what is older.
//!
//! Apart from the links and from the owner's turn: a question names what its asker knows, and an answer is a
//! page, so nothing depends on their order. The window's part is taken at once; what is behind it does not
//! change any more, so it is read beside everything else, by a task of its own.
//!
//! Where messages are stored, the store is asked what is older than the window. What it has not yet is read from the log between
//! where it ends and where the window begins (R6). Without its answer, the log alone is read as far as it has all of it.
//!
//! What must hold, each with a test:
//! * A page has no hole: between its first and its last message there is none of the channel that is kept.
//! * What its asker was told of is in it, or it is not answered (R6).
//! * What is hidden is in no page, and of what was deleted no content.
//! * Reading is bounded by bytes. A page that would take more ends before that, and where it would be empty then, it
//!   is refused: an empty page says that there is nothing.
//! * Nor does it end, or begin, in silence where the store may have more and does not tell.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use switchboard_bus::messages::AskError;
use switchboard_bus::{Log, RecordAt};
use switchboard_proto::bus::{Delivered, HistoryAnswer, HistoryOutcome, HistoryQuestion};
use switchboard_proto::ids::{LogEpoch, Offset, Sequence, ShardId};
use tokio::sync::Semaphore;

use super::deleted::Deleted;
use super::records::{Body, Reading};
use super::stored::{Found, PageOf, Store, StoredPage};
use super::window::Window;

/// Records in the first step of a reading towards older ones; each further step takes twice as many.
const FIRST_STEP: u64 = 64;
const LARGEST_STEP: u64 = 4096;

/// What an owner knows of a channel's messages that are not there any more.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Marks {
    /// Messages up to here are not shown.
    pub(crate) hidden: Offset,
    /// No message behind this was ever removed from the log.
    pub(crate) removed: Offset,
    /// Of what was deleted up to here not all is known any more: it is not shown out of the log, nor out of a store that
    /// has not read as far.
    pub(crate) floor: Offset,
}

/// A question as the owner takes it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    channel: String,
    reverse: bool,
    /// Forward: behind this. Reverse: before this.
    bound: Offset,
    marks: Marks,
    since_us: Option<u64>,
    limit: usize,
    bytes: usize,
    times: bool,
    /// Only the message at the offset behind `bound`.
    exact: bool,
}

/// An answer, or what is left to do for it.
pub(crate) enum Begun {
    Answered(HistoryAnswer),
    /// What is older than the window has to be read.
    NeedsMore(Unfinished),
}

/// A question whose older part is not in the window.
pub(crate) struct Unfinished {
    asked: Asked,
    /// Where the window begins: what is behind is in it.
    start: Offset,
    /// The last record that has to be read: where the window begins, or one before it.
    to: Sequence,
    /// What the window has, in the order that was asked for.
    from_window: Vec<Found>,
    answer: HistoryAnswer,
    deleted: Arc<Deleted>,
}

/// What an unfinished answer is read from.
pub(crate) struct Sources<'a> {
    pub(crate) log: &'a dyn Log,
    pub(crate) shard: ShardId,
    /// `None`: nothing is stored.
    pub(crate) store: Option<&'a dyn Store>,
    /// Bytes of the log that may be read.
    pub(crate) allowed: usize,
    /// Of those that read the log at a time. It is never closed.
    pub(crate) places: &'a Semaphore,
}

/// Why the older part cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// The reading is over its bytes.
    #[error("more than {0} bytes of the log would have to be read")]
    TooFar(usize),
    /// The record that is asked for is gone.
    #[error("the record is not in the log any more")]
    Purged,
    /// The log does not answer.
    #[error("log not read: {0}")]
    Log(String),
    /// The store does not answer, and the log has not all of it.
    #[error("the message store does not answer, and the log was purged")]
    Store,
}

impl From<switchboard_bus::LogError> for Unread {
    fn from(error: switchboard_bus::LogError) -> Self {
        Self::Log(error.to_string())
    }
}

/// A page in the making, in the order that was asked for.
#[derive(Default)]
struct Page {
    messages: Vec<Delivered>,
    times_us: Vec<u64>,
    bytes: usize,
    limit: usize,
    bytes_limit: usize,
    /// There is nothing more in the direction that was asked for.
    ended: bool,
}

impl Page {
    fn is_full(&self) -> bool {
        self.messages.len() >= self.limit || self.bytes >= self.bytes_limit
    }

    fn push(&mut self, found: Found) {
        self.bytes += found.message.len();
        self.times_us.push(found.time_us);
        self.messages.push(Delivered {
            offset: found.offset.get(),
            message: found.message,
        });
    }

    /// Takes what there is room for; whether that was all.
    fn fill(&mut self, found: impl IntoIterator<Item = Found>) -> bool {
        for found in found {
            if self.is_full() {
                return false;
            }
            self.push(found);
        }
        true
    }

    /// It ends here, for what follows cannot be had now.
    fn or(self, error: Unread) -> Result<Self, Unread> {
        if self.messages.is_empty() {
            Err(error)
        } else {
            Ok(self)
        }
    }

    fn answer(self, asked: &Asked, mut answer: HistoryAnswer) -> HistoryAnswer {
        answer.messages = self.messages;
        answer.ended = self.ended;
        if asked.times {
            answer.times_us = self.times_us;
        }
        answer
    }
}

/// Begins to answer, with what the owner holds at `position`.
pub(crate) fn begin(
    question: HistoryQuestion,
    window: &Window,
    marks: Marks,
    deleted: &Arc<Deleted>,
    log: LogEpoch,
    position: Offset,
) -> Begun {
    let mut answer = HistoryAnswer {
        outcome: HistoryOutcome::Complete.into(),
        log_epoch: log.to_string(),
        head: window.head(&question.channel).get(),
        ..HistoryAnswer::default()
    };
    if Offset::from_u64(question.at_least) > position {
        answer.outcome = HistoryOutcome::Unavailable.into();
        return Begun::Answered(answer);
    }
    let bound = if question.reverse {
        Offset::from_u64(question.since.unwrap_or(u64::MAX))
    } else {
        Offset::from_u64(question.since.unwrap_or(0)).max(marks.hidden)
    };
    let asked = Asked {
        bound,
        marks,
        channel: question.channel,
        reverse: question.reverse,
        since_us: question.since_us,
        limit: usize::try_from(question.limit).unwrap_or(usize::MAX),
        bytes: usize::try_from(question.bytes).unwrap_or(usize::MAX),
        times: question.times,
        exact: question.exact,
    };
    if asked.limit == 0 {
        return Begun::Answered(answer);
    }
    if asked.exact {
        return one(asked, window, deleted, answer, position);
    }
    let start = window.start();
    let page = asked.page();
    let mut unfinished = Unfinished {
        start,
        to: start.sequence(),
        from_window: Vec::new(),
        answer,
        deleted: Arc::clone(deleted),
        asked,
    };
    let asked = &unfinished.asked;
    if asked.reverse {
        // Not all of a busy channel for each question: this is the owner's turn.
        let newest = window
            .before(&asked.channel, asked.bound)
            .take_while(|(offset, _)| *offset > asked.marks.hidden)
            .map(|(offset, message)| asked.found(window, offset, message))
            .filter(|found| asked.is_since(found.time_us))
            .take(asked.limit);
        unfinished.from_window = newest.collect();
        let mut page = page;
        let whole = page.fill(unfinished.from_window.iter().cloned());
        if page.is_full() || start <= unfinished.asked.marks.hidden {
            page.ended = whole && !page.is_full();
            return Begun::Answered(page.answer(&unfinished.asked, unfinished.answer));
        }
        // Behind the bound, and behind the channel's newest message, nothing has to be read.
        let newest = window.head(&unfinished.asked.channel);
        let last = unfinished.asked.bound.min(newest).sequence();
        unfinished.to = unfinished.to.min(last);
    } else {
        let messages = window
            .of_channel(&asked.channel, asked.bound.max(start))
            .map(|(offset, message)| asked.found(window, offset, message))
            .filter(|found| asked.is_since(found.time_us))
            .take(asked.limit);
        unfinished.from_window = messages.collect();
        // Nothing of the channel is older, or nothing older is asked for.
        if asked.bound >= start {
            let mut page = page;
            let whole = page.fill(std::mem::take(&mut unfinished.from_window));
            page.ended = whole && !page.is_full();
            return Begun::Answered(page.answer(&unfinished.asked, unfinished.answer));
        }
    }
    Begun::NeedsMore(unfinished)
}

/// Begins to answer what stands at one place.
fn one(
    asked: Asked,
    window: &Window,
    deleted: &Arc<Deleted>,
    mut answer: HistoryAnswer,
    position: Offset,
) -> Begun {
    let behind = Offset::from_u64(asked.bound.get().saturating_add(1));
    let newer = window.of_channel(&asked.channel, asked.bound).next();
    if let Some((offset, message)) = newer.filter(|(offset, _)| *offset == behind) {
        answer.messages.push(Delivered {
            offset: offset.get(),
            message: message.clone(),
        });
        return Begun::Answered(answer);
    }
    if behind > window.start() || behind > position || behind <= asked.marks.hidden {
        return Begun::Answered(answer);
    }
    if behind <= asked.marks.floor {
        // The store may tell.
        answer.outcome = HistoryOutcome::TooFar.into();
        return Begun::Answered(answer);
    }
    Begun::NeedsMore(Unfinished {
        start: window.start(),
        to: behind.sequence(),
        from_window: Vec::new(),
        answer,
        deleted: Arc::clone(deleted),
        asked,
    })
}

impl Asked {
    fn page(&self) -> Page {
        Page {
            limit: self.limit,
            bytes_limit: self.bytes.max(1),
            ..Page::default()
        }
    }

    fn found(&self, window: &Window, offset: Offset, message: &Bytes) -> Found {
        let time_us = if self.times || self.since_us.is_some() {
            window.time_of(offset)
        } else {
            0
        };
        Found {
            offset,
            time_us,
            message: message.clone(),
        }
    }

    fn is_since(&self, time_us: u64) -> bool {
        self.since_us.is_none_or(|since| time_us >= since)
    }
}

impl Unfinished {
    /// Reads the older part and answers.
    ///
    /// Cancel safe.
    pub(crate) async fn finish(self, sources: Sources<'_>) -> HistoryAnswer {
        let read = if self.asked.exact {
            self.read_one(&sources).await
        } else if self.asked.reverse {
            self.read_backward(&sources).await
        } else {
            self.read_forward(&sources).await
        };
        let shard = sources.shard;
        let Self {
            asked, mut answer, ..
        } = self;
        match read {
            Ok(page) => return page.answer(&asked, answer),
            // Counted; any client may ask for it, as often as it likes.
            Err(error @ (Unread::TooFar(_) | Unread::Purged)) => {
                tracing::debug!(%shard, %error, "history refused");
                answer.outcome = HistoryOutcome::TooFar.into();
            }
            Err(error @ (Unread::Log(_) | Unread::Store)) => {
                tracing::warn!(%shard, %error, "history not answered");
                answer.outcome = HistoryOutcome::Unavailable.into();
            }
        }
        answer
    }

    /// What is purged cannot be told of.
    async fn read_one(&self, sources: &Sources<'_>) -> Result<Page, Unread> {
        let mut page = self.asked.page();
        let sequence = self.to;
        let _place = sources.places.acquire().await;
        let Some(record) = sources.log.get(sources.shard, sequence).await? else {
            return Err(Unread::Purged);
        };
        // Whether a later fence makes it void is for who reads it in order; nobody was told of one that is.
        let messages = self.of_record(&mut Reading::default(), &RecordAt { sequence, record });
        let behind = next(self.asked.bound);
        page.fill(messages.into_iter().filter(|found| found.offset == behind));
        Ok(page)
    }

    /// What the store has of what there is still room for in `page`. `None`: it does not answer, or there is none.
    async fn ask_store(&self, sources: &Sources<'_>, page: &Page) -> Option<StoredPage> {
        let asked = &self.asked;
        let question = PageOf {
            channel: asked.channel.as_str().into(),
            after: if asked.reverse {
                asked.marks.hidden
            } else {
                asked.bound
            },
            // What is in the window is not wanted from there.
            before: Some(if asked.reverse {
                asked.bound.min(next(self.start))
            } else {
                next(self.start)
            }),
            since_us: asked.since_us,
            reverse: asked.reverse,
            limit: page.limit - page.messages.len(),
            bytes: page.bytes_limit - page.bytes,
        };
        match sources.store?.page(&question).await {
            Ok(mut stored) => {
                let floor = asked.marks.floor;
                if stored.reach.read_to < floor {
                    stored.messages.retain(|found| found.offset > floor);
                }
                // What was deleted since the store read on.
                for found in &mut stored.messages {
                    found.message = self
                        .deleted
                        .shown(found.offset, std::mem::take(&mut found.message));
                }
                Some(stored)
            }
            Err(error @ AskError::Unavailable(_)) => {
                tracing::debug!(shard = %sources.shard, %error, "store does not answer, its log is read");
                None
            }
            Err(error) => {
                tracing::warn!(shard = %sources.shard, %error, "store does not answer, its log is read");
                None
            }
        }
    }

    async fn read_forward(&self, sources: &Sources<'_>) -> Result<Page, Unread> {
        let mut page = self.asked.page();
        // Up to here everything is in the page.
        let mut from = self.asked.bound;
        if let Some(stored) = self.ask_store(sources, &page).await {
            let more = stored.more;
            if !page.fill(stored.messages) || page.is_full() || (more && !page.messages.is_empty()) {
                return Ok(page);
            }
            from = from
                .max(stored.reach.read_to.min(self.start))
                .max(stored.removed_to);
        }
        from = from.max(self.asked.marks.floor.min(self.start));
        if from < self.start {
            if sources.store.is_some() && self.asked.marks.removed > from {
                return page.or(Unread::Store);
            }
            if !self.read_on(sources, from, &mut page).await? {
                return Ok(page);
            }
        }
        let whole = page.fill(self.from_window.iter().cloned());
        page.ended = whole && !page.is_full();
        Ok(page)
    }

    /// Reads the log from `from` to the window; whether the window follows.
    async fn read_on(&self, sources: &Sources<'_>, from: Offset, page: &mut Page) -> Result<bool, Unread> {
        let (log, shard) = (sources.log, sources.shard);
        let _place = sources.places.acquire().await;
        let mut left = Allowance::new(sources.allowed);
        let first = next(from).sequence().max(Sequence(1));
        let mut reading = Reading::default();
        // The last record may be another's already, but this one is in the log.
        if log.info(shard).await?.first > self.to {
            return Ok(true);
        }
        let mut records = log.read(shard, first).await?;
        while let Some(at) = records.next().await {
            let at = at?;
            if at.sequence > self.to {
                break;
            }
            match left.take(at.record.len()) {
                Ok(()) => {}
                Err(error) if page.messages.is_empty() => return Err(error),
                // The window's part does not follow.
                Err(_) => return Ok(false),
            }
            let messages = self.of_record(&mut reading, &at).into_iter();
            page.fill(messages.filter(|found| found.offset > from));
            if page.is_full() || at.sequence == self.to {
                break;
            }
        }
        Ok(true)
    }

    async fn read_backward(&self, sources: &Sources<'_>) -> Result<Page, Unread> {
        let (log, shard) = (sources.log, sources.shard);
        let mut page = self.asked.page();
        page.fill(self.from_window.iter().cloned());
        // What lies up to here need not be read from the log.
        let mut floor = self.asked.marks.hidden;
        let stored = self.ask_store(sources, &page).await;
        if let Some(stored) = &stored {
            floor = floor.max(stored.reach.read_to).max(stored.removed_to);
        }
        floor = floor.max(self.asked.marks.floor.min(self.start));
        let mut left = Allowance::new(sources.allowed);
        let wanted = next(floor).sequence().max(Sequence(1));
        let mut to = self.to;
        if to >= wanted {
            let _place = sources.places.acquire().await;
            let kept = log.info(shard).await?.first.max(Sequence(1));
            let first = kept.max(wanted);
            let mut step = FIRST_STEP;
            while to >= first && !page.is_full() {
                let from = Sequence(to.0.saturating_sub(step - 1)).max(first);
                let found = match self.read_step(log, shard, from, to, &mut left).await {
                    Ok(found) => found,
                    // What is left out is older than all that is there.
                    Err(error @ Unread::TooFar(_)) => return page.or(error),
                    Err(error) => return Err(error),
                };
                page.fill(found.into_iter().rev().filter(|found| found.offset > floor));
                if from == first {
                    break;
                }
                to = Sequence(from.0 - 1);
                step = (step * 2).min(LARGEST_STEP);
            }
            // The log was purged before what the store has, or may have.
            if sources.store.is_some() && kept > wanted && self.asked.marks.removed > floor && !page.is_full()
            {
                return page.or(Unread::Store);
            }
        } else if sources.store.is_some() && stored.is_none() && self.asked.marks.removed > floor {
            return page.or(Unread::Store);
        }
        let (older, more) = stored.map_or((Vec::new(), false), |stored| (stored.messages, stored.more));
        let whole = page.fill(older);
        page.ended = whole && !more && !page.is_full();
        Ok(page)
    }

    /// The channel's messages from record `from` to `to` that lie before the bound, oldest first.
    async fn read_step(
        &self,
        log: &dyn Log,
        shard: ShardId,
        from: Sequence,
        to: Sequence,
        left: &mut Allowance,
    ) -> Result<Vec<Found>, Unread> {
        let mut found = Vec::new();
        let mut reading = Reading::default();
        let mut records = log.read(shard, from).await?;
        while let Some(at) = records.next().await {
            let at = at?;
            // Purged meanwhile, up to behind this step.
            if at.sequence > to {
                break;
            }
            left.take(at.record.len())?;
            let messages = self.of_record(&mut reading, &at);
            found.extend(
                messages.into_iter().filter(|found| {
                    found.offset < self.asked.bound && found.offset > self.asked.marks.hidden
                }),
            );
            if at.sequence == to {
                break;
            }
        }
        Ok(found)
    }

    fn of_record(&self, reading: &mut Reading, at: &RecordAt) -> Vec<Found> {
        let Some(Body::Batch(entries)) = reading.record(at) else {
            return Vec::new();
        };
        let time_us = reading.head.time_us;
        if !self.asked.is_since(time_us) {
            return Vec::new();
        }
        entries
            .into_iter()
            .enumerate()
            .filter(|(_, entry)| entry.message.channel == self.asked.channel)
            .map(|(index, entry)| Found {
                offset: Offset::new(at.sequence, index),
                time_us,
                message: self.deleted.shown(Offset::new(at.sequence, index), entry.encoded),
            })
            .collect()
    }
}

/// The place behind `offset`.
fn next(offset: Offset) -> Offset {
    Offset::from_u64(offset.get().saturating_add(1))
}

/// Bytes of records that a reading may still take.
struct Allowance {
    all: usize,
    left: usize,
}

impl Allowance {
    fn new(all: usize) -> Self {
        Self { all, left: all }
    }

    fn take(&mut self, bytes: usize) -> Result<(), Unread> {
        self.left = self.left.checked_sub(bytes).ok_or(Unread::TooFar(self.all))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
