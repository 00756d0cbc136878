//! What a backend does to a connection through the server API: subscribe, unsubscribe, refresh, disconnect.
//!
//! It comes from other tasks than the session's own. What must hold: nothing begins for a session that is over,
//! and whoever asks for a subscription is told what became of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use switchboard_proto::bus::{PayloadKind, Priority};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::{Push, Refresh, Reply, Subscribe, SubscribeResult};
use switchboard_proto::codes::{DisconnectCode, ErrorCode, UnsubscribeCode};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::SessionHandle;
use super::lease::{Expiry, Lease, Promise};
use super::outgoing::Way;
use super::subscriptions::By;
use crate::auth::{Overrides, UnixTime};
use crate::gateway::Gateway;
use crate::links::{Asker, Since};

/// How a subscription went that a backend asked for.
type Outcome = Result<(), ErrorCode>;

/// A subscription that a backend asks for.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) channel: ChannelName,
    /// `None`: for ever.
    pub(crate) expires_at: Option<UnixTime>,
    /// JSON that goes with what the connection publishes in the channel; empty: none.
    pub(crate) info: Bytes,
    /// JSON for the client; empty: none.
    pub(crate) data: Bytes,
    pub(crate) overrides: Overrides,
    /// Give the connection what it missed since then.
    pub(crate) since: Option<Since>,
}

/// The state of it that a session holds. Bounded: of those that wait there are no more than channels.
#[derive(Default)]
pub(super) struct ByServer {
    /// Requests so far. They are numbered down from the top, so that none is taken for a command of the client's.
    begun: AtomicU32,
    waiting: Mutex<HashMap<u32, oneshot::Sender<Outcome>>>,
    /// Another code and reason for [`DisconnectCode::ForceDisconnect`].
    farewell: OnceLock<(u16, Box<str>)>,
}

impl ByServer {
    fn enter(&self) -> (u32, oneshot::Receiver<Outcome>) {
        let id = u32::MAX - self.begun.fetch_add(1, Ordering::Relaxed) % (u32::MAX / 2);
        let (sender, outcome) = oneshot::channel();
        self.waiting.lock().insert(id, sender);
        (id, outcome)
    }

    /// Who waits for request `id`; `None`: it is a client's command.
    pub(super) fn take(&self, id: u32) -> Option<oneshot::Sender<Outcome>> {
        self.waiting.lock().remove(&id)
    }

    /// With which code and reason the connection closes, where a backend said so.
    pub(super) fn farewell(&self) -> Option<(u16, &str)> {
        self.farewell.get().map(|(code, reason)| (*code, &**reason))
    }
}

impl SessionHandle {
    /// Subscribes the session, and waits until it is, or is not. One whose `connect` is not answered yet is passed over, as
    /// one that comes later would be: what it is about to be given by its token must find no other in its place. One that has the channel already succeeds, and keeps
    /// what it has.
    ///
    /// Not cancel safe: the subscription may be asked for or not.
    ///
    /// # Errors
    /// [`ErrorCode::Expired`]: it is over, or not there yet. [`ErrorCode::LimitExceeded`]: it has as many channels as it may. [`ErrorCode::PermissionDenied`]: the channel is for members, and the user
    /// is none. [`ErrorCode::Internal`]: the link did not answer in time.
    pub(crate) async fn subscribe_by_server(
        self: &Arc<Self>,
        gateway: &Gateway,
        given: Given,
        arrived: Instant,
    ) -> Outcome {
        let Given {
            channel,
            expires_at,
            info,
            data,
            overrides,
            since,
        } = given;
        if self.outgoing.is_held() {
            return Err(ErrorCode::Expired);
        }
        gateway.lets_in(&channel, self.user(), arrived).await?;
        let (id, outcome) = self.by_server.enter();
        let is_durable = gateway.config.policy.now().is_durable(&channel);
        match self.subscriptions.begin(&channel, id, By::Backend { is_durable }) {
            Ok(()) => {}
            Err(code) => {
                self.by_server.take(id);
                return match code {
                    ErrorCode::AlreadySubscribed => Ok(()),
                    code => Err(code),
                };
            }
        }
        let nothing = Promise {
            recoverable: false,
            positioned: false,
        };
        let lease = Lease {
            expiry: expires_at.map(|at| expiry(gateway, at)),
            info,
            data,
            promise: Promise::new(overrides, nothing),
            overrides,
            ..Lease::default()
        };
        self.leases.enter(&channel, id, Some(lease));
        if gateway.has_shut_out(&channel, self.user()) {
            self.not_subscribed(&channel, id, ErrorCode::PermissionDenied);
            return outcome.await.unwrap_or(Err(ErrorCode::PermissionDenied));
        }
        // The session's task looks at its alarm.
        self.outgoing.come_back();
        let asker = Asker {
            session: Arc::clone(self),
            id,
            arrived,
        };
        let since = since.filter(|_| is_durable);
        gateway.links.subscribe(asker, channel, since).await;
        // The link drops nothing but at its end.
        outcome.await.unwrap_or(Err(ErrorCode::Internal))
    }

