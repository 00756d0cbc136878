//! Which recoveries the message store is asked about: equal ones once, and where many come at once the heads of their channels
//! first, so that a herd of quiet channels costs a few queries. No I/O and no clock.
//!
//! Invariants, tested in `owner/tests/store.rs`:
//! * Whoever asks is given back with an answer, or with the store's failure.
//! * So many answers are waited for at a time at most.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use switchboard_proto::ids::Offset;

use super::questions::Question;
use super::stored::{MAX_HEADS, StoredHeads, StoredPage};
use crate::maps::HashMap;

/// Pages that are waited for at a time: the store is everybody's.
const PAGES: usize = 8;

/// Channels that are asked for page by page at once; of more, the heads are asked for first.
const FEW: usize = 4;

/// What the store has to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The newest messages of these channels.
    Heads(Vec<Arc<str>>),
    /// The first page of this channel behind this offset.
    Page(Arc<str>, Offset),
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    Heads(StoredHeads),
    Page(StoredPage),
    /// The store did not answer.
    Nothing,
}

/// Names what was asked until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct AskId(u64);

/// A channel, and where who asks left off.
type Key = (Arc<str>, Offset);

/// See the module.
#[derive(Default)]
pub(crate) struct Askings {
    /// Not asked about yet.
    new: Vec<Question>,
    /// Their channels have something behind where they left off, or there are few: by what they ask, and in the order in which
    /// they came. Stays until it is answered.
    pages: HashMap<Key, Vec<Question>>,
    order: VecDeque<Key>,
    heads: HashMap<AskId, Vec<Question>>,
    asked: HashMap<AskId, Key>,
    last: u64,
}

impl Askings {
    pub(crate) fn push(&mut self, question: Question) {
        self.new.push(question);
    }

    /// The channel's page has to be asked for.
    pub(crate) fn push_page(&mut self, question: Question) {
        let key = (Arc::clone(&question.channel), question.after);
        match self.pages.entry(key) {
            Entry::Occupied(mut asking) => asking.get_mut().push(question),
            Entry::Vacant(place) => {
                self.order.push_back(place.key().clone());
                place.insert(vec![question]);
            }
        }
    }

    /// Questions that wait.
    pub(crate) fn len(&self) -> usize {
        let lists = self.pages.values().chain(self.heads.values());
        self.new.len() + lists.map(Vec::len).sum::<usize>()
    }

    /// What has to be asked next, if anything may be. `is_asked` tells whether anybody still waits for an answer.
    pub(crate) fn next(&mut self, is_asked: impl Fn(&Question) -> bool) -> Option<(AskId, Ask)> {
        self.new.retain(&is_asked);
        if self.new.len() > FEW {
            if self.heads.is_empty() {
                return Some(self.next_heads());
            }
        } else {
            for question in std::mem::take(&mut self.new) {
                self.push_page(question);
            }
        }
        while self.asked.len() < PAGES {
            let key = self.order.pop_front()?;
            let Entry::Occupied(mut asking) = self.pages.entry(key.clone()) else {
                continue;
            };
            asking.get_mut().retain(&is_asked);
            if asking.get().is_empty() {
                asking.remove();
                continue;
            }
            let id = self.id();
            let (channel, after) = key.clone();
            self.asked.insert(id, key);
            return Some((id, Ask::Page(channel, after)));
        }
        None
    }

    fn next_heads(&mut self) -> (AskId, Ask) {
        let mut channels: HashMap<Arc<str>, ()> = HashMap::default();
        let (now, later) = std::mem::take(&mut self.new)
            .into_iter()
            .partition(|question: &Question| {
                let has_room = channels.len() < MAX_HEADS || channels.contains_key(&question.channel);
                if has_room {
                    channels.insert(Arc::clone(&question.channel), ());
                }
                has_room
            });
        self.new = later;
        let id = self.id();
        self.heads.insert(id, now);
        (id, Ask::Heads(channels.into_keys().collect()))
    }

    fn id(&mut self) -> AskId {
        self.last += 1;
        AskId(self.last)
    }

    /// Who is concerned by an answer.
    pub(crate) fn answered(&mut self, id: AskId) -> Vec<Question> {
        if let Some(questions) = self.heads.remove(&id) {
            return questions;
        }
        let key = self.asked.remove(&id);
        key.and_then(|key| self.pages.remove(&key)).unwrap_or_default()
    }
}
