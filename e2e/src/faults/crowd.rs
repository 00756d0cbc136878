//! The clients: some talk, with a key or without, some listen, and all come back when their connection ends. Each keeps its own
//! record of what it was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use switchboard_client::{Client, ClientError, Event, Options, Place};
use switchboard_loadgen::checker::{Receiver, Senders, Violations};
use switchboard_loadgen::message::Said;
use switchboard_loadgen::numbers::Numbers;
use switchboard_proto::client::{Command, PublishRequest, RpcRequest};
use switchboard_proto::time::now_us;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::arena::SECRET;
use super::schedule::Victims;
use super::verdict::Verdict;

const ROOMS: u32 = 6;
const LISTENERS: u32 = 3;
/// In each room, of whom every third has no key.
const TALKERS: u32 = 3;

/// Between an answer and the next message.
const PACE: Duration = Duration::from_millis(40);

/// Until a refused message is sent again, and until an ended connection is opened again.
const AGAIN: Duration = Duration::from_millis(50);

/// Seconds: longer than a run.
const TOKEN_LIFE: u64 = 24 * 3600;

/// As SDKs have it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Added to a sender's number when the fate of a message is unknown and it will not be sent again: what comes of it is
/// promised nothing about.
const ANOTHER: u32 = 1_000;

/// Everybody, at it.
pub(super) struct Crowd {
    talking: JoinSet<Talked>,
    listening: JoinSet<Listened>,
    /// Cancelled when nobody talks any more.
    quiet: CancellationToken,
    /// What was acknowledged, by room, once nobody talks any more.
    all: watch::Sender<Option<Arc<Acknowledged>>>,
    /// Cancelled when nobody waits for more.
    over: CancellationToken,
}

type Acknowledged = BTreeMap<u32, Senders>;

/// What a talker was told.
struct Talked {
    room: u32,
    acknowledged: Senders,
    answers: Vec<Instant>,
    slowest: Duration,
    returned: u64,
}

/// What a listener was told.
struct Listened {
    room: u32,
    receiver: Receiver,
    received: u64,
    returned: u64,
}

/// What they were told, all together.
pub(super) struct Told {
    talked: Vec<Talked>,
    listened: Vec<Listened>,
    acknowledged: Arc<Acknowledged>,
}

impl Crowd {
    /// Everybody is connected and subscribed, and begins.
    pub(super) async fn gather(urls: &[String]) -> Result<Self> {
        let urls: Arc<[String]> = urls.into();
        let (quiet, over) = (CancellationToken::new(), CancellationToken::new());
        let all = watch::Sender::new(None);
        let run = now_us();
        let mut crowd = Self {
            talking: JoinSet::new(),
            listening: JoinSet::new(),
            quiet,
            all,
            over,
        };
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let exp = run / 1_000_000 + TOKEN_LIFE;
        let mut turns = 0..;
        // A user of its own for each: an anonymous client's key would be forgotten with its connection (P6).
        let mut way = || {
            let turn = turns.next().context("endless")?;
            let claims = json!({ "sub": format!("client-{turn}"), "exp": exp });
            anyhow::Ok(Way {
                urls: Arc::clone(&urls),
                turn,
                token: jsonwebtoken::encode(&Header::default(), &claims, &key)?,
            })
        };
        for room in 0..ROOMS {
            let channel = format!("room:faults-{run}-{room}");
            for _ in 0..LISTENERS {
                let mut way = way()?;
                let (client, place) = subscribe(&mut way, &channel, None).await?;
                let listener = Listener {
                    way,
                    channel: channel.clone(),
                    place,
                    listened: Listened {
                        room,
                        receiver: Receiver::default(),
                        received: 0,
                        returned: 0,
                    },
                };
                let (all, over) = (crowd.all.subscribe(), crowd.over.clone());
                crowd.listening.spawn(listener.listen(client, all, over));
            }
        }
        for room in 0..ROOMS {
            for number in 0..TALKERS {
                let talker = Talker {
                    way: way()?,
                    channel: format!("room:faults-{run}-{room}"),
                    sender: room * TALKERS + number + 1,
                    has_key: number % 3 != 2,
                    run,
                    talked: Talked {
                        room,
                        acknowledged: Senders::new(),
                        answers: Vec::new(),
                        slowest: Duration::ZERO,
                        returned: 0,
                    },
                };
                crowd.talking.spawn(talker.talk(crowd.quiet.clone()));
            }
        }
        Ok(crowd)
    }

