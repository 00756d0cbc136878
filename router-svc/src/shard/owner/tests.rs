//! The owner against scripted gateways, other owners and a log, each rule attacked by a test that names it.

mod changes;
mod derivation;
mod hiding;
mod links;
mod ownership;
mod publishing;
mod random;
mod recovery;
mod store;
mod takeover;
mod upkeep;

use std::collections::HashMap;

use switchboard_proto::bus::{
    Fence, Interest, OpenEnd, Position, Recover, Recovered, RecoveredOutcome, Sender, State, UpBeat, UpItem,
};

use super::*;
use crate::shard::memory::TailReader;
use crate::shard::window::WindowLimits;

const A: Incarnation = Incarnation::from_u128(1);
const B: Incarnation = Incarnation::from_u128(2);
const C: Incarnation = Incarnation::from_u128(3);

const SECOND: Duration = Duration::from_secs(1);

const LOG: LogEpoch = LogEpoch {
    ordinal: 1,
    random: 7,
};

const LIMITS: Limits = Limits {
    batch_bytes: 1000,
    append_interval: Duration::ZERO,
    queue_bytes: 2000,
    links: LinkLimits {
        links: 3,
        openings: 2,
        silence: Duration::from_secs(10),
        beat: Duration::from_secs(1),
    },
    memory: MemoryLimits {
        window: WindowLimits {
            bytes: 1 << 20,
            age_us: 600_000_000,
            heads: 1000,
        },
        numbers: 1000,
        numbers_silence: Duration::from_secs(60),
        keys_us: 300_000_000,
        keys: 100,
        removed: 10_000,
        hidden: 10_000,
        deleted: 100,
    },
    upkeep: UpkeepLimits {
        state_records: 1_000_000,
        state_bytes: 1 << 30,
        keys_us: 300_000_000,
        full: 90,
        overfull: 97,
        purge_above: 75,
        purge_to: 50,
        readers: false,
    },
    page: PageLimits {
        bytes: 128 * 1024,
        messages: 512,
    },
    store: false,
};

/// A credit that is never used up.
const MUCH: u64 = 1 << 40;

/// What the owner causes, until the rig does it.
#[derive(Default)]
struct Seen {
    append: Option<(Sequence, Bytes)>,
    read: Option<(Sequence, Sequence)>,
    purge: Option<Sequence>,
    down: Vec<(Incarnation, Down)>,
    derive: Vec<(Incarnation, Derive)>,
    derivation: Vec<(Incarnation, Derivation)>,
    hidden: Vec<(String, HistoryOutcome)>,
    asks: Vec<(AskId, Ask)>,
}

impl Output for Seen {
    fn append(&mut self, expected: Sequence, record: Bytes) {
        assert!(self.append.is_none(), "L1: one append in flight");
        self.append = Some((expected, record));
    }

    fn down(&mut self, gateway: Incarnation, frame: Down) {
        self.down.push((gateway, frame));
    }

    fn read(&mut self, from: Sequence, to: Sequence) {
        assert!(self.read.is_none(), "one reading at a time");
        self.read = Some((from, to));
    }

    fn derive(&mut self, router: Incarnation, frame: Derive) {
        self.derive.push((router, frame));
    }

    fn derivation(&mut self, router: Incarnation, frame: Derivation) {
        self.derivation.push((router, frame));
    }

    fn hidden(&mut self, to: String, outcome: HistoryOutcome) {
        self.hidden.push((to, outcome));
    }

    fn purge(&mut self, before: Sequence) {
        assert!(self.purge.is_none());
        self.purge = Some(before);
    }

    fn ask(&mut self, id: AskId, ask: Ask) {
        self.asks.push((id, ask));
    }
}

/// A log that stores what it is told, where it is told.
#[derive(Clone)]
struct Journal {
    epoch: LogEpoch,
    /// Of the first record ever on; those before `first` are gone.
    records: Vec<Bytes>,
    first: u64,
    max_bytes: Option<u64>,
}

impl Journal {
    fn new() -> Self {
        Self {
            epoch: LOG,
            records: Vec::new(),
            first: 1,
            max_bytes: None,
        }
    }

    fn last(&self) -> Sequence {
        Sequence(self.records.len() as u64)
    }

    fn get(&self, sequence: u64) -> Option<RecordAt> {
        (sequence >= self.first && sequence <= self.last().0).then(|| RecordAt {
            sequence: Sequence(sequence),
            record: self.records[sequence as usize - 1].clone(),
        })
    }

