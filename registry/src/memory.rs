//! The registry in this process: for one gateway, and for tests of several in one process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::ids::Incarnation;
use switchboard_proto::time::now_us;
use tokio::time::Instant;
use uuid::Uuid;

use crate::by_client::ByClient;
use crate::registry::{
    Admission, Announced, Change, FORGOTTEN_AFTER, KeepError, KeptSubscription, LONGEST_KEPT, Lease,
    MAX_SESSIONS_PER_USER, NewSession, Registry, RegistryError, Session, SubscriptionOptions, UserPage,
};

/// See the module. Sessions are bounded by what gateways may hold; kept subscriptions by user, and each has an end.
#[derive(Debug)]
pub struct MemoryRegistry {
    kept_per_user: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    gateways: HashMap<Incarnation, Gateway>,
    sessions: HashMap<String, ByClient<Registered>>,
    kept: HashMap<String, BTreeMap<ChannelName, Kept>>,
    /// When [`State::sweep`] has something to do at the earliest.
    next_sweep: Option<Instant>,
}

#[derive(Debug)]
struct Gateway {
    lease: u64,
    until: Instant,
    users: HashSet<String>,
}

#[derive(Debug)]
struct Registered {
    lease: Lease,
    session: NewSession,
    forgotten_at: Instant,
}

#[derive(Debug)]
struct Kept {
    options: SubscriptionOptions,
    until: Instant,
}

/// Between two looks for what ended.
const SWEEP: Duration = Duration::from_secs(10);

impl MemoryRegistry {
    /// Nobody is registered, and nothing kept. `kept_per_user`: subscriptions, at most.
    pub fn new(kept_per_user: usize) -> Self {
        Self {
            kept_per_user,
            state: Mutex::default(),
        }
    }

    /// The state, without what has ended long ago.
    fn with<T>(&self, work: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.next_sweep.is_none_or(|next| next <= now) {
            state.sweep(now);
        }
        work(&mut state, now)
    }
}

impl State {
    fn is_held(&self, lease: Lease, now: Instant) -> bool {
        self.gateways
            .get(&lease.gateway)
            .is_some_and(|gateway| gateway.lease == lease.number && gateway.until > now)
    }

    fn is_there(&self, registered: &Registered, now: Instant) -> bool {
        registered.forgotten_at > now && self.is_held(registered.lease, now)
    }

    /// Registers it where there are fewer than `limit` others.
    fn enter(&mut self, lease: Lease, user: &str, session: &NewSession, limit: usize, now: Instant) -> bool {
        let mut sessions = self.sessions.remove(user).unwrap_or_default();
        if sessions.len() >= limit {
            sessions.retain(|registered| self.is_there(registered, now));
        }
        let fits = sessions.contains(session.client) || sessions.len() < limit;
        if fits {
            let registered = Registered {
                lease,
                session: session.clone(),
                forgotten_at: now + FORGOTTEN_AFTER,
            };
            sessions.insert(session.client, registered);
        }
        if !sessions.is_empty() {
            self.sessions.insert(user.to_owned(), sessions);
        }
        fits
    }

