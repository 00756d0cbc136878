//! Connections in rooms: each is in one, hears what is said there, and says something at times set beforehand, whether
//! or not the server keeps up (open loop).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::StreamExt as _;
use futures_util::stream;
use hdrhistogram::Histogram;
use rand::RngExt as _;
use serde::Serialize;
use switchboard_client::{Client, ClientError, Event, Options, Place};
use switchboard_proto::client::SubscribeResult;
use switchboard_proto::time::now_us;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::checker::{Numbers, Receiver, Violations};
use crate::message::Said;

/// Connections that are being opened at a time.
const OPENING: usize = 50;

/// Until what is on its way when the load ends has to be there.
const SETTLE: Duration = Duration::from_secs(15);

/// Between two tries to come back.
const BACK_OFF: Duration = Duration::from_millis(200);

/// What to do.
#[derive(Debug, Clone)]
pub struct Rooms {
    /// Where to connect, in turn.
    pub urls: Vec<String>,
    /// A connection token; empty: none.
    pub token: String,
    /// Connections.
    pub connections: usize,
    /// Connections in one room.
    pub room: usize,
    /// Publishes a second, of all together.
    pub rate: f64,
    /// Bytes of each message's text.
    pub size: usize,
    /// Load before anything is measured. What is said in it is checked as well.
    pub warm_up: Duration,
    /// Load that is measured.
    pub duration: Duration,
    /// Connections that are cut, each at a random time, and come back.
    pub cuts: usize,
    /// Processes of the server.
    pub pids: Vec<u32>,
    /// Lines to standard error while it runs.
    pub progress: bool,
}

/// Times, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// 999 of 1,000 took no longer.
    pub p999_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// How it went.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Connections.
    pub connections: usize,
    /// Publishes that were acknowledged, all in all.
    pub acknowledged: u64,
    /// Publishes that were refused, or whose connection was cut before the answer.
    pub unacknowledged: u64,
    /// Deliveries, all in all.
    pub deliveries: u64,
    /// Deliveries a second, while it was measured.
    pub deliveries_per_second: f64,
    /// From the intended time of a publish to its answer.
    pub answered: Latency,
    /// From the intended time of a publish to its delivery, each receiver counted.
    pub delivered: Latency,
    /// Connections that were cut and came back.
    pub returned: u64,
    /// Microseconds of processor that the server took for a delivery; `None`: no process was named.
    pub processor_us_per_delivery: Option<f64>,
    /// What was not as promised.
    pub violations: Violations,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, name: &str, latency: &Latency| {
            writeln!(
                f,
                "{name:<20} p50 {:>8} us   p99 {:>8} us   p99.9 {:>8} us   max {:>8} us   ({})",
                latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us, latency.count
            )
        };
        writeln!(f, "connections          {}", self.connections)?;
        writeln!(
            f,
            "publishes            {} acknowledged, {} not",
            self.acknowledged, self.unacknowledged
        )?;
        writeln!(
            f,
            "deliveries           {}, {:.0} a second",
            self.deliveries, self.deliveries_per_second
        )?;
        line(f, "publish to answer", &self.answered)?;
        line(f, "publish to delivery", &self.delivered)?;
        if let Some(processor) = self.processor_us_per_delivery {
            writeln!(f, "server processor     {processor:.1} us a delivery")?;
        }
        writeln!(f, "cut and came back    {}", self.returned)?;
        let Violations {
            lost,
            doubled,
            disordered,
            unrecovered,
        } = self.violations;
        write!(
            f,
            "violations           {lost} lost, {doubled} doubled, {disordered} out of order, {unrecovered} not recovered"
        )
    }
}

/// When there is load.
#[derive(Debug, Clone, Copy)]
struct Load {
    begin: Instant,
    /// Measured from then on.
    measure: Instant,
    end: Instant,
}

