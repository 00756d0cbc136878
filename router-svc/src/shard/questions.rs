//! What did I miss? Answers recoveries from the window, and older ones from the log, many with one
//! reading (R5, R6, R7). No I/O and no clock.
//!
//! Invariants, tested in `owner/tests`:
//! * An answer is complete up to where it says, in order, or says that it is not.
//! * However many ask at once, the log is read once at a time, from the oldest that is asked for.

use std::sync::Arc;

use bytes::Bytes;
use switchboard_bus::RecordAt;
use switchboard_proto::bus::{Delivered, Recovered, RecoveredOutcome};
use switchboard_proto::ids::{Incarnation, Offset, Sequence};

use super::deleted::Deleted;
use super::hidden::Hidden;
use super::memory::Removed;
use super::records::{Body, Reading};
use super::window::Window;
use crate::maps::HashMap;
use crate::rules::{Rule, is_kept};

/// A page (R7): how much one answer holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageLimits {
    /// Bytes of messages, about.
    pub(crate) bytes: usize,
    pub(crate) messages: usize,
}

/// What one gateway wants to know of one channel.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) gateway: Incarnation,
    pub(crate) open: u64,
    pub(crate) number: u64,
    pub(crate) channel: Arc<str>,
    pub(crate) after: Offset,
}

/// A question with its answer.
pub(crate) type Answered = (Question, Recovered);

/// A page in the making.
struct Page {
    limits: PageLimits,
    messages: Vec<Delivered>,
    bytes: usize,
}

impl Page {
    fn new(limits: PageLimits) -> Self {
        Self {
            limits,
            messages: Vec::new(),
            bytes: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= self.limits.bytes || self.messages.len() >= self.limits.messages
    }

    fn push(&mut self, offset: Offset, message: &Bytes) {
        self.bytes += message.len();
        self.messages.push(Delivered {
            offset: offset.get(),
            message: message.clone(),
        });
    }

    /// The newest message in it.
    fn newest(&self) -> Offset {
        let newest = self.messages.last();
        newest.map_or(Offset::ZERO, |newest| Offset::from_u64(newest.offset))
    }

    /// What came out of the log is shown without what was deleted since.
    fn cover(&mut self, deleted: &Deleted) {
        for message in &mut self.messages {
            let encoded = std::mem::take(&mut message.message);
            message.message = deleted.shown(Offset::from_u64(message.offset), encoded);
        }
    }

    /// Adds what the window holds behind `after`, and makes the answer.
    fn finish(mut self, question: &Question, after: Offset, window: &Window, position: Offset) -> Recovered {
        for (offset, message) in window.of_channel(&question.channel, after) {
            if self.is_full() {
                return self.with_more(question);
            }
            self.push(offset, message);
        }
        Recovered {
            question: question.number,
            outcome: RecoveredOutcome::Complete.into(),
            up_to: position.get(),
            messages: self.messages,
            more: false,
        }
    }

    fn with_more(self, question: &Question) -> Recovered {
        let last = self.messages.last().map(|message| message.offset);
        Recovered {
            question: question.number,
            outcome: RecoveredOutcome::Complete.into(),
            up_to: last.unwrap_or_else(|| question.after.get()),
            messages: self.messages,
            more: true,
        }
    }
}

/// The answer where it cannot be complete: `up_to` is where the missing ends.
fn without(question: &Question, outcome: RecoveredOutcome, up_to: Offset) -> Recovered {
    Recovered {
        question: question.number,
        outcome: outcome.into(),
        up_to: up_to.get(),
        messages: Vec::new(),
        more: false,
    }
}

/// A reading of the log, from the oldest offset that is asked for to the window.
struct Scan {
    reading: Reading,
    next: Sequence,
    to: Sequence,
    asked: HashMap<Arc<str>, Vec<(Question, Page)>>,
}

/// See the module.
pub(crate) struct Questions {
    limits: PageLimits,
    /// For the next reading.
    waiting: Vec<Question>,
    scan: Option<Scan>,
    scans: u64,
}

impl Questions {
    pub(crate) fn new(limits: PageLimits) -> Self {
        Self {
            limits,
            waiting: Vec::new(),
            scan: None,
            scans: 0,
        }
    }

