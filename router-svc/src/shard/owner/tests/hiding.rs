//! What a backend removed from a channel's history: hidden once it is stored, from everybody, by every owner.

use super::recovery::{say, texts};
use super::*;
use RecoveredOutcome::{Complete, Lost};
use switchboard_proto::bus::HideHistory;

/// A rig with messages 1 to `count` in channel `a`, one in each record from 3 on, of which the window holds about the
/// last three.
fn with_messages(count: u64, limits: Limits) -> Rig {
    let mut limits = limits;
    limits.memory.window.bytes = 3 * 160;
    let mut rig = Rig::with(limits);
    rig.open(A, 1, &[]);
    rig.open(B, 1, &[]);
    say(&mut rig, 1, count);
    rig
}

fn hide(rig: &mut Rig, channel: &str, up_to: u64, to: &str) -> Option<HistoryOutcome> {
    let hide = HideHistory {
        up_to,
        log_epoch: LOG.to_string(),
    };
    let answered = rig.owner.hide(channel.to_owned(), &hide, to.to_owned());
    rig.flush();
    answered
}

fn answered(rig: &mut Rig) -> Vec<(String, HistoryOutcome)> {
    std::mem::take(&mut rig.seen.hidden)
}

/// How many messages history gives where the window is all that is needed, or that it needs the log.
fn history(rig: &Rig, channel: &str) -> Option<usize> {
    let question = HistoryQuestion {
        channel: channel.to_owned(),
        limit: 100,
        bytes: 1 << 20,
        ..HistoryQuestion::default()
    };
    match rig.owner.history(question) {
        Begun::Answered(answer) => Some(answer.messages.len()),
        Begun::NeedsMore(_) => None,
    }
}

#[test]
fn it_holds_once_it_is_stored_and_then_who_left_off_below_it_is_told_so() {
    let mut rig = with_messages(10, LIMITS);
    let head = at(12, 0);
    assert_eq!(hide(&mut rig, "a", head, "caller"), None);
    assert_eq!(answered(&mut rig), [], "not yet stored");
    rig.recover(B, 1, "a", end(11));
    assert_eq!(rig.recovered(B), [(1, Complete, end(12), texts(10, 10), false)]);
    let record = rig.store();
    assert!(is_state(&record));
    assert_eq!(
        answered(&mut rig),
        [("caller".to_owned(), HistoryOutcome::Hidden)]
    );
    // In the window, and far behind it: nothing has to be read for it.
    rig.recover(B, 2, "a", end(11));
    rig.recover(B, 3, "a", at(4, 0));
    rig.recover(B, 4, "a", head);
    assert_eq!(rig.seen.read, None);
    assert_eq!(
        rig.recovered(B),
        [
            (2, Lost, head, vec![], false),
            (3, Lost, head, vec![], false),
            (4, Complete, end(13), vec![], false),
        ]
    );
    assert_eq!(history(&rig, "a"), Some(0));
    // What is said from now on is there as ever.
    say(&mut rig, 11, 12);
    rig.recover(B, 5, "a", head);
    rig.recover(B, 6, "a", end(11));
    assert_eq!(
        rig.recovered(B),
        [
            (5, Complete, end(15), texts(11, 12), false),
            (6, Lost, head, vec![], false),
        ]
    );
    assert_eq!(history(&rig, "a"), Some(2));
}

#[test]
fn who_waits_for_the_log_is_told_as_well() {
    let mut rig = with_messages(10, LIMITS);
    rig.recover(B, 1, "a", at(4, 0));
    rig.recover(B, 2, "a", at(6, 0));
    assert!(rig.seen.read.is_some(), "it is being read");
    assert_eq!(hide(&mut rig, "a", at(6, 0), "caller"), None);
    rig.store();
    assert_eq!(rig.recovered(B), [(1, Lost, at(6, 0), vec![], false)]);
    rig.settle();
    assert_eq!(rig.recovered(B), [(2, Complete, end(13), texts(5, 10), false)]);
}

#[test]
fn a_repetition_is_answered_without_another_record() {
    let mut rig = with_messages(3, LIMITS);
    hide(&mut rig, "a", at(5, 0), "first");
    rig.store();
    answered(&mut rig);
    for up_to in [at(5, 0), at(4, 0), 0] {
        assert_eq!(hide(&mut rig, "a", up_to, "again"), Some(HistoryOutcome::Hidden));
    }
    assert!(rig.seen.append.is_none());
    assert_eq!(answered(&mut rig), []);
}