    /// Nobody begins a message any more; those that were begun are still acknowledged, and whoever listens gets `settle` to
    /// have everything.
    pub(super) async fn dismiss(mut self, settle: Duration) -> Told {
        self.quiet.cancel();
        let talked = timeout(settle, async {
            let mut talked = Vec::new();
            while let Some(ended) = self.talking.join_next().await {
                talked.extend(ended);
            }
            talked
        })
        .await
        .unwrap_or_default();
        let mut acknowledged = Acknowledged::new();
        for one in &talked {
            let room = acknowledged.entry(one.room).or_default();
            room.extend(one.acknowledged.clone());
        }
        let acknowledged = Arc::new(acknowledged);
        self.all.send_replace(Some(Arc::clone(&acknowledged)));
        let mut listened = Vec::new();
        let has_all = async {
            while let Some(ended) = self.listening.join_next().await {
                listened.extend(ended);
            }
        };
        if timeout(settle, has_all).await.is_err() {
            self.over.cancel();
            while let Some(ended) = self.listening.join_next().await {
                listened.extend(ended);
            }
        }
        Told {
            talked,
            listened,
            acknowledged,
        }
    }
}

impl Told {
    pub(super) fn verdict(self, victims: Victims, seed: u64, faults: usize) -> Verdict {
        let mut violations = Violations::default();
        let none = Senders::new();
        for one in &self.listened {
            let room = self.acknowledged.get(&one.room).unwrap_or(&none);
            violations.add(one.receiver.verdict(room));
        }
        // Whoever is missing was told nothing, which is no way to be as promised.
        let missing = |expected: u32, are: usize| u64::from(expected).saturating_sub(are as u64);
        violations.lost += missing(ROOMS * TALKERS, self.talked.len());
        violations.lost += missing(ROOMS * LISTENERS, self.listened.len());
        let acknowledged = self
            .acknowledged
            .values()
            .flat_map(BTreeMap::values)
            .map(Numbers::len)
            .sum();
        let returned = self.talked.iter().map(|one| one.returned).sum::<u64>()
            + self.listened.iter().map(|one| one.returned).sum::<u64>();
        Verdict {
            victims,
            seed,
            faults,
            acknowledged,
            received: self.listened.iter().map(|one| one.received).sum(),
            returned,
            violations,
            silence: (0..ROOMS)
                .map(|room| self.silence(room))
                .max()
                .unwrap_or_default(),
            slowest: self
                .talked
                .iter()
                .map(|one| one.slowest)
                .max()
                .unwrap_or_default(),
        }
    }

    /// The longest time without an acknowledgement in a room.
    fn silence(&self, room: u32) -> Duration {
        let mut answers: Vec<Instant> = self
            .talked
            .iter()
            .filter(|one| one.room == room)
            .flat_map(|one| one.answers.iter().copied())
            .collect();
        answers.sort_unstable();
        let between = answers.iter().zip(answers.iter().skip(1));
        between
            .map(|(one, next)| *next - *one)
            .max()
            .unwrap_or(Duration::MAX)
    }
}

/// Where a client connects: another gateway each time.
struct Way {
    urls: Arc<[String]>,
    turn: usize,
    token: String,
}

impl Way {
    async fn connect(&mut self) -> Result<Client, ClientError> {
        self.turn += 1;
        let url = self
            .urls
            .get(self.turn % self.urls.len().max(1))
            .map_or("", String::as_str);
        let options = Options {
            token: self.token.clone(),
            name: "faults".to_owned(),
            timeout: TIMEOUT,
            ..Options::default()
        };
        Client::connect(url, options).await
    }
}

