//! An embedded installation becomes a cluster: what clients saw of the one, they see of the other, and it goes on from there.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use switchboard_e2e::process::{Process, command};
use switchboard_testkit::{NatsServer, PostgresServer, wait_until};

use crate::client::{Client, DEADLINE};
use crate::system::{API_KEY, SECRET};

const ARGUMENTS: [&str; 2] = ["--config", "switchboard.toml"];
const PAIR: &str = "dm:#alice,bob";
const TEAM: &str = "team:7";
const TALK: &str = "talk:1";
const REMOVED: &str = "talk:removed";
const HELD: &str = "case:1";

fn clients() -> String {
    let allowed = "allow_subscribe_for_client = true\nallow_publish_for_client = true\nallow_history_for_client = true\n\
                   allow_message_changes = true\n";
    format!(
        "[gateway]\napi.key = {API_KEY:?}\n[gateway.tokens]\nhmac_secret = {SECRET:?}\n\
         [namespaces.talk]\n{allowed}[namespaces.case]\n{allowed}\
         [namespaces.team]\nmembers = true\nallow_create_for_client = true\n{allowed}\
         [namespaces.dm]\n{allowed}allow_user_limited_channels = true\n"
    )
}

/// `switchboard …` in the folder of a system: whether it succeeded, and what it printed.
async fn run(folder: &Path, arguments: &[&str]) -> Result<(bool, String)> {
    command("switchboard", folder, &[&ARGUMENTS[..], arguments].concat()).await
}

async fn must(folder: &Path, arguments: &[&str]) -> Result<String> {
    let (is_done, printed) = run(folder, arguments).await?;
    ensure!(is_done, "{arguments:?}: {printed}");
    Ok(printed)
}

async fn connect(gateway: &Process, folder: &Path, user: &str) -> Result<Client> {
    let token = must(folder, &["token", user]).await?;
    let mut client = Client::open(&gateway.websocket_url()).await?;
    let token = json!({ "token": token.trim() });
    client.until_accepted("connect", &token).await?;
    Ok(client)
}

async fn rpc(client: &mut Client, method: &str, data: Value) -> Result<Value> {
    let request = json!({ "method": method, "data": data });
    Ok(client.until_accepted("rpc", &request).await?["data"].clone())
}

async fn send(client: &mut Client, channel: &str, text: &str) -> Result<Value> {
    rpc(
        client,
        "message.send",
        json!({ "channel": channel, "data": { "text": text } }),
    )
    .await
}

/// The texts of a channel's messages; of what has none: null.
async fn texts(client: &mut Client, channel: &str) -> Result<Vec<Value>> {
    let question = json!({ "channel": channel, "limit": 100 });
    let page = rpc(client, "history.list", question).await?;
    let messages = page["messages"].as_array().context("messages")?;
    Ok(messages
        .iter()
        .map(|message| message["data"]["text"].clone())
        .collect())
}

/// What a user is answered, of all that is kept of old messages. Without `TALK`, of which the log says more than the store.
async fn seen(client: &mut Client, at: &Value) -> Result<Value> {
    let mut seen = json!({});
    for channel in [PAIR, TEAM, REMOVED, HELD] {
        let question = json!({ "channel": channel, "limit": 100 });
        seen[channel] = rpc(client, "history.list", question).await?["messages"].clone();
    }
    seen["conversations"] = rpc(client, "inbox.list", json!({})).await?;
    seen["members"] = rpc(client, "channel.members.list", json!({ "channel": TEAM })).await?;
    let status = json!({ "channel": PAIR, "offset": at["offset"], "epoch": at["epoch"] });
    seen["status"] = rpc(client, "message.status", status).await?;
    let found = json!({ "query": "words", "channels": [PAIR, TEAM, TALK, HELD], "limit": 100 });
    let mut found = rpc(client, "history.search", found).await?["matches"].clone();
    for found in found.as_array_mut().into_iter().flatten() {
        // How much it counts depends on what else is in the index.
        found.as_object_mut().context("a match")?.remove("score");
    }
    seen["found"] = found;
    Ok(seen)
}

