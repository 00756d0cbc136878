use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use switchboard_persistence_svc::conformance::StoreFixture;
use switchboard_persistence_svc::store::{
    MessageStore as _, PostgresSettings, PostgresStore, Store, StoreError,
};
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