    /// The link took up a subscription that a backend asked for. `false`: it is not wanted any more.
    pub(super) fn subscribed_by_server(
        &self,
        channel: &ChannelName,
        id: u32,
        result: SubscribeResult,
        payload: PayloadKind,
        waits: oneshot::Sender<Outcome>,
    ) -> bool {
        let by = self.subscriptions.subscribed(channel, id);
        let Some(by @ By::Backend { is_durable }) = by else {
            // Unsubscribed meanwhile, or gone: there is nothing more to do.
            waits.send(Ok(())).ok();
            return false;
        };
        let mut result = match is_durable {
            true => result,
            false => SubscribeResult::default(),
        };
        let missed = std::mem::take(&mut result.publications);
        let result = self.leases.granted(channel, id, result, Instant::now());
        let name = channel.as_str();
        let push = |push: Push, kind| {
            let push = Push {
                channel: name.to_owned(),
                ..push
            };
            let reply = Reply {
                push: Some(push),
                ..Reply::default()
            };
            self.queue(&reply, kind, Way::push_in(name, Priority::Normal));
        };
        let subscribe = Subscribe {
            recoverable: result.recoverable,
            positioned: result.positioned,
            epoch: result.epoch,
            offset: result.offset,
            data: result.data,
        };
        push(
            Push {
                subscribe: Some(subscribe),
                ..Push::default()
            },
            PayloadKind::Json,
        );
        for publication in missed {
            push(
                Push {
                    r#pub: Some(publication),
                    ..Push::default()
                },
                payload,
            );
        }
        waits.send(Ok(())).ok();
        self.joined(channel, by);
        true
    }

    /// Ends a subscription, whoever began it. `false`: there was none. Waits while the link's queue is full.
    pub(crate) async fn unsubscribe_by_server(self: &Arc<Self>, gateway: &Gateway, channel: &str) -> bool {
        let Some(channel) = self.subscriptions.held(channel) else {
            return false;
        };
        let room = gateway.links.room(&channel).await;
        // It may have ended meanwhile.
        let Some(channel) = self.subscriptions.give_up(channel.as_str()) else {
            return false;
        };
        self.leases.forget(channel.as_str());
        self.left(channel.as_str());
        gateway.types_no_more(self, &channel);
        let push = Push {
            channel: channel.as_str().to_owned(),
            unsubscribe: Some(UnsubscribeCode::Server.into()),
            ..Push::default()
        };
        let then = Reply {
            push: Some(push),
            ..Reply::default()
        };
        room.unsubscribe(self, Some(then), channel);
        true
    }

    /// The connection lasts until then; `None`: for ever. `info`: JSON that from now on goes with what it publishes;
    /// empty: as it was.
    pub(crate) fn refresh_by_server(&self, gateway: &Gateway, expires_at: Option<UnixTime>, info: Bytes) {
        let expiry = expires_at.map(|at| expiry(gateway, at));
        self.leases.connection(expiry);
        self.replace_info(info);
        let refresh = Refresh {
            expires: expiry.is_some(),
            ttl: expiry.map_or(0, |expiry| expiry.ttl(Instant::now())),
        };
        let push = Push {
            refresh: Some(refresh),
            ..Push::default()
        };
        self.reply(&Reply {
            push: Some(push),
            ..Reply::default()
        });
        // The session's task looks at its alarm.
        self.outgoing.come_back();
    }

    /// Closes the connection with a code and reason that fit a close frame. What closes it already goes on.
    pub(crate) fn disconnect_by_server(&self, code: u16, reason: &str) {
        match DisconnectCode::from_code(code.into()) {
            Some(known) if known.words() == reason => self.close(known),
            _ => {
                self.by_server.farewell.set((code, reason.into())).ok();
                self.close(DisconnectCode::ForceDisconnect);
            }
        }
    }

    /// The channels that the link has taken it up for.
    pub(crate) fn channels(&self) -> Vec<ChannelName> {
        self.subscriptions.running()
    }
}

fn expiry(gateway: &Gateway, at: UnixTime) -> Expiry {
    Expiry::of(at, gateway.config.tokens.grace)
}
