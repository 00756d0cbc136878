//! The log in a folder of this machine, on an embedded key-value store.
//!
//! One thread writes: it gathers what all shards wait for and commits it at once, so that many
//! appends share one sync ([`committer`]). Reads go to the store directly and see nothing that is
//! not committed ([`reader`]). How it lies on disk is [`store`]'s business.

mod committer;
mod folder;
mod reader;
mod shard;
mod store;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use switchboard_proto::bus::Layout;
use switchboard_proto::ids::{Sequence, ShardCount, ShardId};
use tokio::sync::{mpsc, oneshot};

use self::committer::{Command, Committer};
use self::shard::{LogName, Shard};
use self::store::Store;
use crate::log::{AppendError, Log, LogError, LogInfo, RecordStream};
use crate::position::{CommitError, ReaderName, ReaderPosition, StoredReader};

pub use self::folder::OpenError;

/// The largest record: what a NATS server takes by default, less room for headers, so that what
/// fits here fits there.
const MAX_RECORD: usize = (1 << 20) - 1024;

/// Commands that may wait for the committing thread; callers wait beyond that. With one append in
/// flight per shard it is never reached below as many shards.
const COMMANDS: usize = 256;

/// What an acknowledged record survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddedDurability {
    /// The death of the process: records are handed to the operating system before they are
    /// acknowledged. A power cut may take the last ones.
    Memory,
    /// A power cut too: records are synced to disk before they are acknowledged.
    Synced,
}

/// A [`Log`] in a folder. Ends when the last clone is dropped, which waits for the commit under way; what
/// [`Log::read`] returned then ends with an error.
#[derive(Debug, Clone)]
pub struct EmbeddedLog {
    open: Arc<Open>,
    /// Whose ordinals the logs have.
    layout: Arc<Layout>,
}

/// An open folder and its thread.
#[derive(Debug)]
struct Open {
    store: Arc<Store>,
    /// `None` only while being dropped.
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedLog {
    /// Opens the log in `dir`, which is created where it is missing. Blocks while the store reads
    /// what was written last. One process at a time.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong, where, and what to do.
    pub fn open(dir: &Path, durability: EmbeddedDurability) -> Result<Arc<Self>, OpenError> {
        Self::open_limited(dir, durability, None)
    }

    /// As [`EmbeddedLog::open`]; each shard's log takes at most `max_bytes` of records, and refuses
    /// more with [`AppendError::Refused`].
    ///
    /// # Errors
    /// As [`EmbeddedLog::open`].
    pub fn open_limited(
        dir: &Path,
        durability: EmbeddedDurability,
        max_bytes: Option<u64>,
    ) -> Result<Arc<Self>, OpenError> {
        let (store, writers) = Store::open(dir, durability, max_bytes)?;
        let store = Arc::new(store);
        let (commands, queue) = mpsc::channel(COMMANDS);
        let committer = Committer::new(Arc::clone(&store), writers);
        let thread = std::thread::Builder::new()
            .name("switchboard-log".to_owned())
            .spawn(move || committer.run(queue))
            .map_err(|source| OpenError::Failed {
                path: dir.to_owned(),
                reason: format!("no thread: {source}"),
            })?;
        let open = Open {
            store,
            commands: Some(commands),
            thread: Some(thread),
        };
        Ok(Arc::new(Self {
            open: Arc::new(open),
            layout: Arc::default(),
        }))
    }

    /// Hands a command to the committing thread and waits for its answer. `None`: the thread is
    /// gone, and whether it carried the command out is unknown.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.open.commands.as_ref()?.send(command(answer)).await.ok()?;
        answered.await.ok()
    }

    fn log(&self, shard: ShardId) -> LogName {
        LogName::of(&self.layout, shard)
    }

    fn shard(&self, shard: ShardId) -> Result<Arc<Shard>, LogError> {
        let log = self.open.store.log(self.log(shard));
        log.ok_or(LogError::Missing(shard))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // The thread ends when no more commands can come; only then is the folder free.
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's committing thread panicked");
        }
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn append(
        &self,
        shard: ShardId,
        expected: Sequence,
        record: Bytes,
    ) -> Result<Sequence, AppendError> {
        if record.len() > MAX_RECORD {
            return Err(AppendError::TooLarge {
                size: record.len(),
                limit: MAX_RECORD,
            });
        }
        let log = self.log(shard);
        self.ask(|answer| Command::Append {
            log,
            expected,
            record,
            answer,
        })
        .await
        .unwrap_or_else(|| Err(AppendError::Unknown(GONE.to_owned())))
    }

