//! One owned shard: a state machine without I/O and without a clock.
//!
//! It decides what is appended and in which order, answers publishers, delivers to gateways, answers
//! what they missed, and holds back everything until the log has it. Inputs are calls with the present
//! time; what has to happen goes to an [`Output`].
//!
//! Invariants, each with a test below:
//! * One append is in flight; what arrives meanwhile is the next batch (L1, group commit).
//! * Nothing is answered or delivered before the log has settled it.
//! * A record names the place it was written for; stored anywhere else, the owner steps down (L2).
//! * A publish is stored once, however often it is sent (P1, P2, P5).
//!
//! The parts: `links` (gateways), `memory` (what is known of the log), `questions` (recoveries),
//! `derive` and `applying` (entries for and from other shards), `upkeep` (state records and purging).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::{LogInfo, RecordAt};
use switchboard_proto::bus::{
    Answer, Applied, Batch, Derivation, Derive, Down, Entry, HideHistory, HistoryOutcome, HistoryQuestion,
    Message, Open, Publish, Record, Refusal, Series, State, Unknown, Up, answer, down_item, record, up_item,
};
use switchboard_proto::channel::ChannelSet;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::format;
use switchboard_proto::ids::{
    Incarnation, LogEpoch, MAX_BATCH, Offset, OwnerEpoch, Sequence, ShardCount, ShardId,
};

use super::applying::{Applying, SourceOwner, Verdict};
use super::askings::{Ask, AskId, Told};
use super::derive::{Deriver, Place};
use super::hidden::{Hidden, NoRoom};
use super::history::{self, Begun, Marks};
use super::keys::{self, Key, KeyName};
use super::links::{FrameHead, LinkLimits, Links, Opening};
use super::memory::{Entering, Memory, MemoryLimits, changing};
use super::publishers::Known;
use super::questions::{Known as KnownOfLog, PageLimits, Question, Questions};
use super::readers::ReaderAt;
use super::readings::View;
use super::upkeep::{Upkeep, UpkeepLimits};
use crate::maps::HashMap;
use crate::rules::{Rule, is_kept};

/// Answers of the log's leader in a row that it ends before what it acknowledged, until that is believed. They
/// come each second.
const SHORT_LOOKS: u32 = 12;

/// Calls that hide messages and wait for a state record, at most. Further ones are told to ask again.
const HIDING: usize = 1024;

/// What an owner causes.
pub(crate) trait Output {
    /// Append `record` behind `expected`. The outcome comes back by [`Owner::stored`] or
    /// [`Owner::refused`]; until then no other append is asked for.
    fn append(&mut self, expected: Sequence, record: Bytes);
    /// Send a frame to a gateway.
    fn down(&mut self, gateway: Incarnation, frame: Down);
    /// Read records, both ends included, as many as are handy. They come back by [`Owner::page`]; until
    /// then no other reading is asked for.
    fn read(&mut self, from: Sequence, to: Sequence);
    /// Send a frame to the owner of the shard it names, at that router.
    fn derive(&mut self, router: Incarnation, frame: Derive);
    /// Answer such a frame, to the owner of the shard it came from.
    fn derivation(&mut self, router: Incarnation, frame: Derivation);
    /// Answer who asked to hide messages, at `to`.
    fn hidden(&mut self, to: String, outcome: HistoryOutcome);
    /// Remove all records below `before`.
    fn purge(&mut self, before: Sequence);
    /// Ask the message store. Its answer, or that there is none, comes back by [`Owner::told`].
    fn ask(&mut self, id: AskId, ask: Ask);
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
    /// Between the beginnings of two appends of messages, at least, unless as many wait as one takes. An owner that
    /// has rested for as long appends at once.
    pub(crate) append_interval: Duration,
    /// Bytes that wait for the append in flight; above, publishes are refused for the time being.
    pub(crate) queue_bytes: usize,
    pub(crate) links: LinkLimits,
    pub(crate) memory: MemoryLimits,
    pub(crate) upkeep: UpkeepLimits,
    pub(crate) page: PageLimits,
    /// Whether messages are stored, and the store may be asked.
    pub(crate) store: bool,
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
    /// Rule O4.
    #[error("the log goes on behind {ours}, to {last}: somebody else writes it")]
    Overtaken {
        /// The last record of this owner.
        ours: Sequence,
        /// The last record.
        last: Sequence,
    },
    /// Rule O6.
    #[error("{who} holds position {position}, which this log never gave out: it went back")]
    WentBack {
        /// Whose position.
        who: &'static str,
        /// The position.
        position: Offset,
    },
}

/// Whose entry it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Gateway {
        gateway: Incarnation,
        open: u64,
        series: Series,
        number: u64,
    },
    Shard {
        shard: u32,
        at: Place,
        owner: SourceOwner,
    },
}

/// A message on its way into the log.
struct Queued {
    source: Source,
    channel: Arc<str>,
    message: Bytes,
    id: Bytes,
    key: Option<KeyName>,
    /// Decoded, where it edits or deletes another message.
    change: Option<Box<Message>>,
}

/// Who waits for the message of somebody else's, with the same key.
struct Attached {
    gateway: Incarnation,
    open: u64,
    series: Series,
    number: u64,
}

enum InFlight {
    Batch(Vec<Queued>, u64),
    /// With what is to be purged behind it, whether it says that nothing waits any more, and what is hidden with it.
    State(Sequence, bool, Option<Hiding>),
}

/// A call that hides messages of a channel.
struct Hide {
    channel: String,
    up_to: Offset,
    /// Where its answer goes.
    to: String,
}

