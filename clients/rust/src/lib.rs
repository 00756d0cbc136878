//! A client of the Centrifuge client protocol, for the command line, the load generator and tests: one connection, no
//! task of its own, nothing hidden.
//!
//! It does not reconnect by itself: whoever uses it decides when, and goes on with [`Client::subscribe`] from the
//! [`Place`] it holds. Applications have the SDKs, which do all that.

mod encoding;
mod socket;
mod tls;

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use switchboard_proto::client::{
    Command, ConnectRequest, ConnectResult, Error, Publication, PublishRequest, Reply, SubscribeRequest,
    SubscribeResult,
};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

pub use encoding::Encoding;
pub use tls::{Tls, TlsError};

/// How a client connects.
#[derive(Debug, Clone)]
pub struct Options {
    /// A connection token; empty: none.
    pub token: String,
    /// What the client calls itself, for logs of the server.
    pub name: String,
    /// How messages are written.
    pub encoding: Encoding,
    /// Within which a connection has to stand and a command to be answered.
    pub timeout: Duration,
    /// Whom to trust behind `wss://`; `None`: whom this machine trusts, read anew for each connection.
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            token: String::new(),
            name: "rust".to_owned(),
            encoding: Encoding::Protobuf,
            timeout: Duration::from_secs(5),
            tls: None,
        }
    }
}

/// Where a client left off in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The life of the log.
    pub epoch: String,
    /// Everything up to here was received.
    pub offset: u64,
}

/// What the server says unasked, or in answer to [`Client::send`].
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The answer to the command with this id.
    Reply(Box<Reply>),
    /// Something was said in a channel.
    Publication {
        /// The channel.
        channel: String,
        /// What was said.
        publication: Box<Publication>,
    },
    /// The server ended a subscription.
    Unsubscribed {
        /// The channel.
        channel: String,
        /// The protocol's code: from 2500 on the client should subscribe again.
        code: u32,
    },
    /// Another push, such as of a server-side subscription.
    Other(Box<Reply>),
}

/// Why something did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection could not be opened, or broke.
    #[error("connection: {0}")]
    Socket(String),
    /// There is nobody to trust behind `wss://`.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server closed it.
    #[error("closed by the server with {code}: {reason}")]
    Closed {
        /// The close code.
        code: u16,
        /// What the server says.
        reason: String,
    },
    /// Nothing came in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The server refused a command.
    #[error("error {code}: {message}")]
    Refused {
        /// The protocol's code.
        code: u32,
        /// What the server says.
        message: String,
        /// Whether it is worth another try.
        temporary: bool,
    },
    /// What came is not the protocol.
    #[error("not the protocol: {0}")]
    Protocol(String),
}

impl From<Error> for ClientError {
    fn from(error: Error) -> Self {
        Self::Refused {
            code: error.code,
            message: error.message,
            temporary: error.temporary,
        }
    }
}

/// One connection. Dropping it cuts it without a word.
pub struct Client {
    socket: socket::Socket,
    options: Options,
    /// What a frame held behind what was taken of it, and what came while an answer was awaited. Bounded by what the
    /// server sends within [`Options::timeout`].
    arrived: VecDeque<Event>,
    /// Commands that were not sent yet, as a frame.
    unsent: Vec<u8>,
    last_id: u32,
    pings: u64,
    connected: ConnectResult,
}

