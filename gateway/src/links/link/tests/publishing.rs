//! Publishing: P1, P3, P4, and the bounds.

use super::*;

fn publishes(frames: &[Up]) -> Vec<(Series, u64, bool)> {
    items(frames)
        .into_iter()
        .filter_map(|item| match item {
            up_item::Item::Publish(publish) => Some((publish.series(), publish.number, publish.again)),
            _ => None,
        })
        .collect()
}

#[test]
fn p1_both_series_are_numbered_and_answered_by_series_and_number() {
    let mut rig = Rig::up();
    rig.publish_in(Series::Plain, 1, 7, b"m");
    rig.publish_in(Series::Keyed, 2, 7, b"m");
    rig.publish_in(Series::Plain, 1, 8, b"m");
    let frames = rig.frames();
    let expected = [
        (Series::Plain, 1, false),
        (Series::Keyed, 1, false),
        (Series::Plain, 2, false),
    ];
    assert_eq!(publishes(&frames), expected);
    let refused = refusal(ErrorCode::TooManyRequests);
    rig.answer(Series::Plain, 2, answer::Outcome::Offset(64));
    rig.answer(Series::Keyed, 1, answer::Outcome::Unknown(Unknown {}));
    rig.answer(Series::Plain, 1, answer::Outcome::Refused(refused));
    let told = [
        answered(1, 8, Ok(64)),
        answered(2, 7, Err(100)),
        answered(1, 7, Err(111)),
    ];
    assert_eq!(rig.told(), told);
    // Once.
    rig.answer(Series::Plain, 2, answer::Outcome::Offset(64));
    rig.answer(Series::Keyed, 2, answer::Outcome::Offset(65));
    assert_eq!(rig.told(), []);
}

#[test]
fn p1_a_repeat_is_answered_with_the_message_that_was_stored_first() {
    let mut rig = Rig::up();
    rig.publish_in(Series::Keyed, 1, 7, b"m");
    rig.frames();
    rig.down(vec![down_item::Item::Answer(Answer {
        series: Series::Keyed.into(),
        number: 1,
        outcome: Some(answer::Outcome::Offset(33)),
        duplicate_of: Bytes::from_static(b"first"),
    })]);
    let stored = Stored {
        offset: Offset::from_u64(33),
        log_epoch: LOG.to_owned(),
        duplicate_of: Bytes::from_static(b"first"),
    };
    assert_eq!(rig.seen.stored, [stored]);
}

#[test]
fn p1_what_is_not_answered_is_sent_again_in_order_with_its_number() {
    let mut rig = Rig::up();
    rig.publish_in(Series::Plain, 1, 1, b"m");
    rig.publish_in(Series::Keyed, 1, 2, b"m");
    rig.publish_in(Series::Plain, 1, 3, b"m");
    rig.frames();
    rig.answer(Series::Plain, 1, answer::Outcome::Offset(51));
    rig.told();
    rig.owner(6);
    rig.publish_in(Series::Plain, 1, 4, b"m");
    assert_eq!(publishes(&rig.frames()), [], "not before the owner answers");
    rig.opened(60);
    let expected = [
        (Series::Plain, 2, true),
        // Never sent before, so certainly not stored.
        (Series::Plain, 3, false),
        (Series::Keyed, 1, true),
    ];
    assert_eq!(publishes(&rig.frames()), expected);
    rig.publish_in(Series::Plain, 1, 5, b"m");
    assert_eq!(publishes(&rig.frames()), [(Series::Plain, 4, false)]);
    assert_eq!(rig.told(), []);
    rig.owner(7);
    rig.opened(60);
    let expected = [
        (Series::Plain, 2, true),
        (Series::Plain, 3, true),
        (Series::Plain, 4, true),
        (Series::Keyed, 1, true),
    ];
    assert_eq!(publishes(&rig.frames()), expected);
    for number in 2..=4 {
        rig.answer(Series::Plain, number, answer::Outcome::Offset(60 + number));
    }
    rig.answer(Series::Keyed, 1, answer::Outcome::Offset(70));
    let told = [
        answered(1, 3, Ok(62)),
        answered(1, 4, Ok(63)),
        answered(1, 5, Ok(64)),
        answered(1, 2, Ok(70)),
    ];
    assert_eq!(rig.told(), told);
}

#[test]
fn p1_a_publish_waits_for_an_owner_and_is_sent_once() {
    let mut rig = Rig::new();
    rig.publish(1, 7);
    rig.owner(5);
    assert_eq!(publishes(&rig.frames()), []);
    rig.opened(50);
    assert_eq!(publishes(&rig.frames()), [(Series::Plain, 1, false)]);
    rig.tick(SECOND);
    assert_eq!(publishes(&rig.frames()), []);
}

#[test]
fn p2_frames_say_which_numbers_are_still_open() {
    let mut rig = Rig::up();
    rig.publish_in(Series::Plain, 1, 1, b"m");
    rig.publish_in(Series::Plain, 1, 2, b"m");
    rig.publish_in(Series::Keyed, 1, 3, b"m");
    let open = |frames: &[Up]| {
        let frame = frames.last().unwrap();
        (frame.open_plain, frame.open_keyed)
    };
    assert_eq!(open(&rig.frames()), (1, 1));
    rig.answer(Series::Plain, 2, answer::Outcome::Offset(52));
    rig.tick(SECOND);
    assert_eq!(open(&rig.frames()), (1, 1), "the first is not answered");
    rig.answer(Series::Plain, 1, answer::Outcome::Offset(51));
    rig.tick(SECOND);
    assert_eq!(open(&rig.frames()), (3, 1));
    rig.tick(SECOND);
    rig.down(vec![]);
    rig.tick(SECOND);
    assert_eq!(open(&rig.frames()), (3, 2), "given up at its deadline");
}

