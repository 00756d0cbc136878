//! Receipts: up to where users were given and have read channels.
//!
//! They are collected for a moment, so that many of one user in one channel are one, and go to the store together. Each is answered
//! once it is there. The channel's other members are told by a message that is not stored; not too often, and not where
//! there are many.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use lru::LruCache;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use switchboard_bus::messages::ask;
use switchboard_proto::bus::{Message, PayloadKind};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::{Error, Reply, RpcResult};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::ids::{LogEpoch, Offset};
use switchboard_proto::messages::{self, MarkReceiptsRequest, Receipt, method};
use switchboard_proto::tags;
use switchboard_service_kit::metrics::Metrics;
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use super::cache::Place;
use super::config::ConversationsConfig;
use super::memberships::place;
use crate::gateway::Gateway;
use crate::links::{Asker, HistoryQuery, Publish};
use crate::session::told;

/// Marks of different users or channels that are written together, at most.
const TOGETHER: usize = 500;

/// Writes at a time.
const AT_ONCE: usize = 4;

/// Owners that are asked for a head at a time, by one write.
const HEADS_AT_ONCE: usize = 16;

/// Receipts that one write tells others of at a time.
const TELLING_AT_ONCE: usize = 16;

/// Channels whose head is kept in mind.
const HEADS: NonZeroUsize = some(16_384);

/// Users and channels of whom others were told lately, at most. One that is forgotten may be told of again sooner.
const LATELY: NonZeroUsize = some(65_536);

const fn some(number: usize) -> NonZeroUsize {
    match NonZeroUsize::new(number) {
        Some(number) => number,
        None => NonZeroUsize::MIN,
    }
}

/// Users and channels of whom others are still to be told, at most; of further ones they are not.
const LATER: usize = 16_384;

/// Between two looks at whom others are still to be told of.
const LOOK: Duration = Duration::from_millis(50);

/// What is counted here. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReceiptMetrics {
    taken: Counter,
    written: Counter,
    told: Counter,
    not_told: Counter,
}

impl ReceiptMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let these = Self::default();
        metrics.register("gateway_receipts", |registry| {
            registry.register("taken", "Receipts of clients", these.taken.clone());
            registry.register(
                "written",
                "Marks of one user in one channel that the store was given",
                these.written.clone(),
            );
            registry.register(
                "told",
                "Marks that the other members were told of",
                these.told.clone(),
            );
            registry.register(
                "not_told",
                "Marks that they were not told of, because too many were waiting",
                these.not_told.clone(),
            );
        });
        these
    }
}

/// What a receipt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upto {
    Delivered,
    Read,
}

/// A receipt of a client that may read the channel.
pub(crate) struct Mark {
    /// Who is answered.
    pub(crate) asker: Asker,
    pub(crate) channel: ChannelName,
    pub(crate) upto: Upto,
    pub(crate) offset: Offset,
    /// `None`: the one in force.
    pub(crate) log_epoch: Option<LogEpoch>,
}

/// See the module.
pub(crate) struct Receipts(mpsc::Sender<Mark>);

impl Receipts {
    /// `waiting` receipts at most.
    pub(crate) fn new(config: &ConversationsConfig) -> (Self, mpsc::Receiver<Mark>) {
        let (marks, waiting) = mpsc::channel(config.receipts_waiting);
        (Self(marks), waiting)
    }

    /// Takes a receipt, which is answered later.
    ///
    /// # Errors
    /// [`ErrorCode::TooManyRequests`]: too many wait.
    pub(crate) fn take(&self, mark: Mark) -> Result<(), ErrorCode> {
        self.0.try_send(mark).map_err(|_| ErrorCode::TooManyRequests)
    }
}

