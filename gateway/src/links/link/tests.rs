//! The link against a scripted owner.

use bytes::Bytes;
use switchboard_proto::bus::{Applied, DownItem, Opened};

use super::*;

const ANSWER: Duration = Duration::from_secs(4);

const TIMING: Timing = Timing {
    silence: Duration::from_secs(3),
    open_retry: Duration::from_secs(1),
    beat: Duration::from_secs(1),
};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Subscribed {
        session: u64,
        id: u32,
        channel: String,
        epoch: String,
        offset: u64,
    },
    NotSubscribed {
        session: u64,
        id: u32,
        code: u32,
    },
    Lost {
        session: u64,
        channel: String,
    },
    Answered {
        session: u64,
        id: u32,
        outcome: Result<u64, u32>,
    },
    Message {
        session: u64,
        offset: u64,
    },
}

/// A session that has always given up what it is told to have subscribed to.
const GIVES_UP: u64 = 99;

#[derive(Default)]
struct Seen {
    frames: Vec<Up>,
    told: Vec<Told>,
}

impl Subscriber for u64 {
    fn id(&self) -> u64 {
        *self
    }
}

impl Output<u64> for Seen {
    fn up(&mut self, router: Incarnation, frame: Up) {
        assert_eq!(router, Incarnation::from_u128(9), "frames go to the owner");
        self.frames.push(frame);
    }

    fn subscribed(
        &mut self,
        session: &u64,
        id: u32,
        channel: &ChannelName,
        log_epoch: &str,
        offset: Offset,
    ) -> bool {
        let (channel, epoch) = (channel.to_string(), log_epoch.to_owned());
        self.told.push(Told::Subscribed {
            session: *session,
            id,
            channel,
            epoch,
            offset: offset.get(),
        });
        *session != GIVES_UP
    }

    fn not_subscribed(&mut self, session: &u64, id: u32, _: &ChannelName, code: ErrorCode) {
        self.told.push(Told::NotSubscribed {
            session: *session,
            id,
            code: code.code(),
        });
    }

    fn lost(&mut self, session: &u64, channel: &ChannelName) {
        self.told.push(Told::Lost {
            session: *session,
            channel: channel.to_string(),
        });
    }

    fn answered(&mut self, session: &u64, id: u32, outcome: Result<Offset, Refusal>) {
        let outcome = outcome.map(Offset::get).map_err(|refusal| refusal.code);
        self.told.push(Told::Answered {
            session: *session,
            id,
            outcome,
        });
    }

    fn deliver(&mut self, message: &Delivered, channels: &Channels<u64>) {
        let channel = std::str::from_utf8(&message.message).unwrap();
        let mut sessions: Vec<u64> = channels.subscribers(channel).copied().collect();
        sessions.sort_unstable();
        self.told
            .extend(sessions.into_iter().map(|session| Told::Message {
                session,
                offset: message.offset,
            }));
    }
}

/// A link, the frames it sent and what sessions were told; plays the owner with epoch 5.
struct Rig {
    link: Link<u64>,
    seen: Seen,
    now: Duration,
    down_number: u64,
}

impl Rig {
    fn new() -> Self {
        let bounds = Bounds {
            frame: 1024,
            unanswered: 4,
        };
        let shard = ShardId::new(3).unwrap();
        let link = Link::new(shard, Incarnation::from_u128(1), TIMING, bounds);
        Self {
            link,
            seen: Seen::default(),
            now: Duration::from_secs(100),
            down_number: 0,
        }
    }

    /// A link whose owner has answered, at position 50.
    fn up() -> Self {
        let mut rig = Self::new();
        rig.owner(5);
        rig.opened(50);
        rig.frames();
        rig.told();
        rig
    }

    fn owner(&mut self, owner_epoch: u64) {
        let beat = OwnerBeat {
            shard: 3,
            router: Incarnation::from_u128(9).to_bytes(),
            ordinal: 1,
            owner_epoch,
            released: false,
        };
        self.link.owner_beat(&beat, self.now, &mut self.seen);
        self.down_number = 0;
    }

    fn subscribe(&mut self, session: u64, id: u32, channel: &str) {
        self.link.subscribe(
            session,
            id,
            name(channel),
            self.now + ANSWER,
            self.now,
            &mut self.seen,
        );
    }

    fn publish(&mut self, session: u64, id: u32) {
        self.link.publish(
            session,
            id,
            Bytes::from_static(b"m"),
            self.now + ANSWER,
            self.now,
            &mut self.seen,
        );
    }

