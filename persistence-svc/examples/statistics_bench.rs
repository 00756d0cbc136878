//! Measures statistics in a real PostgreSQL: `./bench statistics` runs it.
//!
//! First messages are written and counted the ways of the service, in 10,000 channels of 50 namespaces. Then a year of sums of all of these is put
//! into the tables, and asked for as backends do.
//!
//!     statistics_bench MESSAGES
//!
//! Prints JSON.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a measurement, run by hand"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use secrecy::SecretString;
use serde_json::{Value, json};
use switchboard_persistence_svc::follow::{Follower as _, STEP};
use switchboard_persistence_svc::statistics::{Counting, FOLLOWER, StatisticsSettings};
use switchboard_persistence_svc::store::statistics::{Period, Span};
use switchboard_persistence_svc::store::{PostgresSettings, PostgresStore, Row, Step, Store, Written};
use switchboard_proto::bus::Message;
use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};
use switchboard_proto::time::now_us;
use switchboard_testkit::PostgresServer;

const NAMESPACES: u64 = 50;
const CHANNELS: u64 = 10_000;
const USERS: u64 = 20_000;
const QUESTIONS: usize = 50;
const DAY: u64 = 86_400;
const LOG: LogEpoch = LogEpoch {
    ordinal: 1,
    random: 7,
};

/// Writes so many messages of now into one shard.
async fn write(store: &dyn Store, messages: u64) {
    let now = now_us();
    let mut sequence = 0;
    while sequence < messages {
        let rows: Vec<Row> = (sequence + 1..=(sequence + 2_000).min(messages))
            .map(|sequence| {
                let mixed = sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
                let channel = mixed % CHANNELS;
                let channel = format!("n{}:{channel}", channel % NAMESPACES);
                let message = Message {
                    channel: channel.clone(),
                    payload: vec![b'x'; 200].into(),
                    ..Message::default()
                };
                Row {
                    offset: Offset::new(Sequence(sequence), 0),
                    time_us: now,
                    channel,
                    sender: Some(format!("user-{}", mixed / 7 % USERS)),
                    message: message.encode_to_vec().into(),
                    change: None,
                }
            })
            .collect();
        let up_to = sequence + rows.len() as u64;
        let written = Written {
            shard: ShardId::new(0).unwrap(),
            log: LOG,
            read_after: Sequence(sequence),
            after: Sequence(sequence),
            up_to: Sequence(up_to),
            owner_epoch: OwnerEpoch(1),
            rows,
            dead: Vec::new(),
        };
        store.write(&written).await.unwrap();
        sequence = up_to;
    }
}

/// Counts all that is written. Messages a second, and the longest step.
async fn count(store: &Arc<dyn Store>) -> (f64, Duration) {
    let day = Duration::from_secs(DAY);
    let settings = StatisticsSettings {
        hours: 400 * day,
        days: 1_830 * day,
        channels: CHANNELS,
        known: 200_000,
        watches: 1,
    };
    let counting = Counting::new(Arc::clone(store), settings, Default::default());
    let (begun, mut counted, mut longest) = (Instant::now(), 0, Duration::ZERO);
    while let Some(behind) = store.behind(FOLLOWER).await.unwrap().first().copied() {
        let step_begun = Instant::now();
        let rows = store
            .log_rows((behind.shard, behind.log), behind.done_to, behind.stored_to, STEP)
            .await
            .unwrap();
        counted += rows.len();
        let to = match rows.len() {
            STEP => rows[STEP - 1].offset,
            _ => behind.stored_to,
        };
        let step = Step {
            name: FOLLOWER,
            shard: behind.shard,
            log: behind.log,
            from: behind.done_to,
            to,
        };
        assert!(counting.apply(&step, rows).await.unwrap());
        longest = longest.max(step_begun.elapsed());
    }
    (counted as f64 / begun.elapsed().as_secs_f64(), longest)
}

