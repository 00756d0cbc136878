//! Interest, subscribing and unsubscribing: K4, K5, R3, R4, P4.

use super::*;

#[test]
fn k4_a_subscriber_waits_for_its_interest_and_gets_all_behind_its_offset() {
    let mut rig = Rig::up();
    rig.subscribe(1, 7, "a");
    let frames = rig.frames();
    assert_eq!(items(&frames), [interest(&["a"], &[])]);
    // Stored before the owner knew of the interest, so it is not for this subscriber.
    assert_eq!(rig.deliver(50, 60, &[]), None);
    assert_eq!(rig.told(), []);
    rig.in_force(frames[0].number, &[30]);
    assert_eq!(rig.told(), [subscribed(1, 7, "a", 60)]);
    rig.deliver(60, 70, &[(61, "a"), (62, "b"), (63, "a")]);
    assert_eq!(rig.told(), [message(1, 61), message(1, 63)]);
}

#[test]
fn k4_interest_in_force_up_to_a_frame_answers_no_later_one() {
    let mut rig = Rig::up();
    rig.subscribe(1, 7, "a");
    let first = rig.frames()[0].number;
    rig.subscribe(1, 8, "b");
    let second = rig.frames()[0].number;
    rig.in_force(first, &[0]);
    assert_eq!(rig.told(), [subscribed(1, 7, "a", 50)]);
    rig.in_force(second, &[0]);
    assert_eq!(rig.told(), [subscribed(1, 8, "b", 50)]);
}

#[test]
fn k4_the_second_subscriber_of_a_channel_is_answered_at_once_and_starts_there() {
    let mut rig = Rig::live();
    rig.deliver(50, 60, &[(55, "a")]);
    rig.told();
    rig.subscribe(2, 8, "a");
    assert_eq!(rig.told(), [subscribed(2, 8, "a", 60)]);
    assert_eq!(rig.frames(), [], "the owner knows already");
    rig.deliver(60, 70, &[(65, "a")]);
    assert_eq!(rig.told(), [message(1, 65), message(2, 65)]);
}

#[test]
fn k5_a_channel_dropped_and_asked_for_again_waits_for_the_later_answer() {
    let mut rig = Rig::up();
    rig.subscribe(1, 7, "a");
    let first = rig.frames()[0].number;
    rig.unsubscribe(1, "a");
    assert_eq!(rig.told(), [not_subscribed(1, 7, ErrorCode::Internal)]);
    rig.subscribe(2, 8, "a");
    let again = rig.frames();
    assert_eq!(items(&again), [interest(&[], &["a"]), interest(&["a"], &[])]);
    rig.in_force(first, &[30]);
    assert_eq!(rig.told(), []);
    // Heads come in the order of what was asked for, the void one included.
    rig.in_force(again[0].number, &[40]);
    assert_eq!(rig.told(), [subscribed(2, 8, "a", 50)]);
}

/// Taken, dropped and taken within one frame, so that all of it has one number.
#[test]
fn k5_heads_stay_with_their_channels_however_often_one_comes_and_goes() {
    let mut rig = Rig::up();
    rig.recover(1, 7, "a", 40);
    rig.unsubscribe(1, "a");
    rig.recover(1, 8, "b", 40);
    rig.recover(1, 9, "a", 40);
    rig.told();
    // a, b, a: only the last two are known to be behind nothing.
    rig.all_in_force(&[45, 40, 30]);
    let told = rig.told();
    let of = |channel: &str, id| with_missed(1, id, channel, 50, Given::All(40, Vec::new()));
    assert!(told.contains(&of("b", 8)), "{told:?}");
    if !told.contains(&of("a", 9)) {
        rig.question("a", 40);
    }
}

#[test]
fn k5_beats_say_what_the_owner_was_told() {
    let mut rig = Rig::up();
    rig.subscribe(1, 7, "a");
    rig.subscribe(2, 8, "b");
    rig.subscribe(3, 9, "b");
    rig.frames();
    rig.tick(Duration::from_millis(999));
    assert_eq!(rig.frames(), []);
    rig.tick(Duration::from_millis(1));
    assert_eq!(rig.items(), [beat(&["a", "b"])], "told, though not yet in force");
    rig.unsubscribe(2, "b");
    rig.unsubscribe(1, "a");
    assert_eq!(rig.items(), [interest(&[], &["a"])], "b has another");
    rig.tick(SECOND);
    assert_eq!(rig.items(), [beat(&["b"])]);
}

#[test]
fn r4_a_held_channel_is_answered_while_the_link_is_down() {
    let mut rig = Rig::live();
    for round in 0..3 {
        // No owner, one that opens, and one that answers.
        match round {
            0 => drop(rig.owner_of(1, 5, true)),
            1 => drop(rig.owner(6)),
            _ => rig.opened(50),
        }
        let (session, id) = (10 + round, 20 + round as u32);
        rig.subscribe(session, id, "a");
        assert_eq!(rig.told(), [subscribed(session, id, "a", 50)]);
        rig.recover(session + 10, id + 10, "a", 35);
        assert_eq!(rig.told(), [caught_up(session + 10, id + 10, 50, 35, &[])]);
    }
    rig.frames();
    rig.deliver(50, 60, &[(55, "a")]);
    let everybody = [1, 10, 11, 12, 20, 21, 22].map(|session| message(session, 55));
    assert_eq!(rig.told(), everybody);
}

