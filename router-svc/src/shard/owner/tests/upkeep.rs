//! L3, L4, L6: the fill mark, state records, and what may be purged.

use switchboard_bus::{ReaderName, ReaderPosition};

use super::*;
use crate::shard::readers::ReaderAt;

/// A rig of the only shard whose own entries for others are settled, with a log of `max_bytes`.
fn with_room(max_bytes: u64, limits: Limits) -> Rig {
    let mut rig = Rig::with(limits);
    rig.log.max_bytes = Some(max_bytes);
    rig.look().unwrap();
    rig.open(A, 1, &[]);
    rig.open(B, 1, &[]);
    derive_all(&mut rig);
    rig
}

/// The shard is its own only target; nothing is to be derived.
fn derive_all(rig: &mut Rig) {
    let is = rig.owner.is;
    rig.owner
        .owner_beat(is.shard, is.router, (is.log_epoch.ordinal, is.owner_epoch.0));
    rig.flush();
    for (_, frame) in std::mem::take(&mut rig.seen.derive) {
        rig.owner.derive(frame, &mut rig.seen);
    }
    for (_, frame) in std::mem::take(&mut rig.seen.derivation) {
        rig.owner.derivation(&frame);
    }
    rig.flush();
    rig.settle();
}

/// The log is this full, as its leader says.
fn fill_to(rig: &mut Rig, percent: u64) {
    rig.log.max_bytes = Some(rig.log.info().bytes * 100 / percent);
    rig.look().unwrap();
}

/// Time in which a purge begins and is carried out, where one is due.
fn upkeep(rig: &mut Rig) {
    for _ in 0..4 {
        rig.pass(Duration::from_millis(250));
        rig.settle();
    }
}

/// A small window, so that it is not what keeps records.
fn small_window() -> Limits {
    let mut limits = LIMITS;
    limits.memory.window.bytes = 3 * 160;
    limits
}

/// Publishes `text`-numbered messages into their channels and stores each.
fn say(rig: &mut Rig, from: u64, to: u64, channel: impl Fn(u64) -> String) {
    for number in from..=to {
        rig.plain(A, number, &channel(number));
        rig.store_all();
    }
    rig.items(A);
}

fn in_a(_: u64) -> String {
    "a".to_owned()
}

/// The key window goes by with something said in every second, so that old records are known as old.
fn outlive_keys(rig: &mut Rig, next: &mut u64) {
    for _ in 0..320 {
        rig.pass(SECOND);
        // Its link must not fall silent.
        rig.plain(A, *next, "late");
        rig.up(B, 1, Vec::new());
        rig.settle();
        *next += 1;
    }
    rig.items(A);
}

#[test]
fn l3_above_the_fill_mark_publishes_are_refused_and_state_records_still_fit() {
    let mut limits = LIMITS;
    limits.upkeep.state_records = 3;
    let mut rig = with_room(100_000, limits);
    let mut number = 0;
    let refused = loop {
        number += 1;
        assert!(number < 200);
        rig.up(A, 1, vec![large(number, "a", 900)]);
        rig.store_all();
        rig.look().unwrap();
        match rig.answers(A).as_slice() {
            [(_, Told::Stored(_))] => {}
            other => break other.to_vec(),
        }
    };
    assert_eq!(refused, [(number, Told::Refused(100))]);
    let bytes = rig.log.info().bytes;
    assert!(bytes < 92_000, "{bytes}");
    // A full log can be taken over: fence and state record fit below the log's own limit.
    let new = rig.successor();
    assert!(new.log.info().bytes < 100_000);
    assert!(is_state(&new.log.record(new.log.last().0)));
    // And the new owner refuses from the beginning.
    let mut new = rig.successor();
    new.open(C, 1, &[]);
    new.plain(C, 1, "a");
    assert_eq!(new.answers(C), [(1, Told::Refused(100))]);
    // The old one takes messages again once there is room.
    rig.log.max_bytes = Some(200_000);
    rig.look().unwrap();
    rig.plain(A, number + 1, "a");
    rig.store_all();
    assert!(matches!(rig.answers(A).as_slice(), [(_, Told::Stored(_))]));
}

#[test]
fn l3_between_two_looks_at_the_log_the_owner_counts_for_itself() {
    let mut rig = with_room(20_000, LIMITS);
    for number in 1..=40 {
        rig.up(A, 1, vec![large(number, "a", 900)]);
        rig.store_all();
    }
    let told = rig.answers(A);
    let refused = told
        .iter()
        .filter(|(_, told)| matches!(told, Told::Refused(_)))
        .count();
    assert!(refused > 15, "{refused}");
    assert!(rig.log.info().bytes < 20_000);
}

