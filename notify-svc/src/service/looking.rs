//! What became of notifications: one of them, a user's list in the app, dead letters, sums.

use switchboard_bus::messages::AskError;
use switchboard_proto::notifications as wire;
use switchboard_proto::notifications::{
    DeadLettersRequest, DeadLettersResponse, DropDeadLettersRequest, DropDeadLettersResponse, GetRequest,
    GetResponse, InboxRequest, InboxResponse, MarkInboxRequest, MarkInboxResponse, RetryDeadLettersRequest,
    RetryDeadLettersResponse, StatisticsRequest, StatisticsResponse,
};
use switchboard_proto::time::now_us;
use uuid::Uuid;

use super::{Service, id, ids};
use crate::accepting::{check_user, fault, micros};
use crate::model::{Attempt, Delivery, State};
use crate::preferences::Preferences;
use crate::saying::{Said, millis};

/// Entries of a page where none are asked for, and at most.
const PAGE: (usize, usize) = (20, 100);

/// Bytes of a page's texts after which it ends: with one more entry it still fits what the bus carries.
const LARGEST_PAGE: usize = 256 << 10;

/// Dead letters of a page where none are asked for, and at most.
const LETTERS: (usize, usize) = (100, 1_000);

/// Microseconds of a day.
const DAY_US: u64 = 24 * 3_600 * 1_000_000;

/// Dead letters and what waits are counted up to here.
const COUNTED: u64 = 1_000_000;

/// A page's end, as who asks for the next one gives it back.
fn cursor(at_us: u64, id: Uuid) -> String {
    format!("{at_us}-{}", id.simple())
}

fn behind(cursor: &str) -> Result<Option<(u64, Uuid)>, AskError> {
    if cursor.is_empty() {
        return Ok(None);
    }
    let read = || {
        let (at_us, id) = cursor.split_once('-')?;
        let at_us = at_us.parse().ok().filter(|at| i64::try_from(*at).is_ok())?;
        Some((at_us, Uuid::try_parse(id).ok()?))
    };
    read()
        .map(Some)
        .ok_or_else(|| AskError::Invalid("the cursor is none".to_owned()))
}

fn limit(asked: u32, (usual, most): (usize, usize)) -> usize {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => usual,
        asked => asked.min(most),
    }
}

/// What of a user's tokens may be shown: nothing.
fn delivery(delivery: &Delivery, attempts: &[Attempt]) -> wire::Delivery {
    let attempts = attempts.iter().map(|attempt| wire::Attempt {
        time: millis(attempt.time_us),
        provider: attempt.provider.clone(),
        result: attempt.outcome.word().to_owned(),
        reason: attempt.reason.clone(),
        reference: attempt.reference.clone(),
        latency_ms: u32::try_from(attempt.latency_ms).unwrap_or(u32::MAX),
    });
    wire::Delivery {
        id: delivery.id.to_string(),
        way: delivery.way.word().to_owned(),
        device: delivery.device.clone(),
        status: delivery.state.word().to_owned(),
        reason: delivery.reason.clone(),
        due: if delivery.state.is_waiting() {
            millis(delivery.due_us)
        } else {
            0
        },
        attempts: attempts.collect(),
    }
}

/// The furthest of the deliveries: what arrived counts before what waits, and that before what failed.
fn status(deliveries: &[Delivery], is_read: bool) -> &'static str {
    if is_read {
        return "read";
    }
    let order = [
        State::Delivered,
        State::Sent,
        State::Sending,
        State::Queued,
        State::Held,
        State::Failed,
        State::Suppressed,
        State::Cancelled,
    ];
    let furthest = order
        .into_iter()
        .find(|state| deliveries.iter().any(|delivery| delivery.state == *state));
    furthest.unwrap_or(State::Suppressed).word()
}

impl Service {
    pub(crate) async fn get(&self, request: GetRequest) -> Result<GetResponse, AskError> {
        let told = self.store.told(id(&request.id)?).await.map_err(fault)?;
        let told = told.ok_or_else(|| AskError::NotFound("no such notification".to_owned()))?;
        let deliveries: Vec<Delivery> = told.deliveries.iter().map(|(one, _)| one.clone()).collect();
        let notification = told.notification;
        Ok(GetResponse {
            id: notification.id.to_string(),
            created: millis(notification.created_us),
            seen: millis(notification.seen_us),
            read: millis(notification.read_us),
            status: status(&deliveries, notification.read_us > 0).to_owned(),
            deliveries: told
                .deliveries
                .iter()
                .map(|(one, attempts)| delivery(one, attempts))
                .collect(),
            notification: Some(notification.content),
        })
    }

