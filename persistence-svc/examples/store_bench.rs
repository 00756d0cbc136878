//! Measures how fast messages come from the log into a real PostgreSQL: `./bench store` runs it.
//!
//! Messages of 200 bytes are appended to an embedded log at a fixed rate, and a whole persistence service reads them from there: it
//! stores them with all indexes in place, and indexes them for search. What is told is how old the oldest message was that was
//! not in the history yet, and that search did not know yet. Beside it the same rows are written by one plain COPY into the same
//! table of an empty database.
//!
//!     store_bench RATE SECONDS
//!
//! Prints JSON.
#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measurement, run by hand"
)]

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use secrecy::SecretString;
use serde_json::json;
use switchboard_bus::embedded::{EmbeddedBus, EmbeddedDurability, EmbeddedLog};
use switchboard_bus::{Bus, Log, SubjectPrefix};
use switchboard_database::config::Defaults;
use switchboard_persistence_svc::store::{PostgresSettings, PostgresStore, Store};
use switchboard_persistence_svc::{Config, Deps, SQLITE_PATH, start};
use switchboard_proto::bus::{Batch, Entry, Fence, Layout, Message, PayloadKind, Record, Sender, record};
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, LogEpoch, Sequence, ShardCount, ShardId};
use switchboard_proto::time::now_us;
use switchboard_service_kit::config::Document;
use switchboard_service_kit::service::Context;
use switchboard_testkit::PostgresServer;
use tokio::time::{MissedTickBehavior, interval, sleep};
use uuid::Uuid;

const SHARDS: u16 = 16;
const CHANNELS: u64 = 1000;
const USERS: u64 = 2000;
/// Bytes of a payload.
const SIZE: usize = 200;
/// Between two appends of a shard.
const APPEND: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_millis(200);

/// Words of some kind: search has something to do.
const WORDS: [&str; 24] = [
    "meeting",
    "tomorrow",
    "the",
    "build",
    "is",
    "green",
    "who",
    "has",
    "release",
    "notes",
    "customer",
    "wrote",
    "again",
    "about",
    "latency",
    "in",
    "region",
    "please",
    "look",
    "at",
    "dashboard",
    "thanks",
    "for",
    "yesterday",
];

fn payload(number: u64) -> Bytes {
    let mut text = format!("{{\"number\":{number},\"text\":\"");
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while text.len() < SIZE - 14 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(WORDS.get((state % WORDS.len() as u64) as usize).unwrap());
        text.push(' ');
    }
    text.push_str("\"}");
    text.into()
}

fn message(number: u64) -> Message {
    // Shards are given in turn, and each has channels of its own.
    let shard = number % u64::from(SHARDS);
    let channel = (number / u64::from(SHARDS)) % (CHANNELS / u64::from(SHARDS));
    Message {
        id: Uuid::now_v7().into_bytes().to_vec().into(),
        channel: format!("room:{shard}-{channel}"),
        kind: PayloadKind::Json.into(),
        payload: payload(number),
        sender: Some(Sender {
            user: format!("user{}", number % USERS),
            ..Sender::default()
        }),
        ..Message::default()
    }
}

/// One shard's log as its owner writes it.
struct Appending {
    shard: ShardId,
    last: Sequence,
    owner: Incarnation,
    /// What is appended and not stored yet: sequence and when.
    open: VecDeque<(Sequence, Instant)>,
}

impl Appending {
    async fn append(&mut self, log: &dyn Log, body: record::Body) {
        let sequence = Sequence(self.last.0 + 1);
        let record = Record {
            owner_epoch: 1,
            sequence: sequence.0,
            owner: self.owner.to_bytes(),
            append_number: sequence.0,
            time_us: now_us(),
            body: Some(body),
            ..Record::default()
        };
        self.open.push_back((sequence, Instant::now()));
        self.last = log
            .append(self.shard, self.last, format::encode(&record))
            .await
            .unwrap();
    }

