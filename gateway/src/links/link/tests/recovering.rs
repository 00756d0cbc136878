//! What a session missed: R1, R3, R4, R5, R7, R8.

use super::*;

fn ask_from(rig: &mut Rig, session: u64, epoch: &str, offset: u64) {
    let since = Since {
        epoch: epoch.to_owned(),
        offset: Offset::from_u64(offset),
    };
    rig.ask(session, 8, "a", Some(since));
}

#[test]
fn r4_who_missed_nothing_is_answered_from_the_head() {
    let mut rig = Rig::live();
    for since in [30, 35, 50] {
        rig.recover(2, 8, "a", since);
        assert_eq!(rig.told(), [caught_up(2, 8, 50, since, &[])]);
        rig.unsubscribe(2, "a");
    }
    assert_eq!(rig.frames(), [], "nobody was asked");
    rig.deliver(50, 60, &[(55, "a")]);
    rig.told();
    rig.recover(2, 8, "a", 55);
    assert_eq!(rig.told(), [caught_up(2, 8, 60, 55, &[])]);
    rig.recover(3, 9, "a", 54);
    assert_eq!(rig.told(), []);
    rig.question("a", 54);
}

#[test]
fn r4_a_head_that_is_not_known_asks() {
    let mut rig = Rig::up();
    rig.recover(1, 7, "a", 40);
    // The owner told no head.
    rig.all_in_force(&[]);
    assert_eq!(rig.told(), []);
    let question = rig.question("a", 40);
    rig.recovered(question, 50, &[], false);
    assert_eq!(rig.told(), [caught_up(1, 7, 50, 40, &[])]);
    // Now it is known.
    rig.recover(2, 8, "a", 40);
    assert_eq!(rig.told(), [caught_up(2, 8, 50, 40, &[])]);
    assert_eq!(rig.frames(), []);
}

/// An owner that took over knows of a quiet channel only that its newest message is not behind the take-over.
#[test]
fn r4_a_head_that_was_only_a_bound_is_asked_for_once() {
    let mut rig = Rig::up();
    rig.recover(1, 7, "a", 20);
    rig.all_in_force(&[45]);
    let question = rig.question("a", 20);
    rig.recovered(question, 50, &[], false);
    assert_eq!(rig.told(), [caught_up(1, 7, 50, 20, &[])]);
    rig.owner_of(1, 5, true);
    rig.recover(2, 8, "a", 20);
    assert_eq!(
        rig.told(),
        [caught_up(2, 8, 50, 20, &[])],
        "also without an owner"
    );
}

#[test]
fn r3_what_was_missed_comes_with_the_answer_and_the_rest_live() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 20);
    let question = rig.question("a", 20);
    rig.recovered(question, 50, &[25, 30], false);
    assert_eq!(rig.told(), [caught_up(2, 8, 50, 20, &[25, 30])]);
    rig.deliver(50, 60, &[(55, "a")]);
    assert_eq!(rig.told(), [message(1, 55), message(2, 55)]);
}

#[test]
fn r1_a_page_that_reaches_beyond_the_link_doubles_nothing() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 20);
    let question = rig.question("a", 20);
    // The owner is at 70 already, and its deliveries follow.
    rig.recovered(question, 70, &[30, 55, 65], false);
    assert_eq!(rig.told(), [caught_up(2, 8, 50, 20, &[30, 55, 65])]);
    rig.deliver(50, 60, &[(55, "a")]);
    rig.deliver(60, 80, &[(65, "a"), (75, "a")]);
    let expected = [message(1, 55), message(1, 65), message(1, 75), message(2, 75)];
    assert_eq!(rig.told(), expected);
    // Also behind a reset, which begins at the link's position.
    rig.recover(3, 9, "a", 20);
    let question = rig.question("a", 20);
    rig.recovered(question, 95, &[90], false);
    rig.owner(6);
    rig.opened(80);
    rig.told();
    rig.deliver(80, 100, &[(90, "a"), (99, "a")]);
    let expected = [
        message(1, 90),
        message(2, 90),
        message(1, 99),
        message(2, 99),
        message(3, 99),
    ];
    assert_eq!(rig.told(), expected);
}

