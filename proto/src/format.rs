//! The format byte.
//!
//! Everything that is written down or sent between processes starts with one byte that names the
//! format of the rest, so that a process refuses what only a newer release understands instead of
//! misreading it. Within a format, fields may be added the Protobuf way.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// The newest format this release reads and the one it writes.
pub const FORMAT: u8 = 1;

/// Why bytes from the bus or the log could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum FormatError {
    /// A newer release wrote it.
    #[error(
        "format {found} is newer than format {FORMAT}, the newest this release reads: update this process"
    )]
    Newer {
        /// The format byte found.
        found: u8,
    },
    /// Not something any release writes.
    #[error("no format byte, or one that no release writes")]
    Missing,
    /// The format byte is fine, the rest is not.
    #[error("undecodable body: {0}")]
    Body(String),
}

/// Encodes `message` behind the format byte.
pub fn encode(message: &impl Message) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + message.encoded_len());
    out.put_u8(FORMAT);
    message.encode_raw(&mut out);
    out.freeze()
}

/// Decodes what [`encode`] wrote. `bytes` fields of the result share `encoded`'s memory.
///
/// # Errors
/// [`FormatError`], of which [`FormatError::Newer`] tells an operator to update.
pub fn decode<M: Message + Default>(mut encoded: Bytes) -> Result<M, FormatError> {
    match encoded.try_get_u8() {
        Ok(FORMAT) => M::decode(encoded).map_err(|error| FormatError::Body(error.to_string())),
        Ok(found) if found > FORMAT => Err(FormatError::Newer { found }),
        Ok(_) | Err(_) => Err(FormatError::Missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{OwnerBeat, UpBeat};

    #[test]
    fn what_was_encoded_is_decoded() {
        let beat = OwnerBeat {
            shard: 3,
            owner_epoch: 9,
            ..OwnerBeat::default()
        };
        assert_eq!(decode::<OwnerBeat>(encode(&beat)).unwrap(), beat);
    }

    #[test]
    fn newer_format_is_refused_and_says_what_to_do() {
        let error = decode::<UpBeat>(Bytes::from_static(&[FORMAT + 1])).unwrap_err();
        assert_eq!(error, FormatError::Newer { found: FORMAT + 1 });
        assert!(error.to_string().contains("update this process"));
    }

    #[test]
    fn empty_and_foreign_bytes_are_errors() {
        assert_eq!(decode::<UpBeat>(Bytes::new()).unwrap_err(), FormatError::Missing);
        assert_eq!(
            decode::<UpBeat>(Bytes::from_static(&[0, 1])).unwrap_err(),
            FormatError::Missing
        );
        assert!(matches!(
            decode::<OwnerBeat>(Bytes::from_static(&[FORMAT, 0xff])),
            Err(FormatError::Body(_))
        ));
    }
}
