use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use switchboard_proto::bus::change::What;
use switchboard_proto::bus::{
    Change, ChannelMember, Delete, Edit, MemberRole, MembersChanged, Message, MessageAt, React, Sender,
};
use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};
use tempfile::TempDir;

use super::*;
use crate::keeping::{Keeper, Policy, Retention};
use crate::store::conversations::{Conversations, Mark};
use crate::store::keeping::{Hold, Subject};
use crate::store::{
    History, Hole, MessageStore as _, Place, Row, SqliteSettings, SqliteStore, Store, Written,
};

const LOG: LogEpoch = LogEpoch {
    ordinal: 1,
    random: 7,
};
const OLD: LogEpoch = LogEpoch {
    ordinal: 1,
    random: 2,
};
/// 1 January 2026.
const START: u64 = 20_454 * 24 * 60 * 60 * 1_000_000;

async fn opened(folder: &Path, name: &str) -> Arc<dyn Store> {
    let store = SqliteStore::new(&SqliteSettings {
        path: folder.join(name),
        connections: 2,
        wait: Duration::from_secs(20),
    });
    store.migrate().await.unwrap();
    Arc::new(store)
}

fn keeper(store: &Arc<dyn Store>) -> Keeper {
    Keeper::new(Arc::clone(store), None)
}

fn at(sequence: u64, index: usize) -> Place {
    Place {
        log: LOG,
        offset: Offset::new(Sequence(sequence), index),
    }
}

fn row(place: Place, channel: &str, user: &str, what: Option<What>) -> Row {
    let text = format!("\"words of {user} at {}\"", place.offset);
    let message = Message {
        channel: channel.to_owned(),
        payload: Bytes::from(text),
        sender: Some(Sender {
            user: user.to_owned(),
            ..Sender::default()
        }),
        change: what.map(|what| Change { what: Some(what) }),
        ..Message::default()
    };
    Row {
        offset: place.offset,
        time_us: START + place.offset.sequence().0,
        channel: channel.to_owned(),
        sender: Some(user.to_owned()),
        change: message.change.clone(),
        message: message.encode_to_vec().into(),
    }
}

fn target(sequence: u64) -> Option<MessageAt> {
    Some(MessageAt {
        offset: at(sequence, 0).offset.get(),
        ..MessageAt::default()
    })
}

fn written(
    shard: u32,
    log: LogEpoch,
    (read_after, after, up_to): (u64, u64, u64),
    rows: Vec<Row>,
) -> Written {
    Written {
        shard: ShardId::new(shard).unwrap(),
        log,
        read_after: Sequence(read_after),
        after: Sequence(after),
        up_to: Sequence(up_to),
        owner_epoch: OwnerEpoch(5),
        rows,
        dead: Vec::new(),
    }
}