#[test]
fn p4_unsubscribing_answers_what_waits_and_ends_it_in_every_state() {
    // Without an owner, while it opens, with interest on the way, and with a question on the way.
    for state in 0..4 {
        let mut rig = match state {
            0 | 1 => Rig::new(),
            2 => Rig::up(),
            _ => Rig::live(),
        };
        if state == 1 {
            rig.owner(5);
        }
        rig.recover(2, 8, "a", 20);
        rig.frames();
        assert_eq!(rig.told(), [], "state {state}");
        rig.unsubscribe(2, "a");
        assert_eq!(
            rig.told(),
            [not_subscribed(2, 8, ErrorCode::Internal)],
            "state {state}"
        );
        rig.unsubscribe(2, "a");
        rig.tick(ANSWER);
        assert_eq!(rig.told(), [], "state {state}: once");
        assert_eq!((rig.link.waiting, rig.link.behind), (0, 0), "state {state}");
    }
}

#[test]
fn p4_unsubscribing_ends_what_runs_and_what_catches_up() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 20);
    let question = rig.question("a", 20);
    rig.recovered(question, 22, &[21, 22], true);
    let question = rig.question("a", 22);
    rig.told();
    rig.unsubscribe(2, "a");
    rig.unsubscribe(1, "a");
    assert_eq!(rig.link.behind_count(), 0);
    assert_eq!(rig.items(), [interest(&[], &["a"])]);
    rig.recovered(question, 50, &[30], false);
    rig.deliver(50, 60, &[(55, "a")]);
    assert_eq!(rig.told(), []);
    assert_eq!(rig.link.channel_count(), 0);
    // A question that nobody waits for any more does not count against the bound.
    assert!(rig.link.questions.is_empty());
}

#[test]
fn r2_a_channel_given_up_meanwhile_is_answered_and_not_delivered() {
    let mut rig = Rig::up();
    rig.subscribe(GIVES_UP, 7, "a");
    rig.all_in_force(&[30]);
    assert_eq!(rig.told(), [subscribed(GIVES_UP, 7, "a", 50)]);
    rig.deliver(50, 60, &[(55, "a")]);
    assert_eq!(rig.told(), []);
    assert_eq!(rig.items(), [interest(&[], &["a"])], "nobody is left there");
    // The same with a page on the way.
    rig.recover(GIVES_UP, 8, "a", 20);
    rig.all_in_force(&[55]);
    let question = rig.question("a", 20);
    rig.recovered(question, 30, &[25], true);
    rig.told();
    assert_eq!(rig.items(), [interest(&[], &["a"])]);
    assert_eq!(rig.link.behind_count(), 0);
}

#[test]
fn p4_a_subscribe_is_answered_at_its_deadline_whatever_it_waits_for() {
    // Without an owner, while it opens, with interest on the way, and with a question on the way.
    for state in 0..4 {
        let mut rig = match state {
            0 | 1 => Rig::new(),
            2 => Rig::up(),
            _ => Rig::live(),
        };
        if state == 1 {
            rig.owner(5);
        }
        rig.recover(2, 8, "a", 20);
        let frames = rig.frames();
        rig.tick(ANSWER / 2);
        if state > 1 {
            rig.down(vec![]);
        }
        rig.tick(ANSWER / 2 - Duration::from_millis(1));
        assert_eq!(rig.told(), [], "state {state}");
        rig.tick(Duration::from_millis(1));
        assert_eq!(
            rig.told(),
            [not_subscribed(2, 8, ErrorCode::Internal)],
            "state {state}"
        );
        // The owner's answer comes too late: it must not subscribe the session after all.
        match state {
            2 => rig.in_force(frames[0].number, &[30]),
            3 => rig.recovered(1, 50, &[30], false),
            _ => {
                rig.owner(6);
                rig.opened(50);
            }
        }
        let next = if state == 3 { message(1, 55) } else { message(0, 0) };
        let told: Vec<Told> = {
            rig.deliver(50, 60, &[(55, "a")]);
            rig.told()
        };
        assert!(told.iter().all(|told| *told == next), "state {state}: {told:?}");
    }
}

#[test]
fn p4_a_command_that_waited_too_long_for_its_link_is_answered_and_not_carried_out() {
    let mut rig = Rig::up();
    let publish = PublishAsked {
        publisher: rig.session(1),
        id: 7,
        series: Series::Plain,
        message: Bytes::from_static(b"m"),
        deadline: rig.now,
    };
    rig.link.publish(publish, rig.now, &mut rig.seen);
    let subscribe = Subscribe {
        session: rig.session(1),
        id: 8,
        channel: name("a"),
        since: None,
        deadline: rig.now,
    };
    rig.link.subscribe(subscribe, rig.now, &mut rig.seen);
    let expected = [
        answered(1, 7, Err(100)),
        not_subscribed(1, 8, ErrorCode::Internal),
    ];
    assert_eq!(rig.told(), expected);
    assert_eq!(rig.frames(), []);
    assert_eq!(rig.link.channel_count(), 0);
}
