//! R5, R6: what is older than the window is asked of the message store, joined where it touches, and never guessed.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::recovery::{purge, say, texts};
use super::*;
use crate::shard::askings::Told;
use crate::shard::stored::{Found, Reach, StoredHeads, StoredPage};
use RecoveredOutcome::{Complete, Lost, Unavailable};

/// A store that reads the rig's log when it is told to.
#[derive(Default)]
struct Stored {
    /// What is stored, by offset: the channel, and the encoded message.
    rows: BTreeMap<u64, (String, Bytes)>,
    read_to: u64,
    holes: Vec<(Sequence, Sequence)>,
    removed_to: HashMap<String, Offset>,
    /// What it was asked.
    asked: Vec<Ask>,
}

impl Stored {
    /// Reads up to this record. What is gone by then is a hole.
    fn read(&mut self, rig: &Rig, up_to: u64) {
        if rig.log.first > self.read_to + 1 && up_to > self.read_to {
            self.holes
                .push((Sequence(self.read_to + 1), Sequence(rig.log.first - 1)));
        }
        for (offset, entry, message) in rig.log.messages() {
            if Offset::from_u64(offset).sequence().0 <= up_to {
                self.rows.insert(offset, (message.channel, entry.message));
            }
        }
        self.read_to = self.read_to.max(up_to);
    }

    fn reach(&self) -> Reach {
        Reach {
            read_to: if self.read_to == 0 {
                Offset::ZERO
            } else {
                Offset::end_of(Sequence(self.read_to))
            },
            holes: self.holes.clone(),
        }
    }

    fn page(&self, channel: &str, after: Offset, limits: PageLimits) -> StoredPage {
        let removed_to = self.removed_to.get(channel).copied().unwrap_or_default();
        let mut page = StoredPage {
            reach: self.reach(),
            removed_to,
            ..StoredPage::default()
        };
        for (offset, (of, message)) in self.rows.range(after.max(removed_to).get() + 1..) {
            if of != channel {
                continue;
            }
            if page.messages.len() == limits.messages {
                page.more = true;
                break;
            }
            page.messages.push(Found {
                offset: Offset::from_u64(*offset),
                time_us: 0,
                message: message.clone(),
            });
        }
        page
    }

    fn answer(&mut self, ask: Ask, limits: PageLimits) -> Told {
        self.asked.push(ask.clone());
        match ask {
            Ask::Page(channel, after) => Told::Page(self.page(&channel, after, limits)),
            Ask::Heads(channels) => {
                let mut heads = StoredHeads {
                    reach: self.reach(),
                    ..StoredHeads::default()
                };
                for (offset, (channel, _)) in &self.rows {
                    if channels.iter().any(|asked| **asked == **channel) {
                        heads.heads.insert(channel.clone(), Offset::from_u64(*offset));
                    }
                }
                Told::Heads(heads)
            }
        }
    }
}

/// The store answers what it was asked, and the log what is asked of it then; `false`: the store is down.
fn settle(rig: &mut Rig, store: &mut Stored, is_up: bool) {
    loop {
        rig.settle();
        if rig.seen.asks.is_empty() {
            return;
        }
        for (id, ask) in std::mem::take(&mut rig.seen.asks) {
            let told = if is_up {
                store.answer(ask, rig.limits.page)
            } else {
                Told::Nothing
            };
            rig.owner.told(id, told);
        }
        rig.flush();
    }
}

/// As in `recovery`: messages 1 to `count` in channel `a`, one in each record from 3 on; the window holds the last three.
fn with_messages(count: u64) -> (Rig, Stored) {
    let mut limits = LIMITS;
    limits.memory.window.bytes = 3 * 160;
    limits.store = true;
    let mut rig = Rig::with(limits);
    rig.open(A, 1, &[]);
    rig.open(B, 1, &[]);
    say(&mut rig, 1, count);
    (rig, Stored::default())
}

#[test]
fn r5_what_is_purged_from_the_log_is_given_from_the_store() {
    let (mut rig, mut store) = with_messages(10);
    store.read(&rig, 12);
    purge(&mut rig, 10);
    rig.recover(B, 1, "a", end(2));
    assert_eq!(rig.recovered(B), []);
    settle(&mut rig, &mut store, true);
    assert_eq!(rig.recovered(B), [(1, Complete, end(12), texts(1, 10), false)]);
    assert_eq!(rig.owner.questions().scans(), 0, "the log is not read");
}

#[test]
fn r6_what_lies_between_store_and_window_is_read_from_the_log() {
    let (mut rig, mut store) = with_messages(10);
    store.read(&rig, 6);
    purge(&mut rig, 6);
    rig.recover(B, 1, "a", end(2));
    rig.recover(B, 2, "a", at(7, 0));
    settle(&mut rig, &mut store, true);
    let mut answers = rig.recovered(B);
    answers.sort_by_key(|answer| answer.0);
    assert_eq!(
        answers,
        [
            (1, Complete, end(12), texts(1, 10), false),
            (2, Complete, end(12), texts(6, 10), false)
        ]
    );
}

