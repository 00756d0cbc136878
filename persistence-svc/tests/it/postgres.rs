use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prost::Message as _;
use secrecy::SecretString;
use sqlx::{Connection as _, PgConnection};
use switchboard_persistence_svc::conformance::StoreFixture;
use switchboard_persistence_svc::keeping::Keeper;
use switchboard_persistence_svc::store::{
    History, MessageStore as _, PostgresSettings, PostgresStore, Row, Store, StoreError, Written,
};
use switchboard_proto::bus::{Message, Sender};
use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};
use switchboard_proto::time::now_us;
use switchboard_testkit::{PostgresServer, wait_until};

struct Fixture(PostgresServer);

#[async_trait]
impl StoreFixture for Fixture {
    async fn start() -> Self {
        Self(PostgresServer::start().await.unwrap())
    }

    fn open(&self) -> Arc<dyn Store> {
        let settings = PostgresSettings {
            url: SecretString::from(self.0.url()),
            password: None,
            connections: 4,
            wait: Duration::from_secs(20),
            statement: Duration::from_secs(20),
        };
        Arc::new(PostgresStore::new(&settings).unwrap())
    }
}

switchboard_persistence_svc::store_conformance!(Fixture);
switchboard_persistence_svc::conversations_conformance!(Fixture);

mod search {
    use super::Fixture;

    switchboard_persistence_svc::search_conformance!(Fixture);
}

/// A statement that hangs is ended by the server, whoever waits for its connection is not kept, and both are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_for_the_server_are_bounded_and_counted() {
    let server = PostgresServer::start().await.unwrap();
    let url = server.url();
    let settings = PostgresSettings {
        url: SecretString::from(url.clone()),
        password: None,
        connections: 1,
        wait: Duration::from_millis(200),
        statement: Duration::from_secs(2),
    };
    let store = PostgresStore::new(&settings).unwrap();
    store.migrate().await.unwrap();
    store.heads(&["room:1"]).await.unwrap();
    let before = store.pool().unwrap();
    assert_eq!((before.open, before.most), (1, 1));
    assert_eq!(before.timeouts, 0);

    let hold = server.psql(
        &url,
        "BEGIN; LOCK TABLE channels IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600)",
    );
    let look = async {
        let locks = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'channels'::regclass";
        wait_until(Duration::from_secs(20), async || {
            server
                .psql(&url, locks)
                .await
                .is_ok_and(|count| count.trim() == "1")
        })
        .await
        .unwrap();
        let (hung, waited) = tokio::join!(store.heads(&["room:1"]), store.heads(&["room:2"]));
        let hung = hung.unwrap_err();
        let code = match &hung {
            StoreError::Unavailable(sqlx::Error::Database(ended)) => ended.code(),
            _ => None,
        };
        // Ended for its time, or for that of its lock: the same here.
        assert!(matches!(code.as_deref(), Some("57014" | "55P03")), "{hung:?}");
        let waited = waited.unwrap_err();
        assert!(
            matches!(waited, StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
            "{waited:?}"
        );
        let after = store.pool().unwrap();
        assert_eq!(after.timeouts, 1);
        assert!(after.waits > before.waits, "{after:?}");
    };
    tokio::select! {
        ended = hold => panic!("{ended:?}"),
        () = look => {}
    }
}

/// What is being written when its sender is erased is blank in the end: the erasure waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erasure_finds_what_is_being_written() {
    let fixture = Fixture::start().await;
    let (store, url) = (fixture.open(), fixture.0.url());
    store.migrate().await.unwrap();
    let until_us = now_us();
    let message = Message {
        channel: "chat:1".to_owned(),
        payload: "\"a secret\"".into(),
        sender: Some(Sender {
            user: "alice".to_owned(),
            ..Sender::default()
        }),
        ..Message::default()
    };
    let written = Written {
        shard: ShardId::new(3).unwrap(),
        log: LogEpoch {
            ordinal: 1,
            random: 7,
        },
        read_after: Sequence(0),
        after: Sequence(0),
        up_to: Sequence(1),
        owner_epoch: OwnerEpoch(1),
        rows: vec![Row {
            offset: Offset::new(Sequence(1), 0),
            time_us: until_us,
            channel: "chat:1".to_owned(),
            sender: Some("alice".to_owned()),
            message: message.encode_to_vec().into(),
            change: None,
        }],
        dead: Vec::new(),
    };
    // The write has looked for erasures, and is kept from its end.
    let mut blocking = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE channels IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut blocking)
        .await
        .unwrap();
    let waiting = async |kind: &str| {
        let sql = format!("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = '{kind}'");
        let waiting = fixture.0.psql(&url, &sql).await;
        waiting.is_ok_and(|count| count.trim() != "0")
    };
    let keeper = Keeper::new(Arc::clone(&store), None);
    let is_erased = std::sync::atomic::AtomicBool::new(false);
    let erasing = async {
        wait_until(Duration::from_secs(15), || waiting("relation"))
            .await
            .unwrap();
        let blanked = keeper.erase("alice", until_us).await.unwrap();
        is_erased.store(true, std::sync::atomic::Ordering::SeqCst);
        blanked
    };
    let going_on = async {
        wait_until(Duration::from_secs(15), async || {
            is_erased.load(std::sync::atomic::Ordering::SeqCst) || waiting("advisory").await
        })
        .await
        .unwrap();
        sqlx::raw_sql("ROLLBACK").execute(&mut blocking).await.unwrap();
    };
    let (progress, blanked, ()) = tokio::join!(store.write(&written), erasing, going_on);
    assert_eq!(progress.unwrap().read_to, Sequence(1));
    assert_eq!(blanked, 1);
    let page = store.history(&History::of("chat:1", 9)).await.unwrap();
    let text = String::from_utf8_lossy(&page.messages[0].message).into_owned();
    assert!(!text.contains("secret") && !text.contains("alice"), "{text:?}");
}
