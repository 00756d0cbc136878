//! L8: each service runs with no more rights in NATS than docs/operations.md gives it. Gateways and the idle services have none to
//! the log, and only routers may publish to its subjects.

use anyhow::{Context, Result, ensure};
use async_nats::{ConnectOptions, Event};
use serde_json::json;
use switchboard_testkit::NatsServer;
use tokio::sync::mpsc;

use crate::client::{Client, DEADLINE};
use switchboard_e2e::process::{Process, command};

const PASSWORD: &str = "secret";
const SERVICES: [&str; 5] = [
    "switchboard-router-svc",
    "switchboard-gateway",
    "switchboard-persistence-svc",
    "switchboard-presence-svc",
    "switchboard-notify-svc",
];

/// The block of docs/operations.md, with passwords for the test.
fn users() -> Result<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let page = std::fs::read_to_string(page)?;
    let (_, block) = page
        .split_once("    authorization {\n")
        .context("no block of users")?;
    let (block, _) = block.split_once("\n    }\n").context("the block has no end")?;
    ensure!(block.contains("$PASSWORD"), "no passwords to set:\n{block}");
    Ok(format!(
        "authorization {{\n{}\n}}\n",
        block.replace("$PASSWORD", PASSWORD)
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_crosses_with_the_rights_of_the_manual_and_a_gateway_cannot_touch_the_log() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let nats = NatsServer::start_with(&users()?).await?;
    for user in SERVICES.iter().chain(&["switchboard"]) {
        let config = format!(
            "[bus]\nbackend = \"nats\"\nshards = 4\n[bus.nats]\nurls = [{:?}]\nmax_bytes = \"64MiB\"\nuser = {user:?}\npassword = {PASSWORD:?}\n\
             [gateway]\ninsecure = true\n[persistence]\nstore = \"sqlite\"\n",
            nats.url()
        );
        std::fs::write(folder.path().join(format!("{user}.toml")), config)?;
    }
    let (done, printed) = command(
        "switchboard",
        folder.path(),
        &["--config", "switchboard.toml", "migrate"],
    )
    .await?;
    ensure!(done, "{printed}");
    let mut processes = Vec::new();
    for service in SERVICES {
        let config = format!("{service}.toml");
        processes.push(Process::start(service, folder.path(), &["--config", &config]).await?);
    }
    let gateway = processes
        .iter()
        .find(|process| process.name() == "switchboard-gateway")
        .context("no gateway")?;
    let mut client = Client::connect(&gateway.websocket_url()).await?;
    client.subscribe("dm:#alice,bob").await?;
    client.subscribe("#bob").await?;
    client.publish("dm:#alice,bob", json!("crosses")).await?;
    let history = client
        .must("history", json!({ "channel": "dm:#alice,bob", "limit": 1 }))
        .await?;
    assert_eq!(history["publications"][0]["data"], json!("crosses"));
    for _ in 0..2 {
        assert_eq!(client.publication().await?.data, "crosses");
    }
    // An operator looks, and begins a new epoch, with rights of their own.
    let operator = ["--config", "switchboard.toml", "log", "new-epoch", "--all"];
    let (done, printed) = command("switchboard", folder.path(), &operator).await?;
    ensure!(done, "{printed}");

    for subject in ["sb.log.2.0", "sb.layout", "$JS.API.STREAM.DELETE.SB_LOG_2_0"] {
        for user in &SERVICES[1..] {
            let (violations, mut heard) = mpsc::channel(8);
            let options = ConnectOptions::with_user_and_password((*user).to_owned(), PASSWORD.to_owned())
                .event_callback(move |event| {
                    let violations = violations.clone();
                    async move {
                        if let Event::ServerError(error) = event {
                            violations.send(error.to_string()).await.ok();
                        }
                    }
                });
            let nats = options.connect(nats.url()).await?;
            nats.publish(subject, "foreign".into()).await?;
            nats.flush().await?;
            let refusal = tokio::time::timeout(DEADLINE, heard.recv())
                .await?
                .context("no refusal")?;
            assert!(
                refusal.to_lowercase().contains("permissions violation") && refusal.contains(subject),
                "{user}, {subject}: {refusal}"
            );
        }
    }
    client.ended_all(&["dm:#alice,bob", "#bob"]).await?;
    client.subscribe("#bob").await?;
    client.publish("dm:#alice,bob", json!("still")).await?;
    assert_eq!(client.publication().await?.data, "still");
    for process in processes.into_iter().rev() {
        let printed = process.printed()?;
        assert!(
            !printed.to_lowercase().contains("permissions violation"),
            "{printed}"
        );
        let name = process.name();
        let status = process.terminate().await?;
        assert!(status.success(), "{name}: {status}");
    }
    Ok(())
}
