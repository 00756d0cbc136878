//! One client's connection: what others know of it ([`SessionHandle`]) and the task that runs it.
//!
//! What must hold, each with a test:
//! * A session that breaks, by bad input or by a panic, ends alone.
//! * Nothing is queued for a session without bound, and nothing at all once it is closing.
//! * A link holds a session for a channel only as long as the session knows of it, so that the
//!   session's end finds all that has to be undone.

mod close;
mod commands;
mod connecting;
mod outgoing;
mod send_message;
mod shared_reply;
mod subscriptions;
mod task;
mod timers;

use std::sync::Arc;

use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::{Push, Reply, SubscribeResult};
use switchboard_proto::codes::{DisconnectCode, ErrorCode, UnsubscribeCode};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use self::connecting::Connecting;
use self::outgoing::Outgoing;
pub(crate) use self::shared_reply::SharedReply;
use self::subscriptions::{By, Subscriptions};
pub(crate) use self::task::serve;

/// How a connection's messages are encoded, for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Text frames.
    Json,
}

/// A session as everybody but its own task knows it. No call waits.
pub(crate) struct SessionHandle {
    id: u64,
    client: Uuid,
    encoding: Encoding,
    outgoing: Outgoing,
    subscriptions: Subscriptions,
    connecting: Connecting,
}

/// What a session's handle keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes that wait to be sent, at most; over it the session is closed as slow.
    pub(crate) outgoing: usize,
    /// Channels, at most.
    pub(crate) channels: usize,
}

impl SessionHandle {
    /// `id` has to be unique in this life of the gateway.
    pub(crate) fn new(id: u64, encoding: Encoding, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            id,
            client: Uuid::new_v4(),
            encoding,
            outgoing: Outgoing::new(limits.outgoing),
            subscriptions: Subscriptions::new(limits.channels),
            connecting: Connecting::default(),
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

    /// Queues an answer or a push. Over the queue's limit the session closes as slow.
    pub(crate) fn reply(&self, reply: &Reply) {
        if self.outgoing.closing().is_none() {
            self.push(shared_reply::frame(reply, self.encoding));
        }
    }

    /// Queues a push that many receive. Over the queue's limit the session closes as slow.
    pub(crate) fn push_shared(&self, reply: &SharedReply) {
        if self.outgoing.closing().is_none() {
            self.push(reply.frame(self.encoding));
        }
    }

    fn push(&self, frame: Option<Utf8Bytes>) {
        match frame {
            Some(frame) => self.outgoing.push(frame),
            None => self.close(DisconnectCode::InappropriateProtocol),
        }
    }

    /// Closes the session: what is queued is sent, unless it is slow, then a close frame. The first
    /// code counts.
    pub(crate) fn close(&self, code: DisconnectCode) {
        self.outgoing.close(code);
    }

    /// Queues the reply to `connect`, before everything that was queued since
    /// [`SessionHandle::hold`].
    fn release(&self, reply: &Reply) {
        match shared_reply::frame(reply, self.encoding) {
            Some(frame) => self.outgoing.release(frame),
            None => self.close(DisconnectCode::InappropriateProtocol),
        }
    }

    /// Queues the error that `connect` is answered with, and nothing after it: the client closes.
    fn finish(&self, reply: &Reply) {
        match shared_reply::frame(reply, self.encoding) {
            Some(frame) => self.outgoing.finish(frame),
            None => self.close(DisconnectCode::InappropriateProtocol),
        }
    }

    /// It has room for a page of what it missed, besides what comes live.
    pub(crate) fn has_room(&self) -> bool {
        self.outgoing.has_room()
    }

    /// The link takes up subscribe command `id`, and the client is answered. `false`: the session does
    /// not want the channel any more, or is gone; the link must not keep it.
    pub(crate) fn subscribed(&self, channel: &ChannelName, id: u32, result: SubscribeResult) -> bool {
        match self.subscriptions.subscribed(channel, id) {
            Some(By::Client { or_error: true }) if result.was_recovering && !result.recovered => {
                self.not_subscribed(channel, id, ErrorCode::UnrecoverablePosition);
                false
            }
            Some(By::Client { .. }) => {
                self.reply(&Reply {
                    id,
                    subscribe: Some(result),
                    ..Reply::default()
                });
                true
            }
            Some(By::Server) => {
                self.connecting.subscribed(channel, result);
                true
            }
            None => {
                // Given up meanwhile, and every command is answered.
                self.reply(&Reply {
                    id,
                    subscribe: Some(result),
                    ..Reply::default()
                });
                false
            }
        }
    }

    /// Subscribe command `id` failed, and the client is answered.
    pub(crate) fn not_subscribed(&self, channel: &ChannelName, id: u32, code: ErrorCode) {
        match self.subscriptions.refused(channel, id) {
            Some(By::Server) => self.connecting.failed(code),
            Some(By::Client { .. }) | None => self.reply(&Reply {
                id,
                error: Some(code.into()),
                ..Reply::default()
            }),
        }
    }

    /// A running subscription ended from our side: the client subscribes again, or connects again for
    /// one of the server's.
    pub(crate) fn lost(&self, channel: &ChannelName) {
        match self.subscriptions.lost(channel) {
            Some(By::Client { .. }) => {
                let push = Push {
                    channel: channel.as_str().to_owned(),
                    unsubscribe: Some(UnsubscribeCode::InsufficientState.into()),
                    ..Push::default()
                };
                self.reply(&Reply {
                    push: Some(push),
                    ..Reply::default()
                });
            }
            Some(By::Server) => self.close(DisconnectCode::InsufficientState),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
