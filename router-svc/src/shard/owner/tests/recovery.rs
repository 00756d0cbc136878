//! R5 to R7, R9: what is answered to those who ask what they missed.

use super::*;
use RecoveredOutcome::{Complete, Lost, Unavailable};

/// A rig with messages 1 to `count` in channel `a`, one in each record from 3 on, of which the window
/// holds about the last three.
fn with_messages(count: u64) -> Rig {
    let mut limits = LIMITS;
    limits.memory.window.bytes = 3 * 160;
    let mut rig = Rig::with(limits);
    rig.open(A, 1, &[]);
    rig.open(B, 1, &[]);
    say(&mut rig, 1, count);
    assert!(count < 5 || start(&rig) > 5);
    rig
}

/// The first record in the window.
fn start(rig: &Rig) -> u64 {
    rig.owner.memory().window.start().sequence().0 + 1
}

pub(super) fn say(rig: &mut Rig, from: u64, to: u64) {
    for number in from..=to {
        rig.plain(A, number, "a");
        rig.store_all();
    }
    rig.items(A);
}

pub(super) fn texts(from: u64, to: u64) -> Vec<String> {
    (from..=to).map(|number| format!("plain {number}")).collect()
}

/// Records of which it was noted what they hold, and which then went.
pub(super) fn purge(rig: &mut Rig, before: u64) {
    for sequence in rig.log.first..before {
        if let Some(record::Body::Batch(batch)) = rig.log.record(sequence).body {
            for (index, entry) in batch.entries.into_iter().enumerate() {
                let message = Message::decode(entry.message).unwrap();
                let offset = Offset::new(Sequence(sequence), index);
                rig.owner.memory.removed.note(&message.channel, offset);
            }
        }
    }
    rig.log.first = before;
}

#[test]
fn r6_what_the_window_holds_is_answered_at_once() {
    let mut rig = with_messages(10);
    rig.recover(B, 1, "a", end(11));
    rig.recover(B, 2, "a", end(12));
    rig.recover(B, 3, "b", end(11));
    assert_eq!(rig.seen.read, None);
    assert_eq!(
        rig.recovered(B),
        [
            (1, Complete, end(12), texts(10, 10), false),
            (2, Complete, end(12), vec![], false),
            (3, Complete, end(12), vec![], false),
        ]
    );
}

#[test]
fn r6_older_ones_are_read_from_the_log_and_joined_with_the_window() {
    let mut rig = with_messages(10);
    rig.recover(B, 1, "a", at(4, 0));
    assert_eq!(rig.recovered(B), []);
    assert!(rig.settle() > 1, "pages");
    assert_eq!(rig.recovered(B), [(1, Complete, end(12), texts(3, 10), false)]);
    assert!(rig.owner.questions().len() == 0);
}

#[test]
fn r6_the_window_moves_on_while_the_log_is_read() {
    let mut rig = with_messages(10);
    rig.page = 1;
    rig.recover(B, 1, "a", end(2));
    let mut number = 10;
    // What is said meanwhile pushes messages out of the window that the reading was to end at.
    for _ in 0..5 {
        rig.read();
        say(&mut rig, number + 1, number + 1);
        number += 1;
    }
    rig.items(A);
    rig.settle();
    assert_eq!(
        rig.recovered(B),
        [(1, Complete, end(number + 2), texts(1, number), false)]
    );
}

#[test]
fn r6_a_window_that_overtook_the_end_of_the_reading_is_no_gap() {
    let mut rig = with_messages(10);
    rig.page = 100;
    rig.recover(B, 1, "a", end(2));
    let (from, to) = rig.seen.read.expect("a reading");
    say(&mut rig, 11, 30);
    assert!(start(&rig) > to.0 + 1, "the window begins behind what is read");
    rig.seen.read = None;
    let page = rig.log.range(from.0, to.0);
    rig.owner.page(Ok(&page));
    rig.flush();
    assert_eq!(rig.recovered(B), [], "not yet");
    assert!(rig.settle() > 0);
    assert_eq!(rig.recovered(B), [(1, Complete, end(32), texts(1, 30), false)]);
}

