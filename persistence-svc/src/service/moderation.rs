//! Acts of moderation, their log, and what is in force by them.

use switchboard_bus::messages::AskError;
use switchboard_proto::channel::MAX_CHANNEL_LENGTH;
use switchboard_proto::messages::{
    self, ModerateRequest, ModerateResponse, ModerationAct, ModerationEntry, ModerationKind,
    ModerationLogRequest, ModerationLogResponse, RestrictedRequest, RestrictedResponse, RestrictionKey,
    RestrictionsRequest, RestrictionsResponse,
};
use switchboard_proto::time::now_us;

use super::{Service, fault, limit};
use crate::store::moderation::{Act, Entry, Key, Kind, MAX_MODERATED, Restriction, Restrictions};

/// What is not said otherwise.
const LISTED: u32 = 100;

/// Keys of one question.
const MAX_KEYS: usize = 100;

/// Bytes of names, and of the words for the log.
const MAX_NAME: usize = 255;
const MAX_REASON: usize = 512;
const MAX_KEY: usize = 128;

/// How much later than now a token may say that it was issued: clocks differ.
const SKEW_US: u64 = 60 * 1_000_000;

/// The latest end of an act from now: a hundred years. What is later is not in the unit that is asked for.
const LONGEST_US: u64 = 100 * 366 * 24 * 3600 * 1_000_000;

impl Service {
    /// # Errors
    /// [`AskError::Invalid`] for an act that makes no sense, [`AskError::Unavailable`]: it may be done or not.
    pub(crate) async fn moderate(&self, request: ModerateRequest) -> Result<ModerateResponse, AskError> {
        let now = now_us();
        let asked = request.act.ok_or_else(|| invalid("an act is missing"))?;
        let act = act(asked, now)?;
        let (entry, duplicate) = self
            .store
            .moderate(&act, now)
            .await
            .map_err(|error| fault(&error))?;
        if duplicate && (entry.act.key != act.key || entry.act.lifts != act.lifts) {
            return Err(invalid("the idempotency key belongs to another act"));
        }
        if !duplicate {
            // The log of the process as well, for those who collect it. No token's id, which may be a secret elsewhere.
            tracing::info!(
                number = entry.number,
                act = ?act.key.kind,
                lifts = act.lifts,
                user = %act.key.user,
                channel = %act.key.channel,
                actor = %act.actor,
                changed = entry.changed,
                "moderation"
            );
        }
        Ok(ModerateResponse {
            entry: Some(told(entry)),
            duplicate,
        })
    }

    /// # Errors
    /// [`AskError::Invalid`] for a limit that is too high, [`AskError::Unavailable`].
    pub(crate) async fn moderation_log(
        &self,
        request: ModerationLogRequest,
    ) -> Result<ModerationLogResponse, AskError> {
        let limit = limit(request.limit, LISTED, MAX_MODERATED)?;
        let log = self.store.moderation_log(request.after, limit).await;
        let (entries, last) = log.map_err(|error| fault(&error))?;
        Ok(ModerationLogResponse {
            entries: entries.into_iter().map(told).collect(),
            last,
        })
    }

    /// # Errors
    /// [`AskError::Invalid`] for a limit that is too high or a kind that there is not, [`AskError::Unavailable`].
    pub(crate) async fn restrictions(
        &self,
        request: RestrictionsRequest,
    ) -> Result<RestrictionsResponse, AskError> {
        let limit = limit(request.limit, LISTED, MAX_MODERATED)?;
        fits([(&request.user, MAX_NAME)])?;
        let of_kind = match request.kind() {
            ModerationKind::Unspecified => None,
            named => Some(placed(named)?),
        };
        let question = Restrictions {
            kind: of_kind,
            user: request.user,
            after: request.after.map(key).transpose()?,
            limit,
        };
        let found = self.store.restrictions(&question, now_us()).await;
        let (restrictions, number) = found.map_err(|error| fault(&error))?;
        Ok(RestrictionsResponse {
            more: restrictions.len() >= limit,
            restrictions: restrictions.into_iter().map(in_force).collect(),
            number,
        })
    }

