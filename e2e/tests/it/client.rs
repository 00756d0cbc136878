//! A client that speaks the JSON protocol itself, for what no SDK shows: the order of frames, commands that SDKs refuse to send, and
//! what comes after an unsubscribe.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use switchboard_e2e::process::Process;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::system::SECRET;

/// Longer than anything here takes on a busy machine of two cores.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Until a command that was answered with a temporary error is sent again.
const AGAIN: Duration = Duration::from_millis(50);

/// What the server sends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// The answer to the command with this id.
    Reply(Value),
    /// Something unasked: the object under `push`.
    Push(Value),
    Ping,
    /// The end, with the close code (none: TCP ended without a close frame).
    Closed(Option<u16>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Publication {
    pub(crate) channel: String,
    pub(crate) offset: u64,
    pub(crate) data: Value,
}

pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// What a frame held behind the message that was asked for.
    arrived: VecDeque<Event>,
    /// Replies that came while something else was awaited, by command.
    replies: HashMap<u64, Value>,
    /// Publications that came while something else was awaited, in order.
    publications: VecDeque<Publication>,
    /// Subscriptions that the server ended, with its code.
    pub(crate) ended: Vec<(String, u64)>,
    last_id: u64,
    /// The connection's id, once connected.
    pub(crate) id: String,
}

