//! The registry in Redis, alone or as a cluster, and the link to it, which the presence store uses too.
//!
//! A user's sessions lie with the user, so that they are counted in one place; whether they still hold is said by
//! their gateway's lease, which lies elsewhere. So a gateway's end needs no more than that its lease expires, and
//! whoever reads looks at the leases of the gateways that it found.
//!
//! Everything has an end: leases and users of a gateway with the lease, sessions [`FORGOTTEN_AFTER`] they were last announced,
//! kept subscriptions at their own.

mod circuit;
mod connection;
mod keys;
mod scripts;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use redis::cluster::ClusterClient;
use redis::{
    Client, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo, RedisError, ScriptInvocation,
    TlsCertificates,
};
use secrecy::{ExposeSecret as _, SecretString};
use switchboard_proto::channel::{ChannelName, MAX_CHANNEL_LENGTH};
use switchboard_proto::format::{self, FORMAT, FormatError};
use switchboard_proto::ids::Incarnation;
use switchboard_proto::registry::{RegisteredSession, StoredSubscription};
use uuid::Uuid;

pub use self::circuit::Caller;
use self::connection::Endpoint;
pub use self::connection::{Connection, Link};
use self::keys::Keys;
use self::scripts::Scripts;
use crate::registry::{
    Admission, Announced, Change, Device, FORGOTTEN_AFTER, KeepError, KeptSubscription, LONGEST_KEPT, Lease,
    MAX_SESSIONS_PER_USER, NewSession, Registry, RegistryError, Session, SubscriptionOptions,
    SubscriptionOverrides, UserPage,
};

/// Scripts of one announcement that are on the way at a time.
const CONCURRENT: usize = 64;

/// Values as Redis returns them, by field.
type Values = HashMap<String, Bytes>;

/// How Redis is reached.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://host:port` or `rediss://host:port`; of a cluster, some of its nodes.
    pub urls: Vec<String>,
    /// Whether the keys are shared out among nodes (Redis Cluster).
    pub cluster: bool,
    /// The user, where it is another than `default`.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretString>,
    /// Who signs the servers' certificates, in PEM format; `None`: as the system says.
    pub ca: Option<Vec<u8>>,
    /// What a call may take, connecting included.
    pub timeout: Duration,
    /// What all keys begin with.
    pub prefix: String,
    /// Subscriptions that are kept for a user, at most.
    pub kept_per_user: usize,
}

/// Why Redis cannot be used as configured. Whether it is there is not asked.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No server is named.
    #[error("no Redis server is named (registry.redis.urls)")]
    NoServer,
    /// An address, or what goes with it.
    #[error(
        "not an address of a Redis server, or not one that can be used with the other settings (registry.redis)"
    )]
    Address(#[from] RedisError),
}

/// See the module.
pub struct RedisRegistry {
    link: Link,
    keys: Keys,
    scripts: Scripts,
    kept_per_user: usize,
}

impl RedisRegistry {
    /// A registry that connects when it is first asked something.
    ///
    /// # Errors
    /// [`OpenError`], where it never could.
    pub fn new(config: &RedisConfig) -> Result<Self, OpenError> {
        Ok(Self {
            link: Link::open(config)?,
            keys: Keys::new(&config.prefix),
            scripts: Scripts::new(),
            kept_per_user: config.kept_per_user,
        })
    }

    /// Runs a script.
    async fn run<T: redis::FromRedisValue>(
        &self,
        caller: Caller,
        invocation: &ScriptInvocation<'_>,
    ) -> Result<T, RegistryError> {
        let call = async |mut connection| invocation.invoke_async(&mut connection).await;
        self.link.call(caller, call).await
    }

    async fn announce_user(&self, lease: Lease, change: &Change) -> Result<usize, RegistryError> {
        let mut script = self.scripts.announce.prepare_invoke();
        script
            .key(&self.keys.sessions(&change.user))
            .arg(millis(FORGOTTEN_AFTER))
            .arg(MAX_SESSIONS_PER_USER)
            .arg(change.disconnected.len());
        for client in &change.disconnected {
            script.arg(client.to_string());
        }
        for session in &change.connected {
            script
                .arg(session.client.to_string())
                .arg(encode(lease, session).as_ref());
        }
        self.run(Caller::Background, &script).await
    }

