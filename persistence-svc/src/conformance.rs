//! The suite every message store must pass: the contract of [`crate::store::MessageStore`] as tests.
//!
//! A backend's tests implement [`StoreFixture`] and call [`crate::store_conformance`], which makes a test of each case.

mod changes;
pub mod conversations;
mod joining;
mod keeping;
mod moderation;
mod moving;
pub mod search;
mod statistics;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};

use crate::store::{DeadLetter, History, Hole, MAX_HEADS, Place, Progress, Row, Store, StoreError, Written};

pub use changes::*;
pub use joining::*;
pub use keeping::*;
pub use moderation::*;
pub use moving::*;
pub use statistics::*;

/// A store to test.
#[async_trait]
pub trait StoreFixture: Send + Sync + Sized {
    /// An empty database without a schema.
    async fn start() -> Self;

    /// Opens it as one more process would.
    fn open(&self) -> Arc<dyn Store>;
}

const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;

fn shard(number: u32) -> ShardId {
    ShardId::new(number).unwrap()
}

fn log(ordinal: u32, random: u32) -> LogEpoch {
    LogEpoch { ordinal, random }
}

fn now_us() -> u64 {
    switchboard_proto::time::now_us()
}

fn row(sequence: u64, index: usize, channel: &str) -> Row {
    Row {
        offset: Offset::new(Sequence(sequence), index),
        time_us: now_us() / DAY_US * DAY_US + sequence,
        channel: channel.to_owned(),
        sender: Some("alice".to_owned()),
        message: Bytes::from(format!("{channel} {sequence}/{index}")),
        change: None,
    }
}

/// What the records behind `after` up to `up_to` hold: one message each, in turn in two channels.
fn written(after: u64, up_to: u64) -> Written {
    Written {
        shard: shard(3),
        log: log(1, 7),
        read_after: Sequence(after),
        after: Sequence(after),
        up_to: Sequence(up_to),
        owner_epoch: OwnerEpoch(1),
        rows: (after + 1..=up_to)
            .map(|sequence| {
                row(
                    sequence,
                    0,
                    if sequence % 2 == 0 {
                        "room:even"
                    } else {
                        "room:odd"
                    },
                )
            })
            .collect(),
        dead: Vec::new(),
    }
}

fn place(ordinal: u32, random: u32, sequence: u64, index: usize) -> Place {
    Place {
        log: log(ordinal, random),
        offset: Offset::new(Sequence(sequence), index),
    }
}

fn progress(read_to: u64, complete_to: u64) -> Progress {
    Progress {
        read_to: Sequence(read_to),
        complete_to: Sequence(complete_to),
        owner_epoch: OwnerEpoch(1),
    }
}

async fn texts(store: &dyn Store, question: &History) -> Vec<String> {
    let page = store.history(question).await.unwrap();
    page.messages
        .iter()
        .map(|stored| String::from_utf8(stored.message.to_vec()).unwrap())
        .collect()
}

async fn opened(fixture: &impl StoreFixture) -> Arc<dyn Store> {
    let store = fixture.open();
    store.migrate().await.unwrap();
    store
}

/// Without its schema a store says what to do; several processes may make it at once.
pub async fn schema_is_made_once_by_whoever_comes(fixture: &impl StoreFixture) {
    let stores = [fixture.open(), fixture.open(), fixture.open()];
    let missing = stores[0].check().await.unwrap_err();
    assert!(missing.to_string().contains("switchboard migrate"), "{missing}");
    let (one, two, three) = tokio::join!(stores[0].migrate(), stores[1].migrate(), stores[2].migrate());
    for migrated in [one, two, three] {
        migrated.unwrap();
    }
    stores[1].check().await.unwrap();
    stores[2].write(&written(0, 2)).await.unwrap();
    stores[2].migrate().await.unwrap();
    assert_eq!(
        texts(&*stores[0], &History::of("room:odd", 9)).await,
        ["room:odd 1/0"]
    );
}

/// Rows and progress are there together, for every process, at once.
pub async fn what_was_written_is_read(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    assert_eq!(store.progress(shard(3), log(1, 7)).await.unwrap(), None);
    assert_eq!(store.write(&written(0, 5)).await.unwrap(), progress(5, 5));
    let other = fixture.open();
    assert_eq!(
        other.progress(shard(3), log(1, 7)).await.unwrap(),
        Some(progress(5, 5))
    );
    assert_eq!(other.progress(shard(2), log(1, 7)).await.unwrap(), None);
    assert_eq!(other.progress(shard(3), log(1, 8)).await.unwrap(), None);
    let page = other.history(&History::of("room:even", 10)).await.unwrap();
    assert!(!page.more);
    let places: Vec<Place> = page.messages.iter().map(|stored| stored.place).collect();
    assert_eq!(places, [place(1, 7, 2, 0), place(1, 7, 4, 0)]);
    assert_eq!(page.messages[0].time_us, row(2, 0, "").time_us);
    assert_eq!(texts(&*other, &History::of("room:none", 10)).await, [""; 0]);
}

