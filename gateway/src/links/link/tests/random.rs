//! Everything at once: sessions that come and go, an owner that is slow, changes, forgets and lies in wait, a bus that loses frames.
//! Whatever happens, no session misses a message, none gets one twice or out of order, and nobody is told of a loss that is none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

const CHANNELS: [&str; 3] = ["a", "b", "c"];
const SESSIONS: u64 = 4;
const STEPS: usize = 600;
const PAGE: usize = 3;

/// Repeats by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// One life of the shard's log. Offsets of different lives differ, so that a message tells where it is from.
struct Log {
    ordinal: u32,
    messages: Vec<(u64, &'static str)>,
    /// Per channel: up to where retention has removed it, for whoever asks.
    removed: BTreeMap<&'static str, u64>,
    top: u64,
}

impl Log {
    fn new(ordinal: u32) -> Self {
        Self {
            ordinal,
            messages: Vec::new(),
            removed: BTreeMap::new(),
            top: 8 + u64::from(ordinal),
        }
    }

    fn name(&self) -> String {
        format!("{}-00000001", self.ordinal)
    }

    fn append(&mut self, channel: &'static str) {
        self.top += 8;
        self.messages.push((self.top, channel));
    }

    fn behind<'a>(&'a self, channel: &'a str, after: u64) -> impl Iterator<Item = u64> + 'a {
        let of_channel = self.messages.iter().filter(move |(_, of)| *of == channel);
        of_channel
            .map(|(offset, _)| *offset)
            .filter(move |offset| *offset > after)
    }

    fn removed(&self, channel: &str) -> u64 {
        self.removed.get(channel).copied().unwrap_or(0)
    }
}

/// The owner of this moment, and its one link.
struct Owner {
    epoch: u64,
    /// What lies before is not delivered any more, only recovered.
    window: u64,
    open: u64,
    up_number: u64,
    down_number: u64,
    is_live: bool,
    is_broken: bool,
    announced: ChannelSet,
    position: Option<u64>,
    channels: BTreeSet<String>,
    /// Asked for, and not yet said to be in force.
    unforced: Vec<String>,
    forced_up_to: u64,
    up_to: u64,
    questions: VecDeque<Recover>,
}

impl Owner {
    fn new(epoch: u64, window: u64) -> Self {
        Self {
            epoch,
            window,
            open: 0,
            up_number: 0,
            down_number: 0,
            is_live: false,
            is_broken: false,
            announced: ChannelSet::default(),
            position: None,
            channels: BTreeSet::new(),
            unforced: Vec::new(),
            forced_up_to: 0,
            up_to: 0,
            questions: VecDeque::new(),
        }
    }

    fn set(&self) -> ChannelSet {
        let mut set = ChannelSet::default();
        self.channels.iter().for_each(|channel| set.insert(channel));
        set
    }
}

/// A session and a channel.
#[derive(Debug, Clone, PartialEq)]
enum Sub {
    /// Where it left off, if it was ever there.
    Off(Option<Since>),
    Asked(u32, Option<Since>),
    /// The log, and up to where it has everything.
    On(u32, u64),
}

struct World {
    rig: Rig,
    dice: Dice,
    log: Log,
    owner: Owner,
    up: VecDeque<(u64, Up)>,
    down: VecDeque<Down>,
    subs: BTreeMap<(u64, &'static str), Sub>,
    last_id: u32,
    history: VecDeque<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let pairs = (1..=SESSIONS).flat_map(|session| CHANNELS.map(|channel| (session, channel)));
        let mut world = Self {
            rig: Rig::new(),
            dice: Dice(seed),
            log: Log::new(1),
            owner: Owner::new(1, 0),
            up: VecDeque::new(),
            down: VecDeque::new(),
            subs: pairs.map(|pair| (pair, Sub::Off(None))).collect(),
            last_id: 0,
            history: VecDeque::new(),
        };
        world.owner_beat();
        world
    }

