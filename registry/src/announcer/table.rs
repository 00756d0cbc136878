//! What a gateway has to announce, and what of it was announced. No I/O and no clock inside.
//!
//! Sessions are entered and taken out at once, and users to whom something happened stand in a queue, each once. So
//! however long the store is away, and however often users come and go meanwhile, there is never more here than the
//! sessions that are connected, and as many that may be stored and ended since. Where still more end, those are
//! forgotten, and a lease has to begin under which all is told anew.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use uuid::Uuid;

use crate::by_client::ByClient;
use crate::registry::{Change, NewSession};

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    users: BTreeMap<Arc<str>, User>,
    /// Users to whom something happened, each once, in that order.
    queue: BTreeMap<u64, Arc<str>>,
    /// Where the next one stands in it.
    next: u64,
    capacity: usize,
    sessions: usize,
    stored: usize,
    ended: usize,
    /// What ended was more than can be kept.
    is_over: bool,
    /// Up to here, users were announced again.
    refreshed: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct User {
    sessions: ByClient<Entry>,
    /// Sessions that ended and may be stored.
    ended: BTreeSet<Uuid>,
    /// The store says that the user is at this gateway, or may.
    is_here: bool,
    /// Its place in the queue.
    queued: Option<u64>,
}

#[derive(Debug)]
struct Entry {
    session: NewSession,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Whether it may begin is being asked: it may be stored, and must not be announced.
    Asked,
    /// Not stored.
    Pending,
    /// On its way: it may be stored.
    Sent,
    /// Stored.
    Stored,
}

/// How much waits and how much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fill {
    /// Sessions that are stored.
    pub(super) stored: usize,
    /// Users to whom something happened that the store was not told.
    pub(super) waiting: usize,
}