/// Records without messages move the progress, too.
pub async fn records_without_messages_count(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut empty = written(0, 4);
    empty.rows.clear();
    assert_eq!(store.write(&empty).await.unwrap(), progress(4, 4));
}

/// The same again, in whatever pieces, changes nothing.
pub async fn what_is_written_again_is_there_once(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    for (after, up_to) in [(0, 4), (0, 4), (2, 4), (1, 7), (0, 3), (6, 7)] {
        store.write(&written(after, up_to)).await.unwrap();
    }
    assert_eq!(
        store.progress(shard(3), log(1, 7)).await.unwrap(),
        Some(progress(7, 7))
    );
    assert_eq!(
        texts(&*store, &History::of("room:odd", 10)).await,
        ["room:odd 1/0", "room:odd 3/0", "room:odd 5/0", "room:odd 7/0"]
    );
}

/// Two replicas that write one shard at the same time: neither fails, and all is there once.
pub async fn replicas_that_race_write_once(fixture: &impl StoreFixture) {
    const LAST: u64 = 60;
    let (one, two) = (opened(fixture).await, fixture.open());
    let replica = async |store: Arc<dyn Store>, step: u64| {
        let mut after = 0;
        while after < LAST {
            let up_to = (after + step).min(LAST);
            store.write(&written(after, up_to)).await.unwrap();
            after = up_to;
        }
    };
    tokio::join!(replica(one.clone(), 3), replica(two, 7));
    assert_eq!(
        one.progress(shard(3), log(1, 7)).await.unwrap(),
        Some(progress(LAST, LAST))
    );
    let all = texts(&*one, &History::of("room:even", 100)).await;
    let expected: Vec<String> = (1..=LAST / 2)
        .map(|half| format!("room:even {}/0", half * 2))
        .collect();
    assert_eq!(all, expected);
}

/// A jump in the log is a hole and not progress, until it is written.
pub async fn jump_is_a_hole_until_it_is_written(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    store.write(&written(0, 3)).await.unwrap();
    let jump = Written {
        read_after: Sequence(3),
        ..written(6, 9)
    };
    assert_eq!(store.write(&jump).await.unwrap(), progress(9, 3));
    assert_eq!(store.write(&written(9, 12)).await.unwrap(), progress(12, 3));
    let hole = Hole {
        first: Sequence(4),
        last: Sequence(6),
    };
    assert_eq!(store.holes(shard(3), log(1, 7)).await.unwrap(), [hole]);
    assert_eq!(store.holes(shard(2), log(1, 7)).await.unwrap(), []);
    assert_eq!(store.write(&written(3, 5)).await.unwrap(), progress(12, 5));
    assert_eq!(store.write(&written(5, 6)).await.unwrap(), progress(12, 12));
    assert_eq!(store.holes(shard(3), log(1, 7)).await.unwrap(), []);
    assert_eq!(texts(&*store, &History::of("room:odd", 100)).await.len(), 6);
}

/// A store that does not have what was read before is restored, or empty: what follows is not taken for a hole.
pub async fn store_that_went_back_is_read_into_again(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    store.write(&written(0, 3)).await.unwrap();
    let refused = store.write(&written(6, 9)).await;
    assert!(
        matches!(
            refused,
            Err(StoreError::WentBack {
                read_to: Sequence(3),
                read_after: Sequence(6)
            })
        ),
        "{refused:?}"
    );
    assert_eq!(
        store.progress(shard(3), log(1, 7)).await.unwrap(),
        Some(progress(3, 3))
    );
    assert_eq!(store.holes(shard(3), log(1, 7)).await.unwrap(), []);
}

/// Messages that a clock dated ahead are there already when their day gets its partition.
pub async fn clock_that_was_ahead_stops_nothing(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let ahead = (now_us() / DAY_US + 5) * DAY_US;
    let mut early = written(0, 1);
    early.rows[0].time_us = ahead + 1;
    store.write(&early).await.unwrap();
    store.maintain(ahead - DAY_US).await.unwrap();
    store.maintain(ahead).await.unwrap();
    let mut then = written(1, 3);
    for row in &mut then.rows {
        row.time_us = ahead + 2;
    }
    assert_eq!(store.write(&then).await.unwrap(), progress(3, 3));
    assert_eq!(texts(&*store, &History::of("room:odd", 9)).await.len(), 2);
}