/// An installation in which something was said, changed, read, erased, held and lost.
async fn installation(folder: &Path) -> Arc<dyn Store> {
    let store = opened(folder, "source.db").await;
    let claim = MembersChanged {
        added: vec![ChannelMember {
            user: "alice".to_owned(),
            role: MemberRole::Owner.into(),
        }],
        claims: true,
        ..MembersChanged::default()
    };
    let mut rows = vec![
        row(at(1, 0), "team:1", "alice", Some(What::Members(claim.clone()))),
        row(
            at(2, 0),
            "team:1",
            "bob",
            Some(What::Members(MembersChanged {
                added: vec![ChannelMember {
                    user: "bob".to_owned(),
                    role: MemberRole::Owner.into(),
                }],
                ..claim
            })),
        ),
        row(at(3, 0), "dm:#alice,bob", "alice", None),
        row(at(4, 0), "dm:#alice,bob", "bob", None),
        row(at(5, 0), "dm:#alice,bob", "mallory", None),
    ];
    rows.push(row(
        at(6, 0),
        "dm:#alice,bob",
        "alice",
        Some(What::Edit(Edit { target: target(3) })),
    ));
    rows.push(row(
        at(6, 1),
        "dm:#alice,bob",
        "alice",
        Some(What::React(React {
            target: target(4),
            reaction: "+1".to_owned(),
            remove: false,
        })),
    ));
    rows.push(row(
        at(7, 0),
        "dm:#alice,bob",
        "bob",
        Some(What::Delete(Delete { target: target(4) })),
    ));
    rows.push(row(at(8, 0), "held:1", "mallory", None));
    store
        .write(&written(3, LOG, (0, 0, 9), rows).clone())
        .await
        .unwrap();
    // A stretch was gone before it was read; then many, of several records each with several messages.
    let many = (15..1015).flat_map(|sequence| (0..30).map(move |index| at(sequence, index)));
    let rows = many.map(|place| row(place, "news:1", "bob", None)).collect();
    store.write(&written(3, LOG, (9, 14, 1020), rows)).await.unwrap();
    let old = Place { log: OLD, ..at(1, 0) };
    let rows = vec![row(old, "news:1", "alice", None)];
    store.write(&written(9, OLD, (0, 0, 4), rows)).await.unwrap();

    let keeper = keeper(&store);
    let hold = Hold {
        subject: Subject::Namespace("held".to_owned()),
        since_us: START + 50,
        reason: "a case".to_owned(),
    };
    keeper.hold(&hold).await.unwrap();
    keeper.erase("mallory", START + 100).await.unwrap();
    // The claim of the team is gone; that alice has it is known still.
    let retention = Retention {
        count: Some(1),
        ..Retention::default()
    };
    let policy = Policy {
        namespaces: [("team".to_owned(), retention)].into(),
        ..Policy::default()
    };
    assert_eq!(keeper.sweep(&policy, START).await.unwrap().expired, 1);
    let mark = Mark {
        channel: "dm:#alice,bob".to_owned(),
        user: "bob".to_owned(),
        delivered: Some(at(5, 0)),
        read: Some(at(3, 0)),
    };
    store.mark(&[mark]).await.unwrap();
    store
}

/// All that is asked of a store, as text.
async fn seen(store: &dyn Store) -> String {
    let mut seen = String::new();
    for channel in ["team:1", "dm:#alice,bob", "held:1", "news:1"] {
        let question = History::of(channel, 10_000);
        let mut joint = store
            .joint(&question, ShardId::new(3).unwrap(), Some(LOG))
            .await
            .unwrap();
        // Of many the ends.
        let messages = &mut joint.page.messages;
        if messages.len() > 20 {
            messages.drain(10..messages.len() - 10);
        }
        let places: Vec<Place> = joint.page.messages.iter().map(|stored| stored.place).collect();
        let mut folds: Vec<_> = store.folds(channel, &places).await.unwrap().into_iter().collect();
        folds.sort_by_key(|(place, _)| *place);
        let members = store.members(channel, "", 9).await.unwrap();
        let standing = store.standings(&[(channel, "bob")]).await.unwrap();
        let status = store.status(channel, at(5, 0), 9, 9).await.unwrap();
        seen += &format!("{channel}: {joint:#?} {folds:?} {members:?} {standing:?} {status:?}\n");
    }
    for user in ["alice", "bob"] {
        let question = Conversations {
            user: user.to_owned(),
            before: None,
            limit: 9,
            count_to: 100,
            bytes: usize::MAX,
        };
        seen += &format!("{user}: {:#?}\n", store.conversations(&question).await.unwrap());
    }
    for (shard, log) in [(3, LOG), (9, OLD)] {
        let shard = ShardId::new(shard).unwrap();
        let progress = store.progress(shard, log).await.unwrap();
        seen += &format!("{progress:?} {:?}\n", store.holes(shard, log).await.unwrap());
    }
    seen += &format!(
        "{:?} {:?}",
        store.holds().await.unwrap(),
        store.erasures().await.unwrap()
    );
    seen
}

async fn exported(store: &dyn Store, path: &Path) -> Manifest {
    let folder = Folder::create(path).unwrap();
    export(store, &folder, START, |_| {}).await.unwrap()
}

async fn import(path: &Path) -> Result<Import, MoveError> {
    Import::open(Folder::open(path)?).await
}

