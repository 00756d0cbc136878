//! Sessions, leases, admission.

#![expect(missing_docs, reason = "each name says what is tested")]

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use switchboard_proto::ids::Incarnation;
use uuid::Uuid;

use super::{DONE, LONG, RegistryFixture, began, ended, found, lease, session, until};
use crate::{Admission, Change, Device, Lease, MAX_SESSIONS_PER_USER, Session};

/// A lease that ends while a test waits for it.
const SHORT: Duration = Duration::from_millis(700);

pub async fn session_is_found_from_its_announcement_to_its_end(fixture: &impl RegistryFixture) {
    let (registry, other) = (fixture.open(), fixture.open());
    registry.begin(lease(1), LONG).await.unwrap();
    assert_eq!(found(&*other, "alice").await, []);
    let announced = registry
        .announce(lease(1), &[began("alice", [10])])
        .await
        .unwrap();
    assert_eq!(announced, DONE);
    let sessions = other.sessions("alice").await.unwrap();
    let expected = Session {
        client: Uuid::from_u128(10),
        gateway: Incarnation::from_u128(1),
        device: Device::new("js", "5.1"),
        since_us: 10,
    };
    assert_eq!(sessions, [expected]);
    assert_eq!(other.count("alice").await.unwrap(), 1);
    assert_eq!(found(&*other, "bob").await, []);
    registry
        .announce(lease(1), &[ended("alice", [10])])
        .await
        .unwrap();
    assert_eq!(found(&*other, "alice").await, []);
}

pub async fn user_is_found_on_all_gateways(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    for gateway in [1, 2, 3] {
        registry.begin(lease(gateway), LONG).await.unwrap();
    }
    registry
        .announce(lease(2), &[began("alice", [20, 21])])
        .await
        .unwrap();
    registry
        .announce(lease(1), &[began("alice", [10]), began("bob", [11])])
        .await
        .unwrap();
    registry.announce(lease(3), &[began("bob", [30])]).await.unwrap();
    assert_eq!(found(&*registry, "alice").await, [(10, 1), (20, 2), (21, 2)]);
    let gateways = registry.gateways("alice").await.unwrap();
    assert_eq!(gateways, [1, 2].map(Incarnation::from_u128));
    registry
        .announce(lease(2), &[ended("alice", [20, 21])])
        .await
        .unwrap();
    assert_eq!(
        registry.gateways("alice").await.unwrap(),
        [Incarnation::from_u128(1)]
    );
}

pub async fn announcing_again_changes_nothing(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    registry.begin(lease(1), LONG).await.unwrap();
    for _ in 0..2 {
        let announced = registry
            .announce(lease(1), &[began("alice", [10, 11])])
            .await
            .unwrap();
        assert_eq!(announced, DONE);
        assert_eq!(found(&*registry, "alice").await, [(10, 1), (11, 1)]);
    }
    let one_ends = Change {
        disconnected: vec![Uuid::from_u128(10)],
        ..began("alice", [11])
    };
    for _ in 0..2 {
        registry
            .announce(lease(1), std::slice::from_ref(&one_ends))
            .await
            .unwrap();
        assert_eq!(found(&*registry, "alice").await, [(11, 1)]);
    }
}

pub async fn lease_that_ends_takes_all_sessions_in_one_step(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    registry.begin(lease(1), SHORT).await.unwrap();
    registry.begin(lease(2), LONG).await.unwrap();
    let names: Vec<String> = (0..50).map(|number| format!("user{number}")).collect();
    let changes: Vec<Change> = names
        .iter()
        .zip(100..)
        .map(|(name, number)| began(name, [number]))
        .collect();
    registry.announce(lease(1), &changes).await.unwrap();
    registry.announce(lease(2), &[began("user7", [7])]).await.unwrap();
    until("the lease ends", async || {
        found(&*registry, "user0").await.is_empty()
    })
    .await;
    for name in &names {
        let there = found(&*registry, name).await;
        let expected: &[(u128, u128)] = if name == "user7" { &[(7, 2)] } else { &[] };
        assert_eq!(there, expected, "{name}");
    }
    let users = registry
        .users(Incarnation::from_u128(1), None, 100)
        .await
        .unwrap();
    assert!(users.users.is_empty(), "{users:?}");
    assert!(
        !registry.renew(lease(1), LONG).await.unwrap(),
        "it is gone for good"
    );
}

