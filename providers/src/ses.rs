//! E-mail through Amazon SES: one request of its
//! [API version 2](https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html) for each message, signed by us.
//!
//! SES knows no key that makes a second try harmless, and gives every message a Message-ID of its own: where nobody knows whether it
//! took one, a second copy cannot be told from the first.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;

use crate::http::{self, Answer};
use crate::mail::{self, Sender};
use crate::{Accepted, Address, Outgoing, Provider, SendError, Way, push};

mod sign;

pub use sign::Keys;

/// As signatures name it.
const SERVICE: &str = "ses";

/// Bytes of a tag's value, at most.
const LONGEST_TAG: usize = 256;

/// What it needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who sends.
    pub keys: Keys,
    /// `eu-central-1`.
    pub region: String,
    /// Who mails are from: SES must know the address or its domain as verified.
    pub from: Sender,
    /// A configuration set, which says where events go.
    pub configuration_set: Option<String>,
    /// SES, else than at the region's address: https, or http to this machine.
    pub endpoint: Option<String>,
    /// How long one request may take, with its answer.
    pub limit: Duration,
    /// Bytes of a message with its headers, at most. SES takes up to 40 MB with its encoding.
    pub largest: usize,
}

/// Why settings cannot be used. Texts hold no secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It goes into the address and the signature.
    #[error("the region must have small letters, digits and hyphens, 32 at most")]
    Region,
    /// It goes into the signature.
    #[error("the access key must have 16 to 128 letters and digits")]
    AccessKey,
    /// It would be no header.
    #[error("the session token has characters that no header takes")]
    SessionToken,
    /// Requests would go there in the clear, or the URL has a path, a user, a query or a fragment.
    #[error(
        "the endpoint of SES must be an https URL (http only to this machine) without path, user, query and fragment"
    )]
    Endpoint,
    /// No HTTP client, as where the system has no root certificates.
    #[error("no HTTP client")]
    Client(#[source] reqwest::Error),
}

/// Mailboxes, through Amazon SES.
#[derive(Debug)]
pub struct Ses {
    settings: Settings,
    url: Url,
    /// As `Host` has it.
    host: String,
    client: Client,
}

impl Ses {
    /// Makes it ready; asks nobody.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let region = &settings.region;
        let is_region = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=32).contains(&region.len()) || !region.bytes().all(is_region) {
            return Err(SettingsError::Region);
        }
        let access_key = &settings.keys.access_key;
        if !(16..=128).contains(&access_key.len()) || !access_key.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(SettingsError::AccessKey);
        }
        let is_token = |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        let token = settings.keys.session_token.as_ref();
        if !token.is_none_or(|token| is_token(token.expose_secret())) {
            return Err(SettingsError::SessionToken);
        }
        let endpoint = settings.endpoint.clone().unwrap_or_else(|| {
            // China has a domain of its own.
            let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
            format!("https://email.{region}.amazonaws.com{suffix}")
        });
        let base = push::base_url(&endpoint).filter(|base| base.path() == "/");
        let base = base.ok_or(SettingsError::Endpoint)?;
        let host = match (base.host_str(), base.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Err(SettingsError::Endpoint),
        };
        let client = http::builder(settings.limit).build();
        Ok(Self {
            url: push::below(&base, ["v2", "email", "outbound-emails"]),
            host,
            client: client.map_err(SettingsError::Client)?,
            settings,
        })
    }

    fn request(&self, body: Vec<u8>) -> Result<reqwest::RequestBuilder, SendError> {
        const JSON: &str = "application/json";
        let keys = &self.settings.keys;
        let date = sign::date(OffsetDateTime::now_utc());
        let token = keys.session_token.as_ref().map(|token| token.expose_secret());
        let mut headers = vec![
            ("content-type", JSON),
            ("host", &self.host),
            ("x-amz-date", &date),
        ];
        headers.extend(token.map(|token| ("x-amz-security-token", token)));
        let signed = sign::Signed {
            method: "POST",
            path: self.url.path(),
            headers: &headers,
            body: &body,
        };
        let scope = sign::Scope {
            region: &self.settings.region,
            service: SERVICE,
        };
        let authorization = sign::authorization(keys, &scope, &date, &signed);
        let unusable = |_| SendError::Account {
            reason: "the request cannot be signed".to_owned(),
        };
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(unusable)?;
            value.set_sensitive(true);
            Ok::<_, SendError>(value)
        };
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, JSON)
            .header("x-amz-date", &date)
            .header(AUTHORIZATION, secret(&authorization)?);
        if let Some(token) = token {
            request = request.header("x-amz-security-token", secret(token)?);
        }
        Ok(request.body(body))
    }
}

