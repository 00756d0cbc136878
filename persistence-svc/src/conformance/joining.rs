//! What the store says together with how far it is: the contract of [`JoinStore`](crate::store::JoinStore).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use switchboard_proto::ids::Sequence;

use super::{DAY_US, StoreFixture, log, now_us, opened, place, progress, row, shard, written};
use crate::store::{History, Hole, Joint, Store, Written};

async fn joint(store: &dyn Store, question: &History) -> Joint {
    store.joint(question, shard(3), Some(log(1, 7))).await.unwrap()
}

fn sequences(joint: &Joint) -> Vec<u64> {
    let places = joint.page.messages.iter().map(|stored| stored.place);
    places.map(|place| place.offset.sequence().0).collect()
}

/// While records are written, each page ends exactly where the store says that it is.
pub async fn page_and_reach_are_of_one_moment(fixture: &impl StoreFixture) {
    const LAST: u64 = 300;
    let store = opened(fixture).await;
    let nothing = joint(&*store, &History::of("room:even", 1000)).await;
    assert_eq!(nothing, Joint::default());
    let is_done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (store, is_done) = (fixture.open(), Arc::clone(&is_done));
        async move {
            for after in (0..LAST).step_by(3) {
                store.write(&written(after, after + 3)).await.unwrap();
            }
            is_done.store(true, Ordering::Release);
        }
    };
    let reader = async {
        let mut pages = 0;
        while !is_done.load(Ordering::Acquire) || pages == 0 {
            let joint = joint(&*store, &History::of("room:even", 1000)).await;
            let up_to = joint.reach.as_ref().map_or(0, |reach| reach.progress.read_to.0);
            let expected: Vec<u64> = (1..=up_to).filter(|sequence| sequence % 2 == 0).collect();
            assert_eq!(sequences(&joint), expected, "read to {up_to}");
            let (heads, reach) = store
                .joint_heads(&["room:even"], shard(3), log(1, 7))
                .await
                .unwrap();
            let head = heads.get("room:even").map(|head| head.offset.sequence().0);
            let up_to = reach.map_or(0, |reach| reach.progress.read_to.0);
            assert_eq!(head.unwrap_or(0), up_to / 2 * 2, "head");
            pages += 1;
        }
    };
    tokio::join!(writer, reader);
    let question = History::of("room:even", 9);
    let other = store.joint(&question, shard(3), Some(log(2, 7))).await;
    assert_eq!(other.unwrap().reach, None);
}

/// What the store lacks is told with a page, and however many holes there are, all of it.
pub async fn holes_are_told_with_a_page(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut read_to = 0;
    let holes: Vec<Hole> = (0..150)
        .map(|number| Hole {
            first: Sequence(number * 10 + 1),
            last: Sequence(number * 10 + 4),
        })
        .collect();
    for hole in &holes {
        let jump = Written {
            read_after: Sequence(read_to),
            ..written(hole.last.0, hole.last.0 + 6)
        };
        store.write(&jump).await.unwrap();
        read_to = hole.last.0 + 6;
    }
    let reach = joint(&*store, &History::of("room:even", 9)).await.reach.unwrap();
    assert_eq!(reach.progress, progress(1500, 0));
    assert_eq!(reach.holes.len(), 100);
    assert_eq!(reach.holes[1..], holes[51..]);
    let oldest = Hole {
        first: Sequence(1),
        last: holes[50].last,
    };
    assert_eq!(reach.holes[0], oldest);
}

/// What is hidden is not given, in whatever life of the log it stands; a mark only moves forward.
pub async fn hidden_messages_are_not_given(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    store.write(&written(0, 10)).await.unwrap();
    let mark = |sequence| ("room:even".to_owned(), place(1, 7, sequence, 0).offset);
    store.hide(log(1, 7), &[]).await.unwrap();
    store.hide(log(1, 7), &[mark(4)]).await.unwrap();
    store.hide(log(1, 7), &[mark(2)]).await.unwrap();
    let all = joint(&*store, &History::of("room:even", 9)).await;
    assert_eq!(sequences(&all), [6, 8, 10]);
    assert_eq!(all.removed_to, Some(place(1, 7, 4, 0)));
    let backward = History {
        reverse: true,
        after: Some(place(1, 7, 6, 0)),
        ..History::of("room:even", 9)
    };
    assert_eq!(sequences(&joint(&*store, &backward).await), [10, 8]);
    let other = joint(&*store, &History::of("room:odd", 9)).await;
    assert_eq!((sequences(&other).len(), other.removed_to), (5, None));
    // The mark of a later life hides all of the one before.
    store.hide(log(2, 1), &[mark(1)]).await.unwrap();
    assert_eq!(
        sequences(&joint(&*store, &History::of("room:even", 9)).await),
        [0; 0]
    );
}

/// A question about a time is answered from there on, and says where there is nothing.
pub async fn time_is_where_a_page_begins(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let today = now_us() / DAY_US * DAY_US;
    let mut batch = written(0, 40);
    batch.rows = (1..=40)
        .map(|sequence| {
            let mut row = row(sequence, 0, "room:times");
            row.time_us = today + sequence * 60_000_000;
            row
        })
        .collect();
    store.write(&batch).await.unwrap();
    for (since, first) in [
        (0, 1),
        (today + 17 * 60_000_000, 17),
        (today + 17 * 60_000_000 + 1, 18),
    ] {
        let question = History {
            since_us: Some(since),
            ..History::of("room:times", 3)
        };
        assert_eq!(
            sequences(&joint(&*store, &question).await),
            [first, first + 1, first + 2]
        );
        let backward = History {
            reverse: true,
            limit: 100,
            ..question
        };
        let expected: Vec<u64> = (first..=40).rev().collect();
        assert_eq!(sequences(&joint(&*store, &backward).await), expected);
    }
    let later = History {
        since_us: Some(today + 100 * 60_000_000),
        ..History::of("room:times", 3)
    };
    let nothing = joint(&*store, &later).await;
    assert_eq!(sequences(&nothing), [0; 0]);
    assert_eq!(nothing.reach.unwrap().progress, progress(40, 40));
}

/// A question about a time goes back over lives of the log, also where the channel was in another shard then.
pub async fn time_is_found_in_each_life_of_the_log(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let today = now_us() / DAY_US * DAY_US;
    for (ordinal, of) in [(1, 5), (2, 1), (3, 3)] {
        let mut batch = written(0, 10);
        batch.log = log(ordinal, 7 - ordinal);
        batch.shard = shard(of);
        batch.rows = (1..=10)
            .map(|sequence| {
                let mut row = row(sequence, 0, "room:moved");
                row.time_us = today + (u64::from(ordinal) * 10 + sequence) * 60_000_000;
                row
            })
            .collect();
        store.write(&batch).await.unwrap();
    }
    for (minute, expected) in [(0, 30), (15, 26), (20, 21), (25, 16), (35, 6), (41, 0)] {
        let question = History {
            since_us: Some(today + minute * 60_000_000),
            ..History::of("room:moved", 100)
        };
        let found = joint(&*store, &question).await.page.messages;
        assert_eq!(found.len(), expected, "since minute {minute}");
        assert!(found.is_sorted_by_key(|stored| stored.place));
    }
}
