//! Who is refused, and who has to go.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use switchboard_bus::messages::ask;
use switchboard_proto::channel::{ChannelName, MAX_CHANNEL_LENGTH};
use switchboard_proto::codes::{DisconnectCode, ErrorCode};
use switchboard_proto::messages::{
    ModerationAct, ModerationEntry, ModerationKind, RestrictedRequest, Restriction, RestrictionKey, method,
};
use switchboard_proto::time::now_us;
use tokio::time::Instant;

use super::state::{Said, State, is_before};
use super::{Moderation, Standing};
use crate::auth::Stamp;
use crate::gateway::Gateway;
use crate::session::SessionHandle;

/// What a question about somebody may take, at most.
const LIMIT: Duration = Duration::from_secs(2);

/// Sessions that are looked at before others have their turn.
const A_TURN: usize = 256;

/// Sessions about which the store is asked before it is looked at what is new, and of these at a time.
const SOME: usize = 256;
const ASKED_AT_ONCE: usize = 32;

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The user is blocked.
    Blocked,
    /// The token counts no more.
    Token,
    /// It is not known, and may be later.
    Unknown,
}

impl Refused {
    /// With which code a connection ends for it.
    fn code(self) -> DisconnectCode {
        match self {
            Self::Blocked => DisconnectCode::UserBlocked,
            // SDKs come back with a fresh token.
            Self::Token => DisconnectCode::StateInvalidated,
            Self::Unknown => DisconnectCode::ForceReconnect,
        }
    }
}

impl Moderation {
    /// Whether the user may be here, with this token, as far as is known here. `None`: a token was not needed.
    pub(crate) fn says(&self, user: &str, stamp: Option<&Stamp>) -> Result<(), Refused> {
        let now = now_us();
        let state = self.state.read();
        let of_user = state.blocks(user, now);
        let of_token = stamp.map_or(Said::Free, |stamp| state.revokes(user, stamp, now));
        match (of_user, of_token) {
            (Said::Restricted, _) => Err(Refused::Blocked),
            (_, Said::Restricted) => Err(Refused::Token),
            (Said::Unknown, _) | (_, Said::Unknown) => Err(Refused::Unknown),
            (Said::Free, Said::Free) => Ok(()),
        }
    }

    /// As [`Moderation::says`], and what is not known here is asked, by `deadline`. Cancel safe.
    pub(crate) async fn lets_in(
        &self,
        user: &str,
        stamp: Option<&Stamp>,
        deadline: Instant,
    ) -> Result<(), Refused> {
        self.is_known(deadline).await?;
        let said = self.says(user, stamp);
        let said = match said {
            Err(Refused::Unknown) => self.asked(user, stamp, deadline).await,
            said => said,
        };
        if said.is_err() {
            self.metrics.refused_connects.inc();
        }
        said
    }

    /// Waits until it is known what is in force, for as long as a start may take.
    async fn is_known(&self, deadline: Instant) -> Result<(), Refused> {
        if *self.standing.borrow() != Standing::Unknown {
            return Ok(());
        }
        let mut standing = self.standing.subscribe();
        let known = standing.wait_for(|standing| *standing != Standing::Unknown);
        let until = match self.config.required {
            true => deadline,
            false => deadline.min(self.begun + self.config.start_wait),
        };
        match tokio::time::timeout_at(until, known).await {
            Err(_) if self.config.required => Err(Refused::Unknown),
            // Who should not be here is found when it is known.
            _ => Ok(()),
        }
    }