/// A message at midnight, before and behind it, of long ago and of a clock that is wrong: all in order.
pub async fn time_puts_nothing_out_of_order(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let today = now_us() / DAY_US;
    let times = [
        0,
        1,
        (today - 1000) * DAY_US,
        today * DAY_US - 1,
        today * DAY_US,
        (today + 1000) * DAY_US,
        today * DAY_US + 1,
        (today - 3) * DAY_US,
        u64::from(u32::MAX) * 4_000_000_000,
    ];
    let mut batch = written(0, times.len() as u64);
    for (row, time_us) in batch.rows.iter_mut().zip(times) {
        row.channel = "room:times".to_owned();
        row.time_us = time_us.min(i64::MAX as u64);
    }
    for _ in 0..2 {
        store.write(&batch).await.unwrap();
    }
    store.maintain(now_us()).await.unwrap();
    let page = store.history(&History::of("room:times", 100)).await.unwrap();
    let sequences: Vec<u64> = page
        .messages
        .iter()
        .map(|stored| stored.place.offset.sequence().0)
        .collect();
    assert_eq!(sequences, (1..=times.len() as u64).collect::<Vec<_>>());
    let since = History {
        since_us: Some(today * DAY_US),
        ..History::of("room:times", 100)
    };
    let page = store.history(&since).await.unwrap();
    let sequences: Vec<u64> = page
        .messages
        .iter()
        .map(|stored| stored.place.offset.sequence().0)
        .collect();
    assert_eq!(sequences, [5, 6, 7, 9]);
}

/// Pages follow each other without a gap and without a double, in both directions, bounded by count and by bytes.
pub async fn pages_follow_each_other(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut batch = written(0, 5);
    batch.rows = (1..=5)
        .flat_map(|sequence| (0..5).map(move |index| row(sequence, index, "room:pages")))
        .collect();
    store.write(&batch).await.unwrap();
    let all = texts(&*store, &History::of("room:pages", 100)).await;
    assert_eq!(all.len(), 25);
    for reverse in [false, true] {
        for bytes in [usize::MAX, 40, 0] {
            let mut question = History {
                reverse,
                bytes,
                ..History::of("room:pages", 4)
            };
            let mut read = Vec::new();
            loop {
                let page = store.history(&question).await.unwrap();
                assert!((1..=4).contains(&page.messages.len()), "{page:?}");
                read.extend(texts(&*store, &question).await);
                let last = page.messages.last().map(|stored| stored.place);
                if !page.more {
                    break;
                }
                (question.after, question.before) = if reverse { (None, last) } else { (last, None) };
            }
            let mut expected = all.clone();
            if reverse {
                expected.reverse();
            }
            assert_eq!(read, expected, "reverse: {reverse}, {bytes} bytes");
        }
    }
    let between = History {
        after: Some(place(1, 7, 1, 3)),
        before: Some(place(1, 7, 2, 1)),
        ..History::of("room:pages", 9)
    };
    assert_eq!(
        texts(&*store, &between).await,
        ["room:pages 1/4", "room:pages 2/0"]
    );
    let nothing = History {
        after: Some(place(1, 7, 2, 1)),
        before: Some(place(1, 7, 2, 1)),
        ..History::of("room:pages", 9)
    };
    assert_eq!(texts(&*store, &nothing).await, [""; 0]);
    let none = store.history(&History::of("room:pages", 0)).await.unwrap();
    assert!(none.messages.is_empty() && none.more);
}

/// A new life of the log follows the one before, with offsets that start over.
pub async fn lives_of_a_log_are_one_history(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    for (ordinal, random) in [(2, 1), (1, 9), (10, 5)] {
        let mut batch = written(0, 2);
        batch.log = log(ordinal, random);
        for row in &mut batch.rows {
            row.channel = "room:lives".to_owned();
            row.message = Bytes::from(format!("{ordinal}: {}", row.offset.sequence()));
        }
        store.write(&batch).await.unwrap();
    }
    let all = ["1: 1", "1: 2", "2: 1", "2: 2", "10: 1", "10: 2"];
    assert_eq!(texts(&*store, &History::of("room:lives", 9)).await, all);
    let between = History {
        after: Some(place(1, 9, 1, 0)),
        before: Some(place(10, 5, 2, 0)),
        reverse: true,
        ..History::of("room:lives", 9)
    };
    assert_eq!(texts(&*store, &between).await, ["10: 1", "2: 2", "2: 1", "1: 2"]);
    let heads = store.heads(&["room:lives"]).await.unwrap();
    assert_eq!(
        heads["room:lives"],
        place(10, 5, 2, 0),
        "not the one that was written last"
    );
}