#[test]
fn l6_a_state_record_comes_at_the_take_over_and_each_so_many_records_and_bytes() {
    let mut limits = LIMITS;
    limits.upkeep.state_records = 5;
    let mut rig = Rig::with(limits);
    assert!(is_state(&rig.log.record(2)));
    rig.open(A, 1, &[]);
    say(&mut rig, 1, 12, in_a);
    let states: Vec<u64> = (1..=rig.log.last().0)
        .filter(|sequence| is_state(&rig.log.record(*sequence)))
        .collect();
    assert_eq!(states, [2, 8, 14]);
    assert_eq!(
        rig.log.record(13).state_at,
        8,
        "and each record names the last one"
    );

    let mut limits = LIMITS;
    limits.upkeep.state_bytes = 2000;
    let mut rig = Rig::with(limits);
    rig.open(A, 1, &[]);
    for number in 1..=6 {
        rig.up(A, 1, vec![large(number, "a", 900)]);
        rig.store_all();
    }
    let states = (1..=rig.log.last().0)
        .filter(|sequence| is_state(&rig.log.record(*sequence)))
        .count();
    assert!((3..=4).contains(&states), "{states}");
}

#[test]
fn a_refused_state_record_does_not_keep_messages_out() {
    let mut limits = LIMITS;
    limits.upkeep.state_bytes = 2000;
    let mut rig = Rig::with(limits);
    rig.open(A, 1, &[]);
    for number in 1..=3 {
        rig.up(A, 1, vec![large(number, "a", 900)]);
        rig.store();
    }
    rig.plain(A, 4, "a");
    // The state record goes first; the log does not take it.
    let (_, record) = rig.seen.append.as_ref().expect("an append");
    assert!(is_state(&format::decode(record.clone()).unwrap()));
    rig.refuse();
    assert_eq!(numbers(&rig.store()), [4], "messages go on");
}

#[test]
fn l4_nothing_is_purged_before_the_keys_are_known() {
    let mut rig = with_room(10_000, small_window());
    say(&mut rig, 1, 80, in_a);
    rig.look().unwrap();
    assert!(rig.owner.upkeep().fill() > 75);
    let mut new = rig.successor_from(1);
    new.flush();
    new.store();
    derive_all(&mut new);
    new.look().unwrap();
    new.pass(SECOND);
    assert_eq!(new.settle(), 0);
    assert_eq!(new.log.first, 1);
}

#[test]
fn l4_a_young_key_keeps_its_record() {
    let mut rig = with_room(10_000, small_window());
    rig.up(A, 1, vec![keyed(1, "a", "k", false)]);
    rig.store_all();
    say(&mut rig, 1, 80, in_a);
    rig.look().unwrap();
    assert!(rig.owner.upkeep().fill() > 75);
    rig.pass(SECOND);
    rig.settle();
    assert_eq!(rig.log.first, 1, "all of it is younger than the key window");
}

#[test]
fn l4_the_window_keeps_its_records() {
    let mut rig = with_room(u64::MAX, LIMITS);
    say(&mut rig, 1, 200, in_a);
    let mut next = 201;
    outlive_keys(&mut rig, &mut next);
    fill_to(&mut rig, 80);
    upkeep(&mut rig);
    assert_eq!(rig.log.first, 1);
    // Once the window lets go, they may.
    rig.owner.set_window_bytes(2000);
    upkeep(&mut rig);
    assert!(rig.log.first > 100, "{}", rig.log.first);
    assert!(Sequence(rig.log.first) <= rig.owner.memory().window.start().sequence().next());
}

#[test]
fn l4_what_is_not_derived_everywhere_stays() {
    let mut rig = Rig::with(small_window());
    rig.open(A, 1, &[]);
    rig.open(B, 1, &[]);
    // Its target, which is itself, has never been heard.
    say(&mut rig, 1, 200, in_a);
    let mut next = 201;
    outlive_keys(&mut rig, &mut next);
    fill_to(&mut rig, 80);
    upkeep(&mut rig);
    assert_eq!(rig.log.first, 1);
    derive_all(&mut rig);
    upkeep(&mut rig);
    assert!(rig.log.first > 100, "{}", rig.log.first);
}