/// A year of everything.
async fn fill(pool: &sqlx::PgPool, today: u64) {
    let first = today - 364 * DAY;
    let buckets: Vec<String> = (0..20).map(|bucket| format!("{bucket}")).collect();
    let buckets = buckets.join(", ");
    for (period, length) in [(2, 3_600), (3, DAY)] {
        let series = format!(
            "FROM (SELECT '*' AS namespace UNION SELECT 'n' || n FROM generate_series(0, {NAMESPACES} - 1) AS n) AS names,
                generate_series({first}, {today}, {length}) AS at ON CONFLICT DO NOTHING"
        );
        for statement in [
            format!("INSERT INTO statistics SELECT {period}, namespace, at, 1000, 200000, 300, 200 {series}"),
            format!("INSERT INTO statistics_deliveries SELECT {period}, namespace, at, {buckets} {series}"),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(statement))
                .execute(pool)
                .await
                .unwrap();
        }
    }
    for (period, step, from) in [(3, DAY, today - 13 * DAY), (4, 31 * DAY, first)] {
        let mut at = from;
        while at <= today {
            let begin = if period == 4 { Period::Month.begin(at) } else { at };
            let statement = format!(
                "INSERT INTO statistics_channels
                 SELECT {period}, {begin}, 'n' || c % {NAMESPACES} || ':' || c, 'n' || c % {NAMESPACES}, (c * 7919) % 10007
                 FROM generate_series(0, {CHANNELS} - 1) AS c ON CONFLICT DO NOTHING"
            );
            sqlx::query(sqlx::AssertSqlSafe(statement))
                .execute(pool)
                .await
                .unwrap();
            at += step;
        }
    }
    sqlx::query("ANALYZE").execute(pool).await.unwrap();
}

/// Milliseconds at the median and at the 95th of a hundred.
async fn timed(ask: impl AsyncFn() -> usize) -> Value {
    let mut times = Vec::new();
    let mut found = 0;
    for _ in 0..QUESTIONS {
        let begun = Instant::now();
        found = ask().await;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let at = |share: f64| {
        let time = times[((times.len() - 1) as f64 * share).round() as usize];
        (time.as_secs_f64() * 10_000.0).round() / 10.0
    };
    json!({ "rows": found, "p50_ms": at(0.5), "p95_ms": at(0.95) })
}

#[tokio::main]
async fn main() {
    let messages = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(100_000);
    let database = PostgresServer::start().await.unwrap();
    let store: Arc<dyn Store> = Arc::new(
        PostgresStore::new(&PostgresSettings {
            url: SecretString::from(database.url()),
            password: None,
            connections: 4,
            wait: Duration::from_secs(60),
            statement: Duration::from_secs(60),
        })
        .unwrap(),
    );
    store.migrate().await.unwrap();
    write(&*store, messages).await;
    let (rate, longest) = count(&store).await;
    let pool = sqlx::PgPool::connect(&database.url()).await.unwrap();
    let today = Period::Day.begin(now_us() / 1_000_000);
    fill(&pool, today).await;
    let names: Vec<String> = (0..NAMESPACES).map(|number| format!("n{number}")).collect();
    let all = [names.clone(), vec!["*".to_owned()]].concat();
    let year = |period: Period| Span {
        period,
        from: period.begin(today - 364 * DAY),
        to: today + 1,
    };
    let points = async |period, names: &[String]| store.points(&year(period), names).await.unwrap().len();
    let top = async |span: Span, namespace: Option<&str>| {
        store.top_channels(&span, namespace, 100).await.unwrap().len()
    };
    let fortnight = Span {
        period: Period::Day,
        from: today - 13 * DAY,
        to: today + 1,
    };
    let report = json!({
        "counted_per_second": rate.round(),
        "longest_step_ms": longest.as_millis() as u64,
        "365_days_of_50_namespaces_by_day": timed(async || points(Period::Day, &names).await).await,
        "365_days_of_one_by_hour": timed(async || points(Period::Hour, &all[..1]).await).await,
        "365_days_of_all_together_by_day": timed(async || points(Period::Day, &["*".to_owned()]).await).await,
        "namespaces": timed(async || store.counted_namespaces().await.unwrap().len()).await,
        "top_of_365_days": timed(async || top(year(Period::Month), None).await).await,
        "top_of_14_days": timed(async || top(fortnight, None).await).await,
        "top_of_14_days_of_one": timed(async || top(fortnight, Some("n7")).await).await,
    });
    println!("{report:#}");
    store.close().await;
}
