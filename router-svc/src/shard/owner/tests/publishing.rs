//! L1, L2, P1 to P6: what becomes of a publish.

use super::*;

#[test]
fn l1_nothing_is_answered_or_delivered_before_it_is_stored() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.plain(A, 1, "a");
    assert_eq!(rig.items(A), []);
    rig.store();
    let items = rig.items(A);
    assert_eq!(answers(&items), [(1, Told::Stored(at(3, 0)))]);
    assert_eq!(deliveries(&items), [(end(2), end(3), vec![at(3, 0)])]);
}

#[test]
fn l1_what_arrives_during_an_append_is_the_next_batch() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    for number in 1..=4 {
        rig.plain(A, number, "a");
    }
    assert_eq!(numbers(&rig.store()), [1]);
    assert_eq!(numbers(&rig.store()), [2, 3, 4]);
    assert!(rig.owner.is_idle());
}

#[test]
fn a_busy_shard_waits_for_more_and_one_that_rested_does_not() {
    const MS: Duration = Duration::from_millis(1);
    let mut limits = LIMITS;
    limits.append_interval = 10 * MS;
    let mut rig = Rig::with(limits);
    rig.open(A, 1, &[]);
    rig.pass(SECOND);
    rig.plain(A, 1, "a");
    assert_eq!(rig.owner.append_due(), None, "it is on the way");
    assert_eq!(numbers(&rig.store()), [1], "at once");
    rig.plain(A, 2, "a");
    let due = rig.owner.append_due().unwrap();
    assert!(due > rig.now && due <= rig.now + 10 * MS, "{due:?}");
    assert!(rig.seen.append.is_none());
    rig.plain(A, 3, "a");
    rig.pass(10 * MS);
    rig.flush();
    assert_eq!(numbers(&rig.store()), [2, 3]);
    // As much as one record takes waits for nothing.
    for number in 4..=6 {
        rig.up(A, 1, vec![large(number, "a", 450)]);
    }
    assert_eq!(numbers(&rig.store()), [4, 5]);
    rig.pass(10 * MS);
    rig.flush();
    assert_eq!(numbers(&rig.store()), [6]);
    assert!(rig.owner.is_idle());
}

#[test]
fn batch_keeps_to_its_size() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.plain(A, 1, "a");
    for number in 2..=4 {
        rig.up(A, 1, vec![large(number, "a", 450)]);
    }
    rig.store();
    assert_eq!(numbers(&rig.store()), [2, 3]);
    assert_eq!(numbers(&rig.store()), [4]);
    rig.up(A, 1, vec![large(5, "a", 1500)]);
    assert_eq!(
        numbers(&rig.store()),
        [5],
        "a larger message is a batch of its own"
    );
}

#[test]
fn full_queue_refuses_publishers_for_the_time_being() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.plain(A, 1, "a");
    for number in 2..=5 {
        rig.up(A, 1, vec![large(number, "a", 450)]);
    }
    assert_eq!(rig.items(A), []);
    rig.up(A, 1, vec![large(6, "a", 450)]);
    assert_eq!(rig.answers(A), [(6, Told::Refused(111))]);
    rig.store();
    rig.up(A, 1, vec![large(7, "a", 450)]);
    rig.store_all();
    let stored: Vec<u64> = rig.answers(A).into_iter().map(|(number, _)| number).collect();
    assert_eq!(stored, [1, 2, 3, 4, 5, 7]);
    assert_eq!(rig.owner.queued_bytes(), 0);
}

#[test]
fn l2_record_stored_elsewhere_deposes() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.plain(A, 1, "a");
    let end = rig.owner.stored(Sequence(4), rig.now, &mut rig.seen);
    assert_eq!(
        end,
        Err(StepDown::Misplaced {
            expected: Sequence(3),
            stored: Sequence(4)
        })
    );
    rig.flush();
    assert_eq!(rig.items(A), [], "nothing of it is answered or delivered");
}

