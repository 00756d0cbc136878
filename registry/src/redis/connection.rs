//! The connection to Redis: made when it is first needed, anew when it stopped answering, and not at all while the
//! circuit is open.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{Client, Cmd, Pipeline, RedisFuture, RedisResult, Value};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::circuit::{Caller, Circuit};
use crate::registry::RegistryError;

/// Commands that wait for the socket; more wait at their callers.
const PIPELINE: usize = 1024;

/// Where Redis is.
pub(super) enum Endpoint {
    /// One server, or whoever answers at its address.
    One(Box<Client>),
    /// Nodes of a cluster.
    Cluster(Box<ClusterClient>),
}

/// An open connection; clones share it.
#[derive(Clone)]
pub struct Connection(Inner);

#[derive(Clone)]
enum Inner {
    One(ConnectionManager),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.0 {
            Inner::One(one) => one.req_packed_command(cmd),
            Inner::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.0 {
            Inner::One(one) => one.req_packed_commands(cmd, offset, count),
            Inner::Cluster(cluster) => cluster.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Inner::One(one) => one.get_db(),
            Inner::Cluster(cluster) => cluster.get_db(),
        }
    }
}

impl Endpoint {
    async fn connect(&self, timeout: Duration) -> RedisResult<Connection> {
        match self {
            Self::One(client) => {
                let config = ConnectionManagerConfig::new()
                    .set_number_of_retries(1)
                    .set_min_delay(Duration::from_millis(10))
                    .set_max_delay(Duration::from_millis(100))
                    .set_connection_timeout(Some(timeout))
                    .set_response_timeout(Some(timeout))
                    .set_pipeline_buffer_size(PIPELINE);
                Ok(Connection(Inner::One(
                    client.get_connection_manager_lazy(config)?,
                )))
            }
            Self::Cluster(client) => Ok(Connection(Inner::Cluster(client.get_async_connection().await?))),
        }
    }
}

/// The link to Redis: see the module.
pub struct Link {
    endpoint: Endpoint,
    timeout: Duration,
    connection: Mutex<Arc<OnceCell<Connection>>>,
    circuit: Mutex<Circuit>,
}

impl Link {
    pub(super) fn new(endpoint: Endpoint, timeout: Duration) -> Self {
        Self {
            endpoint,
            timeout,
            connection: Mutex::default(),
            circuit: Mutex::default(),
        }
    }

    /// Makes a call, which gets the time limit, connecting included.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`]: the call failed, took too long, or was not made.
    pub async fn call<T, F>(
        &self,
        caller: Caller,
        call: impl FnOnce(Connection) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        if !self.circuit.lock().admits(caller, Instant::now()) {
            return Err(RegistryError::Unavailable(
                "it did not answer a moment ago, and is not asked meanwhile".to_owned(),
            ));
        }
        let cell = Arc::clone(&self.connection.lock());
        let called = async {
            let connection = cell
                .get_or_try_init(|| self.endpoint.connect(self.timeout))
                .await?;
            call(connection.clone()).await
        };
        let why = match tokio::time::timeout(self.timeout, called).await {
            Ok(Ok(answer)) => {
                if self.circuit.lock().answered() {
                    tracing::info!("the registry's Redis answers again");
                }
                return Ok(answer);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.timeout),
        };
        self.note_failure(&cell, &why);
        Err(RegistryError::Unavailable(why))
    }

    fn note_failure(&self, failed: &Arc<OnceCell<Connection>>, why: &str) {
        let (opened, is_open) = {
            let mut circuit = self.circuit.lock();
            (circuit.failed(Instant::now()), circuit.is_open())
        };
        if opened {
            tracing::warn!(
                why,
                "the registry's Redis does not answer (registry.redis): connecting and publishing go on, see docs/registry.md"
            );
        }
        if is_open {
            // A manager whose connecting failed for another reason than the network (a wrong password, a server that
            // still loads) would return that error for ever.
            let mut current = self.connection.lock();
            if Arc::ptr_eq(&current, failed) {
                *current = Arc::default();
            }
        }
    }
}
