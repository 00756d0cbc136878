//! Cases of durable readers: their committed positions, and what goes on from there (L4, L5, L8).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, future};
use parking_lot::Mutex;
use switchboard_proto::bus::Role;
use switchboard_proto::ids::{Incarnation, LogEpoch, Sequence, ShardCount, ShardId};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::log::{created, fill, next};
use super::{LogFixture, shard, soon};
use crate::embedded::EmbeddedBus;
use crate::membership::{Membership, MembershipSettings};
use crate::reader::{Batch, HandleError, Handler, Reader, ReaderSettings};
use crate::{CommitError, Committed, Log, LogError, ReaderName, ReaderPosition, SubjectPrefix};

fn reader(name: &str) -> ReaderName {
    ReaderName::new(name).unwrap()
}

/// The place `up_to` in the log in force.
async fn place(log: &dyn Log, shard: ShardId, up_to: u64) -> ReaderPosition {
    ReaderPosition {
        epoch: log.info(shard).await.unwrap().epoch,
        up_to: Sequence(up_to),
    }
}

async fn commit(log: &dyn Log, name: &str, shard: ShardId, up_to: u64) -> u64 {
    let position = place(log, shard, up_to).await;
    let committed = log.commit(&reader(name), shard, position).await.unwrap();
    assert_eq!(committed.epoch, position.epoch);
    committed.up_to.0
}

async fn committed(log: &dyn Log, name: &str, shard: ShardId) -> Committed {
    let (committed, info) = log.committed(&reader(name), shard).await.unwrap();
    assert_eq!(info, log.info(shard).await.unwrap());
    committed
}

/// Nobody has to announce a reader: who never committed begins with the first record.
pub async fn unknown_reader_has_no_position(fixture: &mut impl LogFixture) {
    let log = fixture.open().await;
    let unknown = reader("unknown");
    assert_eq!(log.position(&unknown, shard(0)).await.unwrap(), None);
    assert_eq!(log.positions().await.unwrap(), []);
    assert!(matches!(
        log.committed(&unknown, shard(0)).await,
        Err(LogError::Missing(_))
    ));
    let nowhere = ReaderPosition {
        epoch: LogEpoch {
            ordinal: 1,
            random: 1,
        },
        up_to: Sequence(0),
    };
    let refused = log.commit(&unknown, shard(0), nowhere).await;
    assert!(
        matches!(refused, Err(CommitError::Log(LogError::Missing(_)))),
        "{refused:?}"
    );
    drop(log);
    let log = created(fixture, 1).await;
    fill(&*log, shard(0), 0, 3).await;
    commit(&*log, "known", shard(0), 2).await;
    assert_eq!(committed(&*log, "unknown", shard(0)).await, Committed::Nothing);
}

/// A position says where it is told to be, of each reader and shard by itself.
pub async fn position_moves_when_told(fixture: &mut impl LogFixture) {
    let log = created(fixture, 3).await;
    for number in 0..3 {
        fill(&*log, shard(number), 0, 9).await;
    }
    assert_eq!(commit(&*log, "one", shard(0), 0).await, 0);
    assert_eq!(
        committed(&*log, "one", shard(0)).await,
        Committed::UpTo(Sequence(0))
    );
    assert_eq!(commit(&*log, "one", shard(0), 4).await, 4);
    assert_eq!(commit(&*log, "two", shard(0), 7).await, 7);
    assert_eq!(commit(&*log, "one", shard(2), 9).await, 9);
    let mut records = log.read(shard(0), Sequence(5)).await.unwrap();
    assert_eq!(next(&mut records).await, 5);
    // Reading moves nothing.
    for (name, number, expected) in [
        ("one", 0, Committed::UpTo(Sequence(4))),
        ("two", 0, Committed::UpTo(Sequence(7))),
        ("one", 1, Committed::Nothing),
        ("one", 2, Committed::UpTo(Sequence(9))),
        ("two", 2, Committed::Nothing),
    ] {
        assert_eq!(
            committed(&*log, name, shard(number)).await,
            expected,
            "{name} in {number}"
        );
    }
    let all: Vec<_> = log
        .positions()
        .await
        .unwrap()
        .into_iter()
        .map(|at| (at.reader.to_string(), at.shard, at.position.up_to.0))
        .collect();
    assert_eq!(
        all,
        [
            ("one".to_owned(), shard(0), 4),
            ("one".to_owned(), shard(2), 9),
            ("two".to_owned(), shard(0), 7),
        ]
    );
}