#[test]
fn refused_append_is_told_to_its_publishers_and_the_next_goes_on() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.plain(A, 1, "a");
    rig.plain(A, 2, "a");
    rig.refuse();
    assert_eq!(rig.answers(A), [(1, Told::Refused(100))]);
    assert_eq!(numbers(&rig.store()), [2]);
    assert_eq!(rig.answers(A), [(2, Told::Stored(at(3, 0)))]);
}

#[test]
fn message_of_another_shard_or_none_at_all_is_refused() {
    let mut rig = Rig::of(0, 2, LIMITS, Journal::new());
    rig.open(A, 1, &[]);
    let two = ShardCount::new(2).unwrap();
    let elsewhere = (0..)
        .map(|n| format!("c{n}"))
        .find(|channel| ShardId::of_channel(channel, two).get() == 1);
    rig.plain(A, 1, &elsewhere.unwrap());
    let garbage = up_item::Item::Publish(Publish {
        series: Series::Plain.into(),
        number: 2,
        message: Bytes::from_static(&[0xff]),
        again: false,
    });
    rig.up(A, 1, vec![garbage]);
    assert_eq!(rig.answers(A), [(1, Told::Refused(107)), (2, Told::Refused(107))]);
    assert!(rig.owner.is_idle());
}

#[test]
fn p1_what_was_passed_over_cannot_be_taken_after_a_later_number() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.plain(A, 1, "a");
    rig.up(A, 1, vec![large(2, "a", 3000)]);
    rig.plain(A, 3, "a");
    rig.store_all();
    assert_eq!(
        rig.answers(A),
        [
            (2, Told::Refused(111)),
            (1, Told::Stored(at(3, 0))),
            (3, Told::Stored(at(4, 0)))
        ]
    );
    // The answer for 2 was lost, and it would fit by now.
    rig.opens(A, 2, &Opens::since(end(2)));
    rig.items(A);
    rig.up(
        A,
        2,
        vec![plain(2, "a", true), plain(3, "a", true), plain(4, "a", true)],
    );
    rig.store_all();
    assert_eq!(
        rig.answers(A),
        [
            (2, Told::Refused(100)),
            (3, Told::Stored(at(4, 0))),
            (4, Told::Stored(at(5, 0)))
        ]
    );
    assert_eq!(rig.log.texts("a"), ["plain 1", "plain 3", "plain 4"]);
}

#[test]
fn p2_after_a_reset_stored_is_answered_in_flight_waited_for_and_queued_taken_once() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.plain(A, 1, "a");
    rig.store();
    // 2 is in flight, 3 waits behind it.
    rig.plain(A, 2, "a");
    rig.plain(A, 3, "a");
    rig.opens(A, 2, &Opens::since(end(2)));
    rig.items(A);
    let again = (1..=3).map(|number| plain(number, "a", true)).collect();
    rig.up(A, 2, again);
    assert_eq!(rig.answers(A), [(1, Told::Stored(at(3, 0)))]);
    rig.store_all();
    assert_eq!(
        rig.answers(A),
        [(2, Told::Stored(at(4, 0))), (3, Told::Stored(at(5, 0)))]
    );
    assert_eq!(rig.log.texts("a"), ["plain 1", "plain 2", "plain 3"]);
}

#[test]
fn p2_answers_for_an_earlier_opening_are_not_sent() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.plain(A, 1, "a");
    rig.open(A, 2, &["a"]);
    rig.store();
    let items = rig.items(A);
    assert_eq!(answers(&items), []);
    assert_eq!(deliveries(&items), [(end(2), end(3), vec![at(3, 0)])]);
}

#[test]
fn p2_what_was_answered_is_forgotten_and_open_numbers_are_not() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    for number in 1..=3 {
        rig.plain(A, number, "a");
    }
    rig.store_all();
    rig.items(A);
    // 1 and 2 were answered; 3's answer was lost.
    rig.open_numbers.insert(A, (3, 1));
    rig.opens(A, 2, &Opens::since(end(2)));
    rig.up(A, 2, vec![plain(3, "a", true), plain(4, "a", true)]);
    rig.store_all();
    assert_eq!(
        rig.answers(A),
        [(3, Told::Stored(at(4, 1))), (4, Told::Stored(at(5, 0)))]
    );
}

