//! What a router counts.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use switchboard_proto::ids::ShardId;
use switchboard_service_kit::metrics::Metrics;

/// Handles; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct RouterMetrics {
    pub(crate) owned_shards: Gauge,
    pub(crate) claims: Counter,
    pub(crate) ownerships_lost: Counter,
    pub(crate) appends: Counter,
    pub(crate) messages: Counter,
    pub(crate) refused: Counter,
    pub(crate) bad_frames: Counter,
    shards: Arc<ShardFamilies>,
}

#[derive(Default)]
struct ShardFamilies {
    position: Family<ShardLabel, Gauge>,
    links: Family<ShardLabel, Gauge>,
    channels: Family<ShardLabel, Gauge>,
    queued_bytes: Family<ShardLabel, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShardLabel {
    shard: u16,
}

/// The gauges of one shard.
pub(crate) struct ShardMetrics {
    pub(crate) position: Gauge,
    pub(crate) links: Gauge,
    pub(crate) channels: Gauge,
    pub(crate) queued_bytes: Gauge,
}

impl RouterMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let router = Self::default();
        metrics.register("router", |registry| {
            registry.register(
                "owned_shards",
                "Shards owned by this router",
                router.owned_shards.clone(),
            );
            registry.register("claims", "Shards claimed", router.claims.clone());
            registry.register(
                "ownerships_lost",
                "Ownerships and claims that ended for another reason than a release",
                router.ownerships_lost.clone(),
            );
            registry.register("appends", "Batches appended to the log", router.appends.clone());
            registry.register("messages", "Messages in those batches", router.messages.clone());
            registry.register(
                "refused_appends",
                "Batches that the log refused",
                router.refused.clone(),
            );
            registry.register(
                "bad_frames",
                "Undecodable frames from gateways",
                router.bad_frames.clone(),
            );
            let shards = &router.shards;
            registry.register(
                "shard_position",
                "Sequence of the shard's last record",
                shards.position.clone(),
            );
            registry.register(
                "shard_links",
                "Gateways linked to the shard",
                shards.links.clone(),
            );
            registry.register(
                "shard_channels",
                "Channels of the shard that some gateway is interested in",
                shards.channels.clone(),
            );
            registry.register(
                "shard_queued_bytes",
                "Bytes of publishes that wait for the append in flight",
                shards.queued_bytes.clone(),
            );
        });
        router
    }

    pub(crate) fn of(&self, shard: ShardId) -> ShardMetrics {
        let label = ShardLabel { shard: shard.get() };
        ShardMetrics {
            position: self.shards.position.get_or_create_owned(&label),
            links: self.shards.links.get_or_create_owned(&label),
            channels: self.shards.channels.get_or_create_owned(&label),
            queued_bytes: self.shards.queued_bytes.get_or_create_owned(&label),
        }
    }
}
