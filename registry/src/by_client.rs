//! The sessions of one user by their ids: a sorted list, since nearly every user has one or two, for which a tree
//! takes room for eleven.

use uuid::Uuid;

/// See the module. Finding takes the logarithm of its length, entering and removing move what is behind.
#[derive(Debug)]
pub(crate) struct ByClient<T>(Vec<(Uuid, T)>);

impl<T> Default for ByClient<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ByClient<T> {
    fn find(&self, client: Uuid) -> Result<usize, usize> {
        self.0.binary_search_by_key(&client, |(client, _)| *client)
    }

    /// `true`: there was none.
    pub(crate) fn insert(&mut self, client: Uuid, value: T) -> bool {
        match self.find(client) {
            Ok(place) => {
                if let Some((_, held)) = self.0.get_mut(place) {
                    *held = value;
                }
                false
            }
            Err(place) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(place, (client, value));
                true
            }
        }
    }

    pub(crate) fn remove(&mut self, client: Uuid) -> Option<T> {
        let place = self.find(client).ok()?;
        let (_, value) = self.0.remove(place);
        Some(value)
    }

    pub(crate) fn contains(&self, client: Uuid) -> bool {
        self.find(client).is_ok()
    }

    pub(crate) fn get_mut(&mut self, client: Uuid) -> Option<&mut T> {
        let place = self.find(client).ok()?;
        self.0.get_mut(place).map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Uuid, &T)> {
        self.0.iter().map(|(client, value)| (*client, value))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.0.retain(|(_, value)| keep(value));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_one_value_for_each_client_and_room_for_no_more_than_the_first() {
        let id = Uuid::from_u128;
        let mut clients = ByClient::default();
        assert!(clients.insert(id(2), "b"));
        assert_eq!(clients.0.capacity(), 1);
        assert!(clients.insert(id(3), "c"));
        assert!(clients.insert(id(1), "a"));
        assert!(!clients.insert(id(2), "B"));
        let held: Vec<(Uuid, &str)> = clients.iter().map(|(client, value)| (client, *value)).collect();
        assert_eq!(held, [(id(1), "a"), (id(2), "B"), (id(3), "c")]);
        assert_eq!(clients.get_mut(id(3)).copied(), Some("c"));
        assert_eq!(clients.remove(id(1)), Some("a"));
        assert_eq!((clients.remove(id(1)), clients.get_mut(id(1))), (None, None));
        assert!(clients.contains(id(2)) && !clients.contains(id(1)));
        clients.retain(|value| *value != "c");
        assert_eq!((clients.len(), clients.is_empty()), (1, false));
    }
}
