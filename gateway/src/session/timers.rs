//! What is due when, in one connection's life. No clock inside: callers say what time it is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use switchboard_proto::codes::DisconnectCode;
use tokio::time::Instant;

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) connect_timeout: Duration,
    pub(super) ping_interval: Duration,
    pub(super) pong_timeout: Duration,
    /// `None`: a connection may be idle for ever.
    pub(super) idle_timeout: Option<Duration>,
}

/// How a connection is pinged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pings {
    /// With messages of the client protocol.
    Protocol,
    /// With WebSocket's own pings, for tools that do not speak the protocol but answer these. Nothing
    /// is said of them in the reply to `connect`.
    WebSocket,
}

/// Whether a ping waits for its pong. Shared by who sends the one and who reads the other.
#[derive(Default)]
pub(super) struct OpenPing(AtomicBool);

impl OpenPing {
    /// A pong came. `false`: nothing was pinged, the client breaks the protocol.
    pub(super) fn pong(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    fn ping(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Ping,
    /// To be closed for having done nothing.
    Idle,
    Close(DisconnectCode),
}

/// See the module.
pub(super) struct Timers {
    timing: Timing,
    phase: Phase,
    /// When a stopping gateway lets go of this one.
    leave: Option<Instant>,
}

enum Phase {
    /// No successful `connect` yet.
    New { stale: Instant },
    Connected {
        ping: Instant,
        pong: Option<Instant>,
        /// When it will have been idle for long enough, if nothing happens until then.
        idle: Option<Instant>,
    },
}

impl Timers {
    pub(super) fn new(timing: Timing, now: Instant) -> Self {
        let stale = now + timing.connect_timeout;
        Self {
            timing,
            phase: Phase::New { stale },
            leave: None,
        }
    }

    /// `connect` succeeded. `early`, from 0 to 1, brings the first ping forward by up to half an
    /// interval, so that connections that began together do not ping together.
    pub(super) fn connected(&mut self, now: Instant, early: f64) {
        if matches!(self.phase, Phase::New { .. }) {
            let ping = now
                + self
                    .timing
                    .ping_interval
                    .mul_f64(1.0 - early.clamp(0.0, 1.0) / 2.0);
            self.phase = Phase::Connected {
                ping,
                pong: None,
                idle: None,
            };
            self.active(now);
        }
    }

    /// The client sent a command, or is subscribed to something.
    pub(super) fn active(&mut self, now: Instant) {
        if let Phase::Connected { idle, .. } = &mut self.phase {
            *idle = self.timing.idle_timeout.map(|timeout| now + timeout);
        }
    }

    /// The gateway stops, and this connection's turn is at `at`.
    pub(super) fn leave(&mut self, at: Instant) {
        self.leave.get_or_insert(at);
    }

    /// When something may be due next.
    pub(super) fn next(&self) -> Instant {
        let next = match self.phase {
            Phase::New { stale } => stale,
            Phase::Connected { ping, pong, idle } => {
                [pong, idle].into_iter().flatten().fold(ping, Instant::min)
            }
        };
        self.leave.map_or(next, |leave| leave.min(next))
    }

    /// What is due. While the session is `busy` with a command it does not read, so that a pong may
    /// wait unread: the client is given its time once more.
    pub(super) fn due(&mut self, now: Instant, open: &OpenPing, busy: bool) -> Option<Due> {
        if self.leave.is_some_and(|leave| leave <= now) {
            return Some(Due::Close(DisconnectCode::Shutdown));
        }
        match &mut self.phase {
            Phase::New { stale } => (*stale <= now).then_some(Due::Close(DisconnectCode::Stale)),
            Phase::Connected { ping, pong, idle } => {
                if idle.is_some_and(|idle| idle <= now) {
                    return Some(Due::Idle);
                }
                if pong.is_some_and(|pong| pong <= now) {
                    *pong = None;
                    if open.is_open() {
                        if !busy {
                            return Some(Due::Close(DisconnectCode::NoPong));
                        }
                        *pong = Some(now + self.timing.pong_timeout);
                    }
                }
                if *ping > now {
                    return None;
                }
                *ping = now + self.timing.ping_interval;
                if open.is_open() {
                    // Only behind a command that takes longer than all this; its pong is awaited.
                    return None;
                }
                *pong = Some(now + self.timing.pong_timeout);
                open.ping();
                Some(Due::Ping)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMING: Timing = Timing {
        connect_timeout: Duration::from_secs(10),
        ping_interval: Duration::from_secs(25),
        pong_timeout: Duration::from_secs(8),
        idle_timeout: None,
    };

    struct Life {
        timers: Timers,
        begin: Instant,
        open: OpenPing,
    }

    impl Life {
        fn new() -> Self {
            let begin = Instant::now();
            Self {
                timers: Timers::new(TIMING, begin),
                begin,
                open: OpenPing::default(),
            }
        }

        fn due(&mut self, second: u32, busy: bool) -> Option<Due> {
            self.timers.due(self.begin + SECOND * second, &self.open, busy)
        }

        fn next(&self) -> Duration {
            self.timers.next() - self.begin
        }
    }

    #[test]
    fn without_connect_it_gets_stale() {
        let mut life = Life::new();
        assert_eq!(life.next(), SECOND * 10);
        assert_eq!(life.due(9, false), None);
        assert_eq!(life.due(10, false), Some(Due::Close(DisconnectCode::Stale)));
    }

    #[test]
    fn the_first_ping_comes_between_half_and_one_interval() {
        for (early, first) in [(0.0, 25_000), (1.0, 12_500), (0.5, 18_750)] {
            let mut life = Life::new();
            life.timers.connected(life.begin, early);
            assert_eq!(life.next(), Duration::from_millis(first));
        }
    }

    #[test]
    fn pings_go_on_while_pongs_come() {
        let mut life = Life::new();
        life.timers.connected(life.begin, 0.0);
        for round in 1..5 {
            assert_eq!(life.due(25 * round, false), Some(Due::Ping));
            assert_eq!(life.next(), SECOND * (25 * round + 8));
            assert!(life.open.pong());
            assert!(!life.open.pong(), "a second pong");
            assert_eq!(life.due(25 * round + 8, false), None);
            assert_eq!(life.next(), SECOND * 25 * (round + 1));
        }
    }

    #[test]
    fn a_missing_pong_ends_it_but_not_while_nobody_reads() {
        let mut life = Life::new();
        life.timers.connected(life.begin, 0.0);
        assert_eq!(life.due(25, false), Some(Due::Ping));
        assert_eq!(life.due(33, true), None);
        assert_eq!(life.next(), SECOND * 41);
        assert_eq!(life.due(40, false), None);
        assert_eq!(life.due(41, false), Some(Due::Close(DisconnectCode::NoPong)));
    }

    #[test]
    fn who_is_idle_for_long_is_let_go() {
        let mut life = Life::new();
        life.timers.timing.idle_timeout = Some(SECOND * 20);
        assert_eq!(life.due(9, false), None, "not before it is connected");
        life.timers.connected(life.begin, 0.0);
        assert_eq!(life.next(), SECOND * 20);
        assert_eq!(life.due(19, false), None);
        life.timers.active(life.begin + SECOND * 19);
        assert_eq!(life.due(25, false), Some(Due::Ping));
        assert!(life.open.pong());
        assert_eq!(life.due(38, false), None);
        assert_eq!(life.due(39, false), Some(Due::Idle));
    }

    #[test]
    fn a_stopping_gateway_goes_before_all_else() {
        let mut life = Life::new();
        life.timers.leave(life.begin + SECOND);
        life.timers.leave(life.begin + SECOND * 5);
        assert_eq!(life.next(), SECOND);
        assert_eq!(life.due(10, false), Some(Due::Close(DisconnectCode::Shutdown)));
    }
}