#[test]
fn l4_l6_what_is_purged_was_noted_in_a_state_record_and_survives_a_take_over() {
    let mut limits = small_window();
    limits.upkeep.state_records = 50;
    let mut rig = with_room(u64::MAX, limits);
    say(&mut rig, 1, 3, |_| "gone".to_owned());
    say(&mut rig, 4, 6, |number| format!("gone {number}"));
    say(&mut rig, 7, 200, |_| "old".to_owned());
    let mut next = 201;
    outlive_keys(&mut rig, &mut next);
    fill_to(&mut rig, 80);
    for _ in 0..12 {
        rig.pass(Duration::from_millis(250));
        // Step by step: a purge comes only after its state record.
        for _ in 0..1000 {
            if let Some(before) = rig.seen.purge.take() {
                let state = rig.log.state();
                assert!(state.purged_before >= before.0);
                assert!(before <= Sequence(rig.log.last().0));
                for (offset, _, message) in rig.log.messages() {
                    if Offset::from_u64(offset).sequence() < before {
                        let mark = state.removed.iter().find(|mark| mark.channel == message.channel);
                        let up_to = mark.map_or(state.removed_up_to, |mark| mark.up_to);
                        assert!(up_to >= offset, "{} at {offset}", message.channel);
                    }
                }
                let state_at = rig.owner.memory().state_at;
                assert!(before <= state_at, "L4: the last state record stays");
                rig.purge(before);
            } else if rig.seen.read.is_some() {
                rig.read();
            } else if rig.seen.append.is_some() {
                rig.store();
            } else {
                break;
            }
        }
    }
    assert!(rig.log.first > 100, "{}", rig.log.first);
    assert_eq!(rig.owner.upkeep().purges(), 1);
    rig.look().unwrap();
    assert!(rig.owner.upkeep().fill() < 75, "{}", rig.owner.upkeep().fill());

    for mut rig in [rig.successor(), rig] {
        rig.open(A, 1 + rig.owner.is.owner_epoch.0 % 2 * 10, &[]);
        rig.open(B, 7, &[]);
        let questions = vec![
            recover(1, "gone", end(2)),
            recover(2, "gone", at(5, 0)),
            recover(3, "never", end(2)),
            recover(4, "gone 5", end(2)),
            recover(5, "gone 5", at(7, 0)),
        ];
        rig.up(B, 7, questions);
        rig.settle();
        let mut answers = rig.recovered(B);
        answers.sort_by_key(|answer| answer.0);
        let outcomes: Vec<_> = answers.iter().map(|answer| answer.1).collect();
        use RecoveredOutcome::{Complete, Lost};
        assert_eq!(outcomes, [Lost, Complete, Complete, Lost, Complete]);
        assert_eq!(answers[0].2, at(5, 0));
    }
}

#[test]
fn l6_marks_beyond_the_limit_become_a_bound_for_all() {
    let mut limits = small_window();
    limits.memory.removed = 100;
    let mut rig = with_room(u64::MAX, limits);
    say(&mut rig, 1, 20, |number| format!("gone {number}"));
    say(&mut rig, 21, 200, |_| "old".to_owned());
    let mut next = 201;
    outlive_keys(&mut rig, &mut next);
    fill_to(&mut rig, 80);
    upkeep(&mut rig);
    assert!(rig.log.first > 30, "{}", rig.log.first);
    let mut new = rig.successor();
    let state = new.log.state();
    assert!(state.removed.len() < 5, "{}", state.removed.len());
    new.open(B, 1, &[]);
    for number in 1..=20 {
        let offset = at(number + 2, 0);
        new.recover(B, number, &format!("gone {number}"), offset - 1);
    }
    new.settle();
    let answers = new.recovered(B);
    assert_eq!(answers.len(), 20);
    assert!(
        answers.iter().all(|answer| answer.1 == RecoveredOutcome::Lost),
        "never less than the truth"
    );
}

#[test]
fn l4_records_that_somebody_else_removed_count_as_lost() {
    let mut rig = Rig::with(small_window());
    rig.open(A, 1, &[]);
    say(&mut rig, 1, 10, in_a);
    // An operator purged; no state record tells what it was.
    let mut middle = rig.successor();
    middle.log.first = 8;
    let mut new = middle.successor();
    new.open(B, 1, &[]);
    new.recover(B, 1, "a", at(3, 0));
    new.recover(B, 2, "a", at(8, 0));
    new.settle();
    let mut answers = new.recovered(B);
    answers.sort_by_key(|answer| answer.0);
    let outcomes: Vec<_> = answers.iter().map(|answer| answer.1).collect();
    assert_eq!(outcomes, [RecoveredOutcome::Lost, RecoveredOutcome::Complete]);
}

