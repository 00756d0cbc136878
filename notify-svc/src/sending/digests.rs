//! What is told together, and what counts for a user's hourly limit before the store knows it.

use std::collections::HashMap;
use std::sync::Arc;

use switchboard_proto::notifications as wire;
use uuid::Uuid;

use super::Sending;
use crate::config::Category;
use crate::judging::{self, HOUR_US};
use crate::model::{Delivery, Notification, Priority, State, Unless, Way};
use crate::preferences::Preferences;
use crate::store::{Claimed, Enqueued, StoreError};

/// What was begun to be sent in an hour.
#[derive(Default)]
pub(crate) struct Begun {
    hour: u64,
    counts: HashMap<(String, String, Way), u64>,
}

/// Users, categories and ways of which that is remembered; then it is what the store knows.
const MOST_BEGUN: usize = 100_000;

impl Sending {
    /// What of a category and way was begun to be sent to a user in this hour, by this process: the store knows it later.
    pub(super) fn begun(&self, user: &str, category: &str, way: Way, now: u64) -> u64 {
        let begun = self.begun.lock();
        if begun.hour != now / HOUR_US {
            return 0;
        }
        let key = (user.to_owned(), category.to_owned(), way);
        begun.counts.get(&key).copied().unwrap_or(0)
    }

    pub(super) fn begin(&self, one: &Claimed, now: u64) {
        let category = &one.notification.content.category;
        let is_limited = self.category(&one.notification).hourly > 0;
        // A further try was counted with the first.
        if !is_limited || one.delivery.attempts > 0 {
            return;
        }
        let mut begun = self.begun.lock();
        if begun.hour != now / HOUR_US || begun.counts.len() >= MOST_BEGUN {
            *begun = Begun {
                hour: now / HOUR_US,
                counts: HashMap::new(),
            };
        }
        let key = (one.delivery.user.clone(), category.clone(), one.delivery.way);
        *begun.counts.entry(key).or_default() += 1;
    }

    /// Makes one delivery of several. They are ours, and whoever loses a claim meanwhile leaves all of it to the next.
    pub(super) async fn merge(
        &self,
        digest: &str,
        mut together: Vec<(Claimed, Arc<Preferences>)>,
        category: &impl Fn(&Notification) -> Category,
        now: u64,
    ) -> Result<(), StoreError> {
        together.sort_by_key(|(one, _)| (one.notification.created_us, one.notification.id));
        let Some((last, _)) = together.last() else {
            return Ok(());
        };
        let mut items = Vec::with_capacity(together.len());
        for (one, preferences) in &together {
            items.push(self.saying.item(&one.notification, preferences).await?);
        }
        let id = Uuid::now_v7();
        let content = &last.notification.content;
        let is_of_one = together
            .iter()
            .all(|(one, _)| one.notification.content.conversation == content.conversation);
        let conversation = if is_of_one {
            content.conversation.clone()
        } else {
            String::new()
        };
        let priorities = together
            .iter()
            .map(|(one, _)| judging::priority(&one.notification, &category(&one.notification)));
        let priority = priorities.max().unwrap_or(Priority::Normal);
        let expires = together
            .iter()
            .map(|(one, _)| one.notification.expires_us)
            .max()
            .unwrap_or(0);
        let content = wire::Notification {
            user: content.user.clone(),
            category: content.category.clone(),
            priority: priority.word().to_owned(),
            template: "digest".to_owned(),
            variables: self.saying.digest(&items, &conversation),
            link: content.link.clone(),
            conversation,
            ways: vec![last.delivery.way.word().to_owned()],
            collapse: digest.to_owned(),
            ..wire::Notification::default()
        };
        let notification = Notification {
            id,
            content,
            said: None,
            created_us: now,
            expires_us: if together.iter().any(|(one, _)| one.notification.expires_us == 0) {
                0
            } else {
                expires
            },
            shown_us: 0,
            seen_us: 0,
            read_us: 0,
        };
        let delivery = Delivery {
            id: Uuid::now_v7(),
            notification: id,
            user: last.delivery.user.clone(),
            way: last.delivery.way,
            device: String::new(),
            unless: Unless::Never,
            state: State::Queued,
            reason: String::new(),
            advance_us: priority.advance_us(),
            due_us: now,
            attempts: 0,
            claims: 0,
            digest: None,
        };
        let enqueued = Enqueued {
            notification,
            deliveries: vec![delivery],
            digest_most: 0,
        };
        let merged: Vec<Uuid> = together.iter().map(|(one, _)| one.delivery.id).collect();
        if !self.store.merge(&merged, self.me, &enqueued, now).await? {
            tracing::debug!(digest, "a digest is left to who has claimed a part of it");
            return Ok(());
        }
        self.metrics.digests.inc();
        self.wake.notify_one();
        Ok(())
    }
}