    /// Which users are at the gateway. Whether the lease is in force.
    async fn announce_users(&self, lease: Lease, changes: &[Change]) -> Result<bool, RegistryError> {
        let (here, gone): (Vec<&Change>, Vec<&Change>) = changes.iter().partition(|change| change.is_here);
        let mut script = self.scripts.users.prepare_invoke();
        script
            .key(&self.keys.gateway(lease.gateway))
            .arg(lease_value(lease.number))
            .arg(gone.len());
        for change in gone.iter().chain(&here) {
            script.arg(&change.user);
        }
        self.run(Caller::Background, &script).await
    }

    /// All that is written down of a user's sessions, by connection.
    async fn stored(&self, user: &str) -> Result<Values, RegistryError> {
        let [sessions, _] = self.keys.sessions(user);
        let mut command = redis::cmd("HGETALL");
        command.arg(sessions);
        let call = async |mut connection| command.query_async(&mut connection).await;
        self.link.call(Caller::Waiting, call).await
    }

    /// The leases in force of some gateways.
    async fn leases(
        &self,
        gateways: HashSet<Incarnation>,
    ) -> Result<HashMap<Incarnation, String>, RegistryError> {
        // One command each: on a cluster they are on different nodes.
        let asked = gateways.into_iter().map(|gateway| async move {
            let [lease, _] = self.keys.gateway(gateway);
            let mut command = redis::cmd("GET");
            command.arg(lease);
            let call = async |mut connection| command.query_async(&mut connection).await;
            let lease: Option<String> = self.link.call(Caller::Waiting, call).await?;
            Ok::<_, RegistryError>((gateway, lease))
        });
        let leases: Vec<_> = stream::iter(asked)
            .buffer_unordered(CONCURRENT)
            .try_collect()
            .await?;
        let held = leases
            .into_iter()
            .filter_map(|(gateway, lease)| Some((gateway, lease?)));
        Ok(held.collect())
    }

    /// Those that hold, and what is written down of those that do not.
    async fn sorted_out(&self, stored: Values) -> Result<(Vec<Session>, Values), RegistryError> {
        let mut read = Vec::with_capacity(stored.len());
        for (client, value) in stored {
            let session = decode(&client, value.clone())?;
            read.push((client, value, session));
        }
        let gateways = read.iter().map(|(_, _, (session, _))| session.gateway).collect();
        let leases = self.leases(gateways).await?;
        let mut there = Vec::new();
        let mut gone = Values::new();
        for (client, value, (session, lease)) in read {
            match leases.get(&session.gateway) {
                Some(held) if *held == lease_value(lease) => there.push(session),
                _ => drop(gone.insert(client, value)),
            }
        }
        Ok((there, gone))
    }

    async fn try_admit(
        &self,
        lease: Lease,
        user: &str,
        session: &NewSession,
        limit: usize,
        gone: &Values,
    ) -> Result<bool, RegistryError> {
        let mut script = self.scripts.admit.prepare_invoke();
        script
            .key(&self.keys.sessions(user))
            .arg(millis(FORGOTTEN_AFTER))
            .arg(limit)
            .arg(session.client.to_string())
            .arg(encode(lease, session).as_ref());
        for (client, value) in gone {
            script.arg(client).arg(value.as_ref());
        }
        self.run(Caller::Waiting, &script).await
    }
}

