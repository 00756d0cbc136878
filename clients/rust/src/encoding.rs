//! The protocol's two encodings, as WebSocket messages.

use switchboard_proto::client::{Command, Reply};
use switchboard_proto::{json, protobuf};
use tokio_tungstenite::tungstenite::Message;

use crate::ClientError;

/// How commands and replies are written, for the whole life of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// JSON in text messages.
    Json,
    /// Protobuf in binary messages.
    #[default]
    Protobuf,
}

impl Encoding {
    /// What the WebSocket is opened with.
    pub(crate) fn subprotocol(self) -> Option<&'static str> {
        match self {
            Self::Json => None,
            Self::Protobuf => Some("centrifuge-protobuf"),
        }
    }

    /// Appends a command to a frame, which may be empty.
    pub(crate) fn write(self, command: &Command, frame: &mut Vec<u8>) {
        match self {
            Self::Json => {
                if !frame.is_empty() {
                    frame.push(b'\n');
                }
                json::write_command(command, frame);
            }
            Self::Protobuf => protobuf::write_command(command, frame),
        }
    }

    /// A frame as a message.
    pub(crate) fn message(self, frame: Vec<u8>) -> Result<Message, ClientError> {
        match self {
            Self::Json => String::from_utf8(frame)
                .map(Message::text)
                .map_err(|_| ClientError::Protocol("a payload that is not UTF-8, in JSON".to_owned())),
            Self::Protobuf => Ok(Message::binary(frame)),
        }
    }

    /// Hands over the replies of a message, in order.
    pub(crate) fn read(self, message: &Message, mut reply: impl FnMut(Reply)) -> Result<(), ClientError> {
        match (self, message) {
            (Self::Json, Message::Text(text)) => {
                for read in json::replies(text) {
                    reply(read.map_err(|error| ClientError::Protocol(error.to_string()))?);
                }
                Ok(())
            }
            (Self::Protobuf, Message::Binary(bytes)) => {
                for read in protobuf::replies(bytes) {
                    reply(read.map_err(|error| ClientError::Protocol(error.to_string()))?);
                }
                Ok(())
            }
            _ => Err(ClientError::Protocol(
                "a message of the other encoding".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_commands_are_a_frame_and_none_is_a_pong() {
        let commands: Vec<Command> = (1..3)
            .map(|id| Command {
                id,
                publish: Some(Default::default()),
                ..Command::default()
            })
            .collect();
        let frame = |encoding: Encoding, commands: &[Command]| {
            let mut frame = Vec::new();
            commands
                .iter()
                .for_each(|command| encoding.write(command, &mut frame));
            frame
        };
        let text = frame(Encoding::Json, &commands);
        let read: Vec<Command> = json::commands(std::str::from_utf8(&text).unwrap())
            .map(Result::unwrap)
            .collect();
        assert_eq!(read, commands);
        let bytes = frame(Encoding::Protobuf, &commands);
        let read: Vec<Command> = protobuf::commands(&bytes).map(Result::unwrap).collect();
        assert_eq!(read, commands);
        assert_eq!(frame(Encoding::Json, &[Command::default()]), b"{}");
        assert_eq!(frame(Encoding::Protobuf, &[Command::default()]), [0]);
    }

    #[test]
    fn a_message_of_the_other_encoding_is_no_reply() {
        let read = |encoding: Encoding, message| encoding.read(&message, drop).is_ok();
        assert!(read(Encoding::Json, Message::text("{}")));
        assert!(read(Encoding::Protobuf, Message::binary(vec![0])));
        assert!(!read(Encoding::Json, Message::binary(vec![0])));
        assert!(!read(Encoding::Protobuf, Message::text("{}")));
    }
}
