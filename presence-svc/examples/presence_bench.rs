//! Measures what knowing who is here costs, with a real Redis: `./bench presence` runs it.
//!
//! Gateways that exist only as reporters tell a whole presence service of their sessions, over the bus and through the store's own
//! interface, as real gateways do.
//!
//! 1. *Sessions*: so many begin, as fast as reports are answered. What Redis grew by, and how many a second.
//! 2. *Activity*: for some seconds sessions end and begin as fast as reports are answered.
//! 3. *Reloads*: a tenth of the users loses its connection and is back within the grace. Nobody may be told of it.
//! 4. *Herd*: a tenth of the users is gone for longer, and then back within five seconds. Of each is told once that she is gone, and once that
//!    she is back.
//!
//!     presence_bench SESSIONS
//!
//! Prints JSON. Exit code 1: somebody was told of more often than there was something to tell.
#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a measurement, run by hand"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use switchboard_bus::embedded::EmbeddedBus;
use switchboard_bus::messages::ask;
use switchboard_bus::{Bus, Pattern, Subject, SubjectPrefix};
use switchboard_presence_svc::{Config, Deps, start};
use switchboard_proto::format;
use switchboard_proto::ids::Incarnation;
use switchboard_proto::presence::{
    Changes, Device, GetUsersRequest, ReportRequest, ReportedSession, ReportedUser, Status, method,
};
use switchboard_registry::config::RegistryConfig;
use switchboard_service_kit::config::Document;
use switchboard_service_kit::service::Context;
use switchboard_testkit::RedisServer;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};

const GATEWAYS: usize = 5;
/// Sessions of one report, as gateways have it.
const REPORT: usize = 2_000;
const ACTIVITY: Duration = Duration::from_secs(10);
const HERD: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);

/// News that nobody has looked at: more than any part of this makes.
const HEARD: usize = 1 << 22;

/// A gateway's reports.
struct Gateway {
    bus: Arc<dyn Bus>,
    me: Incarnation,
    number: u64,
}

impl Gateway {
    async fn report(&mut self, begins: bool, users: Vec<ReportedUser>) {
        self.number += 1;
        let report = ReportRequest {
            gateway: self.me.to_bytes(),
            lease: 1,
            number: self.number,
            begins,
            users,
            ..ReportRequest::default()
        };
        let answer = ask::<method::Report>(self.bus.as_ref(), &report, PATIENCE)
            .await
            .unwrap();
        assert!(
            answer.held,
            "the lease is lost: the machine is too slow for the rate"
        );
    }
}

fn id(session: usize, life: u64) -> Bytes {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(session as u64).to_be_bytes());
    id[8..].copy_from_slice(&life.to_be_bytes());
    Bytes::copy_from_slice(&id)
}

/// A session of a user of its own that begins, ends, or both: another one ends, this begins.
fn reported(session: usize, begins: Option<u64>, ends: Option<u64>) -> ReportedUser {
    ReportedUser {
        user: format!("user-{session:06}"),
        sessions: (begins.into_iter())
            .map(|life| ReportedSession {
                client: id(session, life),
                device: Some(Device {
                    r#type: "mobile".to_owned(),
                    name: "a telephone".to_owned(),
                    platform: "android".to_owned(),
                    app_version: "3.1.4".to_owned(),
                }),
                ..ReportedSession::default()
            })
            .collect(),
        ended: ends.into_iter().map(|life| id(session, life)).collect(),
    }
}

async fn memory(redis: &redis::Client) -> u64 {
    let mut connection = redis.get_multiplexed_async_connection().await.unwrap();
    let info: String = redis::cmd("INFO")
        .arg("memory")
        .query_async(&mut connection)
        .await
        .unwrap();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .unwrap();
    line.trim().parse().unwrap()
}

/// Gives parts of the sessions to the gateways, each of which goes through its own in reports, at the same time.
async fn all<F>(gateways: &mut [Gateway], sessions: usize, make: F)
where
    F: Fn(usize) -> ReportedUser + Sync,
{
    let make = &make;
    let work = gateways.iter_mut().enumerate().map(|(at, gateway)| async move {
        let mine: Vec<usize> = (at..sessions).step_by(GATEWAYS).collect();
        for part in mine.chunks(REPORT) {
            gateway
                .report(false, part.iter().map(|session| make(*session)).collect())
                .await;
        }
    });
    futures_util::future::join_all(work).await;
}

/// Sessions begin again, one part after the other; gateways beat meanwhile.
async fn come_back(gateways: &mut [Gateway], herd: usize, life: u64, within: Duration) {
    const STEPS: u32 = 25;
    let mut tick = interval(within / STEPS);
    let of_each = herd.div_ceil(STEPS as usize);
    for first in (0..herd).step_by(of_each) {
        tick.tick().await;
        for (at, gateway) in gateways.iter_mut().enumerate() {
            let its = (first..(first + of_each).min(herd)).filter(|session| session % GATEWAYS == at);
            let back = its.map(|session| reported(session, Some(life), None));
            gateway.report(false, back.collect()).await;
        }
    }
}

