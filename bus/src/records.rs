//! Records as readers of a shard see them: those that count, decoded (L2). Owners and durable readers must agree on
//! what that is, so it stands here. No I/O and no clock.

use bytes::Bytes;
use prost::Message as _;
use switchboard_proto::bus::{Applied, Message, Record, Series, State, record};
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, OwnerEpoch, Sequence};

use crate::RecordAt;

/// One message of a batch.
#[derive(Debug)]
pub struct Entry {
    /// As it is stored.
    pub encoded: Bytes,
    /// Decoded; empty where it does not decode.
    pub message: Message,
    /// Whose publish it was; `None`: derived from another shard's message.
    pub source: Option<(Incarnation, Series, u64)>,
}

/// What a record that counts holds.
#[derive(Debug)]
pub enum Body {
    /// Somebody took over.
    Fence,
    /// Messages, in the order of their offsets.
    Batch(Vec<Entry>),
    /// What the owner knew (L6).
    State(State),
    /// The log's end: its epoch is over.
    Closed,
}

/// Reads a shard's records in order. A record at another place than the one it was written for, or of
/// an owner that another's fence deposed before it, is void.
#[derive(Debug, Default)]
pub struct Reading {
    owner_epoch: u64,
    /// Records that could not be decoded.
    damaged: u64,
    /// Of the last record that counts.
    pub head: Head,
}

/// What stands beside a record's body.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// Unix microseconds at the writer.
    pub time_us: u64,
    /// The newest state record, this one included; 0: there is none.
    pub state_at: Sequence,
    /// Positions of derived entries that it moves.
    pub applied: Vec<Applied>,
}

impl Reading {
    /// Goes on where another reading ended, with the owner epoch that it knew.
    pub fn after(owner_epoch: OwnerEpoch) -> Self {
        Self {
            owner_epoch: owner_epoch.0,
            ..Self::default()
        }
    }

    /// The owner epoch of the last record that counts.
    pub fn owner_epoch(&self) -> OwnerEpoch {
        OwnerEpoch(self.owner_epoch)
    }

    /// Records that were not readable.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// What the record holds; `None` where it is void or not readable.
    pub fn record(&mut self, at: &RecordAt) -> Option<Body> {
        let Ok(record) = format::decode::<Record>(at.record.clone()) else {
            self.damaged += 1;
            return None;
        };
        if record.sequence != at.sequence.0 || record.owner_epoch < self.owner_epoch {
            return None;
        }
        // A fence begins an epoch, its own sequence. Where the reading begins behind it, the first
        // record tells.
        self.owner_epoch = record.owner_epoch;
        self.head = Head {
            time_us: record.time_us,
            state_at: Sequence(record.state_at),
            applied: Vec::new(),
        };
        match record.body? {
            record::Body::Fence(_) => Some(Body::Fence),
            record::Body::Closed(_) => Some(Body::Closed),
            record::Body::State(state) => {
                self.head.state_at = at.sequence;
                self.head.applied.clone_from(&state.applied);
                Some(Body::State(state))
            }
            record::Body::Batch(batch) => {
                self.head.applied = batch.applied;
                let sources = batch.sources;
                let entries = batch.entries.into_iter().map(|entry| {
                    let source = (entry.number > 0)
                        .then(|| {
                            let source = sources.get(usize::try_from(entry.source).ok()?)?;
                            let gateway = Incarnation::try_from(source.as_ref()).ok()?;
                            Some((gateway, entry.series(), entry.number))
                        })
                        .flatten();
                    // One that does not decode keeps its place: offsets count entries.
                    let message = Message::decode(entry.message.clone()).unwrap_or_default();
                    Entry {
                        encoded: entry.message,
                        message,
                        source,
                    }
                });
                Some(Body::Batch(entries.collect()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use switchboard_proto::bus::{Batch, Fence};

    use super::*;

    fn at(place: u64, written_for: u64, owner_epoch: u64, body: record::Body) -> RecordAt {
        let record = Record {
            owner_epoch,
            sequence: written_for,
            time_us: place,
            body: Some(body),
            ..Record::default()
        };
        RecordAt {
            sequence: Sequence(place),
            record: format::encode(&record),
        }
    }

    fn batch() -> record::Body {
        record::Body::Batch(Batch::default())
    }

    fn fence() -> record::Body {
        record::Body::Fence(Fence {})
    }

    #[test]
    fn l2_what_was_written_for_another_place_or_by_a_deposed_owner_is_void() {
        let mut reading = Reading::default();
        assert!(matches!(
            reading.record(&at(5, 5, 3, batch())),
            Some(Body::Batch(_))
        ));
        assert!(reading.record(&at(6, 5, 3, batch())).is_none(), "another place");
        assert!(matches!(reading.record(&at(7, 7, 7, fence())), Some(Body::Fence)));
        assert!(reading.record(&at(8, 8, 3, batch())).is_none(), "deposed at 7");
        assert!(reading.record(&at(9, 9, 7, batch())).is_some());
        assert!(
            reading.record(&at(10, 11, 11, fence())).is_none(),
            "a fence elsewhere"
        );
        assert!(
            reading.record(&at(11, 11, 7, batch())).is_some(),
            "which deposed nobody"
        );
        assert_eq!(reading.damaged(), 0);
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_passed_over() {
        let mut reading = Reading::default();
        let garbage = RecordAt {
            sequence: Sequence(5),
            record: Bytes::from_static(b"garbage"),
        };
        assert!(reading.record(&garbage).is_none());
        assert_eq!(reading.damaged(), 1);
    }
}
