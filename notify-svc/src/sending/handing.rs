//! One delivery on its way: its devices, the providers that are asked, and what follows from what they say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::bus::PublishForRequest;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::notifications as wire;
use switchboard_proto::publishing::method::PublishFor;
use switchboard_proto::time::now_us;
use switchboard_providers::{Outgoing, SendError};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ASK_AGAIN, Ready, Sending, outgoing};
use crate::judging::{self, HOUR_US};
use crate::model::{Attempt, Device, Notification, Outcome, State, Way, us};
use crate::preferences::Preferences;
use crate::saying::Unsaid;
use crate::store::{Claimed, DeviceState, Facts, Settled, StoreError};

/// A send begins only while its claim lasts so much longer: providers take 15 s at most, and the store some.
const SPARE: Duration = Duration::from_secs(18);

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
    /// Finds the devices of a delivery, one delivery for each.
    pub(super) async fn address(
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
    pub(super) async fn send(
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
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
