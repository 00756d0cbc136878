//! Connections by user: one who opens ever more of them is stopped, whatever addresses they come
//! from.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// A user has as many connections as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many connections of this user; see gateway.limits.connections_per_user")]
pub(crate) struct UserLimit;

/// See the module. It has no more entries than there are connections.
pub(crate) struct Users {
    limit: Option<usize>,
    held: Mutex<HashMap<Arc<str>, usize>>,
}

impl Users {
    /// So many connections for each user; `None`: as many as they like.
    pub(crate) fn new(limit: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: Mutex::default(),
        })
    }

    /// Counts a connection of `user` for as long as the slot lives. A client without a user (an empty
    /// one) is not counted.
    ///
    /// # Errors
    /// [`UserLimit`] where the user has as many as there may be.
    pub(crate) fn admit_user(self: &Arc<Self>, user: &str) -> Result<UserSlot, UserLimit> {
        let Some(limit) = self.limit.filter(|_| !user.is_empty()) else {
            return Ok(UserSlot(None));
        };
        let mut held = self.held.lock();
        let user: Arc<str> = match held.get_key_value(user) {
            Some((_, held)) if *held >= limit => return Err(UserLimit),
            Some((user, _)) => Arc::clone(user),
            None => user.into(),
        };
        *held.entry(Arc::clone(&user)).or_insert(0) += 1;
        Ok(UserSlot(Some((Arc::clone(self), user))))
    }

    fn give_back(&self, user: &str) {
        let mut held = self.held.lock();
        if let Some(count) = held.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                held.remove(user);
            }
        }
        // A crowd's memory is not kept after it.
        if held.capacity() > 1024 && held.len() < held.capacity() / 8 {
            let kept = held.len() * 2;
            held.shrink_to(kept);
        }
    }
}

/// A connection that counts for its user.
#[must_use = "the connection is counted as long as this lives"]
pub(crate) struct UserSlot(Option<(Arc<Users>, Arc<str>)>);

impl Drop for UserSlot {
    fn drop(&mut self) {
        if let Some((users, user)) = self.0.take() {
            users.give_back(&user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_counts_while_it_lives() {
        let users = Users::new(Some(2));
        let one = users.admit_user("alice").unwrap();
        let other = users.admit_user("alice").unwrap();
        assert_eq!(users.admit_user("alice").err(), Some(UserLimit));
        let bob = users.admit_user("bob").unwrap();
        drop(one);
        let again = users.admit_user("alice").unwrap();
        assert_eq!(users.admit_user("alice").err(), Some(UserLimit));
        drop((other, bob, again));
        assert!(users.held.lock().is_empty());
    }

    #[test]
    fn who_has_no_user_is_not_counted() {
        let users = Users::new(Some(1));
        let anonymous: Vec<_> = (0..10).map(|_| users.admit_user("").unwrap()).collect();
        drop(anonymous);
        let unlimited = Users::new(None);
        let alices: Vec<_> = (0..10).map(|_| unlimited.admit_user("alice").unwrap()).collect();
        assert!(unlimited.held.lock().is_empty());
        drop(alices);
    }
}
