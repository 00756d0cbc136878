//! Commands that bring a token: who connects, what may be subscribed with it, and what is renewed.
//!
//! The same fault of a token is answered differently from command to command, because SDKs react
//! differently: an error that says "expired" makes them fetch a fresh token at `connect` and
//! `subscribe`, but ends the connection for good at `refresh`.

use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::{
    Push, RefreshRequest, RefreshResult, Reply, SubRefreshRequest, SubRefreshResult, SubscribeRequest,
};
use switchboard_proto::codes::{DisconnectCode, ErrorCode, UnsubscribeCode};
use tokio::time::Instant;

use super::{Commands, Violation, violation};
use crate::auth::{Anonymous, Bearer, Identity, SubscriptionGrant, TokenError, UnixTime};
use crate::session::lease::{Expiry, Lease, Promise};

/// The words that are logged for a refused command.
fn why(error: TokenError) -> &'static str {
    match error {
        TokenError::Invalid(why) => why,
        TokenError::Foreign(_) => "token of another channel, user or connection",
        TokenError::Expired => "token expired",
        TokenError::NotYet => "token is not valid yet: compare the clocks of backend and gateway",
        TokenError::Over => "the time that the token grants is over",
        TokenError::Anonymous => "token without a user",
        TokenError::Unavailable => "keys of gateway.tokens.jwks_url are not known",
    }
}

fn end(code: DisconnectCode, error: TokenError) -> Violation {
    Violation {
        code,
        why: error.to_string().into(),
    }
}

impl Commands {
    /// Who connects. `None`: refused, and answered.
    pub(super) async fn authenticate(&self, id: u32, token: &str) -> Result<Option<Identity>, Violation> {
        let tokens = &self.gateway.tokens;
        if token.is_empty() {
            if self.gateway.config.insecure || tokens.anonymous() == Anonymous::Everybody {
                return Ok(Some(Identity::default()));
            }
            return Err(violation(
                "connect without token; only gateway.insecure and gateway.tokens.anonymous = \"everybody\" allow that",
            ));
        }
        match self.in_time(tokens.connection(token, UnixTime::now())).await {
            Ok(identity) => Ok(Some(identity)),
            Err(error) => {
                let code = match error {
                    TokenError::Invalid(_) | TokenError::Foreign(_) => {
                        return Err(end(DisconnectCode::InvalidToken, error));
                    }
                    TokenError::Anonymous => return Err(end(DisconnectCode::PermissionDenied, error)),
                    TokenError::Expired | TokenError::NotYet => ErrorCode::TokenExpired,
                    TokenError::Over => ErrorCode::Expired,
                    TokenError::Unavailable => ErrorCode::Internal,
                };
                self.refuse(id, code, why(error));
                Ok(None)
            }
        }
    }

    /// Lets the connection stay until its token expires. Seconds until then; `None`: for ever.
    pub(super) fn lease_connection(&self, identity: &Identity) -> Option<u32> {
        // Whoever may come without a token may stay without one.
        let expires_at = identity.expires_at.filter(|_| !self.gateway.config.insecure);
        let expiry = expires_at.map(|at| self.expiry(at));
        self.session.leases.connection(expiry);
        expiry.map(|expiry| expiry.ttl(Instant::now()))
    }

    /// Renews the connection's time.
    pub(super) async fn refresh(&self, id: u32, request: &RefreshRequest) -> Result<(), Violation> {
        if request.token.is_empty() {
            return Err(violation("refresh without token"));
        }
        let verified = self.gateway.tokens.connection(&request.token, UnixTime::now());
        let identity = match self.in_time(verified).await {
            Ok(identity) => identity,
            // SDKs take an error here for the last word; on this code they come back with a fresh token.
            Err(error @ (TokenError::Expired | TokenError::NotYet | TokenError::Over)) => {
                return Err(end(DisconnectCode::ConnectionExpired, error));
            }
            Err(error @ TokenError::Unavailable) => {
                self.refuse(id, ErrorCode::Internal, why(error));
                return Ok(());
            }
            Err(error @ TokenError::Anonymous) => return Err(end(DisconnectCode::PermissionDenied, error)),
            Err(error @ (TokenError::Invalid(_) | TokenError::Foreign(_))) => {
                return Err(end(DisconnectCode::InvalidToken, error));
            }
        };
        if identity.user != self.session.user() {
            return Err(Violation {
                code: DisconnectCode::InvalidToken,
                why: "refresh with a token of another user".into(),
            });
        }
        if !self.is_welcome(id, &identity).await? {
            return Ok(());
        }
        let ttl = self.lease_connection(&identity);
        let stamp = identity.stamp.clone();
        if !self.session.renew(identity) {
            // Server-side subscriptions are made with the connection.
            return Err(Violation {
                code: DisconnectCode::InsufficientState,
                why: "refresh with a token of other server-side subscriptions, or that makes or unmakes an administrator".into(),
            });
        }
        // Whoever revoked it meanwhile may have looked at the session before it had this token.
        self.is_still_welcome(stamp.as_ref()).await?;
        let result = RefreshResult {
            client: self.session.client().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
        };
        self.session.reply(&Reply {
            id,
            refresh: Some(result),
            ..Reply::default()
        });
        Ok(())
    }

