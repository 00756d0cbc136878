//! The server API over HTTP: `POST /api/METHOD`, `POST /api/batch`, and the older `POST /api`.
//!
//! A call that is understood is answered with HTTP 200 and a result or an error; 4xx says that it was not.

#![expect(
    clippy::result_large_err,
    reason = "a response is what both sides of these results are"
)]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::error::Category;
use serde_json::value::RawValue;
use switchboard_proto::api::{self, HistoryResult};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::json;
use tokio::time::Instant;

use super::failure::Failure;
use super::{Api, BATCH, Call, Caller, Transport, notifications};

/// Until a request's body must be there.
const BODY_TIME: Duration = Duration::from_secs(30);

pub(super) fn router(api: &Arc<Api>) -> Router {
    Router::new()
        .route("/api/{method}", post(call))
        .route("/api", post(older))
        .with_state(Arc::clone(api))
}

/// What is at no path of ours. Clients of gRPC are told in their way.
pub(super) async fn nothing(request: Request) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return tonic::Status::unimplemented("no such method").into_http::<Body>();
    }
    (StatusCode::NOT_FOUND, "no such path; see docs/server-api.md\n").into_response()
}

/// Data that is not JSON is moved to where JSON can hold it.
pub(super) fn as_json(mut result: HistoryResult) -> HistoryResult {
    for publication in &mut result.publications {
        if !json::is_payload(&publication.data) {
            publication.b64data = BASE64_STANDARD.encode(&publication.data);
            publication.data = Bytes::from_static(b"null");
        }
    }
    result
}

async fn call(State(api): State<Arc<Api>>, Path(method): Path<String>, request: Request) -> Response {
    let (caller, body) = match read(&api, request).await {
        Ok(read) => read,
        Err(response) => return response,
    };
    if method == "batch" {
        let batch = match parse::<api::BatchRequest>(&body) {
            Ok(batch) => batch,
            Err(response) => return response,
        };
        return match api.batch(batch, caller).await {
            Ok(replies) => written(&replies),
            Err(failure) => written(&Answer::<()>::from(Err(failure))),
        };
    }
    match answer(&api, &method, &body, caller).await {
        Ok(Some(answer)) => json_response(answer),
        Ok(None) => (StatusCode::NOT_FOUND, "no such method; see docs/server-api.md\n").into_response(),
        Err(response) => response,
    }
}

/// One request, or several, one behind the other, of `{"method":…,"params":…}`. Answered alike.
async fn older(State(api): State<Arc<Api>>, request: Request) -> Response {
    #[derive(Deserialize)]
    struct Older<'a> {
        method: String,
        #[serde(borrow)]
        params: Option<&'a RawValue>,
    }

    let (caller, body) = match read(&api, request).await {
        Ok(read) => read,
        Err(response) => return response,
    };
    let requests: Result<Vec<Older<'_>>, _> = serde_json::Deserializer::from_slice(&body)
        .into_iter()
        .take(BATCH + 1)
        .collect();
    let requests = match requests {
        Ok(requests) if requests.is_empty() => return bad("empty request"),
        Ok(requests) if requests.len() > BATCH => return bad("more than 1000 calls in one request"),
        Ok(requests) => requests,
        Err(error) => return bad(fault(&error)),
    };
    let mut out = Vec::new();
    for request in requests {
        let params = request.params.map_or("{}", RawValue::get);
        let answer = match answer(&api, &request.method, params.as_bytes(), caller).await {
            Ok(Some(answer)) => answer,
            Ok(None) => match encode(&Answer::<()>::from(Err(ErrorCode::MethodNotFound.into()))) {
                Ok(answer) => answer,
                Err(response) => return response,
            },
            Err(response) => return response,
        };
        if !out.is_empty() {
            out.push(b'\n');
        }
        out.extend(answer);
    }
    json_response(out)
}

/// The answer of one call, encoded. The outer error is the whole response.
pub(super) async fn one<C>(api: &Api, body: &[u8], caller: Caller) -> Result<Vec<u8>, Response>
where
    C: Call + DeserializeOwned,
    C::Result: Serialize,
{
    let request = parse::<C>(body)?;
    encode(&Answer::from(api.call(request, caller).await))
}

