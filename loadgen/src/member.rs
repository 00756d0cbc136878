//! One connection: what it says and hears, and its record of that.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use switchboard_client::{Client, ClientError, Encoding, Event, Options, Place, Tls};
use switchboard_proto::client::{Reply, SubscribeResult};
use switchboard_proto::time::now_us;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::checker::{Receiver, Senders, Violations};
use crate::message::Said;
use crate::numbers::Numbers;
use crate::pacer::{BACKLOG, Due};
use crate::plan::{Credentials, Pace, Plan, Role};
use crate::times::Times;

/// Until what is on its way when the load ends has to be there, and until who was cut has to be back.
pub(crate) const SETTLE: Duration = Duration::from_secs(15);

/// Who has everything and hears nothing for so long is done.
const QUIET: Duration = Duration::from_millis(500);

/// Between two tries to come back.
const BACK_OFF: Duration = Duration::from_millis(200);

/// Until a closed loop goes on after a refusal.
const AFTER_REFUSAL: Duration = Duration::from_millis(10);

/// What a token is good for: longer than a run.
const TOKEN_LIFE: u64 = 24 * 3600;

/// When there is load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) begin: Instant,
    /// Measured from then on.
    pub(crate) measure: Instant,
    pub(crate) end: Instant,
}

/// What the connections of a process share.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    /// Names this run, so that channels are new.
    pub(crate) run: String,
    pub(crate) tls: Option<Tls>,
    pub(crate) counters: Counters,
    /// From the intended time of a publish until it was sent: what the generator itself is late.
    pub(crate) late: Times,
    /// From the intended time of a publish to its answer.
    pub(crate) answered: Times,
    /// From the intended time of a publish to its delivery.
    pub(crate) delivered: Times,
    /// From a cut to the subscription that goes on.
    pub(crate) back: Times,
}

/// All in all, since the beginning.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) said: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) deliveries: AtomicU64,
    pub(crate) returned: AtomicU64,
}

pub(crate) struct Member {
    shared: Arc<Shared>,
    number: u32,
    role: Role,
    channel: String,
    token: String,
    /// `None`: cut.
    client: Option<Client>,
    place: Place,
    pub(crate) cut_at: Option<Instant>,
    due: Option<Due>,
    /// Publishes that a closed loop may begin.
    credit: usize,
    receiver: Receiver,
    acknowledged: Numbers,
    /// Publishes without an answer: which they are, and when they were meant.
    waiting: HashMap<u32, (u64, u64)>,
    said: u64,
    /// Connections that it opened or tried to, but for the first.
    tries: usize,
    load: Option<Load>,
}

