//! Blocked and muted users and revoked tokens: with the unchanged SDK over both stores, over gRPC, and what becomes of an act where a
//! gateway stands still or starts anew.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use switchboard_e2e::cluster::Cluster;
use switchboard_e2e::process::Process;
use switchboard_testkit::{PostgresServer, wait_until};
use tokio::time::Instant;

use crate::backend;
use crate::client::{Client, DEADLINE, Event};
use crate::system::{API_KEY, SECRET, stored_in};
use crate::tools;

/// With which code a blocked user's connections end.
const BLOCKED: u16 = 4510;

/// What is promised is a second, and a busy machine takes more besides.
const PROMPT: Duration = Duration::from_secs(3);

/// Keys of `[gateway]` and sections below it.
fn gateway() -> String {
    format!(
        "limits.connections_per_address = 0\nlimits.connect_rate = 0\napi.key = {API_KEY:?}\n\
         [gateway.tokens]\nhmac_secret = {SECRET:?}\n"
    )
}

const NAMESPACES: &str = r#"
[namespaces.room]
allow_subscribe_for_client = true
allow_publish_for_client = true
allow_history_for_client = true
allow_message_changes = true
"#;

async fn embedded(folder: &std::path::Path, store: &str) -> Result<Process> {
    let config = format!(
        "[persistence]\nstore = {store:?}\n[gateway]\n{}{NAMESPACES}",
        gateway()
    );
    std::fs::write(folder.join("switchboard.toml"), config)?;
    Process::start("switchboard", folder, &["--config", "switchboard.toml"]).await
}

async fn over_grpc(gateways: &[&Process]) -> Result<()> {
    let apis: Vec<String> = gateways.iter().map(|gateway| gateway.api_url()).collect();
    let environment = [
        ("SWITCHBOARD_API_ENDPOINTS", apis.join(",")),
        ("SWITCHBOARD_API_KEY", API_KEY.to_owned()),
    ];
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    tools::python("moderation_test", &environment).await
}

#[tokio::test(flavor = "multi_thread")]
async fn moderation_on_embedded() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let process = embedded(folder.path(), "sqlite").await?;
    backend::node("moderation.test.js", &[&process]).await?;
    over_grpc(&[&process]).await?;
    let status = process.terminate().await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn moderation_on_a_cluster() -> Result<()> {
    let database = PostgresServer::start().await?;
    let more = format!("{NAMESPACES}{}", stored_in(&database));
    let cluster = Cluster::start_as(&gateway(), &more).await?;
    let replicas = cluster.join_all(&["switchboard-persistence-svc"; 2]).await?;
    let gateways: Vec<&Process> = cluster.gateways.iter().collect();
    // Until both have heard of each other, and the store answers.
    wait_until(DEADLINE, async || {
        let answer = backend::call(gateways[0], "moderation_log", &json!({})).await;
        answer.is_ok_and(|answer| answer.get("result").is_some())
    })
    .await?;
    backend::node("moderation.test.js", &gateways).await?;
    over_grpc(&gateways).await?;
    cluster.stop_with(replicas).await
}

/// Does it, and it has to be done.
async fn act(gateway: &Process, method: &str, params: Value) -> Result<Value> {
    let answer = backend::call(gateway, method, &params).await?;
    let result = answer.get("result").cloned();
    result.with_context(|| format!("{method} {params}: {answer}"))
}

async fn connection(gateway: &Process, user: &str) -> Result<Client> {
    Client::of_user(gateway, user).await?.context("not let in")
}

