//! Firebase Cloud Messaging by its HTTP v1 interface: one request for each device, with an access token that a service account gets.
//!
//! What FCM answers, and what it means here, follows its
//! [error codes](https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode). Two answers need a word:
//!
//! - `SENDER_ID_MISMATCH` is [`SendError::Refused`]: the token belongs to another project. As `Gone`, the key of a wrong project in
//!   the settings, which is put right in a minute, would forget every device; as `Account`, whoever registers a token of a project
//!   of his own would stop everybody's messages.
//! - `INVALID_ARGUMENT` is [`SendError::Gone`] only where FCM says that it is the token: by a violation of the field
//!   `message.token` alone or, as it mostly does, in the words of its documentation. Anything else is wrong with the message.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::http::{self, Answer};
use crate::push::{self, Moment};
use crate::{Accepted, Address, Outgoing, Provider, SendError, Way};

mod account;
mod message;

pub use account::ServiceAccount;
pub use message::LARGEST;

/// Where FCM is.
pub const BASE_URL: &str = "https://fcm.googleapis.com";

/// The grant of RFC 7523, section 2.1.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// A new token is asked for so long before the old one ends.
const EARLY: Duration = Duration::from_secs(300);

/// A token is not used any more so long before its end, as clocks differ and requests take time.
const SPARE: Duration = Duration::from_secs(30);

/// While the old token is good, the next try to get a new one comes so long after one that failed.
const AGAIN: Duration = Duration::from_secs(30);

/// The wait that FCM wants after too many messages where it names none.
const QUOTA_WAIT: Duration = Duration::from_secs(60);

/// What FCM says of a malformed token, mostly without the violation that its reference promises.
const BAD_TOKEN: &str = "The registration token is not a valid FCM registration token";

/// Why settings cannot be used. Texts hold no secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not JSON with the needed texts.
    #[error(
        "the service account is not the JSON that Google gives out (line {line}, column {column}): {what}"
    )]
    Json {
        /// Where reading ended.
        line: usize,
        /// Where in the line.
        column: usize,
        /// The kind of fault; not the text, which may be the key.
        what: &'static str,
    },
    /// Another kind of credentials, such as those of a person.
    #[error("the credentials are not of a service account: their `type` is not `service_account`")]
    Kind,
    /// A text that is empty or has characters that cannot be in it.
    #[error("`{key}` of the service account is not usable")]
    Field {
        /// The key in the JSON.
        key: &'static str,
    },
    /// Not PEM of an RSA key.
    #[error("`private_key` of the service account is not an RSA key in PEM (PKCS#8)")]
    PrivateKey,
    /// A token would go there in the clear, or the URL has a user, a query or a fragment.
    #[error("{name} must be an https URL (http only to this machine) without user, query and fragment")]
    Url {
        /// Which of them.
        name: &'static str,
    },
    /// No HTTP client, as where the system has no root certificates.
    #[error("no HTTP client")]
    Client(#[source] reqwest::Error),
}

/// How FCM is reached.
#[derive(Debug)]
pub struct Settings {
    /// Who sends.
    pub account: ServiceAccount,
    /// [`BASE_URL`], except in tests: https, or http to this machine.
    pub base_url: String,
    /// How long one message may take, with a new token if one is needed.
    pub limit: Duration,
}

impl Settings {
    /// FCM itself, and ten seconds for each message.
    #[must_use]
    pub fn new(account: ServiceAccount) -> Self {
        Self {
            account,
            base_url: BASE_URL.to_owned(),
            limit: Duration::from_secs(10),
        }
    }
}

/// Firebase Cloud Messaging.
pub struct Fcm {
    account: ServiceAccount,
    url: Url,
    limit: Duration,
    client: Client,
    tokens: Mutex<Tokens>,
}

impl std::fmt::Debug for Fcm {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Fcm")
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

/// Locked while a token is asked for: whoever needs one meanwhile waits for that one.
#[derive(Default)]
struct Tokens {
    token: Option<Arc<Token>>,
    failed: Option<(Instant, SendError)>,
}

struct Token {
    text: SecretString,
    got: Moment,
    lasts: Duration,
}

impl Token {
    /// How long it can still be used.
    fn left(&self) -> Duration {
        self.lasts.saturating_sub(SPARE).saturating_sub(self.got.age())
    }

