//! The server API with other people's libraries, on both backends, and the key that is made where none is configured.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, ensure};

use crate::system::{API_KEY, Access, Pings, SECRET, System};
use crate::tools;
use switchboard_e2e::process::Process;

async fn libraries(system: &System) -> Result<()> {
    let gateways = system.websocket_urls().join(",");
    let apis = system.api_urls().join(",");
    let environment = [
        ("SWITCHBOARD_ENDPOINTS", gateways.as_str()),
        ("SWITCHBOARD_API_ENDPOINTS", apis.as_str()),
        ("SWITCHBOARD_API_KEY", API_KEY),
        ("SWITCHBOARD_SECRET", SECRET),
    ];
    tools::node("server_api.test.js", &environment).await?;
    tools::python("server_api_test", &environment).await
}

#[tokio::test(flavor = "multi_thread")]
async fn server_api_on_embedded() -> Result<()> {
    let system = System::embedded_for(Access::Tokens, Pings::Seldom).await?;
    libraries(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn server_api_on_a_cluster() -> Result<()> {
    let system = System::cluster_for(Access::Tokens, 2, 2, Pings::Seldom).await?;
    libraries(&system).await?;
    system.stop().await
}

/// A newcomer finds it in the greeting, and it is the same after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_at_the_first_start_and_said_where() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let process = Process::start("switchboard", folder.path(), &[]).await?;
        let printed = process.printed()?;
        let line = printed
            .lines()
            .find(|line| line.starts_with("  server API"))
            .context("no line about the server API")?;
        let (_, file) = line.rsplit_once(' ').context("no file in that line")?;
        let file = folder.path().join(file);
        let mode = std::fs::metadata(&file)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the key's file has mode {mode:o}");
        let key = std::fs::read_to_string(&file)?.trim_end().to_owned();
        ensure!(!printed.contains(&key), "the key itself is said");
        let response = reqwest::Client::new()
            .post(format!("{}/publish", process.api_url()))
            .header("X-API-Key", &key)
            .body(r#"{"channel":"room:1","data":{"text":"hello"}}"#)
            .send()
            .await?;
        let body = response.text().await?;
        ensure!(body.contains("\"offset\":"), "{body}");
        keys.push(key);
        let status = process.terminate().await?;
        ensure!(status.success(), "{status}");
    }
    ensure!(keys.first() == keys.last(), "another key after the restart");
    Ok(())
}
