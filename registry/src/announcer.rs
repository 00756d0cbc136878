//! A gateway's side of the registry: announces its sessions, renews its lease, and makes the registry true again after
//! an outage or when the store has lost what it held.
//!
//! It holds a table of what there is to announce, so that the gateway never waits for the store but where it asks
//! whether a session may begin, and there with a time limit. What must hold, each with a test:
//! * While the store does not answer, sessions begin and end as ever.
//! * When it is back, with or without what it held, it is told what is true within seconds.
//! * A gateway that is gone needs nobody to say so: its lease ends.

mod metrics;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use switchboard_proto::ids::Incarnation;
use switchboard_service_kit::service::Context;
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use uuid::Uuid;

use self::metrics::AnnouncerMetrics;
use self::table::Table;
use crate::registry::{
    Admission, FORGOTTEN_AFTER, KeptSubscription, Lease, NewSession, Registry, RegistryError,
};

/// What happens within this time is told together.
const COALESCE: Duration = Duration::from_millis(50);

/// Sessions that are told together, at most.
const BATCH: usize = 500;

/// What a session that begins waits for the registry, at most, in each of its two questions.
const PATIENCE: Duration = Duration::from_secs(1);

/// From a failure to the next try.
const RETRY: Duration = Duration::from_secs(1);

/// What releasing the lease may take when the gateway stops; else it ends by itself.
const RELEASE: Duration = Duration::from_millis(500);

/// How an announcer behaves.
#[derive(Debug, Clone, Copy)]
pub struct AnnouncerSettings {
    /// How long a gateway's sessions are found after it was heard of last. It says so three times as often.
    pub lease: Duration,
    /// Sessions of this gateway that are registered, at most; further ones are not, and are not found.
    pub capacity: usize,
}

/// See the module. Cloning shares it.
#[derive(Clone)]
pub struct Announcer(Arc<Shared>);

struct Shared {
    registry: Arc<dyn Registry>,
    gateway: Incarnation,
    settings: AnnouncerSettings,
    table: Mutex<Table>,
    /// The number of the lease in force, as far as is known; 0: none.
    lease: AtomicU64,
    /// The store did not answer, and the lease was not renewed since.
    is_failing: AtomicBool,
    /// It was said that something cannot be read.
    told_of_format: AtomicBool,
    /// Something happened.
    changed: Notify,
    /// So much that it should be told at once, or somebody waits for it.
    full: Notify,
    /// Something was told.
    told: watch::Sender<()>,
    metrics: AnnouncerMetrics,
}

/// The user has as many sessions as there may be, over all gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many sessions of this user")]
pub struct OverLimit;

impl Announcer {
    /// Announces the sessions of `gateway`, which has none yet, until the context's tasks are stopped; then it
    /// releases the lease. Registers the metrics `registry`.
    pub fn start(
        registry: Arc<dyn Registry>,
        gateway: Incarnation,
        settings: AnnouncerSettings,
        context: &Context,
    ) -> Self {
        let shared = Arc::new(Shared {
            registry,
            gateway,
            settings,
            table: Mutex::new(Table::new(settings.capacity)),
            lease: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
            told_of_format: AtomicBool::new(false),
            changed: Notify::new(),
            full: Notify::new(),
            told: watch::Sender::new(()),
            metrics: AnnouncerMetrics::register(&context.metrics),
        });
        spawn(Arc::clone(&shared), &context.tasks);
        Self(shared)
    }

    /// The registry, for what others' sessions are asked.
    pub fn registry(&self) -> &Arc<dyn Registry> {
        &self.0.registry
    }

