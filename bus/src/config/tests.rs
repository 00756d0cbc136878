use switchboard_testkit::NatsServer;

use super::*;

fn read(text: &str) -> Result<BusConfig, String> {
    let mut document = Document::parse(text, []).unwrap();
    let config = BusConfig::read(&mut document);
    document
        .finish()
        .map(|_| config)
        .map_err(|faults| faults.to_string())
}

fn embedded_in(folder: &tempfile::TempDir, more: &str) -> BusConfig {
    let path = folder.path().join("log");
    read(&format!(
        "[bus]\n{more}\n[bus.embedded]\npath = '{}'\ndurability = 'memory'\n",
        path.display()
    ))
    .unwrap()
}

#[test]
fn defaults_are_for_one_process() {
    let config = read("").unwrap();
    assert!(matches!(
        config.backend,
        Backend::Embedded {
            durability: EmbeddedDurability::Synced,
            ..
        }
    ));
    assert!(config.create);
    assert_eq!((config.shards.get(), config.prefix.as_str()), (4, "sb"));
}

#[test]
fn nats_has_its_own_defaults() {
    let config = read("bus.backend = 'nats'").unwrap();
    assert!(!config.create);
    assert_eq!(config.shards.get(), 16);
    let Backend::Nats(nats) = config.backend else {
        panic!("nats was asked for")
    };
    assert_eq!(nats.urls, ["nats://127.0.0.1:4222"]);
    assert_eq!((nats.replicas, nats.durability), (1, NatsDurability::Replicated));
    assert!(matches!(nats.authentication, NatsAuthentication::None));
}

#[test]
fn ways_to_prove_who_one_is_exclude_each_other() {
    let nats = |keys: &str| read(&format!("bus.backend = 'nats'\n[bus.nats]\n{keys}"));
    let authentication = |keys: &str| match nats(keys).unwrap().backend {
        Backend::Nats(nats) => nats.authentication,
        Backend::Embedded { .. } => panic!("nats was asked for"),
    };
    assert!(matches!(
        authentication("credentials_file = 'a'"),
        NatsAuthentication::CredentialsFile(_)
    ));
    assert!(matches!(
        authentication("user = 'a'\npassword = 'b'"),
        NatsAuthentication::Password { .. }
    ));
    for (keys, fault) in [
        ("user = 'a'", "bus.nats.user: given without password"),
        ("password = 'b'", "bus.nats.password: given without user"),
        (
            "credentials_file = 'c'\nuser = 'a'",
            "bus.nats.credentials_file: given together",
        ),
        ("urls = []", "bus.nats.urls: names no server"),
        ("urls = ['127.0.0.1:4222']", "bus.nats.urls: holds something else"),
        ("urls = ['nats://']", "bus.nats.urls: holds something else"),
        (
            "urls = ['nats://me:hush@127.0.0.1']",
            "bus.nats.urls: holds something else",
        ),
        (
            "replicas = 2",
            "bus.nats.replicas: 2 replicas survive no more than 1",
        ),
    ] {
        let faults = nats(keys).unwrap_err();
        assert!(
            faults.starts_with(fault) && faults.lines().count() == 1,
            "{keys}: {faults}"
        );
        assert!(!faults.contains("hush"), "{faults}");
    }
}

#[test]
fn a_prefix_is_one_token() {
    assert!(
        read("bus.prefix = 'a.b'")
            .unwrap_err()
            .starts_with("bus.prefix: \"a.b\" cannot be a token")
    );
}

#[test]
fn a_process_that_needs_others_refuses_the_embedded_backend() {
    let shared = |text: &str| {
        let mut document = Document::parse(text, []).unwrap();
        BusConfig::read_shared(&mut document);
        document.finish().map(drop).map_err(|faults| faults.to_string())
    };
    assert!(
        shared("")
            .unwrap_err()
            .starts_with("bus.backend: embedded serves one process only")
    );
    assert_eq!(shared("bus.backend = 'nats'"), Ok(()));
}

