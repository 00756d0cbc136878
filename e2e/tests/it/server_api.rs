//! The server API with other people's libraries, on both backends, and the key that is made where none is configured.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use switchboard_testkit::{NatsServer, wait_until};

use crate::client::{Client, Event};
use crate::system::{API_KEY, Access, Pings, SECRET, System};
use crate::tools;
use switchboard_e2e::process::Process;

async fn libraries(system: &System) -> Result<()> {
    let gateways = system.websocket_urls().join(",");
    let apis = system.api_urls().join(",");
    let environment = [
        ("SWITCHBOARD_ENDPOINTS", gateways.as_str()),
        ("SWITCHBOARD_API_ENDPOINTS", apis.as_str()),
        ("SWITCHBOARD_API_KEY", API_KEY),
        ("SWITCHBOARD_SECRET", SECRET),
    ];
    tools::node("server_api.test.js", &environment).await?;
    tools::python("server_api_test", &environment).await
}

#[tokio::test(flavor = "multi_thread")]
async fn server_api_on_embedded() -> Result<()> {
    let system = System::embedded_for(Access::Tokens, Pings::Seldom).await?;
    libraries(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn server_api_on_a_cluster() -> Result<()> {
    let system = System::cluster_for(Access::Tokens, 2, 2, Pings::Seldom).await?;
    libraries(&system).await?;
    system.stop().await
}

/// A newcomer finds it in the greeting, and it is the same after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_at_the_first_start_and_said_where() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let process = Process::start("switchboard", folder.path(), &[]).await?;
        let printed = process.printed()?;
        let line = printed
            .lines()
            .find(|line| line.starts_with("  server API"))
            .context("no line about the server API")?;
        let (_, file) = line.rsplit_once(' ').context("no file in that line")?;
        let file = folder.path().join(file);
        let mode = std::fs::metadata(&file)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the key's file has mode {mode:o}");
        let key = std::fs::read_to_string(&file)?.trim_end().to_owned();
        ensure!(!printed.contains(&key), "the key itself is said");
        let response = reqwest::Client::new()
            .post(format!("{}/publish", process.api_url()))
            .header("X-API-Key", &key)
            .body(r#"{"channel":"room:1","data":{"text":"hello"}}"#)
            .send()
            .await?;
        let body = response.text().await?;
        ensure!(body.contains("\"offset\":"), "{body}");
        keys.push(key);
        let status = process.terminate().await?;
        ensure!(status.success(), "{status}");
    }
    ensure!(keys.first() == keys.last(), "another key after the restart");
    Ok(())
}

/// The call failed for who made it, so it must not be carried out when the gateway wakes.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stood_still_carries_out_no_old_call() -> Result<()> {
    const KEY: &str = "a-key-of-this-test-that-is-long-enough";
    let folder = tempfile::tempdir()?;
    let nats = NatsServer::start().await?;
    let config = format!(
        "[bus]\nbackend = \"nats\"\ncreate = true\nshards = 1\n[bus.nats]\nurls = [{:?}]\nmax_bytes = \"64MiB\"\n\
         [gateway]\ninsecure = true\n[gateway.api]\nkey = {KEY:?}\n",
        nats.url(),
    );
    std::fs::write(folder.path().join("switchboard.toml"), config)?;
    let arguments = ["--config", "switchboard.toml"];
    let mut router = Process::spawn("switchboard-router-svc", folder.path(), &arguments)?;
    let mut asked = Process::spawn("switchboard-gateway", folder.path(), &arguments)?;
    let mut stopped = Process::spawn("switchboard-gateway", folder.path(), &arguments)?;
    router.ready().await?;
    asked.ready().await?;
    stopped.ready().await?;
    // Until both have heard of each other: one that stands still before it was heard of is not waited for.
    let asked_api = reqwest::Client::new();
    wait_until(Duration::from_secs(20), async || {
        let info = asked_api
            .post(format!("{}/info", asked.api_url()))
            .header("X-API-Key", KEY)
            .json(&json!({}))
            .send();
        let Ok(info) = info.await else { return false };
        let Ok(info) = info.json::<Value>().await else {
            return false;
        };
        info["result"]["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.len() == 2)
    })
    .await?;
    let mut client = Client::open(&stopped.websocket_url()).await?;
    let connected = client.command("connect", json!({})).await?;
    let client_id = connected["connect"]["client"].as_str().context("no client")?;
    let disconnect = async || -> Result<String> {
        let response = asked_api
            .post(format!("{}/disconnect", asked.api_url()))
            .header("X-API-Key", KEY)
            .json(&json!({ "user": "", "client": client_id }))
            .send()
            .await?;
        Ok(response.text().await?)
    };

    stopped.pause()?;
    let answer = disconnect().await?;
    ensure!(answer.contains("\"code\":100"), "{answer}");
    stopped.resume()?;
    // Whatever it had been sent, it has by now: it takes what is said now, and the client hears it.
    client.subscribe("lobby").await?;
    client.publish("lobby", json!("still here")).await?;
    ensure!(client.publication().await?.data == json!("still here"));

    // A call of now is carried out.
    let answer = disconnect().await?;
    ensure!(answer.contains("\"result\""), "{answer}");
    loop {
        if let Event::Closed(code) = client.event().await? {
            ensure!(code == Some(3503), "{code:?}");
            break;
        }
    }
    for process in [stopped, asked, router] {
        let status = process.terminate().await?;
        ensure!(status.success(), "{status}");
    }
    Ok(())
}
