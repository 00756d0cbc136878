//! What was said in a channel, of which the window holds only the end: read from the log, also while owners change.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use switchboard_testkit::NatsServer;

use crate::client::Client;
use switchboard_e2e::process::Process;

const CHANNEL: &str = "room:history";
const MESSAGES: usize = 400;

/// Keys of `[router]`: a window that holds next to nothing.
const TINY_WINDOW: &str = "[router]\nwindow_bytes = \"1MiB\"\nwindow_age = \"1s\"\n";

/// Offsets and data.
fn said(result: &Value) -> Result<Vec<(u64, Value)>> {
    let publications = result["publications"].as_array().context("no publications")?;
    let one = |publication: &Value| {
        let offset = publication["offset"].as_u64().context("no offset")?;
        Ok((offset, publication["data"].clone()))
    };
    publications.iter().map(one).collect()
}

/// Asks for pages until none comes, forward or backward, and as an app does it: error 100 is temporary.
async fn read_all(client: &mut Client, reverse: bool) -> Result<Vec<(u64, Value)>> {
    let mut all: Vec<(u64, Value)> = Vec::new();
    let mut since = Value::Null;
    loop {
        let request = json!({ "channel": CHANNEL, "limit": 90, "reverse": reverse, "since": since });
        let reply = client.command("history", request).await?;
        if let Some(error) = reply.get("error") {
            ensure!(error["code"] == 100, "{error}");
            continue;
        }
        let page = said(&reply["history"])?;
        let Some((last, _)) = page.last() else {
            return Ok(all);
        };
        since = json!({ "offset": last, "epoch": reply["history"]["epoch"] });
        all.extend(page);
    }
}

async fn tell(client: &mut Client) -> Result<()> {
    for number in 0..MESSAGES {
        client.publish(CHANNEL, json!(number)).await?;
        client
            .publish(&format!("room:other-{}", number % 20), json!("x".repeat(4000)))
            .await?;
    }
    Ok(())
}

fn numbers(said: &[(u64, Value)]) -> Vec<&Value> {
    said.iter().map(|(_, data)| data).collect()
}

async fn is_all(client: &mut Client) -> Result<()> {
    let expected: Vec<Value> = (0..MESSAGES).map(|number| json!(number)).collect();
    let mut expected: Vec<&Value> = expected.iter().collect();
    assert_eq!(numbers(&read_all(client, false).await?), expected);
    expected.reverse();
    assert_eq!(numbers(&read_all(client, true).await?), expected);
    Ok(())
}

/// After a restart nothing is in a window but what the take-over read, and of that only what is young enough.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_window_does_not_hold_is_read_from_the_log() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = format!("[bus]\nbackend = \"embedded\"\n{TINY_WINDOW}[gateway]\ninsecure = true\n");
    let arguments = write(folder.path(), &config)?;
    let system = Process::start("switchboard", folder.path(), &arguments).await?;
    let mut client = Client::connect(&system.websocket_url()).await?;
    tell(&mut client).await?;
    is_all(&mut client).await?;
    for times in ["append", "delivery"] {
        let count = format!("switchboard_router_{times}_seconds_count");
        assert!(system.metric(&count).await? > 0, "{times} takes time");
    }
    system.kill()?;

    let system = Process::start("switchboard", folder.path(), &arguments).await?;
    let mut client = Client::connect(&system.websocket_url()).await?;
    is_all(&mut client).await?;
    assert!(
        system.metric("switchboard_router_history_readings_total").await? > 0,
        "the log was read"
    );
    Ok(())
}

/// A router dies while somebody reads page by page: every page is right, or error 100.
#[tokio::test(flavor = "multi_thread")]
async fn history_is_whole_while_owners_change() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let nats = NatsServer::start().await?;
    let config = format!(
        "[bus]\nbackend = \"nats\"\ncreate = true\nshards = 2\n[bus.nats]\nurls = [{:?}]\nmax_bytes = \"64MiB\"\n{TINY_WINDOW}[gateway]\ninsecure = true\n",
        nats.url()
    );
    let arguments = write(folder.path(), &config)?;
    let first = Process::start("switchboard-router-svc", folder.path(), &arguments).await?;
    let gateway = Process::start("switchboard-gateway", folder.path(), &arguments).await?;
    let mut client = Client::connect(&gateway.websocket_url()).await?;
    tell(&mut client).await?;
    is_all(&mut client).await?;

    let second = Process::spawn("switchboard-router-svc", folder.path(), &arguments)?;
    first.kill()?;
    is_all(&mut client).await?;
    for process in [gateway, second] {
        let status = process.terminate().await?;
        assert!(status.success(), "{status}");
    }
    Ok(())
}

fn write(folder: &Path, config: &str) -> Result<[&'static str; 2]> {
    std::fs::write(folder.join("switchboard.toml"), config)?;
    Ok(["--config", "switchboard.toml"])
}
