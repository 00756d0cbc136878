//! What the log has forgotten is still said: history and recovery from the message store, on both backends, also while that is
//! away; and what nobody has any more is told to be lost.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use switchboard_e2e::process::Process;
use switchboard_testkit::{NatsServer, PostgresServer, wait_until};
use tempfile::TempDir;

use crate::client::{Client, DEADLINE};
use crate::recovery::{self, Place};
use crate::tools;

pub(crate) const CHANNEL: &str = "room:stored";

/// A log that is purged as soon as may be, and a window that holds next to nothing.
const FORGETFUL: &str = r#"
[router]
purge_above = 10
window_bytes = "1MiB"
window_age = "1s"
key_window = "1s"
"#;

/// A system on one shard, by the processes that an operator starts.
pub(crate) struct Forgetful {
    folder: TempDir,
    processes: Vec<Process>,
    nats: Option<NatsServer>,
    database: Option<PostgresServer>,
}

const ARGUMENTS: [&str; 2] = ["--config", "switchboard.toml"];

impl Forgetful {
    /// Everything in one process.
    pub(crate) async fn embedded(more: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let system = Self {
            folder,
            processes: Vec::new(),
            nats: None,
            database: None,
        };
        system.write(more)?;
        system.with(&["switchboard"]).await
    }

    /// Services of their own, over NATS and PostgreSQL.
    pub(crate) async fn cluster() -> Result<Self> {
        let system = Self {
            folder: tempfile::tempdir()?,
            processes: Vec::new(),
            nats: Some(NatsServer::start().await?),
            database: Some(PostgresServer::start().await?),
        };
        system.write("")?;
        let services = [
            "switchboard-router-svc",
            "switchboard-persistence-svc",
            "switchboard-gateway",
        ];
        system.with(&services).await
    }

    /// What holds from the next start on.
    pub(crate) fn write(&self, more: &str) -> Result<()> {
        let bus = match &self.nats {
            Some(nats) => format!(
                "[bus]\nbackend = \"nats\"\ncreate = true\nshards = 1\n[bus.nats]\nurls = [{:?}]\nmax_bytes = \"16MiB\"\n",
                nats.url()
            ),
            None => "[bus]\nshards = 1\n[bus.embedded]\nmax_bytes = \"16MiB\"\n".to_owned(),
        };
        let store = match &self.database {
            Some(database) => format!(
                "[persistence]\nstore = \"postgres\"\n[persistence.postgres]\nurl = {:?}\nconnection_timeout = \"1s\"\nstatement_timeout = \"2s\"\n",
                database.url()
            ),
            None => String::new(),
        };
        // In one process the router knows by itself who reads.
        let readers = self.nats.as_ref().map_or("", |_| "readers = [\"persistence\"]\n");
        let config = format!("{FORGETFUL}{readers}{more}{bus}{store}[gateway]\ninsecure = true\n");
        std::fs::write(self.folder.path().join("switchboard.toml"), config)?;
        Ok(())
    }

    async fn with(mut self, services: &[&'static str]) -> Result<Self> {
        for service in services {
            // Routers come first: who makes the log says for how long keys are known.
            let process = Process::start(service, self.path(), &ARGUMENTS).await?;
            self.processes.push(process);
        }
        Ok(self)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn router(&self) -> Result<&Process> {
        self.processes.first().context("a router")
    }

    fn gateway(&self) -> Result<&Process> {
        self.processes.last().context("a gateway")
    }

    pub(crate) async fn client(&self) -> Result<Client> {
        Client::connect(&self.gateway()?.websocket_url()).await
    }

    /// Says so many numbers in the channel, and as many large things elsewhere.
    async fn say(&self, client: &mut Client, numbers: std::ops::Range<u64>) -> Result<()> {
        for number in numbers {
            client.publish(CHANNEL, json!({ "number": number })).await?;
            client.publish("room:other", json!("x".repeat(20_000))).await?;
        }
        Ok(())
    }

    /// Waits until the log was purged, so far that the channel's first messages are gone.
    pub(crate) async fn forgotten(&self, client: &mut Client, first: u64) -> Result<()> {
        let metric = "switchboard_router_shard_first_sequence{shard=\"0\"}";
        let router = self.router()?;
        wait_until(DEADLINE, async || {
            // Time goes by for the log with what is said.
            client.publish("room:other", json!("tick")).await.ok();
            router.metric(metric).await.unwrap_or(0) > first >> 12
        })
        .await
        .context("the log is not purged")
    }

    pub(crate) async fn restart(&mut self) -> Result<()> {
        for process in &mut self.processes {
            process.kill_in_place()?;
            process.respawn()?;
        }
        for process in &mut self.processes {
            process.ready().await?;
        }
        Ok(())
    }

    pub(crate) async fn stop(self) -> Result<()> {
        for process in self.processes.into_iter().rev() {
            let name = process.name();
            let status = process.terminate().await?;
            ensure!(status.success(), "{name}: {status}");
        }
        Ok(())
    }
}

fn numbers(said: &[(u64, Value)]) -> Vec<u64> {
    said.iter()
        .filter_map(|(_, data)| data["number"].as_u64())
        .collect()
}

/// All of the channel, by the command `history`.
async fn by_command(client: &mut Client, reverse: bool) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    let mut since = Value::Null;
    loop {
        let request = json!({ "channel": CHANNEL, "limit": 30, "reverse": reverse, "since": since });
        let result = client.until_accepted("history", &request).await?;
        let publications = result["publications"].as_array().context("publications")?;
        let Some(last) = publications.last() else {
            return Ok(all);
        };
        since = json!({ "offset": last["offset"], "epoch": result["epoch"] });
        all.extend(
            publications
                .iter()
                .filter_map(|one| one["data"]["number"].as_u64()),
        );
    }
}

async fn list(client: &mut Client, request: &Value) -> Result<Value> {
    let request = json!({ "method": "history.list", "data": request });
    Ok(client.until_accepted("rpc", &request).await?["data"].clone())
}

/// All of the channel, by the rpc `history.list`.
pub(crate) async fn by_rpc(client: &mut Client, mut request: Value) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    loop {
        let page = list(client, &request).await?;
        let messages = page["messages"].as_array().context("messages")?;
        all.extend(messages.iter().filter_map(|one| one["data"]["number"].as_u64()));
        match page.get("cursor") {
            Some(cursor) => request = json!({ "channel": CHANNEL, "cursor": cursor, "limit": 30 }),
            None => return Ok(all),
        }
    }
}

