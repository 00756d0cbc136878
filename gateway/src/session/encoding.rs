//! The two encodings of the client protocol, and WebSocket messages in them.
//!
//! Everything that depends on a connection's encoding is here, so that the rest of a session is the
//! same for both.

use bytes::Bytes;
use switchboard_proto::bus::PayloadKind;
use switchboard_proto::client::{Command, Reply};
use switchboard_proto::{json, protobuf};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// How a connection's messages are encoded, for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Text frames.
    Json,
    /// Binary frames.
    Protobuf,
}

impl Encoding {
    /// The frame of one reply whose payloads are `payload`; `None` where they cannot be shown in this
    /// encoding.
    pub(super) fn frame(self, reply: &Reply, payload: PayloadKind) -> Option<Frame> {
        let mut out = Vec::with_capacity(128);
        match self {
            Self::Json if payload != PayloadKind::Json => None,
            Self::Json => {
                json::write_reply(reply, &mut out);
                Utf8Bytes::try_from(out).ok().map(Frame::Text)
            }
            Self::Protobuf => {
                protobuf::write_reply(reply, &mut out);
                Some(Frame::Binary(out.into()))
            }
        }
    }

    /// A ping of the client protocol.
    pub(super) fn ping(self) -> Frame {
        match self {
            Self::Json => Frame::Text(Utf8Bytes::from_static("{}")),
            Self::Protobuf => Frame::Binary(Bytes::from_static(&[0])),
        }
    }

    /// Of which kind a payload is that came in this encoding: whether it can go to a JSON connection
    /// as it stands. This is where it is found out, once for all receivers.
    pub(super) fn payload_kind(self, payload: &[u8]) -> PayloadKind {
        match self {
            // The decoder took it for JSON already.
            Self::Json => PayloadKind::Json,
            Self::Protobuf if json::is_payload(payload) => PayloadKind::Json,
            Self::Protobuf => PayloadKind::Binary,
        }
    }
}

/// A WebSocket message that holds one message of the client protocol or several. A clone shares the
/// bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Text(Utf8Bytes),
    Binary(Bytes),
}

/// Why a frame's commands could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum DecodeError {
    #[error(transparent)]
    Json(#[from] json::DecodeError),
    #[error(transparent)]
    Protobuf(#[from] protobuf::DecodeError),
}

impl Frame {
    /// In bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    /// The commands in it, in order, each read when its turn comes.
    pub(super) fn commands(&self) -> impl Iterator<Item = Result<Command, DecodeError>> {
        let (text, bytes) = match self {
            Self::Text(text) => (Some(json::commands(text)), None),
            Self::Binary(bytes) => (None, Some(protobuf::commands(bytes))),
        };
        let from_text = text.into_iter().flatten().map(|read| read.map_err(Into::into));
        let from_bytes = bytes.into_iter().flatten().map(|read| read.map_err(Into::into));
        from_text.chain(from_bytes)
    }

    /// One frame of this one and those that follow, which have to be of the same encoding.
    pub(super) fn joined(self, more: &[Self]) -> Self {
        if more.is_empty() {
            return self;
        }
        let length = self.len() + more.iter().map(|frame| frame.len() + 1).sum::<usize>();
        match self {
            Self::Text(first) => {
                let mut all = String::with_capacity(length);
                all.push_str(&first);
                for frame in more {
                    if let Self::Text(text) = frame {
                        all.push('\n');
                        all.push_str(text);
                    }
                }
                Self::Text(all.into())
            }
            Self::Binary(first) => {
                let mut all = Vec::with_capacity(length);
                all.extend_from_slice(&first);
                for frame in more {
                    if let Self::Binary(bytes) = frame {
                        all.extend_from_slice(bytes);
                    }
                }
                Self::Binary(all.into())
            }
        }
    }
}

impl From<Frame> for Message {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Text(text) => Self::Text(text),
            Frame::Binary(bytes) => Self::Binary(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use switchboard_proto::client::RpcResult;

    use super::*;

    fn reply(id: u32, data: &'static [u8]) -> Reply {
        let data = Bytes::from_static(data);
        Reply {
            id,
            rpc: Some(RpcResult { data }),
            ..Reply::default()
        }
    }

    #[test]
    fn joined_frames_read_as_what_was_joined() {
        let replies = [reply(1, b"[1]"), reply(2, b"\"a\\nb\""), reply(3, b"{}")];
        let joined = |encoding: Encoding| {
            let mut frames: Vec<Frame> = replies
                .iter()
                .map(|reply| encoding.frame(reply, PayloadKind::Json).unwrap())
                .collect();
            let first = frames.remove(0);
            first.joined(&frames)
        };
        let Frame::Text(text) = joined(Encoding::Json) else {
            panic!("not text")
        };
        let read: Result<Vec<_>, _> = json::replies(&text).collect();
        assert_eq!(read.unwrap(), replies);
        let Frame::Binary(bytes) = joined(Encoding::Protobuf) else {
            panic!("not binary")
        };
        let read: Result<Vec<_>, _> = protobuf::replies(&bytes).collect();
        assert_eq!(read.unwrap(), replies);
    }

    #[test]
    fn a_frame_alone_is_not_copied() {
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            let frame = encoding.frame(&reply(1, b"1"), PayloadKind::Json).unwrap();
            let at = |frame: &Frame| match frame {
                Frame::Text(text) => text.as_ptr(),
                Frame::Binary(bytes) => bytes.as_ptr(),
            };
            assert_eq!(at(&frame.clone().joined(&[])), at(&frame));
        }
    }

    #[test]
    fn what_is_not_json_has_no_json_frame() {
        let boom = reply(1, b"boom");
        for kind in [PayloadKind::Unspecified, PayloadKind::Binary, PayloadKind::Opaque] {
            assert_eq!(Encoding::Json.frame(&boom, kind), None);
            assert!(Encoding::Protobuf.frame(&boom, kind).is_some());
        }
        assert_eq!(
            Encoding::Json.frame(&reply(1, b"\"\xff\""), PayloadKind::Json),
            None,
            "whatever its kind says"
        );
    }

    #[test]
    fn kinds_of_payloads() {
        for json in [&b"{\n\"a\": 1}\n"[..], b"null", b"\"text\""] {
            assert_eq!(Encoding::Json.payload_kind(json), PayloadKind::Json);
            assert_eq!(Encoding::Protobuf.payload_kind(json), PayloadKind::Json);
        }
        let deep = [b"[".repeat(200), b"]".repeat(200)].concat();
        for other in [&b"boom"[..], b"\xff\x00", b"\"\xff\"", &deep] {
            assert_eq!(Encoding::Protobuf.payload_kind(other), PayloadKind::Binary);
        }
    }

    #[test]
    fn pings() {
        let none = Reply::default();
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            assert_eq!(encoding.ping(), encoding.frame(&none, PayloadKind::Json).unwrap());
        }
    }
}
