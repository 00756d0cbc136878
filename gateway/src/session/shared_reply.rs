//! A reply that many receive is encoded once.

use std::cell::OnceCell;

use switchboard_proto::bus::{PayloadKind, Priority};
use switchboard_proto::client::Reply;

use super::encoding::{Encoding, Frame};
use super::outgoing::Way;

/// A reply and its frames, one per encoding, each made when the first session needs it and shared
/// by the others.
pub(crate) struct SharedReply {
    reply: Reply,
    payload: PayloadKind,
    way: Way,
    json: OnceCell<Option<Frame>>,
    protobuf: OnceCell<Option<Frame>>,
}

impl SharedReply {
    /// A message of the server's, which belongs to no channel and leaves before what waits.
    pub(crate) fn system(reply: Reply) -> Self {
        Self::new(reply, PayloadKind::Json, Way::SYSTEM)
    }

    /// A publication in `channel` that is stored. `payload`: of which kind the payloads in it are.
    pub(crate) fn stored(reply: Reply, payload: PayloadKind, channel: &str, priority: Priority) -> Self {
        Self::new(reply, payload, Way::push_in(channel, priority))
    }

    /// One that is not stored: of low priority it is dropped where a client is too slow.
    pub(crate) fn ephemeral(reply: Reply, payload: PayloadKind, channel: &str, priority: Priority) -> Self {
        Self::new(reply, payload, Way::ephemeral_in(channel, priority))
    }

    fn new(reply: Reply, payload: PayloadKind, way: Way) -> Self {
        Self {
            reply,
            payload,
            way,
            json: OnceCell::new(),
            protobuf: OnceCell::new(),
        }
    }

    /// In which order it leaves.
    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// The frame; `None` where a payload cannot be shown in this encoding.
    pub(super) fn frame(&self, encoding: Encoding) -> Option<Frame> {
        let frame = match encoding {
            Encoding::Json => &self.json,
            Encoding::Protobuf => &self.protobuf,
        };
        frame
            .get_or_init(|| encoding.frame(&self.reply, self.payload))
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use switchboard_proto::client::{Message, Push};
    use switchboard_proto::codes::DisconnectCode;

    use super::super::{Limits, SessionHandle};
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
    fn all_receivers_of_an_encoding_share_one_frame() {
        let shared = SharedReply::new(message(b"[1]"), PayloadKind::Json, Way::ANSWER);
        let text = || match shared.frame(Encoding::Json) {
            Some(Frame::Text(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(text(), r#"{"push":{"message":{"data":[1]}}}"#);
        assert_eq!(text().as_ptr(), text().as_ptr());
        let binary = || match shared.frame(Encoding::Protobuf) {
            Some(Frame::Binary(bytes)) => bytes,
            other => panic!("{other:?}"),
        };
        // push (4) { message (8) { data (1) } }
        assert_eq!(binary(), b"\x09\x22\x07\x42\x05\x0a\x03[1]"[..]);
        assert_eq!(binary().as_ptr(), binary().as_ptr());
    }

    #[test]
    fn a_payload_that_is_not_json_goes_to_protobuf_alone() {
        let shared = SharedReply::new(message(b"boom"), PayloadKind::Binary, Way::ANSWER);
        assert_eq!(shared.frame(Encoding::Json), None);
        assert!(shared.frame(Encoding::Protobuf).is_some());
    }

    #[test]
    fn it_closes_the_json_sessions_that_it_would_reach() {
        let limits = Limits {
            outgoing: 1024,
            channels: 1,
        };
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let json = SessionHandle::new(1, address, Encoding::Json, limits);
        let protobuf = SessionHandle::new(2, address, Encoding::Protobuf, limits);
        for session in [&json, &protobuf] {
            session.push_shared(&SharedReply::new(message(b"{}"), PayloadKind::Json, Way::ANSWER));
            assert_eq!(session.outgoing.closing(), None);
            session.push_shared(&SharedReply::new(
                message(b"boom"),
                PayloadKind::Binary,
                Way::ANSWER,
            ));
        }
        assert_eq!(
            json.outgoing.closing(),
            Some(DisconnectCode::InappropriateProtocol)
        );
        assert_eq!(protobuf.outgoing.closing(), None);
        json.reply_carrying(&message(b"boom"), PayloadKind::Binary);
        protobuf.reply_carrying(&message(b"boom"), PayloadKind::Binary);
        assert_eq!(protobuf.outgoing.closing(), None);
    }
}
