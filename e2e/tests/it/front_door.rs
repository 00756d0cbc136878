//! What stands between the network and sessions, with the shipped binary: clients that send without end, and TLS.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use switchboard_testkit::wait_until;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Client, DEADLINE};
use crate::tools;
use switchboard_e2e::process::{Process, host};

/// Within which every command is answered, by the protocol.
const ANSWER: Duration = Duration::from_secs(4);

const FLOOD: usize = 100_000;

/// How long a busy machine may take for a whole flood.
const FLOOD_DEADLINE: Duration = Duration::from_secs(180);

async fn start(folder: &Path, config: &str) -> Result<Process> {
    std::fs::write(folder.join("switchboard.toml"), config)?;
    Process::start("switchboard", folder, &["--config", "switchboard.toml"]).await
}

/// Sends [`FLOOD`] publishes, each in a frame of its own, and reads what comes meanwhile; the code of the close frame, if one came
/// before all of them were answered.
async fn flood(url: &str) -> Result<Option<u16>> {
    let (socket, _) = connect_async(url).await?;
    let (mut sink, mut stream) = socket.split();
    sink.send(Message::text(r#"{"id":1,"connect":{}}"#)).await?;
    let writing = async {
        for id in 2..FLOOD + 2 {
            let command = format!(
                r#"{{"id":{id},"publish":{{"channel":"room:flood-{}","data":{id}}}}}"#,
                id % 16
            );
            if sink.feed(Message::text(command)).await.is_err() {
                // Closed on: reading says with which code.
                break;
            }
        }
        sink.flush().await.ok();
        // Kept open until everything has come.
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut answers = 0;
        while answers < FLOOD {
            match stream.next().await.context("ended without a close frame")?? {
                Message::Text(text) => {
                    answers += text
                        .lines()
                        .filter(|line| line.contains(r#""publish""#) || line.contains(r#""error""#))
                        .count()
                }
                Message::Close(frame) => return Ok(frame.map(|frame| frame.code.into())),
                _ => {}
            }
        }
        Ok(None)
    };
    let ended = async {
        tokio::select! {
            () = writing => unreachable!("pends"),
            code = reading => code,
        }
    };
    timeout(FLOOD_DEADLINE, ended)
        .await
        .context("a flood without end")?
}

/// Another session's publishes, to channels of all shards, one after the other; how many were answered, each in time.
async fn publish_meanwhile(
    client: &mut Client,
    floods: impl Future<Output = Result<Option<u16>>>,
) -> Result<(Option<u16>, usize)> {
    tokio::pin!(floods);
    let mut answered = 0;
    loop {
        let begin = Instant::now();
        let channel = format!("room:calm-{}", answered % 16);
        let publishing = client.publish(&channel, json!(answered));
        tokio::select! {
            code = &mut floods => return Ok((code?, answered)),
            published = publishing => published?,
        }
        ensure!(
            begin.elapsed() < ANSWER,
            "publish {answered} was answered after {:?}",
            begin.elapsed()
        );
        answered += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_closed_and_disturbs_nobody() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let system = start(folder.path(), "gateway.insecure = true").await?;
    let url = system.websocket_url();
    let mut calm = Client::connect(&url).await?;
    let (code, _) = publish_meanwhile(&mut calm, flood(&url)).await?;
    assert_eq!(code, Some(3013));
    calm.publish("room:after", json!(1)).await?;
    Ok(())
}

/// Also where the operator has allowed it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_without_limits_disturbs_nobody() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config =
        "gateway.insecure = true\ngateway.limits.command_rate = 0\ngateway.outgoing_queue = \"256MiB\"";
    let system = start(folder.path(), config).await?;
    let url = system.websocket_url();
    let mut calm = Client::connect(&url).await?;
    let (code, answered) = publish_meanwhile(&mut calm, flood(&url)).await?;
    assert_eq!(code, None);
    assert!(answered > 10, "{answered} publishes while {FLOOD} others were");
    Ok(())
}

/// A new pair of certificate and key in `folder`; the certificate, as PEM.
fn issue(folder: &Path) -> Result<String> {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned(), host().to_string()])?;
    std::fs::write(folder.join("key.pem"), issued.signing_key.serialize_pem())?;
    std::fs::write(folder.join("certificate.pem"), issued.cert.pem())?;
    Ok(issued.cert.pem())
}

/// Never by the clock, within a test: only SIGHUP reloads.
const TLS: &str = "gateway.insecure = true\n[gateway.tls]\ncertificate_file = \"certificate.pem\"\nkey_file = \"key.pem\"\nreload_interval = \"1h\"";

/// The demo page, for a client that trusts this certificate alone.
async fn page(system: &Process, certificate: &str) -> Result<String> {
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(certificate.as_bytes())?])
        .resolve("localhost", system.gateway())
        .build()?;
    let url = format!("https://localhost:{}/", system.gateway().port());
    Ok(client.get(url).send().await?.text().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_on_sighup() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let before = issue(folder.path())?;
    let system = start(folder.path(), TLS).await?;
    assert!(page(&system, &before).await?.contains("<h1>Switchboard</h1>"));
    let after = issue(folder.path())?;
    assert!(page(&system, &after).await.is_err(), "nobody has told it");
    system.hang_up()?;
    wait_until(DEADLINE, async || page(&system, &after).await.is_ok()).await?;
    assert!(page(&system, &before).await.is_err());
    let status = system.terminate().await?;
    assert!(status.success(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_sdk_over_tls() -> Result<()> {
    let folder = tempfile::tempdir()?;
    issue(folder.path())?;
    let config = TLS.replacen(
        '\n',
        "\ngateway.ping_interval = \"1s\"\ngateway.pong_timeout = \"800ms\"\n",
        1,
    );
    let system = start(folder.path(), &config).await?;
    let endpoint = format!("wss://{}/connection/websocket", system.gateway());
    let certificate = folder.path().join("certificate.pem").display().to_string();
    let environment = [
        ("SWITCHBOARD_ENDPOINTS", endpoint.as_str()),
        ("NODE_EXTRA_CA_CERTS", certificate.as_str()),
    ];
    tools::node("sdk.test.js", &environment).await
}
