//! The life of the log as an operator changes it, with the shipped binaries over a real NATS: a shard that stopped because its
//! log went back gets another log (O6, L5), and the number of shards is changed (L7). Clients come back with `recovered: false`
//! and go on.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::{self, message::PublishMessage};
use serde_json::{Value, json};
use switchboard_proto::ids::{ShardCount, ShardId};
use switchboard_testkit::{NatsServer, wait_until};
use tempfile::TempDir;

use crate::client::{Client, DEADLINE};
use switchboard_e2e::process::{Process, command};

const CONVERSATION: &str = "dm:#alice,bob";
const INBOX: &str = "#alice";
const ARGUMENTS: [&str; 2] = ["--config", "switchboard.toml"];

fn configure(folder: &Path, nats: &NatsServer, shards: u32) -> Result<()> {
    let config = format!(
        "[bus]\nbackend = \"nats\"\ncreate = true\nshards = {shards}\n[bus.nats]\nurls = [{:?}]\nmax_bytes = \"64MiB\"\n[gateway]\ninsecure = true\n",
        nats.url()
    );
    Ok(std::fs::write(folder.join("switchboard.toml"), config)?)
}

struct System {
    router: Process,
    gateway: Process,
    // Dropped after the processes.
    nats: NatsServer,
    folder: TempDir,
}

impl System {
    async fn start(shards: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let nats = NatsServer::start().await?;
        configure(folder.path(), &nats, shards)?;
        let router = Process::spawn("switchboard-router-svc", folder.path(), &ARGUMENTS)?;
        let gateway = Process::start("switchboard-gateway", folder.path(), &ARGUMENTS).await?;
        Ok(Self {
            router,
            gateway,
            nats,
            folder,
        })
    }

    /// `switchboard log …`: whether it succeeded, and what it printed.
    async fn log(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let arguments = [&ARGUMENTS[..], &["log"], arguments].concat();
        command("switchboard", self.folder.path(), &arguments).await
    }

    async fn stop(self) -> Result<()> {
        for process in [self.gateway, self.router] {
            let status = process.terminate().await?;
            ensure!(status.success(), "{status}");
        }
        Ok(())
    }
}

fn shard_of(channel: &str, shards: u32) -> Result<ShardId> {
    let shards = ShardCount::new(shards).context("a number of shards")?;
    Ok(ShardId::of_channel(channel, shards))
}

/// As an app does it: error 100 is temporary.
async fn publish(client: &mut Client, channel: &str, data: Value) -> Result<()> {
    let request = json!({ "channel": channel, "data": data });
    client.until_accepted("publish", &request).await.map(drop)
}

/// Waits until `data` has come in each of these channels; its offset in the first.
async fn receive(client: &mut Client, channels: &[&str], data: Value) -> Result<u64> {
    let mut offsets = BTreeMap::new();
    while offsets.len() < channels.len() {
        let publication = client.publication().await?;
        if channels.contains(&publication.channel.as_str()) && publication.data == data {
            offsets.insert(publication.channel, publication.offset);
        }
    }
    Ok(offsets[channels[0]])
}

async fn subscribe_from(client: &mut Client, channel: &str, epoch: &Value, offset: u64) -> Result<Value> {
    let from = json!({ "channel": channel, "recover": true, "epoch": epoch, "offset": offset });
    client.must("subscribe", from).await
}

/// `recovered: false`, which is not written out.
fn not_recovered(result: &Value) {
    assert_eq!(result["was_recovering"], true, "{result}");
    assert_ne!(result["recovered"], true, "{result}");
}

/// A restored backup: the stream has its first `records` and no others.
async fn put_back(nats: &NatsServer, stream: &str, records: u64) -> Result<()> {
    let jetstream = jetstream::new(async_nats::connect(nats.url()).await?);
    let mut old = jetstream.get_stream(stream).await?;
    let config = old.info().await?.config.clone();
    ensure!(old.cached_info().state.last_sequence > records, "nothing to lose");
    let subject = config.subjects[0].clone();
    let mut kept = Vec::new();
    for sequence in 1..=records {
        kept.push(old.get_raw_message(sequence).await?.payload);
    }
    jetstream.delete_stream(stream).await?;
    jetstream.create_stream(config).await?;
    for payload in kept {
        let message = PublishMessage::build().payload(payload);
        jetstream.send_publish(subject.clone(), message).await?.await?;
    }
    Ok(())
}

