//! A server that breaks promises: it stands between clients and a gateway, and now and then does to what passes what no gateway may do. A
//! verdict that does not notice is worth nothing.

mod spoil;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use switchboard_proto::protobuf::{commands, replies, write_command, write_reply};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{accept_hdr_async, connect_async};

pub use self::spoil::Spoil;

use self::spoil::Spoiling;

const PROTOBUF: &str = "centrifuge-protobuf";

/// So long a client is away that comes back, and misses something meanwhile.
const AWAY: Duration = Duration::from_millis(200);

/// See the module. Dropped: its connections are cut.
pub(super) struct Spoiler {
    addresses: Vec<SocketAddr>,
    _listening: JoinSet<()>,
}

impl Spoiler {
    pub(super) async fn start(spoil: Spoil, gateways: &[String]) -> Result<Self> {
        let mut addresses = Vec::new();
        let mut listening = JoinSet::new();
        let first = Arc::new(OnceLock::new());
        for gateway in gateways {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            addresses.push(listener.local_addr().context("an address")?);
            listening.spawn(listen(listener, gateway.clone(), spoil, Arc::clone(&first)));
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

async fn listen(listener: TcpListener, gateway: String, spoil: Spoil, first: Arc<OnceLock<Instant>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let spoiling = Spoiling::new(spoil, Arc::clone(&first));
        if spoil == Spoil::Shut && spoiling.refuses() {
            continue;
        }
        let gateway = gateway.clone();
        let is_late = matches!(spoil, Spoil::Deny | Spoil::Pretend) && first.get().is_some();
        connections.spawn(async move {
            if is_late {
                sleep(AWAY).await;
            }
            pass(stream, gateway, spoiling).await
        });
    }
}

#[expect(clippy::result_large_err, reason = "the library's own type of a refusal")]
async fn pass(stream: TcpStream, gateway: String, mut spoiling: Spoiling) -> Result<(), Error> {
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
    while !spoiling.is_cut() {
        tokio::select! {
            message = client.next() => {
                let Some(message) = message else { return Ok(()) };
                let (passed, answered) = up(message?, &mut spoiling);
                if let Some(message) = passed {
                    server.send(message).await?;
                }
                if let Some(message) = answered {
                    client.send(message).await?;
                }
            }
            message = server.next() => {
                let Some(message) = message else { return Ok(()) };
                if let Some(message) = down(message?, &mut spoiling) {
                    client.send(message).await?;
                }
            }
        }
    }
    Ok(())
}

/// What the gateway is sent, and what the client is answered.
fn up(message: Message, spoiling: &mut Spoiling) -> (Option<Message>, Option<Message>) {
    let Message::Binary(frame) = &message else {
        return (Some(message), None);
    };
    let (mut passed, mut answered) = (Vec::new(), Vec::new());
    for command in commands(frame).flatten() {
        match spoiling.command(command) {
            Ok(command) => write_command(&command, &mut passed),
            Err(reply) => write_reply(&reply, &mut answered),
        }
    }
    (binary(passed), binary(answered))
}

/// What the client is sent.
fn down(message: Message, spoiling: &mut Spoiling) -> Option<Message> {
    let Message::Binary(frame) = &message else {
        return Some(message);
    };
    let mut spoiled = Vec::new();
    for reply in replies(frame).flatten() {
        spoiling.reply(reply, &mut spoiled);
    }
    let mut passed = Vec::new();
    for reply in &spoiled {
        write_reply(reply, &mut passed);
    }
    binary(passed)
}

fn binary(frame: Vec<u8>) -> Option<Message> {
    (!frame.is_empty()).then(|| Message::Binary(frame.into()))
}
