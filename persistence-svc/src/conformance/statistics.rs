//! The suite of statistics: the same messages make the same sums in every store, each once.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use switchboard_bus::messages::AskError;
use switchboard_bus::statistics::{ALL, Latency};
use switchboard_proto::bus::change::What;
use switchboard_proto::bus::{Change, Edit, Message, MessageAt, Origin};
use switchboard_proto::ids::{Offset, Sequence, ShardCount};
use switchboard_proto::messages::{
    LiveRequest, NamespaceDeliveries, Period as WirePeriod, ReportDeliveriesRequest, StatisticsRequest,
    TopChannelsRequest,
};

use super::{StoreFixture, log, now_us, opened, shard, written};
use crate::follow::Follower as _;
use crate::service::Service;
use crate::statistics::{Counting, FOLLOWER, StatisticsSettings};
use crate::store::statistics::{Forgotten, Period, Point, Report, Span};
use crate::store::{Row, Step, Store};

/// 2026-03-31 22:00:00, near the end of a day and a month.
const EVENING: u64 = 1_774_994_400;
const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

fn settings() -> StatisticsSettings {
    let day = std::time::Duration::from_secs(DAY);
    StatisticsSettings {
        hours: 10_000 * day,
        days: 10_000 * day,
        channels: 100,
        known: 1_000,
        watches: 1,
    }
}

fn counting(store: &Arc<dyn Store>) -> Counting {
    Counting::new(Arc::clone(store), settings(), Default::default())
}

fn service(store: &Arc<dyn Store>) -> Service {
    let shards = ShardCount::new(16).unwrap();
    Service::new(Arc::clone(store), shards).with_statistics(Some(settings()))
}

fn said(sequence: u64, at: u64, channel: &str, sender: &str) -> Row {
    let message = Message {
        channel: channel.to_owned(),
        payload: "12345".into(),
        ..Message::default()
    };
    Row {
        offset: Offset::new(Sequence(sequence), 0),
        time_us: at * 1_000_000,
        channel: channel.to_owned(),
        sender: (!sender.is_empty()).then(|| sender.to_owned()),
        message: message.encode_to_vec().into(),
        change: None,
    }
}

/// Writes rows of a shard behind the record `after`.
async fn store_rows(store: &dyn Store, of: u32, after: u64, rows: Vec<Row>) {
    let mut batch = written(after, after + 1);
    batch.shard = shard(of);
    batch.up_to = rows.last().unwrap().offset.sequence();
    batch.rows = rows;
    store.write(&batch).await.unwrap();
}

/// Counts all that is stored and not counted, in steps of a few messages.
async fn count_all(store: &Arc<dyn Store>, counting: &Counting) {
    loop {
        let behind = store.behind(FOLLOWER).await.unwrap();
        let Some(behind) = behind.first() else { return };
        let of = (behind.shard, behind.log);
        let rows = store
            .log_rows(of, behind.done_to, behind.stored_to, 3)
            .await
            .unwrap();
        let to = match rows.len() {
            3 => rows.last().unwrap().offset,
            _ => behind.stored_to,
        };
        let step = Step {
            name: FOLLOWER,
            shard: behind.shard,
            log: behind.log,
            from: behind.done_to,
            to,
        };
        assert!(counting.apply(&step, rows.clone()).await.unwrap());
        assert!(!counting.apply(&step, rows).await.unwrap(), "the same step again");
    }
}

async fn points(store: &dyn Store, period: Period, from: u64, to: u64) -> BTreeMap<(String, u64), [u64; 4]> {
    let span = Span { period, from, to };
    let names = [ALL, "", "room", "dm"].map(str::to_owned);
    let points = store.points(&span, &names).await.unwrap().into_iter();
    points
        .map(|(key, point)| (key, [point.messages, point.bytes, point.users, point.channels]))
        .collect()
}

fn of(rows: &[(&str, u64, [u64; 4])]) -> BTreeMap<(String, u64), [u64; 4]> {
    let rows = rows.iter();
    rows.map(|(namespace, at, point)| (((*namespace).to_owned(), *at), *point))
        .collect()
}

