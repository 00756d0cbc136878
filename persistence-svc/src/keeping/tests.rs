use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::fold;
use switchboard_proto::bus::{Message, Sender};
use switchboard_proto::ids::{LogEpoch, OwnerEpoch, Sequence};
use tempfile::TempDir;

use super::*;
use crate::store::{History, MessageStore as _, Row, SqliteSettings, SqliteStore, Written};
use switchboard_proto::ids::ShardId;

const LOG: LogEpoch = LogEpoch {
    ordinal: 1,
    random: 7,
};

/// The time of the first message: 1 January 2026.
const START: u64 = 20_454 * DAY_US;

struct Folder {
    folder: TempDir,
}

impl Folder {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn archive(&self) -> Archive {
        ArchiveSettings::Folder(self.folder.path().join("archive"))
            .open()
            .unwrap()
    }

    async fn store(&self, name: &str) -> Arc<dyn Store> {
        let store = SqliteStore::new(&SqliteSettings {
            path: self.folder.path().join(name),
            connections: 2,
            wait: Duration::from_secs(20),
        });
        store.migrate().await.unwrap();
        Arc::new(store)
    }

    fn files(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, into);
                } else {
                    into.push(path);
                }
            }
        }
        let mut files = Vec::new();
        walk(&self.folder.path().join("archive/messages"), &mut files);
        files.sort();
        files
    }
}

/// Eight messages a day, of alice and bob in turn, in `chat:1` and, each third one, in `news:1`.
fn spoken(messages: u64) -> Written {
    let rows = (1..=messages).map(|sequence| {
        let user = if sequence % 2 == 0 { "bob" } else { "alice" };
        let channel = if sequence % 3 == 0 { "news:1" } else { "chat:1" };
        let message = Message {
            channel: channel.to_owned(),
            payload: Bytes::from(format!("\"secret {sequence}\"")),
            sender: Some(Sender {
                user: user.to_owned(),
                ..Sender::default()
            }),
            ..Message::default()
        };
        Row {
            offset: Offset::new(Sequence(sequence), 0),
            time_us: START + sequence * DAY_US / 8,
            channel: channel.to_owned(),
            sender: Some(user.to_owned()),
            message: message.encode_to_vec().into(),
            change: None,
        }
    });
    Written {
        shard: ShardId::new(3).unwrap(),
        log: LOG,
        read_after: Sequence(0),
        after: Sequence(0),
        up_to: Sequence(messages),
        owner_epoch: OwnerEpoch(1),
        rows: rows.collect(),
        dead: Vec::new(),
    }
}

fn policy(days: u64) -> Policy {
    let time = Some(Duration::from_secs(days * 24 * 60 * 60));
    let chat = Retention { time, count: None };
    Policy {
        namespaces: BTreeMap::from([("chat".to_owned(), chat)]),
        ..Policy::default()
    }
}

async fn removed_to(store: &dyn Store, channel: &str) -> Option<u64> {
    let question = History::of(channel, 1);
    let joint = store.joint(&question, ShardId::new(3).unwrap(), Some(LOG)).await;
    joint.unwrap().removed_to.map(|place| place.offset.sequence().0)
}

async fn stored(store: &dyn Store, channel: &str) -> Vec<(u64, bool)> {
    let page = store.history(&History::of(channel, 1000)).await.unwrap();
    let messages = page.messages.iter().map(|stored| {
        let message = Message::decode(stored.message.clone()).unwrap();
        let is_blank = fold::is_deleted(&message) && message.sender.is_none();
        assert_eq!(
            is_blank,
            !String::from_utf8_lossy(&stored.message).contains("secret")
        );
        (stored.place.offset.sequence().0, is_blank)
    });
    messages.collect()
}

#[tokio::test]
async fn what_expires_is_in_the_archive_and_can_be_read_back() {
    let place = Folder::new();
    let store = place.store("one.db").await;
    store.write(&spoken(40)).await.unwrap();
    let archive = place.archive();
    let keeper = Keeper::new(Arc::clone(&store), Some(archive.clone()));
    let now = START + 5 * DAY_US;
    assert_eq!(
        keeper.sweep(&Policy::default(), now).await.unwrap(),
        Swept::default()
    );
    let before = stored(&*store, "chat:1").await;
    let swept = keeper.sweep(&policy(3), now).await.unwrap();
    let left = stored(&*store, "chat:1").await;
    assert_eq!(before.len() - left.len(), usize::try_from(swept.expired).unwrap());
    // Two days, a file each; the other namespace keeps everything.
    assert_eq!((swept.files, left.first()), (2, Some(&(16, false))));
    assert_eq!(removed_to(&*store, "chat:1").await, Some(14));
    assert_eq!(removed_to(&*store, "news:1").await, None);
    assert_eq!(stored(&*store, "news:1").await.len(), 13);
    assert_eq!(keeper.sweep(&policy(3), now).await.unwrap(), Swept::default());

    let manifests = archive.manifests().await.unwrap();
    assert_eq!(manifests.len(), 2);
    assert_eq!(archive.unfinished().await.unwrap(), [""; 0]);
    let mut read = Vec::new();
    for manifest in &manifests {
        read.extend(archive.read(manifest).await.unwrap());
        assert_eq!(keeper.restore(manifest).await.unwrap(), manifest.rows);
        assert_eq!(keeper.restore(manifest).await.unwrap(), 0);
    }
    assert_eq!(read.len() as u64, swept.expired);
    assert_eq!(stored(&*store, "chat:1").await, before);
    // They have expired, and clients are told so still.
    assert_eq!(removed_to(&*store, "chat:1").await, Some(14));
}

