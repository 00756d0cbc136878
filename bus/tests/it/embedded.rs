//! The embedded backend: the suite, and a log in a folder that things happen to.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use switchboard_bus::conformance::{BusFixture, LogFixture, layout, shard};
use switchboard_bus::embedded::{EmbeddedBus, EmbeddedDurability, EmbeddedLog, OpenError};
use switchboard_bus::{Bus, Log, LogError, SubjectPrefix};
use switchboard_proto::ids::Sequence;
use tempfile::TempDir;

struct OneProcess(Arc<EmbeddedBus>);

#[async_trait]
impl BusFixture for OneProcess {
    async fn start() -> Self {
        Self(EmbeddedBus::new(SubjectPrefix::default()))
    }

    async fn connect(&self) -> Arc<dyn Bus> {
        Arc::clone(&self.0) as Arc<dyn Bus>
    }
}

struct Folder<const SYNCED: bool> {
    max_bytes: u64,
    log: Option<Arc<EmbeddedLog>>,
    folder: TempDir,
}

#[async_trait]
impl<const SYNCED: bool> LogFixture for Folder<SYNCED> {
    async fn start(max_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            max_bytes,
            log: None,
            folder,
        }
    }

    async fn open(&mut self) -> Arc<dyn Log> {
        let durability = match SYNCED {
            true => EmbeddedDurability::Synced,
            false => EmbeddedDurability::Memory,
        };
        let log = self.log.get_or_insert_with(|| {
            EmbeddedLog::open_limited(self.folder.path(), durability, Some(self.max_bytes)).unwrap()
        });
        Arc::clone(log) as Arc<dyn Log>
    }

    async fn reopen(&mut self, log: Arc<dyn Log>) -> Arc<dyn Log> {
        self.log = None;
        assert_eq!(Arc::strong_count(&log), 1);
        drop(log);
        self.open().await
    }

    async fn begin_anew(&mut self, log: Arc<dyn Log>) -> Arc<dyn Log> {
        let shards = log.layout().await.unwrap().unwrap().shards;
        self.log = None;
        drop(log);
        let database = fjall::Database::builder(self.folder.path()).open().unwrap();
        let options = fjall::KeyspaceCreateOptions::default;
        let meta = database.keyspace("meta", options).unwrap();
        for number in 0..shards {
            let name = format!("log-1-{number}");
            let records = database.keyspace(&name, options).unwrap();
            database.delete_keyspace(records).unwrap();
            database.keyspace(&name, options).unwrap();
            meta.insert(format!("epoch/{number}"), "1-0badcafe").unwrap();
            meta.remove(format!("start/{number}")).unwrap();
        }
        database.persist(fjall::PersistMode::SyncAll).unwrap();
        drop((meta, database));
        self.open().await
    }
}

mod bus {
    switchboard_bus::bus_conformance!(super::OneProcess);
}

mod log_in_memory {
    switchboard_bus::log_conformance!(super::Folder<false>);
}

mod log_synced {
    switchboard_bus::log_conformance!(super::Folder<true>);
}

fn open(folder: &Path) -> Result<Arc<EmbeddedLog>, OpenError> {
    EmbeddedLog::open(folder, EmbeddedDurability::Memory)
}

/// Every error names the folder and what to do.
fn assert_helps(error: &OpenError, folder: &Path, remedy: &str) {
    let text = error.to_string();
    assert!(
        text.contains(&folder.display().to_string()) && text.contains(remedy),
        "{text}"
    );
}

#[test]
fn folder_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert_helps(&error, folder.path(), "another process");
    drop(log);
    open(folder.path()).unwrap();
}

#[test]
fn folder_that_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Unwritable { .. }), "{error}");
        assert_helps(&error, &path, "configure another");
    }
}

#[tokio::test]
async fn damaged_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).unwrap().create(&layout(1)).await.unwrap();
    std::fs::remove_dir_all(folder.path().join("keyspaces")).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert_helps(&error, folder.path(), "backup");
}

/// Names the folder to the process that [`killed_process_loses_nothing_acknowledged`] starts.
const CHILD_FOLDER: &str = "SWITCHBOARD_TEST_LOG_FOLDER";

/// Does something only in that process: appends for ever, and prints what was acknowledged.
#[tokio::test]
async fn process_to_be_killed() {
    #[expect(
        clippy::disallowed_methods,
        reason = "the parent names the folder to this process alone"
    )]
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else {
        return;
    };
    let log = open(Path::new(&folder)).unwrap();
    log.create(&layout(2)).await.unwrap();
    let mut last = Sequence(0);
    loop {
        let record = Bytes::from(format!("record {}", last.next()));
        last = log.append(shard(1), last, record).await.unwrap();
        println!("acknowledged {last}");
    }
}

#[tokio::test]
async fn killed_process_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["embedded::process_to_be_killed", "--exact", "--nocapture"])
        .env(CHILD_FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some((_, number)) = line.unwrap().split_once("acknowledged ") {
            acknowledged = number.parse::<u64>().unwrap();
        }
        if acknowledged == 500 {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(acknowledged, 500);
    let log = open(folder.path()).unwrap();
    let last = log.info(shard(1)).await.unwrap().last;
    assert!(last.0 >= acknowledged, "{last}");
    for place in 1..=last.0 {
        let stored = log.get(shard(1), Sequence(place)).await.unwrap();
        assert_eq!(stored, Some(Bytes::from(format!("record {place}"))));
    }
    log.append(shard(1), last, Bytes::new()).await.unwrap();
}

/// Whoever still reads when the log is closed is told, and the folder is free at once.
#[tokio::test]
async fn closed_log_ends_its_readers() {
    use futures_util::StreamExt as _;
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    log.create(&layout(1)).await.unwrap();
    let mut records = log.read(shard(0), Sequence(1)).await.unwrap();
    drop(log);
    assert!(matches!(
        records.next().await,
        Some(Err(LogError::Unavailable(_)))
    ));
    assert!(records.next().await.is_none());
    drop(records);
    open(folder.path()).unwrap();
}
