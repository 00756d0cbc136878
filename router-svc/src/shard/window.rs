//! The newest messages of a shard, and the newest offset of each channel: what recoveries and links
//! that lag behind are served from without touching the log. No I/O and no clock.
//!
//! Invariants, each with a test below:
//! * Every message behind [`Window::start`] is here.
//! * No message of a channel is behind [`Window::head`].
//! * What was deleted is here without its content, what was edited with its newest; the same whether its owner applied that or a
//!   successor read it.
//! * Bytes, age and count of channels are bounded; what goes makes `start` and `head` less sharp, never
//!   wrong.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::maps::HashMap;
use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::fold::{self, MessageId};
use switchboard_proto::bus::Message;
use switchboard_proto::ids::{Offset, Sequence};

use super::deleted::Marked;

/// What a window keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowLimits {
    /// Bytes of messages, with what each costs besides; the oldest go first.
    pub(crate) bytes: usize,
    /// Microseconds after which a message goes.
    pub(crate) age_us: u64,
    /// Channels whose newest offset is known, above those with a message in the window.
    pub(crate) heads: usize,
}

/// What a message costs besides its bytes: its places in two lists.
const MESSAGE_COST: usize = 96;

/// A message as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) channel: Arc<str>,
    /// An encoded `Message`.
    pub(crate) message: Bytes,
}

struct Batch {
    sequence: Sequence,
    time_us: u64,
    bytes: usize,
    messages: Vec<Kept>,
}

#[derive(Default)]
struct Channel {
    head: Offset,
    /// Its messages in the window.
    kept: VecDeque<Offset>,
    /// It stands in `quiet`.
    queued: bool,
}

/// See the module.
pub(crate) struct Window {
    limits: WindowLimits,
    batches: VecDeque<Batch>,
    start: Offset,
    bytes: usize,
    channels: HashMap<Arc<str>, Channel>,
    /// Channels that have, or had when they came here, no message in the window: in the order in which
    /// they are forgotten.
    quiet: VecDeque<Arc<str>>,
    /// No message of a channel that is not in `channels` is behind this.
    unknown: Offset,
    /// Edits in the window, and what they are of; oldest first.
    edits: VecDeque<(Offset, Marked)>,
}

impl Window {
    /// A window that begins behind `start`: of what is before it nothing is known.
    pub(crate) fn new(limits: WindowLimits, start: Offset) -> Self {
        Self {
            limits,
            batches: VecDeque::new(),
            start,
            bytes: 0,
            channels: HashMap::default(),
            quiet: VecDeque::new(),
            unknown: start,
            edits: VecDeque::new(),
        }
    }

    /// Every message behind this is here.
    pub(crate) fn start(&self) -> Offset {
        self.start
    }

    /// Bytes it takes, for metrics and budgets.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Channels whose newest offset is known, for metrics.
    pub(crate) fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// No message of `channel` is behind this: the newest one's offset, or a bound where that is not
    /// known.
    pub(crate) fn head(&self, channel: &str) -> Offset {
        self.channels
            .get(channel)
            .map_or(self.unknown, |channel| channel.head)
    }

    /// The one copy of a channel's name, where there is one.
    pub(crate) fn name(&self, channel: &str) -> Option<Arc<str>> {
        let (name, _) = self.channels.get_key_value(channel)?;
        Some(Arc::clone(name))
    }

    /// The newest record's messages; `messages` are all its entries, in order.
    pub(crate) fn push(&mut self, sequence: Sequence, time_us: u64, messages: Vec<Kept>) {
        let mut bytes = 0;
        for (index, kept) in messages.iter().enumerate() {
            bytes += kept.message.len() + MESSAGE_COST;
            let offset = Offset::new(sequence, index);
            let channel = self.channels.entry(Arc::clone(&kept.channel)).or_default();
            channel.head = offset;
            channel.kept.push_back(offset);
        }
        self.bytes += bytes;
        self.batches.push_back(Batch {
            sequence,
            time_us,
            bytes,
            messages,
        });
        self.trim(time_us);
    }

