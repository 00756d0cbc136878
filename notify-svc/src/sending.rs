//! The queue's other end: takes what is due, asks whether it is still wanted, hands it to providers, and writes down what became of it.
//!
//! A delivery is claimed for `notify.lease`. It is settled in the store once its provider has answered; who dies in between has
//! perhaps sent it, and it is sent again by whoever claims it next. That is the one window in which something is told twice, besides a
//! provider's answer that got lost.

mod breaker;
mod digests;
mod handing;
mod outgoing;
mod providers;
mod settling;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use switchboard_bus::Bus;
use switchboard_proto::time::now_us;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::digests::Begun;
pub(crate) use self::outgoing::ROTATION_US;
pub use self::providers::{ProviderError, web_push_keys};
pub(crate) use self::providers::{Providers, SharedProviders};
use crate::checking::{self, Checking};
use crate::config::{Category, QueueSettings};
use crate::judging::{self, Circumstances, HOUR_US, Verdict};
use crate::links::Links;
use crate::metrics::NotifyMetrics;
use crate::model::{Device, Notification, State, Way, us};
use crate::preferences::Preferences;
use crate::saying::Saying;
use crate::store::{Claim, Claimed, Facts, NotifyStore, Settled, StoreError};

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

/// A delivery that is to be sent.
struct Ready {
    claimed: Claimed,
    device: Option<Device>,
    preferences: Arc<Preferences>,
    /// Until when it is ours, Unix microseconds.
    until_us: u64,
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
        let until_us = now + us(self.settings.lease);
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

    fn category(&self, notification: &Notification) -> Category {
        category_of(&self.categories)(notification)
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
