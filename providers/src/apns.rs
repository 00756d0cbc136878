//! The Apple Push Notification service: one HTTP/2 request for each device, with a token that we sign.
//!
//! What is sent follows Apple's
//! [requests](https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns), the token its
//! [token-based connections](https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns),
//! and what an answer means its
//! [responses](https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns).
//! `MissingTopic`, `BadTopic` and `TopicDisallowed` come with status 400 and yet are [`SendError::Account`]: the topic is in the
//! settings, so every message would fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::http::{self, Answer};
use crate::push::{self, Moment};
use crate::{Accepted, Address, Outgoing, Provider, SendError, Urgency, Way};

/// For apps from the App Store and TestFlight.
pub const PRODUCTION: &str = "https://api.push.apple.com";

/// For apps that Xcode put on a device.
pub const SANDBOX: &str = "https://api.sandbox.push.apple.com";

/// Bytes of a payload that APNs takes.
pub const LARGEST: usize = 4096;

/// Bytes of a collapse id that APNs takes.
const LONGEST_COLLAPSE: usize = 64;

/// Digits of a device token, at most. Apple promises no length; today there are 64 or 160.
const LONGEST_TOKEN: usize = 200;

/// A token is signed anew after so long: Apple wants that between 20 and 60 minutes.
const RENEWED: Duration = Duration::from_secs(40 * 60);

/// Tokens that APNs called too old are replaced no more often: Apple's bound for new tokens.
const SELDOM: Duration = Duration::from_secs(20 * 60);

/// An idle connection is asked whether it is still there: connections are kept, as Apple takes many of them for an attack.
const PING: Duration = Duration::from_secs(60);

/// An idle connection is kept for so long.
const IDLE: Duration = Duration::from_secs(3600);

/// Why settings cannot be used. Texts hold no secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not PEM of such a key.
    #[error("the key is not an EC key on P-256 in PEM (PKCS#8), as Apple's .p8 files have it")]
    Key,
    /// Key ids and team ids have ten letters or digits.
    #[error("{name} must have ten letters or digits")]
    Id {
        /// Which of them.
        name: &'static str,
    },
    /// A topic is a bundle id, perhaps with a suffix.
    #[error("the topic must be a bundle id: letters, digits, hyphens and dots, 255 at most")]
    Topic,
    /// A token would go there in the clear, or the URL has a user, a query or a fragment.
    #[error(
        "the base URL of APNs must be an https URL (http only to this machine) without user, query and fragment"
    )]
    Url,
    /// Not PEM of certificates.
    #[error("the roots are not certificates in PEM")]
    Roots,
    /// No HTTP client, as where the system has no root certificates.
    #[error("no HTTP client")]
    Client(#[source] reqwest::Error),
}

/// The key that signs tokens, with its id and the team that it belongs to.
pub struct SigningKey {
    key: EncodingKey,
    key_id: String,
    team_id: String,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SigningKey")
            .field("key_id", &self.key_id)
            .field("team_id", &self.team_id)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads a `.p8` file: PEM of a P-256 key in PKCS#8. Apple shows the ids of the key and of the team beside it, ten characters each.
    ///
    /// # Errors
    /// [`SettingsError::Key`] or [`SettingsError::Id`].
    pub fn read(p8: &SecretString, key_id: &str, team_id: &str) -> Result<Self, SettingsError> {
        for (name, id) in [("the key's id", key_id), ("the team's id", team_id)] {
            if id.len() != 10 || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(SettingsError::Id { name });
            }
        }
        let key = Self {
            key: EncodingKey::from_ec_pem(p8.expose_secret().as_bytes()).map_err(|_| SettingsError::Key)?,
            key_id: key_id.to_owned(),
            team_id: team_id.to_owned(),
        };
        // What looks like a key may be on another curve.
        key.sign(0).ok_or(SettingsError::Key)?;
        Ok(key)
    }

    fn sign(&self, now: u64) -> Option<SecretString> {
        #[derive(Serialize)]
        struct Claims<'a> {
            iss: &'a str,
            iat: u64,
        }
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.key_id.clone());
        let claims = Claims {
            iss: &self.team_id,
            iat: now,
        };
        let text = jsonwebtoken::encode(&header, &claims, &self.key).ok()?;
        Some(SecretString::from(text))
    }
}

/// How APNs is reached.
#[derive(Debug)]
pub struct Settings {
    /// Who sends.
    pub key: SigningKey,
    /// The app's bundle id.
    pub topic: String,
    /// [`PRODUCTION`] or [`SANDBOX`], except in tests: https, or http to this machine.
    pub base_url: String,
    /// Certificates in PEM that are trusted instead of the system's.
    pub roots: Option<String>,
    /// How long one message may take.
    pub limit: Duration,
}

