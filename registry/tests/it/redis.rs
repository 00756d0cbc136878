//! The registry in Redis: the suite on a real server and on a cluster, with a password and TLS, and what is left in
//! the store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::format::FormatError;
use switchboard_registry::conformance::{
    KEPT_PER_USER, LONG, RegistryFixture, began, ended, lease, session, until,
};
use switchboard_registry::redis::{RedisConfig, RedisRegistry};
use switchboard_registry::{Admission, Registry, RegistryError, SubscriptionOptions};
use switchboard_testkit::{RedisCluster, RedisServer, RedisTls};
use uuid::Uuid;

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

/// The suite on one server.
mod server {
    switchboard_registry::registry_conformance!(super::OnServer);
}

/// The suite on a cluster of three.
mod cluster {
    switchboard_registry::registry_conformance!(super::OnCluster);
}

/// Carries a command out as somebody else would.
pub(crate) async fn command(server: &RedisServer, words: &[&str]) -> redis::Value {
    command_at(&server.url(), words).await
}

async fn command_at(url: &str, words: &[&str]) -> redis::Value {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut command = redis::Cmd::new();
    command.arg(words);
    command.query_async(&mut connection).await.unwrap()
}

#[tokio::test]
async fn everything_in_the_store_ends_and_says_whose_it_is() {
    let server = RedisServer::start().await.unwrap();
    let registry = open(&RedisConfig {
        prefix: "test".to_owned(),
        ..config(vec![server.url()])
    });
    registry.begin(lease(1), LONG).await.unwrap();
    registry
        .announce(lease(1), &[began("alice", [10, 11])])
        .await
        .unwrap();
    registry.admit(lease(1), "bob", &session(12), 2).await.unwrap();
    let room = ChannelName::parse("room", 255).unwrap();
    let options = SubscriptionOptions::default();
    registry
        .keep_subscription("alice", &room, &options, LONG)
        .await
        .unwrap();
    let keys: Vec<String> = redis::from_redis_value(command(&server, &["KEYS", "*"]).await).unwrap();
    assert_eq!(keys.len(), 8, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("test:reg:{"), "{key}");
        let ends: i64 = redis::from_redis_value(command(&server, &["PTTL", &key]).await).unwrap();
        assert!(ends > 0, "{key} stays for ever");
    }
    registry.forget_subscription("alice", &room).await.unwrap();
    registry
        .announce(lease(1), &[ended("alice", [10, 11]), ended("bob", [12])])
        .await
        .unwrap();
    registry.release(lease(1)).await.unwrap();
    let left: Vec<String> = redis::from_redis_value(command(&server, &["KEYS", "*"]).await).unwrap();
    assert_eq!(left, Vec::<String>::new(), "nothing is left behind");
}

#[tokio::test]
async fn what_a_newer_release_wrote_is_refused_with_what_to_do() {
    let server = RedisServer::start().await.unwrap();
    let registry = open(&config(vec![server.url()]));
    let client = Uuid::from_u128(1).to_string();
    command(&server, &["HSET", "sb:reg:{alice}:sessions", &client, "\u{9}new"]).await;
    let error = registry.sessions("alice").await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Format(FormatError::Newer { .. })),
        "{error:?}"
    );
    command(&server, &["HSET", "sb:reg:{bob}:sessions", "nonsense", "\u{1}"]).await;
    assert!(matches!(
        registry.sessions("bob").await,
        Err(RegistryError::Format(_))
    ));
}

