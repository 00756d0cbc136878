//! D1 to D4: entries for other shards, between owners that are deposed, cut off and made anew.

use super::*;

/// Users whose inboxes are in shard 1 and conversations with them in shard 0.
struct Names {
    users: Vec<String>,
    conversation: String,
}

fn shard_of(channel: &str) -> u16 {
    ShardId::of_channel(channel, ShardCount::new(2).unwrap()).get()
}

/// A conversation of shard 0 with `count` users of shard 1.
fn names(count: usize) -> Names {
    let mut users: Vec<String> = (0..)
        .map(|n| format!("u{n:04}"))
        .filter(|user| shard_of(&format!("#{user}")) == 1)
        .take(count)
        .collect();
    users.sort();
    let conversation = (0..)
        .map(|n| format!("dm{n}:#{}", users.join(",")))
        .find(|channel| shard_of(channel) == 0)
        .unwrap();
    Names { users, conversation }
}

fn source() -> Rig {
    let mut rig = Rig::of(0, 2, LIMITS, Journal::new());
    rig.open(A, 1, &[]);
    rig
}

fn target() -> Rig {
    Rig::of(1, 2, LIMITS, Journal::new())
}

/// The owner of `of` is heard by `by`.
fn hear(by: &mut Rig, of: &Rig) {
    let is = of.owner.is;
    by.owner
        .owner_beat(is.shard, is.router, (is.log_epoch.ordinal, is.owner_epoch.0));
    by.flush();
}

/// What `source` sent reaches its targets: `target`, and itself. A frame for another router is lost.
fn deliver(source: &mut Rig, target: &mut Rig) {
    for (router, frame) in std::mem::take(&mut source.seen.derive) {
        if router == target.owner.is.router {
            assert_eq!(frame.target, 1);
            target.owner.derive(frame, &mut target.seen);
        } else if router == source.owner.is.router {
            source.owner.derive(frame, &mut source.seen);
        }
    }
    target.flush();
    source.flush();
}

/// And the answers.
fn answer(source: &mut Rig, target: &mut Rig) {
    for (router, frame) in std::mem::take(&mut target.seen.derivation) {
        if router == source.owner.is.router {
            source.owner.derivation(&frame);
        }
    }
    for (_, frame) in std::mem::take(&mut source.seen.derivation) {
        source.owner.derivation(&frame);
    }
    source.flush();
}

/// Both hear of the other, and all that moves arrives, until nothing moves.
fn run(source: &mut Rig, target: &mut Rig) {
    let itself = source.owner.is;
    source.owner.owner_beat(
        itself.shard,
        itself.router,
        (itself.log_epoch.ordinal, itself.owner_epoch.0),
    );
    hear(source, target);
    for _ in 0..20 {
        source.pass(Duration::from_millis(250));
        // Its link must not fall silent.
        source.up(A, 1, Vec::new());
        for _ in 0..20 {
            source.settle();
            deliver(source, target);
            target.settle();
            answer(source, target);
        }
    }
}

fn say(rig: &mut Rig, channel: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        rig.up(A, 1, vec![plain(number, channel, false)]);
        rig.settle();
    }
}

fn texts(numbers: std::ops::RangeInclusive<u64>) -> Vec<String> {
    numbers.map(|number| format!("plain {number}")).collect()
}

fn inbox(user: &str) -> String {
    format!("#{user}")
}

#[test]
fn d1_every_member_is_given_an_entry_of_each_message_once_and_in_order() {
    let names = names(2);
    let (mut source, mut target) = (source(), target());
    say(&mut source, &names.conversation, 1..=3);
    run(&mut source, &mut target);
    say(&mut source, &names.conversation, 4..=5);
    say(&mut source, "room:1", 6..=6);
    run(&mut source, &mut target);
    for user in &names.users {
        assert_eq!(target.log.texts(&inbox(user)), texts(1..=5));
    }
    assert_eq!(target.log.messages().len(), 10);
    assert_eq!(source.owner.deriver().pending(), 0);
}

