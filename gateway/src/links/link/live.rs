//! The sessions that are given everything of a channel as it comes. Most channels have one, for which a map would
//! take room for several.

use super::Subscriber;
use super::channels::Placed;
use crate::maps::HashMap;

/// See the module.
pub(super) enum Live<S> {
    None,
    One(Placed<S>),
    /// By the session's id.
    Many(Box<HashMap<u64, Placed<S>>>),
}

impl<S> Live<S> {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Placed<S>> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(placed) => (Some(placed), None),
            Self::Many(many) => (None, Some(many.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Takes out all of them.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Placed<S>> + use<S> {
        let (one, many) = match std::mem::replace(self, Self::None) {
            Self::None => (None, None),
            Self::One(placed) => (Some(placed), None),
            Self::Many(many) => (None, Some(many.into_values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

impl<S: Subscriber> Live<S> {
    /// Enters a session, in the place of what was said of it before.
    pub(super) fn insert(&mut self, placed: Placed<S>) {
        *self = match std::mem::replace(self, Self::None) {
            Self::One(other) if other.session.id() != placed.session.id() => {
                let both = [other, placed].map(|placed| (placed.session.id(), placed));
                Self::Many(Box::new(both.into_iter().collect()))
            }
            Self::None | Self::One(_) => Self::One(placed),
            Self::Many(mut many) => {
                many.insert(placed.session.id(), placed);
                Self::Many(many)
            }
        };
    }

    pub(super) fn remove(&mut self, session: u64) {
        let is_over = match self {
            Self::None => false,
            Self::One(placed) => placed.session.id() == session,
            Self::Many(many) => {
                many.remove(&session);
                many.is_empty()
            }
        };
        if is_over {
            *self = Self::None;
        }
    }
}

#[cfg(test)]
mod tests {
    use switchboard_proto::ids::Offset;

    use super::*;

    #[derive(Clone)]
    struct Session(u64);

    impl Subscriber for Session {
        type Publisher = ();

        fn id(&self) -> u64 {
            self.0
        }

        fn has_room(&self) -> bool {
            true
        }
    }

    fn placed(session: u64, has: u64) -> Placed<Session> {
        Placed {
            session: Session(session),
            has: Offset::from_u64(has),
        }
    }

    fn held(live: &Live<Session>) -> Vec<(u64, u64)> {
        let mut held: Vec<(u64, u64)> = live
            .values()
            .map(|placed| (placed.session.0, placed.has.get()))
            .collect();
        held.sort_unstable();
        held
    }

    #[test]
    fn each_session_stands_in_it_once_until_it_is_taken_out() {
        let mut live = Live::None;
        assert!(live.is_empty());
        live.insert(placed(1, 1));
        live.insert(placed(1, 2));
        assert_eq!(held(&live), [(1, 2)]);
        live.remove(2);
        live.insert(placed(2, 5));
        live.insert(placed(3, 6));
        live.insert(placed(2, 7));
        assert_eq!(held(&live), [(1, 2), (2, 7), (3, 6)]);
        live.remove(1);
        live.remove(1);
        assert_eq!(held(&live), [(2, 7), (3, 6)]);
        let mut taken: Vec<u64> = live.take().map(|placed| placed.session.0).collect();
        taken.sort_unstable();
        assert_eq!(taken, [2, 3]);
        assert!(live.is_empty());
        for session in [1, 2] {
            live.insert(placed(session, 1));
        }
        for session in [2, 1] {
            assert!(!live.is_empty());
            live.remove(session);
        }
        assert!(live.is_empty());
        live.insert(placed(4, 1));
        assert_eq!(live.take().count(), 1);
        assert!(live.is_empty() && held(&live).is_empty());
    }
}