/// Runs it. As many file descriptors as connections are needed.
///
/// # Errors
/// Connections that cannot be opened in the beginning, or do not come back.
pub async fn run(config: Rooms) -> anyhow::Result<Report> {
    ensure!(
        config.connections > 0 && config.room > 0,
        "no connections, or no rooms"
    );
    ensure!(!config.urls.is_empty(), "no URL");
    ensure!(config.rate > 0.0 && config.rate.is_finite(), "no rate");
    let config = Arc::new(config);
    let run = format!("{:016x}", rand::random::<u64>());
    let opened: Vec<anyhow::Result<Member>> = stream::iter(0..config.connections)
        .map(|number| Member::open(Arc::clone(&config), number, &run))
        .buffer_unordered(OPENING)
        .collect()
        .await;
    let mut members = opened.into_iter().collect::<anyhow::Result<Vec<Member>>>()?;
    if config.progress {
        eprintln!("{} connections are open", members.len());
    }
    let begin = Instant::now();
    let measure = begin + config.warm_up;
    let end = measure + config.duration;
    for member in members.iter_mut().take(config.cuts) {
        let after = rand::rng().random_range(0.1..0.9);
        member.cut_at = Some(begin + (end - begin).mul_f64(after));
    }
    let load = Load { begin, measure, end };
    let delivered = Arc::new(AtomicU64::new(0));
    let mut talking = JoinSet::new();
    for member in members {
        talking.spawn(member.talk(load, Arc::clone(&delivered)));
    }
    let listening = async {
        let mut talked = Vec::with_capacity(config.connections);
        while let Some(ended) = talking.join_next().await {
            talked.push(ended.context("a connection's task ended")??);
        }
        anyhow::Ok(talked)
    };
    let watching = async { anyhow::Ok(watch_load(&config, measure, end, &delivered).await) };
    let (used, talked) = tokio::try_join!(watching, listening)?;
    let mut rooms: Vec<Numbers> = vec![Numbers::new(); config.connections.div_ceil(config.room)];
    for member in &talked {
        if let Some(room) = rooms.get_mut(member.room) {
            room.insert(member.number, member.acknowledged.clone());
        }
    }
    let rooms = Arc::new(rooms);
    let mut settling = JoinSet::new();
    for member in talked {
        settling.spawn(member.settle(Arc::clone(&rooms)));
    }
    let settled = settling.join_all().await;
    Ok(report(&config, settled, &rooms, used))
}

/// Tells how it goes while there is load; processor time of the server while it was measured, and deliveries meanwhile.
async fn watch_load(
    config: &Rooms,
    measure: Instant,
    end: Instant,
    delivered: &AtomicU64,
) -> (Option<Duration>, u64) {
    sleep_until(measure).await;
    let (from, before) = (delivered.load(Ordering::Relaxed), processor_time(&config.pids));
    let mut last = from;
    while Instant::now() < end {
        sleep_until(end.min(Instant::now() + Duration::from_secs(5))).await;
        let now = delivered.load(Ordering::Relaxed);
        if config.progress {
            eprintln!("{} deliveries, {} since the last line", now - from, now - last);
        }
        last = now;
    }
    let used = before
        .zip(processor_time(&config.pids))
        .map(|(before, after)| after.saturating_sub(before));
    (used, last - from)
}

/// Time that these processes have run; `None`: none is named, or one cannot be read.
fn processor_time(pids: &[u32]) -> Option<Duration> {
    /// What Linux counts in: USER_HZ.
    const TICK: Duration = Duration::from_millis(10);
    let mut ticks = 0;
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold spaces. Behind it user and system time are the 12th and 13th field.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let user: u32 = fields.next()?.parse().ok()?;
        let system: u32 = fields.next()?.parse().ok()?;
        ticks += user + system;
    }
    (!pids.is_empty()).then_some(TICK * ticks)
}