#[test]
fn r6_only_the_asked_channel_is_given() {
    let mut rig = with_messages(10);
    rig.plain(B, 1, "b");
    rig.store_all();
    say(&mut rig, 11, 20);
    rig.items(B);
    rig.recover(B, 1, "b", end(3));
    rig.recover(B, 2, "c", end(3));
    rig.settle();
    let mut answers = rig.recovered(B);
    answers.sort_by_key(|answer| answer.0);
    assert_eq!(answers[0].3, ["plain 1"]);
    assert_eq!(answers[1].3, Vec::<String>::new());
}

/// After a take-over nothing is known of a channel that was quiet for long. A reading may take longer than who asked
/// waits: it must not begin anew with every try.
#[test]
fn r5_a_quiet_channel_is_looked_for_once() {
    let mut limits = LIMITS;
    limits.memory.window.bytes = 3 * 160;
    limits.upkeep.state_records = 10;
    let mut rig = Rig::with(limits);
    rig.open(A, 1, &[]);
    rig.plain(A, 1, "b");
    rig.store_all();
    say(&mut rig, 2, 40);
    let mut rig = rig.successor_from(rig.log.last().0);
    rig.open(B, 1, &[]);
    rig.recover(B, 1, "b", at(3, 0));
    assert!(rig.settle() > 0, "it is not known");
    let position = rig.recovered(B)[0].2;
    for question in 2..4 {
        rig.recover(B, question, "b", at(3, 0));
        assert_eq!(rig.seen.read, None);
        assert_eq!(rig.recovered(B), [(question, Complete, position, vec![], false)]);
    }
    // Who left off before that is given it.
    rig.recover(B, 5, "b", end(2));
    rig.settle();
    assert_eq!(rig.recovered(B), [(5, Complete, position, texts(1, 1), false)]);
}

#[test]
fn a_herd_costs_one_reading() {
    let mut rig = with_messages(10);
    rig.page = 100;
    let questions = (1..=200)
        .map(|question| recover(question, "a", at(3 + question % 3, 0)))
        .collect();
    rig.up(B, 1, questions);
    assert_eq!(rig.settle(), 1);
    let answers = rig.recovered(B);
    assert_eq!(answers.len(), 200);
    for (question, outcome, _, given, _) in answers {
        assert_eq!(
            (outcome, given),
            (Complete, texts(2 + question % 3, 10)),
            "{question}"
        );
    }
    // Who asks while it is read waits for the next one, all together.
    rig.recover(B, 1, "a", end(2));
    for question in 2..=50 {
        rig.recover(B, question, "a", end(2));
    }
    assert_eq!(rig.settle(), 2);
    assert_eq!(rig.recovered(B).len(), 50);
    assert_eq!(rig.owner.questions().scans(), 3);
}

#[test]
fn a_question_of_an_opening_that_is_over_is_not_read_for() {
    let mut rig = with_messages(10);
    rig.recover(B, 1, "a", end(2));
    rig.recover(B, 2, "a", end(2));
    rig.open(B, 2, &[]);
    assert!(rig.settle() > 0);
    assert_eq!(
        rig.owner.questions().scans(),
        1,
        "the second reading has nobody to serve"
    );
    assert_eq!(rig.recovered(B), []);
}

#[test]
fn r7_a_long_absence_is_given_in_pages() {
    let mut limits = LIMITS;
    limits.batch_bytes = 1 << 20;
    limits.queue_bytes = 1 << 24;
    let mut rig = Rig::with(limits);
    rig.open(A, 1, &[]);
    rig.open(B, 1, &[]);
    rig.up(A, 1, (1..=1100).map(|number| plain(number, "a", false)).collect());
    rig.store_all();
    let in_window = pages(&mut rig);
    assert_eq!(in_window, texts(1, 1100));
    // The same out of the log.
    rig.owner.set_window_bytes(0);
    rig.pass(Duration::from_millis(250));
    assert!(start(&rig) > 3);
    assert_eq!(pages(&mut rig), texts(1, 1100));
}

