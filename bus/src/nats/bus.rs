//! The bus on core NATS.
//!
//! Each subscription has a task that moves messages from the client's queue into the subscription's
//! own, so that its capacity is what the caller asked for and a full one is noticed at once.
//!
//! In a cluster of NATS servers a new subscription reaches the other servers a moment after its
//! own: a message published elsewhere in that moment is missed, as any message may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::client::{PublishErrorKind, Request, RequestErrorKind};
use async_nats::connection::State;
use async_nats::{Subscriber, client};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{NatsConnection, chain};
use crate::bus::{Bus, BusError, BusMessage, RequestError, Subscription};
use crate::subject::{Pattern, QueueGroup, Subject, SubjectPrefix};

/// How long a server may take to confirm a subscription.
const CONFIRMATION: Duration = Duration::from_secs(5);

/// How long a message may wait for room in the client's queue.
const PUBLISH: Duration = Duration::from_millis(200);

/// A [`Bus`] on a connection to NATS.
#[derive(Debug)]
pub struct NatsBus {
    connection: NatsConnection,
    prefix: SubjectPrefix,
    tracker: TaskTracker,
    stop: CancellationToken,
    dropped: Arc<AtomicU64>,
}

impl NatsBus {
    /// A bus on `connection`. Its tasks, one for each subscription, run on `tracker`; at `stop` all
    /// subscriptions end.
    pub fn new(
        connection: NatsConnection,
        prefix: SubjectPrefix,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            connection,
            prefix,
            tracker,
            stop,
            dropped: Arc::default(),
        })
    }

    /// Messages that found a subscription's queue full, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    async fn start(&self, subscriber: Subscriber, capacity: usize) -> Result<Subscription, BusError> {
        let (queue, messages) = mpsc::channel(capacity.max(1));
        let ended = self.stop.child_token();
        let dropped_here = Arc::<AtomicU64>::default();
        let forwarder = Forwarder {
            queue,
            ended: ended.clone(),
            dropped: Arc::clone(&self.dropped),
            dropped_here: Arc::clone(&dropped_here),
        };
        self.tracker.spawn(forwarder.run(subscriber));
        let subscription = Subscription::new(messages, dropped_here, ended.drop_guard());
        self.confirm().await?;
        Ok(subscription)
    }

    /// Returns once the server has read all that was sent to it before on this connection. (A flush
    /// says only that it was written to the socket.)
    async fn confirm(&self) -> Result<(), BusError> {
        let request = Request::new().timeout(Some(CONFIRMATION));
        match self
            .connection
            .client()
            .send_request(self.prefix.nobody(), request)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(()),
            Err(error) => Err(BusError::Unreachable(format!(
                "subscription not confirmed: {}",
                chain(&error)
            ))),
        }
    }

    /// While the connection is down the client queues, until its queue is full and whoever publishes
    /// waits for as long as the outage lasts. Nothing here may wait like that: what is said into an
    /// outage is lost at once, and whoever said it is told.
    async fn bounded(
        &self,
        publish: impl Future<Output = Result<(), client::PublishError>>,
        size: usize,
    ) -> Result<(), BusError> {
        let away = || BusError::Unreachable("the connection to NATS is down".to_owned());
        if self.connection.client().connection_state() != State::Connected {
            return Err(away());
        }
        match tokio::time::timeout(PUBLISH, publish).await {
            Ok(published) => published.map_err(|error| self.published(error, size)),
            Err(_) => Err(away()),
        }
    }

    fn published(&self, error: client::PublishError, size: usize) -> BusError {
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded => BusError::TooLarge {
                size,
                limit: self.max_payload(),
            },
            PublishErrorKind::Send => BusError::Closed,
            PublishErrorKind::InvalidSubject => BusError::Unreachable(chain(&error)),
        }
    }
}

struct Forwarder {
    queue: mpsc::Sender<BusMessage>,
    ended: CancellationToken,
    dropped: Arc<AtomicU64>,
    dropped_here: Arc<AtomicU64>,
}

impl Forwarder {
    async fn run(self, mut subscriber: Subscriber) {
        while let Some(Some(message)) = self.ended.run_until_cancelled(subscriber.next()).await {
            let message = BusMessage {
                payload: message.payload,
                reply: message.reply.map(|reply| reply.to_string()),
            };
            match self.queue.try_send(message) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    self.dropped_here.fetch_add(1, Ordering::Relaxed);
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn publish(&self, subject: Subject, payload: Bytes) -> Result<(), BusError> {
        let size = payload.len();
        let subject = subject.to_text(&self.prefix);
        self.bounded(self.connection.client().publish(subject, payload), size)
            .await
    }

    async fn subscribe(&self, pattern: Pattern, capacity: usize) -> Result<Subscription, BusError> {
        let subject = pattern.to_text(&self.prefix);
        let subscriber = self.connection.client().subscribe(subject).await;
        self.start(subscriber.map_err(|_| BusError::Closed)?, capacity)
            .await
    }

    async fn subscribe_group(
        &self,
        pattern: Pattern,
        group: QueueGroup,
        capacity: usize,
    ) -> Result<Subscription, BusError> {
        let subject = pattern.to_text(&self.prefix);
        let subscriber = self
            .connection
            .client()
            .queue_subscribe(subject, group.to_string())
            .await;
        self.start(subscriber.map_err(|_| BusError::Closed)?, capacity)
            .await
    }

    async fn request(
        &self,
        subject: Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let client = self.connection.client();
        let size = payload.len();
        // An inbox of its own goes away with the call; the client's shared one would remember
        // every call that was never answered.
        let request = Request::new()
            .payload(payload)
            .inbox(client.new_inbox())
            .timeout(Some(timeout));
        match client.send_request(subject.to_text(&self.prefix), request).await {
            Ok(answer) => Ok(answer.payload),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => RequestError::NoResponders,
                RequestErrorKind::TimedOut => RequestError::TimedOut(timeout),
                RequestErrorKind::MaxPayloadExceeded => RequestError::Bus(BusError::TooLarge {
                    size,
                    limit: self.max_payload(),
                }),
                RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                    RequestError::Bus(BusError::Closed)
                }
            }),
        }
    }

    async fn reply(&self, to: &str, payload: Bytes) -> Result<(), BusError> {
        let size = payload.len();
        self.bounded(self.connection.client().publish(to.to_owned(), payload), size)
            .await
    }

    async fn connect_elsewhere(&self) {
        self.connection.connect_elsewhere().await;
    }

    fn disruptions(&self) -> watch::Receiver<u64> {
        self.connection.disruptions().subscribe()
    }

    fn is_private(&self) -> bool {
        false
    }

    fn max_payload(&self) -> usize {
        self.connection.client().max_payload()
    }
}