fn report(config: &Rooms, members: Vec<Member>, rooms: &[Numbers], used: (Option<Duration>, u64)) -> Report {
    let mut answered = histogram();
    let mut delivered = histogram();
    let mut violations = Violations::default();
    let (mut acknowledged, mut unacknowledged, mut deliveries, mut returned) = (0, 0, 0, 0);
    for member in members {
        // All have the same bounds.
        answered.add(&member.answered).ok();
        delivered.add(&member.delivered).ok();
        acknowledged += member.acknowledged.len() as u64;
        unacknowledged += member.said - member.acknowledged.len() as u64;
        deliveries += member.deliveries;
        returned += member.returned;
        if let Some(room) = rooms.get(member.room) {
            violations.add(member.receiver.verdict(room));
        }
    }
    let (processor, measured) = used;
    Report {
        connections: config.connections,
        acknowledged,
        unacknowledged,
        deliveries,
        deliveries_per_second: measured as f64 / config.duration.as_secs_f64(),
        answered: latency(&answered),
        delivered: latency(&delivered),
        returned,
        processor_us_per_delivery: processor.map(|time| time.as_micros() as f64 / measured.max(1) as f64),
        violations,
    }
}

/// Microseconds up to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3)
        .unwrap_or_else(|error| unreachable!("these bounds are allowed: {error}"))
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    Latency {
        count: histogram.len(),
        p50_us: histogram.value_at_quantile(0.5),
        p99_us: histogram.value_at_quantile(0.99),
        p999_us: histogram.value_at_quantile(0.999),
        max_us: histogram.max(),
    }
}

/// One connection, its record and its times.
struct Member {
    config: Arc<Rooms>,
    number: u32,
    room: usize,
    channel: String,
    client: Client,
    place: Place,
    cut_at: Option<Instant>,
    receiver: Receiver,
    acknowledged: std::collections::BTreeSet<u64>,
    /// Publishes without an answer: which they are, and when they were meant.
    waiting: BTreeMap<u32, (u64, u64)>,
    said: u64,
    deliveries: u64,
    returned: u64,
    load: Option<Load>,
    answered: Histogram<u64>,
    delivered: Histogram<u64>,
}

impl Member {
    async fn open(config: Arc<Rooms>, number: usize, run: &str) -> anyhow::Result<Self> {
        let room = number / config.room;
        let channel = format!("room:{run}-{room}");
        let mut client = connect(&config, number).await?;
        let subscribed = client.subscribe(&channel, "", None).await.context("subscribe")?;
        Ok(Self {
            number: u32::try_from(number)?,
            room,
            channel,
            client,
            place: Place {
                epoch: subscribed.epoch,
                offset: subscribed.offset,
            },
            cut_at: None,
            receiver: Receiver::default(),
            acknowledged: Default::default(),
            waiting: BTreeMap::new(),
            said: 0,
            deliveries: 0,
            returned: 0,
            load: None,
            answered: histogram(),
            delivered: histogram(),
            config,
        })
    }

    /// Talks and listens until the load's end, and until all that it said is answered.
    async fn talk(mut self, load: Load, delivered: Arc<AtomicU64>) -> anyhow::Result<Self> {
        self.load = Some(load);
        let between = Duration::from_secs_f64(self.config.connections as f64 / self.config.rate);
        // Not all at once.
        let mut due = load.begin + between.mul_f64(rand::random::<f64>());
        let text = "x".repeat(self.config.size);
        let last = load.end + SETTLE;
        loop {
            let now = Instant::now();
            let is_load = now < load.end;
            if !is_load && (self.waiting.is_empty() || now >= last) {
                return Ok(self);
            }
            let before = self.deliveries;
            if self.cut_at.take_if(|cut_at| *cut_at <= now).is_some() {
                self.come_back().await?;
            } else if is_load && due <= now {
                self.say(&text, due).await?;
                due += between;
            } else {
                let turn = if is_load { due.min(load.end) } else { last };
                let wake = self.cut_at.map_or(turn, |cut_at| cut_at.min(turn));
                tokio::select! {
                    event = self.client.next() => self.take(event).await?,
                    () = sleep_until(wake) => {}
                }
            }
            delivered.fetch_add(self.deliveries - before, Ordering::Relaxed);
        }
    }