    fn note(&mut self, what: String) {
        if self.history.len() == 60 {
            self.history.pop_front();
        }
        self.history.push_back(what);
    }

    fn owner_beat(&mut self) {
        let (ordinal, epoch) = (self.log.ordinal, self.owner.epoch);
        self.rig.owner_of(ordinal, epoch, false);
        self.settle();
    }

    // ---- sessions

    fn act(&mut self) {
        let session = 1 + self.dice.below(SESSIONS);
        let channel = CHANNELS[self.dice.below(3) as usize];
        match self.subs[&(session, channel)].clone() {
            Sub::Off(since) => {
                self.last_id += 1;
                let id = self.last_id;
                let since = since.filter(|_| !self.dice.one_in(4));
                self.note(format!(
                    "{session} subscribes to {channel} as {id} since {since:?}"
                ));
                self.subs
                    .insert((session, channel), Sub::Asked(id, since.clone()));
                self.rig.ask(session, id, channel, since);
            }
            Sub::Asked(..) => {
                self.note(format!("{session} gives {channel} up"));
                self.rig.unsubscribe(session, channel);
            }
            Sub::On(..) => {
                self.note(format!("{session} leaves {channel}"));
                self.turn_off(session, channel);
                self.rig.unsubscribe(session, channel);
            }
        }
        self.settle();
    }

    fn turn_off(&mut self, session: u64, channel: &'static str) {
        let off = match &self.subs[&(session, channel)] {
            Sub::On(ordinal, has) => Some(Since {
                epoch: format!("{ordinal}-00000001"),
                offset: Offset::from_u64(*has),
            }),
            Sub::Asked(_, since) => since.clone(),
            Sub::Off(_) => panic!("{session} has no {channel}"),
        };
        self.subs.insert((session, channel), Sub::Off(off));
    }

    /// What sessions were told is checked, and what the link sent goes on its way.
    fn settle(&mut self) {
        for told in self.rig.told() {
            self.note(format!("  told {told:?}"));
            match told {
                Told::Subscribed {
                    session,
                    id,
                    channel,
                    epoch,
                    offset,
                    missed,
                } => self.subscribed(session, id, &channel, &epoch, offset, missed),
                Told::Page { session, offsets } => {
                    assert!(self.has_room(session), "a page without room");
                    assert!(!offsets.is_empty());
                    offsets.iter().for_each(|offset| self.received(session, *offset));
                }
                Told::Message { session, offset } => self.received(session, offset),
                Told::NotSubscribed { session, id, .. } => {
                    let asked = self.subs.iter().find(|((of, _), sub)| {
                        *of == session && matches!(sub, Sub::Asked(asked, _) if *asked == id)
                    });
                    let (_, channel) = *asked.expect("asked for, and not answered").0;
                    self.turn_off(session, channel);
                }
                Told::Lost { session, channel } => {
                    let channel = known(&channel);
                    assert!(matches!(self.subs[&(session, channel)], Sub::On(..)));
                    self.turn_off(session, channel);
                }
                Told::Answered { .. } | Told::Ephemeral { .. } => panic!("{told:?}"),
            }
        }
        for frame in self.rig.frames() {
            self.up.push_back((self.owner.epoch, frame));
        }
    }

    fn has_room(&self, session: u64) -> bool {
        !self.rig.full.borrow().contains(&session)
    }