async fn subscribe(
    way: &mut Way,
    channel: &str,
    place: Option<&Place>,
) -> Result<(Client, Place), ClientError> {
    let mut client = way.connect().await?;
    let subscribed = client.subscribe(channel, "", place).await?;
    let place = Place {
        epoch: subscribed.epoch,
        offset: subscribed.offset,
    };
    Ok((client, place))
}

struct Listener {
    way: Way,
    channel: String,
    place: Place,
    listened: Listened,
}

impl Listener {
    /// Until it has all that was acknowledged, or it is over.
    async fn listen(
        mut self,
        client: Client,
        mut all: watch::Receiver<Option<Arc<Acknowledged>>>,
        over: CancellationToken,
    ) -> Listened {
        let mut connected = Some(client);
        loop {
            let has_all = |all: &Option<Arc<Acknowledged>>| {
                let room = all.as_ref().and_then(|all| all.get(&self.listened.room));
                all.is_some() && room.is_none_or(|room| self.listened.receiver.has(room))
            };
            if over.is_cancelled() || has_all(&all.borrow_and_update()) {
                return self.listened;
            }
            let Some(client) = &mut connected else {
                self.listened.returned += 1;
                connected = self.come_back().await;
                if connected.is_none() {
                    sleep(AGAIN).await;
                }
                continue;
            };
            tokio::select! {
                event = client.next() => match event {
                    Ok(Event::Publication { publication, .. }) => self.hear(publication.offset, &publication.data),
                    Ok(Event::Reply(_) | Event::Other(_)) => {}
                    Ok(Event::Unsubscribed { .. }) | Err(_) => connected = None,
                },
                Ok(()) = all.changed() => {}
                () = over.cancelled() => {}
            }
        }
    }

    async fn come_back(&mut self) -> Option<Client> {
        let mut client = self.way.connect().await.ok()?;
        let subscribed = client
            .subscribe(&self.channel, "", Some(&self.place))
            .await
            .ok()?;
        if !subscribed.recovered {
            self.listened.receiver.not_recovered();
            self.place.offset = subscribed.offset;
        }
        for publication in subscribed.publications {
            self.hear(publication.offset, &publication.data);
        }
        self.place.epoch = subscribed.epoch;
        Some(client)
    }

    fn hear(&mut self, offset: u64, data: &[u8]) {
        if let Some(said) = Said::decode(data) {
            self.listened.received += 1;
            self.listened.receiver.received(offset, said.sender, said.number);
        }
        self.place.offset = self.place.offset.max(offset);
    }
}

struct Talker {
    way: Way,
    channel: String,
    sender: u32,
    /// It sends by `message.send` with a key, again and again until that is acknowledged; else once, by `publish`.
    has_key: bool,
    run: u64,
    talked: Talked,
}

impl Talker {
    async fn talk(mut self, quiet: CancellationToken) -> Talked {
        let mut connected = None;
        let mut number = 0;
        while !quiet.is_cancelled() {
            number += 1;
            let begun = Instant::now();
            loop {
                let client = match &mut connected {
                    Some(client) => client,
                    None => match self.way.connect().await {
                        Ok(client) => connected.insert(client),
                        Err(_) => {
                            self.talked.returned += 1;
                            sleep(AGAIN).await;
                            continue;
                        }
                    },
                };
                let sent = Instant::now();
                let answer = client.command(self.command(number)).await;
                self.talked.slowest = self.talked.slowest.max(sent.elapsed());
                match answer {
                    Ok(_) => {
                        let of_sender = self.talked.acknowledged.entry(self.sender).or_default();
                        of_sender.insert(number);
                        self.talked.answers.push(Instant::now());
                        break;
                    }
                    Err(ClientError::Refused { .. }) => {}
                    Err(_) => {
                        connected = None;
                        self.talked.returned += 1;
                    }
                }
                if !self.has_key {
                    // What became of it is not known, and it is not sent again.
                    self.sender += ANOTHER;
                    break;
                }
                if begun.elapsed() > super::SETTLE {
                    // Never acknowledged, so nothing was promised.
                    return self.talked;
                }
                sleep(AGAIN).await;
            }
            sleep(PACE).await;
        }
        self.talked
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