    /// What a `subscribe` with a token grants. `None`: refused, and answered.
    pub(super) async fn subscription_lease(
        &self,
        id: u32,
        channel: &ChannelName,
        request: &SubscribeRequest,
    ) -> Result<Option<Lease>, Violation> {
        match self.grant(Some(channel.as_str()), &request.token).await {
            Ok(grant) if !self.is_grant_welcome(id, &grant).await => Ok(None),
            Ok(grant) => {
                let asked = Promise {
                    recoverable: request.recoverable,
                    positioned: request.positioned,
                };
                Ok(Some(self.lease(grant, asked)))
            }
            Err(error) => {
                let code = match error {
                    TokenError::Foreign(_) => return Err(end(DisconnectCode::InvalidToken, error)),
                    TokenError::Invalid(_) | TokenError::Anonymous => ErrorCode::PermissionDenied,
                    TokenError::Expired | TokenError::NotYet => ErrorCode::TokenExpired,
                    TokenError::Over => ErrorCode::Expired,
                    TokenError::Unavailable => ErrorCode::Internal,
                };
                self.refuse(id, code, why(error));
                Ok(None)
            }
        }
    }

    /// Renews a subscription's time. Without a channel, as one SDK sends it, the token names it.
    pub(super) async fn sub_refresh(&self, id: u32, request: &SubRefreshRequest) -> Result<(), Violation> {
        if request.token.is_empty() {
            return Err(violation("sub_refresh without token"));
        }
        let named = Some(request.channel.as_str()).filter(|channel| !channel.is_empty());
        let grant = match self.grant(named, &request.token).await {
            Ok(grant) => grant,
            Err(error @ TokenError::Foreign(_)) => return Err(end(DisconnectCode::InvalidToken, error)),
            Err(error @ (TokenError::Expired | TokenError::NotYet | TokenError::Over)) => {
                // SDKs take an error for the last word; on this push they subscribe again, with a
                // fresh token. The answer comes first, since a command is answered.
                self.answer_sub_refresh(id, SubRefreshResult::default());
                tracing::debug!(client = %self.session.client(), why = why(error), "subscription ended at its refresh");
                let subscriptions = &self.session.subscriptions;
                if let Some(channel) = named.filter(|channel| !subscriptions.is_the_servers(channel)) {
                    self.end_subscription(channel, UnsubscribeCode::Expired).await;
                }
                return Ok(());
            }
            Err(error @ TokenError::Unavailable) => {
                self.refuse(id, ErrorCode::Internal, why(error));
                return Ok(());
            }
            Err(error @ (TokenError::Invalid(_) | TokenError::Anonymous)) => {
                self.refuse(id, ErrorCode::PermissionDenied, why(error));
                return Ok(());
            }
        };
        if !self.is_grant_welcome(id, &grant).await {
            return Ok(());
        }
        let channel = grant.channel.clone();
        let stamp = grant.stamp.clone();
        // What was promised at the beginning holds.
        let lease = self.lease(grant, Promise::default());
        let result = SubRefreshResult {
            expires: lease.expiry.is_some(),
            ttl: lease.expiry.map_or(0, |expiry| expiry.ttl(Instant::now())),
        };
        // Those of the server's end with the connection, and so with its token.
        let is_the_servers = self.session.subscriptions.is_the_servers(channel.as_str());
        if !is_the_servers && self.session.leases.renew(&channel, lease) {
            self.answer_sub_refresh(id, result);
            self.revoke_if_over(&stamp);
        } else {
            self.refuse(
                id,
                ErrorCode::PermissionDenied,
                "sub_refresh of a channel that is not subscribed with a token",
            );
        }
        Ok(())
    }

    /// Ends the subscriptions whose time is over. Waits while a link's queue is full.
    pub(in crate::session) async fn end_expired(&self) {
        for (channel, is_revoked) in self.session.leases.take_ended(Instant::now()) {
            let code = match is_revoked {
                // SDKs fetch a fresh token, instead of coming back with this one.
                true => UnsubscribeCode::StateInvalidated,
                false => UnsubscribeCode::Expired,
            };
            self.end_subscription(channel.as_str(), code).await;
        }
    }

    /// Waits while a link's queue is full.
    pub(super) async fn end_subscription(&self, channel: &str, code: UnsubscribeCode) {
        let push = Push {
            channel: channel.to_owned(),
            unsubscribe: Some(code.into()),
            ..Push::default()
        };
        let then = Reply {
            push: Some(push),
            ..Reply::default()
        };
        self.give_up(channel, &then).await;
    }

    fn answer_sub_refresh(&self, id: u32, result: SubRefreshResult) {
        self.session.reply(&Reply {
            id,
            sub_refresh: Some(result),
            ..Reply::default()
        });
    }

    async fn grant(&self, channel: Option<&str>, token: &str) -> Result<SubscriptionGrant, TokenError> {
        let client = self.session.client().to_string();
        let bearer = Bearer {
            user: self.session.user(),
            client: &client,
            channel,
        };
        self.in_time(self.gateway.tokens.subscription(token, bearer, UnixTime::now()))
            .await
    }

    fn lease(&self, grant: SubscriptionGrant, asked: Promise) -> Lease {
        let expires_at = grant.expires_at.filter(|_| !self.gateway.config.insecure);
        Lease {
            expiry: expires_at.map(|at| self.expiry(at)),
            info: grant.info,
            data: grant.data,
            promise: Promise::new(grant.overrides, asked),
            overrides: grant.overrides,
            stamp: Some(grant.stamp),
            is_revoked: false,
        }
    }

    fn expiry(&self, at: UnixTime) -> Expiry {
        Expiry::of(at, self.gateway.config.tokens.grace)
    }

    /// Every command is answered in time, also while keys are fetched (P4).
    async fn in_time<T>(
        &self,
        verified: impl Future<Output = Result<T, TokenError>>,
    ) -> Result<T, TokenError> {
        let until = self.arrived + self.gateway.config.answer_timeout;
        let answer = tokio::time::timeout_at(until, verified).await;
        answer.unwrap_or(Err(TokenError::Unavailable))
    }
}
