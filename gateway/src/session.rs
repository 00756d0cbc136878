//! One client's connection: what others know of it ([`SessionHandle`]) and the task that runs it.
//!
//! What must hold, each with a test:
//! * A session that breaks, by bad input or by a panic, ends alone.
//! * Nothing is queued for a session without bound, and nothing at all once it is closing.
//! * A link holds a session for a channel only as long as the session knows of it, so that the
//!   session's end finds all that has to be undone.

mod by_server;
mod close;
mod commands;
mod connecting;
mod encoding;
mod identity;
mod lease;
mod outgoing;
mod pace;
mod presence;
mod questions;
mod rpc;
mod send_message;
mod shared_reply;
mod subscriptions;
mod task;
mod timers;
mod warnings;
mod wire;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use switchboard_proto::bus::{PayloadKind, Priority};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::{Push, Reply, SubscribeResult};
use switchboard_proto::codes::{DisconnectCode, ErrorCode, UnsubscribeCode};
use tokio::time::Instant;
use uuid::Uuid;

use self::by_server::ByServer;
pub(crate) use self::by_server::Given;
use self::connecting::Connecting;
pub(crate) use self::encoding::Encoding;
use self::encoding::Frame;
use self::identity::Admitted;
use self::lease::Leases;
use self::outgoing::{Outgoing, Way};
use self::presence::Present;
use self::questions::Questions;
pub(crate) use self::rpc::told;
pub(crate) use self::shared_reply::SharedReply;
use self::subscriptions::{By, Subscriptions};
pub(crate) use self::task::serve;
pub(crate) use self::timers::Pings;
use self::warnings::Warnings;
use self::wire::Wire;
pub(crate) use self::wire::{ClientStream, Written};

/// A session as everybody but its own task knows it. No call waits.
pub(crate) struct SessionHandle {
    id: u64,
    client: Uuid,
    address: IpAddr,
    encoding: Encoding,
    admitted: Admitted,
    leases: Leases,
    outgoing: Outgoing,
    subscriptions: Subscriptions,
    connecting: Connecting,
    wire: Wire,
    questions: Questions,
    /// Whether the client is told what concerns the gateway itself.
    tells: bool,
    warnings: Warnings,
    /// The policy was replaced since the session's task last looked at what it holds.
    is_policy_new: AtomicBool,
    by_server: ByServer,
    present: Present,
}

/// What a session's handle keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes that wait to be sent, at most; over it the session is closed as slow.
    pub(crate) outgoing: usize,
    /// Channels, at most.
    pub(crate) channels: usize,
    /// Whether the client is told of limits that are near, and of maintenance.
    pub(crate) system_messages: bool,
}

