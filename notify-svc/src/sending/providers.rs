//! The providers that are configured: which of them takes what, each behind a breaker and a rate.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use switchboard_providers::guard::Guard;
use switchboard_providers::web_push::{self, VapidKeys};
use switchboard_providers::{Provider, apns, fcm, mail, ses, smtp, twilio, webhook};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::breaker::Breaker;
use crate::config::{EmailProvider, ProviderSettings, PublicSettings, QueueSettings, Security};
use crate::model::Target;

/// Why a provider cannot be used. Texts hold no secret.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// `[notify.fcm]`.
    #[error("notify.fcm: {0}")]
    Fcm(#[from] fcm::SettingsError),
    /// `[notify.apns]`.
    #[error("notify.apns: {0}")]
    Apns(#[from] apns::SettingsError),
    /// `[notify.web_push]`.
    #[error("notify.web_push: {0}")]
    Vapid(#[from] web_push::VapidError),
    /// `[notify.web_push]`.
    #[error("notify.web_push: {0}")]
    WebPush(#[from] web_push::SettingsError),
    /// `[notify.smtp]`.
    #[error("notify.smtp: {0}")]
    Smtp(#[from] smtp::SettingsError),
    /// `[notify.ses]`.
    #[error("notify.ses: {0}")]
    Ses(#[from] ses::SettingsError),
    /// An address that mails are from.
    #[error("from: {0}")]
    Sender(#[from] mail::SenderError),
    /// No HTTP client can be made.
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A new pair of keys for `[notify.web_push]`: the private one, and the public one for browsers.
///
/// # Errors
/// Where there are no random numbers.
pub fn web_push_keys() -> Result<(String, String), ProviderError> {
    let keys = VapidKeys::generate()?;
    let private = secrecy::ExposeSecret::expose_secret(keys.private()).to_owned();
    Ok((private, keys.public().to_owned()))
}

/// One provider.
pub(crate) struct Asked {
    pub(crate) provider: Box<dyn Provider>,
    pub(crate) breaker: Breaker,
    rate: Option<Rate>,
    /// Messages at a time.
    places: Semaphore,
}

/// Messages that one provider is given at a time, at most, but for those that say otherwise.
const AT_ONCE: usize = 128;

/// How long a place at a provider is waited for.
const PLACE: Duration = Duration::from_secs(2);

/// Sends at even distances: a second's worth at once at most.
struct Rate {
    every: Duration,
    next: Mutex<Instant>,
}

impl Rate {
    fn new(per_second: u32) -> Option<Self> {
        (per_second > 0).then(|| Self {
            every: Duration::from_secs(1) / per_second,
            next: Mutex::new(Instant::now()),
        })
    }

    /// How long to wait for one's turn, which is then taken; where that is more than a second it is not, and one asks again then.
    fn turn(&self, now: Instant) -> Result<Duration, Duration> {
        let mut next = self.next.lock();
        let earliest = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        let turn = (*next).max(earliest);
        let wait = turn.saturating_duration_since(now);
        if wait > Duration::from_secs(1) {
            return Err(wait);
        }
        *next = turn + self.every;
        Ok(wait)
    }
}

impl Asked {
    /// Waits for one's turn at the provider, and for a place among those that ask it.
    ///
    /// # Errors
    /// After how long it is worth asking again.
    pub(crate) async fn turn(&self) -> Result<SemaphorePermit<'_>, Duration> {
        let Ok(Ok(place)) = tokio::time::timeout(PLACE, self.places.acquire()).await else {
            return Err(PLACE);
        };
        if let Some(rate) = &self.rate {
            tokio::time::sleep(rate.turn(Instant::now())?).await;
        }
        Ok(place)
    }
}

/// All of them.
pub(crate) struct Providers {
    fcm: Option<Asked>,
    apns: Option<Asked>,
    web_push: Option<Asked>,
    email: Vec<Asked>,
    sms: Option<Asked>,
    webhook: Asked,
    /// As browsers subscribe with.
    pub(crate) web_push_key: Option<String>,
}

fn read(path: Option<&std::path::PathBuf>) -> Result<Option<String>, ProviderError> {
    path.map(|path| {
        std::fs::read_to_string(path).map_err(|source| ProviderError::File {
            path: path.clone(),
            source,
        })
    })
    .transpose()
}

impl Providers {
    /// Makes them ready; asks nobody.
    pub(crate) fn open(
        settings: &ProviderSettings,
        queue: &QueueSettings,
        public: &PublicSettings,
    ) -> Result<Self, ProviderError> {
        let limit = settings.limit;
        let guard = Guard::allowing(settings.networks.clone());
        let few = |provider: Box<dyn Provider>, rate: u32, at_once: usize| Asked {
            provider,
            breaker: Breaker::new(queue.breaks_after, queue.rest),
            rate: Rate::new(rate),
            places: Semaphore::new(at_once),
        };
        let asked = |provider: Box<dyn Provider>, rate: u32| few(provider, rate, AT_ONCE);
        let rates = settings.rates;
        let mut opened = Self {
            fcm: None,
            apns: None,
            web_push: None,
            email: Vec::new(),
            sms: None,
            webhook: asked(
                Box::new(webhook::Webhook::new(webhook::Settings {
                    guard: guard.clone(),
                    limit,
                })?),
                rates.webhook,
            ),
            web_push_key: None,
        };
        if let Some(configured) = &settings.fcm {
            let mut with = fcm::Settings::new(fcm::ServiceAccount::read(&configured.service_account)?);
            with.limit = limit;
            if let Some(endpoint) = &configured.endpoint {
                with.base_url.clone_from(endpoint);
            }
            opened.fcm = Some(asked(Box::new(fcm::Fcm::new(with)?), rates.fcm));
        }
        if let Some(configured) = &settings.apns {
            let key = apns::SigningKey::read(&configured.key, &configured.key_id, &configured.team_id)?;
            let mut with = apns::Settings::new(key, configured.topic.clone());
            with.limit = limit;
            with.roots = read(configured.roots.as_ref())?;
            if configured.sandbox {
                apns::SANDBOX.clone_into(&mut with.base_url);
            }
            if let Some(endpoint) = &configured.endpoint {
                with.base_url.clone_from(endpoint);
            }
            opened.apns = Some(asked(Box::new(apns::Apns::new(with)?), rates.apns));
        }
        if let Some(configured) = &settings.web_push {
            let keys = VapidKeys::read(&configured.private_key, None)?;
            opened.web_push_key = Some(keys.public().to_owned());
            let provider = web_push::WebPush::new(web_push::Settings {
                keys,
                contact: configured.contact.clone(),
                guard,
                limit,
            })?;
            opened.web_push = Some(asked(Box::new(provider), rates.web_push));
        }
        for which in &settings.email {
            match (which, &settings.smtp, &settings.ses) {
                (EmailProvider::Smtp, Some(configured), _) => {
                    let from = mail::Sender::new(configured.from_name.as_deref(), &configured.from)?;
                    let mut with = smtp::Settings::new(configured.host.clone(), from);
                    with.port = configured.port;
                    with.limit = limit;
                    with.roots = read(configured.roots.as_ref())?;
                    with.security = match configured.security {
                        Security::StartTls => smtp::Security::StartTls,
                        Security::Tls => smtp::Security::Tls,
                        Security::None => smtp::Security::None { anywhere: false },
                    };
                    with.credentials =
                        configured
                            .credentials
                            .clone()
                            .map(|(user, password)| smtp::Credentials {
                                username: user,
                                password,
                            });
                    with.connections = configured.connections;
                    with.idle = configured.connections;
                    let smtp = Box::new(smtp::Smtp::new(with)?);
                    opened.email.push(few(smtp, rates.smtp, configured.connections));
                }
                (EmailProvider::Ses, _, Some(configured)) => {
                    let from = mail::Sender::new(configured.from_name.as_deref(), &configured.from)?;
                    let provider = ses::Ses::new(ses::Settings {
                        keys: ses::Keys {
                            access_key: configured.access_key.clone(),
                            secret_key: configured.secret_key.clone(),
                            session_token: configured.session_token.clone(),
                        },
                        region: configured.region.clone(),
                        from,
                        configuration_set: configured.configuration_set.clone(),
                        endpoint: configured.endpoint.clone(),
                        limit,
                        largest: mail::LARGEST,
                    })?;
                    opened.email.push(asked(Box::new(provider), rates.ses));
                }
                (EmailProvider::Smtp | EmailProvider::Ses, _, _) => {}
            }
        }
        if let Some(configured) = &settings.twilio {
            let sender = match (&configured.messaging_service, &configured.from) {
                (Some(service), _) => twilio::Sender::Service(service.clone()),
                (None, from) => twilio::Sender::From(from.clone().unwrap_or_default()),
            };
            let status_callback = public
                .url
                .as_ref()
                .map(|url| format!("{}/twilio/status", url.trim_end_matches('/')));
            let provider = twilio::Twilio::new(twilio::Settings {
                account: configured.account.clone(),
                auth_token: configured.auth_token.clone(),
                sender,
                status_callback,
                endpoint: configured.endpoint.clone(),
                limit,
            })?;
            opened.sms = Some(asked(Box::new(provider), rates.twilio));
        }
        Ok(opened)
    }

    /// Who takes messages to such a device, the first one first.
    pub(crate) fn of(&self, target: &Target) -> Vec<&Asked> {
        match target {
            Target::Fcm(_) => self.fcm.iter().collect(),
            Target::Apns(_) => self.apns.iter().collect(),
            Target::WebPush { .. } => self.web_push.iter().collect(),
            Target::Email(_) => self.email.iter().collect(),
            Target::Sms(_) => self.sms.iter().collect(),
            Target::Webhook { .. } => vec![&self.webhook],
        }
    }

    /// Their names, for who starts the service.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let all = self.fcm.iter().chain(&self.apns).chain(&self.web_push);
        let all = all.chain(&self.email).chain(&self.sms).chain([&self.webhook]);
        all.map(|asked| asked.provider.name()).collect()
    }
}

/// Shared by all that send.
pub(crate) type SharedProviders = Arc<Providers>;

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is put off has not taken a turn: all of a thousand get theirs, at the rate that was asked for.
    #[tokio::test(start_paused = true)]
    async fn turns_come_at_the_rate_and_none_is_lost() {
        let rate = Rate::new(10).unwrap();
        let begun = Instant::now();
        let mut waiting: Vec<Instant> = vec![begun; 1_000];
        let mut sent = 0;
        while let Some(due) = waiting.pop() {
            tokio::time::sleep_until(due).await;
            match rate.turn(Instant::now()) {
                Ok(wait) => {
                    tokio::time::sleep(wait).await;
                    sent += 1;
                }
                Err(wait) => waiting.insert(0, Instant::now() + wait),
            }
        }
        assert_eq!(sent, 1_000);
        let took = begun.elapsed();
        assert!(
            took >= Duration::from_secs(98) && took < Duration::from_secs(120),
            "{took:?}"
        );
    }
}