/// A late commit, of a replica that no longer reads the shard, moves nothing back and is told how
/// far others are.
pub async fn position_never_moves_back(fixture: &mut impl LogFixture) {
    let one = created(fixture, 1).await;
    let two = fixture.open().await;
    fill(&*one, shard(0), 0, 10).await;
    assert_eq!(commit(&*one, "r", shard(0), 8).await, 8);
    assert_eq!(commit(&*two, "r", shard(0), 3).await, 8);
    assert_eq!(commit(&*two, "r", shard(0), 8).await, 8);
    for log in [&one, &two] {
        assert_eq!(
            committed(&**log, "r", shard(0)).await,
            Committed::UpTo(Sequence(8))
        );
    }
    assert_eq!(commit(&*two, "r", shard(0), 9).await, 9);
}

/// Two replicas on one shard commit against each other: none ever sees the position go back, and
/// the highest commit stands.
pub async fn racing_commits_only_move_forward(fixture: &mut impl LogFixture) {
    const LAST: u64 = 60;
    let one = created(fixture, 1).await;
    let two = fixture.open().await;
    fill(&*one, shard(0), 0, LAST).await;
    let replica = async |log: Arc<dyn Log>, first: u64| {
        let mut seen = 0;
        for up_to in (first..=LAST).step_by(2) {
            let in_force = commit(&*log, "r", shard(0), up_to).await;
            assert!(in_force >= up_to, "told {in_force} for {up_to}");
            let position = log.position(&reader("r"), shard(0)).await.unwrap();
            let position = position.unwrap().up_to.0;
            assert!(
                position >= in_force.max(seen),
                "{position} after {in_force} and {seen}"
            );
            seen = position;
        }
    };
    soon(
        "commits",
        future::join(replica(Arc::clone(&one), 1), replica(Arc::clone(&two), 2)),
    )
    .await;
    assert_eq!(
        committed(&*two, "r", shard(0)).await,
        Committed::UpTo(Sequence(LAST))
    );
}

/// O6: nobody is done with what is not there.
pub async fn commit_beyond_the_end_is_refused(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    fill(&*log, shard(0), 0, 5).await;
    commit(&*log, "r", shard(0), 2).await;
    for beyond in [6, u64::MAX] {
        let position = place(&*log, shard(0), beyond).await;
        let refused = log.commit(&reader("r"), shard(0), position).await;
        assert!(
            matches!(refused, Err(CommitError::Beyond { last, .. }) if last == Sequence(5)),
            "{refused:?}"
        );
    }
    assert_eq!(
        committed(&*log, "r", shard(0)).await,
        Committed::UpTo(Sequence(2))
    );
}

/// L4: what a reader is done with may go, and it goes on behind it.
pub async fn reader_goes_on_after_a_purge(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    fill(&*log, shard(0), 0, 10).await;
    commit(&*log, "r", shard(0), 6).await;
    commit(&*log, "slow", shard(0), 2).await;
    log.purge(shard(0), Sequence(7)).await.unwrap();
    assert_eq!(
        committed(&*log, "r", shard(0)).await,
        Committed::UpTo(Sequence(6))
    );
    let mut records = log.read(shard(0), Sequence(7)).await.unwrap();
    assert_eq!(next(&mut records).await, 7);
    // Who was not waited for sees by the sequence what it missed, and still commits.
    let mut records = log.read(shard(0), Sequence(3)).await.unwrap();
    assert_eq!(next(&mut records).await, 7);
    assert_eq!(commit(&*log, "slow", shard(0), 4).await, 4);
    assert_eq!(commit(&*log, "slow", shard(0), 7).await, 7);
}

/// L8: each reader of many shards has its own way through each, whoever else reads.
pub async fn readers_of_many_shards_are_apart(fixture: &mut impl LogFixture) {
    let log = created(fixture, 8).await;
    let all = (0..8).map(|number| {
        let log = Arc::clone(&log);
        async move {
            fill(&*log, shard(number), 0, 30).await;
            for (name, step) in [("one", 3), ("two", 10)] {
                let mut records = log.read(shard(number), Sequence(1)).await.unwrap();
                for up_to in 1..=u64::from(number) + 20 {
                    assert_eq!(next(&mut records).await, up_to);
                    if up_to % step == 0 {
                        assert_eq!(commit(&*log, name, shard(number), up_to).await, up_to);
                    }
                }
            }
        }
    });
    soon("the readers", future::join_all(all)).await;
    for number in 0..8 {
        let read = u64::from(number) + 20;
        for (name, up_to) in [("one", read - read % 3), ("two", read - read % 10)] {
            assert_eq!(
                committed(&*log, name, shard(number)).await,
                Committed::UpTo(Sequence(up_to))
            );
        }
    }
    assert_eq!(log.positions().await.unwrap().len(), 16);
}