#[test]
fn d4_an_entry_keeps_the_id_names_its_origin_and_has_no_key() {
    let names = names(1);
    let (mut source, mut target) = (source(), target());
    let original = message(&names.conversation, "hello", "k");
    source.up(A, 1, vec![publish(Series::Keyed, 1, &original, false)]);
    // One that was passed on often enough already.
    let mut tired = message(&names.conversation, "tired", "");
    tired.origin = Some(switchboard_proto::bus::Origin {
        channel: "elsewhere".to_owned(),
        hops: 4,
    });
    source.up(A, 1, vec![publish(Series::Plain, 1, &tired, false)]);
    source.settle();
    run(&mut source, &mut target);
    let entries = target.log.messages();
    assert_eq!(entries.len(), 1);
    let (_, entry, message) = &entries[0];
    assert_eq!(message.id, original.id);
    assert_eq!((message.key.as_str(), entry.number), ("", 0));
    let origin = message.origin.as_ref().unwrap();
    assert_eq!(
        (origin.channel.as_str(), origin.hops),
        (names.conversation.as_str(), 1)
    );
}

#[test]
fn d1_the_applied_position_is_in_the_record_of_the_entries() {
    let names = names(2);
    let (mut source, mut target) = (source(), target());
    say(&mut source, &names.conversation, 1..=2);
    run(&mut source, &mut target);
    let last = (1..=target.log.last().0)
        .rev()
        .find_map(|sequence| match target.log.record(sequence).body {
            Some(record::Body::Batch(batch)) => Some(batch),
            _ => None,
        })
        .unwrap();
    let applied = &last.applied[0];
    assert_eq!((applied.source, applied.ordinal, applied.random), (0, 1, 7));
    assert_eq!(applied.owner_epoch, 1);
    let at_source = source.log.messages().last().unwrap().0;
    let place = applied.at.unwrap();
    assert_eq!(
        (place.offset, place.index),
        (at_source, 1),
        "the second entry of it"
    );
}

#[test]
fn d1_frames_that_come_twice_or_late_are_applied_once() {
    let names = names(1);
    let (mut source, mut target) = (source(), target());
    run(&mut source, &mut target);
    say(&mut source, &names.conversation, 1..=3);
    let frames = source.seen.derive.clone();
    assert!(!frames.is_empty());
    for _ in 0..3 {
        for (_, frame) in &frames {
            target.owner.derive(frame.clone(), &mut target.seen);
        }
        target.flush();
    }
    target.settle();
    run(&mut source, &mut target);
    for (_, frame) in frames {
        target.owner.derive(frame, &mut target.seen);
    }
    target.settle();
    assert_eq!(target.log.texts(&inbox(&names.users[0])), texts(1..=3));
}

#[test]
fn d1_answers_that_are_lost_cost_only_a_repetition() {
    let names = names(1);
    let (mut source, mut target) = (source(), target());
    run(&mut source, &mut target);
    say(&mut source, &names.conversation, 1..=3);
    for _ in 0..5 {
        source.pass(SECOND);
        deliver(&mut source, &mut target);
        target.settle();
        target.seen.derivation.clear();
    }
    assert!(source.owner.deriver().pending() > 0);
    run(&mut source, &mut target);
    assert_eq!(target.log.texts(&inbox(&names.users[0])), texts(1..=3));
    assert_eq!(source.owner.deriver().pending(), 0);
}

#[test]
fn d1_a_log_that_refuses_entries_does_not_let_later_ones_overtake() {
    let names = names(1);
    let (mut source, mut target) = (source(), target());
    run(&mut source, &mut target);
    for number in 1..=4 {
        say(&mut source, &names.conversation, number..=number);
        deliver(&mut source, &mut target);
        source.pass(SECOND);
        deliver(&mut source, &mut target);
    }
    target.refuse();
    target.settle();
    run(&mut source, &mut target);
    assert_eq!(target.log.texts(&inbox(&names.users[0])), texts(1..=4));
}

