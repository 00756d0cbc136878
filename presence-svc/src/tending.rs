//! Does what time does: ends leases of gateways that are gone, lets users become away, offline and forgotten, and tells what a
//! replica that died left untold.
//!
//! Replicas share the partitions by rendezvous hashing. Two that tend one do no harm: the store compares before it sets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use switchboard_bus::membership::{Membership, owners};
use switchboard_proto::bus::Role;
use switchboard_proto::ids::{Incarnation, ShardCount};
use switchboard_service_kit::health::Component;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::service::Service;
use crate::store::{PARTITIONS, Partition, REPORTED_ANEW, StoreError};

/// Between two looks at a partition, at most, for leases that are over to count as such.
const AWAY: Duration = Duration::from_secs(1);

/// Several that do not know of each other's users answer differently in turn.
const ALONE: &str = "there are several presence services, and each keeps who is here in its own memory: set registry.backend = \"redis\"";

/// When each partition was looked at, and until when nothing of it is taken away.
type Spared = Mutex<HashMap<Partition, (Option<Instant>, Instant)>>;

/// See the module.
pub(crate) struct Tending {
    pub(crate) service: Arc<Service>,
    pub(crate) membership: Membership,
    pub(crate) me: Incarnation,
    /// Between two looks at a partition.
    pub(crate) every: Duration,
    pub(crate) health: Component,
    /// What is kept is kept for all replicas; else there may be one alone.
    pub(crate) is_shared: bool,
}

impl Tending {
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut failing = false;
        let spared: Spared = Mutex::default();
        let mut again = tokio::time::interval(self.every);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(again.tick()).await.is_some() {
            let looked = futures_util::future::join_all(
                self.mine()
                    .into_iter()
                    .map(|partition| self.look(partition, &spared)),
            );
            let failed = looked.await.into_iter().find_map(Result::err);
            let failed = match self.is_shared || self.membership.of_role(Role::Presence).len() < 2 {
                true => {
                    failed.map(|error| format!("the presence store cannot be used (registry.redis): {error}"))
                }
                false => Some(ALONE.to_owned()),
            };
            match (failed, failing) {
                (Some(why), false) => {
                    tracing::warn!("{why}; nobody's status is right until then");
                    self.health.not_ready(why);
                    failing = true;
                }
                (None, was_failing) => {
                    if was_failing {
                        tracing::info!("the presence store can be used again");
                    }
                    self.health.ready();
                    failing = false;
                }
                (Some(_), true) => {}
            }
        }
    }

    /// The partitions that are this replica's.
    fn mine(&self) -> Vec<Partition> {
        let replicas = self.membership.of_role(Role::Presence);
        let Some(count) = ShardCount::new(PARTITIONS.into()) else {
            return Vec::new();
        };
        let owners = owners(count, &replicas);
        // Nobody is seen where the bus is cut: then it is everybody's.
        let is_mine =
            |owner: Option<&Option<Incarnation>>| !matches!(owner, Some(Some(owner)) if *owner != self.me);
        Partition::all()
            .enumerate()
            .filter(|(at, _)| is_mine(owners.get(*at)))
            .map(|(_, partition)| partition)
            .collect()
    }

    /// Nobody has looked at a partition for a while: the service or the store was away, and no lease could be renewed. Then gateways
    /// have time to say that they are there.
    fn is_spared(&self, partition: Partition, spared: &Spared) -> bool {
        let now = Instant::now();
        let mut spared = spared.lock();
        let (looked, until) = spared.entry(partition).or_insert((None, now));
        if looked.is_none_or(|looked| looked + AWAY + self.every < now) {
            *until = now + REPORTED_ANEW;
        }
        *looked = Some(now);
        now < *until
    }

    async fn look(&self, partition: Partition, spared: &Spared) -> Result<(), StoreError> {
        loop {
            let mut look = self.service.store.look(partition).await?;
            if self.is_spared(partition, spared) {
                look.users.retain(|(_, over)| over.is_empty());
                look.channels.clear();
                look.more = false;
            }
            // What this replica has still to tell is among them: another's, who died, waits until it has.
            if self.service.telling.is_idle() {
                for news in look.untold {
                    self.service.telling.news(partition, news);
                }
            }
            self.service
                .metrics
                .expiries
                .inc_by(look.users.iter().map(|(_, over)| over.len() as u64).sum());
            let users = look
                .users
                .iter()
                .map(|(user, over)| (user.as_str(), over.clone()));
            self.service
                .change(partition, None, users.collect(), &|_, _, _| {})
                .await?;
            for (channel, lease) in look.channels {
                loop {
                    let (moved, more) = self.service.store.clear(&channel, lease).await?;
                    self.service.telling.moved(moved, self.service.settings.told_to);
                    if !more {
                        break;
                    }
                }
            }
            if !look.more {
                return Ok(());
            }
        }
    }
}