/// A position survives all processes, and can be relied on at once.
pub async fn position_survives_reopening(fixture: &mut impl LogFixture) {
    let log = created(fixture, 2).await;
    fill(&*log, shard(1), 0, 20).await;
    commit(&*log, "r", shard(1), 5).await;
    commit(&*log, "r", shard(1), 13).await;
    let before = log.positions().await.unwrap();
    let log = fixture.reopen(log).await;
    assert_eq!(log.positions().await.unwrap(), before);
    assert_eq!(
        committed(&*log, "r", shard(1)).await,
        Committed::UpTo(Sequence(13))
    );
    assert_eq!(committed(&*log, "r", shard(0)).await, Committed::Nothing);
    let mut records = log.read(shard(1), Sequence(14)).await.unwrap();
    assert_eq!(next(&mut records).await, 14);
    drop(records);
    assert_eq!(commit(&*log, "r", shard(1), 4).await, 13);
    assert_eq!(commit(&*log, "r", shard(1), 14).await, 14);
}

/// L5: a position of another log is never taken for one of this, in neither direction.
pub async fn another_log_is_read_from_its_beginning(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    fill(&*log, shard(0), 0, 10).await;
    commit(&*log, "r", shard(0), 7).await;
    let old = place(&*log, shard(0), 7).await;
    let log = fixture.begin_anew(log).await;
    assert_ne!(log.info(shard(0)).await.unwrap().epoch, old.epoch);
    // Longer than the position: nothing but the epoch tells.
    for place in 0..12 {
        let record = Bytes::from(format!("record {}", place + 1));
        log.append(shard(0), Sequence(place), record).await.unwrap();
    }
    assert_eq!(committed(&*log, "r", shard(0)).await, Committed::OtherLog(old));
    let refused = log.commit(&reader("r"), shard(0), old).await;
    assert!(
        matches!(refused, Err(CommitError::OtherLog { named, .. }) if named == old.epoch),
        "{refused:?}"
    );
    let mut records = log.read(shard(0), Sequence(1)).await.unwrap();
    let first = soon("a record", records.next()).await.unwrap().unwrap();
    assert_eq!(first.sequence, Sequence(1));
    // Below the old one, and yet it moves there: it is further in time.
    assert_eq!(commit(&*log, "r", shard(0), 2).await, 2);
    assert_eq!(
        committed(&*log, "r", shard(0)).await,
        Committed::UpTo(Sequence(2))
    );
}

/// Keeps what it is handed, in the order in which it came.
#[derive(Default)]
struct Kept {
    batches: Mutex<Vec<Batch>>,
    /// How often it fails before it keeps anything.
    failures: Mutex<u32>,
    /// Batches of each shard after which it never comes to an end with one.
    hangs_after: Option<usize>,
}

#[async_trait]
impl Handler for Kept {
    async fn handle(&self, batch: &Batch) -> Result<(), HandleError> {
        {
            let mut failures = self.failures.lock();
            if *failures > 0 {
                *failures -= 1;
                return Err("not now".into());
            }
        }
        let of_shard = self.of(batch.shard).len();
        if self.hangs_after.is_some_and(|after| of_shard >= after) {
            future::pending::<()>().await;
        }
        self.batches.lock().push(batch.clone());
        Ok(())
    }
}

impl Kept {
    fn of(&self, shard: ShardId) -> Vec<Batch> {
        let batches = self.batches.lock();
        batches
            .iter()
            .filter(|batch| batch.shard == shard)
            .cloned()
            .collect()
    }

    /// Sequences of the shard's records, which must be whole and in order inside each batch.
    fn sequences(&self, shard: ShardId) -> Vec<u64> {
        let mut sequences = Vec::new();
        for batch in self.of(shard) {
            let mut place = batch.after;
            assert!(!batch.records.is_empty());
            for at in batch.records {
                place = place.next();
                assert_eq!(at.sequence, place);
                assert_eq!(at.record, format!("record {place}"));
                sequences.push(place.0);
            }
        }
        sequences
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let reached = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(what, reached).await;
    }
}

/// About five records a batch.
const SMALL: ReaderSettings = ReaderSettings {
    batch_bytes: 45,
    linger: Duration::from_millis(5),
    pause: Duration::from_millis(10),
    pause_max: Duration::from_millis(40),
};

