use bytes::Bytes;
use prost::Message as _;
use switchboard_proto::bus::{self, Fence, Message, PayloadKind, Record, Sender, record};
use switchboard_proto::format;

use super::*;
use crate::store::{History, JoinStore, Joint, MessageStore, Reach, SqliteSettings, SqliteStore};

const LOG: LogEpoch = LogEpoch {
    ordinal: 1,
    random: 7,
};

fn shard() -> ShardId {
    ShardId::new(0).unwrap()
}

fn at(sequence: u64, owner_epoch: u64, body: record::Body) -> RecordAt {
    let record = Record {
        owner_epoch,
        sequence,
        time_us: 1_700_000_000_000_000 + sequence,
        body: Some(body),
        ..Record::default()
    };
    RecordAt {
        sequence: Sequence(sequence),
        record: format::encode(&record),
    }
}

fn fence(sequence: u64) -> RecordAt {
    at(sequence, sequence, record::Body::Fence(Fence {}))
}

fn said(text: &str, user: &str) -> Bytes {
    let message = Message {
        channel: "room:1".to_owned(),
        kind: PayloadKind::Json.into(),
        payload: Bytes::from(format!("{text:?}")),
        sender: Some(Sender {
            user: user.to_owned(),
            ..Sender::default()
        }),
        ..Message::default()
    };
    message.encode_to_vec().into()
}

fn messages(sequence: u64, owner_epoch: u64, messages: &[Bytes]) -> RecordAt {
    let entries = messages
        .iter()
        .map(|message| bus::Entry {
            message: message.clone(),
            ..bus::Entry::default()
        })
        .collect();
    let batch = bus::Batch {
        entries,
        ..bus::Batch::default()
    };
    at(sequence, owner_epoch, record::Body::Batch(batch))
}

fn batch(after: u64, records: Vec<RecordAt>) -> Batch {
    Batch {
        shard: shard(),
        log: LOG,
        after: Sequence(after),
        records,
    }
}

struct Rig {
    folder: tempfile::TempDir,
    store: Arc<dyn LogStore>,
    writer: Writer,
}

impl Rig {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = SqliteSettings {
            path: folder.path().join("messages.db"),
            connections: 1,
            wait: std::time::Duration::from_secs(20),
        };
        let store: Arc<dyn LogStore> = Arc::new(SqliteStore::new(&settings));
        store.migrate().await.unwrap();
        Self {
            folder,
            writer: Writer::new(Arc::clone(&store), PersistenceMetrics::default()),
            store,
        }
    }

    /// A replica that knows nothing but the store.
    fn restart(&mut self) {
        self.writer = Writer::new(Arc::clone(&self.store), PersistenceMetrics::default());
    }

    async fn texts(&self) -> Vec<(u64, usize, String)> {
        let page = self.store.history(&History::of("room:1", 100)).await.unwrap();
        page.messages
            .iter()
            .map(|stored| {
                let message = Message::decode(stored.message.clone()).unwrap();
                let text = serde_json::from_slice(&message.payload).unwrap();
                (
                    stored.place.offset.sequence().0,
                    stored.place.offset.index(),
                    text,
                )
            })
            .collect()
    }
}

fn told(sequence: u64, index: usize, text: &str) -> (u64, usize, String) {
    (sequence, index, text.to_owned())
}

#[tokio::test]
async fn messages_keep_their_places_and_bytes() {
    let rig = Rig::new().await;
    assert!(rig.folder.path().join("messages.db").exists());
    assert_eq!(
        rig.writer.position(shard(), LOG).await.unwrap(),
        Some(Sequence(0))
    );
    let records = vec![
        fence(1),
        messages(2, 1, &[said("a", "alice"), said("b", "")]),
        messages(3, 1, &[said("c", "bob")]),
    ];
    rig.writer.handle(&batch(0, records)).await.unwrap();
    assert_eq!(
        rig.writer.position(shard(), LOG).await.unwrap(),
        Some(Sequence(3))
    );
    assert_eq!(
        rig.texts().await,
        [told(2, 0, "a"), told(2, 1, "b"), told(3, 0, "c")]
    );
}

