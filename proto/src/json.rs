//! The JSON encoding of the client protocol.
use bytes::Bytes;
use serde::Deserialize as _;

/// Reads a payload field: whatever JSON stands there, as bytes.
pub(crate) fn payload<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let raw = <&serde_json::value::RawValue>::deserialize(deserializer)?;
    Ok(Bytes::copy_from_slice(raw.get().as_bytes()))
}
