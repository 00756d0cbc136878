//! A gateway of its own for each test, and a client that shows the wire as it is.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use switchboard_bus::embedded::EmbeddedBus;
use switchboard_bus::messages::{AskError, answered};
use switchboard_bus::{BusMessage, SubjectPrefix, Subscription};
use switchboard_proto::bus::Question;
use switchboard_proto::client::{Command, ConnectRequest, Reply};
use switchboard_proto::{format, protobuf};
use switchboard_registry::memory::MemoryRegistry;
use switchboard_service_kit::config::Document;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::super::*;

pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// Of every node here.
pub(super) const SHARDS: u32 = 2;

pub(super) struct Node {
    pub(super) address: SocketAddr,
    /// The server API's.
    pub(super) api: Option<SocketAddr>,
    pub(super) incarnation: Incarnation,
    pub(super) context: Context,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) gateway: Arc<Gateway>,
}

/// A registry of one gateway.
pub(super) fn own_registry() -> OpenRegistry {
    OpenRegistry {
        registry: Arc::new(MemoryRegistry::new(100)),
        lease: Duration::from_secs(15),
    }
}

/// A bus of one gateway.
pub(super) fn own_bus() -> Arc<EmbeddedBus> {
    EmbeddedBus::new(SubjectPrefix::new("test").unwrap())
}

impl Node {
    /// A gateway with the `[gateway]` section `keys`. No shard has an owner, so that nobody is given an inbox.
    pub(super) async fn start(keys: &str) -> Self {
        Self::start_on(own_bus(), own_registry(), keys).await
    }

    /// As [`Node::start`], in a system with this registry.
    pub(super) async fn start_beside(registry: OpenRegistry, keys: &str) -> Self {
        Self::start_on(own_bus(), registry, keys).await
    }

    /// As [`Node::start`], on a bus and a registry that others may share.
    pub(super) async fn start_on(bus: Arc<dyn Bus>, registry: OpenRegistry, keys: &str) -> Self {
        // Most have no store that could say who is blocked, and nobody is to wait for one.
        let text = format!(
            "[gateway]\nlisten = \"127.0.0.1:0\"\ninbox = false\nmoderation.start_wait = \"0s\"\n{keys}"
        );
        Self::of(bus, registry, Document::parse(&text, []).unwrap()).await
    }

    /// As a configuration file says, and it is looked at.
    pub(super) async fn of_file(file: &std::path::Path) -> Self {
        let document = Document::load(Some(file), []).unwrap();
        Self::of(own_bus(), own_registry(), document).await
    }

    async fn of(bus: Arc<dyn Bus>, registry: OpenRegistry, mut document: Document) -> Self {
        let config = Config::read(&mut document);
        document.finish().unwrap();
        let context = Context::new();
        let deps = Deps {
            bus: Arc::clone(&bus),
            shards: ShardCount::new(SHARDS).unwrap(),
            registry,
            data: None,
            extra: Router::new().route("/", axum::routing::get(async || "demo")),
        };
        let (running, gateway) = open(config, deps, context.clone()).await.unwrap();
        Self {
            address: running.address,
            api: running.api.map(|api| api.address),
            incarnation: running.incarnation,
            context,
            bus,
            gateway,
        }
    }

    /// One where nobody needs a token.
    pub(super) async fn insecure(keys: &str) -> Self {
        Self::start(&format!("insecure = true\n{keys}")).await
    }

    pub(super) fn url(&self) -> String {
        format!("ws://{}{}", self.address, upgrade::PATH)
    }

    pub(super) async fn client(&self) -> Client {
        Client::open(&self.url(), &[]).await.unwrap()
    }