pub async fn renewed_lease_goes_on(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    assert!(!registry.renew(lease(1), LONG).await.unwrap(), "it never began");
    registry.begin(lease(1), SHORT).await.unwrap();
    registry.begin(lease(2), SHORT).await.unwrap();
    registry
        .announce(lease(1), &[began("alice", [10])])
        .await
        .unwrap();
    registry
        .announce(lease(2), &[began("alice", [20])])
        .await
        .unwrap();
    assert!(registry.renew(lease(1), LONG).await.unwrap());
    until("the other lease ends", async || {
        found(&*registry, "alice").await.len() == 1
    })
    .await;
    assert_eq!(found(&*registry, "alice").await, [(10, 1)]);
    let users = registry
        .users(Incarnation::from_u128(1), None, 100)
        .await
        .unwrap();
    assert_eq!(users.users, ["alice"]);
}

pub async fn what_was_said_under_an_earlier_lease_never_comes_back(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    let first = lease(1);
    let second = Lease { number: 2, ..first };
    registry.begin(first, LONG).await.unwrap();
    registry
        .announce(first, &[began("alice", [10, 11]), began("bob", [12])])
        .await
        .unwrap();
    registry.begin(second, LONG).await.unwrap();
    assert_eq!(found(&*registry, "alice").await, []);
    registry.announce(second, &[began("alice", [11])]).await.unwrap();
    assert_eq!(found(&*registry, "alice").await, [(11, 1)]);
    assert_eq!(found(&*registry, "bob").await, []);
    assert!(!registry.renew(first, LONG).await.unwrap());
    let users = registry.users(first.gateway, None, 100).await.unwrap();
    assert_eq!(users.users, ["alice"]);
}

pub async fn without_a_lease_nobody_sees_what_is_announced(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    let announced = registry
        .announce(lease(1), &[began("alice", [10])])
        .await
        .unwrap();
    assert!(!announced.held);
    assert_eq!(found(&*registry, "alice").await, []);
    let users = registry
        .users(Incarnation::from_u128(1), None, 100)
        .await
        .unwrap();
    assert_eq!(users.users, Vec::<String>::new());
}

pub async fn released_lease_takes_all_sessions(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    let next = Lease {
        number: 2,
        ..lease(1)
    };
    registry.begin(lease(1), LONG).await.unwrap();
    registry
        .announce(lease(1), &[began("alice", [10])])
        .await
        .unwrap();
    registry.release(next).await.unwrap();
    assert_eq!(
        found(&*registry, "alice").await,
        [(10, 1)],
        "that was another lease"
    );
    registry.release(lease(1)).await.unwrap();
    assert_eq!(found(&*registry, "alice").await, []);
    assert!(!registry.renew(lease(1), LONG).await.unwrap());
}

pub async fn racing_admissions_keep_to_the_limit(fixture: &impl RegistryFixture) {
    let registries = [fixture.open(), fixture.open()];
    for (registry, gateway) in registries.iter().zip([1, 2]) {
        registry.begin(lease(gateway), LONG).await.unwrap();
    }
    let tries = (0..40_u128).map(|number| {
        let gateway = number % 2;
        let registry = &registries[usize::try_from(gateway).unwrap()];
        async move {
            let session = session(100 + number);
            registry
                .admit(lease(1 + gateway), "alice", &session, 5)
                .await
                .unwrap()
        }
    });
    let outcomes = join_all(tries).await;
    let admitted = outcomes.iter().filter(|outcome| **outcome == Admission::Admitted);
    assert_eq!(admitted.count(), 5);
    assert_eq!(registries[0].count("alice").await.unwrap(), 5);
    let bob = registries[0]
        .admit(lease(1), "bob", &session(1), 5)
        .await
        .unwrap();
    assert_eq!(bob, Admission::Admitted, "users do not take from each other");
}

pub async fn session_is_admitted_once(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    registry.begin(lease(1), LONG).await.unwrap();
    for _ in 0..2 {
        let outcome = registry.admit(lease(1), "alice", &session(10), 1).await.unwrap();
        assert_eq!(outcome, Admission::Admitted);
    }
    assert_eq!(found(&*registry, "alice").await, [(10, 1)]);
    let another = registry.admit(lease(1), "alice", &session(11), 1).await.unwrap();
    assert_eq!(another, Admission::OverLimit);
    assert_eq!(
        found(&*registry, "alice").await,
        [(10, 1)],
        "nothing is left of it"
    );
    registry
        .announce(lease(1), &[ended("alice", [10])])
        .await
        .unwrap();
    let another = registry.admit(lease(1), "alice", &session(11), 1).await.unwrap();
    assert_eq!(another, Admission::Admitted);
}

