//! How providers ask over HTTP: one client with a time limit and bounded answers, and what a failure means.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, RequestBuilder, StatusCode};

use crate::SendError;
use crate::guard::NotPublic;

/// Bytes of an answer that are read; no provider says anything useful beyond.
const ANSWER: usize = 64 << 10;

/// The longest wait that a provider may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// What a provider answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// At most [`ANSWER`] bytes.
    pub(crate) body: Bytes,
}

impl Answer {
    /// How long the provider asks to wait: `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3), a day at most.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        let wait = match text.parse::<u64>() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => httpdate::parse_http_date(text)
                .ok()?
                .duration_since(SystemTime::now())
                .unwrap_or_default(),
        };
        Some(wait.min(LONGEST_WAIT))
    }

    /// The body as JSON; null where it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The usual meaning of a status that says nothing about this message or address: `None` for one that does (2xx, 3xx, most 4xx).
    pub(crate) fn general(&self) -> Option<SendError> {
        let reason = format!("HTTP {}", self.status.as_u16());
        match self.status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Some(SendError::Retry {
                    reason,
                    after: self.retry_after(),
                })
            }
            // The proxy that says so may have handed it on.
            StatusCode::GATEWAY_TIMEOUT | StatusCode::BAD_GATEWAY => Some(SendError::Unknown { reason }),
            status if status.is_server_error() => Some(SendError::Retry {
                reason,
                after: self.retry_after(),
            }),
            _ => None,
        }
    }
}

/// A client as all providers need it: no redirects, no proxy of the environment, an end after `limit`.
pub(crate) fn builder(limit: Duration) -> ClientBuilder {
    Client::builder()
        .timeout(limit)
        .connect_timeout(limit / 2)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_idle_timeout(Duration::from_secs(60))
        .user_agent(concat!("Switchboard/", env!("CARGO_PKG_VERSION")))
}

/// Sends the request and reads the answer.
///
/// # Errors
/// [`SendError::Retry`] where no connection came about, [`SendError::Unknown`] where one did and no answer came,
/// [`SendError::Refused`] where a guard does not let it go there.
pub(crate) async fn ask(request: RequestBuilder) -> Result<Answer, SendError> {
    let mut response = request.send().await.map_err(|error| failure(&error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = BytesMut::new();
    while body.len() < ANSWER {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let room = ANSWER - body.len();
                body.extend_from_slice(chunk.get(..room).unwrap_or(&chunk));
            }
            // What the status says is known.
            Ok(None) | Err(_) => break,
        }
    }
    Ok(Answer {
        status,
        headers,
        body: body.freeze(),
    })
}

/// Says nothing of the address: it is personal.
fn failure(error: &reqwest::Error) -> SendError {
    if error.is_builder() {
        return SendError::Refused {
            reason: "not a request that can be sent".to_owned(),
        };
    }
    let mut reason = String::from(if error.is_timeout() {
        "no answer in time"
    } else {
        "no answer"
    });
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(refused) = inner.downcast_ref::<NotPublic>() {
            return SendError::Refused {
                reason: refused.to_string(),
            };
        }
        reason.push_str(": ");
        reason.push_str(&inner.to_string());
        source = inner.source();
    }
    if error.is_connect() {
        SendError::Retry { reason, after: None }
    } else {
        SendError::Unknown { reason }
    }
}
