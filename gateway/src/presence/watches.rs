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
use uuid::Uuid;

use super::Presence;
use super::watching::{Seen, seen};
use crate::session::{SessionHandle, SharedReply};

/// Users of one question.
const ASKED: usize = 1_000;

/// What a question may take.
const PATIENCE: Duration = Duration::from_secs(3);

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
        {
            let mut watching = self.watching.lock();
            watching
                .watch(session, users, shared)
                .map_err(WatchError::Refused)?;
            self.metrics
                .watched
                .set(i64::try_from(watching.count()).unwrap_or(i64::MAX));
        }
        match self.learn(bus, users, Some(client)).await {
            Ok(()) => Ok(self.watching.lock().seen_by(client, users)),
            Err(error) => {
                self.watching.lock().unwatch(client, users);
                Err(WatchError::NotAnswered(error))
            }
        }
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
        let mut news = Vec::new();
        {
            let mut watching = self.watching.lock();
            for presence in changed {
                news.extend(watching.learn(presence, snapshot));
            }
        }
        for (session, seen) in news {
            session.push_shared(&SharedReply::system(push(&seen)));
            self.metrics.told.inc();
        }
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
    // Of each replica that was heard. A few hundred are never alive at once; the rest are dead.
    let mut numbers: HashMap<Vec<u8>, u64> = HashMap::new();
    while let Some(message) = changes.next().await {
        let changes: Changes = match format::decode(message.payload) {
            Ok(changes) => changes,
            Err(error) => {
                tracing::warn!(%error, "changes of users cannot be read");
                continue;
            }
        };
        if numbers.len() > 256 {
            numbers.clear();
        }
        let last = numbers.insert(changes.replica.to_vec(), changes.number);
        // The first frame of a replica may follow others that nobody told of: it died, or the bus was cut.
        if last.map(|last| last + 1) != Some(changes.number) {
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
