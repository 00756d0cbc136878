//! Tells others what changed: users to whoever watches, joins and leaves to the gateways that have subscribers of the channel.
//!
//! What happens within a moment is told together. News of users lie in the store until they were told, so a replica that dies
//! between a change and its news leaves them to the next that looks. Joins, leaves and occupancy are told at most once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use switchboard_bus::{Bus, Subject};
use switchboard_proto::format;
use switchboard_proto::ids::Incarnation;
use switchboard_proto::presence::{Changes, ChannelChange, ChannelChanges, Occupancy};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::PresenceMetrics;
use crate::store::{Moved, Partition, PresenceStore};

/// What waits to be told; beyond it, news are told later by who looks, and joins and leaves are not told.
const QUEUE: usize = 65_536;

/// Changes of one frame, at most.
const FRAME: usize = 500;

/// What is told in a fraction of a second.
const IDLE: usize = 16 * FRAME;

/// What happens within this time is told together.
const GATHER: Duration = Duration::from_millis(10);

/// Without anything to tell, a frame says so: who listens knows by the numbers whether it missed one.
const BEAT: Duration = Duration::from_secs(1);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Telling {
    queue: mpsc::Sender<Item>,
    metrics: PresenceMetrics,
}

enum Item {
    News(Partition, Bytes),
    Channel(Incarnation, ChannelChange),
    Occupancy(Occupancy),
}

/// The task's side.
pub(crate) struct Told {
    queue: mpsc::Receiver<Item>,
    bus: Arc<dyn Bus>,
    store: Arc<dyn PresenceStore>,
    replica: Incarnation,
    number: u64,
    metrics: PresenceMetrics,
}

impl Telling {
    pub(crate) fn new(
        bus: Arc<dyn Bus>,
        store: Arc<dyn PresenceStore>,
        replica: Incarnation,
        metrics: PresenceMetrics,
    ) -> (Self, Told) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let telling = Self {
            queue: sender,
            metrics: metrics.clone(),
        };
        let told = Told {
            queue,
            bus,
            store,
            replica,
            number: 0,
            metrics,
        };
        (telling, told)
    }

    /// A user changed: the encoded `Presence`, as it lies in the store.
    pub(crate) fn news(&self, partition: Partition, news: Bytes) {
        self.put(Item::News(partition, news));
    }

    /// Somebody joined or left a channel. Each is told where the channel has `told_to` members at most.
    pub(crate) fn moved(&self, moved: Moved, told_to: u64) {
        let occupied = match (moved.before, moved.clients) {
            (0, 1..) => Some(true),
            (1.., 0) => Some(false),
            _ => None,
        };
        if let Some(occupied) = occupied {
            let channel = moved.channel.clone();
            self.put(Item::Occupancy(Occupancy { channel, occupied }));
        }
        self.metrics.joins.inc_by(moved.joined.len() as u64);
        self.metrics.leaves.inc_by(moved.left.len() as u64);
        if moved.clients > told_to {
            return;
        }
        let left = moved.left.iter().map(|member| (member, false));
        let joined = moved.joined.iter().map(|member| (member, true));
        for (member, joined) in left.chain(joined) {
            let Ok(member) = format::decode(member.clone()) else {
                continue;
            };
            let change = ChannelChange {
                channel: moved.channel.clone(),
                member: Some(member),
                joined,
                clients: moved.clients,
            };
            for gateway in &moved.gateways {
                self.put(Item::Channel(*gateway, change.clone()));
            }
        }
    }

    /// So little waits to be told that none of it is as old as what others left untold.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.max_capacity() - self.queue.capacity() < IDLE
    }

    fn put(&self, item: Item) {
        if self.queue.try_send(item).is_err() {
            self.metrics.not_told.inc();
        }
    }
}

impl Told {
    /// Tells until the stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let mut items = Vec::with_capacity(FRAME);
            let gather = tokio::time::timeout(BEAT, self.queue.recv_many(&mut items, FRAME));
            match stop.run_until_cancelled(gather).await {
                None | Some(Ok(0)) => return,
                Some(Ok(_)) if items.len() < FRAME => {
                    tokio::time::sleep(GATHER).await;
                    while items.len() < FRAME
                        && let Ok(item) = self.queue.try_recv()
                    {
                        items.push(item);
                    }
                }
                // A frame that is full, or nothing.
                Some(Ok(_) | Err(_)) => {}
            }
            self.tell(items).await;
        }
    }

    async fn tell(&mut self, items: Vec<Item>) {
        self.number += 1;
        let mut changes = Changes {
            replica: self.replica.to_bytes(),
            number: self.number,
            ..Changes::default()
        };
        let mut told: BTreeMap<Partition, Vec<Bytes>> = BTreeMap::new();
        let mut of_gateways: HashMap<Incarnation, ChannelChanges> = HashMap::new();
        for item in items {
            match item {
                Item::News(partition, news) => {
                    // What cannot be read is told by nobody, and must not be found again and again.
                    changes.users.extend(format::decode(news.clone()).ok());
                    told.entry(partition).or_default().push(news);
                }
                Item::Channel(gateway, change) => {
                    of_gateways.entry(gateway).or_default().changes.push(change)
                }
                Item::Occupancy(occupancy) => changes.channels.push(occupancy),
            }
        }
        for (gateway, changes) in of_gateways {
            self.publish(Subject::Joins { gateway }, format::encode(&changes))
                .await;
        }
        if !self
            .publish(Subject::PresenceChanges, format::encode(&changes))
            .await
        {
            return;
        }
        for (partition, news) in told {
            if let Err(error) = self.store.told(partition, &news).await {
                tracing::debug!(%error, "news are told twice");
            }
        }
    }

    async fn publish(&self, subject: Subject, payload: Bytes) -> bool {
        match self.bus.publish(subject, payload).await {
            Ok(()) => true,
            Err(error) => {
                self.metrics.not_told.inc();
                tracing::warn!(%error, "changes are not told now");
                false
            }
        }
    }
}