    /// Answers at once, or once the log was read.
    pub(crate) fn ask(
        &mut self,
        question: Question,
        window: &Window,
        removed: &Removed,
        hidden: &Hidden,
        deleted: &Deleted,
        position: Offset,
    ) -> Option<Answered> {
        let after = question.after;
        if after > position {
            // Nobody ever was told of such an offset by this log.
            let answer = without(&question, RecoveredOutcome::Lost, Offset::from_u64(u64::MAX));
            return Some((question, answer));
        }
        let hidden_up_to = hidden.up_to(&question.channel);
        if hidden_up_to > after {
            let answer = without(&question, RecoveredOutcome::Lost, hidden_up_to);
            return Some((question, answer));
        }
        if after >= window.start() || after >= window.head(&question.channel) {
            let answer = Page::new(self.limits).finish(&question, after, window, position);
            return Some((question, answer));
        }
        if let Some(answer) =
            lost(&question, after, removed).or_else(|| below_floor(&question, deleted, window))
        {
            return Some((question, answer));
        }
        self.waiting.push(question);
        None
    }

    /// Messages of `channel` up to `up_to` are hidden from now on, also from who waits for them.
    pub(crate) fn hide(&mut self, channel: &str, up_to: Offset) -> Vec<Answered> {
        let is_lost = |question: &Question| &*question.channel == channel && question.after < up_to;
        let mut lost: Vec<Question> = self
            .waiting
            .extract_if(.., |question| is_lost(question))
            .collect();
        if let Some(scan) = &mut self.scan
            && let Some(asked) = scan.asked.get_mut(channel)
        {
            lost.extend(
                asked
                    .extract_if(.., |(question, _)| is_lost(question))
                    .map(|(question, _)| question),
            );
            if asked.is_empty() {
                scan.asked.remove(channel);
            }
        }
        let answered = lost.into_iter().map(|question| {
            let answer = without(&question, RecoveredOutcome::Lost, up_to);
            (question, answer)
        });
        answered.collect()
    }

    /// Questions that wait for the log, for metrics.
    pub(crate) fn len(&self) -> usize {
        let scanned = self.scan.as_ref().map_or(0, |scan| scan.asked.len());
        self.waiting.len() + scanned
    }

    /// Readings that were begun, for metrics.
    pub(crate) fn scans(&self) -> u64 {
        self.scans
    }

    /// What has to be read now, both ends included. `is_asked` tells whether anybody still waits for an
    /// answer.
    pub(crate) fn wants(
        &mut self,
        window: &Window,
        is_asked: impl Fn(&Question) -> bool,
    ) -> Option<(Sequence, Sequence)> {
        if self.scan.is_none() {
            self.waiting.retain(&is_asked);
            let oldest = self.waiting.iter().map(|question| question.after).min()?;
            let mut asked: HashMap<Arc<str>, Vec<(Question, Page)>> = HashMap::default();
            for question in self.waiting.drain(..) {
                let channel = Arc::clone(&question.channel);
                asked
                    .entry(channel)
                    .or_default()
                    .push((question, Page::new(self.limits)));
            }
            self.scans += 1;
            self.scan = Some(Scan {
                reading: Reading::default(),
                next: Sequence(oldest.sequence().0.max(1)),
                to: window.start().sequence(),
                asked,
            });
        }
        let scan = self.scan.as_ref()?;
        Some((scan.next, scan.to))
    }

