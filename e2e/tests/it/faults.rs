//! A few faults by a few seeds; `switchboard-faults` does as many as one likes. And a server that breaks its promises, which has to be
//! noticed.

use std::time::Duration;

use anyhow::{Result, ensure};
use switchboard_e2e::faults::{Spoil, Verdict, Victims, run, run_spoiled};

const LENGTH: Duration = Duration::from_secs(12);

async fn is_as_promised(victims: Victims, seed: u64) -> Result<()> {
    let verdict = run(victims, seed, LENGTH).await?;
    println!("{verdict}");
    ensure!(verdict.faults > 0 && verdict.acknowledged > 500, "{verdict}");
    ensure!(verdict.received >= verdict.acknowledged * 3, "{verdict}");
    ensure!(verdict.is_as_promised(), "{verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_come_and_go() -> Result<()> {
    is_as_promised(Victims::Routers, 3).await
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_come_and_go() -> Result<()> {
    is_as_promised(Victims::Gateways, 3).await
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_nats_come_and_go() -> Result<()> {
    is_as_promised(Victims::Nats, 3).await
}

async fn spoiled(spoil: Spoil) -> Result<Verdict> {
    let verdict = run_spoiled(spoil, Duration::from_secs(4)).await?;
    println!("{spoil:?}: {verdict}");
    ensure!(!verdict.is_as_promised(), "{verdict}");
    Ok(verdict)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loses_doubles_or_swaps_is_noticed() -> Result<()> {
    let verdict = spoiled(Spoil::Lose).await?;
    ensure!(verdict.violations.lost > 0, "{verdict}");
    let verdict = spoiled(Spoil::Double).await?;
    ensure!(verdict.violations.doubled > 0, "{verdict}");
    let verdict = spoiled(Spoil::Swap).await?;
    ensure!(verdict.violations.disordered > 0, "{verdict}");
    Ok(())
}
