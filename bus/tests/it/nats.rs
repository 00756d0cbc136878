//! The NATS backend: the suite on a real server, and servers that go away.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use switchboard_bus::conformance::{BusFixture, LogFixture, layout, shard, soon};
use switchboard_bus::nats::{
    ConnectError, NatsAuthentication, NatsBus, NatsConfig, NatsConnection, NatsDurability, NatsLog,
    NatsLogConfig,
};
use switchboard_bus::{AppendError, Bus, BusError, Log, LogError, Pattern, Subject, SubjectPrefix};
use switchboard_proto::ids::Sequence;
use switchboard_testkit::{NatsCluster, NatsServer, wait_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// For what takes a moment.
const DEADLINE: Duration = Duration::from_secs(20);

const BEAT: Subject = Subject::MemberBeat;

async fn connect(urls: Vec<String>) -> NatsConnection {
    let config = NatsConfig::new(urls, NatsAuthentication::None, "test");
    NatsConnection::connect(&config).await.unwrap()
}

fn log_config(replicas: usize, max_bytes: u64) -> NatsLogConfig {
    NatsLogConfig {
        prefix: SubjectPrefix::default(),
        replicas,
        max_bytes,
        durability: NatsDurability::Replicated,
    }
}

fn bus_on(connection: NatsConnection, stop: &CancellationToken) -> Arc<NatsBus> {
    NatsBus::new(
        connection,
        SubjectPrefix::default(),
        TaskTracker::new(),
        stop.clone(),
    )
}

struct BusOnServer(NatsServer);

#[async_trait]
impl BusFixture for BusOnServer {
    async fn start() -> Self {
        Self(NatsServer::start().await.unwrap())
    }

    async fn connect(&self) -> Arc<dyn Bus> {
        bus_on(connect(vec![self.0.url()]).await, &CancellationToken::new())
    }
}

struct LogOnServer {
    server: NatsServer,
    config: NatsLogConfig,
}

#[async_trait]
impl LogFixture for LogOnServer {
    async fn start(max_bytes: u64) -> Self {
        Self {
            server: NatsServer::start().await.unwrap(),
            config: log_config(1, max_bytes),
        }
    }

    async fn open(&mut self) -> Arc<dyn Log> {
        NatsLog::new(connect(vec![self.server.url()]).await, self.config.clone())
    }

    async fn reopen(&mut self, log: Arc<dyn Log>) -> Arc<dyn Log> {
        drop(log);
        self.server.restart().await.unwrap();
        self.open().await
    }

    async fn begin_anew(&mut self, log: Arc<dyn Log>) -> Arc<dyn Log> {
        let layout = log.layout().await.unwrap().unwrap();
        let client = async_nats::connect(self.server.url()).await.unwrap();
        let jetstream = async_nats::jetstream::new(client);
        for number in 0..layout.shards {
            let stream = format!("SB_LOG_1_{number}");
            jetstream.delete_stream(stream).await.unwrap();
        }
        log.create(&layout).await.unwrap();
        log
    }
}

mod bus {
    switchboard_bus::bus_conformance!(super::BusOnServer);
}

mod log {
    switchboard_bus::log_conformance!(super::LogOnServer);
}

/// A server that comes back is found again, subscriptions live on, and the gap is told.
#[tokio::test]
async fn a_server_is_left_for_another_and_what_is_said_after_it_arrives() {
    let cluster = NatsCluster::start(3).await.unwrap();
    let stop = CancellationToken::new();
    let mover = bus_on(connect(cluster.urls()).await, &stop);
    let other = bus_on(connect(cluster.urls()).await, &stop);
    let mut heard = mover.subscribe(Pattern::Exactly(BEAT), 64).await.unwrap();
    let mut disruptions = mover.disruptions();
    disruptions.mark_unchanged();
    // Many services of one process ask at once: it is left once.
    for _ in 0..5 {
        mover.connect_elsewhere().await;
    }
    soon("the server is left", disruptions.changed()).await.unwrap();
    // It hears again, and is heard.
    let arrives = async {
        loop {
            other.publish(BEAT, Bytes::from_static(b"again")).await.ok();
            let next = tokio::time::timeout(Duration::from_millis(100), heard.next()).await;
            if let Ok(Some(message)) = next {
                break message.payload;
            }
        }
    };
    assert_eq!(soon("it hears again", arrives).await, "again");
    let mut at_other = other.subscribe(Pattern::Exactly(BEAT), 64).await.unwrap();
    let is_said = async || mover.publish(BEAT, Bytes::from_static(b"here")).await.is_ok();
    wait_until(DEADLINE, is_said).await.unwrap();
    let hears = async { while at_other.next().await.unwrap().payload != "here" {} };
    soon("it is heard", hears).await;
    stop.cancel();
}

#[tokio::test]
async fn restarted_server_is_a_disruption() {
    let mut server = NatsServer::start().await.unwrap();
    let stop = CancellationToken::new();
    let bus = bus_on(connect(vec![server.url()]).await, &stop);
    let mut subscription = bus.subscribe(Pattern::Exactly(BEAT), 10).await.unwrap();
    let mut disruptions = bus.disruptions();
    let before = *disruptions.borrow_and_update();
    server.kill().unwrap();
    soon("the loss", disruptions.wait_for(|count| *count > before))
        .await
        .unwrap();
    server.restart().await.unwrap();
    // Both the loss and the return count: messages are missed in between.
    soon("the return", disruptions.wait_for(|count| *count >= before + 2))
        .await
        .unwrap();
    bus.publish(BEAT, Bytes::from_static(b"again")).await.unwrap();
    assert_eq!(
        soon("a message", subscription.next()).await.unwrap().payload,
        "again"
    );
    stop.cancel();
    assert!(soon("the end", subscription.next()).await.is_none());
}

/// A client takes another server of its list, at the start and later.
#[tokio::test]
async fn any_server_of_the_list_will_do() {
    let mut first = NatsServer::start().await.unwrap();
    let second = NatsServer::start().await.unwrap();
    let url = first.url();
    first.kill().unwrap();
    let connection = connect(vec![url, second.url()]).await;
    assert!(connection.is_connected());
}

#[tokio::test]
async fn wrong_password_is_one_clear_error() {
    let server = NatsServer::start_with("authorization { user: a, password: right }")
        .await
        .unwrap();
    let config = |password: &str| {
        let authentication = NatsAuthentication::Password {
            user: "a".to_owned(),
            password: password.to_owned().into(),
        };
        NatsConfig::new(vec![server.url()], authentication, "test")
    };
    NatsConnection::connect(&config("right")).await.unwrap();
    let error = NatsConnection::connect(&config("hush")).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ConnectError::Refused { .. }), "{text}");
    assert!(
        text.contains("127.0.0.1") && text.contains("password") && !text.contains("hush"),
        "{text}"
    );
}