#[test]
fn a_question_about_another_log_or_of_what_is_not_there_hides_nothing() {
    let mut rig = with_messages(3, LIMITS);
    let other = HideHistory {
        up_to: at(5, 0),
        log_epoch: "2-00000007".to_owned(),
    };
    let unavailable = Some(HistoryOutcome::Unavailable);
    assert_eq!(
        rig.owner.hide("a".to_owned(), &other, "caller".to_owned()),
        unavailable
    );
    assert_eq!(
        hide(&mut rig, "a", at(6, 0), "caller"),
        unavailable,
        "beyond our position"
    );
    assert_eq!(rig.owner.memory().hidden.up_to("a"), Offset::ZERO);
}

#[test]
fn l6_new_owners_know_it_however_much_was_written_since() {
    let mut rig = with_messages(4, LIMITS);
    hide(&mut rig, "a", at(6, 0), "caller");
    rig.store();
    // Read from the state record on, or from the beginning: the next state record has it again.
    let mut rig = rig.successor();
    for _ in 0..2 {
        rig = rig.successor();
        let mark = rig.log.state().hidden;
        assert_eq!(mark.len(), 1);
        assert_eq!((mark[0].channel.as_str(), mark[0].up_to), ("a", at(6, 0)));
        rig.open(C, 1, &[]);
        rig.recover(C, 1, "a", at(5, 0));
        assert_eq!(rig.recovered(C), [(1, Lost, at(6, 0), vec![], false)]);
        rig.recover(C, 2, "a", at(6, 0));
        rig.settle();
        let [(2, Complete, _, messages, false)] = &rig.recovered(C)[..] else {
            panic!("not recovered")
        };
        assert!(messages.is_empty());
    }
}

#[test]
fn one_that_was_not_stored_leaves_no_mark() {
    let mut rig = with_messages(3, LIMITS);
    hide(&mut rig, "a", at(5, 0), "caller");
    rig.refuse();
    assert_eq!(
        answered(&mut rig),
        [("caller".to_owned(), HistoryOutcome::Unavailable)]
    );
    assert_eq!(rig.owner.memory().hidden.up_to("a"), Offset::ZERO);
}

#[test]
fn where_there_is_no_room_it_is_refused_and_the_others_hold() {
    let mut limits = LIMITS;
    limits.memory.hidden = 2 * (1 + crate::shard::memory::MARK);
    let mut rig = with_messages(3, limits);
    for channel in ["a", "b", "c"] {
        let to = format!("{channel}'s");
        let hide = HideHistory {
            up_to: at(5, 0),
            log_epoch: LOG.to_string(),
        };
        assert_eq!(rig.owner.hide(channel.to_owned(), &hide, to), None);
    }
    rig.flush();
    assert_eq!(answered(&mut rig), [("c's".to_owned(), HistoryOutcome::NoRoom)]);
    rig.store();
    assert_eq!(
        answered(&mut rig),
        ["a's", "b's"].map(|to| (to.to_owned(), HistoryOutcome::Hidden))
    );
    assert_eq!(rig.log.state().hidden.len(), 2);
}

#[test]
fn publishes_go_on_between_calls_however_many_come() {
    let mut rig = with_messages(1, LIMITS);
    hide(&mut rig, "b", at(3, 0), "first");
    rig.plain(A, 2, "a");
    hide(&mut rig, "c", at(3, 0), "second");
    let kinds: Vec<bool> = (0..3).map(|_| is_state(&rig.store())).collect();
    assert_eq!(kinds, [true, false, true]);
}

#[test]
fn a_mark_goes_with_the_last_message_that_it_hides_and_the_record_that_had_it_first() {
    let mut rig = with_messages(6, LIMITS);
    hide(&mut rig, "a", at(6, 0), "caller");
    rig.store();
    say(&mut rig, 7, 8);
    let marks = |rig: &Rig| rig.owner.memory().hidden.marks().len();
    for (first, expected) in [(6, 1), (7, 1), (9, 1), (10, 0)] {
        for sequence in rig.log.first..first {
            let offset = Offset::new(Sequence(sequence), 0);
            if matches!(rig.log.record(sequence).body, Some(record::Body::Batch(_))) {
                rig.owner.memory.removed.note("a", offset);
            }
        }
        rig.owner.memory.removed.purged_before = Sequence(first);
        rig.pass(Duration::from_millis(250));
        assert_eq!(marks(&rig), 1, "the leader has not said yet that they are gone");
        rig.log.first = first;
        rig.look().unwrap();
        rig.pass(Duration::from_millis(250));
        assert_eq!(marks(&rig), expected);
    }
    rig.recover(B, 1, "a", at(5, 0));
    assert_eq!(rig.recovered(B), [(1, Lost, at(8, 0), vec![], false)]);
}