impl Client {
    /// Opens a connection to `url` (`ws://…/connection/websocket`, or `wss://…`) and connects.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn connect(url: &str, options: Options) -> Result<Self, ClientError> {
        let opening = socket::open(url, options.encoding, options.tls.as_ref());
        let opened = timeout(options.timeout, opening)
            .await
            .map_err(|_| ClientError::TimedOut(options.timeout))??;
        let mut client = Self {
            socket: opened,
            arrived: VecDeque::new(),
            unsent: Vec::new(),
            last_id: 0,
            pings: 0,
            connected: ConnectResult::default(),
            options,
        };
        let request = ConnectRequest {
            token: client.options.token.clone(),
            name: client.options.name.clone(),
            ..ConnectRequest::default()
        };
        let connect = Command {
            connect: Some(request),
            ..Command::default()
        };
        client.connected = client.command(connect).await?.connect.unwrap_or_default();
        Ok(client)
    }

    /// What the server answered to `connect`.
    pub fn connected(&self) -> &ConnectResult {
        &self.connected
    }

    /// Subscribes, from `place` on where there is one. What was missed is in the result, and the rest follows.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn subscribe(
        &mut self,
        channel: &str,
        token: &str,
        place: Option<&Place>,
    ) -> Result<SubscribeResult, ClientError> {
        let request = SubscribeRequest {
            channel: channel.to_owned(),
            token: token.to_owned(),
            recover: place.is_some(),
            epoch: place.map(|place| place.epoch.clone()).unwrap_or_default(),
            offset: place.map_or(0, |place| place.offset),
            ..SubscribeRequest::default()
        };
        let command = Command {
            subscribe: Some(request),
            ..Command::default()
        };
        Ok(self.command(command).await?.subscribe.unwrap_or_default())
    }

    /// Sends a publish and does not wait; its id, which the [`Event::Reply`] has too.
    ///
    /// # Errors
    /// [`ClientError::Socket`].
    pub async fn publish(&mut self, channel: &str, data: bytes::Bytes) -> Result<u32, ClientError> {
        let id = self.add_publish(channel, data);
        self.flush().await?;
        Ok(id)
    }

    /// Adds a publish to the next frame, which [`Client::flush`] sends; its id.
    pub fn add_publish(&mut self, channel: &str, data: bytes::Bytes) -> u32 {
        let request = PublishRequest {
            channel: channel.to_owned(),
            data,
            ..PublishRequest::default()
        };
        self.add(Command {
            publish: Some(request),
            ..Command::default()
        })
    }

    fn add(&mut self, mut command: Command) -> u32 {
        self.last_id += 1;
        command.id = self.last_id;
        self.options.encoding.write(&command, &mut self.unsent);
        self.last_id
    }

    /// Sends what was added, in one frame.
    ///
    /// # Errors
    /// [`ClientError::Socket`].
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        match std::mem::take(&mut self.unsent) {
            frame if frame.is_empty() => Ok(()),
            frame => self.write(frame).await,
        }
    }

    /// Sends a command and does not wait; its id.
    ///
    /// # Errors
    /// [`ClientError::Socket`].
    pub async fn send(&mut self, command: Command) -> Result<u32, ClientError> {
        let id = self.add(command);
        self.flush().await?;
        Ok(id)
    }

    /// Sends a command and waits for its answer. What else comes is kept for [`Client::next`].
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] where the answer is an error.
    pub async fn command(&mut self, command: Command) -> Result<Reply, ClientError> {
        let id = self.send(command).await?;
        let mut kept = VecDeque::new();
        let answer = timeout(self.options.timeout, async {
            loop {
                match self.next().await? {
                    Event::Reply(reply) if reply.id == id => return Ok(*reply),
                    other => kept.push_back(other),
                }
            }
        })
        .await
        .unwrap_or(Err(ClientError::TimedOut(self.options.timeout)));
        kept.append(&mut self.arrived);
        self.arrived = kept;
        let reply = answer?;
        match reply.error {
            Some(error) => Err(error.into()),
            None => Ok(reply),
        }
    }

    /// What has come already, as far as it was read.
    pub fn arrived(&mut self) -> Option<Event> {
        self.arrived.pop_front()
    }

    /// Pings that came.
    pub fn pings(&self) -> u64 {
        self.pings
    }

    /// What comes next. Pings are answered here, so it has to be called for as long as the connection is to live.
    ///
    /// Cancel safe, except that the answer to a ping may be lost, which ends the connection.
    ///
    /// # Errors
    /// [`ClientError`]; the connection is over.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            if let Some(event) = self.arrived.pop_front() {
                return Ok(event);
            }
            match self.socket.next().await {
                Some(Ok(message @ (Message::Binary(_) | Message::Text(_)))) => self.frame(&message).await?,
                Some(Ok(Message::Close(close))) => {
                    let (code, reason) = close.map_or((1005, String::new()), |close| {
                        (close.code.into(), close.reason.to_string())
                    });
                    return Err(ClientError::Closed { code, reason });
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(socket(error)),
                None => return Err(ClientError::Socket("ended".to_owned())),
            }
        }
    }

    async fn frame(&mut self, frame: &Message) -> Result<(), ClientError> {
        let mut pings = 0;
        let encoding = self.options.encoding;
        encoding.read(frame, |reply| match reply {
            Reply {
                push: None, id: 0, ..
            } => pings += 1,
            Reply { push: Some(push), .. } => self.arrived.push_back(event(push)),
            reply => self.arrived.push_back(Event::Reply(Box::new(reply))),
        })?;
        self.pings += pings;
        if pings > 0 && self.connected.pong {
            let mut pong = Vec::new();
            encoding.write(&Command::default(), &mut pong);
            self.write(pong).await?;
        }
        Ok(())
    }

    async fn write(&mut self, frame: Vec<u8>) -> Result<(), ClientError> {
        let frame = self.options.encoding.message(frame)?;
        timeout(self.options.timeout, self.socket.send(frame))
            .await
            .map_err(|_| ClientError::TimedOut(self.options.timeout))?
            .map_err(socket)
    }
}

fn event(push: switchboard_proto::client::Push) -> Event {
    if let Some(publication) = push.r#pub {
        return Event::Publication {
            channel: push.channel,
            publication: Box::new(publication),
        };
    }
    if let Some(unsubscribe) = push.unsubscribe {
        return Event::Unsubscribed {
            channel: push.channel,
            code: unsubscribe.code,
        };
    }
    Event::Other(Box::new(Reply {
        push: Some(push),
        ..Reply::default()
    }))
}

fn socket(error: tokio_tungstenite::tungstenite::Error) -> ClientError {
    ClientError::Socket(error.to_string())
}
