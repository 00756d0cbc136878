use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::registry::Device;

fn session(number: u128) -> NewSession {
    NewSession {
        client: Uuid::from_u128(number),
        device: Device::default(),
        since_us: 0,
    }
}

fn client(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn alice() -> Arc<str> {
    "alice".into()
}

/// A store as far as one gateway fills it.
#[derive(Default)]
struct Store {
    sessions: BTreeMap<String, BTreeSet<Uuid>>,
    users: BTreeSet<String>,
}

impl Store {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let sessions = self.sessions.entry(change.user.clone()).or_default();
            sessions.extend(change.connected.iter().map(|session| session.client));
            for client in &change.disconnected {
                sessions.remove(client);
            }
            if sessions.is_empty() {
                self.sessions.remove(&change.user);
            }
            match change.is_here {
                true => self.users.insert(change.user.clone()),
                false => self.users.remove(&change.user),
            };
        }
    }
}

fn tell_all(table: &mut Table, store: &mut Store) {
    loop {
        let changes = table.take(500);
        if changes.is_empty() {
            return;
        }
        store.apply(&changes);
        table.told(&changes);
    }
}

#[test]
fn what_began_and_ended_is_told_once() {
    let (mut table, mut store) = (Table::new(10), Store::default());
    table.enter(&alice(), session(1), false).unwrap();
    table.enter(&alice(), session(2), false).unwrap();
    let changes = table.take(500);
    assert_eq!(changes.len(), 1, "one for each user");
    store.apply(&changes);
    table.told(&changes);
    assert!(table.take(500).is_empty());
    assert_eq!(
        table.fill(),
        Fill {
            stored: 2,
            waiting: 0
        }
    );
    table.leave(&alice(), client(1), true);
    tell_all(&mut table, &mut store);
    assert_eq!(store.sessions["alice"], BTreeSet::from([client(2)]));
    assert!(store.users.contains("alice"));
    table.leave(&alice(), client(2), true);
    tell_all(&mut table, &mut store);
    assert!(store.sessions.is_empty() && store.users.is_empty());
    assert!(table.users.is_empty(), "nothing is left of it");
}

#[test]
fn who_comes_and_goes_before_it_is_told_leaves_nothing() {
    let mut table = Table::new(10);
    for number in 0..1000 {
        let user: Arc<str> = format!("user{number}").into();
        table.enter(&user, session(number), false).unwrap();
        table.leave(&user, client(number), true);
    }
    assert!(table.users.is_empty() && table.queue.is_empty());
    assert!(table.take(500).is_empty());
}

#[test]
fn what_ends_while_it_is_on_its_way_is_told_after_it() {
    let (mut table, mut store) = (Table::new(10), Store::default());
    table.enter(&alice(), session(1), false).unwrap();
    let changes = table.take(500);
    table.leave(&alice(), client(1), true);
    store.apply(&changes);
    table.told(&changes);
    assert!(!store.sessions.is_empty());
    tell_all(&mut table, &mut store);
    assert!(store.sessions.is_empty() && store.users.is_empty() && table.users.is_empty());
}

#[test]
fn what_may_not_have_been_told_is_told_again() {
    let (mut table, mut store) = (Table::new(10), Store::default());
    table.enter(&alice(), session(1), false).unwrap();
    let changes = table.take(500);
    store.apply(&changes);
    table.failed(&changes);
    table.leave(&alice(), client(1), true);
    tell_all(&mut table, &mut store);
    assert!(store.sessions.is_empty() && store.users.is_empty() && table.users.is_empty());
}

#[test]
fn who_is_asked_for_is_not_told_before_the_answer() {
    let (mut table, mut store) = (Table::new(10), Store::default());
    table.enter(&alice(), session(1), true).unwrap();
    assert!(table.take(500).is_empty());
    table.leave(&alice(), client(1), false);
    assert!(table.users.is_empty(), "it was refused");

    table.enter(&alice(), session(2), true).unwrap();
    table.admitted(&alice(), client(2), true);
    let changes = table.take(500);
    assert!(
        changes[0].connected.is_empty() && changes[0].is_here,
        "{changes:?}"
    );
    store.apply(&changes);
    table.told(&changes);
    table.enter(&alice(), session(3), true).unwrap();
    table.admitted(&alice(), client(3), true);
    assert!(table.take(500).is_empty(), "there is nothing to tell");

    table.enter(&alice(), session(4), true).unwrap();
    table.admitted(&alice(), client(4), false);
    assert_eq!(table.take(500)[0].connected, [session(4)], "nobody knows");

    table.enter(&alice(), session(5), true).unwrap();
    table.leave(&alice(), client(5), true);
    assert_eq!(
        table.take(500)[0].disconnected,
        [client(5)],
        "the client did not wait for the answer"
    );
}