/// Everything that was said is told, whoever asks how.
async fn is_all(system: &Forgetful, place: &Place, all: std::ops::Range<u64>) -> Result<()> {
    let forward: Vec<u64> = all.clone().collect();
    let backward: Vec<u64> = all.clone().rev().collect();
    let mut client = system.client().await?;
    assert_eq!(by_command(&mut client, false).await?, forward, "history");
    assert_eq!(
        by_command(&mut client, true).await?,
        backward,
        "history, backward"
    );
    let request = json!({ "channel": CHANNEL, "limit": 30 });
    assert_eq!(by_rpc(&mut client, request).await?, forward, "history.list");
    let request = json!({ "channel": CHANNEL, "limit": 30, "reverse": true });
    assert_eq!(
        by_rpc(&mut client, request).await?,
        backward,
        "history.list, backward"
    );
    let last = json!({ "number": all.end - 1 });
    let mut client = system.client().await?;
    let recovered = recovery::recover_up_to(&mut client, CHANNEL, place, &last).await?;
    assert_eq!(numbers(&recovered), forward, "recovered");
    assert!(recovered.is_sorted_by(|one, next| one.0 < next.0));
    Ok(())
}

/// Who left off at `place` comes back with the unchanged SDK.
pub(crate) async fn by_sdk(
    system: &Forgetful,
    place: &Place,
    missed: &[u64],
    is_recovered: bool,
) -> Result<()> {
    let place = json!({ "channel": CHANNEL, "epoch": place.epoch, "offset": place.offset, "missed": missed });
    let url = system.gateway()?.websocket_url();
    for encoding in ["json", "protobuf"] {
        let environment = [
            ("SWITCHBOARD_ENDPOINTS", url.as_str()),
            ("SWITCHBOARD_ENCODING", encoding),
            ("SWITCHBOARD_PLACE", &place.to_string()),
            (
                "SWITCHBOARD_RECOVERED",
                if is_recovered { "true" } else { "false" },
            ),
        ];
        tools::node("stored_history.test.js", &environment).await?;
    }
    Ok(())
}

/// Where the channel begins, and its first messages.
pub(crate) async fn begin(system: &Forgetful, client: &mut Client) -> Result<Place> {
    let place = Place::of(&client.subscribe(CHANNEL).await?)?;
    client.must("unsubscribe", json!({ "channel": CHANNEL })).await?;
    system.say(client, 0..150).await?;
    Ok(place)
}

/// The offset of a message.
pub(crate) async fn offset_of(client: &mut Client, number: u64) -> Result<u64> {
    let request = json!({ "channel": CHANNEL, "limit": 1000 });
    let page = list(client, &request).await?;
    let messages = page["messages"].as_array().context("messages")?;
    let found = messages.iter().find(|one| one["data"]["number"] == number);
    found.and_then(|one| one["offset"].as_u64()).context("not there")
}

