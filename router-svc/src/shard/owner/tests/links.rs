//! K1 to K6, R4, R8: how gateways are linked and what they are given.

use super::*;
use crate::shard::window::Window;

fn with_openings(openings: usize) -> Rig {
    let mut limits = LIMITS;
    limits.links.openings = openings;
    Rig::with(limits)
}

/// A rig whose window holds about `messages` small messages.
fn with_window(messages: usize) -> Rig {
    let mut limits = LIMITS;
    limits.memory.window.bytes = messages * 160;
    Rig::with(limits)
}

fn held(offset: u64, channels: &'static [&'static str]) -> Opens<'static> {
    Opens {
        position: Some(position(1, offset)),
        ..Opens::anew(channels)
    }
}

fn is_wait(item: &down_item::Item) -> bool {
    matches!(item, down_item::Item::Wait(_))
}

fn asks_for_channels(items: &[down_item::Item]) -> bool {
    items
        .iter()
        .any(|item| matches!(item, down_item::Item::SendChannels(_)))
}

fn in_force(items: &[down_item::Item]) -> Vec<(u64, Vec<u64>)> {
    items
        .iter()
        .filter_map(|item| match item {
            down_item::Item::InForce(in_force) => Some((in_force.up_number, in_force.heads.clone())),
            _ => None,
        })
        .collect()
}

/// Publishes by C, who is linked for that alone, and stores.
fn say(rig: &mut Rig, channel: &str, from: u64, to: u64) {
    for number in from..=to {
        rig.plain(C, number, channel);
        rig.store_all();
    }
}

#[test]
fn k1_nothing_is_taken_behind_a_gap_until_the_link_opens_anew() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.up_numbers.insert((A, 1), 5);
    rig.plain(A, 1, "a");
    assert!(rig.owner.is_idle());
    rig.up_numbers.insert((A, 1), 2);
    rig.plain(A, 1, "a");
    assert!(rig.owner.is_idle(), "a number that came before");
    assert!(opened_at(&rig.open(A, 2, &["a"])).is_some());
    // The earlier opening is over for good.
    rig.up_numbers.clear();
    assert_eq!(rig.open(A, 1, &["a"]), []);
}

/// While the owner goes on with its beats the gateway sees no silence.
#[test]
fn k1_a_gap_is_told_at_once_and_once() {
    let is_reset = |item: &down_item::Item| matches!(item, down_item::Item::Reset(_));
    for channels in [&["a"][..], &[]] {
        let mut rig = Rig::new();
        rig.open(A, 1, channels);
        // One that came before is no gap.
        rig.up_numbers.insert((A, 1), 0);
        rig.plain(A, 1, "a");
        assert_eq!(rig.items(A), []);
        rig.up_numbers.insert((A, 1), 5);
        for number in 1..=2 {
            rig.plain(A, number, "a");
        }
        let told = rig.items(A);
        assert_eq!(told.iter().filter(|item| is_reset(item)).count(), 1, "{told:?}");
        assert!(opened_at(&rig.open(A, 2, channels)).is_some());
        rig.pass(SECOND * 3);
        assert!(!rig.items(A).iter().any(is_reset));
    }
}

/// A frame that the bus does not take is lost, and with it each opening that ends with it.
#[test]
fn k4_no_number_of_channels_makes_a_frame_too_large() {
    let mut rig = Rig::new();
    let written = Sequence(1 << 24);
    rig.owner.last = written;
    rig.owner.memory.window = Window::new(LIMITS.memory.window, Offset::end_of(written));
    let names: Vec<String> = (0..200_000).map(|number| format!("room:{number}")).collect();
    let channels: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut set = ChannelSet::default();
    channels.iter().for_each(|channel| set.insert(channel));
    let open = up_item::Item::Open(Open {
        position: None,
        channels: set.count,
        channels_hash: set.hash,
        sent_since: None,
        credit: MUCH,
    });
    rig.up(A, 1, vec![open]);
    // As many as a gateway's frame holds, about.
    for some in channels.chunks(20_000) {
        rig.up(A, 1, vec![add(some)]);
    }
    rig.up(A, 1, vec![up_item::Item::OpenEnd(OpenEnd {})]);
    let frames = rig.frames(A);
    for frame in &frames {
        assert!(frame.encoded_len() < 1 << 20, "{}", frame.encoded_len());
    }
    let items = frames.into_iter().flat_map(|frame| frame.items);
    let answers: Vec<switchboard_proto::bus::InForce> = items
        .filter_map(|item| match item.item {
            Some(down_item::Item::InForce(answer)) => Some(answer),
            _ => None,
        })
        .collect();
    let heads: usize = answers.iter().map(|answer| answer.heads.len()).sum();
    assert_eq!(heads, channels.len());
    assert!(answers.is_sorted_by_key(|answer| answer.up_number));
    assert_eq!(answers.last().unwrap().up_number, 12);
}

