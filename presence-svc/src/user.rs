//! What is known of one user: sessions, what she chose, and what others are told. A state machine without I/O and without a
//! clock; the store keeps it as [`KeptUser`].
//!
//! What must hold, tested over any order of events:
//! * A session counts while its gateway's lease is in force, and not a moment longer.
//! * Others are told what is true now, and told nothing that they were told already.
//! * A user whose sessions are gone stays what she was for the grace time, and is offline after it, unless she came back.
//! * An invisible user looks offline, and what she does meanwhile changes nothing that others see.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use switchboard_proto::format::{self, FormatError};
use switchboard_proto::ids::Incarnation;
use switchboard_proto::presence::{
    Device, KeptSession, KeptUser, KnownDevice, Presence, ReportedUser, SetUserRequest, Status, Visibility,
};

/// Sessions that are kept of one user, at most: further ones are connected all the same, and not seen here.
pub const MAX_SESSIONS: usize = 1_000;

/// Characters of a status text, at most.
pub const MAX_TEXT: usize = 140;

/// The longest time for which a status text can be set.
pub const LONGEST_TEXT: Duration = Duration::from_secs(366 * 24 * 3600);

/// The leases in force of a store's partition: by gateway, which one.
pub type Leases = HashMap<Incarnation, u64>;

/// What users are judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// How long a user without sessions stays what she was.
    pub grace: Duration,
    /// How long the sessions of a user who is online are quiet until she is away.
    pub away_after: Duration,
    /// Devices that are remembered of a user, at most.
    pub devices: usize,
    /// How long a user without sessions is remembered.
    pub remembered: Duration,
    /// Who may see a user who did not say.
    pub visibility: Visibility,
}

/// A time during which what a gateway reported holds: as long as it renews it. A gateway begins a lease with a higher number when it
/// finds that its last one is gone, and reports all that it has anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    /// Whose.
    pub gateway: Incarnation,
    /// Which of its leases, from 1.
    pub number: u64,
}

/// See the module. Times are the store's, in Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct User {
    kept: KeptUser,
}

impl User {
    /// What is written down of a user.
    ///
    /// # Errors
    /// [`FormatError`] where no release wrote it, or a newer one.
    pub fn decode(encoded: Bytes) -> Result<Self, FormatError> {
        Ok(Self {
            kept: format::decode(encoded)?,
        })
    }

    /// As it is written down.
    pub fn encode(&self) -> Bytes {
        format::encode(&self.kept)
    }

    /// Applies what a gateway reports.
    pub fn report(&mut self, from: Lease, report: &ReportedUser, now_ms: u64, rules: &Rules) {
        self.kept.touched_ms = now_ms;
        for ended in &report.ended {
            let at = |session: &KeptSession| {
                session.client == *ended && session.gateway == from.gateway.as_bytes()[..]
            };
            for session in self.kept.sessions.extract_if(.., |session| at(session)) {
                self.kept.active_ms = self.kept.active_ms.max(session.active_ms);
            }
        }
        for reported in &report.sessions {
            let ago = |ago_ms: u64| now_ms.saturating_sub(ago_ms);
            let session = KeptSession {
                client: reported.client.clone(),
                gateway: from.gateway.to_bytes(),
                lease: from.number,
                since_ms: ago(reported.since_ago_ms),
                active_ms: ago(reported.active_ago_ms.min(reported.since_ago_ms)),
                device: reported.device.clone(),
            };
            self.remember(reported.device.as_ref(), session.since_ms, now_ms, rules);
            self.kept.sessions.retain(|known| known.client != session.client);
            if self.kept.sessions.len() < MAX_SESSIONS {
                self.kept.sessions.push(session);
            }
        }
    }

    /// Applies what the user, or a backend for her, chose. The request was checked before.
    pub fn set(&mut self, request: &SetUserRequest, now_ms: u64) {
        self.kept.touched_ms = now_ms;
        if request.status.is_some() {
            self.kept.chosen = match request.status() {
                // As the sessions are, which is also what nobody chose.
                Status::Online | Status::Offline => Status::Unspecified.into(),
                status => status.into(),
            };
        }
        if let Some(text) = &request.text {
            self.kept.text.clone_from(text);
            let lasts = request.text_lasts_ms;
            self.kept.text_until_ms = if lasts == 0 || text.is_empty() {
                0
            } else {
                now_ms + lasts
            };
        }
        if request.visibility.is_some() {
            self.kept.visibility = request.visibility().into();
        }
    }