/// Writes and tells. Ends when its gateway does.
pub(crate) async fn write_all(
    gateway: Arc<Gateway>,
    mut marks: mpsc::Receiver<Mark>,
    metrics: ReceiptMetrics,
    tasks: Tasks,
) {
    let window = gateway.config.conversations.receipts_window;
    let writer = Arc::new(Writer {
        heads: Mutex::new(LruCache::new(HEADS)),
        telling: Mutex::new(Telling::new(gateway.config.conversations.receipts_told_every)),
        gateway,
        metrics,
    });
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let first = tokio::select! {
            mark = marks.recv() => mark,
            _ = look.tick() => {
                let due = writer.telling.lock().due(Instant::now());
                if !due.is_empty() {
                    let writer = Arc::clone(&writer);
                    tasks.spawn("receipts-told", TaskKind::Replaceable, async move { writer.publish(due).await });
                }
                continue;
            }
        };
        let Some(first) = first else { return };
        let mut together = vec![first];
        let end = tokio::time::Instant::now() + window;
        while together.len() < TOGETHER {
            match tokio::time::timeout_at(end, marks.recv()).await {
                Ok(Some(mark)) => together.push(mark),
                Ok(None) | Err(_) => break,
            }
        }
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let writer = Arc::clone(&writer);
        tasks.spawn("receipts", TaskKind::Replaceable, async move {
            writer.write(together).await;
            drop(place);
        });
    }
}

struct Writer {
    gateway: Arc<Gateway>,
    /// Of channels: the life of the log in force, and an offset that it has reached.
    heads: Mutex<LruCache<ChannelName, Place>>,
    telling: Mutex<Telling>,
    metrics: ReceiptMetrics,
}

impl Writer {
    /// Checks, writes, answers and tells.
    async fn write(&self, marks: Vec<Mark>) {
        self.metrics.taken.inc_by(marks.len() as u64);
        let heads = self.heads(&marks).await;
        let mut accepted = Vec::with_capacity(marks.len());
        let mut receipts: HashMap<(String, String), [Option<Place>; 2]> = HashMap::new();
        for mark in marks {
            let head = heads.get(&mark.channel).copied();
            match head
                .unwrap_or(Err(ErrorCode::Internal))
                .and_then(|head| placed(&mark, head))
            {
                Ok(place) => {
                    let key = (
                        mark.channel.as_str().to_owned(),
                        mark.asker.session.user().to_owned(),
                    );
                    let places = receipts.entry(key).or_default();
                    let [delivered, read] = places;
                    *delivered = (*delivered).max(Some(place));
                    if mark.upto == Upto::Read {
                        *read = (*read).max(Some(place));
                    }
                    accepted.push(mark.asker);
                }
                Err(code) => self.answer(&mark.asker, Err(code.into())),
            }
        }
        if accepted.is_empty() {
            return;
        }
        let request = MarkReceiptsRequest {
            receipts: receipts
                .into_iter()
                .map(|((channel, user), [delivered, read])| Receipt {
                    channel,
                    user,
                    delivered: delivered.map(wire),
                    read: read.map(wire),
                    members: 0,
                })
                .collect(),
        };
        self.metrics.written.inc_by(request.receipts.len() as u64);
        // The first of them waits the longest.
        let arrived = accepted.iter().map(|asker| asker.arrived).min();
        let due = arrived.unwrap_or_else(Instant::now) + self.gateway.config.answer_timeout;
        let within = due.saturating_duration_since(Instant::now());
        match ask::<method::MarkReceipts>(self.gateway.links.bus(), &request, within).await {
            Ok(response) => {
                for asker in &accepted {
                    self.answer(asker, Ok(()));
                }
                self.tell(response.moved).await;
            }
            Err(error) => {
                tracing::warn!(%error, receipts = accepted.len(), "receipts are not written");
                let error = told(error);
                for asker in &accepted {
                    self.answer(asker, Err(error.clone()));
                }
            }
        }
    }

