//! Cases of the log.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, future};
use switchboard_proto::bus::Layout;
use switchboard_proto::ids::{Sequence, ShardId};

use super::{LogFixture, layout, shard, soon};
use crate::{AppendError, Log, LogError, RecordStream};

/// What a shard's log takes in these cases.
pub const MAX_BYTES: u64 = 32 << 20;

fn record(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

pub(super) async fn created(fixture: &mut impl LogFixture, shards: u32) -> Arc<dyn Log> {
    let log = fixture.open().await;
    soon("creation", log.create(&layout(shards))).await.unwrap();
    log
}

/// Appends `count` records after `last`, each named after its place.
pub(super) async fn fill(log: &dyn Log, shard: ShardId, last: u64, count: u64) {
    for place in last..last + count {
        let stored = log
            .append(shard, Sequence(place), record(format!("record {}", place + 1)))
            .await;
        assert_eq!(stored.unwrap(), Sequence(place + 1));
    }
}

/// The next record, which must be named after its place.
pub(super) async fn next(records: &mut RecordStream) -> u64 {
    let next = soon("a record", records.next())
        .await
        .expect("readers do not end");
    let next = next.unwrap();
    assert_eq!(next.record, format!("record {}", next.sequence));
    next.sequence.0
}

/// Without a layout there is no log, and everybody says so.
pub async fn nothing_is_there_before_it_is_created(fixture: &mut impl LogFixture) {
    let log = fixture.open().await;
    let missing = shard(0);
    assert_eq!(log.layout().await.unwrap(), None);
    assert!(matches!(log.info(missing).await, Err(LogError::Missing(_))));
    assert!(matches!(
        log.get(missing, Sequence(1)).await,
        Err(LogError::Missing(_))
    ));
    assert!(matches!(
        log.purge(missing, Sequence(9)).await,
        Err(LogError::Missing(_))
    ));
    assert!(matches!(
        log.read(missing, Sequence(1)).await,
        Err(LogError::Missing(_))
    ));
    let appended = log.append(missing, Sequence(0), record("x")).await;
    assert!(matches!(appended, Err(AppendError::Unknown(_))), "{appended:?}");
    log.create(&layout(1)).await.unwrap();
    assert!(log.info(missing).await.is_ok());
    assert!(matches!(log.info(shard(1)).await, Err(LogError::Missing(_))));
}

/// L7: the first layout stays, whatever is wanted later.
pub async fn layout_is_created_once(fixture: &mut impl LogFixture) {
    let log = fixture.open().await;
    assert_eq!(log.create(&layout(2)).await.unwrap(), layout(2));
    let epoch = log.info(shard(0)).await.unwrap().epoch;
    assert_eq!(epoch.ordinal, 1);
    assert_eq!(log.create(&layout(7)).await.unwrap(), layout(2));
    assert_eq!(log.layout().await.unwrap(), Some(layout(2)));
    assert_eq!(log.info(shard(0)).await.unwrap().epoch, epoch);
    assert!(matches!(log.info(shard(2)).await, Err(LogError::Missing(_))));
}

/// L5: a shard's log is followed by an empty one with a higher ordinal; what is meant for one never hits the other.
pub async fn another_log_begins_anew_and_apart(fixture: &mut impl LogFixture) {
    let log = created(fixture, 2).await;
    fill(&*log, shard(0), 0, 5).await;
    fill(&*log, shard(1), 0, 1).await;
    let old = log.of(&layout(2));
    let next = layout(2).with_ordinal(shard(0), 2);
    let new = log.of(&next);
    assert!(matches!(new.info(shard(0)).await, Err(LogError::Missing(_))));
    assert!(matches!(log.check(&next).await, Err(LogError::Missing(_))));
    for _ in 0..2 {
        soon("creation", new.create_log(shard(0))).await.unwrap();
    }
    log.check(&next).await.unwrap();
    assert_eq!(log.layout().await.unwrap(), Some(layout(2)), "not in force yet");
    let begun = new.info(shard(0)).await.unwrap();
    let before = old.info(shard(0)).await.unwrap();
    assert_eq!((begun.epoch.ordinal, begun.last), (2, Sequence(0)));
    assert_ne!(begun.epoch.random, before.epoch.random);
    assert_eq!(
        new.info(shard(1)).await.unwrap(),
        old.info(shard(1)).await.unwrap()
    );

    log.change_layout(&layout(2), &next).await.unwrap();
    fill(&*new, shard(0), 0, 5).await;
    // Late, and fitting both.
    fill(&*old, shard(0), 5, 1).await;
    assert_eq!(new.info(shard(0)).await.unwrap().last, Sequence(5));
    new.purge(shard(0), Sequence(4)).await.unwrap();
    assert_eq!(old.info(shard(0)).await.unwrap().first, Sequence(1));
    drop((log, old, new));

    let log = fixture.open().await;
    assert_eq!(log.create(&layout(7)).await.unwrap(), next);
    let (old, new) = (log.of(&layout(2)), log.of(&next));
    let info = new.info(shard(0)).await.unwrap();
    assert_eq!(
        (info.epoch, info.first, info.last),
        (begun.epoch, Sequence(4), Sequence(5))
    );
    old.create_log(shard(0)).await.unwrap();
    assert_eq!(old.info(shard(0)).await.unwrap().last, Sequence(6), "it is kept");
    for _ in 0..2 {
        old.remove(shard(0)).await.unwrap();
    }
    assert!(matches!(old.info(shard(0)).await, Err(LogError::Missing(_))));
    let mut records = new.read(shard(0), Sequence(4)).await.unwrap();
    assert_eq!(self::next(&mut records).await, 4);
}

/// L7: of two that change the layout one is told that it came too late; who asks twice for the same is not.
pub async fn layout_is_changed_by_one_at_a_time(fixture: &mut impl LogFixture) {
    let log = created(fixture, 2).await;
    let (one, two) = (
        layout(2).with_ordinal(shard(0), 2),
        layout(2).with_ordinal(shard(1), 2),
    );
    log.change_layout(&layout(2), &one).await.unwrap();
    log.change_layout(&layout(2), &one).await.unwrap();
    let late = log.change_layout(&layout(2), &two).await;
    assert!(matches!(late, Err(LogError::LayoutChanged)), "{late:?}");
    assert_eq!(log.layout().await.unwrap(), Some(one.clone()));
    // As often as one likes: what is behind does not fill anything up.
    let mut from = one;
    for changing_to in 1..=40 {
        let to = Layout {
            changing_to,
            ..from.clone()
        };
        log.change_layout(&from, &to).await.unwrap();
        from = to;
    }
    assert_eq!(log.layout().await.unwrap(), Some(from));
}

/// L7: creators that differ are given the same layout and the same logs.
pub async fn concurrent_creators_agree(fixture: &mut impl LogFixture) {
    let (one, two) = (fixture.open().await, fixture.open().await);
    let (layout_one, layout_two) = (layout(2), layout(3));
    let (first, second) = soon("creation", async {
        tokio::join!(one.create(&layout_one), two.create(&layout_two))
    })
    .await;
    let in_force = first.unwrap();
    assert_eq!(second.unwrap(), in_force);
    for number in 0..in_force.shards {
        let (first, second) = (one.info(shard(number)).await, two.info(shard(number)).await);
        assert_eq!(first.unwrap(), second.unwrap());
    }
}

/// Sequences begin at 1 and grow by one.
pub async fn appends_follow_each_other(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    fill(&*log, shard(0), 0, 20).await;
    assert_eq!(log.info(shard(0)).await.unwrap().last, Sequence(20));
}

/// O1: an append that expects another end is refused, whichever way it is wrong.
pub async fn append_elsewhere_is_refused_and_nothing_stored(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    let refuse = async |expected| {
        let before = log.info(shard(0)).await.unwrap();
        let refused = log.append(shard(0), Sequence(expected), record("wrong")).await;
        assert!(matches!(refused, Err(AppendError::WrongLast { expected: told }) if told.0 == expected));
        assert_eq!(log.info(shard(0)).await.unwrap(), before);
    };
    refuse(1).await;
    fill(&*log, shard(0), 0, 3).await;
    for expected in [0, 2, 4, u64::MAX] {
        refuse(expected).await;
    }
    assert_eq!(log.get(shard(0), Sequence(4)).await.unwrap(), None);
    fill(&*log, shard(0), 3, 1).await;
}

/// O1: of two writers that expect the same end one wins, and its record is the one that is there.
pub async fn of_racing_writers_exactly_one_wins(fixture: &mut impl LogFixture) {
    let one = created(fixture, 1).await;
    let two = fixture.open().await;
    for place in 0..200 {
        let expected = Sequence(place);
        let (first, second) = soon("appends", async {
            tokio::join!(
                one.append(shard(0), expected, record("one")),
                two.append(shard(0), expected, record("two")),
            )
        })
        .await;
        let winner = match (&first, &second) {
            (Ok(sequence), Err(AppendError::WrongLast { .. })) if *sequence == expected.next() => "one",
            (Err(AppendError::WrongLast { .. }), Ok(sequence)) if *sequence == expected.next() => "two",
            _ => panic!("round {place}: {first:?} and {second:?}"),
        };
        let stored = one.get(shard(0), expected.next()).await.unwrap();
        assert_eq!(stored, Some(record(winner)), "round {place}");
    }
    assert_eq!(two.info(shard(0)).await.unwrap().last, Sequence(200));
}

/// One shard's appends and purges are nothing to another's.
pub async fn shards_are_independent(fixture: &mut impl LogFixture) {
    let log = created(fixture, 3).await;
    fill(&*log, shard(0), 0, 5).await;
    fill(&*log, shard(2), 0, 2).await;
    log.purge(shard(0), Sequence(4)).await.unwrap();
    let mut ends = Vec::new();
    for number in 0..3 {
        let info = log.info(shard(number)).await.unwrap();
        ends.push((info.first.0, info.last.0));
    }
    assert_eq!(ends, [(4, 5), (1, 0), (1, 2)]);
    assert_eq!(log.get(shard(1), Sequence(1)).await.unwrap(), None);
}

/// Appends to many shards at once, as owners make them, are all stored, each shard's in order.
pub async fn many_writers_at_once_lose_nothing(fixture: &mut impl LogFixture) {
    let log = created(fixture, 8).await;
    let writers = (0..8).map(|number| fill(&*log, shard(number), 0, 100));
    soon("appends", future::join_all(writers)).await;
    for number in 0..8 {
        let mut records = log.read(shard(number), Sequence(1)).await.unwrap();
        for place in 1..=100 {
            assert_eq!(next(&mut records).await, place, "shard {number}");
        }
    }
}

/// First, last and size of a log, and the log's name, which does not change.
pub async fn bounds_are_told(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    let empty = log.info(shard(0)).await.unwrap();
    assert_eq!(
        (empty.first, empty.last, empty.bytes),
        (Sequence(1), Sequence(0), 0)
    );
    assert_eq!(empty.max_bytes, Some(MAX_BYTES));
    fill(&*log, shard(0), 0, 10).await;
    let full = log.info(shard(0)).await.unwrap();
    assert_eq!(
        (full.first, full.last, full.epoch),
        (Sequence(1), Sequence(10), empty.epoch)
    );
    log.purge(shard(0), Sequence(6)).await.unwrap();
    let purged = log.info(shard(0)).await.unwrap();
    assert_eq!((purged.first, purged.last), (Sequence(6), Sequence(10)));
    assert!(
        0 < purged.bytes && purged.bytes < full.bytes,
        "{purged:?} {full:?}"
    );
}

/// A record is found at its place; nothing is found before, beyond, or where it was purged.
pub async fn get_finds_what_is_there(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    fill(&*log, shard(0), 0, 4).await;
    log.append(shard(0), Sequence(4), Bytes::new()).await.unwrap();
    log.purge(shard(0), Sequence(3)).await.unwrap();
    let get = async |place| log.get(shard(0), Sequence(place)).await.unwrap();
    for absent in [0, 1, 2, 6, u64::MAX] {
        assert_eq!(get(absent).await, None, "{absent}");
    }
    assert_eq!(get(3).await, Some(record("record 3")));
    assert_eq!(get(4).await, Some(record("record 4")));
    assert_eq!(get(5).await, Some(Bytes::new()));
}

/// A reader is given what is stored, then what is appended, with no record missing or doubled where
/// one turns into the other.
pub async fn reader_goes_from_store_to_live(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    fill(&*log, shard(0), 0, 10).await;
    let mut records = log.read(shard(0), Sequence(5)).await.unwrap();
    let write = fill(&*log, shard(0), 10, 200);
    let read = async {
        for place in 5..=210 {
            assert_eq!(next(&mut records).await, place);
        }
    };
    soon("records", future::join(write, read)).await;
    fill(&*log, shard(0), 210, 1).await;
    assert_eq!(next(&mut records).await, 211);
}

/// L4: who wants what was purged is given the first record still there.
pub async fn reader_begins_after_what_was_purged(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    fill(&*log, shard(0), 0, 10).await;
    log.purge(shard(0), Sequence(7)).await.unwrap();
    for from in [0, 1, 6, 7] {
        let mut records = log.read(shard(0), Sequence(from)).await.unwrap();
        assert_eq!(next(&mut records).await, 7, "from {from}");
        assert_eq!(next(&mut records).await, 8, "from {from}");
    }
}

/// A place beyond the end is waited for; what comes before it is not given.
pub async fn reader_waits_for_a_place_beyond_the_end(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    fill(&*log, shard(0), 0, 2).await;
    let mut records = log.read(shard(0), Sequence(6)).await.unwrap();
    fill(&*log, shard(0), 2, 5).await;
    assert_eq!(next(&mut records).await, 6);
    assert_eq!(next(&mut records).await, 7);
}

/// L8: a reader whose next record was purged is told, it does not just go on behind it.
pub async fn reader_overtaken_by_a_purge_is_told(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    // More than a reader may hold.
    let large = Bytes::from(vec![7; 64 << 10]);
    for place in 0..400 {
        log.append(shard(0), Sequence(place), large.clone())
            .await
            .unwrap();
    }
    let mut records = log.read(shard(0), Sequence(1)).await.unwrap();
    let first = soon("a record", records.next()).await.unwrap().unwrap();
    assert_eq!(first.sequence, Sequence(1));
    log.purge(shard(0), Sequence(390)).await.unwrap();
    let mut last = first.sequence;
    let told = loop {
        match soon("a record", records.next()).await.unwrap() {
            Ok(next) => {
                assert_eq!(next.sequence, last.next());
                last = next.sequence;
            }
            Err(error) => break error,
        }
    };
    assert!(
        matches!(told, LogError::Hole { expected, found } if expected == last.next() && found == Sequence(390)),
        "after {last}: {told:?}"
    );
    assert!(soon("the end", records.next()).await.is_none());
}

/// L4: the last record stays, a purge up to 0 or 1 does nothing, and the log goes on as before.
pub async fn purge_keeps_the_last_record(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    let bounds = async || {
        let info = log.info(shard(0)).await.unwrap();
        (info.first.0, info.last.0)
    };
    log.purge(shard(0), Sequence(5)).await.unwrap();
    assert_eq!(bounds().await, (1, 0));
    fill(&*log, shard(0), 0, 5).await;
    for nothing in [0, 1] {
        log.purge(shard(0), Sequence(nothing)).await.unwrap();
        assert_eq!(bounds().await, (1, 5), "purge to {nothing}");
    }
    log.purge(shard(0), Sequence(3)).await.unwrap();
    assert_eq!(bounds().await, (3, 5));
    for beyond in [2, 5, 6, u64::MAX] {
        log.purge(shard(0), Sequence(beyond)).await.unwrap();
        let first = if beyond == 2 { 3 } else { 5 };
        assert_eq!(bounds().await, (first, 5), "purge to {beyond}");
    }
    assert_eq!(
        log.get(shard(0), Sequence(5)).await.unwrap(),
        Some(record("record 5"))
    );
    fill(&*log, shard(0), 5, 1).await;
}

/// A record of the limit is stored, one byte more never leaves this process.
pub async fn too_large_record_is_refused_before_anything(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    let limit = log.max_record();
    let refused = log
        .append(shard(0), Sequence(0), Bytes::from(vec![0; limit + 1]))
        .await;
    assert!(
        matches!(refused, Err(AppendError::TooLarge { size, limit: told }) if size == limit + 1 && told == limit),
        "{refused:?}"
    );
    assert_eq!(log.info(shard(0)).await.unwrap().last, Sequence(0));
    let largest = Bytes::from(vec![1; limit]);
    assert_eq!(
        log.append(shard(0), Sequence(0), largest.clone()).await.unwrap(),
        Sequence(1)
    );
    assert_eq!(
        log.get(shard(0), Sequence(1)).await.unwrap(),
        Some(largest.clone())
    );
    let mut records = log.read(shard(0), Sequence(1)).await.unwrap();
    assert_eq!(
        soon("the record", records.next()).await.unwrap().unwrap().record,
        largest
    );
}

/// L3: a full log refuses for certain, uses up no sequence, and goes on once it was purged.
pub async fn full_log_refuses_and_stores_nothing(fixture: &mut impl LogFixture) {
    let log = created(fixture, 1).await;
    let large = Bytes::from(vec![7; log.max_record()]);
    let mut last = Sequence(0);
    let refused = loop {
        match log.append(shard(0), last, large.clone()).await {
            Ok(sequence) => last = sequence,
            Err(refused) => break refused,
        }
        assert!(last.0 * log.max_record() as u64 <= MAX_BYTES, "stored {last}");
    };
    assert!(matches!(refused, AppendError::Refused(_)), "{refused:?}");
    assert!(last.0 > 20);
    let info = log.info(shard(0)).await.unwrap();
    assert_eq!(info.last, last);
    assert!(info.bytes <= MAX_BYTES);
    // Who is wrong about the end is told that first.
    let stale = log.append(shard(0), Sequence(1), large.clone()).await;
    assert!(matches!(stale, Err(AppendError::WrongLast { .. })), "{stale:?}");
    log.purge(shard(0), Sequence(5)).await.unwrap();
    assert_eq!(log.append(shard(0), last, large).await.unwrap(), last.next());
}

/// A new process finds what the old one was told is stored.
pub async fn reopened_log_has_everything(fixture: &mut impl LogFixture) {
    let log = created(fixture, 2).await;
    fill(&*log, shard(1), 0, 50).await;
    log.purge(shard(1), Sequence(20)).await.unwrap();
    let before = log.info(shard(1)).await.unwrap();
    let log = fixture.reopen(log).await;
    assert_eq!(log.layout().await.unwrap(), Some(layout(2)));
    assert_eq!(log.info(shard(1)).await.unwrap(), before);
    assert_eq!(log.info(shard(0)).await.unwrap().last, Sequence(0));
    let mut records = log.read(shard(1), Sequence(1)).await.unwrap();
    for place in 20..=50 {
        assert_eq!(next(&mut records).await, place);
    }
    drop(records);
    let stale = log.append(shard(1), Sequence(49), record("stale")).await;
    assert!(matches!(stale, Err(AppendError::WrongLast { .. })), "{stale:?}");
    fill(&*log, shard(1), 50, 1).await;
    assert_eq!(log.create(&layout(9)).await.unwrap(), layout(2));
}
