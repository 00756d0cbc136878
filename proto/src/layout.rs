//! What a layout record says, with the defaults of what older ones do not (rule L7).

use std::time::Duration;

use crate::bus::Layout;
use crate::ids::{SHARD_HASH, ShardCount, ShardId};

/// The ordinal of a log that was never followed by another.
pub const FIRST_ORDINAL: u32 = 1;

/// For how long idempotency keys are known where the layout does not say.
pub const DEFAULT_KEY_WINDOW: Duration = Duration::from_secs(300);

impl Layout {
    /// A layout to create: all logs are the first of their shards.
    pub fn new(shards: ShardCount, key_window: Duration, created_us: u64) -> Self {
        Self {
            shards: u32::from(shards.get()),
            hash: SHARD_HASH.to_owned(),
            created_us,
            ordinals: Vec::new(),
            key_window_ms: u64::try_from(key_window.as_millis()).unwrap_or(u64::MAX),
            changing_to: 0,
            revision: 0,
        }
    }

    /// How many shards there are; `None` where the number makes no sense.
    pub fn shard_count(&self) -> Option<ShardCount> {
        ShardCount::new(self.shards)
    }

    /// The ordinal of the shard's log in force (rule L5).
    pub fn ordinal(&self, shard: ShardId) -> u32 {
        let ordinal = self.ordinals.get(usize::from(shard.get()));
        ordinal.copied().unwrap_or(FIRST_ORDINAL).max(FIRST_ORDINAL)
    }

    /// The highest ordinal that any shard's log has.
    pub fn highest_ordinal(&self) -> u32 {
        self.ordinals.iter().copied().fold(FIRST_ORDINAL, u32::max)
    }

    /// The same, as the one that follows it.
    #[must_use]
    pub fn followed(&self) -> Self {
        Self {
            revision: self.revision + 1,
            ..self.clone()
        }
    }

    /// The same with another log of one shard in force.
    #[must_use]
    pub fn with_ordinal(&self, shard: ShardId, ordinal: u32) -> Self {
        let ordinals = self.shard_count().into_iter().flat_map(ShardCount::iter);
        let ordinals = ordinals.map(|each| {
            if each == shard {
                ordinal
            } else {
                self.ordinal(each)
            }
        });
        Self {
            ordinals: ordinals.collect(),
            ..self.clone()
        }
    }

    /// How long idempotency keys are known.
    pub fn key_window(&self) -> Duration {
        match self.key_window_ms {
            0 => DEFAULT_KEY_WINDOW,
            millis => Duration::from_millis(millis),
        }
    }

    /// Whether publishes are refused, because the number of shards is being changed.
    pub fn is_frozen(&self) -> bool {
        self.changing_to != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(number: u32) -> ShardId {
        ShardId::new(number).unwrap()
    }

    #[test]
    fn what_an_older_record_does_not_say_is_what_was_so_then() {
        let old = Layout {
            shards: 3,
            hash: SHARD_HASH.to_owned(),
            created_us: 1,
            ..Layout::default()
        };
        assert_eq!(old.ordinal(shard(2)), 1);
        assert_eq!(old.key_window(), DEFAULT_KEY_WINDOW);
        assert!(!old.is_frozen());
    }

    #[test]
    fn one_shard_gets_another_log_and_the_others_keep_theirs() {
        let layout = Layout::new(ShardCount::new(3).unwrap(), DEFAULT_KEY_WINDOW, 1);
        let next = layout.with_ordinal(shard(1), 5).with_ordinal(shard(0), 2);
        assert_eq!([0, 1, 2].map(|number| next.ordinal(shard(number))), [2, 5, 1]);
        assert_eq!(next.highest_ordinal(), 5);
        assert_eq!(next.ordinals.len(), 3);
    }
}
