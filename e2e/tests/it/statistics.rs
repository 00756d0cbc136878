//! How much was said, by how many and how fast it arrived: counted once whatever process dies, and told over HTTP and by rpc to who
//! may know.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use switchboard_e2e::cluster::Cluster;
use switchboard_e2e::process::Process;
use switchboard_testkit::{PostgresServer, wait_until};
use tokio::time::timeout;

use crate::client::{Client, DEADLINE};
use crate::system::{API_KEY, SECRET, stored_in};

const CHANNEL: &str = "talk:1";
const MESSAGES: u64 = 40;

const NAMESPACES: &str = r#"
[namespaces.talk]
allow_subscribe_for_client = true
allow_publish_for_subscriber = true
[namespaces.quiet]
allow_subscribe_for_client = true
"#;

fn gateway() -> String {
    format!(
        "statistics_interval = \"500ms\"\napi.key = {API_KEY:?}\n[gateway.tokens]\nhmac_secret = {SECRET:?}\n"
    )
}

/// Status and body of a report.
async fn report(gateway: &Process, path: &str) -> Result<(u16, String)> {
    let request = reqwest::Client::new().get(format!("{}/{path}", gateway.api_url()));
    let response = request.header("X-API-Key", API_KEY).send().await?;
    Ok((response.status().as_u16(), response.text().await?))
}

/// The sums of this hour and the one before it: the clock may strike meanwhile.
async fn sums(gateway: &Process, namespace: &str) -> Result<[u64; 4]> {
    let from = switchboard_proto::time::now_us() / 1000 - 3_600_000;
    let path = format!("statistics?from={from}&period=hour&namespaces={namespace}");
    let (_, body) = report(gateway, &path).await?;
    let told: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
    let points = told["series"][0]["points"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let sum = |name: &str| points.iter().filter_map(|point| point[name].as_u64()).sum();
    Ok(["messages", "users", "channels", "deliveries"].map(sum))
}

async fn admin(gateway: &Process) -> Result<Client> {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let claims = json!({ "sub": "root", "sb_admin": true });
    let token = jsonwebtoken::encode(&Header::default(), &claims, &key)?;
    let mut client = Client::open(&gateway.websocket_url()).await?;
    client.must("connect", json!({ "token": token })).await?;
    Ok(client)
}

/// What is told of messages that `alice` says to herself and to `bob`, at different gateways.
async fn told(gateways: [&Process; 2], dying: &mut [Process]) -> Result<()> {
    let mut alice = Client::of_user(gateways[0], "alice").await?.context("alice")?;
    let mut bob = Client::of_user(gateways[1], "bob").await?.context("bob")?;
    for client in [&mut alice, &mut bob] {
        client.subscribe(CHANNEL).await?;
    }
    // From before anything was said on.
    let live = reqwest::Client::new().get(format!("{}/statistics/live", gateways[1].api_url()));
    let live = live.header("X-API-Key", API_KEY).send().await?;
    ensure!(live.status().is_success(), "{}", live.status());
    let mut live = live.bytes_stream();
    timeout(DEADLINE, live.next()).await.context("no first event")?;

    for number in 0..MESSAGES {
        alice.publish(CHANNEL, json!({ "number": number })).await?;
        if number == MESSAGES / 2 {
            for process in dying.iter_mut() {
                process.kill_in_place()?;
                process.respawn()?;
            }
        }
    }
    let mut now = [0; 4];
    let counted = wait_until(DEADLINE, async || {
        now = sums(gateways[0], "talk").await.unwrap_or_default();
        now == [MESSAGES, 1, 1, 2 * MESSAGES]
    });
    counted.await.with_context(|| format!("counted are {now:?}"))?;
    ensure!(sums(gateways[1], "*").await? == now, "of all together");
    ensure!(sums(gateways[1], "quiet").await? == [0; 4]);

    let mut seen = 0;
    let watching = async {
        let mut text = String::new();
        while let Some(bytes) = live.next().await {
            text.push_str(&String::from_utf8_lossy(&bytes?));
            while let Some((event, rest)) = text.split_once("\n\n") {
                if let Some(data) = event.strip_prefix("data: ") {
                    let tick: Value = serde_json::from_str(data)?;
                    let rates = tick["rates"].as_array().context("rates")?;
                    let of_talk = rates.iter().filter(|rate| rate["namespace"] == "talk");
                    seen += of_talk.filter_map(|rate| rate["messages"].as_u64()).sum::<u64>();
                }
                text = rest.to_owned();
            }
            if seen >= MESSAGES {
                break;
            }
        }
        anyhow::Ok(())
    };
    if dying.is_empty() {
        timeout(DEADLINE, watching)
            .await
            .with_context(|| format!("{seen} were seen"))??;
        ensure!(seen == MESSAGES, "{seen} were seen");
    }

    let (status, csv) = report(gateways[0], "statistics?from=2026-01-01&period=month&format=csv").await?;
    ensure!(
        status == 200 && csv.starts_with("namespace,time,messages,"),
        "{csv}"
    );
    let (_, top) = report(
        gateways[0],
        "statistics/channels?from=2026-01-01&namespace=talk&format=csv",
    )
    .await?;
    ensure!(
        top == format!("channel,messages\r\n\"{CHANNEL}\",{MESSAGES}\r\n"),
        "{top}"
    );
    for (path, expected) in [
        ("statistics?from=yesterday", 400),
        ("statistics", 400),
        ("statistics?from=2001-01-01&period=minute", 400),
        ("statistics/channels?from=0&limit=100000", 400),
    ] {
        let (status, body) = report(gateways[0], path).await?;
        ensure!(status == expected, "{path}: {status} {body}");
    }
    let stranger = reqwest::get(format!("{}/statistics?from=0", gateways[0].api_url())).await?;
    ensure!(stranger.status() == 401);

    let question =
        json!({ "method": "statistics.get", "data": { "from": "2026-01-01", "namespaces": ["talk"] } });
    let refused = alice.command("rpc", question.clone()).await?;
    ensure!(refused["error"]["code"] == 103, "{refused}");
    let mut admin = admin(gateways[1]).await?;
    let answer = admin.must("rpc", question).await?["data"].clone();
    ensure!(
        answer["series"][0]["points"][0]["messages"] == MESSAGES,
        "{answer}"
    );
    let latency = answer["series"][0]["points"][0]["latency_p99_ms"].as_f64();
    ensure!(latency.is_some_and(|latency| latency > 0.0), "{answer}");
    let question = json!({ "method": "statistics.channels", "data": { "from": "2026-01-01" } });
    let answer = admin.must("rpc", question).await?["data"].clone();
    ensure!(
        answer["channels"] == json!([{ "channel": CHANNEL, "messages": MESSAGES }]),
        "{answer}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_on_embedded() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = format!("[gateway]\n{}{NAMESPACES}", gateway());
    std::fs::write(folder.path().join("switchboard.toml"), config)?;
    let process = Process::start("switchboard", folder.path(), &["--config", "switchboard.toml"]).await?;
    told([&process, &process], &mut []).await?;
    ensure!(process.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_on_a_cluster_whose_counting_processes_die() -> Result<()> {
    let database = PostgresServer::start().await?;
    let more = format!("{NAMESPACES}{}", stored_in(&database));
    let cluster = Cluster::start_as(&gateway(), &more).await?;
    let mut replicas = cluster.join_all(&["switchboard-persistence-svc"; 2]).await?;
    let gateways = [&cluster.gateways[0], &cluster.gateways[1]];
    timeout(Duration::from_secs(90), told(gateways, &mut replicas))
        .await
        .context("it took too long")??;
    cluster.stop_with(replicas).await
}