    /// A session of `user` begins; it is registered as long as the guard lives. Of an anonymous one (with an empty
    /// user) nothing is registered.
    ///
    /// With a `limit`, the store is asked whether the user has fewer others, over all gateways, which takes a second at
    /// most, and a tenth of one at least where the answer is no. Where it does not answer, the session may begin.
    /// Cancel safe: then it never began.
    ///
    /// # Errors
    /// [`OverLimit`].
    pub async fn enter(
        &self,
        user: &str,
        session: NewSession,
        limit: Option<usize>,
    ) -> Result<Registration, OverLimit> {
        let mut registration = Registration {
            shared: None,
            user: user.into(),
            client: session.client,
            may_be_stored: true,
        };
        if user.is_empty() {
            return Ok(registration);
        }
        let shared = &self.0;
        let lease = shared.lease();
        let asked = limit.zip(lease.filter(|_| !shared.is_failing()));
        let user = Arc::clone(&registration.user);
        if limit.is_some() && asked.is_none() {
            shared.metrics.not_asked.inc();
        }
        if shared
            .table
            .lock()
            .enter(&user, session.clone(), asked.is_some())
            .is_err()
        {
            shared.metrics.left_out.inc();
            return Ok(registration);
        }
        // From here on the guard takes it out again.
        registration.shared = Some(Arc::clone(shared));
        if let Some((limit, lease)) = asked {
            let admission = shared.in_time(shared.admit(lease, &user, &session, limit));
            let stored = match admission.await {
                Some(Admission::Admitted) => shared.lease() == Some(lease),
                Some(Admission::OverLimit) => {
                    registration.may_be_stored = false;
                    return Err(OverLimit);
                }
                None => {
                    shared.metrics.not_asked.inc();
                    false
                }
            };
            shared.table.lock().admitted(&user, session.client, stored);
        }
        shared.note_change();
        Ok(registration)
    }

    /// The subscriptions that are kept for a user, asked for a second at most; `None` where the store does not answer. Of the
    /// empty user, none. Cancel safe.
    pub async fn kept_subscriptions(&self, user: &str) -> Option<Vec<KeptSubscription>> {
        let shared = &self.0;
        if user.is_empty() {
            return Some(Vec::new());
        }
        let kept = match shared.is_failing() {
            true => None,
            false => shared.in_time(shared.registry.kept_subscriptions(user)).await,
        };
        if kept.is_none() {
            shared.metrics.not_restored.inc();
        }
        kept
    }
}

/// A session's place in the registry.
#[must_use = "the session is registered as long as this lives"]
pub struct Registration {
    /// `None`: it is not registered.
    shared: Option<Arc<Shared>>,
    user: Arc<str>,
    client: Uuid,
    may_be_stored: bool,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            let mut table = shared.table.lock();
            table.leave(&self.user, self.client, self.may_be_stored);
            drop(table);
            shared.note_change();
        }
    }
}

impl Shared {
    fn lease(&self) -> Option<Lease> {
        let number = self.lease.load(Ordering::Relaxed);
        (number > 0).then_some(Lease {
            gateway: self.gateway,
            number,
        })
    }

    /// Asks once more where the answer is no: a session that ended moments ago, here or at another gateway, may still
    /// count, and a client that is told of a limit does not come back.
    async fn admit(
        &self,
        lease: Lease,
        user: &str,
        session: &NewSession,
        limit: usize,
    ) -> Result<Admission, RegistryError> {
        let mut told = self.told.subscribe();
        if self.registry.admit(lease, user, session, limit).await? == Admission::Admitted {
            return Ok(Admission::Admitted);
        }
        self.full.notify_one();
        tokio::time::sleep(2 * COALESCE).await;
        // What is on its way may have been taken before it ended; what is taken after that is all of it. Not until nothing
        // is left: who comes and goes all the time would be let in by waiting long enough.
        for _ in 0..2 {
            if self.table.lock().has_ended(user) {
                // Its sender lives as long as this.
                told.changed().await.ok();
            }
        }
        self.registry.admit(lease, user, session, limit).await
    }

    fn note_change(&self) {
        let fill = self.table.lock().fill();
        self.metrics.fill(fill);
        self.changed.notify_one();
        if fill.waiting >= BATCH {
            self.full.notify_one();
        }
    }

    /// What the registry answers to somebody who waits; `None`: nothing, or not soon.
    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, RegistryError>>) -> Option<T> {
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let late = || RegistryError::Unavailable(format!("no answer within {PATIENCE:?}"));
        let answer = answer.unwrap_or_else(|_| Err(late()));
        answer.inspect_err(|error| self.note_failure(error)).ok()
    }

    fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    fn note_failure(&self, error: &RegistryError) {
        self.metrics.failures.inc();
        match error {
            RegistryError::Unavailable(why) => {
                tracing::debug!(why, "the registry does not answer");
                // Nobody who waits asks until the lease was renewed, which is tried at once.
                self.is_failing.store(true, Ordering::Relaxed);
                self.changed.notify_one();
            }
            // Of one user; the others can be asked. Said once, since it may be said of each.
            RegistryError::Format(error) => {
                if !self.told_of_format.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the registry holds what this release cannot read");
                }
            }
        }
    }
}

