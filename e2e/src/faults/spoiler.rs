//! A server that breaks promises: it stands between clients and a gateway, and loses, doubles or swaps a message now and then. A
//! verdict that does not notice is worth nothing.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use switchboard_proto::protobuf::replies;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{accept_hdr_async, connect_async};

/// How it breaks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// A message is not passed on.
    Lose,
    /// It is passed on again.
    Double,
    /// The one behind it goes first.
    Swap,
}

/// Every so many messages of a connection.
const EVERY: usize = 20;

const PROTOBUF: &str = "centrifuge-protobuf";

/// See the module. Dropped: its connections are cut.
pub(super) struct Spoiler {
    addresses: Vec<SocketAddr>,
    _listening: JoinSet<()>,
}

impl Spoiler {
    pub(super) async fn start(spoil: Spoil, gateways: &[String]) -> Result<Self> {
        let mut addresses = Vec::new();
        let mut listening = JoinSet::new();
        for gateway in gateways {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            addresses.push(listener.local_addr().context("an address")?);
            let gateway = gateway.clone();
            listening.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(pass(stream, gateway.clone(), spoil));
                }
            });
        }
        Ok(Self {
            addresses,
            _listening: listening,
        })
    }

    pub(super) fn urls(&self) -> Vec<String> {
        let urls = self
            .addresses
            .iter()
            .map(|to| format!("ws://{to}/connection/websocket"));
        urls.collect()
    }
}

#[expect(clippy::result_large_err, reason = "the library's own type of a refusal")]
async fn pass(stream: TcpStream, gateway: String, spoil: Spoil) -> Result<(), Error> {
    let protocol = HeaderValue::from_static(PROTOBUF);
    let accepted = protocol.clone();
    let mut client = accept_hdr_async(stream, move |_: &Request, mut response: Response| {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, accepted);
        Ok(response)
    })
    .await?;
    let mut request = gateway.into_client_request()?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    let (mut server, _) = connect_async(request).await?;
    let mut count = 0;
    let mut kept = None;
    loop {
        tokio::select! {
            message = client.next() => match message {
                Some(message) => server.send(message?).await?,
                None => return Ok(()),
            },
            message = server.next() => {
                let Some(message) = message else { return Ok(()) };
                let message = message?;
                if !is_publication(&message) {
                    client.send(message).await?;
                    continue;
                }
                count += 1;
                match spoil {
                    Spoil::Lose if count % EVERY == 0 => {}
                    Spoil::Double if count % EVERY == 0 => {
                        client.send(message.clone()).await?;
                        client.send(message).await?;
                    }
                    Spoil::Swap if count % EVERY == 0 && kept.is_none() => kept = Some(message),
                    _ => {
                        client.send(message).await?;
                        if let Some(kept) = kept.take() {
                            client.send(kept).await?;
                        }
                    }
                }
            }
        }
    }
}

/// Whether a frame holds nothing but what was said in a channel.
fn is_publication(message: &Message) -> bool {
    let Message::Binary(frame) = message else {
        return false;
    };
    let mut replies = replies(frame).peekable();
    replies.peek().is_some()
        && replies.all(|reply| reply.is_ok_and(|reply| reply.push.is_some_and(|push| push.r#pub.is_some())))
}