/// Says all that there is to be moved; a message of `PAIR` that bob has read.
async fn live(gateway: &Process, folder: &Path) -> Result<Value> {
    let mut alice = connect(gateway, folder, "alice").await?;
    let mut bob = connect(gateway, folder, "bob").await?;
    let mut mallory = connect(gateway, folder, "mallory").await?;
    let users = json!({ "channel": TEAM, "users": ["bob"] });
    rpc(&mut alice, "channel.members.add", users).await?;
    send(&mut alice, TEAM, "words for the team").await?;
    let edited = send(&mut alice, PAIR, "wrong").await?;
    let read = send(&mut alice, PAIR, "words that are read").await?;
    let deleted = send(&mut bob, PAIR, "words that are deleted").await?;
    send(&mut alice, PAIR, "words that are not read").await?;
    let at = |message: &Value, more: Value| {
        let mut at = json!({ "channel": PAIR, "offset": message["offset"], "epoch": message["epoch"] });
        for (key, value) in more.as_object().into_iter().flatten() {
            at[key] = value.clone();
        }
        at
    };
    let better = json!({ "data": { "text": "words that are better" } });
    rpc(&mut alice, "message.edit", at(&edited, better)).await?;
    rpc(&mut bob, "message.react", at(&read, json!({ "reaction": "+1" }))).await?;
    rpc(&mut bob, "message.delete", at(&deleted, json!({}))).await?;
    rpc(&mut bob, "receipt.read", at(&read, json!({}))).await?;
    for channel in [TALK, HELD, REMOVED] {
        send(&mut mallory, channel, "words of mallory").await?;
        send(&mut bob, channel, "words of bob").await?;
    }
    let removed = reqwest::Client::new()
        .post(format!("{}/history_remove", gateway.api_url()))
        .header("X-API-Key", API_KEY)
        .body(json!({ "channel": REMOVED }).to_string())
        .send()
        .await?;
    ensure!(removed.status().is_success(), "{removed:?}");
    // Everything is stored and in the index.
    let mut found = Value::Null;
    let is_all = wait_until(DEADLINE, async || {
        found = seen(&mut bob, &read).await.unwrap_or_default();
        found["found"].as_array().is_some_and(|found| found.len() == 8)
    });
    is_all.await.with_context(|| format!("{found}"))?;
    must(folder, &["hold", "add", "channel", HELD, "--reason", "a case"]).await?;
    must(folder, &["erase", "mallory", "--without-archive"]).await?;
    Ok(read)
}

/// Services of their own, over NATS and PostgreSQL, with another number of shards.
struct Cluster {
    router: Process,
    persistence: Process,
    gateway: Process,
    // Dropped after the processes.
    folder: tempfile::TempDir,
    _nats: NatsServer,
    database: PostgresServer,
}

