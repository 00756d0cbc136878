//! What each store must do, told by one suite: on the store in memory, and on a real Redis.

use std::time::Duration;

use bytes::Bytes;
use switchboard_proto::ids::Incarnation;
use switchboard_registry::redis::{Link, RedisConfig};
use switchboard_testkit::{RedisCluster, RedisServer};

use crate::store::{
    Member, MemoryStore, Moves, PARTITIONS, Partition, PresenceStore, REPORTED_ANEW, RedisStore, Saved,
    Stamp, Write,
};
use crate::user::Lease;

/// Longer than a test takes.
const LONG: Duration = Duration::from_secs(600);

/// What a test waits for, at most.
const DEADLINE: Duration = Duration::from_secs(20);

fn lease(gateway: u128, number: u64) -> Lease {
    Lease {
        gateway: Incarnation::from_u128(gateway),
        number,
    }
}

fn stamp(lease: Lease, report: u64) -> Stamp {
    Stamp { lease, report }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn write(user: &str, expected: Option<u64>, value: &str) -> Write {
    Write {
        user: user.to_owned(),
        expected,
        value: Some(bytes(value)),
        due_ms: None,
        at: Vec::new(),
        not_at: Vec::new(),
        news: None,
    }
}

fn client(n: u8) -> Bytes {
    Bytes::copy_from_slice(&[n; 16])
}

fn member(n: u8, user: &str) -> Member {
    Member {
        client: client(n),
        user: user.to_owned(),
        // Bytes that are no text, and that look like what stands before them.
        value: [b"7:x:", &[0xff, n][..]].concat().into(),
    }
}

fn joins(channel: &str, joined: &[Member]) -> Moves {
    Moves {
        channel: channel.to_owned(),
        joined: joined.to_vec(),
        left: Vec::new(),
    }
}

fn redis_at(urls: Vec<String>, cluster: bool) -> RedisStore {
    let config = RedisConfig {
        urls,
        cluster,
        username: None,
        password: None,
        ca: None,
        // A machine busy with other tests.
        timeout: Duration::from_secs(5),
        prefix: "sb".to_owned(),
        kept_per_user: 1,
    };
    RedisStore::new(Link::open(&config).unwrap(), "sb")
}

async fn begun(store: &dyn PresenceStore, partition: Partition, lease: Lease, lasts: Duration) {
    assert!(store.hold(partition, stamp(lease, 1), true, lasts).await.unwrap());
}

/// Waits until something is found.
async fn until<T, F: Future<Output = Option<T>>>(mut find: impl FnMut() -> F) -> T {
    let found = async {
        loop {
            if let Some(found) = find().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, found).await.expect("in time")
}

async fn leases_hold_as_long_as_they_are_renewed(store: &dyn PresenceStore) {
    let at = Partition::of("leases");
    let (first, second) = (lease(1, 1), lease(1, 2));
    assert!(
        !store.hold(at, stamp(first, 1), false, LONG).await.unwrap(),
        "never begun"
    );
    begun(store, at, first, LONG).await;
    assert!(store.hold(at, stamp(first, 2), false, LONG).await.unwrap());
    assert!(
        !store.hold(at, stamp(first, 1), false, LONG).await.unwrap(),
        "a late report"
    );
    assert!(
        !store.hold(at, stamp(second, 3), false, LONG).await.unwrap(),
        "not begun"
    );
    assert!(store.hold(at, stamp(second, 3), true, LONG).await.unwrap());
    assert!(
        !store.hold(at, stamp(first, 9), true, LONG).await.unwrap(),
        "never backwards"
    );
    let loaded = store.load(at, &[]).await.unwrap();
    assert_eq!(loaded.leases.get(&second.gateway), Some(&2));

    store.release(at, stamp(first, 9)).await.unwrap();
    assert!(
        store.hold(at, stamp(second, 4), false, LONG).await.unwrap(),
        "another's end"
    );
    store.release(at, stamp(second, 4)).await.unwrap();
    assert!(!store.hold(at, stamp(second, 5), false, LONG).await.unwrap());

    begun(store, at, lease(1, 3), Duration::from_millis(50)).await;
    until(async || store.load(at, &[]).await.unwrap().leases.is_empty().then_some(())).await;
    assert!(
        !store.hold(at, stamp(lease(1, 3), 2), false, LONG).await.unwrap(),
        "over"
    );
    assert!(
        store
            .load(Partition::of("other"), &[])
            .await
            .unwrap()
            .leases
            .is_empty(),
        "each partition by itself"
    );
}

async fn users_are_compared_and_set(store: &dyn PresenceStore) {
    let at = Partition::of("alice");
    let saved = |writes: Vec<Write>| async move { store.save(at, None, &writes).await.unwrap() };
    assert_eq!(store.load(at, &["alice"]).await.unwrap().users, [None]);
    let both = vec![write("alice", None, "a:1"), write("bob", None, "b1")];
    assert_eq!(saved(both).await, Saved::Done(vec![true, true]));
    let both = vec![write("alice", None, "lost"), write("bob", Some(1), "b2")];
    assert_eq!(
        saved(both).await,
        Saved::Done(vec![false, true]),
        "each by itself"
    );
    let loaded = store.load(at, &["nobody", "bob", "alice"]).await.unwrap().users;
    let [None, Some(bob), Some(alice)] = &loaded[..] else {
        panic!("{loaded:?}")
    };
    assert_eq!((alice.version, &alice.value[..]), (1, &b"a:1"[..]));
    assert_eq!((bob.version, &bob.value[..]), (2, &b"b2"[..]));
    let gone = Write {
        value: None,
        ..write("bob", Some(2), "")
    };
    assert_eq!(saved(vec![gone]).await, Saved::Done(vec![true]));
    assert_eq!(store.load(at, &["bob"]).await.unwrap().users, [None]);
}

async fn nothing_is_written_under_a_lease_that_is_over(store: &dyn PresenceStore) {
    let at = Partition::of("alice");
    let lease = lease(1, 1);
    let save = |report| async move {
        let write = write("alice", None, "a");
        store
            .save(at, Some(stamp(lease, report)), &[write])
            .await
            .unwrap()
    };
    assert_eq!(save(1).await, Saved::NotHeld);
    begun(store, at, lease, LONG).await;
    assert!(store.hold(at, stamp(lease, 2), false, LONG).await.unwrap());
    assert_eq!(save(1).await, Saved::NotHeld, "a later report was begun");
    assert_eq!(save(2).await, Saved::Done(vec![true]));
    let moves = joins("alice", &[member(1, "alice")]);
    assert_eq!(store.moves(stamp(lease, 1), &moves).await.unwrap(), None);
    store.release(at, stamp(lease, 2)).await.unwrap();
    assert_eq!(save(3).await, Saved::NotHeld);
    assert_eq!(store.moves(stamp(lease, 3), &moves).await.unwrap(), None);
}

async fn who_is_due_is_found(store: &dyn PresenceStore) {
    let at = Partition::of("alice");
    let now = store.load(at, &[]).await.unwrap().now_ms;
    let due = |user: &str, expected, due_ms| Write {
        due_ms,
        ..write(user, expected, "v")
    };
    let writes = [
        due("now", None, Some(now)),
        due("later", None, Some(now + 600_000)),
        due("never", None, None),
    ];
    store.save(at, None, &writes).await.unwrap();
    let look = store.look(at).await.unwrap();
    assert_eq!(look.users, [("now".to_owned(), vec![])]);
    assert!(!look.more);
    store.save(at, None, &[due("now", Some(1), None)]).await.unwrap();
    assert!(store.look(at).await.unwrap().users.is_empty());
}

async fn what_a_dead_gateway_left_is_found(store: &dyn PresenceStore) {
    let at = Partition::of("alice");
    let (dead, alive) = (lease(1, 1), lease(2, 1));
    begun(store, at, dead, LONG).await;
    begun(store, at, alive, LONG).await;
    let noted = |user: &str, leases: &[Lease]| Write {
        at: leases.to_vec(),
        ..write(user, None, "v")
    };
    // Names that look like what keys are made of.
    let writes = [
        noted("alice", &[dead, alive]),
        noted("u u c", &[dead]),
        noted("bob", &[alive]),
    ];
    store.save(at, None, &writes).await.unwrap();
    store
        .moves(stamp(dead, 1), &joins("alice", &[member(1, "x")]))
        .await
        .unwrap();
    assert!(store.look(at).await.unwrap().users.is_empty());
    store.release(at, stamp(dead, 1)).await.unwrap();
    let mut look = store.look(at).await.unwrap();
    look.users.sort();
    let expected = [("alice".to_owned(), vec![dead]), ("u u c".to_owned(), vec![dead])];
    assert_eq!(look.users, expected);
    assert_eq!(look.channels, [("alice".to_owned(), dead)]);
    let cleaned = |user: &str| Write {
        not_at: vec![dead],
        ..write(user, Some(1), "w")
    };
    store
        .save(at, None, &[cleaned("alice"), cleaned("u u c")])
        .await
        .unwrap();
    let (moved, more) = store.clear("alice", dead).await.unwrap();
    assert_eq!((moved.left.len(), moved.clients, more), (1, 0, false));
    let look = store.look(at).await.unwrap();
    assert!(look.users.is_empty() && look.channels.is_empty(), "{look:?}");
}

async fn a_gateway_that_begins_anew_has_time_to_report(store: &dyn PresenceStore) {
    let at = Partition::of("room");
    let (old, new) = (lease(1, 1), lease(1, 2));
    begun(store, at, old, LONG).await;
    let both = joins("room", &[member(1, "alice"), member(2, "bob")]);
    store.moves(stamp(old, 1), &both).await.unwrap().unwrap();
    begun(store, at, new, LONG).await;
    assert!(store.look(at).await.unwrap().channels.is_empty(), "not at once");
    let (moved, _) = store.clear("room", old).await.unwrap();
    assert_eq!(
        (moved.left.len(), moved.clients),
        (0, 2),
        "nor by who asks for it"
    );
    let anew = joins("room", &[member(1, "alice")]);
    let moved = store.moves(stamp(new, 1), &anew).await.unwrap().unwrap();
    assert!(moved.joined.is_empty(), "she was there all the time");
    let there = store.in_channel("room", 10).await.unwrap();
    assert_eq!(
        (there.clients, there.users),
        (1, 1),
        "who is not reported yet is not seen"
    );
    let over = until(async || store.look(at).await.unwrap().channels.pop()).await;
    assert_eq!(over, ("room".to_owned(), old));
    let (moved, more) = store.clear("room", old).await.unwrap();
    assert_eq!(moved.left, [member(2, "bob").value]);
    assert_eq!(
        (moved.clients, moved.gateways, more),
        (1, vec![new.gateway], false)
    );
    const { assert!(REPORTED_ANEW.as_secs() < 20) }
}

async fn news_are_kept_until_they_are_told(store: &dyn PresenceStore) {
    let at = Partition::of("alice");
    let news = |user: &str, news: &str| Write {
        news: Some(bytes(news)),
        ..write(user, None, "v")
    };
    store
        .save(at, None, &[news("alice", "one"), news("bob", "two")])
        .await
        .unwrap();
    assert!(
        store.look(at).await.unwrap().untold.is_empty(),
        "who wrote it tells it"
    );
    store.told(at, &[bytes("one")]).await.unwrap();
    let untold =
        until(async || Some(store.look(at).await.unwrap().untold).filter(|untold| !untold.is_empty())).await;
    assert_eq!(untold, [bytes("two")]);
    store.told(at, &[bytes("two")]).await.unwrap();
    assert!(store.look(at).await.unwrap().untold.is_empty());
}

async fn channels_know_who_is_in_them(store: &dyn PresenceStore) {
    let at = Partition::of("room");
    let (one, other) = (lease(1, 1), lease(2, 1));
    begun(store, at, one, LONG).await;
    begun(store, at, other, LONG).await;
    let moved = |stamp, moves: Moves| async move { store.moves(stamp, &moves).await.unwrap().unwrap() };
    let alice = joins("room", &[member(1, "alice")]);
    let first = moved(stamp(one, 1), alice.clone()).await;
    assert_eq!((first.before, first.clients, first.users), (0, 1, 1));
    assert_eq!(first.joined, [member(1, "alice").value]);
    let again = moved(stamp(one, 1), alice).await;
    assert!(again.joined.is_empty(), "told once");
    let more = joins("room", &[member(2, "alice"), member(3, ""), member(4, "")]);
    let more = moved(stamp(other, 1), more).await;
    assert_eq!(
        (more.before, more.clients, more.users, more.joined.len()),
        (1, 4, 2, 3)
    );
    assert_eq!(more.gateways, [one.gateway, other.gateway]);

    let there = store.in_channel("room", 4).await.unwrap();
    let mut values = there.members.clone();
    values.sort();
    let expected: Vec<Bytes> = [(1, "alice"), (2, "alice"), (3, ""), (4, "")]
        .map(|(n, user)| member(n, user).value)
        .into();
    assert_eq!(values, expected);
    assert_eq!((there.clients, there.users), (4, 2));
    let large = store.in_channel("room", 3).await.unwrap();
    assert_eq!(
        (large.members.len(), large.clients, large.users),
        (0, 4, 2),
        "only counts"
    );

    let leave = |n| Moves {
        channel: "room".to_owned(),
        joined: Vec::new(),
        left: vec![client(n)],
    };
    let left = moved(stamp(one, 1), leave(1)).await;
    assert_eq!((left.before, left.clients, left.users), (4, 3, 2));
    assert_eq!(left.left, [member(1, "alice").value]);
    assert_eq!(left.gateways, [other.gateway]);
    assert!(moved(stamp(one, 1), leave(1)).await.left.is_empty(), "told once");
    store.release(at, stamp(other, 1)).await.unwrap();
    let gone = store.in_channel("room", 10).await.unwrap();
    assert_eq!((gone.clients, gone.users), (0, 0), "all in one step");
    let (last, more) = store.clear("room", other).await.unwrap();
    assert_eq!(
        (last.before, last.clients, last.left.len(), more),
        (3, 0, 3, false)
    );
    assert_eq!(store.in_channel("room", 10).await.unwrap().clients, 0);
}

macro_rules! on_both {
    ($($test:ident,)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::MemoryStore::default()).await;
            })*
        }

        mod redis {
            $(#[tokio::test]
            async fn $test() {
                let server = super::RedisServer::start().await.unwrap();
                super::$test(&super::redis_at(vec![server.url()], false)).await;
            })*
        }
    };
}

on_both! {
    leases_hold_as_long_as_they_are_renewed,
    users_are_compared_and_set,
    nothing_is_written_under_a_lease_that_is_over,
    who_is_due_is_found,
    what_a_dead_gateway_left_is_found,
    a_gateway_that_begins_anew_has_time_to_report,
    news_are_kept_until_they_are_told,
    channels_know_who_is_in_them,
}

/// Scripts use keys of one slot only.
#[tokio::test]
async fn a_cluster_of_redis_does_the_same() {
    let cluster = RedisCluster::start().await.unwrap();
    let store = redis_at(cluster.urls(), true);
    channels_know_who_is_in_them(&store).await;
    what_a_dead_gateway_left_is_found(&store).await;
}

#[test]
fn every_name_has_a_partition() {
    let partitions: std::collections::BTreeSet<Partition> =
        (0..1000).map(|n| Partition::of(&format!("u{n}"))).collect();
    assert_eq!(partitions.len(), usize::from(PARTITIONS));
    assert!(Partition::all().eq(partitions));
}