    /// How old the oldest is that is not stored.
    async fn lag(&mut self, store: &dyn Store, epoch: LogEpoch) -> Duration {
        let progress = store.progress(self.shard, epoch).await.unwrap();
        let done = progress.map_or(Sequence(0), |progress| progress.complete_to);
        while self.open.front().is_some_and(|(sequence, _)| *sequence <= done) {
            self.open.pop_front();
        }
        self.open
            .front()
            .map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }
}

/// How old the oldest is that search does not know, of what is stored.
async fn search_lag(store: &dyn Store) -> Duration {
    let mut lag = 0;
    for behind in store.behind("search").await.unwrap() {
        let rows = store
            .log_rows((behind.shard, behind.log), behind.done_to, behind.stored_to, 1)
            .await
            .unwrap();
        let age = rows.first().map_or(0, |row| now_us().saturating_sub(row.time_us));
        lag = lag.max(age);
    }
    Duration::from_micros(lag)
}

fn quantile(times: &mut [f64], part: f64) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    let at = (times.len().saturating_sub(1) as f64 * part).round() as usize;
    times.get(at).copied().unwrap_or(0.0)
}

fn settings(url: String) -> PostgresSettings {
    PostgresSettings {
        url: SecretString::from(url),
        password: None,
        connections: 4,
        wait: Duration::from_secs(30),
        statement: Duration::from_secs(60),
    }
}

