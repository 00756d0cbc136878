//! The section `[registry]`: where it is known who is connected where.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use switchboard_service_kit::config::{Document, Section};

use crate::memory::MemoryRegistry;
use crate::redis::{self, Link, RedisConfig, RedisRegistry};
use crate::registry::Registry;

/// The section `[registry]` with its backend's own section.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Where sessions are registered.
    pub backend: Backend,
    /// How long a gateway's sessions are found after it was heard of last.
    pub lease: Duration,
    /// Subscriptions that are kept for a user, at most.
    pub kept_per_user: usize,
}

/// A backend with its own settings.
#[derive(Debug, Clone)]
pub enum Backend {
    /// In this process.
    Memory,
    /// In Redis.
    Redis(RedisSettings),
}

/// An open registry.
#[derive(Clone)]
pub struct OpenRegistry {
    /// The registry.
    pub registry: Arc<dyn Registry>,
    /// How long a gateway's sessions are found after it was heard of last.
    pub lease: Duration,
}

/// How Redis is reached.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// Servers, each `redis://host:port` or `rediss://host:port`.
    pub urls: Vec<String>,
    /// Whether they are nodes of a cluster.
    pub cluster: bool,
    /// The user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretString>,
    /// A file with the certificates of those who sign the servers'.
    pub ca_file: Option<String>,
    /// What a call may take.
    pub timeout: Duration,
    /// What all keys begin with.
    pub prefix: String,
}

