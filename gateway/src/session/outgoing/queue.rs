//! Frames that wait, and which of them leaves next: those of the most urgent lane, and of equally urgent lanes
//! that of the one whose oldest frame is oldest. A lane is as urgent as the most urgent frame in it, so what
//! came before that goes with it.
//!
//! Nearly always all that waits is of normal priority and leaves as it came. Lanes are made only when a frame
//! has to overtake another, and are gone when the queue is empty.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};

use super::FRAME_COST;
use super::way::{RANKS, Way};
use crate::session::encoding::Frame;

/// Frames that an empty queue keeps room for.
const KEPT: usize = 6;

/// A frame that waits.
pub(super) struct Entry {
    pub(super) frame: Frame,
    pub(super) way: Way,
}

impl Entry {
    /// What it counts in the queue.
    pub(super) fn cost(&self) -> usize {
        FRAME_COST + self.frame.len()
    }
}

/// See the module. Not bounded by itself.
#[derive(Default)]
pub(super) struct Queue {
    /// Leaves as it came. Empty where there are lanes.
    in_order: VecDeque<Entry>,
    /// The lowest rank in `in_order`: one of a higher would have to overtake.
    lowest: Option<usize>,
    lanes: Option<Box<Lanes>>,
    droppable: u32,
}

#[derive(Default)]
struct Lanes {
    lanes: HashMap<u32, Lane>,
    /// The lanes, by their rank and their oldest frame.
    next: BTreeMap<(Reverse<usize>, u64), u32>,
    /// Frames that ever came.
    came: u64,
}

#[derive(Default)]
struct Lane {
    entries: VecDeque<(u64, Entry)>,
    /// How many there are of each rank.
    ranks: [u32; RANKS],
}

impl Lane {
    fn key(&self) -> Option<(Reverse<usize>, u64)> {
        let rank = self.ranks.iter().rposition(|count| *count > 0)?;
        let (oldest, _) = self.entries.front()?;
        Some((Reverse(rank), *oldest))
    }

    fn count(&mut self, way: Way, difference: i32) {
        if let Some(count) = self.ranks.get_mut(way.precedence.rank()) {
            *count = count.saturating_add_signed(difference);
        }
    }
}

impl Lanes {
    fn push(&mut self, entry: Entry) {
        let lane = self.lanes.entry(entry.way.lane).or_default();
        let before = lane.key();
        lane.count(entry.way, 1);
        let name = entry.way.lane;
        lane.entries.push_back((self.came, entry));
        self.came += 1;
        let after = lane.key();
        if before != after {
            if let Some(before) = before {
                self.next.remove(&before);
            }
            if let Some(after) = after {
                self.next.insert(after, name);
            }
        }
    }

    fn peek(&self) -> Option<&Entry> {
        let (_, lane) = self.next.first_key_value()?;
        let (_, entry) = self.lanes.get(lane)?.entries.front()?;
        Some(entry)
    }

    fn pop(&mut self) -> Option<Entry> {
        let (_, name) = self.next.pop_first()?;
        let lane = self.lanes.get_mut(&name)?;
        let (_, entry) = lane.entries.pop_front()?;
        lane.count(entry.way, -1);
        match lane.key() {
            Some(key) => drop(self.next.insert(key, name)),
            None => drop(self.lanes.remove(&name)),
        }
        Some(entry)
    }

    fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) {
        self.next.clear();
        for lane in self.lanes.values_mut() {
            let Lane { entries, ranks } = lane;
            *ranks = [0; RANKS];
            entries.retain(|(_, entry)| keep(entry));
            for (_, entry) in entries {
                if let Some(count) = ranks.get_mut(entry.way.precedence.rank()) {
                    *count += 1;
                }
            }
        }
        self.lanes.retain(|name, lane| match lane.key() {
            Some(key) => {
                self.next.insert(key, *name);
                true
            }
            None => false,
        });
    }
}

impl Queue {
    pub(super) fn push(&mut self, entry: Entry) {
        self.droppable += u32::from(entry.way.is_droppable);
        if let Some(lanes) = &mut self.lanes {
            lanes.push(entry);
            return;
        }
        let rank = entry.way.precedence.rank_in_order();
        if self.lowest.is_none_or(|lowest| rank <= lowest) {
            self.lowest = Some(rank);
            self.in_order.push_back(entry);
            return;
        }
        let mut lanes = Box::<Lanes>::default();
        for waiting in std::mem::take(&mut self.in_order) {
            lanes.push(waiting);
        }
        lanes.push(entry);
        self.lanes = Some(lanes);
    }

