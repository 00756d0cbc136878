//! The logs: compare-and-set, and records that stay.

use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::{LogInfo, RecordAt};
use switchboard_proto::bus::{Message, Record, record};
use switchboard_proto::format;
use switchboard_proto::ids::{LogEpoch, Offset, Sequence};

/// One shard's log.
pub struct ShardLog {
    epoch: LogEpoch,
    first: u64,
    records: Vec<Bytes>,
    bytes: u64,
    max_bytes: Option<u64>,
    /// All that ever was there, also what was purged: for the check alone.
    all: Vec<Bytes>,
}

/// One message of the log, as it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub offset: u64,
    pub channel: String,
    /// What the client calls it.
    pub id: u64,
    /// The channel it was derived from.
    pub origin: Option<String>,
    pub is_purged: bool,
}

impl ShardLog {
    pub fn new(shard: u32, max_bytes: Option<u64>) -> Self {
        Self {
            epoch: LogEpoch {
                ordinal: 1,
                random: shard + 1,
            },
            first: 1,
            records: Vec::new(),
            bytes: 0,
            max_bytes,
            all: Vec::new(),
        }
    }

    pub fn info(&self) -> LogInfo {
        LogInfo {
            epoch: self.epoch,
            first: Sequence(self.first),
            last: Sequence(self.last()),
            bytes: self.bytes,
            max_bytes: self.max_bytes,
        }
    }

    fn last(&self) -> u64 {
        self.first + self.records.len() as u64 - 1
    }

    pub fn get(&self, sequence: Sequence) -> Option<Bytes> {
        let index = usize::try_from(sequence.0.checked_sub(self.first)?).ok()?;
        self.records.get(index).cloned()
    }

    /// Whether it is stored.
    pub fn append(&mut self, expected: Sequence, record: Bytes) -> bool {
        if expected.0 != self.last() {
            return false;
        }
        self.bytes += record.len() as u64;
        self.all.push(record.clone());
        self.records.push(record);
        true
    }

    pub fn read(&self, from: Sequence, to: Sequence, most: usize) -> Vec<RecordAt> {
        let from = from.0.max(self.first);
        (from..=to.0.min(self.last()))
            .take(most)
            .filter_map(|sequence| {
                Some(RecordAt {
                    sequence: Sequence(sequence),
                    record: self.get(Sequence(sequence))?,
                })
            })
            .collect()
    }

    pub fn purge(&mut self, before: Sequence) {
        let before = before.0.min(self.last());
        while self.first < before && !self.records.is_empty() {
            let gone = self.records.remove(0);
            self.bytes -= gone.len() as u64;
            self.first += 1;
        }
    }

    /// All messages that count, those that were purged included. Written anew here, so that the check
    /// does not rest on the reading that it checks.
    pub fn messages(&self) -> Vec<Stored> {
        let mut stored = Vec::new();
        let mut owner_epoch = 0;
        for (index, record) in self.all.iter().enumerate() {
            let sequence = index as u64 + 1;
            let Ok(record) = format::decode::<Record>(record.clone()) else {
                continue;
            };
            if record.sequence != sequence || record.owner_epoch < owner_epoch {
                continue;
            }
            owner_epoch = record.owner_epoch;
            let Some(record::Body::Batch(batch)) = record.body else {
                continue;
            };
            for (index, entry) in batch.entries.iter().enumerate() {
                let message = Message::decode(entry.message.clone()).unwrap_or_default();
                let text = String::from_utf8_lossy(&message.payload).into_owned();
                stored.push(Stored {
                    offset: Offset::new(Sequence(sequence), index).get(),
                    channel: message.channel,
                    id: text.parse().unwrap_or(0),
                    origin: message.origin.map(|origin| origin.channel),
                    is_purged: sequence < self.first,
                });
            }
        }
        stored
    }

    /// The newest offset of `channel` that was purged; 0: none was.
    pub fn purged_up_to(&self, channel: &str) -> u64 {
        self.messages()
            .iter()
            .filter(|stored| stored.is_purged && stored.channel == channel)
            .map(|stored| stored.offset)
            .max()
            .unwrap_or(0)
    }
}
