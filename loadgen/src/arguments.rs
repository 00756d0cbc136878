//! The command line, and the plans that it stands for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use switchboard_loadgen::Plan;
use switchboard_loadgen::plan::{Credentials, Cuts, Pace};

/// Puts load on a server of the Centrifuge client protocol and checks what it promises.
#[derive(Debug, Parser)]
#[command(
    name = "switchboard-loadgen",
    version,
    after_help = "Exit code: 0 all as promised, 1 failure, 2 wrong arguments, 3 something was lost, doubled, out of \
                  order, or not recovered."
)]
pub(crate) struct Arguments {
    /// Where to connect; several are used in turn, and who comes back takes the next.
    #[arg(
        long,
        global = true,
        default_value = "ws://127.0.0.1:8000/connection/websocket"
    )]
    url: Vec<String>,
    /// PEM file with the certificates that are trusted behind wss://, instead of those that this machine trusts.
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// A connection token for all connections.
    #[arg(long, global = true, conflicts_with = "secret_file")]
    token: Option<String>,
    /// File with the server's HMAC secret: each connection signs a token of its own, for a user of its own.
    #[arg(long, global = true, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// JSON instead of Protobuf.
    #[arg(long = "json-protocol", global = true)]
    json_protocol: bool,
    /// How the channels' names begin.
    #[arg(long, global = true, default_value = "room:")]
    channel_prefix: String,
    /// Bytes of each message's text.
    #[arg(long, global = true, default_value_t = 100)]
    size: usize,
    /// Processes of the server, whose processor time and memory are reported.
    #[arg(long, global = true, value_delimiter = ',')]
    pid: Vec<u32>,
    /// Share the connections out over so many processes of this program: one of them may not have enough files.
    #[arg(long, global = true, default_value_t = 1)]
    pub(crate) processes: usize,
    /// Write the result there, as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// No lines while it runs.
    #[arg(long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connections that do next to nothing: each is subscribed to a channel, says one thing in it, and then only
    /// answers pings. Tells what memory a connection takes.
    Idle {
        #[arg(default_value_t = 1000)]
        connections: usize,
        /// Seconds over which each says its one thing.
        #[arg(long, default_value_t = 10)]
        warm_up: u64,
        /// Seconds of silence after that: two pings of 25 s take a minute.
        #[arg(long, default_value_t = 60)]
        duration: u64,
    },
    /// Connections in rooms, each of which talks and hears.
    Rooms {
        #[arg(long, default_value_t = 1000)]
        connections: usize,
        /// Connections in one room.
        #[arg(long, default_value_t = 10)]
        room: usize,
        /// Publishes a second of all together, at times set beforehand (open loop).
        #[arg(long, default_value_t = 2000.0)]
        rate: f64,
        /// Instead of a rate: publishes that each connection has unanswered at any time (closed loop).
        #[arg(long, value_name = "UNANSWERED", conflicts_with = "rate")]
        closed: Option<usize>,
        /// Connections that are cut and come back, at random times.
        #[arg(long, default_value_t = 0)]
        cuts: usize,
        #[command(flatten)]
        time: Time,
    },
    /// One channel with many subscribers; a few other connections talk.
    Fanout {
        #[arg(long, default_value_t = 5000)]
        subscribers: usize,
        #[arg(long, default_value_t = 4)]
        publishers: usize,
        /// Publishes a second of all together (open loop).
        #[arg(long, default_value_t = 20.0)]
        rate: f64,
        /// Instead of a rate: publishes that each publisher has unanswered at any time (closed loop).
        #[arg(long, value_name = "UNANSWERED", conflicts_with = "rate")]
        closed: Option<usize>,
        #[command(flatten)]
        time: Time,
    },
    /// Connections in rooms, most of which are cut at one moment and come back at once.
    Storm {
        #[arg(long, default_value_t = 1000)]
        connections: usize,
        #[arg(long, default_value_t = 10)]
        room: usize,
        #[arg(long, default_value_t = 500.0)]
        rate: f64,
        /// Connections that are cut, in the middle of what is measured; by default half of them.
        #[arg(long)]
        cuts: Option<usize>,
        /// Seconds over which these cuts are spread.
        #[arg(long, default_value_t = 0)]
        over: u64,
        #[command(flatten)]
        time: Time,
    },
    /// Connections that publish as fast as they are answered; each hears what it says.
    Publish {
        #[arg(long, default_value_t = 500)]
        connections: usize,
        /// Publishes that each connection has unanswered at any time.
        #[arg(long, default_value_t = 16)]
        unanswered: usize,
        #[command(flatten)]
        time: Time,
    },
    /// Floor of `publish`: a bare NATS client that publishes each message by itself to a JetStream stream.
    FloorNats {
        #[arg(long, default_value = "nats://127.0.0.1:4222")]
        nats: String,
        #[arg(long, default_value_t = 3)]
        replicas: usize,
        #[arg(long, default_value_t = 500)]
        connections: usize,
        #[arg(long, default_value_t = 16)]
        unanswered: usize,
        /// Bytes of a message: what the server stores of one with --size 100.
        #[arg(long = "bytes", default_value_t = 300)]
        size: usize,
        #[arg(long, default_value_t = 30)]
        duration: u64,
    },
    /// Floor of `fanout`: a loop that writes the same bytes to as many sockets.
    FloorWrite {
        #[arg(long, default_value_t = 5000)]
        sockets: usize,
        /// Rounds over all sockets a second; 0: as many as possible.
        #[arg(long, default_value_t = 20.0)]
        rate: f64,
        /// Bytes of a write: what a delivery of --size 100 takes.
        #[arg(long = "bytes", default_value_t = 300)]
        size: usize,
        #[arg(long, default_value_t = 30)]
        duration: u64,
    },
    /// Print a table of results that --json wrote, in Markdown.
    Summary {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// One of several processes.
    #[command(name = switchboard_loadgen::PART, hide = true)]
    Part,
    /// Readers of floor-write.
    #[command(name = switchboard_loadgen::floors::write::DRAIN, hide = true)]
    Drain { to: SocketAddr, sockets: usize },
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Time {
    /// Seconds that are not counted.
    #[arg(long, default_value_t = 10)]
    warm_up: u64,
    /// Seconds that are.
    #[arg(long, default_value_t = 60)]
    duration: u64,
}

impl Arguments {
    /// What the command stands for, if it is a scenario.
    ///
    /// # Errors
    /// A secret that cannot be read.
    pub(crate) fn plan(&self) -> anyhow::Result<Plan> {
        let credentials = match (&self.token, &self.secret_file) {
            (Some(token), _) => Credentials::Token(token.clone()),
            (None, Some(file)) => {
                let secret = std::fs::read_to_string(file);
                let secret = secret.with_context(|| format!("reading {}", file.display()))?;
                Credentials::Secret(secret.trim_end().to_owned())
            }
            (None, None) => Credentials::None,
        };
        let plan = Plan {
            urls: self.url.clone(),
            ca_file: self.ca_file.clone(),
            credentials,
            json: self.json_protocol,
            channel_prefix: self.channel_prefix.clone(),
            size: self.size,
            pids: self.pid.clone(),
            progress: !self.quiet,
            ..Plan::default()
        };
        Ok(self.command.scenario(plan))
    }
}

impl Command {
    fn scenario(&self, plan: Plan) -> Plan {
        let pace = |rate: f64, closed: Option<usize>| closed.map_or(Pace::Open(rate), Pace::Closed);
        let named = |name: &str, time: Time| Plan {
            scenario: name.to_owned(),
            warm_up: Duration::from_secs(time.warm_up),
            duration: Duration::from_secs(time.duration),
            ..plan.clone()
        };
        match *self {
            Self::Idle {
                connections,
                warm_up,
                duration,
            } => Plan {
                listeners: connections,
                room: 1,
                pace: Pace::Once,
                ..named("idle", Time { warm_up, duration })
            },
            Self::Rooms {
                connections,
                room,
                rate,
                closed,
                cuts,
                time,
            } => Plan {
                listeners: connections,
                room,
                pace: pace(rate, closed),
                cuts: Cuts::Scattered(cuts),
                ..named("rooms", time)
            },
            Self::Fanout {
                subscribers,
                publishers,
                rate,
                closed,
                time,
            } => Plan {
                listeners: subscribers,
                room: subscribers,
                talkers: publishers,
                pace: pace(rate, closed),
                ..named("fanout", time)
            },
            Self::Storm {
                connections,
                room,
                rate,
                cuts,
                over,
                time,
            } => Plan {
                listeners: connections,
                room,
                pace: Pace::Open(rate),
                cuts: Cuts::Together(cuts.unwrap_or(connections / 2), Duration::from_secs(over)),
                ..named("storm", time)
            },
            Self::Publish {
                connections,
                unanswered,
                time,
            } => Plan {
                listeners: connections,
                room: 1,
                pace: Pace::Closed(unanswered),
                ..named("publish", time)
            },
            _ => plan,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_plans() {
        let plan = |arguments: &[&str]| {
            let all = [&["switchboard-loadgen"], arguments].concat();
            Arguments::try_parse_from(all).map(|arguments| arguments.plan().unwrap())
        };
        let fanout = plan(&["fanout", "--subscribers", "50", "--publishers", "2"]).unwrap();
        assert_eq!(
            (fanout.room, fanout.talkers, fanout.pace),
            (50, 2, Pace::Open(20.0))
        );
        let publish = plan(&["publish", "--connections", "7", "--unanswered", "3"]).unwrap();
        assert_eq!(
            (publish.listeners, publish.room, publish.pace),
            (7, 1, Pace::Closed(3))
        );
        let storm = plan(&["storm", "--connections", "8"]).unwrap();
        assert_eq!(storm.cuts, Cuts::Together(4, Duration::ZERO));
        assert_eq!(plan(&["idle", "9"]).unwrap().pace, Pace::Once);
        assert!(plan(&["rooms", "--rate", "5", "--closed", "1"]).is_err());
    }
}
