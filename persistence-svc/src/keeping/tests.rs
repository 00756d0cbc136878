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

fn erasure_of(user: &str, until_us: u64) -> Erasure {
    Erasure {
        user: user.to_owned(),
        until_us,
    }
}

#[tokio::test]
async fn what_no_store_takes_is_recorded_nowhere() {
    let place = Folder::new();
    let store = place.store("one.db").await;
    let archive = place.archive();
    let keeper = Keeper::new(Arc::clone(&store), Some(archive.clone()));
    let long = "x".repeat(5000);
    for (kind, name, reason) in [
        ("channel", "", ""),
        ("user", "", ""),
        ("channel", long.as_str(), ""),
        ("channel", "chat:1", long.as_str()),
        ("channel", "chat:\0", ""),
        ("channel", "chat:1", "a\0case"),
    ] {
        let hold = Hold {
            subject: Subject::new(kind, name).unwrap(),
            since_us: 1,
            reason: reason.to_owned(),
        };
        let refused = keeper.hold(&hold).await;
        assert!(matches!(refused, Err(KeepError::Unkeepable(..))), "{refused:?}");
    }
    for user in ["", "a\0b", long.as_str()] {
        let refused = keeper.erase(user, 1).await;
        assert!(matches!(refused, Err(KeepError::Unkeepable(..))), "{refused:?}");
    }
    assert_eq!(archive.acts().await.unwrap().acts, []);
    for number in 0..MAX_HOLDS {
        let hold = Hold {
            subject: Subject::Channel(format!("held:{number}")),
            since_us: 1,
            reason: String::new(),
        };
        store.hold(&hold).await.unwrap();
    }
    let one_more = Hold {
        subject: Subject::Channel("chat:1".to_owned()),
        since_us: 1,
        reason: String::new(),
    };
    let refused = keeper.hold(&one_more).await;
    assert!(
        matches!(refused, Err(KeepError::Store(StoreError::TooMuch { .. }))),
        "{refused:?}"
    );
    assert_eq!(archive.acts().await.unwrap().acts, []);
}

#[tokio::test]
async fn record_that_is_no_good_keeps_no_start() {
    let place = Folder::new();
    let store = place.store("one.db").await;
    store.write(&spoken(40)).await.unwrap();
    let archive = place.archive();
    let hold = |name: &str| Act::Hold {
        at_us: 1,
        kind: "channel".to_owned(),
        name: name.to_owned(),
        reason: String::new(),
    };
    for act in [hold("a\0b"), hold(&"x".repeat(5000)), hold("chat:9")] {
        archive.record(&act).await.unwrap();
    }
    let erase = |at_us, user: &str| Act::Erase {
        at_us,
        user: user.to_owned(),
    };
    archive.record(&erase(2, "a\0b")).await.unwrap();
    archive.record(&erase(u64::MAX, "carol")).await.unwrap();
    archive.record(&erase(START + 5 * DAY_US, "alice")).await.unwrap();
    let acts = place.folder.path().join("archive/acts");
    std::fs::write(acts.join("00000000000000000003-0.json"), "half an ac").unwrap();
    let bad_acts = Counter::default();
    let keeper = Keeper::new(Arc::clone(&store), Some(archive)).counting(bad_acts.clone());
    keeper.recall().await.unwrap();
    assert_eq!(bad_acts.get(), 5);
    assert_eq!(store.holds().await.unwrap().len(), 1);
    let rows = stored(&*store, "chat:1").await;
    assert!(
        rows.iter()
            .all(|(sequence, is_blank)| (sequence % 2 == 1) == *is_blank)
    );
}

#[tokio::test]
async fn channel_that_fails_keeps_no_other_from_expiring() {
    let place = Folder::new();
    let store = place.store("one.db").await;
    let mut written = spoken(40);
    for row in &mut written.rows {
        if row.channel == "news:1" {
            row.channel = "chat:0".to_owned();
        }
    }
    store.write(&written).await.unwrap();
    let path = place.folder.path().join("one.db");
    let database = sqlx::SqlitePool::connect(&format!("sqlite:{}", path.display()))
        .await
        .unwrap();
    sqlx::query("UPDATE messages SET shard = 99999 WHERE channel = 'chat:0'")
        .execute(&database)
        .await
        .unwrap();
    database.close().await;
    let keeper = Keeper::new(Arc::clone(&store), Some(place.archive()));
    let swept = keeper.sweep(&policy(3), START + 5 * DAY_US).await.unwrap();
    assert_eq!((swept.failed, swept.files), (1, 2));
    assert!(swept.expired > 0);
    assert_eq!(removed_to(&*store, "chat:1").await, Some(14));
    assert_eq!(removed_to(&*store, "chat:0").await, None);
}

/// A death just after the hold was gone, before what it kept was blanked.
#[tokio::test]
async fn lifting_that_was_broken_off_is_taken_up_again() {
    let place = Folder::new();
    let store = place.store("one.db").await;
    store.write(&spoken(40)).await.unwrap();
    let keeper = Keeper::new(Arc::clone(&store), Some(place.archive()));
    let now = START + 6 * DAY_US;
    let chat = Subject::Channel("chat:1".to_owned());
    let hold = Hold {
        subject: chat.clone(),
        since_us: now,
        reason: String::new(),
    };
    keeper.hold(&hold).await.unwrap();
    keeper.erase("alice", now).await.unwrap();
    let is_hers_blank = async || {
        let rows = stored(&*store, "chat:1").await;
        rows.iter()
            .all(|(sequence, is_blank)| (sequence % 2 == 1) == *is_blank)
    };
    assert!(!is_hers_blank().await);
    assert!(store.lift(&chat, now).await.unwrap());
    assert!(!is_hers_blank().await);
    assert_eq!(store.lifts().await.unwrap(), std::slice::from_ref(&chat));
    keeper.recall().await.unwrap();
    assert!(is_hers_blank().await);
    assert_eq!(store.lifts().await.unwrap(), []);
    assert_eq!(store.erasures().await.unwrap(), [erasure_of("alice", now)]);
}

/// What a start has to look at grows as what was held and erased does, not with its square.
#[tokio::test]
async fn many_acts_are_recalled_one_by_one() {
    let place = Folder::new();
    let store = place.store("one.db").await;
    let acts = (0..3000).map(|number| Act::Erase {
        at_us: 1 + number,
        user: format!("user {number}"),
    });
    let keeper = Keeper::new(Arc::clone(&store), None);
    keeper.take_over(acts.clone().collect()).await.unwrap();
    assert_eq!(store.erasures().await.unwrap().len(), 3000);
    // Again: all are known, and none is done once more, however often each is told.
    let again: Vec<Act> = (0..20).flat_map(|_| acts.clone()).collect();
    keeper.take_over(again).await.unwrap();
    assert_eq!(store.unfinished().await.unwrap(), []);
}
