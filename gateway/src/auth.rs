//! Who a client is, and what it may subscribe to, by the tokens (JWT) that an application's backend
//! signs. Nothing else here is asked: a token is the whole proof.
//!
//! What must hold, each with a test:
//! * A key accepts the algorithms of its own kind and no others; what the token's header says never
//!   chooses how a signature is checked. So a public key never serves as an HMAC secret, and `none`
//!   is nobody's algorithm.
//! * Whatever a token says is used only after its signature was verified.
//! * What a client is answered, and what the log says, holds nothing of the token.

mod claims;
mod config;
mod issue;
mod jwks;
mod keys;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use switchboard_proto::channel::ChannelName;
use switchboard_service_kit::metrics::Metrics;
use switchboard_service_kit::tasks::Tasks;

use self::claims::Claims;
pub(crate) use self::config::Anonymous;
pub use self::config::TokensConfig;
pub use self::issue::{IssueError, TokenRequest};
pub use self::jwks::JwksError;
use self::jwks::{Jwks, JwksMetrics};
use self::keys::{Checks, Rejected, VerifyingKey};

/// A moment of the wall clock, in milliseconds since 1970 (UTC), as tokens name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UnixTime(u64);

impl UnixTime {
    /// Now, by this machine's clock. A clock before 1970 reads as 1970.
    pub(crate) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// From whole seconds since 1970.
    pub(crate) fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Whole seconds, the rest cut off.
    fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// In microseconds.
    pub(crate) fn micros(self) -> u64 {
        self.0.saturating_mul(1000)
    }

    /// From `now` until then; nothing where it is past.
    pub(crate) fn after(self, now: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(now.0))
    }
}

impl std::ops::Add<Duration> for UnixTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

/// By what a token can be told from others of its user, so that it can be revoked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Stamp {
    /// Its `jti`; `None`: it has none, or one that is longer than 255 bytes.
    pub(crate) id: Option<Box<str>>,
    /// Its `iat`.
    pub(crate) issued_at: Option<UnixTime>,
}

/// What a verified connection token says, or who comes without one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    /// Empty: anonymous.
    pub(crate) user: String,
    /// Until when the connection may stay without a refresh; `None`: for ever.
    pub(crate) expires_at: Option<UnixTime>,
    /// JSON that goes with everything the connection publishes; empty: none.
    pub(crate) info: Bytes,
    /// May ask for what concerns everybody, such as statistics.
    pub(crate) is_admin: bool,
    /// The channels that the server subscribes this connection to.
    pub(crate) subscriptions: BTreeMap<ChannelName, ServerSubscription>,
    /// Of the token; `None`: there was none.
    pub(crate) stamp: Option<Stamp>,
}

/// A server-side subscription that a connection token asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ServerSubscription {
    /// JSON that goes with what the connection publishes in this channel; empty: none.
    pub(crate) info: Bytes,
    /// JSON that the client is given with the subscription; empty: none.
    pub(crate) data: Bytes,
    /// What the token says differently from the channel's configuration.
    pub(crate) overrides: Overrides,
}

/// What a verified subscription token grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubscriptionGrant {
    /// What it is for.
    pub(crate) channel: ChannelName,
    /// Until when the subscription may stay without a refresh; `None`: for ever.
    pub(crate) expires_at: Option<UnixTime>,
    /// JSON that goes with what the connection publishes in this channel; empty: none.
    pub(crate) info: Bytes,
    /// JSON that the client is given with the subscription; empty: none.
    pub(crate) data: Bytes,
    /// What the token says differently from the channel's configuration.
    pub(crate) overrides: Overrides,
    /// Of the token.
    pub(crate) stamp: Stamp,
}

/// Options of a channel as one token wants them; `None`: as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Overrides {
    pub(crate) presence: Option<bool>,
    pub(crate) join_leave: Option<bool>,
    pub(crate) force_push_join_leave: Option<bool>,
    pub(crate) force_positioning: Option<bool>,
    pub(crate) force_recovery: Option<bool>,
}

/// Why a token does not do. Says nothing of what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// No correct client has such a token.
    #[error("token refused: {0}")]
    Invalid(&'static str),
    /// A subscription token of somebody or something else.
    #[error("subscription token of another {0}")]
    Foreign(&'static str),
    /// `exp` is past; a fresh one will do.
    #[error("token expired")]
    Expired,
    /// `nbf` is still to come; told to clients as expired, because a fresh one may do.
    #[error("token is not valid yet: compare the clocks of backend and gateway")]
    NotYet,
    /// The token is good, but the time that it grants (`expire_at`) is over.
    #[error("the time that the token grants is over")]
    Over,
    /// It names no user, which `gateway.tokens.anonymous` does not allow.
    #[error("token without a user; gateway.tokens.anonymous does not allow that")]
    Anonymous,
    /// Whether it is good cannot be told now.
    #[error("the keys of gateway.tokens.jwks_url are not known yet")]
    Unavailable,
}

/// Whose subscription token is expected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bearer<'a> {
    pub(crate) user: &'a str,
    /// The connection's id.
    pub(crate) client: &'a str,
    /// `None`: whatever channel the token names.
    pub(crate) channel: Option<&'a str>,
}

/// Verifies tokens. Cheap to call; waits only where a key set has to be fetched.
pub(crate) struct Tokens {
    connection: Verifier,
    /// `None`: the keys of connection tokens.
    subscription: Option<Verifier>,
    anonymous: Anonymous,
    leeway: Duration,
    info_size: usize,
    channel_name_length: usize,
}

