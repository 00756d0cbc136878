use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use sqlx::{Connection as _, PgConnection};
use switchboard_database::PostgresSettings;
use switchboard_notify_svc::conformance::{self, StoreFixture};
use switchboard_notify_svc::store::{NotifyStore, PostgresStore};
use switchboard_testkit::PostgresServer;

struct Fixture(PostgresServer);

#[async_trait]
impl StoreFixture for Fixture {
    async fn start() -> Self {
        Self(PostgresServer::start().await.unwrap())
    }

    fn open(&self) -> Arc<dyn NotifyStore> {
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

switchboard_notify_svc::store_conformance!(Fixture);

/// Rows that a transaction holds, of a replica that hangs in the middle, keep nobody from taking the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_held_keep_nobody_waiting() {
    let fixture = Fixture::start().await;
    let store = fixture.open();
    store.migrate().await.unwrap();
    conformance::queue_some(&*store, 10).await;
    let mut holding = PgConnection::connect(&fixture.0.url()).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT id FROM notify_deliveries ORDER BY id LIMIT 4 FOR UPDATE")
        .execute(&mut holding)
        .await
        .unwrap();
    assert_eq!(conformance::claim_all(&*store).await, 6);
    sqlx::raw_sql("ROLLBACK").execute(&mut holding).await.unwrap();
    assert_eq!(conformance::claim_all(&*store).await, 4);
}