    /// The heads of these marks' channels; an owner is asked only where what is known is not enough.
    async fn heads(&self, marks: &[Mark]) -> HashMap<ChannelName, Result<Place, ErrorCode>> {
        let mut heads = HashMap::new();
        let mut open: HashMap<ChannelName, Instant> = HashMap::new();
        {
            let mut known = self.heads.lock();
            for mark in marks {
                // What is known of another life of the log says nothing of the one in force.
                let in_force = self.gateway.links.log_ordinal(&mark.channel);
                match known.get(&mark.channel) {
                    Some(head) if Some(head.0.ordinal) == in_force && placed(mark, *head).is_ok() => {
                        heads.insert(mark.channel.clone(), Ok(*head));
                    }
                    _ => {
                        let arrived = open.entry(mark.channel.clone()).or_insert(mark.asker.arrived);
                        *arrived = (*arrived).min(mark.asker.arrived);
                    }
                }
            }
        }
        let asked: Vec<_> = stream::iter(open)
            .map(async |(channel, arrived)| {
                let asked = self
                    .gateway
                    .links
                    .history(&channel, &HistoryQuery::default(), arrived)
                    .await;
                let head = asked.and_then(|(top, _)| {
                    let log = top.epoch.parse().map_err(|_| ErrorCode::Internal)?;
                    Ok((log, Offset::from_u64(top.offset)))
                });
                (channel, head)
            })
            .buffer_unordered(HEADS_AT_ONCE)
            .collect()
            .await;
        let mut known = self.heads.lock();
        for (channel, head) in asked {
            if let Ok(head) = head {
                known.put(channel.clone(), head);
            }
            heads.insert(channel, head);
        }
        heads
    }

    fn answer(&self, asker: &Asker, outcome: Result<(), Error>) {
        let reply = match outcome {
            Ok(()) => Reply {
                id: asker.id,
                rpc: Some(RpcResult {
                    data: bytes::Bytes::from_static(b"{}"),
                }),
                ..Reply::default()
            },
            Err(error) => {
                self.gateway.metrics.error_number(error.code);
                Reply {
                    id: asker.id,
                    error: Some(error),
                    ..Reply::default()
                }
            }
        };
        asker.session.reply(&reply);
    }

    /// Tells the other members, now or a little later.
    async fn tell(&self, moved: Vec<Receipt>) {
        let most = self.gateway.config.conversations.receipts_told_to;
        let name_length = self.gateway.config.channel_name_length;
        let mut now = Vec::new();
        {
            let mut telling = self.telling.lock();
            for receipt in moved {
                let Ok(channel) = ChannelName::parse(&receipt.channel, name_length) else {
                    continue;
                };
                // A channel without members has nobody who is to be told.
                let members = match channel.users() {
                    Some(users) => users.count() as u64,
                    None => receipt.members,
                };
                if !(2..=most).contains(&members) {
                    continue;
                }
                match telling.tell(receipt, Instant::now()) {
                    Some(receipt) => now.push(receipt),
                    None => {
                        self.metrics.not_told.inc_by(telling.take_dropped());
                    }
                }
            }
        }
        self.publish(now).await;
    }

    async fn publish(&self, receipts: Vec<Receipt>) {
        let name_length = self.gateway.config.channel_name_length;
        let telling = stream::iter(receipts).for_each_concurrent(TELLING_AT_ONCE, async |receipt| {
            let Ok(channel) = ChannelName::parse(&receipt.channel, name_length) else {
                return;
            };
            let publish = Publish::plain(&message(&receipt), false);
            let told = self
                .gateway
                .links
                .publish_by_server(&channel, publish, Instant::now())
                .await;
            match told {
                Ok(_) => drop(self.metrics.told.inc()),
                Err(refusal) => {
                    tracing::debug!(%channel, code = refusal.code, "nobody was told of a receipt");
                }
            }
        });
        telling.await;
    }
}

/// Where the mark is, given the channel's head.
fn placed(mark: &Mark, (log, head): Place) -> Result<Place, ErrorCode> {
    let of = mark.log_epoch.unwrap_or(log);
    let is_there = match of.ordinal.cmp(&log.ordinal) {
        std::cmp::Ordering::Equal => of == log && mark.offset <= head,
        // How far that one went is not known any more; whatever it is, it is behind all of this one.
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Greater => false,
    };
    if !is_there || mark.offset == Offset::ZERO {
        return Err(ErrorCode::BadRequest);
    }
    Ok((of, mark.offset))
}

fn wire((log, offset): Place) -> messages::Place {
    messages::Place {
        log_epoch: log.to_string(),
        offset: offset.get(),
    }
}

