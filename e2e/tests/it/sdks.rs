//! Other people's SDKs, unchanged, against both backends.

use std::time::Duration;

use anyhow::{Result, ensure};
use switchboard_testkit::wait_until;

use switchboard_e2e::process::Process;

use crate::system::{Access, Pings, SECRET, System};
use crate::tools;

/// Until node runs and its clients are connected.
const CONNECTED: Duration = Duration::from_secs(60);

/// What the clients of a run speak.
const ENCODINGS: [&str; 2] = ["json", "protobuf"];

/// Every test of both scripts in both encodings, and what concerns the encodings themselves.
async fn javascript(system: &System) -> Result<()> {
    let urls = system.websocket_urls().join(",");
    for encoding in ENCODINGS {
        tools::node("sdk.test.js", &environment(&urls, encoding)).await?;
        tools::node("history.test.js", &environment(&urls, encoding)).await?;
    }
    tools::node("encodings.test.js", &[("SWITCHBOARD_ENDPOINTS", &urls)]).await
}

async fn python(system: &System) -> Result<()> {
    let urls = system.websocket_urls().join(",");
    for encoding in ENCODINGS {
        tools::python("sdk_test", &environment(&urls, encoding)).await?;
    }
    Ok(())
}

fn environment<'a>(urls: &'a str, encoding: &'a str) -> [(&'a str, &'a str); 2] {
    [
        ("SWITCHBOARD_ENDPOINTS", urls),
        ("SWITCHBOARD_ENCODING", encoding),
    ]
}

/// Both SDKs with tokens, and what these may do. One after the other: each test is about seconds, and a busy machine has none to spare.
async fn tokens(system: &System) -> Result<()> {
    let urls = system.websocket_urls().join(",");
    let environment = [
        ("SWITCHBOARD_ENDPOINTS", urls.as_str()),
        ("SWITCHBOARD_SECRET", SECRET),
    ];
    tools::node("tokens.test.js", &environment).await?;
    tools::node("permissions.test.js", &environment).await?;
    tools::python("tokens_test", &environment).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_on_embedded() -> Result<()> {
    let system = System::embedded_for(Access::Tokens, Pings::Seldom).await?;
    tokens(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_on_a_cluster() -> Result<()> {
    let system = System::cluster_for(Access::Tokens, 2, 2, Pings::Seldom).await?;
    tokens(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_sdk_on_embedded() -> Result<()> {
    let system = System::embedded(Pings::EverySecond).await?;
    javascript(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_sdk_on_a_cluster() -> Result<()> {
    let system = System::cluster(2, 2, Pings::EverySecond).await?;
    javascript(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_sdk_on_embedded() -> Result<()> {
    let system = System::embedded(Pings::EverySecond).await?;
    python(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_sdk_on_a_cluster() -> Result<()> {
    let system = System::cluster(2, 2, Pings::EverySecond).await?;
    python(&system).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_sdk_is_told_when_a_gateway_stops() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("switchboard.toml");
    std::fs::write(&config, "[gateway]\ninsecure = true\n")?;
    let process = Process::start("switchboard", folder.path(), &["--config", "switchboard.toml"]).await?;
    let url = process.websocket_url();
    let connected = folder.path().join("connected");
    let ready = connected.display().to_string();
    let environment = [
        ("SWITCHBOARD_ENDPOINTS", url.as_str()),
        ("SWITCHBOARD_READY", ready.as_str()),
    ];
    let stopping = async {
        wait_until(CONNECTED, async || connected.exists()).await?;
        let status = process.terminate().await?;
        ensure!(status.success(), "{status}");
        Ok(())
    };
    tokio::try_join!(tools::node("system.test.js", &environment), stopping)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_sdk_loses_what_a_changed_file_takes_away() -> Result<()> {
    // Never by the clock, within a test: only SIGHUP reloads.
    const GATEWAY: &str = "gateway.reload_interval = \"1h\"\ngateway.tokens.anonymous = \"everybody\"\n";
    const SUBSCRIBE: &str = "allow_subscribe_for_client = true\nallow_subscribe_for_anonymous = true\n";
    const PUBLISH: &str = "allow_publish_for_client = true\nallow_publish_for_anonymous = true\n";
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("switchboard.toml");
    let before = format!("{GATEWAY}[namespaces.room]\n{SUBSCRIBE}[namespaces.hall]\n{SUBSCRIBE}{PUBLISH}");
    std::fs::write(&config, before)?;
    let process = Process::start("switchboard", folder.path(), &["--config", "switchboard.toml"]).await?;
    let url = process.websocket_url();
    let connected = folder.path().join("connected");
    let ready = connected.display().to_string();
    let environment = [
        ("SWITCHBOARD_ENDPOINTS", url.as_str()),
        ("SWITCHBOARD_READY", ready.as_str()),
    ];
    let changing = async {
        wait_until(CONNECTED, async || connected.exists()).await?;
        // A file that is no good ends nothing, and the process least of all.
        std::fs::write(&config, "[namespaces.room]\nnonsense = true\n")?;
        process.hang_up()?;
        let failed = "switchboard_gateway_policy_reloads_total{result=\"failed\"}";
        wait_until(CONNECTED, async || {
            process.metric(failed).await.is_ok_and(|failed| failed == 1)
        })
        .await?;
        ensure!(
            process.printed()?.contains("namespaces.room.nonsense"),
            "the fault is not named"
        );
        let after = format!(
            "{GATEWAY}gateway.ping_interval = \"9s\"\n[namespaces.room]\n[namespaces.hall]\n{SUBSCRIBE}"
        );
        std::fs::write(&config, after)?;
        process.hang_up()
    };
    tokio::try_join!(tools::node("policy.test.js", &environment), changing)?;
    let printed = process.printed()?;
    for key in [
        "gateway.ping_interval",
        "namespaces.hall.allow_publish_for_client",
    ] {
        ensure!(printed.contains(key), "{key} is not named: {printed}");
    }
    let status = process.terminate().await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// The page ships the build of the very package that the tests above run.
#[test]
fn the_demo_page_ships_the_tested_sdk() -> Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let tested = std::fs::read(root.join("js/node_modules/centrifuge/dist/centrifuge.js"))?;
    let shipped = std::fs::read(root.join("../console/vendor/centrifuge/centrifuge.js"))?;
    assert!(
        tested == shipped,
        "console/vendor is not the dist/centrifuge.js of e2e/js/package-lock.json"
    );
    Ok(())
}