impl Member {
    pub(crate) async fn open(shared: Arc<Shared>, number: usize) -> anyhow::Result<Self> {
        let role = shared.plan.role(number);
        let mut member = Self {
            number: u32::try_from(number)?,
            role,
            channel: format!("{}{}-{}", shared.plan.channel_prefix, shared.run, role.room),
            token: token(&shared.plan.credentials, number)?,
            client: None,
            place: Place {
                epoch: String::new(),
                offset: 0,
            },
            cut_at: None,
            due: None,
            credit: 0,
            receiver: Receiver::default(),
            acknowledged: Numbers::default(),
            waiting: HashMap::new(),
            said: 0,
            tries: 0,
            load: None,
            shared,
        };
        let mut client = member.connect().await?;
        if role.hears {
            let subscribed = client.subscribe(&member.channel, "", None).await;
            let subscribed = subscribed.with_context(|| format!("subscribe {}", member.channel))?;
            member.place = Place {
                epoch: subscribed.epoch,
                offset: subscribed.offset,
            };
        }
        member.client = Some(client);
        Ok(member)
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn room(&self) -> usize {
        self.role.room
    }

    pub(crate) fn talks(&self) -> bool {
        self.role.talks
    }

    pub(crate) fn acknowledged(&self) -> &Numbers {
        &self.acknowledged
    }

    /// Pings that came on the present connection.
    pub(crate) fn pings(&self) -> u64 {
        self.client.as_ref().map_or(0, Client::pings)
    }

    /// What was not as promised; who hears nothing was promised nothing.
    pub(crate) fn verdict(&self, room: &Senders) -> Violations {
        match self.role.hears {
            true => self.receiver.verdict(room),
            false => Violations::default(),
        }
    }

    /// Where to send the times at which it has to say something.
    pub(crate) fn listen_to_pacer(&mut self) -> mpsc::Sender<u64> {
        let (told, due) = mpsc::channel(BACKLOG);
        self.due = Some(due);
        told
    }

    /// Answers pings until there is load: thousands of others may have to be opened first. It ends with an error where the
    /// connection does.
    pub(crate) async fn rest(mut self, load_is_near: CancellationToken) -> anyhow::Result<Self> {
        loop {
            let client = self.client.as_mut().context("no connection")?;
            tokio::select! {
                event = client.next() => {
                    event.context("before the load")?;
                }
                () = load_is_near.cancelled() => return Ok(self),
            }
        }
    }

    /// Talks and listens until the load's end, and until all that it said is answered.
    pub(crate) async fn talk(mut self, load: Load) -> anyhow::Result<Self> {
        self.load = Some(load);
        if let (true, Pace::Closed(unanswered)) = (self.role.talks, self.shared.plan.pace) {
            self.credit = unanswered;
        }
        let last = load.end + SETTLE;
        let mut alarm = pin!(sleep_until(load.begin));
        (&mut alarm).await;
        // A closed loop that was refused waits until then.
        let mut pause = load.begin;
        loop {
            let now = Instant::now();
            let is_load = now < load.end;
            if !is_load && (self.waiting.is_empty() || now >= last) {
                return Ok(self);
            }
            if self.cut_at.take_if(|cut_at| *cut_at <= now).is_some() {
                self.come_back().await?;
                continue;
            }
            if is_load && self.credit > 0 && now >= pause {
                self.say_what_may_be_said().await?;
            }
            let mut wake = if is_load { load.end } else { last };
            wake = self.cut_at.map_or(wake, |cut_at| cut_at.min(wake));
            if is_load && self.credit > 0 && pause > now {
                wake = wake.min(pause);
            }
            if alarm.deadline() != wake {
                alarm.as_mut().reset(wake);
            }
            let Some(client) = &mut self.client else {
                self.come_back().await?;
                continue;
            };
            let due = async {
                match &mut self.due {
                    Some(due) => due.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = client.next() => {
                    if self.take_all(event).await? {
                        pause = Instant::now() + AFTER_REFUSAL;
                    }
                }
                meant_us = due => match meant_us {
                    Some(meant_us) => self.say_due(meant_us).await?,
                    // No more will be due.
                    None => self.due = None,
                },
                () = &mut alarm => {}
            }
        }
    }

    /// As many as a closed loop may have unanswered, in one frame.
    async fn say_what_may_be_said(&mut self) -> anyhow::Result<()> {
        for _ in 0..std::mem::take(&mut self.credit) {
            self.add(now_us());
        }
        self.send().await
    }

    /// What is due by now, in one frame.
    async fn say_due(&mut self, meant_us: u64) -> anyhow::Result<()> {
        let mut next = Some(meant_us);
        while let Some(meant_us) = next {
            self.add(meant_us);
            next = self.due.as_mut().and_then(|due| due.try_recv().ok());
        }
        self.send().await
    }

    fn add(&mut self, meant_us: u64) {
        let Some(client) = &mut self.client else { return };
        self.said += 1;
        self.shared.counters.said.fetch_add(1, Ordering::Relaxed);
        let said = Said {
            sender: self.number,
            number: self.said,
            meant_us,
        };
        let id = client.add_publish(&self.channel, said.encode(self.shared.plan.size));
        self.waiting.insert(id, (said.number, meant_us));
        self.note(&self.shared.late, meant_us);
    }

    async fn send(&mut self) -> anyhow::Result<()> {
        let sent = match &mut self.client {
            Some(client) => client.flush().await.is_ok(),
            None => false,
        };
        if !sent {
            self.come_back().await?;
        }
        Ok(())
    }

    /// Notes what came. Whether something was refused. A connection or subscription that ended is begun anew.
    async fn take_all(&mut self, event: Result<Event, ClientError>) -> anyhow::Result<bool> {
        let mut refused = false;
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                Ok(Event::Reply(reply)) => refused |= self.take_answer(&reply),
                Ok(Event::Publication { publication, .. }) => {
                    if let Some(said) = self.hear(publication.offset, &publication.data) {
                        self.note(&self.shared.delivered, said.meant_us);
                    }
                }
                Ok(Event::Other(_)) => {}
                Ok(Event::Unsubscribed { .. }) | Err(_) => {
                    self.come_back().await?;
                    return Ok(refused);
                }
            }
            next = self.client.as_mut().and_then(Client::arrived).map(Ok);
        }
        Ok(refused)
    }

