use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use switchboard_database::SqliteSettings;
use switchboard_notify_svc::conformance::StoreFixture;
use switchboard_notify_svc::store::{NotifyStore, SqliteStore};
use tempfile::TempDir;

struct Fixture(TempDir);

#[async_trait]
impl StoreFixture for Fixture {
    async fn start() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Arc<dyn NotifyStore> {
        Arc::new(SqliteStore::new(&SqliteSettings {
            path: self.0.path().join("notify.db"),
            connections: 2,
            wait: Duration::from_secs(20),
        }))
    }
}

switchboard_notify_svc::store_conformance!(Fixture);
