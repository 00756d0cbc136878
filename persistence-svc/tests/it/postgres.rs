use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use switchboard_persistence_svc::conformance::StoreFixture;
use switchboard_persistence_svc::store::{PostgresSettings, PostgresStore, Store};
use switchboard_testkit::PostgresServer;

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
