//! Whoever is slow is slow alone: a gateway that sleeps, a client that reads nothing, and a router that has much to read back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use switchboard_testkit::wait_until;

use crate::client::{Client, DEADLINE};
use crate::recovery::{Place, recover_up_to};
use switchboard_e2e::cluster::Cluster;

/// Large messages of a few channels: the number of each is in front.
fn large(number: usize) -> Value {
    json!([number, "x".repeat(30_000)])
}

fn channels(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("room:slow-{number}")).collect()
}

/// Every channel's messages come once and in order, each as often as `count`.
async fn has_all(client: &mut Client, channels: &[String], count: usize) -> Result<()> {
    let mut next = vec![0; channels.len()];
    while next.iter().any(|next| *next < count) {
        let publication = client.publication().await?;
        let channel = channels.iter().position(|name| *name == publication.channel);
        let next = &mut next[channel.with_context(|| publication.channel.clone())?];
        ensure!(
            publication.data[0] == *next,
            "{}: number {} instead of {next}",
            publication.channel,
            publication.data[0]
        );
        *next += 1;
    }
    ensure!(client.ended.is_empty(), "{:?}", client.ended);
    Ok(())
}

/// K6: what a gateway does not confirm is held back for it alone; once it is awake its clients are given everything.
#[tokio::test(flavor = "multi_thread")]
async fn k6_a_gateway_that_sleeps_holds_up_nobody_and_its_clients_miss_nothing() -> Result<()> {
    const COUNT: usize = 40;
    // What is said meanwhile is many times as much as may be on the way, and fits into a client's queue: the
    // gateway is slow here, no client is.
    let limits = "link_unconfirmed_bytes = \"1MiB\"\noutgoing_queue = \"16MiB\"\n";
    let cluster = Cluster::start_with(limits).await?;
    let channels = channels(6);
    let (sleeps, stays) = (&cluster.gateways[0], &cluster.gateways[1]);
    let mut asleep = Client::connect(&sleeps.websocket_url()).await?;
    let mut awake = Client::connect(&stays.websocket_url()).await?;
    for channel in &channels {
        asleep.subscribe(channel).await?;
        awake.subscribe(channel).await?;
    }
    let mut publisher = Client::connect(&stays.websocket_url()).await?;
    sleeps.pause()?;
    for number in 0..COUNT {
        for channel in &channels {
            publisher.publish(channel, large(number)).await?;
            let publication = awake.publication().await?;
            ensure!(publication.data[0] == number, "{}", publication.data[0]);
        }
    }
    ensure!(awake.ended.is_empty(), "{:?}", awake.ended);
    sleeps.resume()?;
    has_all(&mut asleep, &channels, COUNT).await?;
    cluster.stop().await
}

/// A client that reads nothing is closed once its queue is full, disturbs nobody, and recovers everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_let_go_and_recovers() -> Result<()> {
    // More than its queue and the sockets' buffers hold together.
    const COUNT: usize = 600;
    let cluster = Cluster::start_with("outgoing_queue = \"256KiB\"\n").await?;
    let channels = channels(1);
    let gateway = &cluster.gateways[0];
    let mut idle = Client::connect(&gateway.websocket_url()).await?;
    let place = Place::of(&idle.subscribe(&channels[0]).await?)?;
    let mut reads = Client::connect(&gateway.websocket_url()).await?;
    reads.subscribe(&channels[0]).await?;
    let mut publisher = Client::connect(&cluster.gateways[1].websocket_url()).await?;
    for number in 0..COUNT {
        publisher.publish(&channels[0], large(number)).await?;
        // It reads beside: its queue is small as well.
        let publication = reads.publication().await?;
        ensure!(publication.data[0] == number, "{}", publication.data[0]);
    }
    wait_until(DEADLINE, async || {
        let sessions = gateway.metric("switchboard_gateway_connections").await;
        sessions.is_ok_and(|sessions| sessions == 1)
    })
    .await
    .context("who reads nothing is still there")?;

    let mut returns = Client::connect(&gateway.websocket_url()).await?;
    let given = recover_up_to(&mut returns, &channels[0], &place, &large(COUNT - 1)).await?;
    let numbers: Vec<&Value> = given.iter().map(|(_, data)| &data[0]).collect();
    let expected: Vec<Value> = (0..COUNT).map(Value::from).collect();
    assert_eq!(numbers, expected.iter().collect::<Vec<_>>());
    cluster.stop().await
}

/// A take-over is promised in under two seconds; asserted is three times that.
const TAKE_OVER: Duration = Duration::from_secs(6);

/// O2: half of the shards at once, each with a full window to read back.
#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_shards_are_taken_over_with_full_windows() -> Result<()> {
    const COUNT: usize = 100;
    let mut cluster = Cluster::start_with("[router]\nwindow_bytes = \"8MiB\"\n").await?;
    let channels = channels(24);
    let mut publisher = Client::connect(&cluster.gateways[0].websocket_url()).await?;
    let mut places = Vec::new();
    for channel in &channels {
        places.push(Place::of(&publisher.subscribe(channel).await?)?);
        publisher
            .must("unsubscribe", json!({ "channel": channel }))
            .await?;
    }
    // 72 MB over six shards: twice and more what some window holds.
    for number in 0..COUNT {
        let mut sent = Vec::new();
        for channel in &channels {
            let request = json!({ "channel": channel, "data": large(number) });
            sent.push(publisher.send("publish", request).await?);
        }
        for id in sent {
            let reply = publisher.reply(id).await?;
            ensure!(reply.get("error").is_none(), "{reply}");
        }
    }
    let mut full = 0;
    for router in &cluster.routers {
        for shard in 0..6 {
            let line = format!("switchboard_router_shard_window_bytes{{shard=\"{shard}\"}}");
            full = full.max(router.metric(&line).await?);
        }
    }
    ensure!(full > 6 << 20, "the fullest window has {full} bytes");

    cluster.routers.remove(0).kill()?;
    let begun = Instant::now();
    for channel in &channels {
        let request = json!({ "channel": channel, "data": large(COUNT) });
        publisher.until_accepted("publish", &request).await?;
    }
    let took = begun.elapsed();
    println!("half of the shards live again, with full windows, after {took:?}");
    ensure!(took < TAKE_OVER, "{took:?}");
    // Windows and, before them, the log: nothing that was acknowledged is missing.
    for (channel, place) in channels.iter().zip(&places).take(6) {
        let given = recover_up_to(&mut publisher, channel, place, &large(COUNT)).await?;
        ensure!(given.len() == COUNT + 1, "{channel}: {} messages", given.len());
    }
    cluster.stop().await
}
