//! What is in force. No I/O and no clock.
//!
//! What must hold, each with a test:
//! * It is bounded. What there is no room for is not forgotten: of its kind it is no more said that somebody is free.
//! * Revoked tokens, of which there may be most, leave half of the room to users.
//! * What has ended by its time counts no more, whether it was taken out or not.

use std::collections::HashMap;

use switchboard_proto::messages::{ModerationKind, Restriction};

use crate::auth::Stamp;

/// Unix microseconds; 0: for ever.
type Until = u64;

/// What is to be said of somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Free,
    Restricted,
    /// Not all of that kind is kept here.
    Unknown,
}

/// Kinds of which not all is kept.
#[derive(Debug, Clone, Copy, Default)]
struct Left {
    blocks: bool,
    mutes: bool,
    token: bool,
    tokens: bool,
}

/// See the module.
pub(super) struct State {
    blocked: HashMap<Box<str>, Until>,
    /// By user, then by channel.
    muted: HashMap<Box<str>, HashMap<Box<str>, Until>>,
    tokens: HashMap<Box<str>, Until>,
    /// By user; of nobody: of all. Until when, and what was issued before this time, in Unix microseconds.
    issued: HashMap<Box<str>, (Until, u64)>,
    /// Mutes, over all users.
    mutes: usize,
    capacity: usize,
    left: Left,
}

impl State {
    /// For so many restrictions.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            blocked: HashMap::new(),
            muted: HashMap::new(),
            tokens: HashMap::new(),
            issued: HashMap::new(),
            mutes: 0,
            capacity,
            left: Left::default(),
        }
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.blocked.len() + self.mutes + self.tokens.len() + self.issued.len()
    }

    /// Not all of this kind is kept.
    pub(super) fn lacks(&self, kind: ModerationKind) -> bool {
        match kind {
            ModerationKind::BlockUser => self.left.blocks,
            ModerationKind::MuteUser => self.left.mutes,
            ModerationKind::RevokeToken => self.left.token,
            ModerationKind::InvalidateTokens => self.left.tokens,
            ModerationKind::Unspecified | ModerationKind::UnblockUser | ModerationKind::UnmuteUser => false,
        }
    }

    /// Something was left out, and there is room for much again.
    pub(super) fn could_have_more(&self) -> bool {
        let Left {
            blocks,
            mutes,
            token,
            tokens,
        } = self.left;
        let has_room = self.len() < self.capacity / 4 * 3;
        (blocks || mutes || tokens) && has_room
            || token && has_room && self.tokens.len() < self.capacity / 8 * 3
    }

    /// Users may have to be asked whether they may speak.
    pub(super) fn restricts_speech(&self) -> bool {
        self.mutes > 0 || !self.blocked.is_empty() || self.left.mutes || self.left.blocks
    }

    /// It is in force. `false`: there is no room for it.
    pub(super) fn place(&mut self, one: &Restriction) -> bool {
        let has_room = self.len() < self.capacity;
        let user = one.user.as_str();
        match one.kind() {
            ModerationKind::BlockUser => {
                if has_room || self.blocked.contains_key(user) {
                    self.blocked.insert(user.into(), one.until_us);
                    return true;
                }
                self.left.blocks = true;
            }
            ModerationKind::MuteUser => {
                let channel = one.channel.as_str();
                let channels = self.muted.get_mut(user);
                match channels {
                    Some(channels) if channels.contains_key(channel) => {
                        channels.insert(channel.into(), one.until_us);
                        return true;
                    }
                    _ if has_room => {
                        let channels = self.muted.entry(user.into()).or_default();
                        channels.insert(channel.into(), one.until_us);
                        self.mutes += 1;
                        return true;
                    }
                    _ => self.left.mutes = true,
                }
            }
            ModerationKind::RevokeToken => {
                let has_room = has_room && self.tokens.len() < self.capacity / 2;
                if has_room || self.tokens.contains_key(one.token.as_str()) {
                    self.tokens.insert(one.token.as_str().into(), one.until_us);
                    return true;
                }
                self.left.token = true;
            }
            ModerationKind::InvalidateTokens => {
                // That of all must be known.
                if has_room || user.is_empty() || self.issued.contains_key(user) {
                    self.issued
                        .insert(user.into(), (one.until_us, one.issued_before_us));
                    return true;
                }
                self.left.tokens = true;
            }
            // Whoever wrote it is newer than this gateway, or wrote what lifts.
            ModerationKind::Unspecified | ModerationKind::UnblockUser | ModerationKind::UnmuteUser => {
                return true;
            }
        }
        false
    }

    /// The user is blocked no more.
    pub(super) fn unblock(&mut self, user: &str) {
        self.blocked.remove(user);
    }

    /// The user may speak in the channel again.
    pub(super) fn unmute(&mut self, user: &str, channel: &str) {
        if let Some(channels) = self.muted.get_mut(user) {
            if channels.remove(channel).is_some() {
                self.mutes -= 1;
            }
            if channels.is_empty() {
                self.muted.remove(user);
            }
        }
    }

    /// Whether the user is blocked. Nobody can block anonymous users.
    pub(super) fn blocks(&self, user: &str, now_us: u64) -> Said {
        let until = self.blocked.get(user).copied();
        said(until, !user.is_empty() && self.left.blocks, now_us)
    }

    /// Whether the user is muted in the channel.
    pub(super) fn mutes(&self, user: &str, channel: &str, now_us: u64) -> Said {
        let until = self
            .muted
            .get(user)
            .and_then(|channels| channels.get(channel))
            .copied();
        said(until, !user.is_empty() && self.left.mutes, now_us)
    }

    /// Whether a token of the user counts no more.
    pub(super) fn revokes(&self, user: &str, stamp: &Stamp, now_us: u64) -> Said {
        let of_id = match stamp.id.as_deref() {
            Some(id) => said(self.tokens.get(id).copied(), self.left.token, now_us),
            None => Said::Free,
        };
        let of_all = self.is_issued_too_early("", stamp, false, now_us);
        let of_user = match user {
            "" => Said::Free,
            user => self.is_issued_too_early(user, stamp, self.left.tokens, now_us),
        };
        let all = [of_id, of_all, of_user];
        if all.contains(&Said::Restricted) {
            Said::Restricted
        } else if all.contains(&Said::Unknown) {
            Said::Unknown
        } else {
            Said::Free
        }
    }

    fn is_issued_too_early(&self, user: &str, stamp: &Stamp, lacks: bool, now_us: u64) -> Said {
        match self.issued.get(user) {
            Some((until, before)) if is_before(stamp, *before) => said(Some(*until), lacks, now_us),
            // One that is known is all that there is of a user.
            Some(_) => Said::Free,
            None => said(None, lacks, now_us),
        }
    }

    /// Takes out what has ended.
    pub(super) fn purge(&mut self, now_us: u64) {
        self.blocked.retain(|_, until| is_in_force(*until, now_us));
        self.tokens.retain(|_, until| is_in_force(*until, now_us));
        self.issued.retain(|_, (until, _)| is_in_force(*until, now_us));
        self.muted.retain(|_, channels| {
            channels.retain(|_, until| is_in_force(*until, now_us));
            !channels.is_empty()
        });
        self.mutes = self.muted.values().map(HashMap::len).sum();
    }
}