    /// # Errors
    /// [`AskError::Invalid`] for too many keys or a kind that there is not, [`AskError::Unavailable`].
    pub(crate) async fn restricted(
        &self,
        request: RestrictedRequest,
    ) -> Result<RestrictedResponse, AskError> {
        if request.keys.len() > MAX_KEYS {
            return Err(invalid("more than 100 keys"));
        }
        let keys: Vec<Key> = request.keys.into_iter().map(key).collect::<Result<_, _>>()?;
        let found = self.store.restricted(&keys, now_us()).await;
        let found = found.map_err(|error| fault(&error))?;
        Ok(RestrictedResponse {
            restrictions: found.into_iter().map(in_force).collect(),
        })
    }
}

fn invalid(words: &str) -> AskError {
    AskError::Invalid(words.to_owned())
}

/// The kind of restriction that an act places.
fn placed(kind: ModerationKind) -> Result<Kind, AskError> {
    match kind {
        ModerationKind::BlockUser => Ok(Kind::Block),
        ModerationKind::MuteUser => Ok(Kind::Mute),
        ModerationKind::RevokeToken => Ok(Kind::Token),
        ModerationKind::InvalidateTokens => Ok(Kind::Tokens),
        ModerationKind::Unspecified | ModerationKind::UnblockUser | ModerationKind::UnmuteUser => {
            Err(invalid("not a kind of restriction"))
        }
    }
}

fn kind_of(kind: Kind) -> ModerationKind {
    match kind {
        Kind::Block => ModerationKind::BlockUser,
        Kind::Mute => ModerationKind::MuteUser,
        Kind::Token => ModerationKind::RevokeToken,
        Kind::Tokens => ModerationKind::InvalidateTokens,
    }
}

/// Whether texts are ones that a store can have.
fn fits<const N: usize>(texts: [(&str, usize); N]) -> Result<(), AskError> {
    match texts
        .iter()
        .any(|(text, most)| text.len() > *most || text.contains('\0'))
    {
        true => Err(invalid("a text that is too long or holds a zero byte")),
        false => Ok(()),
    }
}

fn key(key: RestrictionKey) -> Result<Key, AskError> {
    fits([
        (&key.user, MAX_NAME),
        (&key.channel, MAX_CHANNEL_LENGTH),
        (&key.token, MAX_NAME),
    ])?;
    Ok(Key {
        kind: placed(key.kind())?,
        user: key.user,
        channel: key.channel,
        token: key.token,
    })
}

/// An act, if it makes sense.
fn act(asked: ModerationAct, now_us: u64) -> Result<Act, AskError> {
    let (kind, lifts) = match asked.kind() {
        ModerationKind::UnblockUser => (Kind::Block, true),
        ModerationKind::UnmuteUser => (Kind::Mute, true),
        named => (placed(named)?, false),
    };
    let names = (
        !asked.user.is_empty(),
        !asked.channel.is_empty(),
        !asked.token.is_empty(),
    );
    let is_named = match kind {
        Kind::Block => names == (true, false, false),
        Kind::Mute => names == (true, true, false),
        Kind::Token => names == (false, false, true),
        Kind::Tokens => !names.1 && !names.2,
    };
    if !is_named {
        return Err(invalid("the act does not name what it is about, or names more"));
    }
    fits([
        (&asked.user, MAX_NAME),
        (&asked.channel, MAX_CHANNEL_LENGTH),
        (&asked.token, MAX_NAME),
        (&asked.reason, MAX_REASON),
        (&asked.actor, MAX_NAME),
        (&asked.api_key, MAX_NAME),
        (&asked.idempotency_key, MAX_KEY),
    ])?;
    if !lifts && asked.until_us > 0 && asked.until_us <= now_us {
        return Err(invalid("the act would end before now"));
    }
    if asked.until_us > now_us.saturating_add(LONGEST_US) {
        return Err(invalid("the act would end in more than a hundred years"));
    }
    // Nobody could take it back: tokens that are issued later would be void as well.
    if asked.issued_before_us > now_us.saturating_add(SKEW_US) {
        return Err(invalid("tokens that are issued after now cannot be invalidated"));
    }
    if asked.issued_before_us > 0 && kind != Kind::Tokens {
        return Err(invalid("a time of issue where no token's is asked for"));
    }
    Ok(Act {
        key: Key {
            kind,
            user: asked.user,
            channel: asked.channel,
            token: asked.token,
        },
        lifts,
        until_us: if lifts { 0 } else { asked.until_us },
        issued_before_us: match (kind, asked.issued_before_us) {
            (Kind::Tokens, 0) => now_us,
            (_, before) => before,
        },
        reason: asked.reason,
        actor: asked.actor,
        api_key: asked.api_key,
        idempotency_key: asked.idempotency_key,
    })
}