    /// Whether there is so much of it left that nobody needs to ask for another one.
    fn is_fresh(&self) -> bool {
        self.left() > EARLY.min(self.lasts / 2)
    }
}

impl Fcm {
    /// Sends nothing yet; the first message gets the first token.
    ///
    /// # Errors
    /// [`SettingsError`], if FCM's URL is none that a token may be sent to, or no HTTP client can be made.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let base = push::base_url(&settings.base_url).ok_or(SettingsError::Url {
            name: "the base URL of FCM",
        })?;
        let project = settings.account.project_id();
        Ok(Self {
            url: push::below(&base, ["v1", "projects", project, "messages:send"]),
            client: http::builder(settings.limit)
                .build()
                .map_err(SettingsError::Client)?,
            account: settings.account,
            limit: settings.limit,
            tokens: Mutex::default(),
        })
    }

    /// The same as `token`, and an error at `deadline`.
    async fn token_in_time(
        &self,
        refused: Option<&Arc<Token>>,
        deadline: Instant,
    ) -> Result<Arc<Token>, SendError> {
        tokio::time::timeout_at(deadline, self.token(refused, deadline))
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    /// A token that is good for this message; never `refused`.
    async fn token(&self, refused: Option<&Arc<Token>>, deadline: Instant) -> Result<Arc<Token>, SendError> {
        let asked = Instant::now();
        let mut tokens = self.tokens.lock().await;
        if Instant::now() >= deadline {
            return Err(late());
        }
        if refused.is_some() && tokens.token.as_ref().map(Arc::as_ptr) == refused.map(Arc::as_ptr) {
            tokens.token = None;
        }
        let old = tokens.token.clone().filter(|token| !token.left().is_zero());
        if let Some((at, error)) = &tokens.failed {
            match &old {
                // It failed while this one waited: asking again now would make waits add up.
                None if *at >= asked => return Err(error.clone()),
                Some(old) if at.elapsed() < AGAIN => return Ok(Arc::clone(old)),
                _ => {}
            }
        }
        if let Some(old) = &old
            && old.is_fresh()
        {
            return Ok(Arc::clone(old));
        }
        match self.grant(deadline).await {
            Ok(token) => {
                let token = Arc::new(token);
                *tokens = Tokens {
                    token: Some(Arc::clone(&token)),
                    failed: None,
                };
                Ok(token)
            }
            Err(error) => {
                tokens.failed = Some((Instant::now(), error.clone()));
                old.ok_or(error)
            }
        }
    }

    /// Asks for a token by the account's signature.
    async fn grant(&self, deadline: Instant) -> Result<Token, SendError> {
        #[derive(Deserialize)]
        struct Granted {
            access_token: SecretString,
            expires_in: Option<u64>,
        }
        let got = Moment::now();
        let assertion = self
            .account
            .assertion(got.unix)
            .ok_or_else(|| SendError::Account {
                reason: "the request for a token cannot be signed".to_owned(),
            })?;
        let form = [("grant_type", GRANT), ("assertion", assertion.expose_secret())];
        let request = self
            .client
            .post(self.account.token_uri().clone())
            .form(&form)
            .timeout(deadline.saturating_duration_since(Instant::now()));
        let answer = http::ask(request).await.map_err(push::before_sending)?;
        if answer.status == StatusCode::OK {
            let granted: Granted = serde_json::from_slice(&answer.body).map_err(|_| SendError::Retry {
                reason: "the answer to the request for a token has none".to_owned(),
                after: None,
            })?;
            return Ok(Token {
                text: granted.access_token,
                got,
                lasts: Duration::from_secs(granted.expires_in.unwrap_or(3600).min(24 * 3600)),
            });
        }
        if let Some(error) = answer.general() {
            return Err(push::before_sending(error));
        }
        let body = answer.json();
        let text = |key| body.get(key).and_then(Value::as_str).unwrap_or_default();
        let said = format!(
            "no token: HTTP {} {} {}",
            answer.status.as_u16(),
            text("error"),
            text("error_description")
        );
        Err(SendError::Account {
            reason: push::said(&said, &[assertion.expose_secret()]),
        })
    }

    async fn post(&self, body: Vec<u8>, token: &Token, deadline: Instant) -> Result<Answer, SendError> {
        let request = self
            .client
            .post(self.url.clone())
            .bearer_auth(token.text.expose_secret())
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .timeout(deadline.saturating_duration_since(Instant::now()));
        http::ask(request).await
    }
}

