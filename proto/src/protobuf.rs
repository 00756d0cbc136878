//! The Protobuf encoding of the client protocol.
//!
//! A frame is one or more messages, each behind its length in bytes as an unsigned varint. An empty
//! message, which is the single byte 0, is the server's ping and the client's pong. Payload fields
//! are bytes of the application, which nobody looks into.
//!
//! What must hold, each with a test:
//! * Reading what was written gives the same message.
//! * No length that a frame claims costs more memory than the frame has bytes.
//! * Fields that this release does not know are skipped.

use prost::Message;

use crate::client::{Command, Reply};

/// Why a message of a frame could not be read. Says where it went wrong and names fields, but holds
/// no text or payload of what the client sent, so that it may be logged.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum DecodeError {
    /// An empty frame.
    #[error("empty frame")]
    Empty,
    /// What stands in place of a message's length is no varint, or the frame ends inside of it.
    #[error("no length at byte {at} of the frame")]
    Length {
        /// Where the length begins, counted from 0.
        at: usize,
    },
    /// A message would end behind the frame.
    #[error("message of {length} bytes with {left} left in the frame")]
    Truncated {
        /// Bytes of the message, as the frame claims.
        length: usize,
        /// Bytes of it that are there.
        left: usize,
    },
    /// Not such a message.
    #[error("message at byte {at} of the frame: {fault}")]
    Message {
        /// Where the message begins, counted from 0.
        at: usize,
        /// What is wrong.
        fault: prost::DecodeError,
    },
}

/// The commands of a frame, in order. Nothing is read behind an error, since where the next command
/// begins is not sure any more.
///
/// Payloads are copied out of the frame: a slice of it would keep the whole.
pub fn commands(frame: &[u8]) -> impl Iterator<Item = Result<Command, DecodeError>> {
    messages(frame)
}

/// The replies of a frame, in order: what a client does with it. For tests and load generators.
pub fn replies(frame: &[u8]) -> impl Iterator<Item = Result<Reply, DecodeError>> {
    messages(frame)
}

/// Appends a reply behind its length. Replies that were appended to each other are a frame.
pub fn write_reply(reply: &Reply, out: &mut Vec<u8>) {
    write(reply, out);
}

/// Appends a command behind its length: what a client does. For tests and load generators.
pub fn write_command(command: &Command, out: &mut Vec<u8>) {
    write(command, out);
}

fn write(message: &impl Message, out: &mut Vec<u8>) {
    let length = message.encoded_len();
    out.reserve(prost::length_delimiter_len(length) + length);
    let written = message.encode_length_delimited(out);
    debug_assert!(written.is_ok(), "a vector takes every write");
}

fn messages<M: Message + Default>(frame: &[u8]) -> impl Iterator<Item = Result<M, DecodeError>> {
    // What is not read yet; `None` behind an error.
    let mut rest = Some(frame);
    std::iter::from_fn(move || {
        let left = rest.take()?;
        if left.is_empty() {
            return frame.is_empty().then_some(Err(DecodeError::Empty));
        }
        Some(first(left, frame.len() - left.len()).map(|(message, behind)| {
            rest = Some(behind);
            message
        }))
    })
}

/// The message that begins at `at`, and what is behind it.
fn first<M: Message + Default>(mut left: &[u8], at: usize) -> Result<(M, &[u8]), DecodeError> {
    let length = prost::decode_length_delimiter(&mut left).map_err(|_| DecodeError::Length { at })?;
    let (message, behind) = left.split_at_checked(length).ok_or(DecodeError::Truncated {
        length,
        left: left.len(),
    })?;
    match M::decode(message) {
        Ok(message) => Ok((message, behind)),
        Err(fault) => Err(DecodeError::Message { at, fault }),
    }
}

#[cfg(test)]
mod tests;
