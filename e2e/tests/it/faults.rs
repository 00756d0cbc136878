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
    // Three who listen all the time, and one who comes late.
    ensure!(verdict.received >= verdict.acknowledged * 4, "{verdict}");
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

#[tokio::test(flavor = "multi_thread")]
async fn redis_comes_and_goes() -> Result<()> {
    is_as_promised(Victims::Redis, 10).await
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_services_come_and_go() -> Result<()> {
    is_as_promised(Victims::Presence, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_under_nats_are_full_and_have_room_again() -> Result<()> {
    is_as_promised(Victims::Disk, 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_and_goes() -> Result<()> {
    is_as_promised(Victims::Mixed, 3).await
}

/// Whether a verdict names what this does, and that alone where nothing else follows from it.
fn is_named(spoil: Spoil, verdict: &Verdict) -> bool {
    let found = &verdict.violations;
    let alone = verdict.missing + verdict.refused_for_good == 0;
    match spoil {
        // The one who comes late loses none of what it is told in the answer.
        Spoil::Lose | Spoil::Pocket => found.lost > 0 && found.doubled + found.disordered == 0,
        Spoil::Double => found.doubled > 0 && found.lost + found.disordered == 0,
        Spoil::Swap => found.disordered > 0 && found.doubled == 0,
        Spoil::Deny => found.unrecovered > 0 && found.doubled + found.disordered == 0,
        Spoil::Pretend => found.lost > 0 && found.unrecovered + found.doubled + found.disordered == 0,
        Spoil::Forget => alone && found.is_empty() && verdict.differing > 0,
        Spoil::Refuse => {
            alone && found.is_empty() && verdict.silence.min(verdict.refusal) > verdict.allowed()
        }
        Spoil::Reject => verdict.refused_for_good > 0 && found.is_empty(),
        Spoil::Shut => alone && found.is_empty() && verdict.shut > verdict.allowed(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_a_promise_is_noticed() -> Result<()> {
    const SHORT: Duration = Duration::from_secs(3);
    let groups: [(&[Spoil], Duration); 3] = [
        (&[Spoil::Lose, Spoil::Double, Spoil::Swap], SHORT),
        (
            &[Spoil::Pocket, Spoil::Deny, Spoil::Pretend, Spoil::Forget],
            SHORT,
        ),
        (
            &[Spoil::Refuse, Spoil::Reject, Spoil::Shut],
            Duration::from_secs(6),
        ),
    ];
    for (spoil, verdict) in run_spoiled(&groups).await? {
        println!("{spoil:?}: {verdict}");
        ensure!(!verdict.is_as_promised(), "{spoil:?}: {verdict}");
        ensure!(is_named(spoil, &verdict), "{spoil:?}: {verdict}");
    }
    Ok(())
}
