//! Opening and resetting: K1, K2, K3, O4, L5.

use super::*;

#[test]
fn k2_an_opening_says_position_set_and_credit() {
    let mut rig = Rig::new();
    rig.subscribe(1, 7, "a");
    assert_eq!(rig.frames(), [], "no owner yet");
    rig.owner(5);
    let frames = rig.frames();
    assert_eq!((frames[0].open, frames[0].number), (1, 1));
    assert_eq!(
        items(&frames),
        [open(None, &[], None)],
        "what no owner held is announced later"
    );
    rig.opened(50);
    assert_eq!(rig.told(), []);
    let frames = rig.all_in_force(&[30]);
    assert_eq!(items(&frames), [interest(&["a"], &[])]);
    assert_eq!(rig.told(), [subscribed(1, 7, "a", 50)]);

    rig.owner(6);
    assert_eq!(rig.items(), [open(Some(position(5, 50)), &["a"], None)]);
    rig.opened(50);
    assert_eq!(
        rig.frames(),
        [],
        "the owner holds that set: nothing is sent again"
    );
    // Learned from the new owner now.
    rig.deliver(50, 60, &[(55, "a")]);
    rig.owner(7);
    assert_eq!(rig.items(), [open(Some(position(6, 60)), &["a"], None)]);
}