#[test]
fn r5_store_that_is_down_costs_no_answer_that_the_log_has() {
    let (mut rig, mut store) = with_messages(10);
    store.read(&rig, 12);
    purge(&mut rig, 6);
    rig.recover(B, 1, "a", at(5, 0));
    rig.recover(B, 2, "a", at(4, 0));
    settle(&mut rig, &mut store, false);
    let mut answers = rig.recovered(B);
    answers.sort_by_key(|answer| answer.0);
    assert_eq!(
        answers,
        [
            (1, Complete, end(12), texts(4, 10), false),
            (2, Unavailable, 0, vec![], false)
        ],
        "not lost: the store may have it"
    );
    // For a while it is asked only what the log cannot tell.
    rig.recover(B, 3, "a", at(6, 0));
    assert_eq!(rig.seen.asks, []);
    settle(&mut rig, &mut store, true);
    rig.recover(B, 4, "a", at(4, 0));
    settle(&mut rig, &mut store, true);
    let answers = rig.recovered(B);
    assert_eq!(answers[0], (3, Complete, end(12), texts(5, 10), false));
    assert_eq!(answers[1], (4, Complete, end(12), texts(3, 10), false));
    assert_eq!(store.asked.len(), 1);
}

#[test]
fn r5_hole_is_lost_for_whom_it_concerns() {
    let (mut rig, mut store) = with_messages(10);
    store.read(&rig, 4);
    purge(&mut rig, 7);
    store.read(&rig, 12);
    assert_eq!(store.holes, [(Sequence(5), Sequence(6))]);
    for (question, channel, after) in [
        (1, "a", end(2)),
        (2, "a", at(5, 0)),
        (3, "a", at(6, 0)),
        (4, "a", end(6)),
        (5, "quiet", end(2)),
    ] {
        rig.recover(B, question, channel, after);
    }
    settle(&mut rig, &mut store, true);
    let mut answers = rig.recovered(B);
    answers.sort_by_key(|answer| answer.0);
    let outcomes: Vec<_> = answers.iter().map(|answer| (answer.1, answer.2)).collect();
    assert_eq!(
        outcomes,
        [
            (Lost, at(6, 0)),
            (Lost, at(6, 0)),
            (Complete, end(12)),
            (Complete, end(12)),
            (Complete, end(12))
        ]
    );
    assert_eq!(answers[3].3, texts(5, 10));
    assert_eq!(answers[4].3, Vec::<String>::new());
}

#[test]
fn r5_store_that_lost_what_it_had_is_waited_for() {
    let (mut rig, mut store) = with_messages(10);
    purge(&mut rig, 8);
    store.read_to = 4;
    rig.recover(B, 1, "a", at(5, 0));
    settle(&mut rig, &mut store, true);
    assert_eq!(rig.recovered(B), [(1, Unavailable, 0, vec![], false)]);
    // It says what it lacks once it reads on.
    store.read(&rig, 9);
    rig.recover(B, 2, "a", at(5, 0));
    settle(&mut rig, &mut store, true);
    assert_eq!(rig.recovered(B), [(2, Lost, at(7, 0), vec![], false)]);
}

#[test]
fn r5_what_the_store_removed_is_lost() {
    let (mut rig, mut store) = with_messages(10);
    store.read(&rig, 12);
    store
        .removed_to
        .insert("a".to_owned(), Offset::from_u64(at(6, 0)));
    rig.recover(B, 1, "a", at(5, 0));
    rig.recover(B, 2, "a", at(6, 0));
    settle(&mut rig, &mut store, true);
    let mut answers = rig.recovered(B);
    answers.sort_by_key(|answer| answer.0);
    assert_eq!(answers[0], (1, Lost, at(6, 0), vec![], false));
    assert_eq!(answers[1], (2, Complete, end(12), texts(5, 10), false));
}

/// The store may have read a record that its owner does not know to be stored yet.
#[test]
fn k4_nothing_beyond_the_owners_position_is_given() {
    let (mut rig, mut store) = with_messages(10);
    rig.plain(A, 11, "a");
    let record = rig.store_only();
    store.read(&rig, 13);
    rig.recover(B, 1, "a", at(8, 0));
    settle_store_only(&mut rig, &mut store);
    assert_eq!(rig.recovered(B), [(1, Complete, end(12), texts(7, 10), false)]);
    rig.owner
        .stored(Sequence(record.sequence), rig.now, &mut rig.seen)
        .unwrap();
}