    fn down(&mut self, items: Vec<down_item::Item>) -> Option<Reset> {
        self.down_number += 1;
        let frame = self.frame(self.down_number, items);
        self.link.down(frame, self.now, &mut self.seen)
    }

    fn frame(&self, number: u64, items: Vec<down_item::Item>) -> Down {
        let owner_epoch = self.link.owner.unwrap().epoch;
        let items = items
            .into_iter()
            .map(|item| DownItem { item: Some(item) })
            .collect();
        Down {
            shard: 3,
            ordinal: 1,
            owner_epoch,
            open: self.link.open,
            number,
            items,
        }
    }

    fn opened(&mut self, position: u64) {
        let opened = Opened {
            log_epoch: "1-00000001".to_owned(),
            position,
        };
        assert_eq!(self.down(vec![down_item::Item::Opened(opened)]), None);
    }

    fn applied(&mut self, up_number: u64) {
        assert_eq!(
            self.down(vec![down_item::Item::Applied(Applied { up_number })]),
            None
        );
    }

    fn deliver(&mut self, after: u64, up_to: u64, messages: &[(u64, &'static str)]) -> Option<Reset> {
        let messages = messages
            .iter()
            .map(|(offset, channel)| Delivered {
                offset: *offset,
                message: Bytes::from_static(channel.as_bytes()),
            })
            .collect();
        self.down(vec![down_item::Item::Delivery(Delivery {
            after,
            up_to,
            messages,
        })])
    }

    fn tick(&mut self, later: Duration) -> Option<Reset> {
        self.now += later;
        self.link.tick(self.now, &mut self.seen)
    }

    /// The frames since the last call.
    fn frames(&mut self) -> Vec<Up> {
        self.link.flush(self.now, &mut self.seen);
        std::mem::take(&mut self.seen.frames)
    }

    fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.seen.told)
    }
}

fn name(channel: &str) -> ChannelName {
    ChannelName::parse(channel, 255).unwrap()
}

fn items(frames: &[Up]) -> Vec<up_item::Item> {
    frames
        .iter()
        .flat_map(|frame| &frame.items)
        .filter_map(|item| item.item.clone())
        .collect()
}

fn interest(add: &[&str], remove: &[&str]) -> up_item::Item {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    up_item::Item::Interest(Interest {
        add: owned(add),
        remove: owned(remove),
    })
}

fn subscribed(session: u64, id: u32, channel: &str, offset: u64) -> Told {
    let (channel, epoch) = (channel.to_owned(), "1-00000001".to_owned());
    Told::Subscribed {
        session,
        id,
        channel,
        epoch,
        offset,
    }
}

#[test]
fn k2_opening_says_position_and_channels() {
    let mut rig = Rig::new();
    rig.subscribe(1, 7, "a");
    assert_eq!(rig.frames(), [], "no owner yet");
    rig.owner(5);
    let frames = rig.frames();
    assert_eq!((frames[0].open, frames[0].number), (1, 1));
    let expected = [
        up_item::Item::Open(Open { position: None }),
        interest(&["a"], &[]),
        up_item::Item::OpenEnd(OpenEnd {}),
    ];
    assert_eq!(items(&frames), expected);
    rig.opened(50);
    rig.applied(1);
    assert_eq!(rig.told(), [subscribed(1, 7, "a", 50)]);

    rig.owner(6);
    let position = Position {
        ordinal: 1,
        owner_epoch: 5,
        offset: 50,
    };
    assert_eq!(
        items(&rig.frames())[0],
        up_item::Item::Open(Open {
            position: Some(position)
        })
    );
}

#[test]
fn k4_subscriber_waits_for_its_interest_and_gets_all_behind_its_offset() {
    let mut rig = Rig::up();
    rig.subscribe(1, 7, "a");
    let frames = rig.frames();
    assert_eq!(items(&frames), [interest(&["a"], &[])]);
    // Stored before the owner knew of the interest, so it is not for this subscriber.
    assert_eq!(rig.deliver(50, 60, &[]), None);
    assert_eq!(rig.told(), []);
    rig.applied(frames[0].number);
    assert_eq!(rig.told(), [subscribed(1, 7, "a", 60)]);
    rig.deliver(60, 70, &[(61, "a"), (62, "b"), (63, "a")]);
    let messages = [61, 63].map(|offset| Told::Message { session: 1, offset });
    assert_eq!(rig.told(), messages);
}