    fn subscribed(&mut self, session: u64, id: u32, channel: &str, epoch: &str, offset: u64, missed: Given) {
        let channel = known(channel);
        let Sub::Asked(asked, since) = self.subs[&(session, channel)].clone() else {
            panic!("{session} did not ask for {channel}");
        };
        assert_eq!(asked, id);
        let ordinal = epoch.split('-').next().unwrap().parse().unwrap();
        let mut turn_on = |has| self.subs.insert((session, channel), Sub::On(ordinal, has));
        match (missed, since) {
            (Given::NotAsked, None) => drop(turn_on(offset)),
            (Given::All(from, messages), Some(since)) => {
                assert_eq!(from, since.offset.get());
                assert_eq!(since.epoch, epoch);
                turn_on(from);
                assert!(
                    messages.is_empty() || self.has_room(session),
                    "a page without room"
                );
                messages.iter().for_each(|offset| self.received(session, *offset));
            }
            (Given::Lost, Some(since)) => {
                turn_on(offset);
                assert!(
                    since.epoch != epoch || self.log.removed(channel) > since.offset.get(),
                    "R5: nothing was lost"
                );
            }
            (missed, since) => panic!("{missed:?} to who asked since {since:?}"),
        }
    }

    /// The very next message, or something is missing, double, or out of order.
    fn received(&mut self, session: u64, offset: u64) {
        let message = self.log.messages.iter().find(|(of, _)| *of == offset);
        let (_, channel) = *message.expect("a message of this log");
        let Sub::On(ordinal, has) = self.subs[&(session, channel)] else {
            panic!("{session} is not subscribed to {channel}");
        };
        assert_eq!(ordinal, self.log.ordinal);
        let next = self.log.behind(channel, has).next();
        assert_eq!(Some(offset), next, "session {session} in {channel} has {has}");
        self.subs.insert((session, channel), Sub::On(ordinal, offset));
    }

    // ---- the owner

    fn send(&mut self, item: down_item::Item) {
        if self.owner.is_broken {
            return;
        }
        self.owner.down_number += 1;
        self.down.push_back(Down {
            shard: 3,
            ordinal: self.log.ordinal,
            owner_epoch: self.owner.epoch,
            open: self.owner.open,
            number: self.owner.down_number,
            items: vec![DownItem { item: Some(item) }],
        });
    }

    fn owner_reads(&mut self) {
        let Some((epoch, frame)) = self.up.pop_front() else {
            return;
        };
        if epoch != self.owner.epoch {
            return;
        }
        let first = frame.items.first().and_then(|item| item.item.clone());
        if let Some(up_item::Item::Open(open)) = first {
            if frame.number == 1 && frame.open > self.owner.open {
                self.opens(frame.open, &open);
            }
            return;
        }
        if frame.open != self.owner.open || self.owner.is_broken {
            return;
        }
        if frame.number != self.owner.up_number + 1 {
            // Silent from now on: the gateway notices.
            self.owner.is_broken = true;
            return;
        }
        self.owner.up_number = frame.number;
        self.note(format!("  owner reads {:?}", frame.items));
        for item in frame.items.into_iter().filter_map(|item| item.item) {
            match item {
                up_item::Item::Interest(Interest { add, remove }) => {
                    for channel in remove {
                        assert!(self.owner.channels.remove(&channel), "K5: {channel} is not held");
                    }
                    for channel in add {
                        self.owner.unforced.push(channel.clone());
                        assert!(self.owner.channels.insert(channel), "K5: held already");
                    }
                }
                up_item::Item::OpenEnd(_) => {
                    assert_eq!(self.owner.set(), self.owner.announced, "K2: another set");
                    self.goes_live();
                }
                up_item::Item::Beat(beat) => {
                    let told = ChannelSet {
                        count: beat.channels,
                        hash: beat.channels_hash,
                    };
                    assert!(!self.owner.is_live || told == self.owner.set(), "K5: another set");
                }
                up_item::Item::Recover(recover) => self.owner.questions.push_back(recover),
                other => panic!("{other:?}"),
            }
        }
        self.owner.forced_up_to = frame.number;
        if !self.dice.one_in(3) {
            self.in_force();
        }
    }

