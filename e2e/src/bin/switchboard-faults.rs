//! `switchboard-faults`: puts load on a cluster of its own and does faults to it, seed by seed.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use switchboard_e2e::child;
use switchboard_e2e::faults::{Victims, run};

/// Starts a cluster on this machine (three nats-servers, Redis, two routers, two gateways, two presence services), puts load on it, kills, stops, cuts and
/// delays its processes and fills disks as a seed says, and tells from each client's own record whether everything was as
/// promised. Disks that can be full (disk, mixed) have to be mounted: as root, or with sudo.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Whom faults are done to.
    #[arg(long, value_enum, default_value = "mixed")]
    victims: Victims,
    /// The first seed; a failing one can be run again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Seconds of load for each.
    #[arg(long, default_value_t = 25)]
    seconds: u64,
    /// What the processes logged is printed when each has ended, not only where something is not as promised.
    #[arg(long)]
    verbose: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut failed = Vec::new();
    for seed in arguments.seed..arguments.seed + arguments.seeds {
        child::show(arguments.verbose);
        let outcome = run(arguments.victims, seed, Duration::from_secs(arguments.seconds)).await;
        match outcome {
            Ok(verdict) => {
                println!("{verdict}");
                if !verdict.is_as_promised() {
                    failed.push(seed);
                }
            }
            Err(error) => {
                eprintln!("seed {seed}: {error:#}");
                failed.push(seed);
            }
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("not as promised: seeds {failed:?}");
    ExitCode::FAILURE
}