    /// The frame that leaves next.
    pub(super) fn peek(&self) -> Option<&Entry> {
        match &self.lanes {
            Some(lanes) => lanes.peek(),
            None => self.in_order.front(),
        }
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = match &mut self.lanes {
            Some(lanes) => lanes.pop(),
            None => self.in_order.pop_front(),
        }?;
        self.droppable -= u32::from(entry.way.is_droppable);
        if self.is_empty() {
            // A burst's memory is not kept by a connection that is quiet afterwards.
            self.lanes = None;
            self.lowest = None;
            self.in_order.shrink_to(KEPT);
        }
        Some(entry)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.peek().is_none()
    }

    /// Drops what may be dropped. How many frames that were, and what they counted.
    pub(super) fn drop_droppable(&mut self) -> (u32, usize) {
        if self.droppable == 0 {
            return (0, 0);
        }
        let mut cost = 0;
        let mut keep = |entry: &Entry| {
            if entry.way.is_droppable {
                cost += entry.cost();
            }
            !entry.way.is_droppable
        };
        match &mut self.lanes {
            Some(lanes) => lanes.retain(&mut keep),
            None => self.in_order.retain(keep),
        }
        if self.is_empty() {
            self.lanes = None;
            self.lowest = None;
        }
        (std::mem::take(&mut self.droppable), cost)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use switchboard_proto::bus::Priority;

    use super::super::way::Precedence;
    use super::*;

    fn entry(way: Way, number: usize) -> Entry {
        let frame = Frame::Text(number.to_string().into());
        Entry { frame, way }
    }

    fn number(entry: &Entry) -> usize {
        match &entry.frame {
            Frame::Text(text) => text.parse().unwrap(),
            Frame::Binary(bytes) => panic!("{bytes:?}"),
        }
    }

    fn drain(queue: &mut Queue) -> Vec<usize> {
        std::iter::from_fn(|| queue.pop())
            .map(|entry| number(&entry))
            .collect()
    }

    fn leaves(ways: &[Way]) -> Vec<usize> {
        let mut queue = Queue::default();
        for (number, way) in ways.iter().enumerate() {
            queue.push(entry(*way, number));
        }
        drain(&mut queue)
    }

    fn normal(channel: &str) -> Way {
        Way::push_in(channel, Priority::Normal)
    }

    #[test]
    fn r2_a_critical_message_takes_its_channel_with_it_before_others() {
        let critical = Way::push_in("a", Priority::Critical);
        let ways = [
            normal("b"),
            normal("a"),
            normal("b"),
            critical,
            normal("a"),
            normal("b"),
        ];
        assert_eq!(leaves(&ways), [1, 3, 0, 2, 4, 5]);
    }

    #[test]
    fn r2_priorities_order_lanes() {
        let of = |channel: &str, priority| Way::push_in(channel, priority);
        let ways = [
            of("low", Priority::Low),
            normal("b"),
            of("high", Priority::High),
            of("critical", Priority::Critical),
            of("low", Priority::Low),
            normal("c"),
        ];
        assert_eq!(leaves(&ways), [3, 2, 1, 5, 0, 4]);
    }

    #[test]
    fn r2_answers_are_not_overtaken_by_what_came_later() {
        let critical = Way::push_in("a", Priority::Critical);
        let ways = [
            normal("b"),
            Way::ANSWER,
            critical,
            Way::answer_in("b"),
            critical,
            normal("b"),
        ];
        assert_eq!(leaves(&ways), [0, 1, 2, 3, 4, 5]);
        let ways = [normal("b"), Way::ANSWER, critical, normal("b")];
        assert_eq!(leaves(&ways), [1, 2, 0, 3]);
    }

    #[test]
    fn what_is_of_one_priority_needs_no_lanes_and_no_memory_afterwards() {
        let mut queue = Queue::default();
        for number in 0..1000 {
            let way = if number % 3 == 0 { Way::ANSWER } else { normal("a") };
            queue.push(entry(way, number));
        }
        assert!(queue.lanes.is_none());
        assert_eq!(drain(&mut queue), (0..1000).collect::<Vec<_>>());
        assert!(queue.in_order.capacity() <= KEPT);
        queue.push(entry(normal("b"), 0));
        queue.push(entry(Way::SYSTEM, 1));
        assert!(queue.lanes.is_some());
        assert_eq!(drain(&mut queue), [1, 0]);
        assert!(queue.lanes.is_none());
        // A session has one of these, and there may be many thousand sessions.
        assert!(size_of::<Queue>() <= 64);
        assert!(size_of::<Entry>() <= 48);
    }

    fn any_way() -> impl Strategy<Value = Way> {
        let priority = prop_oneof![
            6 => Just(Priority::Normal),
            1 => Just(Priority::Low),
            1 => Just(Priority::High),
            1 => Just(Priority::Critical),
        ];
        let channel = prop::sample::select(vec!["a", "b", "c", "d"]);
        prop_oneof![
            8 => (channel.clone(), priority.clone()).prop_map(|(channel, priority)| Way::push_in(channel, priority)),
            2 => (channel.clone(), priority).prop_map(|(channel, priority)| Way::ephemeral_in(channel, priority)),
            1 => channel.prop_map(Way::answer_in),
            1 => Just(Way::ANSWER),
            1 => Just(Way::SYSTEM),
        ]
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(Way),
        Pop,
        Drop,
    }

    fn any_steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            12 => any_way().prop_map(Step::Push),
            8 => Just(Step::Pop),
            1 => Just(Step::Drop),
        ];
        prop::collection::vec(step, 0..200)
    }

    /// How urgent a lane is: the most urgent that waits in it, answers apart or not.
    fn rank(waiting: &[(usize, Way)], lane: u32, with_answers: bool) -> usize {
        waiting
            .iter()
            .filter(|(_, way)| way.lane == lane)
            .map(|(_, way)| match way.precedence {
                Precedence::Answer if !with_answers => 0,
                other => other.rank(),
            })
            .max()
            .unwrap()
    }

    proptest! {
        #[test]
        fn r2_lanes_keep_their_order_and_priorities_are_respected_between_them(steps in any_steps()) {
            let mut queue = Queue::default();
            // In the order in which they came.
            let mut waiting: Vec<(usize, Way)> = Vec::new();
            let steps = steps.into_iter().chain(std::iter::repeat_n(Step::Pop, 200));
            for (came, step) in steps.enumerate() {
                match step {
                    Step::Push(way) => {
                        queue.push(entry(way, came));
                        waiting.push((came, way));
                    }
                    Step::Drop => {
                        let before = waiting.len();
                        waiting.retain(|(_, way)| !way.is_droppable);
                        let (dropped, _) = queue.drop_droppable();
                        prop_assert_eq!(dropped as usize, before - waiting.len());
                    }
                    Step::Pop => {
                        let Some(left) = queue.pop() else {
                            prop_assert!(waiting.is_empty(), "nothing is lost");
                            continue;
                        };
                        let left = number(&left);
                        let place = waiting.iter().position(|(other, _)| *other == left);
                        let place = place.expect("leaves once");
                        let lane = waiting[place].1.lane;
                        for (other, way) in &waiting {
                            prop_assert!(way.lane != lane || *other >= left, "order inside a lane");
                            if way.lane != lane {
                                prop_assert!(
                                    rank(&waiting, lane, true) >= rank(&waiting, way.lane, false),
                                    "a more urgent lane waits"
                                );
                            }
                            if way.precedence == Precedence::Answer {
                                prop_assert!(left <= *other, "an answer was overtaken");
                            }
                        }
                        let any_answer = waiting.iter().any(|(_, way)| way.precedence == Precedence::Answer);
                        if !any_answer {
                            let own = rank(&waiting, lane, true);
                            let first = waiting.iter().find(|(_, way)| rank(&waiting, way.lane, true) == own);
                            prop_assert_eq!(first.unwrap().0, left, "the oldest of equally urgent lanes");
                        }
                        waiting.remove(place);
                    }
                }
            }
            prop_assert!(queue.is_empty() && queue.droppable == 0);
        }
    }
}