#[tokio::test]
async fn l2_what_a_deposed_owner_wrote_is_not_stored_also_after_a_restart() {
    let mut rig = Rig::new().await;
    rig.writer
        .handle(&batch(
            0,
            vec![fence(1), messages(2, 1, &[said("a", "alice")]), fence(3)],
        ))
        .await
        .unwrap();
    let late = || {
        batch(
            3,
            vec![
                messages(4, 1, &[said("void", "alice")]),
                messages(5, 3, &[said("b", "alice")]),
            ],
        )
    };
    rig.restart();
    rig.writer.handle(&late()).await.unwrap();
    assert_eq!(rig.texts().await, [told(2, 0, "a"), told(5, 0, "b")]);
    // A replica that is behind is told so, and goes on where the store is.
    rig.restart();
    rig.writer.handle(&late()).await.unwrap_err();
    assert_eq!(
        rig.writer.position(shard(), LOG).await.unwrap(),
        Some(Sequence(5))
    );
    assert_eq!(rig.texts().await, [told(2, 0, "a"), told(5, 0, "b")]);
}

#[tokio::test]
async fn what_is_no_message_is_kept_aside_and_stops_nothing() {
    let rig = Rig::new().await;
    let garbage = RecordAt {
        sequence: Sequence(2),
        record: Bytes::from_static(b"\x01\xff\xff"),
    };
    let bad = [
        said("a", "alice"),
        Bytes::from_static(b"\xff\xff"),
        said("zero", "a\0b"),
        said("b", "bob"),
    ];
    let records = vec![
        fence(1),
        garbage,
        messages(3, 1, &bad),
        messages(4, 1, &[said("c", "bob")]),
    ];
    rig.writer.handle(&batch(0, records)).await.unwrap();
    assert_eq!(
        rig.texts().await,
        [told(3, 0, "a"), told(3, 3, "b"), told(4, 0, "c")]
    );
    let dead = rig.store.dead_letters(10).await.unwrap();
    let places: Vec<(u64, usize)> = dead
        .iter()
        .map(|dead| (dead.offset.sequence().0, dead.offset.index()))
        .collect();
    assert_eq!(places, [(3, 2), (3, 1), (2, 0)]);
    assert_eq!(dead[0].bytes, bad[2], "its bytes are kept as they were");
    assert_eq!(rig.writer.metrics.dead_letters.get(), 3);
}

/// A store that refuses some rows, and is gone for a moment just then.
struct Fickle {
    store: Arc<dyn LogStore>,
    gone: std::sync::atomic::AtomicUsize,
}

#[async_trait]
impl MessageStore for Fickle {
    async fn write(&self, written: &Written) -> Result<Progress, StoreError> {
        let refuse = || sqlx::Error::Protocol("injected".to_owned());
        if written
            .rows
            .iter()
            .any(|row| row.sender.as_deref() == Some("refused"))
        {
            return Err(StoreError::Data(refuse()));
        }
        let left = self.gone.fetch_update(
            std::sync::atomic::Ordering::Relaxed,
            std::sync::atomic::Ordering::Relaxed,
            |left| left.checked_sub(1),
        );
        if left.is_ok() {
            return Err(StoreError::Unavailable(refuse()));
        }
        self.store.write(written).await
    }

    async fn progress(&self, shard: ShardId, log: LogEpoch) -> Result<Option<Progress>, StoreError> {
        self.store.progress(shard, log).await
    }

    async fn history(&self, question: &History) -> Result<crate::store::Page, StoreError> {
        self.store.history(question).await
    }

    async fn heads(&self, channels: &[&str]) -> Result<HashMap<String, crate::store::Place>, StoreError> {
        self.store.heads(channels).await
    }

    async fn holes(&self, shard: ShardId, log: LogEpoch) -> Result<Vec<crate::store::Hole>, StoreError> {
        self.store.holes(shard, log).await
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        self.store.dead_letters(limit).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.store.check().await
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        self.store.migrate().await
    }

    async fn maintain(&self, now_us: u64) -> Result<(), StoreError> {
        self.store.maintain(now_us).await
    }

