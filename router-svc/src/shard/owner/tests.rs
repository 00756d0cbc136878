//! The owner against scripted gateways and a scripted log.

use switchboard_proto::bus::{Delivery, DownItem, Interest, Open, OpenEnd, UpItem};

use super::*;

const LIMITS: Limits = Limits {
    batch_bytes: 1000,
    queue_bytes: 2000,
    links: 2,
    link_silence: Duration::from_secs(10),
    beat: Duration::from_secs(1),
};

#[derive(Default)]
struct Seen {
    append: Option<(Sequence, Bytes)>,
    down: Vec<(Incarnation, Down)>,
}

impl Output for Seen {
    fn append(&mut self, expected: Sequence, record: Bytes) {
        assert!(self.append.is_none(), "one append in flight");
        self.append = Some((expected, record));
    }

    fn down(&mut self, gateway: Incarnation, frame: Down) {
        self.down.push((gateway, frame));
    }
}

/// An owner whose fence is record 5, the only shard of its layout.
struct Rig {
    owner: Owner,
    seen: Seen,
    now: Duration,
    up_numbers: std::collections::HashMap<(Incarnation, u64), u64>,
}

impl Rig {
    fn new() -> Self {
        let is = Ownership {
            shard: ShardId::new(0).unwrap(),
            shards: ShardCount::new(1).unwrap(),
            router: Incarnation::from_u128(9),
            log_epoch: LogEpoch {
                ordinal: 1,
                random: 1,
            },
            owner_epoch: OwnerEpoch(5),
        };
        let owner = Owner::new(is, LIMITS);
        Self {
            owner,
            seen: Seen::default(),
            now: Duration::ZERO,
            up_numbers: Default::default(),
        }
    }

    fn up(&mut self, gateway: Incarnation, open: u64, items: Vec<up_item::Item>) {
        let number = self.up_numbers.entry((gateway, open)).or_default();
        *number += 1;
        let items = items
            .into_iter()
            .map(|item| UpItem { item: Some(item) })
            .collect();
        let frame = Up {
            gateway: gateway.to_bytes(),
            open,
            number: *number,
            items,
        };
        self.owner.up(frame, self.now);
        self.flush();
    }

    fn open(&mut self, gateway: Incarnation, open: u64, channels: &[&str]) {
        let add = channels.iter().map(|channel| (*channel).to_owned()).collect();
        let items = vec![
            up_item::Item::Open(Open { position: None }),
            up_item::Item::Interest(Interest {
                add,
                remove: Vec::new(),
            }),
            up_item::Item::OpenEnd(OpenEnd {}),
        ];
        self.up(gateway, open, items);
    }

    fn publish(&mut self, gateway: Incarnation, number: u64, channel: &str, size: usize) {
        let message = Message {
            channel: channel.to_owned(),
            payload: Bytes::from(vec![b'x'; size]),
            ..Message::default()
        };
        let message = message.encode_to_vec().into();
        let publish = Publish {
            series: Series::Plain.into(),
            number,
            message,
        };
        self.up(gateway, 1, vec![up_item::Item::Publish(publish)]);
    }

    fn flush(&mut self) {
        self.owner.flush(self.now, 0, &mut self.seen);
    }

    /// The log stores the append in flight; returns the record.
    fn store(&mut self) -> Record {
        let (expected, record) = self.seen.append.take().expect("an append");
        let record: Record = format::decode(record).unwrap();
        assert_eq!(record.sequence, expected.next().0, "a record names its place");
        self.owner.stored(expected.next()).unwrap();
        self.flush();
        record
    }

    fn items(&mut self, gateway: Incarnation) -> Vec<down_item::Item> {
        let (mine, others) = std::mem::take(&mut self.seen.down)
            .into_iter()
            .partition(|(to, _)| *to == gateway);
        self.seen.down = others;
        let mine: Vec<(Incarnation, Down)> = mine;
        mine.into_iter()
            .flat_map(|(_, frame)| frame.items)
            .filter_map(|item: DownItem| item.item)
            .collect()
    }
}

const A: Incarnation = Incarnation::from_u128(1);
const B: Incarnation = Incarnation::from_u128(2);
const C: Incarnation = Incarnation::from_u128(3);

fn batch(record: Record) -> Vec<u64> {
    match record.body {
        Some(record::Body::Batch(batch)) => batch.entries.iter().map(|entry| entry.number).collect(),
        other => panic!("{other:?}"),
    }
}

fn end(sequence: u64) -> u64 {
    Offset::end_of(Sequence(sequence)).get()
}

fn at(sequence: u64, index: usize) -> u64 {
    Offset::new(Sequence(sequence), index).get()
}

fn stored(number: u64, offset: u64) -> down_item::Item {
    let outcome = Some(answer::Outcome::Offset(offset));
    down_item::Item::Answer(Answer {
        series: 0,
        number,
        outcome,
    })
}

