//! The store in this process: for one machine, and for tests.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use switchboard_proto::ids::Incarnation;
use tokio::time::Instant;

use super::{
    InChannel, Loaded, Look, MAX_BATCH, Moved, Moves, PARTITIONS, Partition, PresenceStore, REPORTED_ANEW,
    Saved, Stamp, StoreError, UNTOLD_AFTER, Versioned, Write,
};
use crate::user::Lease;

/// See the module. Bounded by the sessions that gateways may hold, and by how long users are remembered.
#[derive(Debug)]
pub struct MemoryStore {
    worlds: Vec<Mutex<World>>,
    begun: Instant,
    /// Unix milliseconds at that time: from then on it goes as the runtime's clock does.
    begun_ms: u64,
}

#[derive(Debug, Default)]
struct World {
    leases: HashMap<Incarnation, Held>,
    users: HashMap<String, Versioned>,
    due: BTreeSet<(u64, String)>,
    due_of: HashMap<String, u64>,
    users_at: BTreeSet<(Lease, String)>,
    channels_at: BTreeSet<(Lease, String)>,
    channels: HashMap<String, Channel>,
    untold: BTreeMap<Bytes, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    number: u64,
    report: u64,
    begun_ms: u64,
    until_ms: u64,
}

#[derive(Debug, Default)]
struct Channel {
    members: HashMap<Bytes, InIt>,
    users: HashMap<String, u64>,
    leases: HashMap<Lease, u64>,
}

#[derive(Debug)]
struct InIt {
    lease: Lease,
    user: String,
    value: Bytes,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self {
            worlds: (0..PARTITIONS).map(|_| Mutex::default()).collect(),
            begun: Instant::now(),
            begun_ms: switchboard_proto::time::now_us() / 1000,
        }
    }
}

impl MemoryStore {
    fn now_ms(&self) -> u64 {
        self.begun_ms + u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// A partition's world, and the time. Leases that are over are gone from it.
    fn with<T>(
        &self,
        partition: Partition,
        work: impl FnOnce(&mut World, u64) -> T,
    ) -> Result<T, StoreError> {
        let world = self.worlds.get(usize::from(partition.number()));
        let mut world = world
            .ok_or_else(|| StoreError::Damaged(format!("no partition {}", partition.number())))?
            .lock();
        let now_ms = self.now_ms();
        world.leases.retain(|_, lease| lease.until_ms > now_ms);
        Ok(work(&mut world, now_ms))
    }
}

impl World {
    /// The lease is in force, and no later report is known.
    fn is_held(&self, stamp: Stamp) -> bool {
        let held = self.leases.get(&stamp.lease.gateway);
        held.is_some_and(|held| held.number == stamp.lease.number && held.report <= stamp.report)
    }

    /// What was written under it can be taken away.
    fn is_over(&self, lease: Lease, now_ms: u64) -> bool {
        self.leases.get(&lease.gateway).is_none_or(|held| {
            held.number != lease.number && held.begun_ms + super::millis(REPORTED_ANEW) <= now_ms
        })
    }

    fn write(&mut self, write: &Write, now_ms: u64) -> bool {
        if self.users.get(&write.user).map(|known| known.version) != write.expected {
            return false;
        }
        match &write.value {
            Some(value) => {
                let version = write.expected.map_or(1, |version| version + 1);
                let value = value.clone();
                self.users
                    .insert(write.user.clone(), Versioned { version, value });
            }
            None => drop(self.users.remove(&write.user)),
        }
        if let Some(due) = self.due_of.remove(&write.user) {
            self.due.remove(&(due, write.user.clone()));
        }
        if let Some(due) = write.due_ms {
            self.due.insert((due, write.user.clone()));
            self.due_of.insert(write.user.clone(), due);
        }
        for lease in &write.not_at {
            self.users_at.remove(&(*lease, write.user.clone()));
        }
        for lease in &write.at {
            self.users_at.insert((*lease, write.user.clone()));
        }
        if let Some(news) = &write.news {
            self.untold.insert(news.clone(), now_ms);
        }
        true
    }