    /// A client whose `connect` was answered.
    pub(super) async fn connected(&self) -> Client {
        let mut client = self.client().await;
        client.send(r#"{"id":1,"connect":{}}"#).await;
        assert!(
            client
                .reply()
                .await
                .starts_with(r#"{"id":1,"connect":{"client":""#)
        );
        client
    }

    /// A client that speaks Protobuf and has not said anything yet.
    pub(super) async fn protobuf_client(&self) -> Client {
        let header = ("sec-websocket-protocol", "centrifuge-protobuf");
        Client::open(&self.url(), &[header]).await.unwrap()
    }

    /// One whose `connect` was answered.
    pub(super) async fn protobuf_connected(&self) -> Client {
        let mut client = self.protobuf_client().await;
        let connect = Command {
            id: 1,
            connect: Some(ConnectRequest::default()),
            ..Command::default()
        };
        client.send_commands(&[connect]).await;
        let reply = client.protobuf_reply().await;
        assert_eq!(reply.id, 1);
        assert!(!reply.connect.unwrap().client.is_empty());
        client
    }

    /// The value of the metric `line`, name with labels.
    pub(super) fn metric(&self, line: &str) -> u64 {
        let page = self.context.metrics.encode();
        let value = page
            .lines()
            .find_map(|each| each.strip_prefix(line)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until the metric `line` is `value`.
    pub(super) async fn until(&self, line: &str, value: u64) {
        let reached = async {
            while self.metric(line) != value {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = tokio::time::timeout(DEADLINE, reached).await;
        assert!(
            reached.is_ok(),
            "{line} is {}, not {value}\n{}",
            self.metric(line),
            self.context.metrics.encode()
        );
    }
}

/// The next question to the store that a test plays. Every gateway asks about moderation from time to time: of that there is none.
pub(super) async fn next_question(bus: &dyn Bus, questions: &mut Subscription) -> Option<BusMessage> {
    loop {
        let asked = questions.next().await?;
        let question: Question = format::decode(asked.payload.clone()).unwrap();
        if !matches!(&*question.method, "ModerationLog" | "Restrictions") {
            return Some(asked);
        }
        let none = Err(AskError::NotAvailable("no moderation here".to_owned()));
        bus.reply(&asked.reply.unwrap(), answered(none)).await.unwrap();
    }
}

pub(super) struct Client {
    pub(super) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The subprotocol that the gateway selected.
    pub(super) subprotocol: Option<String>,
    replies: VecDeque<String>,
    protobuf_replies: VecDeque<Reply>,
}

impl Client {
    pub(super) async fn open(url: &str, headers: &[(&'static str, &str)]) -> Result<Self, Error> {
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let config = WebSocketConfig::default().read_buffer_size(1024);
        let opening = connect_async_with_config(request, Some(config), true);
        let (socket, response) = tokio::time::timeout(DEADLINE, opening).await.unwrap()?;
        let subprotocol = response.headers().get("sec-websocket-protocol");
        let asked = headers.iter().find(|(name, _)| *name == "sec-websocket-protocol");
        assert_eq!(subprotocol.is_some(), asked.is_some());
        Ok(Self {
            socket,
            subprotocol: subprotocol.map(|name| name.to_str().unwrap().to_owned()),
            replies: VecDeque::new(),
            protobuf_replies: VecDeque::new(),
        })
    }

    pub(super) async fn send(&mut self, frame: &str) {
        self.send_message(Message::text(frame)).await;
    }

    pub(super) async fn send_message(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    /// In one binary frame.
    pub(super) async fn send_commands(&mut self, commands: &[Command]) {
        let mut frame = Vec::new();
        for command in commands {
            protobuf::write_command(command, &mut frame);
        }
        self.send_message(Message::binary(frame)).await;
    }

    pub(super) async fn message(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(DEADLINE, self.socket.next())
            .await
            .expect("an answer in time")
    }

    /// The next reply or push, as its text.
    pub(super) async fn reply(&mut self) -> String {
        while self.replies.is_empty() {
            match self.message().await {
                Some(Ok(Message::Text(text))) => {
                    self.replies.extend(text.split('\n').map(str::to_owned));
                }
                other => panic!("expected a reply: {other:?}"),
            }
        }
        self.replies.pop_front().unwrap()
    }

    /// The next reply or push of a Protobuf connection.
    pub(super) async fn protobuf_reply(&mut self) -> Reply {
        while self.protobuf_replies.is_empty() {
            match self.message().await {
                Some(Ok(Message::Binary(frame))) => {
                    let replies: Result<Vec<_>, _> = protobuf::replies(&frame).collect();
                    self.protobuf_replies.extend(replies.unwrap());
                }
                other => panic!("expected a reply: {other:?}"),
            }
        }
        self.protobuf_replies.pop_front().unwrap()
    }

    /// As [`Client::reply`], read.
    pub(super) async fn json(&mut self) -> serde_json::Value {
        serde_json::from_str(&self.reply().await).unwrap()
    }

    /// Code and reason of the close frame, behind any replies.
    pub(super) async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.message().await {
                Some(Ok(Message::Text(_) | Message::Binary(_))) => {}
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    return (code.into(), reason.to_string());
                }
                other => panic!("expected a close frame: {other:?}"),
            }
        }
    }

    /// As [`Client::closed`], and no reply comes before it.
    pub(super) async fn closed_without_reply(&mut self) -> (u16, String) {
        assert!(self.replies.is_empty(), "{:?}", self.replies);
        match self.message().await {
            Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => (code.into(), reason.to_string()),
            other => panic!("expected a close frame: {other:?}"),
        }
    }

    /// The gateway still answers this client.
    pub(super) async fn assert_lives(&mut self) {
        self.send(r#"{"id":4000000000,"rpc":{"method":"any"}}"#).await;
        let answer = r#"{"id":4000000000,"error":{"code":108,"message":"not available"}}"#;
        assert_eq!(self.reply().await, answer);
    }
}