impl Link {
    /// A link that connects when it is first used.
    ///
    /// # Errors
    /// [`OpenError`], where it never could.
    pub fn open(config: &RedisConfig) -> Result<Self, OpenError> {
        let mut settings = RedisConnectionInfo::default();
        if let Some(username) = &config.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &config.password {
            settings = settings.set_password(password.expose_secret());
        }
        let servers = config
            .urls
            .iter()
            .map(|url| {
                let info = url.as_str().into_connection_info()?;
                let database = info.redis_settings().db();
                Ok(info.set_redis_settings(settings.clone().set_db(database)))
            })
            .collect::<Result<Vec<ConnectionInfo>, RedisError>>()?;
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: config.ca.clone(),
        };
        let is_tls = config.urls.iter().any(|url| url.starts_with("rediss:"));
        if is_tls {
            // The client takes the process's provider of cryptography, and panics where none was chosen and features
            // leave more than one. Whoever chose before stays in force.
            rustls::crypto::aws_lc_rs::default_provider()
                .install_default()
                .ok();
        }
        let endpoint = match servers.first() {
            None => return Err(OpenError::NoServer),
            Some(_) if config.cluster => {
                let wait = u64::try_from(config.timeout.as_millis()).unwrap_or(u64::MAX);
                let mut builder = ClusterClient::builder(servers)
                    .retries(3)
                    .max_retry_wait(wait)
                    .min_retry_wait(10)
                    .connection_timeout(config.timeout)
                    .response_timeout(config.timeout);
                if is_tls {
                    builder = builder.certs(certificates);
                }
                Endpoint::Cluster(Box::new(builder.build()?))
            }
            Some(server) => Endpoint::One(Box::new(match is_tls {
                true => Client::build_with_tls(server.clone(), certificates)?,
                false => Client::open(server.clone())?,
            })),
        };
        Ok(Self::new(endpoint, config.timeout))
    }
}

#[async_trait]
impl Registry for RedisRegistry {
    async fn begin(&self, lease: Lease, lasts: Duration) -> Result<(), RegistryError> {
        let mut script = self.scripts.begin.prepare_invoke();
        script
            .key(&self.keys.gateway(lease.gateway))
            .arg(lease_value(lease.number))
            .arg(millis(lasts));
        self.run(Caller::Background, &script).await
    }

    async fn renew(&self, lease: Lease, lasts: Duration) -> Result<bool, RegistryError> {
        let mut script = self.scripts.renew.prepare_invoke();
        script
            .key(&self.keys.gateway(lease.gateway))
            .arg(lease_value(lease.number))
            .arg(millis(lasts));
        self.run(Caller::Background, &script).await
    }

    async fn release(&self, lease: Lease) -> Result<(), RegistryError> {
        let mut script = self.scripts.release.prepare_invoke();
        script
            .key(&self.keys.gateway(lease.gateway))
            .arg(lease_value(lease.number));
        self.run(Caller::Background, &script).await
    }

    async fn announce(&self, lease: Lease, changes: &[Change]) -> Result<Announced, RegistryError> {
        // First, so that nothing more is asked of a store that lost the lease.
        if !self.announce_users(lease, changes).await? {
            return Ok(Announced {
                held: false,
                left_out: 0,
            });
        }
        let calls: Vec<_> = changes
            .iter()
            .map(|change| self.announce_user(lease, change))
            .collect();
        let left_out = stream::iter(calls)
            .buffer_unordered(CONCURRENT)
            .try_fold(0, async |sum, left_out| Ok(sum + left_out))
            .await?;
        Ok(Announced { held: true, left_out })
    }

    async fn admit(
        &self,
        lease: Lease,
        user: &str,
        session: &NewSession,
        limit: usize,
    ) -> Result<Admission, RegistryError> {
        let limit = limit.min(MAX_SESSIONS_PER_USER);
        if self
            .try_admit(lease, user, session, limit, &Values::new())
            .await?
        {
            return Ok(Admission::Admitted);
        }
        // Some that count may be no more.
        let (_, gone) = self.sorted_out(self.stored(user).await?).await?;
        let fits = !gone.is_empty() && self.try_admit(lease, user, session, limit, &gone).await?;
        Ok(match fits {
            true => Admission::Admitted,
            false => Admission::OverLimit,
        })
    }

    async fn sessions(&self, user: &str) -> Result<Vec<Session>, RegistryError> {
        let (there, _) = self.sorted_out(self.stored(user).await?).await?;
        Ok(there)
    }

