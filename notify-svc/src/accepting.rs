//! What is asked for becomes deliveries: checked whole before anything is kept, so that who asks is told of a fault at once and not
//! by a dead letter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use switchboard_bus::messages::AskError;
use switchboard_proto::notifications as wire;
use switchboard_proto::presence::MAX_USER;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::config::Category;
use crate::metrics::NotifyMetrics;
use crate::model::{Delivery, Notification, Priority, Said, State, TOGETHER, Unless, Way, us};
use crate::saying::{Saying, Unsaid};
use crate::store::{Enqueued, Kept, MAX_BATCH, NotifyStore, Progress, StoreError};

/// Bytes of a notification with all its texts, at most.
const LARGEST: usize = 128 << 10;

/// Bytes of what apps and webhooks are given besides, at most: with a title and a body it fits what push services take.
const LARGEST_DATA: usize = 2 << 10;

/// Fields that push services, or we, use for something else.
const RESERVED: [&str; 9] = [
    "aps",
    "from",
    "notification",
    "message_type",
    "conversation",
    "category",
    "link",
    "collapse_key",
    "priority",
];

/// Bytes of a title, a link, a key, at most.
const LARGEST_LINE: usize = 2 << 10;

/// Accepts notifications. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Accepting {
    pub(crate) store: Arc<dyn NotifyStore>,
    pub(crate) saying: Arc<Saying>,
    pub(crate) categories: Arc<BTreeMap<String, Category>>,
    pub(crate) metrics: NotifyMetrics,
    pub(crate) wake: Arc<Notify>,
    /// Deliveries that wait, as they were counted last.
    pub(crate) waiting: Arc<AtomicU64>,
    pub(crate) most: u64,
}

/// What the store's trouble means for who asked. The whole goes to the log.
pub(crate) fn fault(error: StoreError) -> AskError {
    match error {
        StoreError::Unavailable(_) => {
            tracing::debug!(%error, "question not answered");
            AskError::Unavailable("the notification store cannot be used now".to_owned())
        }
        StoreError::Data(_) => AskError::Invalid("the notification store cannot hold this".to_owned()),
        StoreError::Refused(_) | StoreError::Schema(_) | StoreError::Damaged(_) => {
            tracing::error!(%error, "question not answered");
            AskError::Internal("the notification store has a fault, the service's log tells".to_owned())
        }
    }
}

pub(crate) fn invalid(words: impl Into<String>) -> AskError {
    AskError::Invalid(words.into())
}

/// Checks the id of a user.
pub(crate) fn check_user(user: &str) -> Result<(), AskError> {
    match user.len() {
        1..=MAX_USER if !user.contains('\0') => Ok(()),
        _ => Err(invalid(format!("a user's id has 1 to {MAX_USER} bytes"))),
    }
}

/// Unix microseconds of milliseconds; 0: none.
pub(crate) fn micros(millis: i64, what: &str) -> Result<u64, AskError> {
    u64::try_from(millis)
        .ok()
        .and_then(|millis| millis.checked_mul(1_000))
        .filter(|us| i64::try_from(*us).is_ok())
        .ok_or_else(|| invalid(format!("{what} is no time")))
}

impl Accepting {
    /// Keeps what is asked for; all of it, or nothing.
    ///
    /// # Errors
    /// [`AskError`], in words for who asked.
    pub(crate) async fn send(
        &self,
        requests: Vec<wire::Notification>,
        now_us: u64,
    ) -> Result<Vec<Kept>, AskError> {
        if requests.is_empty() || requests.len() > MAX_BATCH {
            return Err(invalid(format!(
                "1 to {MAX_BATCH} notifications are sent at once"
            )));
        }
        if self.is_full() {
            self.metrics.refused.inc_by(requests.len() as u64);
            return Err(AskError::Unavailable(
                "as many notifications wait as may (notify.waiting)".to_owned(),
            ));
        }
        let mut batch = Vec::with_capacity(requests.len());
        for (index, request) in requests.into_iter().enumerate() {
            let enqueued = self.enqueued(request, None, now_us).await;
            batch.push(enqueued.map_err(|error| match error {
                AskError::Invalid(words) => invalid(format!("notification {index}: {words}")),
                other => other,
            })?);
        }
        let kept = self.keep(&batch, None).await.map_err(fault)?;
        let duplicates = kept.iter().filter(|kept| kept.duplicate).count() as u64;
        self.metrics.duplicates.inc_by(duplicates);
        self.metrics.accepted.inc_by(kept.len() as u64 - duplicates);
        Ok(kept)
    }