/// Messages, users and channels by hour, day and month, whoever counts, however often.
pub async fn what_is_said_is_counted_once(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut edit = said(5, EVENING + 20, "room:1", "carol");
    let target = MessageAt {
        offset: Offset::new(Sequence(1), 0).get(),
        ..MessageAt::default()
    };
    let change = Change {
        what: Some(What::Edit(Edit { target: Some(target) })),
    };
    edit.message = Message {
        // The message is as long as before.
        payload: "54321".into(),
        change: Some(change.clone()),
        ..Message::default()
    }
    .encode_to_vec()
    .into();
    edit.change = Some(change);
    let mut entry = said(6, EVENING + 30, "#bob", "alice");
    entry.message = Message {
        origin: Some(Origin::default()),
        ..Message::default()
    }
    .encode_to_vec()
    .into();
    let rows = vec![
        said(1, EVENING, "room:1", "alice"),
        said(2, EVENING + 5, "room:1", "alice"),
        said(3, EVENING + 10, "$room:2", "bob"),
        said(4, EVENING + 10, "lobby", "alice"),
        edit,
        entry,
        said(7, EVENING + HOUR, "room:1", "alice"),
        // Of another day, which is one of another month.
        said(8, EVENING + 3 * HOUR, "dm:#alice,bob", "bob"),
        // By a server.
        said(9, EVENING + 3 * HOUR, "room:1", ""),
    ];
    store_rows(&*store, 3, 0, rows).await;
    // Two replicas: who was counted by one is known to the other.
    let (one, other) = (counting(&store), counting(&store));
    count_all(&store, &one).await;
    store_rows(&*store, 4, 0, vec![said(1, EVENING + 40, "room:3", "alice")]).await;
    count_all(&store, &other).await;
    store_rows(&*store, 4, 1, vec![said(2, EVENING + 41, "room:3", "alice")]).await;
    count_all(&store, &one).await;

    let (next, night) = (EVENING + HOUR, EVENING + 3 * HOUR);
    assert_eq!(
        points(&*store, Period::Hour, EVENING, night + HOUR).await,
        of(&[
            (ALL, EVENING, [6, 30, 3, 4]),
            ("", EVENING, [1, 5, 1, 1]),
            ("room", EVENING, [5, 25, 3, 3]),
            (ALL, next, [1, 5, 1, 1]),
            ("room", next, [1, 5, 1, 1]),
            (ALL, night, [2, 10, 1, 2]),
            ("dm", night, [1, 5, 1, 1]),
            ("room", night, [1, 5, 0, 1]),
        ])
    );
    let (day, tomorrow) = (EVENING - 22 * HOUR, EVENING + 2 * HOUR);
    assert_eq!(
        points(&*store, Period::Day, day, tomorrow + 1).await,
        of(&[
            (ALL, day, [7, 35, 3, 4]),
            ("", day, [1, 5, 1, 1]),
            ("room", day, [6, 30, 3, 3]),
            (ALL, tomorrow, [2, 10, 1, 2]),
            ("dm", tomorrow, [1, 5, 1, 1]),
            ("room", tomorrow, [1, 5, 0, 1]),
        ])
    );
    let march = Period::Month.begin(EVENING);
    let months = points(&*store, Period::Month, march, tomorrow).await;
    assert_eq!(months.get(&(ALL.to_owned(), march)), Some(&[7, 35, 3, 4]));
    assert_eq!(
        points(&*store, Period::Minute, 0, EVENING + DAY).await,
        of(&[]),
        "minutes of long ago are not kept"
    );
    let names = store.counted_namespaces().await.unwrap();
    assert_eq!(names, ["", ALL, "dm", "room"]);

    let top = |period, from, to, namespace, limit| {
        let span = Span { period, from, to };
        let store = &store;
        async move { store.top_channels(&span, namespace, limit).await.unwrap() }
    };
    let counts = |counts: &[(&str, u64)]| -> Vec<(String, u64)> {
        counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    };
    assert_eq!(
        top(Period::Day, day, day + 1, None, 3).await,
        counts(&[("room:1", 3), ("room:3", 2), ("$room:2", 1)])
    );
    assert_eq!(
        top(Period::Day, day, tomorrow + 1, Some("room"), 1).await,
        counts(&[("room:1", 4)])
    );
    assert_eq!(
        top(Period::Month, march, tomorrow + 1, Some(""), 9).await,
        counts(&[("lobby", 1)])
    );
}