impl Settings {
    /// APNs for released apps, and ten seconds for each message.
    #[must_use]
    pub fn new(key: SigningKey, topic: String) -> Self {
        Self {
            key,
            topic,
            base_url: PRODUCTION.to_owned(),
            roots: None,
            limit: Duration::from_secs(10),
        }
    }
}

/// The Apple Push Notification service.
pub struct Apns {
    key: SigningKey,
    topic: HeaderValue,
    base: Url,
    limit: Duration,
    client: Client,
    tokens: Mutex<Tokens>,
    /// APNs has taken a message: its settings are right.
    is_proven: AtomicBool,
}

impl std::fmt::Debug for Apns {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Apns")
            .field("key", &self.key)
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Tokens {
    token: Option<Arc<Token>>,
    /// When a token was last replaced since APNs called it too old.
    replaced: Option<Moment>,
}

struct Token {
    text: SecretString,
    made: Moment,
}

impl Apns {
    /// Connects only with the first message.
    ///
    /// # Errors
    /// [`SettingsError`], if the topic, the URL or the roots are not usable, or no HTTP client can be made.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let is_topic = (1..=255).contains(&settings.topic.len())
            && settings
                .topic
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
        let topic = HeaderValue::from_str(&settings.topic)
            .ok()
            .filter(|_| is_topic)
            .ok_or(SettingsError::Topic)?;
        let base = push::base_url(&settings.base_url).ok_or(SettingsError::Url)?;
        // By this the client offers nothing but HTTP/2.
        let mut client = http::builder(settings.limit)
            .http2_prior_knowledge()
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(settings.limit)
            .http2_keep_alive_while_idle(true)
            .pool_idle_timeout(IDLE);
        if let Some(roots) = &settings.roots {
            let roots = Certificate::from_pem_bundle(roots.as_bytes())
                .ok()
                .filter(|roots| !roots.is_empty())
                .ok_or(SettingsError::Roots)?;
            client = client.tls_certs_only(roots);
        }
        Ok(Self {
            key: settings.key,
            topic,
            base,
            limit: settings.limit,
            client: client.build().map_err(SettingsError::Client)?,
            tokens: Mutex::default(),
            is_proven: AtomicBool::new(false),
        })
    }

    /// The token of all messages until it is 40 minutes old.
    fn token(&self) -> Result<Arc<Token>, SendError> {
        let mut tokens = self.tokens.lock();
        match &tokens.token {
            Some(token) if token.made.age() < RENEWED => Ok(Arc::clone(token)),
            _ => self.sign(&mut tokens),
        }
    }

    /// Another token than `refused`, which APNs called too old; `None` where it said so of another one less than 20 minutes ago.
    fn replaced(&self, refused: &Arc<Token>) -> Result<Option<Arc<Token>>, SendError> {
        let mut tokens = self.tokens.lock();
        match &tokens.token {
            Some(token) if !Arc::ptr_eq(token, refused) => return Ok(Some(Arc::clone(token))),
            _ => {}
        }
        if tokens.replaced.is_some_and(|replaced| replaced.age() < SELDOM) {
            return Ok(None);
        }
        tokens.replaced = Some(Moment::now());
        self.sign(&mut tokens).map(Some)
    }

    fn sign(&self, tokens: &mut Tokens) -> Result<Arc<Token>, SendError> {
        let made = Moment::now();
        let text = self.key.sign(made.unix).ok_or_else(|| SendError::Account {
            reason: "the token cannot be signed".to_owned(),
        })?;
        let token = Arc::new(Token { text, made });
        tokens.token = Some(Arc::clone(&token));
        Ok(token)
    }

    async fn post(&self, request: &Prepared, token: &Token, deadline: Instant) -> Result<Answer, SendError> {
        let request = self
            .client
            .post(request.url.clone())
            .headers(request.headers.clone())
            .bearer_auth(token.text.expose_secret())
            .body(request.body.clone())
            .timeout(deadline.saturating_duration_since(Instant::now()));
        http::ask(request).await
    }

