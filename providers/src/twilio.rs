//! SMS through Twilio's Programmable Messaging: handing over, and the status callbacks that tell what became of it.
//!
//! Twilio knows no key that makes a second try harmless: a request without an answer may have been a message.

use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};

use crate::{Accepted, Address, Outgoing, Provider, SendError, Way, http};

/// UTF-16 units of a text, at most: Twilio refuses longer ones (21617).
pub const LONGEST: usize = 1600;

/// Who a message is from.
#[derive(Debug, Clone)]
pub enum Sender {
    /// A number of the account, or a name where the country allows them.
    From(String),
    /// A messaging service, `MG…`, which chooses.
    Service(String),
}

/// What it needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `AC…`.
    pub account: String,
    /// Of the account: it also signs the status callbacks.
    pub auth_token: SecretString,
    /// Who messages are from.
    pub sender: Sender,
    /// Where Twilio tells what became of a message: an https URL.
    pub status_callback: Option<String>,
    /// Twilio, else than at `https://api.twilio.com`.
    pub endpoint: Option<String>,
    /// How long one request may take, with its answer.
    pub limit: Duration,
}

/// Phones, through Twilio.
#[derive(Debug)]
pub struct Twilio {
    settings: Settings,
    url: String,
    client: Client,
}

impl Twilio {
    /// Makes it ready; asks nobody.
    ///
    /// # Errors
    /// Where the system's roots of trust cannot be read.
    pub fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let endpoint = settings.endpoint.as_deref().unwrap_or("https://api.twilio.com");
        let endpoint = endpoint.trim_end_matches('/');
        Ok(Self {
            url: format!(
                "{endpoint}/2010-04-01/Accounts/{}/Messages.json",
                settings.account
            ),
            client: http::builder(settings.limit).build()?,
            settings,
        })
    }
}

#[async_trait]
impl Provider for Twilio {
    fn name(&self) -> &'static str {
        "twilio"
    }

    fn way(&self) -> Way {
        Way::Sms
    }

    async fn send(&self, to: &Address, message: &Outgoing) -> Result<Accepted, SendError> {
        let refused = |reason: &str| SendError::Refused {
            reason: reason.to_owned(),
        };
        let Address::Sms { number } = to else {
            return Err(refused("not a phone number"));
        };
        let digits = number.strip_prefix('+').unwrap_or_default();
        if !(8..=15).contains(&digits.len()) || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(refused("not a phone number as of E.164"));
        }
        let text = text(message);
        if text.is_empty() {
            return Err(refused("nothing to say"));
        }
        let mut form = vec![("To", number.as_str()), ("Body", &text)];
        form.push(match &self.settings.sender {
            Sender::From(from) => ("From", from),
            Sender::Service(service) => ("MessagingServiceSid", service),
        });
        if let Some(url) = &self.settings.status_callback {
            form.push(("StatusCallback", url));
        }
        let token = self.settings.auth_token.expose_secret();
        let request = self.client.post(&self.url);
        let request = request
            .basic_auth(&self.settings.account, Some(token))
            .form(&form);
        let answer = http::ask(request).await?;
        let json = answer.json();
        if answer.status.is_success() {
            return Ok(Accepted {
                reference: json.get("sid").and_then(|sid| sid.as_str()).map(str::to_owned),
            });
        }
        // A fault of Twilio's may come after the message went out, and there is no key by which a second one would be known.
        if answer.status.is_server_error() {
            return Err(SendError::Unknown {
                reason: format!("HTTP {}", answer.status.as_u16()),
            });
        }
        // What Twilio writes beside its code has the number in it.
        let code = json
            .get("code")
            .and_then(|code| u32::try_from(code.as_u64()?).ok());
        if let Some(error) = code.and_then(|code| meaning(code, answer.retry_after())) {
            return Err(error);
        }
        if let Some(error) = answer.general() {
            return Err(error);
        }
        let reason = match code {
            Some(code) => format!("Twilio {code}"),
            None => format!("HTTP {}", answer.status.as_u16()),
        };
        Err(match answer.status {
            // No such account: 20404.
            StatusCode::NOT_FOUND => SendError::Account { reason },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => SendError::Account { reason },
            _ => SendError::Refused { reason },
        })
    }
}

