//! Random lives of a shard: gateways publish, lose frames and open anew, owners are deposed with an append
//! unsettled and follow each other. Whatever happens, a publish is stored at most once and in order, answers
//! agree with the log, and every gateway is given everything.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Publish(usize, Option<u8>, usize),
    Store,
    Refuse,
    /// The gateway reads what was sent to it, and confirms.
    Read(usize),
    LoseDown(usize),
    LoseUp(usize),
    Open(usize),
    Interest(usize, bool),
    /// Whether the append in flight is stored, and from where the new owner reads.
    TakeOver(bool, Index),
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    let gateway = || 0..3_usize;
    let text = prop_oneof![4 => 10..100_usize, 1 => 300..700_usize];
    prop_oneof![
        12 => (gateway(), prop::option::of(0..6_u8), text).prop_map(|(gateway, key, size)| Step::Publish(gateway, key, size)),
        8 => Just(Step::Store),
        1 => Just(Step::Refuse),
        4 => gateway().prop_map(Step::Read),
        1 => gateway().prop_map(Step::LoseDown),
        1 => gateway().prop_map(Step::LoseUp),
        3 => gateway().prop_map(Step::Open),
        2 => (gateway(), any::<bool>()).prop_map(|(gateway, add)| Step::Interest(gateway, add)),
        1 => (any::<bool>(), any::<Index>()).prop_map(|(stored, from)| Step::TakeOver(stored, from)),
        1 => Just(Step::Pass),
    ]
}

/// A publish that is not answered.
struct Waiting {
    message: Message,
    /// The position when it was first sent.
    sent: Option<Position>,
}

/// A gateway that keeps its side of the rules.
struct Gateway {
    id: Incarnation,
    open: u64,
    is_open: bool,
    /// Number of the last frame from the owner.
    down: u64,
    position: Option<Position>,
    interested: bool,
    /// It has to be told before it counts; `None`: no change is on the way.
    asked: Option<u64>,
    next: [u64; 2],
    waiting: BTreeMap<(i32, u64), Waiting>,
    told: BTreeMap<(i32, u64), Told>,
    /// Offsets it was given of the channel.
    got: Vec<u64>,
    /// Up to where it lacks something and knows it, or was not interested.
    excused: Vec<(u64, u64)>,
    since: u64,
}

impl Gateway {
    fn new(id: u128) -> Self {
        Self {
            id: Incarnation::from_u128(id),
            open: 0,
            is_open: false,
            down: 0,
            position: None,
            interested: false,
            asked: None,
            next: [1, 1],
            waiting: BTreeMap::new(),
            told: BTreeMap::new(),
            got: Vec::new(),
            excused: Vec::new(),
            since: 0,
        }
    }