/// Asks for page after page.
fn pages(rig: &mut Rig) -> Vec<String> {
    let mut all = Vec::new();
    let mut after = end(2);
    for question in 1..10 {
        rig.recover(B, question, "a", after);
        rig.settle();
        let (_, outcome, up_to, texts, more) = rig.recovered(B).remove(0);
        assert_eq!(outcome, Complete);
        assert!(texts.len() <= 512);
        assert!(up_to > after);
        all.extend(texts);
        after = up_to;
        if !more {
            assert!(question > 2);
            return all;
        }
    }
    panic!("there is no end to it");
}

#[test]
fn r7_a_page_is_bounded_in_bytes_too() {
    let mut limits = LIMITS;
    limits.batch_bytes = 1 << 20;
    limits.queue_bytes = 1 << 24;
    let mut rig = Rig::with(limits);
    rig.open(A, 1, &[]);
    rig.open(B, 1, &[]);
    for number in 1..=8 {
        rig.up(A, 1, vec![large(number, "a", 60_000)]);
        rig.store_all();
    }
    rig.recover(B, 1, "a", end(2));
    let (_, _, up_to, texts, more) = rig.recovered(B).remove(0);
    assert!(more && texts.len() == 3, "{}", texts.len());
    assert_eq!(up_to, at(5, 0));
}

#[test]
fn r5_what_was_removed_is_lost_for_that_channel_alone() {
    let mut rig = with_messages(10);
    purge(&mut rig, 6);
    rig.recover(B, 1, "a", at(4, 0));
    rig.recover(B, 2, "a", at(5, 0));
    rig.recover(B, 3, "quiet", at(4, 0));
    rig.settle();
    let mut answers = rig.recovered(B);
    answers.sort_by_key(|answer| answer.0);
    assert_eq!(answers[0], (1, Lost, at(5, 0), vec![], false));
    assert_eq!(answers[1], (2, Complete, end(12), texts(4, 10), false));
    assert_eq!(answers[2], (3, Complete, end(12), vec![], false));
}

#[test]
fn r5_what_is_purged_while_it_is_read_is_lost() {
    let mut rig = with_messages(10);
    rig.page = 1;
    rig.recover(B, 1, "a", end(2));
    rig.recover(B, 2, "quiet", end(2));
    rig.read();
    purge(&mut rig, 8);
    rig.settle();
    let mut answers = rig.recovered(B);
    answers.sort_by_key(|answer| answer.0);
    assert_eq!(answers[0].1, Lost);
    assert_eq!(answers[1].1, Complete);
}

#[test]
fn r5_a_head_tells_that_nothing_is_missing_without_reading() {
    let mut rig = with_messages(1);
    rig.plain(B, 1, "b");
    rig.store_all();
    for number in 2..=10 {
        rig.plain(B, number, "b");
        rig.store_all();
    }
    rig.items(B);
    assert!(start(&rig) > 4);
    // a's newest message left the window, but is known.
    rig.recover(B, 1, "a", at(3, 0));
    assert_eq!(rig.seen.read, None);
    assert_eq!(rig.recovered(B), [(1, Complete, end(13), vec![], false)]);
}

#[test]
fn r5_a_log_that_cannot_be_read_is_not_lost() {
    let mut rig = with_messages(10);
    rig.recover(B, 1, "a", end(2));
    rig.read_fails();
    assert_eq!(rig.recovered(B), [(1, Unavailable, 0, vec![], false)]);
    rig.recover(B, 2, "a", end(2));
    rig.pass(SECOND);
    rig.settle();
    let answers = rig.recovered(B);
    assert_eq!(answers, [(2, Complete, end(12), texts(1, 10), false)]);
}

#[test]
fn r5_an_offset_beyond_the_end_is_lost_once_the_leader_was_asked() {
    let mut rig = with_messages(3);
    rig.recover(B, 1, "a", end(9));
    assert_eq!(rig.recovered(B), [], "it may be that another owns the shard");
    rig.look().unwrap();
    rig.look().unwrap();
    assert_eq!(rig.recovered(B), [(1, Lost, u64::MAX, vec![], false)]);
}

