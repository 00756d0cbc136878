//! The README's two ways to start, with the shipped binaries; and what survives when they are killed.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use switchboard_testkit::{NatsServer, wait_until};

use crate::client::{Client, DEADLINE};
use switchboard_e2e::process::Process;

/// Without a file and without arguments: the page is there, two clients talk, SIGTERM ends it well.
#[tokio::test(flavor = "multi_thread")]
async fn without_arguments_it_serves_page_and_clients() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let system = Process::start("switchboard", folder.path(), &[]).await?;
    let page = reqwest::get(system.page_url()).await?;
    assert!(page.status().is_success());
    assert!(
        page.headers()["content-security-policy"]
            .to_str()?
            .starts_with("default-src 'self';")
    );
    assert!(page.text().await?.contains("<h1>Switchboard</h1>"));

    let mut listener = Client::connect(&system.websocket_url()).await?;
    listener.subscribe("room:first-try").await?;
    let mut speaker = Client::connect(&system.websocket_url()).await?;
    speaker.publish("room:first-try", json!("hello")).await?;
    assert_eq!(listener.publication().await?.data, json!("hello"));
    let status = system.terminate().await?;
    assert!(status.success(), "{status}");
    Ok(())
}

/// What was acknowledged before `kill -9` has its place in the log: offsets go on behind it, in the same epoch.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_system_goes_on_where_it_was() -> Result<()> {
    const CHANNEL: &str = "room:kept";
    let folder = tempfile::tempdir()?;
    let mut before: Option<(u64, Value)> = None;
    for _ in 0..3 {
        let system = Process::start("switchboard", folder.path(), &[]).await?;
        let mut client = Client::connect(&system.websocket_url()).await?;
        let epoch = client.subscribe(CHANNEL).await?["epoch"].clone();
        for number in 0..10 {
            client.publish(CHANNEL, json!(number)).await?;
            let offset = client.publication().await?.offset;
            if let Some((last, first_epoch)) = &before {
                assert!(offset > *last, "offset {offset} after {last}");
                assert_eq!(epoch, *first_epoch);
            }
            before = Some((offset, epoch.clone()));
        }
        system.kill()?;
    }
    Ok(())
}

/// Separate gateways and routers over NATS, as the README has it. A router is killed: its shards get another owner, and clients go on
/// without being told.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_router_is_replaced() -> Result<()> {
    const CHANNELS: usize = 24;
    let folder = tempfile::tempdir()?;
    let nats = NatsServer::start().await?;
    let config = format!(
        "[bus]\nbackend = \"nats\"\ncreate = true\n[bus.nats]\nurls = [{:?}]\nmax_bytes = \"64MiB\"\n[gateway]\ninsecure = true\n",
        nats.url()
    );
    std::fs::write(folder.path().join("switchboard.toml"), config)?;
    let config = ["--config", "switchboard.toml"];
    let mut victim = Process::spawn("switchboard-router-svc", folder.path(), &config)?;
    let mut survivor = Process::spawn("switchboard-router-svc", folder.path(), &config)?;
    let mut gateways = [
        Process::spawn("switchboard-gateway", folder.path(), &config)?,
        Process::spawn("switchboard-gateway", folder.path(), &config)?,
    ];
    for process in gateways.iter_mut().chain([&mut victim, &mut survivor]) {
        process.ready().await?;
    }

    // So many channels that both routers own some of their shards.
    let channels: Vec<String> = (0..CHANNELS)
        .map(|number| format!("room:killed-{number}"))
        .collect();
    let mut publisher = Client::connect(&gateways[0].websocket_url()).await?;
    let mut subscriber = Client::connect(&gateways[1].websocket_url()).await?;
    for channel in &channels {
        subscriber.subscribe(channel).await?;
        publisher.publish(channel, json!("before")).await?;
        assert_eq!(subscriber.publication().await?.data, json!("before"));
    }
    victim.kill()?;
    for channel in &channels {
        publish_until_acknowledged(&mut publisher, channel, &json!("after")).await?;
    }

    // The subscriber kept its place everywhere.
    for channel in &channels {
        let reply = subscriber
            .command("subscribe", json!({ "channel": channel }))
            .await?;
        assert_eq!(reply["error"]["code"], 105, "{channel}: {reply}");
    }
    assert_eq!(subscriber.ended, []);
    for channel in &channels {
        publisher.publish(channel, json!("again")).await?;
    }
    let mut missing: BTreeSet<&str> = channels.iter().map(String::as_str).collect();
    while !missing.is_empty() {
        let publication = subscriber.publication().await?;
        if publication.data == json!("again") {
            assert!(
                missing.remove(publication.channel.as_str()),
                "{} twice",
                publication.channel
            );
        }
    }
    for process in gateways.into_iter().chain([survivor]) {
        let status = process.terminate().await?;
        assert!(status.success(), "{status}");
    }
    Ok(())
}

/// As an app does it: error 100 is temporary, and sending again is right.
async fn publish_until_acknowledged(client: &mut Client, channel: &str, data: &Value) -> Result<()> {
    let request = json!({ "channel": channel, "data": data });
    client.until_accepted("publish", &request).await.map(drop)
}

/// A router that is asked to stop hands its shards over: each is claimed once by the other, which loses none of them on the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_router_hands_over() -> Result<()> {
    const SHARDS: u64 = 32;
    let folder = tempfile::tempdir()?;
    let nats = NatsServer::start().await?;
    let config = format!(
        "[bus]\nbackend = \"nats\"\ncreate = true\nshards = {SHARDS}\n[bus.nats]\nurls = [{:?}]\nmax_bytes = \"64MiB\"\n[gateway]\ninsecure = true\n",
        nats.url()
    );
    std::fs::write(folder.path().join("switchboard.toml"), config)?;
    let config = ["--config", "switchboard.toml"];
    // The first owns everything before the second is there, so that the second is given its shards one by one.
    let leaving = Process::start("switchboard-router-svc", folder.path(), &config).await?;
    let staying = Process::start("switchboard-router-svc", folder.path(), &config).await?;
    let gateway = Process::start("switchboard-gateway", folder.path(), &config).await?;
    let claims = "switchboard_router_claims_total";
    let owned = "switchboard_router_owned_shards";
    let half = async || staying.metric(owned).await.is_ok_and(|count| count == SHARDS / 2);
    wait_until(DEADLINE, half)
        .await
        .context("the second router is given half of the shards")?;

    let mut client = Client::connect(&gateway.websocket_url()).await?;
    let status = leaving.terminate().await?;
    assert!(status.success(), "{status}");
    for number in 0..SHARDS {
        let channel = format!("room:handed-over-{number}");
        publish_until_acknowledged(&mut client, &channel, &json!("after")).await?;
    }
    let all = async || staying.metric(owned).await.is_ok_and(|count| count == SHARDS);
    wait_until(DEADLINE, all)
        .await
        .context("the second router has all shards")?;
    assert_eq!(
        staying.metric(claims).await?,
        SHARDS,
        "each shard is claimed once"
    );
    assert_eq!(
        staying.metric("switchboard_router_ownerships_lost_total").await?,
        0
    );
    for process in [gateway, staying] {
        let status = process.terminate().await?;
        assert!(status.success(), "{status}");
    }
    Ok(())
}
