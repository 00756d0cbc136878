//! Who talks in a room.

use std::time::Duration;

use switchboard_client::{Client, ClientError};
use switchboard_loadgen::checker::Senders;
use switchboard_loadgen::message::Said;
use switchboard_proto::client::{Command, PublishRequest, RpcRequest};
use switchboard_proto::time::now_us;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::super::SETTLE;
use super::AGAIN;
use super::way::Way;

/// Between an answer and the next message.
const PACE: Duration = Duration::from_millis(40);

/// Added to a sender's number when the fate of a message is unknown and it will not be sent again: what comes of it is
/// promised nothing about.
const ANOTHER: u32 = 1_000;

/// What a talker was told.
pub(super) struct Talked {
    pub(super) room: u32,
    pub(super) acknowledged: Senders,
    pub(super) answers: Vec<Instant>,
    /// The longest that a command waited for its answer.
    pub(super) answer: Duration,
    /// The longest that a message waited for its acknowledgement.
    pub(super) refusal: Duration,
    pub(super) returned: u64,
    /// Refusals that were not said to be temporary.
    pub(super) refused_for_good: u64,
    pub(super) ended: Instant,
}

impl Talked {
    pub(super) fn in_room(room: u32) -> Self {
        Self {
            room,
            acknowledged: Senders::new(),
            answers: Vec::new(),
            answer: Duration::ZERO,
            refusal: Duration::ZERO,
            returned: 0,
            refused_for_good: 0,
            ended: Instant::now(),
        }
    }
}

pub(super) struct Talker {
    pub(super) way: Way,
    pub(super) channel: String,
    pub(super) sender: u32,
    /// It sends by `message.send` with a key, again and again until that is acknowledged; else once, by `publish`.
    pub(super) has_key: bool,
    /// Tells the keys of one run from another's.
    pub(super) run: u64,
    pub(super) talked: Talked,
}

/// What came of sending a message.
enum Saying {
    Acknowledged,
    /// It may be stored or not.
    Unknown,
    /// There was nobody to send it to.
    NotSent,
}

impl Talker {
    pub(super) async fn talk(mut self, quiet: CancellationToken) -> Talked {
        self.say_things(quiet).await;
        self.talked.ended = Instant::now();
        self.talked
    }

    async fn say_things(&mut self, quiet: CancellationToken) {
        let mut connected = None;
        let mut number = 0;
        let mut waits_since = None;
        while !quiet.is_cancelled() {
            number += 1;
            loop {
                let since = *waits_since.get_or_insert_with(Instant::now);
                let said = self.say(number, &mut connected).await;
                self.talked.refusal = self.talked.refusal.max(since.elapsed());
                match said {
                    Saying::Acknowledged => {
                        waits_since = None;
                        break;
                    }
                    // What became of it is not known, and it is not sent again.
                    Saying::Unknown if !self.has_key => {
                        self.sender += ANOTHER;
                        break;
                    }
                    // Never acknowledged, so nothing was promised but that it does not take so long.
                    _ if since.elapsed() > SETTLE => return,
                    Saying::Unknown | Saying::NotSent => sleep(AGAIN).await,
                }
            }
            sleep(PACE).await;
        }
    }

    async fn say(&mut self, number: u64, connected: &mut Option<Client>) -> Saying {
        let client = match connected {
            Some(client) => client,
            None => match self.way.connect().await {
                Ok(client) => connected.insert(client),
                Err(_) => return Saying::NotSent,
            },
        };
        let sent = Instant::now();
        let answer = client.command(self.command(number)).await;
        self.talked.answer = self.talked.answer.max(sent.elapsed());
        match answer {
            Ok(_) => {
                let of_sender = self.talked.acknowledged.entry(self.sender).or_default();
                of_sender.insert(number);
                self.talked.answers.push(Instant::now());
                return Saying::Acknowledged;
            }
            Err(ClientError::Refused { temporary, .. }) => {
                self.talked.refused_for_good += u64::from(!temporary)
            }
            Err(_) => {
                *connected = None;
                self.talked.returned += 1;
            }
        }
        Saying::Unknown
    }

    fn command(&self, number: u64) -> Command {
        let said = Said {
            sender: self.sender,
            number,
            meant_us: now_us(),
        };
        let data = said.encode(100);
        if !self.has_key {
            return Command {
                publish: Some(PublishRequest {
                    channel: self.channel.clone(),
                    data,
                    ..PublishRequest::default()
                }),
                ..Command::default()
            };
        }
        let (channel, run, sender) = (&self.channel, self.run, self.sender);
        let said = String::from_utf8_lossy(&data);
        let request = format!(r#"{{"channel":"{channel}","key":"{run}-{sender}-{number}","data":{said}}}"#);
        Command {
            rpc: Some(RpcRequest {
                method: "message.send".to_owned(),
                data: request.into(),
            }),
            ..Command::default()
        }
    }
}