    fn range(&self, from: u64, to: u64) -> Vec<RecordAt> {
        (from..=to).filter_map(|sequence| self.get(sequence)).collect()
    }

    fn info(&self) -> LogInfo {
        let bytes = self
            .range(self.first, self.last().0)
            .iter()
            .map(|at| at.record.len() as u64)
            .sum();
        LogInfo {
            epoch: self.epoch,
            first: Sequence(self.first),
            last: self.last(),
            bytes,
            max_bytes: self.max_bytes,
        }
    }

    fn record(&self, sequence: u64) -> Record {
        format::decode(self.get(sequence).expect("a record").record).unwrap()
    }

    /// The newest state record.
    fn state(&self) -> State {
        (self.first..=self.last().0)
            .rev()
            .find_map(|sequence| match self.record(sequence).body {
                Some(record::Body::State(state)) => Some(state),
                _ => None,
            })
            .expect("a state record")
    }

    /// All messages that are stored, with their offsets.
    fn messages(&self) -> Vec<(u64, Entry, Message)> {
        let mut found = Vec::new();
        for sequence in self.first..=self.last().0 {
            if let Some(record::Body::Batch(batch)) = self.record(sequence).body {
                for (index, entry) in batch.entries.into_iter().enumerate() {
                    let message = Message::decode(entry.message.clone()).unwrap();
                    found.push((at(sequence, index), entry, message));
                }
            }
        }
        found
    }

    /// What is in a channel, by payload.
    fn texts(&self, channel: &str) -> Vec<String> {
        self.messages()
            .into_iter()
            .filter(|(_, _, message)| message.channel == channel)
            .map(|(_, _, message)| text(&message))
            .collect()
    }
}

/// How the rig's gateways open their links.
struct Opens<'a> {
    position: Option<Position>,
    channels: &'a [&'a str],
    since: Option<Position>,
    credit: u64,
}

impl<'a> Opens<'a> {
    fn anew(channels: &'a [&'a str]) -> Self {
        Self {
            position: None,
            channels,
            since: None,
            credit: MUCH,
        }
    }

    fn since(since: u64) -> Self {
        Self {
            since: Some(position(1, since)),
            ..Self::anew(&[])
        }
    }
}

/// One owner, its log, and what it sent.
struct Rig {
    owner: Owner,
    seen: Seen,
    log: Journal,
    limits: Limits,
    now: Duration,
    time_us: u64,
    /// Records in a page of a reading.
    page: usize,
    up_numbers: HashMap<(Incarnation, u64), u64>,
    /// What each gateway confirms with its frames.
    confirmed: HashMap<Incarnation, u64>,
    /// Its lowest open numbers.
    open_numbers: HashMap<Incarnation, (u64, u64)>,
}

