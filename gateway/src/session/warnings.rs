//! Warnings of limits that a session is near to, so that a client can slow down before it is refused or
//! closed.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::outgoing::Way;
use super::{Outgoing, SessionHandle};
use crate::system_message::{NearLimit, SystemMessage};

/// Between two warnings of the same limit, at least.
const PAUSE: Duration = Duration::from_secs(60);

/// When a session was last warned of which limit.
#[derive(Default)]
pub(super) struct Warnings(Mutex<[Option<Instant>; NearLimit::ALL.len()]>);

impl Warnings {
    /// Whether the session may be warned of `limit` now, which counts as done then.
    fn may_warn(&self, limit: NearLimit, now: Instant) -> bool {
        let mut last = self.0.lock();
        let Some(last) = last.get_mut(limit as usize) else {
            return false;
        };
        if last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            return false;
        }
        *last = Some(now);
        true
    }
}

/// More than four fifths of `of` are used.
pub(super) fn is_near(used: usize, of: usize) -> bool {
    used > of - of.div_ceil(5)
}

impl SessionHandle {
    /// Tells the client something of ours, before what waits for it, if `gateway.system_messages` is on.
    pub(super) fn tell(&self, message: &SystemMessage) {
        if self.tells {
            self.queue(
                &message.push(),
                switchboard_proto::bus::PayloadKind::Json,
                Way::SYSTEM,
            );
        }
    }

    /// Warns of a limit, at most once a minute.
    pub(super) fn warn(&self, limit: NearLimit, used: usize, of: usize) {
        // Not counted where nothing is told.
        if self.tells && self.warnings.may_warn(limit, Instant::now()) {
            let number = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
            self.tell(&SystemMessage::LimitNear {
                limit,
                used: number(used),
                of: number(of),
            });
        }
    }

    /// The queue became nearly full.
    pub(super) fn warn_of_queue(&self) {
        let (used, of) = Outgoing::fill(&self.outgoing);
        self.warn(NearLimit::OutgoingQueue, used, of);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_warned_of_once_a_minute() {
        let now = Instant::now();
        let warnings = Warnings::default();
        for limit in NearLimit::ALL {
            assert!(warnings.may_warn(limit, now));
        }
        for limit in NearLimit::ALL {
            assert!(!warnings.may_warn(limit, now + PAUSE.mul_f64(0.99)));
            assert!(warnings.may_warn(limit, now + PAUSE));
        }
    }

    #[test]
    fn four_fifths_are_near() {
        assert!(!is_near(80, 100));
        assert!(is_near(81, 100));
        assert!(!is_near(1, 2));
        assert!(is_near(2, 2));
        assert!(is_near(1, 1));
        assert!(!is_near(0, 1));
    }
}