    /// The log was read: no message of `channel` before [`Window::start`] is behind `newest`.
    pub(crate) fn learn(&mut self, channel: &Arc<str>, newest: Offset) {
        if self.channels.contains_key(channel) {
            return;
        }
        let quiet = Channel {
            head: newest,
            kept: VecDeque::new(),
            queued: true,
        };
        self.channels.insert(Arc::clone(channel), quiet);
        self.quiet.push_back(Arc::clone(channel));
    }

    /// Lets go of what is over the limits at `now_us` (Unix microseconds).
    pub(crate) fn trim(&mut self, now_us: u64) {
        while let Some(oldest) = self.batches.front() {
            let old = now_us.saturating_sub(oldest.time_us) > self.limits.age_us;
            if !old && self.bytes <= self.limits.bytes {
                break;
            }
            self.drop_oldest();
        }
        while self.channels.len() > self.limits.heads
            && let Some(name) = self.quiet.pop_front()
        {
            let Some(channel) = self.channels.get_mut(&name) else {
                continue;
            };
            channel.queued = false;
            if channel.kept.is_empty() {
                self.unknown = self.unknown.max(channel.head);
                self.channels.remove(&name);
            }
        }
    }

    /// Sets the limit of bytes, which moves with what other shards need (R9).
    pub(crate) fn set_bytes_limit(&mut self, bytes: usize) {
        self.limits.bytes = bytes;
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.batches.pop_front() else {
            return;
        };
        self.bytes -= oldest.bytes;
        self.start = Offset::end_of(oldest.sequence);
        while self.edits.pop_front_if(|(edit, _)| *edit <= self.start).is_some() {}
        for kept in &oldest.messages {
            let Some(channel) = self.channels.get_mut(&kept.channel) else {
                continue;
            };
            channel.kept.pop_front();
            if channel.kept.is_empty() && !channel.queued {
                channel.queued = true;
                self.quiet.push_back(Arc::clone(&kept.channel));
            }
        }
    }

    /// The messages of `channel` behind `after`, oldest first. Complete where `after` is not before
    /// [`Window::start`].
    pub(crate) fn of_channel(&self, channel: &str, after: Offset) -> impl Iterator<Item = (Offset, &Bytes)> {
        let kept = self.channels.get(channel).map(|channel| &channel.kept);
        let first = kept.map_or(0, |kept| kept.partition_point(|offset| *offset <= after));
        kept.into_iter()
            .flat_map(move |kept| kept.range(first..))
            .filter_map(|offset| Some((*offset, &self.at(*offset)?.message)))
    }

    /// The messages of `channel` before `bound`, newest first. What is not asked for costs nothing.
    pub(crate) fn before(&self, channel: &str, bound: Offset) -> impl Iterator<Item = (Offset, &Bytes)> {
        let kept = self.channels.get(channel).map(|channel| &channel.kept);
        let end = kept.map_or(0, |kept| kept.partition_point(|offset| *offset < bound));
        kept.into_iter()
            .flat_map(move |kept| kept.range(..end).rev())
            .filter_map(|offset| Some((*offset, &self.at(*offset)?.message)))
    }

    /// All messages behind `after`, oldest first. Complete where `after` is not before
    /// [`Window::start`].
    pub(crate) fn since(&self, after: Offset) -> impl Iterator<Item = (Offset, &Kept)> {
        let first = self
            .batches
            .partition_point(|batch| Offset::end_of(batch.sequence) <= after);
        self.batches.range(first..).flat_map(move |batch| {
            batch
                .messages
                .iter()
                .enumerate()
                .map(|(index, kept)| (Offset::new(batch.sequence, index), kept))
                .skip_while(move |(offset, _)| *offset <= after)
        })
    }

    /// When the message at `offset`, which is here, was written: Unix microseconds.
    pub(crate) fn time_of(&self, offset: Offset) -> u64 {
        self.batch(offset.sequence()).map_or(0, |batch| batch.time_us)
    }