/// A message that is delivered while the question is on the way is in the answer.
#[test]
fn r1_what_is_delivered_while_the_question_is_on_the_way_comes_once() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 20);
    let question = rig.question("a", 20);
    rig.deliver(50, 60, &[(55, "a")]);
    assert_eq!(rig.told(), [message(1, 55)]);
    rig.recovered(question, 60, &[30, 55], false);
    assert_eq!(rig.told(), [caught_up(2, 8, 60, 20, &[30, 55])]);
    rig.deliver(60, 70, &[(65, "a")]);
    assert_eq!(rig.told(), [message(1, 65), message(2, 65)]);
}

#[test]
fn r5_another_epoch_is_lost_and_none_is_any() {
    let mut rig = Rig::live();
    for epoch in [OTHER_LOG, "_"] {
        ask_from(&mut rig, 2, epoch, 50);
        assert_eq!(rig.told(), [with_missed(2, 8, "a", 50, Given::Lost)]);
        rig.unsubscribe(2, "a");
    }
    assert_eq!(rig.frames(), []);
    ask_from(&mut rig, 2, "", 0);
    let question = rig.question("a", 0);
    rig.recovered(question, 50, &[10, 30], false);
    assert_eq!(rig.told(), [caught_up(2, 8, 50, 0, &[10, 30])]);
}

#[test]
fn r5_what_cannot_be_told_is_an_error_and_what_is_gone_is_lost() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 20);
    let question = rig.question("a", 20);
    rig.recovered_as(RecoveredOutcome::Unavailable, question, 0, &[], false);
    assert_eq!(rig.told(), [not_subscribed(2, 8, ErrorCode::Internal)]);
    rig.deliver(50, 60, &[(55, "a")]);
    assert_eq!(rig.told(), [message(1, 55)]);

    rig.recover(2, 9, "a", 20);
    let question = rig.question("a", 20);
    rig.recovered_as(RecoveredOutcome::Lost, question, 25, &[], false);
    assert_eq!(rig.told(), [with_missed(2, 9, "a", 60, Given::Lost)]);
    rig.deliver(60, 70, &[(65, "a")]);
    assert_eq!(
        rig.told(),
        [message(1, 65), message(2, 65)],
        "subscribed all the same"
    );
}

#[test]
fn r5_only_who_left_off_before_what_was_removed_has_lost_something() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 20);
    rig.recover(3, 8, "a", 28);
    let question = rig.question("a", 20);
    rig.recovered_as(RecoveredOutcome::Lost, question, 25, &[], false);
    assert_eq!(rig.told(), [with_missed(2, 8, "a", 50, Given::Lost)]);
    let question = rig.question("a", 28);
    rig.recovered(question, 50, &[30], false);
    assert_eq!(rig.told(), [caught_up(3, 8, 50, 28, &[30])]);
}

#[test]
fn r5_an_offset_beyond_the_end_is_lost_and_takes_nobody_with_it() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 1_000_000);
    let question = rig.question("a", 1_000_000);
    // Comes while that question is on the way.
    rig.recover(3, 9, "a", 20);
    rig.recovered_as(RecoveredOutcome::Lost, question, u64::MAX, &[], false);
    assert_eq!(rig.told(), [with_missed(2, 8, "a", 50, Given::Lost)]);
    let question = rig.question("a", 20);
    rig.recovered(question, 50, &[30], false);
    assert_eq!(rig.told(), [caught_up(3, 9, 50, 20, &[30])]);
}

#[test]
fn r5_the_greatest_of_all_offsets_is_lost_like_any_other() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", u64::MAX);
    let question = rig.question("a", u64::MAX);
    rig.recovered_as(RecoveredOutcome::Lost, question, u64::MAX, &[], false);
    assert_eq!(rig.told(), [with_missed(2, 8, "a", 50, Given::Lost)]);
    assert_eq!(rig.questions(), []);
}