#[test]
fn p2_a_new_owner_knows_what_the_old_one_stored_and_refused() {
    let mut old = Rig::new();
    old.open(A, 1, &[]);
    old.plain(A, 1, "a");
    old.up(A, 1, vec![large(2, "a", 3000)]);
    old.plain(A, 3, "a");
    old.store_all();
    assert_eq!(old.answers(A)[0], (2, Told::Refused(111)));
    let mut new = old.successor();
    new.opens(A, 1, &Opens::since(end(2)));
    new.items(A);
    let again = (1..=4).map(|number| plain(number, "a", true)).collect();
    new.up(A, 1, again);
    new.store_all();
    assert_eq!(
        new.answers(A),
        [
            (1, Told::Stored(at(3, 0))),
            (2, Told::Refused(100)),
            (3, Told::Stored(at(4, 0))),
            (4, Told::Stored(at(7, 0))),
        ]
    );
    assert_eq!(new.log.texts("a"), ["plain 1", "plain 3", "plain 4"]);
}

#[test]
fn p2_an_append_that_nobody_was_told_of_is_recognised_by_the_new_owner() {
    let mut old = Rig::new();
    old.open(A, 1, &[]);
    old.plain(A, 1, "a");
    old.store_only();
    let mut new = old.successor();
    new.opens(A, 1, &Opens::since(end(2)));
    new.up(A, 1, vec![plain(1, "a", true)]);
    assert_eq!(new.answers(A), [(1, Told::Stored(at(3, 0)))]);
    assert_eq!(new.seen.append, None);

    // And one that did not make it is new.
    let mut old = Rig::new();
    old.open(A, 1, &[]);
    old.plain(A, 1, "a");
    let mut new = old.successor();
    new.opens(A, 1, &Opens::since(end(2)));
    new.items(A);
    new.up(A, 1, vec![plain(1, "a", true)]);
    new.store_all();
    assert_eq!(new.answers(A), [(1, Told::Stored(at(5, 0)))]);
    assert_eq!(new.log.texts("a"), ["plain 1"]);
}

#[test]
fn p3_a_new_owner_that_read_too_little_says_unknown() {
    let mut old = Rig::new();
    old.open(A, 1, &[]);
    old.plain(A, 1, "a");
    old.store_all();
    // A state record, behind which the tail may begin.
    let mut middle = old.successor();
    middle.open(B, 1, &[]);
    middle.plain(B, 1, "a");
    middle.store_all();
    let mut new = middle.successor_from(6);
    new.owner.keys_known(Sequence(1), new.now);
    new.flush();
    new.store();
    new.opens(A, 1, &Opens::since(end(2)));
    new.items(A);
    new.up(A, 1, vec![plain(1, "a", true)]);
    assert_eq!(new.answers(A), [(1, Told::Unknown)]);
    assert!(new.owner.is_idle());
    // First sent after where the tail begins: it would be in there.
    new.opens(A, 2, &Opens::since(end(5)));
    new.items(A);
    new.up(A, 2, vec![plain(2, "a", true)]);
    new.store_all();
    assert_eq!(new.answers(A), [(2, Told::Stored(at(9, 0)))]);
    // What was never sent before needs no proof.
    new.opens(A, 3, &Opens::anew(&[]));
    new.items(A);
    new.up(A, 3, vec![plain(3, "a", false)]);
    new.store_all();
    assert_eq!(new.answers(A), [(3, Told::Stored(at(10, 0)))]);
    assert_eq!(new.log.texts("a"), ["plain 1", "plain 1", "plain 2", "plain 3"]);
}

#[test]
fn p3_a_position_of_another_log_proves_that_nothing_is_here() {
    let mut rig = Rig::new();
    let mut opens = Opens::since(end(900));
    opens.since.as_mut().unwrap().random = 8;
    rig.opens(A, 1, &opens);
    rig.items(A);
    rig.up(A, 1, vec![plain(1, "a", true)]);
    rig.store_all();
    assert_eq!(rig.answers(A), [(1, Told::Stored(at(3, 0)))]);
}

