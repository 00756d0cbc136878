//! Time, processes, and what is under way between them.

#![expect(
    clippy::indexing_slicing,
    clippy::large_enum_variant,
    reason = "compiled for tests only: a number that is wrong has to stop the run, and a few thousand events cost nothing"
)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use switchboard_bus::{LogInfo, RecordAt};
use switchboard_gateway::simulation::{Event as Told, Recovered, SimulatedGateway};
use switchboard_proto::bus::{Derivation, Derive, Down, Message, OwnerBeat, PayloadKind, Sender, Up};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::ids::{Incarnation, Sequence, ShardCount, ShardId};
use switchboard_router_svc::simulation::{Act, Effect, SimulatedOwner, SimulatedOwnerships, Sizes, fence};

use crate::clients::{Client, Notes, Piece, Publishing, Session, Subscription};
use crate::log::ShardLog;
use crate::{Faults, QUIET, TROUBLE};

const SHARDS: u32 = 3;
const GATEWAYS: usize = 2;
const ROUTERS: usize = 3;
const CLIENTS: usize = 6;
/// Where logs are purged, keys must not hold them for ever: clients send again for a part of this only.
const KEY_WINDOW: Duration = Duration::from_secs(16);
const AGAIN: u64 = 4 * SECOND;
const MS: u64 = 1000;
const SECOND: u64 = 1_000_000;

/// A process, by its kind and number; it has one life after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Process {
    Gateway(usize),
    Router(usize),
}

/// What crosses the bus.
#[derive(Debug, Clone)]
enum Frame {
    Up(ShardId, Up),
    Down(ShardId, Down),
    Beat(OwnerBeat),
    Derive(Derive),
    Derivation(Derivation),
}

/// What a client asks of its gateway.
#[derive(Debug, Clone)]
enum Call {
    Subscribe(Session, u32, ChannelName, Option<(String, u64)>),
    Unsubscribe(Session, ChannelName),
    Publish(Session, u32, Message),
}

/// Whose actor an event is for: a router, a shard and the actor's own life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ActorId {
    router: usize,
    shard: ShardId,
    life: u64,
}

#[derive(Debug, Clone)]
enum Event {
    GatewayTick(usize, u64),
    RouterTick(usize, u64),
    OwnerTick(ActorId),
    /// To a process's life.
    Frame(Process, u64, Frame),
    Call(usize, u64, Call),
    Claim(ActorId),
    /// At the log: an append comes, whoever sent it lives or not.
    AppendArrives(ActorId, Sequence, Bytes),
    /// At the owner: the append was not answered.
    AppendLook(ActorId, Sequence, Bytes),
    Stored(ActorId, Sequence),
    Tail(ActorId, Sequence, LogInfo, Sequence),
    Keys(ActorId, Sequence),
    Page(ActorId, Sequence, Sequence),
    Leader(ActorId, u64, LogInfo),
    ClientActs(usize),
    /// How far the log was purged some time after a client was told that something is lost.
    Purged(usize, ChannelName, usize),
    Trouble,
    Wake(Process, u64),
    Start(Process),
    Disruption(usize, u64),
}

struct Entry {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

struct Gateway {
    life: u64,
    incarnation: Incarnation,
    /// `None`: dead.
    state: Option<SimulatedGateway>,
    asleep_until: u64,
    /// Since when it has been awake all the time.
    awake_since: u64,
}

enum Owning {
    Claiming,
    Owner(Box<SimulatedOwner>),
}

struct Actor {
    life: u64,
    begun: u64,
    state: Owning,
    is_stopping: bool,
    ticks: u64,
}

struct Router {
    life: u64,
    incarnation: Incarnation,
    is_alive: bool,
    ownerships: SimulatedOwnerships,
    begun: u64,
    actors: BTreeMap<ShardId, Actor>,
    asleep_until: u64,
}

/// See the module.
pub struct World {
    rng: SmallRng,
    faults: Faults,
    sizes: Sizes,
    now: u64,
    events: BinaryHeap<Reverse<Entry>>,
    last_event: u64,
    lives: u64,
    sessions: u64,
    shards: ShardCount,
    /// The shards' logs.
    pub logs: Vec<ShardLog>,
    gateways: Vec<Gateway>,
    routers: Vec<Router>,
    /// Routers that died lately, which the others still take for members.
    ghosts: Vec<(Incarnation, u64)>,
    cuts: Vec<(Process, Process, u64)>,
    /// When the last frame of a pair of processes arrives, so that the next does not overtake it.
    arrivals: BTreeMap<(Process, Process), u64>,
    /// The clients.
    pub clients: Vec<Client>,
    /// What they noted.
    pub notes: Notes,
    messages: u64,
    /// Takeovers, readings and purges, to see that a run had any.
    pub takeovers: u64,
    pub scans: u64,
    pub purges: u64,
    /// Everything that happens is printed.
    pub is_traced: bool,
}

impl World {
    /// A world that begins with everything there and nothing said.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let shards = ShardCount::new(SHARDS).unwrap_or_else(|| unreachable!("a few shards"));
        let sizes = Sizes {
            window_bytes: [2_000, 8_000, 1_000_000][rng.random_range(0..3)],
            window_age: Duration::from_millis([500, 3000, 300_000][rng.random_range(0..3)]),
            heads: [2, 1000][rng.random_range(0..2)],
            page_messages: [2, 7, 500][rng.random_range(0..3)],
            state_records: [10, 200][rng.random_range(0..2)],
            key_window: Duration::from_secs(300),
        };
        // With purges keys must not hold the log for ever.
        let sizes = Sizes {
            key_window: if faults.purges {
                KEY_WINDOW
            } else {
                sizes.key_window
            },
            window_age: if faults.purges {
                sizes.window_age.min(Duration::from_secs(3))
            } else {
                sizes.window_age
            },
            ..sizes
        };
        let max_bytes = faults.purges.then_some(60_000);
        let mut world = Self {
            rng,
            faults,
            sizes,
            now: 0,
            events: BinaryHeap::new(),
            last_event: 0,
            lives: 0,
            sessions: 0,
            shards,
            logs: (0..SHARDS).map(|shard| ShardLog::new(shard, max_bytes)).collect(),
            gateways: Vec::new(),
            routers: Vec::new(),
            ghosts: Vec::new(),
            cuts: Vec::new(),
            arrivals: BTreeMap::new(),
            clients: Vec::new(),
            notes: Notes::default(),
            messages: 0,
            takeovers: 0,
            scans: 0,
            purges: 0,
            is_traced: false,
        };
        for number in 0..GATEWAYS {
            world.gateways.push(Gateway {
                life: 0,
                incarnation: Incarnation::from_u128(0),
                state: None,
                asleep_until: 0,
                awake_since: 0,
            });
            world.start(Process::Gateway(number));
        }
        for number in 0..ROUTERS {
            world.routers.push(Router {
                life: 0,
                incarnation: Incarnation::from_u128(0),
                is_alive: false,
                ownerships: SimulatedOwnerships::new(Incarnation::from_u128(0), shards),
                begun: 0,
                actors: BTreeMap::new(),
                asleep_until: 0,
            });
            world.start(Process::Router(number));
        }
        for number in 0..CLIENTS {
            world.clients.push(world_client(number, &mut world.rng));
            world.after(SECOND + number as u64 * 10 * MS, Event::ClientActs(number));
        }
        world.after(2 * SECOND, Event::Trouble);
        world
    }

