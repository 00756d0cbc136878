use std::path::Path;

use switchboard_bus::answering::{Answering, AnsweringMetrics};
use switchboard_bus::embedded::EmbeddedBus;
use switchboard_bus::messages::ask;
use switchboard_bus::{Bus, SubjectPrefix};
use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardCount, ShardId};
use switchboard_proto::messages::{HeadsRequest, HeadsResponse, Method, Place, method};
use switchboard_proto::questions;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::store::{MessageStore, Row, SqliteSettings, SqliteStore, Written};

const WITHIN: Duration = Duration::from_secs(10);

#[expect(clippy::disallowed_methods, reason = "it ends with its test")]
fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future)
}

struct Unknown;

impl Method for Unknown {
    const SERVICE: switchboard_proto::questions::Service = switchboard_proto::questions::Service::Messages;
    const NAME: &'static str = "Unknown";
    type Request = HeadsRequest;
    type Response = HeadsResponse;
}

async fn service(folder: &Path) -> Arc<Service> {
    let store = SqliteStore::new(&SqliteSettings {
        path: folder.join("messages.db"),
        connections: 2,
        wait: WITHIN,
    });
    store.migrate().await.unwrap();
    let written = Written {
        shard: ShardId::new(0).unwrap(),
        log: LogEpoch {
            ordinal: 1,
            random: 2,
        },
        read_after: Sequence(0),
        after: Sequence(0),
        up_to: Sequence(1),
        owner_epoch: OwnerEpoch(1),
        rows: vec![Row {
            offset: Offset::new(Sequence(1), 0),
            time_us: 1,
            channel: "room:1".to_owned(),
            sender: None,
            message: bytes::Bytes::from_static(b"m"),
            change: None,
        }],
        dead: Vec::new(),
    };
    store.write(&written).await.unwrap();
    Arc::new(Service::new(Arc::new(store), ShardCount::new(1).unwrap()))
}

/// Answers on a bus of its own until the test's end.
fn answering(service: Option<Arc<Service>>, places: usize) -> Arc<dyn Bus> {
    let bus: Arc<dyn Bus> = EmbeddedBus::new(SubjectPrefix::default());
    let answers: Arc<dyn Answers> = match service {
        Some(service) => service,
        None => Arc::new(NothingStored),
    };
    let answering = Answering {
        bus: Arc::clone(&bus),
        service: questions::Service::Messages,
        answers,
        metrics: AnsweringMetrics::default(),
        places: Arc::new(Semaphore::new(places)),
        limit: WITHIN,
    };
    spawn(answering.run(CancellationToken::new()));
    bus
}

/// Asks until somebody has subscribed.
async fn heads<M>(bus: &Arc<dyn Bus>, channels: Vec<String>) -> Result<HeadsResponse, AskError>
where
    M: Method<Request = HeadsRequest, Response = HeadsResponse>,
{
    loop {
        match ask::<M>(
            &**bus,
            &HeadsRequest {
                of: None,
                channels: channels.clone(),
            },
            WITHIN,
        )
        .await
        {
            Err(AskError::Unavailable(words)) if words.contains("no persistence service") => {
                tokio::task::yield_now().await;
            }
            answer => return answer,
        }
    }
}

#[tokio::test]
async fn what_is_stored_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let bus = answering(Some(service(folder.path()).await), 1);
    let channels = vec!["room:1".to_owned(), "room:2".to_owned()];
    let answer = heads::<method::Heads>(&bus, channels).await.unwrap();
    let [head] = answer.heads.as_slice() else {
        panic!("{answer:?}")
    };
    assert_eq!(head.channel, "room:1");
    let place = Place {
        log_epoch: LogEpoch {
            ordinal: 1,
            random: 2,
        }
        .to_string(),
        offset: 1 << 12,
    };
    assert_eq!(head.place, Some(place));
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let bus = answering(Some(service(folder.path()).await), 1);
    let many = (0..10_001).map(|number| format!("room:{number}")).collect();
    let answer = heads::<method::Heads>(&bus, many).await;
    assert!(
        matches!(&answer, Err(AskError::Invalid(words)) if words.contains("10001 channels")),
        "{answer:?}"
    );
    let answer = heads::<Unknown>(&bus, Vec::new()).await;
    assert!(matches!(answer, Err(AskError::NotAvailable(_))), "{answer:?}");
}

#[tokio::test]
async fn without_a_store_nothing_is_available() {
    let bus = answering(None, 1);
    let answer = heads::<method::Heads>(&bus, Vec::new()).await;
    assert!(matches!(answer, Err(AskError::NotAvailable(_))), "{answer:?}");
}

#[tokio::test]
async fn too_many_at_work_are_refused_for_the_time_being() {
    let folder = tempfile::tempdir().unwrap();
    let bus = answering(Some(service(folder.path()).await), 0);
    let answer = heads::<method::Heads>(&bus, Vec::new()).await;
    assert!(
        matches!(&answer, Err(AskError::Unavailable(words)) if words.contains("too many")),
        "{answer:?}"
    );
}

#[test]
fn limits_are_kept() {
    assert_eq!(limit(0, 20, 100), Ok(20));
    assert_eq!(limit(100, 20, 100), Ok(100));
    assert!(matches!(limit(101, 20, 100), Err(AskError::Invalid(_))));
}