    /// `edit`, which stands at `at`, edits another message: that is shown with what it says now, if it is here.
    pub(crate) fn edit(&mut self, named: Marked, edit: &Message, at: Offset) {
        self.edits.push_back((at, named));
        if let Some(offset) = self.find(named, edit) {
            self.replace(offset, |message| fold::edited_bytes(message, edit, at));
        }
    }

    /// A message is deleted: of it and of its edits nothing is left here.
    pub(crate) fn delete(&mut self, named: Marked, deletion: &Message) {
        if let Some(offset) = self.find(named, deletion) {
            self.blank(offset);
        }
        let edits: Vec<Offset> = self
            .edits
            .iter()
            .filter(|(_, of)| *of == named)
            .map(|(edit, _)| *edit)
            .collect();
        for edit in edits {
            self.blank(edit);
        }
    }

    /// Nothing is left of what the message at `offset` said.
    pub(crate) fn blank(&mut self, offset: Offset) {
        self.replace(offset, fold::deleted_bytes);
    }

    /// Where the message that `change` names is. An inbox entry is found by the id of what it was derived from: that inbox's entries
    /// in the window are looked through.
    fn find(&self, named: Marked, change: &Message) -> Option<Offset> {
        match named {
            Marked::At(offset) => {
                let kept = self.at(offset)?;
                (*kept.channel == change.channel).then_some(offset)
            }
            Marked::Copy(id) => {
                change.origin.as_ref()?;
                let mut entries = self.before(&change.channel, Offset::from_u64(u64::MAX));
                let is_it = |encoded: &Bytes| {
                    Message::decode(encoded.clone()).is_ok_and(|entry| {
                        MessageId::new(&entry.id) == Some(id) && entry.origin == change.origin
                    })
                };
                entries
                    .find(|(_, encoded)| is_it(encoded))
                    .map(|(offset, _)| offset)
            }
        }
    }

    fn replace(&mut self, offset: Offset, with: impl FnOnce(&Bytes) -> Bytes) {
        let sequence = offset.sequence();
        let Ok(batch) = self
            .batches
            .binary_search_by_key(&sequence, |batch| batch.sequence)
        else {
            return;
        };
        let Some(batch) = self.batches.get_mut(batch) else {
            return;
        };
        let Some(kept) = batch.messages.get_mut(offset.index()) else {
            return;
        };
        let (before, now) = (kept.message.len(), with(&kept.message));
        kept.message = now;
        let now = kept.message.len();
        batch.bytes = batch.bytes + now - before;
        self.bytes = self.bytes + now - before;
    }

    fn at(&self, offset: Offset) -> Option<&Kept> {
        self.batch(offset.sequence())?.messages.get(offset.index())
    }