/// As [`one`]; `None`: there is no such method.
async fn answer(api: &Api, method: &str, body: &[u8], caller: Caller) -> Result<Option<Vec<u8>>, Response> {
    let answer = match method {
        "publish" => one::<api::PublishRequest>(api, body, caller).await,
        "broadcast" => one::<api::BroadcastRequest>(api, body, caller).await,
        "subscribe" => one::<api::SubscribeRequest>(api, body, caller).await,
        "unsubscribe" => one::<api::UnsubscribeRequest>(api, body, caller).await,
        "disconnect" => one::<api::DisconnectRequest>(api, body, caller).await,
        "refresh" => one::<api::RefreshRequest>(api, body, caller).await,
        "presence" => one::<api::PresenceRequest>(api, body, caller).await,
        "presence_stats" => one::<api::PresenceStatsRequest>(api, body, caller).await,
        "history" => one::<api::HistoryRequest>(api, body, caller).await,
        "history_remove" => one::<api::HistoryRemoveRequest>(api, body, caller).await,
        "channels" => one::<api::ChannelsRequest>(api, body, caller).await,
        "info" => one::<api::InfoRequest>(api, body, caller).await,
        "rpc" => one::<api::RpcRequest>(api, body, caller).await,
        "system_message" => one::<api::SystemMessageRequest>(api, body, caller).await,
        "channel_members_add" => one::<api::ChannelMembersAddRequest>(api, body, caller).await,
        "channel_members_remove" => one::<api::ChannelMembersRemoveRequest>(api, body, caller).await,
        "channel_members_list" => one::<api::ChannelMembersListRequest>(api, body, caller).await,
        "message_edit" => one::<api::MessageEditRequest>(api, body, caller).await,
        "message_delete" => one::<api::MessageDeleteRequest>(api, body, caller).await,
        "block_user" => one::<api::BlockUserRequest>(api, body, caller).await,
        "unblock_user" => one::<api::UnblockUserRequest>(api, body, caller).await,
        "mute_user" => one::<api::MuteUserRequest>(api, body, caller).await,
        "unmute_user" => one::<api::UnmuteUserRequest>(api, body, caller).await,
        "revoke_token" => one::<api::RevokeTokenRequest>(api, body, caller).await,
        "invalidate_user_tokens" => one::<api::InvalidateUserTokensRequest>(api, body, caller).await,
        "moderation_log" => one::<api::ModerationLogRequest>(api, body, caller).await,
        "moderation_state" => one::<api::ModerationStateRequest>(api, body, caller).await,
        _ => return notifications::answer(api, method, body, caller).await,
    };
    answer.map(Some)
}

/// What a call is answered with: exactly one of the two.
#[derive(Serialize)]
struct Answer<R> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<api::Error>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<R>,
}

impl<R> From<Result<R, Failure>> for Answer<R> {
    fn from(outcome: Result<R, Failure>) -> Self {
        match outcome {
            Ok(result) => Self {
                error: None,
                result: Some(result),
            },
            Err(failure) => Self {
                error: Some(failure.into()),
                result: None,
            },
        }
    }
}

/// Counts who has no key, and says so.
pub(super) fn unauthorized(api: &Api) -> Response {
    api.gateway.metrics.api_unauthorized.inc();
    let words = "no key that is accepted: X-API-Key: KEY, or Authorization: apikey KEY\n";
    (StatusCode::UNAUTHORIZED, words).into_response()
}

/// Who asks, and with what. Nothing of the body is read for who has no key.
async fn read(api: &Api, request: Request) -> Result<(Caller, Bytes), Response> {
    let Some(key) = api.keys.given(request.headers()) else {
        return Err(unauthorized(api));
    };
    let caller = Caller {
        key,
        transport: Transport::Http,
        arrived: Instant::now(),
    };
    let limit = api.config.request_size;
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let too_large = || {
        let words = "request larger than gateway.api.request_size\n";
        (StatusCode::PAYLOAD_TOO_LARGE, words).into_response()
    };
    if length.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIME, to_bytes(request.into_body(), limit)).await {
        Ok(Ok(body)) => Ok((caller, body)),
        // Too large without a length that says so, or broken off, which nobody reads the answer to.
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err((
            StatusCode::REQUEST_TIMEOUT,
            "the request's body came too slowly\n",
        )
            .into_response()),
    }
}

/// An empty body asks for nothing in particular, as `{}` does.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Response> {
    let body = body.trim_ascii();
    if body.is_empty() {
        return serde_json::from_slice(b"{}").map_err(|error| bad(fault(&error)));
    }
    // Serde would take an array for the fields in their order.
    if !body.starts_with(b"{") {
        return Err(bad("not a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| bad(fault(&error)))
}

/// Says nothing of what was sent.
fn fault(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        Category::Data => "a field of another type, or one that is missing",
        Category::Eof => "JSON that ends too early",
        Category::Syntax | Category::Io => "invalid JSON",
    }
}

fn bad(why: &'static str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response()
}

fn written<T: Serialize>(answer: &T) -> Response {
    encode(answer).map_or_else(|response| response, json_response)
}

fn encode<T: Serialize>(answer: &T) -> Result<Vec<u8>, Response> {
    serde_json::to_vec(answer).map_err(|error| {
        tracing::error!(%error, "an answer of the server API cannot be shown as JSON");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    })
}

fn json_response(body: Vec<u8>) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}