/// Rows a second of one COPY into the same table.
async fn copy(server: &PostgresServer, folder: &Path, count: u64) -> f64 {
    let url = server.database().await.unwrap();
    let store = PostgresStore::new(&settings(url.clone())).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    store.migrate().await.unwrap();
    let path = folder.join("rows");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    let begin = now_us();
    for number in 0..count {
        let message = message(number);
        let mut hex = String::new();
        for byte in message.encode_to_vec() {
            write!(hex, "{byte:02x}").unwrap();
        }
        let shard = number % u64::from(SHARDS);
        let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).cast_signed();
        writeln!(
            file,
            "{}\t{shard}\t1\t{number}\t{hash}\t{}\tuser{}\t\\\\x{hex}",
            begin + number,
            message.channel,
            number % USERS
        )
        .unwrap();
    }
    file.flush().unwrap();
    let begin = Instant::now();
    let sql = format!(
        "\\copy messages (log_time, shard, log, \"offset\", channel_hash, channel, sender, message) FROM '{}'",
        path.display()
    );
    server.psql(&url, &sql).await.unwrap();
    let took = begin.elapsed();
    store.close().await;
    count as f64 / took.as_secs_f64()
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|argument| argument.parse::<u64>().unwrap());
    let (rate, seconds) = (arguments.next().unwrap(), arguments.next().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let server = PostgresServer::start_with(&[
        "fsync=on",
        "shared_buffers=1GB",
        "max_wal_size=4GB",
        "checkpoint_timeout=15min",
    ])
    .await
    .unwrap();
    let copied = copy(&server, folder.path(), (rate * seconds).min(600_000)).await;
    eprintln!("{copied:.0} rows/s by COPY");

    let bus: Arc<dyn Bus> = EmbeddedBus::new(SubjectPrefix::default());
    let log: Arc<dyn Log> =
        EmbeddedLog::open(&folder.path().join("log"), EmbeddedDurability::Memory).unwrap();
    let shards = ShardCount::new(SHARDS.into()).unwrap();
    let layout = log
        .create(&Layout::new(shards, Duration::from_secs(300), now_us()))
        .await
        .unwrap();
    let log = log.of(&layout);
    let text = format!(
        "[persistence]\nstore = \"postgres\"\n[persistence.postgres]\nurl = {:?}\n",
        server.url()
    );
    let config = Config::read(
        &mut Document::parse(&text, []).unwrap(),
        &Defaults::of_many(SQLITE_PATH),
    );
    let context = Context::new();
    let deps = Deps {
        bus,
        log: Some(Arc::clone(&log)),
        shards,
        data: None,
    };
    let _running = start(config, deps, context.clone()).await.unwrap();
    let store = PostgresStore::new(&settings(server.url())).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    store.migrate().await.unwrap();

    let (mut appending, mut epochs) = (Vec::new(), Vec::new());
    for shard in 0..u32::from(SHARDS) {
        let shard = ShardId::new(shard).unwrap();
        let mut one = Appending {
            shard,
            last: Sequence(0),
            owner: Incarnation::random(),
            open: VecDeque::new(),
        };
        one.append(&*log, record::Body::Fence(Fence {})).await;
        epochs.push(log.info(shard).await.unwrap().epoch);
        appending.push(one);
    }

    let begin = Instant::now();
    let mut ticks = interval(APPEND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut number, mut late) = (0_u64, Duration::ZERO);
    let (mut stored_lags, mut search_lags) = (Vec::new(), Vec::new());
    let mut look = Instant::now();
    let duration = Duration::from_secs(seconds);
    let mut told = Instant::now();
    while begin.elapsed() < duration {
        ticks.tick().await;
        let due = (begin.elapsed().as_secs_f64() * rate as f64) as u64;
        let mut batches: Vec<Vec<Entry>> = appending.iter().map(|_| Vec::new()).collect();
        while number < due {
            let entry = Entry {
                message: message(number).encode_to_vec().into(),
                ..Entry::default()
            };
            if let Some(batch) = batches.get_mut((number % u64::from(SHARDS)) as usize) {
                batch.push(entry);
            }
            number += 1;
        }
        let appends = appending
            .iter_mut()
            .zip(batches)
            .filter(|(_, entries)| !entries.is_empty());
        let appends = appends.map(|(one, entries)| {
            let body = record::Body::Batch(Batch {
                entries,
                ..Batch::default()
            });
            one.append(&*log, body)
        });
        let now = Instant::now();
        futures_util::future::join_all(appends).await;
        late = late.max(now.elapsed());
        if look.elapsed() >= LOOK {
            look = Instant::now();
            let mut lag = Duration::ZERO;
            for (one, epoch) in appending.iter_mut().zip(&epochs) {
                lag = lag.max(one.lag(&*store, *epoch).await);
            }
            stored_lags.push(lag.as_secs_f64());
            let search = search_lag(&*store).await;
            search_lags.push(search.as_secs_f64());
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                eprintln!("{number} appended, history {lag:.1?} behind, search {search:.1?}");
            }
        }
    }
    let appended = begin.elapsed();
    loop {
        let mut lag = Duration::ZERO;
        for (one, epoch) in appending.iter_mut().zip(&epochs) {
            lag = lag.max(one.lag(&*store, *epoch).await);
        }
        if lag.is_zero() {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    let stored = begin.elapsed();
    while !store.behind("search").await.unwrap().is_empty() {
        sleep(Duration::from_millis(50)).await;
    }
    let searched = begin.elapsed();
    let rows = server
        .psql(&server.url(), "SELECT count(*) FROM messages")
        .await
        .unwrap();
    assert_eq!(rows.trim(), number.to_string(), "all are there, and once");
    let report = json!({
        "rate": rate,
        "seconds": seconds,
        "messages": number,
        "appended_per_second": number as f64 / appended.as_secs_f64(),
        "longest_append_s": late.as_secs_f64(),
        "stored_per_second": number as f64 / stored.as_secs_f64(),
        "searchable_per_second": number as f64 / searched.as_secs_f64(),
        "history_behind_s": {
            "p50": quantile(&mut stored_lags, 0.5),
            "p99": quantile(&mut stored_lags, 0.99),
            "max": quantile(&mut stored_lags, 1.0),
        },
        "search_behind_s": {
            "p50": quantile(&mut search_lags, 0.5),
            "max": quantile(&mut search_lags, 1.0),
        },
        "copy_per_second": copied,
        "stored_to_copy": number as f64 / stored.as_secs_f64() / copied,
    });
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
    context.tasks.stop(Duration::from_secs(20)).await;
    store.close().await;
}