/// What a state record in flight hides.
struct Hiding {
    /// All marks, once it is stored.
    hidden: Hidden,
    asked: Vec<Hide>,
}

/// When we were asked for something beyond our position. Only what the log is asked afterwards tells
/// whether we own the shard still: an acknowledgement, or a word of its leader, may be on the way from
/// before another took over.
#[derive(Debug, Clone, Copy)]
struct Moment {
    appends: u64,
    looks: u64,
}

/// Who asked for the reading that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Questions,
    Deriver,
    Upkeep,
}

/// See the module.
pub(crate) struct Owner {
    is: Ownership,
    limits: Limits,
    /// The log's last record: ours, and settled.
    last: Sequence,
    append_number: u64,
    in_flight: Option<InFlight>,
    /// When the next append of messages may begin.
    append_from: Duration,
    queue: VecDeque<Queued>,
    /// Keyed publishes that came before the keys were known.
    unkeyed: VecDeque<(Incarnation, u64, Publish)>,
    queue_bytes: usize,
    /// They wait for the next state record.
    hiding: Vec<Hide>,
    /// The last append was made to hide something: publishes that wait go before the next such one.
    hid_last: bool,
    /// The number of shards is being changed: no publish is taken.
    is_frozen: bool,
    /// The state record that says so and that nothing waits any more; 0: none does.
    frozen_at: Sequence,
    keys_known: bool,
    attached: HashMap<KeyName, Vec<Attached>>,
    /// How often in a row the log's leader said that the log is shorter than it was.
    short_looks: u32,
    /// All of these together: no more than keys are known.
    attached_count: usize,
    memory: Memory,
    links: Links,
    questions: Questions,
    deriver: Deriver,
    applying: Applying,
    upkeep: Upkeep,
    reading: Option<Reader>,
    /// A reading failed: none before the next tick, or a log that is down would be asked without pause.
    reading_rests: bool,
    /// A gateway's position that lies beyond ours: either we are deposed, or the log went back (O6).
    beyond: Option<(Offset, Moment)>,
    /// Recoveries from beyond our position: the same, or a client makes it up.
    parked: Vec<(Question, Moment)>,
    /// Answers of the log's leader.
    looks: u64,
    duplicates: u64,
}

impl Owner {
    /// The owner whose fence record, its append number 1, is stored at `is.owner_epoch`, with what it
    /// read of the log before (O2). `info` is how the log stood then.
    pub(crate) fn new(is: Ownership, limits: Limits, memory: Memory, info: LogInfo) -> Self {
        let derived_up_to = memory.derived_up_to;
        Self {
            is,
            limits,
            last: Sequence(is.owner_epoch.0),
            append_number: 1,
            in_flight: None,
            append_from: Duration::ZERO,
            queue: VecDeque::new(),
            unkeyed: VecDeque::new(),
            queue_bytes: 0,
            hiding: Vec::new(),
            hid_last: false,
            is_frozen: false,
            frozen_at: Sequence(0),
            keys_known: false,
            attached: HashMap::default(),
            short_looks: 0,
            attached_count: 0,
            memory,
            links: Links::new(is, limits.links),
            questions: Questions::new(limits.page, limits.store),
            deriver: Deriver::new(is, derived_up_to),
            applying: Applying::default(),
            upkeep: Upkeep::new(limits.upkeep, info),
            reading: None,
            reading_rests: false,
            beyond: None,
            parked: Vec::new(),
            looks: 0,
            duplicates: 0,
        }
    }

    /// Everything up to here is in the log.
    pub(crate) fn position(&self) -> Offset {
        Offset::end_of(self.last)
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn questions(&self) -> &Questions {
        &self.questions
    }

    pub(crate) fn deriver(&self) -> &Deriver {
        &self.deriver
    }

    pub(crate) fn upkeep(&self) -> &Upkeep {
        &self.upkeep
    }

    /// Publishes that were recognised as repeats, for metrics.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Bytes that wait for the append in flight, for metrics.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Nothing waits for the log.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.queue.is_empty()
    }

    /// Counts this owner's appends, the fence included.
    pub(crate) fn append_number(&self) -> u64 {
        self.append_number
    }

    /// The share of the window's memory that this shard may take now (R9).
    pub(crate) fn set_window_bytes(&mut self, bytes: usize) {
        self.memory.window.set_bytes_limit(bytes);
    }

    /// The number of shards is being changed, or not any more. While it is, publishes are refused for the time
    /// being, and what was taken before is stored and derived; a state record says when that is done.
    pub(crate) fn freeze(&mut self, is_frozen: bool) {
        if self.is_frozen && !is_frozen {
            // What the last record says holds no more.
            self.upkeep.want_state();
        }
        self.is_frozen = is_frozen;
        self.frozen_at = Sequence(0);
    }

    // ---- gateways

