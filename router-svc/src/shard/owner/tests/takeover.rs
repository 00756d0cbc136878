//! O1, O2, L2: claiming a shard and reading its tail from a log whose readers lag, jump and fail.

use std::sync::Mutex;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use switchboard_bus::{AppendError, LogError, RecordStream};
use tokio::time::Instant;

use super::*;
use crate::shard::claim::ClaimError;
use crate::shard::takeover::{TakenOver, read_older_keys, take_over};
use crate::shard::test_log::{Script, TestLog};

/// What a reader of the log does.
#[derive(Debug, Clone, Copy)]
enum Reader {
    Refused,
    /// After so many records: silence, as of a follower that lags.
    Lags(usize),
    Ends(usize),
    Fails(usize),
    /// After so many records, the next one is left out.
    Jumps(usize),
    /// Before it begins, all records below this are purged.
    Purged(u64),
    /// And others written.
    Overtaken(u64),
}

struct Scripted {
    journal: Mutex<Journal>,
    /// What the readers do, one after the other; further ones are as they should be.
    readers: Mutex<Vec<Reader>>,
    /// Where each began.
    begun: Mutex<Vec<u64>>,
    /// What the log holds once it was overtaken.
    later: Mutex<Vec<Bytes>>,
}

impl Scripted {
    fn new(journal: Journal, readers: &[Reader]) -> TestLog<Self> {
        TestLog(Self {
            journal: Mutex::new(journal),
            readers: Mutex::new(readers.iter().rev().copied().collect()),
            begun: Mutex::new(Vec::new()),
            later: Mutex::new(Vec::new()),
        })
    }
}

#[async_trait]
impl Script for Scripted {
    async fn append(&self, expected: Sequence, record: Bytes) -> Result<Sequence, AppendError> {
        let mut journal = self.journal.lock().unwrap();
        if journal.last() != expected {
            return Err(AppendError::WrongLast { expected });
        }
        journal.records.push(record);
        Ok(journal.last())
    }

    async fn info(&self) -> Result<LogInfo, LogError> {
        Ok(self.journal.lock().unwrap().info())
    }

    async fn get(&self, sequence: Sequence) -> Result<Option<Bytes>, LogError> {
        let found = self.journal.lock().unwrap().get(sequence.0);
        Ok(found.map(|at| at.record))
    }

    async fn read(&self, shard: ShardId, from: Sequence) -> Result<RecordStream, LogError> {
        self.begun.lock().unwrap().push(from.0);
        let reader = self.readers.lock().unwrap().pop();
        let mut journal = self.journal.lock().unwrap();
        if let Some(Reader::Purged(first) | Reader::Overtaken(first)) = reader {
            journal.first = first;
        }
        if let Some(Reader::Overtaken(_)) = reader {
            journal.records = self.later.lock().unwrap().clone();
        }
        let mut records: Vec<Result<RecordAt, LogError>> = journal
            .range(from.0, journal.last().0)
            .into_iter()
            .map(Ok)
            .collect();
        let silence = futures_util::stream::pending();
        Ok(match reader {
            Some(Reader::Refused) => return Err(LogError::Missing(shard)),
            Some(Reader::Lags(count)) => {
                records.truncate(count);
                futures_util::stream::iter(records).chain(silence).boxed()
            }
            Some(Reader::Ends(count)) => {
                records.truncate(count);
                futures_util::stream::iter(records).boxed()
            }
            Some(Reader::Fails(count)) => {
                records.truncate(count);
                records.push(Err(LogError::Unavailable("gone".to_owned())));
                futures_util::stream::iter(records).boxed()
            }
            Some(Reader::Jumps(count)) => {
                if count < records.len() {
                    drop(records.remove(count));
                }
                futures_util::stream::iter(records).chain(silence).boxed()
            }
            Some(Reader::Purged(_) | Reader::Overtaken(_)) | None => {
                futures_util::stream::iter(records).chain(silence).boxed()
            }
        })
    }
}

