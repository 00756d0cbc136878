//! The connection under a client: TCP or TLS, and the WebSocket on it.

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::either::Either;

use crate::{ClientError, Encoding, Tls};

pub(crate) type Socket = WebSocketStream<Either<TcpStream, Box<TlsStream<TcpStream>>>>;

/// A connection takes this much for reading; one of thousands must not take more.
const READ_BUFFER: usize = 4 * 1024;

/// Opens a WebSocket. `tls` says whom to trust behind `wss://`; `None`: whom this machine trusts.
pub(crate) async fn open(url: &str, encoding: Encoding, tls: Option<&Tls>) -> Result<Socket, ClientError> {
    let mut request = url.into_client_request().map_err(failed)?;
    if let Some(name) = encoding.subprotocol() {
        let name = HeaderValue::from_static(name);
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
    }
    let is_secure = request.uri().scheme_str() == Some("wss");
    let tls = match (is_secure, tls) {
        (false, _) => None,
        (true, Some(tls)) => Some(tls.connector()),
        (true, None) => Some(Tls::of_this_machine()?.connector()),
    };
    let host = request.uri().host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = request.uri().port_u16();
    let port = port.unwrap_or(if is_secure { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let stream = match tls {
        None => Either::Left(stream),
        Some(tls) => {
            let name = ServerName::try_from(host).map_err(failed)?;
            Either::Right(Box::new(tls.connect(name, stream).await.map_err(failed)?))
        }
    };
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
    let opened = client_async_with_config(request, stream, Some(config)).await;
    opened.map(|(socket, _)| socket).map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> ClientError {
    ClientError::Socket(error.to_string())
}
