//! Thousands of systems in trouble, and the proof that trouble would be noticed.

use switchboard_gateway::simulation as gateway;
use switchboard_router_svc::simulation as router;
use switchboard_simulation::check::Report;
use switchboard_simulation::{Faults, run, run_with};

/// Seeds of one test run. Other seeds: `cargo run -p switchboard-simulation -- FIRST COUNT`.
const SEEDS: u64 = 1600;

/// Seeds within which a broken rule has to show.
const BROKEN_SEEDS: u64 = 800;

/// Half of the seeds, so that two threads share them.
fn half(which: u64) -> Report {
    let mut sum = Report::default();
    for seed in (0..SEEDS).filter(|seed| seed % 2 == which) {
        let report = run(seed).unwrap_or_else(|found| panic!("{found}"));
        sum.published += report.published;
        sum.acknowledged += report.acknowledged;
        sum.recovered += report.recovered;
        sum.recovered_messages += report.recovered_messages;
        sum.lost += report.lost;
        sum.errors += report.errors;
        sum.takeovers += report.takeovers;
        sum.scans += report.scans;
        sum.purges += report.purges;
    }
    sum
}

/// A run that saw no trouble would prove nothing.
fn saw_trouble(sum: Report) {
    println!("{sum:?}");
    let seeds = SEEDS / 2;
    assert!(sum.acknowledged > 300 * seeds, "{sum:?}");
    assert!(sum.recovered_messages > 20 * seeds, "{sum:?}");
    assert!(sum.takeovers > 5 * seeds, "{sum:?}");
    for some in [sum.errors, sum.scans] {
        assert!(some > seeds, "{sum:?}");
    }
    assert!(sum.purges > seeds / 4, "{sum:?}");
    // Who was away for longer than a small log lasts.
    assert!(sum.lost > 2, "{sum:?}");
}

#[test]
fn everything_holds_in_even_seeds() {
    saw_trouble(half(0));
}

#[test]
fn everything_holds_in_odd_seeds() {
    saw_trouble(half(1));
}

/// Without faults nothing is lost, nothing refused, nothing taken over but at the start.
#[test]
fn without_faults_all_is_acknowledged() {
    for seed in 0..20 {
        let report = run_with(seed, Faults::NONE).unwrap();
        assert_eq!(report.acknowledged, report.published, "seed {seed}: {report:?}");
        assert_eq!((report.lost, report.errors), (0, 0), "seed {seed}: {report:?}");
    }
}

/// The first seed in which the harm shows.
fn noticed() -> Option<(u64, String)> {
    (0..BROKEN_SEEDS).find_map(|seed| Some((seed, run(seed).err()?)))
}

#[test]
fn a_broken_rule_of_the_gateway_is_noticed() {
    for rule in [gateway::Rule::K1, gateway::Rule::K4, gateway::Rule::R1] {
        gateway::break_rule(Some(rule));
        let found = noticed();
        gateway::break_rule(None);
        println!("{rule:?}: {found:?}");
        assert!(
            found.is_some(),
            "{rule:?} is broken and {BROKEN_SEEDS} seeds hold"
        );
    }
}

#[test]
fn a_broken_rule_of_the_router_is_noticed() {
    for rule in [
        router::Rule::K1,
        router::Rule::O2,
        router::Rule::P2,
        router::Rule::P5,
        router::Rule::R5,
        router::Rule::D1,
    ] {
        router::break_rule(Some(rule));
        let found = noticed();
        router::break_rule(None);
        println!("{rule:?}: {found:?}");
        assert!(
            found.is_some(),
            "{rule:?} is broken and {BROKEN_SEEDS} seeds hold"
        );
    }
}
