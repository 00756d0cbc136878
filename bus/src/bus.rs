//! The bus: subjects, request and reply, queue groups. It may lose, never invents.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::subject::{Pattern, QueueGroup, Subject};

/// Carries messages between processes, at most once.
///
/// # Contract
/// * Messages from one publisher to one subscriber on one subject arrive in the order they were
///   published, each at most once. Some may be missing: the bus loses messages while it reconnects
///   and when a subscriber's queue is full. Whoever needs more numbers its messages (see links).
/// * After [`Bus::subscribe`] returned, messages published later, by anybody, reach the subscriber.
/// * A message that a subscriber's full queue dropped is counted in [`Subscription::dropped`]. Whenever
///   any subscriber of this process may have missed something, [`Bus::disruptions`] changes.
/// * Nothing here blocks for longer than the backend's own bounded queue is full.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Hands a message to the bus. `Ok` says that it was taken, not that it will arrive.
    ///
    /// Cancel safe: the message was taken or not.
    ///
    /// # Errors
    /// [`BusError::TooLarge`] over the backend's payload limit, [`BusError::Closed`] after the end.
    async fn publish(&self, subject: Subject, payload: Bytes) -> Result<(), BusError>;

    /// Subscribes with a queue of `capacity` messages. When it is full the newest message is
    /// dropped and counted in [`Subscription::dropped`]. Dropping the subscription ends it.
    ///
    /// # Errors
    /// [`BusError::Closed`], [`BusError::Unreachable`].
    async fn subscribe(&self, pattern: Pattern, capacity: usize) -> Result<Subscription, BusError>;

    /// As [`Bus::subscribe`], but members of `group` share the messages.
    ///
    /// # Errors
    /// As [`Bus::subscribe`].
    async fn subscribe_group(
        &self,
        pattern: Pattern,
        group: QueueGroup,
        capacity: usize,
    ) -> Result<Subscription, BusError>;

    /// Publishes and waits for one reply.
    ///
    /// # Errors
    /// [`RequestError::NoResponders`] at once where nobody subscribes, [`RequestError::TimedOut`]
    /// after `timeout`.
    async fn request(
        &self,
        subject: Subject,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RequestError>;

    /// Answers a message that has a [`BusMessage::reply`].
    ///
    /// # Errors
    /// As [`Bus::publish`].
    async fn reply(&self, to: &str, payload: Bytes) -> Result<(), BusError>;

    /// Leaves the server that it is connected to, which may have lost the others, for one of those configured: perhaps the same. Messages
    /// may be missed meanwhile, as [`Bus::disruptions`] then tells. Does nothing where there is no server.
    async fn connect_elsewhere(&self) {}

    /// Counts the moments since which a subscriber of this process may have missed something.
    fn disruptions(&self) -> watch::Receiver<u64>;

    /// Whether nobody outside this process can ever be on this bus.
    fn is_private(&self) -> bool;

    /// The largest payload, in bytes.
    fn max_payload(&self) -> usize;
}

/// A message as a subscriber gets it.
#[derive(Debug, Clone)]
pub struct BusMessage {
    /// The payload.
    pub payload: Bytes,
    /// Where an answer goes, if one is wanted.
    pub reply: Option<String>,
}

/// A running subscription. Ends when dropped.
#[derive(Debug)]
pub struct Subscription {
    messages: mpsc::Receiver<BusMessage>,
    dropped: Arc<AtomicU64>,
    /// Ends the backend's side when this is dropped.
    _ends_with: Box<dyn Any + Send + Sync>,
}

impl Subscription {
    /// `ends_with` is dropped with the subscription.
    pub(crate) fn new(
        messages: mpsc::Receiver<BusMessage>,
        dropped: Arc<AtomicU64>,
        ends_with: impl Send + Sync + 'static,
    ) -> Self {
        Self {
            messages,
            dropped,
            _ends_with: Box::new(ends_with),
        }
    }

    /// The next message; `None` once the bus is closed. Cancel safe.
    pub async fn next(&mut self) -> Option<BusMessage> {
        self.messages.recv().await
    }

    /// Messages that found this subscription's queue full, since it began. Nobody else missed them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// A message that is already there.
    pub fn try_next(&mut self) -> Option<BusMessage> {
        self.messages.try_recv().ok()
    }
}

/// Why the bus did not take something.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The payload exceeds the backend's limit.
    #[error("message of {size} bytes exceeds the bus's limit of {limit}")]
    TooLarge {
        /// Bytes of the payload.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The server cannot be reached.
    #[error("bus unreachable: {0}")]
    Unreachable(String),
    /// The bus was closed.
    #[error("bus is closed")]
    Closed,
}

/// Why a request has no reply.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody subscribes.
    #[error("nobody answers there")]
    NoResponders,
    /// Nobody answered in time; whether it was carried out is unknown.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The request was never sent.
    #[error(transparent)]
    Bus(#[from] BusError),
}
