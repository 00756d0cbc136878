//! What a notification says, to one user: its own words, or a template's in the user's language. Templates are few, so all of them
//! are in memory, and read again every few seconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use switchboard_proto::notifications as wire;
use tokio::time::Instant;

use crate::model::Notification;
use crate::preferences::Preferences;
use crate::store::{NotifyStore, StoreError};
use crate::templates::{self, Template};

/// How old the templates in memory may be.
const FRESH: Duration = Duration::from_secs(5);

/// Characters of the sender and of the text of one of several that are told together.
const ITEM: usize = 200;

/// See the module.
pub(crate) struct Saying {
    store: Arc<dyn NotifyStore>,
    known: Mutex<Known>,
    /// One reads at a time; the others take what is known.
    reading: tokio::sync::Mutex<()>,
}

/// Templates as they were read last.
#[derive(Default, Clone)]
struct Known {
    /// `None`: they may have changed.
    at: Option<Instant>,
    templates: Option<Arc<Templates>>,
}

/// Why nothing is said.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsaid {
    /// Templates cannot be read now.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be said: no such template, a variable is missing, …
    #[error("{0}")]
    Words(String),
}

/// By name.
type Templates = HashMap<String, Vec<Template>>;

/// What is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) title: String,
    pub(crate) body: String,
    pub(crate) html: Option<String>,
    pub(crate) subject: String,
    /// All of a text message, where a template has words for one.
    pub(crate) short: Option<String>,
    pub(crate) link: Option<String>,
}

impl Said {
    /// As users find it in the app.
    pub(crate) fn entry(&self, notification: &Notification, time_us: u64) -> wire::InboxEntry {
        let content = &notification.content;
        wire::InboxEntry {
            id: notification.id.to_string(),
            time: millis(time_us),
            category: content.category.clone(),
            title: self.title.clone(),
            body: self.body.clone(),
            link: self.link.clone().unwrap_or_default(),
            data: content.data.clone(),
            conversation: content.conversation.clone(),
            seen: notification.seen_us > 0,
            read: notification.read_us > 0,
        }
    }
}

/// Unix milliseconds of microseconds.
pub(crate) fn millis(us: u64) -> i64 {
    i64::try_from(us / 1_000).unwrap_or(i64::MAX)
}

impl Saying {
    pub(crate) fn new(store: Arc<dyn NotifyStore>) -> Self {
        Self {
            store,
            known: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// What was kept may have changed: it is read again.
    pub(crate) fn forget(&self) {
        self.known.lock().at = None;
    }

    /// All templates, as they were a few seconds ago at the earliest; a store that cannot be used leaves those that are known.
    async fn templates(&self) -> Result<Arc<Templates>, StoreError> {
        let known = self.known.lock().clone();
        let is_fresh = known.at.is_some_and(|at| at.elapsed() < FRESH);
        let _reading = match (known.templates, is_fresh) {
            (Some(templates), true) => return Ok(templates),
            (Some(templates), false) => match self.reading.try_lock() {
                Ok(reading) => reading,
                Err(_) => return Ok(templates),
            },
            (None, _) => {
                let reading = self.reading.lock().await;
                let known = self.known.lock().clone();
                if let (Some(_), Some(templates)) = (known.at, known.templates) {
                    // Somebody has read them meanwhile.
                    return Ok(templates);
                }
                reading
            }
        };
        let begun = Instant::now();
        match self.store.templates().await {
            Ok(read) => {
                let mut by_name = Templates::new();
                for template in read {
                    by_name.entry(template.name.clone()).or_default().push(template);
                }
                let templates = Arc::new(by_name);
                *self.known.lock() = Known {
                    at: Some(begun),
                    templates: Some(Arc::clone(&templates)),
                };
                Ok(templates)
            }
            Err(error) => self.known.lock().templates.clone().ok_or(error),
        }
    }

    /// What it says, or why it says nothing.
    pub(crate) async fn say(
        &self,
        notification: &Notification,
        preferences: &Preferences,
    ) -> Result<Said, Unsaid> {
        self.said(&notification.content, &preferences.language).await
    }

    /// As [`Saying::say`], of what is only asked for.
    pub(crate) async fn said(&self, content: &wire::Notification, language: &str) -> Result<Said, Unsaid> {
        let own = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        if content.template.is_empty() {
            return Ok(Said {
                title: content.title.clone(),
                body: content.body.clone(),
                html: own(&content.html),
                subject: content.title.clone(),
                short: None,
                link: own(&content.link),
            });
        }
        let stored = self.templates().await?;
        let named = stored.get(&content.template).map_or(&[][..], Vec::as_slice);
        let built_in = templates::built_in(&content.template);
        let template = templates::choose(named, language)
            .or(named.first())
            .or(built_in.as_ref())
            .ok_or_else(|| Unsaid::Words(format!("there is no template {:?}", content.template)))?;
        let variables: Value = match content.variables.is_empty() {
            true => json!({}),
            false => serde_json::from_slice(&content.variables)
                .map_err(|error| Unsaid::Words(format!("variables not understood: {error}")))?,
        };
        let rendered =
            templates::render(template, &variables).map_err(|error| Unsaid::Words(error.to_string()))?;
        Ok(Said {
            link: rendered.link.or_else(|| own(&content.link)),
            title: rendered.title,
            body: rendered.body,
            html: rendered.html,
            subject: rendered.subject,
            short: template.short.as_ref().map(|_| rendered.short),
        })
    }

    /// One of several that are told together.
    pub(crate) async fn item(
        &self,
        notification: &Notification,
        preferences: &Preferences,
    ) -> Result<Value, StoreError> {
        let variables: Value = serde_json::from_slice(&notification.content.variables).unwrap_or(Value::Null);
        let field = |name: &str| variables.get(name).and_then(Value::as_str).map(str::to_owned);
        let said = match self.say(notification, preferences).await {
            Ok(said) => said,
            Err(Unsaid::Words(_)) => Said::default(),
            Err(Unsaid::Store(error)) => return Err(error),
        };
        let text = field("text").unwrap_or(said.body);
        Ok(json!({
            "sender": field("sender").unwrap_or(said.title).chars().take(ITEM).collect::<String>(),
            "text": text.chars().take(ITEM).collect::<String>(),
        }))
    }

    /// Variables of what is told together.
    pub(crate) fn digest(&self, items: &[Value], conversation: &str) -> Bytes {
        json!({"count": items.len(), "items": items, "channel": conversation})
            .to_string()
            .into()
    }
}