pub async fn sessions_of_a_gateway_that_is_gone_do_not_count(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    registry.begin(lease(1), LONG).await.unwrap();
    registry.begin(lease(2), LONG).await.unwrap();
    registry
        .announce(lease(1), &[began("alice", [10, 11])])
        .await
        .unwrap();
    registry
        .announce(lease(2), &[began("alice", [20])])
        .await
        .unwrap();
    let admit = async |number| {
        registry
            .admit(lease(2), "alice", &session(number), 3)
            .await
            .unwrap()
    };
    assert_eq!(admit(21).await, Admission::OverLimit);
    registry.release(lease(1)).await.unwrap();
    assert_eq!(admit(21).await, Admission::Admitted);
    assert_eq!(admit(22).await, Admission::Admitted);
    assert_eq!(admit(23).await, Admission::OverLimit);
    assert_eq!(found(&*registry, "alice").await, [(20, 2), (21, 2), (22, 2)]);
}

pub async fn users_of_a_gateway_come_in_pages(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    registry.begin(lease(1), LONG).await.unwrap();
    registry.begin(lease(2), LONG).await.unwrap();
    let names: BTreeSet<String> = (0..1000).map(|number| format!("user{number}")).collect();
    let changes: Vec<Change> = names
        .iter()
        .zip(100..)
        .map(|(name, number)| began(name, [number]))
        .collect();
    registry.announce(lease(1), &changes).await.unwrap();
    registry
        .announce(lease(2), &[began("elsewhere", [1])])
        .await
        .unwrap();
    let all = async || {
        let mut users = BTreeSet::new();
        let mut after = None;
        loop {
            let page = registry
                .users(Incarnation::from_u128(1), after, 100)
                .await
                .unwrap();
            users.extend(page.users);
            after = page.next;
            if after.is_none() {
                return users;
            }
        }
    };
    assert_eq!(all().await, names);
    registry.announce(lease(1), &[ended("user7", [])]).await.unwrap();
    let users = all().await;
    assert_eq!(users.len(), 999);
    assert!(!users.contains("user7"));
}

pub async fn any_text_is_a_user(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    registry.begin(lease(1), LONG).await.unwrap();
    let names = ["}", "{", "{}", "a}b", "%7D", "ü ñ", "\n\0", "alice:sessions", "*"];
    let changes: Vec<Change> = names
        .iter()
        .zip(100..)
        .map(|(name, number)| began(name, [number]))
        .collect();
    assert_eq!(registry.announce(lease(1), &changes).await.unwrap(), DONE);
    for (name, number) in names.iter().zip(100..) {
        assert_eq!(found(&*registry, name).await, [(number, 1)], "{name:?}");
        let admitted = registry
            .admit(lease(1), name, &session(number + 100), 2)
            .await
            .unwrap();
        assert_eq!(admitted, Admission::Admitted, "{name:?}");
    }
    let users = registry
        .users(Incarnation::from_u128(1), None, 100)
        .await
        .unwrap();
    let users: BTreeSet<&str> = users.users.iter().map(String::as_str).collect();
    assert_eq!(users, BTreeSet::from(names));
}

pub async fn sessions_of_a_user_are_bounded(fixture: &impl RegistryFixture) {
    let registry = fixture.open();
    registry.begin(lease(1), LONG).await.unwrap();
    let most = MAX_SESSIONS_PER_USER as u128;
    for first in (0..most).step_by(500) {
        let announced = registry
            .announce(lease(1), &[began("crowd", first..first + 500)])
            .await
            .unwrap();
        assert_eq!(announced, DONE);
    }
    let announced = registry
        .announce(lease(1), &[began("crowd", most - 1..most + 2)])
        .await
        .unwrap();
    assert_eq!(announced.left_out, 2, "one was known");
    assert_eq!(registry.count("crowd").await.unwrap(), MAX_SESSIONS_PER_USER);
    let one_more = registry
        .admit(lease(1), "crowd", &session(most), usize::MAX)
        .await
        .unwrap();
    assert_eq!(one_more, Admission::OverLimit);
}
