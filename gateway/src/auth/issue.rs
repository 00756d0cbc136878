//! Signs tokens, for trying things out from the command line. Backends sign their own.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{TokensConfig, UnixTime};

/// What a token is to say.
#[derive(Debug, Clone, Copy)]
pub struct TokenRequest<'a> {
    /// The user's id; empty: anonymous.
    pub user: &'a str,
    /// A subscription token for this channel; `None`: a connection token.
    pub channel: Option<&'a str>,
    /// How long it is valid, from now; whole seconds, the rest is cut off.
    pub ttl: Duration,
    /// JSON that goes with what its bearer publishes.
    pub info: Option<&'a str>,
    /// Its bearer may ask for what concerns everybody.
    pub admin: bool,
}

/// Why no token is signed.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// There is no secret.
    #[error(
        "{0}.hmac_secret is not set, so no token can be signed here: set it, or let whoever has the private key sign"
    )]
    NoSecret(&'static str),
    /// See [`TokenRequest::info`].
    #[error("info is not JSON: write it as a JSON value, such as '{{\"name\":\"Alice\"}}'")]
    Info(#[source] serde_json::Error),
    /// The library's.
    #[error("signing failed")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sb_admin: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

impl TokensConfig {
    /// A token, signed with the configured secret (HS256), for the configured issuer and audience.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue(&self, request: TokenRequest<'_>) -> Result<String, IssueError> {
        let keys = match &self.subscription {
            Some(keys) if request.channel.is_some() => keys,
            _ => &self.connection,
        };
        let (section, secret) = self.signing_secret(request.channel.is_some());
        let secret = secret.ok_or(IssueError::NoSecret(section))?;
        let info = request
            .info
            .map(serde_json::from_str::<&RawValue>)
            .transpose()
            .map_err(IssueError::Info)?;
        let iat = UnixTime::now().seconds();
        let claims = Claims {
            sub: request.user,
            iat,
            exp: iat.saturating_add(request.ttl.as_secs()),
            channel: request.channel,
            info,
            sb_admin: request.admin,
            iss: keys.issuer.as_deref(),
            aud: keys.audience.as_deref(),
        };
        let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
        Ok(jsonwebtoken::encode(&Header::default(), &claims, &key)?)
    }
}