/// The keys of one kind of token.
struct Verifier {
    keys: Vec<VerifyingKey>,
    jwks: Option<Jwks>,
}

impl Tokens {
    /// Reads the keys, and starts to fetch key sets where some are configured.
    ///
    /// # Errors
    /// [`JwksError`] where no HTTPS client can be made.
    pub(crate) fn start(
        config: &TokensConfig,
        channel_name_length: usize,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> Result<Self, JwksError> {
        let metrics = JwksMetrics::register(metrics);
        let verifier = |keys: &config::KeysConfig| -> Result<Verifier, JwksError> {
            let checks = Checks {
                issuer: keys.issuer.clone(),
                audience: keys.audience.clone(),
            };
            let jwks = match &keys.jwks_url {
                Some(url) => Some(Jwks::start(
                    url.clone(),
                    config.jwks.clone(),
                    checks.clone(),
                    metrics.clone(),
                    tasks,
                )?),
                None => None,
            };
            Ok(Verifier {
                keys: keys.verifying_keys(&checks),
                jwks,
            })
        };
        Ok(Self {
            connection: verifier(&config.connection)?,
            subscription: config.subscription.as_ref().map(verifier).transpose()?,
            anonymous: config.anonymous,
            leeway: config.leeway,
            info_size: config.info_size,
            channel_name_length,
        })
    }

    /// Who may connect without a token, or with one that names nobody.
    pub(crate) fn anonymous(&self) -> Anonymous {
        self.anonymous
    }

    /// Verifies a connection token. Cancel safe.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(crate) async fn connection(&self, token: &str, now: UnixTime) -> Result<Identity, TokenError> {
        let claims = self.connection.verify(token).await?;
        if claims.channel.is_some() {
            return Err(TokenError::Invalid(
                "a subscription token where a connection token is expected",
            ));
        }
        let user = claims.user()?;
        self.timely(&claims, now)?;
        if user.is_empty() && self.anonymous == Anonymous::Nobody {
            return Err(TokenError::Anonymous);
        }
        let expires_at = self.granted_until(&claims, now)?;
        Ok(Identity {
            info: claims.info(self.info_size)?,
            subscriptions: claims.server_subscriptions(self.info_size, self.channel_name_length)?,
            is_admin: claims.is_admin() && !user.is_empty(),
            stamp: Some(claims.stamp()),
            user,
            expires_at,
        })
    }

    /// Verifies a subscription token that `bearer` presents. Cancel safe.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(crate) async fn subscription(
        &self,
        token: &str,
        bearer: Bearer<'_>,
        now: UnixTime,
    ) -> Result<SubscriptionGrant, TokenError> {
        let verifier = self.subscription.as_ref().unwrap_or(&self.connection);
        let claims = verifier.verify(token).await?;
        let Some(named) = claims.channel.as_deref().filter(|channel| !channel.is_empty()) else {
            return Err(TokenError::Invalid("a subscription token without a channel"));
        };
        if bearer.channel.is_some_and(|channel| channel != named) {
            return Err(TokenError::Foreign("channel"));
        }
        if claims.user()? != bearer.user {
            return Err(TokenError::Foreign("user"));
        }
        if claims
            .client
            .as_deref()
            .is_some_and(|client| !client.is_empty() && client != bearer.client)
        {
            return Err(TokenError::Foreign("connection"));
        }
        let channel = ChannelName::parse(named, self.channel_name_length)
            .map_err(|_| TokenError::Invalid("the channel has no valid name"))?;
        self.timely(&claims, now)?;
        let expires_at = self.granted_until(&claims, now)?;
        Ok(SubscriptionGrant {
            channel,
            expires_at,
            info: claims.info(self.info_size)?,
            data: claims.data(self.info_size)?,
            overrides: claims.overrides(),
            stamp: claims.stamp(),
        })
    }

    /// Checks the token's own validity.
    fn timely(&self, claims: &Claims, now: UnixTime) -> Result<(), TokenError> {
        if claims.exp.is_some_and(|exp| exp + self.leeway <= now) {
            return Err(TokenError::Expired);
        }
        if claims.nbf.is_some_and(|nbf| nbf > now + self.leeway) {
            return Err(TokenError::NotYet);
        }
        Ok(())
    }

    /// Until when what it grants lasts.
    fn granted_until(&self, claims: &Claims, now: UnixTime) -> Result<Option<UnixTime>, TokenError> {
        match claims.expire_at {
            Some(UnixTime(0)) => Ok(None),
            Some(expire_at) if expire_at + self.leeway <= now => Err(TokenError::Over),
            Some(expire_at) => Ok(Some(expire_at)),
            None => Ok(claims.exp),
        }
    }
}

impl Verifier {
    async fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let header = keys::header(token)?;
        for key in &self.keys {
            match key.verify(token) {
                // Another key may have signed it.
                Err(Rejected::Signature) => {}
                decided => return Ok(decided?),
            }
        }
        // Last, because it may have to be waited for. Only the keys of a set have names.
        let Some(jwks) = &self.jwks else {
            if self.keys.is_empty() {
                return Err(TokenError::Invalid(
                    "no key is configured, see [gateway.tokens] in the configuration",
                ));
            }
            return Err(Rejected::Signature.into());
        };
        let key = match header.kid.as_deref() {
            Some(kid) => jwks.key(kid).await?,
            None => jwks.only_key().await?,
        };
        Ok(key.verify(token)?)
    }
}

#[cfg(test)]
mod tests;
