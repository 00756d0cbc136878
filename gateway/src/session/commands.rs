//! What a client asks for, command by command: checked here, carried out by links.
//!
//! A command is answered with an error where the client did something it may try otherwise, and
//! ends the connection where it does not speak the protocol. An SDK never does the latter.

mod history;
mod members;
mod moderation;
mod permissions;
mod policy_change;
mod presence;
mod receipts;
mod register;
mod server_side;
mod tokens;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use switchboard_proto::bus::{Message, PayloadKind};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::{
    Command, ConnectRequest, ConnectResult, PublishRequest, Reply, RpcRequest, SubscribeRequest,
    UnsubscribeResult,
};
use switchboard_proto::codes::{DisconnectCode, ErrorCode};
use switchboard_proto::ids::Offset;
use switchboard_proto::json;
use switchboard_service_kit::trace_context::TraceContext;
use tokio::time::Instant;
use uuid::Uuid;

use super::SessionHandle;
use super::encoding::{DecodeError, Frame};
use super::pace::{Pace, Verdict};
use super::presence::Listing;
use super::questions::{Question, Wanted};
use super::rpc::Call;
use super::send_message::SendMessage;
use super::subscriptions::By;
use super::timers::{OpenPing, Pings};
use super::warnings::is_near;
use crate::conversations::Upto;
use crate::gateway::Gateway;
use crate::limits::users::UserSlot;
use crate::links::{Asker, Publish, Since};
use crate::metrics::{Method, Refused};
use crate::policy::Action;
use crate::presence::Here;
use crate::sessions::Registration;
use crate::system_message::NearLimit;

/// Why a connection has to end, in words for the operator. They hold nothing of what the client
/// sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) code: DisconnectCode,
    pub(super) why: Cow<'static, str>,
}

fn violation(why: &'static str) -> Violation {
    Violation {
        code: DisconnectCode::BadRequest,
        why: why.into(),
    }
}

/// A flag of a subscribe request: error 112 rather than a subscription that could not recover.
const FLAG_ERROR_IF_LOST: i64 = 2;

/// The rpc that publishes with more than `publish` can say.
const MESSAGE_SEND: &str = "message.send";

/// The rpcs that tell up to where a channel was given to the user, and up to where he has read it. They are collected, so they are
/// not answered one behind the other as others.
const RECEIPT_DELIVERED: &str = "receipt.delivered";
const RECEIPT_READ: &str = "receipt.read";

/// Carries out the commands of one session.
pub(super) struct Commands {
    gateway: Arc<Gateway>,
    session: Arc<SessionHandle>,
    pings: Pings,
    connected: bool,
    pace: Pace,
    /// The connection's place among its user's.
    _user_slot: Option<UserSlot>,
    /// By which others find the session.
    _registration: Option<Registration>,
    /// Who is here.
    _here: Option<Here>,
    /// By which other gateways find it.
    _registered: Option<switchboard_registry::Registration>,
    /// `connect` was answered with an error: the client closes, and nothing it sends counts any more.
    failed: bool,
    /// There were commands other than pongs since it was last asked.
    active: bool,
    /// When the frame came whose commands are carried out.
    arrived: Instant,
}

impl Commands {
    pub(super) fn new(gateway: Arc<Gateway>, session: Arc<SessionHandle>, pings: Pings) -> Self {
        let now = Instant::now();
        Self {
            pace: Pace::new(&gateway.config.limits, now),
            _user_slot: None,
            _registration: None,
            _here: None,
            _registered: None,
            gateway,
            session,
            pings,
            connected: false,
            failed: false,
            active: false,
            arrived: now,
        }
    }

    /// Whether `connect` succeeded.
    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether there were commands other than pongs since the last call.
    pub(super) fn take_active(&mut self) -> bool {
        std::mem::take(&mut self.active)
    }

    /// Carries out the commands of a frame, in order. Waits while a link's queue is full.
    ///
    /// When dropped half-way, the session has to end: some of the commands are not answered.
    pub(super) async fn frame(&mut self, frame: &Frame, open_ping: &OpenPing) -> Result<(), Violation> {
        self.arrived = Instant::now();
        for command in frame.commands() {
            match command {
                Ok(command) => self.command(command, open_ping).await?,
                Err(DecodeError::Json(json::DecodeError::TooDeep { id })) if self.connected && id > 0 => {
                    self.refuse(id, ErrorCode::BadRequest, "payload nests too deep");
                }
                Err(error) => {
                    return Err(Violation {
                        code: DisconnectCode::BadRequest,
                        why: error.to_string().into(),
                    });
                }
            }
        }
        Ok(())
    }

