//! A gateway that has had many clients needs no more memory than one that has had half as many.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use switchboard_testkit::wait_until;
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::client::DEADLINE;
use switchboard_e2e::process::Process;

/// Connections in each half.
const HALF: usize = 20_000;

/// At the same time.
const TOGETHER: usize = 50;

/// How much more memory there may be after the second half than after the first, in percent.
const GROWTH: u64 = 5;

/// Limits that count and let everybody pass; and fewer addresses than there come.
const CONFIG: &str = r#"
[gateway]
insecure = true

[gateway.limits]
connect_rate = 1000000
connect_burst = 1000000
addresses = 1000
"#;

/// Connects, subscribes, and leaves, in the way that `number` says.
async fn visit(gateway: SocketAddr, number: usize) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    // Ports that were in use a moment ago are not free again so quickly.
    let octet = |number: usize| u8::try_from(number % 250).map(|octet| octet + 1);
    let address = Ipv4Addr::new(127, 0, octet(number / 250)?, octet(number)?);
    socket.bind(SocketAddr::from((address, 0)))?;
    let stream = socket.connect(gateway).await?;
    let url = format!("ws://{gateway}/connection/websocket");
    let (mut socket, _) = client_async(url, stream).await?;
    let subscribe = format!(
        "{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"room:{}\"}}}}",
        number % 1000
    );
    socket.send(Message::text(subscribe)).await?;
    loop {
        let message = socket.next().await.context("closed before the answer")??;
        if message.to_text()?.contains(r#""id":2,"subscribe""#) {
            break;
        }
    }
    if number.is_multiple_of(2) {
        socket.close(None).await?;
        // The other side's close frame, and its end.
        while let Some(Ok(_)) = socket.next().await {}
    }
    Ok(())
}

async fn half(gateway: SocketAddr, half: usize) -> Result<()> {
    stream::iter(half * HALF..(half + 1) * HALF)
        .map(|number| async move {
            timeout(DEADLINE, visit(gateway, number))
                .await
                .with_context(|| format!("connection {number} took too long"))?
                .with_context(|| format!("connection {number}"))
        })
        .buffer_unordered(TOGETHER)
        .try_collect::<()>()
        .await
}

/// Pages of memory that the process holds.
fn resident(process: &Process) -> Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", process.id()))?;
    let pages = statm.split(' ').nth(1).context("statm has a second number")?;
    Ok(pages.parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_number_of_clients_there_have_been() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("switchboard.toml"), CONFIG)?;
    let system = Process::start("switchboard", folder.path(), &["--config", "switchboard.toml"]).await?;
    let mut after = [0; 2];
    for (number, after) in after.iter_mut().enumerate() {
        half(system.gateway(), number).await?;
        let gone = async || {
            let connections = system.metric("switchboard_gateway_connections").await;
            connections.is_ok_and(|connections| connections == 0)
        };
        wait_until(Duration::from_secs(30), gone)
            .await
            .context("connections are left")?;
        *after = resident(&system)?;
    }
    let [first, second] = after;
    println!(
        "{first} pages after {HALF} connections, {second} after {}",
        2 * HALF
    );
    ensure!(
        second * 100 <= first * (100 + GROWTH),
        "{first} pages after {HALF} connections, {second} after {}",
        2 * HALF
    );
    Ok(())
}
