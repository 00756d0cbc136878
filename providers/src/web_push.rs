//! Web Push: a browser's push service is handed a message (RFC 8030) that only the browser can read (RFC 8291), signed by the
//! application's key (RFC 8292).
//!
//! Endpoints come from users, so every one is looked at as a webhook's is, by [`Guard`]. For the same reason no answer is
//! [`SendError::Account`]: the endpoint's server was chosen by a user, and what it says of our key (401, 403) is only about its own
//! messages.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use crate::guard::Guard;
use crate::http::{self, Answer};
use crate::push::{self, Moment};
use crate::{Accepted, Address, Outgoing, Provider, SendError, Urgency, Way};

mod seal;
mod vapid;

pub use seal::LARGEST;
use seal::{Sealing, Subscription};
pub use vapid::{VapidError, VapidKeys};

/// How long a signature for a push service is good: half of what RFC 8292 allows at most (section 2).
const SIGNED: Duration = Duration::from_secs(12 * 3600);

/// It is not used any more so long before its end.
const SPARE: Duration = Duration::from_secs(3600);

/// Push services whose signatures are kept. Browsers have a handful; users may name any.
const KEPT: usize = 256;

/// Bytes of a push service's name for a message that are kept.
const LONGEST_REFERENCE: usize = 512;

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Push services write there when something goes wrong (RFC 8292, section 2.1).
    #[error("the contact must be `mailto:` with an address or an https URL, 255 bytes at most")]
    Contact,
    /// No HTTP client, as where the system has no root certificates.
    #[error("no HTTP client")]
    Client(#[source] reqwest::Error),
}

/// How push services are reached.
#[derive(Debug)]
pub struct Settings {
    /// What signs. Browsers subscribe with its public half, and for no other one.
    pub keys: VapidKeys,
    /// Whom a push service can ask: `mailto:ops@example.org` or an https URL.
    pub contact: String,
    /// Where endpoints may be.
    pub guard: Guard,
    /// How long one message may take.
    pub limit: Duration,
}

/// Browsers, through their push services.
pub struct WebPush {
    keys: VapidKeys,
    contact: String,
    guard: Guard,
    client: Client,
    /// By origin.
    signatures: Mutex<HashMap<String, Signature>>,
}

impl std::fmt::Debug for WebPush {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("WebPush")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

/// What goes into `Authorization` for one push service.
struct Signature {
    header: Arc<SecretString>,
    made: Moment,
}

impl WebPush {
    /// Connects only with the first message.
    ///
    /// # Errors
    /// [`SettingsError`], if the contact is none, or no HTTP client can be made.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let contact = Url::parse(&settings.contact)
            .ok()
            .filter(|url| match url.scheme() {
                "mailto" => url.path().contains('@'),
                "https" => true,
                _ => false,
            })
            .filter(|_| settings.contact.len() <= 255);
        if contact.is_none() {
            return Err(SettingsError::Contact);
        }
        let client = settings
            .guard
            .client(settings.limit)
            .map_err(SettingsError::Client)?;
        Ok(Self {
            keys: settings.keys,
            contact: settings.contact,
            guard: settings.guard,
            client,
            signatures: Mutex::default(),
        })
    }

    /// `vapid t=…, k=…` (RFC 8292, section 3) for a push service, one for twelve hours.
    fn signature(&self, origin: &str) -> Result<Arc<SecretString>, SendError> {
        let mut signatures = self.signatures.lock();
        if let Some(signature) = signatures.get(origin)
            && signature.made.age() < SIGNED - SPARE
        {
            return Ok(Arc::clone(&signature.header));
        }
        let made = Moment::now();
        let header = self
            .keys
            .sign(origin, made.unix + SIGNED.as_secs(), &self.contact)
            .ok_or_else(|| SendError::Account {
                reason: "the request cannot be signed".to_owned(),
            })?;
        let header = Arc::new(header);
        if signatures.len() >= KEPT && !signatures.contains_key(origin) {
            let oldest = signatures
                .iter()
                .max_by_key(|(_, signature)| signature.made.age());
            if let Some(oldest) = oldest.map(|(origin, _)| origin.clone()) {
                signatures.remove(&oldest);
            }
        }
        let signature = Signature {
            header: Arc::clone(&header),
            made,
        };
        signatures.insert(origin.to_owned(), signature);
        Ok(header)
    }

