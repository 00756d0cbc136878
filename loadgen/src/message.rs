//! What is said: who, which of theirs, and when it was meant to be said.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A message of the load, as JSON. It is followed by text, so that it has a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Who says it.
    pub sender: u32,
    /// Counts what the sender says, from 1.
    pub number: u64,
    /// Unix microseconds at which it was meant to be said: whoever says it late counts that too.
    pub meant_us: u64,
}

impl Said {
    /// As a payload, with `size` bytes of text.
    pub fn encode(&self, size: usize) -> Bytes {
        let Self {
            sender,
            number,
            meant_us,
        } = self;
        format!(
            r#"{{"sender":{sender},"number":{number},"meant_us":{meant_us},"text":"{:x<size$}"}}"#,
            ""
        )
        .into()
    }

    /// Reads a payload; `None`: somebody else's.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use switchboard_proto::time::now_us;

    use super::*;

    #[test]
    fn what_is_said_can_be_heard() {
        let said = Said {
            sender: 7,
            number: 3,
            meant_us: now_us(),
        };
        assert_eq!(Said::decode(&said.encode(0)), Some(said));
        let long = said.encode(100);
        assert_eq!(long.len(), said.encode(0).len() + 100);
        assert_eq!(Said::decode(&long), Some(said));
        assert_eq!(Said::decode(b"\"hello\""), None);
    }
}