/// What the other members are told.
fn message(receipt: &Receipt) -> Message {
    let at = |place: Option<&messages::Place>| {
        place.map(|place| serde_json::json!({"offset": place.offset, "epoch": place.log_epoch}))
    };
    let payload = serde_json::json!({
        "user": receipt.user,
        "delivered": at(receipt.delivered.as_ref()),
        "read": at(receipt.read.as_ref()),
    });
    Message {
        id: Uuid::now_v7().into_bytes().to_vec().into(),
        channel: receipt.channel.clone(),
        kind: PayloadKind::Json.into(),
        payload: payload.to_string().into(),
        tags: [(tags::CHANGE.to_owned(), "receipt".to_owned())].into(),
        ..Message::default()
    }
}

/// Whom others are told of when: at once, and then not before a while is over. No I/O and no clock.
struct Telling {
    every: Duration,
    lately: LruCache<(String, String), Instant>,
    later: HashMap<(String, String), (Instant, Receipt)>,
    dropped: u64,
}

impl Telling {
    fn new(every: Duration) -> Self {
        Self {
            every,
            lately: LruCache::new(LATELY),
            later: HashMap::new(),
            dropped: 0,
        }
    }

    /// What others are to be told now; else it is kept, if there is room.
    fn tell(&mut self, receipt: Receipt, now: Instant) -> Option<Receipt> {
        let key = (receipt.channel.clone(), receipt.user.clone());
        if let Some((_, later)) = self.later.get_mut(&key) {
            *later = newest(later, receipt);
            return None;
        }
        let next = self.lately.get(&key).map(|last| *last + self.every);
        match next.filter(|next| *next > now) {
            None => {
                self.lately.put(key, now);
                Some(receipt)
            }
            Some(_) if self.later.len() >= LATER => {
                self.dropped += 1;
                None
            }
            Some(next) => {
                self.later.insert(key, (next, receipt));
                None
            }
        }
    }

    /// What was kept and is due.
    fn due(&mut self, now: Instant) -> Vec<Receipt> {
        if self.later.is_empty() {
            return Vec::new();
        }
        let due: Vec<_> = self.later.extract_if(|_, (at, _)| *at <= now).collect();
        if self.later.is_empty() {
            self.later.shrink_to(0);
        }
        due.into_iter()
            .map(|(key, (_, receipt))| {
                self.lately.put(key, now);
                receipt
            })
            .collect()
    }

    fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

/// The higher marks of both: answers of two writes may come in another order.
fn newest(one: &Receipt, other: Receipt) -> Receipt {
    let higher = |one: &Option<messages::Place>, other: Option<messages::Place>| match (
        place(one.as_ref()),
        place(other.as_ref()),
    ) {
        (one_at, other_at) if one_at > other_at => one.clone(),
        _ => other,
    };
    Receipt {
        delivered: higher(&one.delivered, other.delivered),
        read: higher(&one.read, other.read),
        channel: other.channel,
        user: other.user,
        members: other.members,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(user: &str, read: u64) -> Receipt {
        let at = messages::Place {
            log_epoch: "1-00000001".to_owned(),
            offset: read,
        };
        Receipt {
            channel: "room:1".to_owned(),
            user: user.to_owned(),
            delivered: Some(at.clone()),
            read: Some(at),
            members: 2,
        }
    }

    #[test]
    fn others_are_told_at_once_and_then_now_and_then() {
        let mut telling = Telling::new(Duration::from_secs(1));
        let now = Instant::now();
        assert_eq!(telling.tell(receipt("bob", 1), now), Some(receipt("bob", 1)));
        assert_eq!(telling.tell(receipt("bob", 2), now), None);
        assert_eq!(telling.tell(receipt("bob", 5), now), None);
        assert_eq!(telling.tell(receipt("bob", 3), now), None);
        assert_eq!(telling.tell(receipt("eve", 1), now), Some(receipt("eve", 1)));
        assert_eq!(telling.due(now), []);
        let later = now + Duration::from_secs(1);
        assert_eq!(telling.due(later), [receipt("bob", 5)], "the newest");
        assert_eq!(telling.due(later), []);
        assert_eq!(telling.tell(receipt("bob", 6), later), None);
        let later = later + Duration::from_secs(1);
        assert_eq!(telling.due(later), [receipt("bob", 6)]);
        let quiet = later + Duration::from_secs(1);
        assert_eq!(telling.tell(receipt("bob", 7), quiet), Some(receipt("bob", 7)));
    }
}
