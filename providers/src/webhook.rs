//! Webhooks: a request to a server of the application, signed as Standard Webhooks 1.0 has it (<https://www.standardwebhooks.com>).
//!
//! The address is an application's, so [`Guard`] looks at it. The receiver knows a message that comes again by its `webhook-id`.

use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::guard::Guard;
use crate::{Accepted, Address, Outgoing, Provider, SendError, Way, http};

/// Bytes of a body, at most.
pub const LARGEST: usize = 1 << 20;

/// Secrets of one receiver, at most: rotation needs two.
const MOST_SECRETS: usize = 4;

/// What it needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where receivers may be.
    pub guard: Guard,
    /// How long one request may take, with its answer.
    pub limit: Duration,
}

/// Servers of applications.
#[derive(Debug)]
pub struct Webhook {
    guard: Guard,
    client: Client,
}

impl Webhook {
    /// Makes it ready; asks nobody.
    ///
    /// # Errors
    /// Where the system's roots of trust cannot be read.
    pub fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let client = settings.guard.client(settings.limit)?;
        Ok(Self {
            guard: settings.guard,
            client,
        })
    }
}

#[async_trait]
impl Provider for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn way(&self) -> Way {
        Way::Webhook
    }

    async fn send(&self, to: &Address, message: &Outgoing) -> Result<Accepted, SendError> {
        let Address::Webhook { url, secrets } = to else {
            return Err(refused("not an address of a webhook"));
        };
        let url = self.guard.check(url)?;
        let now = OffsetDateTime::now_utc();
        let body = body(message, now)?;
        let id = message.id.to_string();
        let timestamp = now.unix_timestamp().to_string();
        let signature = signature(secrets, &id, &timestamp, &body)?;
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body);
        let answer = http::ask(request).await?;
        let reason = format!("HTTP {}", answer.status.as_u16());
        match answer.status {
            status if status.is_success() => Ok(Accepted::default()),
            StatusCode::GONE => Err(SendError::Gone { reason }),
            // Following one would send the message to an address nobody gave.
            status if status.is_redirection() => Err(SendError::Refused { reason }),
            // By the standard anything else failed and is tried again: a receiver that answers 400 or 404 is broken now, and may be
            // repaired. A second copy does no harm, as it has the same id.
            _ => Err(SendError::Retry {
                reason,
                after: answer.retry_after(),
            }),
        }
    }
}

/// `payload` as it is; else `type`, `timestamp` and `data`, as the standard proposes.
fn body(message: &Outgoing, now: OffsetDateTime) -> Result<String, SendError> {
    let body = match &message.payload {
        Some(payload) => payload.clone(),
        None => serde_json::json!({
            "type": message.category,
            "timestamp": now.format(&Rfc3339).unwrap_or_default(),
            "data": {
                "id": message.id,
                "title": message.title,
                "body": message.body,
                "link": message.link,
                "data": message.data,
            },
        })
        .to_string(),
    };
    if body.len() > LARGEST {
        return Err(refused("the body is too large"));
    }
    Ok(body)
}

/// One `v1,…` for each secret, the first secret's first.
fn signature(secrets: &[SecretString], id: &str, timestamp: &str, body: &str) -> Result<String, SendError> {
    if secrets.is_empty() || secrets.len() > MOST_SECRETS {
        return Err(refused("not one to four secrets"));
    }
    let mut signatures = Vec::new();
    for secret in secrets {
        let key = secret.expose_secret().strip_prefix("whsec_");
        let key = key.and_then(|key| STANDARD.decode(key).ok());
        let key = key.filter(|key| (24..=64).contains(&key.len()));
        let key = key.ok_or_else(|| refused("a secret is not whsec_ and base64 of 24 to 64 bytes"))?;
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
        for part in [id, ".", timestamp, ".", body] {
            context.update(part.as_bytes());
        }
        signatures.push(format!("v1,{}", STANDARD.encode(context.sign())));
    }
    Ok(signatures.join(" "))
}

fn refused(reason: &str) -> SendError {
    SendError::Refused {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