/// Steps of different logs by different processes: no one is lost, none waits for ever.
pub async fn replicas_count_at_the_same_time(fixture: &impl StoreFixture) {
    const EACH: u64 = 40;
    let store = opened(fixture).await;
    let stores = [fixture.open(), fixture.open()];
    for of in 0..4 {
        let rows = (1..=EACH)
            .map(|sequence| {
                let user = (sequence * 7 + u64::from(of)) % 11;
                let channel = format!("room:{}", (sequence * 5 + u64::from(of)) % 13);
                said(sequence, EVENING + sequence, &channel, &user.to_string())
            })
            .collect();
        store_rows(&*store, of, 0, rows).await;
    }
    let count = async |of: u32| {
        let store = &stores[of as usize % 2];
        let counting = counting(store);
        let rows = store
            .log_rows(
                (shard(of), log(1, 7)),
                Offset::from_u64(0),
                Offset::from_u64(u64::MAX >> 1),
                1_000,
            )
            .await
            .unwrap();
        let mut from = Offset::from_u64(0);
        for rows in rows.chunks(4) {
            let step = Step {
                name: FOLLOWER,
                shard: shard(of),
                log: log(1, 7),
                from,
                to: rows.last().unwrap().offset,
            };
            assert!(counting.apply(&step, rows.to_vec()).await.unwrap());
            from = step.to;
        }
    };
    tokio::join!(count(0), count(1), count(2), count(3));
    let day = Period::Day.begin(EVENING);
    let points = points(&*store, Period::Day, day, day + 1).await;
    let all = 4 * EACH;
    assert_eq!(
        points,
        of(&[
            (ALL, day, [all, all * 5, 11, 13]),
            ("room", day, [all, all * 5, 11, 13])
        ])
    );
}

/// A report that is sent again counts once; live counts show it.
pub async fn deliveries_are_counted_by_report(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let service = service(&store);
    let report = |number, namespace: &str, latency: Vec<u64>| ReportDeliveriesRequest {
        gateway: vec![7; 16].into(),
        number,
        deliveries: vec![NamespaceDeliveries {
            namespace: namespace.to_owned(),
            latency,
        }],
    };
    for (number, namespace, latency) in [
        (1, "room", vec![3, 2]),
        (1, "room", vec![3, 2]),
        (2, "dm", vec![0, 0, 0, 5]),
        (1, "room", vec![100]),
    ] {
        service
            .report_deliveries(report(number, namespace, latency))
            .await
            .unwrap();
    }
    let now = now_us() / 1_000_000;
    let question = StatisticsRequest {
        from_ms: (now - DAY) * 1000,
        period: WirePeriod::Month.into(),
        ..StatisticsRequest::default()
    };
    let told = service.statistics(question).await.unwrap();
    let sums = told.series.iter().map(|series| {
        let deliveries: u64 = series.deliveries.iter().sum();
        (series.namespace.as_str(), deliveries)
    });
    assert_eq!(sums.collect::<Vec<_>>(), [(ALL, 10), ("dm", 5), ("room", 5)]);
    let all = told.series.first().unwrap();
    let p99 = *all.latency_p99_us.last().unwrap();
    assert!((3_000..=5_000).contains(&p99), "{p99}");
    let live = service.live(LiveRequest {}).await.unwrap();
    let of_all = live.counts.iter().filter(|count| count.namespace == ALL);
    let of_all: u64 = of_all.flat_map(|count| &count.latency).sum();
    assert_eq!(of_all, 10);
    for wrong in [
        report(0, "room", vec![1]),
        report(3, ALL, vec![1]),
        report(3, "room", vec![u64::MAX]),
        ReportDeliveriesRequest {
            gateway: vec![1].into(),
            ..report(3, "room", vec![1])
        },
    ] {
        let refused = service.report_deliveries(wrong).await;
        assert!(matches!(refused, Err(AskError::Invalid(_))), "{refused:?}");
    }
}

