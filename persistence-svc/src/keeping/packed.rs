//! Files of messages outside of a store: lines of JSON, packed with gzip and told by their SHA-256. The archive's, and those of an
//! installation that is moved.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use switchboard_proto::ids::{LogEpoch, Offset, ShardId};

use crate::store::Place;
use crate::store::keeping::Kept;

/// Bytes that a file holds once it is unpacked, at most: one that says more is not ours.
const MAX_UNPACKED: u64 = 1 << 30;

/// Why lines are not packed, or a file is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A line cannot be written as JSON, or not be packed.
    #[error("lines cannot be packed: {0}")]
    Made(String),
    /// The file was changed, or cut.
    #[error("its bytes are not those that its manifest tells of")]
    Other,
    /// What is in it is no line that is written here.
    #[error("line {0}: {1}")]
    Line(usize, String),
    /// It does not unpack.
    #[error("it cannot be unpacked: {0}")]
    Packed(String),
}

/// A packed file.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) bytes: Vec<u8>,
    /// Of `bytes`, in hexadecimal.
    pub(crate) sha256: String,
}

/// A line for each of these.
///
/// # Errors
/// [`PackError::Made`].
pub(crate) fn pack<L: Serialize>(lines: impl IntoIterator<Item = L>) -> Result<Packed, PackError> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    for line in lines {
        let line = serde_json::to_string(&line).map_err(|error| PackError::Made(error.to_string()))?;
        writeln!(packer, "{line}").map_err(|error| PackError::Made(error.to_string()))?;
    }
    let bytes = packer
        .finish()
        .map_err(|error| PackError::Made(error.to_string()))?;
    let sha256 = sha256(&bytes);
    Ok(Packed { bytes, sha256 })
}

/// The lines of a file of which its manifest tells so many bytes and this hash.
///
/// # Errors
/// [`PackError`]: it is another file, or holds what is no such line.
pub(crate) fn unpack<L: DeserializeOwned>(
    packed: &[u8],
    bytes: u64,
    told: &str,
) -> Result<Vec<L>, PackError> {
    if packed.len() as u64 != bytes || sha256(packed) != told {
        return Err(PackError::Other);
    }
    let mut text = String::new();
    GzDecoder::new(packed)
        .take(MAX_UNPACKED)
        .read_to_string(&mut text)
        .map_err(|error| PackError::Packed(error.to_string()))?;
    let lines = text.lines().enumerate();
    lines
        .map(|(at, line)| {
            serde_json::from_str(line).map_err(|error| PackError::Line(at + 1, error.to_string()))
        })
        .collect()
}

/// In hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in digest::digest(&digest::SHA256, bytes).as_ref() {
        // Into a string it does not fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

/// A message as a line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    time_us: u64,
    shard: u32,
    epoch: String,
    offset: u64,
    channel: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    sender: Option<String>,
    /// The encoded `Message`, in base64.
    message: String,
}

impl Line {
    pub(crate) fn of(row: &Kept) -> Self {
        Self {
            time_us: row.time_us,
            shard: u32::from(row.shard.get()),
            epoch: row.place.log.to_string(),
            offset: row.place.offset.get(),
            channel: row.channel.clone(),
            sender: row.sender.clone(),
            message: BASE64_STANDARD.encode(&row.message),
        }
    }

    /// The message; the reason why it is none.
    pub(crate) fn kept(self) -> Result<Kept, String> {
        Ok(Kept {
            time_us: self.time_us,
            shard: ShardId::new(self.shard).ok_or_else(|| format!("{} as a shard", self.shard))?,
            place: Place {
                log: epoch(&self.epoch)?,
                offset: Offset::from_u64(self.offset),
            },
            channel: self.channel,
            sender: self.sender,
            message: BASE64_STANDARD
                .decode(&self.message)
                .map_err(|error| format!("a message that is no base64: {error}"))?
                .into(),
        })
    }
}

/// A life of a log, as clients see it; the reason why it is none.
pub(crate) fn epoch(text: &str) -> Result<LogEpoch, String> {
    text.parse().map_err(|_| format!("{text:?} as an epoch"))
}