#[tokio::test]
async fn what_was_exported_is_seen_where_it_is_imported() {
    let folder = TempDir::new().unwrap();
    let source = installation(folder.path()).await;
    let path = folder.path().join("export");
    let manifest = exported(&*source, &path).await;
    // Files of whole records: one of 30 messages would not end at 10,000.
    let of_log = manifest.logs.iter().find(|log| log.shard == 3).unwrap();
    assert!(of_log.files.len() > 2, "{of_log:?}");
    assert_eq!(manifest.messages, 30_000 + 8 + 1);

    let import = import(&path).await.unwrap();
    assert_eq!((import.manifest(), import.highest_ordinal()), (&manifest, 1));
    let target = opened(folder.path(), "target.db").await;
    let expected = seen(&*source).await;
    assert!(expected.contains("words of bob at"), "{expected}");
    assert!(!expected.contains("words of mallory at 20480"), "it is erased");
    let hole = Hole {
        first: Sequence(10),
        last: Sequence(14),
    };
    for _ in 0..2 {
        let imported = import.write(&*target, &keeper(&target), |_| {}).await.unwrap();
        assert_eq!(
            imported,
            Imported {
                messages: manifest.messages,
                logs: 2
            }
        );
        assert_eq!(seen(&*target).await, expected);
        let holes = target.holes(ShardId::new(3).unwrap(), LOG).await.unwrap();
        assert_eq!(holes, [hole]);
    }
    // An erasure that comes late is applied here as well, and the hold keeps from it what it kept there.
    let question = History::of("held:1", 9);
    let held = target.history(&question).await.unwrap();
    assert!(String::from_utf8_lossy(&held.messages[0].message).contains("words of mallory"));
    keeper(&target)
        .lift(&Subject::Namespace("held".to_owned()), START + 200)
        .await
        .unwrap();
    let lifted = target.history(&question).await.unwrap();
    assert!(!String::from_utf8_lossy(&lifted.messages[0].message).contains("words of mallory"));
    // From there it goes on, and on.
    let again = folder.path().join("again");
    let second = exported(&*target, &again).await;
    assert_eq!(second.messages, manifest.messages);
}

/// An export that is older than an erasure brings nothing of the user back, also where it is imported again.
#[tokio::test]
async fn older_export_brings_nobody_back_who_was_erased_since() {
    let folder = TempDir::new().unwrap();
    let source = installation(folder.path()).await;
    let path = folder.path().join("export");
    exported(&*source, &path).await;
    let import = import(&path).await.unwrap();
    let target = opened(folder.path(), "target.db").await;
    import.write(&*target, &keeper(&target), |_| {}).await.unwrap();
    for user in ["alice", "bob"] {
        keeper(&target).erase(user, START + 100_000).await.unwrap();
    }
    let erased = seen(&*target).await;
    assert_eq!(target.members("team:1", "", 9).await.unwrap(), []);
    assert_eq!(target.all_receipts(("", "")).await.unwrap(), []);
    import.write(&*target, &keeper(&target), |_| {}).await.unwrap();
    assert_eq!(target.members("team:1", "", 9).await.unwrap(), []);
    assert_eq!(target.all_receipts(("", "")).await.unwrap(), []);
    assert_eq!(seen(&*target).await, erased);
    // One that knows of the erasures has what they were from then on.
    let event = MembersChanged {
        added: vec![ChannelMember {
            user: "bob".to_owned(),
            role: MemberRole::Member.into(),
        }],
        ..MembersChanged::default()
    };
    let mut back = row(at(1021, 0), "team:1", "carol", Some(What::Members(event)));
    back.time_us = START + 200_000;
    let back = written(3, LOG, (1020, 1020, 1021), vec![back]);
    target.write(&back).await.unwrap();
    let again = folder.path().join("again");
    exported(&*target, &again).await;
    let other = opened(folder.path(), "other.db").await;
    let import = self::import(&again).await.unwrap();
    import.write(&*other, &keeper(&other), |_| {}).await.unwrap();
    let members = other.members("team:1", "", 9).await.unwrap();
    assert_eq!(members, target.members("team:1", "", 9).await.unwrap());
    assert_eq!(members.len(), 1);
}

#[tokio::test]
async fn import_that_was_broken_off_is_begun_anew() {
    let folder = TempDir::new().unwrap();
    let source = installation(folder.path()).await;
    let path = folder.path().join("export");
    exported(&*source, &path).await;
    let import = import(&path).await.unwrap();
    let target = opened(folder.path(), "target.db").await;
    // At each of some moments: the further it is, the more is there.
    let mut broken_off = 0;
    for millis in [1, 10, 40, 160] {
        let keeper = keeper(&target);
        let writing = import.write(&*target, &keeper, |_| {});
        if tokio::time::timeout(Duration::from_millis(millis), writing)
            .await
            .is_err()
        {
            broken_off += 1;
        }
    }
    assert!(broken_off > 0, "it is never broken off");
    import.write(&*target, &keeper(&target), |_| {}).await.unwrap();
    assert_eq!(seen(&*target).await, seen(&*source).await);
}

