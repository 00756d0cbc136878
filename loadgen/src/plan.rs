//! What a run is to do: how many connections, who talks and who hears, how fast.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// A run. Rooms are channels; each connection belongs to one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// What the report is called.
    pub scenario: String,
    /// Where to connect, in turn. Who is cut takes the next.
    pub urls: Vec<String>,
    /// PEM file with the certificates that are trusted behind `wss://`.
    pub ca_file: Option<PathBuf>,
    /// Who connects.
    pub credentials: Credentials,
    /// JSON instead of Protobuf.
    pub json: bool,
    /// Begins the name of each channel: the namespace with its colon.
    pub channel_prefix: String,
    /// Connections that are subscribed to their room.
    pub listeners: usize,
    /// Listeners in one room; the last room may have fewer.
    pub room: usize,
    /// Connections that only talk, shared out over the rooms. 0: the listeners talk.
    pub talkers: usize,
    /// How fast.
    pub pace: Pace,
    /// Bytes of each message's text.
    pub size: usize,
    /// Load before anything is measured. What is said in it is checked as well.
    pub warm_up: Duration,
    /// Load that is measured.
    pub duration: Duration,
    /// Listeners that are cut and come back.
    pub cuts: Cuts,
    /// Processes of the server, whose time and memory are reported.
    pub pids: Vec<u32>,
    /// Lines to standard error while it runs.
    pub progress: bool,
}

/// When something is said.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Pace {
    /// So many publishes a second of all together, at times set beforehand (open loop).
    Open(f64),
    /// Each talker has so many publishes without an answer (closed loop).
    Closed(usize),
    /// Each talker says one thing, in the first half of the warm-up.
    Once,
}

/// Connections that are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cuts {
    /// So many, each at a random time.
    Scattered(usize),
    /// So many from the middle of what is measured on, spread over this time.
    Together(usize, Duration),
}

/// With what connections connect.
#[derive(Clone, Serialize, Deserialize)]
pub enum Credentials {
    /// Without a token.
    None,
    /// All with this one.
    Token(String),
    /// Each as a user of its own, with a token signed with this secret (HS256).
    Secret(String),
}

/// Says which, and no secret.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token",
            Self::Secret(_) => "Secret",
        })
    }
}

/// What one connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) room: usize,
    pub(crate) hears: bool,
    pub(crate) talks: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            scenario: "rooms".to_owned(),
            urls: vec!["ws://127.0.0.1:8000/connection/websocket".to_owned()],
            ca_file: None,
            credentials: Credentials::None,
            json: false,
            channel_prefix: "room:".to_owned(),
            listeners: 1000,
            room: 10,
            talkers: 0,
            pace: Pace::Open(2000.0),
            size: 100,
            warm_up: Duration::from_secs(10),
            duration: Duration::from_secs(60),
            cuts: Cuts::Scattered(0),
            pids: Vec::new(),
            progress: true,
        }
    }
}

impl Plan {
    /// All connections.
    pub fn connections(&self) -> usize {
        self.listeners + self.talkers
    }

    /// # Errors
    /// What makes no sense.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.listeners > 0 && self.room > 0, "no connections, or no rooms");
        ensure!(!self.urls.is_empty(), "no URL");
        match self.pace {
            Pace::Open(rate) => ensure!(
                rate > 0.0 && rate <= 1e6,
                "a rate above 0, up to a million a second"
            ),
            Pace::Closed(unanswered) => ensure!(unanswered > 0, "no publish may be unanswered"),
            Pace::Once => {}
        }
        Ok(())
    }

    pub(crate) fn rooms(&self) -> usize {
        self.listeners.div_ceil(self.room.max(1))
    }

    /// Of the connection with this number.
    pub(crate) fn role(&self, number: usize) -> Role {
        match number.checked_sub(self.listeners) {
            None => Role {
                room: number / self.room.max(1),
                hears: true,
                talks: self.talkers == 0,
            },
            Some(talker) => Role {
                room: talker % self.rooms().max(1),
                hears: false,
                talks: true,
            },
        }
    }

    /// Whether the connection with this number is cut.
    pub(crate) fn is_cut(&self, number: usize) -> bool {
        let (Cuts::Scattered(cuts) | Cuts::Together(cuts, _)) = self.cuts;
        number < cuts.min(self.listeners)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_room_and_something_to_do() {
        let plan = Plan {
            listeners: 25,
            ..Plan::default()
        };
        assert_eq!(plan.rooms(), 3);
        assert!((0..25).all(|number| plan.role(number).talks && plan.role(number).hears));
        assert_eq!(plan.role(24).room, 2);
        let plan = Plan { talkers: 4, ..plan };
        let talks = (0..29).filter(|number| plan.role(*number).talks).count();
        assert_eq!((plan.connections(), talks), (29, 4));
        assert_eq!(plan.role(28).room, 0);
        assert!(!plan.role(28).hears);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for pace in [Pace::Open(0.0), Pace::Open(f64::NAN), Pace::Closed(0)] {
            let plan = Plan {
                pace,
                ..Plan::default()
            };
            assert!(plan.check().is_err(), "{pace:?}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let text = format!("{:?}", Credentials::Secret("hidden".to_owned()));
        assert!(!text.contains("hidden"), "{text}");
    }
}
