//! One owned shard: a state machine without I/O and without a clock.
//!
//! It decides what is appended and in which order, answers publishers and delivers to gateways, and
//! holds back everything until the log has it. Inputs are calls with the present time; what has to
//! happen goes to an [`Output`].
//!
//! Invariants, each with a test below:
//! * One append is in flight; what arrives meanwhile is the next batch (L1, group commit).
//! * Nothing is answered or delivered before the log has settled it.
//! * A record names the place it was written for; stored anywhere else, the owner steps down (L2).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use switchboard_proto::bus::{
    Answer, Batch, Down, Entry, Message, Publish, Record, Refusal, Series, Up, answer, down_item, record,
    up_item,
};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::format;
use switchboard_proto::ids::{
    Incarnation, LogEpoch, MAX_BATCH, Offset, OwnerEpoch, Sequence, ShardCount, ShardId,
};

use super::links::{FrameHead, Links};

/// What an owner causes.
pub(crate) trait Output {
    /// Append `record` behind `expected`. The outcome comes back by [`Owner::stored`] or
    /// [`Owner::refused`]; until then no other append is asked for.
    fn append(&mut self, expected: Sequence, record: Bytes);
    /// Send a frame to a gateway.
    fn down(&mut self, gateway: Incarnation, frame: Down);
}

/// Who owns what, since when: constant over an owner's life.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ownership {
    pub(crate) shard: ShardId,
    pub(crate) shards: ShardCount,
    pub(crate) router: Incarnation,
    pub(crate) log_epoch: LogEpoch,
    pub(crate) owner_epoch: OwnerEpoch,
}

/// Sizes and times that an owner keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of messages in one batch, at most. One larger message makes a batch of its own.
    pub(crate) batch_bytes: usize,
    /// Bytes that wait for the append in flight; above, publishes are refused for the time being.
    pub(crate) queue_bytes: usize,
    /// Gateways linked at once; a further one is not answered until another's link ends.
    pub(crate) links: usize,
    /// A gateway that is silent this long has no link any more.
    pub(crate) link_silence: Duration,
    /// Without another frame, a link is sent a beat this often.
    pub(crate) beat: Duration,
}

/// Why an owner stops being one.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub(crate) enum StepDown {
    /// Rule L2.
    #[error("record written for place {expected} was stored at {stored}")]
    Misplaced {
        /// The place it was written for.
        expected: Sequence,
        /// The place named.
        stored: Sequence,
    },
}

/// A publish on its way into the log.
struct Queued {
    gateway: Incarnation,
    open: u64,
    series: Series,
    number: u64,
    channel: Arc<str>,
    message: Bytes,
}

/// See the module.
pub(crate) struct Owner {
    is: Ownership,
    limits: Limits,
    /// The log's last record: ours, and settled.
    last: Sequence,
    append_number: u64,
    in_flight: Option<Vec<Queued>>,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    links: Links,
}

impl Owner {
    /// The owner whose fence record, its append number 1, is stored at `is.owner_epoch`.
    pub(crate) fn new(is: Ownership, limits: Limits) -> Self {
        Self {
            is,
            limits,
            last: Sequence(is.owner_epoch.0),
            append_number: 1,
            in_flight: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            links: Links::new(is, limits.links),
        }
    }

    /// Everything up to here is in the log.
    pub(crate) fn position(&self) -> Offset {
        Offset::end_of(self.last)
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    /// Bytes that wait for the append in flight, for metrics.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Nothing waits for the log.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.queue.is_empty()
    }

    /// A frame of a gateway.
    pub(crate) fn up(&mut self, frame: Up, now: Duration) {
        let Ok(gateway) = Incarnation::try_from(frame.gateway.as_ref()) else {
            return;
        };
        let first = frame.items.first().and_then(|item| item.item.as_ref());
        let head = FrameHead {
            gateway,
            open: frame.open,
            number: frame.number,
            opens: matches!(first, Some(up_item::Item::Open(_))),
        };
        if !self.links.accept(head, now) {
            return;
        }
        let mut interest_grew = false;
        for item in frame.items.into_iter().filter_map(|item| item.item) {
            match item {
                up_item::Item::Open(_) | up_item::Item::Beat(_) => {}
                up_item::Item::Interest(interest) => {
                    interest_grew |= !interest.add.is_empty();
                    for channel in &interest.remove {
                        self.links.remove_interest(gateway, channel);
                    }
                    for channel in &interest.add {
                        self.links.add_interest(gateway, channel);
                    }
                }
                up_item::Item::OpenEnd(_) => {
                    let position = self.position();
                    self.links.opened(gateway, position);
                    interest_grew = true;
                }
                up_item::Item::Publish(publish) => self.publish(gateway, frame.open, publish),
            }
        }
        if interest_grew {
            let position = self.position();
            self.links.applied(gateway, frame.number, position);
        }
    }

