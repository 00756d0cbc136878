//! The task of one connection: reads, writes, keeps time, and cleans up behind itself.
//!
//! A command may have to wait for a full link. The session is not read meanwhile, so that a client
//! that asks faster than its shard serves is slowed down, but it is still written to and pinged.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use switchboard_proto::codes::DisconnectCode;
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::SessionHandle;
use super::close::{End, close};
use super::commands::{Commands, Violation};
use super::encoding::{Encoding, Frame};
use super::questions::Answering;
use super::timers::{Due, OpenPing, Pings, Timers, Timing};
use super::wire::{ClientStream, Progress};
use crate::gateway::Gateway;
use crate::system_message::{SystemMessage, millis};

/// A client's socket.
pub(crate) type Socket = WebSocketStream<ClientStream>;

/// Bytes that are written before the session looks at its other work: a slow client's full queue
/// must delay neither its pings nor its commands for long. Also what is joined into one frame at most.
pub(super) const A_TURN: usize = 64 * 1024;

/// What clients are told when the gateway begins to stop.
const LEAVING: &str = "this gateway stops; the connection is closed at the given time, connect again then";

/// Runs a connection to its end. A panic inside ends this session with 3004, after which it is
/// passed on to the caller, who counts it.
pub(crate) async fn serve(
    gateway: &Arc<Gateway>,
    session: &Arc<SessionHandle>,
    pings: Pings,
    socket: &mut Socket,
) {
    let conversation = converse(gateway, session, pings, socket);
    // What a panic may have left half done belongs to this session and is thrown away: the socket is
    // only closed after it, and the rest is behind locks that are not held across a panic's way.
    let (end, panic) = match AssertUnwindSafe(conversation).catch_unwind().await {
        Ok(end) => (end, None),
        Err(panic) => (End::from(DisconnectCode::InternalServerError), Some(panic)),
    };
    // Links queue nothing from here on.
    session.close(match end {
        End::Disconnect { code, .. } => code,
        _ => DisconnectCode::BadRequest,
    });
    end.note(gateway, session);
    gateway.metrics.outgoing_peak(session.outgoing.peak());
    gateway
        .metrics
        .outgoing_dropped
        .inc_by(session.outgoing.take_dropped().into());
    // Neither waits for the other: a busy link must not keep a socket open.
    let forget = async {
        for channel in session.subscriptions.end() {
            gateway.types_no_more(session, &channel);
            let room = gateway.links.room(&channel).await;
            room.unsubscribe(session, None, channel);
        }
    };
    // Boxed, as all that is not always there: a connection takes room for the largest of its states.
    Box::pin(async { tokio::join!(close(gateway, session, socket, &end), forget) }).await;
    if let Some(panic) = panic {
        std::panic::resume_unwind(panic);
    }
}

