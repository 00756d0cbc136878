//! The message store as an operator runs it: two replicas of the persistence service write a cluster's logs into a real PostgreSQL,
//! and whatever dies meanwhile, each acknowledged message is a row, once.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use switchboard_testkit::{PostgresServer, wait_until};

use crate::client::{Client, DEADLINE};
use crate::system::stored_in;
use switchboard_e2e::cluster::Cluster;
use switchboard_e2e::process::Process;

const CHANNELS: usize = 12;
const ROUND: usize = 10;

/// Says one round in all channels, and adds each channel's acknowledged offsets to `stored`.
async fn say(client: &mut Client, round: usize, stored: &mut Vec<(String, u64)>) -> Result<()> {
    for number in 0..ROUND {
        for channel in 0..CHANNELS {
            let channel = format!("room:stored-{channel}");
            let data = json!({ "round": round, "number": number });
            let request = json!({ "method": "message.send", "data": { "channel": channel, "data": data, "key": format!("{channel} {data}") } });
            let answer = client.until_accepted("rpc", &request).await?;
            let offset = answer["data"]["offset"].as_u64().context("an offset")?;
            stored.push((channel, offset));
        }
    }
    Ok(())
}

async fn rows(database: &PostgresServer) -> Result<Vec<(String, u64)>> {
    let sql = "SELECT channel, \"offset\" FROM messages WHERE channel LIKE 'room:stored-%' ORDER BY channel, \"offset\"";
    let printed = database.psql(&database.url(), sql).await?;
    printed
        .lines()
        .map(|line| {
            let (channel, offset) = line.split_once('|').context("two columns")?;
            Ok((channel.to_owned(), offset.parse()?))
        })
        .collect()
}

/// Waits until as many rows are there as messages were acknowledged, and compares.
async fn all_are_rows(database: &PostgresServer, stored: &[(String, u64)], when: &str) -> Result<()> {
    let mut expected = stored.to_vec();
    expected.sort_unstable();
    let mut found = Vec::new();
    let there = wait_until(DEADLINE, async || {
        found = rows(database).await.unwrap_or_default();
        found.len() >= expected.len()
    });
    there
        .await
        .with_context(|| format!("{when}: {} messages were acknowledged", expected.len()))?;
    ensure!(
        found == expected,
        "{when}: acknowledged {expected:?}\nstored {found:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_messages_are_rows_once_whatever_dies() -> Result<()> {
    let mut database = PostgresServer::start_with(&["fsync=on"]).await?;
    let url = database.url();
    let more = format!(
        "{}connection_timeout = \"1s\"\nstatement_timeout = \"2s\"\n",
        stored_in(&database)
    );
    let cluster = Cluster::start_with(&more).await?;
    let mut replicas: Vec<Process> = Vec::new();
    for _ in 0..2 {
        replicas.push(cluster.join("switchboard-persistence-svc").await?);
    }
    let gateway = cluster.gateways.first().context("a gateway")?;
    let mut client = Client::connect(&gateway.websocket_url()).await?;
    let mut stored = Vec::new();
    say(&mut client, 0, &mut stored).await?;
    all_are_rows(&database, &stored, "two replicas").await?;
    let replica = replicas.first().context("a replica")?;
    let connections = async |which: &str| {
        replica
            .metric(&format!("switchboard_persistence_postgres_connections{which}"))
            .await
    };
    let (open, idle, limit) = (
        connections("").await?,
        connections("_idle").await?,
        connections("_limit").await?,
    );
    ensure!(
        idle <= open && (1..=limit).contains(&open) && limit == 8,
        "{open} connections, {idle} idle, {limit} allowed"
    );

    replicas.swap_remove(0).kill()?;
    say(&mut client, 1, &mut stored).await?;
    all_are_rows(&database, &stored, "a replica killed").await?;

    // Nothing is refused meanwhile, and nothing is missing afterwards.
    database.kill()?;
    say(&mut client, 2, &mut stored).await?;
    database.restart().await?;
    all_are_rows(&database, &stored, "the database killed").await?;

    replicas.push(cluster.join("switchboard-persistence-svc").await?);
    database.pause()?;
    say(&mut client, 3, &mut stored).await?;
    replicas.swap_remove(0).kill()?;
    say(&mut client, 4, &mut stored).await?;
    database.resume()?;
    all_are_rows(&database, &stored, "the database stopped, and a replica killed").await?;

    // A database that is lost is filled again from the logs.
    for replica in replicas {
        ensure!(
            replica.terminate().await?.success(),
            "a replica does not end well"
        );
    }
    let drop = "DROP SCHEMA public CASCADE; CREATE SCHEMA public";
    database.psql(&url, drop).await?;
    let replica = cluster.join("switchboard-persistence-svc").await?;
    all_are_rows(&database, &stored, "the database lost").await?;
    let complete = "SELECT count(*) FROM progress WHERE complete_to < read_to";
    let holes = database.psql(&url, complete).await?;
    ensure!(holes.trim() == "0", "{holes} shards have holes");
    ensure!(
        replica.terminate().await?.success(),
        "the replica does not end well"
    );
    cluster.stop().await
}
