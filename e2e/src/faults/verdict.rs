//! Whether what the clients were told is as promised.

use std::fmt;
use std::time::Duration;

use switchboard_loadgen::checker::Violations;

use super::schedule::Victims;

/// How a run went.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Whom faults were done to.
    pub victims: Victims,
    /// What they came from.
    pub seed: u64,
    /// How many there were.
    pub faults: usize,
    /// Messages that were acknowledged.
    pub acknowledged: u64,
    /// Messages that listeners received, each for itself.
    pub received: u64,
    /// Times that a client came back.
    pub returned: u64,
    /// Clients that came to no end.
    pub missing: u64,
    /// Messages that were refused with an error that is not temporary.
    pub refused_for_good: u64,
    /// What was not as promised.
    pub violations: Violations,
    /// Places in which a client's record and the channel's history differ.
    pub differing: u64,
    /// The longest time in which no message of a room was acknowledged, though several clients tried.
    pub silence: Duration,
    /// The longest time from a message's first sending to its acknowledgement, however often it was refused in between.
    pub refusal: Duration,
    /// The longest time in which nobody who came was let in.
    pub shut: Duration,
    /// The longest time from sending a command to its answer.
    pub slowest: Duration,
    /// Times that a user who was there was told to be gone.
    pub flickers: u64,
    /// Users and members who were there at the end, and were not told to be.
    pub unseen: u64,
    /// Users and members who were told to be there after they had gone.
    pub ghosts: u64,
    /// How long it took until all who went without a word were told to be gone.
    pub gone_after: Duration,
}

impl Verdict {
    /// How long a room may be without acknowledgements, a message without its own, and the door shut: a take-over, the clients' own
    /// time limit and back-off, an election of NATS, a second that a connect waits for Redis at most; three times what is
    /// promised, or measured of NATS.
    pub fn allowed(&self) -> Duration {
        match self.victims {
            Victims::Redis | Victims::Presence => Duration::from_secs(3),
            Victims::Routers => Duration::from_secs(10),
            Victims::Gateways => Duration::from_secs(15),
            Victims::Nats | Victims::Disk | Victims::Mixed => Duration::from_secs(30),
        }
    }

    /// Nothing was lost, doubled, out of order or not recovered, the history says what clients were told, nobody was refused for longer than allowed,
    /// and who was told to be there was there.
    pub fn is_as_promised(&self) -> bool {
        let longest = self.silence.max(self.refusal).max(self.shut);
        self.missing + self.refused_for_good + self.differing == 0
            && self.flickers + self.unseen + self.ghosts == 0
            && self.violations.is_empty()
            && longest <= self.allowed()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violations {
            lost,
            doubled,
            disordered,
            unrecovered,
        } = self.violations;
        write!(
            f,
            "{:?} seed {}: {} faults, {} acknowledged, {} received, {} came back; {lost} lost, {doubled} doubled, \
             {disordered} out of order, {unrecovered} not recovered, {} otherwise in the history, {} refused for good, {} clients missing; longest silence {:.1} s, refusal {:.1} s, \
             shut door {:.1} s (allowed {:.0} s), slowest answer {:.1} s; presence: {} flickers, {} unseen, {} ghosts, all gone after {:.1} s",
            self.victims,
            self.seed,
            self.faults,
            self.acknowledged,
            self.received,
            self.returned,
            self.differing,
            self.refused_for_good,
            self.missing,
            self.silence.as_secs_f64(),
            self.refusal.as_secs_f64(),
            self.shut.as_secs_f64(),
            self.allowed().as_secs_f64(),
            self.slowest.as_secs_f64(),
            self.flickers,
            self.unseen,
            self.ghosts,
            self.gone_after.as_secs_f64(),
        )
    }
}