impl Client {
    /// A WebSocket, and nothing sent yet.
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let (socket, _) = timeout(DEADLINE, connect_async(url))
            .await
            .context("open timed out")??;
        Ok(Self {
            socket,
            arrived: VecDeque::new(),
            replies: HashMap::new(),
            publications: VecDeque::new(),
            ended: Vec::new(),
            last_id: 0,
            id: String::new(),
        })
    }

    /// Connected as the protocol means it.
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let mut client = Self::open(url).await?;
        let reply = client.command("connect", json!({})).await?;
        client.id = reply["connect"]["client"]
            .as_str()
            .context("the connect reply names no client")?
            .to_owned();
        Ok(client)
    }

    /// A connection of `user`; `None`: the user has as many as there may be (3504).
    pub(crate) async fn of_user(gateway: &Process, user: &str) -> Result<Option<Self>> {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::default(), &json!({ "sub": user }), &key)?;
        let mut client = Self::open(&gateway.websocket_url()).await?;
        client.send("connect", json!({ "token": token })).await?;
        loop {
            match client.event().await? {
                Event::Reply(reply) => {
                    ensure!(reply["connect"]["client"].is_string(), "{reply}");
                    return Ok(Some(client));
                }
                Event::Closed(Some(3504)) => return Ok(None),
                Event::Closed(code) => bail!("closed with {code:?}"),
                Event::Ping | Event::Push(_) => {}
            }
        }
    }

    /// One WebSocket text message, as it is.
    pub(crate) async fn send_frame(&mut self, frame: impl Into<String>) -> Result<()> {
        timeout(DEADLINE, self.socket.send(Message::text(frame.into())))
            .await
            .context("send timed out")??;
        Ok(())
    }

    /// The next event. Pings are not answered here.
    pub(crate) async fn event(&mut self) -> Result<Event> {
        timeout(DEADLINE, self.next_event())
            .await
            .context("nothing came in time")?
    }

    async fn next_event(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.arrived.pop_front() {
                return Ok(event);
            }
            match self.socket.next().await {
                Some(Ok(Message::Text(frame))) => {
                    for line in frame.strip_suffix('\n').unwrap_or(&frame).split('\n') {
                        self.arrived.push_back(parse(line)?);
                    }
                }
                Some(Ok(Message::Close(close))) => {
                    return Ok(Event::Closed(close.map(|close| close.code.into())));
                }
                Some(Ok(other)) => bail!("expected a text message, got {other:?}"),
                Some(Err(_)) | None => return Ok(Event::Closed(None)),
            }
        }
    }

    /// The next event that is not a ping. Pings are answered.
    async fn other_than_ping(&mut self) -> Result<Event> {
        loop {
            match self.next_event().await? {
                Event::Ping => self.send_frame("{}").await?,
                event => return Ok(event),
            }
        }
    }

    /// Sends one command and does not wait; returns its id.
    pub(crate) async fn send(&mut self, name: &str, request: Value) -> Result<u64> {
        self.last_id += 1;
        let id = self.last_id;
        self.send_frame(json!({ "id": id, name: request }).to_string())
            .await?;
        Ok(id)
    }

    /// Waits for the reply with this id. What comes before is kept: publications, and replies to other commands, which may come in
    /// any order.
    pub(crate) async fn reply(&mut self, id: u64) -> Result<Value> {
        let awaited = async {
            loop {
                if let Some(reply) = self.replies.remove(&id) {
                    return Ok(reply);
                }
                self.keep_next().await?;
            }
        };
        timeout(DEADLINE, awaited)
            .await
            .with_context(|| format!("no reply to command {id} in time"))?
    }

    /// Sends one command and waits for its reply, which may be an error.
    pub(crate) async fn command(&mut self, name: &str, request: Value) -> Result<Value> {
        let id = self.send(name, request).await?;
        self.reply(id).await
    }

    /// As [`Self::command`], and an error reply is an error.
    pub(crate) async fn must(&mut self, name: &str, request: Value) -> Result<Value> {
        let reply = self.command(name, request.clone()).await?;
        match reply.get("error") {
            Some(error) => bail!("{name} {request}: {error}"),
            None => Ok(reply[name].clone()),
        }
    }

    pub(crate) async fn subscribe(&mut self, channel: &str) -> Result<Value> {
        self.must("subscribe", json!({ "channel": channel })).await
    }

    pub(crate) async fn publish(&mut self, channel: &str, data: Value) -> Result<()> {
        self.must("publish", json!({ "channel": channel, "data": data }))
            .await
            .map(drop)
    }

    /// As [`Self::command`], again and again while the answer is error 100, which is temporary, as an app does it. Any other
    /// error is one.
    pub(crate) async fn until_accepted(&mut self, name: &str, request: &Value) -> Result<Value> {
        let trying = async {
            loop {
                let reply = self.command(name, request.clone()).await?;
                match reply["error"]["code"].as_u64() {
                    None => return Ok(reply[name].clone()),
                    Some(100) => tokio::time::sleep(AGAIN).await,
                    Some(_) => bail!("{name} {request}: {reply}"),
                }
            }
        };
        timeout(DEADLINE, trying)
            .await
            .with_context(|| format!("{name} {request} is not accepted"))?
    }

    /// The next publication of any channel.
    pub(crate) async fn publication(&mut self) -> Result<Publication> {
        let awaited = async {
            loop {
                if let Some(publication) = self.publications.pop_front() {
                    return Ok(publication);
                }
                self.keep_next().await?;
            }
        };
        timeout(DEADLINE, awaited)
            .await
            .context("no publication in time")?
    }

    /// Takes the next event that is not a ping, and keeps it for whoever asks.
    async fn keep_next(&mut self) -> Result<()> {
        match self.other_than_ping().await? {
            Event::Reply(reply) => {
                let id = reply["id"]
                    .as_u64()
                    .with_context(|| format!("a reply without id: {reply}"))?;
                let earlier = self.replies.insert(id, reply);
                ensure!(earlier.is_none(), "a second reply to command {id}");
            }
            Event::Push(push) => match push.get("unsubscribe") {
                Some(unsubscribe) => {
                    let text = || format!("not an unsubscribe push: {push}");
                    let channel = push["channel"].as_str().with_context(text)?;
                    self.ended.push((
                        channel.to_owned(),
                        unsubscribe["code"].as_u64().with_context(text)?,
                    ));
                }
                None => self.publications.push_back(publication(&push)?),
            },
            other => bail!("the connection ended: {other:?}"),
        }
        Ok(())
    }

    /// Waits until the server has ended these subscriptions because of another log (2500).
    pub(crate) async fn ended_all(&mut self, channels: &[&str]) -> Result<()> {
        let awaited = async {
            let is_ended = |ended: &[(String, u64)], channel: &str| {
                ended.iter().any(|(name, code)| name == channel && *code == 2500)
            };
            while !channels.iter().all(|channel| is_ended(&self.ended, channel)) {
                self.keep_next().await?;
            }
            Ok(())
        };
        timeout(DEADLINE, awaited)
            .await
            .with_context(|| format!("{channels:?} are not ended"))?
    }

    /// Publications that have come and were not asked for.
    pub(crate) fn kept(&self) -> usize {
        self.publications.len()
    }

    /// Waits until the server closes, whatever comes before, without answering pings; its close code.
    pub(crate) async fn closed(&mut self) -> Result<Option<u16>> {
        loop {
            if let Event::Closed(code) = self.event().await? {
                return Ok(code);
            }
        }
    }
}

fn parse(line: &str) -> Result<Event> {
    let message: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line:?}"))?;
    let fields = message
        .as_object()
        .with_context(|| format!("not an object: {line}"))?;
    Ok(match message.get("push") {
        _ if fields.is_empty() => Event::Ping,
        Some(push) => Event::Push(push.clone()),
        None => Event::Reply(message),
    })
}

fn publication(push: &Value) -> Result<Publication> {
    let text = || format!("not a publication: {push}");
    Ok(Publication {
        channel: push["channel"].as_str().with_context(text)?.to_owned(),
        offset: push["pub"]["offset"].as_u64().with_context(text)?,
        data: push["pub"].get("data").with_context(text)?.clone(),
    })
}
