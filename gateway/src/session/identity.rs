//! Who a session's client is, from its `connect` on.

use std::sync::OnceLock;

use bytes::Bytes;
use parking_lot::Mutex;
use switchboard_proto::bus::Sender;
use switchboard_proto::channel::ChannelName;

use super::SessionHandle;
use crate::auth::Identity;

/// Set once, by `connect`; only what goes with publications may change later, at a refresh.
#[derive(Default)]
pub(super) struct Admitted {
    identity: OnceLock<Identity>,
    info: Mutex<Bytes>,
}

impl SessionHandle {
    /// `connect` succeeded. A second call changes nothing.
    pub(crate) fn admit(&self, identity: Identity) {
        let info = identity.info.clone();
        if self.admitted.identity.set(identity).is_ok() {
            *self.admitted.info.lock() = info;
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
        }
        same
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