#[test]
fn r5_an_offset_beyond_the_end_is_not_recovered_by_an_answer_to_somebody_else() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 20);
    rig.recover(3, 9, "a", 1_000_000);
    let question = rig.question("a", 20);
    rig.recovered(question, 50, &[30], false);
    assert_eq!(rig.told(), [caught_up(2, 8, 50, 20, &[30])]);
    // It may be that the owner is further by now, so it is asked again.
    let question = rig.question("a", 1_000_000);
    rig.recovered_as(RecoveredOutcome::Lost, question, u64::MAX, &[], false);
    assert_eq!(rig.told(), [with_missed(3, 9, "a", 50, Given::Lost)]);
}

/// Who comes from a gateway that is ahead of this one.
#[test]
fn r3_an_offset_ahead_of_the_link_asks_and_gets_only_what_follows_it() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 65);
    let question = rig.question("a", 65);
    rig.recovered(question, 70, &[68], false);
    assert_eq!(rig.told(), [caught_up(2, 8, 50, 65, &[68])]);
    rig.deliver(50, 80, &[(60, "a"), (65, "a"), (68, "a"), (75, "a")]);
    let expected = [
        message(1, 60),
        message(1, 65),
        message(1, 68),
        message(1, 75),
        message(2, 75),
    ];
    assert_eq!(rig.told(), expected);
}

#[test]
fn r7_pages_follow_each_other_and_live_messages_follow_them() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 20);
    let question = rig.question("a", 20);
    rig.recovered(question, 25, &[21, 25], true);
    assert_eq!(rig.told(), [caught_up(2, 8, 50, 20, &[21, 25])]);
    assert_eq!(rig.link.behind_count(), 1);
    let question = rig.question("a", 25);
    // Comes between two pages, and is in a later one.
    rig.deliver(50, 60, &[(55, "a")]);
    assert_eq!(rig.told(), [message(1, 55)]);
    rig.recovered(question, 30, &[28, 30], true);
    assert_eq!(rig.told(), [page(2, &[28, 30])]);
    let question = rig.question("a", 30);
    rig.recovered(question, 60, &[55], false);
    assert_eq!(rig.told(), [page(2, &[55])]);
    assert_eq!(rig.link.behind_count(), 0);
    assert_eq!(rig.frames(), []);
    rig.deliver(60, 70, &[(65, "a")]);
    assert_eq!(rig.told(), [message(1, 65), message(2, 65)]);
}

#[test]
fn r7_a_session_without_room_pauses_and_goes_on_at_a_tick() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 20);
    let question = rig.question("a", 20);
    rig.has_room(2, true);
    rig.recovered(question, 25, &[21, 25], true);
    rig.told();
    rig.has_room(2, false);
    assert_eq!(rig.frames(), [], "no question while there is no room");
    rig.deliver(50, 60, &[(55, "a")]);
    rig.told();
    for _ in 0..5 {
        rig.tick(Duration::from_millis(100));
        assert_eq!(rig.questions(), []);
    }
    rig.has_room(2, true);
    rig.tick(Duration::from_millis(100));
    let question = rig.question("a", 25);
    rig.recovered(question, 60, &[30, 55], false);
    assert_eq!(rig.told(), [page(2, &[30, 55])]);
    rig.deliver(60, 70, &[(65, "a")]);
    assert_eq!(rig.told(), [message(1, 65), message(2, 65)]);
}

