//! Who is here: with the unchanged SDK over both stores; and what becomes of users and members when a gateway, the presence service or
//! Redis dies without a word.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use switchboard_e2e::cluster::Cluster;
use switchboard_e2e::process::Process;
use switchboard_testkit::{RedisServer, wait_until};
use tokio::time::Instant;

use crate::backend;
use crate::client::{Client, DEADLINE};
use crate::system::{API_KEY, SECRET, stored_in};
use crate::tools;

/// Ghosts are gone within 5 s; what a busy machine takes besides is not what is tested.
const GHOSTS: Duration = Duration::from_secs(15);

/// What was lost is there again within 10 s.
const RESTORED: Duration = Duration::from_secs(30);

/// Keys of `[gateway]` and sections below it.
fn gateway() -> String {
    format!(
        "limits.connections_per_address = 0\nlimits.connect_rate = 0\napi.key = {API_KEY:?}\n\
         [gateway.presence]\nactivity_interval = \"200ms\"\n[gateway.tokens]\nhmac_secret = {SECRET:?}\n"
    )
}

const NAMESPACES: &str = r#"
[presence]
grace = "1s"
away_after = "2s"
channel_members = 5

[namespaces.room]
presence = true
join_leave = true
allow_subscribe_for_client = true
allow_presence_for_subscriber = true

[namespaces.quiet]
presence = true
allow_subscribe_for_client = true
allow_presence_for_subscriber = true

[namespaces.none]
allow_subscribe_for_client = true
allow_presence_for_subscriber = true

[namespaces.dm]
allow_user_limited_channels = true
allow_publish_for_subscriber = true
"#;

