//! A whole system in one thread and in virtual time: the real state machines of gateways, owners and
//! their ownership, on a bus that loses, delays, doubles and cuts, over a log that leaves appends
//! unanswered, with processes that die, sleep and wake. Clients publish and subscribe, lose their
//! connections and come back; in the end everything is healed, and what clients were told is compared
//! with what the log holds.
//!
//! A run is decided by its seed alone, so a failure can be looked at again:
//! `cargo run -p switchboard-simulation -- SEED`.
//!
//! | module | what |
//! | --- | --- |
//! | [`world`] | time, processes, what is under way between them |
//! | [`log`] | the shards' logs |
//! | [`clients`] | what clients do and what they were told |
//! | [`check`] | what must hold in the end |
//!
//! It must never use what the state machines know to decide whether they are right: only the log's
//! records and the clients' own notes.

pub mod check;
pub mod clients;
pub mod log;
pub mod world;

use std::time::Duration;

/// Which faults a run has, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Of a thousand frames on the bus, how many are lost, doubled, or late by up to a second.
    pub lost: u32,
    pub doubled: u32,
    pub late: u32,
    /// Of a thousand appends, how many are not answered, stored or not.
    pub unanswered: u32,
    /// Processes die and sleep, the bus is cut, clients lose their connection: about so often a second
    /// each, in a thousand.
    pub deaths: u32,
    pub sleeps: u32,
    pub cuts: u32,
    pub disconnects: u32,
    /// Logs are small, so that they are purged.
    pub purges: bool,
}

impl Faults {
    /// No faults at all.
    pub const NONE: Self = Self {
        lost: 0,
        doubled: 0,
        late: 0,
        unanswered: 0,
        deaths: 0,
        sleeps: 0,
        cuts: 0,
        disconnects: 0,
        purges: false,
    };

    /// Which faults a seed has: not all have all, so that each is also seen without the others.
    pub fn of_seed(seed: u64) -> Self {
        let pick = |bit: u64, value: u32| if (seed >> bit) & 1 == 0 { value } else { 0 };
        Self {
            lost: pick(0, 10),
            doubled: pick(1, 10),
            late: pick(2, 10),
            unanswered: pick(3, 50),
            deaths: pick(4, 60),
            sleeps: pick(5, 60),
            cuts: pick(6, 60),
            disconnects: 200,
            purges: seed % 5 == 4,
        }
    }
}

/// How long faults go on, and how long it stays quiet after them.
pub const TROUBLE: Duration = Duration::from_secs(20);
pub const QUIET: Duration = Duration::from_secs(30);

/// Runs a seed; `Err` says what did not hold.
///
/// # Errors
/// In words, all that was found.
pub fn run(seed: u64) -> Result<check::Report, String> {
    run_with(seed, Faults::of_seed(seed))
}

/// Runs a seed and prints everything that happens.
///
/// # Errors
/// As [`run`].
pub fn trace(seed: u64) -> Result<check::Report, String> {
    let mut world = world::World::new(seed, Faults::of_seed(seed));
    world.is_traced = true;
    world.run();
    check::check(&world)
}

/// Runs a seed with these faults.
///
/// # Errors
/// As [`run`].
pub fn run_with(seed: u64, faults: Faults) -> Result<check::Report, String> {
    let mut world = world::World::new(seed, faults);
    world.run();
    check::check(&world).map_err(|found| format!("seed {seed}: {found}"))
}