    /// Whether it is a refusal.
    fn take_answer(&mut self, reply: &Reply) -> bool {
        let Some((number, meant_us)) = self.waiting.remove(&reply.id) else {
            return false;
        };
        if matches!(self.shared.plan.pace, Pace::Closed(_)) {
            self.credit += 1;
        }
        if reply.error.is_some() {
            self.shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        self.acknowledged.insert(number);
        self.note(&self.shared.answered, meant_us);
        false
    }

    fn hear(&mut self, offset: u64, data: &[u8]) -> Option<Said> {
        let said = Said::decode(data)?;
        self.receiver.received(offset, said.sender, said.number);
        self.place.offset = self.place.offset.max(offset);
        self.shared.counters.deliveries.fetch_add(1, Ordering::Relaxed);
        Some(said)
    }

    fn note(&self, times: &Times, meant_us: u64) {
        let now = Instant::now();
        if self
            .load
            .is_some_and(|load| load.measure <= now && now < load.end)
        {
            times.note(self.number, now_us().saturating_sub(meant_us));
        }
    }

    /// Cuts the connection, opens another and goes on where it was. What was due meanwhile is not said.
    async fn come_back(&mut self) -> anyhow::Result<()> {
        self.client = None;
        let cut = Instant::now();
        // Their fate is unknown.
        let lost = std::mem::take(&mut self.waiting).len();
        if let Pace::Closed(unanswered) = self.shared.plan.pace {
            self.credit = (self.credit + lost).min(unanswered);
        }
        let subscribed = loop {
            match self.try_back().await {
                Ok(subscribed) => break subscribed,
                Err(error) if cut.elapsed() > SETTLE => return Err(error).context("does not come back"),
                Err(_) => sleep(BACK_OFF).await,
            }
        };
        self.shared.counters.returned.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(cut.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.shared.back.note(self.number, took);
        if let Some(subscribed) = subscribed {
            if !subscribed.recovered {
                self.receiver.not_recovered();
            }
            // They were late for a reason that is no matter of latency.
            for publication in subscribed.publications {
                self.hear(publication.offset, &publication.data);
            }
            self.place.epoch = subscribed.epoch;
        }
        while self.due.as_mut().is_some_and(|due| due.try_recv().is_ok()) {}
        Ok(())
    }

    async fn try_back(&mut self) -> Result<Option<SubscribeResult>, ClientError> {
        self.tries += 1;
        let mut client = self.connect().await?;
        let subscribed = match self.role.hears {
            true => Some(client.subscribe(&self.channel, "", Some(&self.place)).await?),
            false => None,
        };
        self.client = Some(client);
        Ok(subscribed)
    }

    async fn connect(&self) -> Result<Client, ClientError> {
        let plan = &self.shared.plan;
        // Who comes back takes another, where there are several, and yet another where that one is gone too.
        let turn = self.number as usize + self.tries;
        let url = plan
            .urls
            .get(turn % plan.urls.len().max(1))
            .map_or("", String::as_str);
        let options = Options {
            token: self.token.clone(),
            name: "loadgen".to_owned(),
            encoding: if plan.json {
                Encoding::Json
            } else {
                Encoding::Protobuf
            },
            timeout: SETTLE,
            tls: self.shared.tls.clone(),
        };
        Client::connect(url, options).await
    }

    /// Listens until all that was acknowledged in its room has come, or the time is over.
    pub(crate) async fn settle(mut self, room: &Senders) -> Self {
        let listening = async {
            while self.role.hears {
                let has_all = self.receiver.has(room);
                let Some(client) = &mut self.client else { return };
                let event = match has_all {
                    false => client.next().await,
                    // Who was cut in the end, and does not know it yet, comes back too.
                    true => match timeout(QUIET, client.next()).await {
                        Ok(event) => event,
                        Err(_) => return,
                    },
                };
                if self.take_all(event).await.is_err() {
                    return;
                }
            }
        };
        timeout(SETTLE, listening).await.ok();
        self
    }
}

fn token(credentials: &Credentials, number: usize) -> anyhow::Result<String> {
    match credentials {
        Credentials::None => Ok(String::new()),
        Credentials::Token(token) => Ok(token.clone()),
        Credentials::Secret(secret) => {
            let exp = now_us() / 1_000_000 + TOKEN_LIFE;
            let claims = json!({ "sub": format!("load-{number}"), "exp": exp });
            let key = EncodingKey::from_secret(secret.as_bytes());
            Ok(jsonwebtoken::encode(&Header::default(), &claims, &key)?)
        }
    }
}