#[tokio::test(flavor = "multi_thread")]
async fn presence_on_embedded() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = format!(
        "[persistence]\nstore = \"sqlite\"\n[gateway]\n{}{NAMESPACES}",
        gateway()
    );
    std::fs::write(folder.path().join("switchboard.toml"), config)?;
    let process = Process::start("switchboard", folder.path(), &["--config", "switchboard.toml"]).await?;
    backend::node("presence.test.js", &[&process]).await?;
    let status = process.terminate().await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn in_redis(redis: &RedisServer) -> String {
    format!(
        "[registry]\nbackend = \"redis\"\n[registry.redis]\nurls = [{:?}]\n",
        redis.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_on_a_cluster() -> Result<()> {
    let redis = RedisServer::start().await?;
    let database = switchboard_testkit::PostgresServer::start().await?;
    let more = format!("{NAMESPACES}{}{}", in_redis(&redis), stored_in(&database));
    let cluster = Cluster::start_as(&gateway(), &more).await?;
    let presence = "switchboard-presence-svc";
    let others = cluster
        .join_all(&["switchboard-persistence-svc", presence, presence])
        .await?;
    backend::node("presence.test.js", &cluster.gateways.iter().collect::<Vec<_>>()).await?;
    cluster.stop_with(others).await
}

async fn connection(gateway: &Process, user: &str) -> Result<Client> {
    Client::of_user(gateway, user).await?.context("not let in")
}

async fn rpc(client: &mut Client, method: &str, data: Value) -> Result<Value> {
    let request = json!({ "method": method, "data": data });
    Ok(client.must("rpc", request).await?["data"].clone())
}

async fn statuses(client: &mut Client, users: &[&str]) -> Result<Vec<String>> {
    let answer = rpc(client, "presence.get", json!({ "users": users })).await?;
    let users = answer["users"].as_array().with_context(|| answer.to_string())?;
    Ok(users
        .iter()
        .map(|user| user["status"].as_str().unwrap_or_default().to_owned())
        .collect())
}

async fn count(gateway: &Process, channel: &str) -> Result<Value> {
    let answer = backend::call(gateway, "presence_stats", &json!({ "channel": channel })).await?;
    Ok(answer["result"]["num_clients"].clone())
}

/// Waits until users are seen so. How long that took.
async fn seen(client: &mut Client, users: &[&str], wanted: &[&str], within: Duration) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        // Without the service the question is refused for the time being.
        let found = statuses(client, users).await.unwrap_or_default();
        if found == wanted {
            return Ok(begun.elapsed());
        }
        ensure!(
            begun.elapsed() < within,
            "{users:?} are still {found:?}, not {wanted:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_at_a_dead_gateway_is_gone_and_what_a_dead_service_or_redis_knew_is_there_again() -> Result<()>
{
    let mut redis = RedisServer::start().await?;
    let more = format!("{NAMESPACES}{}", in_redis(&redis));
    let mut cluster = Cluster::start_as(&gateway(), &more).await?;
    let mut presence = cluster.join("switchboard-presence-svc").await?;
    let mut watcher = connection(&cluster.gateways[0], "watcher").await?;
    let mut alice = connection(&cluster.gateways[1], "alice").await?;
    let mut bob = connection(&cluster.gateways[0], "bob").await?;
    let _bob_too = connection(&cluster.gateways[1], "bob").await?;
    for client in [&mut alice, &mut bob, &mut watcher] {
        client.subscribe("room:1").await?;
    }
    let both = ["alice", "bob"];
    // Quiet users are away, which is here as well.
    let is_here = |found: &[String]| found.len() == 2 && !found.iter().any(|status| status == "offline");
    wait_until(DEADLINE, async || {
        is_here(&statuses(&mut watcher, &both).await.unwrap_or_default())
    })
    .await
    .context("both are here")?;
    wait_until(DEADLINE, async || {
        count(&cluster.gateways[0], "room:1").await.ok() == Some(json!(3))
    })
    .await
    .context("three are in the room")?;

    // The service dies: the gateways tell the next one.
    presence.kill_in_place()?;
    presence.respawn()?;
    presence.ready().await?;
    wait_until(RESTORED, async || {
        is_here(&statuses(&mut watcher, &both).await.unwrap_or_default())
    })
    .await
    .context("after the death of the service")?;

    // Redis dies, with all that it held.
    redis.kill()?;
    redis.restart().await?;
    let begun = Instant::now();
    wait_until(RESTORED, async || {
        is_here(&statuses(&mut watcher, &both).await.unwrap_or_default())
            && count(&cluster.gateways[0], "room:1").await.ok() == Some(json!(3))
    })
    .await
    .context("after the death of Redis")?;
    println!("everything was there again {:?} after Redis", begun.elapsed());

    // A gateway dies, and nobody says so.
    cluster.gateways.remove(1).kill()?;
    let begun = Instant::now();
    wait_until(GHOSTS, async || {
        count(&cluster.gateways[0], "room:1").await.ok() == Some(json!(2))
    })
    .await
    .context("she is not in the room any more")?;
    println!("a dead gateway's members were gone after {:?}", begun.elapsed());
    rpc(&mut bob, "presence.me", json!({})).await?;
    seen(&mut watcher, &["alice"], &["offline"], GHOSTS).await?;
    println!(
        "its users were offline after {:?}, with a grace of 1 s",
        begun.elapsed()
    );
    ensure!(
        statuses(&mut watcher, &["bob"]).await? != ["offline"],
        "he is at the other gateway as well"
    );

    ensure!(
        presence.terminate().await?.success(),
        "the service does not end well"
    );
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_only_slow_repairs_what_was_forgotten() -> Result<()> {
    let redis = RedisServer::start().await?;
    let more = format!("{NAMESPACES}{}", in_redis(&redis));
    let cluster = Cluster::start_as(&gateway(), &more).await?;
    let presence = cluster.join("switchboard-presence-svc").await?;
    let mut watcher = connection(&cluster.gateways[0], "watcher").await?;
    let _alice = connection(&cluster.gateways[1], "alice").await?;
    let is_here = async |watcher: &mut Client| {
        statuses(watcher, &["alice"])
            .await
            .is_ok_and(|found| found != ["offline"])
    };
    wait_until(DEADLINE, async || is_here(&mut watcher).await).await?;
    cluster.gateways[1].pause()?;
    let gone = seen(&mut watcher, &["alice"], &["offline"], GHOSTS).await;
    cluster.gateways[1].resume()?;
    gone.context("it stood still for longer than its lease")?;
    wait_until(RESTORED, async || is_here(&mut watcher).await)
        .await
        .context("it goes on, and she never left")?;
    ensure!(
        presence.terminate().await?.success(),
        "the service does not end well"
    );
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_is_told_to_backends_that_have_the_key() -> Result<()> {
    const CHANNEL: &str = "room:of-a-backend";
    let folder = tempfile::tempdir()?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let config = format!(
        "[gateway]\n{}{NAMESPACES}[presence.grpc]\nenabled = true\nlisten = {address:?}\nkey = {API_KEY:?}\n",
        gateway()
    );
    std::fs::write(folder.path().join("switchboard.toml"), config)?;
    let process = Process::start("switchboard", folder.path(), &["--config", "switchboard.toml"]).await?;
    let mut alice = connection(&process, "alice").await?;
    alice.subscribe(CHANNEL).await?;
    wait_until(DEADLINE, async || {
        count(&process, CHANNEL).await.ok() == Some(json!(1))
    })
    .await?;
    let environment = [
        ("SWITCHBOARD_PRESENCE", address.as_str()),
        ("SWITCHBOARD_API_KEY", API_KEY),
        ("SWITCHBOARD_CHANNEL", CHANNEL),
        ("SWITCHBOARD_USER", "alice"),
    ];
    tools::python("presence_test", &environment).await?;
    ensure!(process.terminate().await?.success(), "it does not end well");
    Ok(())
}
