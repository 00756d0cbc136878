//! Who is not answered stops asking for a while: after some failures in a row every call fails at once, so that a
//! store that is gone costs those who would like to know something nothing.
//!
//! No clock inside: callers say what time it is.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which the circuit opens.
const FAILURES: u32 = 3;

/// From there to the next try, which one caller makes.
const PAUSE: Duration = Duration::from_millis(500);

/// How much longer callers wait for whom an answer is only an improvement: the try is left to those who can wait.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(5);

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Nobody waits for it: it may find out whether the store is back.
    Background,
    /// A client waits.
    Waiting,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    failures: u32,
    /// When a call may be tried again; `None`: closed.
    retry_at: Option<Instant>,
}

impl Circuit {
    /// Whether the call may be made.
    pub(super) fn admits(&mut self, caller: Caller, now: Instant) -> bool {
        let Some(retry_at) = self.retry_at else {
            return true;
        };
        let from = match caller {
            Caller::Background => retry_at,
            Caller::Waiting => retry_at + LEFT_TO_OTHERS,
        };
        if now < from {
            return false;
        }
        // One alone: others wait for what becomes of it, or until it should have ended.
        self.retry_at = Some(now + PAUSE);
        true
    }

    /// A call was answered. `true`: after the circuit was open.
    pub(super) fn answered(&mut self) -> bool {
        self.failures = 0;
        self.retry_at.take().is_some()
    }

    /// A call failed. `true`: the circuit opens by it.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures < FAILURES {
            return false;
        }
        self.retry_at.replace(now + PAUSE).is_none()
    }

    /// Whether calls are made at all now.
    pub(super) fn is_open(&self) -> bool {
        self.retry_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_and_closes_with_an_answer() {
        let mut circuit = Circuit::default();
        let mut now = Instant::now();
        assert!(!circuit.failed(now) && !circuit.failed(now));
        assert!(!circuit.answered());
        assert!(!circuit.failed(now) && !circuit.failed(now));
        assert!(circuit.admits(Caller::Waiting, now), "an answer came between");
        assert!(circuit.failed(now));
        assert!(!circuit.admits(Caller::Background, now));
        now += PAUSE;
        assert!(!circuit.admits(Caller::Waiting, now), "this is not for who waits");
        assert!(circuit.admits(Caller::Background, now));
        assert!(!circuit.admits(Caller::Background, now), "one tries");
        assert!(!circuit.failed(now), "it is open already");
        now += PAUSE;
        assert!(circuit.admits(Caller::Background, now));
        assert!(circuit.answered());
        assert!(circuit.admits(Caller::Waiting, now) && circuit.admits(Caller::Waiting, now));
    }

    #[test]
    fn where_nobody_is_in_the_background_who_waits_tries() {
        let mut circuit = Circuit::default();
        let now = Instant::now();
        for _ in 0..FAILURES {
            circuit.failed(now);
        }
        let later = now + PAUSE + LEFT_TO_OTHERS;
        assert!(circuit.admits(Caller::Waiting, later));
        // A try that never ends, since its caller went away, does not keep the circuit open.
        assert!(circuit.admits(Caller::Background, later + PAUSE));
    }
}
