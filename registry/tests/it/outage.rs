//! Gateways' announcers while Redis, or a gateway, goes away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchboard_proto::ids::Incarnation;
use switchboard_registry::conformance::{session, until};
use switchboard_registry::redis::RedisConfig;
use switchboard_registry::{Announcer, AnnouncerSettings, OverLimit, Registration, Registry};
use switchboard_service_kit::service::Context;
use switchboard_testkit::{RedisServer, wait_until};

use crate::redis::{command, config, open};

const LEASE: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_millis(500);

/// From Redis's return to a registry that is true: a try each second, the connection, and what is to be told. Three
/// times that, for a busy machine.
const TRUE_AGAIN: Duration = Duration::from_secs(3 * 4);

/// A gateway as far as the registry sees it.
struct Gateway {
    announcer: Announcer,
    context: Context,
}

impl Gateway {
    fn start(registry: Arc<dyn Registry>, number: u128) -> Self {
        Self::start_with_lease(registry, number, LEASE)
    }

    fn start_with_lease(registry: Arc<dyn Registry>, number: u128, lease: Duration) -> Self {
        let context = Context::new();
        let settings = AnnouncerSettings {
            lease,
            capacity: 10_000,
        };
        let incarnation = Incarnation::from_u128(number);
        Self {
            announcer: Announcer::start(registry, incarnation, settings, &context),
            context,
        }
    }

    async fn enter(&self, user: &str, number: u128, limit: Option<usize>) -> Result<Registration, OverLimit> {
        self.announcer.enter(user, session(number), limit).await
    }

    /// The value of a metric without labels.
    fn metric(&self, name: &str) -> u64 {
        let text = self.context.metrics.encode();
        let start = format!("switchboard_registry_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{name} is missing"))
            .parse()
            .unwrap()
    }
}

/// The sessions that are found of these users.
async fn found(registry: &dyn Registry, users: &[&str]) -> Option<BTreeSet<u128>> {
    let mut found = BTreeSet::new();
    for user in users {
        let sessions = registry.sessions(user).await.ok()?;
        found.extend(sessions.iter().map(|session| session.client.as_u128()));
    }
    Some(found)
}

async fn becomes(what: &str, registry: &dyn Registry, users: &[&str], expected: &[u128]) {
    let expected: BTreeSet<u128> = expected.iter().copied().collect();
    let mut last = None;
    let waited = wait_until(TRUE_AGAIN, async || {
        last = found(registry, users).await;
        last.as_ref() == Some(&expected)
    });
    let waited = waited.await;
    assert!(
        waited.is_ok(),
        "{what}: {last:?}, not {expected:?}, within {TRUE_AGAIN:?}"
    );
}

fn impatient(server: &RedisServer) -> RedisConfig {
    RedisConfig {
        timeout: TIMEOUT,
        ..config(vec![server.url()])
    }
}