/// With which code a gateway refuses the user; `None`: it does not.
async fn refusal(gateway: &Process, user: &str) -> Result<Option<u16>> {
    let mut client = Client::open(&gateway.websocket_url()).await?;
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &json!({ "sub": user }), &key)?;
    client.send("connect", json!({ "token": token })).await?;
    loop {
        match client.event().await? {
            Event::Closed(code) => return Ok(code),
            Event::Reply(reply) if reply.get("connect").is_some() => return Ok(None),
            Event::Reply(reply) => anyhow::bail!("{reply}"),
            Event::Ping | Event::Push(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_there_is_no_moderation_and_everybody_comes_in() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let process = embedded(folder.path(), "none").await?;
    let _alice = connection(&process, "alice").await?;
    for method in ["block_user", "moderation_log", "moderation_state"] {
        let answer = backend::call(&process, method, &json!({ "user": "alice" })).await?;
        ensure!(answer["error"]["code"] == 108, "{answer}");
    }
    ensure!(process.terminate().await?.success(), "it does not end well");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_outlasts_a_restart() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let process = embedded(folder.path(), "sqlite").await?;
    act(&process, "block_user", json!({ "user": "eve" })).await?;
    act(
        &process,
        "mute_user",
        json!({ "user": "bob", "channel": "room:1" }),
    )
    .await?;
    ensure!(process.terminate().await?.success(), "it does not end well");
    let process = embedded(folder.path(), "sqlite").await?;
    ensure!(
        refusal(&process, "eve").await? == Some(BLOCKED),
        "she is let in after the restart"
    );
    let mut bob = connection(&process, "bob").await?;
    let refused = bob
        .command("publish", json!({ "channel": "room:1", "data": 1 }))
        .await?;
    ensure!(refused["error"]["code"] == 103, "{refused}");
    bob.publish("room:2", json!(1)).await?;
    let log = act(&process, "moderation_log", json!({})).await?;
    ensure!(log["last"] == 2, "{log}");
    ensure!(process.terminate().await?.success(), "it does not end well");
    Ok(())
}

/// A gateway that stands still is not told; when it goes on it carries out what it missed, and one that starts knows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stood_still_or_starts_carries_out_what_it_missed() -> Result<()> {
    let database = PostgresServer::start().await?;
    let more = format!("{NAMESPACES}{}", stored_in(&database));
    let mut cluster = Cluster::start_as(&gateway(), &more).await?;
    let replica = cluster.join("switchboard-persistence-svc").await?;
    let mut eve = connection(&cluster.gateways[1], "eve").await?;
    let mut bob = connection(&cluster.gateways[1], "bob").await?;
    let mut alice = connection(&cluster.gateways[1], "alice").await?;
    alice.subscribe("room:1").await?;

    // As long as both gateways run it is done at once.
    let begun = Instant::now();
    let done = act(&cluster.gateways[0], "block_user", json!({ "user": "bob" })).await?;
    ensure!(done["everywhere"] == true, "{done}");
    let answered = begun.elapsed();
    ensure!(bob.closed().await? == Some(BLOCKED), "closed with another code");
    println!(
        "a block was answered after {answered:?}, and the client at the other gateway closed after {:?}",
        begun.elapsed()
    );
    ensure!(begun.elapsed() < PROMPT, "a block took {:?}", begun.elapsed());

    cluster.gateways[1].pause()?;
    let done = act(&cluster.gateways[0], "block_user", json!({ "user": "eve" })).await;
    let muted = act(
        &cluster.gateways[0],
        "mute_user",
        json!({ "user": "alice", "channel": "room:1" }),
    )
    .await;
    cluster.gateways[1].resume()?;
    let begun = Instant::now();
    ensure!(
        done?["everywhere"] == false,
        "a gateway that stands still has carried out nothing"
    );
    muted?;
    ensure!(eve.closed().await? == Some(BLOCKED), "closed with another code");
    println!("a gateway that stood still caught up after {:?}", begun.elapsed());
    ensure!(begun.elapsed() < PROMPT, "it took {:?}", begun.elapsed());
    let is_muted = async || {
        let publish = json!({ "channel": "room:1", "data": 1 });
        let answer = alice.command("publish", publish).await;
        answer.is_ok_and(|answer| answer["error"]["code"] == 103)
    };
    wait_until(PROMPT, is_muted).await.context("she is muted")?;

    // One that starts knows all of it before it lets anybody in.
    cluster.gateways[1].kill_in_place()?;
    cluster.gateways[1].respawn()?;
    cluster.gateways[1].ready().await?;
    for user in ["eve", "bob"] {
        let code = refusal(&cluster.gateways[1], user).await?;
        ensure!(
            code == Some(BLOCKED),
            "{user} is let in after the restart: {code:?}"
        );
    }

    // Without the store nothing can be done, and what is known holds.
    ensure!(
        replica.terminate().await?.success(),
        "the replica does not end well"
    );
    let answer = backend::call(&cluster.gateways[0], "block_user", &json!({ "user": "x" })).await?;
    ensure!(answer["error"]["code"] == 100, "{answer}");
    ensure!(refusal(&cluster.gateways[0], "eve").await? == Some(BLOCKED));
    let _carol = connection(&cluster.gateways[0], "carol").await?;

    // A gateway that starts without it lets people in after a moment, and sends them away once it knows.
    cluster.gateways[1].kill_in_place()?;
    cluster.gateways[1].respawn()?;
    cluster.gateways[1].ready().await?;
    let mut eve = connection(&cluster.gateways[1], "eve").await?;
    let replica = cluster.join("switchboard-persistence-svc").await?;
    let begun = Instant::now();
    ensure!(eve.closed().await? == Some(BLOCKED), "closed with another code");
    println!(
        "a gateway that started without the store knew after {:?}",
        begun.elapsed()
    );
    ensure!(
        replica.terminate().await?.success(),
        "the replica does not end well"
    );
    cluster.stop().await
}
