//! Asking the store who is a member, many at once: when a gateway's clients all come back, each has channels to be let into.
//!
//! Questions that come while others are on the way are asked together with the next. Nobody is let in by a store that does not
//! answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use switchboard_bus::Bus;
use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::bus::{MemberRole, MembersChanged};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::ids::Offset;
use switchboard_proto::messages::{self, Role, StandingsRequest, UserInChannel, method};
use switchboard_service_kit::metrics::Metrics;
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::cache::{Cache, Place};
use super::config::ConversationsConfig;

/// Questions that wait, at most; further ones are refused for the time being.
const WAITING: usize = 16_384;

/// Users and channels in one question to the store.
const TOGETHER: usize = 500;

/// Questions to the store at a time.
const AT_ONCE: usize = 4;

/// What one of them may take.
const LIMIT: Duration = Duration::from_secs(3);

/// How often it is asked again because an event was forgotten meanwhile.
const TRIES: usize = 3;

/// What is counted here. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct MembershipMetrics {
    cached: Gauge,
    hits: Counter,
    misses: Counter,
    failures: Counter,
}

impl MembershipMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let these = Self::default();
        metrics.register("gateway_members", |registry| {
            registry.register(
                "cached",
                "Users and channels of which it is known whether they are members",
                these.cached.clone(),
            );
            registry.register(
                "hits",
                "Times that it was known whether somebody is a member",
                these.hits.clone(),
            );
            registry.register(
                "misses",
                "Times that the store had to be asked",
                these.misses.clone(),
            );
            registry.register(
                "failures",
                "Times that the store did not answer, and nobody was let in",
                these.failures.clone(),
            );
        });
        these
    }
}

type Answer = Result<Option<MemberRole>, ErrorCode>;

/// A user and a channel of whom the store is to be asked.
struct Wanted {
    channel: Box<str>,
    user: Box<str>,
    answer: oneshot::Sender<Answer>,
}

/// See the module.
pub(crate) struct Memberships {
    cache: Mutex<Cache>,
    asks: mpsc::Sender<Wanted>,
    /// Every session has to be looked at, whether it may still have what it has.
    is_unsure: AtomicBool,
    unsure: Notify,
    metrics: MembershipMetrics,
}

impl Memberships {
    /// Starts asking, until `tasks` stop.
    pub(crate) fn start(
        config: &ConversationsConfig,
        bus: Arc<dyn Bus>,
        metrics: MembershipMetrics,
        tasks: &Tasks,
    ) -> Arc<Self> {
        let (asks, wanted) = mpsc::channel(WAITING);
        let this = Arc::new(Self {
            cache: Mutex::new(Cache::new(config.members_cached, config.members_ttl)),
            asks,
            is_unsure: AtomicBool::new(false),
            unsure: Notify::new(),
            metrics,
        });
        let asking = Arc::clone(&this).ask_all(bus, wanted, tasks.clone());
        let stop = tasks.stop_token();
        tasks.spawn("memberships", TaskKind::Essential, async move {
            stop.run_until_cancelled(asking).await;
        });
        this
    }

