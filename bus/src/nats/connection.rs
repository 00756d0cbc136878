//! One connection to NATS, and what happens to it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

/// Between two times that a server is left, at least; and what leaving may take.
const LEAVE: Duration = Duration::from_secs(1);

/// How a process proves to NATS who it is.
#[derive(Debug, Clone)]
pub enum NatsAuthentication {
    /// Not at all.
    None,
    /// By a credentials file (user JWT and key).
    CredentialsFile(PathBuf),
    /// By a name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: SecretString,
    },
}

/// How NATS is reached. All bounds are per connection.
#[derive(Debug, Clone)]
pub struct NatsConfig {
    /// Servers, each `nats://host:port` or `tls://host:port`. Name all of a cluster: any may be
    /// down at the start.
    pub urls: Vec<String>,
    /// How this process proves who it is.
    pub authentication: NatsAuthentication,
    /// The name that the servers show for this connection.
    pub name: String,
    /// The first tokens of the subjects where answers to this connection go. One for each service,
    /// so that permissions can keep a service from reading another's answers.
    pub inbox_prefix: String,
    /// Between two pings; after two unanswered ones the server is given up and another one tried.
    pub ping_interval: Duration,
    /// For one attempt at one server.
    pub connect_timeout: Duration,
    /// Commands (publishes, mostly) that may wait to be sent; publishers wait beyond that.
    pub client_capacity: usize,
    /// Messages of one subscription that may wait to be taken up; more are dropped, and counted as
    /// a disruption.
    pub subscription_capacity: usize,
}

impl NatsConfig {
    /// The bounds that suit a service, for connections named `name`.
    pub fn new(urls: Vec<String>, authentication: NatsAuthentication, name: &str) -> Self {
        Self {
            urls,
            authentication,
            name: name.to_owned(),
            inbox_prefix: format!("_INBOX_{name}"),
            ping_interval: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(5),
            client_capacity: 2048,
            subscription_capacity: 8192,
        }
    }
}

/// Why NATS was not reached at the start.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A server's address cannot be read.
    #[error("{url:?} is no NATS address: {reason}; write nats://host:port or tls://host:port")]
    Address {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The credentials file cannot be read.
    #[error("NATS credentials file {} cannot be read: name one that holds a user JWT and its key", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A server does not let us in.
    #[error("NATS at {servers} refuses this process ({reason}): correct its user, password or credentials")]
    Refused {
        /// The servers.
        servers: String,
        /// What it says.
        reason: String,
    },
    /// No server answers.
    #[error("no NATS server answers at {servers} ({reason}): start one, or correct the addresses")]
    Unreachable {
        /// The servers.
        servers: String,
        /// What the last one tried did.
        reason: String,
    },
}

/// A connection that repairs itself. Cloning shares it; it closes when the last clone is gone.
#[derive(Clone)]
pub struct NatsConnection {
    client: Client,
    disruptions: watch::Sender<u64>,
    /// When a server was left last.
    left: Arc<Mutex<Option<Instant>>>,
}

impl fmt::Debug for NatsConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConnection")
            .field("state", &self.client.connection_state())
            .finish_non_exhaustive()
    }
}

impl NatsConnection {
    /// Connects to one of the servers; tries each once.
    ///
    /// # Errors
    /// [`ConnectError`] says what is wrong, where, and what to do.
    pub async fn connect(config: &NatsConfig) -> Result<Self, ConnectError> {
        let mut servers = Vec::new();
        for url in &config.urls {
            let server: ServerAddr = url
                .parse()
                .map_err(|error: std::io::Error| ConnectError::Address {
                    url: without_password(url),
                    reason: error.to_string(),
                })?;
            servers.push(server);
        }
        let names: Vec<String> = servers
            .iter()
            .map(|server| format!("{}:{}", server.host(), server.port()))
            .collect();
        let names = names.join(", ");
        if servers.is_empty() {
            return Err(ConnectError::Address {
                url: String::new(),
                reason: "no server is named".to_owned(),
            });
        }
        let disruptions = watch::Sender::new(0);
        let options = options(config, disruptions.clone()).await?;
        match options.connect(servers).await {
            Ok(client) => Ok(Self {
                client,
                disruptions,
                left: Arc::default(),
            }),
            Err(error) => {
                let reason = chain(&error);
                Err(match error.kind() {
                    ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                        ConnectError::Refused {
                            servers: names,
                            reason,
                        }
                    }
                    _ => ConnectError::Unreachable {
                        servers: names,
                        reason,
                    },
                })
            }
        }
    }

    /// Whether a server is connected at this moment.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Leaves the server for any of them, not more often than once a second, however many services of this process ask.
    pub(super) async fn connect_elsewhere(&self) {
        {
            let mut left = self.left.lock();
            if left.is_some_and(|left| left.elapsed() < LEAVE) {
                return;
            }
            *left = Some(Instant::now());
        }
        tracing::warn!("leaving the NATS server for another one: it may have lost the others");
        let leave = self.client.force_reconnect();
        if !matches!(tokio::time::timeout(LEAVE, leave).await, Ok(Ok(()))) {
            tracing::warn!("the connection to NATS is held up and is not left");
        }
    }

    /// Bytes of one message that the connected server takes, at most.
    pub(crate) fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Counts the moments since which messages may be missing.
    pub(super) fn disruptions(&self) -> &watch::Sender<u64> {
        &self.disruptions
    }
}

