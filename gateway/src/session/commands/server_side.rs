//! The channels that the server subscribes a connection to, with its `connect`: the user's inbox, the
//! broadcast where that is switched on, what is kept for the user, and what the token names.

use std::collections::BTreeMap;

use bytes::Bytes;
use switchboard_proto::bus::PayloadKind;
use switchboard_proto::channel::{ChannelName, MAX_CHANNEL_LENGTH};
use switchboard_proto::client::{ConnectRequest, SubscribeResult};
use switchboard_proto::codes::{DisconnectCode, ErrorCode};

use switchboard_registry::KeptSubscription;

use super::register::end_of;
use super::{Commands, Violation, since};
use crate::auth::Overrides;
use crate::policy::{Action, Asking, BROADCAST};
use crate::session::lease::{Expiry, Lease, Promise};
use crate::session::subscriptions::By;

/// What the connect reply says of them, and of which kind their payloads are.
pub(super) type ServerSide = (BTreeMap<String, SubscribeResult>, PayloadKind);

/// A channel, with what the token says of it, or what is kept.
struct Given {
    channel: ChannelName,
    expiry: Option<Expiry>,
    info: Bytes,
    data: Bytes,
    overrides: Overrides,
}

impl From<ChannelName> for Given {
    fn from(channel: ChannelName) -> Self {
        Self {
            channel,
            expiry: None,
            info: Bytes::new(),
            data: Bytes::new(),
            overrides: Overrides::default(),
        }
    }
}

impl Commands {
    /// Subscribes, and waits for all of them: what they missed stands in the connect reply. The inner
    /// error is answered, the outer one ends the connection.
    pub(super) async fn server_side(
        &self,
        id: u32,
        request: &ConnectRequest,
        kept: Vec<KeptSubscription>,
    ) -> Result<Result<ServerSide, ErrorCode>, Violation> {
        let mut channels = match self.given() {
            Ok(channels) => channels,
            Err(code) => return Ok(Err(code)),
        };
        self.add_kept(&mut channels, kept);
        if let Err(code) = self.keep_members(&mut channels).await {
            return Ok(Err(code));
        }
        if channels.is_empty() {
            return Ok(Ok((BTreeMap::new(), PayloadKind::Json)));
        }
        if channels.len() > self.gateway.config.channels_per_connection {
            return Err(Violation {
                code: DisconnectCode::ChannelLimit,
                why: "more server-side subscriptions than gateway.channels_per_connection".into(),
            });
        }
        self.session.connecting.begin(channels.len());
        for given in channels {
            let Given {
                channel,
                expiry,
                info,
                data,
                overrides,
            } = given;
            // What is not stored cannot be recovered, so nothing is promised of it.
            let is_durable = self.is_durable(&channel);
            let by = By::Server { is_durable };
            if let Err(code) = self.session.subscriptions.begin(&channel, id, by) {
                return Ok(Err(code));
            }
            // A client can ask for nothing more here.
            let asked = Promise {
                recoverable: false,
                positioned: false,
            };
            let promise = Promise::new(overrides, asked);
            let lease = Lease {
                expiry,
                info,
                data,
                promise,
                overrides,
                ..Lease::default()
            };
            // One that grants nothing of its own, as an inbox's, is as good as none.
            let lease = Some(lease).filter(|lease| *lease != Lease::default());
            self.session.leases.enter(&channel, id, lease);
            if self.gateway.has_shut_out(&channel, self.session.user()) {
                return Ok(Err(ErrorCode::Internal));
            }
            let known = request.subs.get(channel.as_str());
            let since = known
                .and_then(since)
                .filter(|_| is_durable && promise.recoverable);
            self.gateway.links.subscribe(self.asker(id), channel, since).await;
        }
        Ok(self.session.connecting.finished().await)
    }

    fn given(&self) -> Result<Vec<Given>, ErrorCode> {
        let config = &self.gateway.config;
        let user = self.session.user();
        let mut given = Vec::new();
        if config.inbox && !user.is_empty() {
            match ChannelName::inbox(user) {
                Some(inbox) => given.push(Given::from(inbox)),
                None => {
                    tracing::debug!(client = %self.session.client(), "user has no inbox: its id cannot stand in a channel's name");
                }
            }
        }
        if config.broadcast
            && let Ok(broadcast) = ChannelName::parse(BROADCAST, MAX_CHANNEL_LENGTH)
        {
            given.push(Given::from(broadcast));
        }
        let policy = config.policy.now();
        let named = self.session.identity().map(|identity| &identity.subscriptions);
        for (channel, subscription) in named.into_iter().flatten() {
            // The token is the permission; that the namespace exists is not its to say.
            let who = Asking { user, is_in: true };
            policy.decide(Action::Subscribe, channel, who).outcome?;
            given.retain(|other: &Given| other.channel != *channel);
            given.push(Given {
                channel: channel.clone(),
                expiry: None,
                info: subscription.info.clone(),
                data: subscription.data.clone(),
                overrides: subscription.overrides,
            });
        }
        Ok(given)
    }

    /// Leaves out channels with members of which the user is none, whoever gives them. Where it is not known, the client connects
    /// again.
    async fn keep_members(&self, given: &mut Vec<Given>) -> Result<(), ErrorCode> {
        let mut kept = Vec::with_capacity(given.len());
        for given in given.drain(..) {
            let user = self.session.user();
            match self.gateway.lets_in(&given.channel, user, self.arrived).await {
                Ok(()) => kept.push(given),
                Err(ErrorCode::PermissionDenied) => {
                    let client = self.session.client();
                    tracing::debug!(%client, channel = %given.channel, "not subscribed by the server: no member");
                }
                Err(code) => return Err(code),
            }
        }
        *given = kept;
        Ok(())
    }

    /// Those that are kept for the user, as far as there is room: what the connection has without them counts first,
    /// and none of them is a reason to refuse it.
    fn add_kept(&self, given: &mut Vec<Given>, kept: Vec<KeptSubscription>) {
        let config = &self.gateway.config;
        for kept in kept {
            let who = Asking {
                user: self.session.user(),
                is_in: true,
            };
            let why_not = if given.iter().any(|other| other.channel == kept.channel) {
                "the connection has it already"
            } else if given.len() >= config.channels_per_connection {
                "the connection has as many channels as there may be; see gateway.channels_per_connection"
            } else if config
                .policy
                .now()
                .decide(Action::Subscribe, &kept.channel, who)
                .outcome
                .is_err()
            {
                "the channel's configuration does not allow it any more"
            } else {
                given.push(Given {
                    expiry: Some(end_of(&kept)),
                    channel: kept.channel,
                    info: kept.info,
                    data: kept.data,
                    overrides: Overrides {
                        presence: kept.overrides.presence,
                        join_leave: kept.overrides.join_leave,
                        force_push_join_leave: kept.overrides.force_push_join_leave,
                        force_positioning: kept.overrides.force_positioning,
                        force_recovery: kept.overrides.force_recovery,
                    },
                });
                continue;
            };
            let client = self.session.client();
            tracing::debug!(%client, channel = %kept.channel, why_not, "kept subscription is not restored");
        }
    }
}
