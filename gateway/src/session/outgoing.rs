//! The queue of frames towards one client, bounded in bytes.

mod queue;
mod way;

use std::collections::VecDeque;

use parking_lot::Mutex;
use switchboard_proto::codes::DisconnectCode;
use tokio::sync::Notify;

use self::queue::{Entry, Queue};
pub(super) use self::way::Way;
use super::encoding::Frame;
use super::warnings::is_near;

/// What a frame costs in the queue besides its bytes, so that a million empty ones are not free.
const FRAME_COST: usize = 64;

/// See the module. Filled by anybody; emptied by whoever has the session's wire, see [`super::wire`].
pub(super) struct Outgoing {
    state: Mutex<State>,
    /// Told when the queue stops being empty and nobody else writes it, and when the session closes. Whoever
    /// empties it does so each time, or calls `come_back`, so a queue that is not empty needs no further word.
    changed: Notify,
    limit: usize,
}

#[derive(Default)]
struct State {
    queue: Queue,
    /// `Some`: what is queued waits here for the reply that has to come before it.
    held: Option<VecDeque<Entry>>,
    is_finished: bool,
    bytes: usize,
    peak: usize,
    /// Frames that made room for others, since they were last asked for.
    dropped: u32,
    closing: Option<DisconnectCode>,
}

/// What has to be done after a push.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub(super) struct Pushed {
    /// The queue was empty before: it has to be written, or the session's task to be told
    /// ([`Outgoing::come_back`]).
    pub(super) is_first: bool,
    /// With this frame the queue became fuller than [`Outgoing::is_nearly_full`] allows.
    pub(super) filled: bool,
}

impl State {
    fn pop(&mut self) -> Option<Frame> {
        let entry = self.queue.pop()?;
        self.bytes -= entry.cost();
        Some(entry.frame)
    }

    /// Drops what may be dropped.
    fn make_room(&mut self) {
        let (mut dropped, mut bytes) = self.queue.drop_droppable();
        if let Some(held) = &mut self.held {
            held.retain(|entry| {
                if entry.way.is_droppable {
                    dropped += 1;
                    bytes += entry.cost();
                }
                !entry.way.is_droppable
            });
        }
        self.bytes -= bytes;
        self.dropped = self.dropped.saturating_add(dropped);
    }
}