    /// A page of the log came, or could not be read.
    pub(crate) fn page(
        &mut self,
        page: Result<&[RecordAt], ()>,
        window: &mut Window,
        removed: &Removed,
        deleted: &Deleted,
        position: Offset,
    ) -> Vec<Answered> {
        let Some(mut scan) = self.scan.take() else {
            return Vec::new();
        };
        let mut answers = Vec::new();
        let Ok(records) = page else {
            for (question, _) in scan.asked.into_values().flatten() {
                let answer = without(&question, RecoveredOutcome::Unavailable, Offset::ZERO);
                answers.push((question, answer));
            }
            return answers;
        };
        if records.first().is_none_or(|first| first.sequence > scan.next) {
            scan.purged_meanwhile(removed, &mut answers);
        }
        for at in records {
            scan.next = at.sequence.next();
            scan.record(at, deleted, &mut answers);
        }
        if records.is_empty() {
            scan.next = scan.to.next();
        }
        if scan.next > scan.to {
            // The window's beginning may have moved on.
            scan.to = window.start().sequence();
        }
        if scan.asked.is_empty() {
            return answers;
        }
        if scan.next > scan.to {
            for (question, mut page) in scan.asked.into_values().flatten() {
                if let Some(answer) = below_floor(&question, deleted, window) {
                    answers.push((question, answer));
                    continue;
                }
                page.cover(deleted);
                // Who asks again, because that took too long, is answered at once.
                window.learn(&question.channel, page.newest().max(question.after));
                let answer = page.finish(&question, window.start().max(question.after), window, position);
                answers.push((question, answer));
            }
            return answers;
        }
        self.scan = Some(scan);
        answers
    }
}

/// The answer where something behind `after` was removed (R5).
fn lost(question: &Question, after: Offset, removed: &Removed) -> Option<Recovered> {
    let up_to = removed.up_to(&question.channel);
    (up_to > after && is_kept(Rule::R5)).then(|| without(question, RecoveredOutcome::Lost, up_to))
}

/// The answer where what lies behind the asker's offset is not shown out of the log.
fn below_floor(question: &Question, deleted: &Deleted, window: &Window) -> Option<Recovered> {
    let up_to = deleted.floor().min(window.start());
    (up_to > question.after).then(|| without(question, RecoveredOutcome::Lost, up_to))
}

impl Scan {
    /// The log begins behind what was to be read next.
    fn purged_meanwhile(&mut self, removed: &Removed, answers: &mut Vec<Answered>) {
        for asked in self.asked.values_mut() {
            for (question, page) in std::mem::take(asked) {
                let had = page
                    .messages
                    .last()
                    .map_or(question.after, |last| Offset::from_u64(last.offset));
                match lost(&question, had, removed) {
                    Some(answer) => answers.push((question, answer)),
                    None => asked.push((question, page)),
                }
            }
        }
        self.asked.retain(|_, asked| !asked.is_empty());
    }

    fn record(&mut self, at: &RecordAt, deleted: &Deleted, answers: &mut Vec<Answered>) {
        let Some(Body::Batch(entries)) = self.reading.record(at) else {
            return;
        };
        for (index, entry) in entries.iter().enumerate() {
            let Some(asked) = self.asked.get_mut(entry.message.channel.as_str()) else {
                continue;
            };
            let offset = Offset::new(at.sequence, index);
            let mut full = false;
            for (question, page) in asked.iter_mut() {
                if offset > question.after && !page.is_full() {
                    page.push(offset, &entry.encoded);
                    full |= page.is_full();
                }
            }
            if full {
                for (question, mut page) in asked.extract_if(.., |(_, page)| page.is_full()) {
                    page.cover(deleted);
                    let answer = match deleted.floor() {
                        floor if floor > question.after => without(&question, RecoveredOutcome::Lost, floor),
                        _ => page.with_more(&question),
                    };
                    answers.push((question, answer));
                }
                if asked.is_empty() {
                    self.asked.remove(entry.message.channel.as_str());
                }
            }
        }
    }
}
