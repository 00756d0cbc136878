//! The queue's other end: takes what is due, asks whether it is still wanted, hands it to providers, and writes down what became of it.
//!
//! A delivery is claimed for `notify.lease`. It is settled in the store once its provider has answered; who dies in between has
//! perhaps sent it, and it is sent again by whoever claims it next. That is the one window in which something is told twice, besides a
//! provider's answer that got lost.

mod breaker;
mod outgoing;
mod providers;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use switchboard_bus::Bus;
use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::bus::PublishForRequest;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::notifications as wire;
use switchboard_proto::publishing::method::PublishFor;
use switchboard_proto::time::now_us;
use switchboard_providers::{Outgoing, SendError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) use self::outgoing::ROTATION_US;
pub use self::providers::{ProviderError, web_push_keys};
pub(crate) use self::providers::{Providers, SharedProviders};
use crate::checking::{self, Checking};
use crate::config::{Category, QueueSettings};
use crate::judging::{self, Circumstances, HOUR_US, Verdict};
use crate::links::Links;
use crate::metrics::NotifyMetrics;
use crate::model::{Attempt, Delivery, Device, Notification, Outcome, Priority, State, Unless, Way};
use crate::preferences::Preferences;
use crate::saying::{Saying, Unsaid};
use crate::store::{Claim, Claimed, DeviceState, Enqueued, Facts, NotifyStore, Settled, StoreError};

/// Deliveries of one claim, at most.
const BATCH: usize = 100;

/// What is told together, at most.
const DIGEST: usize = 100;

/// Settlements of one transaction, at most.
const SETTLED: usize = 200;

/// Claims of one delivery that nobody settled, at most: its sender died of it.
const CLAIMS: u32 = 20;

/// After this what could not be asked of other services is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// After this what is about a message is sent although it cannot be asked who has read it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A send begins only while its claim lasts so much longer: providers take 15 s at most, and the store some.
const SPARE: Duration = Duration::from_secs(18);

/// What every part of it needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sending {
    pub(crate) store: Arc<dyn NotifyStore>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) checking: Checking,
    pub(crate) saying: Arc<Saying>,
    pub(crate) providers: SharedProviders,
    pub(crate) categories: Arc<BTreeMap<String, Category>>,
    pub(crate) settings: QueueSettings,
    pub(crate) links: Option<Links>,
    pub(crate) metrics: NotifyMetrics,
    /// This replica.
    pub(crate) me: Uuid,
    /// Something may be due.
    pub(crate) wake: Arc<Notify>,
    pub(crate) begun: Arc<Mutex<Begun>>,
}

/// What was begun to be sent in an hour.
#[derive(Default)]
pub(crate) struct Begun {
    hour: u64,
    counts: HashMap<(String, String, Way), u64>,
}

/// Users, categories and ways of which that is remembered; then it is what the store knows.
const MOST_BEGUN: usize = 100_000;

/// A delivery that is to be sent.
struct Ready {
    claimed: Claimed,
    device: Option<Device>,
    preferences: Arc<Preferences>,
    /// Until when it is ours, Unix microseconds.
    until_us: u64,
}

/// What is wrong with a try.
struct Failure {
    outcome: Outcome,
    reason: String,
    after: Option<Duration>,
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let (outcome, reason, after) = match error {
            SendError::Retry { reason, after } => (Outcome::Retry, reason, after),
            SendError::Unknown { reason } => (Outcome::Unknown, reason, None),
            SendError::Refused { reason } => (Outcome::Refused, reason, None),
            SendError::Gone { reason } => (Outcome::Gone, reason, None),
            SendError::Account { reason } => (Outcome::Account, reason, None),
        };
        Self {
            outcome,
            reason,
            after,
        }
    }
}