/// Time passes for gateways to which nothing happens.
async fn beats(gateways: &mut [Gateway], during: Duration) {
    let until = Instant::now() + during;
    while Instant::now() < until {
        for gateway in &mut *gateways {
            gateway.report(false, Vec::new()).await;
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// Of how many users something was told, and of how many of these something else than is right.
fn told_of(
    heard: &mut mpsc::Receiver<(Status, u64, String)>,
    known: &mut HashMap<String, u64>,
    is_right: impl Fn(&[Status]) -> bool,
) -> (usize, usize) {
    let mut of_user: HashMap<String, Vec<(u64, Status)>> = HashMap::new();
    while let Ok((status, version, user)) = heard.try_recv() {
        // News may be told again; who listens knows them by their version.
        let last = known.entry(user.clone()).or_default();
        if version > *last {
            *last = version;
            of_user.entry(user).or_default().push((version, status));
        }
    }
    let mut wrong = 0;
    for told in of_user.values_mut() {
        told.sort_unstable_by_key(|(version, _)| *version);
        let statuses: Vec<Status> = told.iter().map(|(_, status)| *status).collect();
        wrong += usize::from(!is_right(&statuses));
    }
    (of_user.len(), wrong)
}

#[tokio::main]
async fn main() {
    let sessions: usize = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(100_000);
    let server = RedisServer::start().await.unwrap();
    let redis = redis::Client::open(server.url()).unwrap();
    let text = format!(
        "[registry]\nbackend = \"redis\"\n[registry.redis]\nurls = [{:?}]\ntimeout = \"3s\"\n[presence]\nlease = \"10s\"\naway_after = \"1h\"\n",
        server.url()
    );
    let mut document = Document::parse(&text, []).unwrap();
    let (config, registry) = (Config::read(&mut document), RegistryConfig::read(&mut document));
    document.finish().unwrap();
    let bus: Arc<dyn Bus> = EmbeddedBus::new(SubjectPrefix::default());
    let mut changes = bus
        .subscribe(Pattern::Exactly(Subject::PresenceChanges), 65_536)
        .await
        .unwrap();
    let context = Context::new();
    let deps = Deps {
        bus: Arc::clone(&bus),
        registry,
        data: None,
    };
    start(config, deps, context.clone()).await.unwrap();
    let anybody = GetUsersRequest {
        users: vec!["anybody".to_owned()],
    };
    while ask::<method::GetUsers>(bus.as_ref(), &anybody, PATIENCE)
        .await
        .is_err()
    {
        sleep(Duration::from_millis(20)).await;
    }
    let (sender, mut heard) = mpsc::channel(HEARD);
    tokio::spawn(async move {
        while let Some(message) = changes.next().await {
            let changes: Changes = format::decode(message.payload).unwrap();
            for user in changes.users {
                sender
                    .send((user.status(), user.version, user.user))
                    .await
                    .unwrap();
            }
        }
    });
    let mut gateways: Vec<Gateway> = (0..GATEWAYS)
        .map(|_| Gateway {
            bus: Arc::clone(&bus),
            me: Incarnation::random(),
            number: 0,
        })
        .collect();
    for gateway in &mut gateways {
        gateway.report(true, Vec::new()).await;
    }

    let before = memory(&redis).await;
    let begun = Instant::now();
    all(&mut gateways, sessions, |session| {
        reported(session, Some(0), None)
    })
    .await;
    let filled = begun.elapsed();
    // News that are not told yet are no session's.
    let mut online = 0;
    let mut known: HashMap<String, u64> = HashMap::new();
    while online < sessions {
        let (status, ..) = tokio::time::timeout(PATIENCE, heard.recv())
            .await
            .unwrap()
            .unwrap();
        online += usize::from(status == Status::Online);
    }
    let told = begun.elapsed();
    beats(&mut gateways, Duration::from_secs(2)).await;
    let bytes = memory(&redis).await.saturating_sub(before);

    let begun = Instant::now();
    let mut life = 0;
    while begun.elapsed() < ACTIVITY {
        life += 1;
        all(&mut gateways, sessions, |session| {
            reported(session, Some(life), Some(life - 1))
        })
        .await;
    }
    let events = life * 2 * sessions as u64;
    let sustained = events as f64 / begun.elapsed().as_secs_f64();
    beats(&mut gateways, Duration::from_secs(2)).await;
    told_of(&mut heard, &mut known, |_| true);

    // Who is back within the grace is not seen to leave.
    let herd = sessions / 10;
    all(&mut gateways, herd, |session| reported(session, None, Some(life))).await;
    come_back(&mut gateways, herd, life + 1, HERD / 3).await;
    beats(&mut gateways, HERD * 2).await;
    let flickers = told_of(&mut heard, &mut known, |_| false);

    // Who is gone for longer is told of as gone, and once as back.
    all(&mut gateways, herd, |session| {
        reported(session, None, Some(life + 1))
    })
    .await;
    beats(&mut gateways, HERD * 2).await;
    come_back(&mut gateways, herd, life + 2, HERD).await;
    beats(&mut gateways, HERD).await;
    let herd_told = told_of(&mut heard, &mut known, |statuses| {
        statuses == [Status::Offline, Status::Online]
    });
    let wrong = flickers.0 + herd_told.1 + (herd - herd_told.0);
    let result = json!({
        "sessions": sessions,
        "redis_bytes_per_session": bytes as f64 / sessions as f64,
        "sessions_begun_per_second": sessions as f64 / filled.as_secs_f64(),
        "all_told_after_s": told.as_secs_f64(),
        "events_per_second_sustained": sustained,
        "reloads": { "users": herd, "told_of": flickers.0 },
        "herd": { "users": herd, "told_of": herd_told.0, "told_wrongly": herd_told.1 },
    });
    println!("{result:#}");
    std::process::exit(i32::from(wrong > 0));
}