    fn take_out(&mut self, name: &str, client: &Bytes, moved: &mut Moved) {
        let Some(channel) = self.channels.get_mut(name) else {
            return;
        };
        let Some(member) = channel.members.remove(client) else {
            return;
        };
        let is_last_at = forget_one(&mut channel.leases, &member.lease);
        forget_one(&mut channel.users, &member.user);
        if channel.members.is_empty() {
            self.channels.remove(name);
        }
        if is_last_at {
            self.channels_at.remove(&(member.lease, name.to_owned()));
        }
        moved.left.push(member.value);
    }

    fn put_in(&mut self, name: &str, stamp: Stamp, member: &super::Member, moved: &mut Moved) {
        let channel = self.channels.entry(name.to_owned()).or_default();
        let now = InIt {
            lease: stamp.lease,
            user: member.user.clone(),
            value: member.value.clone(),
        };
        let was = channel.members.insert(member.client.clone(), now);
        *channel.leases.entry(stamp.lease).or_default() += 1;
        *channel.users.entry(member.user.clone()).or_default() += 1;
        self.channels_at.insert((stamp.lease, name.to_owned()));
        match was {
            Some(was) => {
                let is_last_at = forget_one(&mut channel.leases, &was.lease);
                forget_one(&mut channel.users, &was.user);
                if is_last_at {
                    self.channels_at.remove(&(was.lease, name.to_owned()));
                }
            }
            None => moved.joined.push(member.value.clone()),
        }
    }

    /// Fills in what is counted. `moved.before` is counted before.
    fn count(&self, moved: &mut Moved) {
        let Some(channel) = self.channels.get(&moved.channel) else {
            return;
        };
        moved.clients = channel.members.len() as u64;
        moved.users = channel.users.len() as u64;
        moved.gateways = channel.leases.keys().map(|lease| lease.gateway).collect();
        moved.gateways.sort_unstable();
        moved.gateways.dedup();
    }

    fn moved(&self, channel: &str) -> Moved {
        Moved {
            channel: channel.to_owned(),
            before: self
                .channels
                .get(channel)
                .map_or(0, |channel| channel.members.len() as u64),
            ..Moved::default()
        }
    }
}

/// Counts one less; `true`: none is left.
fn forget_one<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u64>, key: &K) -> bool {
    let Some(count) = counts.get_mut(key) else {
        return true;
    };
    *count -= 1;
    let is_none = *count == 0;
    if is_none {
        counts.remove(key);
    }
    is_none
}

#[async_trait]
impl PresenceStore for MemoryStore {
    async fn hold(
        &self,
        partition: Partition,
        stamp: Stamp,
        begins: bool,
        lasts: Duration,
    ) -> Result<bool, StoreError> {
        self.with(partition, |world, now_ms| {
            let Lease { gateway, number } = stamp.lease;
            let known = world.leases.get(&gateway);
            let same = known.filter(|known| known.number == number);
            let holds = match (known, same) {
                (_, Some(same)) => same.report <= stamp.report,
                (Some(known), None) => begins && known.number < number,
                (None, None) => begins,
            };
            if holds {
                let held = Held {
                    number,
                    report: stamp.report,
                    begun_ms: same.map_or(now_ms, |same| same.begun_ms),
                    until_ms: now_ms + super::millis(lasts),
                };
                world.leases.insert(gateway, held);
            }
            holds
        })
    }

    async fn release(&self, partition: Partition, stamp: Stamp) -> Result<(), StoreError> {
        self.with(partition, |world, _| {
            if world.is_held(stamp) {
                world.leases.remove(&stamp.lease.gateway);
            }
        })
    }

    async fn load(&self, partition: Partition, users: &[&str]) -> Result<Loaded, StoreError> {
        self.with(partition, |world, now_ms| Loaded {
            now_ms,
            leases: (world.leases.iter())
                .map(|(gateway, lease)| (*gateway, lease.number))
                .collect(),
            users: users.iter().map(|user| world.users.get(*user).cloned()).collect(),
        })
    }

