//! Edits and deletions: what the window, the log and every successor show is what the log says.

use proptest::prelude::*;
use switchboard_bus::fold;
use switchboard_proto::bus::{Change, Delete, Edit, MessageAt, Origin, PayloadKind, React, change};

use super::*;
use RecoveredOutcome::Lost;

/// What is said in a script: to the message at the record `of`, in the order of the log.
#[derive(Debug, Clone, Copy)]
enum Step {
    Say,
    Edit(u64),
    Delete(u64),
    React(u64),
    /// A message, or a change of one, that was derived for an inbox.
    Entry,
    EditEntry(u64),
    DeleteEntry(u64),
}

fn changing(number: u64, what: change::What) -> Message {
    Message {
        kind: PayloadKind::Json.into(),
        change: Some(Change { what: Some(what) }),
        ..message("a", &format!("\"secret {number}\""), "")
    }
}

fn target(of: u64) -> Option<MessageAt> {
    Some(MessageAt {
        offset: at(of, 0),
        log_epoch: LOG.to_string(),
        id: message("a", &format!("\"secret {of}\""), "").id,
    })
}

/// What is stored at record `number`.
fn made(step: Step, number: u64) -> Message {
    let entry = |message: Message| Message {
        channel: "#bob".to_owned(),
        origin: Some(Origin {
            channel: "dm:#alice,bob".to_owned(),
            hops: 1,
        }),
        ..message
    };
    let said = Message {
        kind: PayloadKind::Json.into(),
        ..message("a", &format!("\"secret {number}\""), "")
    };
    let edit = |of| changing(number, change::What::Edit(Edit { target: target(of) }));
    let delete = |of| Message {
        payload: Bytes::from_static(b"null"),
        ..changing(number, change::What::Delete(Delete { target: target(of) }))
    };
    match step {
        Step::Say => said,
        Step::Edit(of) => edit(of),
        Step::Delete(of) => delete(of),
        Step::React(of) => changing(
            number,
            change::What::React(React {
                target: target(of),
                reaction: "👍".to_owned(),
                remove: false,
            }),
        ),
        Step::Entry => entry(said),
        Step::EditEntry(of) => entry(edit(of)),
        Step::DeleteEntry(of) => entry(delete(of)),
    }
}

/// Stores the messages, one in each record from 3 on, as they come: whether the owner refuses a change of what is deleted is
/// another test's.
fn store(rig: &mut Rig, messages: &[Message]) {
    for message in messages {
        let mut queued = Queued {
            source: Source::Gateway {
                gateway: A,
                open: 1,
                series: Series::Plain,
                number: 1_000_000 + rig.log.last().0,
            },
            channel: message.channel.as_str().into(),
            change: None,
            id: message.id.clone(),
            message: message.encode_to_vec().into(),
            key: None,
        };
        queued.change = super::super::changing(message, LOG);
        rig.owner.queue_bytes += queued.message.len();
        rig.owner.queue.push_back(queued);
        rig.flush();
        rig.store_all();
    }
}

fn in_window(rig: &Rig) -> Vec<(Offset, Message)> {
    let window = &rig.owner.memory.window;
    let kept = window.since(window.start());
    kept.map(|(offset, kept)| (offset, Message::decode(kept.message.clone()).unwrap()))
        .collect()
}

