//! Reading the log for good: the loop of a service that is a durable reader.
//!
//! Replicas of a service share its reader: each reads the shards that rendezvous hashing gives it among the
//! members of its role, from the committed position on, and commits what its [`Handler`] has made safe.
//! When one dies, another takes its shards over. As membership is no proof of anything, two may read one
//! shard for a while: both do the same work, and neither's commit undoes the other's.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use switchboard_proto::bus::Role;
use switchboard_proto::ids::{Incarnation, LogEpoch, Sequence, ShardCount, ShardId};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::log::{Log, LogError, RecordAt, RecordStream};
use crate::membership::{Membership, owners};
use crate::position::{CommitError, Committed, ReaderName, ReaderPosition};

/// Records in one batch, however small.
const BATCH_RECORDS: usize = 4096;

/// Silence of a log after which it is asked whether it is still the one that was begun with.
const SILENCE: Duration = Duration::from_secs(5);

/// What a reader keeps to.
#[derive(Debug, Clone, Copy)]
pub struct ReaderSettings {
    /// Bytes of records after which a batch is handed over. One record more may be in it, and a batch has at
    /// most 4,096 records. So much memory is taken for each shard that is read.
    pub batch_bytes: usize,
    /// How long the first record of a batch waits for others.
    pub linger: Duration,
    /// What follows a failure, doubled with each further one up to `pause_max`.
    pub pause: Duration,
    /// See [`ReaderSettings::pause`].
    pub pause_max: Duration,
}

impl Default for ReaderSettings {
    fn default() -> Self {
        Self {
            batch_bytes: 1 << 20,
            linger: Duration::from_millis(20),
            pause: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
        }
    }
}

/// Records of one shard that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The shard.
    pub shard: ShardId,
    /// The life of the shard's log that sequences are places in. Another than before: the log began anew.
    pub log: LogEpoch,
    /// The last record before these that this reader is done with. Where the first of these is not the next
    /// one, what lies between was purged before it was read, which cannot happen to a reader that
    /// `router.readers` names.
    pub after: Sequence,
    /// In order and without a hole; never empty.
    pub records: Vec<RecordAt>,
}

/// What is done with the records.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// How far the handler's own store is in this life of the shard's log, where what it stores and its position are
    /// one: reading goes on behind that, whatever is committed. So a store that was restored from a backup is given again
    /// what it lost, as far as the log still has it. `None`: the committed position is all there is.
    ///
    /// # Errors
    /// Any: it is asked again, after a pause.
    async fn position(&self, shard: ShardId, log: LogEpoch) -> Result<Option<Sequence>, HandleError> {
        let _ = (shard, log);
        Ok(None)
    }

    /// Makes what `batch` brings safe where it belongs; after that the position is committed. The same
    /// records may come again, and at another replica at the same time: tell them by shard, log and
    /// sequence. Batches of one shard come one after the other, those of several at the same time.
    ///
    /// # Errors
    /// Any: the batch comes again, after a pause.
    async fn handle(&self, batch: &Batch) -> Result<(), HandleError>;
}

/// Why a batch was not handled.
pub type HandleError = Box<dyn Error + Send + Sync>;

/// One replica of a durable reader.
#[derive(Clone)]
pub struct Reader {
    /// The log.
    pub log: Arc<dyn Log>,
    /// Shards of its layout.
    pub shards: ShardCount,
    /// The reader's name, the same on all replicas.
    pub name: ReaderName,
    /// The role of all replicas.
    pub role: Role,
    /// This replica among the members.
    pub incarnation: Incarnation,
    /// What it keeps to.
    pub settings: ReaderSettings,
    /// What is done with the records.
    pub handler: Arc<dyn Handler>,
}

/// Why a shard is not read on; it is tried again.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("records not handled: {0}")]
    Handle(HandleError),
    #[error(
        "the log went back: it ends with {last} of log {log}, and this reader was at {up_to} of log {was}; see \
         docs/operations.md, When a shard is stopped"
    )]
    WentBack {
        log: LogEpoch,
        last: Sequence,
        was: LogEpoch,
        up_to: Sequence,
    },
    #[error("another log is in force")]
    OtherLog,
    #[error("the log's records ended")]
    Ended,
}

impl Reader {
    /// Reads what is this replica's to read until `stop`, and then ends what is being handled. What fails
    /// is logged and tried again for as long as it takes. Cancel safe: what was not committed is read again.
    pub async fn run(self, mut membership: Membership, stop: CancellationToken) {
        let mut running: HashMap<ShardId, (Id, CancellationToken)> = HashMap::new();
        let mut tasks = JoinSet::new();
        let mut pause = Duration::ZERO;
        while !stop.is_cancelled() {
            let replicas = membership.of_role(self.role);
            let owners = owners(self.shards, &replicas);
            for (shard, owner) in self.shards.iter().zip(owners) {
                let is_mine = owner == Some(self.incarnation);
                match running.get(&shard) {
                    None if is_mine => {
                        let (token, reader) = (stop.child_token(), self.clone());
                        let task = tasks.spawn(reader.follow(shard, pause, token.clone()));
                        running.insert(shard, (task.id(), token));
                    }
                    // It ends once it is between two batches.
                    Some((_, token)) if !is_mine => token.cancel(),
                    Some(_) | None => {}
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = membership.changed() => pause = Duration::ZERO,
                Some(ended) = tasks.join_next_with_id() => pause = self.ended(ended, &mut running),
            }
        }
        while let Some(ended) = tasks.join_next_with_id().await {
            self.ended(ended, &mut running);
        }
    }

    /// The pause before its shard may be begun again.
    fn ended(
        &self,
        ended: Result<(Id, ()), JoinError>,
        running: &mut HashMap<ShardId, (Id, CancellationToken)>,
    ) -> Duration {
        let (id, pause) = match ended {
            Ok((id, ())) => (id, Duration::ZERO),
            Err(panic) => {
                tracing::error!(reader = %self.name, %panic, "reading a shard panicked, it will be begun again");
                (panic.id(), self.settings.pause_max)
            }
        };
        running.retain(|_, (running, _)| *running != id);
        pause
    }

    /// Reads one shard until `stop`.
    async fn follow(self, shard: ShardId, wait: Duration, stop: CancellationToken) {
        let mut wait = wait;
        let mut pause = self.settings.pause;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let mut committed = false;
            let Err(error) = self.read(shard, &stop, &mut committed).await else {
                return;
            };
            if committed {
                pause = self.settings.pause;
            }
            match &error {
                ReadError::WentBack { .. } => {
                    tracing::error!(reader = %self.name, %shard, %error, "shard not read")
                }
                _ => {
                    tracing::warn!(reader = %self.name, %shard, %error, "shard is read again from the position")
                }
            }
            wait = pause;
            pause = (pause * 2).min(self.settings.pause_max);
        }
    }