const USERS: [&str; 3] = ["alice", "bob", "carol"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_is_true_again_after_redis_was_killed_and_comes_back_empty() {
    let mut server = RedisServer::start().await.unwrap();
    let reader = open(&config(vec![server.url()]));
    let one = Gateway::start(open(&impatient(&server)), 1);
    let two = Gateway::start(open(&impatient(&server)), 2);
    let alice = one.enter("alice", 10, None).await.unwrap();
    let bob = one.enter("bob", 11, None).await.unwrap();
    let _alice_elsewhere = two.enter("alice", 20, None).await.unwrap();
    becomes("all is announced", &*reader, &USERS, &[10, 11, 20]).await;
    assert_eq!(one.metric("sessions"), 2);

    server.kill().unwrap();
    // Sessions begin and end as ever; a limit over all gateways is not asked for long.
    drop(bob);
    let mut carols = Vec::new();
    let began = Instant::now();
    for number in 0..100 {
        carols.push(one.enter("carol", 100 + number, Some(1)).await.unwrap());
    }
    let took = began.elapsed();
    assert!(
        took < 3 * 3 * TIMEOUT,
        "three failures at most are waited for: {took:?}"
    );
    carols.truncate(1);

    server.restart().await.unwrap();
    becomes("what holds is found", &*reader, &USERS, &[10, 20, 100]).await;
    until("both have noticed", async || {
        one.metric("resyncs_total") >= 1 && two.metric("resyncs_total") >= 1
    })
    .await;
    assert!(one.metric("failures_total") > 0 && one.metric("not_asked_total") >= 97);
    until("it is counted", async || {
        one.metric("sessions") == 2 && one.metric("waiting") == 0
    })
    .await;
    drop((alice, carols));
    becomes("ends are told as before", &*reader, &USERS, &[20]).await;
    let users = reader.users(Incarnation::from_u128(1), None, 10).await.unwrap();
    assert!(users.users.is_empty(), "{users:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_is_true_again_after_redis_lost_all_without_a_pause() {
    let server = RedisServer::start().await.unwrap();
    let reader = open(&config(vec![server.url()]));
    let gateway = Gateway::start(open(&impatient(&server)), 1);
    let _alice = gateway.enter("alice", 10, None).await.unwrap();
    becomes("it is announced", &*reader, &USERS, &[10]).await;
    command(&server, &["FLUSHALL"]).await;
    assert_eq!(found(&*reader, &USERS).await, Some(BTreeSet::new()));
    becomes("it is announced again", &*reader, &USERS, &[10]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_hangs_keeps_nobody() {
    let server = RedisServer::start().await.unwrap();
    let reader = open(&config(vec![server.url()]));
    let gateway = Gateway::start(open(&impatient(&server)), 1);
    let bob = gateway.enter("bob", 11, Some(5)).await.unwrap();
    becomes("it is announced", &*reader, &USERS, &[11]).await;
    server.pause().unwrap();
    let began = Instant::now();
    let mut sessions = Vec::new();
    for number in 0..100 {
        sessions.push(gateway.enter("alice", number, Some(5)).await.unwrap());
    }
    let took = began.elapsed();
    assert!(took < 3 * 3 * TIMEOUT, "{took:?}");
    // Some of these are at Redis, which has not read them yet.
    sessions.truncate(3);
    drop(bob);
    server.resume().unwrap();
    becomes(
        "what holds is found, and nothing else",
        &*reader,
        &USERS,
        &[0, 1, 2],
    )
    .await;
    let mut more = Vec::new();
    until("the limit holds again", async || {
        match gateway.enter("alice", 50 + more.len() as u128, Some(5)).await {
            Ok(session) => {
                more.push(session);
                false
            }
            Err(OverLimit) => true,
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_is_missing_at_the_start_is_found_later() {
    let mut server = RedisServer::start().await.unwrap();
    server.kill().unwrap();
    let gateway = Gateway::start(open(&impatient(&server)), 1);
    let _alice = gateway.enter("alice", 10, Some(1)).await.unwrap();
    server.restart().await.unwrap();
    let reader = open(&config(vec![server.url()]));
    becomes("it is announced", &*reader, &USERS, &[10]).await;
    assert_eq!(gateway.metric("resyncs_total"), 0, "nothing was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_holds_over_all_gateways() {
    let server = RedisServer::start().await.unwrap();
    let one = Gateway::start(open(&config(vec![server.url()])), 1);
    let two = Gateway::start(open(&config(vec![server.url()])), 2);
    let reader = open(&config(vec![server.url()]));
    for (gateway, number) in [(&one, 1), (&two, 2)] {
        // Who has a lease asks.
        let session = gateway.enter("nobody", number, None).await.unwrap();
        becomes("it has begun", &*reader, &["nobody"], &[number]).await;
        drop(session);
        becomes("it has ended", &*reader, &["nobody"], &[]).await;
    }
    let first = one.enter("alice", 10, Some(2)).await.unwrap();
    let _second = two.enter("alice", 20, Some(2)).await.unwrap();
    assert!(one.enter("alice", 11, Some(2)).await.is_err());
    assert!(two.enter("alice", 21, Some(2)).await.is_err());
    let _bob = two.enter("bob", 22, Some(2)).await.unwrap();
    let anonymous = [one.enter("", 12, Some(1)).await, one.enter("", 13, Some(1)).await];
    assert!(anonymous.iter().all(Result::is_ok), "they share nothing");
    drop(first);
    until("one that ended makes room", async || {
        two.enter("alice", 23, Some(2)).await.is_ok()
    })
    .await;
}

#[test]
fn gateway_that_dies_is_forgotten_with_all_its_sessions() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (this, dying) = (runtime(), runtime());
    let server = this.block_on(RedisServer::start()).unwrap();
    let reader = open(&config(vec![server.url()]));
    let names: Vec<String> = (0..50).map(|number| format!("user{number}")).collect();
    let users: Vec<&str> = names.iter().map(String::as_str).collect();
    let numbers: Vec<u128> = (100..150).collect();
    let mut sessions = dying.block_on(async {
        let gateway = Gateway::start(open(&impatient(&server)), 1);
        let mut sessions = Vec::new();
        for (user, number) in users.iter().zip(&numbers) {
            sessions.push(gateway.enter(user, *number, None).await.unwrap());
        }
        becomes("all are announced", &*open(&impatient(&server)), &users, &numbers).await;
        sessions
    });
    // Its connections are cut and its tasks gone; nothing says good-bye.
    sessions.drain(..).for_each(std::mem::forget);
    dying.shutdown_background();
    this.block_on(async {
        until("its lease ends", async || {
            found(&*reader, &users[..1]).await == Some(BTreeSet::new())
        })
        .await;
        assert_eq!(
            found(&*reader, &users).await,
            Some(BTreeSet::new()),
            "in one step"
        );
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_that_stops_is_forgotten_at_once() {
    let server = RedisServer::start().await.unwrap();
    let reader = open(&config(vec![server.url()]));
    let gateway = Gateway::start(open(&impatient(&server)), 1);
    let _alice = gateway.enter("alice", 10, None).await.unwrap();
    becomes("it is announced", &*reader, &USERS, &[10]).await;
    let stopped = gateway.context.tasks.stop(Duration::from_secs(10)).await;
    assert!(stopped.forced.is_empty());
    assert_eq!(found(&*reader, &USERS).await, Some(BTreeSet::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_moment_without_an_answer_the_limit_holds_again_long_before_the_lease_is_due() {
    let server = RedisServer::start().await.unwrap();
    let reader = open(&config(vec![server.url()]));
    let gateway = Gateway::start_with_lease(open(&impatient(&server)), 1, Duration::from_secs(600));
    let _first = gateway.enter("alice", 10, Some(1)).await.unwrap();
    becomes("it is announced", &*reader, &USERS, &[10]).await;
    server.pause().unwrap();
    let not_asked = gateway.enter("alice", 11, Some(1)).await;
    assert!(not_asked.is_ok());
    drop(not_asked);
    server.resume().unwrap();
    let asked_again = wait_until(TRUE_AGAIN, async || {
        gateway.enter("alice", 12, Some(1)).await.is_err()
    });
    asked_again.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_of_one_user_concerns_no_other() {
    let server = RedisServer::start().await.unwrap();
    let reader = open(&config(vec![server.url()]));
    let gateway = Gateway::start(open(&config(vec![server.url()])), 1);
    let _bob = gateway.enter("bob", 10, None).await.unwrap();
    becomes("it is announced", &*reader, &["bob"], &[10]).await;
    let newer = ["sb:reg:{alice}:kept", "room", "\u{9}new"];
    command(&server, &["HSET", newer[0], newer[1], newer[2]]).await;
    command(
        &server,
        &["ZADD", "sb:reg:{alice}:until", "9999999999999", "room"],
    )
    .await;
    assert_eq!(gateway.announcer.kept_subscriptions("alice").await, None);
    assert_eq!(
        gateway.announcer.kept_subscriptions("bob").await,
        Some(Vec::new())
    );
    assert!(
        gateway.enter("bob", 11, Some(1)).await.is_err(),
        "the limit is asked for"
    );
    assert_eq!(gateway.metric("not_restored_total"), 1);
    assert_eq!(gateway.metric("not_asked_total"), 0);
}