fn settle_store_only(rig: &mut Rig, store: &mut Stored) {
    for (id, ask) in std::mem::take(&mut rig.seen.asks) {
        let told = store.answer(ask, rig.limits.page);
        rig.owner.told(id, told);
    }
    rig.flush();
}

#[test]
fn herd_is_one_question_and_quiet_channels_are_one_more() {
    let (mut rig, mut store) = with_messages(10);
    store.read(&rig, 12);
    purge(&mut rig, 9);
    let herd = (1..=200).map(|question| recover(question, "a", end(2)));
    rig.up(B, 1, herd.collect());
    settle(&mut rig, &mut store, true);
    assert_eq!(rig.recovered(B).len(), 200);
    // The heads, and the page.
    assert_eq!(store.asked.len(), 2, "{:?}", store.asked);
    store.asked.clear();
    // A new owner knows nothing of channels that are quiet.
    let mut rig = rig.successor_from(rig.log.last().0);
    rig.owner.keys_known(Sequence(rig.log.first), rig.now);
    rig.flush();
    rig.store_all();
    rig.open(B, 1, &[]);
    let quiet = (1..=200).map(|question| recover(question, &format!("quiet-{question}"), end(2)));
    rig.up(B, 1, quiet.collect());
    settle(&mut rig, &mut store, true);
    let answers = rig.recovered(B);
    assert_eq!(answers.len(), 200);
    assert!(
        answers
            .iter()
            .all(|answer| answer.1 == Complete && answer.3.is_empty())
    );
    assert_eq!(store.asked.len(), 1, "{:?}", store.asked);
    // Now they are known.
    rig.recover(B, 1, "quiet-1", end(2));
    assert_eq!(rig.recovered(B).len(), 1);
}

#[test]
fn so_many_pages_at_a_time() {
    let (mut rig, mut store) = with_messages(1);
    for number in 2..=60 {
        rig.plain(A, number, &format!("b{number}"));
        rig.store_all();
    }
    rig.items(A);
    store.read(&rig, 61);
    let all = (2..=40).map(|number| recover(number, &format!("b{number}"), end(2)));
    rig.up(B, 1, all.collect());
    let [(id, Ask::Heads(_))] = &rig.seen.asks[..] else {
        panic!("{:?}", rig.seen.asks)
    };
    let (id, ask) = (*id, rig.seen.asks[0].1.clone());
    rig.seen.asks.clear();
    rig.owner.told(id, store.answer(ask, rig.limits.page));
    rig.flush();
    assert_eq!(rig.seen.asks.len(), 8);
    settle(&mut rig, &mut store, true);
    let answers = rig.recovered(B);
    assert_eq!(answers.len(), 39);
    for (question, outcome, _, given, _) in answers {
        assert_eq!((outcome, given), (Complete, texts(question, question)));
    }
}

#[test]
fn r5_what_is_hidden_while_the_store_is_asked_is_lost() {
    let (mut rig, mut store) = with_messages(10);
    store.read(&rig, 12);
    rig.recover(B, 1, "a", at(4, 0));
    let hide = HideHistory {
        up_to: at(5, 0),
        log_epoch: LOG.to_string(),
    };
    assert_eq!(rig.owner.hide("a".to_owned(), &hide, "caller".to_owned()), None);
    rig.flush();
    rig.store_all();
    settle(&mut rig, &mut store, true);
    assert_eq!(rig.recovered(B), [(1, Lost, at(5, 0), vec![], false)]);
}

/// A purge while the log is read for a recovery: what goes is stored, and is given from there.
#[test]
fn r5_what_is_purged_while_it_is_read_is_given_from_the_store() {
    let (mut rig, mut store) = with_messages(10);
    rig.page = 1;
    rig.recover(B, 1, "a", end(2));
    let (id, _) = rig.seen.asks.remove(0);
    rig.owner.told(id, Told::Nothing);
    rig.flush();
    rig.read();
    store.read(&rig, 12);
    purge(&mut rig, 8);
    settle(&mut rig, &mut store, true);
    assert_eq!(rig.recovered(B), [(1, Complete, end(12), texts(1, 10), false)]);
}

#[test]
fn r7_pages_of_the_store_follow_each_other() {
    let (mut rig, mut store) = with_messages(30);
    rig.limits.page.messages = 512;
    store.read(&rig, 25);
    purge(&mut rig, 20);
    let mut given = Vec::new();
    let mut after = end(2);
    for question in 1..100 {
        rig.recover(B, question, "a", after);
        // Pages of the store may be smaller than ours.
        rig.settle();
        for (id, ask) in std::mem::take(&mut rig.seen.asks) {
            let small = PageLimits {
                messages: 4,
                ..rig.limits.page
            };
            let told = store.answer(ask, small);
            rig.owner.told(id, told);
        }
        rig.flush();
        rig.settle();
        let (_, outcome, up_to, texts, more) = rig.recovered(B).remove(0);
        assert_eq!(outcome, Complete);
        given.extend(texts);
        assert!(up_to > after);
        after = up_to;
        if !more {
            assert!(question > 3);
            assert_eq!(given, super::recovery::texts(1, 30));
            return;
        }
    }
    panic!("there is no end to it");
}

