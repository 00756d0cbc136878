//! Cases of durable readers: their committed positions, and what goes on from there (L4, L5, L8).

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, future};
use switchboard_proto::ids::{LogEpoch, Sequence, ShardId};

use super::log::{created, fill, next};
use super::{LogFixture, shard, soon};
use crate::{CommitError, Committed, Log, LogError, ReaderName, ReaderPosition};

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