#[test]
fn k1_frames_down_are_numbered_within_an_opening_and_bounded() {
    let mut rig = Rig::new();
    rig.opens(A, 1, &Opens::anew(&["a"]));
    let garbage = |number| {
        up_item::Item::Publish(Publish {
            series: Series::Plain.into(),
            number,
            message: Bytes::from_static(&[0xff]),
            again: false,
        })
    };
    rig.up(A, 1, (1..=20_000).map(garbage).collect());
    let frames = rig.frames(A);
    assert!(frames.len() > 3);
    for (frame, number) in frames.iter().zip(1..) {
        assert_eq!((frame.ordinal, frame.owner_epoch, frame.open), (1, 1, 1));
        assert_eq!(frame.number, number);
        assert!(frame.encoded_len() < 300 * 1024);
    }
    let answered: usize = frames.iter().map(|frame| frame.items.len()).sum();
    assert!(answered >= 20_000);
    rig.opens(A, 2, &Opens::anew(&["a"]));
    let again = rig.frames(A);
    assert_eq!((again[0].open, again[0].number), (2, 1));
}

#[test]
fn k2_a_set_that_is_held_is_not_asked_for() {
    let mut rig = Rig::new();
    rig.opens(A, 1, &Opens::anew(&["a", "b"]));
    let items = rig.items(A);
    assert!(asks_for_channels(&items));
    assert_eq!(opened_at(&items), Some(end(2)));
    rig.opens(A, 2, &held(end(2), &["a", "b"]));
    let items = rig.items(A);
    assert!(!asks_for_channels(&items), "it is held");
    assert_eq!(opened_at(&items), Some(end(2)));
    rig.plain(A, 1, "a");
    rig.open(C, 1, &[]);
    say(&mut rig, "b", 1, 1);
    assert_eq!(given(&rig.items(A), end(2)), [at(3, 0)], "and in force");
    rig.opens(A, 3, &held(end(3), &["a", "c"]));
    let items = rig.items(A);
    assert!(asks_for_channels(&items), "as many, but others");
    say(&mut rig, "b", 2, 2);
    say(&mut rig, "c", 3, 3);
    assert_eq!(
        given(&rig.items(A), end(3)),
        [at(5, 0)],
        "what was left out is gone"
    );
}

#[test]
fn k2_a_list_that_is_not_what_was_announced_opens_anew() {
    let mut rig = with_openings(1);
    let mut set = ChannelSet::default();
    set.insert("a");
    set.insert("b");
    let opening = up_item::Item::Open(Open {
        channels: set.count,
        channels_hash: set.hash,
        credit: MUCH,
        ..Open::default()
    });
    rig.up(A, 1, vec![opening]);
    rig.up(A, 1, vec![add(&["a"])]);
    rig.up(A, 1, vec![up_item::Item::OpenEnd(OpenEnd {})]);
    let items = rig.items(A);
    assert!(is_reset(&items));
    assert_eq!(opened_at(&items), None);
    assert_eq!(rig.owner.links().channel_count(), 0);
    assert_eq!(rig.owner.links().resets(), 1);
    assert_eq!(
        opened_at(&rig.open(A, 2, &["a", "b"])),
        Some(end(2)),
        "its place is free"
    );
}