    fn channels(&self) -> &'static [&'static str] {
        if self.interested { &["a"] } else { &[] }
    }

    fn send(&mut self, rig: &mut Rig, items: Vec<up_item::Item>) {
        self.head(rig);
        rig.up(self.id, self.open, items);
    }

    /// What stands in the head of each frame.
    fn head(&self, rig: &mut Rig) {
        let open_number = |series: Series| {
            let series = i32::from(series);
            self.waiting
                .range((series, 0)..(series + 1, 0))
                .next()
                .map_or(self.next[series as usize], |((_, number), _)| *number)
        };
        let open_numbers = (open_number(Series::Plain), open_number(Series::Keyed));
        rig.open_numbers.insert(self.id, open_numbers);
        rig.confirmed
            .insert(self.id, self.position.map_or(0, |position| position.offset));
    }

    fn open(&mut self, rig: &mut Rig) {
        // What is on the way to the opening before is lost.
        rig.frames(self.id);
        self.open += 1;
        self.down = 0;
        self.is_open = false;
        self.asked = None;
        let since = self.waiting.values().filter_map(|waiting| waiting.sent);
        let opens = Opens {
            position: self.position,
            channels: self.channels(),
            since: since.min_by_key(|position| position.offset),
            credit: 400,
        };
        self.head(rig);
        rig.opens(self.id, self.open, &opens);
        self.read(rig);
        assert!(self.is_open, "it is answered");
        let position = self.position;
        let all: Vec<_> = self
            .waiting
            .iter_mut()
            .map(|((series, number), waiting)| {
                let again = waiting.sent.is_some();
                waiting.sent = waiting.sent.or(position);
                let series = Series::try_from(*series).unwrap();
                publish(series, *number, &waiting.message, again)
            })
            .collect();
        self.send(rig, all);
    }

    fn publish(&mut self, rig: &mut Rig, key: Option<u8>, size: usize) {
        let series = if key.is_some() {
            Series::Keyed
        } else {
            Series::Plain
        };
        let number = self.next[series as usize];
        self.next[series as usize] += 1;
        let key = key.map(|key| format!("k{key}")).unwrap_or_default();
        let text = format!("{:?} {series:?} {number} {}", self.id, "x".repeat(size));
        let mut message = message("a", &text, &key);
        message.id = format!("{number:08}{}{:07}", series as i32, self.id.as_bytes()[15]).into();
        let sent = self.position.filter(|_| self.is_open);
        let item = publish(series, number, &message, false);
        self.waiting
            .insert((series.into(), number), Waiting { message, sent });
        if sent.is_some() {
            self.send(rig, vec![item]);
        }
    }

    fn interest(&mut self, rig: &mut Rig, interested: bool) {
        if !self.is_open || self.interested == interested || self.asked.is_some() {
            return;
        }
        if interested {
            self.send(rig, vec![add(&["a"])]);
            self.asked = Some(rig.up_numbers[&(self.id, self.open)]);
            self.interested = true;
        } else {
            self.read(rig);
            // The reading may have ended the link.
            if !self.is_open {
                return;
            }
            self.send(rig, vec![remove(&["a"])]);
            self.interested = false;
            self.since = self.position.map_or(0, |position| position.offset);
        }
    }

    fn read(&mut self, rig: &mut Rig) {
        for frame in rig.frames(self.id) {
            if frame.open != self.open {
                continue;
            }
            if frame.number != self.down + 1 {
                self.is_open = false;
                continue;
            }
            self.down += 1;
            for item in frame.items.into_iter().filter_map(|item| item.item) {
                self.take(frame.owner_epoch, item);
            }
        }
    }

    fn take(&mut self, owner_epoch: u64, item: down_item::Item) {
        let held = self.position.map_or(0, |position| position.offset);
        match item {
            down_item::Item::Opened(opened) => {
                assert!(opened.position >= held, "K4: it is not thrown back");
                self.excused.push((held, opened.position));
                self.position = Some(position(owner_epoch, opened.position));
                self.is_open = true;
                if !self.interested || self.since > 0 {
                    self.excused.push((self.since, opened.position));
                    self.since = if self.interested { 0 } else { opened.position };
                }
            }
            down_item::Item::InForce(in_force) if self.asked == Some(in_force.up_number) => {
                self.asked = None;
                self.excused.push((self.since, held));
                self.since = 0;
            }
            down_item::Item::Answer(answer) => {
                let at = (answer.series, answer.number);
                assert!(self.waiting.remove(&at).is_some(), "{at:?} is answered once");
                self.told.insert(at, told(&answer));
            }
            down_item::Item::Delivery(delivery) => {
                if delivery.after > held {
                    self.is_open = false;
                    return;
                }
                let offsets = delivery.messages.iter().map(|message| message.offset);
                let new: Vec<u64> = offsets.filter(|offset| *offset > held).collect();
                if self.interested && self.asked.is_none() {
                    self.got.extend(new);
                }
                if delivery.up_to > held {
                    self.position = Some(position(owner_epoch, delivery.up_to));
                }
            }
            down_item::Item::Reset(_) => self.is_open = false,
            _ => {}
        }
    }
}

fn take_over(rig: &Rig, stored: bool, from: Index) -> Rig {
    let mut old = Rig {
        owner: Rig::new().owner,
        seen: Seen::default(),
        log: rig.log.clone(),
        limits: rig.limits,
        now: rig.now,
        time_us: rig.time_us,
        page: rig.page,
        up_numbers: HashMap::new(),
        confirmed: HashMap::new(),
        open_numbers: HashMap::new(),
    };
    if stored && let Some((_, record)) = &rig.seen.append {
        old.log.records.push(record.clone());
    }
    let from = from.index(old.log.records.len()) as u64 + 1;
    let mut new = old.successor_from(from);
    for (offset, _, message) in new.log.messages() {
        if let Some(name) = keys::name(&message) {
            let (offset, time_us) = (Offset::from_u64(offset), new.time_us);
            new.owner.older_keys(name, offset, message.id, time_us);
        }
    }
    new.owner.keys_known(Sequence(1), new.now);
    new.flush();
    new
}