struct Replica {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Replica {
    /// Begins to read `shards` shards as `r`, one of the members on `bus`.
    async fn start(
        bus: &Arc<EmbeddedBus>,
        log: Arc<dyn Log>,
        shards: u32,
        number: u128,
        kept: Arc<Kept>,
    ) -> Self {
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let incarnation = Incarnation::from_u128(number * 0x9e37_79b9_7f4a_7c15_f39c);
        let bus = Arc::clone(bus);
        let settings = MembershipSettings::default();
        let membership = Membership::join(
            bus,
            Role::Persistence,
            incarnation,
            settings,
            &tracker,
            stop.clone(),
        );
        let membership = membership.await.unwrap();
        let reader = Reader {
            log,
            shards: ShardCount::new(shards).unwrap(),
            name: reader("r"),
            role: Role::Persistence,
            incarnation,
            settings: SMALL,
            handler: kept,
        };
        tracker.spawn(reader.run(membership, stop.clone()));
        Self { stop, tracker }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tracker.close();
        soon("the end of a replica", self.tracker.wait()).await;
    }
}

/// A batch is bounded, comes again until it is handled, and only then is the position committed.
pub async fn a_batch_that_fails_comes_again(fixture: &mut impl LogFixture) {
    let log = created(fixture, 2).await;
    let kept = Arc::new(Kept {
        failures: Mutex::new(5),
        ..Kept::default()
    });
    fill(&*log, shard(0), 0, 100).await;
    let bus = EmbeddedBus::new(SubjectPrefix::default());
    let replica = Replica::start(&bus, Arc::clone(&log), 2, 1, Arc::clone(&kept)).await;
    let first: Vec<u64> = (1..=100).collect();
    kept.until("the records", |kept| kept.sequences(shard(0)) == first)
        .await;
    for batch in kept.of(shard(0)) {
        let all: usize = batch.records.iter().map(|at| at.record.len()).sum();
        assert!(all < SMALL.batch_bytes + 20, "{all} bytes");
    }
    // And on as the log grows, from the same place after a pause.
    fill(&*log, shard(0), 100, 20).await;
    fill(&*log, shard(1), 0, 3).await;
    kept.until("more records", |kept| {
        kept.sequences(shard(0)).len() == 120 && kept.sequences(shard(1)).len() == 3
    })
    .await;
    replica.stop().await;
    assert_eq!(
        committed(&*log, "r", shard(0)).await,
        Committed::UpTo(Sequence(120))
    );
    fill(&*log, shard(0), 120, 20).await;
    let replica = Replica::start(&bus, Arc::clone(&log), 2, 2, Arc::clone(&kept)).await;
    let all: Vec<u64> = (1..=140).collect();
    kept.until("the rest", |kept| kept.sequences(shard(0)) == all)
        .await;
    replica.stop().await;
}

/// A replica dies in the midst of its batches: another takes its shards over and is given everything
/// from the committed positions on. Nothing is left out; what was handled and not committed comes twice.
pub async fn dead_replicas_shards_are_taken_over(fixture: &mut impl LogFixture) {
    const SHARDS: u32 = 8;
    let log = created(fixture, SHARDS).await;
    for number in 0..SHARDS {
        fill(&*log, shard(number), 0, 40).await;
    }
    let bus = EmbeddedBus::new(SubjectPrefix::default());
    let dies = Arc::new(Kept {
        hangs_after: Some(2),
        ..Kept::default()
    });
    // All that it runs ends at once, as with its process.
    let process = Runtime::new().unwrap();
    let start = {
        let (bus, log, kept) = (Arc::clone(&bus), Arc::clone(&log), Arc::clone(&dies));
        async move { Replica::start(&bus, log, SHARDS, 1, kept).await }
    };
    let replica = process.spawn(start).await.unwrap();
    dies.until("two batches of each shard", |kept| {
        (0..SHARDS).all(|number| kept.of(shard(number)).len() == 2)
    })
    .await;
    process.shutdown_background();
    drop(replica);
    // A position is committed a moment after its batch was handled, or never.
    let lives = Arc::new(Kept::default());
    let replica = Replica::start(&bus, Arc::clone(&log), SHARDS, 2, Arc::clone(&lives)).await;
    lives
        .until("all records", |kept| {
            (0..SHARDS).all(|number| kept.sequences(shard(number)).last() == Some(&40))
        })
        .await;
    replica.stop().await;
    for number in 0..SHARDS {
        let (before, after) = (dies.sequences(shard(number)), lives.sequences(shard(number)));
        let begins = after.first().copied().unwrap();
        assert!(
            1 < begins && begins <= before.len() as u64 + 1,
            "shard {number}: {begins}"
        );
        let expected: Vec<u64> = (begins..=40).collect();
        assert_eq!(after, expected, "shard {number}");
        assert_eq!(
            committed(&*log, "r", shard(number)).await,
            Committed::UpTo(Sequence(40))
        );
    }
}

/// Replicas that come and go share the shards, and together are given each record.
pub async fn replicas_share_the_shards(fixture: &mut impl LogFixture) {
    const SHARDS: u32 = 8;
    let log = created(fixture, SHARDS).await;
    let bus = EmbeddedBus::new(SubjectPrefix::default());
    let (one, two) = (Arc::new(Kept::default()), Arc::new(Kept::default()));
    let first = Replica::start(&bus, Arc::clone(&log), SHARDS, 1, Arc::clone(&one)).await;
    let second = Replica::start(&bus, Arc::clone(&log), SHARDS, 2, Arc::clone(&two)).await;
    let mut last = 0;
    let has_some = |kept: &Kept| !kept.batches.lock().is_empty();
    let both = async {
        while !(has_some(&one) && has_some(&two)) || last < 50 {
            for number in 0..SHARDS {
                fill(&*log, shard(number), last, 5).await;
            }
            last += 5;
        }
    };
    soon("records of both", both).await;
    // Whoever leaves says so: the other has all shards at once.
    first.stop().await;
    for number in 0..SHARDS {
        fill(&*log, shard(number), last, 5).await;
    }
    last += 5;
    two.until("the last record of each shard", |kept| {
        (0..SHARDS).all(|number| kept.sequences(shard(number)).last() == Some(&last))
    })
    .await;
    second.stop().await;
    for number in 0..SHARDS {
        let mut times: BTreeMap<u64, u32> = BTreeMap::new();
        for sequence in [one.sequences(shard(number)), two.sequences(shard(number))].concat() {
            *times.entry(sequence).or_default() += 1;
        }
        assert!(times.keys().copied().eq(1..=last), "shard {number}: {times:?}");
        // Both may have read a shard for a moment, and no record came to one of them twice.
        assert!(
            times.values().all(|times| *times <= 2),
            "shard {number}: {times:?}"
        );
    }
}

/// L5: with another log a reader begins anew, and says of which log its records are.
pub async fn reader_begins_with_another_log(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    let bus = EmbeddedBus::new(SubjectPrefix::default());
    let kept = Arc::new(Kept::default());
    fill(&*log, shard(0), 0, 10).await;
    let replica = Replica::start(&bus, Arc::clone(&log), 1, 1, Arc::clone(&kept)).await;
    kept.until("the records", |kept| kept.sequences(shard(0)).len() == 10)
        .await;
    replica.stop().await;
    let log = fixture.begin_anew(log).await;
    let epoch = log.info(shard(0)).await.unwrap().epoch;
    fill(&*log, shard(0), 0, 20).await;
    let anew = Arc::new(Kept::default());
    let replica = Replica::start(&bus, Arc::clone(&log), 1, 2, Arc::clone(&anew)).await;
    let all: Vec<u64> = (1..=20).collect();
    anew.until("the new records", |kept| kept.sequences(shard(0)) == all)
        .await;
    assert!(anew.of(shard(0)).iter().all(|batch| batch.log == epoch));
    assert!(kept.of(shard(0)).iter().all(|batch| batch.log != epoch));
    replica.stop().await;
    assert_eq!(
        committed(&*log, "r", shard(0)).await,
        Committed::UpTo(Sequence(20))
    );
}

/// L5: a log that comes into force while a reader runs is read from its beginning, and nobody has to start the reader anew.
pub async fn running_reader_follows_another_log(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    let bus = EmbeddedBus::new(SubjectPrefix::default());
    let kept = Arc::new(Kept::default());
    fill(&*log, shard(0), 0, 10).await;
    let replica = Replica::start(&bus, Arc::clone(&log), 1, 1, Arc::clone(&kept)).await;
    kept.until("the records", |kept| kept.sequences(shard(0)).len() == 10)
        .await;
    let from = log.layout().await.unwrap().unwrap();
    let to = from.followed().with_ordinal(shard(0), 2);
    let anew = log.of(&to);
    anew.create_log(shard(0)).await.unwrap();
    log.change_layout(&from, &to).await.unwrap();
    let epoch = anew.info(shard(0)).await.unwrap().epoch;
    fill(&*anew, shard(0), 0, 20).await;
    kept.until("the other log's records", |kept| {
        let batches = kept.of(shard(0));
        let of_it = batches.iter().filter(|batch| batch.log == epoch);
        of_it.map(|batch| batch.records.len()).sum::<usize>() == 20
    })
    .await;
    replica.stop().await;
    assert_eq!(
        committed(&*anew, "r", shard(0)).await,
        Committed::UpTo(Sequence(20))
    );
}
