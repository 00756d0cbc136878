use std::sync::atomic::{AtomicUsize, Ordering};

use prost::Message as _;
use switchboard_bus::embedded::EmbeddedBus;
use switchboard_bus::membership::MembershipSettings;
use switchboard_bus::{Bus, SubjectPrefix};
use switchboard_proto::bus::{Message, PayloadKind};
use switchboard_proto::ids::{OwnerEpoch, Sequence};
use tokio_util::task::TaskTracker;

use super::*;
use crate::search::analyser::Analyser;
use crate::search::text::Fields;
use crate::search::{Indexer, Question, Searching};
use crate::store::{Row, SqliteSettings, SqliteStore, Written};

const SHARDS: u16 = 4;
const LOG: LogEpoch = LogEpoch {
    ordinal: 1,
    random: 5,
};

/// Fails every third time, before or after it wrote.
struct Fickle {
    indexer: Indexer,
    calls: AtomicUsize,
}

#[async_trait]
impl Follower for Fickle {
    fn name(&self) -> &'static str {
        self.indexer.name()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.indexer.prepare().await
    }

    async fn apply(&self, step: &Step, rows: Vec<LogRow>) -> Result<bool, StoreError> {
        match self.calls.fetch_add(1, Ordering::Relaxed) % 6 {
            1 => Err(StoreError::Damaged("before".to_owned())),
            4 => {
                self.indexer.apply(step, rows).await?;
                Err(StoreError::Damaged("the answer was lost".to_owned()))
            }
            _ => self.indexer.apply(step, rows).await,
        }
    }
}

fn row(sequence: u64) -> Row {
    let mut message = Message {
        channel: "room:1".to_owned(),
        payload: r#""a word""#.into(),
        ..Message::default()
    };
    message.set_kind(PayloadKind::Json);
    Row {
        offset: Offset::new(Sequence(sequence), 0),
        time_us: now_us(),
        channel: message.channel.clone(),
        sender: None,
        message: message.encode_to_vec().into(),
        change: None,
    }
}

fn analyser() -> Arc<Analyser> {
    Arc::new(Analyser::new(&[], Fields::default()))
}

async fn sqlite(folder: &tempfile::TempDir) -> Arc<dyn Store> {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::new(&SqliteSettings {
        path: folder.path().join("messages.db"),
        connections: 4,
        wait: Duration::from_secs(20),
    }));
    store.migrate().await.unwrap();
    store
}

/// Two more messages in each shard.
async fn write(store: &Arc<dyn Store>, round: u64) {
    for number in 0..SHARDS {
        let shard = ShardId::new(number.into()).unwrap();
        let after = round * 2;
        let written = Written {
            shard,
            log: LOG,
            read_after: Sequence(after),
            after: Sequence(after),
            up_to: Sequence(after + 2),
            owner_epoch: OwnerEpoch(1),
            rows: vec![row(after + 1), row(after + 2)],
            dead: Vec::new(),
        };
        store.write(&written).await.unwrap();
    }
}

async fn replica(bus: &Arc<dyn Bus>, store: &Arc<dyn Store>, stop: &CancellationToken) -> Following {
    let incarnation = Incarnation::random();
    let membership = Membership::join(
        Arc::clone(bus),
        Role::Persistence,
        incarnation,
        MembershipSettings::default(),
        &TaskTracker::new(),
        stop.clone(),
    )
    .await
    .unwrap();
    Following {
        store: Arc::clone(store),
        follower: Arc::new(Fickle {
            indexer: Indexer::new(Arc::clone(store), analyser(), "tests"),
            calls: AtomicUsize::new(0),
        }),
        writes: Arc::default(),
        shards: ShardCount::new(SHARDS.into()).unwrap(),
        incarnation,
        membership,
        metrics: FollowerMetrics::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_fail_and_stop_leave_nothing_out_and_do_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    let bus: Arc<dyn Bus> = EmbeddedBus::new(SubjectPrefix::default());
    let stops = [CancellationToken::new(), CancellationToken::new()];
    let tasks = TaskTracker::new();
    for stop in &stops {
        let following = replica(&bus, &store, stop).await;
        tasks.spawn(following.run(stop.clone()));
    }
    for round in 0..15_u64 {
        write(&store, round).await;
        if round == 7 {
            // What was its is the other's, at the latest once it stands still.
            stops[0].cancel();
        }
    }
    switchboard_testkit::wait_until(Duration::from_secs(60), async || {
        store.behind("search").await.unwrap().is_empty()
    })
    .await
    .expect("all is followed");
    stops[1].cancel();
    tasks.close();
    tasks.wait().await;
    let searching = Searching::new(Arc::clone(&store), analyser());
    let mut found = 0;
    let mut cursor = None;
    loop {
        let page = searching
            .search(&Question {
                query: "word".to_owned(),
                cursor,
                ..Question::default()
            })
            .await
            .unwrap();
        found += page.matches.len();
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, usize::from(SHARDS) * 30);
}

/// Fails always, in one shard.
struct Stuck {
    indexer: Indexer,
    shard: ShardId,
}

#[async_trait]
impl Follower for Stuck {
    fn name(&self) -> &'static str {
        self.indexer.name()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        self.indexer.prepare().await
    }

    async fn apply(&self, step: &Step, rows: Vec<LogRow>) -> Result<bool, StoreError> {
        match step.shard == self.shard {
            true => Err(StoreError::Damaged("this shard".to_owned())),
            false => self.indexer.apply(step, rows).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shard_that_fails_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    let bus: Arc<dyn Bus> = EmbeddedBus::new(SubjectPrefix::default());
    let stuck = ShardId::new(0).unwrap();
    let stop = CancellationToken::new();
    let following = Following {
        follower: Arc::new(Stuck {
            indexer: Indexer::new(Arc::clone(&store), analyser(), "tests"),
            shard: stuck,
        }),
        ..replica(&bus, &store, &stop).await
    };
    for round in 0..3 {
        write(&store, round).await;
    }
    let tasks = TaskTracker::new();
    tasks.spawn(following.run(stop.clone()));
    tasks.close();
    switchboard_testkit::wait_until(Duration::from_secs(60), async || {
        let behind = store.behind("search").await.unwrap();
        behind.len() == 1 && behind.iter().all(|behind| behind.shard == stuck)
    })
    .await
    .expect("all others are followed");
    stop.cancel();
    tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn followers_wait_while_the_writer_has_much_to_do() {
    let writes = Writes::default();
    writes.wrote(false);
    assert!(!writes.is_busy());
    writes.wrote(true);
    assert!(writes.is_busy());
    tokio::time::advance(BUSY).await;
    assert!(!writes.is_busy());
    writes.is_hindered();
    assert!(writes.is_busy());
}