fn run(steps: Vec<Step>, window: usize) {
    let mut limits = LIMITS;
    limits.memory.window.bytes = window;
    limits.upkeep.state_records = 7;
    let mut rig = Rig::with(limits);
    let mut gateways = [1, 2, 3].map(Gateway::new);
    for step in steps {
        match step {
            Step::Publish(gateway, key, size) => gateways[gateway].publish(&mut rig, key, size),
            Step::Store if rig.seen.append.is_some() => {
                rig.store();
            }
            Step::Refuse if rig.seen.append.is_some() => rig.refuse(),
            Step::Store | Step::Refuse => {}
            Step::Read(gateway) => {
                let gateway = &mut gateways[gateway];
                gateway.read(&mut rig);
                if gateway.is_open {
                    gateway.send(&mut rig, Vec::new());
                }
            }
            Step::LoseDown(gateway) => drop(rig.frames(gateways[gateway].id)),
            Step::LoseUp(gateway) => {
                let gateway = &gateways[gateway];
                *rig.up_numbers.entry((gateway.id, gateway.open)).or_default() += 1;
            }
            Step::Open(gateway) => gateways[gateway].open(&mut rig),
            Step::Interest(gateway, interested) => gateways[gateway].interest(&mut rig, interested),
            Step::TakeOver(stored, from) => {
                rig = take_over(&rig, stored, from);
                for gateway in &mut gateways {
                    gateway.is_open = false;
                }
            }
            Step::Pass => rig.pass(Duration::from_millis(300)),
        }
    }
    // Peace comes: everybody opens anew and hears the rest.
    for _ in 0..4 {
        for gateway in &mut gateways {
            gateway.open(&mut rig);
        }
        for _ in 0..500 {
            rig.settle();
            for gateway in &mut gateways {
                gateway.read(&mut rig);
                if gateway.is_open {
                    gateway.send(&mut rig, Vec::new());
                }
            }
            if rig.seen.down.is_empty() && rig.seen.append.is_none() {
                break;
            }
        }
    }
    check(&rig, &gateways);
}

fn check(rig: &Rig, gateways: &[Gateway]) {
    let mut places: HashMap<Bytes, (u64, String)> = HashMap::new();
    let mut highest: HashMap<(u8, i32), u64> = HashMap::new();
    let mut stored_keys = HashSet::new();
    let stored = rig.log.messages();
    for (offset, entry, message) in &stored {
        let before = places.insert(message.id.clone(), (*offset, message.key.clone()));
        assert_eq!(before, None, "P2: stored once");
        if !message.key.is_empty() {
            assert!(
                stored_keys.insert(message.key.clone()),
                "P5: {} at {offset}",
                message.key
            );
        }
        let who = text(message).as_bytes()[31];
        let highest = highest.entry((who, entry.series)).or_default();
        assert!(entry.number > *highest, "P1: {} after {highest}", entry.number);
        *highest = entry.number;
    }
    for gateway in gateways {
        assert!(gateway.waiting.is_empty(), "everything is answered");
        for ((series, number), told) in &gateway.told {
            let id: Bytes = format!("{number:08}{series}{:07}", gateway.id.as_bytes()[15]).into();
            let place = places.get(&id);
            match told {
                Told::Stored(offset) => assert_eq!(place.map(|place| place.0), Some(*offset)),
                Told::Duplicate(offset) => {
                    assert_eq!(place, None, "another one is stored");
                    assert!(places.values().any(|(at, key)| at == offset && !key.is_empty()));
                }
                Told::Refused(_) => assert_eq!(place, None, "refused is refused for certain"),
                Told::Unknown => {}
            }
        }
        let mut expected: Vec<u64> = stored.iter().map(|(offset, ..)| *offset).collect();
        let end = if gateway.interested {
            u64::MAX
        } else {
            gateway.since
        };
        expected.retain(|offset| *offset <= end);
        let got: HashSet<u64> = gateway.got.iter().copied().collect();
        assert_eq!(got.len(), gateway.got.len(), "K4: nothing twice");
        assert!(gateway.got.is_sorted(), "K4: in order");
        for offset in expected {
            let excused = gateway
                .excused
                .iter()
                .any(|(from, to)| offset > *from && offset <= *to);
            assert!(
                excused || got.contains(&offset),
                "{:?} lacks {offset}",
                gateway.id
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        // What fails becomes a test of its own.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn p1_p2_p5_k4_hold_whatever_happens(steps in prop::collection::vec(step(), 1..150)) {
        run(steps, 1 << 20);
    }

    #[test]
    fn p1_p2_p5_k4_hold_with_a_small_window(steps in prop::collection::vec(step(), 1..150)) {
        run(steps, 1500);
    }
}
