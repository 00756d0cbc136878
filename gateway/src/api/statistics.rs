//! Reports for backends and operators: `GET /api/statistics`, `/api/statistics/channels`, and `/api/statistics/live`, a stream of
//! server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::StreamExt as _;
use serde_json::Value;
use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::messages::{LiveRequest, LiveResponse, method};
use switchboard_proto::questions::Method;

use super::Api;
use crate::statistics::telling::{self, Format, Question, TopQuestion};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(4);

pub(super) fn router(api: &Arc<Api>) -> Router {
    Router::new()
        .route("/api/statistics", get(statistics))
        .route("/api/statistics/channels", get(channels))
        .route("/api/statistics/live", get(live))
        .with_state(Arc::clone(api))
}

async fn statistics(State(api): State<Arc<Api>>, headers: HeaderMap, question: Asked<Question>) -> Response {
    let question = match api.admitted(&headers, question) {
        Ok(question) => question,
        Err(response) => return *response,
    };
    let format = question.format;
    match api.ask::<method::Statistics>(&question.into()).await {
        Ok(response) => told(
            format,
            || telling::as_json(&response),
            || telling::as_csv(&response),
        ),
        Err(response) => *response,
    }
}

async fn channels(State(api): State<Arc<Api>>, headers: HeaderMap, question: Asked<TopQuestion>) -> Response {
    let question = match api.admitted(&headers, question) {
        Ok(question) => question,
        Err(response) => return *response,
    };
    let format = question.format;
    match api.ask::<method::TopChannels>(&question.into()).await {
        Ok(response) => told(
            format,
            || telling::top_as_json(&response),
            || telling::top_as_csv(&response),
        ),
        Err(response) => *response,
    }
}

/// An event every second, until seconds may have been missed or the gateway stops.
async fn live(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    if let Err(response) = api.admitted(&headers, Ok(Query(()))) {
        return *response;
    }
    // Says at once where nothing is told.
    if let Err(response) = api.ask::<method::Live>(&LiveRequest {}).await {
        return *response;
    }
    let Some(ticks) = api.ticking.watch() else {
        let words = "as many watch as may (gateway.api.live_streams)\n";
        return (StatusCode::TOO_MANY_REQUESTS, words).into_response();
    };
    let events = ticks.map(|tick| {
        let data = telling::tick_as_json(&tick).to_string();
        Ok::<_, Infallible>(Event::default().data(data))
    });
    let stop = api.stop.clone();
    let events = events.take_until(async move { stop.cancelled().await });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

type Asked<Q> = Result<Query<Q>, axum::extract::rejection::QueryRejection>;

impl Api {
    /// The question of who has the key.
    fn admitted<Q>(&self, headers: &HeaderMap, question: Asked<Q>) -> Result<Q, Box<Response>> {
        if self.keys.given(headers).is_none() {
            return Err(Box::new(super::http::unauthorized(self)));
        }
        match question {
            Ok(Query(question)) => Ok(question),
            Err(rejection) => {
                let words = format!("{}\n", rejection.body_text());
                Err(Box::new((StatusCode::BAD_REQUEST, words).into_response()))
            }
        }
    }

    /// What happened in the last minutes; `None`: there is no answer.
    pub(super) async fn look(&self) -> Option<LiveResponse> {
        let bus = self.gateway.links.bus();
        ask::<method::Live>(bus, &LiveRequest {}, PATIENCE).await.ok()
    }

    async fn ask<M: Method>(&self, request: &M::Request) -> Result<M::Response, Box<Response>> {
        let Ok(_place) = self.places.try_acquire() else {
            let words = "too many requests (gateway.api.requests)\n";
            return Err(Box::new((StatusCode::TOO_MANY_REQUESTS, words).into_response()));
        };
        let asked = ask::<M>(self.gateway.links.bus(), request, PATIENCE).await;
        asked.map_err(|error| {
            tracing::debug!(method = M::NAME, %error, "statistics are not told");
            let (status, words) = match error {
                AskError::Invalid(words) => (StatusCode::BAD_REQUEST, words),
                AskError::NotAvailable(words) => (StatusCode::NOT_IMPLEMENTED, words),
                AskError::Unavailable(words) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("statistics cannot be told now: {words}"),
                ),
                AskError::NotFound(_) | AskError::Denied(_) | AskError::Internal(_) => (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "a fault, which the logs tell".to_owned(),
                ),
            };
            Box::new((status, format!("{words}\n")).into_response())
        })
    }
}

fn told(format: Format, json: impl FnOnce() -> Value, csv: impl FnOnce() -> String) -> Response {
    match format {
        Format::Json => axum::Json(json()).into_response(),
        Format::Csv => ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], csv()).into_response(),
    }
}