    /// A frame of a gateway.
    ///
    /// # Errors
    /// [`StepDown`] where it proves that the log went back (O6).
    pub(crate) fn up(&mut self, frame: Up, now: Duration) -> Result<(), StepDown> {
        let Ok(gateway) = Incarnation::try_from(frame.gateway.as_ref()) else {
            return Ok(());
        };
        let open = frame.open;
        let first = frame.items.first().and_then(|item| item.item.as_ref());
        let head = FrameHead {
            gateway,
            open,
            number: frame.number,
            opens: matches!(first, Some(up_item::Item::Open(_))),
            confirmed: Offset::from_u64(frame.confirmed),
        };
        if !self.links.accept(head, now) {
            return Ok(());
        }
        self.memory
            .publishers
            .answered(gateway, frame.open_plain, frame.open_keyed, now);
        let mut interest_grew = false;
        for item in frame.items.into_iter().filter_map(|item| item.item) {
            match item {
                up_item::Item::Open(opened) => self.open(head, &opened, now)?,
                up_item::Item::Beat(beat) => {
                    let set = ChannelSet {
                        count: beat.channels,
                        hash: beat.channels_hash,
                    };
                    self.links.compare(gateway, set);
                }
                up_item::Item::Interest(interest) => {
                    interest_grew |= !interest.add.is_empty();
                    for channel in &interest.remove {
                        self.links.remove_interest(gateway, channel);
                    }
                    for channel in &interest.add {
                        self.links.add_interest(gateway, channel, &self.memory.window);
                    }
                    self.links.listed(gateway);
                }
                up_item::Item::OpenEnd(_) => {
                    let position = self.position();
                    self.links.open_end(gateway, &self.memory.window, position);
                    interest_grew = true;
                }
                up_item::Item::Publish(publish) => self.publish(gateway, open, publish, now),
                up_item::Item::Recover(asked) => {
                    let channel = self
                        .memory
                        .window
                        .name(&asked.channel)
                        .unwrap_or_else(|| asked.channel.as_str().into());
                    let question = Question {
                        gateway,
                        open,
                        number: asked.question,
                        channel,
                        after: Offset::from_u64(asked.after),
                    };
                    self.recover(question);
                }
                up_item::Item::Ephemeral(ephemeral) => {
                    if let Ok(message) = Message::decode(ephemeral.message.clone())
                        && self.is_ours(&message)
                    {
                        self.links.deliver_ephemeral(&message.channel, &ephemeral.message);
                    }
                }
            }
        }
        if interest_grew {
            let position = self.position();
            self.links
                .in_force(gateway, frame.number, &self.memory.window, position);
        }
        Ok(())
    }

    fn open(&mut self, head: FrameHead, opened: &Open, now: Duration) -> Result<(), StepDown> {
        let mut held = None;
        if let Some(position) = &opened.position {
            let is_same_log =
                (position.ordinal, position.random) == (self.is.log_epoch.ordinal, self.is.log_epoch.random);
            if is_same_log {
                let offset = Offset::from_u64(position.offset);
                // Learned under an owner before this one, or one before that, yet not before the next one's
                // fence.
                if self.memory.disproves(position.owner_epoch, offset) {
                    return Err(StepDown::WentBack {
                        who: "a gateway",
                        position: offset,
                    });
                }
                if offset.sequence() > self.last {
                    // The log's leader tells which; the gateway opens again meanwhile.
                    let moment = self.moment();
                    self.beyond.get_or_insert((offset, moment));
                    return Ok(());
                }
                held = Some(offset);
            }
        }
        // What it still has queued here, it sends again (K2).
        self.drop_queued(head.gateway);
        let since = opened.sent_since.as_ref().map(|since| {
            let is_same_log =
                (since.ordinal, since.random) == (self.is.log_epoch.ordinal, self.is.log_epoch.random);
            // In another log nothing of this one is stored.
            if is_same_log {
                Offset::from_u64(since.offset)
            } else {
                Offset::from_u64(u64::MAX)
            }
        });
        self.memory.publishers.opened(head.gateway, since, now);
        let opening = Opening {
            position: held,
            set: ChannelSet {
                count: opened.channels,
                hash: opened.channels_hash,
            },
            credit: usize::try_from(opened.credit).unwrap_or(usize::MAX),
        };
        let position = self.position();
        self.links.open(head, opening, &self.memory.window, position, now);
        Ok(())
    }

    fn drop_queued(&mut self, gateway: Incarnation) {
        let is_its = |queued: &Queued| matches!(queued.source, Source::Gateway { gateway: from, .. } if from == gateway);
        let mut kept = VecDeque::with_capacity(self.queue.len());
        for queued in std::mem::take(&mut self.queue) {
            if is_its(&queued) {
                self.queue_bytes -= queued.message.len();
                if let Some(key) = &queued.key {
                    self.memory.keys.withdraw(key);
                    self.refuse_attached(key, ErrorCode::Internal);
                }
            } else {
                kept.push_back(queued);
            }
        }
        self.queue = kept;
        let queue_bytes = &mut self.queue_bytes;
        self.unkeyed.retain(|(from, _, publish)| {
            let stays = *from != gateway;
            if !stays {
                *queue_bytes -= publish.message.len();
            }
            stays
        });
    }

    /// What an answer about the channel's history is made with now.
    pub(super) fn view(&self, channel: &str) -> View {
        View {
            position: self.position(),
            hidden: self.memory.hidden.up_to(channel),
            deleted: Arc::clone(&self.memory.deleted),
        }
    }

    /// Begins to answer what was said in a channel.
    pub(crate) fn history(&self, question: HistoryQuestion) -> Begun {
        let window = &self.memory.window;
        let deleted = &self.memory.deleted;
        let marks = Marks {
            hidden: self.memory.hidden.up_to(&question.channel),
            removed: self.memory.removed.up_to(&question.channel),
            floor: deleted.floor(),
        };
        history::begin(
            question,
            window,
            marks,
            deleted,
            self.is.log_epoch,
            self.position(),
        )
    }