#[test]
fn l4_one_purge_until_the_leader_has_told_what_it_brought() {
    let mut rig = with_room(u64::MAX, small_window());
    say(&mut rig, 1, 200, in_a);
    let mut next = 201;
    outlive_keys(&mut rig, &mut next);
    fill_to(&mut rig, 80);
    let before = rig.log.info();
    upkeep(&mut rig);
    upkeep(&mut rig);
    // An answer to a question from before the purge.
    rig.owner.leader(before, rig.owner.append_number()).unwrap();
    upkeep(&mut rig);
    assert_eq!(rig.owner.upkeep().purges(), 1);
    rig.look().unwrap();
    upkeep(&mut rig);
    assert_eq!(rig.owner.upkeep().purges(), 1, "it was enough");
}

/// Each purge costs a state record, which would fill the log that it is to make room in.
#[test]
fn l4_what_may_go_little_by_little_is_purged_in_larger_steps() {
    let mut rig = with_room(u64::MAX, small_window());
    let mut next = 1;
    outlive_keys(&mut rig, &mut next);
    fill_to(&mut rig, 80);
    // The key window keeps most of it, and lets go of a record a second.
    for _ in 0..60 {
        rig.pass(SECOND);
        rig.plain(A, next, "late");
        rig.up(B, 1, Vec::new());
        rig.settle();
        rig.look().unwrap();
        next += 1;
    }
    let purges = rig.owner.upkeep().purges();
    assert!((1..=4).contains(&purges), "{purges}");
    assert!(rig.log.first > 20);
}

#[test]
fn l4_a_purge_that_cannot_read_what_goes_does_not_purge() {
    let mut rig = with_room(u64::MAX, small_window());
    say(&mut rig, 1, 200, in_a);
    let mut next = 201;
    outlive_keys(&mut rig, &mut next);
    fill_to(&mut rig, 80);
    // A state record first.
    rig.pass(Duration::from_millis(250));
    assert!(is_state(&rig.store()));
    for _ in 0..3 {
        rig.pass(Duration::from_millis(250));
        rig.read_fails();
        assert!(rig.seen.append.is_none());
    }
    assert_eq!((rig.log.first, rig.seen.purge), (1, None));
    upkeep(&mut rig);
    assert!(rig.log.first > 1);
}

#[test]
fn a_log_that_cannot_be_read_is_not_read_again_at_once() {
    let mut rig = Rig::with(small_window());
    rig.open(A, 1, &[]);
    say(&mut rig, 1, 10, in_a);
    let mut new = rig.successor();
    new.owner.set_window_bytes(0);
    new.pass(Duration::from_millis(250));
    let is = new.owner.is;
    new.owner
        .owner_beat(is.shard, is.router, (is.log_epoch.ordinal, is.owner_epoch.0));
    new.flush();
    for (_, frame) in std::mem::take(&mut new.seen.derive) {
        new.owner.derive(frame, &mut new.seen);
    }
    for (_, frame) in std::mem::take(&mut new.seen.derivation) {
        new.owner.derivation(&frame);
    }
    new.flush();
    assert!(
        new.seen.read.is_some(),
        "what was said before is read for the target"
    );
    new.read_fails();
    assert_eq!(new.seen.read, None);
    new.pass(Duration::from_millis(250));
    assert!(new.seen.read.is_some());
    new.settle();
    new.pass(Duration::from_millis(250));
    assert_eq!(new.owner.deriver().pending(), 0);
}

/// Waits for readers.
fn with_readers() -> Limits {
    let mut limits = small_window();
    limits.upkeep.readers = true;
    limits
}

/// A full log whose records nothing needs but, perhaps, readers.
fn full_of_old(limits: Limits) -> Rig {
    let mut rig = with_room(u64::MAX, limits);
    say(&mut rig, 1, 200, in_a);
    let mut next = 201;
    outlive_keys(&mut rig, &mut next);
    assert!(!rig.owner.upkeep().readers().is_asking(), "not before it matters");
    fill_to(&mut rig, 80);
    upkeep(&mut rig);
    rig
}

fn reader(name: &str) -> ReaderName {
    ReaderName::new(name).unwrap()
}