async fn converse(
    gateway: &Arc<Gateway>,
    session: &Arc<SessionHandle>,
    pings: Pings,
    socket: &mut Socket,
) -> End {
    let mut commands = Commands::new(Arc::clone(gateway), Arc::clone(session), pings);
    let mut chores = Chores::new(Arc::clone(gateway), Arc::clone(session), pings);
    let open_ping = OpenPing::default();
    loop {
        // No order of preference: a client that is sent much must still be read, and the other way.
        let message = tokio::select! {
            chore = chores.next() => {
                if let Err(end) = chores.perform(chore, socket, &open_ping, false).await {
                    return end;
                }
                if !chores.is_subscription_over() && !session.is_policy_new() {
                    continue;
                }
                None
            }
            message = socket.next() => Some(message),
        };
        let frame = match message {
            // Subscriptions end as commands do: in their order, and waiting for full links.
            None => None,
            Some(Some(Ok(Message::Text(text)))) => Some(Frame::Text(text)),
            Some(Some(Ok(Message::Binary(bytes)))) => Some(Frame::Binary(bytes)),
            Some(Some(Ok(Message::Pong(_)))) => {
                // One that nobody asked for is nothing wrong in WebSocket.
                if pings == Pings::WebSocket {
                    open_ping.pong();
                }
                continue;
            }
            Some(Some(Ok(Message::Ping(_) | Message::Frame(_)))) => continue,
            Some(Some(Ok(Message::Close(_))) | None) => return End::Client,
            Some(Some(Err(error))) => return End::from(error),
        };
        if let Some(frame) = &frame {
            let why = match (session.encoding, frame) {
                (Encoding::Json, Frame::Text(_)) | (Encoding::Protobuf, Frame::Binary(_)) => None,
                (Encoding::Json, Frame::Binary(_)) => Some("binary frame on a JSON connection"),
                (Encoding::Protobuf, Frame::Text(_)) => Some("text frame on a Protobuf connection"),
            };
            if let Some(why) = why {
                return End::from(Violation {
                    code: DisconnectCode::BadRequest,
                    why: why.into(),
                });
            }
            gateway.metrics.frames_in.inc();
            gateway.metrics.bytes_in.inc_by(frame.len() as u64);
        }
        {
            let carried_out = async {
                match &frame {
                    Some(frame) => commands.frame(frame, &open_ping).await,
                    None => {
                        commands.end_expired().await;
                        commands.apply_policy().await;
                        Ok(())
                    }
                }
            };
            let mut carried_out = Box::pin(carried_out);
            loop {
                tokio::select! {
                    biased;
                    carried_out = &mut carried_out => match carried_out {
                        Ok(()) => break,
                        Err(violation) => return End::from(violation),
                    },
                    chore = chores.next() => {
                        if let Err(end) = chores.perform(chore, socket, &open_ping, true).await {
                            return end;
                        }
                    }
                }
            }
        }
        if commands.is_connected() {
            chores.connected();
        }
        if commands.take_active() {
            chores.timers.active(Instant::now());
        }
        chores.set_alarm(false);
        if session.is_policy_new() {
            // It was woken for that while a command was carried out.
            session.outgoing.come_back();
        }
    }
}

/// What a session does besides reading and carrying out commands.
struct Chores {
    gateway: Arc<Gateway>,
    session: Arc<SessionHandle>,
    /// What a ping is here.
    ping: Message,
    timers: Timers,
    /// Ends when the timers' next is due.
    sleep: Pin<Box<Sleep>>,
    /// Ends when the gateway stops; `None` after that.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    answering: Answering,
}

enum Chore {
    Write,
    Time,
    Stop,
}

impl Chores {
    fn new(gateway: Arc<Gateway>, session: Arc<SessionHandle>, pings: Pings) -> Self {
        let timing = Timing {
            connect_timeout: gateway.config.connect_timeout,
            ping_interval: gateway.config.ping_interval,
            pong_timeout: gateway.config.pong_timeout,
            idle_timeout: gateway.config.limits.idle_timeout,
        };
        let timers = Timers::new(timing, Instant::now());
        Self {
            ping: match pings {
                Pings::Protocol => session.encoding.ping().into(),
                Pings::WebSocket => Message::Ping(Bytes::new()),
            },
            sleep: Box::pin(tokio::time::sleep_until(timers.next())),
            timers,
            stop: Some(Box::pin(CancellationToken::cancelled_owned(gateway.stop.clone()))),
            answering: Answering::default(),
            gateway,
            session,
        }
    }