fn told(entry: Entry) -> ModerationEntry {
    let Entry { act, .. } = entry;
    let kind = match (act.key.kind, act.lifts) {
        (Kind::Block, true) => ModerationKind::UnblockUser,
        (Kind::Mute, true) => ModerationKind::UnmuteUser,
        (kind, _) => kind_of(kind),
    };
    ModerationEntry {
        number: entry.number,
        time_us: entry.time_us,
        act: Some(ModerationAct {
            kind: kind.into(),
            user: act.key.user,
            channel: act.key.channel,
            token: act.key.token,
            until_us: act.until_us,
            issued_before_us: act.issued_before_us,
            reason: act.reason,
            actor: act.actor,
            api_key: act.api_key,
            idempotency_key: act.idempotency_key,
        }),
        changed: entry.changed,
    }
}

fn in_force(restriction: Restriction) -> messages::Restriction {
    messages::Restriction {
        kind: kind_of(restriction.key.kind).into(),
        user: restriction.key.user,
        channel: restriction.key.channel,
        token: restriction.key.token,
        until_us: restriction.until_us,
        issued_before_us: restriction.issued_before_us,
        reason: restriction.reason,
        number: restriction.number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;

    fn asked(kind: ModerationKind, user: &str, channel: &str, token: &str) -> ModerationAct {
        ModerationAct {
            kind: kind.into(),
            user: user.to_owned(),
            channel: channel.to_owned(),
            token: token.to_owned(),
            ..ModerationAct::default()
        }
    }

    #[test]
    fn an_act_names_what_it_is_about_and_nothing_else() {
        use ModerationKind::*;
        for (kind, user, channel, token) in [
            (BlockUser, "eve", "", ""),
            (UnblockUser, "eve", "", ""),
            (MuteUser, "eve", "room:1", ""),
            (UnmuteUser, "eve", "room:1", ""),
            (RevokeToken, "", "", "t"),
            (InvalidateTokens, "eve", "", ""),
            (InvalidateTokens, "", "", ""),
        ] {
            assert!(act(asked(kind, user, channel, token), NOW).is_ok(), "{kind:?}");
        }
        for (kind, user, channel, token) in [
            (Unspecified, "eve", "", ""),
            (BlockUser, "", "", ""),
            (BlockUser, "eve", "room:1", ""),
            (MuteUser, "eve", "", ""),
            (MuteUser, "", "room:1", ""),
            (RevokeToken, "", "", ""),
            (RevokeToken, "eve", "", "t"),
            (InvalidateTokens, "eve", "room:1", ""),
            (BlockUser, "e\0ve", "", ""),
            (BlockUser, &"x".repeat(256), "", ""),
        ] {
            let refused = act(asked(kind, user, channel, token), NOW);
            assert!(
                matches!(refused, Err(AskError::Invalid(_))),
                "{kind:?} {user} {channel}"
            );
        }
    }

    #[test]
    fn times_that_make_no_sense_are_refused() {
        let block = |until_us, issued_before_us| ModerationAct {
            until_us,
            issued_before_us,
            ..asked(ModerationKind::BlockUser, "eve", "", "")
        };
        assert_eq!(act(block(NOW + 1, 0), NOW).unwrap().until_us, NOW + 1);
        assert!(act(block(NOW, 0), NOW).is_err());
        assert!(act(block(0, 5), NOW).is_err());
        assert!(act(block(NOW + LONGEST_US, 0), NOW).is_ok());
        assert!(act(block(NOW + LONGEST_US + 1, 0), NOW).is_err());
        let tokens = asked(ModerationKind::InvalidateTokens, "eve", "", "");
        assert_eq!(act(tokens.clone(), NOW).unwrap().issued_before_us, NOW);
        let before = |issued_before_us| ModerationAct {
            issued_before_us,
            ..tokens.clone()
        };
        assert!(act(before(NOW + SKEW_US), NOW).is_ok());
        assert!(act(before(NOW + SKEW_US + 1), NOW).is_err());
    }
}