    /// Whether as many deliveries wait as may.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= self.most
    }

    /// Keeps what was made ready, and how far the log was read that it came from.
    pub(crate) async fn keep(
        &self,
        batch: &[Enqueued],
        progress: Option<Progress>,
    ) -> Result<Vec<Kept>, StoreError> {
        let kept = self.store.enqueue(batch, progress).await?;
        let deliveries: usize = batch.iter().map(|one| one.deliveries.len()).sum();
        self.waiting.fetch_add(deliveries as u64, Ordering::Relaxed);
        self.wake.notify_one();
        Ok(kept)
    }

    /// One notification with its deliveries.
    ///
    /// # Errors
    /// [`AskError::Invalid`] says what is wrong with it.
    pub(crate) async fn enqueued(
        &self,
        content: wire::Notification,
        said: Option<Said>,
        now_us: u64,
    ) -> Result<Enqueued, AskError> {
        check_user(&content.user)?;
        let category = self.categories.get(&content.category).ok_or_else(|| {
            let known: Vec<&str> = self.categories.keys().map(String::as_str).collect();
            let shown: String = content.category.chars().take(64).collect();
            invalid(format!(
                "there is no category {shown:?} among {}",
                known.join(", ")
            ))
        })?;
        let priority = match content.priority.as_str() {
            "" => category.priority,
            word => Priority::from_word(word)
                .ok_or_else(|| invalid("priority is none of low, normal, high and critical"))?,
        };
        check_content(&content)?;
        if said.is_none() {
            // What cannot be said in any language is told now. The user's own language is asked for when it is sent.
            let words = self
                .saying
                .said(&content, "")
                .await
                .map_err(|unsaid| match unsaid {
                    Unsaid::Store(error) => fault(error),
                    Unsaid::Words(words) => invalid(words),
                })?;
            if words.title.is_empty() && words.body.is_empty() {
                return Err(invalid("neither a title nor a body, nor a template"));
            }
            if let Some(link) = &words.link
                && !link.starts_with("https://")
            {
                return Err(invalid("the link is no https URL"));
            }
        }
        let send_us = micros(content.send_at, "send_at")?.max(now_us);
        let by_category = category.expires.map(|expires| send_us + us(expires));
        let expires_us = match micros(content.expire_at, "expire_at")? {
            0 => by_category.unwrap_or(0),
            at if at <= send_us => return Err(invalid("it would expire before it is sent")),
            at => at,
        };
        let id = Uuid::now_v7();
        let deliveries = deliveries(id, &content, category, priority, (now_us, send_us))?;
        Ok(Enqueued {
            digest_most: category.digest.as_ref().map_or(0, |digest| digest.most),
            notification: Notification {
                id,
                content,
                said,
                created_us: now_us,
                expires_us,
                shown_us: 0,
                seen_us: 0,
                read_us: 0,
            },
            deliveries,
        })
    }
}

