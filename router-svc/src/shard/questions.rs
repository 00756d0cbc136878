//! What did I miss? Answers recoveries from the window, and older ones from the message store or the log, many with one
//! reading (R5, R6, R7). No I/O and no clock.
//!
//! Where messages are stored, the store is asked first: it finds a channel's messages without reading all others, and has
//! what is purged from the log. What it has not yet is read from the log, behind where it ends; and all of it, as far as the log has
//! it, while the store does not answer.
//!
//! Invariants, tested in `owner/tests`:
//! * An answer is complete up to where it says, in order, or says that it is not.
//! * Something is lost only where neither the log nor the store has it. What the store may have and does not tell is
//!   unavailable.
//! * However many ask at once, the log is read once at a time, from the oldest that is asked for.

use std::sync::Arc;

use bytes::Bytes;
use switchboard_bus::RecordAt;
use switchboard_proto::bus::{Delivered, Recovered, RecoveredOutcome};
use switchboard_proto::ids::{Incarnation, Offset, Sequence};

use super::askings::{Ask, AskId, Askings, Told};
use super::deleted::Deleted;
use super::hidden::Hidden;
use super::memory::Removed;
use super::records::{Body, Reading};
use super::stored::{Found, Reach, StoredPage, Worth};
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

/// A question that waits for the log.
struct Waiting {
    question: Question,
    /// What lies up to here is in the page.
    from: Offset,
    page: Page,
}

/// A reading of the log, from the oldest offset that is asked for to the window.
struct Scan {
    reading: Reading,
    next: Sequence,
    to: Sequence,
    asked: HashMap<Arc<str>, Vec<Waiting>>,
}

/// Turns of [`Questions::tick`] for which a store that did not answer is asked only what nobody else knows.
const REST: u8 = 4;

/// See the module.
pub(crate) struct Questions {
    limits: PageLimits,
    /// `None`: nothing is stored.
    store: Option<Askings>,
    /// How long the store still rests.
    rests: u8,
    /// For the next reading.
    waiting: Vec<Waiting>,
    scan: Option<Scan>,
    scans: u64,
}

/// What an answer is made of.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) removed: &'a Removed,
    pub(crate) hidden: &'a Hidden,
    pub(crate) deleted: &'a Deleted,
    pub(crate) position: Offset,
}

