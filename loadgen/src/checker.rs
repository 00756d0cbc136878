//! Whether what was acknowledged came to everybody, once and in order: told from each client's own record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::numbers::{Came, Numbers};

/// Senders with the numbers of their messages.
pub type Senders = BTreeMap<u32, Numbers>;

/// What was not as promised; how often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violations {
    /// Acknowledged to its sender and never received by somebody.
    pub lost: u64,
    /// Received again by somebody.
    pub doubled: u64,
    /// Received behind a later message of the same sender, or of the channel.
    pub disordered: u64,
    /// A subscription was not recovered although everything is there.
    pub unrecovered: u64,
}

impl Violations {
    /// All as promised.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.disordered += other.disordered;
        self.unrecovered += other.unrecovered;
    }
}

/// One client's record of one channel. Grows with the senders and with what lacks, not with what comes.
#[derive(Debug, Default)]
pub struct Receiver {
    seen: Senders,
    last_offset: u64,
    violations: Violations,
}

impl Receiver {
    /// Something came, at `offset` (0: the channel has none).
    pub fn received(&mut self, offset: u64, sender: u32, number: u64) {
        match self.seen.entry(sender).or_default().insert(number) {
            Came::Again => self.violations.doubled += 1,
            Came::Late => self.violations.disordered += 1,
            Came::Newest if offset > 0 && offset <= self.last_offset => self.violations.disordered += 1,
            Came::Newest => {}
        }
        self.last_offset = self.last_offset.max(offset);
    }

    /// It came back, and was told that something is gone.
    pub fn not_recovered(&mut self) {
        self.violations.unrecovered += 1;
    }

    /// Whether it has all of these.
    pub fn has(&self, acknowledged: &Senders) -> bool {
        self.missing(acknowledged) == 0
    }

    /// What was not as promised, given what was acknowledged to the senders of the channel.
    pub fn verdict(&self, acknowledged: &Senders) -> Violations {
        Violations {
            lost: self.missing(acknowledged),
            ..self.violations
        }
    }

    fn missing(&self, acknowledged: &Senders) -> u64 {
        let none = Numbers::default();
        acknowledged
            .iter()
            .map(|(sender, numbers)| numbers.not_in(self.seen.get(sender).unwrap_or(&none)))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged() -> Senders {
        Senders::from([(1, (1..=3).collect()), (2, (1..=1).collect())])
    }

    /// What came, in this order: sender and number. Offsets grow.
    fn verdict(came: &[(u32, u64)]) -> Violations {
        let mut receiver = Receiver::default();
        for (offset, (sender, number)) in (1..).zip(came) {
            receiver.received(offset, *sender, *number);
        }
        receiver.verdict(&acknowledged())
    }

    #[test]
    fn all_that_was_acknowledged_and_maybe_more_is_as_promised() {
        assert!(verdict(&[(1, 1), (2, 1), (1, 2), (1, 3)]).is_empty());
        // Not acknowledged is not refused.
        assert!(verdict(&[(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]).is_empty());
    }

    #[test]
    fn a_loss_is_noticed() {
        assert_eq!(verdict(&[(1, 1), (2, 1), (1, 3)]).lost, 1);
        assert_eq!(verdict(&[]).lost, 4);
    }

    #[test]
    fn a_double_is_noticed() {
        let found = verdict(&[(1, 1), (1, 2), (1, 2), (1, 3), (2, 1)]);
        assert_eq!((found.doubled, found.lost, found.disordered), (1, 0, 0));
    }

    #[test]
    fn a_swap_is_noticed() {
        let found = verdict(&[(1, 2), (1, 1), (1, 3), (2, 1)]);
        assert_eq!((found.disordered, found.lost, found.doubled), (1, 0, 0));
    }

    #[test]
    fn offsets_that_go_back_are_noticed() {
        let mut receiver = Receiver::default();
        receiver.received(8, 1, 1);
        receiver.received(7, 2, 1);
        let none = Senders::new();
        assert_eq!(receiver.verdict(&none).disordered, 1);
    }

    #[test]
    fn a_recovery_that_fails_is_noticed() {
        let mut receiver = Receiver::default();
        receiver.not_recovered();
        assert!(!receiver.verdict(&Senders::new()).is_empty());
    }
}