#[test]
fn second_subscriber_of_a_channel_is_answered_at_once() {
    let mut rig = Rig::up();
    rig.subscribe(1, 7, "a");
    let number = rig.frames()[0].number;
    rig.applied(number);
    rig.deliver(50, 60, &[]);
    rig.told();
    rig.subscribe(2, 8, "a");
    assert_eq!(rig.told(), [subscribed(2, 8, "a", 60)]);
    assert_eq!(rig.frames(), [], "the owner knows already");
}

#[test]
fn channel_dropped_and_asked_for_again_waits_for_the_later_answer() {
    let mut rig = Rig::up();
    rig.subscribe(1, 7, "a");
    let first = rig.frames()[0].number;
    rig.link.unsubscribe(1, &name("a"), &mut rig.seen);
    assert_eq!(
        rig.told(),
        [Told::NotSubscribed {
            session: 1,
            id: 7,
            code: 100
        }]
    );
    rig.subscribe(2, 8, "a");
    let again = rig.frames();
    assert_eq!(items(&again), [interest(&[], &["a"]), interest(&["a"], &[])]);
    rig.applied(first);
    assert_eq!(rig.told(), []);
    rig.applied(again[0].number);
    assert_eq!(rig.told(), [subscribed(2, 8, "a", 50)]);
}

#[test]
fn k1_missing_frame_resets_the_link() {
    let mut rig = Rig::up();
    let open = rig.link.open;
    rig.down_number += 1;
    assert_eq!(rig.deliver(50, 60, &[]), Some(Reset::Gap));
    let frames = rig.frames();
    assert_eq!(frames[0].open, open + 1);
    let position = Position {
        ordinal: 1,
        owner_epoch: 5,
        offset: 50,
    };
    assert_eq!(
        items(&frames)[0],
        up_item::Item::Open(Open {
            position: Some(position)
        })
    );
}

#[test]
fn k4_delivery_behind_a_hole_resets_and_is_not_delivered() {
    let mut rig = Rig::up();
    rig.subscribe(1, 7, "a");
    let number = rig.frames()[0].number;
    rig.applied(number);
    rig.told();
    assert_eq!(rig.deliver(55, 60, &[(58, "a")]), Some(Reset::Gap));
    assert_eq!(rig.told(), []);
}

#[test]
fn k4_message_that_came_already_is_not_delivered_again() {
    let mut rig = Rig::up();
    rig.subscribe(1, 7, "a");
    let number = rig.frames()[0].number;
    rig.applied(number);
    rig.told();
    rig.deliver(50, 60, &[(55, "a")]);
    rig.deliver(50, 70, &[(55, "a"), (65, "a")]);
    let messages = [55, 65].map(|offset| Told::Message { session: 1, offset });
    assert_eq!(rig.told(), messages);
}

#[test]
fn frames_of_an_earlier_opening_or_a_deposed_owner_are_ignored() {
    let mut rig = Rig::up();
    let mut old = rig.frame(2, vec![down_item::Item::Applied(Applied { up_number: 99 })]);
    old.open -= 1;
    assert_eq!(rig.link.down(old.clone(), rig.now, &mut rig.seen), None);
    old.open += 1;
    old.owner_epoch -= 1;
    old.number = 77;
    assert_eq!(rig.link.down(old, rig.now, &mut rig.seen), None);
    assert!(rig.link.is_up());
}

#[test]
fn o4_only_a_higher_owner_is_followed() {
    let mut rig = Rig::up();
    let open = rig.link.open;
    rig.owner(4);
    rig.owner(5);
    assert_eq!(rig.link.open, open);
    rig.owner(6);
    assert_eq!(rig.link.open, open + 1);
}

#[test]
fn k1_silent_owner_resets_the_link_and_is_asked_again_and_again() {
    let mut rig = Rig::up();
    assert_eq!(rig.tick(Duration::from_millis(2900)), None);
    assert_eq!(rig.tick(Duration::from_millis(100)), Some(Reset::Silence));
    // Each time it is waited for longer, up to a limit.
    for seconds in [1, 2, 4, 4] {
        assert_eq!(rig.tick(Duration::from_millis(seconds * 1000 - 1)), None);
        assert_eq!(rig.tick(Duration::from_millis(1)), Some(Reset::Silence));
    }
}

