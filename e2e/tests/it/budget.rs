//! R9: the windows of one process share its budget, and what they let go of is answered from the log all the same.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use switchboard_e2e::process::Process;
use switchboard_testkit::wait_until;

use crate::client::{Client, DEADLINE};

const SHARDS: u64 = 4;
const CHANNELS: usize = 16;
const EACH: usize = 16;

/// Of all windows together; what is said is four times as much.
const BUDGET: u64 = 1 << 20;

const CONFIG: &str = "[bus]\nshards = 4\n[router]\nwindow_total = \"1MiB\"\nwindow_bytes = \"1MiB\"\n\
                      [gateway]\ninsecure = true\nlimits.command_rate = 0\n";

async fn windows(process: &Process) -> Result<u64> {
    let mut bytes = 0;
    for shard in 0..SHARDS {
        let line = format!("switchboard_router_shard_window_bytes{{shard=\"{shard}\"}}");
        bytes += process.metric(&line).await?;
    }
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn r9_all_windows_of_a_process_keep_to_one_budget_and_recoveries_stay_complete() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("switchboard.toml"), CONFIG)?;
    let process = Process::start("switchboard", folder.path(), &["--config", "switchboard.toml"]).await?;
    let mut client = Client::connect(&process.websocket_url()).await?;
    let data = "x".repeat(16 << 10);
    let mut before = Vec::new();
    for channel in 0..CHANNELS {
        let result = client.subscribe(&format!("room:{channel}")).await?;
        before.push(result);
    }
    for _ in 0..EACH {
        for channel in 0..CHANNELS {
            client.publish(&format!("room:{channel}"), json!(data)).await?;
        }
    }
    let mut used = 0;
    wait_until(DEADLINE, async || {
        used = windows(&process).await.unwrap_or(u64::MAX);
        // They are measured now and then, and keep what they may.
        used > BUDGET / 2 && used <= BUDGET
    })
    .await
    .with_context(|| format!("windows take {used} bytes"))?;

    let mut back = Client::connect(&process.websocket_url()).await?;
    for (channel, before) in before.iter().enumerate() {
        let subscribe = json!({
            "channel": format!("room:{channel}"),
            "recover": true,
            "epoch": before["epoch"],
            "offset": before["offset"].as_u64().unwrap_or(0),
        });
        let result = back.until_accepted("subscribe", &subscribe).await?;
        ensure!(
            result["recovered"] == json!(true),
            "room:{channel} {}",
            result["recovered"]
        );
        let mut missed = result["publications"].as_array().map_or(0, Vec::len);
        // What does not fit into the answer follows it.
        while missed < EACH {
            back.publication().await?;
            missed += 1;
        }
        ensure!(missed == EACH, "room:{channel}: {missed}");
    }
    let status = process.terminate().await?;
    ensure!(status.success(), "{status}");
    Ok(())
}