async fn options(
    config: &NatsConfig,
    disruptions: watch::Sender<u64>,
) -> Result<ConnectOptions, ConnectError> {
    let options = match &config.authentication {
        NatsAuthentication::None => ConnectOptions::new(),
        NatsAuthentication::CredentialsFile(path) => {
            let read = ConnectOptions::with_credentials_file(path).await;
            read.map_err(|source| ConnectError::Credentials {
                path: path.clone(),
                source,
            })?
        }
        NatsAuthentication::Password { user, password } => {
            ConnectOptions::with_user_and_password(user.clone(), password.expose_secret().to_owned())
        }
    };
    let was_connected = AtomicBool::new(false);
    let watched = move |event: Event| {
        on_event(&event, &was_connected, &disruptions);
        std::future::ready(())
    };
    Ok(options
        .name(&config.name)
        .custom_inbox_prefix(&config.inbox_prefix)
        .ping_interval(config.ping_interval)
        .connection_timeout(config.connect_timeout)
        .client_capacity(config.client_capacity.max(1))
        .subscription_capacity(config.subscription_capacity.max(1))
        // Quickly at first, for a server that comes back; then often enough to be back soon.
        .reconnect_delay_callback(|tries| {
            let tries = u32::try_from(tries).unwrap_or(u32::MAX);
            Duration::from_millis(50)
                .saturating_mul(tries)
                .min(Duration::from_millis(250))
        })
        .event_callback(watched))
}

fn on_event(event: &Event, was_connected: &AtomicBool, disruptions: &watch::Sender<u64>) {
    let may_have_lost = match event {
        Event::Connected => {
            let again = was_connected.swap(true, Ordering::Relaxed);
            if again {
                tracing::info!("connection to NATS is back");
            }
            again
        }
        Event::Disconnected => {
            tracing::warn!("connection to NATS lost, trying its servers");
            true
        }
        Event::SlowConsumer(_) => true,
        Event::Closed => {
            // The ordinary end: the last handle is gone. Whoever still needs the bus sees it closed.
            tracing::debug!("connection to NATS closed");
            true
        }
        // A permission that is missing comes this way, and nothing else tells of it.
        Event::ServerError(error) => {
            tracing::error!(%error, "NATS refuses something: see to this service's permissions");
            false
        }
        Event::ClientError(error) => {
            // Each failed try to connect again; the loss and the return are told by themselves.
            tracing::debug!(%error, "NATS client");
            false
        }
        Event::LameDuckMode | Event::Draining => false,
    };
    if may_have_lost {
        disruptions.send_modify(|count| *count += 1);
    }
}

/// An error with what caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors print their source themselves.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// An address fit for a message that anybody may read.
fn without_password(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, server)) => format!("…@{server}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(urls: &[&str]) -> NatsConfig {
        let urls = urls.iter().map(|url| (*url).to_owned()).collect();
        NatsConfig::new(urls, NatsAuthentication::None, "test")
    }

    #[test]
    fn what_may_have_lost_messages_counts() {
        let (was_connected, disruptions) = (AtomicBool::new(false), watch::Sender::new(0));
        for (event, count) in [
            (Event::Connected, 0),
            (Event::LameDuckMode, 0),
            (Event::Disconnected, 1),
            (Event::Connected, 2),
            (Event::SlowConsumer(7), 3),
        ] {
            on_event(&event, &was_connected, &disruptions);
            assert_eq!(*disruptions.borrow(), count, "{event}");
        }
    }

    #[tokio::test]
    async fn missing_server_is_one_clear_error() {
        // Nobody listens on port 1.
        let error = NatsConnection::connect(&config(&["nats://127.0.0.1:1"]))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ConnectError::Unreachable { .. }), "{text}");
        assert!(
            text.contains("127.0.0.1:1") && text.contains("start one"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn wrong_address_does_not_show_the_password() {
        let error = NatsConnection::connect(&config(&["nats://me:hush@a:b:c"]))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ConnectError::Address { .. }), "{text}");
        assert!(!text.contains("hush"), "{text}");
    }

    #[tokio::test]
    async fn missing_credentials_file_is_named() {
        let config = NatsConfig {
            authentication: NatsAuthentication::CredentialsFile("missing.creds".into()),
            ..config(&["nats://127.0.0.1:1"])
        };
        let text = NatsConnection::connect(&config).await.unwrap_err().to_string();
        assert!(text.contains("missing.creds"), "{text}");
    }
}