    /// Brings the user up to now: drops sessions whose lease is over, texts that are over, and sees what others have to be told.
    /// `None`: nothing new.
    pub fn settle(&mut self, user: &str, leases: &Leases, now_ms: u64, rules: &Rules) -> Option<Presence> {
        let holds = |session: &KeptSession| {
            lease_of(session).is_some_and(|lease| leases.get(&lease.gateway) == Some(&lease.number))
        };
        for session in self.kept.sessions.extract_if(.., |session| !holds(session)) {
            self.kept.active_ms = self.kept.active_ms.max(session.active_ms);
        }
        let is_here = !self.kept.sessions.is_empty();
        match (is_here, self.kept.gone_ms) {
            (true, _) => self.kept.gone_ms = 0,
            // Who was never here is not gone.
            (false, 0) if self.was_here() => self.kept.gone_ms = now_ms,
            (false, _) => {}
        }
        if self.kept.text_until_ms != 0 && self.kept.text_until_ms <= now_ms {
            self.kept.text.clear();
            self.kept.text_until_ms = 0;
        }
        let told = self.kept.told.clone().unwrap_or_default();
        let status = self.status(now_ms, rules);
        let is_offline = status == Status::Offline;
        let text = if is_offline {
            String::new()
        } else {
            self.kept.text.clone()
        };
        let visibility = self.visibility(rules);
        let is_known = self.kept.told.is_some();
        let same = told.status() == status && told.text == text && told.visibility() == visibility;
        // Somebody who was never anything else is offline without saying so.
        if same || (!is_known && is_offline && visibility == rules.visibility) {
            return None;
        }
        let entered = told.status() != status;
        let last_seen_ms = match (is_offline, entered, is_known) {
            (false, ..) => 0,
            // Who is invisible from now on looks as if she had gone a grace time ago, as everybody does who is offline from now on.
            (true, true, true) if is_here => now_ms - millis(rules.grace),
            (true, true, true) => self.kept.gone_ms,
            (true, ..) => told.last_seen_ms,
        };
        let presence = Presence {
            user: user.to_owned(),
            status: status.into(),
            text,
            since_ms: match (entered, is_offline) {
                (true, true) => last_seen_ms,
                (true, false) => now_ms,
                (false, _) => told.since_ms,
            },
            last_seen_ms,
            version: now_ms.max(told.version + 1),
            visibility: visibility.into(),
        };
        self.kept.told = Some(presence.clone());
        Some(presence)
    }

    /// The next time at which there is something to do though nothing is reported: [`User::settle`] has something to tell, or she is
    /// forgotten. `None`: not before something is reported.
    pub fn due_ms(&self, now_ms: u64, rules: &Rules) -> Option<u64> {
        let text = Some(self.kept.text_until_ms).filter(|until| *until != 0);
        let next = if self.kept.sessions.is_empty() {
            let grace = Some(self.kept.gone_ms + millis(rules.grace));
            let grace = grace.filter(|at| self.kept.gone_ms != 0 && *at > now_ms);
            Some(grace.unwrap_or_else(|| self.forgotten_ms(rules)))
        } else {
            Some(self.active_ms() + millis(rules.away_after)).filter(|at| *at > now_ms)
        };
        text.into_iter().chain(next).min()
    }

    /// Nothing is lost with her that anybody would miss.
    pub fn is_forgotten(&self, now_ms: u64, rules: &Rules) -> bool {
        self.kept.sessions.is_empty() && self.forgotten_ms(rules) <= now_ms
    }

    fn forgotten_ms(&self, rules: &Rules) -> u64 {
        self.kept.touched_ms.max(self.kept.gone_ms) + millis(rules.remembered)
    }

    /// What others see, as they were told last, brought up to now.
    pub fn presence(&self, user: &str, now_ms: u64, rules: &Rules) -> Presence {
        // Of whom nothing is known, perhaps because the store lost it, that is newer than all that was told before.
        let mut presence = self.kept.told.clone().unwrap_or_else(|| Presence {
            version: now_ms - 1,
            status: Status::Offline.into(),
            visibility: self.visibility(rules).into(),
            ..Presence::default()
        });
        user.clone_into(&mut presence.user);
        if presence.status() != Status::Offline {
            presence.last_seen_ms = now_ms;
        }
        presence
    }

    /// The leases that her sessions hold under, each once, in order.
    pub fn leases(&self) -> Vec<Lease> {
        let mut leases: Vec<Lease> = self.kept.sessions.iter().filter_map(lease_of).collect();
        leases.sort_unstable();
        leases.dedup();
        leases
    }

    /// All that is kept.
    pub fn kept(&self) -> &KeptUser {
        &self.kept
    }

    fn was_here(&self) -> bool {
        self.kept.active_ms != 0
    }

    fn visibility(&self, rules: &Rules) -> Visibility {
        match self.kept.visibility() {
            Visibility::Unspecified => rules.visibility,
            chosen => chosen,
        }
    }

    /// The last activity of any session.
    fn active_ms(&self) -> u64 {
        let of_sessions = self.kept.sessions.iter().map(|session| session.active_ms).max();
        of_sessions.unwrap_or(self.kept.active_ms)
    }

    fn status(&self, now_ms: u64, rules: &Rules) -> Status {
        let is_gone = self.kept.sessions.is_empty();
        if is_gone && (self.kept.gone_ms == 0 || self.kept.gone_ms + millis(rules.grace) <= now_ms) {
            return Status::Offline;
        }
        match self.kept.chosen() {
            Status::Invisible => Status::Offline,
            Status::Busy => Status::Busy,
            Status::Away => Status::Away,
            Status::Unspecified | Status::Online | Status::Offline => {
                match self.active_ms() + millis(rules.away_after) <= now_ms {
                    true => Status::Away,
                    false => Status::Online,
                }
            }
        }
    }

    /// Puts a device in front of those that are remembered.
    fn remember(&mut self, device: Option<&Device>, since_ms: u64, now_ms: u64, rules: &Rules) {
        let Some(device) = device.filter(|device| **device != Device::default()) else {
            return;
        };
        let known = self
            .kept
            .devices
            .iter()
            .position(|known| known.device.as_ref() == Some(device));
        let first_ms = match known {
            Some(at) => self.kept.devices.remove(at).first_ms,
            None => since_ms,
        };
        let remembered = KnownDevice {
            device: Some(device.clone()),
            first_ms,
            last_ms: now_ms,
        };
        self.kept.devices.insert(0, remembered);
        self.kept.devices.truncate(rules.devices);
    }
}

fn lease_of(session: &KeptSession) -> Option<Lease> {
    Some(Lease {
        gateway: Incarnation::try_from(session.gateway.as_ref()).ok()?,
        number: session.lease,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests;
