//! O4, O6: when an owner stops being one.

use super::*;

fn held(owner_epoch: u64, offset: u64) -> Opens<'static> {
    Opens {
        position: Some(position(owner_epoch, offset)),
        ..Opens::anew(&["a"])
    }
}

fn went_back(result: &Result<(), StepDown>) -> bool {
    matches!(result, Err(StepDown::WentBack { .. }))
}

#[test]
fn o4_an_owner_steps_down_when_the_leader_has_more() {
    let mut rig = Rig::new();
    rig.look().unwrap();
    let asked = rig.owner.append_number();
    let mut info = rig.log.info();
    info.last = Sequence(3);
    assert_eq!(
        rig.owner.leader(info, asked),
        Err(StepDown::Overtaken {
            ours: Sequence(2),
            last: Sequence(3)
        })
    );
}

#[test]
fn o4_its_own_append_is_nobody_elses() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    let asked = rig.owner.append_number();
    rig.plain(A, 1, "a");
    // Stored, and not yet acknowledged.
    rig.store_only();
    let info = rig.log.info();
    rig.owner.leader(info, rig.owner.append_number()).unwrap();
    rig.owner.stored(Sequence(3), rig.now, &mut rig.seen).unwrap();
    rig.owner.leader(info, asked).unwrap();
    rig.look().unwrap();
}

#[test]
fn o6_a_position_from_before_our_fence_at_or_behind_it_means_that_the_log_went_back() {
    let old = Rig::new();
    // The fence is record 3.
    let mut new = old.successor();
    assert!(went_back(&new.try_open(A, 1, &held(1, end(3)))));
    let mut new = old.successor();
    assert!(went_back(&new.try_open(A, 1, &held(1, at(3, 0)))));
    let mut new = old.successor();
    assert!(went_back(&new.try_open(A, 1, &held(1, end(900)))));
    let mut new = old.successor();
    new.opens(A, 1, &held(1, end(2)));
    assert_eq!(opened_at(&new.items(A)), Some(end(2)));
    new.opens(A, 2, &held(3, end(4)));
    assert_eq!(opened_at(&new.items(A)), Some(end(4)));
}

/// The log lost its end, was taken over, and has grown past that place again.
#[test]
fn o6_a_position_from_before_an_earlier_fence_at_or_behind_it_tells_too() {
    let mut middle = Rig::new().successor();
    middle.open(B, 1, &[]);
    for number in 1..=5 {
        middle.plain(B, number, "a");
        middle.store_all();
    }
    // Fences are records 1, 3 and 10.
    let mut new = middle.successor();
    assert!(went_back(&new.try_open(A, 1, &held(1, end(6)))));
    let mut new = middle.successor();
    new.opens(A, 1, &held(3, end(6)));
    assert_eq!(opened_at(&new.items(A)), Some(end(6)), "the owner of that time");
    new.opens(A, 2, &held(1, end(2)));
    assert_eq!(opened_at(&new.items(A)), Some(end(2)));
}

#[test]
fn o6_a_position_of_another_log_is_no_proof() {
    let mut rig = Rig::new();
    for (open, ordinal, random) in [(1, 2, 7), (2, 1, 8), (3, 0, 7)] {
        let mut opens = held(1, end(900));
        let position = opens.position.as_mut().unwrap();
        (position.ordinal, position.random) = (ordinal, random);
        rig.opens(A, open, &opens);
        assert_eq!(opened_at(&rig.items(A)), Some(end(2)), "it starts anew");
    }
    rig.look().unwrap();
    rig.look().unwrap();
}

#[test]
fn o6_a_position_beyond_the_end_is_not_answered_and_the_leader_decides() {
    let mut rig = Rig::new();
    rig.opens(A, 1, &held(1, end(3)));
    assert_eq!(rig.items(A), []);
    assert_eq!(rig.look(), Ok(()), "it may have been asked before");
    assert!(went_back(&rig.look()), "we own the log, and it is shorter");

    let mut deposed = Rig::new();
    let new = deposed.successor();
    deposed.opens(A, 1, &held(3, new.owner.position().get()));
    assert_eq!(deposed.items(A), []);
    deposed.log = new.log.clone();
    assert!(matches!(deposed.look(), Err(StepDown::Overtaken { .. })));
}

#[test]
fn o6_an_append_that_began_later_decides_too() {
    let mut rig = Rig::new();
    rig.open(B, 1, &[]);
    rig.opens(A, 1, &held(1, end(30)));
    rig.plain(B, 1, "a");
    rig.store_only();
    let result = rig.owner.stored(Sequence(3), rig.now, &mut rig.seen);
    assert!(matches!(result, Err(StepDown::WentBack { .. })));
}

/// The shard would be closed until somebody comes to look, for nothing.
#[test]
fn o6_an_acknowledgement_from_before_a_take_over_does_not_prove_that_the_log_went_back() {
    let mut old = Rig::new();
    old.open(B, 1, &[]);
    old.plain(B, 1, "a");
    old.store_only();
    // Before the acknowledgement arrives, there is a new owner, who told the gateway its position.
    let new = old.successor();
    old.opens(A, 1, &held(4, new.owner.position().get()));
    old.owner.stored(Sequence(3), old.now, &mut old.seen).unwrap();
    old.log = new.log.clone();
    assert!(matches!(old.look(), Err(StepDown::Overtaken { .. })));
}

#[test]
fn o6_an_answer_of_the_leader_from_before_a_take_over_does_not_prove_that_the_log_went_back() {
    let mut old = Rig::new();
    let (info, asked) = (old.log.info(), old.owner.append_number());
    let new = old.successor();
    old.opens(A, 1, &held(3, new.owner.position().get()));
    old.owner.leader(info, asked).unwrap();
    old.log = new.log.clone();
    assert!(matches!(old.look(), Err(StepDown::Overtaken { .. })));
}

#[test]
fn o6_gateways_that_ask_again_and_again_do_not_put_the_decision_off() {
    let mut rig = Rig::new();
    rig.opens(A, 1, &held(1, end(30)));
    rig.look().unwrap();
    rig.opens(A, 2, &held(1, end(30)));
    assert!(went_back(&rig.look()));
}

#[test]
fn o6_a_position_in_the_record_that_is_being_stored_is_no_proof() {
    let mut rig = Rig::new();
    rig.open(B, 1, &[]);
    rig.opens(A, 1, &held(1, end(3)));
    rig.plain(B, 1, "a");
    rig.store_all();
    rig.look().unwrap();
    rig.look().unwrap();
    rig.opens(A, 2, &held(1, end(3)));
    assert_eq!(opened_at(&rig.items(A)), Some(end(3)));
}

#[test]
fn o6_a_log_that_stays_shorter_than_what_it_acknowledged_stops_the_shard() {
    let mut rig = Rig::new();
    let info = |rig: &Rig, less: u64| LogInfo {
        last: Sequence(rig.owner.last.0 - less),
        ..rig.log.info()
    };
    let appends = rig.owner.append_number();
    // A leader that was just elected may be behind for a moment.
    for _ in 0..12 {
        let short = info(&rig, 1);
        assert_eq!(rig.owner.leader(short, appends), Ok(()));
    }
    let right = info(&rig, 0);
    assert_eq!(rig.owner.leader(right, appends), Ok(()));
    for _ in 0..12 {
        let short = info(&rig, 1);
        assert_eq!(rig.owner.leader(short, appends), Ok(()));
    }
    let short = info(&rig, 1);
    assert!(matches!(
        rig.owner.leader(short, appends),
        Err(StepDown::WentBack { .. })
    ));
}
