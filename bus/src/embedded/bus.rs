//! The bus inside one process: a table of subscribers and a bounded queue each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use crate::bus::{Bus, BusError, BusMessage, RequestError, Subscription};
use crate::subject::{Pattern, QueueGroup, Subject, SubjectPrefix};

/// The largest payload: the same as a NATS server's default, so that what fits here fits there.
const MAX_PAYLOAD: usize = 1 << 20;

/// An in-process [`Bus`]. Services of one process share one instance.
#[derive(Debug)]
pub struct EmbeddedBus {
    prefix: SubjectPrefix,
    /// Held for look-ups and `try_send`s only, never across an await.
    table: Mutex<Table>,
    next: AtomicU64,
    dropped: AtomicU64,
    /// Never changes: nothing but a full queue loses a message here.
    disruptions: watch::Sender<u64>,
    /// For the guards of subscriptions, which must not keep the bus alive.
    this: Weak<Self>,
}

#[derive(Debug, Default)]
struct Table {
    subscribers: HashMap<Pattern, Vec<Subscriber>>,
    /// Callers of [`Bus::request`] by the inbox they wait at. Bounded by the calls in flight: each
    /// removes its own, also when it is dropped.
    inboxes: HashMap<String, oneshot::Sender<Bytes>>,
}

#[derive(Debug)]
struct Subscriber {
    id: u64,
    group: Option<QueueGroup>,
    queue: mpsc::Sender<BusMessage>,
    dropped: Arc<AtomicU64>,
}

/// What became of a message.
#[derive(Debug, Default)]
struct Outcome {
    subscribers: usize,
    dropped: u64,
}

impl EmbeddedBus {
    /// A bus that nobody is on yet. `prefix` shows only in the names of reply inboxes.
    pub fn new(prefix: SubjectPrefix) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            prefix,
            table: Mutex::default(),
            next: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            disruptions: watch::Sender::new(0),
            this: this.clone(),
        })
    }

    /// Messages that found a full queue, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn deliver(&self, subject: Subject, message: &BusMessage) -> Outcome {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        let table = self.table.lock();
        let patterns = [Some(Pattern::Exactly(subject)), wildcard(subject)];
        for pattern in patterns.into_iter().flatten() {
            if let Some(subscribers) = table.subscribers.get(&pattern) {
                outcome.add(offer(subscribers, turn, message));
            }
        }
        drop(table);
        if outcome.dropped > 0 {
            self.dropped.fetch_add(outcome.dropped, Ordering::Relaxed);
        }
        outcome
    }

    fn add(&self, pattern: Pattern, group: Option<QueueGroup>, capacity: usize) -> Subscription {
        let (queue, messages) = mpsc::channel(capacity.max(1));
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let dropped = Arc::<AtomicU64>::default();
        let subscriber = Subscriber {
            id,
            group,
            queue,
            dropped: Arc::clone(&dropped),
        };
        self.table
            .lock()
            .subscribers
            .entry(pattern)
            .or_default()
            .push(subscriber);
        let guard = Registration {
            bus: self.this.clone(),
            pattern,
            id,
        };
        Subscription::new(messages, dropped, guard)
    }
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.subscribers += other.subscribers;
        self.dropped += other.dropped;
    }
}

/// The pattern with a wildcard that `subject` falls under.
fn wildcard(subject: Subject) -> Option<Pattern> {
    match subject {
        Subject::OwnerBeat { .. } => Some(Pattern::AllOwnerBeats),
        Subject::LinkUp { .. }
        | Subject::LinkDown { .. }
        | Subject::Derive { .. }
        | Subject::History { .. }
        | Subject::Messages
        | Subject::MemberBeat
        | Subject::Control
        | Subject::Presence
        | Subject::PresenceChanges
        | Subject::Notifications
        | Subject::Publishing
        | Subject::Joins { .. }
        | Subject::ControlAnswer { .. } => None,
    }
}

/// Queues `message` for every subscriber without a group and for one of each group. A full queue
/// drops it. `turn` shares a group's messages out.
fn offer(subscribers: &[Subscriber], turn: u64, message: &BusMessage) -> Outcome {
    let mut outcome = Outcome::default();
    let mut served: Vec<QueueGroup> = Vec::new();
    for subscriber in subscribers {
        let chosen = match subscriber.group {
            None => Some(subscriber),
            Some(group) if served.contains(&group) => None,
            Some(group) => {
                served.push(group);
                let members = || subscribers.iter().filter(|one| one.group == Some(group));
                let place = turn % members().count().max(1) as u64;
                members().nth(place as usize)
            }
        };
        let Some(chosen) = chosen else { continue };
        match chosen.queue.try_send(message.clone()) {
            Ok(()) => outcome.subscribers += 1,
            Err(mpsc::error::TrySendError::Full(_)) => {
                outcome.subscribers += 1;
                outcome.dropped += 1;
                chosen.dropped.fetch_add(1, Ordering::Relaxed);
            }
            // It is being dropped at this moment.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }
    outcome
}

/// Takes a subscription out of the table when it is dropped.
#[derive(Debug)]
struct Registration {
    bus: Weak<EmbeddedBus>,
    pattern: Pattern,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(bus) = self.bus.upgrade() else { return };
        let mut table = bus.table.lock();
        if let Some(subscribers) = table.subscribers.get_mut(&self.pattern) {
            subscribers.retain(|subscriber| subscriber.id != self.id);
            if subscribers.is_empty() {
                table.subscribers.remove(&self.pattern);
            }
        }
    }
}

/// Takes a caller's inbox out of the table, also when the call is dropped.
struct Inbox<'a> {
    bus: &'a EmbeddedBus,
    name: &'a str,
}