    /// Hides messages of a channel from history and recoveries. Answers at once, or by [`Output::hidden`] once a state
    /// record with the mark is stored.
    pub(crate) fn hide(&mut self, channel: String, hide: &HideHistory, to: String) -> Option<HistoryOutcome> {
        let up_to = Offset::from_u64(hide.up_to);
        let is_known = hide.log_epoch == self.is.log_epoch.to_string()
            && up_to <= self.position()
            && ShardId::of_channel(&channel, self.is.shards) == self.is.shard;
        if !is_known {
            return Some(HistoryOutcome::Unavailable);
        }
        if up_to <= self.memory.hidden.up_to(&channel) {
            return Some(HistoryOutcome::Hidden);
        }
        // The room above the fill mark is for records that a take-over and a purge need (L3).
        if self.is_frozen || self.upkeep.is_full() || self.hiding.len() >= HIDING {
            return Some(HistoryOutcome::Unavailable);
        }
        self.hiding.push(Hide { channel, up_to, to });
        None
    }

    /// The marks that the next state record adds, where it is time for them. Who finds no room is told.
    fn next_hiding(&mut self, out: &mut impl Output) -> Option<Hiding> {
        if self.hiding.is_empty() || (self.hid_last && !self.queue.is_empty()) {
            return None;
        }
        let mut hidden = self.memory.hidden.clone();
        let mut asked = Vec::with_capacity(self.hiding.len());
        for hide in self.hiding.drain(..) {
            match hidden.hide(&hide.channel, hide.up_to) {
                Ok(()) => asked.push(hide),
                Err(NoRoom) => out.hidden(hide.to, HistoryOutcome::NoRoom),
            }
        }
        (!asked.is_empty()).then_some(Hiding { hidden, asked })
    }

    /// A state record with these marks is stored: they hold from now on.
    fn hiding_stored(&mut self, sequence: Sequence, hiding: Hiding, out: &mut impl Output) {
        self.memory.hidden = hiding.hidden;
        self.memory.hidden.written_in(sequence);
        for hide in hiding.asked {
            for (question, answer) in self.questions.hide(&hide.channel, hide.up_to) {
                self.links.push_to(
                    question.gateway,
                    question.open,
                    down_item::Item::Recovered(answer),
                );
            }
            out.hidden(hide.to, HistoryOutcome::Hidden);
        }
    }

    /// Answers a recovery, at once or later.
    fn recover(&mut self, question: Question) {
        let position = self.position();
        if question.after > position {
            // A deposed owner must not say that it is gone (R5).
            self.parked.push((question, self.moment()));
            return;
        }
        self.answer_recovery(question);
    }

    fn moment(&self) -> Moment {
        Moment {
            appends: self.append_number,
            looks: self.looks,
        }
    }

    /// Answers what no longer lies beyond our position, and what does at a moment after which it is
    /// proved that we own the shard: nobody ever was given such an offset.
    fn settle_parked(&mut self, is_proved: impl Fn(Moment) -> bool) {
        let position = self.position();
        for (question, moment) in std::mem::take(&mut self.parked) {
            if question.after <= position || is_proved(moment) {
                self.answer_recovery(question);
            } else {
                self.parked.push((question, moment));
            }
        }
    }

    /// Whether the log went back, given after which moments it is proved that we own the shard.
    fn check_beyond(&mut self, is_proved: impl Fn(Moment) -> bool) -> Result<(), StepDown> {
        let Some((position, moment)) = self.beyond else {
            return Ok(());
        };
        if position.sequence() <= self.last {
            self.beyond = None;
        } else if is_proved(moment) {
            // It was not another owner who gave that position out.
            return Err(StepDown::WentBack {
                who: "a gateway",
                position,
            });
        }
        Ok(())
    }

    fn answer_recovery(&mut self, question: Question) {
        let position = self.position();
        let answered = self.questions.ask(
            question,
            &self.memory.window,
            &self.memory.removed,
            &self.memory.hidden,
            &self.memory.deleted,
            position,
        );
        if let Some((question, answer)) = answered {
            self.links.push_to(
                question.gateway,
                question.open,
                down_item::Item::Recovered(answer),
            );
        }
    }

    fn is_ours(&self, message: &Message) -> bool {
        ShardId::of_channel(&message.channel, self.is.shards) == self.is.shard
    }