    fn leave(&mut self, user: &str, client: Uuid) {
        if let Some(sessions) = self.sessions.get_mut(user) {
            sessions.remove(client);
            if sessions.is_empty() {
                self.sessions.remove(user);
            }
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.next_sweep = Some(now + SWEEP);
        self.gateways.retain(|_, gateway| gateway.until > now);
        let mut sessions = std::mem::take(&mut self.sessions);
        sessions.retain(|_, sessions| {
            sessions.retain(|registered| self.is_there(registered, now));
            !sessions.is_empty()
        });
        self.sessions = sessions;
        self.kept.retain(|_, kept| {
            kept.retain(|_, kept| kept.until > now);
            !kept.is_empty()
        });
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn begin(&self, lease: Lease, lasts: Duration) -> Result<(), RegistryError> {
        self.with(|state, now| {
            let gateway = Gateway {
                lease: lease.number,
                until: now + lasts,
                users: HashSet::new(),
            };
            state.gateways.insert(lease.gateway, gateway);
        });
        Ok(())
    }

    async fn renew(&self, lease: Lease, lasts: Duration) -> Result<bool, RegistryError> {
        Ok(self.with(|state, now| {
            let held = state.is_held(lease, now);
            if held && let Some(gateway) = state.gateways.get_mut(&lease.gateway) {
                gateway.until = now + lasts;
            }
            held
        }))
    }

    async fn release(&self, lease: Lease) -> Result<(), RegistryError> {
        self.with(|state, now| {
            if state.is_held(lease, now) {
                state.gateways.remove(&lease.gateway);
            }
        });
        Ok(())
    }

    async fn announce(&self, lease: Lease, changes: &[Change]) -> Result<Announced, RegistryError> {
        Ok(self.with(|state, now| {
            let held = state.is_held(lease, now);
            let mut left_out = 0;
            for change in changes {
                for client in &change.disconnected {
                    state.leave(&change.user, *client);
                }
                for session in &change.connected {
                    let fits = state.enter(lease, &change.user, session, MAX_SESSIONS_PER_USER, now);
                    left_out += usize::from(!fits);
                }
                if held && let Some(gateway) = state.gateways.get_mut(&lease.gateway) {
                    match change.is_here {
                        true => drop(gateway.users.insert(change.user.clone())),
                        false => drop(gateway.users.remove(&change.user)),
                    }
                }
            }
            Announced { held, left_out }
        }))
    }

    async fn admit(
        &self,
        lease: Lease,
        user: &str,
        session: &NewSession,
        limit: usize,
    ) -> Result<Admission, RegistryError> {
        let limit = limit.min(MAX_SESSIONS_PER_USER);
        let fits = self.with(|state, now| state.enter(lease, user, session, limit, now));
        Ok(match fits {
            true => Admission::Admitted,
            false => Admission::OverLimit,
        })
    }

    async fn sessions(&self, user: &str) -> Result<Vec<Session>, RegistryError> {
        Ok(self.with(|state, now| {
            let sessions = state.sessions.get(user).into_iter();
            sessions
                .flat_map(ByClient::iter)
                .filter(|(_, registered)| state.is_there(registered, now))
                .map(|(client, registered)| Session {
                    client,
                    gateway: registered.lease.gateway,
                    device: registered.session.device.clone(),
                    since_us: registered.session.since_us,
                })
                .collect()
        }))
    }

    async fn users(
        &self,
        gateway: Incarnation,
        _after: Option<u64>,
        _count: usize,
    ) -> Result<UserPage, RegistryError> {
        // All of them fit into one answer: they are in this process anyway.
        Ok(self.with(|state, now| {
            let there = state.gateways.get(&gateway).filter(|there| there.until > now);
            UserPage {
                users: there.map_or_else(Vec::new, |there| there.users.iter().cloned().collect()),
                next: None,
            }
        }))
    }

    async fn keep_subscription(
        &self,
        user: &str,
        channel: &ChannelName,
        options: &SubscriptionOptions,
        lasts: Duration,
    ) -> Result<(), KeepError> {
        options.check()?;
        self.with(|state, now| {
            let kept = state.kept.entry(user.to_owned()).or_default();
            kept.retain(|_, kept| kept.until > now);
            if !kept.contains_key(channel) && kept.len() >= self.kept_per_user {
                return Err(KeepError::Full {
                    limit: self.kept_per_user,
                });
            }
            let until = now + lasts.min(LONGEST_KEPT);
            let options = options.clone();
            kept.insert(channel.clone(), Kept { options, until });
            Ok(())
        })
    }

    async fn forget_subscription(&self, user: &str, channel: &ChannelName) -> Result<bool, RegistryError> {
        Ok(self.with(|state, now| {
            let kept = state.kept.get_mut(user);
            let forgotten = kept.and_then(|kept| kept.remove(channel));
            if state.kept.get(user).is_some_and(BTreeMap::is_empty) {
                state.kept.remove(user);
            }
            forgotten.is_some_and(|kept| kept.until > now)
        }))
    }

    async fn kept_subscriptions(&self, user: &str) -> Result<Vec<KeptSubscription>, RegistryError> {
        let now_ms = now_us() / 1000;
        Ok(self.with(|state, now| {
            let kept = state.kept.get(user).into_iter().flatten();
            kept.filter(|(_, kept)| kept.until > now)
                .map(|(channel, kept)| {
                    let left = kept.until.saturating_duration_since(now).as_millis();
                    KeptSubscription {
                        channel: channel.clone(),
                        info: kept.options.info.clone(),
                        data: kept.options.data.clone(),
                        overrides: kept.options.overrides,
                        until_ms: now_ms.saturating_add(u64::try_from(left).unwrap_or(u64::MAX)),
                    }
                })
                .collect()
        }))
    }
}