impl Rig {
    /// The first owner of the only shard: its fence is record 1 and its first state record 2.
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: Limits) -> Self {
        Self::of(0, 1, limits, Journal::new())
    }

    fn of(shard: u32, shards: u32, limits: Limits, log: Journal) -> Self {
        let mut rig = Self::taking(shard, shards, limits, log, 1, 1_000_000_000);
        rig.owner.keys_known(Sequence(1), rig.now);
        rig.flush();
        rig.store();
        rig
    }

    /// An owner that took `log` over by a new fence and has read its tail from `from` on. It knows no
    /// older keys, and its state record is not stored yet.
    fn taking(shard: u32, shards: u32, limits: Limits, mut log: Journal, from: u64, time_us: u64) -> Self {
        let fence = log.last().next();
        // Another one each time.
        let router = Incarnation::from_u128(1000 * (u128::from(shard) + 1) + u128::from(fence.0));
        let before = log.info();
        let state_at = (log.first..=log.last().0)
            .rev()
            .find(|sequence| matches!(log.record(*sequence).body, Some(record::Body::State(_))));
        log.records.push(format::encode(&Record {
            owner_epoch: fence.0,
            sequence: fence.0,
            owner: router.to_bytes(),
            append_number: 1,
            time_us,
            state_at: state_at.unwrap_or(0),
            body: Some(record::Body::Fence(Fence {})),
        }));
        let from = state_at
            .map_or(from, |state_at| from.min(state_at))
            .max(log.first);
        let mut tail = TailReader::new(limits.memory, Sequence(from), log.epoch);
        for at in log.range(from, fence.0) {
            tail.record(&at);
        }
        let is = Ownership {
            shard: ShardId::new(shard).unwrap(),
            shards: ShardCount::new(shards).unwrap(),
            router,
            log_epoch: log.epoch,
            owner_epoch: OwnerEpoch(fence.0),
        };
        let memory = tail.finish(Sequence(log.first));
        Self {
            owner: Owner::new(is, limits, memory, before),
            seen: Seen::default(),
            log,
            limits,
            now: Duration::ZERO,
            time_us,
            page: 2,
            up_numbers: HashMap::new(),
            confirmed: HashMap::new(),
            open_numbers: HashMap::new(),
        }
    }

    /// A new owner takes the log over, as it stands, and reads all that is left of it.
    fn successor(&self) -> Self {
        let mut rig = self.successor_from(1);
        rig.owner.keys_known(Sequence(self.log.first), rig.now);
        rig.flush();
        rig.store();
        rig
    }

    /// The same; it reads from `from` on, or from the last state record, and no older keys yet.
    fn successor_from(&self, from: u64) -> Self {
        let is = self.owner.is;
        let (shard, shards) = (u32::from(is.shard.get()), u32::from(is.shards.get()));
        Self::taking(shard, shards, self.limits, self.log.clone(), from, self.time_us)
    }

    fn flush(&mut self) {
        self.owner.flush(self.now, self.time_us, &mut self.seen);
    }

    /// Time goes by, in beats.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let step = (end - self.now).min(Duration::from_millis(250));
            self.now += step;
            self.time_us += step.as_micros() as u64;
            self.owner.tick(self.now, self.time_us);
            self.flush();
        }
    }

    /// The log's leader is asked, and answers.
    fn look(&mut self) -> Result<(), StepDown> {
        let info = self.log.info();
        let asked = self.owner.append_number();
        let result = self.owner.leader(info, asked);
        self.flush();
        result
    }

    // ---- gateways

    fn try_up(&mut self, gateway: Incarnation, open: u64, items: Vec<up_item::Item>) -> Result<(), StepDown> {
        let number = self.up_numbers.entry((gateway, open)).or_default();
        *number += 1;
        let (open_plain, open_keyed) = self.open_numbers.get(&gateway).copied().unwrap_or_default();
        let frame = Up {
            gateway: gateway.to_bytes(),
            open,
            number: *number,
            items: items
                .into_iter()
                .map(|item| UpItem { item: Some(item) })
                .collect(),
            confirmed: self.confirmed.get(&gateway).copied().unwrap_or_default(),
            open_plain,
            open_keyed,
        };
        let result = self.owner.up(frame, self.now);
        self.flush();
        result
    }

    fn up(&mut self, gateway: Incarnation, open: u64, items: Vec<up_item::Item>) {
        self.try_up(gateway, open, items).unwrap();
    }

    fn try_open(&mut self, gateway: Incarnation, open: u64, opens: &Opens<'_>) -> Result<(), StepDown> {
        let mut set = ChannelSet::default();
        for channel in opens.channels {
            set.insert(channel);
        }
        let item = up_item::Item::Open(Open {
            position: opens.position,
            channels: set.count,
            channels_hash: set.hash,
            sent_since: opens.since,
            credit: opens.credit,
        });
        let before = self.seen.down.len();
        self.try_up(gateway, open, vec![item])?;
        let is_asked = self.seen.down[before..]
            .iter()
            .flat_map(|(_, frame)| &frame.items)
            .any(|item| matches!(item.item, Some(down_item::Item::SendChannels(_))));
        if is_asked {
            self.up(gateway, open, vec![add(opens.channels)]);
            self.up(gateway, open, vec![up_item::Item::OpenEnd(OpenEnd {})]);
        }
        Ok(())
    }

    fn opens(&mut self, gateway: Incarnation, open: u64, opens: &Opens<'_>) {
        self.try_open(gateway, open, opens).unwrap();
    }

    /// Opens without a position, and reads what that brings.
    fn open(&mut self, gateway: Incarnation, open: u64, channels: &[&str]) -> Vec<down_item::Item> {
        self.opens(gateway, open, &Opens::anew(channels));
        self.items(gateway)
    }

    /// A frame without anything, but for what is confirmed.
    fn confirm(&mut self, gateway: Incarnation, open: u64, up_to: u64) {
        self.confirmed.insert(gateway, up_to);
        self.up(gateway, open, Vec::new());
    }

    /// Publishes `plain <number>` in the first opening.
    fn plain(&mut self, gateway: Incarnation, number: u64, channel: &str) {
        self.up(gateway, 1, vec![plain(number, channel, false)]);
    }

    fn recover(&mut self, gateway: Incarnation, question: u64, channel: &str, after: u64) {
        self.up(gateway, 1, vec![recover(question, channel, after)]);
    }

    /// What was sent to the gateway since it last looked.
    fn items(&mut self, gateway: Incarnation) -> Vec<down_item::Item> {
        self.frames(gateway)
            .into_iter()
            .flat_map(|frame| frame.items)
            .filter_map(|item| item.item)
            .collect()
    }

    fn frames(&mut self, gateway: Incarnation) -> Vec<Down> {
        let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.seen.down)
            .into_iter()
            .partition(|(to, _)| *to == gateway);
        self.seen.down = others;
        mine.into_iter().map(|(_, frame)| frame).collect()
    }

    fn answers(&mut self, gateway: Incarnation) -> Vec<(u64, Told)> {
        answers(&self.items(gateway))
    }

    fn recovered(&mut self, gateway: Incarnation) -> Vec<Told2> {
        recovered(&self.items(gateway))
    }

    // ---- the log

    /// The append in flight is stored; returns it.
    fn store(&mut self) -> Record {
        let record = self.store_only();
        let sequence = Sequence(record.sequence);
        self.owner.stored(sequence, self.now, &mut self.seen).unwrap();
        self.flush();
        record
    }

    /// The append in flight is stored, but its owner is not told.
    fn store_only(&mut self) -> Record {
        let (expected, bytes) = self.seen.append.take().expect("an append");
        assert_eq!(expected, self.log.last(), "L1: it follows the log's last record");
        let record: Record = format::decode(bytes.clone()).unwrap();
        assert_eq!(record.sequence, expected.next().0, "L2: a record names its place");
        assert_eq!(
            record.owner_epoch, self.owner.is.owner_epoch.0,
            "L2: and its owner"
        );
        self.log.records.push(bytes);
        record
    }

    /// The log refuses the append in flight.
    fn refuse(&mut self) {
        self.seen.append.take().expect("an append");
        self.owner.refused(&mut self.seen);
        self.flush();
    }

    /// Appends are stored until none is left.
    fn store_all(&mut self) {
        while self.seen.append.is_some() {
            self.store();
        }
    }

    /// A page of the reading that was asked for; returns its bounds.
    fn read(&mut self) -> (u64, u64) {
        let (from, to) = self.seen.read.take().expect("a reading");
        let mut page = self.log.range(from.0, to.0);
        page.truncate(self.page);
        self.owner.page(Ok(&page));
        self.flush();
        (from.0, to.0)
    }

    fn read_fails(&mut self) {
        self.seen.read.take().expect("a reading");
        self.owner.page(Err(()));
        self.flush();
    }

    /// Does what is asked for until nothing is: appends, readings, purges. Returns how many readings.
    fn settle(&mut self) -> usize {
        let mut readings = 0;
        for _ in 0..10_000 {
            if self.seen.append.is_some() {
                self.store();
            } else if self.seen.read.is_some() {
                self.read();
                readings += 1;
            } else if let Some(before) = self.seen.purge.take() {
                self.purge(before);
            } else {
                return readings;
            }
        }
        panic!("there is no end to it");
    }

    fn purge(&mut self, before: Sequence) {
        assert!(before.0 > 1, "L4: never with a sequence of 1 or below");
        assert!(before <= self.log.last(), "L4: the last record stays");
        self.log.first = self.log.first.max(before.0);
    }
}

