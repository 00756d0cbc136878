//! `switchboard publish` and `switchboard listen`, as an operator types them.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use switchboard_testkit::wait_until;
use tokio::time::timeout;

use crate::client::{Client, DEADLINE};
use switchboard_e2e::child::Guarded;
use switchboard_e2e::process::{Process, binary, host};

/// Runs a command to its end.
async fn run(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary("switchboard")?);
    command.args(arguments).stdin(Stdio::null());
    let running = tokio::task::spawn_blocking(move || command.output());
    Ok(timeout(DEADLINE, running).await???)
}

async fn publish(url: &str, arguments: &[&str]) -> Result<Value> {
    let output = run(&[&["publish", "--url", url], arguments].concat()).await?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The lines that a running `listen` has printed, once there are so many.
async fn heard(listener: &Guarded, count: usize) -> Result<Vec<Value>> {
    let lines = || -> Result<Vec<Value>> {
        let printed = listener.printed()?;
        let whole = printed.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?)
    };
    wait_until(DEADLINE, async || lines().is_ok_and(|lines| lines.len() >= count))
        .await
        .with_context(|| format!("{count} lines: {:?}", listener.printed()))?;
    lines()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_heard() -> Result<()> {
    const CHANNEL: &str = "room:commands";
    let folder = tempfile::tempdir()?;
    let system = Process::start("switchboard", folder.path(), &[]).await?;
    let url = system.websocket_url();
    let mut command = Command::new(binary("switchboard")?);
    command.args(["listen", "--url", &url, CHANNEL, "room:other", "--count", "3"]);
    let mut listener = Guarded::spawn(&mut command)?;
    // Heard once it is subscribed.
    let metric = "switchboard_gateway_link_channels";
    let is_there = async || {
        let mut channels = 0;
        for shard in 0..4 {
            let line = format!("{metric}{{shard=\"{shard}\"}}");
            channels += system.metric(&line).await.unwrap_or(0);
        }
        // The operator's inbox is one of them.
        channels >= 2
    };
    wait_until(DEADLINE, is_there).await.context("no subscription")?;
    let first = publish(&url, &[CHANNEL, "{\"n\":1}", "--tag", "a=b", "--key", "once"]).await?;
    assert_eq!(first["duplicate"], false);
    let again = publish(&url, &[CHANNEL, "{\"n\":1}", "--key", "once"]).await?;
    assert_eq!((&again["id"], &again["duplicate"]), (&first["id"], &json!(true)));
    let first = heard(&listener, 1).await?.remove(0);
    assert_eq!(
        (&first["data"], &first["tags"]["a"]),
        (&json!({ "n": 1 }), &json!("b"))
    );
    assert_eq!(
        (&first["channel"], &first["user"]),
        (&json!(CHANNEL), &json!("operator"))
    );

    let mut client = Client::connect(&url).await?;
    client.publish(CHANNEL, json!(2)).await?;
    client.publish(CHANNEL, json!(3)).await?;
    let status = listener.ended(DEADLINE).await?;
    assert!(status.success(), "{status}");
    let all = heard(&listener, 3).await?;
    assert_eq!((&all[1]["data"], &all[2]["data"]), (&json!(2), &json!(3)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_tls_is_believed_by_its_authority() -> Result<()> {
    const CONFIG: &str = "gateway.insecure = true\n[gateway.tls]\ncertificate_file = \"certificate.pem\"\nkey_file = \"key.pem\"";
    const CHANNEL: &str = "room:tls";
    let folder = tempfile::tempdir()?;
    let certificate = folder.path().join("certificate.pem");
    let other = folder.path().join("other.pem");
    let issued = rcgen::generate_simple_self_signed([host().to_string()])?;
    std::fs::write(folder.path().join("key.pem"), issued.signing_key.serialize_pem())?;
    std::fs::write(&certificate, issued.cert.pem())?;
    let stranger = rcgen::generate_simple_self_signed([host().to_string()])?;
    std::fs::write(&other, stranger.cert.pem())?;
    std::fs::write(folder.path().join("switchboard.toml"), CONFIG)?;
    let system = Process::start("switchboard", folder.path(), &["--config", "switchboard.toml"]).await?;
    let url = format!("wss://{}/connection/websocket", system.gateway());
    let [certificate, other] = [&certificate, &other].map(|path| path.display().to_string());

    let first = publish(&url, &["--ca-file", &certificate, CHANNEL, "1"]).await?;
    let mut command = Command::new(binary("switchboard")?);
    command.args([
        "listen",
        "--url",
        &url,
        "--ca-file",
        &certificate,
        CHANNEL,
        "--count",
        "1",
    ]);
    let mut listener = Guarded::spawn(&mut command)?;
    // Another is said until one is heard: when it is subscribed is seen by that alone.
    wait_until(DEADLINE, async || {
        publish(&url, &["--ca-file", &certificate, CHANNEL, "2"])
            .await
            .is_ok()
            && !listener.runs()
    })
    .await?;
    let line = heard(&listener, 1).await?.remove(0);
    assert_eq!(line["data"], 2);
    assert!(line["offset"].as_u64() > first["offset"].as_u64());

    // Where a machine keeps whom it trusts is said to every program in the same way.
    let mut command = Command::new(binary("switchboard")?);
    command.args(["publish", "--url", &url, CHANNEL, "3"]);
    let mut trusting = Guarded::spawn(command.env("SSL_CERT_FILE", &certificate))?;
    let status = trusting.ended(DEADLINE).await?;
    assert!(status.success(), "{status}");

    let key = folder.path().join("key.pem").display().to_string();
    let nothing = folder.path().join("nothing.pem").display().to_string();
    for (arguments, word) in [
        (&["--ca-file", other.as_str()][..], "certificate"),
        // Those of this machine do not vouch for it.
        (&[], "certificate"),
        (&["--ca-file", &key], "no certificate in it"),
        (&["--ca-file", &nothing], "nothing.pem"),
    ] {
        let output = run(&[&["publish", "--url", &url], arguments, &[CHANNEL, "3"]].concat()).await?;
        let said = String::from_utf8(output.stderr)?;
        assert!(!output.status.success(), "{arguments:?}");
        assert!(
            said.contains(word) && said.trim_end().lines().count() == 1,
            "{said}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_told_in_one_line() -> Result<()> {
    for (arguments, word) in [
        (&["publish", "room:1", "hello"][..], "not JSON"),
        (&["publish", "--url", "ws://127.0.0.1:9/", "room:1", "1"], "--url"),
        (&["listen", "--url", "ws://127.0.0.1:9/", "room:1"], "--url"),
    ] {
        let output = run(arguments).await?;
        let said = String::from_utf8(output.stderr)?;
        assert!(!output.status.success());
        assert!(
            said.contains(word) && said.trim_end().lines().count() == 1,
            "{said}"
        );
    }
    Ok(())
}
