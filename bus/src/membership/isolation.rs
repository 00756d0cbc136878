//! Whether most of the others fell silent at once. Then it is likely that the server this process is connected to lost the other servers:
//! they do not say so, and it may take them tens of seconds to notice.

use std::time::Duration;

/// Members who fall silent within this time do so at once: beats come a few times a second.
const AT_ONCE: Duration = Duration::from_secs(1);

/// From one advice to the next, doubled each time: the next server may be the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// Advices for one loss. Then they are gone, and not we.
const TRIES: u32 = 4;

/// See the module. Times are since any fixed moment.
#[derive(Debug, Default)]
pub(super) struct Isolation {
    loss: Option<Loss>,
}

#[derive(Debug)]
struct Loss {
    since: Duration,
    /// How many others there were.
    before: usize,
    tries: u32,
    next: Duration,
}

impl Isolation {
    /// There are `now_others` others at `now`, of `others` before who fell silent was forgotten. `true`: connect to another server.
    pub(super) fn advises(&mut self, others: usize, now_others: usize, now: Duration) -> bool {
        let is_over = |loss: &Loss| match loss.tries {
            0 => now.saturating_sub(loss.since) > AT_ONCE,
            _ => now_others * 2 >= loss.before || loss.tries >= TRIES,
        };
        if self.loss.as_ref().is_some_and(is_over) {
            self.loss = None;
        }
        if self.loss.is_none() && now_others < others {
            self.loss = Some(Loss {
                since: now,
                before: others,
                tries: 0,
                next: now,
            });
        }
        let Some(loss) = &mut self.loss else {
            return false;
        };
        // One other of one may simply have ended.
        let is_most = loss.before >= 2 && now_others * 2 < loss.before;
        if !is_most || now < loss.next {
            return false;
        }
        loss.next = now + PATIENCE * 2_u32.pow(loss.tries);
        loss.tries += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn most_of_the_others_at_once_are_a_reason() {
        let mut isolation = Isolation::default();
        assert!(!isolation.advises(6, 6, at(0)));
        assert!(!isolation.advises(6, 4, at(300)));
        assert!(isolation.advises(4, 2, at(600)));
        assert!(!isolation.advises(2, 2, at(900)), "it takes a moment");
    }

    #[test]
    fn one_after_the_other_is_none_and_half_of_them_neither() {
        let mut isolation = Isolation::default();
        for left in (0..6).rev() {
            assert!(
                !isolation.advises(left + 1, left, at(2_000 * (7 - left as u64))),
                "{left} left"
            );
        }
        let mut isolation = Isolation::default();
        assert!(!isolation.advises(6, 3, at(0)));
        let mut isolation = Isolation::default();
        assert!(!isolation.advises(1, 0, at(0)));
    }

    #[test]
    fn it_is_tried_again_until_they_are_heard_but_not_for_ever() {
        let mut isolation = Isolation::default();
        assert!(isolation.advises(6, 0, at(0)));
        assert!(!isolation.advises(0, 0, at(1_900)));
        assert!(isolation.advises(0, 1, at(2_000)));
        assert!(!isolation.advises(3, 3, at(9_000)), "they are back");
        assert!(!isolation.advises(3, 3, at(90_000)));

        let mut isolation = Isolation::default();
        let advices = (0..1_000)
            .filter(|second| isolation.advises(if *second == 0 { 6 } else { 0 }, 0, at(second * 1_000)));
        assert_eq!(advices.collect::<Vec<_>>(), [0, 2, 6, 14]);
        assert!(
            isolation.advises(6, 0, at(2_000_000)),
            "another time it is another loss"
        );
    }
}
