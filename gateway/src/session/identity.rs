//! Who a session's client is, from its `connect` on.

use std::sync::OnceLock;

use bytes::Bytes;
use parking_lot::Mutex;
use switchboard_proto::bus::Sender;
use switchboard_proto::channel::ChannelName;
use tokio::time::Instant;

use super::SessionHandle;
use crate::auth::{Identity, Stamp};

/// Set once, by `connect`; only what goes with publications may change later, at a refresh.
#[derive(Default)]
pub(super) struct Admitted {
    identity: OnceLock<Identity>,
    info: Mutex<Bytes>,
    /// Of the token that it was connected or refreshed with last.
    stamp: Mutex<Option<Stamp>>,
}

impl SessionHandle {
    /// `connect` succeeded. A second call changes nothing.
    pub(crate) fn admit(&self, identity: Identity) {
        let (info, stamp) = (identity.info.clone(), identity.stamp.clone());
        if self.admitted.identity.set(identity).is_ok() {
            *self.admitted.info.lock() = info;
            *self.admitted.stamp.lock() = stamp;
        }
    }

    /// A refresh succeeded, with a token of the same user. `false`: its server-side subscriptions, or whether it is an
    /// administrator's, are others than the connection was made with.
    pub(super) fn renew(&self, identity: Identity) -> bool {
        let same = self.identity().is_some_and(|first| {
            first.subscriptions == identity.subscriptions && first.is_admin == identity.is_admin
        });
        if same {
            *self.admitted.info.lock() = identity.info;
            *self.admitted.stamp.lock() = identity.stamp;
        }
        same
    }

    /// By what its token can be revoked; `None`: it came without one.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        self.admitted.stamp.lock().clone()
    }

    /// Whether it came with such a token.
    pub(crate) fn came_with(&self, such: impl FnOnce(&Stamp) -> bool) -> bool {
        self.admitted.stamp.lock().as_ref().is_some_and(such)
    }

    /// Ends the subscriptions that were made with such tokens; their client subscribes again, with fresh ones. How many these are.
    pub(crate) fn revoke_subscriptions(&self, such: impl Fn(&Stamp) -> bool) -> usize {
        let revoked = self.leases.revoke(such, Instant::now());
        if revoked > 0 {
            // The session's task looks at its alarm.
            self.outgoing.come_back();
        }
        revoked
    }

    /// Replaces what goes with publications from now on; empty: as it was.
    pub(super) fn replace_info(&self, info: bytes::Bytes) {
        if !info.is_empty() {
            *self.admitted.info.lock() = info;
        }
    }

    /// Who it is, with the server-side subscriptions that the token asks for; `None` before `connect`.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.admitted.identity.get()
    }

    /// The user's id; empty: anonymous, or not connected yet.
    pub(crate) fn user(&self) -> &str {
        self.identity().map_or("", |identity| &identity.user)
    }

    /// Whether the client asked for `channel` and did not give it up.
    pub(crate) fn holds(&self, channel: &ChannelName) -> bool {
        self.subscriptions.holds(channel)
    }

    /// The sender of what this client publishes in `channel`.
    pub(super) fn sender(&self, channel: &ChannelName) -> Sender {
        Sender {
            user: self.user().to_owned(),
            client: self.client.to_string(),
            conn_info: self.admitted.info.lock().clone(),
            chan_info: self.leases.channel_info(channel),
        }
    }
}
