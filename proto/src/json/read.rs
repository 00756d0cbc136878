//! Frames to messages.

use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::client::{Command, Reply};

/// How deep brackets may nest inside a command's payload. Parsers of receivers recurse, and the
/// common ones stop near here.
pub const MAX_NESTING: usize = 128;

/// Why a message of a frame could not be read. Says nothing of what the client sent but where it
/// went wrong, so that it may be logged.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum DecodeError {
    /// An empty frame, or an empty line in one.
    #[error("empty frame or line")]
    Empty,
    /// The text is not JSON, or not the JSON of such a message.
    #[error("{fault} at byte {column} of the message")]
    Message {
        /// What is wrong.
        fault: Fault,
        /// Counted from 1.
        column: usize,
    },
    /// A payload nests deeper than [`MAX_NESTING`]. The rest of the command is fine, so that it can
    /// be answered.
    #[error("payload nests deeper than {MAX_NESTING} brackets")]
    TooDeep {
        /// The command's id.
        id: u32,
    },
}

/// In which way a text is not a message.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Fault {
    /// Not JSON.
    Syntax,
    /// JSON, but a field has another type.
    Type,
    /// The text ends too early.
    Truncated,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "invalid JSON",
            Self::Type => "a field of another type",
            Self::Truncated => "JSON that ends too early",
        })
    }
}

/// The commands of a frame, in order. Unknown fields are ignored, because SDKs are ahead of servers.
/// One newline at the end is tolerated, an empty frame or line is an error.
///
/// The text of a payload, `null` included, is kept as it stands; an absent one is empty.
pub fn commands(frame: &str) -> impl Iterator<Item = Result<Command, DecodeError>> {
    messages(frame).map(|command| {
        let command: Command = command?;
        if payloads(&command).any(|payload| nesting(payload) > MAX_NESTING) {
            return Err(DecodeError::TooDeep { id: command.id });
        }
        Ok(command)
    })
}

/// The replies of a frame, in order: what a client does with it. For tests and load generators.
pub fn replies(frame: &str) -> impl Iterator<Item = Result<Reply, DecodeError>> {
    messages(frame)
}

fn messages<'a, M: Deserialize<'a>>(frame: &'a str) -> impl Iterator<Item = Result<M, DecodeError>> {
    frame.strip_suffix('\n').unwrap_or(frame).split('\n').map(|line| {
        if line.is_empty() {
            return Err(DecodeError::Empty);
        }
        match serde_json::from_str(line) {
            // Serde would take an array for the fields of a message in their order.
            Ok(_) if !line.trim_ascii_start().starts_with('{') => Err(DecodeError::Message {
                fault: Fault::Type,
                column: 1,
            }),
            Ok(message) => Ok(message),
            Err(error) => Err(DecodeError::Message {
                fault: match error.classify() {
                    Category::Data => Fault::Type,
                    Category::Eof => Fault::Truncated,
                    Category::Syntax | Category::Io => Fault::Syntax,
                },
                column: error.column(),
            }),
        }
    })
}

/// Reads a payload field: whatever JSON stands there, as bytes of its own, since a slice of the
/// frame would keep the whole of it.
pub(crate) fn payload<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(Bytes::copy_from_slice(raw.get().as_bytes()))
}

/// Reads a field of the server API, where `null` says as much as an absent one.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn payloads(command: &Command) -> impl Iterator<Item = &Bytes> {
    let subs = command.connect.iter().flat_map(|connect| connect.subs.values());
    [
        command.connect.as_ref().map(|request| &request.data),
        command.subscribe.as_ref().map(|request| &request.data),
        command.publish.as_ref().map(|request| &request.data),
        command.rpc.as_ref().map(|request| &request.data),
        command.send.as_ref().map(|request| &request.data),
    ]
    .into_iter()
    .flatten()
    .chain(subs.map(|request| &request.data))
}

/// Whether these bytes can be a payload in the JSON encoding: one JSON text, in UTF-8, that does not
/// nest deeper than [`MAX_NESTING`]. White space around it is fine. Builds nothing of it, and does not
/// recurse.
pub fn is_payload(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(bytes).is_ok() && nesting(bytes) <= MAX_NESTING
}

/// How deep the brackets of a valid JSON text nest. Reading it does not recurse.
pub fn nesting(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                // To the end of the string.
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => {
                            bytes.next();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}
