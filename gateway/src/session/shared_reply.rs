//! Replies to frames; one that many receive is encoded once.

use std::cell::OnceCell;

use bytes::Bytes;
use switchboard_proto::client::Reply;
use switchboard_proto::json;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::Encoding;

/// A reply and its frames, one per encoding, each made when the first session needs it and shared
/// by the others.
pub(crate) struct SharedReply {
    reply: Reply,
    json: OnceCell<Option<Utf8Bytes>>,
}

impl SharedReply {
    pub(crate) fn new(reply: Reply) -> Self {
        Self {
            reply,
            json: OnceCell::new(),
        }
    }

    /// The frame; `None` where a payload cannot be shown in this encoding.
    pub(super) fn frame(&self, encoding: Encoding) -> Option<Utf8Bytes> {
        match encoding {
            Encoding::Json => self.json.get_or_init(|| frame(&self.reply, encoding)).clone(),
        }
    }
}

/// The frame of one reply; `None` where a payload cannot be shown in this encoding.
pub(super) fn frame(reply: &Reply, encoding: Encoding) -> Option<Utf8Bytes> {
    match encoding {
        Encoding::Json => {
            let mut text = Vec::with_capacity(128);
            json::write_reply(reply, &mut text);
            Utf8Bytes::try_from(Bytes::from(text)).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use switchboard_proto::client::{Message, Push};

    use super::*;

    fn message(data: &'static [u8]) -> Reply {
        let message = Message {
            data: Bytes::from_static(data),
        };
        let push = Push {
            message: Some(message),
            ..Push::default()
        };
        Reply {
            push: Some(push),
            ..Reply::default()
        }
    }

    #[test]
    fn all_receivers_share_one_frame() {
        let shared = SharedReply::new(message(b"[1]"));
        let (one, other) = (
            shared.frame(Encoding::Json).unwrap(),
            shared.frame(Encoding::Json).unwrap(),
        );
        assert_eq!(one, r#"{"push":{"message":{"data":[1]}}}"#);
        assert_eq!(one.as_str().as_ptr(), other.as_str().as_ptr());
    }

    #[test]
    fn bytes_that_are_no_text_have_no_json_frame() {
        assert_eq!(SharedReply::new(message(b"\"\xff\"")).frame(Encoding::Json), None);
    }
}
