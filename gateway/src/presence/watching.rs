//! Who watches whom, and what each was told. No I/O.
//!
//! What must hold, each with a test:
//! * Who watches is told each change that it may see, once, and never something older than it knows.
//! * Who may not see a user is told that she is offline, and nothing when she comes and goes.
//! * Nothing is kept of a session that is gone, nor of a user whom nobody watches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use switchboard_proto::codes::ErrorCode;
use switchboard_proto::presence::{Presence, Status, Visibility};
use uuid::Uuid;

use crate::session::SessionHandle;

/// See the module.
pub(super) struct Watching {
    users: HashMap<String, User>,
    by_client: HashMap<Uuid, HashSet<String>>,
    most: usize,
    most_of_one: usize,
}

#[derive(Default)]
struct User {
    /// The newest that is known; version 0: nothing yet.
    known: Presence,
    by: HashMap<Uuid, Watcher>,
}

struct Watcher {
    session: Arc<SessionHandle>,
    /// They are in a channel together.
    shares: bool,
    /// What it was told last.
    told: Option<Seen>,
}

/// What somebody sees of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) user: String,
    pub(crate) status: Status,
    pub(crate) text: String,
    /// Unix milliseconds; 0: not told.
    pub(crate) since_ms: u64,
    pub(crate) last_seen_ms: u64,
}

/// What somebody may see.
pub(super) fn seen(presence: &Presence, viewer: &str, shares: bool) -> Seen {
    let may = presence.user == viewer
        || match presence.visibility() {
            Visibility::Unspecified | Visibility::Everybody => true,
            Visibility::Shared => shares,
            Visibility::Nobody => false,
        };
    match may {
        true => Seen {
            user: presence.user.clone(),
            status: presence.status(),
            text: presence.text.clone(),
            since_ms: presence.since_ms,
            last_seen_ms: presence.last_seen_ms,
        },
        false => Seen {
            user: presence.user.clone(),
            status: Status::Offline,
            text: String::new(),
            since_ms: 0,
            last_seen_ms: 0,
        },
    }
}

impl Watching {
    pub(super) fn new(most: usize, most_of_one: usize) -> Self {
        Self {
            users: HashMap::new(),
            by_client: HashMap::new(),
            most,
            most_of_one,
        }
    }

    /// A session watches users from now on; those that it watches already stay. Returns those that are new.
    pub(super) fn watch(
        &mut self,
        session: &Arc<SessionHandle>,
        users: &[String],
        shared: &HashSet<String>,
    ) -> Result<Vec<String>, ErrorCode> {
        let client = session.client();
        let of_one = self.by_client.get(&client).map_or(0, HashSet::len);
        let is_watched = |user: &&String| {
            self.by_client
                .get(&client)
                .is_some_and(|known| known.contains(*user))
        };
        let new: HashSet<&String> = users.iter().filter(|user| !is_watched(user)).collect();
        let new: Vec<String> = new.into_iter().cloned().collect();
        let new_users = new.iter().filter(|user| !self.users.contains_key(*user)).count();
        if of_one + new.len() > self.most_of_one || self.users.len() + new_users > self.most {
            return Err(ErrorCode::LimitExceeded);
        }
        for user in users {
            self.by_client.entry(client).or_default().insert(user.clone());
            let by = &mut self.users.entry(user.clone()).or_default().by;
            let watcher = by.entry(client).or_insert_with(|| Watcher {
                session: Arc::clone(session),
                shares: false,
                told: None,
            });
            watcher.shares = shared.contains(user);
        }
        Ok(new)
    }

    /// It watches them no more.
    pub(super) fn unwatch(&mut self, client: Uuid, users: &[String]) {
        for user in users {
            let known = self.by_client.get_mut(&client);
            if known.is_some_and(|known| known.remove(user)) {
                self.forget(client, user);
            }
        }
        if self.by_client.get(&client).is_some_and(HashSet::is_empty) {
            self.by_client.remove(&client);
        }
    }

    /// The session is gone.
    pub(super) fn leave(&mut self, client: Uuid) {
        for user in self.by_client.remove(&client).into_iter().flatten() {
            self.forget(client, &user);
        }
    }

    fn forget(&mut self, client: Uuid, user: &str) {
        let Some(watched) = self.users.get_mut(user) else {
            return;
        };
        watched.by.remove(&client);
        if watched.by.is_empty() {
            self.users.remove(user);
        }
    }

    /// How many users are watched.
    pub(super) fn count(&self) -> usize {
        self.users.len()
    }

    /// All users that are watched.
    pub(super) fn users(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    /// A presence became known: who has to be told what. Who asked (`snapshot`) is answered with it and not told besides.
    pub(super) fn learn(
        &mut self,
        presence: Presence,
        snapshot: Option<Uuid>,
    ) -> Vec<(Arc<SessionHandle>, Seen)> {
        let Some(watched) = self.users.get_mut(&presence.user) else {
            return Vec::new();
        };
        if presence.version < watched.known.version {
            return Vec::new();
        }
        watched.known = presence;
        let mut news = Vec::new();
        for (client, watcher) in &mut watched.by {
            let seen = seen(&watched.known, watcher.session.user(), watcher.shares);
            let same = (watcher.told.as_ref())
                .is_some_and(|told| (told.status, &told.text) == (seen.status, &seen.text));
            let is_answered = snapshot == Some(*client);
            // Who was told nothing yet has asked, and waits for the answer.
            if !same && !is_answered && watcher.told.is_some() {
                news.push((Arc::clone(&watcher.session), seen.clone()));
            }
            if !same && (is_answered || watcher.told.is_some()) {
                watcher.told = Some(seen);
            }
        }
        news
    }

    /// What a session sees of users that it watches.
    /// From here on it is told what is different.
    pub(super) fn seen_by(&mut self, client: Uuid, users: &[String]) -> Vec<Seen> {
        let mut all = Vec::with_capacity(users.len());
        for user in users {
            let Some(watched) = self.users.get_mut(user) else {
                continue;
            };
            let Some(watcher) = watched.by.get_mut(&client) else {
                continue;
            };
            let seen = seen(&watched.known, watcher.session.user(), watcher.shares);
            watcher.told = Some(seen.clone());
            all.push(seen);
        }
        all
    }
}

#[cfg(test)]
mod tests;