/// The limits are the server's, not what a client would guess.
#[tokio::test]
async fn servers_limit_is_taken_over() {
    let server = NatsServer::start_with("max_payload: 64KB").await.unwrap();
    let connection = connect(vec![server.url()]).await;
    let log = NatsLog::new(connection.clone(), log_config(1, 1 << 20));
    let bus = bus_on(connection, &CancellationToken::new());
    assert_eq!(bus.max_payload(), 64 << 10);
    let refused = bus.publish(BEAT, Bytes::from(vec![0; (64 << 10) + 1])).await;
    assert!(matches!(refused, Err(BusError::TooLarge { .. })));
    log.create(&layout(1)).await.unwrap();
    let largest = Bytes::from(vec![0; log.max_record()]);
    assert!((63 << 10..64 << 10).contains(&largest.len()));
    log.append(shard(0), Sequence(0), largest).await.unwrap();
}

/// Without JetStream it is said what is missing.
#[tokio::test]
async fn bus_that_is_gone_for_the_log_is_told() {
    let mut server = NatsServer::start().await.unwrap();
    let log = NatsLog::new(connect(vec![server.url()]).await, log_config(1, 1 << 20));
    log.create(&layout(1)).await.unwrap();
    server.kill().unwrap();
    let append = log.append(shard(0), Sequence(0), Bytes::new());
    let append = soon("an answer", append).await;
    assert!(matches!(append, Err(AppendError::Unknown(_))), "{append:?}");
    let info = soon("an answer", log.info(shard(0))).await;
    assert!(matches!(info, Err(LogError::Unavailable(_))), "{info:?}");
    let mut records = None;
    server.restart().await.unwrap();
    // The append that was not answered may have been sent when the server was back.
    let last = soon("the server", async {
        loop {
            if let Ok(info) = log.info(shard(0)).await {
                records = log.read(shard(0), Sequence(1)).await.ok();
                break info.last;
            }
        }
    });
    assert!(last.await.0 <= 1);
    // A reader whose server goes away is told so, and does not wait for ever.
    let mut records = records.unwrap();
    server.kill().unwrap();
    let told = soon("the reader's end", async {
        loop {
            match records.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("ended without an error"),
            }
        }
    });
    assert!(matches!(told.await, LogError::Unavailable(_)));
}

