//! A thousand connections at once, and a checker that reads each one's record: what was acknowledged came to everybody in the room, once
//! and in order, also to those who were cut meanwhile.

use std::time::Duration;

use anyhow::Result;
use switchboard_loadgen::Plan;
use switchboard_loadgen::plan::{Cuts, Pace};

use crate::system::{Pings, System};

const CONNECTIONS: usize = 1000;
const CUTS: usize = 200;

async fn is_as_promised(system: &System, rate: f64) -> Result<()> {
    let plan = Plan {
        urls: system.websocket_urls(),
        listeners: CONNECTIONS,
        pace: Pace::Open(rate),
        warm_up: Duration::from_secs(1),
        duration: Duration::from_secs(7),
        cuts: Cuts::Scattered(CUTS),
        progress: false,
        ..Plan::default()
    };
    let report = switchboard_loadgen::run(plan, 1).await?;
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
    assert_eq!(report.returned, CUTS as u64, "nobody but those was cut");
    // What is not answered was said on a connection that was cut.
    assert!(report.unacknowledged <= CUTS as u64, "{report}");
    let expected = rate * 8.0;
    assert!(report.acknowledged as f64 > expected * 0.8, "{report}");
    // Everybody in the room hears it.
    assert!(report.deliveries >= report.acknowledged * 10, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_on_embedded() -> Result<()> {
    let system = System::embedded(Pings::Seldom).await?;
    is_as_promised(&system, 500.0).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_on_a_cluster() -> Result<()> {
    let system = System::cluster(2, 2, Pings::Seldom).await?;
    is_as_promised(&system, 200.0).await?;
    system.stop().await
}
