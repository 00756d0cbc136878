//! Sets of message numbers. Of millions that come in order only a few lack, so what lacks is kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whole numbers from 1 on. Takes memory for the gaps in it, not for what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    newest: u64,
    /// The gaps below `newest`, first to last.
    gaps: BTreeMap<u64, u64>,
}

/// What a number was that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// Higher than all before.
    Newest,
    /// Below one that came before.
    Late,
    /// It is there already.
    Again,
}

impl Numbers {
    /// Adds a number.
    pub fn insert(&mut self, number: u64) -> Came {
        if number > self.newest {
            if number - self.newest > 1 {
                self.gaps.insert(self.newest + 1, number - 1);
            }
            self.newest = number;
            return Came::Newest;
        }
        let gap = self.gaps.range(..=number).next_back();
        let Some((&first, &last)) = gap.filter(|(_, last)| number <= **last) else {
            return Came::Again;
        };
        self.gaps.remove(&first);
        if first < number {
            self.gaps.insert(first, number - 1);
        }
        if number < last {
            self.gaps.insert(number + 1, last);
        }
        Came::Late
    }

    /// How many it holds.
    pub fn len(&self) -> u64 {
        self.within(1, u64::MAX)
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of its numbers the other does not hold.
    pub fn not_in(&self, other: &Self) -> u64 {
        let gaps: u64 = other
            .gaps
            .iter()
            .map(|(first, last)| self.within(*first, *last))
            .sum();
        gaps + self.within(other.newest.saturating_add(1), u64::MAX)
    }

    /// How many it holds from `first` to `last`.
    fn within(&self, first: u64, last: u64) -> u64 {
        let last = last.min(self.newest);
        let length = |first: u64, last: u64| last.saturating_add(1).saturating_sub(first);
        let gaps: u64 = self
            .gaps
            .range(..=last)
            .map(|(from, to)| length(first.max(*from), last.min(*to)))
            .sum();
        length(first, last) - gaps
    }
}

impl FromIterator<u64> for Numbers {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut set = Self::default();
        for number in numbers {
            set.insert(number);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::RngExt as _;

    use super::*;

    #[test]
    fn says_what_a_number_was() {
        let mut set = Numbers::default();
        let came = [1, 4, 4, 2, 3, 3, 5].map(|number| set.insert(number));
        let [newest, late, again] = [Came::Newest, Came::Late, Came::Again];
        assert_eq!(came, [newest, newest, again, late, late, again, newest]);
        assert_eq!(set, (1..=5).collect());
    }

    /// Whatever comes in whatever order: as an ordinary set has it.
    #[test]
    fn holds_what_was_put_in() {
        let mut random = rand::rng();
        for _ in 0..200 {
            let mut draw = |count| -> Vec<u64> { (0..count).map(|_| random.random_range(1..40)).collect() };
            let (one, other) = (draw(30), draw(25));
            let plain: [BTreeSet<u64>; 2] = [&one, &other].map(|numbers| numbers.iter().copied().collect());
            let compact: [Numbers; 2] = [&one, &other].map(|numbers| numbers.iter().copied().collect());
            assert_eq!(compact[0].len(), plain[0].len() as u64, "{one:?}");
            let missing = plain[0].difference(&plain[1]).count() as u64;
            assert_eq!(compact[0].not_in(&compact[1]), missing, "{one:?} {other:?}");
        }
    }
}