#[test]
fn d1_a_target_that_is_full_holds_back_only_what_is_derived_for_it() {
    let names = names(1);
    let (mut source, mut target) = (source(), target());
    run(&mut source, &mut target);
    target.log.max_bytes = Some(target.log.info().bytes);
    target.look().unwrap();
    for number in 1..=4 {
        say(&mut source, &names.conversation, number..=number);
        source.pass(SECOND);
        deliver(&mut source, &mut target);
        target.settle();
        answer(&mut source, &mut target);
    }
    assert_eq!(source.log.texts(&names.conversation), texts(1..=4));
    assert_eq!(target.log.texts(&inbox(&names.users[0])).len(), 0);
    target.log.max_bytes = None;
    target.look().unwrap();
    run(&mut source, &mut target);
    assert_eq!(target.log.texts(&inbox(&names.users[0])), texts(1..=4));
}

#[test]
fn d2_a_target_that_is_taken_over_goes_on_where_its_log_is() {
    let names = names(2);
    let (mut source, mut target) = (source(), target());
    run(&mut source, &mut target);
    say(&mut source, &names.conversation, 1..=2);
    deliver(&mut source, &mut target);
    // It stored some, told nobody, and was deposed with more in flight.
    target.store_only();
    say(&mut source, &names.conversation, 3..=4);
    let mut new = target.successor();
    run(&mut source, &mut new);
    for user in &names.users {
        assert_eq!(new.log.texts(&inbox(user)), texts(1..=4));
    }
    // What the old one still says is not believed.
    say(&mut source, &names.conversation, 5..=5);
    run(&mut source, &mut new);
    for user in &names.users {
        assert_eq!(new.log.texts(&inbox(user)), texts(1..=5));
    }
}

#[test]
fn d2_a_target_that_stored_one_entry_of_a_message_is_given_the_others() {
    let names = names(3);
    let (mut source, mut target) = (source(), target());
    run(&mut source, &mut target);
    // Each entry is a batch of its own.
    let long = message(&names.conversation, &"x".repeat(600), "");
    source.up(A, 1, vec![publish(Series::Plain, 1, &long, false)]);
    source.settle();
    deliver(&mut source, &mut target);
    let stored = target.store_only();
    assert_eq!(numbers(&stored).len(), 1);
    let mut target = target.successor();
    run(&mut source, &mut target);
    for user in &names.users {
        assert_eq!(target.log.texts(&inbox(user)).len(), 1, "{user}");
    }
    // The same when the source is the one that is new.
    source.up(A, 1, vec![publish(Series::Plain, 2, &long, false)]);
    source.settle();
    deliver(&mut source, &mut target);
    target.store();
    let mut source = source.successor();
    source.open(A, 1, &[]);
    run(&mut source, &mut target);
    for user in &names.users {
        assert_eq!(target.log.texts(&inbox(user)).len(), 2, "{user}");
    }
}

#[test]
fn d2_a_source_that_is_taken_over_derives_what_is_missing_and_no_more() {
    let names = names(2);
    let (mut source, mut target) = (source(), target());
    run(&mut source, &mut target);
    say(&mut source, &names.conversation, 1..=2);
    run(&mut source, &mut target);
    // Of these the target stores some, and the old owner is not told.
    say(&mut source, &names.conversation, 3..=4);
    deliver(&mut source, &mut target);
    target.settle();
    target.seen.derivation.clear();
    source.up(A, 1, vec![plain(5, &names.conversation, false)]);
    source.store_only();
    let late = source.seen.derive.clone();
    let mut new = source.successor();
    new.open(A, 1, &[]);
    run(&mut new, &mut target);
    say(&mut new, &names.conversation, 6..=6);
    // The deposed owner still tries.
    source.pass(SECOND * 2);
    for (_, frame) in late.into_iter().chain(std::mem::take(&mut source.seen.derive)) {
        target.owner.derive(frame, &mut target.seen);
    }
    target.settle();
    run(&mut new, &mut target);
    for user in &names.users {
        assert_eq!(target.log.texts(&inbox(user)), texts(1..=6));
    }
}

#[test]
fn d2_both_are_taken_over() {
    let names = names(3);
    let (mut source, mut target) = (source(), target());
    run(&mut source, &mut target);
    let mut number = 1;
    for round in 0..6 {
        say(&mut source, &names.conversation, number..=number + 1);
        number += 2;
        deliver(&mut source, &mut target);
        if round % 2 == 0 && target.seen.append.is_some() {
            target.store_only();
        }
        if round % 3 != 0 {
            target = target.successor();
        }
        if round % 2 == 1 {
            source = source.successor();
            source.open(A, 1, &[]);
        }
        hear(&mut source, &target);
    }
    run(&mut source, &mut target);
    for user in &names.users {
        assert_eq!(target.log.texts(&inbox(user)), texts(1..=number - 1));
    }
}