#[async_trait]
impl Provider for Ses {
    fn name(&self) -> &'static str {
        "ses"
    }

    fn way(&self) -> Way {
        Way::Email
    }

    async fn send(&self, to: &Address, message: &Outgoing) -> Result<Accepted, SendError> {
        let Address::Email { address } = to else {
            return Err(SendError::Refused {
                reason: "not an e-mail address".to_owned(),
            });
        };
        let mail = mail::mail(&self.settings.from, address, message, self.settings.largest)?;
        let from = self.settings.from.address().as_ref();
        let email = Email {
            from_email_address: from,
            destination: Destination {
                to_addresses: [mail.to.as_ref()],
            },
            content: Content {
                raw: Raw {
                    data: STANDARD.encode(&mail.bytes),
                },
            },
            configuration_set_name: self.settings.configuration_set.as_deref(),
            email_tags: tag(&message.category).into_iter().collect(),
        };
        let body = serde_json::to_vec(&email).map_err(|_| SendError::Refused {
            reason: "not JSON".to_owned(),
        })?;
        let answer = http::ask(self.request(body)?).await?;
        if answer.status.is_success() {
            let json = answer.json();
            let id = json.get("MessageId").and_then(Value::as_str);
            return Ok(Accepted {
                reference: id.map(|id| push::said(id, &[mail.to.as_ref()])),
            });
        }
        Err(meaning(&answer, from))
    }
}

/// By its category a message is counted in SES's events; one that is not of the characters for tags has none.
fn tag(category: &str) -> Option<Tag<'_>> {
    let is_tag = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    ((1..=LONGEST_TAG).contains(&category.len()) && category.bytes().all(is_tag)).then_some(Tag {
        name: "category",
        value: category,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Email<'a> {
    from_email_address: &'a str,
    destination: Destination<'a>,
    content: Content,
    #[serde(skip_serializing_if = "Option::is_none")]
    configuration_set_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    email_tags: Vec<Tag<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Destination<'a> {
    to_addresses: [&'a str; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    raw: Raw,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Raw {
    data: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Tag<'a> {
    name: &'static str,
    value: &'a str,
}

/// AWS's word for what is wrong, without the URL and the namespace that may stand around it; empty where there is none.
fn word(answer: &Answer) -> String {
    let header = answer.headers.get("x-amzn-errortype");
    let header = header.and_then(|value| value.to_str().ok());
    let json = answer.json();
    let word = header
        .or_else(|| json.get("__type").and_then(Value::as_str))
        .or_else(|| json.get("code").and_then(Value::as_str))
        .unwrap_or_default();
    let word = word.split(':').next().unwrap_or_default();
    let word = word.rsplit('#').next().unwrap_or_default();
    let is_word = word.bytes().all(|b| b.is_ascii_alphanumeric());
    word.chars().filter(|_| is_word).take(64).collect()
}

/// What AWS writes beside its word has addresses in it: only the word is kept.
fn meaning(answer: &Answer, from: &str) -> SendError {
    let word = word(answer);
    let reason = push::said(&format!("HTTP {} {word}", answer.status.as_u16()), &[]);
    let after = answer.retry_after();
    match (answer.status, word.as_str()) {
        // More than the account may send in a second, or in a day.
        (_, "TooManyRequestsException" | "LimitExceededException" | "ThrottlingException" | "Throttling")
        | (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, _) => {
            SendError::Retry { reason, after }
        }
        (
            _,
            "AccountSuspendedException"
            | "SendingPausedException"
            | "MailFromDomainNotVerifiedException"
            // The configuration set, which is in the settings.
            | "NotFoundException",
        )
        // A wrong key or signature, a token that ended, no right to send.
        | (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, _) => {
            SendError::Account { reason }
        }
        (_, "MessageRejected") if is_unverified(answer, from) => SendError::Account {
            reason: format!("{reason}: the sender is not verified"),
        },
        // The usual meaning would be that it was not taken; nobody says so.
        (status, _) if status.is_server_error() => SendError::Unknown { reason },
        _ => answer.general().unwrap_or(SendError::Refused { reason }),
    }
}

/// Whether a message was rejected since the sender is nobody SES knows: it names what failed. A reader whom it does not know is
/// rejected by the same word, while the account is in the sandbox.
fn is_unverified(answer: &Answer, from: &str) -> bool {
    let json = answer.json();
    let text = json.get("message").or_else(|| json.get("Message"));
    let text = text.and_then(Value::as_str).unwrap_or_default();
    let text = text.to_ascii_lowercase();
    text.contains("not verified") && text.contains(&from.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