fn spawn(shared: Arc<Shared>, tasks: &Tasks) {
    let stop = tasks.stop_token();
    tasks.spawn("registry-announcer", TaskKind::Essential, async move {
        let mut work = Work {
            renew_at: Instant::now(),
            last: 0,
            has_begun: false,
            shared,
        };
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = work.turn() => {}
            }
        }
        work.release().await;
    });
}

/// The announcer's task.
struct Work {
    shared: Arc<Shared>,
    renew_at: Instant,
    /// The number of the last lease that was tried to begin.
    last: u64,
    /// It had a lease once.
    has_begun: bool,
}

impl Work {
    /// Does what is due, and waits for more. Dropped half-way, something may have been told that the table does not know:
    /// only at the end.
    async fn turn(&mut self) {
        if let Err(error) = self.work().await {
            self.shared.note_failure(&error);
            self.shared.metrics.fill(self.shared.table.lock().fill());
            self.renew_at = Instant::now();
            // Gateways whose store comes back do not all come at once.
            tokio::time::sleep(RETRY.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        }
    }

    async fn work(&mut self) -> Result<(), RegistryError> {
        let is_due = self.renew_at <= Instant::now() || self.shared.is_failing();
        if is_due || self.shared.table.lock().needs_a_new_lease() {
            self.keep_lease().await?;
        }
        let Some(lease) = self.shared.lease() else {
            return Ok(());
        };
        let changes = self.shared.table.lock().take(BATCH);
        if changes.is_empty() {
            self.wait().await;
            return Ok(());
        }
        let told = self.shared.registry.announce(lease, &changes).await;
        let mut table = self.shared.table.lock();
        match &told {
            Ok(announced) if announced.held => table.told(&changes),
            _ => table.failed(&changes),
        }
        self.shared.metrics.fill(table.fill());
        drop(table);
        let announced = told?;
        self.shared.told.send_replace(());
        self.shared
            .metrics
            .left_out
            .inc_by(u64::try_from(announced.left_out).unwrap_or(u64::MAX));
        if !announced.held {
            self.renew_at = Instant::now();
        }
        Ok(())
    }

    /// Until there is something to tell, and then a little for more of it, or until the lease is to be renewed.
    async fn wait(&self) {
        let happens = async {
            self.shared.changed.notified().await;
            tokio::time::timeout(COALESCE, self.shared.full.notified())
                .await
                .ok();
        };
        tokio::time::timeout_at(self.renew_at, happens).await.ok();
    }

    /// Renews the lease; where it is gone, begins the next one, under which all is announced anew.
    async fn keep_lease(&mut self) -> Result<(), RegistryError> {
        let shared = &self.shared;
        let lasts = shared.settings.lease;
        let every = lasts / 3;
        let is_over = shared.table.lock().needs_a_new_lease();
        let held = match shared.lease().filter(|_| !is_over) {
            Some(lease) => shared.registry.renew(lease, lasts).await?,
            None => false,
        };
        if !held {
            let is_first = !self.has_begun;
            shared.lease.store(0, Ordering::Relaxed);
            self.last += 1;
            let lease = Lease {
                gateway: shared.gateway,
                number: self.last,
            };
            shared.registry.begin(lease, lasts).await?;
            shared.table.lock().new_lease();
            shared.lease.store(lease.number, Ordering::Relaxed);
            self.has_begun = true;
            if !is_first {
                shared.metrics.resyncs.inc();
                tracing::info!(
                    "the registry's store had lost this gateway's sessions, which are registered anew"
                );
            }
        } else {
            let rounds = (FORGOTTEN_AFTER / 3).as_millis() / every.as_millis().max(1);
            let parts = usize::try_from(rounds).unwrap_or(usize::MAX);
            shared.table.lock().refresh(parts);
        }
        shared.is_failing.store(false, Ordering::Relaxed);
        self.renew_at = Instant::now() + every;
        Ok(())
    }

    async fn release(&self) {
        if let Some(lease) = self.shared.lease() {
            let released = self.shared.registry.release(lease);
            // Whoever looks for this gateway's sessions meanwhile finds none: they have ended.
            tokio::time::timeout(RELEASE, released).await.ok();
        }
    }
}