/// Whether a token was issued before that time. One that does not say when could be of any.
pub(super) fn is_before(stamp: &Stamp, before_us: u64) -> bool {
    stamp
        .issued_at
        .is_none_or(|issued_at| issued_at.micros() < before_us)
}

fn is_in_force(until: Until, now_us: u64) -> bool {
    until == 0 || until > now_us
}

fn said(until: Option<Until>, lacks: bool, now_us: u64) -> Said {
    match until {
        Some(until) if is_in_force(until, now_us) => Said::Restricted,
        _ if lacks => Said::Unknown,
        _ => Said::Free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::UnixTime;

    const NOW: u64 = 1_000_000_000;

    fn restriction(kind: ModerationKind, user: &str, channel: &str, token: &str) -> Restriction {
        Restriction {
            kind: kind.into(),
            user: user.to_owned(),
            channel: channel.to_owned(),
            token: token.to_owned(),
            ..Restriction::default()
        }
    }

    fn block(user: &str) -> Restriction {
        restriction(ModerationKind::BlockUser, user, "", "")
    }

    fn mute(user: &str, channel: &str) -> Restriction {
        restriction(ModerationKind::MuteUser, user, channel, "")
    }

    fn token(id: &str) -> Restriction {
        restriction(ModerationKind::RevokeToken, "", "", id)
    }

    fn stamp(id: &str, issued_at: Option<u64>) -> Stamp {
        Stamp {
            id: (!id.is_empty()).then(|| id.into()),
            issued_at: issued_at.map(UnixTime::from_seconds),
        }
    }

    #[test]
    fn what_is_placed_counts_until_it_is_lifted() {
        let mut state = State::new(10);
        assert!(state.place(&block("eve")) && state.place(&mute("bob", "room:1")));
        assert!(state.place(&mute("bob", "room:1")), "again");
        assert_eq!(state.len(), 2);
        assert_eq!(state.blocks("eve", NOW), Said::Restricted);
        assert_eq!(state.blocks("bob", NOW), Said::Free);
        assert_eq!(state.mutes("bob", "room:1", NOW), Said::Restricted);
        assert_eq!(state.mutes("bob", "room:2", NOW), Said::Free);
        assert!(state.restricts_speech());
        state.unblock("eve");
        state.unmute("bob", "room:2");
        assert_eq!(state.mutes("bob", "room:1", NOW), Said::Restricted);
        state.unmute("bob", "room:1");
        assert_eq!((state.len(), state.restricts_speech()), (0, false));
    }

    #[test]
    fn what_has_ended_counts_no_more() {
        let mut state = State::new(10);
        for one in [block("eve"), mute("eve", "room:1"), token("t")] {
            state.place(&Restriction { until_us: NOW, ..one });
        }
        assert_eq!(state.blocks("eve", NOW - 1), Said::Restricted);
        assert_eq!(state.blocks("eve", NOW), Said::Free);
        assert_eq!(state.mutes("eve", "room:1", NOW), Said::Free);
        assert_eq!(state.revokes("eve", &stamp("t", None), NOW - 1), Said::Restricted);
        assert_eq!(state.revokes("eve", &stamp("t", None), NOW), Said::Free);
        state.purge(NOW);
        assert_eq!(state.len(), 0);
    }

    #[test]
    fn tokens_count_by_their_id_and_their_age() {
        let mut state = State::new(10);
        state.place(&token("t"));
        let before = |user: &str, seconds: u64| Restriction {
            issued_before_us: seconds * 1_000_000 + 1,
            ..restriction(ModerationKind::InvalidateTokens, user, "", "")
        };
        state.place(&before("eve", 50));
        assert_eq!(state.revokes("bob", &stamp("t", Some(99)), NOW), Said::Restricted);
        assert_eq!(state.revokes("bob", &stamp("u", Some(1)), NOW), Said::Free);
        assert_eq!(state.revokes("eve", &stamp("u", Some(50)), NOW), Said::Restricted);
        assert_eq!(state.revokes("eve", &stamp("u", Some(51)), NOW), Said::Free);
        assert_eq!(state.revokes("eve", &stamp("u", None), NOW), Said::Restricted);
        assert_eq!(state.revokes("bob", &stamp("", None), NOW), Said::Free);
        state.place(&before("", 60));
        assert_eq!(state.revokes("bob", &stamp("", Some(60)), NOW), Said::Restricted);
        assert_eq!(state.revokes("", &stamp("", Some(60)), NOW), Said::Restricted);
        assert_eq!(state.revokes("eve", &stamp("", Some(61)), NOW), Said::Free);
    }

    #[test]
    fn what_found_no_room_is_not_said_to_be_free() {
        let mut state = State::new(4);
        assert!(state.place(&token("1")) && state.place(&token("2")));
        assert!(!state.place(&token("3")), "half is for users");
        assert_eq!(state.revokes("eve", &stamp("3", None), NOW), Said::Unknown);
        assert_eq!(state.revokes("eve", &stamp("1", None), NOW), Said::Restricted);
        assert_eq!(state.blocks("eve", NOW), Said::Free);
        assert!(state.place(&block("eve")) && state.place(&mute("eve", "room:1")));
        assert!(!state.place(&block("bob")) && !state.place(&mute("bob", "room:1")));
        assert!(state.place(&block("eve")), "it has its place");
        assert_eq!(state.blocks("bob", NOW), Said::Unknown);
        assert_eq!(state.mutes("bob", "room:1", NOW), Said::Unknown);
        assert_eq!(state.blocks("", NOW), Said::Free);
        let all = restriction(ModerationKind::InvalidateTokens, "", "", "");
        assert!(
            state.place(&all),
            "there is always room for one that concerns all"
        );
        assert!(state.lacks(ModerationKind::BlockUser) && !state.lacks(ModerationKind::InvalidateTokens));
        assert!(!state.could_have_more());
        state.unblock("eve");
        state.unmute("eve", "room:1");
        state.purge(NOW);
        assert!(!state.could_have_more(), "three of four are kept");
        let mut roomy = State::new(100);
        roomy.left.blocks = true;
        assert!(roomy.could_have_more());
    }
}
