//! Watching users: the snapshot, the changes as they come, and everything again where some may have been missed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard_bus::messages::{AskError, ask};
use switchboard_bus::{Bus, Subscription};
use switchboard_proto::client::{Message, Push, Reply};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::format;
use switchboard_proto::presence::{self as wire, Changes, GetUsersRequest, method};
use tokio::time::Instant;
use uuid::Uuid;

use super::Presence;
use super::watching::{Seen, seen};
use crate::session::{SessionHandle, SharedReply};

/// Users of one question.
const ASKED: usize = 1_000;

/// What a question may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// A replica says something every second: one that is silent for so long is dead, or cut off.
const SILENCE: Duration = Duration::from_secs(3);

/// Between two tries of asking for everything again.
const RETRY: Duration = Duration::from_secs(1);

/// Who is watched, as who asked sees it.
pub(crate) type Watched = Seen;

impl Presence {
    /// A session watches users from now on. Returns what it sees of them; changes follow.
    ///
    /// # Errors
    /// [`ErrorCode::LimitExceeded`]: more than one connection, or the gateway, may watch. [`ErrorCode::Internal`], temporary: the
    /// presence service does not answer; nothing is watched.
    pub(crate) async fn watch(
        &self,
        bus: &dyn Bus,
        session: &Arc<SessionHandle>,
        users: &[String],
        shared: &HashSet<String>,
    ) -> Result<Vec<Watched>, WatchError> {
        let client = session.client();
        // First, so that no change falls between.
        let mut begun = {
            let mut watching = self.watching.lock();
            let new = watching
                .watch(session, users, shared)
                .map_err(WatchError::Refused)?;
            self.metrics
                .watched
                .set(i64::try_from(watching.count()).unwrap_or(i64::MAX));
            Begun {
                presence: self,
                client,
                users: new,
            }
        };
        let learned = self.learn(bus, users, Some(client)).await;
        learned.map_err(WatchError::NotAnswered)?;
        begun.users.clear();
        Ok(self.watching.lock().seen_by(client, users))
    }

    /// It watches them no more.
    pub(crate) fn unwatch(&self, client: Uuid, users: &[String]) {
        let mut watching = self.watching.lock();
        watching.unwatch(client, users);
        self.metrics
            .watched
            .set(i64::try_from(watching.count()).unwrap_or(i64::MAX));
    }

    /// Asks for users and tells who watches what is new.
    async fn learn(&self, bus: &dyn Bus, users: &[String], snapshot: Option<Uuid>) -> Result<(), AskError> {
        for users in users.chunks(ASKED) {
            let request = GetUsersRequest {
                users: users.to_vec(),
            };
            let answer = ask::<method::GetUsers>(bus, &request, PATIENCE).await?;
            self.hear(answer.users, snapshot);
        }
        Ok(())
    }

    fn hear(&self, changed: Vec<wire::Presence>, snapshot: Option<Uuid>) {
        // Pushed under the lock, so that nobody is told an older change behind a newer one. A push never waits.
        let mut watching = self.watching.lock();
        for presence in changed {
            for (session, seen) in watching.learn(presence, snapshot) {
                session.push_shared(&SharedReply::system(push(&seen)));
                self.metrics.told.inc();
            }
        }
    }
}

/// Watches that were not answered yet: given up where they are not.
struct Begun<'a> {
    presence: &'a Presence,
    client: Uuid,
    users: Vec<String>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.presence.unwatch(self.client, &self.users);
    }
}

/// Why nothing is watched.
#[derive(Debug)]
pub(crate) enum WatchError {
    Refused(ErrorCode),
    NotAnswered(AskError),
}

/// Hears what changed, and asks for everything again where it may have missed something. Ends with the bus.
pub(crate) async fn keep_true(presence: Arc<Presence>, bus: Arc<dyn Bus>, changes: Subscription) {
    tokio::join!(hear(&presence, changes), ask_again(&presence, bus.as_ref()));
}

async fn hear(presence: &Presence, mut changes: Subscription) {
    // Of each replica: its last number, and when that was heard.
    let mut replicas: HashMap<Vec<u8>, (u64, Instant)> = HashMap::new();
    loop {
        let Ok(message) = tokio::time::timeout(SILENCE, changes.next()).await else {
            replicas.clear();
            continue;
        };
        let Some(message) = message else { return };
        let changes: Changes = match format::decode(message.payload) {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(%error, "changes of users cannot be read");
                continue;
            }
        };
        let now = Instant::now();
        let before = replicas.len();
        replicas.retain(|_, (_, heard)| *heard + SILENCE > now);
        let last = replicas.insert(changes.replica.to_vec(), (changes.number, now));
        // One that fell silent may have died with something on its way. The first frame of one may follow others that were missed.
        let is_known = last.map(|(last, _)| last + 1) == Some(changes.number);
        if replicas.len() < before || !is_known {
            presence.ask_again.notify_one();
        }
        presence.hear(changes.users, None);
    }
}

async fn ask_again(presence: &Presence, bus: &dyn Bus) {
    let mut disruptions = bus.disruptions();
    loop {
        tokio::select! {
            () = presence.ask_again.notified() => {}
            Ok(()) = disruptions.changed() => {}
        }
        let users = presence.watching.lock().users();
        if users.is_empty() {
            continue;
        }
        presence.metrics.asked_again.inc();
        if let Err(error) = presence.learn(bus, &users, None).await {
            tracing::debug!(%error, "watched users are asked for again later");
            presence.ask_again.notify_one();
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// What a viewer sees of one user of whom nothing is watched.
pub(crate) fn glance(presence: &wire::Presence, viewer: &str, shares: bool) -> Watched {
    seen(presence, viewer, shares)
}

/// As clients read it: part of the client protocol, see `docs/presence.md`.
pub(crate) fn told(seen: &Seen) -> Value {
    let mut told = json!({ "user": seen.user, "status": seen.status.word() });
    if let Some(told) = told.as_object_mut() {
        if !seen.text.is_empty() {
            told.insert("text".to_owned(), seen.text.clone().into());
        }
        for (name, ms) in [("since", seen.since_ms), ("last_seen", seen.last_seen_ms)] {
            if ms != 0 {
                told.insert(name.to_owned(), ms.into());
            }
        }
    }
    told
}

fn push(seen: &Seen) -> Reply {
    let data = json!({ "presence": told(seen) });
    let push = Push {
        message: Some(Message {
            data: data.to_string().into(),
        }),
        ..Push::default()
    };
    Reply {
        push: Some(push),
        ..Reply::default()
    }
}