/// Why the registry cannot be opened. Whether Redis is there is not asked.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file with certificates.
    #[error("cannot read {path} (registry.redis.ca_file)")]
    CaFile {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The address of Redis.
    #[error(transparent)]
    Redis(#[from] redis::OpenError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Memory,
    Redis,
}

impl RegistryConfig {
    /// Reads `[registry]` and `[registry.redis]`.
    pub fn read(document: &mut Document) -> Self {
        let mut registry = document.section("registry");
        let kinds = [("memory", Kind::Memory), ("redis", Kind::Redis)];
        let help = "Where it is known which user is connected to which gateway: in this one process, or in Redis, for several \
                    gateways.";
        let kind = registry.choice("backend", &kinds, "memory", help);
        let seconds = Duration::from_secs;
        let lease = registry.duration(
            "lease",
            seconds(15),
            seconds(3)..=seconds(600),
            "How long the sessions of a gateway that is gone are still found. It is heard of three times as often.",
        );
        let kept_per_user = registry.integer(
            "kept_per_user",
            100,
            1..=10_000,
            "Subscriptions that are kept for a user over connections, at most; a further one is refused.",
        );
        // Read always, so that a file may keep the settings of the backend not in use.
        let redis = RedisSettings::read(&mut document.section("registry.redis"));
        Self {
            backend: match kind {
                Kind::Memory => Backend::Memory,
                Kind::Redis => Backend::Redis(redis),
            },
            lease,
            kept_per_user: usize::try_from(kept_per_user).unwrap_or(usize::MAX),
        }
    }

    /// Opens the registry. Redis is connected to when it is first asked something, and may be missing until then.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and where.
    pub fn open(&self) -> Result<OpenRegistry, OpenError> {
        let registry: Arc<dyn Registry> = match &self.backend {
            Backend::Memory => Arc::new(MemoryRegistry::new(self.kept_per_user)),
            Backend::Redis(settings) => Arc::new(RedisRegistry::new(&self.redis(settings)?)?),
        };
        Ok(OpenRegistry {
            registry,
            lease: self.lease,
        })
    }

    /// The link to Redis and what all keys begin with, for who keeps something else there; `None`: it is all in this process.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and where.
    pub fn open_link(&self) -> Result<Option<(Link, String)>, OpenError> {
        match &self.backend {
            Backend::Memory => Ok(None),
            Backend::Redis(settings) => {
                let config = self.redis(settings)?;
                Ok(Some((Link::open(&config)?, config.prefix)))
            }
        }
    }

    fn redis(&self, settings: &RedisSettings) -> Result<RedisConfig, OpenError> {
        let ca = match &settings.ca_file {
            None => None,
            Some(path) => Some(std::fs::read(path).map_err(|source| OpenError::CaFile {
                path: path.clone(),
                source,
            })?),
        };
        Ok(RedisConfig {
            urls: settings.urls.clone(),
            cluster: settings.cluster,
            username: settings.username.clone(),
            password: settings.password.clone(),
            ca,
            timeout: settings.timeout,
            prefix: settings.prefix.clone(),
            kept_per_user: self.kept_per_user,
        })
    }
}

impl RedisSettings {
    fn read(section: &mut Section<'_>) -> Self {
        let urls = section.list(
            "urls",
            &["redis://127.0.0.1:6379"],
            "Redis, as redis://host:port or rediss://host:port (TLS); of a cluster, some of its nodes.",
        );
        let cluster = section.boolean(
            "cluster",
            false,
            "Redis Cluster: the keys are shared out among nodes.",
        );
        check_urls(section, &urls, cluster);
        let username =
            section.optional_text("username", "Redis user; without one it is Redis's default user.");
        let password = section.secret("password", "Password of that user.");
        if username.is_some() && password.is_none() {
            section.fault(
                "username",
                "given without password",
                "add password, or remove username",
            );
        }
        let ca_file = section.optional_text(
            "ca_file",
            "Certificates (PEM) of those who sign the servers' for rediss://; without it, those that this system trusts.",
        );
        let timeout = section.duration(
            "timeout",
            Duration::from_millis(500),
            Duration::from_millis(10)..=Duration::from_secs(3),
            "What a call may take, connecting included; a client's connect waits for its answers a second at most.",
        );
        let prefix = section.text(
            "prefix",
            "sb",
            "What all keys begin with, so that installations can share a Redis.",
        );
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if prefix.is_empty() || prefix.len() > 32 || !prefix.bytes().all(is_plain) {
            section.fault(
                "prefix",
                format!("{prefix:?} cannot begin a key"),
                "use 1 to 32 letters, digits, - and _",
            );
        }
        Self {
            urls,
            cluster,
            username,
            password,
            ca_file,
            timeout,
            prefix,
        }
    }
}

fn check_urls(section: &mut Section<'_>, urls: &[String], cluster: bool) {
    if urls.is_empty() {
        let remedy = "name at least one, such as [\"redis://127.0.0.1:6379\"]";
        section.fault("urls", "names no server", remedy);
    }
    if urls.len() > 1 && !cluster {
        section.fault(
            "urls",
            "names several servers, but only a cluster has several",
            "name one, or set registry.redis.cluster = true",
        );
    }
    for url in urls {
        let host = ["redis://", "rediss://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme))
            .unwrap_or_default();
        // The password belongs into its own key, where it is never printed.
        if host.is_empty() || host.contains(['@', '?', '#']) || !redis::is_address(url) {
            section.fault(
                "urls",
                "holds something else than redis://host:port or rediss://host:port",
                "write each server like this; user and password have keys of their own",
            );
        }
    }
    let of_tls = urls.iter().filter(|url| url.starts_with("rediss:")).count();
    if of_tls != 0 && of_tls != urls.len() {
        section.fault(
            "urls",
            "some with TLS and some without",
            "use one of redis:// and rediss://",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RegistryConfig, String> {
        let mut document = Document::parse(text, []).unwrap();
        let config = RegistryConfig::read(&mut document);
        document
            .finish()
            .map(|_| config)
            .map_err(|faults| faults.to_string())
    }

    #[test]
    fn defaults_are_for_one_process() {
        let config = read("").unwrap();
        assert!(matches!(config.backend, Backend::Memory));
        assert_eq!(
            (config.lease, config.kept_per_user),
            (Duration::from_secs(15), 100)
        );
        config.open().unwrap();
    }

    #[test]
    fn redis_is_opened_without_being_there() {
        let config = read("registry.backend = 'redis'\n[registry.redis]\npassword = 'hush'").unwrap();
        let Backend::Redis(settings) = &config.backend else {
            panic!("redis was asked for")
        };
        assert_eq!(settings.urls, ["redis://127.0.0.1:6379"]);
        assert_eq!(settings.timeout, Duration::from_millis(500));
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let redis = |keys: &str| read(&format!("registry.backend = 'redis'\n[registry.redis]\n{keys}"));
        redis("urls = ['rediss://a:6379', 'rediss://b:6379']\ncluster = true").unwrap();
        for (keys, fault) in [
            ("urls = []", "registry.redis.urls: names no server"),
            (
                "urls = ['redis://a', 'redis://b']",
                "registry.redis.urls: names several servers",
            ),
            (
                "urls = ['127.0.0.1:6379']",
                "registry.redis.urls: holds something else",
            ),
            ("urls = ['redis://']", "registry.redis.urls: holds something else"),
            (
                "urls = ['redis://me:hush@127.0.0.1']",
                "registry.redis.urls: holds something else",
            ),
            (
                "urls = ['rediss://a/#insecure']",
                "registry.redis.urls: holds something else",
            ),
            (
                "urls = ['redis://a', 'rediss://b']\ncluster = true",
                "registry.redis.urls: some with TLS",
            ),
            (
                "username = 'me'",
                "registry.redis.username: given without password",
            ),
            (
                "prefix = 'a b'",
                "registry.redis.prefix: \"a b\" cannot begin a key",
            ),
        ] {
            let faults = redis(keys).unwrap_err();
            assert!(
                faults.starts_with(fault) && faults.lines().count() == 1,
                "{keys}: {faults}"
            );
            assert!(!faults.contains("hush"), "{faults}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let config = read("registry.backend = 'redis'\nregistry.redis.ca_file = 'no/such.pem'").unwrap();
        let Err(error) = config.open() else {
            panic!("there is no such file")
        };
        assert!(error.to_string().contains("no/such.pem"), "{error}");
    }
}