fn offsets(items: &[down_item::Item]) -> Vec<(u64, u64, Vec<u64>)> {
    items
        .iter()
        .filter_map(|item| match item {
            down_item::Item::Delivery(Delivery {
                after,
                up_to,
                messages,
            }) => Some((
                *after,
                *up_to,
                messages.iter().map(|message| message.offset).collect(),
            )),
            _ => None,
        })
        .collect()
}

#[test]
fn opening_is_answered_with_position_and_epoch() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    let (_, frame) = &rig.seen.down[0];
    assert_eq!(
        (frame.ordinal, frame.owner_epoch, frame.open, frame.number),
        (1, 5, 1, 1)
    );
    let expected = [
        down_item::Item::Opened(switchboard_proto::bus::Opened {
            log_epoch: "1-00000001".to_owned(),
            position: end(5),
        }),
        down_item::Item::Applied(switchboard_proto::bus::Applied { up_number: 1 }),
    ];
    assert_eq!(rig.items(A), expected);
}

#[test]
fn nothing_is_answered_or_delivered_before_it_is_stored() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.items(A);
    rig.publish(A, 1, "a", 10);
    assert_eq!(rig.items(A), []);
    rig.store();
    let items = rig.items(A);
    assert_eq!(items[0], stored(1, at(6, 0)));
    assert_eq!(offsets(&items), [(end(5), end(6), vec![at(6, 0)])]);
}

#[test]
fn l1_what_arrives_during_an_append_is_the_next_batch() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    for number in 1..=4 {
        rig.publish(A, number, "a", 10);
    }
    assert_eq!(batch(rig.store()), [1]);
    assert_eq!(batch(rig.store()), [2, 3, 4]);
    assert!(rig.owner.is_idle());
}

#[test]
fn batch_keeps_to_its_size() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.publish(A, 1, "a", 10);
    for number in 2..=4 {
        rig.publish(A, number, "a", 480);
    }
    rig.store();
    assert_eq!(batch(rig.store()), [2, 3]);
    assert_eq!(batch(rig.store()), [4]);
}

#[test]
fn full_queue_refuses_publishers_for_the_time_being() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.items(A);
    rig.publish(A, 1, "a", 10);
    for number in 2..=5 {
        rig.publish(A, number, "a", 490);
    }
    assert_eq!(rig.items(A), []);
    rig.publish(A, 6, "a", 490);
    match rig.items(A).as_slice() {
        [
            down_item::Item::Answer(Answer {
                number: 6,
                outcome: Some(answer::Outcome::Refused(refusal)),
                ..
            }),
        ] => {
            assert_eq!((refusal.code, refusal.temporary), (111, true));
        }
        other => panic!("{other:?}"),
    }
    rig.store();
    rig.publish(A, 7, "a", 490);
    assert_eq!(batch(rig.store()), [2, 3]);
    assert_eq!(batch(rig.store()), [4, 5]);
    assert_eq!(batch(rig.store()), [7]);
}

#[test]
fn l2_record_stored_elsewhere_deposes() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.items(A);
    rig.publish(A, 1, "a", 10);
    let end = rig.owner.stored(Sequence(7));
    assert_eq!(
        end,
        Err(StepDown::Misplaced {
            expected: Sequence(6),
            stored: Sequence(7)
        })
    );
    rig.flush();
    assert_eq!(rig.items(A), [], "nothing of it is answered or delivered");
}

#[test]
fn refused_append_is_told_to_its_publishers_and_the_next_goes_on() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.items(A);
    rig.publish(A, 1, "a", 10);
    rig.publish(A, 2, "a", 10);
    rig.seen.append = None;
    rig.owner.refused("full");
    rig.flush();
    assert!(matches!(
        rig.items(A).as_slice(),
        [down_item::Item::Answer(Answer {
            number: 1,
            outcome: Some(answer::Outcome::Refused(_)),
            ..
        })]
    ));
    assert_eq!(batch(rig.store()), [2]);
    assert_eq!(rig.items(A)[0], stored(2, at(6, 0)));
}

#[test]
fn message_of_another_shard_or_none_at_all_is_refused() {
    let mut rig = Rig::new();
    rig.owner.is.shards = ShardCount::new(2).unwrap();
    rig.open(A, 1, &[]);
    rig.items(A);
    let elsewhere = (0..)
        .map(|n| format!("c{n}"))
        .find(|channel| ShardId::of_channel(channel, ShardCount::new(2).unwrap()).get() == 1);
    rig.publish(A, 1, &elsewhere.unwrap(), 10);
    let garbage = Publish {
        series: 0,
        number: 2,
        message: Bytes::from_static(&[0xff]),
    };
    rig.up(A, 1, vec![up_item::Item::Publish(garbage)]);
    let codes: Vec<u32> = rig
        .items(A)
        .into_iter()
        .filter_map(|item| match item {
            down_item::Item::Answer(Answer {
                outcome: Some(answer::Outcome::Refused(refusal)),
                ..
            }) => Some(refusal.code),
            _ => None,
        })
        .collect();
    assert_eq!(codes, [107, 107]);
    assert!(rig.owner.is_idle());
}