    fn opens(&mut self, number: u64, open: &Open) {
        let anew = Owner::new(self.owner.epoch, self.owner.window);
        let held = std::mem::replace(&mut self.owner, anew);
        let position = open
            .position
            .filter(|position| position.ordinal == self.log.ordinal);
        self.owner.open = number;
        self.owner.up_number = 1;
        self.owner.announced = ChannelSet {
            count: open.channels,
            hash: open.channels_hash,
        };
        self.owner.position = position.map(|position| position.offset);
        self.note(format!("owner opens {number} at {position:?}"));
        if held.is_live && held.set() == self.owner.announced {
            self.owner.channels = held.channels;
            self.goes_live();
        } else if self.owner.announced == ChannelSet::default() {
            self.goes_live();
        } else {
            if self.dice.one_in(2) {
                self.send(down_item::Item::Wait(Wait {}));
            }
            self.send(down_item::Item::SendChannels(SendChannels {}));
        }
    }

    fn goes_live(&mut self) {
        let position = self.owner.position.filter(|held| *held >= self.owner.window);
        self.owner.up_to = position.unwrap_or(self.log.top);
        self.owner.is_live = true;
        self.send(down_item::Item::Opened(Opened {
            log_epoch: self.log.name(),
            position: self.owner.up_to,
        }));
    }

    fn in_force(&mut self) {
        if !self.owner.is_live || self.owner.unforced.is_empty() {
            return;
        }
        let mut heads = Vec::new();
        for channel in std::mem::take(&mut self.owner.unforced) {
            let newest = self.log.behind(&channel, 0).last().unwrap_or(0);
            // Known, or a bound.
            heads.push(if self.dice.one_in(3) {
                newest.max(self.owner.window)
            } else {
                newest
            });
        }
        if self.dice.one_in(10) {
            heads.clear();
        }
        let up_number = self.owner.forced_up_to;
        self.send(down_item::Item::InForce(InForce { up_number, heads }));
    }