/// O6, L5: a shard whose log went back is stopped; another log lets it go on, without any restart, and what it derives for
/// other shards begins anew (D1).
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_shard_goes_on_in_a_new_log() -> Result<()> {
    let mut system = System::start(4).await?;
    let shard = shard_of(CONVERSATION, 4)?;
    assert_ne!(shard, shard_of(INBOX, 4)?, "the entries go to another shard");
    let url = system.gateway.websocket_url();
    let mut alice = Client::connect(&url).await?;
    let epoch = alice.subscribe(CONVERSATION).await?["epoch"].clone();
    alice.subscribe(INBOX).await?;
    let mut last = 0;
    for number in 0..20 {
        publish(&mut alice, CONVERSATION, json!(number)).await?;
        last = receive(&mut alice, &[CONVERSATION, INBOX], json!(number)).await?;
    }

    system.router.kill_in_place()?;
    put_back(&system.nats, &format!("SB_LOG_1_{shard}"), 5).await?;
    system.router = Process::spawn("switchboard-router-svc", system.folder.path(), &ARGUMENTS)?;
    let router = &system.router;
    let stopped = async || {
        router
            .printed()
            .is_ok_and(|text| text.contains("shard is stopped"))
    };
    wait_until(DEADLINE, stopped)
        .await
        .context("the shard is not stopped")?;
    let refused = json!({ "channel": CONVERSATION, "data": "refused" });
    let refused = alice.command("publish", refused).await?;
    assert_eq!(refused["error"]["code"], 100, "{refused}");
    // Other shards do not care.
    publish(&mut alice, INBOX, json!("direct")).await?;

    let (done, printed) = system.log(&["new-epoch", "--shard", &shard.to_string()]).await?;
    assert!(done, "{printed}");
    assert!(printed.contains(&format!("SB_LOG_1_{shard}")), "{printed}");
    let (_, status) = system.log(&["status"]).await?;
    assert_eq!(
        status.lines().filter(|line| line.contains("  2-")).count(),
        1,
        "{status}"
    );

    publish(&mut alice, CONVERSATION, json!("again")).await?;
    alice.ended_all(&[CONVERSATION]).await?;
    receive(&mut alice, &[INBOX], json!("again")).await?;
    let back = subscribe_from(&mut alice, CONVERSATION, &epoch, last).await?;
    not_recovered(&back);
    assert_ne!(back["epoch"], epoch);
    publish(&mut alice, CONVERSATION, json!("flows")).await?;
    receive(&mut alice, &[CONVERSATION], json!("flows")).await?;
    system.router.ready().await?;
    system.gateway.ready().await?;

    // The target's log, too, and those of healthy owners, who are deposed by it.
    let (done, printed) = system.log(&["new-epoch", "--all", "--remove-old"]).await?;
    assert!(done && printed.contains("is removed"), "{printed}");
    alice.ended.clear();
    alice.ended_all(&[CONVERSATION, INBOX]).await?;
    alice.subscribe(INBOX).await?;
    publish(&mut alice, CONVERSATION, json!("anew")).await?;
    receive(&mut alice, &[INBOX], json!("anew")).await?;
    system.stop().await
}