    async fn command(&mut self, command: Command, open_ping: &OpenPing) -> Result<(), Violation> {
        if self.session.is_closing() {
            return Ok(());
        }
        if self.failed {
            // Sent along with the `connect`, whose error is what the client has to see.
            return Ok(());
        }
        let method = method(&command);
        self.gateway.metrics.command(method);
        if method != Method::Pong {
            self.active = true;
            self.session.note_activity(self.arrived);
        }
        if !self.connected && method != Method::Connect {
            return Err(violation("command before connect"));
        }
        let id = command.id;
        if id == 0 && !matches!(method, Method::Send | Method::Pong) {
            return Err(violation("command without id"));
        }
        if self.is_too_quick(id, method)? {
            return Ok(());
        }
        // The first that is set counts, in the order of `method`.
        match method {
            Method::Connect => self.connect(id, command.connect.unwrap_or_default()).await,
            Method::Subscribe => self.subscribe(id, command.subscribe.unwrap_or_default()).await,
            Method::Unsubscribe => {
                let channel = command.unsubscribe.unwrap_or_default().channel;
                self.unsubscribe(id, &channel).await;
                Ok(())
            }
            Method::Publish => self.publish(id, command.publish.unwrap_or_default()).await,
            Method::Rpc => {
                self.rpc(id, command.rpc.unwrap_or_default()).await;
                Ok(())
            }
            Method::Refresh => self.refresh(id, &command.refresh.unwrap_or_default()).await,
            Method::SubRefresh => {
                self.sub_refresh(id, &command.sub_refresh.unwrap_or_default())
                    .await
            }
            Method::History => self.history(id, command.history.unwrap_or_default()).await,
            Method::Presence => {
                let channel = command.presence.unwrap_or_default().channel;
                self.presence(id, &channel, Listing::Members).await
            }
            Method::PresenceStats => {
                let channel = command.presence_stats.unwrap_or_default().channel;
                self.presence(id, &channel, Listing::Counts).await
            }
            Method::Send => Err(Violation {
                code: DisconnectCode::NotAvailable,
                why: "send is not available".into(),
            }),
            Method::Pong => match self.pings == Pings::Protocol && open_ping.pong() {
                true => Ok(()),
                false => Err(violation("pong without a ping")),
            },
            Method::Unknown => Err(violation("command without a request that is known")),
        }
    }

    /// Whether a command was refused because they come too quickly.
    fn is_too_quick(&mut self, id: u32, method: Method) -> Result<bool, Violation> {
        // A pong's pace is ours, and there is one connect.
        if matches!(method, Method::Pong | Method::Connect) {
            return Ok(false);
        }
        let verdict = self.pace.command(self.arrived);
        if let Some((used, of)) = self.pace.used(self.arrived)
            && is_near(used, of)
        {
            self.session.warn(NearLimit::CommandRate, used, of);
        }
        if verdict == Verdict::CarryOut {
            return Ok(false);
        }
        self.gateway.metrics.commands_over_rate.inc();
        if verdict == Verdict::End {
            return Err(Violation {
                code: DisconnectCode::TooManyRequests,
                why: "commands come too quickly; see gateway.limits.command_rate".into(),
            });
        }
        // An SDK connects anew where an unsubscribe fails, which would be no relief.
        let refused = method != Method::Unsubscribe;
        if refused && id > 0 {
            self.refuse(id, ErrorCode::TooManyRequests, "commands come too quickly");
        }
        Ok(refused)
    }

    /// Counts the connection as one of `user`'s.
    fn take_user_slot(&mut self, user: &str) -> Result<(), Violation> {
        match self.gateway.users.admit_user(user) {
            Ok(slot) => {
                self._user_slot = Some(slot);
                Ok(())
            }
            Err(error) => {
                self.gateway.metrics.refused(Refused::UserLimit);
                Err(Violation {
                    code: DisconnectCode::ConnectionLimit,
                    why: error.to_string().into(),
                })
            }
        }
    }

    async fn connect(&mut self, id: u32, request: ConnectRequest) -> Result<(), Violation> {
        if self.connected {
            return Err(violation("second connect"));
        }
        let Some(identity) = self.authenticate(id, &request.token).await? else {
            self.failed = true;
            return Ok(());
        };
        if !self.is_welcome(id, &identity).await? {
            self.failed = true;
            return Ok(());
        }
        let ttl = self.lease_connection(&identity);
        self.take_user_slot(&identity.user)?;
        let kept = self.register(&identity.user, &request).await?;
        self.session.admit(identity);
        // Others find it from here on, and what they queue comes behind the reply.
        self.session.outgoing.hold();
        self._registration = Some(self.gateway.sessions.enter(&self.session));
        self.is_still_welcome(self.session.stamp().as_ref()).await?;
        self._here = Some(self.session.enter(&self.gateway, &request));
        let (subs, payload) = match self.server_side(id, &request, kept).await? {
            Ok(subs) => subs,
            Err(code) => {
                self.failed = true;
                self.gateway.metrics.error(code);
                tracing::debug!(client = %self.session.client(), code = code.code(), "connect refused");
                self.session.finish(&Reply {
                    id,
                    error: Some(code.into()),
                    ..Reply::default()
                });
                return Ok(());
            }
        };
        self.connected = true;
        self.gateway.metrics.connects.inc();
        let pong = self.pings == Pings::Protocol;
        let interval = self.gateway.config.ping_interval.as_secs();
        let ping = if pong {
            u32::try_from(interval).unwrap_or(u32::MAX)
        } else {
            0
        };
        let result = ConnectResult {
            client: self.session.client().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
            ping,
            pong,
            subs,
            ..ConnectResult::default()
        };
        let reply = Reply {
            id,
            connect: Some(result),
            ..Reply::default()
        };
        self.session.release(&reply, payload);
        Ok(())
    }