#[async_trait]
impl Provider for Fcm {
    fn name(&self) -> &'static str {
        "fcm"
    }

    fn way(&self) -> Way {
        Way::Fcm
    }

    async fn send(&self, to: &Address, message: &Outgoing) -> Result<Accepted, SendError> {
        let Address::Fcm { token: device } = to else {
            return Err(SendError::Refused {
                reason: "not an address of FCM".to_owned(),
            });
        };
        let body = message::body(device, message)?;
        let deadline = Instant::now() + self.limit;
        let token = self.token_in_time(None, deadline).await?;
        let mut answer = self.post(body.clone(), &token, deadline).await?;
        // Google may take a token back before its time.
        if answer.status == StatusCode::UNAUTHORIZED && Problem::of(&answer).code != "THIRD_PARTY_AUTH_ERROR"
        {
            let token = self.token_in_time(Some(&token), deadline).await?;
            answer = self.post(body, &token, deadline).await?;
        }
        if answer.status.is_success() {
            let reference = answer
                .json()
                .get("name")
                .and_then(Value::as_str)
                .map(str::to_owned);
            return Ok(Accepted { reference });
        }
        Err(meaning(&answer, device))
    }
}

fn late() -> SendError {
    SendError::Retry {
        reason: "no token in time".to_owned(),
        after: None,
    }
}

/// What FCM says of a failure, from a `google.rpc.Status` and the details in it.
struct Problem {
    /// FCM's own code or, where it gives none, the status; empty if there is neither.
    code: String,
    message: String,
    /// Names of fields that FCM does not like.
    fields: Vec<String>,
}

impl Problem {
    fn of(answer: &Answer) -> Self {
        let json = answer.json();
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let error = json.get("error");
        let details = error
            .and_then(|error| error.get("details"))
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let of_kind = |kind: &str| {
            let is_kind = |detail: &&Value| text(detail.get("@type")).ends_with(kind);
            details.iter().find(is_kind)
        };
        let own = text(of_kind("google.firebase.fcm.v1.FcmError").and_then(|detail| detail.get("errorCode")));
        let status = text(error.and_then(|error| error.get("status")));
        let fields = of_kind("google.rpc.BadRequest")
            .and_then(|detail| detail.get("fieldViolations"))
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|violation| text(violation.get("field")))
            .collect();
        Self {
            code: if own.is_empty() { status } else { own },
            message: text(error.and_then(|error| error.get("message"))),
            fields,
        }
    }

    fn is_token(&self) -> bool {
        if self.fields.is_empty() {
            self.message == BAD_TOKEN
        } else {
            self.fields.iter().all(|field| field == "message.token")
        }
    }
}

fn meaning(answer: &Answer, device: &str) -> SendError {
    let problem = Problem::of(answer);
    let said = format!(
        "HTTP {} {} {}",
        answer.status.as_u16(),
        problem.code,
        problem.message
    );
    let reason = push::said(&said, &[device]);
    match problem.code.as_str() {
        "UNREGISTERED" => SendError::Gone { reason },
        "INVALID_ARGUMENT" if problem.is_token() => SendError::Gone { reason },
        "INVALID_ARGUMENT" | "SENDER_ID_MISMATCH" => SendError::Refused { reason },
        "QUOTA_EXCEEDED" | "RESOURCE_EXHAUSTED" => SendError::Retry {
            reason,
            after: Some(answer.retry_after().unwrap_or(QUOTA_WAIT)),
        },
        "UNAVAILABLE" | "INTERNAL" => SendError::Retry {
            reason,
            after: answer.retry_after(),
        },
        "THIRD_PARTY_AUTH_ERROR" | "UNAUTHENTICATED" | "PERMISSION_DENIED" => SendError::Account { reason },
        _ => match answer.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => SendError::Account { reason },
            _ => answer.general().unwrap_or(SendError::Refused { reason }),
        },
    }
}

#[cfg(test)]
mod tests;
