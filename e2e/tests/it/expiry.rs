//! Who comes back from before or behind the edge of what expired, with the unchanged SDK: never a silent hole, and never told of a loss where
//! there is none.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use switchboard_testkit::wait_until;

use crate::client::DEADLINE;
use crate::stored_history::{CHANNEL, Forgetful, begin, by_rpc, by_sdk, offset_of};

/// Of 150 messages a hundred are kept.
const KEPT: u64 = 100;
const SAID: u64 = 150;
const EDGE: u64 = SAID - KEPT;

fn retention() -> String {
    format!("[persistence.retention]\ninterval = \"1s\"\n[persistence.retention.room]\ncount = {KEPT}\n")
}

async fn what_expired_is_told_to_be_gone(mut system: Forgetful) -> Result<()> {
    let mut client = system.client().await?;
    let first = begin(&system, &mut client).await?;
    let all = json!({ "channel": CHANNEL, "limit": 1000 });
    // Where somebody left off, by the last message that was had.
    let mut places = Vec::new();
    let said = by_rpc(&mut client, all.clone()).await?;
    ensure!(said == (0..SAID).collect::<Vec<_>>(), "{said:?}");
    for had in [EDGE / 2, EDGE - 2, EDGE - 1, EDGE, SAID - KEPT / 2, SAID - 1] {
        places.push((had, first.at(offset_of(&mut client, had).await?)));
    }
    // The log has to have forgotten what expires: from there it would be told still.
    let edge = first.at(offset_of(&mut client, EDGE).await?);
    system.forgotten(&mut client, edge.offset).await?;
    system.write(&retention())?;
    system.restart().await?;
    let expired = async || {
        let Ok(mut client) = system.client().await else {
            return false;
        };
        let left = by_rpc(&mut client, all.clone()).await.unwrap_or_default();
        left.first() == Some(&EDGE)
    };
    wait_until(DEADLINE, expired)
        .await
        .context("it does not expire")?;

    // With what the owner has in memory, and without.
    for _ in 0..2 {
        by_sdk(&system, &first, &[], false).await?;
        for (had, place) in &places {
            // The next message is the first that is missed.
            let is_recovered = had + 1 >= EDGE;
            let missed: Vec<u64> = (had + 1..SAID).collect();
            by_sdk(&system, place, &missed, is_recovered).await?;
        }
        system.restart().await?;
    }
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_what_expired_is_told_to_be_gone() -> Result<()> {
    what_expired_is_told_to_be_gone(Forgetful::embedded("").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_what_expired_is_told_to_be_gone() -> Result<()> {
    what_expired_is_told_to_be_gone(Forgetful::cluster().await?).await
}