    pub(crate) async fn inbox(&self, request: InboxRequest) -> Result<InboxResponse, AskError> {
        check_user(&request.user)?;
        let limit = limit(request.limit, PAGE);
        let before = behind(&request.cursor)?;
        let shown = self
            .store
            .inbox(&request.user, before, limit)
            .await
            .map_err(fault)?;
        let (unseen, unread) = self.store.news(&request.user).await.map_err(fault)?;
        let facts = self
            .store
            .facts(&[&request.user], now_us(), 0)
            .await
            .map_err(fault)?;
        let preferences = facts
            .get(&request.user)
            .and_then(|facts| Preferences::kept(facts.preferences.as_deref()?).ok())
            .unwrap_or_default();
        let mut entries = Vec::with_capacity(shown.len());
        let (mut bytes, mut last) = (0, None);
        for notification in &shown {
            if bytes > LARGEST_PAGE {
                break;
            }
            // A template that is gone since then leaves what the application gave.
            let said = self
                .saying
                .say(notification, &preferences)
                .await
                .unwrap_or_else(|_| Said {
                    title: notification.content.title.clone(),
                    body: notification.content.body.clone(),
                    ..Said::default()
                });
            let entry = said.entry(notification, notification.shown_us);
            bytes += entry.title.len() + entry.body.len() + entry.link.len() + entry.data.len();
            entries.push(entry);
            last = Some(notification);
        }
        let last = last.filter(|_| shown.len() == limit || entries.len() < shown.len());
        Ok(InboxResponse {
            entries,
            cursor: last.map_or_else(String::new, |last| cursor(last.shown_us, last.id)),
            unseen,
            unread,
        })
    }

    pub(crate) async fn mark_inbox(&self, request: MarkInboxRequest) -> Result<MarkInboxResponse, AskError> {
        check_user(&request.user)?;
        let marked = match request.ids.is_empty() {
            true => Vec::new(),
            false => ids(&request.ids)?,
        };
        self.store
            .mark(&request.user, &marked, request.read, now_us())
            .await
            .map_err(fault)?;
        let (unseen, unread) = self.store.news(&request.user).await.map_err(fault)?;
        Ok(MarkInboxResponse { unseen, unread })
    }

    pub(crate) async fn dead_letters(
        &self,
        request: DeadLettersRequest,
    ) -> Result<DeadLettersResponse, AskError> {
        let limit = limit(request.limit, LETTERS);
        let user = (!request.user.is_empty()).then_some(request.user.as_str());
        let before = behind(&request.cursor)?;
        let letters = self
            .store
            .dead_letters(user, before, limit)
            .await
            .map_err(fault)?;
        let last = letters.last().filter(|_| letters.len() == limit);
        Ok(DeadLettersResponse {
            cursor: last.map_or_else(String::new, |last| cursor(last.settled_us, last.delivery.id)),
            dead_letters: letters
                .iter()
                .map(|letter| wire::DeadLetter {
                    user: letter.delivery.user.clone(),
                    notification: letter.delivery.notification.to_string(),
                    category: letter.category.clone(),
                    delivery: Some(delivery(&letter.delivery, &letter.attempts)),
                })
                .collect(),
        })
    }

    pub(crate) async fn retry_dead_letters(
        &self,
        request: RetryDeadLettersRequest,
    ) -> Result<RetryDeadLettersResponse, AskError> {
        let retried = self
            .store
            .retry(&ids(&request.ids)?, now_us())
            .await
            .map_err(fault)?;
        self.accepting.wake.notify_one();
        Ok(RetryDeadLettersResponse {
            retried: u32::try_from(retried).unwrap_or(u32::MAX),
        })
    }

    pub(crate) async fn drop_dead_letters(
        &self,
        request: DropDeadLettersRequest,
    ) -> Result<DropDeadLettersResponse, AskError> {
        let dropped = self
            .store
            .drop_dead(&ids(&request.ids)?, now_us())
            .await
            .map_err(fault)?;
        Ok(DropDeadLettersResponse {
            dropped: u32::try_from(dropped).unwrap_or(u32::MAX),
        })
    }

    pub(crate) async fn statistics(
        &self,
        request: StatisticsRequest,
    ) -> Result<StatisticsResponse, AskError> {
        let now = now_us();
        let to = match micros(request.to, "to")? {
            0 => now,
            to => to,
        };
        let from = match micros(request.from, "from")? {
            0 => to.saturating_sub(DAY_US),
            from => from,
        };
        if from > to || to - from > 30 * DAY_US {
            return Err(AskError::Invalid(
                "30 days at most, from the earlier to the later".to_owned(),
            ));
        }
        let sums = self.store.sums(from, to).await.map_err(fault)?;
        let waiting = self.store.waiting(now, COUNTED).await.map_err(fault)?;
        let counts = sums.into_iter().map(|sum| wire::Count {
            way: sum.way.word().to_owned(),
            provider: sum.provider,
            result: sum.outcome.word().to_owned(),
            count: sum.count,
            latency_ms: u32::try_from(sum.latency_ms / sum.count.max(1)).unwrap_or(u32::MAX),
        });
        Ok(StatisticsResponse {
            counts: counts.collect(),
            waiting: waiting.count,
            oldest: millis(waiting.oldest_us),
            dead_letters: waiting.dead,
        })
    }
}