    fn publish(&mut self, gateway: Incarnation, open: u64, publish: Publish) {
        let series = publish.series();
        let number = publish.number;
        match self.check(&publish.message) {
            Ok(channel) => {
                self.queue_bytes += publish.message.len();
                self.queue.push_back(Queued {
                    gateway,
                    open,
                    series,
                    number,
                    channel,
                    message: publish.message,
                });
            }
            Err(code) => {
                let outcome = answer::Outcome::Refused(Refusal {
                    code: code.code(),
                    message: code.words().to_owned(),
                    temporary: code.is_temporary(),
                });
                self.answer(gateway, open, series, number, outcome);
            }
        }
    }

    /// The channel of a message that may enter the queue.
    fn check(&self, message: &Bytes) -> Result<Arc<str>, ErrorCode> {
        let decoded = Message::decode(message.clone()).map_err(|_| ErrorCode::BadRequest)?;
        if ShardId::of_channel(&decoded.channel, self.is.shards) != self.is.shard {
            return Err(ErrorCode::BadRequest);
        }
        if self.queue_bytes + message.len() > self.limits.queue_bytes {
            return Err(ErrorCode::TooManyRequests);
        }
        Ok(decoded.channel.into())
    }

    fn answer(
        &mut self,
        gateway: Incarnation,
        open: u64,
        series: Series,
        number: u64,
        outcome: answer::Outcome,
    ) {
        let answer = Answer {
            series: series.into(),
            number,
            outcome: Some(outcome),
        };
        self.links.push_to(gateway, open, down_item::Item::Answer(answer));
    }

    /// The log settled the append in flight: it is stored, at `sequence`. Returns how many messages
    /// it held.
    ///
    /// # Errors
    /// [`StepDown`] where that is not the place it was written for; nothing was answered then.
    pub(crate) fn stored(&mut self, sequence: Sequence) -> Result<usize, StepDown> {
        let expected = self.last.next();
        if sequence != expected {
            return Err(StepDown::Misplaced {
                expected,
                stored: sequence,
            });
        }
        self.last = sequence;
        let batch = self.in_flight.take().unwrap_or_default();
        for (index, queued) in batch.iter().enumerate() {
            let offset = answer::Outcome::Offset(Offset::new(sequence, index).get());
            self.answer(queued.gateway, queued.open, queued.series, queued.number, offset);
        }
        let position = self.position();
        let messages = batch.iter().enumerate().map(|(index, queued)| {
            (
                Offset::new(sequence, index),
                queued.channel.as_ref(),
                &queued.message,
            )
        });
        self.links.deliver(messages, position);
        Ok(batch.len())
    }

    /// The log refused the append in flight for certain: its publishers may try again.
    pub(crate) fn refused(&mut self, why: &str) {
        let refusal = ErrorCode::Internal;
        for queued in self.in_flight.take().unwrap_or_default() {
            let outcome = answer::Outcome::Refused(Refusal {
                code: refusal.code(),
                message: why.to_owned(),
                temporary: refusal.is_temporary(),
            });
            self.answer(queued.gateway, queued.open, queued.series, queued.number, outcome);
        }
    }

    /// Time goes by: beats, silent gateways.
    pub(crate) fn tick(&mut self, now: Duration) {
        let position = self.position();
        self.links
            .tick(now, self.limits.beat, self.limits.link_silence, position);
    }

    /// Sends what was collected, and begins the next append where none is in flight.
    pub(crate) fn flush(&mut self, now: Duration, time_us: u64, out: &mut impl Output) {
        self.links.flush(now, |gateway, frame| out.down(gateway, frame));
        if self.in_flight.is_none() && !self.queue.is_empty() {
            let batch = self.next_batch();
            let record = self.record(&batch, time_us);
            self.in_flight = Some(batch);
            out.append(self.last, record);
        }
    }

    fn next_batch(&mut self) -> Vec<Queued> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.queue.front() {
            let size = next.message.len();
            if batch.len() == MAX_BATCH || (bytes + size > self.limits.batch_bytes && !batch.is_empty()) {
                break;
            }
            bytes += size;
            batch.extend(self.queue.pop_front());
        }
        self.queue_bytes -= bytes;
        batch
    }

    fn record(&mut self, batch: &[Queued], time_us: u64) -> Bytes {
        self.append_number += 1;
        let mut sources: Vec<Incarnation> = Vec::new();
        let entries = batch
            .iter()
            .map(|queued| {
                let known = sources.iter().position(|source| *source == queued.gateway);
                let source = known.unwrap_or_else(|| {
                    sources.push(queued.gateway);
                    sources.len() - 1
                });
                Entry {
                    message: queued.message.clone(),
                    // At most MAX_BATCH sources.
                    source: source as u32,
                    series: queued.series.into(),
                    number: queued.number,
                }
            })
            .collect();
        let sources = sources.into_iter().map(Incarnation::to_bytes).collect();
        format::encode(&Record {
            owner_epoch: self.is.owner_epoch.0,
            sequence: self.last.next().0,
            owner: self.is.router.to_bytes(),
            append_number: self.append_number,
            time_us,
            body: Some(record::Body::Batch(Batch { sources, entries })),
        })
    }
}

#[cfg(test)]
mod tests;
