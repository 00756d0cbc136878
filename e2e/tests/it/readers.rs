//! L3, L4 on a real NATS: a reader of the log that stops holds the purge up, and one that goes on frees it.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use switchboard_bus::nats::{
    NatsAuthentication, NatsConfig, NatsConnection, NatsDurability, NatsLog, NatsLogConfig,
};
use switchboard_bus::{Log, ReaderName, ReaderPosition, SubjectPrefix};
use switchboard_proto::ids::{Sequence, ShardId};
use switchboard_testkit::{NatsServer, wait_until};

use crate::client::{Client, DEADLINE};
use crate::system::System;

const MAX_BYTES: u64 = 16 << 20;

/// Little is kept for anybody but readers, so that a purge is wanted soon.
const ROUTER: &str = r#"
[router]
readers = ["archive", "search"]
purge_above = 10
window_bytes = "1MiB"
window_age = "1s"
key_window = "1s"
"#;

async fn log_of(server: &NatsServer) -> Result<Arc<NatsLog>> {
    let config = NatsConfig::new(vec![server.url()], NatsAuthentication::None, "reader");
    let log = NatsLogConfig {
        prefix: SubjectPrefix::default(),
        replicas: 1,
        max_bytes: MAX_BYTES,
        durability: NatsDurability::Replicated,
    };
    Ok(NatsLog::new(NatsConnection::connect(&config).await?, log))
}

/// The lines of the readers' lag.
async fn lags(system: &System) -> Result<Vec<(String, f64)>> {
    let metrics = reqwest::get(format!("{}/metrics", system.admin_url()?)).await?;
    let mut lags = Vec::new();
    for line in metrics.text().await?.lines() {
        if let Some(rest) = line.strip_prefix("switchboard_router_reader_lag_records{") {
            let (labels, value) = rest.split_once("} ").context("a gauge without value")?;
            lags.push((labels.to_owned(), value.parse()?));
        }
    }
    lags.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(lags)
}

async fn say(client: &mut Client, large: &str) -> Result<()> {
    client.publish("room:1", json!({ "text": large })).await
}

async fn until(what: &str, condition: impl AsyncFnMut() -> bool) -> Result<()> {
    wait_until(DEADLINE, condition)
        .await
        .with_context(|| what.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_holds_the_purge_and_one_that_goes_on_frees_it() -> Result<()> {
    let server = NatsServer::start().await?;
    let bus = format!(
        "[bus]\nbackend = \"nats\"\ncreate = true\nshards = 1\n[bus.nats]\nurls = [{:?}]\nmax_bytes = \"16MiB\"\n",
        server.url()
    );
    let system = System::one(&format!("{ROUTER}{bus}")).await?;
    let log = log_of(&server).await?;
    let shard = ShardId::new(0).context("shard 0")?;
    let urls = system.websocket_urls();
    let mut client = Client::connect(urls.first().context("a gateway")?).await?;
    client.subscribe("room:1").await?;

    let large = "x".repeat(30_000);
    for _ in 0..120 {
        say(&mut client, &large).await?;
    }
    // More than `purge_above`, and time goes by in which the window and the keys let go of it.
    let mut seen = Vec::new();
    until("both readers are told to be behind", async || {
        say(&mut client, "tick").await.ok();
        seen = lags(&system).await.unwrap_or_default();
        seen.len() == 2 && seen.iter().all(|(_, lag)| *lag > 100.0)
    })
    .await?;
    ensure!(
        seen[0].0.contains("archive") && seen[1].0.contains("search"),
        "{seen:?}"
    );
    ensure!(
        log.info(shard).await?.first == Sequence(1),
        "nobody has read anything"
    );

    // One goes on, the other does not: what that one has not read stays.
    let (archive, search) = ("archive".parse::<ReaderName>()?, "search".parse::<ReaderName>()?);
    let info = log.info(shard).await?;
    let done = ReaderPosition {
        epoch: info.epoch,
        up_to: info.last,
    };
    log.commit(&archive, shard, done).await?;
    until("only one of them is behind", async || {
        say(&mut client, "tick").await.ok();
        seen = lags(&system).await.unwrap_or_default();
        matches!(seen.as_slice(), [(_, archive), (_, search)] if *archive < 100.0 && *search > 100.0)
    })
    .await?;
    ensure!(
        log.info(shard).await?.first == Sequence(1),
        "purged what a reader had not read"
    );

    let half = ReaderPosition {
        up_to: Sequence(60),
        ..done
    };
    log.commit(&search, shard, half).await?;
    until("the purge", async || {
        say(&mut client, "tick").await.ok();
        log.info(shard).await.is_ok_and(|info| info.first > Sequence(1))
    })
    .await?;
    ensure!(
        log.info(shard).await?.first <= Sequence(61),
        "purged what a reader had not read"
    );
    log.commit(&search, shard, done).await?;
    until(
        "the rest of the purge, and no reader is of interest",
        async || {
            say(&mut client, "tick").await.ok();
            let info = log.info(shard).await;
            let is_purged = info.is_ok_and(|info| info.bytes * 10 < MAX_BYTES);
            is_purged && lags(&system).await.is_ok_and(|lags| lags.is_empty())
        },
    )
    .await?;
    system.stop().await
}