/// L7: from 4 shards to 6. Nothing that was acknowledged waits any more when the old logs are closed.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_shards_is_changed() -> Result<()> {
    let mut system = System::start(4).await?;
    let url = system.gateway.websocket_url();
    let mut alice = Client::connect(&url).await?;
    let epoch = alice.subscribe(CONVERSATION).await?["epoch"].clone();
    alice.subscribe(INBOX).await?;
    publish(&mut alice, CONVERSATION, json!("before")).await?;
    let offset = receive(&mut alice, &[CONVERSATION], json!("before")).await?;

    // Without a router nobody says that everything is derived: given up, and nothing has changed.
    system.router.kill_in_place()?;
    let (done, printed) = system.log(&["change-shards", "6", "--patience", "1s"]).await?;
    assert!(
        !done && printed.contains("not everything is derived"),
        "{printed}"
    );
    let (done, printed) = system.log(&["change-shards", "5"]).await?;
    assert!(!done && printed.contains("is being changed to 6"), "{printed}");
    let (done, printed) = system.log(&["new-epoch", "--all"]).await?;
    assert!(!done && printed.contains("is being changed to 6"), "{printed}");
    // It refuses publishes from its beginning on.
    system.router = Process::start("switchboard-router-svc", system.folder.path(), &ARGUMENTS).await?;
    system.gateway.ready().await?;
    let frozen = json!({ "channel": CONVERSATION, "data": "refused" });
    let frozen = alice.command("publish", frozen).await?;
    assert_eq!(frozen["error"]["code"], 100, "{frozen}");
    assert_eq!(frozen["error"]["temporary"], true, "{frozen}");
    let (done, printed) = system.log(&["change-shards", "--cancel"]).await?;
    assert!(done, "{printed}");
    publish(&mut alice, CONVERSATION, json!("thawed")).await?;
    receive(&mut alice, &[INBOX], json!("thawed")).await?;

    let (done, printed) = system.log(&["change-shards", "6"]).await?;
    assert!(done && printed.contains("set bus.shards = 6"), "{printed}");
    let remedy = "set bus.shards = 6 and restart";
    let router = &system.router;
    wait_until(DEADLINE, async || {
        router.health().await.is_ok_and(|text| text.contains(remedy))
    })
    .await
    .context("the router goes on as if nothing were")?;
    let late = json!({ "channel": CONVERSATION, "data": "late" });
    let late = alice.command("publish", late).await?;
    assert_eq!(late["error"]["code"], 100, "{late}");
    // Not even a start.
    let (done, printed) = command("switchboard-router-svc", system.folder.path(), &ARGUMENTS).await?;
    assert!(!done && printed.contains("set bus.shards = 6"), "{printed}");

    configure(system.folder.path(), &system.nats, 6)?;
    let old = std::mem::replace(
        &mut system.router,
        Process::start("switchboard-router-svc", system.folder.path(), &ARGUMENTS).await?,
    );
    assert!(old.terminate().await?.success());
    let gateway = &system.gateway;
    wait_until(DEADLINE, async || {
        gateway.health().await.is_ok_and(|text| text.contains(remedy))
    })
    .await
    .context("the gateway goes on as if nothing were")?;
    let old = std::mem::replace(
        &mut system.gateway,
        Process::start("switchboard-gateway", system.folder.path(), &ARGUMENTS).await?,
    );
    assert!(old.terminate().await?.success());

    let mut alice = Client::connect(&system.gateway.websocket_url()).await?;
    let back = subscribe_from(&mut alice, CONVERSATION, &epoch, offset).await?;
    not_recovered(&back);
    alice.subscribe(INBOX).await?;
    publish(&mut alice, CONVERSATION, json!("after")).await?;
    receive(&mut alice, &[CONVERSATION, INBOX], json!("after")).await?;
    let (_, status) = system.log(&["status"]).await?;
    assert_eq!(
        status.lines().filter(|line| line.contains("  2-")).count(),
        6,
        "{status}"
    );
    system.stop().await
}

/// The same for the log of one process, which is stopped meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_log_has_the_same_life() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let log = async |arguments: &[&str]| {
        command("switchboard", folder.path(), &[&["log"][..], arguments].concat()).await
    };
    let system = Process::start("switchboard", folder.path(), &[]).await?;
    let mut client = Client::connect(&system.websocket_url()).await?;
    let first = client.subscribe(CONVERSATION).await?["epoch"].clone();
    publish(&mut client, CONVERSATION, json!(1)).await?;
    let offset = receive(&mut client, &[CONVERSATION], json!(1)).await?;
    let (done, printed) = log(&["new-epoch", "--all"]).await?;
    assert!(
        !done && printed.contains("in use by another process"),
        "{printed}"
    );
    assert!(system.terminate().await?.success());

    let (done, printed) = log(&["new-epoch", "--all"]).await?;
    assert!(done, "{printed}");
    let system = Process::start("switchboard", folder.path(), &[]).await?;
    let mut client = Client::connect(&system.websocket_url()).await?;
    let back = subscribe_from(&mut client, CONVERSATION, &first, offset).await?;
    not_recovered(&back);
    let second = back["epoch"].clone();
    publish(&mut client, CONVERSATION, json!(2)).await?;
    let offset = receive(&mut client, &[CONVERSATION], json!(2)).await?;
    assert!(system.terminate().await?.success());

    let (done, printed) = log(&["change-shards", "2"]).await?;
    assert!(done && printed.contains("set bus.shards = 2"), "{printed}");
    std::fs::write(
        folder.path().join("two.toml"),
        "[bus]\nshards = 2\n[gateway]\ninsecure = true\n",
    )?;
    let system = Process::start("switchboard", folder.path(), &["--config", "two.toml"]).await?;
    let mut client = Client::connect(&system.websocket_url()).await?;
    let back = subscribe_from(&mut client, CONVERSATION, &second, offset).await?;
    not_recovered(&back);
    client.subscribe(INBOX).await?;
    publish(&mut client, CONVERSATION, json!(3)).await?;
    receive(&mut client, &[INBOX], json!(3)).await?;
    assert!(system.terminate().await?.success());
    Ok(())
}