    fn publish(&mut self, gateway: Incarnation, open: u64, publish: Publish, now: Duration) {
        let series = publish.series();
        let number = publish.number;
        // What is known of its number comes first: it may be the stored message itself, asked for again.
        match self
            .memory
            .publishers
            .look(gateway, series, number, publish.again, now)
        {
            Known::Stored(offset) => {
                self.duplicates += 1;
                let outcome = answer::Outcome::Offset(offset.get());
                return self.answer(gateway, open, series, number, outcome);
            }
            Known::InFlight => {
                self.duplicates += 1;
                return self.follow_in_flight(gateway, open, series, number);
            }
            Known::Unknown => {
                let outcome = answer::Outcome::Unknown(Unknown {});
                return self.answer(gateway, open, series, number, outcome);
            }
            // One with a key may have followed another's message, and be no number of its own.
            Known::Refused if series == Series::Keyed => {}
            Known::Refused => return self.refuse(gateway, open, series, number, ErrorCode::Internal),
            Known::New => {}
        }
        let message = match self.check(&publish.message) {
            Ok(message) => message,
            Err(code) => return self.refuse(gateway, open, series, number, code),
        };
        let key = keys::name(&message);
        if key.is_some() && !self.keys_known {
            self.queue_bytes += publish.message.len();
            self.unkeyed.push_back((gateway, open, publish));
            return;
        }
        if let Some(key) = &key {
            let known = self.memory.keys.get(key).cloned();
            match known {
                Some(Key::Stored { offset, id, .. }) => {
                    self.duplicates += 1;
                    return self.answer_duplicate(gateway, open, series, number, offset, id);
                }
                Some(Key::Queued) if is_kept(Rule::P5) => {
                    self.duplicates += 1;
                    if self.attached_count >= self.limits.memory.keys {
                        return self.refuse(gateway, open, series, number, ErrorCode::TooManyRequests);
                    }
                    self.attached_count += 1;
                    let attached = Attached {
                        gateway,
                        open,
                        series,
                        number,
                    };
                    self.attached.entry(Arc::clone(key)).or_default().push(attached);
                    return;
                }
                Some(Key::Queued) | None => {}
            }
            let is_refused = matches!(
                self.memory.publishers.look(gateway, series, number, false, now),
                Known::Refused
            );
            if is_refused {
                return self.refuse(gateway, open, series, number, ErrorCode::Internal);
            }
        }
        // As far as it is known; a change that follows a deletion into the log comes to nothing there. Not before its key: it may be
        // that deletion, asked for again.
        if self.memory.deleted.has_target_of(&message) {
            return self.refuse(gateway, open, series, number, ErrorCode::BadRequest);
        }
        if let Some(key) = &key
            && !self.memory.keys.queue(Arc::clone(key))
        {
            return self.refuse(gateway, open, series, number, ErrorCode::TooManyRequests);
        }
        let channel = self
            .memory
            .window
            .name(&message.channel)
            .unwrap_or_else(|| message.channel.as_str().into());
        self.queue_bytes += publish.message.len();
        self.queue.push_back(Queued {
            source: Source::Gateway {
                gateway,
                open,
                series,
                number,
            },
            channel,
            change: changing(&message, self.is.log_epoch),
            id: message.id,
            message: publish.message,
            key,
        });
    }

    /// The message, where it may enter the queue.
    fn check(&self, encoded: &Bytes) -> Result<Message, ErrorCode> {
        let message = Message::decode(encoded.clone()).map_err(|_| ErrorCode::BadRequest)?;
        if !self.is_ours(&message) {
            return Err(ErrorCode::BadRequest);
        }
        if self.queue_bytes + encoded.len() > self.limits.queue_bytes {
            return Err(ErrorCode::TooManyRequests);
        }
        if self.is_frozen {
            return Err(ErrorCode::Internal);
        }
        if self.upkeep.is_full() {
            // Room is kept for fences and state records, so that a full log can be taken over (L3).
            return Err(ErrorCode::Internal);
        }
        Ok(message)
    }