#[derive(Debug, Clone)]
enum Step {
    Say(u8),
    /// The store reads so many records more.
    Read(u64),
    /// The log is purged up to so many records behind where the store is, or beyond.
    Purge(i64),
    /// Who asks what behind which record, and whether the store is up.
    Ask(u8, u64, bool),
    /// Time goes by.
    Pass,
    TakeOver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..3_u8).prop_map(Step::Say),
        3 => (1..8_u64).prop_map(Step::Read),
        2 => prop_oneof![9 => -4..1_i64, 1 => 1..4_i64].prop_map(Step::Purge),
        6 => (0..4_u8, 0..60_u64, prop::bool::weighted(0.8)).prop_map(|(channel, back, up)| Step::Ask(channel, back, up)),
        1 => Just(Step::Pass),
        1 => Just(Step::TakeOver),
    ]
}

/// Whatever the store and the log have: an answer is everything that was said, or says that something of it is gone.
fn run(steps: Vec<Step>) {
    let (mut rig, mut store) = with_messages(1);
    let mut said: Vec<(u64, String, String)> = Vec::new();
    let note = |rig: &Rig, said: &mut Vec<(u64, String, String)>| {
        for (offset, _, message) in rig.log.messages() {
            if said.last().is_none_or(|(last, ..)| offset > *last) {
                let text = text(&message);
                said.push((offset, message.channel, text));
            }
        }
    };
    let mut number = 1;
    let mut questions = 0;
    for step in steps {
        match step {
            Step::Say(channel) => {
                number += 1;
                rig.plain(A, number, &format!("c{channel}"));
                rig.store_all();
                rig.items(A);
            }
            Step::Read(records) => {
                let up_to = (store.read_to + records).min(rig.log.last().0);
                store.read(&rig, up_to.max(rig.log.first.min(rig.log.last().0)));
            }
            Step::Purge(beyond) => {
                let start = rig.owner.memory().window.start().sequence().0;
                let before = (store.read_to as i64 + beyond + 1).max(1) as u64;
                // Neither the window nor the last state record goes, whoever purges.
                let before = before.min(start + 1).min(rig.owner.memory().state_at.0);
                if before > rig.log.first {
                    note(&rig, &mut said);
                    purge(&mut rig, before);
                    rig.owner.memory.removed.purged_before = Sequence(before);
                    rig.owner.upkeep.want_state();
                    rig.flush();
                    rig.store_all();
                }
            }
            Step::Ask(channel, back, is_up) => {
                note(&rig, &mut said);
                questions += 1;
                let channel = format!("c{channel}");
                let after = end(rig.log.last().0.saturating_sub(back));
                let removed = rig.owner.memory().removed.up_to(&channel).get();
                rig.recover(B, questions, &channel, after);
                settle(&mut rig, &mut store, is_up);
                let answers = rig.recovered(B);
                let [(_, outcome, up_to, given, more)] = &answers[..] else {
                    panic!("{answers:?}")
                };
                let missed: Vec<&String> = said
                    .iter()
                    .filter(|(offset, of, _)| *of == channel && *offset > after && *offset <= *up_to)
                    .map(|(_, _, text)| text)
                    .collect();
                match outcome {
                    Complete => {
                        assert_eq!(given.iter().collect::<Vec<_>>(), missed);
                        assert!(*more || *up_to == end(rig.log.last().0));
                    }
                    Lost => {
                        let is_gone = store.holes.iter().any(|(first, last)| {
                            Offset::end_of(*last).get() > after && at(first.0, 0) <= removed
                        });
                        assert!(is_gone && removed > after, "nothing is lost behind {after}");
                    }
                    Unavailable => {
                        let is_owed = removed > after && (!is_up || removed > end(store.read_to));
                        assert!(is_owed, "the log has it all behind {after}");
                    }
                }
            }
            Step::Pass => rig.pass(SECOND),
            Step::TakeOver => {
                note(&rig, &mut said);
                let mut next = rig.successor_from(rig.log.last().0);
                next.owner.keys_known(Sequence(next.log.first), next.now);
                next.flush();
                next.store_all();
                next.open(A, 1, &[]);
                next.open(B, 1, &[]);
                rig = next;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn r5_r6_an_answer_is_everything_or_says_so(steps in prop::collection::vec(step(), 1..120)) {
        run(steps);
    }
}