/// A log with `count` messages in channel `a`, each in a record of its own from 3 on.
fn written(count: u64) -> Rig {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    for number in 1..=count {
        rig.plain(A, number, "a");
        rig.store_all();
    }
    rig
}

async fn taken(log: &TestLog<Scripted>, limits: MemoryLimits) -> Result<TakenOver, ClaimError> {
    let one = ShardCount::new(1).unwrap();
    let shard = ShardId::new(0).unwrap();
    take_over(
        log,
        shard,
        one,
        Incarnation::from_u128(77),
        limits,
        1_000_000_000,
        None,
    )
    .await
}

fn kept(taken: &TakenOver) -> Vec<String> {
    taken
        .memory
        .window
        .since(Offset::ZERO)
        .map(|(_, kept)| text(&Message::decode(kept.message.clone()).unwrap()))
        .collect()
}

fn texts(from: u64, to: u64) -> Vec<String> {
    (from..=to).map(|number| format!("plain {number}")).collect()
}

#[tokio::test(start_paused = true)]
async fn o1_o2_the_tail_is_read_up_to_the_own_fence() {
    let log = Scripted::new(written(5).log, &[]);
    let taken = taken(&log, LIMITS.memory).await.unwrap();
    assert_eq!((taken.is.owner_epoch, taken.records), (OwnerEpoch(8), 8));
    assert_eq!(kept(&taken), texts(1, 5));
    assert_eq!(taken.memory.state_at, Sequence(2));
    let fence = log.journal.lock().unwrap().record(8);
    assert_eq!((fence.owner_epoch, fence.sequence, fence.state_at), (8, 8, 2));
    assert!(matches!(fence.body, Some(record::Body::Fence(_))));
}

#[tokio::test(start_paused = true)]
async fn o1_an_empty_log_can_be_taken_over() {
    let log = Scripted::new(Journal::new(), &[]);
    let taken = taken(&log, LIMITS.memory).await.unwrap();
    assert_eq!((taken.is.owner_epoch, taken.records), (OwnerEpoch(1), 1));
}