    /// Waits until there is something to do. Cancel safe.
    async fn next(&mut self) -> Chore {
        let stop = async {
            match &mut self.stop {
                Some(stop) => stop.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.session.outgoing.changed() => Chore::Write,
            () = &mut self.sleep => Chore::Time,
            () = stop => Chore::Stop,
            // Its answers are written like all that is queued.
            () = self.answering.run(&self.gateway, &self.session) => Chore::Write,
        }
    }

    /// Does it. `busy`: a command is being carried out.
    async fn perform(
        &mut self,
        chore: Chore,
        socket: &mut Socket,
        open_ping: &OpenPing,
        busy: bool,
    ) -> Result<(), End> {
        match chore {
            Chore::Write => {}
            Chore::Time if self.is_connection_over() => {
                return Err(DisconnectCode::ConnectionExpired.into());
            }
            Chore::Time => match self.timers.due(Instant::now(), open_ping, busy) {
                // Before all that waits: SDKs give up on a connection whose pings are late.
                Some(Due::Ping) => feed(&self.gateway, socket, self.ping.clone()).await?,
                Some(Due::Idle) if busy || self.session.subscriptions.fill().0 > 0 => {
                    self.timers.active(Instant::now());
                }
                Some(Due::Idle) => {
                    self.gateway.metrics.idle_disconnects.inc();
                    return Err(End::Disconnect {
                        code: DisconnectCode::Stale,
                        why: Some("no command and no subscription; see gateway.limits.idle_timeout".into()),
                    });
                }
                Some(Due::Close(code)) => return Err(code.into()),
                None => {}
            },
            Chore::Stop => {
                self.stop = None;
                let spread = self.gateway.config.drain_spread;
                let after = spread.mul_f64(rand::random());
                self.timers.leave(Instant::now() + after);
                // Who is not connected yet is not told: nothing may come before the reply to `connect`.
                if self.session.identity().is_some() {
                    self.session.tell(&SystemMessage::Maintenance {
                        text: LEAVING.to_owned(),
                        at: millis(SystemTime::now() + after),
                    });
                }
            }
        }
        self.set_alarm(busy);
        if !write(&self.gateway, &self.session, socket).await? {
            self.session.outgoing.come_back();
        }
        match self.session.outgoing.closing() {
            Some(code) => Err(code.into()),
            None => Ok(()),
        }
    }

    fn connected(&mut self) {
        self.timers.connected(Instant::now(), rand::random());
    }

    fn is_connection_over(&self) -> bool {
        self.session
            .leases
            .connection_end()
            .is_some_and(|end| end <= Instant::now())
    }

    fn is_subscription_over(&self) -> bool {
        self.session
            .leases
            .next_channel_end()
            .is_some_and(|end| end <= Instant::now())
    }

    /// Subscriptions are not ended while a command is carried out, so nothing wakes for them then.
    fn set_alarm(&mut self, busy: bool) {
        let leases = &self.session.leases;
        let channel_end = leases.next_channel_end().filter(|_| !busy);
        let next = [leases.connection_end(), channel_end]
            .into_iter()
            .flatten()
            .fold(self.timers.next(), Instant::min);
        if self.sleep.deadline() != next {
            self.sleep.as_mut().reset(next);
        }
    }
}

/// Writes what is queued, about [`A_TURN`] bytes at most, and flushes once. `true`: all of it.
pub(super) async fn write(
    gateway: &Gateway,
    session: &SessionHandle,
    socket: &mut Socket,
) -> Result<bool, End> {
    let mut all = true;
    if session.wire.is_open() {
        let (progress, written) = session.wire.write(&session.outgoing);
        gateway.metrics.written(written);
        all = progress == Progress::All;
    } else {
        let mut written = 0;
        while let Some(frame) = session.outgoing.take(A_TURN) {
            written += frame.len();
            feed(gateway, socket, frame.into()).await?;
            if written >= A_TURN {
                all = false;
                break;
            }
        }
    }
    gateway
        .metrics
        .outgoing_dropped
        .inc_by(session.outgoing.take_dropped().into());
    match tokio::time::timeout(gateway.config.write_timeout, socket.flush()).await {
        Ok(Ok(())) => Ok(all),
        Ok(Err(error)) => Err(End::Network(error)),
        Err(_) => Err(DisconnectCode::WriteError.into()),
    }
}

async fn feed(gateway: &Gateway, socket: &mut Socket, message: Message) -> Result<(), End> {
    gateway.metrics.frames_out.inc();
    gateway.metrics.bytes_out.inc_by(message.len() as u64);
    match tokio::time::timeout(gateway.config.write_timeout, socket.feed(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(End::Network(error)),
        Err(_) => Err(DisconnectCode::WriteError.into()),
    }
}
