//! Pages from a window and a log that begin where they like, against what was said.

use std::collections::VecDeque;

use async_trait::async_trait;
use proptest::prelude::*;
use prost::Message as _;
use switchboard_bus::{LogError, LogInfo, RecordStream};
use switchboard_proto::bus::{Batch, Entry, Message, Record, record};
use switchboard_proto::format;

use super::super::test_log::{Script, TestLog};
use super::super::window::{Kept, WindowLimits};
use std::sync::Arc;

use super::super::stored::{Reach, StoredHeads};
use super::*;

const EPOCH: LogEpoch = LogEpoch {
    ordinal: 1,
    random: 7,
};
const SHARD: u32 = 0;
const MESSAGE: usize = 100;

/// A log of batches, whose first records may be purged, and the window over its end.
struct Written {
    first: u64,
    records: VecDeque<Bytes>,
    window: Window,
    hidden: Offset,
    deleted: Arc<Deleted>,
    /// All of channel `a` that is kept in the log.
    kept: Vec<u64>,
    /// All of it that was ever said.
    said: Vec<u64>,
}

/// A store of channel `a`.
struct Stored {
    /// Its messages, by offset, which it has.
    rows: Vec<u64>,
    read_to: u64,
    is_up: bool,
}

#[async_trait]
impl Store for Stored {
    async fn page(&self, asked: &PageOf) -> Result<StoredPage, AskError> {
        if !self.is_up {
            return Err(AskError::Unavailable("injected".to_owned()));
        }
        let mut rows: Vec<u64> = self
            .rows
            .iter()
            .copied()
            .filter(|offset| *offset > asked.after.get())
            .filter(|offset| asked.before.is_none_or(|before| *offset < before.get()))
            .collect();
        if asked.reverse {
            rows.reverse();
        }
        // Pages of its own size.
        let limit = asked.limit.min(7);
        let found = rows.iter().take(limit).map(|offset| Found {
            offset: Offset::from_u64(*offset),
            time_us: 0,
            message: Bytes::from_static(b"stored"),
        });
        Ok(StoredPage {
            messages: found.collect(),
            more: rows.len() > limit,
            reach: Reach {
                read_to: if self.read_to == 0 {
                    Offset::ZERO
                } else {
                    Offset::end_of(Sequence(self.read_to))
                },
                holes: Vec::new(),
            },
            removed_to: Offset::ZERO,
        })
    }

    async fn heads(&self, _: &[Arc<str>]) -> Result<StoredHeads, AskError> {
        unreachable!("not asked for history")
    }
}

impl Written {
    /// `batches`: how many messages each has in channel `a`, and in another behind them.
    fn new(batches: &[(usize, usize)], purged: usize, window_from: usize) -> TestLog<Self> {
        let limits = WindowLimits {
            bytes: usize::MAX,
            age_us: u64::MAX,
            heads: 10,
        };
        let mut window = Window::new(limits, Offset::end_of(Sequence(window_from as u64)));
        let mut records = VecDeque::new();
        let (mut kept, mut said) = (Vec::new(), Vec::new());
        for (number, (of_a, of_b)) in batches.iter().enumerate() {
            let sequence = Sequence(number as u64 + 1);
            let channels = std::iter::repeat_n("a", *of_a).chain(std::iter::repeat_n("b", *of_b));
            let messages: Vec<(&str, Bytes)> = channels
                .map(|channel| {
                    let message = Message {
                        channel: channel.to_owned(),
                        payload: vec![b'x'; MESSAGE].into(),
                        ..Message::default()
                    };
                    (channel, Bytes::from(message.encode_to_vec()))
                })
                .collect();
            let offsets = (0..*of_a).map(|index| Offset::new(sequence, index).get());
            if number >= purged {
                kept.extend(offsets.clone());
            }
            said.extend(offsets);
            if number >= window_from {
                let of_window = messages.iter().map(|(channel, message)| Kept {
                    channel: (*channel).into(),
                    message: message.clone(),
                });
                window.push(sequence, 0, of_window.collect());
            }
            let entries = messages.into_iter().map(|(_, message)| Entry {
                message,
                ..Entry::default()
            });
            records.push_back(format::encode(&Record {
                owner_epoch: 1,
                sequence: sequence.0,
                body: Some(record::Body::Batch(Batch {
                    entries: entries.collect(),
                    ..Batch::default()
                })),
                ..Record::default()
            }));
        }
        TestLog(Self {
            first: purged as u64 + 1,
            records,
            window,
            hidden: Offset::ZERO,
            deleted: Arc::new(Deleted::new(10, EPOCH)),
            kept,
            said,
        })
    }

