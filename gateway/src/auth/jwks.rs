//! A key set (JWKS) that an identity provider serves, kept at hand and renewed.
//!
//! One task fetches, so there is never more than one request under way, and a session that goes
//! away takes no fetch with it. Sessions look into the set that is at hand; where it lacks the key
//! that a token names they ask the task, which looks again at most once per interval, so that made-up
//! names do not become load on the provider.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use serde::Deserialize;
use switchboard_service_kit::metrics::Metrics;
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::TokenError;
use super::keys::{Checks, Key, VerifyingKey};

/// Keys of a set that are taken, at most.
const KEYS: usize = 128;

/// How key sets are fetched.
#[derive(Debug, Clone)]
pub(crate) struct JwksSettings {
    /// What one request may take.
    pub(crate) timeout: Duration,
    /// Bytes of the answer, at most.
    pub(crate) size: usize,
    /// Between two regular fetches.
    pub(crate) refresh: Duration,
    /// Between two fetches because of unknown keys or failures, at least.
    pub(crate) refetch: Duration,
    /// How long a set is used that cannot be fetched anew.
    pub(crate) keep: Duration,
}

/// Counts fetches, of all key sets together. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct JwksMetrics(Family<FetchLabel, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabel {
    outcome: &'static str,
}

impl JwksMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let fetches = Self::default();
        metrics.register("gateway_jwks", |registry| {
            registry.register(
                "fetches",
                "Requests for key sets, by outcome: taken, failed",
                fetches.0.clone(),
            );
        });
        fetches
    }

    fn fetched(&self, outcome: &'static str) {
        self.0.get_or_create(&FetchLabel { outcome }).inc();
    }
}