/// Who does not create the streams still notices when they are missing, or promise less than is
/// configured.
#[tokio::test]
async fn streams_that_differ_from_the_configuration_are_told() {
    let server = NatsServer::start().await.unwrap();
    let connection = connect(vec![server.url()]).await;
    let log = |config| NatsLog::new(connection.clone(), config);
    let config = log_config(1, 1 << 20);
    log(config.clone()).create(&layout(2)).await.unwrap();
    log(config.clone()).check(&layout(2)).await.unwrap();
    let more = log(config.clone()).check(&layout(3)).await;
    assert!(
        matches!(more, Err(LogError::Missing(missing)) if missing == shard(2)),
        "{more:?}"
    );
    for (config, what) in [
        (log_config(3, 1 << 20), "has 1 replicas"),
        (
            NatsLogConfig {
                durability: NatsDurability::Memory,
                ..config
            },
            "keeps records on disk",
        ),
    ] {
        let checked = log(config.clone())
            .check(&layout(2))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            checked.contains("SB_LOG_1_0") && checked.contains(what),
            "{checked}"
        );
        assert!(log(config).create(&layout(2)).await.is_err());
    }
}

/// A wish that no waiting fulfils is refused at once, with the server's reason.
/// A server allows a stream 1,000 consumers by default. Readers that were dropped must not fill them: the next
/// one may be a take-over.
#[tokio::test]
async fn readers_that_are_gone_take_no_place() {
    let server = NatsServer::start().await.unwrap();
    let log = NatsLog::new(connect(vec![server.url()]).await, log_config(1, 1 << 24));
    log.create(&layout(1)).await.unwrap();
    let record = Bytes::from_static(b"record");
    log.append(shard(0), Sequence(0), record).await.unwrap();
    for reader in 0..1100 {
        let mut records = log
            .read(shard(0), Sequence(1))
            .await
            .unwrap_or_else(|error| panic!("reader {reader}: {error}"));
        assert_eq!(records.next().await.unwrap().unwrap().sequence, Sequence(1));
    }
    let client = async_nats::connect(server.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let mut stream = jetstream.get_stream("SB_LOG_1_0").await.unwrap();
    soon("the end of all consumers", async {
        while stream.info().await.unwrap().state.consumer_count > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn lone_server_cannot_replicate() {
    let server = NatsServer::start().await.unwrap();
    let log = NatsLog::new(connect(vec![server.url()]).await, log_config(3, 1 << 20));
    let created = tokio::time::timeout(Duration::from_secs(10), log.create(&layout(1))).await;
    let text = created.unwrap().unwrap_err().to_string();
    assert!(
        text.contains("SB_LAYOUT") && text.contains("replicas > 1"),
        "{text}"
    );
}

/// Appends until it is settled, as an owner does (rule L1): same bytes, same expectation; what is
/// found at the place decides.
async fn settle(log: &dyn Log, expected: Sequence, record: &Bytes) -> Sequence {
    let place = expected.next();
    loop {
        match log.append(shard(0), expected, record.clone()).await {
            Ok(sequence) => {
                assert_eq!(sequence, place);
                return sequence;
            }
            Err(AppendError::WrongLast { .. }) => {
                if let Ok(Some(found)) = log.get(shard(0), place).await {
                    assert_eq!(found, record, "somebody else's record at {place}");
                    return place;
                }
            }
            Err(AppendError::Unknown(_)) => {}
            Err(other) => panic!("{other}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Answers as a cluster's leader does while another's creation of a stream is on its way: the name is taken, and there is no such
/// stream for `unknown` questions more.
async fn answer_during_a_creation(client: async_nats::Client, mut unknown: u32) {
    const NOT_FOUND: &str = r#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#;
    const IN_USE: &str =
        r#"{"error":{"code":400,"err_code":10058,"description":"stream name already in use"}}"#;
    let mut asked = client.subscribe("$JS.API.STREAM.>").await.unwrap();
    let mut created = None;
    while let Some(question) = asked.next().await {
        let answer = match &created {
            _ if question.subject.contains("CREATE") => {
                created = String::from_utf8(question.payload.to_vec()).ok();
                IN_USE.to_owned()
            }
            Some(config) if unknown == 0 => format!(
                r#"{{"config":{config},"created":"2026-01-01T00:00:00Z","state":{{"messages":0,"bytes":0,"first_seq":0,"first_ts":"0001-01-01T00:00:00Z","last_seq":0,"last_ts":"0001-01-01T00:00:00Z","consumer_count":0}}}}"#
            ),
            Some(_) => {
                unknown -= 1;
                NOT_FOUND.to_owned()
            }
            None => NOT_FOUND.to_owned(),
        };
        let reply = question.reply.unwrap();
        client.publish(reply, answer.into()).await.unwrap();
    }
}

/// Routers of an installation start together: the one that comes second waits for the stream that the first creates.
#[tokio::test]
async fn log_that_another_is_creating_is_not_missing() {
    let server = NatsServer::start_with("jetstream: false").await.unwrap();
    let client = async_nats::connect(server.url()).await.unwrap();
    let answering = answer_during_a_creation(client, 3);
    let log = NatsLog::new(connect(vec![server.url()]).await, log_config(1, 16 << 20));
    tokio::select! {
        () = answering => panic!("nobody answers any more"),
        created = soon("creation", log.create_log(shard(0))) => created.unwrap(),
    }
}

/// What was acknowledged is there once, in order, after the leader of its stream was killed.
#[tokio::test]
async fn acknowledged_records_survive_their_leader() {
    let mut cluster = NatsCluster::start(3).await.unwrap();
    let log = NatsLog::new(connect(cluster.urls()).await, log_config(3, 16 << 20));
    soon("creation", log.create(&layout(1))).await.unwrap();
    let name = |place: u64| Bytes::from(format!("record {place}"));
    let mut last = Sequence(0);
    for round in 0..3 {
        for _ in 0..50 {
            // Two elections of up to 9 s, should the first have no winner.
            let record = name(last.0 + 1);
            let settled = settle(&*log, last, &record);
            last = tokio::time::timeout(Duration::from_secs(60), settled)
                .await
                .unwrap();
        }
        if round == 1 {
            let leader = soon("a leader", async {
                loop {
                    if let Some(leader) = cluster.stream_leader("SB_LOG_1_0").await {
                        break leader;
                    }
                }
            });
            cluster.kill(leader.await).unwrap();
        }
    }
    assert_eq!(last, Sequence(150));
    let mut read = 0;
    let all = async {
        while read < 150 {
            // Whatever ends a reader, it is read on from where it was.
            let Ok(mut records) = log.read(shard(0), Sequence(read + 1)).await else {
                continue;
            };
            while let Some(Ok(next)) = records.next().await {
                read += 1;
                assert_eq!((next.sequence.0, next.record), (read, name(read)));
                if read == 150 {
                    break;
                }
            }
        }
    };
    soon("all records", all).await;
}

/// What is said into an outage is refused at once, however much it is: nobody waits for the server's
/// return.
#[tokio::test]
async fn publishing_into_an_outage_does_not_wait() {
    let mut server = NatsServer::start().await.unwrap();
    let bus = bus_on(connect(vec![server.url()]).await, &CancellationToken::new());
    server.kill().unwrap();
    // More than the client's queue holds.
    let outage = async {
        for _ in 0..10_000 {
            let published = bus.publish(BEAT, Bytes::from_static(b"beat")).await;
            assert!(
                matches!(published, Ok(()) | Err(BusError::Unreachable(_))),
                "{published:?}"
            );
        }
        bus.publish(BEAT, Bytes::from_static(b"beat")).await
    };
    let last = soon("the publishes", outage).await;
    assert!(matches!(last, Err(BusError::Unreachable(_))), "{last:?}");
}