    fn end(&self) -> Offset {
        Offset::end_of(Sequence(self.records.len() as u64))
    }
}

impl TestLog<Written> {
    async fn ask(&self, question: HistoryQuestion, allowed: usize) -> HistoryAnswer {
        self.ask_with(question, allowed, None).await
    }

    async fn ask_with(
        &self,
        question: HistoryQuestion,
        allowed: usize,
        store: Option<&dyn Store>,
    ) -> HistoryAnswer {
        let purged = self.said.iter().filter(|offset| !self.kept.contains(offset));
        let marks = Marks {
            hidden: self.hidden,
            removed: purged.max().map_or(Offset::ZERO, |last| Offset::from_u64(*last)),
            floor: self.deleted.floor(),
        };
        match begin(question, &self.window, marks, &self.deleted, EPOCH, self.end()) {
            Begun::Answered(answer) => answer,
            Begun::NeedsMore(unfinished) => {
                let sources = Sources {
                    log: self,
                    shard: ShardId::new(SHARD).unwrap(),
                    store,
                    allowed,
                    places: &Semaphore::new(1),
                };
                unfinished.finish(sources).await
            }
        }
    }
}

#[async_trait]
impl Script for Written {
    async fn info(&self) -> Result<LogInfo, LogError> {
        Ok(LogInfo {
            epoch: EPOCH,
            first: Sequence(self.first),
            last: Sequence(self.records.len() as u64),
            bytes: 0,
            max_bytes: None,
        })
    }

    async fn get(&self, sequence: Sequence) -> Result<Option<Bytes>, LogError> {
        let is_kept = sequence.0 >= self.first;
        let record = self.records.get(sequence.0 as usize - 1);
        Ok(record.filter(|_| is_kept).cloned())
    }

    async fn read(&self, _: ShardId, from: Sequence) -> Result<RecordStream, LogError> {
        let from = from.0.max(self.first);
        let records: Vec<_> = (from..=self.records.len() as u64)
            .map(|sequence| {
                Ok(RecordAt {
                    sequence: Sequence(sequence),
                    record: self.records[sequence as usize - 1].clone(),
                })
            })
            .collect();
        Ok(futures_util::stream::iter(records)
            .chain(futures_util::stream::pending())
            .boxed())
    }
}

fn question(reverse: bool, since: Option<u64>, limit: u32) -> HistoryQuestion {
    HistoryQuestion {
        channel: "a".to_owned(),
        reverse,
        since,
        limit,
        bytes: 1 << 20,
        ..HistoryQuestion::default()
    }
}

fn offsets(answer: &HistoryAnswer) -> Vec<u64> {
    answer.messages.iter().map(|message| message.offset).collect()
}

fn now<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(future)
}