impl Questions {
    /// `has_store`: messages are stored, and the store may be asked.
    pub(crate) fn new(limits: PageLimits, has_store: bool) -> Self {
        Self {
            limits,
            store: has_store.then(Askings::default),
            rests: 0,
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
        let is_in_log = removed.up_to(&question.channel) <= after;
        match &mut self.store {
            Some(store) if self.rests == 0 || !is_in_log => store.push(question),
            Some(_) => self.wait(question),
            None => {
                if let Some(answer) = lost(&question, after, removed)
                    .or_else(|| below_floor(&question, after, deleted, window, false))
                {
                    return Some((question, answer));
                }
                self.wait(question);
            }
        }
        None
    }

    fn wait(&mut self, question: Question) {
        self.waiting.push(Waiting {
            from: question.after,
            page: Page::new(self.limits),
            question,
        });
    }

    /// Time goes by.
    pub(crate) fn tick(&mut self) {
        self.rests = self.rests.saturating_sub(1);
    }

    /// What the store has to be asked now; to be called until there is nothing.
    pub(crate) fn asks(&mut self, is_asked: impl Fn(&Question) -> bool) -> Option<(AskId, Ask)> {
        self.store.as_mut()?.next(is_asked)
    }

    /// What the store says to something that [`Questions::asks`] gave.
    pub(crate) fn told(
        &mut self,
        id: AskId,
        told: Told,
        window: &mut Window,
        known: Known<'_>,
    ) -> Vec<Answered> {
        let questions = self.store.as_mut().map(|store| store.answered(id));
        let mut answers = Vec::new();
        if matches!(told, Told::Nothing) {
            self.rests = REST;
        }
        for question in questions.into_iter().flatten() {
            let hidden_up_to = known.hidden.up_to(&question.channel);
            if hidden_up_to > question.after {
                let answer = without(&question, RecoveredOutcome::Lost, hidden_up_to);
                answers.push((question, answer));
                continue;
            }
            let answer = match &told {
                Told::Nothing => self.without_store(question, known.removed),
                Told::Heads(stored) => {
                    let newest = stored.heads.get(&*question.channel);
                    let newest = newest.copied().unwrap_or_default();
                    self.head_told(question, newest, &stored.reach, window, known)
                }
                Told::Page(stored) => self.page_told(question, stored, window, known),
            };
            answers.extend(answer);
        }
        answers
    }

    /// The store does not answer: the log does, as far as it has all of it.
    fn without_store(&mut self, question: Question, removed: &Removed) -> Option<Answered> {
        if removed.up_to(&question.channel) > question.after {
            let answer = without(&question, RecoveredOutcome::Unavailable, Offset::ZERO);
            return Some((question, answer));
        }
        self.wait(question);
        None
    }

    /// `newest` is the channel's newest message up to where the store is.
    fn head_told(
        &mut self,
        question: Question,
        newest: Offset,
        reach: &Reach,
        window: &mut Window,
        known: Known<'_>,
    ) -> Option<Answered> {
        if newest > question.after {
            self.store.as_mut()?.push_page(question);
            return None;
        }
        let nothing = StoredPage {
            reach: reach.clone(),
            ..StoredPage::default()
        };
        self.page_told(question, &nothing, window, known)
    }

    fn page_told(
        &mut self,
        question: Question,
        stored: &StoredPage,
        window: &mut Window,
        known: Known<'_>,
    ) -> Option<Answered> {
        let after = question.after;
        let removed = known.removed.up_to(&question.channel);
        if stored.removed_to > after {
            let up_to = stored.removed_to.min(known.position);
            let answer = without(&question, RecoveredOutcome::Lost, up_to);
            return Some((question, answer));
        }
        match stored.reach.worth(after, removed) {
            Worth::Whole => {}
            Worth::Behind => return self.without_store(question, known.removed),
            Worth::Lost => {
                let answer = without(&question, RecoveredOutcome::Lost, removed);
                return Some((question, answer));
            }
            Worth::Unknown => {
                let answer = without(&question, RecoveredOutcome::Unavailable, Offset::ZERO);
                return Some((question, answer));
            }
        }
        let read_to = stored.reach.read_to;
        if read_to < known.deleted.floor() {
            // It may have read what was deleted, and not the deletion.
            let answer = without(&question, RecoveredOutcome::Unavailable, Offset::ZERO);
            return Some((question, answer));
        }
        let mut page = Page::new(self.limits);
        // A record of ours may be stored before we hear that it is in the log.
        let has = |found: &&Found| found.offset > after && found.offset <= known.position;
        let messages: Vec<&Found> = stored.messages.iter().filter(has).collect();
        let is_cut = messages.len() < stored.messages.len();
        for found in messages {
            if page.is_full() {
                break;
            }
            page.push(found.offset, &found.message);
        }
        page.cover(known.deleted);
        if page.is_full() || (stored.more && !is_cut && !page.messages.is_empty()) {
            let answer = page.with_more(&question);
            return Some((question, answer));
        }
        let from = read_to.min(known.position);
        if from < window.start() {
            self.waiting.push(Waiting { question, from, page });
            return None;
        }
        // Who asks again is answered at once.
        window.learn(&question.channel, page.newest().max(after));
        let answer = page.finish(&question, from, window, known.position);
        Some((question, answer))
    }

    /// Messages of `channel` up to `up_to` are hidden from now on, also from who waits for them.
    pub(crate) fn hide(&mut self, channel: &str, up_to: Offset) -> Vec<Answered> {
        let is_lost = |question: &Question| &*question.channel == channel && question.after < up_to;
        // Who waits for the store is told with its answer.
        let mut lost: Vec<Waiting> = self
            .waiting
            .extract_if(.., |waiting| is_lost(&waiting.question))
            .collect();
        if let Some(scan) = &mut self.scan
            && let Some(asked) = scan.asked.get_mut(channel)
        {
            lost.extend(asked.extract_if(.., |waiting| is_lost(&waiting.question)));
            if asked.is_empty() {
                scan.asked.remove(channel);
            }
        }
        let answered = lost.into_iter().map(|Waiting { question, .. }| {
            let answer = without(&question, RecoveredOutcome::Lost, up_to);
            (question, answer)
        });
        answered.collect()
    }

    /// Questions that wait for the store or the log, for metrics.
    pub(crate) fn len(&self) -> usize {
        let asking = self.store.as_ref().map_or(0, Askings::len);
        let scanned = self.scan.as_ref().map_or(0, |scan| scan.asked.len());
        self.waiting.len() + asking + scanned
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
            self.waiting.retain(|waiting| is_asked(&waiting.question));
            let oldest = self.waiting.iter().map(|waiting| waiting.from).min()?;
            let mut asked: HashMap<Arc<str>, Vec<Waiting>> = HashMap::default();
            for waiting in self.waiting.drain(..) {
                let channel = Arc::clone(&waiting.question.channel);
                asked.entry(channel).or_default().push(waiting);
            }
            self.scans += 1;
            self.scan = Some(Scan {
                reading: Reading::default(),
                next: behind(oldest),
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
        let has_store = self.store.is_some();
        let mut answers = Vec::new();
        let Ok(records) = page else {
            for Waiting { question, .. } in scan.asked.into_values().flatten() {
                let answer = without(&question, RecoveredOutcome::Unavailable, Offset::ZERO);
                answers.push((question, answer));
            }
            return answers;
        };
        if records.first().is_none_or(|first| first.sequence > scan.next) {
            let gone = scan.purged_meanwhile(removed);
            match &mut self.store {
                // Nothing is purged that is not stored.
                Some(store) => gone
                    .into_iter()
                    .for_each(|(question, _)| store.push_page(question)),
                None => answers.extend(gone),
            }
        }
        for at in records {
            scan.next = at.sequence.next();
            scan.record(at, deleted, has_store, &mut answers);
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
            for Waiting {
                question,
                from,
                mut page,
            } in scan.asked.into_values().flatten()
            {
                if let Some(answer) = below_floor(&question, from, deleted, window, has_store) {
                    answers.push((question, answer));
                    continue;
                }
                page.cover(deleted);
                // Who asks again, because that took too long, is answered at once.
                window.learn(&question.channel, page.newest().max(question.after));
                let answer = page.finish(&question, window.start().max(from), window, position);
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

/// The first record in which something behind `offset` may stand.
fn behind(offset: Offset) -> Sequence {
    Offset::from_u64(offset.get().saturating_add(1))
        .sequence()
        .max(Sequence(1))
}

/// The answer where what the log has behind `from` is not shown. `has_store`: the store shows it, once it is asked and
/// has read the deletions.
fn below_floor(
    question: &Question,
    from: Offset,
    deleted: &Deleted,
    window: &Window,
    has_store: bool,
) -> Option<Recovered> {
    let up_to = deleted.floor().min(window.start());
    if up_to <= from {
        return None;
    }
    Some(match has_store {
        true => without(question, RecoveredOutcome::Unavailable, Offset::ZERO),
        false => without(question, RecoveredOutcome::Lost, up_to),
    })
}

impl Scan {
    /// The log begins behind what was to be read next: who lost something by that does not wait any more, and would be told so.
    fn purged_meanwhile(&mut self, removed: &Removed) -> Vec<Answered> {
        let mut gone = Vec::new();
        for asked in self.asked.values_mut() {
            for waiting in std::mem::take(asked) {
                let had = waiting.page.newest().max(waiting.from);
                match lost(&waiting.question, had, removed) {
                    Some(answer) => gone.push((waiting.question, answer)),
                    None => asked.push(waiting),
                }
            }
        }
        self.asked.retain(|_, asked| !asked.is_empty());
        gone
    }

    fn record(&mut self, at: &RecordAt, deleted: &Deleted, has_store: bool, answers: &mut Vec<Answered>) {
        let Some(Body::Batch(entries)) = self.reading.record(at) else {
            return;
        };
        for (index, entry) in entries.iter().enumerate() {
            let Some(asked) = self.asked.get_mut(entry.message.channel.as_str()) else {
                continue;
            };
            let offset = Offset::new(at.sequence, index);
            let mut full = false;
            for waiting in asked.iter_mut() {
                if offset > waiting.from && !waiting.page.is_full() {
                    waiting.page.push(offset, &entry.encoded);
                    full |= waiting.page.is_full();
                }
            }
            if full {
                for mut waiting in asked.extract_if(.., |waiting| waiting.page.is_full()) {
                    waiting.page.cover(deleted);
                    let question = &waiting.question;
                    let floor = deleted.floor();
                    let answer = if floor <= waiting.from {
                        waiting.page.with_more(question)
                    } else if has_store {
                        without(question, RecoveredOutcome::Unavailable, Offset::ZERO)
                    } else {
                        without(question, RecoveredOutcome::Lost, floor)
                    };
                    answers.push((waiting.question, answer));
                }
                if asked.is_empty() {
                    self.asked.remove(entry.message.channel.as_str());
                }
            }
        }
    }
}