/// The heads of thousands of channels are one question.
pub async fn heads_of_many_channels(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut batch = written(0, 3);
    batch.rows = (1..=3)
        .flat_map(|sequence| (0..2000).map(move |index| row(sequence, index, &format!("room:{index}"))))
        .collect();
    store.write(&batch).await.unwrap();
    // An older record that is read again does not move a head back.
    store.write(&written(0, 2)).await.unwrap();
    let names: Vec<String> = (0..MAX_HEADS).map(|index| format!("room:{index}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let heads = store.heads(&names).await.unwrap();
    assert_eq!(heads.len(), 2000);
    assert_eq!(heads["room:1999"], place(1, 7, 3, 1999));
    assert_eq!(store.heads(&[]).await.unwrap().len(), 0);
    let mut too_many = names.clone();
    too_many.push("one more");
    assert!(matches!(
        store.heads(&too_many).await,
        Err(StoreError::TooMany { asked }) if asked == MAX_HEADS + 1
    ));
}

/// What is no message is kept aside, once, and stops nothing.
pub async fn dead_letters_are_kept_aside(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let dead = |sequence| DeadLetter {
        shard: shard(3),
        log: log(1, 7),
        offset: Offset::new(Sequence(sequence), 0),
        reason: format!("not a message: {sequence}"),
        bytes: Bytes::from_static(&[0, 159, 146, 150]),
    };
    let mut batch = written(0, 3);
    batch.dead = vec![dead(1), dead(2)];
    for _ in 0..2 {
        assert_eq!(store.write(&batch).await.unwrap(), progress(3, 3));
    }
    let mut wider = written(1, 4);
    wider.dead = vec![dead(2), dead(4)];
    store.write(&wider).await.unwrap();
    assert_eq!(store.dead_letters(9).await.unwrap(), [dead(4), dead(2), dead(1)]);
    assert_eq!(store.dead_letters(1).await.unwrap(), [dead(4)]);
}

/// A row that the store refuses is refused with all that was to be written with it, and says that trying again is no use.
pub async fn write_is_all_or_nothing(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    store.write(&written(0, 2)).await.unwrap();
    let before = texts(&*store, &History::of("room:odd", 9)).await;
    let mut nameless = written(2, 4);
    let refused = nameless.rows.last_mut().unwrap();
    refused.sender = Some("a\0b".to_owned());
    match store.write(&nameless).await {
        // SQLite takes any text.
        Ok(now) => assert_eq!(now, progress(4, 4)),
        Err(error) => {
            assert!(matches!(error, StoreError::Data(_)), "{error:?}");
            assert_eq!(
                store.progress(shard(3), log(1, 7)).await.unwrap(),
                Some(progress(2, 2))
            );
            assert_eq!(texts(&*store, &History::of("room:odd", 9)).await, before);
        }
    }
}

/// Makes a test of each case of the suite.
#[macro_export]
macro_rules! store_conformance {
    ($fixture:ty) => {
        $crate::store_conformance!(
            $fixture:
            schema_is_made_once_by_whoever_comes,
            what_was_written_is_read,
            records_without_messages_count,
            what_is_written_again_is_there_once,
            replicas_that_race_write_once,
            jump_is_a_hole_until_it_is_written,
            store_that_went_back_is_read_into_again,
            clock_that_was_ahead_stops_nothing,
            time_puts_nothing_out_of_order,
            pages_follow_each_other,
            lives_of_a_log_are_one_history,
            heads_of_many_channels,
            dead_letters_are_kept_aside,
            write_is_all_or_nothing,
            page_and_reach_are_of_one_moment,
            holes_are_told_with_a_page,
            hidden_messages_are_not_given,
            time_is_where_a_page_begins,
            time_is_found_in_each_life_of_the_log,
            what_was_edited_or_deleted_is_shown_so,
            reactions_are_sets_of_users,
            reactions_are_told_in_bounds,
            threads_are_listed_in_order,
            hidden_messages_are_in_no_thread,
            changes_of_what_is_elsewhere_are_harmless,
            inbox_entries_are_changed_with_their_messages,
            any_order_of_records_folds_to_the_same,
            what_expires_is_remembered_as_removed,
            channel_that_expired_whole_keeps_its_head,
            what_is_held_stays,
            what_is_erased_is_blank_whoever_writes_it,
            holds_keep_what_an_erased_user_was,
            hold_of_no_namespace_is_of_channels_without_one,
            what_was_deleted_since_is_blank_when_it_is_read_back,
            who_is_erased_is_no_member,
            what_stands_beside_messages_is_taken_over,
            what_is_said_is_counted_once,
            replicas_count_at_the_same_time,
            deliveries_are_counted_by_report,
            what_is_over_is_no_longer_counted,
            statistics_refuse_what_is_too_much,
            acts_are_in_force_and_in_the_log,
            what_is_done_again_changes_nothing,
            an_act_with_a_key_is_done_once,
            acts_at_the_same_time_stand_one_behind_the_other,
            restrictions_end_by_their_time,
            tokens_do_not_come_back,
            moderation_is_listed_in_pages,
        );
    };
    ($fixture:ty: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = <$fixture as $crate::conformance::StoreFixture>::start().await;
                $crate::conformance::$case(&fixture).await;
            }
        )*
    };
}