/// Messages that were said here already would stand among those of the export.
#[tokio::test]
async fn store_with_messages_of_its_own_is_refused_unless_they_come_behind() {
    let folder = TempDir::new().unwrap();
    let source = installation(folder.path()).await;
    let path = folder.path().join("export");
    exported(&*source, &path).await;
    let import = import(&path).await.unwrap();
    for (ordinal, fits) in [(1, false), (2, true)] {
        let target = opened(folder.path(), &format!("{ordinal}.db")).await;
        let log = LogEpoch { ordinal, random: 1 };
        // Records without messages are no reason.
        target
            .write(&written(
                0,
                LogEpoch {
                    ordinal: 1,
                    random: 9,
                },
                (0, 0, 5),
                vec![],
            ))
            .await
            .unwrap();
        import.fits(&*target).await.unwrap();
        let own = row(Place { log, ..at(1, 0) }, "news:1", "carol", None);
        target
            .write(&written(0, log, (0, 0, 3), vec![own]))
            .await
            .unwrap();
        let done = import.write(&*target, &keeper(&target), |_| {}).await;
        match done {
            Ok(_) => assert!(fits),
            Err(MoveError::Occupied { found: 1, highest: 1 }) => assert!(!fits),
            Err(other) => panic!("{other}"),
        }
        assert_eq!(
            target.holds().await.unwrap().is_empty(),
            !fits,
            "nothing was written"
        );
        let newest = History {
            reverse: true,
            ..History::of("news:1", 1)
        };
        let newest = target.history(&newest).await.unwrap();
        assert_eq!(newest.messages[0].place.log, log);
    }
}

/// What is not as it was written is refused, and named; nothing of it is written.
#[tokio::test]
async fn export_that_is_damaged_is_refused() {
    let folder = TempDir::new().unwrap();
    let source = installation(folder.path()).await;
    let path = folder.path().join("export");
    let manifest = exported(&*source, &path).await;
    let again = Folder::create(&path).unwrap();
    assert!(matches!(
        export(&*source, &again, START, |_| {}).await,
        Err(MoveError::Exists)
    ));
    let files = manifest
        .logs
        .iter()
        .flat_map(|log| &log.files)
        .chain(&manifest.beside);
    for name in files.chain([&manifest.acts]).map(|file| &file.name) {
        let file = path.join(name);
        let good = std::fs::read(&file).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        for bytes in [&bad[..], &good[..good.len() - 1], &[]] {
            std::fs::write(&file, bytes).unwrap();
            let error = import(&path).await.err().unwrap();
            assert!(
                matches!(&error, MoveError::Damaged(of, _) if of == name),
                "{error}"
            );
        }
        std::fs::remove_file(&file).unwrap();
        let error = import(&path).await.err().unwrap();
        assert!(matches!(&error, MoveError::Missing(of) if of == name), "{error}");
        std::fs::write(&file, good).unwrap();
    }
    import(&path).await.unwrap();

    let file = path.join(MANIFEST);
    let good = std::fs::read_to_string(&file).unwrap();
    let with = async |from: &str, to: &str| {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good, "{from}");
        std::fs::write(&file, changed).unwrap();
        import(&path).await.err().unwrap()
    };
    let newer = with("\"format\": 1", "\"more\": [], \"format\": 2").await;
    assert!(matches!(newer, MoveError::Format(2)), "{newer}");
    let mut faults = Vec::new();
    for (from, to) in [
        ("\"shard\": 3", "\"shard\": 70000"),
        ("\"shard\": 3", "\"shard\": 4"),
        ("\"epoch\": \"", "\"epoch\": \"x"),
        ("\"read_to\": 1020", "\"read_to\": 1000"),
        ("\"logs\"", "\"longs\""),
        ("{", ""),
    ] {
        faults.push(with(from, to).await);
    }
    for fault in faults {
        assert!(matches!(fault, MoveError::Damaged(..)), "{fault}");
    }
    // Half an export has no manifest.
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(import(&path).await, Err(MoveError::NoManifest)));
    let nowhere = folder.path().join("nowhere");
    assert!(matches!(import(&nowhere).await, Err(MoveError::Folder(_))));
}