    async fn say(&mut self, text: &str, due: Instant) -> anyhow::Result<()> {
        let late = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.said += 1;
        let said = Said {
            sender: self.number,
            number: self.said,
            meant_us: now_us() - late,
            text: text.to_owned(),
        };
        match self.client.publish(&self.channel, said.encode()).await {
            Ok(id) => drop(self.waiting.insert(id, (said.number, said.meant_us))),
            Err(_) => self.come_back().await?,
        }
        Ok(())
    }

    /// Notes what came. A connection or subscription that ended is begun anew.
    async fn take(&mut self, event: Result<Event, ClientError>) -> anyhow::Result<()> {
        match event {
            Ok(Event::Reply(reply)) => {
                if let Some((number, meant_us)) = self.waiting.remove(&reply.id)
                    && reply.error.is_none()
                {
                    self.acknowledged.insert(number);
                    Self::note(self.load, &mut self.answered, meant_us);
                }
            }
            Ok(Event::Publication { publication, .. }) => self.hear(publication.offset, &publication.data),
            Ok(Event::Other(_)) => {}
            Ok(Event::Unsubscribed { .. }) | Err(_) => self.come_back().await?,
        }
        Ok(())
    }

    fn hear(&mut self, offset: u64, data: &[u8]) {
        let Some(said) = Said::decode(data) else { return };
        self.receiver.received(offset, said.sender, said.number);
        self.place.offset = self.place.offset.max(offset);
        self.deliveries += 1;
        Self::note(self.load, &mut self.delivered, said.meant_us);
    }

    fn note(load: Option<Load>, histogram: &mut Histogram<u64>, meant_us: u64) {
        let now = Instant::now();
        if load.is_some_and(|load| load.measure <= now && now < load.end) {
            histogram.saturating_record(now_us().saturating_sub(meant_us));
        }
    }

    /// Cuts the connection, opens another and goes on where it was.
    async fn come_back(&mut self) -> anyhow::Result<()> {
        // Their fate is unknown.
        self.waiting.clear();
        let deadline = Instant::now() + SETTLE;
        loop {
            match self.try_back().await {
                Ok(subscribed) => {
                    self.returned += 1;
                    if !subscribed.recovered {
                        self.receiver.not_recovered();
                    }
                    for publication in subscribed.publications {
                        self.hear(publication.offset, &publication.data);
                    }
                    self.place.epoch = subscribed.epoch;
                    return Ok(());
                }
                Err(error) if Instant::now() > deadline => return Err(error).context("does not come back"),
                Err(_) => sleep(BACK_OFF).await,
            }
        }
    }

    async fn try_back(&mut self) -> Result<SubscribeResult, ClientError> {
        self.client = connect(&self.config, self.number as usize + self.returned as usize).await?;
        self.client.subscribe(&self.channel, "", Some(&self.place)).await
    }

    /// Listens until all that was acknowledged in its room has come, or the time is over.
    async fn settle(mut self, rooms: Arc<Vec<Numbers>>) -> Self {
        let Some(room) = rooms.get(self.room) else {
            return self;
        };
        let listening = async {
            while !self.receiver.has(room) {
                let event = self.client.next().await;
                if self.take(event).await.is_err() {
                    return;
                }
            }
        };
        timeout(SETTLE, listening).await.ok();
        self
    }
}

async fn connect(config: &Rooms, number: usize) -> Result<Client, ClientError> {
    let url = config
        .urls
        .get(number % config.urls.len().max(1))
        .map_or("", String::as_str);
    let options = Options {
        token: config.token.clone(),
        name: "loadgen".to_owned(),
        timeout: SETTLE,
    };
    Client::connect(url, options).await
}