#[test]
fn l6_applied_positions_outlive_the_records_that_they_stand_in() {
    let names = names(2);
    let (mut source, target) = (source(), target());
    say(&mut source, &names.conversation, 1..=5);
    let mut target = target;
    run(&mut source, &mut target);
    // Its state record takes them over; then all before it goes, and nothing but that record tells.
    let mut target = target.successor();
    let stored = target.log.messages().len();
    assert_eq!(stored, 10);
    target.log.first = target.log.last().0;
    let mut target = target.successor();
    let mut source = source.successor();
    source.open(A, 1, &[]);
    say(&mut source, &names.conversation, 6..=6);
    run(&mut source, &mut target);
    for user in &names.users {
        assert_eq!(target.log.texts(&inbox(user)), texts(6..=6), "and no more");
    }
}

/// A frame may be larger than what the target's queue holds.
#[test]
fn d1_a_small_queue_takes_a_large_frame_bit_by_bit() {
    let names = names(1);
    let (mut source, mut target) = (source(), target());
    run(&mut source, &mut target);
    say(&mut source, &names.conversation, 1..=1);
    // While the answer is out, more gathers than the queue of 2000 bytes holds.
    say(&mut source, &names.conversation, 2..=30);
    for _ in 0..5 {
        run(&mut source, &mut target);
    }
    assert_eq!(target.log.texts(&inbox(&names.users[0])), texts(1..=30));
    // And one that is larger by itself.
    let big = "x".repeat(5000);
    source.limits.queue_bytes = 1 << 20;
    source.owner.limits.queue_bytes = 1 << 20;
    let message = message(&names.conversation, &big, "");
    source.up(A, 1, vec![publish(Series::Plain, 31, &message, false)]);
    run(&mut source, &mut target);
    assert_eq!(target.log.texts(&inbox(&names.users[0])).len(), 31);
}

/// The source's log was made anew: its offsets start over.
#[test]
fn d1_a_new_log_of_the_source_begins_anew() {
    let names = names(1);
    let (mut source, mut target) = (source(), target());
    say(&mut source, &names.conversation, 1..=5);
    run(&mut source, &mut target);
    let mut journal = Journal::new();
    journal.epoch = LogEpoch {
        ordinal: 2,
        random: 8,
    };
    let mut new = Rig::of(0, 2, LIMITS, journal);
    new.open(A, 1, &[]);
    say(&mut new, &names.conversation, 6..=7);
    run(&mut new, &mut target);
    assert_eq!(
        target.log.texts(&inbox(&names.users[0])),
        texts(1..=7),
        "what the target has of the old log is not told of the new one"
    );
    // And a new owner of the target knows which log its position is of.
    let mut target = target.successor();
    say(&mut new, &names.conversation, 8..=8);
    run(&mut new, &mut target);
    assert_eq!(target.log.texts(&inbox(&names.users[0])), texts(1..=8));
}

/// Entries of the old log wait in the target's queue when the new one's owner is heard.
#[test]
fn d1_entries_of_the_old_log_do_not_count_for_the_new_one() {
    let names = names(1);
    let (mut source, mut target) = (source(), target());
    run(&mut source, &mut target);
    say(&mut source, &names.conversation, 1..=5);
    let mut frames = std::mem::take(&mut source.seen.derive);
    source.pass(SECOND * 2);
    frames.append(&mut source.seen.derive);
    // Something is in flight, so that they wait.
    target.open(B, 1, &[]);
    let busy = (0..)
        .map(|n| format!("c{n}"))
        .find(|channel| shard_of(channel) == 1);
    target.plain(B, 1, &busy.unwrap());
    for (_, frame) in frames {
        target.owner.derive(frame, &mut target.seen);
    }
    let mut journal = Journal::new();
    journal.epoch = LogEpoch {
        ordinal: 2,
        random: 8,
    };
    let mut new = Rig::of(0, 2, LIMITS, journal);
    new.open(A, 1, &[]);
    say(&mut new, &names.conversation, 6..=7);
    hear(&mut new, &target);
    deliver(&mut new, &mut target);
    target.settle();
    run(&mut new, &mut target);
    let given = target.log.texts(&inbox(&names.users[0]));
    assert!(given.ends_with(&texts(6..=7)), "{given:?}");
}