/// How a publish was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Stored(u64),
    Duplicate(u64),
    Refused(u32),
    Unknown,
}

fn answers(items: &[down_item::Item]) -> Vec<(u64, Told)> {
    items
        .iter()
        .filter_map(|item| match item {
            down_item::Item::Answer(answer) => Some((answer.number, told(answer))),
            _ => None,
        })
        .collect()
}

fn told(answer: &Answer) -> Told {
    match answer.outcome.as_ref().expect("an outcome") {
        answer::Outcome::Offset(offset) if answer.duplicate_of.is_empty() => Told::Stored(*offset),
        answer::Outcome::Offset(offset) => Told::Duplicate(*offset),
        answer::Outcome::Refused(refusal) => Told::Refused(refusal.code),
        answer::Outcome::Unknown(_) => Told::Unknown,
    }
}

/// How a recovery was answered: number, outcome, up to where, texts, whether there is more.
type Told2 = (u64, RecoveredOutcome, u64, Vec<String>, bool);

fn recovered(items: &[down_item::Item]) -> Vec<Told2> {
    items
        .iter()
        .filter_map(|item| match item {
            down_item::Item::Recovered(answer) => Some(answer),
            _ => None,
        })
        .map(|answer: &Recovered| {
            let texts = answer.messages.iter().map(|delivered| {
                let message = Message::decode(delivered.message.clone()).unwrap();
                text(&message)
            });
            (
                answer.question,
                answer.outcome(),
                answer.up_to,
                texts.collect(),
                answer.more,
            )
        })
        .collect()
}