/// Sums go when their time is over, all channels but the busiest when their day is; what is not counted yet keeps what it needs.
pub async fn what_is_over_is_no_longer_counted(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let counting = counting(&store);
    let rows = (1..=9).map(|sequence| {
        let channel = format!("room:{}", sequence % 4);
        said(sequence, EVENING, &channel, "alice")
    });
    store_rows(&*store, 3, 0, rows.collect()).await;
    count_all(&store, &counting).await;
    let latency = {
        let mut latency = Latency::default();
        latency.add(4, 1);
        latency
    };
    let report = Report {
        gateway: "a".to_owned(),
        number: 1,
        at: EVENING,
        deliveries: BTreeMap::from([(ALL.to_owned(), latency)]),
    };
    assert!(store.add_deliveries(&report).await.unwrap());
    let (day, march) = (Period::Day.begin(EVENING), Period::Month.begin(EVENING));
    let nothing = Forgotten {
        minutes: 0,
        hours: 0,
        days: 0,
        channel_days: 0,
        settled: 0,
        channels: 2,
    };
    let forget = async |over: Forgotten| {
        let mut all = 0;
        loop {
            match store.forget_statistics(&over).await.unwrap() {
                0 => break all,
                more => all += more,
            }
        }
    };
    assert_eq!(forget(nothing).await, 0);
    // The day is over, and so is its hour; the month is, too.
    let settled = Forgotten {
        settled: EVENING + 3 * DAY,
        ..nothing
    };
    assert!(forget(settled).await > 0);
    let span = |period, from| Span {
        period,
        from,
        to: from + 1,
    };
    for span in [span(Period::Day, day), span(Period::Month, march)] {
        let top = store.top_channels(&span, None, 9).await.unwrap();
        assert_eq!(top, [("room:1".to_owned(), 3), ("room:0".to_owned(), 2)]);
    }
    let hours = Forgotten {
        minutes: EVENING + 60,
        hours: EVENING + 1,
        ..nothing
    };
    assert!(forget(hours).await > 0);
    assert_eq!(points(&*store, Period::Hour, 0, EVENING + DAY).await, of(&[]));
    let days = points(&*store, Period::Day, day, day + 1).await;
    assert_eq!(days.get(&("room".to_owned(), day)), Some(&[9, 45, 1, 4]));
    let all = Forgotten {
        days: EVENING + DAY,
        channel_days: EVENING + DAY,
        ..nothing
    };
    assert!(forget(all).await > 0);
    for period in Period::EACH {
        let all = Span {
            period,
            from: 0,
            to: EVENING + DAY,
        };
        let names = [ALL.to_owned(), "room".to_owned()];
        assert_eq!(
            store.points(&all, &names).await.unwrap(),
            BTreeMap::<_, Point>::new()
        );
        assert_eq!(store.top_channels(&all, None, 9).await.unwrap(), []);
    }

    // What is stored and not counted yet is of long ago: who was counted is still told apart.
    let rows = vec![
        said(10, EVENING, "room:1", "bob"),
        said(11, EVENING, "room:1", "bob"),
        said(12, EVENING, "room:1", "bob"),
        said(13, EVENING, "room:1", "bob"),
    ];
    store_rows(&*store, 3, 9, rows).await;
    let behind = store.behind(FOLLOWER).await.unwrap().remove(0);
    let of_log = (behind.shard, behind.log);
    let rows = store
        .log_rows(of_log, behind.done_to, behind.stored_to, 2)
        .await
        .unwrap();
    let step = Step {
        name: FOLLOWER,
        shard: behind.shard,
        log: behind.log,
        from: behind.done_to,
        to: rows.last().unwrap().offset,
    };
    assert!(counting.apply(&step, rows).await.unwrap());
    settings().forget(&store, now_us() / 1_000_000).await.unwrap();
    count_all(&store, &self::counting(&store)).await;
    let days = points(&*store, Period::Day, day, day + 1).await;
    assert_eq!(days.get(&(ALL.to_owned(), day)), Some(&[4, 20, 1, 1]));
}

/// Questions are bounded, and say so.
pub async fn statistics_refuse_what_is_too_much(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let service = service(&store);
    let ask = |from_ms, to_ms, period: WirePeriod, namespaces: usize| StatisticsRequest {
        from_ms,
        to_ms,
        period: period.into(),
        namespaces: (0..namespaces).map(|number| number.to_string()).collect(),
    };
    let year = 365 * DAY * 1000;
    let fits = ask(EVENING * 1000, EVENING * 1000 + year, WirePeriod::Day, 50);
    assert_eq!(service.statistics(fits).await.unwrap().series, []);
    let told = service.statistics(ask(
        EVENING * 1000,
        EVENING * 1000 + year,
        WirePeriod::Unspecified,
        1,
    ));
    assert_eq!(
        told.await.unwrap().period(),
        WirePeriod::Day,
        "the shortest that fits"
    );
    for wrong in [
        ask(EVENING * 1000, EVENING * 1000 + year, WirePeriod::Hour, 3),
        ask(0, EVENING * 1000, WirePeriod::Minute, 1),
        ask(EVENING * 1000, EVENING * 1000 - 1, WirePeriod::Day, 1),
        // Seconds.
        ask(EVENING, 0, WirePeriod::Day, 1),
        ask(0, u64::MAX, WirePeriod::Month, 1),
        ask(EVENING * 1000, EVENING * 1000 + 1, WirePeriod::Month, 1_001),
    ] {
        let refused = service.statistics(wrong).await;
        assert!(matches!(refused, Err(AskError::Invalid(_))), "{refused:?}");
    }
    let top = TopChannelsRequest {
        limit: 1_001,
        ..TopChannelsRequest::default()
    };
    let refused = service.top_channels(top).await;
    assert!(matches!(refused, Err(AskError::Invalid(_))), "{refused:?}");
    let off = Service::new(Arc::clone(&store), ShardCount::new(16).unwrap());
    let refused = off.live(LiveRequest {}).await;
    assert!(matches!(refused, Err(AskError::NotAvailable(_))), "{refused:?}");
}
