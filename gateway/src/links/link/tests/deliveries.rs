//! Deliveries and their confirmation: K4, K6, R1.

use super::*;

#[test]
fn k4_a_delivery_behind_a_hole_resets_and_is_not_delivered() {
    let mut rig = Rig::live();
    assert_eq!(rig.deliver(55, 60, &[(58, "a")]), Some(Reset::Gap));
    assert_eq!(rig.told(), []);
    assert_eq!(rig.items(), [open(Some(position(5, 50)), &["a"], None)]);
}

#[test]
fn k4_a_message_that_came_already_is_not_delivered_again() {
    let mut rig = Rig::live();
    rig.deliver(50, 60, &[(55, "a")]);
    rig.deliver(50, 70, &[(55, "a"), (65, "a")]);
    assert_eq!(rig.told(), [message(1, 55), message(1, 65)]);
    // A position never goes back.
    rig.deliver(50, 55, &[(55, "a")]);
    assert_eq!(rig.deliver(70, 80, &[]), None);
    assert_eq!(rig.told(), []);
}

#[test]
fn k4_an_owner_that_begins_before_our_position_doubles_nothing() {
    let mut rig = Rig::live();
    rig.deliver(50, 60, &[(55, "a")]);
    rig.owner(6);
    rig.opened(50);
    rig.deliver(50, 70, &[(55, "a"), (65, "a")]);
    assert_eq!(rig.told(), [message(1, 55), message(1, 65)]);
    rig.subscribe(2, 8, "a");
    assert_eq!(rig.told(), [subscribed(2, 8, "a", 70)]);
}

/// A session registers and reads the position in one step, between two deliveries.
#[test]
fn k4_whoever_subscribes_between_two_messages_has_the_one_or_gets_the_other() {
    let mut rig = Rig::live();
    for (number, offset) in (60..70).enumerate() {
        let session = 10 + number as u64;
        rig.subscribe(session, 8, "a");
        let told = rig.told();
        assert_eq!(
            told,
            [subscribed(
                session,
                8,
                "a",
                rig.link.place.as_ref().unwrap().offset.get()
            )]
        );
        let before = rig.link.place.as_ref().unwrap().offset.get();
        rig.deliver(before, offset, &[]);
        rig.down(vec![
            delivery(offset, offset, &[]),
            delivery(before, offset + 1, &[(offset + 1, "a")]),
        ]);
        let told = rig.told();
        assert!(told.contains(&message(session, offset + 1)), "{told:?}");
    }
}

#[test]
fn k6_every_frame_confirms_the_position() {
    let mut rig = Rig::live();
    rig.deliver(50, 60, &[(55, "a")]);
    rig.subscribe(1, 8, "b");
    let frames = rig.frames();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].confirmed, 60);
    rig.deliver(60, 70, &[]);
    rig.tick(SECOND);
    assert_eq!(rig.frames()[0].confirmed, 70);
    rig.owner(6);
    assert_eq!(rig.frames()[0].confirmed, 70);
}

/// The owner stops at the credit, so it has to hear of the position well before.
#[test]
fn k6_what_was_taken_is_confirmed_before_the_credit_is_used_up() {
    const LARGE: &str = "a-channel-whose-name-is-a-hundred-bytes-long-so-that-each-of-these-messages-weighs-something-here-12";
    let mut rig = Rig::live();
    let mut unconfirmed = 0;
    let mut frames = Vec::new();
    let mut at = 50;
    for _ in 0..100 {
        rig.deliver(at, at + 10, &[(at + 5, LARGE)]);
        at += 10;
        unconfirmed += LARGE.len();
        let sent = rig.frames();
        if let Some(frame) = sent.last() {
            assert_eq!(items(&sent), [beat(&["a"])]);
            assert_eq!(frame.confirmed, at);
            unconfirmed = 0;
        }
        frames.extend(sent);
        assert!(
            unconfirmed <= BOUNDS.credit / 2,
            "{unconfirmed} bytes are not confirmed"
        );
    }
    assert!(frames.len() < 60, "one frame for several: {}", frames.len());
}

#[test]
fn r1_messages_that_are_not_stored_go_to_whoever_is_there() {
    let mut rig = Rig::live();
    rig.subscribe(2, 8, "b");
    rig.all_in_force(&[0]);
    rig.told();
    let ephemeral = || {
        let message = Bytes::from_static(b"a");
        down_item::Item::Ephemeral(Ephemeral { message })
    };
    rig.down(vec![ephemeral(), delivery(50, 60, &[(55, "a")]), ephemeral()]);
    let expected = [
        Told::Ephemeral { session: 1 },
        message(1, 55),
        Told::Ephemeral { session: 1 },
    ];
    assert_eq!(rig.told(), expected);

    let session = rig.session(1);
    let sent = Bytes::from_static(b"a");
    rig.link
        .publish_ephemeral(session.clone(), 9, sent.clone(), &mut rig.seen);
    assert_eq!(rig.told(), [answered(1, 9, Ok(0))]);
    assert_eq!(
        rig.items(),
        [up_item::Item::Ephemeral(Ephemeral {
            message: sent.clone()
        })]
    );
    // Never kept: without an owner it is refused.
    rig.owner(6);
    rig.frames();
    rig.link.publish_ephemeral(session, 10, sent, &mut rig.seen);
    assert_eq!(rig.told(), [answered(1, 10, Err(100))]);
    rig.opened(60);
    assert_eq!(rig.frames(), []);
}
