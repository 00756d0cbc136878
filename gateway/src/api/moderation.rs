//! `block_user`, `mute_user`, `revoke_token` and what belongs to them: an act is kept by the message store, and answered once every gateway
//! has carried it out, or is late with it.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use prost::Message as _;
use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::api::{
    BlockUserRequest, InvalidateUserTokensRequest, ModerationEntry, ModerationLogRequest,
    ModerationLogResult, ModerationRestriction, ModerationResult, ModerationStateRequest,
    ModerationStateResult, MuteUserRequest, RevokeTokenRequest, UnblockUserRequest, UnmuteUserRequest,
};
use switchboard_proto::bus::ModerationMoved;
use switchboard_proto::bus::control::Question;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::messages::{
    self, Method, ModerateRequest, ModerationAct, ModerationKind, RestrictionKey, RestrictionsRequest, method,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::calls::done;
use super::failure::Failure;
use super::{Api, Caller};
use crate::moderation::Refused;
use crate::session::told;

/// Before a store that did not answer is asked again. An act has a key, so it is done once.
const PAUSE: Duration = Duration::from_millis(100);

const MICROS: u64 = 1_000_000;

/// Methods, as they are called and as the store knows them.
const ACTS: [(&str, ModerationKind); 6] = [
    ("block_user", ModerationKind::BlockUser),
    ("unblock_user", ModerationKind::UnblockUser),
    ("mute_user", ModerationKind::MuteUser),
    ("unmute_user", ModerationKind::UnmuteUser),
    ("revoke_token", ModerationKind::RevokeToken),
    ("invalidate_user_tokens", ModerationKind::InvalidateTokens),
];

fn name_of(kind: ModerationKind) -> String {
    let name = ACTS.iter().find(|(_, other)| *other == kind);
    name.map_or("", |(name, _)| name).to_owned()
}

/// Unix seconds as the store has them; 0 stays 0.
fn micros(seconds: i64, what: &'static str) -> Result<u64, Failure> {
    u64::try_from(seconds)
        .map(|seconds| seconds.saturating_mul(MICROS))
        .map_err(|_| Failure::bad(what))
}

/// Whole seconds; of a time that is not one, the next.
fn seconds(micros: u64) -> i64 {
    i64::try_from(micros.div_ceil(MICROS)).unwrap_or(i64::MAX)
}

fn user(user: String) -> Result<String, Failure> {
    match user.as_str() {
        "" => Err(Failure::bad("no user")),
        _ => Ok(user),
    }
}

/// What goes with every act, for the audit log.
struct Words {
    reason: String,
    actor: String,
    idempotency_key: String,
}

macro_rules! words {
    ($request:ident) => {
        Words {
            reason: $request.reason,
            actor: $request.actor,
            idempotency_key: $request.idempotency_key,
        }
    };
}

impl Api {
    pub(super) async fn block_user(
        &self,
        request: BlockUserRequest,
        caller: Caller,
    ) -> Result<ModerationResult, Failure> {
        let act = ModerationAct {
            kind: ModerationKind::BlockUser.into(),
            user: user(request.user)?,
            until_us: micros(request.expire_at, "expire_at before 1970")?,
            ..ModerationAct::default()
        };
        self.moderate(act, words!(request), caller).await
    }

    pub(super) async fn unblock_user(
        &self,
        request: UnblockUserRequest,
        caller: Caller,
    ) -> Result<ModerationResult, Failure> {
        let act = ModerationAct {
            kind: ModerationKind::UnblockUser.into(),
            user: user(request.user)?,
            ..ModerationAct::default()
        };
        self.moderate(act, words!(request), caller).await
    }

    pub(super) async fn mute_user(
        &self,
        request: MuteUserRequest,
        caller: Caller,
    ) -> Result<ModerationResult, Failure> {
        let act = ModerationAct {
            kind: ModerationKind::MuteUser.into(),
            user: user(request.user)?,
            channel: self.channel(&request.channel)?.as_str().to_owned(),
            until_us: micros(request.expire_at, "expire_at before 1970")?,
            ..ModerationAct::default()
        };
        self.moderate(act, words!(request), caller).await
    }

    pub(super) async fn unmute_user(
        &self,
        request: UnmuteUserRequest,
        caller: Caller,
    ) -> Result<ModerationResult, Failure> {
        // Its namespace may be gone meanwhile.
        let act = ModerationAct {
            kind: ModerationKind::UnmuteUser.into(),
            user: user(request.user)?,
            channel: request.channel,
            ..ModerationAct::default()
        };
        self.moderate(act, words!(request), caller).await
    }

    pub(super) async fn revoke_token(
        &self,
        request: RevokeTokenRequest,
        caller: Caller,
    ) -> Result<ModerationResult, Failure> {
        if request.uid.is_empty() {
            return Err(Failure::bad("no uid"));
        }
        let act = ModerationAct {
            kind: ModerationKind::RevokeToken.into(),
            token: request.uid,
            until_us: micros(request.expire_at, "expire_at before 1970")?,
            ..ModerationAct::default()
        };
        self.moderate(act, words!(request), caller).await
    }

    pub(super) async fn invalidate_user_tokens(
        &self,
        request: InvalidateUserTokensRequest,
        caller: Caller,
    ) -> Result<ModerationResult, Failure> {
        if request.user.is_empty() != request.everybody {
            return Err(Failure::bad("one of user and everybody has to be there"));
        }
        let act = ModerationAct {
            kind: ModerationKind::InvalidateTokens.into(),
            user: request.user,
            until_us: micros(request.expire_at, "expire_at before 1970")?,
            issued_before_us: micros(request.issued_before, "issued_before before 1970")?,
            ..ModerationAct::default()
        };
        self.moderate(act, words!(request), caller).await
    }

    /// Keeps the act, and has it carried out everywhere. Not cancel safe: it may be kept or not.
    async fn moderate(
        &self,
        act: ModerationAct,
        words: Words,
        caller: Caller,
    ) -> Result<ModerationResult, Failure> {
        let idempotency_key = match words.idempotency_key.as_str() {
            "" => Uuid::now_v7().to_string(),
            _ => words.idempotency_key,
        };
        let act = ModerationAct {
            reason: words.reason,
            actor: words.actor,
            api_key: caller.key.to_owned(),
            idempotency_key,
            ..act
        };
        let request = ModerateRequest { act: Some(act) };
        let kept = self.asked::<method::Moderate>(&request, caller).await?;
        let entry = kept.entry.ok_or(ErrorCode::Internal)?;
        // This gateway does not wait for the bus.
        self.gateway.moderation.look();
        let moved = ModerationMoved { number: entry.number };
        let answers = self.gateways.ask(Question::ModerationMoved(moved)).await;
        let everywhere = answers.and_then(|answers| done(&answers)).is_ok();
        if !everywhere {
            tracing::warn!(
                number = entry.number,
                "an act of moderation is kept, and one gateway has not said that it is carried out"
            );
        }
        Ok(ModerationResult {
            number: entry.number,
            changed: entry.changed,
            everywhere,
        })
    }

    /// Asks the store, again where it does not answer, as long as the call may take.
    async fn asked<M: Method>(&self, request: &M::Request, caller: Caller) -> Result<M::Response, Failure> {
        let deadline = caller.arrived + self.gateway.config.answer_timeout;
        loop {
            let within = deadline.saturating_duration_since(Instant::now());
            match ask::<M>(self.gateway.links.bus(), request, within).await {
                Ok(response) => return Ok(response),
                Err(AskError::Unavailable(words)) => {
                    if Instant::now() + PAUSE >= deadline {
                        tracing::warn!(method = M::NAME, words, "the store does not answer");
                        return Err(Failure::because(
                            ErrorCode::Internal,
                            match M::NAME {
                                method::Moderate::NAME => {
                                    "the message store does not answer; the act may be done or not, send it again with an idempotency_key"
                                }
                                _ => "the message store does not answer, ask again",
                            },
                        ));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(AskError::NotAvailable(_)) => {
                    return Err(Failure::because(
                        ErrorCode::NotAvailable,
                        "moderation needs a message store (persistence.store) of this release",
                    ));
                }
                Err(error) => return Err(told(error).into()),
            }
        }
    }

    pub(super) async fn moderation_log(
        &self,
        request: ModerationLogRequest,
        caller: Caller,
    ) -> Result<ModerationLogResult, Failure> {
        let request = messages::ModerationLogRequest {
            after: request.after,
            limit: request.limit,
        };
        let log = self.asked::<method::ModerationLog>(&request, caller).await?;
        let entries = log.entries.into_iter().map(|entry| {
            let act = entry.act.unwrap_or_default();
            ModerationEntry {
                number: entry.number,
                time: entry.time_us / 1000,
                act: name_of(act.kind()),
                user: act.user,
                channel: act.channel,
                uid: act.token,
                expire_at: seconds(act.until_us),
                issued_before: seconds(act.issued_before_us),
                reason: act.reason,
                actor: act.actor,
                api_key: act.api_key,
                changed: entry.changed,
            }
        });
        Ok(ModerationLogResult {
            entries: entries.collect(),
            last: log.last,
        })
    }

    pub(super) async fn moderation_state(
        &self,
        request: ModerationStateRequest,
        caller: Caller,
    ) -> Result<ModerationStateResult, Failure> {
        let kind = match request.act.as_str() {
            "" => ModerationKind::Unspecified,
            act => {
                let found = ACTS.iter().find(|(name, _)| *name == act);
                let (_, kind) = found.ok_or_else(|| Failure::bad("there is no such act"))?;
                *kind
            }
        };
        let request = RestrictionsRequest {
            kind: kind.into(),
            user: request.user,
            after: match request.cursor.as_str() {
                "" => None,
                cursor => Some(read_cursor(cursor).ok_or_else(|| Failure::bad("not a cursor of an answer"))?),
            },
            limit: request.limit,
        };
        let page = self.asked::<method::Restrictions>(&request, caller).await?;
        let last = page.restrictions.last().filter(|_| page.more);
        let next = last.map_or_else(String::new, |last| {
            let key = RestrictionKey {
                kind: last.kind,
                user: last.user.clone(),
                channel: last.channel.clone(),
                token: last.token.clone(),
            };
            BASE64_URL_SAFE_NO_PAD.encode(key.encode_to_vec())
        });
        let restrictions = page
            .restrictions
            .into_iter()
            .map(|restriction| ModerationRestriction {
                act: name_of(restriction.kind()),
                user: restriction.user,
                channel: restriction.channel,
                uid: restriction.token,
                expire_at: seconds(restriction.until_us),
                issued_before: seconds(restriction.issued_before_us),
                reason: restriction.reason,
                number: restriction.number,
            });
        Ok(ModerationStateResult {
            restrictions: restrictions.collect(),
            next,
        })
    }

    /// A blocked user is given nothing.
    pub(super) async fn may_be_given(&self, user: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + self.gateway.config.answer_timeout;
        match self.gateway.moderation.lets_in(user, None, deadline).await {
            Ok(()) => Ok(()),
            Err(Refused::Blocked | Refused::Token) => Err(Failure::because(
                ErrorCode::PermissionDenied,
                "the user is blocked",
            )),
            Err(Refused::Unknown) => Err(Failure::because(
                ErrorCode::Internal,
                "it is not known whether the user is blocked",
            )),
        }
    }
}

fn read_cursor(cursor: &str) -> Option<RestrictionKey> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
    RestrictionKey::decode(bytes.as_slice()).ok()
}