#[test]
fn p3_an_opening_names_the_position_at_which_the_oldest_was_first_sent() {
    let mut rig = Rig::live();
    rig.publish(1, 1);
    rig.deliver(50, 60, &[]);
    rig.publish_in(Series::Keyed, 1, 2, b"m");
    rig.deliver(60, 70, &[]);
    rig.frames();
    rig.owner(6);
    let opening = |since| [open(Some(position(5, 70)), &["a"], since)];
    assert_eq!(rig.items(), opening(Some(position(5, 50))));
    // Sent again: the first time counts.
    rig.opened(70);
    rig.frames();
    rig.answer(Series::Plain, 1, answer::Outcome::Offset(55));
    rig.link.disruption(rig.now, &mut rig.seen);
    let expected = open(Some(position(6, 70)), &["a"], Some(position(5, 60)));
    assert_eq!(rig.items(), [expected]);
    rig.opened(70);
    rig.answer(Series::Keyed, 1, answer::Outcome::Offset(65));
    rig.frames();
    // Never sent: nothing of it can be stored.
    rig.owner_of(1, 6, true);
    rig.publish(1, 3);
    rig.owner(7);
    assert_eq!(rig.items(), [open(Some(position(6, 70)), &["a"], None)]);
    rig.opened(80);
    rig.frames();
    rig.owner(8);
    let expected = open(Some(position(7, 80)), &["a"], Some(position(7, 80)));
    assert_eq!(rig.items(), [expected], "sent at the first answer");
}

#[test]
fn p4_a_publish_is_answered_at_its_deadline_whatever_it_waits_for_and_not_twice() {
    // Without an owner, while the link opens, and while the owner is silent about it.
    for state in 0..3 {
        for series in [Series::Plain, Series::Keyed] {
            let mut rig = if state == 2 { Rig::up() } else { Rig::new() };
            if state == 1 {
                rig.owner(5);
            }
            rig.publish_in(series, 1, 7, b"m");
            rig.frames();
            rig.tick(ANSWER / 2);
            if state == 2 {
                rig.down(vec![]);
            }
            rig.tick(ANSWER / 2 - Duration::from_millis(1));
            assert_eq!(rig.told(), [], "state {state}");
            rig.tick(Duration::from_millis(1));
            assert_eq!(rig.told(), [answered(1, 7, Err(100))], "state {state}");
            if state == 2 {
                rig.answer(series, 1, answer::Outcome::Offset(64));
            } else {
                rig.owner(6);
                rig.opened(50);
            }
            rig.tick(ANSWER);
            assert_eq!(rig.told(), [], "state {state}");
            assert_eq!(publishes(&rig.frames()), [], "state {state}: not sent after all");
            assert_eq!((rig.link.unanswered_count(), rig.link.publishes.bytes()), (0, 0));
        }
    }
}

/// Commands wait for different times before the link sees them.
#[test]
fn p4_deadlines_hold_out_of_order() {
    let mut rig = Rig::up();
    for (id, seconds) in [(1, 3), (2, 1), (3, 2)] {
        let publish = PublishAsked {
            publisher: rig.session(1),
            id,
            series: Series::Plain,
            message: Bytes::from_static(b"m"),
            deadline: rig.now + SECOND * seconds,
        };
        rig.link.publish(publish, rig.now, &mut rig.seen);
    }
    rig.tick(SECOND);
    assert_eq!(rig.told(), [answered(1, 2, Err(100))]);
    rig.answer(Series::Plain, 3, answer::Outcome::Offset(64));
    assert_eq!(rig.told(), [answered(1, 3, Ok(64))]);
    rig.tick(SECOND * 2);
    assert_eq!(rig.told(), [answered(1, 1, Err(100))]);
}

#[test]
fn p4_what_is_over_its_time_is_not_sent_in_a_new_opening() {
    let mut rig = Rig::new();
    rig.publish(1, 7);
    rig.now += ANSWER;
    rig.owner(5);
    rig.opened(50);
    assert_eq!(publishes(&rig.frames()), [], "also without a tick in between");
    assert_eq!(rig.told(), [answered(1, 7, Err(100))]);
}

#[test]
fn too_many_unanswered_publishes_are_refused_for_the_time_being() {
    let mut rig = Rig::up();
    for (id, series) in [
        (0, Series::Plain),
        (1, Series::Keyed),
        (2, Series::Plain),
        (3, Series::Keyed),
    ] {
        rig.publish_in(series, 1, id, b"m");
    }
    assert_eq!(rig.told(), []);
    rig.publish(1, 4);
    assert_eq!(rig.told(), [answered(1, 4, Err(111))]);
    rig.answer(Series::Keyed, 1, answer::Outcome::Offset(64));
    rig.told();
    rig.publish(1, 5);
    assert_eq!(rig.told(), [], "there is room again");
    let numbers: Vec<u64> = publishes(&rig.frames()).into_iter().map(|sent| sent.1).collect();
    assert_eq!(numbers, [1, 1, 2, 2, 3], "a refused one takes no number");
}

#[test]
fn too_many_unanswered_bytes_are_refused_for_the_time_being() {
    const SIXTY: &[u8] = &[b'm'; 60];
    let mut rig = Rig::up();
    rig.publish_in(Series::Plain, 1, 1, SIXTY);
    rig.publish_in(Series::Keyed, 1, 2, SIXTY);
    assert_eq!(rig.told(), [answered(1, 2, Err(111))]);
    rig.publish_in(Series::Keyed, 1, 3, b"small");
    assert_eq!(rig.told(), []);
    // What is given up makes room, too.
    rig.tick(ANSWER);
    rig.told();
    rig.publish_in(Series::Plain, 1, 4, SIXTY);
    assert_eq!(rig.told(), []);
}
