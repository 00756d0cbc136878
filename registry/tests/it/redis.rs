//! The registry in Redis: the suite on a real server and on a cluster, with a password and TLS, and what is left in
//! the store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use switchboard_registry::Registry;
use switchboard_registry::conformance::{KEPT_PER_USER, RegistryFixture};
use switchboard_registry::redis::{RedisConfig, RedisRegistry};
use switchboard_testkit::{RedisCluster, RedisServer};

/// Patient, as the machine is busy with other tests.
pub(crate) fn config(urls: Vec<String>) -> RedisConfig {
    RedisConfig {
        urls,
        cluster: false,
        username: None,
        password: None,
        ca: None,
        timeout: Duration::from_secs(10),
        prefix: "sb".to_owned(),
        kept_per_user: KEPT_PER_USER,
    }
}

pub(crate) fn open(config: &RedisConfig) -> Arc<dyn Registry> {
    Arc::new(RedisRegistry::new(config).unwrap())
}

struct OnServer(RedisServer);

#[async_trait]
impl RegistryFixture for OnServer {
    async fn start() -> Self {
        Self(RedisServer::start().await.unwrap())
    }

    fn open(&self) -> Arc<dyn Registry> {
        open(&config(vec![self.0.url()]))
    }
}

struct OnCluster(RedisCluster);

#[async_trait]
impl RegistryFixture for OnCluster {
    async fn start() -> Self {
        Self(RedisCluster::start().await.unwrap())
    }

    fn open(&self) -> Arc<dyn Registry> {
        open(&RedisConfig {
            cluster: true,
            ..config(self.0.urls())
        })
    }
}

mod server {
    switchboard_registry::registry_conformance!(super::OnServer);
}

mod cluster {
    switchboard_registry::registry_conformance!(super::OnCluster);
}