#[tokio::test]
async fn the_layout_is_created_once_and_then_only_checked() {
    let folder = tempfile::tempdir().unwrap();
    let refused = embedded_in(&folder, "create = false")
        .open("test")
        .await
        .err()
        .unwrap();
    assert!(matches!(refused, OpenError::NoLayout), "{refused}");
    assert_eq!(
        embedded_in(&folder, "shards = 3")
            .open("test")
            .await
            .unwrap()
            .shards
            .get(),
        3
    );
    embedded_in(&folder, "shards = 3\ncreate = false")
        .open("test")
        .await
        .unwrap();
}

/// L7.
#[tokio::test]
async fn who_differs_from_the_layout_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    embedded_in(&folder, "shards = 3").open("test").await.unwrap();
    for create in ["true", "false"] {
        let config = embedded_in(&folder, &format!("shards = 5\ncreate = {create}"));
        let refused = config.open("test").await.err().unwrap();
        assert!(
            matches!(
                refused,
                OpenError::Shards {
                    configured: 5,
                    layout: 3
                }
            ),
            "{refused}"
        );
    }

    let other = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(&other.path().join("log"), EmbeddedDurability::Memory).unwrap();
    log.create(&Layout {
        shards: 4,
        hash: "md5".to_owned(),
        created_us: 0,
        ..Layout::default()
    })
    .await
    .unwrap();
    drop(log);
    let refused = embedded_in(&other, "").open("test").await.err().unwrap();
    assert!(
        matches!(&refused, OpenError::Hash { found } if found == "md5"),
        "{refused}"
    );
}

fn nats_at(server: &NatsServer, bus: &str, nats: &str) -> BusConfig {
    let text = format!(
        "[bus]\nbackend = 'nats'\nshards = 2\n{bus}\n[bus.nats]\nurls = ['{}']\n{nats}",
        server.url()
    );
    read(&text).unwrap()
}

/// L7.
#[tokio::test]
async fn nats_is_opened_as_configured() {
    let server = NatsServer::start().await.unwrap();
    let memory = "durability = 'memory'\nmax_bytes = '16MiB'";
    let refused = nats_at(&server, "", memory).open("test").await.err().unwrap();
    assert!(matches!(refused, OpenError::NoLayout), "{refused}");
    nats_at(&server, "create = true", memory)
        .open("first")
        .await
        .unwrap();
    nats_at(&server, "", memory).open("second").await.unwrap();
    let refused = nats_at(&server, "", "durability = 'replicated'")
        .open("test")
        .await
        .err()
        .unwrap();
    assert!(matches!(refused, OpenError::Log(_)), "{refused}");
    let mut other = nats_at(&server, "", memory);
    other.shards = ShardCount::new(3).unwrap();
    let refused = other.open("test").await.err().unwrap();
    assert!(
        matches!(
            refused,
            OpenError::Shards {
                configured: 3,
                layout: 2
            }
        ),
        "{refused}"
    );
}

#[tokio::test]
async fn nats_is_told_who_we_are() {
    let server = NatsServer::start_with("authorization { users = [{ user: me, password: hush }] }").await;
    let server = server.unwrap();
    let right = "user = 'me'\npassword = 'hush'\ndurability = 'memory'\nmax_bytes = '16MiB'";
    nats_at(&server, "create = true", right)
        .open("test")
        .await
        .unwrap();
    for wrong in ["", "user = 'me'\npassword = 'loud'"] {
        let refused = nats_at(&server, "", wrong).open("test").await.err().unwrap();
        assert!(
            matches!(refused, OpenError::Nats(ConnectError::Refused { .. })),
            "{refused:?}"
        );
    }
}

/// Batches and frames would be refused or lost, again and again, once there is something to do.
#[tokio::test]
async fn servers_that_take_small_messages_only_are_refused() {
    let server = NatsServer::start_with("max_payload: 512KB").await.unwrap();
    let config = nats_at(&server, "create = true", "durability = 'memory'");
    for refused in [
        config.open("test").await.err(),
        config.open_bus("test").await.err(),
        config.open_log("test").await.err(),
    ] {
        let refused = refused.unwrap();
        assert!(
            matches!(refused, OpenError::Payload { found: 524_288 }),
            "{refused}"
        );
    }
}