/// Deliveries: after, up to, offsets.
fn deliveries(items: &[down_item::Item]) -> Vec<(u64, u64, Vec<u64>)> {
    items
        .iter()
        .filter_map(|item| match item {
            down_item::Item::Delivery(delivery) => {
                let offsets = delivery.messages.iter().map(|message| message.offset);
                Some((delivery.after, delivery.up_to, offsets.collect()))
            }
            _ => None,
        })
        .collect()
}

/// All delivered offsets, after having seen that each delivery follows the one before.
fn given(items: &[down_item::Item], from: u64) -> Vec<u64> {
    let mut position = from;
    let mut all = Vec::new();
    for (after, up_to, offsets) in deliveries(items) {
        assert!(
            after <= position,
            "K4: {after} follows something after {position}"
        );
        for offset in &offsets {
            assert!(*offset > position && *offset <= up_to, "{offset}");
        }
        all.extend(offsets);
        position = up_to;
    }
    all
}

fn opened_at(items: &[down_item::Item]) -> Option<u64> {
    items.iter().find_map(|item| match item {
        down_item::Item::Opened(opened) => Some(opened.position),
        _ => None,
    })
}

fn is_reset(items: &[down_item::Item]) -> bool {
    items.iter().any(|item| matches!(item, down_item::Item::Reset(_)))
}

fn add(channels: &[&str]) -> up_item::Item {
    up_item::Item::Interest(Interest {
        add: channels.iter().map(|channel| (*channel).to_owned()).collect(),
        remove: Vec::new(),
    })
}

fn remove(channels: &[&str]) -> up_item::Item {
    up_item::Item::Interest(Interest {
        add: Vec::new(),
        remove: channels.iter().map(|channel| (*channel).to_owned()).collect(),
    })
}

fn beat(channels: &[&str]) -> up_item::Item {
    let mut set = ChannelSet::default();
    for channel in channels {
        set.insert(channel);
    }
    up_item::Item::Beat(UpBeat {
        channels: set.count,
        channels_hash: set.hash,
    })
}

fn recover(question: u64, channel: &str, after: u64) -> up_item::Item {
    up_item::Item::Recover(Recover {
        question,
        channel: channel.to_owned(),
        after,
    })
}

fn message(channel: &str, text: &str, key: &str) -> Message {
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    Message {
        id: Bytes::copy_from_slice(&id),
        channel: channel.to_owned(),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        key: key.to_owned(),
        sender: Some(Sender {
            user: "alice".to_owned(),
            ..Sender::default()
        }),
        ..Message::default()
    }
}

fn text(message: &Message) -> String {
    String::from_utf8(message.payload.to_vec()).unwrap()
}

fn publish(series: Series, number: u64, message: &Message, again: bool) -> up_item::Item {
    up_item::Item::Publish(Publish {
        series: series.into(),
        number,
        message: message.encode_to_vec().into(),
        again,
    })
}

fn plain(number: u64, channel: &str, again: bool) -> up_item::Item {
    let message = message(channel, &format!("plain {number}"), "");
    publish(Series::Plain, number, &message, again)
}

fn keyed(number: u64, channel: &str, key: &str, again: bool) -> up_item::Item {
    let message = message(channel, &format!("keyed {number}"), key);
    publish(Series::Keyed, number, &message, again)
}

/// A plain publish of about this many bytes.
fn large(number: u64, channel: &str, size: usize) -> up_item::Item {
    let message = message(channel, &"x".repeat(size), "");
    publish(Series::Plain, number, &message, false)
}

/// The numbers in a batch.
fn numbers(record: &Record) -> Vec<u64> {
    match &record.body {
        Some(record::Body::Batch(batch)) => batch.entries.iter().map(|entry| entry.number).collect(),
        other => panic!("{other:?}"),
    }
}

fn is_state(record: &Record) -> bool {
    matches!(record.body, Some(record::Body::State(_)))
}

fn end(sequence: u64) -> u64 {
    Offset::end_of(Sequence(sequence)).get()
}

fn at(sequence: u64, index: usize) -> u64 {
    Offset::new(Sequence(sequence), index).get()
}

fn position(owner_epoch: u64, offset: u64) -> Position {
    Position {
        ordinal: LOG.ordinal,
        random: LOG.random,
        owner_epoch,
        offset,
    }
}