    /// Some of what the link was not given yet.
    fn pump(&mut self) {
        if !self.owner.is_live || self.owner.up_to >= self.log.top {
            return;
        }
        let after = self.owner.up_to;
        let steps = 1 + self.dice.below(4);
        let up_to = (after + 8 * steps).min(self.log.top);
        let given = self.log.messages.iter().filter(|(offset, channel)| {
            *offset > after && *offset <= up_to && self.owner.channels.contains(*channel)
        });
        let given: Vec<(u64, &'static str)> = given.copied().collect();
        self.owner.up_to = up_to;
        self.send(delivery(after, up_to, &given));
    }

    fn answers(&mut self, honest: bool) {
        let Some(Recover {
            question,
            channel,
            after,
        }) = self.owner.questions.pop_front()
        else {
            return;
        };
        let removed = self.log.removed(&channel);
        let mut answer = Recovered {
            question,
            outcome: RecoveredOutcome::Complete.into(),
            up_to: self.log.top,
            messages: Vec::new(),
            more: false,
        };
        if !honest && self.dice.one_in(10) {
            answer.set_outcome(RecoveredOutcome::Unavailable);
        } else if after > self.log.top {
            answer.set_outcome(RecoveredOutcome::Lost);
            answer.up_to = u64::MAX;
        } else if removed > after {
            answer.set_outcome(RecoveredOutcome::Lost);
            answer.up_to = removed;
        } else {
            let message = Bytes::copy_from_slice(channel.as_bytes());
            let all = self.log.behind(&channel, after).map(|offset| Delivered {
                offset,
                message: message.clone(),
            });
            answer.messages = all.collect();
            if answer.messages.len() > PAGE {
                answer.messages.truncate(PAGE);
                answer.up_to = answer.messages[PAGE - 1].offset;
                answer.more = true;
            }
        }
        self.send(down_item::Item::Recovered(answer));
    }

    /// Another router takes the shard; what was on the way to the first is lost.
    fn succeed(&mut self) {
        let window = match self.dice.below(3) {
            0 => self.log.top,
            1 => self.log.top.saturating_sub(8 * 3),
            _ => 0,
        };
        self.note(format!("another owner, with a window from {window}"));
        self.owner = Owner::new(self.owner.epoch + 1, window);
        self.owner_beat();
    }

    fn gateway_reads(&mut self) {
        if let Some(frame) = self.down.pop_front() {
            self.note(format!("gateway reads {}: {:?}", frame.number, frame.items));
            self.rig.link.down(frame, self.rig.now, &mut self.rig.seen);
            self.settle();
        }
    }

    fn tick(&mut self, later: Duration) {
        self.rig.tick(later);
        self.settle();
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..12 => self.act(),
            12..27 => {
                let channel = CHANNELS[self.dice.below(3) as usize];
                self.log.append(channel);
            }
            27..45 => self.owner_reads(),
            45..67 => self.gateway_reads(),
            67..75 => self.pump(),
            75..79 => self.in_force(),
            79..85 => self.answers(false),
            85..90 => self.tick(Duration::from_millis(100)),
            90..93 => {
                let session = 1 + self.dice.below(SESSIONS);
                let has_room = !self.has_room(session);
                self.rig.has_room(session, has_room);
            }
            // Silence of the owner, or of the sessions' commands.
            93 => {
                let seconds = self.dice.below(4);
                self.tick(SECOND * seconds as u32);
            }
            94 => drop(self.down.pop_front()),
            95 => drop(self.up.pop_front()),
            96 => self.succeed(),
            97 => match self.dice.below(3) {
                0 => self.send(down_item::Item::Reset(switchboard_proto::bus::Reset {})),
                1 => {
                    self.rig.link.disruption(self.rig.now, &mut self.rig.seen);
                    self.settle();
                }
                _ => {
                    self.note("the owner gives up".to_owned());
                    let (ordinal, epoch) = (self.log.ordinal, self.owner.epoch);
                    self.rig.owner_of(ordinal, epoch, true);
                    self.settle();
                }
            },
            98 if self.dice.one_in(3) => {
                let channel = CHANNELS[self.dice.below(3) as usize];
                self.log
                    .removed
                    .insert(channel, self.log.top.saturating_sub(8 * 2));
            }
            99 if self.dice.one_in(10) && self.log.ordinal < 7 => {
                self.note("another log".to_owned());
                self.log = Log::new(self.log.ordinal + 1);
                self.succeed();
            }
            _ => {}
        }
    }

    /// Nothing goes wrong any more: everybody is given everything, and every question is answered.
    fn calm(&mut self) {
        self.rig.full.borrow_mut().clear();
        self.succeed();
        for _ in 0..400 {
            self.owner_reads();
            self.in_force();
            self.answers(true);
            self.pump();
            self.gateway_reads();
            if self.up.is_empty() && self.down.is_empty() && self.owner.questions.is_empty() {
                self.send(down_item::Item::Beat(DownBeat {}));
                self.tick(Duration::from_millis(100));
            }
        }
        assert!(self.rig.link.is_up());
        for ((session, channel), sub) in &self.subs {
            match sub {
                Sub::Off(_) => {}
                Sub::Asked(..) => panic!("{session} in {channel} was never answered"),
                Sub::On(_, has) => {
                    let missing: Vec<u64> = self.log.behind(channel, *has).collect();
                    assert_eq!(missing, [0; 0], "{session} in {channel} lacks these");
                }
            }
        }
        let link = &self.rig.link;
        assert_eq!((link.waiting, link.behind, link.questions.len()), (0, 0, 0));
        let held: BTreeSet<String> = link.channels.0.keys().map(ToString::to_string).collect();
        assert_eq!(held, self.owner.channels, "K5");
    }
}

/// Shows what went before a failure.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.history.iter().for_each(|line| println!("{line}"));
        }
    }
}

fn known(channel: &str) -> &'static str {
    CHANNELS.into_iter().find(|known| *known == channel).unwrap()
}

#[test]
fn whatever_happens_nothing_is_missed_doubled_or_falsely_lost() {
    for seed in 0..400 {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.calm();
    }
}
