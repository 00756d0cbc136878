//! Typing: who is writing in a channel just now, told to those who are subscribed to it, and stored nowhere.
//!
//! What must hold, each with a test in `typing/table.rs` or `run/tests/typing.rs`:
//! * Whoever is told that a user types is told that it is over: by a stop, by its own time, or by the end of the
//!   subscription or the connection. (A gateway that dies tells nothing: what it told holds for `expires_in` and no longer.)
//! * Of one user in one channel others are told of a start no more often than [`TypingConfig::interval`], and of one stop for it.
//! * What is told goes the way of the channel's messages, so that nobody is told who is not given these.

mod table;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use switchboard_proto::bus::{Message, PayloadKind};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::tags;
use switchboard_service_kit::config::Section;
use switchboard_service_kit::metrics::Metrics;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use self::table::{Table, Told, Typist};
use crate::gateway::Gateway;
use crate::links::Publish;
use crate::session::SessionHandle;

/// Events that are on their way to the owners at a time.
const AT_ONCE: usize = 64;

/// What `[gateway]` says of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TypingConfig {
    /// How long a start lasts.
    pub(crate) timeout: Duration,
    /// Between two starts of one user in one channel of which others are told; shorter than `timeout`.
    pub(crate) interval: Duration,
    /// Connections' typings that are kept in mind.
    pub(crate) limit: usize,
}

impl TypingConfig {
    pub(crate) fn read(gateway: &mut Section<'_>) -> Self {
        let timeout = gateway.duration(
            "typing_timeout",
            Duration::from_secs(6),
            Duration::from_millis(200)..=Duration::from_secs(60),
            "How long `typing.start` lasts where it is not sent again; then the others are told that it is over.",
        );
        let interval = gateway.duration(
            "typing_interval",
            Duration::from_secs(3),
            Duration::from_millis(100)..=Duration::from_secs(60),
            "Others are told that a user is still typing in a channel at most once in this time; shorter than typing_timeout.",
        );
        if interval >= timeout {
            gateway.fault(
                "typing_interval",
                format!("{interval:?} is not shorter than gateway.typing_timeout, {timeout:?}"),
                "shorten gateway.typing_interval or lengthen gateway.typing_timeout",
            );
        }
        let limit = gateway.integer(
            "typing_limit",
            65_536,
            1..=4_194_304,
            "Connections times channels of this gateway in which somebody is typing, at most, about 300 bytes each; a further \
             `typing.start` is refused with error 106.",
        );
        Self {
            timeout,
            interval,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }
}

/// What is counted here. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct TypingMetrics {
    now: Gauge,
    told: Counter,
    not_told: Counter,
    refused: Counter,
}

impl TypingMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let these = Self::default();
        metrics.register("gateway_typing", |registry| {
            registry.register(
                "now",
                "Connections times channels in which somebody is typing",
                these.now.clone(),
            );
            registry.register(
                "told",
                "Starts and stops that the others in a channel were told of",
                these.told.clone(),
            );
            registry.register(
                "not_told",
                "Starts and stops that they were not told of, because the channel's owner did not take them",
                these.not_told.clone(),
            );
            registry.register(
                "refused",
                "Starts that were refused because of gateway.typing_limit",
                these.refused.clone(),
            );
        });
        these
    }
}

/// Who types where, of this gateway's sessions. No call waits.
pub(crate) struct Typing {
    table: Mutex<Table>,
    /// There may be something to tell sooner than the teller thinks.
    sooner: Notify,
    metrics: TypingMetrics,
}

impl Typing {
    pub(crate) fn new(config: TypingConfig, metrics: TypingMetrics) -> Self {
        Self {
            table: Mutex::new(Table::new(config)),
            sooner: Notify::new(),
            metrics,
        }
    }

    /// The session's `user`, who is not anonymous, types in the channel from now on, for [`TypingConfig::timeout`].
    ///
    /// # Errors
    /// [`ErrorCode::LimitExceeded`]: too many do.
    pub(crate) fn start(&self, session: u64, user: &str, channel: &ChannelName) -> Result<(), ErrorCode> {
        let mut table = self.table.lock();
        if !table.start(session, &Typist::new(channel, user), Instant::now()) {
            self.metrics.refused.inc();
            return Err(ErrorCode::LimitExceeded);
        }
        self.changed(&table);
        Ok(())
    }

    /// The session's user does not type there any more; nothing where he did not.
    pub(crate) fn stop(&self, session: u64, user: &str, channel: &ChannelName) {
        if user.is_empty() {
            return;
        }
        let mut table = self.table.lock();
        if table.stop(session, &Typist::new(channel, user), Instant::now()) {
            self.changed(&table);
        }
    }

    fn changed(&self, table: &Table) {
        self.metrics
            .now
            .set(i64::try_from(table.len()).unwrap_or(i64::MAX));
        self.sooner.notify_one();
    }

    /// What others are to be told now, `most` at most, and when to look again.
    fn due(&self, most: usize) -> (Vec<Told>, Option<Instant>) {
        let mut table = self.table.lock();
        let due = table.due(Instant::now(), most);
        self.metrics
            .now
            .set(i64::try_from(table.len()).unwrap_or(i64::MAX));
        (due, table.next_alarm())
    }
}

impl Gateway {
    /// The session's subscription has ended.
    pub(crate) fn types_no_more(&self, session: &SessionHandle, channel: &ChannelName) {
        self.typing.stop(session.id(), session.user(), channel);
    }
}

/// Tells the channels. Never ends.
pub(crate) async fn tell_all(gateway: Arc<Gateway>) {
    let typing = &gateway.typing;
    let mut on_their_way = FuturesUnordered::new();
    loop {
        let room = AT_ONCE - on_their_way.len();
        let (due, next) = match room {
            0 => (Vec::new(), None),
            room => typing.due(room),
        };
        on_their_way.extend(due.into_iter().map(|told| tell(&gateway, told)));
        // With no room left, the next that arrives makes some.
        let next = next.filter(|_| on_their_way.len() < AT_ONCE);
        let alarm = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = alarm => {}
            () = typing.sooner.notified() => {}
            Some(typist) = on_their_way.next(), if !on_their_way.is_empty() => {
                typing.table.lock().told(&typist, Instant::now());
            }
        }
    }
}

async fn tell(gateway: &Gateway, told: Told) -> Typist {
    let channel = told.typist.channel();
    let publish = Publish::plain(&message(&told), false);
    let outcome = gateway
        .links
        .publish_by_server(channel, publish, Instant::now())
        .await;
    match outcome {
        Ok(_) => drop(gateway.typing.metrics.told.inc()),
        Err(refusal) => {
            tracing::debug!(%channel, code = refusal.code, "nobody was told who is typing");
            gateway.typing.metrics.not_told.inc();
        }
    }
    told.typist
}

/// What the others are told.
fn message(told: &Told) -> Message {
    let mut payload = serde_json::json!({
        "user": told.typist.user(),
        "typing": told.lasts.is_some(),
    });
    if let (Some(lasts), Some(payload)) = (told.lasts, payload.as_object_mut()) {
        let millis = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        payload.insert("expires_in".to_owned(), millis.into());
    }
    Message {
        id: Uuid::now_v7().into_bytes().to_vec().into(),
        channel: told.typist.channel().as_str().to_owned(),
        kind: PayloadKind::Json.into(),
        payload: payload.to_string().into(),
        tags: [(tags::CHANGE.to_owned(), "typing".to_owned())].into(),
        ..Message::default()
    }
}