    fn headers(&self, endpoint: &Url, message: &Outgoing) -> Result<HeaderMap, SendError> {
        let unusable = |_| SendError::Refused {
            reason: "not a header".to_owned(),
        };
        let signature = self.signature(&endpoint.origin().ascii_serialization())?;
        let mut signature = HeaderValue::from_str(signature.expose_secret()).map_err(unusable)?;
        signature.set_sensitive(true);
        let urgency = match message.urgency {
            Urgency::Low => "low",
            Urgency::Normal => "normal",
            Urgency::High => "high",
        };
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, signature);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("aes128gcm"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert("ttl", HeaderValue::from(push::time_to_live(message)));
        headers.insert("urgency", HeaderValue::from_static(urgency));
        if let Some(key) = &message.collapse {
            headers.insert(
                "topic",
                HeaderValue::from_str(&push::hashed(key)).map_err(unusable)?,
            );
        }
        Ok(headers)
    }
}

#[async_trait]
impl Provider for WebPush {
    fn name(&self) -> &'static str {
        "web-push"
    }

    fn way(&self) -> Way {
        Way::WebPush
    }

    async fn send(&self, to: &Address, message: &Outgoing) -> Result<Accepted, SendError> {
        let Address::WebPush {
            endpoint,
            p256dh,
            auth,
        } = to
        else {
            return Err(SendError::Refused {
                reason: "not an address of Web Push".to_owned(),
            });
        };
        let url = self.guard.check(endpoint)?;
        let subscription = Subscription::read(p256dh, auth)?;
        let body = Sealing::new()?.seal(&subscription, &body(message)?)?;
        let request = self
            .client
            .post(url.clone())
            .headers(self.headers(&url, message)?)
            .body(body);
        let answer = http::ask(request).await?;
        if answer.status.is_success() {
            let location = answer.headers.get(LOCATION).and_then(|url| url.to_str().ok());
            return Ok(Accepted {
                reference: location
                    .filter(|url| url.len() <= LONGEST_REFERENCE)
                    .map(str::to_owned),
            });
        }
        Err(meaning(
            &answer,
            &[endpoint, p256dh, auth, url.as_str(), url.path()],
        ))
    }
}

/// What the service worker is given, as JSON.
fn body(message: &Outgoing) -> Result<Vec<u8>, SendError> {
    #[derive(Serialize)]
    struct Payload<'a> {
        title: &'a str,
        body: &'a str,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        data: &'a BTreeMap<String, String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        link: Option<&'a str>,
        #[serde(skip_serializing_if = "str::is_empty")]
        category: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        badge: Option<u32>,
    }
    let payload = Payload {
        title: &message.title,
        body: &message.body,
        data: &message.data,
        link: message.link.as_deref(),
        category: &message.category,
        badge: message.badge,
    };
    serde_json::to_vec(&payload).map_err(|_| SendError::Refused {
        reason: "not JSON".to_owned(),
    })
}

/// RFC 8030, sections 5 and 7.3; RFC 8292, section 4.
fn meaning(answer: &Answer, hidden: &[&str]) -> SendError {
    let words = String::from_utf8_lossy(&answer.body);
    let said = format!("HTTP {} {words}", answer.status.as_u16());
    let reason = push::said(&said, hidden);
    match answer.status {
        StatusCode::NOT_FOUND | StatusCode::GONE => SendError::Gone { reason },
        _ => answer.general().unwrap_or(SendError::Refused { reason }),
    }
}

#[cfg(test)]
mod tests;
