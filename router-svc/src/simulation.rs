//! The router's state machines for a simulation that plays bus, log and time around them.

use std::time::Duration;

use bytes::Bytes;
use switchboard_bus::{LogInfo, RecordAt};
use switchboard_proto::bus::{
    Derivation, Derive, Down, Fence, HistoryOutcome, OwnerBeat, Record, Up, record,
};
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, LogEpoch, Offset, OwnerEpoch, Sequence, ShardCount, ShardId};

use crate::ownership::{Decision, Ownerships, Patience};
use crate::rules::is_kept;
pub use crate::rules::{Rule, break_rule};
use crate::shard::{
    Ask, AskId, Body, Limits, LinkLimits, MemoryLimits, Output, Owner, Ownership, PageLimits, Reading,
    TailReader, UpkeepLimits, WindowLimits, name,
};

/// What an owner wants done.
#[derive(Debug)]
pub enum Effect {
    Append(Sequence, Bytes),
    Down(Incarnation, Down),
    Read(Sequence, Sequence),
    Derive(Incarnation, Derive),
    Derivation(Incarnation, Derivation),
    Purge(Sequence),
}

#[derive(Default)]
struct Effects(Vec<Effect>);

impl Output for Effects {
    fn append(&mut self, expected: Sequence, record: Bytes) {
        self.0.push(Effect::Append(expected, record));
    }

    fn down(&mut self, gateway: Incarnation, frame: Down) {
        self.0.push(Effect::Down(gateway, frame));
    }

    fn read(&mut self, from: Sequence, to: Sequence) {
        self.0.push(Effect::Read(from, to));
    }

    fn derive(&mut self, router: Incarnation, frame: Derive) {
        self.0.push(Effect::Derive(router, frame));
    }

    fn derivation(&mut self, router: Incarnation, frame: Derivation) {
        self.0.push(Effect::Derivation(router, frame));
    }

    /// The simulated world has no server API.
    fn hidden(&mut self, _: String, _: HistoryOutcome) {}

    fn purge(&mut self, before: Sequence) {
        self.0.push(Effect::Purge(before));
    }

    /// Nor a message store.
    fn ask(&mut self, _: AskId, _: Ask) {}
}

/// Small, so that everything overflows within seconds.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub window_bytes: usize,
    pub window_age: Duration,
    pub heads: usize,
    pub page_messages: usize,
    pub state_records: u64,
    pub key_window: Duration,
}

impl Sizes {
    fn limits(self) -> Limits {
        let us = |duration: Duration| duration.as_micros() as u64;
        Limits {
            batch_bytes: 4096,
            append_interval: Duration::ZERO,
            queue_bytes: 64 * 1024,
            links: LinkLimits {
                links: 64,
                openings: 2,
                silence: Duration::from_secs(10),
                beat: Duration::from_secs(1),
            },
            memory: MemoryLimits {
                window: WindowLimits {
                    bytes: self.window_bytes,
                    age_us: us(self.window_age),
                    heads: self.heads,
                },
                numbers: 1000,
                numbers_silence: Duration::from_secs(60),
                keys_us: us(self.key_window),
                keys: 10_000,
                removed: 1024,
                hidden: 1024,
                deleted: 64,
            },
            upkeep: UpkeepLimits {
                state_records: self.state_records,
                state_bytes: 1 << 20,
                keys_us: us(self.key_window),
                full: 90,
                overfull: 97,
                purge_above: 60,
                purge_to: 40,
                readers: false,
            },
            page: PageLimits {
                bytes: 64 * 1024,
                messages: self.page_messages,
            },
            store: false,
        }
    }
}

/// The fence with which a router claims a shard whose log stands at `info` and ends with `last`.
pub fn fence(info: &LogInfo, last: Option<Bytes>, router: Incarnation, time_us: u64) -> (Bytes, Sequence) {
    let last: Record = last
        .and_then(|last| format::decode(last).ok())
        .unwrap_or_default();
    let state_at = match last.body {
        Some(record::Body::State(_)) => info.last,
        _ => Sequence(last.state_at),
    };
    let place = info.last.next();
    let fence = format::encode(&Record {
        owner_epoch: place.0,
        sequence: place.0,
        owner: router.to_bytes(),
        append_number: 1,
        time_us,
        state_at: state_at.0,
        body: Some(record::Body::Fence(Fence {})),
    });
    (fence, state_at)
}

/// One owned shard.
pub struct SimulatedOwner {
    owner: Owner,
    is: Ownership,
}

impl SimulatedOwner {
    /// After its fence is stored at `fence`; `tail` is what it read, up to the fence.
    pub fn new(
        sizes: Sizes,
        shard: ShardId,
        shards: ShardCount,
        router: Incarnation,
        fence: Sequence,
        info: LogInfo,
        tail: &[RecordAt],
    ) -> Self {
        let limits = sizes.limits();
        let is = Ownership {
            shard,
            shards,
            router,
            log_epoch: info.epoch,
            owner_epoch: OwnerEpoch(fence.0),
        };
        let from = tail.first().map_or(fence, |first| first.sequence);
        let mut reader = TailReader::new(limits.memory, from, info.epoch);
        // Without the rule it starts with what it has, which is nothing.
        if is_kept(Rule::O2) {
            tail.iter().for_each(|at| reader.record(at));
        }
        let memory = reader.finish(Sequence(info.first.0.max(1)));
        let owner = Owner::new(is, limits, memory, info);
        Self { owner, is }
    }

