//! How connections end, and how a client is told.

use std::borrow::Cow;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use switchboard_proto::codes::DisconnectCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::SessionHandle;
use super::commands::Violation;
use super::task::{Socket, write};
use crate::gateway::Gateway;
use crate::metrics::EndedBy;

/// How long a client gets to take what is still queued and to answer our close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// The same while the gateway stops.
const CLOSE_WAIT_STOPPING: Duration = Duration::from_secs(1);

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// We end it, with a code of the client protocol. The words are for the operator.
    Disconnect {
        code: DisconnectCode,
        why: Option<Cow<'static, str>>,
    },
    /// A frame is larger than allowed.
    TooLarge,
    /// The text of a frame is not UTF-8.
    NotText,
    /// The client breaks the WebSocket protocol.
    NotWebSocket(Error),
    /// The client closed it.
    Client,
    /// It broke.
    Network(Error),
}

impl From<DisconnectCode> for End {
    fn from(code: DisconnectCode) -> Self {
        Self::Disconnect { code, why: None }
    }
}

impl From<Violation> for End {
    fn from(violation: Violation) -> Self {
        Self::Disconnect {
            code: violation.code,
            why: Some(violation.why),
        }
    }
}

/// An error of reading.
impl From<Error> for End {
    fn from(error: Error) -> Self {
        match error {
            Error::Capacity(_) => Self::TooLarge,
            Error::Utf8(_) => Self::NotText,
            Error::Protocol(
                tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )
            | Error::Io(_) => Self::Network(error),
            Error::ConnectionClosed | Error::AlreadyClosed => Self::Client,
            _ => Self::NotWebSocket(error),
        }
    }
}

impl End {
    /// What we close with; `None` where the other side is gone already.
    fn close_frame(&self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Disconnect { code, .. } => disconnect(*code),
            // SDKs come back for ever on the code that WebSocket has for this.
            Self::NotText => disconnect(DisconnectCode::BadRequest),
            Self::TooLarge => (CloseCode::Size, "message size limit"),
            Self::NotWebSocket(_) => (CloseCode::Protocol, "protocol error"),
            Self::Client | Self::Network(_) => return None,
        };
        Some(CloseFrame {
            code,
            reason: Utf8Bytes::from_static(reason),
        })
    }

    /// Whether the socket can still be read as WebSocket.
    fn is_readable(&self) -> bool {
        match self {
            Self::Disconnect { .. } | Self::Client => true,
            Self::TooLarge | Self::NotText | Self::NotWebSocket(_) | Self::Network(_) => false,
        }
    }

    /// Counts it, and says it in the log: what an operator or the client's developer has to look at
    /// on level info.
    pub(super) fn note(&self, gateway: &Gateway, session: &SessionHandle) {
        let code = self.close_frame().map_or(0, |frame| u16::from(frame.code));
        let (by, why): (EndedBy, Option<Cow<'_, str>>) = match self {
            Self::Disconnect { code, why } => {
                let why = why.as_deref().or(match code {
                    DisconnectCode::Slow => Some("its queue is full, see gateway.outgoing_queue"),
                    DisconnectCode::InappropriateProtocol => {
                        Some("a payload that is not JSON came for this JSON connection")
                    }
                    _ => None,
                });
                (EndedBy::Gateway, why.map(Into::into))
            }
            Self::TooLarge => (
                EndedBy::Gateway,
                Some("frame larger than gateway.max_frame".into()),
            ),
            Self::NotText => (EndedBy::Gateway, Some("text frame that is not UTF-8".into())),
            Self::NotWebSocket(error) => (EndedBy::Gateway, Some(error.to_string().into())),
            Self::Client => (EndedBy::Client, None),
            Self::Network(error) => (EndedBy::Network, Some(error.to_string().into())),
        };
        gateway.metrics.disconnected(by, code);
        let client = session.client();
        match self {
            Self::Disconnect { why: Some(_), .. }
            | Self::Disconnect {
                code: DisconnectCode::Slow | DisconnectCode::InappropriateProtocol,
                ..
            }
            | Self::TooLarge
            | Self::NotText
            | Self::NotWebSocket(_) => {
                let why = why.unwrap_or("its queue is full, see gateway.outgoing_queue".into());
                if let Some(left_out) = gateway.ends.may_write(code, Instant::now()) {
                    let address = session.address;
                    tracing::info!(%client, %address, code, %why, left_out, "client disconnected");
                }
            }
            Self::Disconnect { .. } | Self::Client | Self::Network(_) => {
                tracing::debug!(%client, ?by, code, why = why.as_deref(), "connection ended");
            }
        }
    }
}

fn disconnect(code: DisconnectCode) -> (CloseCode, &'static str) {
    let number = u16::try_from(code.code()).unwrap_or(0);
    (CloseCode::from(number), code.words())
}

/// Tells the client, waits a while for its answer, and leaves the socket to be dropped.
pub(super) async fn close(gateway: &Gateway, session: &SessionHandle, socket: &mut Socket, end: &End) {
    let limit = gateway.config.write_timeout;
    let Some(mut frame) = end.close_frame() else {
        // The answer to the client's own close frame was made when it was read.
        if matches!(end, End::Client) {
            drop(tokio::time::timeout(limit, socket.flush()).await);
        }
        return;
    };
    if let End::Disconnect {
        code: DisconnectCode::ForceDisconnect,
        ..
    } = end
        && let Some((code, reason)) = session.by_server.farewell()
    {
        frame = CloseFrame {
            code: code.into(),
            reason: reason.into(),
        };
    }
    let unwritable = matches!(
        end,
        End::Disconnect {
            code: DisconnectCode::WriteError,
            ..
        }
    );
    if unwritable {
        return;
    }
    let wait = if gateway.stop.is_cancelled() {
        CLOSE_WAIT_STOPPING
    } else {
        CLOSE_WAIT
    };
    let farewell = async {
        while let Ok(false) = write(gateway, session, socket).await {}
        if let Ok(Ok(())) = tokio::time::timeout(limit, socket.send(Message::Close(Some(frame)))).await {
            answer(socket, end.is_readable()).await;
        }
    };
    // Whether it succeeds or not, the socket is closed next.
    drop(tokio::time::timeout(wait, farewell).await);
}

/// Until the client closes its side. Closing a socket with unread bytes would tear our close frame
/// from the client's hands.
async fn answer(socket: &mut Socket, is_readable: bool) {
    if is_readable {
        while let Some(Ok(_)) = socket.next().await {}
        return;
    }
    let stream = socket.get_mut();
    if stream.shutdown().await.is_ok() {
        let mut rest = [0; 1024];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    }
}