impl Sending {
    /// Works until the stop, and then ends what is being sent.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(self.settings.at_once));
        let (settled, settling) = mpsc::channel(SETTLED * 2);
        let settler = self.clone().settle(settling, stop.clone());
        let claimer = async {
            let mut sends = JoinSet::new();
            while !stop.is_cancelled() {
                let free = self.settings.at_once.min(places.available_permits()).min(BATCH);
                let taken = match free {
                    0 => Ok(0),
                    free => {
                        let step = self.step(free, &places, &settled, &mut sends, &stop);
                        // What was claimed and not begun is another's once the claim is over.
                        match stop.run_until_cancelled(step).await {
                            Some(taken) => taken,
                            None => break,
                        }
                    }
                };
                while let Some(ended) = sends.try_join_next() {
                    ended_well(ended);
                }
                let pause = match taken {
                    Ok(0) => self.settings.poll,
                    Ok(_) => continue,
                    Err(error) => {
                        tracing::warn!(%error, "nothing can be taken from the queue now");
                        Duration::from_secs(1)
                    }
                };
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                    Some(ended) = sends.join_next() => ended_well(ended),
                }
            }
            while let Some(ended) = sends.join_next().await {
                ended_well(ended);
            }
            drop(settled);
        };
        tokio::join!(claimer, settler);
    }

    /// Takes what is due and begins to send it. Answers with how much was taken.
    async fn step(
        &self,
        limit: usize,
        places: &Arc<Semaphore>,
        settled: &mpsc::Sender<Settled>,
        sends: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> Result<usize, StoreError> {
        let now = now_us();
        let until_us = now + u64::try_from(self.settings.lease.as_micros()).unwrap_or(u64::MAX / 4);
        let claim = Claim {
            by: self.me,
            now_us: now,
            until_us,
            limit,
        };
        let mut claimed = self.store.claim(claim).await?;
        let taken = claimed.len();
        if taken == 0 {
            return Ok(0);
        }
        self.metrics.claimed.inc_by(taken as u64);
        let mut digests: Vec<String> = claimed
            .iter()
            .filter_map(|one| one.delivery.digest.clone())
            .collect();
        digests.sort_unstable();
        digests.dedup();
        for digest in digests {
            let claim = Claim {
                limit: DIGEST,
                ..claim
            };
            claimed.extend(self.store.claim_digest(&digest, claim).await?);
        }
        let back: Vec<Claimed> = claimed.clone();
        let judged = match self.judge(claimed, until_us, settled).await {
            Ok(judged) => judged,
            Err(error) => {
                // They are ours still, and nothing of them was begun: others, or we, ask again soon.
                for one in &back {
                    settled
                        .send(self.put_off(one, Duration::from_secs(1), ""))
                        .await
                        .ok();
                }
                return Err(error);
            }
        };
        for ready in judged {
            let (sending, settled, places, stop) =
                (self.clone(), settled.clone(), Arc::clone(places), stop.clone());
            sends.spawn(async move {
                // It is closed by nobody.
                let place = places.acquire_owned().await.ok();
                sending.send(ready, settled, place, &stop).await;
            });
        }
        Ok(taken)
    }

    /// Says of each whether it is sent, and ends what is not.
    async fn judge(
        &self,
        claimed: Vec<Claimed>,
        until_us: u64,
        settled: &mpsc::Sender<Settled>,
    ) -> Result<Vec<Ready>, StoreError> {
        let now = now_us();
        let mut users: Vec<&str> = claimed.iter().map(|one| one.delivery.user.as_str()).collect();
        users.sort_unstable();
        users.dedup();
        let facts = self.store.facts(&users, now, now / HOUR_US).await?;
        let mut absent: Vec<&str> = claimed
            .iter()
            .filter(|one| one.delivery.way != Way::InApp)
            .filter(|one| self.category(&one.notification).tell != crate::config::Tell::Always)
            .map(|one| one.delivery.user.as_str())
            .collect();
        absent.sort_unstable();
        absent.dedup();
        let here = self.checking.here(&absent).await;
        let notifications: Vec<&Notification> = claimed.iter().map(|one| &*one.notification).collect();
        let messages = self.checking.messages(&notifications).await;
        let nothing = Facts::default();
        let mut preferences: HashMap<String, Arc<Preferences>> = HashMap::new();
        let mut ready = Vec::new();
        let mut digests: BTreeMap<String, Vec<(Claimed, Arc<Preferences>)>> = BTreeMap::new();
        for one in claimed {
            let (user, way) = (one.delivery.user.clone(), one.delivery.way);
            let facts = facts.get(&user).unwrap_or(&nothing);
            let preferences = preferences
                .entry(user.clone())
                .or_insert_with(|| read_preferences(&user, facts));
            let category = self.category(&one.notification);
            if one.delivery.claims > CLAIMS {
                let reason = "whoever sent it died of it, again and again";
                self.end(&one, State::Failed, reason, settled).await;
                continue;
            }
            let found = messages.get(&checking::key(&one.notification)).copied();
            let is_known = one.notification.said.is_none() || found.is_some();
            // An installation may have no message store, or one that is away for long: then it is told without it, where the
            // channel's name says that the user is in it.
            let is_patient = one.notification.created_us + us(PATIENCE) > now
                || !checking::names_its_users(&one.notification.content.conversation);
            if !is_known && is_patient {
                let reason = "it cannot be asked who has read it";
                let held = self.put_off(&one, ASK_AGAIN, reason);
                settled.send(held).await.ok();
                continue;
            }
            let message = found;
            let name = one.notification.content.category.clone();
            let before = facts.sent.get(&(name.clone(), way)).copied().unwrap_or(0);
            let counted = self.begun(&user, &name, way, now).max(before);
            let verdict = judging::judge(
                &one,
                &Circumstances {
                    now_us: now,
                    category: &category,
                    facts,
                    preferences,
                    here: here.get(&user).copied(),
                    message,
                    sent: counted,
                },
            );
            match verdict {
                Verdict::Suppress(reason) => self.end(&one, State::Suppressed, reason, settled).await,
                Verdict::Hold { until_us, reason } => self.hold(&one, until_us, reason, settled).await,
                Verdict::Send => {
                    let preferences = Arc::clone(preferences);
                    match one.delivery.digest.clone() {
                        Some(digest) => digests.entry(digest).or_default().push((one, preferences)),
                        None => {
                            self.begin(&one, now);
                            self.address(one, facts, preferences, until_us, settled, &mut ready)
                                .await?;
                        }
                    }
                }
            }
        }
        for (digest, mut together) in digests {
            if together.len() > 1 {
                self.merge(&digest, together, &category_of(&self.categories), now)
                    .await?;
            } else if let Some((one, preferences)) = together.pop() {
                let facts = facts.get(&one.delivery.user).unwrap_or(&nothing);
                self.begin(&one, now);
                self.address(one, facts, preferences, until_us, settled, &mut ready)
                    .await?;
            }
        }
        Ok(ready)
    }

    /// What of a category and way was begun to be sent to a user in this hour, by this process: the store knows it later.
    fn begun(&self, user: &str, category: &str, way: Way, now: u64) -> u64 {
        let begun = self.begun.lock();
        if begun.hour != now / HOUR_US {
            return 0;
        }
        let key = (user.to_owned(), category.to_owned(), way);
        begun.counts.get(&key).copied().unwrap_or(0)
    }

    fn begin(&self, one: &Claimed, now: u64) {
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
    async fn merge(
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

    /// Finds the devices of a delivery, one delivery for each.
    async fn address(
        &self,
        one: Claimed,
        facts: &Facts,
        preferences: Arc<Preferences>,
        until_us: u64,
        settled: &mpsc::Sender<Settled>,
        ready: &mut Vec<Ready>,
    ) -> Result<(), StoreError> {
        let way = one.delivery.way;
        let mut push = |claimed, device| {
            ready.push(Ready {
                claimed,
                device,
                preferences: Arc::clone(&preferences),
                until_us,
            });
        };
        if way == Way::InApp {
            push(one, None);
            return Ok(());
        }
        let devices: Vec<&Device> = facts
            .devices
            .iter()
            .filter(|device| device.way == way && !device.disabled)
            .collect();
        if !one.delivery.device.is_empty() {
            match devices.iter().find(|device| device.id == one.delivery.device) {
                Some(device) => push(one, Some((*device).clone())),
                None => {
                    self.end(&one, State::Suppressed, "the device is gone", settled)
                        .await
                }
            }
            return Ok(());
        }
        let Some((first, others)) = devices.split_first() else {
            self.end(&one, State::Suppressed, "no device", settled).await;
            return Ok(());
        };
        let names: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
        let Some(added) = self.store.spread(&one.delivery, self.me, &names).await? else {
            // It is another's by now.
            return Ok(());
        };
        for delivery in added {
            let Some(device) = others.iter().find(|device| device.id == delivery.device) else {
                continue;
            };
            let claimed = Claimed {
                delivery,
                notification: Arc::clone(&one.notification),
            };
            push(claimed, Some((*device).clone()));
        }
        let mut one = one;
        one.delivery.device.clone_from(&first.id);
        push(one, Some((*first).clone()));
        Ok(())
    }

    /// Sends one delivery, and says what became of it.
    async fn send(
        &self,
        ready: Ready,
        settled: mpsc::Sender<Settled>,
        place: Option<OwnedSemaphorePermit>,
        stop: &CancellationToken,
    ) {
        if stop.is_cancelled() || now_us() + us(SPARE) > ready.until_us {
            // It goes back in time, so that nobody sends it beside us.
            self.metrics.late.inc();
            let back = self.put_off(&ready.claimed, Duration::ZERO, "");
            settled.send(back).await.ok();
            return;
        }
        let result = match ready.claimed.delivery.way {
            Way::InApp => self.show(&ready).await,
            Way::Push | Way::Email | Way::Sms | Way::Webhook => self.hand_over(&ready).await,
        };
        // The queue of settlements is bounded: who waits here keeps his place.
        settled.send(result).await.ok();
        drop(place);
    }

    /// Shows it in the app: it is in the user's list once it is settled, and at once where the user is connected.
    async fn show(&self, ready: &Ready) -> Settled {
        let (begun, started) = (now_us(), Instant::now());
        let notification = &ready.claimed.notification;
        let said = self.saying.say(notification, &ready.preferences).await;
        let result = match said {
            Err(unsaid) => Err(Failure {
                outcome: match unsaid {
                    Unsaid::Store(_) => Outcome::Retry,
                    Unsaid::Words(_) => Outcome::Refused,
                },
                reason: unsaid.to_string(),
                after: None,
            }),
            Ok(said) => self.publish(notification, &said.entry(notification, begun)).await,
        };
        let outcome = result
            .as_ref()
            .map_or_else(|failure| failure.outcome, |()| Outcome::Accepted);
        self.metrics.attempt("in_app", outcome, started.elapsed());
        let attempt = |outcome, reason: &str| Attempt {
            time_us: begun,
            provider: "in_app".to_owned(),
            outcome,
            reason: reason.to_owned(),
            reference: String::new(),
            latency_ms: ms(started.elapsed()),
        };
        match result {
            Ok(()) => Settled {
                shown: true,
                attempts: vec![attempt(Outcome::Accepted, "")],
                ..self.settled(&ready.claimed, State::Sent, "")
            },
            Err(failure) => Settled {
                // In the list it is at once: only who is connected is told later.
                shown: failure.outcome == Outcome::Retry,
                ..self.failed(ready, vec![attempt(failure.outcome, &failure.reason)], &failure)
            },
        }
    }

    async fn publish(&self, notification: &Notification, entry: &wire::InboxEntry) -> Result<(), Failure> {
        let Some(channel) = ChannelName::inbox(&notification.content.user) else {
            // No client can have such an id.
            return Ok(());
        };
        let data = serde_json::to_vec(entry).map_err(|error| Failure {
            outcome: Outcome::Refused,
            reason: error.to_string(),
            after: None,
        })?;
        let request = PublishForRequest {
            channel: channel.as_str().to_owned(),
            data: data.into(),
            tags: BTreeMap::from([("sb-notification".to_owned(), notification.id.to_string())]),
            idempotency_key: format!("notification:{}", notification.id),
            publisher: "notify".to_owned(),
        };
        match ask::<PublishFor>(self.bus.as_ref(), &request, Duration::from_secs(5)).await {
            Ok(_) => Ok(()),
            // Nobody listens there: it is in the list all the same.
            Err(AskError::Invalid(reason) | AskError::NotAvailable(reason) | AskError::Denied(reason)) => {
                tracing::debug!(reason, "a notification is in the list alone");
                Ok(())
            }
            Err(error) => Err(Failure {
                outcome: Outcome::Retry,
                reason: error.to_string(),
                after: None,
            }),
        }
    }

    /// Hands it to a provider, and where that cannot take it to the next one.
    async fn hand_over(&self, ready: &Ready) -> Settled {
        let Some(device) = &ready.device else {
            return self.settled(&ready.claimed, State::Suppressed, "no device");
        };
        let outgoing = match self.outgoing(ready, device).await {
            Ok(outgoing) => outgoing,
            Err(Unsaid::Words(reason)) => return self.settled(&ready.claimed, State::Failed, &reason),
            Err(Unsaid::Store(error)) => {
                tracing::warn!(%error, "templates cannot be read now");
                return self.put_off(&ready.claimed, ASK_AGAIN, "templates cannot be read");
            }
        };
        let asked = self.providers.of(&device.address);
        if asked.is_empty() {
            let reason = format!("no provider for {} is configured", device.provider);
            return self.settled(&ready.claimed, State::Failed, &reason);
        }
        let address = outgoing::address(&device.address, now_us());
        let mut attempts = Vec::new();
        let mut failure: Option<Failure> = None;
        let mut rests = Duration::MAX;
        for provider in &asked {
            if !provider.breaker.may_ask(Instant::now()) {
                rests = rests.min(provider.breaker.rests(Instant::now()));
                continue;
            }
            let place = match provider.turn().await {
                Ok(place) => place,
                Err(wait) => {
                    provider.breaker.gave_up();
                    rests = rests.min(wait);
                    continue;
                }
            };
            if now_us() + us(SPARE) > ready.until_us {
                // A second provider may be too late: then all of it is done again later.
                provider.breaker.gave_up();
                rests = rests.min(Duration::from_secs(1));
                break;
            }
            let (begun, started) = (now_us(), Instant::now());
            // A panic leaves nobody waiting for what becomes of this try.
            let _trying = provider.breaker.trying();
            let result = provider.provider.send(&address, &outgoing).await;
            let latency = started.elapsed();
            drop(place);
            let name = provider.provider.name();
            let (outcome, reason, reference) = match &result {
                Ok(accepted) => (Outcome::Accepted, String::new(), accepted.reference.clone()),
                Err(error) => {
                    let failure = Failure::from(error.clone());
                    (failure.outcome, failure.reason, None)
                }
            };
            self.metrics.attempt(name, outcome, latency);
            attempts.push(Attempt {
                time_us: begun,
                provider: name.to_owned(),
                outcome,
                reason,
                reference: reference.clone().unwrap_or_default(),
                latency_ms: ms(latency),
            });
            match result {
                Ok(_) => {
                    provider.breaker.worked();
                    self.device_works(ready, device).await;
                    return Settled {
                        attempts,
                        reference: reference.map(|reference| format!("{name}:{reference}")),
                        counted: Some((
                            ready.claimed.delivery.user.clone(),
                            ready.claimed.notification.content.category.clone(),
                            begun / HOUR_US,
                        )),
                        ..self.settled(&ready.claimed, State::Sent, "")
                    };
                }
                Err(error) => {
                    let failed = Failure::from(error);
                    let is_its_fault = matches!(
                        failed.outcome,
                        Outcome::Retry | Outcome::Unknown | Outcome::Account
                    );
                    // Each webhook and each browser's push service is another server: one that fails says nothing of the others.
                    let is_one_server = matches!(device.provider.as_str(), "fcm" | "apns" | "email" | "sms");
                    if is_its_fault && is_one_server {
                        let at_once = failed.outcome == Outcome::Account;
                        if provider.breaker.failed(at_once, Instant::now()) {
                            tracing::warn!(
                                provider = name,
                                reason = failed.reason,
                                "provider is left alone for a while"
                            );
                        }
                    } else {
                        provider.breaker.worked();
                    }
                    let goes_on = matches!(failed.outcome, Outcome::Retry | Outcome::Account);
                    failure = Some(failed);
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        match failure {
            Some(failure) => {
                self.device_fails(ready, device, &failure).await;
                self.failed(ready, attempts, &failure)
            }
            // None was asked.
            None => {
                // Not all at once again.
                let wait = rests.min(self.settings.longest).max(Duration::from_secs(1));
                let wait = wait.mul_f64(rand::random_range(1.0..3.0));
                self.put_off(&ready.claimed, wait, "its provider takes no more for a while")
            }
        }
    }

    async fn outgoing(&self, ready: &Ready, device: &Device) -> Result<Outgoing, Unsaid> {
        let notification = &ready.claimed.notification;
        let said = self.saying.say(notification, &ready.preferences).await?;
        let category = self.category(notification);
        Ok(outgoing::outgoing(
            &ready.claimed,
            said,
            judging::priority(notification, &category),
            device,
            self.links.as_ref(),
            now_us(),
        ))
    }

    /// What follows from a try that failed.
    fn failed(&self, ready: &Ready, attempts: Vec<Attempt>, failure: &Failure) -> Settled {
        let delivery = &ready.claimed.delivery;
        let made = u32::try_from(attempts.len()).unwrap_or(u32::MAX);
        let tries = delivery.attempts.saturating_add(made);
        // A text message costs money and nothing tells two of them apart.
        let is_lost = failure.outcome == Outcome::Unknown && delivery.way == Way::Sms;
        let again = matches!(
            failure.outcome,
            Outcome::Retry | Outcome::Unknown | Outcome::Account
        ) && !is_lost
            && tries < self.settings.attempts;
        let state = match failure.outcome {
            Outcome::Gone => State::Suppressed,
            _ if again => State::Queued,
            _ => State::Failed,
        };
        let due_us = if again {
            let pause = match failure.outcome {
                Outcome::Account => self.settings.rest.max(self.pause(tries)),
                _ => self.pause(tries),
            };
            now_us() + us(failure.after.unwrap_or_default().max(pause))
        } else {
            0
        };
        Settled {
            attempts,
            due_us,
            ..self.settled(&ready.claimed, state, &failure.reason)
        }
    }

    /// What follows the `tries`th failure: doubled each time, and give or take a half, so that what failed together does not come back
    /// together.
    fn pause(&self, tries: u32) -> Duration {
        let doubled = self.settings.pause.saturating_mul(
            1_u32
                .checked_shl(tries.saturating_sub(1).min(20))
                .unwrap_or(u32::MAX),
        );
        doubled
            .min(self.settings.longest)
            .mul_f64(rand::random_range(0.5..1.5))
    }

    async fn device_works(&self, ready: &Ready, device: &Device) {
        if device.failing_us > 0 {
            self.device_state(ready, device, DeviceState::Works).await;
        }
    }

    /// A token that is dead is forgotten; a webhook that fails for days, or says so, is switched off.
    async fn device_fails(&self, ready: &Ready, device: &Device, failure: &Failure) {
        let now = now_us();
        let is_webhook = device.way == Way::Webhook;
        match failure.outcome {
            Outcome::Gone if is_webhook => {
                self.device_state(ready, device, DeviceState::Disabled(now)).await;
            }
            Outcome::Gone => {
                self.metrics.devices_removed.inc();
                let removed = self
                    .store
                    .remove_device(&ready.claimed.delivery.user, &device.id)
                    .await;
                if let Err(error) = removed {
                    tracing::warn!(%error, "a device that is gone stays for now");
                }
            }
            _ if is_webhook && device.failing_us == 0 => {
                self.device_state(ready, device, DeviceState::Failing(now)).await;
            }
            _ if is_webhook && device.failing_us + us(self.settings.failing) <= now => {
                tracing::warn!("a webhook failed for days, it is switched off");
                self.device_state(ready, device, DeviceState::Disabled(device.failing_us))
                    .await;
            }
            _ => {}
        }
    }

    async fn device_state(&self, ready: &Ready, device: &Device, state: DeviceState) {
        let user = &ready.claimed.delivery.user;
        if let Err(error) = self.store.device_state(user, &device.id, state).await {
            tracing::warn!(%error, "how a device does is not noted");
        }
    }

    fn category(&self, notification: &Notification) -> Category {
        category_of(&self.categories)(notification)
    }

    fn settled(&self, claimed: &Claimed, state: State, reason: &str) -> Settled {
        Settled {
            delivery: claimed.delivery.id,
            by: self.me,
            state,
            reason: reason.to_owned(),
            due_us: 0,
            since_us: None,
            attempts: Vec::new(),
            reference: None,
            shown: false,
            counted: None,
            now_us: now_us(),
        }
    }

    /// It is asked again after `wait`, and keeps the age that it has: what was put off does not come behind what is new.
    fn put_off(&self, claimed: &Claimed, wait: Duration, reason: &str) -> Settled {
        Settled {
            due_us: now_us() + us(wait),
            since_us: Some(claimed.notification.created_us),
            ..self.settled(claimed, State::Held, reason)
        }
    }

    async fn end(&self, claimed: &Claimed, state: State, reason: &str, settled: &mpsc::Sender<Settled>) {
        settled.send(self.settled(claimed, state, reason)).await.ok();
    }

    async fn hold(&self, claimed: &Claimed, until_us: u64, reason: &str, settled: &mpsc::Sender<Settled>) {
        let held = Settled {
            due_us: until_us,
            ..self.settled(claimed, State::Held, reason)
        };
        settled.send(held).await.ok();
    }

    /// Writes down what became of deliveries, many at a time, until nobody sends any more.
    async fn settle(self, mut settling: mpsc::Receiver<Settled>, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(SETTLED);
        while settling.recv_many(&mut batch, SETTLED).await > 0 {
            let mut pause = Duration::from_millis(50);
            // While the store cannot be used claims run out, and what was sent is sent again: it is tried for as long as they last.
            let end = Instant::now() + self.settings.lease;
            while let Err(error) = self.store.settle(&batch).await {
                let is_over = Instant::now() + pause > end;
                // A stop has its time, too.
                if is_over || (stop.is_cancelled() && pause > Duration::from_secs(1)) {
                    tracing::error!(%error, deliveries = batch.len(), "what was sent is not written down, and will be sent again");
                    break;
                }
                tracing::warn!(%error, "what was sent is not written down yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            for settled in batch.drain(..) {
                self.metrics.settled(settled.state);
            }
        }
    }
}

fn category_of(categories: &BTreeMap<String, Category>) -> impl Fn(&Notification) -> Category + '_ {
    |notification| {
        let category = categories.get(&notification.content.category);
        // It was configured when the notification came.
        let category = category.or_else(|| categories.get("general")).cloned();
        category.unwrap_or_else(Category::plain)
    }
}

fn read_preferences(user: &str, facts: &Facts) -> Arc<Preferences> {
    let Some(document) = &facts.preferences else {
        return Arc::default();
    };
    Arc::new(Preferences::kept(document).unwrap_or_else(|error| {
        // A newer release wrote it.
        tracing::warn!(%error, user, "preferences are passed over");
        Preferences::default()
    }))
}

fn ended_well(ended: Result<(), tokio::task::JoinError>) {
    if let Err(panic) = ended {
        tracing::error!(%panic, "sending panicked; the delivery is sent again once its claim is over");
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
