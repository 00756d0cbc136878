//! How clients come to a gateway.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use switchboard_client::{Client, ClientError, Options, Place};

use super::super::arena::SECRET;

/// As SDKs have it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Seconds: longer than a run.
const TOKEN_LIFE: u64 = 24 * 3600;

/// Gives everybody a way.
pub(super) struct Ways {
    urls: Arc<[String]>,
    key: EncodingKey,
    /// Unix seconds until which tokens hold.
    exp: u64,
    given: usize,
}

impl Ways {
    /// `now_us`: Unix microseconds.
    pub(super) fn to(urls: &[String], now_us: u64) -> Self {
        Self {
            urls: urls.into(),
            key: EncodingKey::from_secret(SECRET.as_bytes()),
            exp: now_us / 1_000_000 + TOKEN_LIFE,
            given: 0,
        }
    }

    /// One more. Each belongs to a user of its own: an anonymous client's key would be forgotten with its connection (P6).
    pub(super) fn next(&mut self) -> Result<Way> {
        let turn = self.given;
        self.given += 1;
        let user = format!("client-{turn}");
        let claims = json!({ "sub": user, "exp": self.exp });
        Ok(Way {
            urls: Arc::clone(&self.urls),
            turn,
            user,
            token: jsonwebtoken::encode(&Header::default(), &claims, &self.key)?,
        })
    }
}

/// Where a client connects: another gateway each time.
pub(super) struct Way {
    urls: Arc<[String]>,
    turn: usize,
    user: String,
    token: String,
}

impl Way {
    /// Who comes this way.
    pub(super) fn user(&self) -> &str {
        &self.user
    }

    pub(super) async fn connect(&mut self) -> Result<Client, ClientError> {
        self.turn += 1;
        let url = self
            .urls
            .get(self.turn % self.urls.len().max(1))
            .map_or("", String::as_str);
        let options = Options {
            token: self.token.clone(),
            name: "faults".to_owned(),
            timeout: TIMEOUT,
            ..Options::default()
        };
        Client::connect(url, options).await
    }

    /// Connects and subscribes. `place`: where it left off.
    pub(super) async fn subscribe(
        &mut self,
        channel: &str,
        place: Option<&Place>,
    ) -> Result<(Client, Place), ClientError> {
        let mut client = self.connect().await?;
        let subscribed = client.subscribe(channel, "", place).await?;
        let place = Place {
            epoch: subscribed.epoch,
            offset: subscribed.offset,
        };
        Ok((client, place))
    }
}