#[test]
fn k4_each_gateway_is_given_its_channels_and_what_they_follow() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.open(B, 1, &["b"]);
    rig.items(A);
    rig.items(B);
    for (number, channel) in [(1, "a"), (2, "a"), (3, "b")] {
        rig.publish(A, number, channel, 10);
    }
    rig.store();
    rig.store();
    assert_eq!(
        offsets(&rig.items(A)),
        [(end(5), end(6), vec![at(6, 0)]), (end(6), end(7), vec![at(7, 0)])]
    );
    // B was sent nothing for record 6, so what it gets next follows its own last position.
    assert_eq!(offsets(&rig.items(B)), [(end(5), end(7), vec![at(7, 1)])]);
}

#[test]
fn k4_new_interest_is_in_force_from_the_owners_position_on() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.publish(A, 1, "a", 10);
    rig.store();
    rig.items(A);
    let add = Interest {
        add: vec!["a".to_owned()],
        remove: Vec::new(),
    };
    rig.up(A, 1, vec![up_item::Item::Interest(add)]);
    let items = rig.items(A);
    assert_eq!(offsets(&items), [(end(5), end(6), vec![])], "first the position");
    assert!(matches!(items.last(), Some(down_item::Item::Applied(applied)) if applied.up_number == 3));
}

#[test]
fn ended_interest_ends_deliveries() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    let remove = Interest {
        add: Vec::new(),
        remove: vec!["a".to_owned()],
    };
    rig.up(A, 1, vec![up_item::Item::Interest(remove)]);
    rig.items(A);
    rig.publish(A, 1, "a", 10);
    rig.store();
    assert_eq!(offsets(&rig.items(A)), []);
    assert_eq!(rig.owner.links().channel_count(), 0);
}

#[test]
fn k1_nothing_is_answered_behind_a_gap_until_the_link_opens_anew() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.items(A);
    rig.up_numbers.insert((A, 1), 5);
    rig.publish(A, 1, "a", 10);
    assert!(rig.owner.is_idle());
    rig.open(A, 2, &["a"]);
    assert!(!rig.items(A).is_empty());
    // The earlier opening is over for good.
    rig.open(A, 1, &["a"]);
    assert_eq!(rig.items(A), []);
}

#[test]
fn answer_for_an_earlier_opening_is_not_sent() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.publish(A, 1, "a", 10);
    rig.open(A, 2, &["a"]);
    rig.items(A);
    rig.store();
    let items = rig.items(A);
    assert!(
        !items
            .iter()
            .any(|item| matches!(item, down_item::Item::Answer(_)))
    );
    assert_eq!(
        offsets(&items),
        [(end(5), end(6), vec![at(6, 0)])],
        "but it is delivered"
    );
}

#[test]
fn links_are_limited_and_silent_ones_make_room() {
    let mut rig = Rig::new();
    rig.open(A, 1, &["a"]);
    rig.open(B, 1, &["a"]);
    rig.open(C, 1, &["a"]);
    assert_eq!(rig.items(C), []);
    rig.now += LIMITS.link_silence;
    rig.owner.tick(rig.now);
    assert_eq!(rig.owner.links().len(), 0);
    assert_eq!(rig.owner.links().channel_count(), 0);
    rig.open(C, 2, &["a"]);
    assert!(!rig.items(C).is_empty());
}

#[test]
fn idle_link_is_sent_a_beat_with_the_position() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.open(B, 1, &["b"]);
    rig.publish(B, 1, "a", 10);
    rig.store();
    rig.items(A);
    rig.now += LIMITS.beat;
    rig.owner.tick(rig.now);
    rig.flush();
    let items = rig.items(A);
    assert_eq!(offsets(&items), [(end(5), end(6), vec![])]);
    assert!(matches!(items.last(), Some(down_item::Item::Beat(_))));
}

#[test]
fn many_answers_are_split_into_frames_of_bounded_size() {
    let mut rig = Rig::new();
    rig.open(A, 1, &[]);
    rig.seen.down.clear();
    let garbage = |number| Publish {
        series: 0,
        number,
        message: Bytes::from_static(&[0xff]),
    };
    rig.up(
        A,
        1,
        (1..=20_000)
            .map(|number| up_item::Item::Publish(garbage(number)))
            .collect(),
    );
    let numbers: Vec<u64> = rig.seen.down.iter().map(|(_, frame)| frame.number).collect();
    assert!(numbers.len() > 1);
    assert_eq!(numbers, (2..2 + numbers.len() as u64).collect::<Vec<_>>());
    assert!(
        rig.seen
            .down
            .iter()
            .all(|(_, frame)| frame.encoded_len() < 300 * 1024)
    );
    assert_eq!(rig.items(A).len(), 20_000);
}
