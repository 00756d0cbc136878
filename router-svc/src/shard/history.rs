//! What was said in a channel: answers `history` from the window, and from the log what is older.
//!
//! Apart from the links and from the owner's turn: a question names what its asker knows, and an answer is a
//! page, so nothing depends on their order. The window's part is taken at once; the log behind it does not
//! change any more, so it is read beside everything else, by a task of its own.
//!
//! What must hold, each with a test:
//! * A page has no hole: between its first and its last message there is none of the channel that is kept.
//! * What its asker was told of is in it, or it is not answered (R6).
//! * What is hidden is in no page, and of what was deleted no content.
//! * Reading is bounded by bytes. A page that would take more ends before that, and where it would be empty then, it
//!   is refused: an empty page says that there is nothing.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use switchboard_bus::{Log, RecordAt};
use switchboard_proto::bus::{Delivered, HistoryAnswer, HistoryOutcome, HistoryQuestion};
use switchboard_proto::ids::{LogEpoch, Offset, Sequence, ShardId};

use super::deleted::Deleted;
use super::records::{Body, Reading};
use super::window::Window;

/// Records in the first step of a reading towards older ones; each further step takes twice as many.
const FIRST_STEP: u64 = 64;
const LARGEST_STEP: u64 = 4096;

/// A question as the owner takes it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    channel: String,
    reverse: bool,
    /// Forward: behind this. Reverse: before this.
    bound: Offset,
    /// Messages up to here are not shown.
    hidden: Offset,
    limit: usize,
    bytes: usize,
    /// Only the message at the offset behind `bound`.
    exact: bool,
}

/// An answer, or what is left to do for it.
pub(crate) enum Begun {
    Answered(HistoryAnswer),
    /// The log has to be read.
    NeedsLog(Unfinished),
}

/// A question whose older part is in the log.
pub(crate) struct Unfinished {
    asked: Asked,
    /// The last record that has to be read: where the window begins, or one before it.
    to: Sequence,
    /// What the window has, in the order that was asked for.
    from_window: Vec<(Offset, Bytes)>,
    answer: HistoryAnswer,
    deleted: Arc<Deleted>,
}

/// Why the log's part cannot be had.
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
}

impl From<switchboard_bus::LogError> for Unread {
    fn from(error: switchboard_bus::LogError) -> Self {
        Self::Log(error.to_string())
    }
}

/// A page in the making, in the order that was asked for.
struct Page {
    messages: Vec<Delivered>,
    bytes: usize,
    limit: usize,
    bytes_limit: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.messages.len() >= self.limit || self.bytes >= self.bytes_limit
    }

    fn push(&mut self, offset: Offset, message: Bytes) {
        self.bytes += message.len();
        self.messages.push(Delivered {
            offset: offset.get(),
            message,
        });
    }
}

/// Begins to answer, with what the owner holds at `position`. Messages up to `hidden` are not shown.
pub(crate) fn begin(
    question: HistoryQuestion,
    window: &Window,
    hidden: Offset,
    deleted: &Arc<Deleted>,
    log: LogEpoch,
    position: Offset,
) -> Begun {
    let mut answer = HistoryAnswer {
        outcome: HistoryOutcome::Complete.into(),
        log_epoch: log.to_string(),
        head: window.head(&question.channel).get(),
        messages: Vec::new(),
    };
    if Offset::from_u64(question.at_least) > position {
        answer.outcome = HistoryOutcome::Unavailable.into();
        return Begun::Answered(answer);
    }
    let bound = if question.reverse {
        Offset::from_u64(question.since.unwrap_or(u64::MAX))
    } else {
        Offset::from_u64(question.since.unwrap_or(0)).max(hidden)
    };
    let asked = Asked {
        bound,
        hidden,
        channel: question.channel,
        reverse: question.reverse,
        limit: usize::try_from(question.limit).unwrap_or(usize::MAX),
        bytes: usize::try_from(question.bytes).unwrap_or(usize::MAX),
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
            .take_while(|(offset, _)| *offset > asked.hidden)
            .take(asked.limit)
            .map(|(offset, message)| (offset, message.clone()))
            .collect();
        unfinished.from_window = newest;
        let page = unfinished.fill(page);
        if page.is_full() || start <= unfinished.asked.hidden {
            unfinished.answer.messages = page.messages;
            return Begun::Answered(unfinished.answer);
        }
        // Behind the bound, and behind the channel's newest message, nothing has to be read.
        let newest = window.head(&unfinished.asked.channel);
        let last = unfinished.asked.bound.min(newest).sequence();
        unfinished.to = unfinished.to.min(last);
    } else {
        let messages = window.of_channel(&asked.channel, asked.bound.max(start));
        unfinished.from_window = messages
            .take(asked.limit)
            .map(|(offset, message)| (offset, message.clone()))
            .collect();
        // Nothing of the channel is older, or nothing older is asked for.
        if asked.bound >= start {
            unfinished.answer.messages = unfinished.fill(page).messages;
            return Begun::Answered(unfinished.answer);
        }
    }
    Begun::NeedsLog(unfinished)
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
    if behind > window.start() || behind > position || behind <= asked.hidden {
        return Begun::Answered(answer);
    }
    Begun::NeedsLog(Unfinished {
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
            messages: Vec::new(),
            bytes: 0,
            limit: self.limit,
            bytes_limit: self.bytes.max(1),
        }
    }
}