impl SessionHandle {
    /// `id` has to be unique in this life of the gateway.
    pub(crate) fn new(id: u64, address: IpAddr, encoding: Encoding, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            id,
            client: Uuid::new_v4(),
            address,
            encoding,
            admitted: Admitted::default(),
            leases: Leases::default(),
            outgoing: Outgoing::new(limits.outgoing),
            subscriptions: Subscriptions::new(limits.channels),
            connecting: Connecting::default(),
            wire: Wire::default(),
            questions: Questions::default(),
            tells: limits.system_messages,
            warnings: Warnings::default(),
            is_policy_new: AtomicBool::new(false),
            by_server: ByServer::default(),
            present: Present::new(),
        })
    }

    /// Unique in this life of the gateway.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The connection's id, as clients see it.
    pub(crate) fn client(&self) -> Uuid {
        self.client
    }

    /// Queues an answer that keeps no order with a channel, and whose payloads, if it has any, are JSON. Over
    /// the queue's limit the session closes as slow.
    pub(crate) fn reply(&self, reply: &Reply) {
        self.reply_carrying(reply, PayloadKind::Json);
    }

    /// As [`SessionHandle::reply`], with payloads of a kind. What is not JSON closes a session that
    /// speaks JSON.
    pub(crate) fn reply_carrying(&self, reply: &Reply, payload: PayloadKind) {
        self.queue(reply, payload, Way::ANSWER);
    }

    /// As [`SessionHandle::reply`], and it keeps its place among the answers and pushes of `channel` (R2).
    pub(crate) fn reply_in(&self, channel: &ChannelName, reply: &Reply) {
        self.queue(reply, PayloadKind::Json, Way::answer_in(channel.as_str()));
    }

    /// Queues a push that many receive. Over the queue's limit the session closes as slow.
    pub(crate) fn push_shared(&self, reply: &SharedReply) {
        if self.queue_shared(reply) {
            self.outgoing.come_back();
        }
    }

    /// As [`SessionHandle::push_shared`]. `true`: the caller has it written, by [`SessionHandle::write_out`].
    #[must_use]
    pub(crate) fn queue_shared(&self, reply: &SharedReply) -> bool {
        self.outgoing.closing().is_none() && self.push(reply.frame(self.encoding), reply.way())
    }

    /// Whether it was closed, and only has to say so: what its client sends is not carried out any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.outgoing.closing().is_some()
    }

    /// As [`SessionHandle::reply`]. `true`: as above.
    #[must_use]
    pub(crate) fn queue_reply(&self, reply: &Reply) -> bool {
        self.outgoing.closing().is_none()
            && self.push(self.encoding.frame(reply, PayloadKind::Json), Way::ANSWER)
    }

    /// Writes what is queued as far as the socket takes it at once; the session's task does the rest. Never waits.
    pub(crate) fn write_out(&self) -> Written {
        self.wire.write_out(&self.outgoing)
    }

    fn queue(&self, reply: &Reply, payload: PayloadKind, way: Way) {
        if self.outgoing.closing().is_none() && self.push(self.encoding.frame(reply, payload), way) {
            self.outgoing.come_back();
        }
    }

    /// `true`: it has to be written.
    fn push(&self, frame: Option<Frame>, way: Way) -> bool {
        let Some(frame) = frame else {
            self.close(DisconnectCode::InappropriateProtocol);
            return false;
        };
        let pushed = self.outgoing.push(frame, way);
        if pushed.filled {
            self.warn_of_queue();
        }
        pushed.is_first
    }

    /// Closes the session: what is queued is sent, unless it is slow, then a close frame. The first
    /// code counts.
    pub(crate) fn close(&self, code: DisconnectCode) {
        self.outgoing.close(code);
    }

    /// The policy was replaced: the session's task has to look at what it holds.
    pub(crate) fn look_at_policy(&self) {
        self.is_policy_new.store(true, Ordering::Release);
        self.outgoing.come_back();
    }

    /// Whether it has to.
    fn is_policy_new(&self) -> bool {
        self.is_policy_new.load(Ordering::Acquire)
    }

    /// As [`SessionHandle::is_policy_new`], and from here on it has.
    fn take_policy_change(&self) -> bool {
        self.is_policy_new.swap(false, Ordering::AcqRel)
    }

    /// Queues the reply to `connect`, before everything that was queued since
    /// [`SessionHandle::hold`].
    fn release(&self, reply: &Reply, payload: PayloadKind) {
        match self.encoding.frame(reply, payload) {
            Some(frame) => self.outgoing.release(frame),
            None => self.close(DisconnectCode::InappropriateProtocol),
        }
    }

    /// Queues the error that `connect` is answered with, and nothing after it: the client closes.
    fn finish(&self, reply: &Reply) {
        match self.encoding.frame(reply, PayloadKind::Json) {
            Some(frame) => self.outgoing.finish(frame),
            None => self.close(DisconnectCode::InappropriateProtocol),
        }
    }

    /// It has room for a page of what it missed, besides what comes live. Pages follow the reply to `connect`.
    pub(crate) fn has_room(&self) -> bool {
        !self.connecting.is_waiting() && self.outgoing.has_room()
    }

    /// It has room for the answer to a subscribe. The reply to `connect` waits for all of its own, and makes room itself.
    pub(crate) fn has_answer_room(&self) -> bool {
        self.connecting.is_waiting() || self.outgoing.has_room()
    }

    /// The reply to `connect`, if that is waited for, has room for a page of what was missed: all its pages are one
    /// frame, and together take no more than what waits for the client otherwise.
    pub(crate) fn takes_in_answer(&self, bytes: usize) -> bool {
        self.connecting.takes(bytes, self.outgoing.room())
    }

    /// The link takes up subscribe command `id`, and the client is answered. `payload`: of which kind the
    /// payloads in the result are. `false`: the session does not want the channel any more, or is gone;
    /// the link must not keep it.
    pub(crate) fn subscribed(
        &self,
        channel: &ChannelName,
        id: u32,
        result: SubscribeResult,
        payload: PayloadKind,
    ) -> bool {
        if let Some(waits) = self.by_server.take(id) {
            return self.subscribed_by_server(channel, id, result, payload, waits);
        }
        let answer = |result| {
            let reply = Reply {
                id,
                subscribe: Some(result),
                ..Reply::default()
            };
            self.queue(&reply, payload, Way::answer_in(channel.as_str()));
        };
        let by = self.subscriptions.subscribed(channel, id);
        let is_taken_up = match by {
            Some(By::Client { or_error: true, .. }) if result.was_recovering && !result.recovered => {
                self.not_subscribed(channel, id, ErrorCode::UnrecoverablePosition);
                false
            }
            Some(By::Client {
                is_durable: false, ..
            }) => {
                let result = SubscribeResult {
                    was_recovering: result.was_recovering,
                    ..SubscribeResult::default()
                };
                answer(self.leases.granted(channel, id, result, Instant::now()));
                true
            }
            Some(By::Client { .. }) => {
                answer(self.leases.granted(channel, id, result, Instant::now()));
                true
            }
            Some(By::Server { is_durable }) => {
                let result = match is_durable {
                    true => result,
                    false => SubscribeResult::default(),
                };
                let result = self.leases.granted(channel, id, result, Instant::now());
                self.connecting.subscribed(channel, result, payload);
                true
            }
            // The one never comes with a command, and the other was given up meanwhile; every command is answered.
            Some(By::Backend { .. }) | None => {
                answer(result);
                false
            }
        };
        if let Some(by) = by.filter(|_| is_taken_up) {
            self.joined(channel, by);
        }
        is_taken_up
    }

    /// Subscribe command `id` failed, and the client is answered.
    pub(crate) fn not_subscribed(&self, channel: &ChannelName, id: u32, code: ErrorCode) {
        self.leases.refused(channel, id);
        let by = self.subscriptions.refused(channel, id);
        if let Some(waits) = self.by_server.take(id) {
            waits.send(Err(code)).ok();
            return;
        }
        match by {
            Some(By::Server { .. }) => self.connecting.failed(code),
            Some(By::Client { .. } | By::Backend { .. }) | None => self.reply_in(
                channel,
                &Reply {
                    id,
                    error: Some(code.into()),
                    ..Reply::default()
                },
            ),
        }
    }

    /// A running subscription ended from our side: the client subscribes again, or connects again for
    /// one of the server's.
    pub(crate) fn lost(&self, channel: &ChannelName) {
        self.left(channel.as_str());
        match self.subscriptions.lost(channel) {
            Some(By::Client { .. }) => {
                self.leases.forget(channel.as_str());
                let push = Push {
                    channel: channel.as_str().to_owned(),
                    unsubscribe: Some(UnsubscribeCode::InsufficientState.into()),
                    ..Push::default()
                };
                let push = Reply {
                    push: Some(push),
                    ..Reply::default()
                };
                let way = Way::push_in(channel.as_str(), Priority::Normal);
                self.queue(&push, PayloadKind::Json, way);
            }
            Some(By::Server { .. } | By::Backend { .. }) => self.close(DisconnectCode::InsufficientState),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