/// Why no key set can be fetched at all.
#[derive(Debug, thiserror::Error)]
#[error("gateway.tokens.jwks_url cannot be fetched by this process: are CA certificates installed?")]
pub struct JwksError(#[from] reqwest::Error);

/// A key set. Dropping it does not end its task; the stop of the node does.
pub(super) struct Jwks {
    set: watch::Receiver<Arc<Set>>,
    wanted: Arc<Notify>,
}

/// What is known.
pub(super) struct Set {
    keys: BTreeMap<String, VerifyingKey>,
    /// The key of a set that has only one, and that without a name.
    nameless: Option<VerifyingKey>,
    /// When `keys` was fetched; `None`: never.
    fetched: Option<Instant>,
    /// Before that nobody needs to ask for another look.
    next_look: Instant,
    keep: Duration,
}

impl Set {
    fn is_good(&self, now: Instant) -> bool {
        self.fetched.is_some_and(|fetched| now < fetched + self.keep)
    }
}

impl Jwks {
    /// Begins to fetch.
    pub(super) fn start(
        url: Url,
        settings: JwksSettings,
        checks: Checks,
        metrics: JwksMetrics,
        tasks: &Tasks,
    ) -> Result<Self, JwksError> {
        let client = Client::builder()
            // What a redirection leads to is not what was configured; nor is a proxy of the
            // environment.
            .redirect(Policy::none())
            .no_proxy()
            .timeout(settings.timeout)
            .build()?;
        let wanted = Arc::new(Notify::new());
        let set = Set {
            keys: BTreeMap::new(),
            nameless: None,
            fetched: None,
            next_look: Instant::now(),
            keep: settings.keep,
        };
        let (publish, set) = watch::channel(Arc::new(set));
        let fetcher = Fetcher {
            client,
            url,
            settings,
            checks,
            metrics,
            wanted: Arc::clone(&wanted),
            publish,
        };
        tasks.spawn("jwks", TaskKind::Essential, fetcher.run(tasks.stop_token()));
        Ok(Self { set, wanted })
    }

    /// Sees each set that is fetched, or was not.
    #[cfg(test)]
    pub(super) fn watch(&self) -> watch::Receiver<Arc<Set>> {
        self.set.clone()
    }

    /// The key with the name `kid`. Waits while the set is fetched because of it. Cancel safe.
    pub(super) async fn key(&self, kid: &str) -> Result<VerifyingKey, TokenError> {
        self.find(|set| set.keys.get(kid).cloned()).await
    }

    /// The key of a set that has no other. As [`Jwks::key`].
    pub(super) async fn only_key(&self) -> Result<VerifyingKey, TokenError> {
        self.find(|set| match (&set.nameless, set.keys.values().next()) {
            (Some(key), None) => Some(key.clone()),
            (None, Some(key)) if set.keys.len() == 1 => Some(key.clone()),
            _ => None,
        })
        .await
    }

    async fn find(&self, pick: impl Fn(&Set) -> Option<VerifyingKey>) -> Result<VerifyingKey, TokenError> {
        let mut sets = self.set.clone();
        let began = Instant::now();
        let mut asked = false;
        loop {
            let set = Arc::clone(&sets.borrow_and_update());
            let now = Instant::now();
            if set.is_good(now)
                && let Some(key) = pick(&set)
            {
                return Ok(key);
            }
            // Only a set that was fetched after the token came can say that there is no such key:
            // an older one may be from before the key was made.
            if set.fetched.is_some_and(|fetched| fetched >= began) {
                return Err(TokenError::Invalid(
                    "the key set has no key of the name in its header",
                ));
            }
            if asked || now < set.next_look {
                return Err(TokenError::Unavailable);
            }
            asked = true;
            self.wanted.notify_one();
            if sets.changed().await.is_err() {
                return Err(TokenError::Unavailable);
            }
        }
    }
}

struct Fetcher {
    client: Client,
    url: Url,
    settings: JwksSettings,
    checks: Checks,
    metrics: JwksMetrics,
    wanted: Arc<Notify>,
    publish: watch::Sender<Arc<Set>>,
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("request failed")]
    Request(#[from] reqwest::Error),
    #[error("the server answered {0}")]
    Status(reqwest::StatusCode),
    #[error("the answer is larger than gateway.tokens.jwks_size, {0} bytes")]
    TooLarge(usize),
    #[error("the answer is not a JSON object with a list `keys`")]
    NotAKeySet,
    #[error("none of its {0} keys can be used")]
    NoKeys(usize),
}

#[derive(Deserialize)]
struct RawSet {
    /// One that cannot be read must not take the others with it.
    keys: Vec<serde_json::Value>,
}

impl Fetcher {
    async fn run(self, stop: CancellationToken) {
        let mut regular = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(regular) => {}
                () = self.wanted.notified() => {
                    // Somebody asked who saw the set from before the last look.
                    if Instant::now() < self.publish.borrow().next_look {
                        continue;
                    }
                }
            }
            let began = Instant::now();
            let fetched = tokio::select! {
                () = stop.cancelled() => return,
                fetched = self.fetch() => fetched,
            };
            let next_look = Instant::now() + self.settings.refetch;
            let old = Arc::clone(&self.publish.borrow());
            let first = old.fetched.is_none();
            let set = match fetched {
                Ok((keys, nameless)) => {
                    self.metrics.fetched("taken");
                    tracing::debug!(keys = keys.len(), "key set fetched");
                    regular = began + self.settings.refresh;
                    Set {
                        keys,
                        nameless,
                        fetched: Some(began),
                        // The fetch at the start answered nobody's question.
                        next_look: if first { began } else { next_look },
                        keep: self.settings.keep,
                    }
                }
                Err(error) => {
                    self.metrics.fetched("failed");
                    let why = switchboard_service_kit::run::chain(&error);
                    tracing::warn!(url = %self.url, %why, "key set not fetched; tokens are verified with the one at hand");
                    regular = next_look;
                    Set {
                        keys: old.keys.clone(),
                        nameless: old.nameless.clone(),
                        fetched: old.fetched,
                        next_look,
                        keep: self.settings.keep,
                    }
                }
            };
            self.publish.send_replace(Arc::new(set));
        }
    }

    async fn fetch(&self) -> Result<(BTreeMap<String, VerifyingKey>, Option<VerifyingKey>), FetchError> {
        let mut answer = self.client.get(self.url.clone()).send().await?;
        if !answer.status().is_success() {
            return Err(FetchError::Status(answer.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > self.settings.size {
                return Err(FetchError::TooLarge(self.settings.size));
            }
            body.extend_from_slice(&chunk);
        }
        let set: RawSet = serde_json::from_slice(&body).map_err(|_| FetchError::NotAKeySet)?;
        let count = set.keys.len();
        let mut named = BTreeMap::new();
        let mut nameless = Vec::new();
        for (index, key) in set.keys.into_iter().enumerate().take(KEYS) {
            let Ok(jwk) = serde_json::from_value::<Jwk>(key) else {
                tracing::warn!(index, "key of the key set is not a JWK");
                continue;
            };
            match (Key::jwk(&jwk), jwk.common.key_id) {
                (Ok(key), Some(kid)) => {
                    named.entry(kid).or_insert(key.with(&self.checks));
                }
                (Ok(key), None) => nameless.push(key.with(&self.checks)),
                // Key sets often hold keys for other uses.
                (Err(why), kid) => tracing::info!(index, kid, %why, "key of the key set not taken: the key"),
            }
        }
        // Which of several without a name signed a token cannot be told by its header.
        let nameless = nameless.pop().filter(|_| nameless.is_empty() && named.is_empty());
        if named.is_empty() && nameless.is_none() {
            return Err(FetchError::NoKeys(count));
        }
        Ok((named, nameless))
    }
}
