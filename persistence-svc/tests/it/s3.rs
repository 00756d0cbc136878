//! The archive in a bucket of a real S3 server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use secrecy::SecretString;
use switchboard_persistence_svc::keeping::archive::{Archive, ArchiveError};
use switchboard_persistence_svc::keeping::{ArchiveSettings, KeepError, Keeper, Policy, Retention, Swept};
use switchboard_persistence_svc::store::keeping::{Hold, Subject};
use switchboard_persistence_svc::store::{
    History, MessageStore as _, Row, SqliteSettings, SqliteStore, Store, Written,
};
use switchboard_proto::bus::{Message, Sender};
use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};
use switchboard_testkit::{S3Keys, S3Server};
use tempfile::TempDir;
use tokio::net::TcpListener;

const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;
const START: u64 = 20_454 * DAY_US;
const NOW: u64 = START + 5 * DAY_US;
const SECRET: &str = "a-secret-that-nobody-prints";

fn archive(server: &S3Server, bucket: &str, keys: &S3Keys) -> Archive {
    let settings = ArchiveSettings::S3 {
        bucket: bucket.to_owned(),
        prefix: "some/where".to_owned(),
        endpoint: Some(server.url()),
        region: "us-east-1".to_owned(),
        access_key: Some(keys.access.clone()),
        secret_key: Some(SecretString::from(keys.secret.clone())),
    };
    assert!(!format!("{settings:?}").contains(&keys.secret));
    settings.open().unwrap()
}

fn any_keys() -> S3Keys {
    S3Keys {
        access: "somebody".to_owned(),
        secret: SECRET.to_owned(),
    }
}

async fn opened(folder: &TempDir, name: &str) -> Arc<dyn Store> {
    let store = SqliteStore::new(&SqliteSettings {
        path: folder.path().join(name),
        connections: 2,
        wait: Duration::from_secs(20),
    });
    store.migrate().await.unwrap();
    Arc::new(store)
}

/// Eight messages of `chat:1` a day, of alice and bob in turn.
fn spoken(messages: u64) -> Written {
    let rows = (1..=messages).map(|sequence| {
        let user = if sequence % 2 == 0 { "bob" } else { "alice" };
        let message = Message {
            channel: "chat:1".to_owned(),
            payload: format!("\"secret {sequence}\"").into(),
            sender: Some(Sender {
                user: user.to_owned(),
                ..Sender::default()
            }),
            ..Message::default()
        };
        Row {
            offset: Offset::new(Sequence(sequence), 0),
            time_us: START + sequence * DAY_US / 8,
            channel: "chat:1".to_owned(),
            sender: Some(user.to_owned()),
            message: message.encode_to_vec().into(),
            change: None,
        }
    });
    Written {
        shard: ShardId::new(3).unwrap(),
        log: LogEpoch {
            ordinal: 1,
            random: 7,
        },
        read_after: Sequence(0),
        after: Sequence(0),
        up_to: Sequence(messages),
        owner_epoch: OwnerEpoch(1),
        rows: rows.collect(),
        dead: Vec::new(),
    }
}

fn policy() -> Policy {
    let chat = Retention {
        time: Some(Duration::from_secs(3 * 24 * 60 * 60)),
        count: None,
    };
    Policy {
        namespaces: BTreeMap::from([("chat".to_owned(), chat)]),
        ..Policy::default()
    }
}