/// Two left off at the same place, one on a slow line: the other's pages are not for it.
#[test]
fn r7_a_slow_session_is_not_flooded_by_what_a_fast_one_asks_for() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 20);
    rig.recover(3, 9, "a", 20);
    let question = rig.question("a", 20);
    rig.recovered(question, 25, &[21, 25], true);
    let expected = [
        caught_up(2, 8, 50, 20, &[21, 25]),
        caught_up(3, 9, 50, 20, &[21, 25]),
    ];
    assert_eq!(rig.told(), expected);
    let question = rig.question("a", 25);
    rig.has_room(2, false);
    rig.recovered(question, 30, &[28, 30], true);
    assert_eq!(rig.told(), [page(3, &[28, 30])]);
    let question = rig.question("a", 30);
    rig.recovered(question, 50, &[40], false);
    assert_eq!(rig.told(), [page(3, &[40])]);
    assert_eq!(rig.frames(), []);
    rig.has_room(2, true);
    rig.tick(Duration::from_millis(100));
    let question = rig.question("a", 25);
    rig.recovered(question, 50, &[28, 30, 40], false);
    assert_eq!(rig.told(), [page(2, &[28, 30, 40])]);
    rig.deliver(50, 60, &[(55, "a")]);
    let expected = [message(1, 55), message(2, 55), message(3, 55)];
    assert_eq!(rig.told(), expected);
}

/// A client that comes back to many channels must not be closed as slow by their first pages.
#[test]
fn r7_the_first_page_waits_for_room_too() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 20);
    let question = rig.question("a", 20);
    rig.has_room(2, false);
    rig.recovered(question, 25, &[21, 25], true);
    assert_eq!(rig.told(), []);
    rig.tick(Duration::from_millis(100));
    assert_eq!(rig.questions(), [], "it is not asked for while there is no room");
    // Who missed nothing needs none.
    rig.has_room(3, false);
    rig.recover(3, 9, "a", 40);
    assert_eq!(rig.told(), [caught_up(3, 9, 50, 40, &[])]);
    rig.has_room(2, true);
    rig.tick(Duration::from_millis(100));
    let question = rig.question("a", 20);
    rig.recovered(question, 50, &[21, 25], false);
    assert_eq!(rig.told(), [caught_up(2, 8, 50, 20, &[21, 25])]);
    // And one that never gets any is answered in time (P4).
    rig.has_room(4, false);
    rig.recover(4, 10, "a", 20);
    rig.tick(ANSWER / 2);
    rig.down(vec![]);
    rig.tick(ANSWER / 2);
    assert_eq!(rig.told(), [not_subscribed(4, 10, ErrorCode::Internal)]);
}

/// The reply to `connect` is one frame, however many channels it names.
#[test]
fn r7_what_an_answer_does_not_take_follows_it() {
    let mut rig = Rig::live();
    rig.has_room(CONNECTS, false);
    rig.recover(CONNECTS, 8, "a", 20);
    let question = rig.question("a", 20);
    rig.recovered(question, 50, &[21, 25], false);
    assert_eq!(rig.told(), [caught_up(CONNECTS, 8, 50, 20, &[])]);
    assert_eq!(rig.link.behind_count(), 1);
    // Nothing overtakes what it missed.
    rig.deliver(50, 60, &[(55, "a")]);
    assert_eq!(rig.told(), [message(1, 55)]);
    rig.has_room(CONNECTS, true);
    rig.tick(Duration::from_millis(100));
    let question = rig.question("a", 20);
    rig.recovered(question, 60, &[21, 25, 55], false);
    assert_eq!(rig.told(), [page(CONNECTS, &[21, 25, 55])]);
    assert_eq!(rig.link.behind_count(), 0);
}

#[test]
fn r7_pages_go_on_after_a_reset() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 20);
    let question = rig.question("a", 20);
    rig.recovered(question, 25, &[21, 25], true);
    let void = rig.question("a", 25);
    rig.told();
    rig.owner(6);
    rig.frames();
    rig.opened(50);
    let question = rig.question("a", 25);
    assert_ne!(question, void);
    // What the question of the earlier opening was answered with, had it come here, concerns nobody.
    rig.recovered(void, 30, &[28], true);
    assert_eq!(rig.told(), []);
    rig.recovered(question, 50, &[28, 30], false);
    assert_eq!(rig.told(), [page(2, &[28, 30])]);
}