#[test]
fn k2_the_list_is_exactly_what_was_announced_and_changes_follow() {
    let mut rig = Rig::live();
    rig.subscribe(1, 8, "b");
    rig.subscribe(1, 9, "c");
    rig.all_in_force(&[0, 0]);
    // Asked for, and not in force when the link breaks.
    rig.subscribe(1, 10, "d");
    rig.frames();
    rig.owner(6);
    let opening = rig.items();
    assert_eq!(opening, [open(Some(position(5, 50)), &["a", "b", "c"], None)]);
    // Meanwhile one goes and one comes; then another goes, after the list.
    rig.unsubscribe(1, "b");
    rig.subscribe(1, 11, "e");
    assert_eq!(rig.frames(), [], "nothing is sent before the owner asks");
    rig.send_channels();
    let listed = rig.frames();
    let mut sent = ChannelSet::default();
    for item in items(&listed) {
        match item {
            up_item::Item::Interest(Interest { add, remove }) => {
                assert_eq!(remove, Vec::<String>::new());
                add.iter().for_each(|channel| sent.insert(channel));
            }
            up_item::Item::OpenEnd(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sent, set(&["a", "b", "c"]));
    assert!(matches!(items(&listed).last(), Some(up_item::Item::OpenEnd(_))));
    rig.unsubscribe(1, "c");
    rig.told();
    rig.opened(50);
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for item in rig.items() {
        match item {
            up_item::Item::Interest(Interest { add, remove }) => {
                added.extend(add);
                removed.extend(remove);
            }
            other => panic!("{other:?}"),
        }
    }
    added.sort();
    removed.sort();
    assert_eq!(added, ["d", "e"]);
    assert_eq!(removed, ["b", "c"]);
    rig.tick(SECOND);
    assert_eq!(rig.items(), [beat(&["a", "d", "e"])]);
}

/// The owner was told of it, then that it is gone: only what is said after that counts.
#[test]
fn k2_a_channel_dropped_and_taken_again_while_it_is_listed_is_asked_for_again() {
    let mut rig = Rig::live();
    rig.owner(6);
    rig.frames();
    rig.unsubscribe(1, "a");
    rig.subscribe(2, 8, "a");
    rig.send_channels();
    let listed = rig.frames().last().unwrap().number;
    rig.opened(50);
    let frames = rig.frames();
    assert_eq!(items(&frames), [interest(&[], &["a"]), interest(&["a"], &[])]);
    rig.in_force(listed, &[30]);
    assert_eq!(
        rig.told(),
        [],
        "the list is void, for the channel was taken back since"
    );
    rig.in_force(frames[0].number, &[30]);
    assert_eq!(rig.told(), [subscribed(2, 8, "a", 50)]);
    rig.tick(SECOND);
    assert_eq!(rig.items(), [beat(&["a"])]);
}

#[test]
fn k2_a_channel_dropped_and_taken_again_is_asked_for_where_no_list_was_wanted() {
    let mut rig = Rig::live();
    rig.owner(6);
    rig.frames();
    rig.unsubscribe(1, "a");
    rig.subscribe(2, 8, "a");
    rig.opened(50);
    let frames = rig.all_in_force(&[30]);
    assert_eq!(items(&frames), [interest(&[], &["a"]), interest(&["a"], &[])]);
    assert_eq!(rig.told(), [subscribed(2, 8, "a", 50)]);
}

#[test]
fn k2_a_large_list_is_split_into_frames_of_the_size_limit() {
    let mut rig = Rig::up();
    for number in 0..100 {
        rig.subscribe(1, number, &format!("channel-with-a-long-name-{number:04}"));
    }
    rig.all_in_force(&[0; 100]);
    assert_eq!(rig.told().len(), 100);
    rig.owner(6);
    let first = rig.frames().len() as u64;
    rig.send_channels();
    let frames = rig.frames();
    assert!(frames.len() > 2);
    assert!(frames.iter().all(|frame| frame.encoded_len() <= 1024 + 64));
    let numbers: Vec<u64> = frames.iter().map(|frame| frame.number).collect();
    let expected: Vec<u64> = (first + 1..=first + frames.len() as u64).collect();
    assert_eq!(numbers, expected);
    rig.opened(50);
    rig.subscribe(2, 8, "channel-with-a-long-name-0042");
    assert_eq!(rig.told().len(), 1, "still held, and answered at once");
}

#[test]
fn k1_a_missing_frame_resets_the_link() {
    let mut rig = Rig::live();
    let opening = rig.link.open;
    rig.down_number += 1;
    assert_eq!(rig.deliver(50, 60, &[(55, "a")]), Some(Reset::Gap));
    assert_eq!(rig.told(), [], "what follows a gap is not delivered");
    let frames = rig.frames();
    assert_eq!((frames[0].open, frames[0].number), (opening + 1, 1));
    assert_eq!(items(&frames), [open(Some(position(5, 50)), &["a"], None)]);
}

#[test]
fn k1_frames_come_once_also_when_the_bus_repeats_them() {
    let mut rig = Rig::live();
    let frame = rig.frame(rig.down_number + 1, vec![delivery(50, 60, &[(55, "a")])]);
    for _ in 0..2 {
        assert_eq!(rig.link.down(frame.clone(), rig.now, &mut rig.seen), None);
    }
    assert_eq!(rig.told(), [message(1, 55)]);
}

#[test]
fn k1_frames_of_an_earlier_opening_another_shard_or_a_deposed_owner_are_ignored() {
    let mut rig = Rig::live();
    let next = rig.frame(rig.down_number + 1, vec![delivery(50, 60, &[(55, "a")])]);
    let mut earlier = next.clone();
    earlier.open -= 1;
    let mut elsewhere = next.clone();
    elsewhere.shard = 4;
    let mut deposed = next.clone();
    deposed.owner_epoch -= 1;
    deposed.number = 77;
    for frame in [earlier, elsewhere, deposed] {
        assert_eq!(rig.link.down(frame, rig.now, &mut rig.seen), None);
    }
    assert_eq!(rig.told(), []);
    assert!(rig.link.is_up());
    assert_eq!(rig.link.down(next, rig.now, &mut rig.seen), None);
    assert_eq!(rig.told(), [message(1, 55)]);
}

#[test]
fn k1_an_owner_may_ask_for_a_reset_and_the_bus_may_break() {
    let mut rig = Rig::live();
    let why = rig.down(vec![
        down_item::Item::Reset(switchboard_proto::bus::Reset {}),
        delivery(50, 60, &[(55, "a")]),
    ]);
    assert_eq!(why, Some(Reset::Asked));
    assert_eq!(rig.told(), [], "nothing of the old opening counts after it");
    assert_eq!(rig.items(), [open(Some(position(5, 50)), &["a"], None)]);
    rig.opened(50);
    let why = rig.link.disruption(rig.now, &mut rig.seen);
    assert_eq!(why, Some(Reset::Disruption));
    assert_eq!(rig.items(), [open(Some(position(5, 50)), &["a"], None)]);
}

#[test]
fn k1_three_silent_seconds_reset_and_each_opening_is_waited_for_longer() {
    let mut rig = Rig::live();
    rig.tick(Duration::from_millis(1500));
    rig.down(vec![down_item::Item::Beat(DownBeat {})]);
    assert_eq!(rig.tick(Duration::from_millis(2900)), None, "a beat is life");
    assert_eq!(rig.tick(Duration::from_millis(100)), Some(Reset::Silence));
    for seconds in [1, 2, 4, 4] {
        assert_eq!(rig.tick(SECOND * seconds - Duration::from_millis(1)), None);
        assert_eq!(rig.tick(Duration::from_millis(1)), Some(Reset::Silence));
    }
    // Once one is answered, the next begins with the shortest again.
    rig.opened(50);
    rig.tick(TIMING.silence);
    assert_eq!(rig.tick(SECOND), Some(Reset::Silence));
}

#[test]
fn k1_the_session_waits_through_a_reset_and_loses_nothing() {
    let mut rig = Rig::live();
    rig.down_number += 1;
    assert_eq!(rig.deliver(50, 60, &[]), Some(Reset::Gap));
    rig.opened(50);
    assert_eq!(rig.told(), []);
    rig.deliver(50, 60, &[(55, "a")]);
    assert_eq!(rig.told(), [message(1, 55)]);
}

#[test]
fn k3_an_owner_that_says_wait_is_not_asked_anew() {
    let mut rig = Rig::live();
    rig.owner(6);
    let opening = rig.link.open;
    for _ in 0..20 {
        assert_eq!(rig.tick(Duration::from_millis(900)), None);
        rig.opening(down_item::Item::Wait(Wait {}));
    }
    assert_eq!(rig.link.open, opening);
    assert_eq!(rig.tick(SECOND), Some(Reset::Silence));
}

/// An owner forgets who is silent, and would let it begin at the end of the queue again.
#[test]
fn k3_a_gateway_that_waits_for_its_turn_shows_life() {
    let mut rig = Rig::live();
    rig.owner(6);
    rig.frames();
    let mut beats = 0;
    for _ in 0..10 {
        assert_eq!(rig.tick(Duration::from_millis(900)), None);
        rig.opening(down_item::Item::Wait(Wait {}));
        beats += rig.items().iter().filter(|item| **item == beat(&["a"])).count();
    }
    assert!(beats >= 4, "{beats} beats in nine seconds");
    // Its numbers go on behind them.
    rig.send_channels();
    let numbers: Vec<u64> = rig.frames().iter().map(|frame| frame.number).collect();
    assert_eq!(numbers, [beats as u64 + 2]);
}

#[test]
fn o4_only_a_higher_owner_is_followed() {
    let mut rig = Rig::live();
    let opening = rig.link.open;
    assert_eq!(rig.owner(4), None);
    assert_eq!(rig.owner(5), None);
    assert_eq!(rig.link.open, opening);
    assert_eq!(rig.owner(6), Some(Reset::NewOwner));
    assert_eq!(rig.link.open, opening + 1);
    assert_eq!(rig.owner_of(2, 1, false), Some(Reset::NewOwner), "of a later log");
    assert_eq!(rig.owner(7), None, "of the log before");
}

#[test]
fn o4_an_owner_that_gives_up_is_sent_nothing_more_and_still_heard() {
    let mut rig = Rig::live();
    rig.publish(1, 6);
    rig.subscribe(1, 8, "b");
    let asked = rig.frames()[0].number;
    rig.owner_of(1, 5, true);
    rig.publish(1, 9);
    rig.subscribe(1, 10, "c");
    assert_eq!(rig.frames(), []);
    assert!(!rig.link.is_up());
    // Its last answers and deliveries may come behind its last beat.
    rig.answer(Series::Plain, 1, answer::Outcome::Offset(64));
    rig.in_force(asked, &[0]);
    rig.deliver(50, 70, &[(60, "a"), (64, "a")]);
    let expected = [
        answered(1, 6, Ok(64)),
        subscribed(1, 8, "b", 50),
        message(1, 60),
        message(1, 64),
    ];
    assert_eq!(rig.told(), expected);
    rig.down_number += 1;
    assert_eq!(
        rig.deliver(70, 80, &[]),
        None,
        "nobody is there to open anew with"
    );
    assert_eq!(rig.link.disruption(rig.now, &mut rig.seen), None, "nor here");
    assert_eq!(rig.tick(SECOND * 3), None);
    assert_eq!(rig.frames(), []);
    rig.owner(6);
    assert_eq!(
        rig.items(),
        [open(Some(position(5, 70)), &["a", "b"], None)],
        "what came late counts"
    );
}

/// Its offsets are another log's, which only its answer to the opening would have told.
#[test]
fn o4_nothing_counts_of_an_owner_that_gives_up_before_its_answer_to_the_opening_came() {
    let mut rig = Rig::live();
    rig.owner_of(2, 3, false);
    rig.send_channels();
    let up_number = rig.frames().last().unwrap().number;
    let answer = [
        down_item::Item::Opened(Opened {
            log_epoch: OTHER_LOG.to_owned(),
            position: 10,
        }),
        down_item::Item::InForce(InForce {
            up_number,
            heads: vec![0],
        }),
        delivery(10, 60, &[(15, "a"), (55, "a")]),
    ];
    let answer = rig.frame(rig.down_number + 1, answer.into());
    rig.owner_of(2, 3, true);
    assert_eq!(rig.link.down(answer, rig.now, &mut rig.seen), None);
    assert_eq!(rig.told(), []);
    rig.owner_of(2, 4, false);
    assert_eq!(rig.items(), [open(Some(position(5, 50)), &["a"], None)]);
    rig.log = OTHER_LOG;
    rig.opened(60);
    assert_eq!(rig.told(), [lost(1, "a")]);
}

#[test]
fn l5_another_log_ends_subscriptions_and_who_comes_again_is_told() {
    let mut rig = Rig::live();
    rig.subscribe(2, 8, "a");
    rig.subscribe(3, 9, "b");
    rig.all_in_force(&[0]);
    rig.told();
    // One that is being given what it missed when the log changes, and one that waits.
    rig.recover(4, 10, "a", 20);
    let question = rig.question("a", 20);
    rig.recovered(question, 25, &[22, 25], true);
    rig.recover(5, 11, "b", 70);
    rig.frames();
    rig.told();
    rig.owner_of(2, 3, false);
    assert!(matches!(
        rig.items().as_slice(),
        [up_item::Item::Open(Open {
            position: Some(Position { ordinal: 1, .. }),
            ..
        })]
    ));
    rig.log = OTHER_LOG;
    rig.opened(10);
    let mut told = rig.told();
    let ended = |told: &Told| match told {
        Told::Lost { session, .. } => *session,
        _ => 0,
    };
    told.sort_by_key(ended);
    let expected = [
        Told::Subscribed {
            session: 5,
            id: 11,
            channel: "b".to_owned(),
            epoch: OTHER_LOG.to_owned(),
            offset: 10,
            missed: Given::Lost,
        },
        lost(1, "a"),
        lost(2, "a"),
        lost(3, "b"),
        lost(4, "a"),
    ];
    assert_eq!(told, expected);
    assert_eq!(rig.items(), [interest(&[], &["a"])], "nobody is left there");
    rig.deliver(10, 20, &[(12, "a"), (15, "b")]);
    assert_eq!(rig.told(), [message(5, 15)]);
    // With the old epoch: lost. Without one: whatever there is.
    rig.recover(1, 12, "b", 50);
    let told = rig.told();
    assert!(
        matches!(
            told.as_slice(),
            [Told::Subscribed {
                missed: Given::Lost,
                ..
            }]
        ),
        "{told:?}"
    );
    let since = Since {
        epoch: String::new(),
        offset: Offset::ZERO,
    };
    rig.ask(2, 13, "b", Some(since));
    rig.question("b", 0);
    rig.tick(SECOND);
    rig.down(vec![]);
    rig.tick(SECOND);
    assert_eq!(rig.items(), [beat(&["b"])]);
}
