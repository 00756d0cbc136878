//! What the outside reaches: links of e-mails that switch a category off, and Twilio's reports. Nothing else, and nothing without a
//! signature that is ours or Twilio's.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use secrecy::SecretString;
use switchboard_proto::time::now_us;
use switchboard_providers::twilio;

use crate::links::Links;
use crate::preferences::Preferences;
use crate::store::NotifyStore;

/// Bytes of a request, at most.
const LARGEST: usize = 64 << 10;

/// How often a report is looked up, and how long after each other: Twilio waits 15 s for the answer.
const REPORTED: u32 = 10;
const AGAIN: Duration = Duration::from_millis(500);

/// What is needed to answer.
pub(crate) struct Outside {
    pub(crate) store: Arc<dyn NotifyStore>,
    pub(crate) links: Links,
    /// Of Twilio's account.
    pub(crate) twilio: Option<SecretString>,
}

pub(crate) fn router(outside: Outside) -> Router {
    Router::new()
        .route("/unsubscribe/{link}", get(ask).post(unsubscribe))
        .route("/twilio/status", post(report))
        .with_state(Arc::new(outside))
}

fn page(status: StatusCode, text: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Notifications</title><body style=\"font-family:sans-serif;max-width:30em;margin:4em auto\">{text}</body></html>"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
        ),
    ];
    (status, headers, page).into_response()
}

/// A link that is only opened changes nothing: mail programs open links to look for harm.
async fn ask(State(outside): State<Arc<Outside>>, Path(link): Path<String>) -> Response {
    match outside.links.read(&link) {
        Some(_) => page(
            StatusCode::OK,
            "<p>Receive no more e-mails of this kind?</p><form method=\"post\"><button>Unsubscribe</button></form>",
        ),
        None => page(StatusCode::NOT_FOUND, "<p>This link is not valid.</p>"),
    }
}

/// One POST, as mail programs send it (RFC 8058), or the form's.
async fn unsubscribe(State(outside): State<Arc<Outside>>, Path(link): Path<String>) -> Response {
    let Some(what) = outside.links.read(&link) else {
        return page(StatusCode::NOT_FOUND, "<p>This link is not valid.</p>");
    };
    let facts = match outside.store.facts(&[&what.user], now_us(), 0).await {
        Ok(facts) => facts,
        Err(error) => return failed(&error),
    };
    let document = facts
        .get(&what.user)
        .and_then(|facts| facts.preferences.as_deref());
    let preferences = match document.map(Preferences::kept) {
        None => Preferences::default(),
        Some(Ok(preferences)) => preferences,
        Some(Err(error)) => {
            // A newer release wrote it: what else it says is not for us to end.
            tracing::error!(%error, "somebody could not unsubscribe");
            return page(StatusCode::SERVICE_UNAVAILABLE, "<p>Please try again later.</p>");
        }
    };
    let changed = preferences.without(&what.category, what.way);
    let written = match serde_json::to_string(&changed) {
        Ok(document) => outside.store.set_preferences(&what.user, &document).await,
        Err(error) => {
            tracing::error!(%error, "preferences cannot be written");
            return page(
                StatusCode::INTERNAL_SERVER_ERROR,
                "<p>Please try again later.</p>",
            );
        }
    };
    match written {
        Ok(()) => page(
            StatusCode::OK,
            "<p>You will receive no more e-mails of this kind.</p>",
        ),
        Err(error) => failed(&error),
    }
}

fn failed(error: &crate::store::StoreError) -> Response {
    tracing::warn!(%error, "somebody could not unsubscribe");
    page(StatusCode::SERVICE_UNAVAILABLE, "<p>Please try again later.</p>")
}

/// What became of a text message.
async fn report(State(outside): State<Arc<Outside>>, request: Request) -> Response {
    let Some(token) = &outside.twilio else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let signature = parts.headers.get("x-twilio-signature");
    let signature = signature
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let url = format!("{}{path}", outside.links.base());
    let params = form(&body);
    if !twilio::verify_signature(token, &url, &params, signature) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Some(status) = twilio::Status::read(&params) else {
        // Of a state that is not known: nothing follows from it.
        return StatusCode::NO_CONTENT.into_response();
    };
    let failed = match status.state {
        twilio::State::Queued | twilio::State::Sent => return StatusCode::NO_CONTENT.into_response(),
        twilio::State::Delivered => None,
        twilio::State::Undelivered | twilio::State::Failed => Some(match status.code {
            Some(code) => format!("not delivered: error {code}"),
            None => "not delivered".to_owned(),
        }),
    };
    let reference = format!("twilio:{}", status.reference);
    for _ in 0..REPORTED {
        match outside
            .store
            .report(&reference, failed.as_deref(), now_us())
            .await
        {
            Ok(true) => return StatusCode::NO_CONTENT.into_response(),
            // It may come before what was sent is written down, and Twilio does not say it twice.
            Ok(false) => tokio::time::sleep(AGAIN).await,
            Err(error) => {
                tracing::warn!(%error, "a report of Twilio's is lost");
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
        }
    }
    StatusCode::NOT_FOUND.into_response()
}

/// The fields of a form.
fn form(body: &Bytes) -> Vec<(String, String)> {
    serde_urlencoded::from_bytes(body).unwrap_or_default()
}
