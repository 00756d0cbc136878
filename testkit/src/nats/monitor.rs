//! Asks a nats-server's monitoring port how it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than any answer of a test's server; what does not fit is cut off.
const MAX_ANSWER: u64 = 4 << 20;

const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the server and its JetStream serve: alone, or in contact with the cluster's leader.
pub(super) async fn is_healthy(port: u16) -> bool {
    matches!(get(port, "/healthz").await, Ok(answer) if answer.starts_with("HTTP/1.0 200"))
}

/// Whether this server leads the cluster and is in contact with `others` more: only a leader sees
/// all of them as current. Before that, it may find no place for a stream.
pub(super) async fn leads(port: u16, others: usize) -> bool {
    let Ok(answer) = get(port, "/jsz").await else {
        return false;
    };
    let Some((_, cluster)) = answer.split_once("\"meta_cluster\"") else {
        return false;
    };
    let is_offline = cluster.contains("\"offline\": true");
    !is_offline && cluster.matches("\"current\": true").count() == others
}

/// The name of the server that leads `stream`, as this server sees it.
pub(super) async fn stream_leader(port: u16, stream: &str) -> Option<String> {
    let answer = get(port, "/jsz?streams=true").await.ok()?;
    // {"name":"STREAM", … "cluster":{ … "leader":"n1" …}}, spread over lines.
    let (_, detail) = answer.split_once(&format!("\"name\": \"{stream}\""))?;
    let (_, leader) = detail.split_once("\"leader\": \"")?;
    leader.split('"').next().map(str::to_owned)
}

async fn get(port: u16, path: &str) -> Result<String> {
    let answer = tokio::time::timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
            .await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    });
    let answer = answer.await.context("no answer")??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