    /// Runs trouble and quiet to their end.
    pub fn run(&mut self) {
        let end = us(TROUBLE + QUIET);
        while let Some(Reverse(entry)) = self.events.pop() {
            if entry.at > end {
                break;
            }
            self.now = entry.at;
            self.event(entry.event);
        }
    }

    fn is_quiet(&self) -> bool {
        self.now > us(TROUBLE)
    }

    fn time(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// So many times in a thousand, while there is trouble.
    fn strikes(&mut self, often: u32) -> bool {
        !self.is_quiet() && self.rng.random_range(0..1000) < often
    }

    fn after(&mut self, later: u64, event: Event) {
        self.at(self.now + later, event);
    }

    fn at(&mut self, at: u64, event: Event) {
        self.last_event += 1;
        let number = self.last_event;
        self.events.push(Reverse(Entry { at, number, event }));
    }

    fn log(&mut self, shard: ShardId) -> &mut ShardLog {
        &mut self.logs[usize::from(shard.get())]
    }

    // ---- processes

    fn start(&mut self, process: Process) {
        self.lives += 1;
        let life = self.lives;
        let incarnation = Incarnation::from_u128(u128::from(life));
        match process {
            Process::Gateway(number) => {
                let credit = [400, 100_000][self.rng.random_range(0..2)];
                self.gateways[number] = Gateway {
                    life,
                    incarnation,
                    state: Some(SimulatedGateway::new(incarnation, self.shards, credit)),
                    asleep_until: 0,
                    awake_since: self.now,
                };
                self.after(100 * MS, Event::GatewayTick(number, life));
            }
            Process::Router(number) => {
                self.routers[number] = Router {
                    life,
                    incarnation,
                    is_alive: true,
                    ownerships: SimulatedOwnerships::new(incarnation, self.shards),
                    begun: self.now,
                    actors: BTreeMap::new(),
                    asleep_until: 0,
                };
                self.after(100 * MS, Event::RouterTick(number, life));
            }
        }
    }

    fn kill(&mut self, process: Process) {
        self.lives += 1;
        let life = self.lives;
        match process {
            Process::Gateway(number) => {
                self.gateways[number].state = None;
                self.gateways[number].life = life;
                for client in 0..self.clients.len() {
                    if self.clients[client]
                        .session
                        .is_some_and(|session| session.gateway == number)
                    {
                        self.disconnected(client);
                    }
                }
            }
            Process::Router(number) => {
                let router = &mut self.routers[number];
                self.ghosts.push((router.incarnation, self.now + SECOND));
                router.is_alive = false;
                router.life = life;
                router.actors.clear();
            }
        }
        let later = self.rng.random_range(200..4000) * MS;
        self.after(later, Event::Start(process));
    }

    fn asleep_until(&self, process: Process) -> u64 {
        match process {
            Process::Gateway(number) => self.gateways[number].asleep_until,
            Process::Router(number) => self.routers[number].asleep_until,
        }
    }

    fn life(&self, process: Process) -> u64 {
        match process {
            Process::Gateway(number) => self.gateways[number].life,
            Process::Router(number) => self.routers[number].life,
        }
    }

    /// The process that an event happens in, and its life; `None`: outside all of them.
    fn place(&self, event: &Event) -> Option<(Process, Option<u64>)> {
        let actor = |id: &ActorId| Some((Process::Router(id.router), None));
        match event {
            Event::GatewayTick(number, life)
            | Event::Call(number, life, _)
            | Event::Disruption(number, life) => Some((Process::Gateway(*number), Some(*life))),
            Event::RouterTick(number, life) => Some((Process::Router(*number), Some(*life))),
            Event::Frame(process, life, _) => Some((*process, Some(*life))),
            Event::OwnerTick(id)
            | Event::Claim(id)
            | Event::AppendLook(id, ..)
            | Event::Stored(id, _)
            | Event::Tail(id, ..)
            | Event::Keys(id, _)
            | Event::Page(id, ..)
            | Event::Leader(id, ..) => actor(id),
            Event::AppendArrives(..)
            | Event::ClientActs(_)
            | Event::Purged(..)
            | Event::Trouble
            | Event::Wake(..)
            | Event::Start(_) => None,
        }
    }

    fn event(&mut self, event: Event) {
        if self.is_traced
            && !matches!(
                event,
                Event::ClientActs(_) | Event::GatewayTick(..) | Event::RouterTick(..)
            )
        {
            println!("{:>10} {event:?}", self.now);
        }
        if let Some((process, life)) = self.place(&event) {
            if life.is_some_and(|life| life != self.life(process)) {
                return;
            }
            let asleep_until = self.asleep_until(process);
            if asleep_until > self.now {
                // In the order in which they came, all at once when it wakes.
                return self.at(asleep_until, event);
            }
        }
        match event {
            Event::GatewayTick(number, life) => {
                let now = self.time();
                self.with_gateway(number, |gateway| gateway.tick(now));
                self.after(100 * MS, Event::GatewayTick(number, life));
            }
            Event::Disruption(number, _) => {
                let now = self.time();
                self.with_gateway(number, |gateway| gateway.disruption(now));
            }
            Event::RouterTick(number, life) => {
                self.look(number);
                self.after(100 * MS, Event::RouterTick(number, life));
            }
            Event::OwnerTick(id) => self.owner_tick(id),
            Event::Frame(process, _, frame) => self.frame(process, frame),
            Event::Call(number, _, call) => self.call(number, call),
            Event::Claim(id) => self.claim(id),
            Event::AppendArrives(id, expected, record) => self.append_arrives(id, expected, record),
            Event::AppendLook(id, expected, record) => self.append_look(id, expected, record),
            Event::Stored(id, sequence) => self.stored(id, sequence),
            Event::Tail(id, fence, info, state_at) => self.tail(id, fence, info, state_at),
            Event::Keys(id, from) => {
                let older = self
                    .log(id.shard)
                    .read(Sequence(1), Sequence(from.0 - 1), usize::MAX);
                let now = self.owner_time(id);
                self.with_owner(id, |owner| {
                    owner.older_keys(&older, from, now);
                    Ok(Vec::new())
                });
            }
            Event::Page(id, from, to) => {
                // A few at a time, so that the world moves on between two pages.
                let page = self.log(id.shard).read(from, to, 5);
                let is_failed = self.strikes(self.faults.unanswered);
                self.with_owner(id, |owner| {
                    owner.page(if is_failed { Err(()) } else { Ok(&page) });
                    Ok(Vec::new())
                });
            }
            Event::Leader(id, appends, info) => {
                self.with_owner(id, |owner| owner.leader(info, appends).map(|()| Vec::new()));
            }
            Event::ClientActs(number) => self.client_acts(number),
            Event::Purged(client, channel, piece) => {
                let shard = ShardId::of_channel(channel.as_str(), self.shards);
                let purged = self.log(shard).purged_up_to(channel.as_str());
                let subscription = self.clients[client].subscriptions.get_mut(&channel);
                if let Some(piece) = subscription.and_then(|subscription| subscription.pieces.get_mut(piece))
                    && let Some((_, purged_up_to)) = &mut piece.lost
                {
                    *purged_up_to = purged;
                }
            }
            Event::Trouble => self.trouble(),
            Event::Wake(process, life) => {
                if self.life(process) == life
                    && let Process::Gateway(number) = process
                {
                    self.gateways[number].awake_since = self.now;
                }
            }
            Event::Start(process) => self.start(process),
        }
    }

    fn trouble(&mut self) {
        if self.is_quiet() {
            // All is healed.
            self.cuts.clear();
            return;
        }
        self.after(100 * MS, Event::Trouble);
        let process = if self.rng.random_bool(0.5) {
            Process::Gateway(self.rng.random_range(0..GATEWAYS))
        } else {
            Process::Router(self.rng.random_range(0..ROUTERS))
        };
        let is_alive = match process {
            Process::Gateway(number) => self.gateways[number].state.is_some(),
            Process::Router(number) => self.routers[number].is_alive,
        };
        if is_alive && self.strikes(self.faults.deaths) {
            self.kill(process);
        } else if is_alive && self.asleep_until(process) <= self.now && self.strikes(self.faults.sleeps) {
            // Where logs are purged, shorter than what keys are known for, all delays together.
            let most = if self.faults.purges { 4000 } else { 8000 };
            let until = self.now + self.rng.random_range(100..most) * MS;
            match process {
                Process::Gateway(number) => self.gateways[number].asleep_until = until,
                Process::Router(number) => self.routers[number].asleep_until = until,
            }
            let life = self.life(process);
            if self.is_traced {
                println!("{:>10} {process:?} sleeps until {until}", self.now);
            }
            self.at(until, Event::Wake(process, life));
        }
        if self.strikes(self.faults.cuts) {
            let gateway = self.rng.random_range(0..GATEWAYS);
            let router = Process::Router(self.rng.random_range(0..ROUTERS));
            let until = self.now + self.rng.random_range(50..6000) * MS;
            self.cuts.push((Process::Gateway(gateway), router, until));
            if self.rng.random_bool(0.5) {
                // The connection notices that it was away.
                let life = self.gateways[gateway].life;
                self.at(until, Event::Disruption(gateway, life));
            }
        }
    }

    // ---- the bus

    fn send(&mut self, from: Process, to: Process, frame: Frame) {
        let now = self.now;
        self.cuts.retain(|(.., until)| *until > now);
        let is_cut = self
            .cuts
            .iter()
            .any(|(a, b, _)| (*a, *b) == (from, to) || (*a, *b) == (to, from));
        if is_cut || self.strikes(self.faults.lost) {
            return;
        }
        let life = self.life(to);
        let mut arrival = now + self.rng.random_range(100..3000);
        if self.strikes(self.faults.late) {
            // Overtaken by what is sent after it.
            let late = now + self.rng.random_range(10..1000) * MS;
            return self.at(late, Event::Frame(to, life, frame));
        }
        let last = self.arrivals.entry((from, to)).or_default();
        arrival = arrival.max(*last + 1);
        *last = arrival;
        if self.strikes(self.faults.doubled) {
            let again = arrival + self.rng.random_range(0..500) * MS;
            self.at(again, Event::Frame(to, life, frame.clone()));
        }
        self.at(arrival, Event::Frame(to, life, frame));
    }

    fn gateway_of(&self, incarnation: Incarnation) -> Option<Process> {
        let number = self
            .gateways
            .iter()
            .position(|gateway| gateway.state.is_some() && gateway.incarnation == incarnation)?;
        Some(Process::Gateway(number))
    }

    fn router_of(&self, incarnation: Incarnation) -> Option<Process> {
        let number = self
            .routers
            .iter()
            .position(|router| router.is_alive && router.incarnation == incarnation)?;
        Some(Process::Router(number))
    }

    fn frame(&mut self, process: Process, frame: Frame) {
        let now = self.time();
        match (process, frame) {
            (Process::Gateway(number), Frame::Down(shard, frame)) => {
                self.with_gateway(number, |gateway| gateway.down(shard, frame, now));
            }
            (Process::Gateway(number), Frame::Beat(beat)) => {
                if let Some(shard) = ShardId::new(beat.shard) {
                    self.with_gateway(number, |gateway| gateway.owner_beat(shard, &beat, now));
                }
            }
            (Process::Router(number), Frame::Beat(beat)) => self.router_beat(number, &beat),
            (Process::Router(number), Frame::Up(shard, frame)) => {
                if let Some(id) = self.actor(number, shard) {
                    let now = self.owner_time(id);
                    self.with_owner(id, |owner| owner.up(frame, now).map(|()| Vec::new()));
                }
            }
            (Process::Router(number), Frame::Derive(frame)) => {
                let target = ShardId::new(frame.target);
                if let Some(id) = target.and_then(|target| self.actor(number, target)) {
                    self.with_owner(id, |owner| Ok(owner.derive(frame)));
                }
            }
            (Process::Router(number), Frame::Derivation(frame)) => {
                let source = ShardId::new(frame.source);
                if let Some(id) = source.and_then(|source| self.actor(number, source)) {
                    self.with_owner(id, |owner| {
                        owner.derivation(&frame);
                        Ok(Vec::new())
                    });
                }
            }
            (Process::Gateway(_), Frame::Up(..) | Frame::Derive(_) | Frame::Derivation(_))
            | (Process::Router(_), Frame::Down(..)) => {}
        }
    }

    // ---- gateways

    fn with_gateway(&mut self, number: usize, act: impl FnOnce(&mut SimulatedGateway)) {
        let now = self.time();
        let Some(gateway) = &mut self.gateways[number].state else {
            return;
        };
        act(gateway);
        let (frames, told) = gateway.flush(now);
        for (shard, router, frame) in frames {
            if let Some(router) = self.router_of(router) {
                self.send(Process::Gateway(number), router, Frame::Up(shard, frame));
            }
        }
        for told in told {
            self.told(told);
        }
    }

    fn call(&mut self, number: usize, call: Call) {
        let now = self.time();
        self.with_gateway(number, |gateway| match call {
            Call::Subscribe(session, id, channel, since) => {
                gateway.subscribe(session.id, id, &channel, since, now);
            }
            Call::Unsubscribe(session, channel) => gateway.unsubscribe(session.id, &channel),
            Call::Publish(session, id, message) => gateway.publish(session.id, id, &message, now),
        });
    }

    // ---- routers

    fn members(&mut self) -> Vec<Incarnation> {
        let now = self.now;
        self.ghosts.retain(|(_, until)| *until > now);
        let awake = |router: &&Router| router.is_alive && router.asleep_until < now + SECOND;
        self.routers
            .iter()
            .filter(awake)
            .map(|router| router.incarnation)
            .chain(self.ghosts.iter().map(|(ghost, _)| *ghost))
            .collect()
    }

    fn router_time(&self, number: usize) -> Duration {
        Duration::from_micros(self.now - self.routers[number].begun)
    }

    fn look(&mut self, number: usize) {
        let members = self.members();
        let now = self.router_time(number);
        for act in self.routers[number].ownerships.decide(&members, now) {
            match act {
                Act::Claim(shard) => {
                    self.lives += 1;
                    let life = self.lives;
                    let actor = Actor {
                        life,
                        begun: self.now,
                        state: Owning::Claiming,
                        is_stopping: false,
                        ticks: 0,
                    };
                    self.routers[number].actors.insert(shard, actor);
                    let id = ActorId {
                        router: number,
                        shard,
                        life,
                    };
                    self.after(MS, Event::Claim(id));
                }
                Act::Release(shard) | Act::Abandon(shard) => {
                    if let Some(actor) = self.routers[number].actors.get_mut(&shard) {
                        actor.is_stopping = true;
                    }
                    if let Some(id) = self.actor(number, shard) {
                        self.stop_if_idle(id);
                    }
                }
            }
        }
    }

    fn router_beat(&mut self, number: usize, beat: &OwnerBeat) {
        let now = self.router_time(number);
        self.routers[number].ownerships.beat(beat, now);
        let (Some(shard), Ok(router)) = (
            ShardId::new(beat.shard),
            Incarnation::try_from(beat.router.as_ref()),
        ) else {
            return;
        };
        let rank = (beat.ordinal, beat.owner_epoch);
        let own: Vec<ActorId> = self.routers[number]
            .actors
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .filter_map(|own| self.actor(number, own))
            .collect();
        for id in own {
            self.with_owner(id, |owner| {
                owner.owner_beat(shard, router, rank);
                Ok(Vec::new())
            });
        }
    }

    fn actor(&self, router: usize, shard: ShardId) -> Option<ActorId> {
        let actor = self.routers[router].actors.get(&shard)?;
        Some(ActorId {
            router,
            shard,
            life: actor.life,
        })
    }

    fn is_there(&self, id: ActorId) -> bool {
        self.actor(id.router, id.shard) == Some(id)
    }

    fn owner_time(&self, id: ActorId) -> Duration {
        let begun = self.routers[id.router]
            .actors
            .get(&id.shard)
            .map_or(self.now, |actor| actor.begun);
        Duration::from_micros(self.now - begun)
    }

    fn with_owner(
        &mut self,
        id: ActorId,
        act: impl FnOnce(&mut SimulatedOwner) -> Result<Vec<Effect>, String>,
    ) {
        if !self.is_there(id) {
            return;
        }
        let now = self.owner_time(id);
        let time_us = self.now;
        let Some(Actor {
            state: Owning::Owner(owner),
            ..
        }) = self.routers[id.router].actors.get_mut(&id.shard)
        else {
            return;
        };
        let scans = owner.scans();
        let mut effects = match act(owner) {
            Ok(effects) => effects,
            Err(why) => {
                if why.contains("went back") {
                    self.notes
                        .faults
                        .push(format!("{id:?} takes the log for broken: {why}"));
                }
                return self.ended(id, true);
            }
        };
        effects.extend(owner.flush(now, time_us));
        self.scans += owner.scans() - scans;
        for effect in effects {
            self.effect(id, effect);
        }
        self.stop_if_idle(id);
    }

    fn effect(&mut self, id: ActorId, effect: Effect) {
        let me = Process::Router(id.router);
        match effect {
            Effect::Append(expected, record) => {
                let later = self.rng.random_range(200..3000);
                self.after(later, Event::AppendArrives(id, expected, record));
            }
            Effect::Down(gateway, frame) => {
                if let Some(gateway) = self.gateway_of(gateway) {
                    self.send(me, gateway, Frame::Down(id.shard, frame));
                }
            }
            Effect::Read(from, to) => {
                let later = self.rng.random_range(500..5000);
                self.after(later, Event::Page(id, from, to));
            }
            Effect::Derive(router, frame) => {
                if let Some(router) = self.router_of(router) {
                    self.send(me, router, Frame::Derive(frame));
                }
            }
            Effect::Derivation(router, frame) => {
                if let Some(router) = self.router_of(router) {
                    self.send(me, router, Frame::Derivation(frame));
                }
            }
            Effect::Purge(before) => {
                self.purges += 1;
                self.log(id.shard).purge(before);
            }
        }
    }

    fn owner_tick(&mut self, id: ActorId) {
        if !self.is_there(id) {
            return;
        }
        self.after(250 * MS, Event::OwnerTick(id));
        let now = self.owner_time(id);
        let now_us = self.now;
        self.with_owner(id, |owner| {
            owner.tick(now, now_us);
            Ok(Vec::new())
        });
        let Some(actor) = self.routers[id.router].actors.get_mut(&id.shard) else {
            return;
        };
        actor.ticks += 1;
        let looks = actor.ticks % 4 == 0;
        let Owning::Owner(owner) = &actor.state else {
            return;
        };
        let (beat, appends) = (owner.beat(false), owner.append_number());
        self.beat_all(id.router, beat);
        if looks {
            let info = self.log(id.shard).info();
            let later = self.rng.random_range(200..3000);
            self.after(later, Event::Leader(id, appends, info));
        }
    }

    fn beat_all(&mut self, router: usize, beat: OwnerBeat) {
        let me = Process::Router(router);
        for number in 0..GATEWAYS {
            self.send(me, Process::Gateway(number), Frame::Beat(beat.clone()));
        }
        for number in 0..ROUTERS {
            self.send(me, Process::Router(number), Frame::Beat(beat.clone()));
        }
    }

    fn stop_if_idle(&mut self, id: ActorId) {
        let Some(actor) = self.routers[id.router].actors.get(&id.shard) else {
            return;
        };
        if !self.is_there(id) || !actor.is_stopping {
            return;
        }
        match &actor.state {
            Owning::Claiming => {}
            Owning::Owner(owner) if owner.is_idle() => {
                let beat = owner.beat(true);
                self.ended(id, false);
                self.beat_all(id.router, beat);
            }
            Owning::Owner(_) => {}
        }
    }

    fn ended(&mut self, id: ActorId, is_failed: bool) {
        if !self.is_there(id) {
            return;
        }
        let now = self.router_time(id.router);
        let router = &mut self.routers[id.router];
        router.actors.remove(&id.shard);
        router.ownerships.ended(id.shard, is_failed, now);
    }

    // ---- the log

    fn claim(&mut self, id: ActorId) {
        if !self.is_there(id) {
            return;
        }
        let router = self.routers[id.router].incarnation;
        let now = self.now;
        let log = self.log(id.shard);
        let info = log.info();
        let (record, _) = fence(&info, log.get(info.last), router, now);
        let later = self.rng.random_range(200..3000);
        self.after(later, Event::AppendArrives(id, info.last, record));
    }

    fn append_arrives(&mut self, id: ActorId, expected: Sequence, record: Bytes) {
        let is_lost = self.strikes(self.faults.unanswered);
        let is_unanswered = self.strikes(self.faults.unanswered);
        let is_stored = !is_lost && self.log(id.shard).append(expected, record.clone());
        if is_stored && !is_unanswered {
            let later = self.rng.random_range(100..1000);
            self.after(later, Event::Stored(id, expected.next()));
        } else {
            let later = self.rng.random_range(20..200) * MS;
            self.after(later, Event::AppendLook(id, expected, record));
        }
    }

    fn append_look(&mut self, id: ActorId, expected: Sequence, record: Bytes) {
        if !self.is_there(id) {
            return;
        }
        let place = expected.next();
        let log = self.log(id.shard);
        match log.get(place) {
            Some(found) if found == record => self.stored(id, place),
            Some(_) => self.ended(id, true),
            None if log.info().first > place => self.ended(id, true),
            None => self.after(MS, Event::AppendArrives(id, expected, record)),
        }
    }

    fn stored(&mut self, id: ActorId, sequence: Sequence) {
        if !self.is_there(id) {
            return;
        }
        let is_claim = self.routers[id.router]
            .actors
            .get(&id.shard)
            .is_some_and(|actor| matches!(actor.state, Owning::Claiming));
        if is_claim {
            // The log as it stood before the fence.
            let log = self.log(id.shard);
            let mut info = log.info();
            let fence = log.get(sequence).unwrap_or_default();
            info.last = Sequence(sequence.0 - 1);
            let state_at = switchboard_proto::format::decode::<switchboard_proto::bus::Record>(fence)
                .map_or(0, |record| record.state_at);
            let later = self.rng.random_range(1..50) * MS;
            return self.after(later, Event::Tail(id, sequence, info, Sequence(state_at)));
        }
        let now = self.owner_time(id);
        self.with_owner(id, |owner| owner.stored(sequence, now));
    }

    fn tail(&mut self, id: ActorId, fence: Sequence, info: LogInfo, state_at: Sequence) {
        if !self.is_there(id) {
            return;
        }
        self.takeovers += 1;
        // Somewhere between all and little, as bytes and time would decide.
        let most = self.rng.random_range(20..400);
        let first = self.log(id.shard).info().first.0.max(1);
        let mut from = info.last.0.saturating_sub(most).max(first);
        if state_at.0 >= first {
            from = from.min(state_at.0);
        }
        let tail: Vec<RecordAt> = self.log(id.shard).read(Sequence(from), fence, usize::MAX);
        let info = LogInfo {
            first: Sequence(first),
            ..info
        };
        let router = self.routers[id.router].incarnation;
        let owner = SimulatedOwner::new(self.sizes, id.shard, self.shards, router, fence, info, &tail);
        let Some(actor) = self.routers[id.router].actors.get_mut(&id.shard) else {
            return;
        };
        actor.begun = self.now;
        actor.state = Owning::Owner(Box::new(owner));
        let later = self.rng.random_range(1..300) * MS;
        self.after(later, Event::Keys(id, Sequence(from)));
        self.owner_tick(id);
    }

    // ---- clients

    fn client_acts(&mut self, number: usize) {
        let later = self.rng.random_range(20..200) * MS;
        self.after(later, Event::ClientActs(number));
        if self.clients[number].session.is_some() && self.strikes(self.faults.disconnects / 10) {
            self.disconnect(number);
            if self.rng.random_bool(0.2) {
                // Long enough for the log to be purged meanwhile.
                self.clients[number].away_until = self.now + self.rng.random_range(3000..15_000) * MS;
            }
            return;
        }
        if self.clients[number].session.is_none()
            && (self.clients[number].away_until > self.now || !self.connect(number))
        {
            return;
        }
        let Some(session) = self.clients[number].session else {
            return;
        };
        self.give_up_late(number, session);
        if self.clients[number].session.is_none() {
            return;
        }
        let channels: Vec<ChannelName> = self.clients[number].subscriptions.keys().cloned().collect();
        for channel in channels {
            self.subscribe(number, session, channel);
        }
        for publishing in std::mem::take(&mut self.clients[number].again) {
            if self.faults.purges && self.now - publishing.first_us > AGAIN {
                self.notes.keyed.remove(&publishing.id);
                continue;
            }
            self.publish(number, session, publishing);
        }
        let stops = us(TROUBLE + QUIET / 2);
        if self.now < stops && self.rng.random_bool(0.6) {
            self.messages += 1;
            let id = self.messages;
            let channel = self.some_channel(number);
            let has_key = self.rng.random_bool(0.4);
            self.notes.published.insert(id, channel.clone());
            if has_key {
                self.notes.keyed.insert(id);
            }
            let publishing = Publishing {
                channel,
                id,
                has_key,
                first_us: self.now,
                since_us: self.now,
            };
            self.publish(number, session, publishing);
        }
    }

    fn some_channel(&mut self, client: usize) -> ChannelName {
        let channels: Vec<ChannelName> = self.clients[client]
            .subscriptions
            .keys()
            .filter(|channel| !channel.as_str().starts_with('#'))
            .cloned()
            .collect();
        channels[self.rng.random_range(0..channels.len())].clone()
    }

    fn connect(&mut self, number: usize) -> bool {
        let gateway = self.rng.random_range(0..GATEWAYS);
        let is_there =
            self.gateways[gateway].state.is_some() && self.gateways[gateway].asleep_until <= self.now;
        if is_there {
            self.sessions += 1;
            self.clients[number].session = Some(Session {
                id: self.sessions,
                gateway,
            });
        }
        is_there
    }

    /// The client's side of a connection ends: what waits for an answer is unknown to it.
    fn disconnected(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.session = None;
        for subscription in client.subscriptions.values_mut() {
            subscription.is_running = false;
            subscription.asked = None;
        }
        let waiting = std::mem::take(&mut client.waiting);
        client
            .again
            .extend(waiting.into_values().filter(|publishing| publishing.has_key));
    }

    fn disconnect(&mut self, number: usize) {
        let Some(session) = self.clients[number].session else {
            return;
        };
        let life = self.gateways[session.gateway].life;
        let channels: Vec<ChannelName> = self.clients[number].subscriptions.keys().cloned().collect();
        for channel in channels {
            self.after(
                0,
                Event::Call(session.gateway, life, Call::Unsubscribe(session, channel)),
            );
        }
        self.disconnected(number);
    }

    /// Commands that are not answered: the client connects anew, and where the gateway was well all the
    /// time that is a fault (P4).
    fn give_up_late(&mut self, number: usize, session: Session) {
        let now = self.now;
        let client = &self.clients[number];
        let oldest = client
            .subscriptions
            .values()
            .filter_map(|subscription| subscription.asked)
            .map(|(_, since)| since)
            .chain(client.waiting.values().map(|publishing| publishing.since_us))
            .min();
        let Some(oldest) = oldest.filter(|oldest| now - oldest > 4300 * MS) else {
            return;
        };
        let gateway = &self.gateways[session.gateway];
        if gateway.awake_since < oldest && gateway.asleep_until <= now {
            self.notes.faults.push(format!(
                "P4: a command of client {number} waits since {oldest} at {now}"
            ));
        }
        self.disconnect(number);
    }

    fn subscribe(&mut self, number: usize, session: Session, channel: ChannelName) {
        let now = self.now;
        let client = &mut self.clients[number];
        let Some(subscription) = client.subscriptions.get_mut(&channel) else {
            return;
        };
        if subscription.is_running || subscription.asked.is_some() {
            return;
        }
        client.last_command += 1;
        let id = client.last_command;
        subscription.asked = Some((id, now));
        let since = subscription.position.clone();
        let life = self.gateways[session.gateway].life;
        let call = Call::Subscribe(session, id, channel, since);
        self.after(0, Event::Call(session.gateway, life, call));
    }

    fn publish(&mut self, number: usize, session: Session, publishing: Publishing) {
        let now = self.now;
        let client = &mut self.clients[number];
        client.last_command += 1;
        let id = client.last_command;
        let message = Message {
            // Every try is a message of its own, as a gateway makes it.
            id: Bytes::copy_from_slice(&(u128::from(session.id) << 64 | u128::from(id)).to_be_bytes()),
            channel: publishing.channel.as_str().to_owned(),
            kind: PayloadKind::Json.into(),
            payload: publishing.id.to_string().into(),
            sender: Some(Sender {
                user: format!("u{number}"),
                client: session.id.to_string(),
                ..Sender::default()
            }),
            key: if publishing.has_key {
                format!("k{}", publishing.id)
            } else {
                String::new()
            },
            ..Message::default()
        };
        debug_assert!(message.encoded_len() > 0);
        client.waiting.insert(
            id,
            Publishing {
                since_us: now,
                ..publishing
            },
        );
        let life = self.gateways[session.gateway].life;
        self.after(
            0,
            Event::Call(session.gateway, life, Call::Publish(session, id, message)),
        );
    }

    fn told(&mut self, told: Told) {
        if self.is_traced {
            println!("{:>10} told {told:?}", self.now);
        }
        let session = match &told {
            Told::Subscribed { session, .. }
            | Told::NotSubscribed { session, .. }
            | Told::Lost { session, .. }
            | Told::Published { session, .. }
            | Told::Message { session, .. } => *session,
        };
        // What comes for a connection that the client has given up is lost.
        let Some(number) = self
            .clients
            .iter()
            .position(|client| client.session.is_some_and(|own| own.id == session))
        else {
            return;
        };
        match told {
            Told::Published { id, stored, .. } => self.published(number, id, stored),
            Told::NotSubscribed { id, channel, .. } => {
                self.notes.errors += 1;
                if let Some(subscription) = self.subscription(number, &channel)
                    && subscription.asked.is_some_and(|(asked, _)| asked == id)
                {
                    subscription.asked = None;
                }
            }
            Told::Lost { channel, .. } => {
                if let Some(subscription) = self.subscription(number, &channel) {
                    subscription.is_running = false;
                }
            }
            Told::Subscribed {
                id,
                channel,
                epoch,
                offset,
                missed,
                ..
            } => self.subscribed(number, id, &channel, epoch, offset, missed),
            Told::Message { channel, got, .. } => self.got(number, &channel, got),
        }
    }

    fn subscription(&mut self, number: usize, channel: &str) -> Option<&mut Subscription> {
        self.clients[number].subscriptions.get_mut(channel)
    }

    fn published(&mut self, number: usize, id: u32, stored: Option<(u64, bool)>) {
        let Some(publishing) = self.clients[number].waiting.remove(&id) else {
            self.notes
                .faults
                .push(format!("client {number} is answered twice: {id}"));
            return;
        };
        match stored {
            Some((offset, _)) => {
                self.notes
                    .acknowledged
                    .entry(publishing.id)
                    .or_default()
                    .insert(offset);
            }
            None => {
                self.notes.errors += 1;
                if publishing.has_key {
                    self.clients[number].again.push(publishing);
                }
            }
        }
    }

    fn subscribed(
        &mut self,
        number: usize,
        id: u32,
        channel: &str,
        epoch: String,
        offset: u64,
        missed: Recovered,
    ) {
        let now = self.now;
        let Some(subscription) = self.subscription(number, channel) else {
            return;
        };
        if subscription.asked.is_none_or(|(asked, _)| asked != id) {
            self.notes.faults.push(format!(
                "client {number} is subscribed to {channel} by a stray answer at {now}"
            ));
            return;
        }
        subscription.asked = None;
        subscription.is_running = true;
        match missed {
            Recovered::NotAsked => {
                subscription.position = Some((epoch, offset));
                subscription.pieces.push(Piece {
                    from: offset,
                    ..Piece::default()
                });
            }
            Recovered::Lost => {
                let had = subscription.position.as_ref().map_or(0, |(_, had)| *had);
                subscription.position = Some((epoch, offset));
                subscription.pieces.push(Piece {
                    from: offset,
                    got: Vec::new(),
                    lost: Some((had, 0)),
                });
                let piece = subscription.pieces.len() - 1;
                self.notes.lost += 1;
                if let Ok(channel) = ChannelName::parse(channel, 255) {
                    self.after(3 * SECOND, Event::Purged(number, channel, piece));
                }
            }
            Recovered::All(since, messages) => {
                subscription.position = Some((epoch, since));
                self.notes.recovered += 1;
                self.notes.recovered_messages += messages.len() as u64;
                for got in messages {
                    self.got(number, channel, got);
                }
            }
        }
    }

    fn got(&mut self, number: usize, channel: &str, got: (u64, u64)) {
        let now = self.now;
        let Some(subscription) = self.subscription(number, channel) else {
            return;
        };
        let mut fault = None;
        if !subscription.is_running {
            fault = Some("before its subscription runs");
        }
        if let Some((_, position)) = &mut subscription.position {
            if got.0 <= *position {
                fault = Some("not behind what it has");
            }
            *position = got.0;
        }
        if let Some(piece) = subscription.pieces.last_mut() {
            piece.got.push(got);
        }
        if let Some(fault) = fault {
            let text = format!("client {number} is given {got:?} of {channel} at {now}, {fault}");
            self.notes.faults.push(text);
        }
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A client: some rooms, conversations, and its inbox.
fn world_client(number: usize, rng: &mut SmallRng) -> Client {
    let mut names: Vec<String> = (0..5)
        .filter(|_| rng.random_bool(0.6))
        .map(|room| format!("room:{room}"))
        .collect();
    names.push("room:all".to_owned());
    names.push(format!("#u{number}"));
    let other = (number + 1) % CLIENTS;
    let (low, high) = (number.min(other), number.max(other));
    names.push(format!("dm:#u{low},u{high}"));
    Client {
        number,
        session: None,
        subscriptions: names
            .iter()
            .filter_map(|name| ChannelName::parse(name, 255).ok())
            .map(|channel| (channel, Subscription::default()))
            .collect(),
        waiting: BTreeMap::new(),
        again: Vec::new(),
        last_command: 0,
        away_until: 0,
    }
}
