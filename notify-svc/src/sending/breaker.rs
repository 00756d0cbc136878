//! A circuit breaker: a provider that fails again and again is left alone for a while.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(crate) struct Breaker {
    after: u32,
    rest: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
    /// One try is on its way that decides whether it closes.
    is_trying: bool,
}

impl Breaker {
    /// Opens for `rest` after so many failures, one after the other.
    pub(crate) fn new(after: u32, rest: Duration) -> Self {
        Self {
            after,
            rest,
            state: Mutex::default(),
        }
    }

    /// Whether the provider may be asked. Once its rest is over one may ask, and the others wait for what becomes of that.
    pub(crate) fn may_ask(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        match state.open_until {
            None => true,
            Some(until) if until > now || state.is_trying => false,
            Some(_) => {
                state.is_trying = true;
                true
            }
        }
    }

    /// How long it is left alone still.
    pub(crate) fn rests(&self, now: Instant) -> Duration {
        let state = self.state.lock();
        let left = state.open_until.map(|until| until.saturating_duration_since(now));
        // Who waits for a try of another's asks again soon.
        left.map_or(Duration::ZERO, |left| left.max(Duration::from_secs(1)))
    }

    /// Ends a try that nobody said the end of.
    pub(crate) fn trying(&self) -> Trying<'_> {
        Trying(self)
    }

    /// It answered, whatever it said of the message.
    pub(crate) fn worked(&self) {
        *self.state.lock() = State::default();
    }

    /// It did not. `at_once`: it will not be better for the next message.
    pub(crate) fn failed(&self, at_once: bool, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.failures = state.failures.saturating_add(1);
        let opens = at_once || state.failures >= self.after || state.is_trying;
        if opens {
            state.open_until = Some(now + self.rest);
            state.is_trying = false;
        }
        opens
    }

    /// Nobody knows what became of who asked: the next may ask.
    pub(crate) fn gave_up(&self) {
        self.state.lock().is_trying = false;
    }
}

/// See [`Breaker::trying`].
pub(crate) struct Trying<'a>(&'a Breaker);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        self.0.gave_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_and_one_try_closes_it() {
        let breaker = Breaker::new(3, Duration::from_secs(30));
        for _ in 0..2 {
            assert!(breaker.may_ask(Instant::now()));
            assert!(!breaker.failed(false, Instant::now()));
        }
        breaker.worked();
        for opens in [false, false, true] {
            assert!(breaker.may_ask(Instant::now()));
            assert_eq!(breaker.failed(false, Instant::now()), opens);
        }
        assert!(!breaker.may_ask(Instant::now()));
        assert_eq!(breaker.rests(Instant::now()), Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(breaker.may_ask(Instant::now()), "one may try");
        assert!(!breaker.may_ask(Instant::now()), "and no other");
        assert!(breaker.failed(false, Instant::now()));
        assert!(!breaker.may_ask(Instant::now()));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(breaker.may_ask(Instant::now()));
        breaker.worked();
        assert!(breaker.may_ask(Instant::now()));
        assert!(breaker.may_ask(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_nobody_ended_holds_up_nobody() {
        let breaker = Breaker::new(1, Duration::from_secs(1));
        assert!(breaker.failed(true, Instant::now()));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(breaker.may_ask(Instant::now()));
        breaker.gave_up();
        assert!(breaker.may_ask(Instant::now()));
    }
}