#[test]
fn k2_opening_drops_what_is_queued_here() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    for number in 1..=3 {
        rig.plain(A, number, "a");
    }
    assert!(rig.owner.queued_bytes() > 0);
    rig.open(A, 2, &[]);
    assert_eq!(rig.owner.queued_bytes(), 0);
    rig.store_all();
    assert_eq!(
        rig.log.texts("a"),
        ["plain 1"],
        "what is in flight cannot be dropped"
    );
}

#[test]
fn k3_openings_are_admitted_a_few_at_a_time_and_the_others_told_to_wait() {
    let mut rig = with_openings(1);
    let mut set = ChannelSet::default();
    set.insert("a");
    let opening = || {
        up_item::Item::Open(Open {
            channels: set.count,
            channels_hash: set.hash,
            credit: MUCH,
            ..Open::default()
        })
    };
    for gateway in [A, B, C] {
        rig.up(gateway, 1, vec![opening()]);
    }
    assert!(asks_for_channels(&rig.items(A)));
    for gateway in [B, C] {
        assert!(rig.items(gateway).iter().all(is_wait));
    }
    rig.pass(SECOND);
    for gateway in [B, C] {
        let items = rig.items(gateway);
        assert!(
            !items.is_empty() && items.iter().all(is_wait),
            "it goes on being told"
        );
    }
    rig.up(A, 1, vec![add(&["a"])]);
    assert!(rig.items(A).iter().all(is_wait), "a chunk is acknowledged");
    rig.up(A, 1, vec![up_item::Item::OpenEnd(OpenEnd {})]);
    assert!(opened_at(&rig.items(A)).is_some());
    assert!(asks_for_channels(&rig.items(B)), "the next one");
    assert_eq!(rig.items(C), []);
    // One that stalls in the middle makes room, long before it counts as gone.
    rig.pass(SECOND * 3);
    assert!(asks_for_channels(&rig.items(C)));
}

#[test]
fn k3_openings_that_wait_and_begin_anew_do_not_use_up_places() {
    let mut rig = with_openings(1);
    for open in 1..=5 {
        for gateway in [A, B, C] {
            // Each stops after its first frame.
            let mut set = ChannelSet::default();
            set.insert("a");
            let opening = up_item::Item::Open(Open {
                channels: set.count,
                channels_hash: set.hash,
                credit: MUCH,
                ..Open::default()
            });
            rig.up(gateway, open, vec![opening]);
        }
    }
    rig.items(A);
    rig.pass(SECOND * 10);
    assert_eq!(rig.owner.links().len(), 0);
    for gateway in [A, B, C] {
        assert_eq!(opened_at(&rig.open(gateway, 9, &["a"])), Some(end(2)));
    }
}

#[test]
fn k4_each_gateway_is_given_its_channels_and_what_they_follow() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.open(B, 1, &["b"]);
    for (number, channel) in [(1, "a"), (2, "a"), (3, "b")] {
        rig.plain(A, number, channel);
    }
    rig.store_all();
    assert_eq!(
        deliveries(&rig.items(A)),
        [(end(2), end(3), vec![at(3, 0)]), (end(3), end(4), vec![at(4, 0)])]
    );
    // B was sent nothing for record 3, so what it gets next follows its own last position.
    assert_eq!(deliveries(&rig.items(B)), [(end(2), end(4), vec![at(4, 1)])]);
}

#[test]
fn k4_an_opening_goes_on_behind_the_position_that_the_gateway_holds() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.open(C, 1, &[]);
    say(&mut rig, "a", 1, 4);
    rig.items(A);
    rig.opens(A, 2, &held(at(4, 0), &["a"]));
    let items = rig.items(A);
    assert_eq!(opened_at(&items), Some(at(4, 0)));
    assert_eq!(given(&items, at(4, 0)), [at(5, 0), at(6, 0)]);
    say(&mut rig, "a", 5, 5);
    assert_eq!(given(&rig.items(A), end(6)), [at(7, 0)]);
}

