//! From an HTTP request to a WebSocket session.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::upgrade::OnUpgrade;
use serde::Deserialize;
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::admission::{Refusal, Sender, WebSocketSlot};
use crate::gateway::Gateway;
use crate::metrics::{Counted, Refused};
use crate::session::{self, ClientStream, Encoding, Pings};

/// Where clients connect.
pub(crate) const PATH: &str = "/connection/websocket";

const JSON_PROTOCOL: &str = "centrifuge-json";
const PROTOBUF_PROTOCOL: &str = "centrifuge-protobuf";

/// Read at once, per connection: most clients send little.
const READ_BUFFER: usize = 1024;

/// Written at once. Our own queue is in front of it, and the socket's memory does not shrink.
const WRITE_BUFFER: usize = 16 * 1024;

/// Room for a close frame and headers behind the largest message.
const WRITE_SLACK: usize = 4096;

#[derive(Clone)]
struct Upgrades {
    gateway: Arc<Gateway>,
    tasks: Tasks,
}

/// The endpoint, [`PATH`]. Sessions run as tasks of `tasks`.
pub(crate) fn router(gateway: Arc<Gateway>, tasks: Tasks) -> Router {
    Router::new()
        .route(PATH, get(upgrade))
        .with_state(Upgrades { gateway, tasks })
}

/// The query parameters that matter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Parameters {
    cf_protocol: String,
    format: String,
    cf_ws_frame_ping_pong: String,
}

/// What a client asked for with its request.
#[derive(Debug, Clone, Copy)]
struct Terms {
    encoding: Encoding,
    pings: Pings,
    /// The subprotocol to name in the answer, one of those that were offered.
    subprotocol: Option<&'static str>,
}

impl Terms {
    /// `None`: the query asks for another encoding than all subprotocols that are offered.
    fn read(parameters: &Parameters, headers: &HeaderMap) -> Option<Self> {
        let offered: Vec<Encoding> = headers
            .get_all(header::SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|offered| match offered.trim() {
                JSON_PROTOCOL => Some(Encoding::Json),
                PROTOBUF_PROTOCOL => Some(Encoding::Protobuf),
                _ => None,
            })
            .collect();
        let in_query = parameters.cf_protocol == "protobuf" || parameters.format == "protobuf";
        let encoding = match offered.first() {
            _ if in_query => Encoding::Protobuf,
            // Clients name first what they prefer.
            Some(first) => *first,
            None => Encoding::Json,
        };
        if !offered.is_empty() && !offered.contains(&encoding) {
            return None;
        }
        let subprotocol = match encoding {
            Encoding::Json => JSON_PROTOCOL,
            Encoding::Protobuf => PROTOBUF_PROTOCOL,
        };
        Some(Self {
            encoding,
            pings: match parameters.cf_ws_frame_ping_pong.as_str() {
                "true" => Pings::WebSocket,
                _ => Pings::Protocol,
            },
            subprotocol: (!offered.is_empty()).then_some(subprotocol),
        })
    }
}

async fn upgrade(
    State(upgrades): State<Upgrades>,
    Query(parameters): Query<Parameters>,
    Extension(Sender(sender)): Extension<Sender>,
    mut request: Request,
) -> Response {
    let gateway = upgrades.gateway;
    let address = gateway.admission.client(sender, request.headers());
    let accepted = accept(&gateway, &parameters, &request)
        .and_then(|(response, terms)| Ok((response, terms, gateway.admission.websocket(sender, address)?)));
    match accepted {
        Ok((response, terms, slot)) => {
            let upgrading = hyper::upgrade::on(&mut request);
            let session = connection(gateway, upgrading, address, slot, terms);
            upgrades.tasks.spawn("session", TaskKind::Replaceable, session);
            response
        }
        Err(refusal) => {
            gateway.admission.refused(address, refusal.reason, &refusal.why);
            (refusal.status, refusal.why).into_response()
        }
    }
}

fn accept(
    gateway: &Gateway,
    parameters: &Parameters,
    request: &Request,
) -> Result<(Response, Terms), Refusal> {
    let refuse = |reason, status, why| Refusal { reason, status, why };
    if gateway.stop.is_cancelled() {
        let why = "this gateway is stopping; connect again to reach another";
        return Err(refuse(Refused::Stopping, StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let headers = request.headers();
    let host = text(headers, &header::HOST);
    let allowed = match headers.get(header::ORIGIN) {
        None => true,
        Some(origin) => origin
            .to_str()
            .is_ok_and(|origin| gateway.config.origins.allow(origin, host)),
    };
    if !allowed {
        let why = "pages of this origin may not connect; see gateway.allowed_origins";
        return Err(refuse(Refused::Origin, StatusCode::FORBIDDEN, why));
    }
    let Some(terms) = Terms::read(parameters, headers) else {
        let why = "the query asks for Protobuf, the subprotocols offer JSON alone; ask for one encoding";
        return Err(refuse(Refused::Encoding, StatusCode::BAD_REQUEST, why));
    };
    let Ok(mut response) = create_response_with_body(request, Body::empty) else {
        let why = "not a WebSocket handshake";
        return Err(refuse(Refused::Handshake, StatusCode::BAD_REQUEST, why));
    };
    if let Some(subprotocol) = terms.subprotocol {
        response.headers_mut().insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(subprotocol),
        );
    }
    Ok((response, terms))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// One WebSocket's life.
async fn connection(
    gateway: Arc<Gateway>,
    upgrading: OnUpgrade,
    address: IpAddr,
    slot: WebSocketSlot,
    terms: Terms,
) {
    let _slot = slot;
    let _in_drain = gateway.session_tasks.token();
    let _counted = Counted::new(&gateway.metrics.connections);
    // Ends with the HTTP connection at the latest, which has a time limit.
    let upgraded = match upgrading.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::debug!(%address, %error, "connection broke during the upgrade");
            return;
        }
    };
    let largest = gateway.config.max_frame;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + gateway.config.outgoing_queue + WRITE_SLACK)
        .max_message_size(Some(largest))
        .max_frame_size(Some(largest));
    let handle = gateway.new_session(address, terms.encoding);
    let stream = ClientStream::new(upgraded, &handle);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    tracing::debug!(client = %handle.client(), %address, encoding = ?terms.encoding, "connection opened");
    session::serve(&gateway, &handle, terms.pings, &mut socket).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, D, E, F>(_: fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    /// It is there for every connection, so what a connection needs now and then has to be boxed.
    #[test]
    fn a_connection_waits_in_two_kibibytes() {
        let size = size_of_future(connection);
        assert!(size <= 2048, "{size}");
    }
}