#[test]
fn all_is_told_anew_under_another_lease() {
    let (mut table, mut store) = (Table::new(10), Store::default());
    let bob: Arc<str> = "bob".into();
    table.enter(&alice(), session(1), false).unwrap();
    table.enter(&bob, session(2), false).unwrap();
    tell_all(&mut table, &mut store);
    table.leave(&bob, client(2), true);
    table.enter(&alice(), session(3), true).unwrap();
    table.new_lease();
    let mut store = Store::default();
    tell_all(&mut table, &mut store);
    assert_eq!(
        store.sessions,
        BTreeMap::from([("alice".to_owned(), BTreeSet::from([client(1)]))])
    );
    assert_eq!(store.users, BTreeSet::from(["alice".to_owned()]));
    assert_eq!(
        table.fill(),
        Fill {
            stored: 1,
            waiting: 0
        }
    );
}

#[test]
fn batches_are_bounded_also_within_a_user() {
    let (mut table, mut store) = (Table::new(1000), Store::default());
    for number in 0..250 {
        table.enter(&alice(), session(number), false).unwrap();
    }
    for number in 1000..1250_u128 {
        table
            .enter(&format!("user{number}").into(), session(number), false)
            .unwrap();
    }
    for _ in 0..2 {
        let mut batches = 0;
        loop {
            let changes = table.take(100);
            if changes.is_empty() {
                break;
            }
            let sessions: usize = changes
                .iter()
                .map(|change| change.connected.len() + change.disconnected.len())
                .sum();
            assert!(sessions <= 100, "{sessions}");
            store.apply(&changes);
            table.told(&changes);
            batches += 1;
        }
        assert!((5..=7).contains(&batches), "{batches}");
        // The second time they end.
        for number in 0..250 {
            table.leave(&alice(), client(number), true);
        }
        for number in 1000..1250_u128 {
            table.leave(&format!("user{number}").into(), client(number), true);
        }
    }
    assert!(store.sessions.is_empty() && store.users.is_empty() && table.users.is_empty());
}

#[test]
fn sessions_are_bounded() {
    let mut table = Table::new(2);
    table.enter(&alice(), session(1), false).unwrap();
    table.enter(&alice(), session(2), false).unwrap();
    assert_eq!(table.enter(&alice(), session(3), false), Err(Full));
    table.leave(&alice(), client(3), true);
    table.leave(&alice(), client(1), true);
    table.enter(&alice(), session(3), false).unwrap();
}

#[test]
fn what_ended_is_bounded_and_then_all_is_told_anew() {
    let (mut table, mut store) = (Table::new(3), Store::default());
    table.enter(&alice(), session(0), false).unwrap();
    for number in 1..=4 {
        assert!(!table.needs_a_new_lease());
        // Stored, perhaps: the store did not answer.
        table.enter(&alice(), session(number), true).unwrap();
        table.admitted(&alice(), client(number), false);
        table.leave(&alice(), client(number), true);
    }
    assert!(table.needs_a_new_lease());
    table.new_lease();
    assert!(!table.needs_a_new_lease());
    tell_all(&mut table, &mut store);
    assert_eq!(store.sessions["alice"], BTreeSet::from([client(0)]));
}

#[test]
fn each_session_is_announced_again_in_turn() {
    let (mut table, mut store) = (Table::new(100), Store::default());
    for number in 0..10_u128 {
        table
            .enter(&format!("user{number}").into(), session(number), false)
            .unwrap();
    }
    tell_all(&mut table, &mut store);
    let mut again = BTreeSet::new();
    for _ in 0..6 {
        table.refresh(5);
        let changes = table.take(500);
        assert!(changes.len() <= 2);
        table.told(&changes);
        again.extend(
            changes
                .iter()
                .flat_map(|change| &change.connected)
                .map(|session| session.client),
        );
    }
    assert_eq!(again.len(), 10);
    assert_eq!(
        table.fill(),
        Fill {
            stored: 10,
            waiting: 0
        }
    );
}