impl Unfinished {
    /// Adds what the window has.
    fn fill(&self, mut page: Page) -> Page {
        for (offset, message) in &self.from_window {
            if page.is_full() {
                break;
            }
            page.push(*offset, message.clone());
        }
        page
    }

    /// Reads the log's part, at most about `allowed` bytes of it, and answers.
    ///
    /// Cancel safe.
    pub(crate) async fn finish(mut self, log: &dyn Log, shard: ShardId, allowed: usize) -> HistoryAnswer {
        let read = if self.asked.exact {
            self.read_one(log, shard).await
        } else if self.asked.reverse {
            self.read_backward(log, shard, allowed).await
        } else {
            self.read_forward(log, shard, allowed).await
        };
        match read {
            Ok(page) => self.answer.messages = page.messages,
            // Counted; any client may ask for it, as often as it likes.
            Err(error @ (Unread::TooFar(_) | Unread::Purged)) => {
                tracing::debug!(%shard, %error, "history refused");
                self.answer.outcome = HistoryOutcome::TooFar.into();
            }
            Err(error @ Unread::Log(_)) => {
                tracing::warn!(%shard, %error, "history not answered");
                self.answer.outcome = HistoryOutcome::Unavailable.into();
            }
        }
        self.answer
    }

    /// What is purged cannot be told of.
    async fn read_one(&self, log: &dyn Log, shard: ShardId) -> Result<Page, Unread> {
        let mut page = self.asked.page();
        let sequence = self.to;
        let Some(record) = log.get(shard, sequence).await? else {
            return Err(Unread::Purged);
        };
        // Whether a later fence makes it void is for who reads it in order; nobody was told of one that is.
        let messages = self.of_record(&mut Reading::default(), &RecordAt { sequence, record });
        let behind = Offset::from_u64(self.asked.bound.get().saturating_add(1));
        for (offset, message) in messages {
            if offset == behind {
                page.push(offset, message);
            }
        }
        Ok(page)
    }

    async fn read_forward(&self, log: &dyn Log, shard: ShardId, allowed: usize) -> Result<Page, Unread> {
        let mut page = self.asked.page();
        let mut left = Allowance::new(allowed);
        let from = Sequence(self.asked.bound.sequence().0.max(1));
        let mut reading = Reading::default();
        let info = log.info(shard).await?;
        // The last record may be another's already, but this one is in the log.
        if from <= self.to && info.first <= self.to {
            let mut records = log.read(shard, from).await?;
            while let Some(at) = records.next().await {
                let at = at?;
                if at.sequence > self.to {
                    break;
                }
                match left.take(at.record.len()) {
                    Ok(()) => {}
                    Err(error) if page.messages.is_empty() => return Err(error),
                    // The window's part does not follow.
                    Err(_) => return Ok(page),
                }
                for (offset, message) in self.of_record(&mut reading, &at) {
                    if offset > self.asked.bound && !page.is_full() {
                        page.push(offset, message);
                    }
                }
                if page.is_full() || at.sequence == self.to {
                    break;
                }
            }
        }
        Ok(self.fill(page))
    }

    async fn read_backward(&self, log: &dyn Log, shard: ShardId, allowed: usize) -> Result<Page, Unread> {
        let mut page = self.fill(self.asked.page());
        let mut left = Allowance::new(allowed);
        let kept = log.info(shard).await?.first.max(Sequence(1));
        let first = kept.max(self.asked.hidden.sequence());
        let mut to = self.to;
        let mut step = FIRST_STEP;
        while to >= first && !page.is_full() {
            let from = Sequence(to.0.saturating_sub(step - 1)).max(first);
            let found = match self.read_step(log, shard, from, to, &mut left).await {
                Ok(found) => found,
                // What is left out is older than all that is there.
                Err(Unread::TooFar(_)) if !page.messages.is_empty() => break,
                Err(error) => return Err(error),
            };
            for (offset, message) in found.into_iter().rev() {
                if !page.is_full() {
                    page.push(offset, message);
                }
            }
            if from == first {
                break;
            }
            to = Sequence(from.0 - 1);
            step = (step * 2).min(LARGEST_STEP);
        }
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
    ) -> Result<Vec<(Offset, Bytes)>, Unread> {
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
                messages
                    .into_iter()
                    .filter(|(offset, _)| *offset < self.asked.bound && *offset > self.asked.hidden),
            );
            if at.sequence == to {
                break;
            }
        }
        Ok(found)
    }

    fn of_record(&self, reading: &mut Reading, at: &RecordAt) -> Vec<(Offset, Bytes)> {
        let Some(Body::Batch(entries)) = reading.record(at) else {
            return Vec::new();
        };
        entries
            .into_iter()
            .enumerate()
            .filter(|(_, entry)| entry.message.channel == self.asked.channel)
            .map(|(index, entry)| {
                let offset = Offset::new(at.sequence, index);
                (offset, self.deleted.shown(offset, entry.encoded))
            })
            .collect()
    }
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