#[test]
fn r7_a_catching_up_session_whose_messages_are_removed_loses_its_place() {
    for outcome in [RecoveredOutcome::Lost, RecoveredOutcome::Unavailable] {
        let mut rig = Rig::live();
        rig.recover(2, 8, "a", 20);
        let question = rig.question("a", 20);
        rig.recovered(question, 25, &[21, 25], true);
        let question = rig.question("a", 25);
        rig.told();
        rig.recovered_as(outcome, question, 28, &[], false);
        assert_eq!(rig.told(), [lost(2, "a")]);
        assert_eq!(rig.link.behind_count(), 0);
        rig.deliver(50, 60, &[(55, "a")]);
        assert_eq!(rig.told(), [message(1, 55)]);
    }
}

#[test]
fn r8_opened_above_our_position_live_sessions_catch_up_and_lose_nothing() {
    let mut rig = Rig::live();
    // One that has more than the link already.
    rig.recover(2, 8, "a", 20);
    let question = rig.question("a", 20);
    rig.recovered(question, 60, &[55], false);
    rig.told();
    rig.owner(6);
    rig.subscribe(3, 9, "a");
    assert_eq!(rig.told(), [subscribed(3, 9, "a", 50)], "from what is known (R4)");
    rig.frames();
    rig.opened(80);
    assert_eq!(rig.told(), []);
    assert_eq!(rig.link.behind_count(), 3);
    let question = rig.question("a", 50);
    // Whoever comes now starts behind.
    rig.subscribe(4, 10, "a");
    assert_eq!(rig.told(), [subscribed(4, 10, "a", 80)]);
    rig.deliver(80, 90, &[(85, "a")]);
    assert_eq!(rig.told(), [message(4, 85)]);
    rig.recovered(question, 90, &[55, 65, 85], false);
    let mut told = rig.told();
    told.sort_by_key(|told| match told {
        Told::Page { session, .. } => *session,
        other => panic!("{other:?}"),
    });
    let expected = [page(1, &[55, 65, 85]), page(2, &[65, 85]), page(3, &[55, 65, 85])];
    assert_eq!(told, expected);
    rig.deliver(90, 99, &[(95, "a")]);
    assert_eq!(rig.told(), [1, 2, 3, 4].map(|session| message(session, 95)));
}

#[test]
fn r8_the_head_is_not_known_behind_what_the_link_missed() {
    let mut rig = Rig::live();
    rig.owner(6);
    rig.opened(80);
    let question = rig.question("a", 50);
    // The old head says that nothing follows 30, which was true at 50.
    rig.recover(2, 8, "a", 40);
    assert_eq!(rig.told(), []);
    rig.recovered(question, 80, &[65], false);
    assert_eq!(rig.told(), [page(1, &[65])]);
    let question = rig.question("a", 40);
    rig.recovered(question, 80, &[65], false);
    assert_eq!(rig.told(), [caught_up(2, 8, 80, 40, &[65])]);
}

#[test]
fn r8_a_second_loss_while_catching_up_loses_nothing_either() {
    let mut rig = Rig::live();
    rig.owner(6);
    rig.opened(80);
    let question = rig.question("a", 50);
    rig.recovered(question, 60, &[55, 60], true);
    assert_eq!(rig.told(), [page(1, &[55, 60])]);
    rig.owner(7);
    rig.frames();
    rig.opened(200);
    let question = rig.question("a", 60);
    rig.recovered(question, 200, &[90, 150], false);
    assert_eq!(rig.told(), [page(1, &[90, 150])]);
    rig.deliver(200, 210, &[(205, "a")]);
    assert_eq!(rig.told(), [message(1, 205)]);
}

#[test]
fn r6_a_herd_shares_one_question() {
    let mut rig = Rig::live();
    for session in 10..210 {
        rig.recover(session, 8, "a", 20);
    }
    let question = rig.question("a", 20);
    for session in 210..300 {
        rig.recover(session, 8, "a", 22);
        rig.tick(Duration::from_millis(1));
    }
    assert_eq!(rig.frames(), [], "one question on the way");
    rig.recovered(question, 50, &[21, 30], false);
    let told = rig.told();
    assert_eq!(told.len(), 290);
    for told in told {
        let Told::Subscribed { session, missed, .. } = told else {
            panic!("{told:?}");
        };
        let expected = if session < 210 {
            Given::All(20, vec![21, 30])
        } else {
            Given::All(22, vec![30])
        };
        assert_eq!(missed, expected, "session {session}");
    }
    assert_eq!(rig.frames(), []);
}

