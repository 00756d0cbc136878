//! Whether owners work with the layout that this gateway is configured for (rule L7). It has no right to read the
//! log, so owners' beats tell. An owner with another layout is not followed: nothing of the one reaches the other, and
//! before the first beat nothing is sent at all.

use std::time::Duration;

use switchboard_proto::bus::OwnerBeat;
use switchboard_proto::ids::{SHARD_HASH, ShardCount};
use switchboard_service_kit::health::Component;
use tokio::time::Instant;

/// Owners of before a change still beat for a moment after it.
const SETTLED: Duration = Duration::from_secs(3);

pub(super) struct LayoutCheck {
    shards: ShardCount,
    health: Component,
    /// When another layout was heard last, and which one was told of.
    other: Option<(Instant, u32)>,
}

impl LayoutCheck {
    pub(super) fn new(shards: ShardCount, health: Component) -> Self {
        health.ready();
        Self {
            shards,
            health,
            other: None,
        }
    }

    /// Whether the owner may be followed.
    pub(super) fn is_ours(&mut self, beat: &OwnerBeat, now: Instant) -> bool {
        let configured = u32::from(self.shards.get());
        if beat.shards == configured && beat.hash == SHARD_HASH {
            if self
                .other
                .take_if(|(heard, _)| now.saturating_duration_since(*heard) >= SETTLED)
                .is_some()
            {
                self.health.ready();
            }
            return true;
        }
        let told = self.other.map(|(_, shards)| shards);
        self.other = Some((now, beat.shards));
        if told == Some(beat.shards) {
            return false;
        }
        let remedy = match beat.shards {
            0 => "owners of an older release do not say their layout: update the routers first".to_owned(),
            shards if beat.hash == SHARD_HASH => format!(
                "bus.shards is {configured}, but the log has {shards} shards: set bus.shards = {shards} and restart"
            ),
            _ => format!(
                "the log places channels by the hash {:?}: run a release that knows it",
                beat.hash
            ),
        };
        tracing::error!(remedy, "owners work with another layout than this gateway");
        self.health.not_ready(remedy);
        false
    }
}

#[cfg(test)]
mod tests {
    use switchboard_service_kit::service::Context;

    use super::*;

    fn beat(shards: u32, hash: &str) -> OwnerBeat {
        OwnerBeat {
            shards,
            hash: hash.to_owned(),
            ..OwnerBeat::default()
        }
    }

    #[test]
    fn l7_owners_of_another_layout_are_not_followed_and_the_remedy_is_told() {
        let context = Context::new();
        let health = context.health.component("layout");
        let mut check = LayoutCheck::new(ShardCount::new(4).unwrap(), health);
        let begun = Instant::now();
        assert!(check.is_ours(&beat(4, SHARD_HASH), begun));
        assert!(context.health.report().ready);
        for (shards, hash, told) in [
            (6, SHARD_HASH, "set bus.shards = 6 and restart"),
            (4, "md5", "md5"),
            (0, "", "update the routers first"),
        ] {
            assert!(!check.is_ours(&beat(shards, hash), begun));
            let report = context.health.report();
            assert!(
                !report.ready && format!("{report:?}").contains(told),
                "{report:?}"
            );
        }
        assert!(check.is_ours(&beat(4, SHARD_HASH), begun + SETTLED / 2));
        assert!(!context.health.report().ready, "the others may still be there");
        assert!(check.is_ours(&beat(4, SHARD_HASH), begun + SETTLED));
        assert!(context.health.report().ready);
    }
}
