//! What is said: who, which of theirs, and when it was meant to be said.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A message of the load, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Who says it.
    pub sender: u32,
    /// Counts what the sender says, from 1.
    pub number: u64,
    /// Unix microseconds at which it was meant to be said: whoever says it late counts that too.
    pub meant_us: u64,
    /// So that it has a size.
    pub text: String,
}

impl Said {
    /// As a payload.
    pub fn encode(&self) -> Bytes {
        // A struct of numbers and text takes every write.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads a payload; `None`: somebody else's.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }
}
