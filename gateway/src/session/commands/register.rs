//! A session that begins is made known to all gateways, and given what is kept for its user. Neither waits for long for
//! the registry: without it a session begins as it would where this were the only gateway.

use std::time::Duration;

use switchboard_proto::client::ConnectRequest;
use switchboard_proto::codes::DisconnectCode;
use switchboard_proto::time::now_us;
use switchboard_registry::{Device, KeptSubscription, LONGEST_KEPT, NewSession};

use super::{Commands, Violation};
use crate::metrics::Refused;
use crate::session::lease::Expiry;

impl Commands {
    /// Registers the session, unless its user has as many as there may be over all gateways. Returns the
    /// subscriptions that are kept for the user.
    pub(super) async fn register(
        &mut self,
        user: &str,
        request: &ConnectRequest,
    ) -> Result<Vec<KeptSubscription>, Violation> {
        let session = NewSession {
            client: self.session.client(),
            device: Device::new(&request.name, &request.version),
            since_us: now_us(),
        };
        let announcer = &self.gateway.announcer;
        let limit = self.gateway.config.limits.connections_per_user;
        let (registered, kept) = tokio::join!(
            announcer.enter(user, session, limit),
            announcer.kept_subscriptions(user)
        );
        match registered {
            Ok(registered) => self._registered = Some(registered),
            Err(_) => {
                self.gateway.metrics.refused(Refused::UserLimit);
                return Err(Violation {
                    code: DisconnectCode::ConnectionLimit,
                    why: "too many connections of this user, over all gateways; see gateway.limits.connections_per_user"
                        .into(),
                });
            }
        }
        Ok(kept.unwrap_or_default())
    }
}

/// When a kept subscription ends.
pub(super) fn end_of(kept: &KeptSubscription) -> Expiry {
    let left = kept.until_ms.saturating_sub(now_us() / 1000);
    Expiry {
        at: tokio::time::Instant::now() + Duration::from_millis(left).min(LONGEST_KEPT),
        grace: Duration::ZERO,
    }
}