impl Cluster {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let nats = NatsServer::start().await?;
        let database = PostgresServer::start().await?;
        let config = format!(
            "[bus]\nbackend = \"nats\"\ncreate = true\nshards = 3\n[bus.nats]\nurls = [{:?}]\nmax_bytes = \"64MiB\"\n\
             [router]\nreaders = [\"persistence\"]\n[persistence]\nstore = \"postgres\"\n[persistence.postgres]\nurl = {:?}\n{}",
            nats.url(),
            database.url(),
            clients()
        );
        std::fs::write(folder.path().join("switchboard.toml"), config)?;
        let start = async |name| Process::start(name, folder.path(), &ARGUMENTS).await;
        Ok(Self {
            router: start("switchboard-router-svc").await?,
            persistence: start("switchboard-persistence-svc").await?,
            gateway: start("switchboard-gateway").await?,
            folder,
            _nats: nats,
            database,
        })
    }

    async fn rows(&self) -> Result<String> {
        let count = "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM holds) + (SELECT count(*) FROM members)";
        Ok(self
            .database
            .psql(&self.database.url(), count)
            .await?
            .trim()
            .to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_installation_becomes_a_cluster() -> Result<()> {
    let source = tempfile::tempdir()?;
    let config = format!("[bus]\nshards = 4\n{}", clients());
    std::fs::write(source.path().join("switchboard.toml"), config)?;
    let system = Process::start("switchboard", source.path(), &ARGUMENTS).await?;
    let read = live(&system, source.path()).await?;
    let mut expected = Vec::new();
    for user in ["alice", "bob"] {
        let mut client = connect(&system, source.path(), user).await?;
        expected.push(seen(&mut client, &read).await?);
    }
    let told = expected[1].to_string();
    ensure!(told.contains("better") && !told.contains("wrong"), "{told}");
    let unread = |seen: &Value| {
        let conversations = seen["conversations"]["conversations"].as_array();
        let pair = conversations
            .into_iter()
            .flatten()
            .find(|one| one["channel"] == PAIR);
        pair.and_then(|pair| pair["unread"].as_u64())
    };
    ensure!(unread(&expected[1]) == Some(1), "{told}");
    ensure!(expected[1][HELD].to_string().contains("mallory"), "{told}");
    ensure!(expected[1][REMOVED] == json!([]), "{told}");

    let export = source.path().join("export");
    let folder = export.to_str().context("a path")?;
    let (is_done, printed) = run(source.path(), &["export", folder]).await?;
    ensure!(
        !is_done && printed.contains("in use by another process"),
        "{printed}"
    );
    // What was acknowledged and is not stored: the process is killed at once.
    let mut alice = connect(&system, source.path(), "alice").await?;
    send(&mut alice, TALK, "the last one").await?;
    system.kill()?;
    let printed = must(source.path(), &["export", folder]).await?;
    ensure!(printed.contains("messages are exported"), "{printed}");
    let (is_done, printed) = run(source.path(), &["export", folder]).await?;
    ensure!(!is_done && printed.contains("name an empty one"), "{printed}");

    let cluster = Cluster::start().await?;
    let target = cluster.folder.path();
    let empty = cluster.rows().await?;
    let (is_done, printed) = run(target, &["import", folder]).await?;
    ensure!(!is_done && printed.contains("log new-epoch --all"), "{printed}");
    must(target, &["log", "new-epoch", "--all"]).await?;
    let manifest = export.join("export.json");
    let good = std::fs::read(&manifest)?;
    std::fs::remove_file(&manifest)?;
    let (is_done, printed) = run(target, &["import", folder]).await?;
    ensure!(!is_done && printed.contains("no export.json"), "{printed}");
    std::fs::write(&manifest, good)?;
    ensure!(cluster.rows().await? == empty, "something was written");
    // Services run meanwhile, and it is done twice.
    for _ in 0..2 {
        let printed = must(target, &["import", folder]).await?;
        ensure!(printed.contains("messages are in the store"), "{printed}");
    }
    let printed = must(target, &["hold", "list"]).await?;
    ensure!(
        printed.contains("channel case:1") && printed.contains("a case"),
        "{printed}"
    );

    for (user, expected) in ["alice", "bob"].iter().zip(&expected) {
        let mut client = connect(&cluster.gateway, target, user).await?;
        let mut found = Value::Null;
        let is_same = wait_until(DEADLINE, async || {
            found = seen(&mut client, &read).await.unwrap_or_default();
            found == *expected
        });
        is_same
            .await
            .with_context(|| format!("{user} saw {expected:#}\nand sees {found:#}"))?;
        // Who was erased is nobody here, and what was acknowledged last is there.
        let talk = texts(&mut client, TALK).await?;
        ensure!(
            talk == [Value::Null, json!("words of bob"), json!("the last one")],
            "{talk:?}"
        );
    }

    // It goes on: what is new comes behind, counts as unread, and may be about what is old.
    let mut alice = connect(&cluster.gateway, target, "alice").await?;
    let mut bob = connect(&cluster.gateway, target, "bob").await?;
    send(&mut alice, PAIR, "words of the cluster").await?;
    let reaction =
        json!({ "channel": PAIR, "offset": read["offset"], "epoch": read["epoch"], "reaction": "again" });
    rpc(&mut bob, "message.react", reaction).await?;
    let all = [
        "words that are better",
        "words that are read",
        "words that are not read",
        "words that are better",
        "words of the cluster",
    ];
    let mut pair = texts(&mut bob, PAIR).await?;
    pair.retain(|text| !text.is_null());
    ensure!(pair == all, "{pair:?}");
    let mut found = Value::Null;
    let counted = wait_until(DEADLINE, async || {
        found = seen(&mut bob, &read).await.unwrap_or_default();
        unread(&found) == Some(2) && found["found"].to_string().contains("of the cluster")
    });
    counted.await.with_context(|| format!("{found:#}"))?;
    // A third time changes nothing of that.
    must(target, &["import", folder]).await?;
    ensure!(
        seen(&mut bob, &read).await? == found,
        "the import changed something"
    );
    for process in [cluster.gateway, cluster.persistence, cluster.router] {
        ensure!(process.terminate().await?.success(), "it does not end well");
    }
    Ok(())
}
