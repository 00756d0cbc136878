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
    /// nats-servers, and the network between them.
    Nats,
    /// Redis.
    Redis,
    /// Presence services, and Redis.
    Presence,
    /// Disks under nats-servers.
    Disk,
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
    /// A presence service.
    Presence(usize),
    /// Redis.
    Redis,
    /// The disk of a nats-server.
    Disk(usize),
}

impl Victim {
    /// The nats-server that it concerns.
    fn server(self) -> Option<usize> {
        match self {
            Self::Nats(number) | Self::Disk(number) => Some(number),
            Self::Router(_) | Self::Gateway(_) | Self::Presence(_) | Self::Redis => None,
        }
    }
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
    /// Its connections (a router's, a gateway's and a presence service's to NATS, a nats-server's to the others, Redis's to all) are
    /// closed, and new ones refused.
    Cut,
    /// They stay, and nothing comes through.
    Silence,
    /// Whatever goes there and back takes longer.
    Delay(Duration),
    /// It is full, and has room again in the end.
    Fill,
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

/// Routers, gateways, nats-servers and presence services there are.
pub(super) const ROUTERS: usize = 2;
pub(super) const GATEWAYS: usize = 2;
pub(super) const SERVERS: usize = 3;
pub(super) const PRESENCES: usize = 2;

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
            let both_servers = first.victim.server().is_some() && second.victim.server().is_some();
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
        Victims::Redis => 3,
        Victims::Disk => 4,
        Victims::Presence if rng.random_bool(0.3) => 3,
        Victims::Presence => 5,
        Victims::Mixed => rng.random_range(0..6),
    };
    let victim = match kind {
        0 => Victim::Router(rng.random_range(0..ROUTERS)),
        1 => Victim::Gateway(rng.random_range(0..GATEWAYS)),
        2 => Victim::Nats(rng.random_range(0..SERVERS)),
        3 => Victim::Redis,
        5 => Victim::Presence(rng.random_range(0..PRESENCES)),
        _ => Victim::Disk(rng.random_range(0..SERVERS)),
    };
    let delay = Duration::from_millis(rng.random_range(10..150));
    let act = match (rng.random_range(0..6), victim) {
        (_, Victim::Disk(_)) => Act::Fill,
        (0, _) => Act::Kill,
        (1, _) => Act::Pause,
        (2, _) => Act::Restart,
        (3, _) => Act::Cut,
        (4, _) => Act::Silence,
        _ => Act::Delay(delay),
    };
    let lasts = match (victim, act) {
        // Longer than an election of theirs begins to take.
        (Victim::Nats(_), Act::Cut | Act::Silence) => 2.0..8.0,
        (Victim::Disk(_), _) => 1.0..6.0,
        _ => 0.3..4.0,
    };
    Fault {
        at: Duration::from_secs_f64(at),
        lasts: Duration::from_secs_f64(rng.random_range(lasts)),
        victim,
        act,
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn a_seed_says_it_all_and_everything_is_over_in_time() {
        let length = Duration::from_secs(20);
        let mut kinds = std::collections::BTreeSet::new();
        for victims in Victims::value_variants().iter().copied() {
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
                        let servers = [one, other].map(|fault| fault.victim.server());
                        assert!(apart || servers.contains(&None), "{one}, {other}");
                    }
                }
            }
        }
        // Six acts on each of five kinds of processes, and disks.
        assert_eq!(kinds.len(), 6 * 5 + 1, "{kinds:?}");
    }
}