#[test]
fn idle_link_beats_every_second() {
    let mut rig = Rig::up();
    rig.tick(Duration::from_millis(999));
    assert_eq!(rig.frames(), []);
    rig.tick(Duration::from_millis(1));
    assert_eq!(items(&rig.frames()), [up_item::Item::Beat(UpBeat {})]);
}

#[test]
fn publishes_are_numbered_and_answered_by_number() {
    let mut rig = Rig::up();
    rig.publish(1, 7);
    rig.publish(2, 8);
    let numbers: Vec<u64> = items(&rig.frames())
        .into_iter()
        .map(|item| match item {
            up_item::Item::Publish(publish) => publish.number,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(numbers, [1, 2]);
    let stored = Answer {
        series: 0,
        number: 2,
        outcome: Some(answer::Outcome::Offset(64)),
    };
    let refused = Answer {
        number: 1,
        outcome: Some(answer::Outcome::Refused(refusal(ErrorCode::TooManyRequests))),
        ..stored
    };
    rig.down(vec![
        down_item::Item::Answer(stored),
        down_item::Item::Answer(refused),
    ]);
    let expected = [
        Told::Answered {
            session: 2,
            id: 8,
            outcome: Ok(64),
        },
        Told::Answered {
            session: 1,
            id: 7,
            outcome: Err(111),
        },
    ];
    assert_eq!(rig.told(), expected);
}

#[test]
fn p4_every_command_is_answered_within_the_timeout_and_not_twice() {
    let mut rig = Rig::up();
    rig.publish(1, 7);
    rig.subscribe(1, 8, "a");
    let frames = rig.frames();
    rig.tick(Duration::from_millis(2000));
    rig.down(vec![]);
    rig.tick(Duration::from_millis(1999));
    assert_eq!(rig.told(), []);
    rig.tick(Duration::from_millis(1));
    let expected = [
        Told::Answered {
            session: 1,
            id: 7,
            outcome: Err(100),
        },
        Told::NotSubscribed {
            session: 1,
            id: 8,
            code: 100,
        },
    ];
    assert_eq!(rig.told(), expected);
    // The owner's answer comes too late: it must not subscribe the session after all.
    rig.applied(frames[0].number);
    rig.down(vec![down_item::Item::Answer(Answer {
        series: 0,
        number: 1,
        outcome: Some(answer::Outcome::Offset(1)),
    })]);
    rig.deliver(50, 60, &[(55, "a")]);
    assert_eq!(rig.told(), []);
}

#[test]
fn publish_waits_for_an_owner_and_is_sent_once() {
    let mut rig = Rig::new();
    rig.publish(1, 7);
    rig.owner(5);
    assert!(
        !items(&rig.frames())
            .iter()
            .any(|item| matches!(item, up_item::Item::Publish(_)))
    );
    rig.opened(50);
    assert!(
        matches!(items(&rig.frames()).as_slice(), [up_item::Item::Publish(publish)] if publish.number == 1)
    );
    rig.tick(Duration::from_secs(1));
    assert!(
        !items(&rig.frames())
            .iter()
            .any(|item| matches!(item, up_item::Item::Publish(_)))
    );
}

#[test]
fn publish_whose_outcome_is_unknown_is_not_sent_again() {
    let mut rig = Rig::up();
    rig.publish(1, 7);
    rig.frames();
    rig.owner(6);
    assert_eq!(
        rig.told(),
        [Told::Answered {
            session: 1,
            id: 7,
            outcome: Err(100)
        }]
    );
    rig.opened(60);
    assert!(
        !items(&rig.frames())
            .iter()
            .any(|item| matches!(item, up_item::Item::Publish(_)))
    );
}

#[test]
fn too_many_unanswered_publishes_are_refused_for_the_time_being() {
    let mut rig = Rig::up();
    for id in 0..4 {
        rig.publish(1, id);
    }
    assert_eq!(rig.told(), []);
    rig.publish(1, 4);
    assert_eq!(
        rig.told(),
        [Told::Answered {
            session: 1,
            id: 4,
            outcome: Err(111)
        }]
    );
}

#[test]
fn reopening_at_the_same_position_loses_nothing() {
    let mut rig = Rig::up();
    rig.subscribe(1, 7, "a");
    let number = rig.frames()[0].number;
    rig.applied(number);
    rig.told();
    rig.owner(6);
    rig.opened(50);
    assert_eq!(rig.told(), []);
    rig.deliver(50, 60, &[(55, "a")]);
    assert_eq!(
        rig.told(),
        [Told::Message {
            session: 1,
            offset: 55
        }]
    );
}

#[test]
fn reopening_at_a_later_position_makes_subscribers_come_again() {
    let mut rig = Rig::up();
    rig.subscribe(1, 7, "a");
    let number = rig.frames()[0].number;
    rig.applied(number);
    rig.told();
    rig.owner(6);
    let frames = rig.frames();
    rig.opened(80);
    assert_eq!(
        rig.told(),
        [Told::Lost {
            session: 1,
            channel: "a".to_owned()
        }]
    );
    rig.subscribe(1, 9, "a");
    assert_eq!(rig.told(), []);
    rig.applied(frames[0].number);
    assert_eq!(rig.told(), [subscribed(1, 9, "a", 80)]);
}

#[test]
fn r4_held_channel_is_answered_while_the_link_is_down() {
    let mut rig = Rig::up();
    rig.subscribe(1, 7, "a");
    let number = rig.frames()[0].number;
    rig.applied(number);
    rig.owner(6);
    rig.told();
    rig.subscribe(2, 8, "a");
    assert_eq!(rig.told(), [subscribed(2, 8, "a", 50)]);
}

#[test]
fn owner_that_gives_up_is_sent_nothing_more() {
    let mut rig = Rig::up();
    let beat = OwnerBeat {
        shard: 3,
        router: Incarnation::from_u128(9).to_bytes(),
        ordinal: 1,
        owner_epoch: 5,
        released: true,
    };
    rig.publish(1, 6);
    rig.frames();
    rig.link.owner_beat(&beat, rig.now, &mut rig.seen);
    rig.publish(1, 7);
    rig.subscribe(1, 8, "a");
    assert_eq!(rig.frames(), []);
    assert!(!rig.link.is_up());
    // Its last answers and deliveries may come behind its last beat.
    let outcome = Some(answer::Outcome::Offset(64));
    rig.down(vec![down_item::Item::Answer(Answer {
        series: 0,
        number: 1,
        outcome,
    })]);
    assert_eq!(
        rig.told(),
        [Told::Answered {
            session: 1,
            id: 6,
            outcome: Ok(64)
        }]
    );
    rig.down_number += 1;
    assert_eq!(
        rig.deliver(50, 60, &[]),
        None,
        "nobody is there to open anew with"
    );
    assert!(!rig.link.is_up());
}

#[test]
fn large_opening_is_split_into_frames_of_the_size_limit() {
    let mut rig = Rig::new();
    for number in 0..100 {
        rig.subscribe(1, number, &format!("channel-with-a-long-name-{number:04}"));
    }
    rig.owner(5);
    let frames = rig.frames();
    assert!(frames.len() > 2);
    assert!(frames.iter().all(|frame| frame.encoded_len() <= 1024 + 64));
    assert_eq!(
        frames.iter().map(|frame| frame.number).collect::<Vec<_>>(),
        (1..=frames.len() as u64).collect::<Vec<_>>()
    );
    assert!(matches!(items(&frames).last(), Some(up_item::Item::OpenEnd(_))));
    rig.opened(50);
    rig.applied(frames.len() as u64);
    assert_eq!(rig.told().len(), 100);
}

#[test]
fn channel_given_up_meanwhile_is_answered_and_not_delivered() {
    let mut rig = Rig::up();
    rig.subscribe(GIVES_UP, 7, "a");
    let number = rig.frames()[0].number;
    rig.applied(number);
    assert_eq!(rig.told(), [subscribed(GIVES_UP, 7, "a", 50)]);
    rig.deliver(50, 60, &[(55, "a")]);
    assert_eq!(rig.told(), []);
    assert_eq!(
        items(&rig.frames()),
        [interest(&[], &["a"])],
        "nobody is left there"
    );
}

#[test]
fn p4_command_that_waited_too_long_for_its_link_is_answered_and_not_carried_out() {
    let mut rig = Rig::up();
    let now = rig.now;
    rig.link
        .publish(1, 7, Bytes::from_static(b"m"), now, now, &mut rig.seen);
    rig.link.subscribe(1, 8, name("a"), now, now, &mut rig.seen);
    let expected = [
        Told::Answered {
            session: 1,
            id: 7,
            outcome: Err(100),
        },
        Told::NotSubscribed {
            session: 1,
            id: 8,
            code: 100,
        },
    ];
    assert_eq!(rig.told(), expected);
    assert_eq!(rig.frames(), []);
}