    async fn asked(&self, user: &str, stamp: Option<&Stamp>, deadline: Instant) -> Result<(), Refused> {
        let key = |kind: ModerationKind, user: &str, token: &str| RestrictionKey {
            kind: kind.into(),
            user: user.to_owned(),
            channel: String::new(),
            token: token.to_owned(),
        };
        let mut keys = Vec::new();
        if !user.is_empty() {
            keys.push(key(ModerationKind::BlockUser, user, ""));
        }
        if let Some(stamp) = stamp {
            keys.push(key(ModerationKind::InvalidateTokens, "", ""));
            if !user.is_empty() {
                keys.push(key(ModerationKind::InvalidateTokens, user, ""));
            }
            keys.extend(
                stamp
                    .id
                    .as_deref()
                    .map(|id| key(ModerationKind::RevokeToken, "", id)),
            );
        }
        let found = self.ask(keys, deadline).await.ok_or(Refused::Unknown)?;
        for one in &found {
            match one.kind() {
                ModerationKind::BlockUser => return Err(Refused::Blocked),
                ModerationKind::RevokeToken => return Err(Refused::Token),
                ModerationKind::InvalidateTokens
                    if stamp.is_some_and(|stamp| is_before(stamp, one.issued_before_us)) =>
                {
                    return Err(Refused::Token);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `None`: the store does not answer.
    async fn ask(&self, keys: Vec<RestrictionKey>, deadline: Instant) -> Option<Vec<Restriction>> {
        self.metrics.asked.inc();
        let within = deadline.saturating_duration_since(Instant::now()).min(LIMIT);
        let request = RestrictedRequest { keys };
        match ask::<method::Restricted>(&*self.bus, &request, within).await {
            Ok(found) => Some(found.restrictions),
            Err(error) => {
                tracing::warn!(%error, "it is not known who is blocked or muted, nobody more is let in or heard");
                None
            }
        }
    }

    /// Whether the user may say something in the channel, or show there that he does. What is not known here is asked, by `deadline`.
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ErrorCode::PermissionDenied`]; [`ErrorCode::Internal`], temporary: it is not known.
    pub(crate) async fn lets_speak(
        &self,
        user: &str,
        channel: &ChannelName,
        deadline: Instant,
    ) -> Result<(), ErrorCode> {
        if !self.restricts_speech.load(Ordering::Acquire) || user.is_empty() {
            return Ok(());
        }
        let (blocked, muted) = {
            let now = now_us();
            let state = self.state.read();
            (state.blocks(user, now), state.mutes(user, channel.as_str(), now))
        };
        let outcome = match (blocked, muted) {
            (Said::Restricted, _) | (_, Said::Restricted) => Err(ErrorCode::PermissionDenied),
            // Who is connected was asked about at the connect, and is closed by what came later.
            (_, Said::Free) => Ok(()),
            (_, Said::Unknown) => {
                let key = RestrictionKey {
                    kind: ModerationKind::MuteUser.into(),
                    user: user.to_owned(),
                    channel: channel.as_str().to_owned(),
                    token: String::new(),
                };
                match self.ask(vec![key], deadline).await {
                    Some(found) if found.is_empty() => Ok(()),
                    Some(_) => Err(ErrorCode::PermissionDenied),
                    None => Err(ErrorCode::Internal),
                }
            }
        };
        if outcome.is_err() {
            self.metrics.refused_speech.inc();
        }
        outcome
    }

    /// Keeps a restriction, or that there is no room for it.
    pub(super) fn place(&self, state: &mut State, restriction: &Restriction) {
        let lacked = state.lacks(restriction.kind());
        if !state.place(restriction) {
            self.metrics.not_kept.inc();
            if !lacked {
                tracing::warn!(
                    kind = restriction.kind().as_str_name(),
                    "more restrictions than gateway.moderation.restrictions: the store is asked about everybody"
                );
            }
        }
    }

    /// Enters what entries of the log say.
    pub(super) fn enter(&self, state: &mut State, entries: &[ModerationEntry]) {
        for entry in entries {
            let Some(act) = &entry.act else { continue };
            match act.kind() {
                ModerationKind::UnblockUser => state.unblock(&act.user),
                ModerationKind::UnmuteUser => state.unmute(&act.user, &act.channel),
                _ => self.place(state, &restriction(act, entry.number)),
            }
        }
    }
}

/// What is in force by an act that places something.
fn restriction(act: &ModerationAct, number: u64) -> Restriction {
    Restriction {
        kind: act.kind,
        user: act.user.clone(),
        channel: act.channel.clone(),
        token: act.token.clone(),
        until_us: act.until_us,
        issued_before_us: act.issued_before_us,
        reason: String::new(),
        number,
    }
}

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
                    Ok(()) => {
                        let is_over =
                            |stamp: &Stamp| self.moderation.says(user, Some(stamp)) == Err(Refused::Token);
                        ended += session.revoke_subscriptions(is_over);
                    }
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
            match said {
                Ok(()) => {}
                Err(Refused::Unknown) if !self.moderation.config.required => {}
                Err(refused) => {
                    session.close(refused.code());
                    self.moderation.metrics.closed.inc();
                }
            }
        });
        looks
            .buffer_unordered(ASKED_AT_ONCE)
            .for_each(async |()| ())
            .await;
    }
}