#[test]
fn r6_who_left_off_before_a_question_on_the_way_asks_next() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 25);
    let question = rig.question("a", 25);
    rig.recover(3, 9, "a", 10);
    assert_eq!(rig.frames(), []);
    rig.recovered(question, 50, &[30], false);
    assert_eq!(rig.told(), [caught_up(2, 8, 50, 25, &[30])]);
    let question = rig.question("a", 10);
    rig.recovered(question, 50, &[11, 30], false);
    assert_eq!(rig.told(), [caught_up(3, 9, 50, 10, &[11, 30])]);
}

/// Behind the page, so the page says nothing to it.
#[test]
fn r6_who_left_off_behind_a_page_asks_next() {
    let mut rig = Rig::live();
    rig.recover(2, 8, "a", 10);
    rig.recover(3, 9, "a", 28);
    let question = rig.question("a", 10);
    rig.recovered(question, 15, &[11, 15], true);
    assert_eq!(rig.told(), [caught_up(2, 8, 50, 10, &[11, 15])]);
    let question = rig.question("a", 15);
    rig.recovered(question, 50, &[20, 30], false);
    let expected = [caught_up(3, 9, 50, 28, &[30]), page(2, &[20, 30])];
    assert_eq!(rig.told(), expected);
}

#[test]
fn questions_on_the_way_are_bounded_and_all_have_their_turn() {
    let mut rig = Rig::up();
    let channels = ["c0", "c1", "c2", "c3", "c4"];
    for (id, channel) in (10..).zip(channels) {
        rig.recover(1, id, channel, 20);
    }
    rig.all_in_force(&[30; 5]);
    let mut seen = Vec::new();
    let mut open = rig.questions();
    assert_eq!(open.len(), BOUNDS.questions);
    while let Some(question) = open.pop() {
        seen.push(question.channel.clone());
        rig.recovered(question.question, 50, &[30], false);
        open.extend(rig.questions());
        assert!(open.len() <= BOUNDS.questions);
    }
    seen.sort();
    assert_eq!(seen, channels);
    assert_eq!(rig.told().len(), 5);
    // Given up at the deadline or by their sessions, they make room for others.
    for (id, channel) in (20..).zip(channels) {
        rig.recover(2, id, channel, 20);
    }
    let open = rig.questions();
    assert_eq!(open.len(), BOUNDS.questions);
    rig.tick(ANSWER / 2);
    rig.down(vec![]);
    rig.tick(ANSWER / 2);
    rig.told();
    for question in open {
        rig.recovered_as(RecoveredOutcome::Unavailable, question.question, 0, &[], false);
    }
    assert_eq!(rig.told(), []);
    assert_eq!(rig.questions(), [], "nobody waits any more");
}

#[test]
fn r7_with_its_last_page_a_session_that_gave_up_frees_the_channel() {
    let mut rig = Rig::up();
    rig.recover(2, 8, "a", 20);
    rig.all_in_force(&[30]);
    let question = rig.question("a", 20);
    rig.unsubscribe(2, "a");
    assert_eq!(rig.items(), [interest(&[], &["a"])]);
    rig.recover(3, 9, "a", 25);
    rig.told();
    let frames = rig.frames();
    // The answer to a question of the channel's earlier life says nothing to this one.
    rig.recovered(question, 50, &[30], false);
    assert_eq!(rig.told(), []);
    rig.in_force(frames[0].number, &[30]);
    let question = rig.question("a", 25);
    rig.recovered(question, 50, &[30], false);
    assert_eq!(rig.told(), [caught_up(3, 9, 50, 25, &[30])]);
}