    async fn info(&self, shard: ShardId) -> Result<LogInfo, LogError> {
        let shard = self.shard(shard)?;
        let extent = shard.extent();
        Ok(LogInfo {
            epoch: shard.epoch(),
            first: Sequence(extent.first),
            last: Sequence(extent.last),
            bytes: extent.bytes(),
            max_bytes: self.open.store.max_bytes(),
        })
    }

    async fn get(&self, shard: ShardId, sequence: Sequence) -> Result<Option<Bytes>, LogError> {
        let shard = self.shard(shard)?;
        let found = tokio::task::spawn_blocking(move || shard.record(sequence.0)).await;
        found.map_err(|error| LogError::Unavailable(error.to_string()))?
    }

    async fn read(&self, shard: ShardId, from: Sequence) -> Result<RecordStream, LogError> {
        Ok(reader::stream(self.shard(shard)?, from.0))
    }

    async fn purge(&self, shard: ShardId, before: Sequence) -> Result<(), LogError> {
        self.shard(shard)?;
        let log = self.log(shard);
        self.ask(|answer| Command::Purge { log, before, answer })
            .await
            .unwrap_or_else(|| Err(LogError::Unavailable(GONE.to_owned())))
    }

    async fn layout(&self) -> Result<Option<Layout>, LogError> {
        Ok(self.open.store.layout())
    }

    async fn create(&self, wanted: &Layout) -> Result<Layout, LogError> {
        let wanted = wanted.clone();
        self.ask(|answer| Command::Create { wanted, answer })
            .await
            .unwrap_or_else(|| Err(LogError::Unavailable(GONE.to_owned())))
    }

    fn of(&self, layout: &Layout) -> Arc<dyn Log> {
        Arc::new(Self {
            layout: Arc::new(layout.clone()),
            ..self.clone()
        })
    }

    async fn create_log(&self, shard: ShardId) -> Result<(), LogError> {
        let (layout, shards) = (Layout::clone(&self.layout), vec![shard]);
        self.ask(|answer| Command::CreateLogs {
            layout,
            shards,
            answer,
        })
        .await
        .unwrap_or_else(|| Err(LogError::Unavailable(GONE.to_owned())))
    }

    async fn commit(
        &self,
        reader: &ReaderName,
        shard: ShardId,
        position: ReaderPosition,
    ) -> Result<ReaderPosition, CommitError> {
        position.check(shard, &self.info(shard).await?)?;
        let reader = reader.clone();
        self.ask(|answer| Command::Commit {
            reader,
            shard,
            position,
            answer,
        })
        .await
        .unwrap_or_else(|| Err(LogError::Unavailable(GONE.to_owned()).into()))
    }

    async fn position(
        &self,
        reader: &ReaderName,
        shard: ShardId,
    ) -> Result<Option<ReaderPosition>, LogError> {
        Ok(self.open.store.position(reader, shard))
    }

    async fn positions(&self) -> Result<Vec<StoredReader>, LogError> {
        Ok(self.open.store.positions())
    }

    async fn check(&self, layout: &Layout) -> Result<(), LogError> {
        for shard in layout.shard_count().into_iter().flat_map(ShardCount::iter) {
            let log = self.open.store.log(LogName::of(layout, shard));
            log.ok_or(LogError::Missing(shard))?;
        }
        Ok(())
    }

    async fn change_layout(&self, from: &Layout, to: &Layout) -> Result<(), LogError> {
        let (from, to) = (from.clone(), to.clone());
        self.ask(|answer| Command::ChangeLayout { from, to, answer })
            .await
            .unwrap_or_else(|| Err(LogError::Unavailable(GONE.to_owned())))
    }

    async fn remove(&self, shard: ShardId) -> Result<(), LogError> {
        let log = self.log(shard);
        self.ask(|answer| Command::Remove { log, answer })
            .await
            .unwrap_or_else(|| Err(LogError::Unavailable(GONE.to_owned())))
    }

    fn max_record(&self) -> usize {
        MAX_RECORD
    }
}

const GONE: &str = "the log was closed";