async fn what_the_log_forgot_is_told(mut system: Forgetful) -> Result<()> {
    let mut client = system.client().await?;
    let place = begin(&system, &mut client).await?;
    is_all(&system, &place, 0..150).await?;
    let first = offset_of(&mut client, 0).await?;
    system.forgotten(&mut client, first).await?;
    is_all(&system, &place, 0..150).await?;
    by_sdk(&system, &place, &(0..150).collect::<Vec<_>>(), true).await?;

    // Nothing is in memory any more.
    system.restart().await?;
    is_all(&system, &place, 0..150).await?;
    let mut client = system.client().await?;
    system.say(&mut client, 150..160).await?;
    is_all(&system, &place, 0..160).await?;

    // What is acknowledged is there at once; and what a backend removed is hidden, also in the store.
    for number in 160..200 {
        client.publish(CHANNEL, json!({ "number": number })).await?;
        let page = list(
            &mut client,
            &json!({ "channel": CHANNEL, "limit": 1, "reverse": true }),
        )
        .await?;
        assert_eq!(page["messages"][0]["data"]["number"], number, "{page}");
    }
    let cursor = list(&mut client, &json!({ "channel": CHANNEL, "limit": 1 })).await?["cursor"].clone();
    let other = json!({ "method": "history.list", "data": { "channel": "room:other", "cursor": cursor } });
    let refused = client.command("rpc", other).await?;
    assert_eq!(refused["error"]["code"], 107, "{refused}");
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_what_the_log_forgot_is_told() -> Result<()> {
    what_the_log_forgot_is_told(Forgetful::embedded("").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_what_the_log_forgot_is_told() -> Result<()> {
    what_the_log_forgot_is_told(Forgetful::cluster().await?).await
}

/// The database stops: what is said goes on, the window answers, what only the store has waits for it and is never called lost.
#[tokio::test(flavor = "multi_thread")]
async fn store_that_is_down_costs_only_what_it_alone_has() -> Result<()> {
    let mut system = Forgetful::cluster().await?;
    let mut client = system.client().await?;
    let place = begin(&system, &mut client).await?;
    let first = offset_of(&mut client, 0).await?;
    system.forgotten(&mut client, first).await?;

    let database = system.database.as_mut().context("a database")?;
    database.kill()?;
    let mut listener = system.client().await?;
    listener.subscribe(CHANNEL).await?;
    client.publish(CHANNEL, json!({ "number": 150 })).await?;
    assert_eq!(listener.publication().await?.data["number"], 150, "live");
    let newest = json!({ "channel": CHANNEL, "limit": 1, "reverse": true });
    let page = client.must("history", newest).await?;
    assert_eq!(
        page["publications"][0]["data"]["number"], 150,
        "the window answers"
    );
    let oldest = client
        .command("history", json!({ "channel": CHANNEL, "limit": 1 }))
        .await?;
    assert_eq!(oldest["error"]["code"], 100, "{oldest}");
    let back = client.command("subscribe", place.request(CHANNEL)).await?;
    assert_eq!(back["error"]["code"], 100, "it is not lost: {back}");

    let database = system.database.as_mut().context("a database")?;
    database.restart().await?;
    let mut again = system.client().await?;
    let result = again.until_accepted("subscribe", &place.request(CHANNEL)).await?;
    assert_eq!(result["recovered"], true, "{result}");
    is_all(&system, &place, 0..151).await?;
    system.stop().await
}

/// What the log forgot before anybody stored it is gone, and said to be.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_stored_is_lost_and_said_to_be() -> Result<()> {
    let mut system = Forgetful::embedded("[persistence]\nstore = \"none\"\n").await?;
    let mut client = system.client().await?;
    let place = begin(&system, &mut client).await?;
    let first = offset_of(&mut client, 0).await?;
    system.forgotten(&mut client, first).await?;
    by_sdk(&system, &place, &[], false).await?;

    // The store is turned on afterwards: it never gets what is gone, and says so.
    system.write("")?;
    system.restart().await?;
    let mut client = system.client().await?;
    let begin = by_command(&mut client, false).await?;
    ensure!(begin.first().is_some_and(|first| *first > 0), "nothing is gone");
    assert_eq!(begin, (begin[0]..150).collect::<Vec<_>>(), "and nothing else");
    by_sdk(&system, &place, &[], false).await?;
    let kept = place.at(offset_of(&mut client, begin[0]).await?);
    by_sdk(&system, &kept, &begin[1..], true).await?;

    // The log forgets these, too; now they are stored.
    system.say(&mut client, 150..400).await?;
    system.forgotten(&mut client, kept.offset + (1 << 12)).await?;
    let missed: Vec<u64> = (begin[0] + 1..400).collect();
    by_sdk(&system, &kept, &missed, true).await?;
    by_sdk(&system, &place, &[], false).await?;
    system.stop().await
}
