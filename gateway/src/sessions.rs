//! Who is connected here: a gateway's sessions by connection and by user, for what concerns them from
//! outside their own connection (the server API, system messages).
//!
//! A session is in it from its `connect` until its conversation ends, so there are never more entries than
//! connections, and no session is kept alive by it after that.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::session::SessionHandle;

/// Below so many entries a map's memory is not worth giving back.
const KEPT: usize = 1024;

/// See the module. No call waits for anything but the lock, which is held for no longer than it takes to
/// copy what is asked for.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<Index>);

#[derive(Default)]
struct Index {
    by_client: HashMap<Uuid, Arc<SessionHandle>>,
    /// The connections of each user. Not of anonymous ones.
    by_user: HashMap<Box<str>, Vec<Uuid>>,
}

impl Sessions {
    /// Enters a session whose user is known, for as long as the guard lives.
    pub(crate) fn enter(self: &Arc<Self>, session: &Arc<SessionHandle>) -> Registration {
        let client = session.client();
        let mut index = self.0.lock();
        index.by_client.insert(client, Arc::clone(session));
        let user = session.user();
        if !user.is_empty() {
            match index.by_user.get_mut(user) {
                Some(clients) => clients.push(client),
                // Most users have one, for which a list would otherwise make room for four.
                None => drop(index.by_user.insert(user.into(), vec![client])),
            }
        }
        Registration {
            sessions: Arc::clone(self),
            client,
        }
    }

    /// The sessions of a user, in no order. Of the empty one, whom all anonymous clients share, none.
    pub(crate) fn of_user(&self, user: &str) -> Vec<Arc<SessionHandle>> {
        let index = self.0.lock();
        let clients = index.by_user.get(user).map_or(&[][..], Vec::as_slice);
        clients
            .iter()
            .filter_map(|client| index.by_client.get(client).cloned())
            .collect()
    }

    /// The session with this connection id, as clients see it.
    pub(crate) fn by_client(&self, client: Uuid) -> Option<Arc<SessionHandle>> {
        self.0.lock().by_client.get(&client).cloned()
    }

    /// Every session, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<SessionHandle>> {
        self.0.lock().by_client.values().cloned().collect()
    }

    /// How many users have a connection here.
    pub(crate) fn user_count(&self) -> usize {
        self.0.lock().by_user.len()
    }

    fn leave(&self, client: Uuid) {
        let mut index = self.0.lock();
        let Some(session) = index.by_client.remove(&client) else {
            return;
        };
        let user = session.user();
        if let Some(clients) = index.by_user.get_mut(user) {
            clients.retain(|other| *other != client);
            if clients.is_empty() {
                index.by_user.remove(user);
            }
        }
        // A crowd's memory is not kept after it.
        if index.by_client.capacity() > KEPT && index.by_client.len() < index.by_client.capacity() / 8 {
            let kept = index.by_client.len() * 2;
            index.by_client.shrink_to(kept);
            index.by_user.shrink_to(kept);
        }
    }
}

/// A session's place among those that can be found.
#[must_use = "the session is found as long as this lives"]
pub(crate) struct Registration {
    sessions: Arc<Sessions>,
    client: Uuid,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.sessions.leave(self.client);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::session::{Encoding, Limits};

    fn session(id: u64, user: &str) -> Arc<SessionHandle> {
        let limits = Limits {
            outgoing: 1024,
            channels: 1,
            system_messages: true,
        };
        let session = SessionHandle::new(id, Ipv4Addr::LOCALHOST.into(), Encoding::Json, limits);
        session.admit(crate::auth::Identity {
            user: user.to_owned(),
            ..crate::auth::Identity::default()
        });
        session
    }

    fn ids(sessions: Vec<Arc<SessionHandle>>) -> Vec<u64> {
        let mut ids: Vec<u64> = sessions.iter().map(|session| session.id()).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_session_is_found_by_connection_and_user_until_it_leaves() {
        let sessions = Arc::new(Sessions::default());
        let handles = [session(1, "alice"), session(2, "alice"), session(3, "bob")];
        let mut places: Vec<Registration> = handles.iter().map(|session| sessions.enter(session)).collect();
        assert_eq!(ids(sessions.all()), [1, 2, 3]);
        assert_eq!(ids(sessions.of_user("alice")), [1, 2]);
        assert_eq!(ids(sessions.of_user("bob")), [3]);
        assert!(sessions.of_user("carol").is_empty());
        let found = sessions.by_client(handles[1].client()).unwrap();
        assert_eq!(found.id(), 2);
        drop(places.remove(0));
        assert_eq!(ids(sessions.of_user("alice")), [2]);
        assert!(sessions.by_client(handles[0].client()).is_none());
        drop(places);
        drop(found);
        assert!(sessions.all().is_empty());
        assert!(sessions.0.lock().by_user.is_empty());
        assert_eq!(Arc::strong_count(&handles[2]), 1, "nothing is kept");
    }

    #[test]
    fn who_has_no_user_is_found_by_connection_alone() {
        let sessions = Arc::new(Sessions::default());
        let anonymous = session(1, "");
        let _place = sessions.enter(&anonymous);
        assert!(sessions.of_user("").is_empty());
        assert!(sessions.by_client(anonymous.client()).is_some());
        assert_eq!(ids(sessions.all()), [1]);
    }
}