    async fn subscribe(&self, id: u32, request: SubscribeRequest) -> Result<(), Violation> {
        if request.channel.is_empty() {
            return Err(violation("subscribe without channel"));
        }
        if !matches!(request.delta.as_str(), "" | "fossil") {
            return Err(violation("subscribe with an unknown kind of delta"));
        }
        let Some(channel) = self.channel(id, &request.channel) else {
            return Ok(());
        };
        if request.r#type != 0 {
            self.refuse(
                id,
                ErrorCode::NotAvailable,
                "channels other than streams are not available",
            );
        } else if request.tf.is_some() {
            self.refuse(id, ErrorCode::BadRequest, "filters are not available");
        } else {
            let lease = if request.token.is_empty() {
                None
            } else {
                match self.subscription_lease(id, &channel, &request).await? {
                    None => return Ok(()),
                    lease => lease,
                }
            };
            if !self.may(Action::Subscribe, id, &channel, lease.is_some())
                || !self.is_let_in(id, &channel).await
            {
                return Ok(());
            }
            let is_durable = self.gateway.config.policy.now().is_durable(&channel);
            let by = By::Client {
                or_error: request.flag & FLAG_ERROR_IF_LOST != 0,
                is_durable,
                hears_joins: request.join_leave && self.may_hear_joins(&channel),
            };
            let may_recover = is_durable && lease.as_ref().is_none_or(|lease| lease.promise.recoverable);
            match self.session.subscriptions.begin(&channel, id, by) {
                Ok(()) => {
                    let stamp = lease.as_ref().and_then(|lease| lease.stamp.clone());
                    self.session.leases.enter(&channel, id, lease);
                    if self.is_shut_out(id, &channel) {
                        return Ok(());
                    }
                    if let Some(stamp) = stamp {
                        self.revoke_if_over(&stamp);
                    }
                    let (used, of) = self.session.subscriptions.fill();
                    if is_near(used, of) {
                        self.session.warn(NearLimit::Channels, used, of);
                    }
                    let since = since(&request).filter(|_| may_recover);
                    self.gateway.links.subscribe(self.asker(id), channel, since).await;
                }
                Err(code) => self.refuse(id, code, "subscription refused"),
            }
        }
        Ok(())
    }

    /// Always succeeds: an SDK reconnects otherwise.
    async fn unsubscribe(&self, id: u32, channel: &str) {
        let answer = Reply {
            id,
            unsubscribe: Some(UnsubscribeResult {}),
            ..Reply::default()
        };
        if self.give_up(channel, &answer).await {
            return;
        }
        self.session.reply(&answer);
    }

    /// Ends a subscription, and has the link tell the client `then`, behind what it has already queued of this
    /// channel. `false`: there is none.
    ///
    /// Cancel safe.
    async fn give_up(&self, channel: &str, then: &Reply) -> bool {
        let Some(channel) = self.session.subscriptions.held(channel) else {
            return false;
        };
        let room = self.gateway.links.room(&channel).await;
        // It may have ended from our side meanwhile.
        let Some(channel) = self.session.subscriptions.give_up(channel.as_str()) else {
            return false;
        };
        self.session.leases.forget(channel.as_str());
        self.session.left(channel.as_str());
        self.gateway.types_no_more(&self.session, &channel);
        room.unsubscribe(&self.session, Some(then.clone()), channel);
        true
    }

    async fn publish(&self, id: u32, request: PublishRequest) -> Result<(), Violation> {
        if request.channel.is_empty() {
            return Err(violation("publish without channel"));
        }
        let Some(channel) = self.channel(id, &request.channel) else {
            return Ok(());
        };
        if request.r#type != 0 {
            self.refuse(
                id,
                ErrorCode::NotAvailable,
                "channels other than streams are not available",
            );
        } else if request.data.is_empty() {
            self.refuse(id, ErrorCode::BadRequest, "publish without data");
        } else if let Some(kind) = self.may_publish(id, &channel, &request.data).await {
            let message = self.message(&channel, kind, request.data);
            self.gateway
                .links
                .publish(
                    self.asker(id),
                    &channel,
                    Publish::plain(&message, self.is_durable(&channel)),
                )
                .await;
        }
        Ok(())
    }

    /// A message of this client, as `publish` makes it.
    fn message(&self, channel: &ChannelName, kind: PayloadKind, payload: Bytes) -> Message {
        let trace = TraceContext::random(false);
        tracing::trace!(client = %self.session.client(), %channel, correlation_id = %trace.correlation_id(), "publish");
        Message {
            id: Uuid::now_v7().into_bytes().to_vec().into(),
            channel: channel.as_str().to_owned(),
            kind: kind.into(),
            payload,
            sender: Some(self.session.sender(channel)),
            trace: trace.to_bytes().to_vec().into(),
            ..Message::default()
        }
    }

    fn is_durable(&self, channel: &ChannelName) -> bool {
        self.gateway.config.policy.now().is_durable(channel)
    }

    async fn rpc(&self, id: u32, request: RpcRequest) {
        match request.method.as_str() {
            MESSAGE_SEND => self.message_send(id, &request.data).await,
            RECEIPT_DELIVERED => self.receipt(id, Upto::Delivered, &request.data).await,
            RECEIPT_READ => self.receipt(id, Upto::Read, &request.data).await,
            #[cfg(test)]
            "test.panic" => panic!("asked to by a test"),
            method => match Call::find(method, request.data) {
                Some(call) => self.ask(id, Wanted::Rpc(call)),
                None => self.refuse(id, ErrorCode::NotAvailable, "rpc is not available"),
            },
        }
    }

    /// Has it answered beside the commands, so that those behind it do not wait.
    fn ask(&self, id: u32, wanted: Wanted) {
        let question = Question {
            id,
            wanted,
            arrived: self.arrived,
        };
        if let Err(code) = self.session.questions.ask(question) {
            self.refuse(id, code, "too many questions wait");
        }
    }

    /// Publishes once, however often it is asked with the same key (P5).
    async fn message_send(&self, id: u32, data: &[u8]) {
        let request = match SendMessage::parse(data) {
            Ok(request) => request,
            Err(why) => return self.refuse(id, ErrorCode::BadRequest, why),
        };
        let Some(channel) = self.channel(id, &request.channel) else {
            return;
        };
        let data = request.data();
        let Some(kind) = self.may_publish(id, &channel, &data).await else {
            return;
        };
        let mut message = self.message(&channel, kind, data);
        request.envelope.fill(&mut message);
        self.gateway
            .links
            .publish(
                self.asker(id),
                &channel,
                Publish::send(&message, self.is_durable(&channel)),
            )
            .await;
    }

    fn asker(&self, id: u32) -> Asker {
        Asker {
            session: Arc::clone(&self.session),
            id,
            arrived: self.arrived,
        }
    }

    /// The channel, or `None` where the command was refused for its name.
    fn channel(&self, id: u32, name: &str) -> Option<ChannelName> {
        match ChannelName::parse(name, self.gateway.config.channel_name_length) {
            Ok(channel) => Some(channel),
            Err(error) => {
                tracing::debug!(client = %self.session.client(), %error, "channel name refused");
                self.refuse(id, ErrorCode::BadRequest, "not a channel name");
                None
            }
        }
    }

    fn refuse(&self, id: u32, code: ErrorCode, why: &'static str) {
        self.gateway.metrics.error(code);
        tracing::debug!(client = %self.session.client(), command = id, code = code.code(), why, "command refused");
        self.session.reply(&Reply {
            id,
            error: Some(code.into()),
            ..Reply::default()
        });
    }
}

/// Where a client left off, if it wants what it missed.
fn since(request: &SubscribeRequest) -> Option<Since> {
    request.recover.then(|| Since {
        epoch: request.epoch.clone(),
        offset: Offset::from_u64(request.offset),
    })
}

fn method(command: &Command) -> Method {
    match command {
        Command { connect: Some(_), .. } => Method::Connect,
        Command {
            subscribe: Some(_), ..
        } => Method::Subscribe,
        Command {
            unsubscribe: Some(_), ..
        } => Method::Unsubscribe,
        Command { publish: Some(_), .. } => Method::Publish,
        Command {
            presence: Some(_), ..
        } => Method::Presence,
        Command {
            presence_stats: Some(_),
            ..
        } => Method::PresenceStats,
        Command { history: Some(_), .. } => Method::History,
        Command { rpc: Some(_), .. } => Method::Rpc,
        Command { send: Some(_), .. } => Method::Send,
        Command { refresh: Some(_), .. } => Method::Refresh,
        Command {
            sub_refresh: Some(_), ..
        } => Method::SubRefresh,
        Command {
            id: 0, ping: None, ..
        } => Method::Pong,
        Command { .. } => Method::Unknown,
    }
}
