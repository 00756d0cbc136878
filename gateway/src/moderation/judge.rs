//! Who is refused: what is said of a user, a token or a mute, here or by the store.

use std::sync::atomic::Ordering;
use std::time::Duration;

use switchboard_bus::messages::ask;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::{DisconnectCode, ErrorCode};
use switchboard_proto::messages::{
    ModerationAct, ModerationEntry, ModerationKind, RestrictedRequest, Restriction, RestrictionKey, method,
};
use switchboard_proto::time::now_us;
use tokio::time::Instant;

use super::state::{Said, State, is_before};
use super::{Moderation, Standing};
use crate::auth::Stamp;

/// What a question about somebody may take, at most.
pub(super) const LIMIT: Duration = Duration::from_secs(2);

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
    pub(super) fn code(self) -> DisconnectCode {
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

    pub(super) async fn asked(
        &self,
        user: &str,
        stamp: Option<&Stamp>,
        deadline: Instant,
    ) -> Result<(), Refused> {
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