fn told(rig: &mut Rig, readers: &[(&str, Option<(LogEpoch, u64)>)]) {
    let told: Vec<ReaderAt> = readers
        .iter()
        .map(|(name, position)| ReaderAt {
            reader: reader(name),
            position: position.map(|(epoch, up_to)| ReaderPosition {
                epoch,
                up_to: Sequence(up_to),
            }),
        })
        .collect();
    rig.owner.readers(&told);
    upkeep(rig);
}

fn holding(rig: &Rig) -> Vec<String> {
    let holding = rig.owner.upkeep().readers().holding();
    holding.map(|(reader, _)| reader.to_string()).collect()
}

#[test]
fn l4_readers_keep_what_they_are_not_done_with() {
    let mut rig = full_of_old(with_readers());
    assert!(rig.owner.upkeep().readers().is_asking());
    assert_eq!(rig.log.first, 1, "nobody has told yet how far the readers are");
    let end = rig.log.last().0;
    for unknown in [
        None,
        Some((
            LogEpoch {
                ordinal: 1,
                random: 8,
            },
            end,
        )),
        Some((
            LogEpoch {
                ordinal: 2,
                random: 7,
            },
            end,
        )),
        Some((LOG, 0)),
    ] {
        told(&mut rig, &[("fast", Some((LOG, end))), ("slow", unknown)]);
        assert_eq!(rig.log.first, 1, "{unknown:?}");
        assert_eq!(holding(&rig), ["slow"], "{unknown:?}");
    }
    let lags: Vec<_> = rig
        .owner
        .upkeep()
        .readers()
        .lags(Sequence(end))
        .map(|(reader, lag)| (reader.to_string(), lag))
        .collect();
    assert_eq!(lags, [("fast".to_owned(), 0), ("slow".to_owned(), end)]);
    // It goes on, and what it is done with goes.
    told(&mut rig, &[("fast", Some((LOG, end))), ("slow", Some((LOG, 70)))]);
    assert_eq!(rig.log.first, 71);
    assert_eq!(rig.owner.upkeep().purges(), 1);
    assert_eq!(holding(&rig), Vec::<String>::new());
    rig.look().unwrap();
    rig.look().unwrap();
    assert!(rig.owner.upkeep().fill() < 75);
    upkeep(&mut rig);
    assert!(!rig.owner.upkeep().readers().is_asking(), "there is room again");
    // What was told is old, and keeps what it kept.
    fill_to(&mut rig, 80);
    upkeep(&mut rig);
    assert_eq!((rig.log.first, holding(&rig)), (71, vec!["slow".to_owned()]));
    // A reader may be ahead of the owner.
    told(
        &mut rig,
        &[("fast", Some((LOG, end + 5))), ("slow", Some((LOG, end + 9)))],
    );
    assert!(rig.log.first > 100, "{}", rig.log.first);
}

#[test]
fn l4_a_reader_that_is_done_does_not_free_what_else_is_needed() {
    let mut limits = with_readers();
    limits.memory.window.bytes = 1 << 20;
    let mut rig = full_of_old(limits);
    let end = rig.log.last().0;
    told(&mut rig, &[("fast", Some((LOG, end)))]);
    assert_eq!(rig.log.first, 1, "the window keeps it");
    assert_eq!(
        holding(&rig),
        Vec::<String>::new(),
        "and it is not the reader's fault"
    );
}

#[test]
fn l3_a_log_full_because_of_a_reader_refuses_and_forgets_nothing() {
    let mut rig = full_of_old(with_readers());
    told(&mut rig, &[("slow", Some((LOG, 3)))]);
    fill_to(&mut rig, 92);
    let end = rig.log.last().0;
    rig.plain(A, 10_000, "a");
    assert_eq!(rig.answers(A), [(10_000, Told::Refused(100))]);
    for _ in 0..20 {
        upkeep(&mut rig);
        rig.look().unwrap();
        rig.up(A, 1, Vec::new());
    }
    assert_eq!(rig.log.first, 1);
    assert_eq!(holding(&rig), ["slow"]);
    told(&mut rig, &[("slow", Some((LOG, end)))]);
    rig.look().unwrap();
    assert!(rig.log.first > 100, "{}", rig.log.first);
    rig.plain(A, 10_001, "a");
    rig.store_all();
    assert!(matches!(rig.answers(A).as_slice(), [(_, Told::Stored(_))]));
}