#[test]
fn p5_the_second_with_a_key_shares_the_fate_of_the_first() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.open(B, 1, &[]);
    rig.plain(A, 1, "a");
    rig.up(A, 1, vec![keyed(1, "a", "k", false)]);
    rig.up(B, 1, vec![keyed(1, "a", "k", false)]);
    rig.store();
    assert_eq!(rig.answers(B), []);
    rig.store();
    assert_eq!(rig.answers(A)[1], (1, Told::Stored(at(4, 0))));
    assert_eq!(rig.answers(B), [(1, Told::Duplicate(at(4, 0)))]);
    // Long after, and by the log's refusal.
    rig.up(B, 1, vec![keyed(2, "a", "k", false), keyed(3, "a", "l", false)]);
    rig.up(A, 1, vec![keyed(2, "a", "l", false)]);
    assert_eq!(rig.answers(B), [(2, Told::Duplicate(at(4, 0)))]);
    rig.refuse();
    assert_eq!(rig.answers(A), [(2, Told::Refused(100))]);
    assert_eq!(rig.answers(B), [(3, Told::Refused(100))]);
    rig.up(A, 1, vec![keyed(3, "a", "l", false)]);
    rig.store_all();
    assert_eq!(
        rig.answers(A),
        [(3, Told::Stored(at(5, 0)))],
        "the key went with the message"
    );
    assert_eq!(rig.log.texts("a"), ["plain 1", "keyed 1", "keyed 3"]);
}

#[test]
fn p5_a_withdrawal_takes_the_key_along_and_tells_who_had_attached() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.open(B, 1, &[]);
    rig.plain(B, 1, "a");
    rig.up(A, 1, vec![keyed(1, "a", "k", false)]);
    rig.up(B, 1, vec![keyed(1, "a", "k", false)]);
    // A's message still waits; its opening drops it.
    rig.opens(A, 2, &Opens::since(end(2)));
    assert_eq!(rig.answers(B), [(1, Told::Refused(100))]);
    rig.up(A, 2, vec![keyed(1, "a", "k", true)]);
    rig.up(B, 1, vec![keyed(2, "a", "k", false)]);
    rig.items(A);
    rig.store_all();
    assert_eq!(rig.answers(A), [(1, Told::Stored(at(4, 0)))]);
    assert_eq!(
        rig.answers(B),
        [(1, Told::Stored(at(3, 0))), (2, Told::Duplicate(at(4, 0)))]
    );
    assert_eq!(rig.log.texts("a"), ["plain 1", "keyed 1"]);
}

#[test]
fn p5_after_a_reset_one_that_had_attached_is_answered_as_before() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.open(B, 1, &[]);
    rig.up(A, 1, vec![keyed(1, "a", "k", false)]);
    rig.up(
        B,
        1,
        vec![keyed(1, "a", "k", false), keyed(2, "a", "other", false)],
    );
    rig.store_all();
    rig.items(B);
    // Number 1 is below B's highest stored one, and yet it was not refused.
    rig.opens(B, 2, &Opens::since(end(2)));
    rig.items(B);
    rig.up(B, 2, vec![keyed(1, "a", "k", true), keyed(2, "a", "other", true)]);
    assert_eq!(
        rig.answers(B),
        [(1, Told::Duplicate(at(3, 0))), (2, Told::Stored(at(4, 0)))]
    );
}

#[test]
fn p5_keyed_publishes_wait_until_the_keys_are_known_and_plain_ones_do_not() {
    let mut old = Rig::new();
    old.open(A, 1, &[]);
    old.up(A, 1, vec![keyed(1, "a", "k", false)]);
    old.store_all();
    let middle = old.successor();
    let mut new = middle.successor_from(5);
    new.flush();
    new.store();
    new.open(B, 1, &[]);
    new.up(
        B,
        1,
        vec![
            keyed(1, "a", "k", false),
            keyed(2, "a", "new", false),
            plain(1, "a", false),
        ],
    );
    new.store_all();
    assert_eq!(new.answers(B), [(1, Told::Stored(at(8, 0)))], "the plain one");
    // Its key is read back.
    let (offset, _, stored) = new.log.messages().remove(0);
    let name = keys::name(&stored).unwrap();
    new.owner
        .older_keys(name, Offset::from_u64(offset), stored.id.clone(), new.time_us);
    new.owner.keys_known(Sequence(1), new.now);
    new.flush();
    new.store_all();
    assert_eq!(
        new.answers(B),
        [(1, Told::Duplicate(at(3, 0))), (2, Told::Stored(at(9, 0)))]
    );
    assert_eq!(new.log.texts("a"), ["keyed 1", "plain 1", "keyed 2"]);
    assert_eq!(new.owner.queued_bytes(), 0);
}

