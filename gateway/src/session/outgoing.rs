//! The queue of frames towards one client, bounded in bytes.

use std::collections::VecDeque;

use parking_lot::Mutex;
use switchboard_proto::codes::DisconnectCode;
use tokio::sync::Notify;

use super::encoding::Frame;

/// What a frame costs in the queue besides its bytes, so that a million empty ones are not free.
const FRAME_COST: usize = 64;

/// See the module. Filled by anybody, emptied by the session's task alone.
pub(super) struct Outgoing {
    state: Mutex<State>,
    /// Told when the queue stops being empty, and when the session closes. The task empties the
    /// queue each time, or calls `come_back`, so a queue that is not empty needs no further word.
    changed: Notify,
    limit: usize,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Frame>,
    /// `Some`: what is queued waits here for the reply that has to come before it.
    held: Option<VecDeque<Frame>>,
    is_finished: bool,
    bytes: usize,
    peak: usize,
    closing: Option<DisconnectCode>,
}

impl Outgoing {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            limit,
        }
    }

    /// Queues a frame. Over the limit everything is dropped and the session closes as slow; a
    /// closing one takes nothing.
    pub(super) fn push(&self, frame: Frame) {
        let cost = FRAME_COST + frame.len();
        let wake = {
            let mut state = self.state.lock();
            if state.closing.is_some() || state.is_finished {
                return;
            }
            if state.bytes + cost > self.limit {
                state.closing = Some(DisconnectCode::Slow);
                state.frames = VecDeque::new();
                state.held = None;
                state.bytes = 0;
                state.peak = self.limit;
                true
            } else {
                state.bytes += cost;
                state.peak = state.peak.max(state.bytes);
                match &mut state.held {
                    Some(held) => {
                        held.push_back(frame);
                        false
                    }
                    None => {
                        state.frames.push_back(frame);
                        state.frames.len() == 1
                    }
                }
            }
        };
        if wake {
            self.changed.notify_one();
        }
    }

    /// What is queued from here on waits for [`Outgoing::release`].
    pub(super) fn hold(&self) {
        self.state.lock().held.get_or_insert_default();
    }

    /// Queues `first` before everything that was held.
    pub(super) fn release(&self, first: Frame) {
        {
            let mut state = self.state.lock();
            // Over the limit it is closed as any other would be.
            state.bytes += FRAME_COST + first.len();
            state.peak = state.peak.max(state.bytes);
            let held = state.held.take().unwrap_or_default();
            if state.closing.is_some() {
                return;
            }
            state.frames.push_back(first);
            state.frames.extend(held);
        }
        self.changed.notify_one();
    }

    /// Queues `last`, and nothing after it: what was held is dropped, and so is what is pushed from here on.
    pub(super) fn finish(&self, last: Frame) {
        {
            let mut state = self.state.lock();
            state.is_finished = true;
            for held in state.held.take().unwrap_or_default() {
                state.bytes = state.bytes.saturating_sub(FRAME_COST + held.len());
            }
        }
        self.release(last);
    }

    /// Less than a quarter of the limit waits.
    pub(super) fn has_room(&self) -> bool {
        self.state.lock().bytes < self.limit / 4
    }

    /// The next frame, joined with those behind it up to `limit` bytes: one WebSocket message costs
    /// both sides less than many. A single frame may be larger.
    pub(super) fn take(&self, limit: usize) -> Option<Frame> {
        let (first, more) = {
            let mut state = self.state.lock();
            let first = state.frames.pop_front()?;
            state.bytes -= FRAME_COST + first.len();
            let mut length = first.len();
            let mut more = Vec::new();
            // What joins two of them takes a byte at most.
            while let Some(next) = state.frames.pop_front_if(|next| length + 1 + next.len() <= limit) {
                state.bytes -= FRAME_COST + next.len();
                length += 1 + next.len();
                more.push(next);
            }
            if state.frames.is_empty() {
                // A burst's memory is not kept by a connection that is quiet afterwards.
                state.frames.shrink_to(8);
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

    /// [`Outgoing::changed`] ends once more: the queue was left before it was empty.
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

    use super::*;

    fn text(text: &'static str) -> Frame {
        Frame::Text(text.into())
    }

    fn is_changed(outgoing: &Outgoing) -> bool {
        futures_util::FutureExt::now_or_never(outgoing.changed()).is_some()
    }

    #[test]
    fn frames_leave_in_order_and_only_the_first_wakes() {
        let outgoing = Outgoing::new(1024);
        assert!(!is_changed(&outgoing));
        outgoing.push(text("a"));
        outgoing.push(text("b"));
        assert!(is_changed(&outgoing));
        assert!(!is_changed(&outgoing));
        assert_eq!(outgoing.take(0), Some(text("a")));
        outgoing.push(text("c"));
        assert!(!is_changed(&outgoing), "the task is still emptying");
        assert_eq!(outgoing.take(0), Some(text("b")));
        assert_eq!(outgoing.take(0), Some(text("c")));
        assert!(outgoing.take(0).is_none());
        outgoing.push(text("d"));
        assert!(is_changed(&outgoing));
    }

    #[test]
    fn over_the_limit_it_closes_as_slow_and_drops_what_waits() {
        let outgoing = Outgoing::new(2 * (FRAME_COST + 10));
        outgoing.push(text("0123456789"));
        outgoing.push(text("0123456789"));
        assert_eq!(outgoing.closing(), None);
        assert!(is_changed(&outgoing));
        outgoing.push(text(""));
        assert_eq!(outgoing.closing(), Some(DisconnectCode::Slow));
        assert!(is_changed(&outgoing));
        assert!(outgoing.take(0).is_none());
        outgoing.push(text("x"));
        assert!(outgoing.take(0).is_none());
        outgoing.close(DisconnectCode::Shutdown);
        assert_eq!(outgoing.closing(), Some(DisconnectCode::Slow));
    }

    #[test]
    fn what_waits_together_leaves_together_up_to_the_limit() {
        let outgoing = Outgoing::new(4 * (FRAME_COST + 4));
        for frame in ["aaaa", "bb", "cc", "dddd"] {
            outgoing.push(text(frame));
        }
        assert_eq!(outgoing.take(10), Some(text("aaaa\nbb\ncc")));
        // One that is larger goes alone.
        outgoing.push(text("e"));
        assert_eq!(outgoing.take(3), Some(text("dddd")));
        assert_eq!(outgoing.take(3), Some(text("e")));
        assert_eq!(outgoing.take(3), None);
        // All the room is there again.
        for _ in 0..4 {
            outgoing.push(text("ffff"));
        }
        assert_eq!(outgoing.closing(), None);
    }

    #[test]
    fn what_left_makes_room() {
        let outgoing = Outgoing::new(FRAME_COST + 1);
        for _ in 0..10 {
            outgoing.push(text("x"));
            assert!(outgoing.take(0).is_some());
        }
        assert_eq!(outgoing.closing(), None);
        assert_eq!(outgoing.peak(), FRAME_COST + 1);
    }

    #[test]
    fn what_waits_when_it_closes_still_leaves() {
        let outgoing = Outgoing::new(1024);
        outgoing.push(text("a"));
        outgoing.close(DisconnectCode::Shutdown);
        outgoing.push(text("b"));
        assert_eq!(outgoing.take(0), Some(text("a")));
        assert!(outgoing.take(0).is_none());
    }

    #[test]
    fn what_is_held_waits_for_the_frame_that_comes_before_it() {
        let outgoing = Outgoing::new(1024);
        outgoing.hold();
        outgoing.push(text("b"));
        assert!(!is_changed(&outgoing));
        assert!(outgoing.take(0).is_none());
        outgoing.release(text("a"));
        outgoing.push(text("c"));
        assert!(is_changed(&outgoing));
        for next in ["a", "b", "c"] {
            assert_eq!(outgoing.take(0), Some(text(next)));
        }
        assert_eq!(outgoing.state.lock().bytes, 0);
        outgoing.finish(text("d"));
        outgoing.push(text("e"));
        assert_eq!(outgoing.take(0), Some(text("d")));
        assert!(outgoing.take(0).is_none());
    }

    #[test]
    fn what_is_held_is_dropped_where_it_ends_instead() {
        let outgoing = Outgoing::new(1024);
        outgoing.push(text("a"));
        outgoing.hold();
        outgoing.push(text("c"));
        outgoing.finish(text("b"));
        outgoing.push(text("d"));
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
                std::thread::spawn(move || (0..EACH).for_each(|_| outgoing.push(text("x"))))
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