fn step() -> impl Strategy<Value = Step> {
    let of = 3_u64..20;
    prop_oneof![
        3 => Just(Step::Say),
        2 => of.clone().prop_map(Step::Edit),
        2 => of.clone().prop_map(Step::Delete),
        1 => of.clone().prop_map(Step::React),
        2 => Just(Step::Entry),
        1 => of.clone().prop_map(Step::EditEntry),
        1 => of.prop_map(Step::DeleteEntry),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever owns the shard, and wherever the window begins.
    #[test]
    fn windows_show_what_the_log_says(steps in prop::collection::vec(step(), 1..30), bytes in 200_usize..6000) {
        let mut limits = LIMITS;
        limits.memory.window.bytes = bytes;
        let mut rig = Rig::with(limits);
        let mut in_log: Vec<(Offset, Message)> = Vec::new();
        for (number, step) in (3..).zip(&steps) {
            // Changes of what is no message, or is to come, are not asked for.
            let kind = |of: u64| of.checked_sub(3).and_then(|of| steps.get(of as usize)).copied();
            let step = match *step {
                Step::Edit(of) | Step::Delete(of) | Step::React(of)
                    if of >= number || !matches!(kind(of), Some(Step::Say)) => Step::React(of),
                Step::EditEntry(of) | Step::DeleteEntry(of)
                    if of >= number || !matches!(kind(of), Some(Step::Entry)) => Step::React(of),
                step => step,
            };
            in_log.push((Offset::new(Sequence(number), 0), made(step, number)));
        }
        let messages: Vec<Message> = in_log.iter().map(|(_, message)| message.clone()).collect();
        store(&mut rig, &messages);
        let folded = fold::folded_log(LOG, &in_log);
        let behind = |start: Offset| -> Vec<(Offset, Message)> {
            folded.iter().filter(|(offset, _)| *offset > start).cloned().collect()
        };
        prop_assert_eq!(in_window(&rig), behind(rig.owner.memory.window.start()));
        // Also one that takes over from the middle, and one that begins with the last state record.
        for from in [1, 3 + steps.len() as u64 / 2, rig.log.last().0] {
            let successor = rig.successor_from(from);
            let window = &successor.owner.memory.window;
            prop_assert_eq!(in_window(&successor), behind(window.start()));
        }
        // What is read from the log shows no content that is deleted, edits of it included.
        let (owner, successor) = (&rig.owner, rig.successor_from(rig.log.last().0));
        for deleted in [&owner.memory.deleted, &successor.owner.memory.deleted] {
            for ((offset, message), (_, folded)) in in_log.iter().zip(&folded) {
                let shown = deleted.shown(*offset, message.encode_to_vec().into());
                let shown = Message::decode(shown).unwrap();
                prop_assert_eq!(fold::is_deleted(&shown), fold::is_deleted(folded), "{}", offset);
                if fold::is_deleted(folded) {
                    prop_assert_eq!(&shown, folded);
                }
            }
        }
    }
}

/// Messages of records 3 to 12, of which the window holds the last few; 4 was edited, then deleted.
fn with_a_deletion(limits: Limits) -> Rig {
    let mut limits = limits;
    limits.memory.window.bytes = 3 * 190;
    let mut rig = Rig::with(limits);
    rig.open(B, 1, &[]);
    let steps = [
        Step::Say,
        Step::Say,
        Step::Edit(4),
        Step::Say,
        Step::Delete(4),
        Step::Say,
        Step::Say,
        Step::Say,
        Step::Say,
        Step::Say,
    ];
    let messages: Vec<Message> = (3..)
        .zip(steps)
        .map(|(number, step)| made(step, number))
        .collect();
    store(&mut rig, &messages);
    assert!(rig.owner.memory.window.start() > Offset::new(Sequence(7), 0));
    rig
}

#[test]
fn recoveries_out_of_the_log_show_nothing_that_is_deleted() {
    let mut rig = with_a_deletion(LIMITS);
    let mut heir = rig.successor_from(1);
    heir.open(B, 1, &[]);
    for rig in [&mut rig, &mut heir] {
        rig.recover(B, 1, "a", end(2));
        rig.settle();
        let recovered = rig.recovered(B);
        let texts = &recovered[0].3;
        assert_eq!(texts.len(), 10);
        let expected = ["\"secret 3\"", "null", "null", "\"secret 6\"", "null"];
        assert_eq!(texts[..5], expected);
    }
}

#[test]
fn a_deletion_that_comes_while_the_log_is_read_is_heeded() {
    let mut rig = with_a_deletion(LIMITS);
    rig.recover(B, 1, "a", end(2));
    assert!(rig.seen.read.is_some());
    rig.read();
    store(&mut rig, &[made(Step::Delete(3), 13)]);
    rig.settle();
    assert_eq!(rig.recovered(B)[0].3[..3], ["null", "null", "null"]);
}

#[test]
fn who_would_be_shown_what_there_is_no_mark_for_is_told_of_a_loss() {
    let mut limits = LIMITS;
    limits.memory.deleted = 1;
    let mut rig = with_a_deletion(limits);
    store(&mut rig, &[made(Step::Delete(6), 13)]);
    rig.recover(B, 1, "a", end(2));
    rig.recover(B, 2, "a", at(7, 0));
    rig.settle();
    let recovered = rig.recovered(B);
    assert_eq!(
        (recovered[0].0, recovered[0].1, recovered[0].2),
        (1, Lost, at(7, 0))
    );
    assert_eq!(
        (recovered[1].0, recovered[1].3.len()),
        (2, 6),
        "what is behind it is shown"
    );
}

#[test]
fn a_change_of_what_is_deleted_is_refused_but_not_its_repetition() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.plain(A, 1, "a");
    rig.store_all();
    let delete = Message {
        key: "k".to_owned(),
        ..made(Step::Delete(3), 4)
    };
    rig.up(A, 1, vec![publish(Series::Keyed, 1, &delete, false)]);
    rig.store_all();
    rig.up(
        A,
        1,
        vec![publish(Series::Plain, 2, &made(Step::Edit(3), 5), false)],
    );
    rig.up(A, 1, vec![publish(Series::Keyed, 2, &delete, false)]);
    assert_eq!(
        rig.answers(A),
        [
            (1, Told::Stored(at(3, 0))),
            (1, Told::Stored(at(4, 0))),
            (2, Told::Refused(ErrorCode::BadRequest.code())),
            (2, Told::Duplicate(at(4, 0))),
        ]
    );
    assert!(rig.seen.append.is_none());
}

#[test]
fn what_is_purged_needs_no_mark() {
    let mut rig = with_a_deletion(LIMITS);
    rig.owner.memory.removed.purged_before = Sequence(7);
    rig.log.first = 7;
    rig.look().unwrap();
    rig.pass(SECOND);
    assert_eq!(rig.owner.memory.deleted.len(), 1, "the deletion itself is there");
    rig.owner.memory.removed.purged_before = Sequence(8);
    rig.log.first = 8;
    rig.look().unwrap();
    rig.pass(SECOND);
    assert_eq!(rig.owner.memory.deleted.len(), 0);
}