#[tokio::test]
async fn archive_that_was_changed_or_cut_is_noticed() {
    let place = Folder::new();
    let store = place.store("one.db").await;
    store.write(&spoken(40)).await.unwrap();
    let archive = place.archive();
    let keeper = Keeper::new(Arc::clone(&store), Some(archive.clone()));
    keeper.sweep(&policy(3), START + 5 * DAY_US).await.unwrap();
    let manifests = archive.manifests().await.unwrap();
    let files = place.files();
    let packed = files
        .iter()
        .find(|path| path.extension().is_some_and(|end| end == "gz"))
        .unwrap();
    let good = std::fs::read(packed).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    for bytes in [&bad[..], &good[..good.len() - 1], &[]] {
        std::fs::write(packed, bytes).unwrap();
        let error = archive.read(&manifests[0]).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Damaged(..)), "{error}");
        assert!(keeper.restore(&manifests[0]).await.is_err());
    }
    std::fs::write(packed, good).unwrap();
    archive.read(&manifests[0]).await.unwrap();
    // A death between file and manifest: the rows are in the store, and the next sweep makes the same file.
    std::fs::remove_file(packed.with_extension("").with_extension("json")).unwrap();
    assert_eq!(archive.manifests().await.unwrap().len(), 1);
    assert_eq!(archive.unfinished().await.unwrap().len(), 1);
    let again = place.store("two.db").await;
    again.write(&spoken(40)).await.unwrap();
    let keeper = Keeper::new(again, Some(archive.clone()));
    keeper.sweep(&policy(3), START + 5 * DAY_US).await.unwrap();
    assert_eq!(place.files(), files);
    assert_eq!(archive.unfinished().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn without_the_archive_nothing_is_removed() {
    let place = Folder::new();
    let store = place.store("one.db").await;
    store.write(&spoken(40)).await.unwrap();
    let keeper = Keeper::new(Arc::clone(&store), Some(place.archive()));
    // Where the folder should be is a file.
    std::fs::remove_dir_all(place.folder.path().join("archive")).unwrap();
    std::fs::write(place.folder.path().join("archive"), "").unwrap();
    keeper.sweep(&policy(3), START + 5 * DAY_US).await.unwrap_err();
    keeper.erase("alice", START + 5 * DAY_US).await.unwrap_err();
    assert_eq!(stored(&*store, "chat:1").await.len(), 27);
    assert_eq!(removed_to(&*store, "chat:1").await, None);
    assert_eq!(store.erasures().await.unwrap(), []);
}

#[tokio::test]
async fn erasure_is_applied_to_a_store_that_is_made_anew_and_to_what_is_read_back() {
    let place = Folder::new();
    let store = place.store("one.db").await;
    store.write(&spoken(40)).await.unwrap();
    let archive = place.archive();
    let keeper = Keeper::new(Arc::clone(&store), Some(archive.clone()));
    let now = START + 5 * DAY_US;
    keeper.sweep(&policy(3), now).await.unwrap();
    let left = stored(&*store, "chat:1").await.len() + stored(&*store, "news:1").await.len();
    let blanked = keeper.erase("alice", now).await.unwrap();
    assert!(blanked > 0 && blanked < left as u64);
    assert_eq!(keeper.erase("alice", now).await.unwrap(), 0);
    let hers = |rows: &[(u64, bool)]| {
        rows.iter()
            .all(|(sequence, is_blank)| (sequence % 2 == 1) == *is_blank)
    };
    assert!(hers(&stored(&*store, "chat:1").await));

    // The database is lost. What the archive tells comes before the log, which has all of it still.
    let anew = place.store("two.db").await;
    let keeper = Keeper::new(Arc::clone(&anew), Some(archive.clone()));
    keeper.recall().await.unwrap();
    assert_eq!(removed_to(&*anew, "chat:1").await, Some(14));
    anew.write(&spoken(40)).await.unwrap();
    for channel in ["chat:1", "news:1"] {
        let rows = stored(&*anew, channel).await;
        assert!(rows.len() > 10 && hers(&rows), "{rows:?}");
    }
    // And where the log has nothing any more, what is read back.
    let empty = place.store("three.db").await;
    let keeper = Keeper::new(Arc::clone(&empty), Some(archive.clone()));
    keeper.recall().await.unwrap();
    for manifest in archive.manifests().await.unwrap() {
        keeper.restore(&manifest).await.unwrap();
    }
    let rows = stored(&*empty, "chat:1").await;
    assert!(rows.len() > 5 && hers(&rows), "{rows:?}");
    // A database of before the erasure, from a backup.
    let backup = place.store("four.db").await;
    backup.write(&spoken(40)).await.unwrap();
    let keeper = Keeper::new(Arc::clone(&backup), Some(archive));
    keeper.recall().await.unwrap();
    assert!(hers(&stored(&*backup, "chat:1").await));
}

#[tokio::test]
async fn hold_keeps_what_is_erased_and_expires_until_it_is_lifted() {
    let place = Folder::new();
    let store = place.store("one.db").await;
    store.write(&spoken(40)).await.unwrap();
    let archive = place.archive();
    let keeper = Keeper::new(Arc::clone(&store), Some(archive.clone()));
    let now = START + 5 * DAY_US;
    let hold = |kind: &str, name: &str| Hold {
        subject: Subject::new(kind, name).unwrap(),
        since_us: now,
        reason: "case 4711".to_owned(),
    };
    let before = stored(&*store, "chat:1").await;
    keeper.hold(&hold("channel", "chat:1")).await.unwrap();
    keeper.hold(&hold("user", "bob")).await.unwrap();
    assert!(matches!(keeper.erase("bob", now).await, Err(KeepError::Held(user)) if user == "bob"));
    keeper.erase("alice", now).await.unwrap();
    assert_eq!(keeper.sweep(&policy(3), now).await.unwrap(), Swept::default());
    assert_eq!(stored(&*store, "chat:1").await, before);
    // One that comes after an erasure brings nothing back into a store that is made anew.
    let late = place.store("late.db").await;
    let erasure = Erasure {
        user: "alice".to_owned(),
        until_us: now,
    };
    late.erase(&erasure, None).await.unwrap();
    let after = Hold {
        since_us: now + 1,
        ..hold("channel", "chat:1")
    };
    late.hold(&after).await.unwrap();
    late.write(&spoken(40)).await.unwrap();
    let rows = stored(&*late, "chat:1").await;
    assert!(
        !rows.is_empty()
            && rows
                .iter()
                .all(|(sequence, is_blank)| (sequence % 2 == 1) == *is_blank)
    );
    // A store that is made anew knows of the holds.
    let anew = place.store("two.db").await;
    Keeper::new(Arc::clone(&anew), Some(archive.clone()))
        .recall()
        .await
        .unwrap();
    assert_eq!(anew.holds().await.unwrap(), store.holds().await.unwrap());
    assert_eq!(anew.holds().await.unwrap().len(), 2);

    let chat = Subject::Channel("chat:1".to_owned());
    assert!(keeper.lift(&chat, now + 1).await.unwrap());
    let rows = stored(&*store, "chat:1").await;
    assert!(
        rows.iter()
            .all(|(sequence, is_blank)| (sequence % 2 == 1) == *is_blank)
    );
    let swept = keeper.sweep(&policy(3), now).await.unwrap();
    assert!(swept.expired > 0);
    // What bob said is there, though nobody is shown it.
    let rows = stored(&*store, "chat:1").await;
    assert!(rows.iter().any(|(sequence, _)| *sequence == 2), "{rows:?}");
    Keeper::new(Arc::clone(&anew), Some(archive))
        .recall()
        .await
        .unwrap();
    assert_eq!(anew.holds().await.unwrap(), [hold("user", "bob")]);
}

/// What was done without an archive, or when there was another, is in the one that there is from then on.
#[tokio::test]
async fn archive_that_is_new_learns_what_the_store_knows() {
    let place = Folder::new();
    let store = place.store("one.db").await;
    store.write(&spoken(40)).await.unwrap();
    let alone = Keeper::new(Arc::clone(&store), None);
    let now = START + 5 * DAY_US;
    alone.erase("alice", now).await.unwrap();
    let hold = Hold {
        subject: Subject::new("user", "bob").unwrap(),
        since_us: now,
        reason: "case 4711".to_owned(),
    };
    alone.hold(&hold).await.unwrap();
    let archive = place.archive();
    let keeper = Keeper::new(Arc::clone(&store), Some(archive.clone()));
    keeper.recall().await.unwrap();
    let acts = archive.acts().await.unwrap().acts;
    keeper.recall().await.unwrap();
    assert_eq!((acts.len(), archive.acts().await.unwrap().acts), (2, acts));

    let anew = place.store("two.db").await;
    Keeper::new(Arc::clone(&anew), Some(archive))
        .recall()
        .await
        .unwrap();
    anew.write(&spoken(40)).await.unwrap();
    assert_eq!(anew.holds().await.unwrap(), [hold]);
    assert_eq!(stored(&*anew, "chat:1").await, stored(&*store, "chat:1").await);
}
