//! Who has to go: what entries of the audit log, and all that is in force, mean for the sessions that are here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use switchboard_proto::channel::{ChannelName, MAX_CHANNEL_LENGTH};
use switchboard_proto::codes::DisconnectCode;
use switchboard_proto::messages::{ModerationEntry, ModerationKind};
use switchboard_proto::time::now_us;
use tokio::time::Instant;

use super::judge::{LIMIT, Refused};
use super::state::is_before;
use crate::auth::Stamp;
use crate::gateway::Gateway;
use crate::session::SessionHandle;

/// Sessions that are looked at before others have their turn.
const A_TURN: usize = 256;

/// Sessions about which the store is asked before it is looked at what is new, and of these at a time.
const SOME: usize = 256;
const ASKED_AT_ONCE: usize = 32;

/// What entries of the log say of tokens, together: all sessions are looked at once for it.
#[derive(Default)]
struct Revoked<'a> {
    ids: HashSet<&'a str>,
    /// Issued before this time, by user; of nobody: of all.
    before: HashMap<&'a str, u64>,
}

impl Revoked<'_> {
    fn concerns_all(&self) -> bool {
        !self.ids.is_empty() || self.before.contains_key("")
    }

    fn has(&self, user: &str, stamp: &Stamp) -> bool {
        let is_of = |user: &str| {
            self.before
                .get(user)
                .is_some_and(|before| is_before(stamp, *before))
        };
        stamp.id.as_deref().is_some_and(|id| self.ids.contains(id)) || is_of("") || is_of(user)
    }
}

impl Gateway {
    /// Carries out on the sessions of this gateway what entries of the log say. They are entered already, so who comes now is refused.
    pub(super) async fn carry_out(&self, entries: &[ModerationEntry]) {
        let mut ended = 0;
        let mut revoked = Revoked::default();
        // What is lifted by a later one of these is not begun: nobody who was sent away for good comes back by himself.
        let mut lifted = HashSet::new();
        for act in entries.iter().filter_map(|entry| entry.act.as_ref()) {
            match act.kind() {
                ModerationKind::UnblockUser => drop(lifted.insert(act.user.as_str())),
                ModerationKind::BlockUser => drop(lifted.remove(act.user.as_str())),
                _ => {}
            }
        }
        for act in entries.iter().filter_map(|entry| entry.act.as_ref()) {
            // An act that is carried out late may be over.
            if act.until_us > 0 && act.until_us <= now_us() {
                continue;
            }
            match act.kind() {
                ModerationKind::BlockUser
                    if !lifted.contains(act.user.as_str())
                        && self.moderation.says(&act.user, None) != Ok(()) =>
                {
                    for session in self.sessions.of_user(&act.user) {
                        session.close(DisconnectCode::UserBlocked);
                        ended += 1;
                    }
                }
                ModerationKind::MuteUser => {
                    if let Ok(channel) = ChannelName::parse(&act.channel, MAX_CHANNEL_LENGTH) {
                        for session in self.sessions.of_user(&act.user) {
                            self.types_no_more(&session, &channel);
                        }
                    }
                }
                ModerationKind::RevokeToken => drop(revoked.ids.insert(&act.token)),
                ModerationKind::InvalidateTokens => {
                    let before = revoked.before.entry(&act.user).or_default();
                    *before = act.issued_before_us.max(*before);
                }
                ModerationKind::BlockUser
                | ModerationKind::Unspecified
                | ModerationKind::UnblockUser
                | ModerationKind::UnmuteUser => {}
            }
        }
        let sessions = match revoked.concerns_all() {
            true => self.sessions.all(),
            false => revoked
                .before
                .keys()
                .flat_map(|user| self.sessions.of_user(user))
                .collect(),
        };
        for turn in sessions.chunks(A_TURN) {
            for session in turn {
                let user = session.user();
                if session.came_with(|stamp| revoked.has(user, stamp)) {
                    session.close(DisconnectCode::StateInvalidated);
                    ended += 1;
                } else {
                    ended += session.revoke_subscriptions(|stamp| revoked.has(user, stamp));
                }
            }
            tokio::task::yield_now().await;
        }
        self.moderation.metrics.closed.inc_by(ended as u64);
        if ended > 0 {
            tracing::info!(ended, "connections and subscriptions ended by moderation");
        }
    }

    /// Looks at all sessions, and ends what should not be here: how much it was. And those of which it is not known here.
    pub(super) async fn look_at_all(&self) -> (usize, VecDeque<Arc<SessionHandle>>) {
        let mut ended = 0;
        let mut unknown = VecDeque::new();
        for turn in self.sessions.all().chunks(A_TURN) {
            for session in turn {
                let user = session.user();
                match self.moderation.says(user, session.stamp().as_ref()) {
                    Ok(()) => ended += self.end_void_subscriptions(session),
                    Err(Refused::Unknown) => unknown.push_back(Arc::clone(session)),
                    Err(refused) => {
                        session.close(refused.code());
                        ended += 1;
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        self.moderation.metrics.closed.inc_by(ended as u64);
        (ended, unknown)
    }

    /// Ends the subscriptions that were made with tokens of their own which count no more, as far as is known here. How many it were.
    fn end_void_subscriptions(&self, session: &SessionHandle) -> usize {
        let user = session.user();
        session.revoke_subscriptions(|stamp| self.moderation.says(user, Some(stamp)) == Err(Refused::Token))
    }

    /// Asks the store about the first of these, and ends what should not be here. Where it does not answer they stay, and are not asked
    /// about again: they were let in by the same rule. Where `required`, they have to come again.
    pub(super) async fn look_at_some(&self, unknown: &mut VecDeque<Arc<SessionHandle>>) {
        let some: Vec<_> = unknown.drain(..unknown.len().min(SOME)).collect();
        let looks = stream::iter(some).map(async |session: Arc<SessionHandle>| {
            let stamp = session.stamp();
            let deadline = Instant::now() + LIMIT;
            let said = self
                .moderation
                .asked(session.user(), stamp.as_ref(), deadline)
                .await;
            let ended = match said {
                Ok(()) => self.end_void_subscriptions(&session),
                Err(Refused::Unknown) if !self.moderation.config.required => 0,
                Err(refused) => {
                    session.close(refused.code());
                    1
                }
            };
            self.moderation.metrics.closed.inc_by(ended as u64);
        });
        looks
            .buffer_unordered(ASKED_AT_ONCE)
            .for_each(async |()| ())
            .await;
    }
}
