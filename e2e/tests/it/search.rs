//! Search as clients meet it: what they publish is found a moment later, in the channels that they may read.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use switchboard_testkit::PostgresServer;

use crate::client::Client;
use crate::system::{System, stored_in};
use crate::tools;
use switchboard_e2e::cluster::Cluster;

async fn javascript(urls: &str) -> Result<()> {
    for encoding in ["json", "protobuf"] {
        let environment = [
            ("SWITCHBOARD_ENDPOINTS", urls),
            ("SWITCHBOARD_ENCODING", encoding),
        ];
        tools::node("search.test.js", &environment).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_is_found_on_sqlite() -> Result<()> {
    let data = tempfile::tempdir()?;
    let path = data.path().join("messages.db");
    let sections = format!(
        "[bus.embedded]\npath = {:?}\n[persistence]\nstore = \"sqlite\"\n[persistence.sqlite]\npath = {path:?}\n",
        data.path().join("log")
    );
    let system = System::one(&sections).await?;
    javascript(&system.websocket_urls().join(",")).await?;
    system.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_is_found_on_postgres() -> Result<()> {
    let database = PostgresServer::start().await?;
    let cluster = Cluster::start_with(&stored_in(&database)).await?;
    let replicas = cluster.join_all(&["switchboard-persistence-svc"; 2]).await?;
    let gateway = cluster.gateways.first().context("a gateway")?;
    javascript(&gateway.websocket_url()).await?;
    cluster.stop_with(replicas).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_searched_where_nothing_is_stored() -> Result<()> {
    let data = tempfile::tempdir()?;
    let sections = format!(
        "[bus.embedded]\npath = {:?}\n[persistence]\nstore = \"none\"\n",
        data.path().join("log")
    );
    let system = System::one(&sections).await?;
    let urls = system.websocket_urls();
    let mut client = Client::connect(urls.first().context("a gateway")?).await?;
    let request = json!({ "method": "history.search", "data": { "query": "x", "channels": ["room:1"] } });
    let reply = client.command("rpc", request).await?;
    ensure!(reply["error"]["code"] == 108, "{reply}");
    system.stop().await
}
