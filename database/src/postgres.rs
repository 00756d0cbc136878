//! A PostgreSQL server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

/// How PostgreSQL is reached and what it may take.
#[derive(Debug, Clone)]
pub struct PostgresSettings {
    /// `postgres://user@host:port/database`, with the options of libpq in the query.
    pub url: SecretString,
    /// Instead of one in the URL.
    pub password: Option<SecretString>,
    /// Connections, at most.
    pub connections: u32,
    /// How long a call waits for a connection.
    pub wait: Duration,
    /// What one statement may take; the server ends it.
    pub statement: Duration,
}

/// A pool whose waits have an end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PostgresDatabase {
    /// Connections.
    pub pool: PgPool,
    /// Connections, at most.
    most: u32,
    counts: Arc<Counts>,
    /// What a call may take in all: a server that hangs answers nothing, and no time limit of its own ends that.
    limit: Duration,
}

#[derive(Debug, Default)]
struct Counts {
    waits: AtomicU64,
    timeouts: AtomicU64,
}

/// How a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    /// Connections that are open.
    pub open: u32,
    /// Of these, those that nobody uses.
    pub idle: u32,
    /// Connections, at most.
    pub most: u32,
    /// Calls that found all connections in use.
    pub waits: u64,
    /// Calls that ended without an answer.
    pub timeouts: u64,
}

impl PostgresDatabase {
    /// A pool that connects when it is first asked something.
    ///
    /// # Errors
    /// What is wrong with the URL, which is not repeated: it may hold a password.
    pub fn new(settings: &PostgresSettings) -> Result<Self, sqlx::Error> {
        known_options(settings.url.expose_secret())?;
        let mut options: PgConnectOptions = settings.url.expose_secret().parse()?;
        if let Some(password) = &settings.password {
            options = options.password(password.expose_secret());
        }
        let statement = format!("{}", settings.statement.as_millis());
        let options = options.application_name("switchboard").options([
            ("statement_timeout", statement.as_str()),
            ("lock_timeout", statement.as_str()),
            // Of a process that is gone or stopped in the middle: its locks are others' to wait for.
            ("idle_in_transaction_session_timeout", statement.as_str()),
        ]);
        let wait = settings.wait;
        let pool = PgPoolOptions::new()
            .max_connections(settings.connections)
            .acquire_timeout(settings.wait)
            .test_before_acquire(false)
            // Before a connection is given back sqlx asks the server for an answer, and waits as long as it takes.
            .after_release(move |connection, _| {
                Box::pin(async move {
                    tokio::time::timeout(wait, connection.ping())
                        .await
                        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
                        .map(|()| true)
                })
            })
            .connect_lazy_with(options);
        Ok(Self {
            pool,
            most: settings.connections,
            counts: Arc::default(),
            limit: settings.wait + settings.statement * 2,
        })
    }

    /// Waits for `call`, no longer than the waits of the settings allow.
    ///
    /// # Errors
    /// What the call says, or [`sqlx::Error::PoolTimedOut`].
    pub async fn within<T, E: From<sqlx::Error>>(
        &self,
        call: impl Future<Output = Result<T, E>> + Send,
    ) -> Result<T, E> {
        if self.pool.num_idle() == 0 && self.pool.size() >= self.most {
            self.counts.waits.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::timeout(self.limit, call)
            .await
            .unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut.into()))
    }

    /// Counts a call that ended with [`sqlx::Error::PoolTimedOut`].
    pub fn count_timeout(&self) {
        self.counts.timeouts.fetch_add(1, Ordering::Relaxed);
    }

    /// How the pool is.
    pub fn state(&self) -> Pool {
        Pool {
            open: self.pool.size(),
            idle: u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX),
            most: self.most,
            waits: self.counts.waits.load(Ordering::Relaxed),
            timeouts: self.counts.timeouts.load(Ordering::Relaxed),
        }
    }
}

/// sqlx logs an option that it does not know with its value, which may be a secret.
fn known_options(url: &str) -> Result<(), sqlx::Error> {
    const KNOWN: [&str; 18] = [
        "sslmode",
        "ssl-mode",
        "sslrootcert",
        "ssl-root-cert",
        "ssl-ca",
        "sslcert",
        "ssl-cert",
        "sslkey",
        "ssl-key",
        "statement-cache-capacity",
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "password",
        "application_name",
        "options",
    ];
    let query = url.split_once('?').map_or("", |(_, query)| query);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let key = pair.split_once('=').map_or(pair, |(key, _)| key);
        if !KNOWN.contains(&key) {
            return Err(sqlx::Error::Configuration(
                format!("there is no option {key:?}").into(),
            ));
        }
    }
    Ok(())
}
