//! The network between a process and the servers that it speaks to: a proxy that can cut, silence and delay.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How it lets through what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Open,
    /// Connections are closed, new ones as well.
    Cut,
    /// Nothing comes through, and nobody is told.
    Silent,
    /// Each piece takes so much longer.
    Delayed(Duration),
}

/// Bytes that are passed on at a time.
const PIECE: usize = 16 * 1024;

/// See the module. Dropped: its connections are closed.
pub(super) struct Proxy {
    addresses: Vec<SocketAddr>,
    way: watch::Sender<Way>,
    _listening: JoinSet<()>,
}

impl Proxy {
    /// One address for each target.
    pub(super) async fn start(targets: &[SocketAddr]) -> Result<Self> {
        let way = watch::Sender::new(Way::Open);
        let mut addresses = Vec::new();
        let mut listening = JoinSet::new();
        for target in targets {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            addresses.push(listener.local_addr().context("an address")?);
            listening.spawn(listen(listener, *target, way.subscribe()));
        }
        Ok(Self {
            addresses,
            way,
            _listening: listening,
        })
    }

    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(super) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn listen(listener: TcpListener, target: SocketAddr, way: watch::Receiver<Way>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(pass(stream, target, way.clone()));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn pass(client: TcpStream, target: SocketAddr, mut way: watch::Receiver<Way>) {
    if *way.borrow() == Way::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (there, back) = (way.clone(), way.clone());
    tokio::select! {
        () = pump(from_client, to_server, there) => {}
        () = pump(from_server, to_client, back) => {}
        _ = way.wait_for(|way| *way == Way::Cut) => {}
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
) {
    let mut piece = vec![0; PIECE];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        let now = way.wait_for(|way| *way != Way::Silent).await.map(|way| *way);
        if let Ok(Way::Delayed(delay)) = now {
            sleep(delay).await;
        }
        if to.write_all(piece.get(..read).unwrap_or_default()).await.is_err() {
            return;
        }
    }
}