fn check_content(content: &wire::Notification) -> Result<(), AskError> {
    let texts = [
        &content.user,
        &content.template,
        &content.title,
        &content.body,
        &content.html,
        &content.link,
        &content.conversation,
        &content.collapse,
        &content.idempotency_key,
    ];
    // PostgreSQL holds none.
    if texts.iter().any(|text| text.contains('\0')) {
        return Err(invalid("a text holds a zero character"));
    }
    let lines = [
        (&content.title, "title"),
        (&content.link, "link"),
        (&content.conversation, "conversation"),
        (&content.collapse, "collapse"),
        (&content.idempotency_key, "idempotency_key"),
        (&content.template, "template"),
    ];
    if let Some((_, what)) = lines.iter().find(|(text, _)| text.len() > LARGEST_LINE) {
        return Err(invalid(format!("{what} has more than {LARGEST_LINE} bytes")));
    }
    let all: usize =
        texts.iter().map(|text| text.len()).sum::<usize>() + content.variables.len() + content.data.len();
    if all > LARGEST {
        return Err(invalid(format!("it has more than {LARGEST} bytes")));
    }
    if content.data.len() > LARGEST_DATA {
        return Err(invalid(format!("data has more than {LARGEST_DATA} bytes")));
    }
    if let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(&content.data) {
        let is_taken = |name: &&String| {
            RESERVED.contains(&name.as_str()) || name.starts_with("google.") || name.starts_with("gcm.")
        };
        if let Some(name) = fields.keys().find(is_taken) {
            return Err(invalid(format!("data has a field {name:?}, which is taken")));
        }
    }
    for (json, what) in [(&content.data, "data"), (&content.variables, "variables")] {
        if json.is_empty() {
            continue;
        }
        match serde_json::from_slice::<Value>(json) {
            Ok(Value::Object(_) | Value::Null) => {}
            Ok(_) | Err(_) => return Err(invalid(format!("{what} is no JSON object"))),
        }
        if json.windows(6).any(|six| six == br"\u0000") {
            return Err(invalid(format!("{what} holds a zero character")));
        }
    }
    let own = [&content.title, &content.body, &content.html];
    let has_own = own.iter().any(|text| !text.is_empty());
    if has_own && !content.template.is_empty() {
        return Err(invalid("a template, or texts of its own: not both"));
    }
    if content.template.is_empty() && !content.variables.is_empty() {
        return Err(invalid("variables without a template"));
    }
    Ok(())
}

/// What a notification becomes. `(now_us, send_us)`: when it came and when it is wanted.
fn deliveries(
    notification: Uuid,
    content: &wire::Notification,
    category: &Category,
    priority: Priority,
    (now_us, send_us): (u64, u64),
) -> Result<Vec<Delivery>, AskError> {
    let mut ways = Vec::new();
    for word in &content.ways {
        let way = Way::from_word(word)
            .ok_or_else(|| invalid(format!("a way is none of {}", Way::ALL.map(Way::word).join(", "))))?;
        if !ways.contains(&way) {
            ways.push(way);
        }
    }
    let is_chosen = !ways.is_empty();
    if !is_chosen {
        ways.clone_from(&category.ways);
    }
    let delivery = |way: Way, unless, at_us: u64| {
        // What is told together is due together: what has a time of its own is told by itself.
        let digest = category
            .digest
            .as_ref()
            .filter(|digest| digest.ways.contains(&way) && priority < Priority::Critical && at_us <= now_us);
        let window_us = digest.map_or(0, |digest| us(digest.window));
        let due_us = at_us + window_us;
        Delivery {
            id: Uuid::now_v7(),
            notification,
            user: content.user.clone(),
            way,
            device: String::new(),
            unless,
            state: if due_us > now_us {
                State::Held
            } else {
                State::Queued
            },
            reason: match () {
                () if window_us > 0 => TOGETHER.to_owned(),
                () if at_us > now_us => "scheduled".to_owned(),
                () => String::new(),
            },
            advance_us: priority.advance_us(),
            due_us,
            attempts: 0,
            claims: 0,
            digest: digest.map(|digest| {
                // Lengths stand before what is free text, so that no two say the same.
                let of = if digest.by_conversation {
                    content.conversation.as_str()
                } else {
                    ""
                };
                let (user, name) = (&content.user, &content.category);
                format!("{way}:{}:{user}:{}:{name}:{of}", user.len(), name.len())
            }),
        }
    };
    let mut deliveries: Vec<Delivery> = ways
        .iter()
        .map(|way| delivery(*way, Unless::Never, send_us))
        .collect();
    if !is_chosen {
        let later = category
            .later
            .iter()
            .filter(|(way, _, _)| *way != Way::Sms || priority == Priority::Critical);
        deliveries.extend(later.map(|(way, after, unless)| Delivery {
            reason: "unless it is noticed before".to_owned(),
            ..delivery(*way, *unless, send_us + us(*after))
        }));
    }
    Ok(deliveries)
}
