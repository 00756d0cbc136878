//! What is done when: everything from one seed, so that a failing run can be run again.

use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

/// Whom faults are done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Victims {
    /// Routers.
    Routers,
    /// Gateways.
    Gateways,
    /// nats-servers.
    Nats,
    /// Whoever, also two of different kinds at a time.
    Mixed,
}

/// A process, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// A router.
    Router(usize),
    /// A gateway.
    Gateway(usize),
    /// A nats-server.
    Nats(usize),
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// `kill -9`, and started again.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Pause,
    /// SIGTERM, and started again.
    Restart,
    /// Its connections to NATS are closed, and new ones refused.
    Cut,
    /// Its connections to NATS stay, and nothing comes through.
    Silence,
    /// Whatever goes to NATS and back takes longer.
    Delay(Duration),
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// From the beginning of the load.
    pub at: Duration,
    /// Until it is over.
    pub lasts: Duration,
    /// To whom.
    pub victim: Victim,
    /// What.
    pub act: Act,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at,
            lasts,
            victim,
            act,
        } = self;
        write!(
            f,
            "{:>5.1} s {act:?} {victim:?} for {:.1} s",
            at.as_secs_f64(),
            lasts.as_secs_f64()
        )
    }
}

/// Before the first fault.
const CALM: f64 = 1.5;

/// Routers, gateways, and nats-servers there are.
pub(super) const ROUTERS: usize = 2;
pub(super) const GATEWAYS: usize = 2;
pub(super) const SERVERS: usize = 3;

/// What is done within `length`, in the order of time. All of it is over before `length` is, and no process is a
/// victim twice at a time.
pub fn schedule(victims: Victims, seed: u64, length: Duration) -> Vec<Fault> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut faults = Vec::new();
    let mut at = CALM;
    loop {
        let first = fault(victims, at, &mut rng);
        let end = (first.at + first.lasts).as_secs_f64();
        if end + 1.0 > length.as_secs_f64() {
            return faults;
        }
        faults.push(first);
        if rng.random_bool(0.25) {
            let second = fault(
                victims,
                at + rng.random_range(0.0..first.lasts.as_secs_f64()),
                &mut rng,
            );
            let is_over = (second.at + second.lasts).as_secs_f64() + 1.0 <= length.as_secs_f64();
            // Of three servers one may be missing: without a majority nothing can be promised but that it goes on.
            let both_servers = matches!((first.victim, second.victim), (Victim::Nats(_), Victim::Nats(_)));
            if is_over && second.victim != first.victim && !both_servers {
                at = at.max((second.at + second.lasts).as_secs_f64());
                faults.push(second);
            }
        }
        at = at.max(end) + rng.random_range(0.5..3.0);
    }
}

fn fault(victims: Victims, at: f64, rng: &mut SmallRng) -> Fault {
    let kind = match victims {
        Victims::Routers => 0,
        Victims::Gateways => 1,
        Victims::Nats => 2,
        Victims::Mixed => rng.random_range(0..3),
    };
    let victim = match kind {
        0 => Victim::Router(rng.random_range(0..ROUTERS)),
        1 => Victim::Gateway(rng.random_range(0..GATEWAYS)),
        _ => Victim::Nats(rng.random_range(0..SERVERS)),
    };
    let delay = Duration::from_millis(rng.random_range(10..150));
    let act = match (rng.random_range(0..6), victim) {
        (0, _) => Act::Kill,
        (1, _) => Act::Pause,
        (2, _) => Act::Restart,
        // Between the servers themselves there is no proxy.
        (_, Victim::Nats(_)) => Act::Kill,
        (3, _) => Act::Cut,
        (4, _) => Act::Silence,
        _ => Act::Delay(delay),
    };
    Fault {
        at: Duration::from_secs_f64(at),
        lasts: Duration::from_secs_f64(rng.random_range(0.3..4.0)),
        victim,
        act,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_says_it_all_and_everything_is_over_in_time() {
        let length = Duration::from_secs(20);
        let mut kinds = std::collections::BTreeSet::new();
        for victims in [Victims::Routers, Victims::Gateways, Victims::Nats, Victims::Mixed] {
            for seed in 0..50 {
                let faults = schedule(victims, seed, length);
                assert_eq!(faults, schedule(victims, seed, length));
                assert!(!faults.is_empty(), "{victims:?} {seed}");
                for fault in &faults {
                    assert!(
                        fault.at + fault.lasts + Duration::from_secs(1) <= length,
                        "{fault}"
                    );
                    kinds.insert(
                        format!("{:?} {:?}", fault.act, fault.victim)
                            .replace(|c: char| c.is_ascii_digit(), ""),
                    );
                }
                for (number, one) in faults.iter().enumerate() {
                    for other in &faults[number + 1..] {
                        let apart = one.at + one.lasts <= other.at || other.at + other.lasts <= one.at;
                        assert!(apart || one.victim != other.victim, "{one}, {other}");
                    }
                }
            }
        }
        assert!(kinds.len() >= 15, "{kinds:?}");
    }
}