    async fn save(
        &self,
        partition: Partition,
        stamp: Option<Stamp>,
        writes: &[Write],
    ) -> Result<Saved, StoreError> {
        self.with(partition, |world, now_ms| {
            if stamp.is_some_and(|stamp| !world.is_held(stamp)) {
                return Saved::NotHeld;
            }
            Saved::Done(writes.iter().map(|write| world.write(write, now_ms)).collect())
        })
    }

    async fn look(&self, partition: Partition) -> Result<Look, StoreError> {
        self.with(partition, |world, now_ms| {
            let mut users: BTreeMap<String, Vec<Lease>> = BTreeMap::new();
            let due = world.due.iter().take_while(|(due, _)| *due <= now_ms);
            for (_, user) in due.take(MAX_BATCH) {
                users.entry(user.clone()).or_default();
            }
            let over = |(lease, _): &&(Lease, String)| world.is_over(*lease, now_ms);
            for (lease, user) in world.users_at.iter().filter(over).take(MAX_BATCH) {
                users.entry(user.clone()).or_default().push(*lease);
            }
            let channels: Vec<_> = (world.channels_at.iter().filter(over).take(MAX_BATCH))
                .map(|(lease, channel)| (channel.clone(), *lease))
                .collect();
            let untold = world
                .untold
                .iter()
                .filter(|(_, at)| **at + super::millis(UNTOLD_AFTER) <= now_ms);
            let untold: Vec<_> = untold.take(MAX_BATCH).map(|(news, _)| news.clone()).collect();
            Look {
                more: users.len() >= MAX_BATCH || channels.len() >= MAX_BATCH,
                users: users.into_iter().collect(),
                channels,
                untold,
            }
        })
    }

    async fn told(&self, partition: Partition, news: &[Bytes]) -> Result<(), StoreError> {
        self.with(partition, |world, _| {
            for news in news {
                world.untold.remove(news);
            }
        })
    }

    async fn moves(&self, stamp: Stamp, moves: &Moves) -> Result<Option<Moved>, StoreError> {
        self.with(Partition::of(&moves.channel), |world, _| {
            if !world.is_held(stamp) {
                return None;
            }
            let mut moved = world.moved(&moves.channel);
            for client in &moves.left {
                world.take_out(&moves.channel, client, &mut moved);
            }
            for member in &moves.joined {
                world.put_in(&moves.channel, stamp, member, &mut moved);
            }
            world.count(&mut moved);
            Some(moved)
        })
    }

    async fn clear(&self, channel: &str, lease: Lease) -> Result<(Moved, bool), StoreError> {
        self.with(Partition::of(channel), |world, now_ms| {
            let mut moved = world.moved(channel);
            if !world.is_over(lease, now_ms) {
                world.count(&mut moved);
                return (moved, false);
            }
            let members = world.channels.get(channel).map(|channel| &channel.members);
            let mut gone: Vec<Bytes> = (members.into_iter().flatten())
                .filter(|(_, member)| member.lease == lease)
                .map(|(client, _)| client.clone())
                .take(MAX_BATCH + 1)
                .collect();
            let more = gone.len() > MAX_BATCH;
            gone.truncate(MAX_BATCH);
            for client in &gone {
                world.take_out(channel, client, &mut moved);
            }
            world.count(&mut moved);
            (moved, more)
        })
    }

    async fn in_channel(&self, channel: &str, most: usize) -> Result<InChannel, StoreError> {
        self.with(Partition::of(channel), |world, _| {
            let Some(found) = world.channels.get(channel) else {
                return InChannel::default();
            };
            if found.members.len() > most {
                return InChannel {
                    members: Vec::new(),
                    clients: found.members.len() as u64,
                    users: found.users.len() as u64,
                };
            }
            let held = |member: &&InIt| {
                let held = world.leases.get(&member.lease.gateway);
                held.is_some_and(|held| held.number == member.lease.number)
            };
            let there: Vec<&InIt> = found.members.values().filter(held).collect();
            let users: HashSet<&str> = there.iter().map(|member| member.user.as_str()).collect();
            InChannel {
                clients: there.len() as u64,
                users: users.len() as u64,
                members: there.into_iter().map(|member| member.value.clone()).collect(),
            }
        })
    }
}