#[tokio::test(start_paused = true)]
async fn o2_a_reader_that_lags_jumps_fails_or_ends_is_followed_by_another() {
    for readers in [
        vec![Reader::Lags(0)],
        vec![Reader::Lags(7)],
        vec![Reader::Jumps(0)],
        vec![Reader::Jumps(4), Reader::Jumps(2)],
        vec![Reader::Jumps(7)],
        vec![
            Reader::Refused,
            Reader::Ends(3),
            Reader::Fails(1),
            Reader::Lags(1),
        ],
        vec![Reader::Ends(0), Reader::Ends(7)],
    ] {
        let log = Scripted::new(written(5).log, &readers);
        let taken = taken(&log, LIMITS.memory).await.unwrap();
        assert_eq!(kept(&taken), texts(1, 5), "{readers:?}");
        assert_eq!(taken.records, 8, "{readers:?}");
        assert!(log.readers.lock().unwrap().is_empty());
        let begun = log.begun.lock().unwrap().clone();
        assert!(begun.is_sorted(), "it goes on where it was: {begun:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn o2_a_tail_that_cannot_be_read_is_given_up() {
    for reader in [
        Reader::Refused,
        Reader::Lags(0),
        Reader::Jumps(0),
        Reader::Ends(0),
    ] {
        let log = Scripted::new(written(5).log, &[reader; 1000]);
        let begun = Instant::now();
        let outcome = taken(&log, LIMITS.memory).await;
        assert!(
            matches!(outcome, Err(ClaimError::Tail(_))),
            "without all before its fence it owns nothing"
        );
        assert!(begun.elapsed() >= SECOND * 12);
    }
}

/// The owner before had sent a purge, which the log carries out only now.
#[tokio::test(start_paused = true)]
async fn o2_records_that_are_purged_while_the_tail_is_read_are_no_hole() {
    let old = written(5);
    let journal = old.successor().log;
    let log = Scripted::new(journal, &[Reader::Ends(2), Reader::Purged(7)]);
    let begun = Instant::now();
    let taken = taken(&log, LIMITS.memory).await.unwrap();
    assert!(begun.elapsed() < SECOND * 5);
    assert_eq!(kept(&taken), texts(5, 5));
    assert_eq!(taken.memory.window.start(), Offset::end_of(Sequence(6)));
}

/// Only another owner purges our fence.
#[tokio::test(start_paused = true)]
async fn o2_a_fence_that_is_purged_is_lost() {
    let mut journal = written(5).log;
    let fence = journal.last().0 + 1;
    // What the other owner will have written behind it.
    journal.records.push(Bytes::new());
    journal.records.push(Bytes::new());
    let later = journal.clone();
    journal.records.truncate(fence as usize - 1);
    let log = Scripted::new(journal, &[Reader::Overtaken(fence + 1)]);
    *log.later.lock().unwrap() = later.records;
    assert!(matches!(taken(&log, LIMITS.memory).await, Err(ClaimError::Lost)));
}

#[tokio::test(start_paused = true)]
async fn l2_records_that_do_not_count_are_passed_over() {
    let mut rig = written(2);
    let good = rig.log.records.last().unwrap().clone();
    // The same bytes at another place: whoever wrote them was not the owner any more.
    rig.log.records.push(good);
    rig.log.records.push(Bytes::from_static(b"garbage"));
    let readable = rig.log.record(3);
    // A record of an owner that was deposed before it.
    let new = rig.log.clone();
    let mut late = readable;
    late.sequence = 8;
    let log = Scripted::new(new, &[]);
    let outcome = taken(&log, LIMITS.memory).await;
    assert!(
        matches!(outcome, Err(ClaimError::Format(_))),
        "behind what is not readable nothing is written"
    );
    rig.log.records.pop();
    let mut middle = rig.successor();
    assert_eq!(middle.log.last(), Sequence(7));
    middle.log.records.push(format::encode(&late));
    let log = Scripted::new(middle.log.clone(), &[]);
    let taken = taken(&log, LIMITS.memory).await.unwrap();
    assert_eq!(kept(&taken), texts(1, 2));
    // Nor are they given to who asks for what is before the window.
    let mut limits = LIMITS;
    limits.memory.window.bytes = 0;
    middle.limits = limits;
    let mut owner = middle.successor();
    owner.open(B, 1, &[]);
    owner.recover(B, 1, "a", end(2));
    owner.settle();
    let answers = owner.recovered(B);
    assert_eq!(answers[0].3, texts(1, 2));
}

#[tokio::test(start_paused = true)]
async fn p5_keys_from_before_the_tail_are_read_back() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    for number in 1..=200 {
        rig.up(A, 1, vec![keyed(number, "a", &format!("k{number}"), false)]);
        rig.store_all();
        rig.items(A);
        if number == 100 {
            rig.limits.memory.keys = 1000;
            rig = {
                let mut new = rig.successor();
                new.open(A, 1, &[]);
                new
            };
        }
    }
    // The last state record is in the middle.
    let mut limits = rig.limits;
    limits.memory.keys = 1000;
    limits.memory.window.bytes = 2000;
    let log = Scripted::new(rig.log.clone(), &[]);
    let taken = taken(&log, limits.memory).await.unwrap();
    let (from, before) = taken.older_keys;
    assert!(before > Sequence(1) && from == Sequence(1), "{from} {before}");
    let mut owner = Owner::new(taken.is, limits, taken.memory, taken.info);
    let known = owner.memory().keys.len();
    assert!(known < 200, "{known}");
    let mut next = from;
    while next < before {
        let shard = ShardId::new(0).unwrap();
        let (found, after) = read_older_keys(&log, shard, next, before).await.unwrap();
        assert!(after > next);
        for key in found {
            owner.older_keys(key.name, key.offset, key.id, key.time_us);
        }
        next = after;
    }
    assert_eq!(owner.memory().keys.len(), 200);
}