    fn prepared(&self, device: &str, message: &Outgoing) -> Result<Prepared, SendError> {
        let is_token =
            (1..=LONGEST_TOKEN).contains(&device.len()) && device.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_token {
            // APNs says BadDeviceToken to the same.
            return Err(SendError::Gone {
                reason: format!("not a device token: {LONGEST_TOKEN} hexadecimal digits at most"),
            });
        }
        let body = body(message)?;
        let expiration = match push::time_to_live(message) {
            0 => 0,
            seconds => push::unix_now() + seconds,
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("apns-topic", self.topic.clone());
        headers.insert("apns-push-type", HeaderValue::from_static("alert"));
        let priority = if message.urgency == Urgency::High {
            "10"
        } else {
            "5"
        };
        headers.insert("apns-priority", HeaderValue::from_static(priority));
        headers.insert("apns-expiration", HeaderValue::from(expiration));
        let id = message.id.hyphenated().to_string();
        for (name, value) in [
            ("apns-id", Some(id)),
            ("apns-collapse-id", message.collapse.as_deref().map(collapse_id)),
        ] {
            let Some(value) = value else { continue };
            let value = HeaderValue::from_str(&value).map_err(|_| SendError::Refused {
                reason: format!("{name} cannot be a header"),
            })?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(Prepared {
            url: push::below(&self.base, ["3", "device", device]),
            headers,
            body,
        })
    }
}

/// All of a request but its token.
struct Prepared {
    url: Url,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// The key itself where it can be a header and has 64 bytes at most, else its hash.
fn collapse_id(key: &str) -> String {
    let is_plain = (1..=LONGEST_COLLAPSE).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if is_plain {
        key.to_owned()
    } else {
        push::hashed(key)
    }
}

#[async_trait]
impl Provider for Apns {
    fn name(&self) -> &'static str {
        "apns"
    }

    fn way(&self) -> Way {
        Way::Apns
    }

    async fn send(&self, to: &Address, message: &Outgoing) -> Result<Accepted, SendError> {
        let Address::Apns { token: device } = to else {
            return Err(SendError::Refused {
                reason: "not an address of APNs".to_owned(),
            });
        };
        let request = self.prepared(device, message)?;
        let deadline = Instant::now() + self.limit;
        let token = self.token()?;
        let mut answer = self.post(&request, &token, deadline).await?;
        if reason(&answer) == "ExpiredProviderToken"
            && let Some(token) = self.replaced(&token)?
        {
            answer = self.post(&request, &token, deadline).await?;
        }
        if answer.status == StatusCode::OK {
            self.is_proven.store(true, Ordering::Relaxed);
            let id = answer.headers.get("apns-id").and_then(|id| id.to_str().ok());
            return Ok(Accepted {
                reference: Some(id.map_or_else(|| message.id.to_string(), str::to_owned)),
            });
        }
        Err(meaning(&answer, device, self.is_proven.load(Ordering::Relaxed)))
    }
}

/// What the device shows, and beside it what the app is given.
fn body(message: &Outgoing) -> Result<Vec<u8>, SendError> {
    let mut custom: BTreeMap<&str, &str> = BTreeMap::new();
    if !message.category.is_empty() {
        custom.insert("category", &message.category);
    }
    if let Some(link) = &message.link {
        custom.insert("link", link);
    }
    custom.extend(
        message
            .data
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str())),
    );
    if custom.contains_key("aps") {
        return Err(SendError::Refused {
            reason: "the data has a key `aps`, which is APNs' own".to_owned(),
        });
    }
    let is_low = message.urgency == Urgency::Low;
    let payload = Payload {
        aps: Aps {
            alert: Alert {
                title: &message.title,
                body: &message.body,
            },
            badge: message.badge,
            sound: (!is_low).then_some("default"),
            thread_id: message.collapse.as_deref(),
            category: Some(message.category.as_str()).filter(|category| !category.is_empty()),
            interruption_level: is_low.then_some("passive"),
        },
        custom,
    };
    let body = serde_json::to_vec(&payload).map_err(|_| SendError::Refused {
        reason: "not JSON".to_owned(),
    })?;
    if body.len() > LARGEST {
        return Err(SendError::Refused {
            reason: format!("{} bytes are more than the {LARGEST} that APNs takes", body.len()),
        });
    }
    Ok(body)
}

#[derive(Serialize)]
struct Payload<'a> {
    aps: Aps<'a>,
    #[serde(flatten)]
    custom: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Aps<'a> {
    alert: Alert<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    badge: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interruption_level: Option<&'static str>,
}

#[derive(Serialize)]
struct Alert<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    title: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    body: &'a str,
}

/// Apple's word for what is wrong; empty where there is none.
fn reason(answer: &Answer) -> String {
    let json = answer.json();
    json.get("reason")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// `is_proven`: APNs has taken a message of ours, so settings are right. Before that a token may seem bad because they are not: the
/// sandbox instead of production, or another app's topic, and with it every token.
fn meaning(answer: &Answer, device: &str, is_proven: bool) -> SendError {
    let word = reason(answer);
    let said = format!("HTTP {} {word}", answer.status.as_u16());
    let reason = push::said(&said, &[device]);
    match (answer.status, word.as_str()) {
        (StatusCode::GONE, _) => SendError::Gone { reason },
        (StatusCode::BAD_REQUEST, "BadDeviceToken" | "DeviceTokenNotForTopic") if is_proven => {
            SendError::Gone { reason }
        }
        (StatusCode::BAD_REQUEST, "MissingTopic" | "BadTopic" | "TopicDisallowed")
        | (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => SendError::Account { reason },
        // Our connection was slow.
        (StatusCode::BAD_REQUEST, "IdleTimeout") => SendError::Retry { reason, after: None },
        _ => match answer.general() {
            Some(SendError::Retry { after, .. }) => SendError::Retry { reason, after },
            Some(error) => error,
            None => SendError::Refused { reason },
        },
    }
}

#[cfg(test)]
mod tests;