#[test]
fn k4_r4_new_interest_is_in_force_from_the_owners_position_on_and_brings_heads() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.open(C, 1, &[]);
    say(&mut rig, "a", 1, 1);
    say(&mut rig, "b", 2, 2);
    rig.items(A);
    rig.up(A, 1, vec![add(&["a", "b"])]);
    let items = rig.items(A);
    assert_eq!(
        deliveries(&items),
        [(end(2), end(4), vec![])],
        "first the position"
    );
    // A channel without a message has the bound that the window began with.
    assert_eq!(in_force(&items), [(2, vec![at(3, 0), at(4, 0)])]);
    rig.up(A, 1, vec![add(&["c"])]);
    let unknown = rig.owner.memory().window.head("c");
    assert_eq!(in_force(&rig.items(A)), [(3, vec![unknown.get()])]);
    assert!(unknown < Offset::new(Sequence(3), 0));
    rig.up(A, 1, vec![remove(&["b"])]);
    say(&mut rig, "b", 3, 3);
    say(&mut rig, "a", 4, 4);
    assert_eq!(
        given(&rig.items(A), end(4)),
        [at(6, 0)],
        "ended interest ends deliveries"
    );
}

#[test]
fn k5_a_beat_of_another_set_resets_and_one_of_the_same_does_not() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.up(A, 1, vec![add(&["b"])]);
    rig.up(A, 1, vec![beat(&["b", "a"])]);
    assert!(!is_reset(&rig.items(A)));
    rig.up(A, 1, vec![beat(&["a", "c"])]);
    assert!(is_reset(&rig.items(A)));
    assert_eq!(rig.owner.links().channel_count(), 0);
    // Nothing of that opening is taken any more.
    rig.plain(A, 1, "a");
    assert!(rig.owner.is_idle());
    // The owner must not believe that it holds that set.
    rig.opens(A, 2, &held(end(2), &["a", "b"]));
    let items = rig.items(A);
    assert!(asks_for_channels(&items) && opened_at(&items).is_some());
}

/// What a gateway was given, and how far it is.
struct Given {
    position: u64,
    offsets: Vec<u64>,
}

impl Given {
    fn take(&mut self, items: &[down_item::Item]) {
        self.offsets.extend(given(items, self.position));
        if let Some((_, up_to, _)) = deliveries(items).last() {
            self.position = *up_to;
        }
    }
}

#[test]
fn k6_a_gateway_that_does_not_confirm_is_held_back_alone_and_gets_everything_once_it_does() {
    let mut rig = Rig::new();
    let little = Opens {
        credit: 100,
        ..Opens::anew(&["a"])
    };
    rig.opens(A, 1, &little);
    rig.items(A);
    rig.open(B, 1, &["a"]);
    rig.open(C, 1, &[]);
    say(&mut rig, "a", 1, 10);
    let all: Vec<u64> = (3..=12).map(|sequence| at(sequence, 0)).collect();
    assert_eq!(given(&rig.items(B), end(2)), all, "the other one lacks nothing");
    let mut it = Given {
        position: end(2),
        offsets: Vec::new(),
    };
    it.take(&rig.items(A));
    assert!(it.offsets.len() < 4, "{:?}", it.offsets);
    assert_eq!(rig.owner.links().lagging_count(), 1);
    // Answers and interest are not held back.
    rig.plain(A, 1, "b");
    rig.store_all();
    rig.up(A, 1, vec![add(&["b"])]);
    let items = rig.items(A);
    assert_eq!(answers(&items), [(1, Told::Stored(at(13, 0)))]);
    assert_eq!(in_force(&items).len(), 1);
    it.take(&items);
    assert!(it.position < end(12), "it is not told that it has what it lacks");
    rig.confirm(A, 1, it.position);
    it.take(&rig.items(A));
    // With the message of the channel that it has become interested in meanwhile.
    let expected: Vec<u64> = (3..=13).map(|sequence| at(sequence, 0)).collect();
    assert_eq!(it.offsets, expected);
    assert_eq!(it.position, end(13));
    assert_eq!(rig.owner.links().lagging_count(), 0);
}