    fn batch(&self, sequence: Sequence) -> Option<&Batch> {
        let batch = self
            .batches
            .binary_search_by_key(&sequence, |batch| batch.sequence)
            .ok()?;
        self.batches.get(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn window(bytes: usize, heads: usize) -> Window {
        let limits = WindowLimits {
            bytes: bytes * (MESSAGE_COST + 10),
            age_us: 10 * SECOND,
            heads,
        };
        Window::new(limits, Offset::end_of(Sequence(4)))
    }

    fn push(window: &mut Window, sequence: u64, time_us: u64, channels: &[&str]) {
        let messages = channels
            .iter()
            .map(|channel| Kept {
                channel: window.name(channel).unwrap_or_else(|| (*channel).into()),
                message: Bytes::from_static(b"0123456789"),
            })
            .collect();
        window.push(Sequence(sequence), time_us, messages);
    }

    fn at(sequence: u64, index: usize) -> Offset {
        Offset::new(Sequence(sequence), index)
    }

    fn of(window: &Window, channel: &str, after: Offset) -> Vec<Offset> {
        window
            .of_channel(channel, after)
            .map(|(offset, _)| offset)
            .collect()
    }

    #[test]
    fn messages_are_found_by_channel_and_by_place() {
        let mut window = window(100, 100);
        push(&mut window, 5, 0, &["a", "b", "a"]);
        push(&mut window, 7, 0, &["b"]);
        push(&mut window, 8, 0, &["a"]);
        assert_eq!(of(&window, "a", Offset::ZERO), [at(5, 0), at(5, 2), at(8, 0)]);
        assert_eq!(of(&window, "a", at(5, 0)), [at(5, 2), at(8, 0)]);
        assert_eq!(of(&window, "a", Offset::end_of(Sequence(6))), [at(8, 0)]);
        let before = |bound| {
            window
                .before("a", bound)
                .map(|(offset, _)| offset)
                .collect::<Vec<_>>()
        };
        assert_eq!(before(at(8, 0)), [at(5, 2), at(5, 0)]);
        assert_eq!(before(at(5, 0)), []);
        assert_eq!(window.before("c", at(9, 0)).count(), 0);
        assert_eq!(of(&window, "b", at(7, 0)), []);
        assert_eq!(of(&window, "c", Offset::ZERO), []);
        let since = |after| {
            window
                .since(after)
                .map(|(offset, kept)| (offset, kept.channel.to_string()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            since(at(5, 1)),
            [
                (at(5, 2), "a".to_owned()),
                (at(7, 0), "b".to_owned()),
                (at(8, 0), "a".to_owned())
            ]
        );
        assert_eq!(since(at(8, 0)), []);
    }

    #[test]
    fn the_oldest_go_when_bytes_or_time_are_over() {
        let mut window = window(3, 100);
        push(&mut window, 5, 0, &["a"]);
        push(&mut window, 6, 0, &["a"]);
        push(&mut window, 7, 0, &["b"]);
        assert_eq!(window.start(), Offset::end_of(Sequence(4)));
        push(&mut window, 8, 0, &["a"]);
        assert_eq!(window.start(), Offset::end_of(Sequence(5)));
        assert_eq!(of(&window, "a", Offset::ZERO), [at(6, 0), at(8, 0)]);
        window.trim(10 * SECOND);
        assert_eq!(window.start(), Offset::end_of(Sequence(5)), "as old as it may be");
        window.trim(10 * SECOND + 1);
        assert_eq!(window.start(), Offset::end_of(Sequence(8)));
        assert_eq!(window.bytes(), 0);
        assert_eq!(
            (window.head("a"), window.head("b")),
            (at(8, 0), at(7, 0)),
            "heads stay"
        );
    }

    #[test]
    fn a_head_that_is_forgotten_becomes_a_bound() {
        let mut window = window(1, 2);
        assert_eq!(
            window.head("a"),
            Offset::end_of(Sequence(4)),
            "nothing is known of before"
        );
        push(&mut window, 5, 0, &["a"]);
        push(&mut window, 6, 0, &["b"]);
        push(&mut window, 7, 0, &["a"]);
        assert_eq!((window.head("a"), window.head("b")), (at(7, 0), at(6, 0)));
        push(&mut window, 8, 0, &["c"]);
        push(&mut window, 9, 0, &["d"]);
        assert_eq!(window.channel_count(), 2);
        // Never too low for anyone, as sharp as what is left allows.
        assert!(window.head("a") >= at(7, 0) && window.head("b") >= at(6, 0));
        assert!(window.head("a") <= at(8, 0));
        assert_eq!((window.head("c"), window.head("d")), (at(8, 0), at(9, 0)));
    }

    #[test]
    fn channels_that_come_and_go_do_not_pile_up() {
        let mut window = window(1, 4);
        for sequence in 5..1000 {
            push(
                &mut window,
                sequence,
                0,
                &[["a", "b", "c"][sequence as usize % 3]],
            );
        }
        assert_eq!(window.channel_count(), 3);
        assert!(window.quiet.len() <= 3, "{}", window.quiet.len());
        assert_eq!(window.batches.len(), 1);
    }
}