impl Drop for Inbox<'_> {
    fn drop(&mut self) {
        self.bus.table.lock().inboxes.remove(self.name);
    }
}

fn check_size(payload: &Bytes) -> Result<(), BusError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(BusError::TooLarge {
            size: payload.len(),
            limit: MAX_PAYLOAD,
        });
    }
    Ok(())
}

#[async_trait]
impl Bus for EmbeddedBus {
    async fn publish(&self, subject: Subject, payload: Bytes) -> Result<(), BusError> {
        check_size(&payload)?;
        self.deliver(subject, &BusMessage { payload, reply: None });
        Ok(())
    }

    async fn subscribe(&self, pattern: Pattern, capacity: usize) -> Result<Subscription, BusError> {
        Ok(self.add(pattern, None, capacity))
    }

    async fn subscribe_group(
        &self,
        pattern: Pattern,
        group: QueueGroup,
        capacity: usize,
    ) -> Result<Subscription, BusError> {
        Ok(self.add(pattern, Some(group), capacity))
    }

    async fn request(
        &self,
        subject: Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        check_size(&payload)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.inbox.{number}", self.prefix.as_str());
        let (sender, answer) = oneshot::channel();
        self.table.lock().inboxes.insert(name.clone(), sender);
        let _inbox = Inbox {
            bus: self,
            name: &name,
        };
        let message = BusMessage {
            payload,
            reply: Some(name.clone()),
        };
        if self.deliver(subject, &message).subscribers == 0 {
            return Err(RequestError::NoResponders);
        }
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(payload)) => Ok(payload),
            // The sender is only ever taken out by an answer or by this call.
            Ok(Err(_)) | Err(_) => Err(RequestError::TimedOut(timeout)),
        }
    }

    async fn reply(&self, to: &str, payload: Bytes) -> Result<(), BusError> {
        check_size(&payload)?;
        let waiting = self.table.lock().inboxes.remove(to);
        if let Some(waiting) = waiting {
            // Refused where the caller has just given up: as on any bus, nobody listens any more.
            waiting.send(payload).ok();
        }
        Ok(())
    }

    fn disruptions(&self) -> watch::Receiver<u64> {
        self.disruptions.subscribe()
    }

    fn is_private(&self) -> bool {
        true
    }

    fn max_payload(&self) -> usize {
        MAX_PAYLOAD
    }
}

#[cfg(test)]
mod tests {
    use switchboard_proto::ids::ShardId;

    use super::*;

    const BEAT: Subject = Subject::MemberBeat;

    #[tokio::test]
    async fn table_forgets_what_was_dropped() {
        let bus = EmbeddedBus::new(SubjectPrefix::default());
        let one = bus.subscribe(Pattern::Exactly(BEAT), 1).await.unwrap();
        let two = bus.subscribe(Pattern::AllOwnerBeats, 1).await.unwrap();
        let wait = Duration::from_millis(1);
        assert!(matches!(
            bus.request(BEAT, Bytes::new(), wait).await,
            Err(RequestError::TimedOut(_))
        ));
        drop((one, two));
        let table = bus.table.lock();
        assert!(table.subscribers.is_empty() && table.inboxes.is_empty());
    }

    #[tokio::test]
    async fn abandoned_request_leaves_no_inbox() {
        let bus = EmbeddedBus::new(SubjectPrefix::default());
        let _listener = bus.subscribe(Pattern::Exactly(BEAT), 8).await.unwrap();
        let call = bus.request(BEAT, Bytes::new(), Duration::from_secs(60));
        assert!(futures_util::FutureExt::now_or_never(call).is_none());
        assert!(bus.table.lock().inboxes.is_empty());
    }

    #[tokio::test]
    async fn each_shards_beat_falls_under_the_wildcard() {
        let bus = EmbeddedBus::new(SubjectPrefix::default());
        let mut beats = bus.subscribe(Pattern::AllOwnerBeats, 8).await.unwrap();
        for number in [0, 7] {
            let shard = ShardId::new(number).unwrap();
            bus.publish(Subject::OwnerBeat { shard }, Bytes::new())
                .await
                .unwrap();
        }
        bus.publish(BEAT, Bytes::new()).await.unwrap();
        assert!(beats.try_next().is_some() && beats.try_next().is_some());
        assert!(beats.try_next().is_none());
    }

    #[tokio::test]
    async fn dropped_messages_are_counted() {
        let bus = EmbeddedBus::new(SubjectPrefix::default());
        let _full = bus.subscribe(Pattern::Exactly(BEAT), 1).await.unwrap();
        for _ in 0..3 {
            bus.publish(BEAT, Bytes::new()).await.unwrap();
        }
        assert_eq!(bus.dropped(), 2);
    }
}