    /// The records before the tail, as far as their keys count.
    pub fn older_keys(&mut self, older: &[RecordAt], from: Sequence, now: Duration) {
        let mut reading = Reading::default();
        for at in older {
            let Some(Body::Batch(entries)) = reading.record(at) else {
                continue;
            };
            let time_us = reading.head.time_us;
            for (index, entry) in entries.into_iter().enumerate() {
                if let Some(name) = name(&entry.message) {
                    let offset = Offset::new(at.sequence, index);
                    self.owner.older_keys(name, offset, entry.message.id, time_us);
                }
            }
        }
        self.owner.keys_known(from, now);
    }

    pub fn beat(&self, released: bool) -> OwnerBeat {
        OwnerBeat {
            shard: u32::from(self.is.shard.get()),
            router: self.is.router.to_bytes(),
            ordinal: self.is.log_epoch.ordinal,
            owner_epoch: self.is.owner_epoch.0,
            released,
            ..OwnerBeat::default()
        }
    }

    pub fn log_epoch(&self) -> LogEpoch {
        self.is.log_epoch
    }

    pub fn append_number(&self) -> u64 {
        self.owner.append_number()
    }

    pub fn is_idle(&self) -> bool {
        self.owner.is_idle()
    }

    /// `Err`: the owner steps down, in words.
    pub fn up(&mut self, frame: Up, now: Duration) -> Result<(), String> {
        self.owner.up(frame, now).map_err(|error| error.to_string())
    }

    pub fn derive(&mut self, frame: Derive) -> Vec<Effect> {
        let mut effects = Effects::default();
        self.owner.derive(frame, &mut effects);
        effects.0
    }

    pub fn derivation(&mut self, frame: &Derivation) {
        self.owner.derivation(frame);
    }

    pub fn owner_beat(&mut self, shard: ShardId, router: Incarnation, rank: (u32, u64)) {
        self.owner.owner_beat(shard, router, rank);
    }

    pub fn stored(&mut self, sequence: Sequence, now: Duration) -> Result<Vec<Effect>, String> {
        let mut effects = Effects::default();
        self.owner
            .stored(sequence, now, &mut effects)
            .map_err(|error| error.to_string())?;
        Ok(effects.0)
    }

    pub fn refused(&mut self) {
        // Says something only to those who hide a history, which nobody does here.
        self.owner.refused(&mut Effects::default());
    }

    pub fn page(&mut self, page: Result<&[RecordAt], ()>) {
        self.owner.page(page);
    }

    pub fn leader(&mut self, info: LogInfo, appends: u64) -> Result<(), String> {
        self.owner
            .leader(info, appends)
            .map_err(|error| error.to_string())
    }

    pub fn tick(&mut self, now: Duration, now_us: u64) {
        self.owner.tick(now, now_us);
    }

    pub fn flush(&mut self, now: Duration, time_us: u64) -> Vec<Effect> {
        let mut effects = Effects::default();
        self.owner.flush(now, time_us, &mut effects);
        effects.0
    }

    /// Readings of the log for recoveries.
    pub fn scans(&self) -> u64 {
        self.owner.questions().scans()
    }

    /// Purges of the log.
    pub fn purges(&self) -> u64 {
        self.owner.upkeep().purges()
    }
}

/// What a router should do about a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Claim(ShardId),
    Release(ShardId),
    Abandon(ShardId),
}

/// Which shards a router should own.
pub struct SimulatedOwnerships(Ownerships);

impl SimulatedOwnerships {
    pub fn new(router: Incarnation, shards: ShardCount) -> Self {
        let patience = Patience {
            silence: Duration::from_millis(1200),
            pause: Duration::from_millis(200),
            pause_max: Duration::from_secs(5),
        };
        Self(Ownerships::new(router, shards, patience))
    }

    pub fn beat(&mut self, beat: &OwnerBeat, now: Duration) {
        self.0.beat(beat, now);
    }

    pub fn ended(&mut self, shard: ShardId, failed: bool, now: Duration) {
        self.0.ended(shard, failed, now);
    }

    pub fn decide(&mut self, routers: &[Incarnation], now: Duration) -> Vec<Act> {
        self.0
            .decide(routers, now)
            .into_iter()
            .filter_map(|decision| match decision {
                Decision::Claim(shard) => Some(Act::Claim(shard)),
                Decision::Release(shard) => Some(Act::Release(shard)),
                Decision::Abandon(shard) => Some(Act::Abandon(shard)),
                // Safety rests on nothing that is read ahead; here all is read back.
                Decision::Prepare(..) | Decision::Forget(_) => None,
            })
            .collect()
    }
}