    async fn users(
        &self,
        gateway: Incarnation,
        after: Option<u64>,
        count: usize,
    ) -> Result<UserPage, RegistryError> {
        let [_, users] = self.keys.gateway(gateway);
        let mut command = redis::cmd("SSCAN");
        command
            .arg(users)
            .arg(after.unwrap_or(0))
            .arg("COUNT")
            .arg(count.max(1));
        let call = async |mut connection| command.query_async(&mut connection).await;
        let (next, users): (u64, Vec<String>) = self.link.call(Caller::Waiting, call).await?;
        Ok(UserPage {
            users,
            next: Some(next).filter(|next| *next != 0),
        })
    }

    async fn keep_subscription(
        &self,
        user: &str,
        channel: &ChannelName,
        options: &SubscriptionOptions,
        lasts: Duration,
    ) -> Result<(), KeepError> {
        options.check()?;
        let value = format::encode(&StoredSubscription {
            info: options.info.clone(),
            data: options.data.clone(),
            presence: options.overrides.presence,
            join_leave: options.overrides.join_leave,
            force_recovery: options.overrides.force_recovery,
            force_positioning: options.overrides.force_positioning,
            force_push_join_leave: options.overrides.force_push_join_leave,
        });
        let mut script = self.scripts.keep.prepare_invoke();
        script
            .key(&self.keys.kept(user))
            .arg(self.kept_per_user)
            .arg(millis(lasts.min(LONGEST_KEPT)))
            .arg(channel.as_str())
            .arg(value.as_ref());
        match self.run(Caller::Waiting, &script).await? {
            true => Ok(()),
            false => Err(KeepError::Full {
                limit: self.kept_per_user,
            }),
        }
    }

    async fn forget_subscription(&self, user: &str, channel: &ChannelName) -> Result<bool, RegistryError> {
        let mut script = self.scripts.forget.prepare_invoke();
        script.key(&self.keys.kept(user)).arg(channel.as_str());
        self.run(Caller::Waiting, &script).await
    }

    async fn kept_subscriptions(&self, user: &str) -> Result<Vec<KeptSubscription>, RegistryError> {
        let mut script = self.scripts.kept.prepare_invoke();
        script.key(&self.keys.kept(user));
        let stored: Vec<(String, u64, Bytes)> = self.run(Caller::Waiting, &script).await?;
        let mut kept = stored
            .into_iter()
            .map(|(channel, until_ms, value)| {
                let stored: StoredSubscription = format::decode(value)?;
                let channel = ChannelName::parse(&channel, MAX_CHANNEL_LENGTH).map_err(body)?;
                Ok(KeptSubscription {
                    channel,
                    info: stored.info,
                    data: stored.data,
                    overrides: SubscriptionOverrides {
                        presence: stored.presence,
                        join_leave: stored.join_leave,
                        force_recovery: stored.force_recovery,
                        force_positioning: stored.force_positioning,
                        force_push_join_leave: stored.force_push_join_leave,
                    },
                    until_ms,
                })
            })
            .collect::<Result<Vec<_>, FormatError>>()?;
        kept.sort_by(|one, other| one.channel.cmp(&other.channel));
        Ok(kept)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What stands in Redis while a lease is in force.
fn lease_value(number: u64) -> String {
    format!("{FORMAT}:{number}")
}

fn encode(lease: Lease, session: &NewSession) -> Bytes {
    format::encode(&RegisteredSession {
        gateway: lease.gateway.to_bytes(),
        lease: lease.number,
        since_us: session.since_us,
        client_name: session.device.name().to_owned(),
        client_version: session.device.version().to_owned(),
    })
}

/// A session, and the number of the lease that it holds under.
fn decode(client: &str, value: Bytes) -> Result<(Session, u64), FormatError> {
    let stored: RegisteredSession = format::decode(value)?;
    let session = Session {
        client: Uuid::try_parse(client).map_err(body)?,
        gateway: Incarnation::try_from(stored.gateway.as_ref()).map_err(body)?,
        device: Device::new(&stored.client_name, &stored.client_version),
        since_us: stored.since_us,
    };
    Ok((session, stored.lease))
}

fn body(error: impl std::fmt::Display) -> FormatError {
    FormatError::Body(error.to_string())
}

/// Whether a text can be understood as the address of a server.
pub(crate) fn is_address(url: &str) -> bool {
    url.into_connection_info().is_ok()
}