    fn pool(&self) -> Option<crate::store::Pool> {
        self.store.pool()
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

#[async_trait]
impl JoinStore for Fickle {
    async fn joint(
        &self,
        question: &History,
        shard: ShardId,
        log: Option<LogEpoch>,
    ) -> Result<Joint, StoreError> {
        self.store.joint(question, shard, log).await
    }

    async fn joint_heads(
        &self,
        channels: &[&str],
        shard: ShardId,
        log: LogEpoch,
    ) -> Result<(HashMap<String, crate::store::Place>, Option<Reach>), StoreError> {
        self.store.joint_heads(channels, shard, log).await
    }

    async fn hide(&self, log: LogEpoch, marks: &[(String, Offset)]) -> Result<(), StoreError> {
        self.store.hide(log, marks).await
    }
}

#[tokio::test]
async fn store_that_is_gone_while_records_are_written_one_by_one_loses_none() {
    let mut rig = Rig::new().await;
    let fickle = Fickle {
        store: Arc::clone(&rig.store),
        gone: 1.into(),
    };
    rig.writer = Writer::new(Arc::new(fickle), PersistenceMetrics::default());
    let records = || {
        vec![
            fence(1),
            messages(2, 1, &[said("a", "alice")]),
            messages(3, 1, &[said("b", "refused")]),
            messages(4, 1, &[said("c", "bob")]),
        ]
    };
    rig.writer.handle(&batch(0, records())).await.unwrap_err();
    rig.writer.handle(&batch(0, records())).await.unwrap();
    assert_eq!(rig.texts().await, [told(2, 0, "a"), told(4, 0, "c")]);
    let dead = rig.store.dead_letters(9).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].bytes, said("b", "refused"));
    let progress = rig.store.progress(shard(), LOG).await.unwrap().unwrap();
    assert_eq!(
        (progress.read_to, progress.complete_to),
        (Sequence(4), Sequence(4))
    );
}

#[tokio::test]
async fn store_that_went_back_is_read_into_from_where_it_is() {
    let mut rig = Rig::new().await;
    rig.writer.handle(&batch(0, vec![fence(1)])).await.unwrap();
    let next = || batch(5, vec![messages(6, 1, &[said("a", "alice")])]);
    let error = rig.writer.handle(&next()).await.unwrap_err();
    assert!(error.to_string().contains("the store is at 1"), "{error}");
    // Also where this writer had been there itself.
    rig.writer
        .known
        .lock()
        .insert(shard(), (LOG, Sequence(5), OwnerEpoch(1)));
    let error = rig.writer.handle(&next()).await.unwrap_err();
    assert!(error.to_string().contains("went back"), "{error}");
    rig.restart();
    assert_eq!(
        rig.writer.position(shard(), LOG).await.unwrap(),
        Some(Sequence(1))
    );
}

#[tokio::test]
async fn bytes_that_are_no_format_are_kept_aside() {
    let rig = Rig::new().await;
    let garbage = RecordAt {
        sequence: Sequence(2),
        record: Bytes::from_static(b"\xff\xff"),
    };
    rig.writer
        .handle(&batch(0, vec![fence(1), garbage]))
        .await
        .unwrap();
    assert_eq!(rig.store.dead_letters(9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn record_of_a_newer_format_is_not_passed_over() {
    let rig = Rig::new().await;
    let newer = RecordAt {
        sequence: Sequence(2),
        record: Bytes::from(vec![FORMAT + 1, 0]),
    };
    let error = rig
        .writer
        .handle(&batch(0, vec![fence(1), newer]))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("update this process"), "{error}");
    assert_eq!(
        rig.writer.position(shard(), LOG).await.unwrap(),
        Some(Sequence(0))
    );
    assert_eq!(rig.writer.metrics.failures.get(), 1);
}

#[tokio::test]
async fn purged_records_are_a_hole() {
    let rig = Rig::new().await;
    rig.writer.handle(&batch(0, vec![fence(1)])).await.unwrap();
    rig.writer
        .handle(&batch(1, vec![messages(6, 1, &[said("a", "alice")])]))
        .await
        .unwrap();
    let progress = rig.store.progress(shard(), LOG).await.unwrap().unwrap();
    assert_eq!(
        (progress.read_to, progress.complete_to),
        (Sequence(6), Sequence(1))
    );
}