    /// The answer of a publish that is being appended goes to the link's present opening.
    fn follow_in_flight(&mut self, gateway: Incarnation, opened: u64, series: Series, number: u64) {
        if let Some(InFlight::Batch(batch, _)) = &mut self.in_flight {
            for queued in batch {
                if let Source::Gateway {
                    gateway: from,
                    open,
                    series: its_series,
                    number: its_number,
                } = &mut queued.source
                    && (*from, *its_series, *its_number) == (gateway, series, number)
                {
                    *open = opened;
                }
            }
        }
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
            duplicate_of: Bytes::new(),
        };
        self.links.push_to(gateway, open, down_item::Item::Answer(answer));
    }

    fn answer_duplicate(
        &mut self,
        gateway: Incarnation,
        open: u64,
        series: Series,
        number: u64,
        offset: Offset,
        id: Bytes,
    ) {
        let answer = Answer {
            series: series.into(),
            number,
            outcome: Some(answer::Outcome::Offset(offset.get())),
            duplicate_of: id,
        };
        self.links.push_to(gateway, open, down_item::Item::Answer(answer));
    }

    fn refuse(&mut self, gateway: Incarnation, open: u64, series: Series, number: u64, code: ErrorCode) {
        let outcome = answer::Outcome::Refused(Refusal {
            code: code.code(),
            message: code.words().to_owned(),
            temporary: code.is_temporary(),
        });
        self.answer(gateway, open, series, number, outcome);
    }

    fn take_attached(&mut self, key: &KeyName) -> Vec<Attached> {
        let attached = self.attached.remove(key).unwrap_or_default();
        self.attached_count -= attached.len();
        attached
    }

    fn refuse_attached(&mut self, key: &KeyName, code: ErrorCode) {
        for attached in self.take_attached(key) {
            self.refuse(
                attached.gateway,
                attached.open,
                attached.series,
                attached.number,
                code,
            );
        }
    }

    // ---- other shards

    /// An owner was heard.
    pub(crate) fn owner_beat(&mut self, shard: ShardId, router: Incarnation, rank: (u32, u64)) {
        self.deriver.owner(shard, router, rank);
    }

    /// Entries that another shard derived for this one.
    pub(crate) fn derive(&mut self, mut frame: Derive, out: &mut impl Output) {
        let source = frame.source;
        if !frame.entries.is_empty() {
            // The rest, or without an answer all of it, is sent again: a full shard holds back only what
            // is derived for it.
            self.keep_what_fits(&mut frame);
            if frame.entries.is_empty() {
                return;
            }
        }
        match self.applying.frame(frame, self.memory.applied.get(&source)) {
            Verdict::Ignore => {}
            Verdict::Answer => self.answer_source(source, out),
            Verdict::Store(entries) => {
                let Some((_, owner)) = self.applying.owner(source) else {
                    return;
                };
                for (at, message) in entries {
                    let Ok(decoded) = Message::decode(message.clone()) else {
                        continue;
                    };
                    let channel = self
                        .memory
                        .window
                        .name(&decoded.channel)
                        .unwrap_or_else(|| decoded.channel.as_str().into());
                    self.queue_bytes += message.len();
                    self.queue.push_back(Queued {
                        source: Source::Shard {
                            shard: source,
                            at,
                            owner,
                        },
                        channel,
                        change: changing(&decoded, self.is.log_epoch),
                        id: decoded.id,
                        message,
                        key: None,
                    });
                }
            }
        }
    }

    /// Cuts off the entries for which there is no room. An empty queue takes one of any size.
    fn keep_what_fits(&self, frame: &mut Derive) {
        let mut bytes = self.queue_bytes;
        let mut fitting = 0;
        for entry in &frame.entries {
            let is_first = bytes == 0;
            bytes += entry.message.len();
            if self.upkeep.is_overfull() || (bytes > self.limits.queue_bytes && !is_first) {
                break;
            }
            fitting += 1;
        }
        frame.entries.truncate(fitting);
    }

    /// The answer of a shard for which this one derived entries.
    pub(crate) fn derivation(&mut self, frame: &Derivation) {
        self.deriver.derivation(frame);
    }

    fn answer_source(&self, source: u32, out: &mut impl Output) {
        let Some((router, owner)) = self.applying.owner(source) else {
            return;
        };
        // What is stored of another log of the source says nothing about this one.
        let applied = self.memory.applied.get(&source);
        let applied = applied.filter(|applied| owner.is_same_log(applied));
        out.derivation(
            router,
            Derivation {
                source,
                target: u32::from(self.is.shard.get()),
                ordinal: self.is.log_epoch.ordinal,
                owner_epoch: self.is.owner_epoch.0,
                source_epoch: owner.owner_epoch,
                applied: applied.and_then(|applied| applied.at),
            },
        );
    }

    // ---- the log

    /// The log settled the append in flight: it is stored, at `sequence`. Returns how many messages
    /// it held.
    ///
    /// # Errors
    /// [`StepDown`] where that is not the place it was written for; nothing was answered then.
    pub(crate) fn stored(
        &mut self,
        sequence: Sequence,
        now: Duration,
        out: &mut impl Output,
    ) -> Result<usize, StepDown> {
        let expected = self.last.next();
        if sequence != expected {
            return Err(StepDown::Misplaced {
                expected,
                stored: sequence,
            });
        }
        let previous = self.position();
        self.last = sequence;
        // An append that began later than that moment found the log as we left it.
        let appends = self.append_number;
        let is_proved = |moment: Moment| moment.appends < appends;
        self.check_beyond(is_proved)?;
        let count = match self.in_flight.take() {
            Some(InFlight::Batch(batch, time_us)) => {
                self.batch_stored(sequence, previous, batch, time_us, now, out)
            }
            Some(InFlight::State(purge, is_frozen, hiding)) => {
                self.memory.state_at = sequence;
                self.upkeep.state_stored(purge);
                if is_frozen && self.is_frozen {
                    self.frozen_at = sequence;
                }
                if purge > Sequence(1) {
                    out.purge(purge);
                }
                if let Some(hiding) = hiding {
                    self.hiding_stored(sequence, hiding, out);
                }
                0
            }
            None => 0,
        };
        self.settle_parked(is_proved);
        Ok(count)
    }

    /// Answers and delivers what stands in the record at `sequence`. Returns how many messages it holds.
    fn batch_stored(
        &mut self,
        sequence: Sequence,
        previous: Offset,
        batch: Vec<Queued>,
        time_us: u64,
        now: Duration,
        out: &mut impl Output,
    ) -> usize {
        let mut sources: Vec<u32> = Vec::new();
        for (index, queued) in batch.iter().enumerate() {
            let offset = Offset::new(sequence, index);
            match queued.source {
                Source::Gateway {
                    gateway,
                    open,
                    series,
                    number,
                } => {
                    let outcome = answer::Outcome::Offset(offset.get());
                    self.answer(gateway, open, series, number, outcome);
                }
                Source::Shard { shard, at, owner } => {
                    self.memory.apply([owner.applied(shard, at)]);
                    if !sources.contains(&shard) {
                        sources.push(shard);
                    }
                }
            }
            if let Some(key) = &queued.key {
                for attached in self.take_attached(key) {
                    let id = queued.id.clone();
                    self.answer_duplicate(
                        attached.gateway,
                        attached.open,
                        attached.series,
                        attached.number,
                        offset,
                        id,
                    );
                }
            }
            self.deriver.stored(offset, &queued.channel, &queued.message);
        }
        let position = self.position();
        let messages = batch.iter().enumerate().map(|(index, queued)| {
            (
                Offset::new(sequence, index),
                queued.channel.as_ref(),
                &queued.message,
            )
        });
        self.links.deliver(messages, previous, position);
        for source in sources {
            self.answer_source(source, out);
        }
        let count = batch.len();
        self.upkeep.appended(sequence, time_us);
        let entering = batch.into_iter().map(|queued| Entering {
            channel: queued.channel,
            encoded: queued.message,
            source: match queued.source {
                Source::Gateway {
                    gateway,
                    series,
                    number,
                    ..
                } => Some((gateway, series, number)).filter(|_| is_kept(Rule::P2)),
                Source::Shard { .. } => None,
            },
            key: queued.key.map(|key| (key, queued.id)),
            change: queued.change,
        });
        self.memory.batch(sequence, time_us, entering, now);
        count
    }

    /// The log refused the append in flight for certain: its publishers may try again.
    pub(crate) fn refused(&mut self, out: &mut impl Output) {
        let batch = match self.in_flight.take() {
            Some(InFlight::Batch(batch, _)) => batch,
            Some(InFlight::State(_, _, hiding)) => {
                for hide in hiding.into_iter().flat_map(|hiding| hiding.asked) {
                    out.hidden(hide.to, HistoryOutcome::Unavailable);
                }
                // Not again before something else was stored.
                self.frozen_at = self.last;
                return self.upkeep.state_refused();
            }
            None => return,
        };
        for queued in batch {
            match queued.source {
                Source::Gateway {
                    gateway,
                    open,
                    series,
                    number,
                } => {
                    self.memory.publishers.refused(gateway, series, number);
                    self.refuse(gateway, open, series, number, ErrorCode::Internal);
                }
                Source::Shard { shard, .. } => self.withdraw(shard),
            }
            if let Some(key) = &queued.key {
                self.memory.keys.withdraw(key);
                self.refuse_attached(key, ErrorCode::Internal);
            }
        }
    }

    /// Entries of `shard` that wait behind one that was refused would overtake it.
    fn withdraw(&mut self, shard: u32) {
        self.applying.withdraw(shard);
        let queue_bytes = &mut self.queue_bytes;
        self.queue.retain(|queued| {
            let stays = !matches!(queued.source, Source::Shard { shard: from, .. } if from == shard);
            if !stays {
                *queue_bytes -= queued.message.len();
            }
            stays
        });
    }

    /// A page of the reading that was asked for, or that it failed.
    pub(crate) fn page(&mut self, page: Result<&[RecordAt], ()>) {
        let position = self.position();
        self.reading_rests = page.is_err();
        match self.reading.take() {
            Some(Reader::Questions) => {
                let answers = self.questions.page(
                    page,
                    &mut self.memory.window,
                    &self.memory.removed,
                    &self.memory.deleted,
                    position,
                );
                for (question, answer) in answers {
                    self.links.push_to(
                        question.gateway,
                        question.open,
                        down_item::Item::Recovered(answer),
                    );
                }
            }
            Some(Reader::Deriver) => self.deriver.page(page),
            Some(Reader::Upkeep) => self.upkeep.page(page, &self.memory.removed),
            None => {}
        }
    }

    /// What the message store says to something that [`Output::ask`] asked.
    pub(crate) fn told(&mut self, id: AskId, told: Told) {
        let known = KnownOfLog {
            removed: &self.memory.removed,
            deleted: &self.memory.deleted,
            hidden: &self.memory.hidden,
            position: self.position(),
        };
        for (question, answer) in self.questions.told(id, told, &mut self.memory.window, known) {
            self.links.push_to(
                question.gateway,
                question.open,
                down_item::Item::Recovered(answer),
            );
        }
    }

    /// Keys of records from before the tail, in order.
    pub(crate) fn older_keys(&mut self, key: KeyName, offset: Offset, id: Bytes, time_us: u64) {
        self.memory.keys.older(key, offset, id, time_us);
    }

    /// All keys of the window are known, which begins in record `from`: keyed publishes go on (P5).
    pub(crate) fn keys_known(&mut self, from: Sequence, now: Duration) {
        self.keys_known = true;
        self.upkeep.keys_from(from);
        for (gateway, open, publish) in std::mem::take(&mut self.unkeyed) {
            self.queue_bytes -= publish.message.len();
            self.publish(gateway, open, publish, now);
        }
    }

    /// How far the readers are that a purge waits for, which [`Readers::is_asking`](super::readers::Readers::is_asking)
    /// asked for (L4).
    pub(crate) fn readers(&mut self, told: &[ReaderAt]) {
        self.upkeep.readers_mut().told(told, self.is.log_epoch);
    }

    /// What the log's leader says of it. `appends` is [`Owner::append_number`] when it was asked.
    ///
    /// # Errors
    /// [`StepDown`] where somebody else wrote (O4), or where it lacks what was given out (O6).
    pub(crate) fn leader(&mut self, info: LogInfo, appends: u64) -> Result<(), StepDown> {
        self.upkeep.info(info);
        self.looks += 1;
        if appends != self.append_number || self.in_flight.is_some() {
            return Ok(());
        }
        if info.last > self.last {
            return Err(StepDown::Overtaken {
                ours: self.last,
                last: info.last,
            });
        }
        // Longer than an election lasts: the log lost what it had acknowledged.
        self.short_looks = if info.last < self.last {
            self.short_looks + 1
        } else {
            0
        };
        if self.short_looks > SHORT_LOOKS {
            return Err(StepDown::WentBack {
                who: "this owner",
                position: self.position(),
            });
        }
        // One question to the leader is on the way at a time: the second answer after that moment is
        // to one that was asked after it.
        let looks = self.looks;
        let is_proved = |moment: Moment| moment.looks + 2 <= looks;
        self.check_beyond(is_proved)?;
        if info.last == self.last {
            self.settle_parked(is_proved);
        }
        Ok(())
    }

    /// Time goes by: beats, silent gateways, what is too old.
    pub(crate) fn tick(&mut self, now: Duration, now_us: u64) {
        let position = self.position();
        self.reading_rests = false;
        self.questions.tick();
        self.memory.window.trim(now_us);
        let purged_before = self.memory.removed.purged_before;
        let purged = self.upkeep.first().min(purged_before);
        self.memory.hidden.purged(purged);
        if self.memory.deleted.has_before(purged) {
            Arc::make_mut(&mut self.memory.deleted).purged(purged);
        }
        self.memory.keys.tick(now_us);
        self.memory.publishers.tick(now);
        self.links.tick(now, position);
        let derived_up_to = self.deriver.derived_up_to(position);
        self.upkeep.tick(
            now_us,
            self.memory.window.start(),
            derived_up_to,
            self.memory.state_at,
        );
    }

    /// Sends what was collected, and begins the next append and reading where none is in flight.
    pub(crate) fn flush(&mut self, now: Duration, time_us: u64, out: &mut impl Output) {
        let position = self.position();
        self.links.pump(&self.memory.window, position);
        self.links.flush(now, |gateway, frame| out.down(gateway, frame));
        self.deriver.pump(&self.memory.window, now, |router, frame| {
            out.derive(router, frame)
        });
        let links = &self.links;
        while let Some((id, ask)) = self
            .questions
            .asks(|question| links.has(question.gateway, question.open))
        {
            out.ask(id, ask);
        }
        if self.reading.is_none() && !self.reading_rests {
            self.read(out);
        }
        if self.in_flight.is_none() {
            let is_drained = self.is_drained();
            let due = self.upkeep.state_due(&mut self.memory.removed);
            let due = due.or_else(|| (is_drained && self.frozen_at != self.last).then_some(Sequence(0)));
            let hiding = self.next_hiding(out);
            self.hid_last = hiding.is_some();
            let due = due.or_else(|| hiding.is_some().then_some(Sequence(0)));
            if let Some(purge) = due {
                let derived_up_to = self.deriver.derived_up_to(position);
                let mut state = State {
                    frozen: is_drained,
                    ..self.memory.state(derived_up_to)
                };
                if let Some(hiding) = &hiding {
                    state.hidden = hiding.hidden.marks();
                }
                self.in_flight = Some(InFlight::State(purge, is_drained, hiding));
                let record = self.encode(record::Body::State(state), time_us);
                out.append(self.last, record);
            } else if !self.queue.is_empty() && (now >= self.append_from || self.fills_a_batch()) {
                self.append_from = now + self.limits.append_interval;
                let batch = self.next_batch();
                let body = Self::batch(&batch);
                let record = self.encode(record::Body::Batch(body), time_us);
                self.in_flight = Some(InFlight::Batch(batch, time_us));
                out.append(self.last, record);
            }
        }
    }

    /// When an append of messages begins that waits for others to come along; `None`: none does.
    pub(crate) fn append_due(&self) -> Option<Duration> {
        (self.in_flight.is_none() && !self.queue.is_empty()).then_some(self.append_from)
    }

    /// One more would not be appended together with those that wait.
    fn fills_a_batch(&self) -> bool {
        self.queue.len() >= MAX_BATCH || self.queue_bytes >= self.limits.batch_bytes
    }

    /// No publish is taken, and of those that were nothing waits for this log or another any more.
    fn is_drained(&mut self) -> bool {
        let position = self.position();
        self.is_frozen
            && self.queue.is_empty()
            && self.unkeyed.is_empty()
            && self.deriver.derived_up_to(position) == position
    }

    fn read(&mut self, out: &mut impl Output) {
        let links = &self.links;
        let is_asked = |question: &Question| links.has(question.gateway, question.open);
        let wanted = self
            .questions
            .wants(&self.memory.window, is_asked)
            .map(|range| (Reader::Questions, range))
            .or_else(|| {
                let range = self.deriver.wants(&self.memory.window)?;
                Some((Reader::Deriver, range))
            })
            .or_else(|| Some((Reader::Upkeep, self.upkeep.wants()?)));
        if let Some((reader, (from, to))) = wanted {
            self.reading = Some(reader);
            out.read(from, to);
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
            if let Source::Gateway {
                gateway,
                series,
                number,
                ..
            } = next.source
            {
                self.memory.publishers.appending(gateway, series, number);
            }
            batch.extend(self.queue.pop_front());
        }
        self.queue_bytes -= bytes;
        batch
    }

    fn batch(batch: &[Queued]) -> Batch {
        let mut sources: Vec<Incarnation> = Vec::new();
        let mut applied: HashMap<u32, Applied> = HashMap::default();
        let entries = batch
            .iter()
            .map(|queued| match queued.source {
                Source::Gateway {
                    gateway,
                    series,
                    number,
                    ..
                } => {
                    let known = sources.iter().position(|source| *source == gateway);
                    let source = known.unwrap_or_else(|| {
                        sources.push(gateway);
                        sources.len() - 1
                    });
                    Entry {
                        message: queued.message.clone(),
                        // At most MAX_BATCH sources.
                        source: source as u32,
                        series: series.into(),
                        number,
                    }
                }
                Source::Shard { shard, at, owner } => {
                    applied.insert(shard, owner.applied(shard, at));
                    Entry {
                        message: queued.message.clone(),
                        ..Entry::default()
                    }
                }
            })
            .collect();
        let mut applied: Vec<Applied> = applied.into_values().collect();
        applied.sort_unstable_by_key(|applied| applied.source);
        Batch {
            sources: sources.into_iter().map(Incarnation::to_bytes).collect(),
            entries,
            applied,
        }
    }

    fn encode(&mut self, body: record::Body, time_us: u64) -> Bytes {
        self.append_number += 1;
        let record = format::encode(&Record {
            owner_epoch: self.is.owner_epoch.0,
            sequence: self.last.next().0,
            owner: self.is.router.to_bytes(),
            append_number: self.append_number,
            time_us,
            state_at: self.memory.state_at.0,
            body: Some(body),
        });
        self.upkeep.appending(record.len());
        record
    }
}

#[cfg(test)]
mod tests;
