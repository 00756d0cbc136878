//! Two gateways that know of each other's sessions through Redis, with Redis and without it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use switchboard_testkit::{NatsServer, RedisServer, wait_until};

use crate::client::{Client, DEADLINE};
use crate::system::SECRET;
use switchboard_e2e::process::Process;

const ARGUMENTS: [&str; 2] = ["--config", "switchboard.toml"];

#[tokio::test(flavor = "multi_thread")]
async fn one_limit_holds_over_all_gateways_and_without_redis_clients_connect_and_talk() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let nats = NatsServer::start().await?;
    let mut redis = RedisServer::start().await?;
    let config = format!(
        "[bus]\nbackend = \"nats\"\ncreate = true\nshards = 2\n[bus.nats]\nurls = [{:?}]\nmax_bytes = \"64MiB\"\n\
         [registry]\nbackend = \"redis\"\nlease = \"3s\"\n[registry.redis]\nurls = [{:?}]\n\
         [gateway.limits]\nconnections_per_user = 2\n[gateway.tokens]\nhmac_secret = {SECRET:?}\n\
         [channels]\nallow_subscribe_for_client = true\nallow_publish_for_client = true\n",
        nats.url(),
        redis.url(),
    );
    std::fs::write(folder.path().join("switchboard.toml"), config)?;
    let mut router = Process::spawn("switchboard-router-svc", folder.path(), &ARGUMENTS)?;
    let mut gateways = Vec::new();
    for _ in 0..2 {
        gateways.push(Process::spawn("switchboard-gateway", folder.path(), &ARGUMENTS)?);
    }
    router.ready().await?;
    for gateway in &mut gateways {
        gateway.ready().await?;
    }

    let first = Client::of_user(&gateways[0], "alice")
        .await?
        .context("the first")?;
    let _second = Client::of_user(&gateways[1], "alice")
        .await?
        .context("the second")?;
    for gateway in &gateways {
        ensure!(
            Client::of_user(gateway, "alice").await?.is_none(),
            "a third, over all gateways"
        );
    }
    // A gateway that is killed holds nobody's place for longer than its lease.
    drop(first);
    gateways.remove(0).kill()?;
    let mut again = None;
    wait_until(DEADLINE, async || {
        again = Client::of_user(&gateways[0], "alice").await.ok().flatten();
        again.is_some()
    })
    .await
    .context("the place of a gateway that is gone")?;

    redis.kill()?;
    let mut bob = Client::of_user(&gateways[0], "bob")
        .await?
        .context("without Redis")?;
    bob.subscribe("lobby").await?;
    bob.publish("lobby", json!("hello")).await?;
    ensure!(bob.publication().await?.data == json!("hello"));
    ensure!(gateways[0].metric("switchboard_registry_failures_total").await? > 0);

    redis.restart().await?;
    wait_until(3 * Duration::from_secs(4), async || {
        let sessions = gateways[0].metric("switchboard_registry_sessions").await;
        sessions.is_ok_and(|sessions| sessions == 3)
    })
    .await
    .context("all are registered again")?;
    for process in gateways.into_iter().chain([router]) {
        let status = process.terminate().await?;
        ensure!(status.success(), "{status}");
    }
    Ok(())
}