proptest! {
    /// Whatever is in the window and what in the log: a page is what was said, as far as it is kept.
    #[test]
    fn a_page_is_what_was_said(
        batches in prop::collection::vec((0usize..3, 0usize..3), 1..200),
        purged in 0usize..200,
        window_from in 0usize..200,
        reverse: bool,
        since in prop::option::of((0u64..220, 0usize..3)),
        limit in 1u32..40,
        allowed in prop::option::of(0usize..20_000),
        hidden in prop::option::of((0u64..220, 0usize..3)),
    ) {
        let purged = purged.min(batches.len() - 1);
        // The window is never purged.
        let window_from = window_from.clamp(purged, batches.len());
        let mut written = Written::new(&batches, purged, window_from);
        let hidden = hidden.map_or(Offset::ZERO, |(sequence, index)| Offset::new(Sequence(sequence), index));
        written.hidden = hidden;
        let since = since.map(|(sequence, index)| Offset::new(Sequence(sequence), index).get());
        let asked = question(reverse, since, limit);
        let answer = now(written.ask(asked, allowed.unwrap_or(usize::MAX)));
        let mut expected = written.kept.clone();
        expected.retain(|offset| *offset > hidden.get());
        expected.retain(|offset| match (reverse, since) {
            (_, None) => true,
            (false, Some(since)) => *offset > since,
            (true, Some(since)) => *offset < since,
        });
        if reverse {
            expected.reverse();
        }
        expected.truncate(limit as usize);
        let offsets = offsets(&answer);
        if allowed.is_none() {
            prop_assert_eq!(answer.outcome(), HistoryOutcome::Complete);
            prop_assert_eq!(offsets, expected);
        } else if answer.outcome() == HistoryOutcome::Complete {
            prop_assert!(expected.starts_with(&offsets), "{:?} of {:?}", offsets, expected);
            prop_assert!(!offsets.is_empty() || expected.is_empty());
        } else {
            prop_assert_eq!(answer.outcome(), HistoryOutcome::TooFar);
            prop_assert!(offsets.is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever window, log and store have: a page is what is kept in any of them, as far as it goes, and is never short in silence.
    #[test]
    fn r6_window_log_and_store_are_one_history(
        batches in prop::collection::vec((0usize..3, 0usize..3), 1..60),
        purged in 0usize..60,
        window_from in 0usize..60,
        read_to in 0u64..61,
        hole in prop::option::of((0u64..60, 0u64..60)),
        is_up in prop::bool::weighted(0.8),
        reverse: bool,
        since in prop::option::of((0u64..64, 0usize..3)),
        limit in 1u32..20,
        allowed in prop::option::of(0usize..5_000),
        hidden in prop::option::of((0u64..30, 0usize..3)),
    ) {
        let purged = purged.min(batches.len() - 1);
        let window_from = window_from.clamp(purged, batches.len());
        let read_to = read_to.min(batches.len() as u64);
        let mut written = Written::new(&batches, purged, window_from);
        written.hidden = hidden.map_or(Offset::ZERO, |(sequence, index)| Offset::new(Sequence(sequence), index));
        // Only what was purged can be missing.
        let is_in_hole = |offset: u64| {
            let at = Offset::from_u64(offset).sequence().0;
            at <= purged as u64 && hole.is_some_and(|(first, last)| at >= first && at <= last)
        };
        let rows = written.said.iter().copied().filter(|offset| {
            Offset::from_u64(*offset).sequence().0 <= read_to && !is_in_hole(*offset)
        });
        let store = Stored { rows: rows.collect(), read_to, is_up };
        let since = since.map(|(sequence, index)| Offset::new(Sequence(sequence), index).get());
        let asked = question(reverse, since, limit);
        let answer = now(written.ask_with(asked, allowed.unwrap_or(usize::MAX), Some(&store)));
        let mut expected = written.said.clone();
        expected.retain(|offset| !is_in_hole(*offset));
        expected.retain(|offset| *offset > written.hidden.get());
        expected.retain(|offset| match (reverse, since) {
            (_, None) => true,
            (false, Some(since)) => *offset > since,
            (true, Some(since)) => *offset < since,
        });
        if reverse {
            expected.reverse();
        }
        let offsets = offsets(&answer);
        // Everything that was purged is stored.
        let is_whole = purged as u64 <= read_to;
        if answer.outcome() == HistoryOutcome::Complete {
            prop_assert!(expected.starts_with(&offsets), "{:?} of {:?}", offsets, expected);
            prop_assert!(!offsets.is_empty() || expected.is_empty());
            prop_assert!(!answer.ended || offsets.len() == expected.len(), "it ended before {:?}", expected);
        } else {
            prop_assert!(offsets.is_empty());
            prop_assert!(allowed.is_some() || !is_up || !is_whole);
        }
        if is_up && is_whole && allowed.is_none() {
            let least = expected.len().min(limit as usize).min(7);
            prop_assert!(offsets.len() >= least, "{:?} of {:?}", offsets, expected);
        }
    }
}

#[test]
fn times_are_told_and_asked_for() {
    let mut written = Written::new(&[(1, 0); 9], 0, 4);
    for time_us in [10, 20] {
        let behind = Sequence(written.records.len() as u64 + time_us / 10);
        written.window.push(
            behind,
            time_us,
            vec![Kept {
                channel: "a".into(),
                message: Bytes::from_static(b"late"),
            }],
        );
    }
    for reverse in [false, true] {
        let mut asked = question(reverse, None, 100);
        asked.since_us = Some(15);
        asked.times = true;
        let answer = now(written.ask(asked, usize::MAX));
        assert_eq!(answer.times_us, [20], "{answer:?}");
        assert!(answer.ended);
    }
}

#[test]
fn only_the_head_is_told_where_nothing_else_is_wanted() {
    let written = Written::new(&[(1, 0), (2, 1), (0, 1)], 0, 0);
    let answer = now(written.ask(question(false, None, 0), usize::MAX));
    assert_eq!(answer.head, Offset::new(Sequence(2), 1).get());
    assert!(offsets(&answer).is_empty());
    assert_eq!(answer.log_epoch, EPOCH.to_string());
}

#[test]
fn bytes_end_a_page_and_its_first_message_is_always_there() {
    let written = Written::new(&[(1, 0); 100], 0, 50);
    for reverse in [false, true] {
        let mut asked = question(reverse, None, 90);
        asked.bytes = 1;
        assert_eq!(now(written.ask(asked.clone(), usize::MAX)).messages.len(), 1);
        asked.bytes = 60 * MESSAGE as u64;
        let many = now(written.ask(asked, usize::MAX)).messages.len();
        assert!((50..=60).contains(&many), "{many}");
    }
}

/// What a reading of so many records may take, when each holds ten messages of another channel.
fn records(count: usize) -> usize {
    count * 10 * (MESSAGE + 30)
}

#[test]
fn an_empty_page_is_refused_where_reading_takes_too_much() {
    let written = Written::new(&[(0, 10); 200], 0, 200);
    for reverse in [false, true] {
        let answer = now(written.ask(question(reverse, None, 10), records(50)));
        assert_eq!(answer.outcome(), HistoryOutcome::TooFar);
        let answer = now(written.ask(question(reverse, None, 10), usize::MAX));
        assert_eq!(answer.outcome(), HistoryOutcome::Complete);
        assert!(offsets(&answer).is_empty());
    }
}

/// Two messages at each end, and far more between them than one reading may take: page by page each is given once.
#[test]
fn a_page_ends_before_reading_takes_too_much() {
    let mut batches = vec![(1, 0), (1, 0)];
    batches.extend([(0, 10); 200]);
    batches.extend([(1, 0), (1, 0)]);
    for window_from in [0, 203, 204] {
        let written = Written::new(&batches, 0, window_from);
        let (oldest, newest) = (&written.kept[..2], &written.kept[2..]);
        let answer = now(written.ask(question(false, None, 10), records(50)));
        let is_in_window = window_from == 0;
        let whole: Vec<u64> = written.kept.clone();
        assert_eq!(offsets(&answer), if is_in_window { &whole[..] } else { oldest });
        let answer = now(written.ask(question(true, None, 10), records(150)));
        let mut backward = if is_in_window { whole } else { newest.to_vec() };
        backward.reverse();
        assert_eq!(offsets(&answer), backward);
        if !is_in_window {
            let since = Some(written.kept[2]);
            let answer = now(written.ask(question(true, since, 10), records(150)));
            assert_eq!(answer.outcome(), HistoryOutcome::TooFar);
        }
    }
}

/// However much was said elsewhere since: a channel's newest message is found where the window knows it.
#[test]
fn reading_backward_begins_at_the_newest_message() {
    let mut batches = vec![(1, 0)];
    batches.extend([(0, 10); 200]);
    let mut written = Written::new(&batches, 0, 0);
    written.window.set_bytes_limit(0);
    written.window.trim(0);
    assert_eq!(written.window.start(), written.end());
    let answer = now(written.ask(question(true, None, 10), records(1)));
    assert_eq!(offsets(&answer), written.kept);
}

#[test]
fn r6_an_owner_that_has_less_than_its_asker_was_told_does_not_answer() {
    let written = Written::new(&[(1, 0); 3], 0, 0);
    let mut asked = question(false, None, 10);
    asked.at_least = written.end().get();
    assert_eq!(
        now(written.ask(asked.clone(), usize::MAX)).outcome(),
        HistoryOutcome::Complete
    );
    asked.at_least = Offset::new(Sequence(4), 0).get();
    assert_eq!(
        now(written.ask(asked, usize::MAX)).outcome(),
        HistoryOutcome::Unavailable
    );
}

#[tokio::test]
async fn one_place_is_read_alone_and_what_is_purged_is_told() {
    let written = Written::new(&[(2, 1), (1, 1), (0, 2), (3, 0), (1, 1)], 1, 3);
    let exact = async |sequence: u64, index: usize| {
        let behind = Offset::new(Sequence(sequence), index).get();
        let asked = HistoryQuestion {
            exact: true,
            ..question(false, Some(behind - 1), 1)
        };
        // No reading of many records is allowed.
        let answer = written.ask(asked, 0).await;
        let offsets: Vec<u64> = answer.messages.iter().map(|message| message.offset).collect();
        assert!(offsets.iter().all(|offset| *offset == behind));
        (answer.outcome(), offsets.len())
    };
    assert_eq!(exact(2, 0).await, (HistoryOutcome::Complete, 1));
    assert_eq!(
        exact(2, 1).await,
        (HistoryOutcome::Complete, 0),
        "another channel's"
    );
    assert_eq!(exact(3, 0).await, (HistoryOutcome::Complete, 0));
    assert_eq!(exact(4, 2).await, (HistoryOutcome::Complete, 1), "in the window");
    assert_eq!(exact(4, 3).await, (HistoryOutcome::Complete, 0));
    assert_eq!(exact(9, 0).await, (HistoryOutcome::Complete, 0), "to come");
    assert_eq!(exact(1, 0).await, (HistoryOutcome::TooFar, 0), "purged");
}

/// Below the floor nobody knows what was deleted but a store that has read as far.
#[tokio::test]
async fn below_the_floor_only_a_store_that_has_read_the_deletions_tells() {
    let mut written = Written::new(&[(1, 0), (1, 0), (1, 0), (1, 0)], 0, 3);
    let at = |sequence: u64| Offset::new(Sequence(sequence), 0).get();
    let floor = Offset::end_of(Sequence(2)).get();
    Arc::make_mut(&mut written.0.deleted).load(switchboard_proto::bus::Deleted {
        floor,
        ..switchboard_proto::bus::Deleted::default()
    });
    let store = |read_to: u64| Stored {
        rows: (1..=read_to).map(at).collect(),
        read_to,
        is_up: true,
    };
    for reverse in [false, true] {
        let all = || question(reverse, None, 9);
        let sorted = |answer: HistoryAnswer| {
            let mut offsets = offsets(&answer);
            offsets.sort_unstable();
            offsets
        };
        let alone = written.ask(all(), usize::MAX).await;
        assert_eq!(sorted(alone), [at(3), at(4)], "reverse {reverse}");
        let behind = written.ask_with(all(), usize::MAX, Some(&store(1))).await;
        assert_eq!(sorted(behind), [at(3), at(4)], "reverse {reverse}");
        let read = written.ask_with(all(), usize::MAX, Some(&store(2))).await;
        assert_eq!(sorted(read), [at(1), at(2), at(3), at(4)], "reverse {reverse}");
    }
    // Whoever asks for one message goes to the store.
    let exact = HistoryQuestion {
        exact: true,
        ..question(false, Some(at(2) - 1), 1)
    };
    assert_eq!(
        written.ask(exact, usize::MAX).await.outcome(),
        HistoryOutcome::TooFar
    );
}