    /// What the user is in the channel, by `deadline`. `None`: no member. Cancel safe.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`], temporary: it is not known, and the store does not answer. [`ErrorCode::TooManyRequests`]: too many
    /// ask. [`ErrorCode::NotAvailable`]: there is no store.
    pub(crate) async fn role(&self, channel: &str, user: &str, deadline: Instant) -> Answer {
        if let Some(role) = self.known(channel, user) {
            self.metrics.hits.inc();
            return Ok(role);
        }
        self.metrics.misses.inc();
        let (answer, answered) = oneshot::channel();
        let wanted = Wanted {
            channel: channel.into(),
            user: user.into(),
            answer,
        };
        self.asks
            .try_send(wanted)
            .map_err(|_| ErrorCode::TooManyRequests)?;
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(ErrorCode::Internal),
        }
    }

    /// What the user is in the channel, where that is known.
    pub(crate) fn known(&self, channel: &str, user: &str) -> Option<Option<MemberRole>> {
        self.cache.lock().role(channel, user, Instant::now())
    }

    /// Takes what an event of the channel says.
    pub(crate) fn told(&self, channel: &str, place: Place, event: &MembersChanged) {
        let now = Instant::now();
        let mut cache = self.cache.lock();
        for user in &event.removed {
            cache.told(channel, user, None, place, now);
        }
        // One that takes a channel may have come second.
        if !event.claims {
            for member in &event.added {
                cache.told(channel, &member.user, Some(member.role()), place, now);
            }
        }
        self.metrics.cached.set(size(cache.len()));
    }

    /// Takes what the store says.
    pub(crate) fn answered(&self, pair: &UserInChannel, standing: &messages::Standing) -> Option<MemberRole> {
        let role = role(standing.role());
        let mut cache = self.cache.lock();
        let role = cache.answered(
            &pair.channel,
            &pair.user,
            role,
            place(standing.changed.as_ref()),
            Instant::now(),
        );
        self.metrics.cached.set(size(cache.len()));
        role
    }

    /// An event may have been missed, or the rules are new: all sessions have to be looked at.
    pub(crate) fn look_again(&self) {
        self.is_unsure.store(true, Ordering::Release);
        self.unsure.notify_one();
    }

    /// Waits until that is so. Cancel safe.
    pub(super) async fn is_unsure(&self) {
        while !self.is_unsure.swap(false, Ordering::AcqRel) {
            self.unsure.notified().await;
        }
    }

    async fn ask_all(self: Arc<Self>, bus: Arc<dyn Bus>, mut wanted: mpsc::Receiver<Wanted>, tasks: Tasks) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            // While all places are taken, those that come wait together.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let mut together = Vec::new();
            if wanted.recv_many(&mut together, TOGETHER).await == 0 {
                return;
            }
            let (this, bus) = (Arc::clone(&self), Arc::clone(&bus));
            tasks.spawn("memberships-question", TaskKind::Replaceable, async move {
                this.ask(&*bus, together).await;
                drop(place);
            });
        }
    }

    async fn ask(&self, bus: &dyn Bus, together: Vec<Wanted>) {
        let pairs: BTreeSet<(&str, &str)> = together
            .iter()
            .map(|wanted| (&*wanted.channel, &*wanted.user))
            .collect();
        let request = StandingsRequest {
            pairs: pairs
                .iter()
                .map(|(channel, user)| UserInChannel {
                    channel: (*channel).to_owned(),
                    user: (*user).to_owned(),
                })
                .collect(),
            awaited: None,
        };
        let mut outcome = Err(ErrorCode::Internal);
        for _ in 0..TRIES {
            let before = self.cache.lock().forgotten();
            outcome = self.once(bus, &request).await;
            if outcome.is_err() || self.cache.lock().forgotten() == before {
                break;
            }
            outcome = Err(ErrorCode::Internal);
        }
        if outcome.is_err() {
            self.metrics.failures.inc();
        }
        for wanted in together {
            let role = outcome.as_ref().map_err(|code| *code).and_then(|roles| {
                let at = pairs_index(&request.pairs, &wanted.channel, &wanted.user);
                at.and_then(|at| roles.get(at))
                    .copied()
                    .ok_or(ErrorCode::Internal)
            });
            // One that waits no more is not told.
            wanted.answer.send(role).ok();
        }
    }

    async fn once(
        &self,
        bus: &dyn Bus,
        request: &StandingsRequest,
    ) -> Result<Vec<Option<MemberRole>>, ErrorCode> {
        let answer = ask::<method::Standings>(bus, request, LIMIT).await;
        let answer = answer.map_err(|error| {
            tracing::warn!(%error, "it is not known who is a member, nobody else is let in");
            match error {
                AskError::NotAvailable(_) => ErrorCode::NotAvailable,
                _ => ErrorCode::Internal,
            }
        })?;
        if answer.standings.len() != request.pairs.len() {
            return Err(ErrorCode::Internal);
        }
        let both = request.pairs.iter().zip(&answer.standings);
        Ok(both
            .map(|(pair, standing)| self.answered(pair, standing))
            .collect())
    }
}

/// The pairs are sorted.
fn pairs_index(pairs: &[UserInChannel], channel: &str, user: &str) -> Option<usize> {
    pairs
        .binary_search_by(|pair| (&*pair.channel, &*pair.user).cmp(&(channel, user)))
        .ok()
}

pub(super) fn role(role: Role) -> Option<MemberRole> {
    match role {
        Role::None => None,
        Role::Member => Some(MemberRole::Member),
        Role::Owner => Some(MemberRole::Owner),
    }
}

pub(super) fn place(place: Option<&messages::Place>) -> Option<Place> {
    let place = place?;
    Some((place.log_epoch.parse().ok()?, Offset::from_u64(place.offset)))
}

fn size(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