    /// Reads from the committed position on. `Ok`: it was stopped.
    async fn read(
        &self,
        shard: ShardId,
        stop: &CancellationToken,
        has_committed: &mut bool,
    ) -> Result<(), ReadError> {
        let source = self.in_force().await?;
        let (committed, info) = source.committed(&self.name, shard).await?;
        let log = info.epoch;
        let mut after = match committed {
            Committed::Nothing => Sequence(0),
            Committed::UpTo(up_to) => up_to,
            Committed::OtherLog(was) => {
                let (was, up_to) = (was.epoch, was.up_to);
                tracing::warn!(reader = %self.name, %shard, %was, %up_to, is = %log, "shard has a new log, read from its beginning");
                Sequence(0)
            }
            Committed::WentBack(was) => {
                return Err(ReadError::WentBack {
                    log,
                    last: info.last,
                    was: was.epoch,
                    up_to: was.up_to,
                });
            }
        };
        if let Some(own) = self.own_position(&*source, shard, log).await? {
            after = own;
        }
        let mut records = source.read(shard, after.next()).await?;
        // It is this log's records that were begun with, unless it was replaced in between.
        self.check(shard, log).await?;
        loop {
            // Neither loses a record: what was not taken stays in the stream.
            let next = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                next = timeout(SILENCE, records.next()) => next,
            };
            let Ok(next) = next else {
                self.check(shard, log).await?;
                continue;
            };
            let first = next.ok_or(ReadError::Ended)??;
            let batch = Batch {
                shard,
                log,
                after,
                records: self.gather(first, &mut records).await,
            };
            let first = batch.records.first().map_or(after.next(), |at| at.sequence);
            let up_to = batch.records.last().map_or(after, |at| at.sequence);
            if first != after.next() {
                tracing::error!(reader = %self.name, %shard, %after, %first, "records were purged before they were read");
            }
            self.handler.handle(&batch).await.map_err(ReadError::Handle)?;
            let position = ReaderPosition { epoch: log, up_to };
            let in_force = source.commit(&self.name, shard, position).await?;
            *has_committed = true;
            after = up_to;
            if in_force.up_to > up_to {
                // Another replica is further: what it has done need not be done again.
                after = self
                    .own_position(&*source, shard, log)
                    .await?
                    .unwrap_or(in_force.up_to);
                if after <= up_to {
                    after = up_to;
                    continue;
                }
                records = source.read(shard, after.next()).await?;
                self.check(shard, log).await?;
            }
        }
    }

    /// The logs in force: others than those that the process started with, after `switchboard log new-epoch`.
    async fn in_force(&self) -> Result<Arc<dyn Log>, LogError> {
        Ok(match self.log.layout().await? {
            Some(layout) => self.log.of(&layout),
            None => Arc::clone(&self.log),
        })
    }

    /// See [`Handler::position`].
    async fn own_position(
        &self,
        source: &dyn Log,
        shard: ShardId,
        log: LogEpoch,
    ) -> Result<Option<Sequence>, ReadError> {
        let own = self
            .handler
            .position(shard, log)
            .await
            .map_err(ReadError::Handle)?;
        let Some(up_to) = own else { return Ok(None) };
        // Asked for afterwards: other replicas move the position on meanwhile.
        let last = source.info(shard).await?.last;
        if up_to > last {
            return Err(ReadError::WentBack {
                log,
                last,
                was: log,
                up_to,
            });
        }
        Ok(Some(up_to))
    }

    async fn check(&self, shard: ShardId, log: LogEpoch) -> Result<(), ReadError> {
        let source = self.in_force().await?;
        let is_same = source.info(shard).await?.epoch == log;
        is_same.then_some(()).ok_or(ReadError::OtherLog)
    }

    /// `first` and what follows it within [`ReaderSettings::linger`], as far as a batch goes.
    async fn gather(&self, first: RecordAt, records: &mut RecordStream) -> Vec<RecordAt> {
        let mut bytes = first.record.len();
        let mut gathered = vec![first];
        let deadline = Instant::now() + self.settings.linger;
        while bytes < self.settings.batch_bytes && gathered.len() < BATCH_RECORDS {
            match timeout_at(deadline, records.next()).await {
                Ok(Some(Ok(next))) => {
                    bytes += next.record.len();
                    gathered.push(next);
                }
                // What came before is in order; the next turn finds the records ended.
                Ok(Some(Err(error))) => {
                    tracing::debug!(reader = %self.name, %error, "records end");
                    break;
                }
                Ok(None) | Err(_) => break,
            }
        }
        gathered
    }
}