#[test]
fn r5_a_deposed_owner_does_not_say_lost() {
    let mut old = with_messages(3);
    let mut new = old.successor();
    new.open(A, 1, &[]);
    new.plain(A, 9, "a");
    new.store_all();
    old.recover(B, 1, "a", new.owner.position().get());
    old.log = new.log.clone();
    assert!(matches!(old.look(), Err(StepDown::Overtaken { .. })));
    assert_eq!(old.recovered(B), []);
}

/// The leader was asked before there was a question: what it then answers is no proof.
#[test]
fn r5_an_older_answer_of_the_leader_does_not_settle_a_later_question() {
    let mut old = with_messages(3);
    let (info, asked) = (old.log.info(), old.owner.append_number());
    let mut new = old.successor();
    new.open(A, 1, &[]);
    new.plain(A, 9, "a");
    new.store_all();
    old.recover(B, 1, "a", new.owner.position().get());
    old.owner.leader(info, asked).unwrap();
    old.flush();
    assert_eq!(old.recovered(B), [], "somebody else owns the shard by now");
    old.log = new.log.clone();
    assert!(matches!(old.look(), Err(StepDown::Overtaken { .. })));
}

/// The same with the acknowledgement of an append from before.
#[test]
fn r5_an_older_acknowledgement_does_not_settle_a_later_question() {
    let mut old = with_messages(3);
    old.plain(A, 4, "a");
    old.store_only();
    let new = old.successor();
    old.recover(B, 1, "a", new.owner.position().get());
    let own = old.log.last();
    old.owner.stored(own, old.now, &mut old.seen).unwrap();
    old.flush();
    assert_eq!(old.recovered(B), [], "somebody else owns the shard by now");
    // An append that began after the question, and is stored, is proof.
    let mut owner = with_messages(3);
    owner.recover(B, 1, "a", end(100));
    owner.plain(A, 4, "a");
    owner.store_all();
    assert_eq!(owner.recovered(B), [(1, Lost, u64::MAX, vec![], false)]);
}

/// Who read the log himself may know an offset before its owner is told.
#[test]
fn r6_an_owner_asked_for_what_it_is_storing_waits() {
    let mut rig = with_messages(3);
    rig.plain(A, 4, "a");
    rig.recover(B, 1, "a", at(6, 0));
    assert_eq!(rig.recovered(B), []);
    rig.store_all();
    rig.plain(A, 5, "a");
    rig.store_all();
    rig.look().unwrap();
    rig.look().unwrap();
    let answers = rig.recovered(B);
    assert_eq!(answers.len(), 1);
    assert_eq!((answers[0].0, answers[0].1), (1, Complete));
}

#[test]
fn r9_a_window_that_may_take_less_lets_go_and_answers_stay_complete() {
    let mut limits = LIMITS;
    limits.memory.window.heads = 2;
    let mut rig = Rig::with(limits);
    rig.open(A, 1, &[]);
    rig.open(B, 1, &[]);
    for (number, channel) in (1..).zip(["a", "b", "c", "d", "a", "e"]) {
        rig.plain(A, number, channel);
        rig.store_all();
    }
    rig.owner.set_window_bytes(0);
    rig.pass(Duration::from_millis(250));
    let memory = rig.owner.memory();
    assert_eq!(memory.window.bytes(), 0);
    assert!(memory.window.channel_count() <= 2);
    for (channel, newest) in [("a", 7), ("b", 4), ("c", 5), ("d", 6), ("e", 8)] {
        assert!(
            memory.window.head(channel).get() >= at(newest, 0),
            "R4: never too low"
        );
    }
    rig.items(B);
    let questions = ["a", "b", "c", "d", "e", "f"].iter().zip(1..);
    rig.up(
        B,
        1,
        questions
            .map(|(channel, number)| recover(number, channel, end(2)))
            .collect(),
    );
    rig.settle();
    let mut answers = rig.recovered(B);
    answers.sort_by_key(|answer| answer.0);
    let counts: Vec<usize> = answers.iter().map(|answer| answer.3.len()).collect();
    assert_eq!(counts, [2, 1, 1, 1, 1, 0]);
    assert!(answers.iter().all(|answer| answer.1 == Complete));
}