#[tokio::test]
async fn password_and_user_are_given_and_never_told() {
    // As docs/registry.md has it.
    let rights = "~sb:reg:* +@read +@write +@scripting +time";
    let users = format!("--user me on >hush {rights} --user default off");
    let arguments: Vec<&str> = users.split(' ').collect();
    let server = RedisServer::start_with(&arguments).await.unwrap();
    let config = RedisConfig {
        username: Some("me".to_owned()),
        password: Some("hush".into()),
        ..config(vec![server.url()])
    };
    let registry = open(&config);
    registry.begin(lease(1), LONG).await.unwrap();
    assert_eq!(registry.renew(lease(1), LONG).await, Ok(true));
    registry
        .announce(lease(1), &[began("alice", [10])])
        .await
        .unwrap();
    let admitted = registry.admit(lease(1), "alice", &session(11), 1).await;
    assert_eq!(admitted, Ok(Admission::OverLimit));
    registry.users(lease(1).gateway, None, 10).await.unwrap();
    let room = ChannelName::parse("room", 255).unwrap();
    let options = SubscriptionOptions::default();
    registry
        .keep_subscription("alice", &room, &options, LONG)
        .await
        .unwrap();
    assert_eq!(registry.kept_subscriptions("alice").await.unwrap().len(), 1);
    assert_eq!(registry.forget_subscription("alice", &room).await, Ok(true));
    registry.release(lease(1)).await.unwrap();
    let wrong = RedisConfig {
        password: Some("guessed".into()),
        ..config.clone()
    };
    let registry = open(&wrong);
    for _ in 0..4 {
        let error = registry.begin(lease(1), LONG).await.unwrap_err().to_string();
        assert!(!error.contains("guessed"), "{error}");
    }
    assert!(!format!("{config:?}").contains("hush"));
}

#[tokio::test]
async fn cluster_asks_for_few_rights() {
    let cluster = RedisCluster::start().await.unwrap();
    // As docs/registry.md has it.
    let rights = "~sb:reg:* +@read +@write +@scripting +time +ping +cluster|slots";
    for url in cluster.urls() {
        let mut words = vec!["ACL", "SETUSER", "me", "on", ">hush"];
        words.extend(rights.split(' '));
        command_at(&url, &words).await;
        command_at(&url, &["ACL", "SETUSER", "default", "off"]).await;
    }
    let registry = open(&RedisConfig {
        cluster: true,
        username: Some("me".to_owned()),
        password: Some("hush".into()),
        ..config(cluster.urls())
    });
    for gateway in 1..10 {
        registry.begin(lease(gateway), LONG).await.unwrap();
        let user = format!("user{gateway}");
        registry
            .announce(lease(gateway), &[began(&user, [gateway])])
            .await
            .unwrap();
        assert_eq!(registry.count(&user).await, Ok(1));
    }
}

#[tokio::test]
async fn tls_is_spoken_and_the_server_has_to_prove_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = parameters.self_signed(&ca_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::from_params(&parameters, &ca_key);
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let tls = RedisTls {
        certificate: write("certificate.pem", certificate.pem()),
        key: write("key.pem", key.serialize_pem()),
        ca: write("ca.pem", ca.pem()),
    };
    let server = RedisServer::start_with_tls(&tls, &["--requirepass", "hush"])
        .await
        .unwrap();
    assert!(server.url().starts_with("rediss://"));
    let trusting = RedisConfig {
        ca: Some(ca.pem().into_bytes()),
        password: Some("hush".into()),
        ..config(vec![server.url()])
    };
    open(&trusting).begin(lease(1), LONG).await.unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    let stranger = parameters.self_signed(&other).unwrap();
    let wary = RedisConfig {
        ca: Some(stranger.pem().into_bytes()),
        ..trusting
    };
    let refused = open(&wary).begin(lease(1), LONG).await;
    assert!(
        matches!(refused, Err(RegistryError::Unavailable(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn who_does_not_answer_is_not_asked_for_a_while() {
    let mut server = RedisServer::start().await.unwrap();
    let registry = open(&config(vec![server.url()]));
    registry.begin(lease(1), LONG).await.unwrap();
    server.kill().unwrap();
    let mut errors = Vec::new();
    for _ in 0..10 {
        errors.push(registry.sessions("alice").await.unwrap_err().to_string());
    }
    let not_asked = errors
        .iter()
        .filter(|error| error.contains("is not asked"))
        .count();
    assert_eq!(not_asked, 7, "after three: {errors:?}");
    server.restart().await.unwrap();
    until("somebody finds out", async || {
        registry.renew(lease(1), LONG).await == Ok(false)
    })
    .await;
    assert_eq!(
        registry.sessions("alice").await,
        Ok(Vec::new()),
        "then all ask again"
    );
}