/// What a code of Twilio means (<https://www.twilio.com/docs/api/errors>), of an answer or of a status callback: `None` where it says
/// nothing but that this message is not taken.
#[must_use]
pub fn meaning(code: u32, after: Option<Duration>) -> Option<SendError> {
    let reason = format!("Twilio {code}");
    match code {
        // No number (21211), no phone that takes text (21614, 21635, 30006), one that nobody has (30005), one whose owner wrote STOP
        // (21610): no later message gets there.
        21211 | 21610 | 21614 | 21635 | 30005 | 30006 => Some(SendError::Gone { reason }),
        // Not from this sender to this number or its country (21408, 21606, 21612, 21659), not while the account is on trial (21608),
        // filtered (30004, 30007): others get through.
        21408 | 21606 | 21608 | 21612 | 21659 | 30004 | 30007 => Some(SendError::Refused { reason }),
        // A wrong token, an account that is not active or suspended, a sender that is not the account's or takes no text.
        20003 | 20005 | 21660 | 21661 | 30002 => Some(SendError::Account { reason }),
        // Too many requests or messages (20429, 21611, 30001, 30022, 63038), a phone that is off, a fault of a carrier.
        20429 | 21611 | 30001 | 30003 | 30008 | 30022 | 63038 => Some(SendError::Retry { reason, after }),
        _ => None,
    }
}

/// Title and body, cut at a word where they are too long.
fn text(message: &Outgoing) -> String {
    let parts = [message.title.trim(), message.body.trim()];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let text = parts.join("\n");
    let units = |text: &str| text.encode_utf16().count();
    if units(&text) <= LONGEST {
        return text;
    }
    // Three full stops: the one character would make every part of a plain text half as long (UCS-2).
    let mut cut = String::new();
    let mut length = 3;
    for character in text.chars() {
        length += character.len_utf16();
        if length > LONGEST {
            break;
        }
        cut.push(character);
    }
    // A text without spaces is cut where it is.
    let word = cut.rfind(char::is_whitespace).filter(|at| *at > cut.len() / 2);
    cut.truncate(word.unwrap_or(cut.len()));
    cut.truncate(cut.trim_end().len());
    cut + "..."
}

/// Whether a status callback is Twilio's: `signature` is its header `X-Twilio-Signature`, `url` the whole URL as Twilio was given
/// it, `params` the form, decoded. In constant time.
#[must_use]
pub fn verify_signature(
    auth_token: &SecretString,
    url: &str,
    params: &[(String, String)],
    signature: &str,
) -> bool {
    let Ok(tag) = STANDARD.decode(signature) else {
        return false;
    };
    let mut sorted: Vec<&(String, String)> = params.iter().collect();
    sorted.sort();
    // Twilio signs a parameter that comes twice with the same value once.
    sorted.dedup();
    let mut signed = url.to_owned();
    for (name, value) in sorted {
        signed.push_str(name);
        signed.push_str(value);
    }
    let token = auth_token.expose_secret().as_bytes();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, token);
    hmac::verify(&key, signed.as_bytes(), &tag).is_ok()
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Twilio has it: `accepted`, `scheduled`, `queued`, `sending`.
    Queued,
    /// A carrier has it.
    Sent,
    /// The phone has it: `delivered`, `read`.
    Delivered,
    /// A carrier did not deliver it.
    Undelivered,
    /// Twilio could not hand it on: `failed`, `canceled`.
    Failed,
}

/// A status callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What [`Accepted::reference`] was.
    pub reference: String,
    /// What became of it.
    pub state: State,
    /// Why it failed: see [`meaning`].
    pub code: Option<u32>,
}

impl Status {
    /// Reads the form of a status callback: verify it first. `None`: not one, or of a state that Twilio had not when this was written.
    #[must_use]
    pub fn read(params: &[(String, String)]) -> Option<Self> {
        let of = |name: &str| {
            let found = params.iter().find(|(other, _)| other == name);
            found.map(|(_, value)| value.as_str())
        };
        Some(Self {
            reference: of("MessageSid")?.to_owned(),
            state: match of("MessageStatus")? {
                "accepted" | "scheduled" | "queued" | "sending" => State::Queued,
                "sent" => State::Sent,
                "delivered" | "read" => State::Delivered,
                "undelivered" => State::Undelivered,
                "failed" | "canceled" => State::Failed,
                _ => return None,
            },
            code: of("ErrorCode").and_then(|code| code.parse().ok()),
        })
    }
}

#[cfg(test)]
mod tests;