async fn stored(store: &dyn Store) -> usize {
    let page = store.history(&History::of("chat:1", 1000)).await.unwrap();
    page.messages.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_is_in_the_bucket_and_can_be_read_back() {
    let server = S3Server::start().await.unwrap();
    server.make_bucket("messages").await.unwrap();
    // The server looks at each signature.
    let keys = server.keys().await.unwrap();
    let archive = archive(&server, "messages", &keys);
    let folder = TempDir::new().unwrap();
    let store = opened(&folder, "one.db").await;
    store.write(&spoken(40)).await.unwrap();
    let keeper = Keeper::new(Arc::clone(&store), Some(archive.clone()));
    keeper.recall().await.unwrap();
    let swept = keeper.sweep(&policy(), NOW).await.unwrap();
    assert_eq!((swept.files, swept.failed), (2, 0));
    assert_eq!(stored(&*store).await as u64, 40 - swept.expired);
    assert_eq!(keeper.sweep(&policy(), NOW).await.unwrap(), Swept::default());
    let manifests = archive.manifests().await.unwrap();
    assert_eq!(manifests.len(), 2);
    assert_eq!(archive.unfinished().await.unwrap(), [""; 0]);
    let mut rows = 0;
    for manifest in &manifests {
        rows += archive.read(manifest).await.unwrap().len() as u64;
    }
    assert_eq!(rows, swept.expired);

    let hold = Hold {
        subject: Subject::Channel("chat:9".to_owned()),
        since_us: NOW,
        reason: "case 4711".to_owned(),
    };
    keeper.hold(&hold).await.unwrap();
    assert!(keeper.erase("alice", NOW).await.unwrap() > 0);
    // The database is lost, and the log has nothing any more.
    let anew = opened(&folder, "two.db").await;
    let keeper = Keeper::new(Arc::clone(&anew), Some(archive));
    keeper.recall().await.unwrap();
    assert_eq!(anew.holds().await.unwrap(), [hold]);
    for manifest in &manifests {
        assert_eq!(keeper.restore(manifest).await.unwrap(), manifest.rows);
    }
    assert_eq!(stored(&*anew).await as u64, swept.expired);
    let hers = anew.said_by("alice", (0, u64::MAX), None, 100).await.unwrap();
    assert_eq!(hers, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_bucket_does_not_take_is_not_deleted() {
    let server = S3Server::start().await.unwrap();
    server.make_bucket("messages").await.unwrap();
    let keys = server.keys().await.unwrap();
    let wrong = S3Keys {
        secret: SECRET.to_owned(),
        ..keys.clone()
    };
    let folder = TempDir::new().unwrap();
    let store = opened(&folder, "one.db").await;
    store.write(&spoken(40)).await.unwrap();
    for (bucket, keys) in [
        ("messages", &wrong),
        ("messages", &any_keys()),
        ("no-such-bucket", &keys),
    ] {
        let archive = archive(&server, bucket, keys);
        let keeper = Keeper::new(Arc::clone(&store), Some(archive));
        for error in [
            keeper.sweep(&policy(), NOW).await.unwrap_err(),
            keeper.erase("alice", NOW).await.unwrap_err(),
            keeper.recall().await.unwrap_err(),
        ] {
            let is_of_archive = matches!(error, KeepError::Archive(ArchiveError::Unavailable(_)));
            assert!(is_of_archive, "{bucket}: {error}");
            let printed = format!("{error} {error:?}");
            assert!(
                !printed.contains(SECRET) && !printed.contains(&keys.secret),
                "{printed}"
            );
        }
        assert_eq!(stored(&*store).await, 40);
        assert_eq!(store.erasures().await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_is_away_is_waited_for() {
    let mut server = S3Server::start().await.unwrap();
    server.make_bucket("messages").await.unwrap();
    let archive = archive(&server, "messages", &any_keys());
    let folder = TempDir::new().unwrap();
    let store = opened(&folder, "one.db").await;
    store.write(&spoken(40)).await.unwrap();
    let keeper = Keeper::new(Arc::clone(&store), Some(archive.clone()));
    server.kill().unwrap();
    let policy = policy();
    let sweeping = keeper.sweep(&policy, NOW);
    let coming_back = async {
        // It tries, and nobody answers.
        let nobody = TcpListener::bind(("127.0.0.1", server.port())).await.unwrap();
        for _ in 0..2 {
            drop(nobody.accept().await.unwrap());
            assert_eq!(stored(&*store).await, 40);
        }
        drop(nobody);
        server.restart().await.unwrap();
        // Not a moment later than the server: without the bucket it would be refused.
        server.make_bucket("messages").await.unwrap();
    };
    let (swept, ()) = tokio::join!(sweeping, coming_back);
    match swept {
        Ok(swept) => assert!(swept.expired > 0),
        // The server was back before its bucket: nothing went, and the next look finds all of it.
        Err(_) => {
            assert_eq!(stored(&*store).await, 40);
            assert!(keeper.sweep(&policy, NOW).await.unwrap().expired > 0);
        }
    }
    let mut archived = 0;
    for manifest in archive.manifests().await.unwrap() {
        archived += archive.read(&manifest).await.unwrap().len();
    }
    assert_eq!(archived + stored(&*store).await, 40);
}
