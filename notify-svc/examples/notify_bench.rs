//! Measures how many notifications a second go through the queue to a server of the application: `./bench notify` runs it.
//!
//! A whole notify service with a real PostgreSQL is asked over the bus to send notifications at a fixed rate, each to one webhook; a
//! local server takes them and answers at once. What is told is how many arrived a second, how long after they were asked for, and
//! whether each came once. Beside it the same server is asked by as many bare HTTP requests at a time, without a queue.
//!
//!     notify_bench RATE SECONDS
//!
//! Prints JSON.
#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "a measurement, run by hand"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::{Value, json};
use switchboard_bus::embedded::EmbeddedBus;
use switchboard_bus::messages::ask;
use switchboard_bus::{Bus, SubjectPrefix};
use switchboard_database::config::Defaults;
use switchboard_notify_svc::{Config, Deps, SQLITE_PATH, start};
use switchboard_proto::ids::ShardCount;
use switchboard_proto::notifications::{
    Device, Notification, RegisterDeviceRequest, SendRequest, StatisticsRequest, method,
};
use switchboard_service_kit::config::Document;
use switchboard_service_kit::service::Context;
use switchboard_testkit::{PostgresServer, wait_until};
use tokio::time::{MissedTickBehavior, interval};

const USERS: u64 = 500;
/// Notifications of one request.
const BATCH: u64 = 50;

#[derive(Default)]
struct Arrived {
    /// Of each notification, by its number: when it came, and how often.
    at: Mutex<HashMap<u64, (Instant, u32)>>,
    bare: AtomicU64,
}

async fn hook(State(arrived): State<Arc<Arrived>>, body: Bytes) -> StatusCode {
    let body: Value = serde_json::from_slice(&body).unwrap();
    let number = body.pointer("/data/data/number").and_then(Value::as_u64).unwrap();
    let now = Instant::now();
    arrived.at.lock().entry(number).or_insert((now, 0)).1 += 1;
    StatusCode::NO_CONTENT
}

async fn bare(State(arrived): State<Arc<Arrived>>, _: Bytes) -> StatusCode {
    arrived.bare.fetch_add(1, Ordering::Relaxed);
    StatusCode::NO_CONTENT
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|argument| argument.parse::<u64>().unwrap());
    let (rate, seconds) = (arguments.next().unwrap(), arguments.next().unwrap());
    let server = PostgresServer::start_with(&["fsync=on", "shared_buffers=512MB", "max_wal_size=4GB"])
        .await
        .unwrap();
    let arrived = Arc::new(Arrived::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/hook", post(hook))
        .route("/bare", post(bare))
        .with_state(Arc::clone(&arrived));
    tokio::spawn(async move { axum::serve(listener, router).await });

    let bus: Arc<dyn Bus> = EmbeddedBus::new(SubjectPrefix::default());
    let text = format!(
        "[notify]\nstore = \"postgres\"\n[notify.postgres]\nurl = {:?}\n[notify.providers]\nallowed_networks = [\"127.0.0.0/8\"]\n\
         [notify.categories.bench]\nways = [\"webhook\"]\n",
        server.url()
    );
    let config = Config::read(
        &mut Document::parse(&text, []).unwrap(),
        &Defaults::of_many(SQLITE_PATH),
    );
    let context = Context::new();
    let deps = Deps {
        bus: Arc::clone(&bus),
        log: None,
        shards: ShardCount::new(1).unwrap(),
        data: None,
    };
    let _running = start(config, deps, context.clone()).await.unwrap();
    let within = Duration::from_secs(10);
    for user in 0..USERS {
        let request = RegisterDeviceRequest {
            user: format!("user{user}"),
            device: Some(Device {
                id: "hook".to_owned(),
                provider: "webhook".to_owned(),
                subscription: json!({"url": format!("http://{address}/hook")})
                    .to_string()
                    .into(),
                ..Device::default()
            }),
        };
        wait_until(within, async || {
            ask::<method::RegisterDevice>(bus.as_ref(), &request, within)
                .await
                .is_ok()
        })
        .await
        .unwrap();
    }

    let asked: Arc<Mutex<HashMap<u64, Instant>>> = Arc::default();
    let begin = Instant::now();
    let mut ticks = interval(Duration::from_secs(1).mul_f64(BATCH as f64 / rate as f64));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut number = 0;
    let mut requests = tokio::task::JoinSet::new();
    while number < rate * seconds {
        // From when it should have been asked for: a service that holds up who asks is not let off.
        let due = ticks.tick().await.into_std();
        let notifications = (number..number + BATCH)
            .map(|number| Notification {
                user: format!("user{}", number % USERS),
                category: "bench".to_owned(),
                title: "A notification".to_owned(),
                body: "of the usual length, about something that somebody would like to know".to_owned(),
                data: json!({"number": number}).to_string().into(),
                idempotency_key: format!("{number}"),
                ..Notification::default()
            })
            .collect();
        for number in number..number + BATCH {
            asked.lock().insert(number, due);
        }
        number += BATCH;
        let bus = Arc::clone(&bus);
        requests.spawn(async move {
            let request = SendRequest { notifications };
            ask::<method::Send>(bus.as_ref(), &request, within).await
        });
    }
    let mut refused = 0;
    while let Some(answer) = requests.join_next().await {
        if let Err(error) = answer.unwrap() {
            eprintln!("{error}");
            refused += BATCH;
        }
    }
    let accepted_in = begin.elapsed();
    // What does not arrive is told below.
    let has_all = async || arrived.at.lock().len() as u64 >= number - refused;
    drop(wait_until(Duration::from_secs(120), has_all).await);
    let all_in = begin.elapsed();
    let arrivals = arrived.at.lock().clone();
    let asked = asked.lock().clone();
    let mut latencies: Vec<Duration> = arrivals
        .iter()
        .filter_map(|(number, (at, _))| Some(at.duration_since(*asked.get(number)?)))
        .collect();
    latencies.sort_unstable();
    let at = |part: f64| {
        let index = ((latencies.len() as f64 * part) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(index).map_or(0.0, Duration::as_secs_f64)
    };
    let twice = arrivals.values().filter(|(_, times)| *times > 1).count();
    let statistics = ask::<method::Statistics>(bus.as_ref(), &StatisticsRequest::default(), within)
        .await
        .unwrap();

    // The floor: the same requests, as many at a time, and nothing else.
    let client = reqwest::Client::new();
    let url = format!("http://{address}/bare");
    let floor_begin = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (client, url) = (client.clone(), url.clone());
        workers.spawn(async move {
            let mut sent = 0_u64;
            while floor_begin.elapsed() < Duration::from_secs(5) {
                client.post(&url).body("x".repeat(400)).send().await.unwrap();
                sent += 1;
            }
            sent
        });
    }
    let mut floor = 0;
    while let Some(sent) = workers.join_next().await {
        floor += sent.unwrap();
    }
    let report = json!({
        "rate": rate,
        "seconds": seconds,
        "refused": refused,
        "accepted_per_second": (number - refused) as f64 / accepted_in.as_secs_f64(),
        "arrived": arrivals.len(),
        "lost": number - refused - arrivals.len() as u64,
        "twice": twice,
        "arrived_per_second": arrivals.len() as f64 / all_in.as_secs_f64(),
        "seconds_p50": at(0.5),
        "seconds_p99": at(0.99),
        "seconds_max": at(1.0),
        "waiting_at_the_end": statistics.waiting,
        "floor_requests_per_second": floor as f64 / floor_begin.elapsed().as_secs_f64(),
    });
    println!("{report:#}");
    context.tasks.stop(Duration::from_secs(20)).await;
}