impl Outgoing {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            limit,
        }
    }

    /// Queues a frame. Over the limit first everything goes that may be dropped; if that makes no room,
    /// everything is dropped and the session closes as slow. A closing one takes nothing.
    pub(super) fn push(&self, frame: Frame, way: Way) -> Pushed {
        let entry = Entry { frame, way };
        let cost = entry.cost();
        let mut filled = false;
        let mut slow = false;
        let is_first = {
            let mut state = self.state.lock();
            if state.closing.is_some() || state.is_finished {
                return Pushed::default();
            }
            if state.bytes + cost > self.limit {
                state.make_room();
            }
            if state.bytes + cost <= self.limit {
                let was_nearly_full = self.is_nearly_full(state.bytes);
                state.bytes += cost;
                state.peak = state.peak.max(state.bytes);
                filled = !was_nearly_full && self.is_nearly_full(state.bytes);
                match &mut state.held {
                    Some(held) => {
                        held.push_back(entry);
                        false
                    }
                    None => {
                        let was_empty = state.queue.is_empty();
                        state.queue.push(entry);
                        was_empty
                    }
                }
            } else if way.is_droppable {
                state.dropped = state.dropped.saturating_add(1);
                false
            } else {
                state.closing = Some(DisconnectCode::Slow);
                state.queue = Queue::default();
                state.held = None;
                state.bytes = 0;
                state.peak = self.limit;
                slow = true;
                false
            }
        };
        if slow {
            self.changed.notify_one();
        }
        Pushed { is_first, filled }
    }

    /// More than four fifths of the limit wait.
    fn is_nearly_full(&self, bytes: usize) -> bool {
        is_near(bytes, self.limit)
    }

    /// Bytes that wait, and how many may.
    pub(super) fn fill(&self) -> (usize, usize) {
        (self.state.lock().bytes, self.limit)
    }

    /// Frames that were dropped to make room, since the last call.
    pub(super) fn take_dropped(&self) -> u32 {
        std::mem::take(&mut self.state.lock().dropped)
    }

    /// What is queued from here on waits for [`Outgoing::release`].
    pub(super) fn hold(&self) {
        self.state.lock().held.get_or_insert_default();
    }

    /// Whether what is queued waits for [`Outgoing::release`].
    pub(super) fn is_held(&self) -> bool {
        self.state.lock().held.is_some()
    }

    /// Queues `first` before everything that was held.
    pub(super) fn release(&self, first: Frame) {
        let first = Entry {
            frame: first,
            way: Way::ANSWER,
        };
        {
            let mut state = self.state.lock();
            // Over the limit it is closed as any other would be.
            state.bytes += first.cost();
            state.peak = state.peak.max(state.bytes);
            let held = state.held.take().unwrap_or_default();
            if state.closing.is_some() {
                return;
            }
            state.queue.push(first);
            // None of these overtakes it, for nothing overtakes an answer.
            for held in held {
                state.queue.push(held);
            }
        }
        self.changed.notify_one();
    }

    /// Queues `last`, and nothing after it: what was held is dropped, and so is what is pushed from here on.
    pub(super) fn finish(&self, last: Frame) {
        {
            let mut state = self.state.lock();
            state.is_finished = true;
            for held in state.held.take().unwrap_or_default() {
                state.bytes = state.bytes.saturating_sub(held.cost());
            }
        }
        self.release(last);
    }

    /// What may wait besides what comes live: a quarter of the limit.
    pub(super) fn room(&self) -> usize {
        self.limit / 4
    }

    /// Less than that waits.
    pub(super) fn has_room(&self) -> bool {
        self.state.lock().bytes < self.room()
    }

    /// The next frame, joined with those that leave after it up to `limit` bytes: one WebSocket message costs
    /// both sides less than many. A single frame may be larger.
    pub(super) fn take(&self, limit: usize) -> Option<Frame> {
        let (first, more) = {
            let mut state = self.state.lock();
            let first = state.pop()?;
            let mut length = first.len();
            let mut more = Vec::new();
            // What joins two of them takes a byte at most.
            while let Some(next) = state.queue.peek()
                && length + 1 + next.frame.len() <= limit
            {
                let Some(next) = state.pop() else { break };
                length += 1 + next.len();
                more.push(next);
            }
            (first, more)
        };
        // Copied without the lock, which every sender of a push would wait for.
        Some(first.joined(&more))
    }

    /// Nothing is queued from here on. The first code counts.
    pub(super) fn close(&self, code: DisconnectCode) {
        self.state.lock().closing.get_or_insert(code);
        self.changed.notify_one();
    }

    /// [`Outgoing::changed`] ends once more: there is something in the queue.
    pub(super) fn come_back(&self) {
        self.changed.notify_one();
    }

    /// The code it closes with, if it does.
    pub(super) fn closing(&self) -> Option<DisconnectCode> {
        self.state.lock().closing
    }

    /// The most bytes that ever waited.
    pub(super) fn peak(&self) -> usize {
        self.state.lock().peak
    }

    /// Waits until there is something to do. Cancel safe.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use switchboard_proto::bus::Priority;

    use super::*;

    fn text(text: &'static str) -> Frame {
        Frame::Text(text.into())
    }

    /// As a session's handle does.
    fn push_in(outgoing: &Outgoing, frame: Frame, way: Way) -> bool {
        let pushed = outgoing.push(frame, way);
        if pushed.is_first {
            outgoing.come_back();
        }
        pushed.filled
    }

    fn push(outgoing: &Outgoing, frame: Frame) {
        push_in(outgoing, frame, Way::push_in("a", Priority::Normal));
    }

    fn is_changed(outgoing: &Outgoing) -> bool {
        futures_util::FutureExt::now_or_never(outgoing.changed()).is_some()
    }

    #[test]
    fn frames_leave_in_order_and_only_the_first_wakes() {
        let outgoing = Outgoing::new(1024);
        assert!(!is_changed(&outgoing));
        push(&outgoing, text("a"));
        push(&outgoing, text("b"));
        assert!(is_changed(&outgoing));
        assert!(!is_changed(&outgoing));
        assert_eq!(outgoing.take(0), Some(text("a")));
        push(&outgoing, text("c"));
        assert!(!is_changed(&outgoing), "the task is still emptying");
        assert_eq!(outgoing.take(0), Some(text("b")));
        assert_eq!(outgoing.take(0), Some(text("c")));
        assert!(outgoing.take(0).is_none());
        push(&outgoing, text("d"));
        assert!(is_changed(&outgoing));
    }

    #[test]
    fn over_the_limit_it_closes_as_slow_and_drops_what_waits() {
        let outgoing = Outgoing::new(2 * (FRAME_COST + 10));
        push(&outgoing, text("0123456789"));
        push(&outgoing, text("0123456789"));
        assert_eq!(outgoing.closing(), None);
        assert!(is_changed(&outgoing));
        push(&outgoing, text(""));
        assert_eq!(outgoing.closing(), Some(DisconnectCode::Slow));
        assert!(is_changed(&outgoing));
        assert!(outgoing.take(0).is_none());
        push(&outgoing, text("x"));
        assert!(outgoing.take(0).is_none());
        outgoing.close(DisconnectCode::Shutdown);
        assert_eq!(outgoing.closing(), Some(DisconnectCode::Slow));
    }

    #[test]
    fn what_is_low_and_not_stored_makes_room_and_nothing_else_does() {
        let low = Way::ephemeral_in("a", Priority::Low);
        let stored = Way::push_in("a", Priority::Low);
        for ephemeral in [Priority::Normal, Priority::High, Priority::Critical] {
            assert!(!Way::ephemeral_in("a", ephemeral).is_droppable);
        }
        let outgoing = Outgoing::new(3 * (FRAME_COST + 1));
        push_in(&outgoing, text("1"), low);
        push_in(&outgoing, text("2"), stored);
        push_in(&outgoing, text("3"), low);
        push_in(&outgoing, text("4"), stored);
        assert_eq!((outgoing.take_dropped(), outgoing.take_dropped()), (2, 0));
        push_in(&outgoing, text("5"), stored);
        // Nothing is left that may go, but this one need not come.
        push_in(&outgoing, text("6"), low);
        assert_eq!((outgoing.take_dropped(), outgoing.closing()), (1, None));
        for next in ["2", "4", "5"] {
            assert_eq!(outgoing.take(0), Some(text(next)));
        }
        assert!(outgoing.take(0).is_none());
        assert_eq!(outgoing.state.lock().bytes, 0);
        // Also what is held.
        outgoing.hold();
        push_in(&outgoing, text("1"), low);
        push_in(&outgoing, text("2"), stored);
        push_in(&outgoing, text("3"), stored);
        push_in(&outgoing, text("4"), stored);
        assert_eq!((outgoing.take_dropped(), outgoing.closing()), (1, None));
        push_in(&outgoing, text("5"), stored);
        assert_eq!(outgoing.closing(), Some(DisconnectCode::Slow));
    }

    #[test]
    fn it_says_when_it_becomes_nearly_full() {
        let way = Way::push_in("a", Priority::Normal);
        let outgoing = Outgoing::new(10 * (FRAME_COST + 1));
        let filled: Vec<bool> = (0..10).map(|_| push_in(&outgoing, text("x"), way)).collect();
        assert_eq!(filled.iter().position(|filled| *filled), Some(8));
        assert_eq!(filled.iter().filter(|filled| **filled).count(), 1, "once");
        assert!(outgoing.take(1024).is_some());
        let filled: Vec<bool> = (0..10).map(|_| push_in(&outgoing, text("x"), way)).collect();
        assert_eq!(filled.iter().position(|filled| *filled), Some(8));
    }

    #[test]
    fn what_is_joined_leaves_in_the_order_of_priorities() {
        let outgoing = Outgoing::new(4096);
        push_in(&outgoing, text("1"), Way::push_in("b", Priority::Normal));
        push_in(&outgoing, text("2"), Way::push_in("a", Priority::Normal));
        push_in(&outgoing, text("3"), Way::push_in("a", Priority::Critical));
        push_in(&outgoing, text("4"), Way::push_in("b", Priority::Normal));
        assert_eq!(outgoing.take(64 * 1024), Some(text("2\n3\n1\n4")));
        assert!(outgoing.take(0).is_none());
        assert_eq!(outgoing.state.lock().bytes, 0);
    }

    #[test]
    fn what_waits_together_leaves_together_up_to_the_limit() {
        let outgoing = Outgoing::new(4 * (FRAME_COST + 4));
        for frame in ["aaaa", "bb", "cc", "dddd"] {
            push(&outgoing, text(frame));
        }
        assert_eq!(outgoing.take(10), Some(text("aaaa\nbb\ncc")));
        // One that is larger goes alone.
        push(&outgoing, text("e"));
        assert_eq!(outgoing.take(3), Some(text("dddd")));
        assert_eq!(outgoing.take(3), Some(text("e")));
        assert_eq!(outgoing.take(3), None);
        // All the room is there again.
        for _ in 0..4 {
            push(&outgoing, text("ffff"));
        }
        assert_eq!(outgoing.closing(), None);
    }

    #[test]
    fn what_left_makes_room() {
        let outgoing = Outgoing::new(FRAME_COST + 1);
        for _ in 0..10 {
            push(&outgoing, text("x"));
            assert!(outgoing.take(0).is_some());
        }
        assert_eq!(outgoing.closing(), None);
        assert_eq!(outgoing.peak(), FRAME_COST + 1);
    }

    #[test]
    fn what_waits_when_it_closes_still_leaves() {
        let outgoing = Outgoing::new(1024);
        push(&outgoing, text("a"));
        outgoing.close(DisconnectCode::Shutdown);
        push(&outgoing, text("b"));
        assert_eq!(outgoing.take(0), Some(text("a")));
        assert!(outgoing.take(0).is_none());
    }

    #[test]
    fn what_is_held_waits_for_the_frame_that_comes_before_it() {
        let outgoing = Outgoing::new(1024);
        outgoing.hold();
        push(&outgoing, text("b"));
        assert!(!is_changed(&outgoing));
        assert!(outgoing.take(0).is_none());
        outgoing.release(text("a"));
        push(&outgoing, text("c"));
        assert!(is_changed(&outgoing));
        for next in ["a", "b", "c"] {
            assert_eq!(outgoing.take(0), Some(text(next)));
        }
        assert_eq!(outgoing.state.lock().bytes, 0);
        outgoing.finish(text("d"));
        push(&outgoing, text("e"));
        assert_eq!(outgoing.take(0), Some(text("d")));
        assert!(outgoing.take(0).is_none());
    }

    #[test]
    fn what_is_held_is_dropped_where_it_ends_instead() {
        let outgoing = Outgoing::new(1024);
        push(&outgoing, text("a"));
        outgoing.hold();
        push(&outgoing, text("c"));
        outgoing.finish(text("b"));
        push(&outgoing, text("d"));
        for next in ["a", "b"] {
            assert_eq!(outgoing.take(0), Some(text(next)));
        }
        assert!(outgoing.take(0).is_none(), "nothing comes after the last");
        assert_eq!(outgoing.state.lock().bytes, 0);
    }

    /// The waking protocol under real threads: nothing stays behind in the queue.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_frame_is_forgotten() {
        const EACH: usize = 20_000;
        let outgoing = std::sync::Arc::new(Outgoing::new(usize::MAX));
        let pushers: Vec<_> = (0..2)
            .map(|_| {
                let outgoing = std::sync::Arc::clone(&outgoing);
                std::thread::spawn(move || (0..EACH).for_each(|_| push(&outgoing, text("x"))))
            })
            .collect();
        let mut popped = 0;
        while popped < 2 * EACH {
            tokio::time::timeout(Duration::from_secs(10), outgoing.changed())
                .await
                .expect("woken while frames wait");
            while outgoing.take(0).is_some() {
                popped += 1;
            }
        }
        pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
    }
}