#[test]
fn p5_keyed_publishes_that_wait_for_keys_are_sent_once_after_a_reset() {
    let mut new = Rig::new().successor_from(1);
    new.flush();
    new.store();
    new.open(A, 1, &[]);
    new.up(A, 1, vec![keyed(1, "a", "k", false), keyed(2, "a", "l", false)]);
    new.opens(A, 2, &Opens::since(end(2)));
    assert_eq!(new.owner.queued_bytes(), 0);
    new.up(A, 2, vec![keyed(1, "a", "k", true), keyed(2, "a", "l", true)]);
    new.items(A);
    new.owner.keys_known(Sequence(1), new.now);
    new.flush();
    new.store_all();
    assert_eq!(
        new.answers(A),
        [(1, Told::Stored(at(5, 0))), (2, Told::Stored(at(5, 1)))]
    );
    assert_eq!(new.log.texts("a"), ["keyed 1", "keyed 2"]);
}

#[test]
fn p5_keys_of_the_tail_are_known_to_a_new_owner() {
    let mut old = Rig::new();
    old.open(A, 1, &[]);
    old.up(A, 1, vec![keyed(1, "a", "k", false)]);
    old.store_all();
    let mut new = old.successor();
    new.open(B, 1, &[]);
    new.up(B, 1, vec![keyed(1, "a", "k", false)]);
    assert_eq!(new.answers(B), [(1, Told::Duplicate(at(3, 0)))]);
}

#[test]
fn p5_a_full_table_refuses_keyed_publishes_until_keys_are_old() {
    let mut limits = LIMITS;
    limits.memory.keys = 2;
    let mut rig = Rig::with(limits);
    rig.open(A, 1, &[]);
    let all = ["k", "l", "m"].iter().zip(1..);
    rig.up(
        A,
        1,
        all.map(|(key, number)| keyed(number, "a", key, false)).collect(),
    );
    assert_eq!(rig.answers(A), [(3, Told::Refused(111))]);
    rig.store_all();
    rig.plain(A, 1, "a");
    rig.store_all();
    assert_eq!(rig.answers(A).len(), 3, "plain ones go on");
    rig.pass(SECOND * 299);
    // The link is long gone.
    rig.open(A, 2, &[]);
    rig.up(A, 2, vec![keyed(4, "a", "k", false), keyed(5, "a", "m", false)]);
    assert_eq!(
        rig.answers(A),
        [(4, Told::Duplicate(at(3, 0))), (5, Told::Refused(111))]
    );
    rig.pass(SECOND * 2);
    rig.up(A, 2, vec![keyed(6, "a", "m", false), keyed(7, "a", "k", false)]);
    rig.store_all();
    let stored: Vec<_> = rig
        .answers(A)
        .into_iter()
        .filter(|(number, _)| *number > 5)
        .collect();
    assert_eq!(
        stored,
        [(6, Told::Stored(at(5, 0))), (7, Told::Stored(at(5, 1)))],
        "after the window a key is free"
    );
}

#[test]
fn p6_another_users_key_is_another_key() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    let mut other = message("a", "of bob", "k");
    other.sender.as_mut().unwrap().user = "bob".to_owned();
    rig.up(
        A,
        1,
        vec![
            keyed(1, "a", "k", false),
            publish(Series::Keyed, 2, &other, false),
            keyed(3, "b", "k", false),
        ],
    );
    rig.store_all();
    let told = rig.answers(A);
    assert!(
        told.iter().all(|(_, told)| matches!(told, Told::Stored(_))),
        "{told:?}"
    );
}