#[test]
fn d3_derived_up_to_moves_when_all_targets_have_confirmed_and_survives_a_take_over() {
    let names = names(1);
    let mut limits = LIMITS;
    limits.upkeep.state_records = 4;
    let mut source = Rig::of(0, 2, limits, Journal::new());
    source.open(A, 1, &[]);
    let mut target = target();
    say(&mut source, "room:1", 1..=3);
    assert_eq!(source.log.state().derived_up_to, 0, "nobody has confirmed");
    run(&mut source, &mut target);
    // Messages that cause nothing count as derived too.
    say(&mut source, "room:1", 4..=8);
    let derived = source.log.state().derived_up_to;
    assert!(derived > at(6, 0), "{derived}");
    // This one's entry is on the way, and bounds it.
    say(&mut source, &names.conversation, 9..=9);
    let bound = source.log.messages().last().unwrap().0;
    say(&mut source, "room:1", 10..=20);
    let derived = source.log.state().derived_up_to;
    assert!(derived < bound, "{derived}");
    let mut new = source.successor();
    assert!(new.log.state().derived_up_to >= derived, "L6");
    assert!(new.log.state().derived_up_to < bound);
    new.open(A, 1, &[]);
    run(&mut new, &mut target);
    assert_eq!(target.log.texts(&inbox(&names.users[0])), texts(9..=9));
    say(&mut new, "room:1", 21..=30);
    let new = new.successor();
    assert!(new.log.state().derived_up_to > bound);
}

#[test]
fn d3_what_a_target_lacks_is_read_from_the_log_in_bounded_memory() {
    let names = names(1);
    let mut limits = LIMITS;
    limits.memory.window.bytes = 5000;
    limits.queue_bytes = 1 << 20;
    let mut source = Rig::of(0, 2, limits, Journal::new());
    source.open(A, 1, &[]);
    let mut target = Rig::of(1, 2, limits, Journal::new());
    run(&mut source, &mut target);
    // The target is away, and more than what may wait for it is said: the window moves on.
    let large_text = "x".repeat(1500);
    for number in 1..=1500 {
        let message = message(&names.conversation, &format!("{number} {large_text}"), "");
        source.up(A, 1, vec![publish(Series::Plain, number, &message, false)]);
        source.settle();
        source.seen.derive.clear();
    }
    let waiting = source.owner.deriver().pending();
    assert!(waiting > 100 && waiting < 800, "{waiting}");
    source.page = 50;
    for _ in 0..10 {
        run(&mut source, &mut target);
    }
    let given: Vec<u64> = target
        .log
        .texts(&inbox(&names.users[0]))
        .iter()
        .map(|text| text.split_once(' ').unwrap().0.parse().unwrap())
        .collect();
    assert_eq!(given, (1..=1500).collect::<Vec<u64>>());
}

#[test]
fn d2_a_new_source_owner_reads_what_is_before_its_window() {
    let names = names(2);
    let mut limits = LIMITS;
    limits.memory.window.bytes = 600;
    let mut source = Rig::of(0, 2, limits, Journal::new());
    source.open(A, 1, &[]);
    say(&mut source, &names.conversation, 1..=30);
    let mut target = target();
    let mut new = source.successor();
    new.open(A, 1, &[]);
    new.page = 3;
    hear(&mut new, &target);
    deliver(&mut new, &mut target);
    answer(&mut new, &mut target);
    // While it is read, more is said, and the reading fails once.
    new.read();
    new.up(A, 1, vec![plain(31, &names.conversation, false)]);
    new.store_all();
    new.read_fails();
    new.up(A, 1, vec![plain(32, &names.conversation, false)]);
    run(&mut new, &mut target);
    run(&mut new, &mut target);
    for user in &names.users {
        assert_eq!(target.log.texts(&inbox(user)), texts(1..=32));
    }
}