/// No room for one more session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Table {
    /// Of so many sessions, at most.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            users: BTreeMap::new(),
            queue: BTreeMap::new(),
            next: 0,
            capacity,
            sessions: 0,
            stored: 0,
            ended: 0,
            is_over: false,
            refreshed: None,
        }
    }

    /// A session begins. `asked`: it is asked whether it may, and [`Table::admitted`] or [`Table::leave`] follows.
    pub(super) fn enter(&mut self, user: &Arc<str>, session: NewSession, asked: bool) -> Result<(), Full> {
        if self.sessions >= self.capacity {
            return Err(Full);
        }
        let state = if asked { State::Asked } else { State::Pending };
        let client = session.client;
        let entry = Entry { session, state };
        let known = self.users.entry(Arc::clone(user)).or_default();
        if known.sessions.insert(client, entry) {
            self.sessions += 1;
        }
        if !asked {
            self.enqueue(user);
        }
        Ok(())
    }

    /// It may begin. `stored`: and it is known to be stored, under the lease in force.
    pub(super) fn admitted(&mut self, user: &Arc<str>, client: Uuid, stored: bool) {
        let Some(known) = self.users.get_mut(user) else {
            return;
        };
        let Some(entry) = known.sessions.get_mut(client) else {
            return;
        };
        entry.state = if stored { State::Stored } else { State::Sent };
        self.stored += usize::from(stored);
        // That the user is here is told by the next announcement, in any case.
        if !stored || !known.is_here {
            self.enqueue(user);
        }
    }

    /// A session ended. `may_be_stored`: the store may know of it whatever this table says.
    pub(super) fn leave(&mut self, user: &Arc<str>, client: Uuid, may_be_stored: bool) {
        let Some(known) = self.users.get_mut(user) else {
            return;
        };
        let Some(entry) = known.sessions.remove(client) else {
            return;
        };
        self.sessions -= 1;
        self.stored -= usize::from(entry.state == State::Stored);
        if may_be_stored && entry.state != State::Pending && known.ended.insert(client) {
            self.ended += 1;
        }
        if known.is_done() {
            self.remove(user);
        } else {
            self.enqueue(user);
        }
        if self.ended > self.capacity {
            self.is_over = true;
            self.begin();
        }
    }

    fn enqueue(&mut self, user: &Arc<str>) {
        if let Some(known) = self.users.get_mut(user)
            && known.queued.is_none()
        {
            known.queued = Some(self.next);
            self.queue.insert(self.next, Arc::clone(user));
            self.next += 1;
        }
    }

    fn remove(&mut self, user: &str) {
        if let Some(User {
            queued: Some(place), ..
        }) = self.users.remove(user)
        {
            self.queue.remove(&place);
        }
    }

    /// Whether a lease has to begin, with [`Table::new_lease`]: what ended meanwhile was more than could be kept.
    pub(super) fn needs_a_new_lease(&self) -> bool {
        self.is_over
    }

    /// What is to be told next, of about so many sessions at most; [`Table::told`] or [`Table::failed`] follows.
    pub(super) fn take(&mut self, most: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut taken = 0;
        while taken < most
            && let Some((_, name)) = self.queue.pop_first()
        {
            let Some(user) = self.users.get_mut(&name) else {
                continue;
            };
            user.queued = None;
            let mut connected = Vec::new();
            let mut is_all = true;
            for entry in user.sessions.values_mut() {
                if !matches!(entry.state, State::Pending | State::Sent) {
                    continue;
                }
                if taken + connected.len() >= most {
                    is_all = false;
                    break;
                }
                entry.state = State::Sent;
                connected.push(entry.session.clone());
            }
            let room = most.saturating_sub(taken + connected.len());
            let disconnected: Vec<Uuid> = user.ended.iter().copied().take(room).collect();
            is_all &= disconnected.len() == user.ended.len();
            let is_here = user.is_here();
            user.is_here |= is_here;
            taken += (connected.len() + disconnected.len()).max(1);
            changes.push(Change {
                user: name.to_string(),
                connected,
                disconnected,
                is_here,
            });
            if !is_all {
                // The rest, or else it would wait for the next time something happens to this user.
                self.enqueue(&name);
            }
        }
        changes
    }

    /// The store was told.
    pub(super) fn told(&mut self, changes: &[Change]) {
        for change in changes {
            let Some(user) = self.users.get_mut(change.user.as_str()) else {
                continue;
            };
            for session in &change.connected {
                if let Some(entry) = user.sessions.get_mut(session.client)
                    && entry.state == State::Sent
                {
                    entry.state = State::Stored;
                    self.stored += 1;
                }
            }
            for client in &change.disconnected {
                self.ended -= usize::from(user.ended.remove(client));
            }
            user.is_here = change.is_here;
            if user.is_done() {
                self.remove(&change.user);
            } else if user.is_here() != user.is_here {
                let name: Arc<str> = change.user.as_str().into();
                self.enqueue(&name);
            }
        }
    }

    /// The store may have been told.
    pub(super) fn failed(&mut self, changes: &[Change]) {
        for change in changes {
            let name: Arc<str> = change.user.as_str().into();
            self.enqueue(&name);
        }
    }

    /// A lease begins, under which nothing is stored yet, and none that ended counts.
    pub(super) fn new_lease(&mut self) {
        self.begin();
        self.is_over = false;
    }

    fn begin(&mut self) {
        self.queue.clear();
        self.ended = 0;
        self.refreshed = None;
        self.stored = 0;
        self.users.retain(|_, user| !user.sessions.is_empty());
        for (name, user) in &mut self.users {
            user.ended.clear();
            user.is_here = false;
            for entry in user.sessions.values_mut() {
                if entry.state != State::Asked {
                    entry.state = State::Pending;
                }
            }
            user.queued = Some(self.next);
            self.queue.insert(self.next, Arc::clone(name));
            self.next += 1;
        }
    }

    /// Announces one part in `parts` of the users again, each time the next ones.
    pub(super) fn refresh(&mut self, parts: usize) {
        let count = self.users.len().div_ceil(parts.max(1));
        let from = self.refreshed.take().map_or(Bound::Unbounded, Bound::Excluded);
        let names: Vec<Arc<str>> = self
            .users
            .range::<Arc<str>, _>((from, Bound::Unbounded))
            .take(count)
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in &names {
            if let Some(user) = self.users.get_mut(name) {
                for entry in user.sessions.values_mut() {
                    if entry.state == State::Stored {
                        entry.state = State::Sent;
                        self.stored -= 1;
                    }
                }
            }
            self.enqueue(name);
        }
        // At the end it begins anew.
        self.refreshed = names.into_iter().next_back().filter(|_| count > 0);
    }

    /// Whether a session of the user ended that the store may still count.
    pub(super) fn has_ended(&self, user: &str) -> bool {
        self.users.get(user).is_some_and(|user| !user.ended.is_empty())
    }

    /// How much waits and how much is done.
    pub(super) fn fill(&self) -> Fill {
        Fill {
            stored: self.stored,
            waiting: self.queue.len(),
        }
    }
}

impl User {
    /// Whether the user has a session here that began.
    fn is_here(&self) -> bool {
        self.sessions.iter().any(|(_, entry)| entry.state != State::Asked)
    }

    /// Whether there is nothing to tell of it any more.
    fn is_done(&self) -> bool {
        self.sessions.is_empty() && self.ended.is_empty() && !self.is_here
    }
}

#[cfg(test)]
mod tests;