#[test]
fn k6_confirming_little_by_little_gives_everything_in_order() {
    let mut rig = Rig::new();
    let little = Opens {
        credit: 1,
        ..Opens::anew(&["a"])
    };
    rig.opens(A, 1, &little);
    rig.items(A);
    rig.open(C, 1, &[]);
    let mut it = Given {
        position: end(2),
        offsets: Vec::new(),
    };
    for number in 1..=20 {
        say(&mut rig, "a", number, number);
        it.take(&rig.items(A));
        if number % 3 == 0 {
            rig.confirm(A, 1, it.position);
            it.take(&rig.items(A));
        }
    }
    assert!(it.offsets.len() < 20);
    rig.confirm(A, 1, it.position);
    it.take(&rig.items(A));
    let expected: Vec<u64> = (3..=22).map(|sequence| at(sequence, 0)).collect();
    assert_eq!(it.offsets, expected);
}

#[test]
fn k6_a_link_whose_place_left_the_window_is_reset() {
    let mut rig = with_window(3);
    let little = Opens {
        credit: 1,
        ..Opens::anew(&["a"])
    };
    rig.opens(A, 1, &little);
    rig.items(A);
    rig.open(C, 1, &[]);
    say(&mut rig, "a", 1, 2);
    assert_eq!(given(&rig.items(A), end(2)), [at(3, 0)]);
    say(&mut rig, "a", 3, 9);
    assert_eq!(rig.items(A), [], "not before it could be given something");
    rig.confirm(A, 1, end(3));
    let items = rig.items(A);
    assert!(is_reset(&items));
    assert_eq!(given(&items, end(3)), Vec::<u64>::new());
    // R8: its opening says what it lacks.
    rig.opens(A, 2, &held(end(3), &["a"]));
    assert_eq!(opened_at(&rig.items(A)), Some(end(11)));
}

#[test]
fn r8_a_position_below_the_window_is_told_where_deliveries_begin() {
    let mut rig = with_window(3);
    rig.open(C, 1, &[]);
    say(&mut rig, "a", 1, 9);
    let start = rig.owner.memory().window.start();
    assert!(start > Offset::end_of(Sequence(3)));
    rig.opens(A, 1, &held(end(3), &["a"]));
    assert_eq!(opened_at(&rig.items(A)), Some(end(11)));
    rig.opens(B, 1, &held(start.get(), &["a"]));
    let items = rig.items(B);
    assert_eq!(opened_at(&items), Some(start.get()));
    let rest: Vec<u64> = (start.sequence().0 + 1..=11)
        .map(|sequence| at(sequence, 0))
        .collect();
    assert_eq!(given(&items, start.get()), rest);
}

#[test]
fn ephemeral_messages_go_to_whoever_is_interested_and_are_not_stored() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.open(B, 1, &["b"]);
    let message: Bytes = message("a", "typing", "").encode_to_vec().into();
    let item = up_item::Item::Ephemeral(switchboard_proto::bus::Ephemeral { message });
    rig.up(B, 1, vec![item]);
    assert!(matches!(rig.items(A).as_slice(), [down_item::Item::Ephemeral(_)]));
    assert_eq!(rig.items(B), []);
    assert!(rig.owner.is_idle());
}

#[test]
fn links_are_limited_and_silent_ones_make_room() {
    let mut limits = LIMITS;
    limits.links.links = 2;
    let mut rig = Rig::with(limits);
    rig.open(A, 1, &["a"]);
    rig.open(B, 1, &["a"]);
    assert_eq!(rig.open(C, 1, &["a"]), []);
    rig.pass(SECOND * 9);
    rig.up(A, 1, vec![beat(&["a"])]);
    rig.pass(SECOND);
    assert_eq!(rig.owner.links().len(), 1, "A spoke");
    assert!(opened_at(&rig.open(C, 2, &["a"])).is_some());
    rig.pass(SECOND * 10);
    assert_eq!(rig.owner.links().len(), 0);
    assert_eq!(rig.owner.links().channel_count(), 0);
}

#[test]
fn idle_link_is_sent_a_beat_with_the_position() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.open(C, 1, &[]);
    say(&mut rig, "a", 1, 1);
    rig.items(A);
    rig.pass(SECOND);
    let items = rig.items(A);
    assert_eq!(deliveries(&items), [(end(2), end(3), vec![])]);
    assert!(matches!(items.last(), Some(down_item::Item::Beat(_))));
}
