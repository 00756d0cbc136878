//! Whether a connection's commands come more quickly than they may.
//!
//! A client that is refused now and then has a moment too many and should try again. One whose
//! commands are mostly refused does not listen, and answering it is work for nothing.

use tokio::time::Instant;

use crate::limits::LimitsConfig;
use crate::limits::token_bucket::{Rate, TokenBucket};

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is carried out.
    CarryOut,
    /// It is refused; the client may try again.
    Refuse,
    /// The connection has to end.
    End,
}

/// See the module.
pub(super) struct Pace {
    rate: Option<Rate>,
    bucket: TokenBucket,
    /// Commands refused, less those carried out since the first of them.
    refused: u32,
    refusals: u32,
}

impl Pace {
    pub(super) fn new(limits: &LimitsConfig, now: Instant) -> Self {
        Self {
            rate: limits.commands,
            bucket: TokenBucket::new(now),
            refused: 0,
            refusals: limits.command_refusals,
        }
    }

    /// How many commands of those that may come at once have come, and how many may; `None`: no limit.
    pub(super) fn used(&self, now: Instant) -> Option<(usize, usize)> {
        let rate = self.rate?;
        Some((self.bucket.used(&rate, now), rate.burst()))
    }

    /// The verdict on a command that came at `now`.
    pub(super) fn command(&mut self, now: Instant) -> Verdict {
        let allowed = self.rate.is_none_or(|rate| self.bucket.take(&rate, now));
        if allowed {
            self.refused = self.refused.saturating_sub(1);
            return Verdict::CarryOut;
        }
        self.refused += 1;
        if self.refused > self.refusals {
            Verdict::End
        } else {
            Verdict::Refuse
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pace(rate: Option<Rate>, refusals: u32, now: Instant) -> Pace {
        Pace {
            rate,
            bucket: TokenBucket::new(now),
            refused: 0,
            refusals,
        }
    }

    #[test]
    fn who_sends_far_too_much_is_ended() {
        let now = Instant::now();
        let mut pace = pace(Rate::new(10, 3), 2, now);
        let verdicts: Vec<Verdict> = (0..6).map(|_| pace.command(now)).collect();
        let [ok, no, end] = [Verdict::CarryOut, Verdict::Refuse, Verdict::End];
        assert_eq!(verdicts, [ok, ok, ok, no, no, end]);
    }

    /// One in ten is carried out in between, which must not make a flood pass for ever.
    #[test]
    fn a_flood_is_ended_though_some_of_it_is_carried_out() {
        let mut now = Instant::now();
        let mut pace = pace(Rate::new(100, 1), 50, now);
        let ended = (0..100).position(|_| {
            now += Duration::from_millis(1);
            pace.command(now) == Verdict::End
        });
        assert!(ended.is_some());
    }

    #[test]
    fn who_is_a_little_too_quick_is_only_slowed_down() {
        let mut now = Instant::now();
        let mut pace = pace(Rate::new(100, 5), 50, now);
        let mut refused = 0;
        for _ in 0..10_000 {
            now += Duration::from_millis(6);
            match pace.command(now) {
                Verdict::CarryOut => {}
                Verdict::Refuse => refused += 1,
                Verdict::End => panic!("ended"),
            }
        }
        assert!((3500..=4500).contains(&refused), "{refused}");
    }

    #[test]
    fn it_knows_how_much_is_used() {
        let now = Instant::now();
        let mut pace = pace(Rate::new(10, 5), 50, now);
        assert_eq!(pace.used(now), Some((0, 5)));
        for used in 1..=5 {
            pace.command(now);
            assert_eq!(pace.used(now), Some((used, 5)));
        }
        pace.command(now);
        assert_eq!(pace.used(now), Some((5, 5)), "a refused one uses nothing");
        assert_eq!(pace.used(now + Duration::from_millis(250)), Some((3, 5)));
        assert_eq!(pace.used(now + Duration::from_secs(9)), Some((0, 5)));
    }

    #[test]
    fn without_a_rate_everything_is_carried_out() {
        let now = Instant::now();
        let mut pace = pace(None, 1, now);
        assert!((0..1000).all(|_| pace.command(now) == Verdict::CarryOut));
    }
}
