//! The one thread that writes.
//!
//! A sync blocks and is what an append costs, so it is shared: the thread takes every command that
//! waits, decides each append's compare-and-set, commits all of them in one batch, and only then
//! answers. Nothing that is refused or answered depends on a batch that was not committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use fjall::OwnedWriteBatch as WriteBatch;
use switchboard_proto::bus::Layout;
use switchboard_proto::ids::{Sequence, ShardId};
use tokio::sync::{mpsc, oneshot};

use super::shard::{Extent, LogName, Writer, damaged, joined, split, unavailable};
use super::store::{Store, Writers, shards_of};
use crate::log::{AppendError, LogError};
use crate::position::{Advance, CommitError, ReaderName, ReaderPosition};

/// Bytes of records after which a batch is committed without looking for more.
const BATCH_BYTES: usize = 8 << 20;

/// Commands after which it is.
const BATCH_COMMANDS: usize = 256;

/// Records that a purge removes in one batch, so that appends need not wait for all of it.
const PURGE_RECORDS: u64 = 512;

/// What the thread is asked.
pub(super) enum Command {
    /// [`crate::Log::append`].
    Append {
        log: LogName,
        expected: Sequence,
        record: Bytes,
        answer: oneshot::Sender<Result<Sequence, AppendError>>,
    },
    /// [`crate::Log::purge`].
    Purge {
        log: LogName,
        before: Sequence,
        answer: oneshot::Sender<Result<(), LogError>>,
    },
    /// [`crate::Log::commit`] of a position that was checked against the log.
    Commit {
        reader: ReaderName,
        shard: ShardId,
        position: ReaderPosition,
        answer: oneshot::Sender<Result<ReaderPosition, CommitError>>,
    },
    /// [`crate::Log::create`].
    Create {
        wanted: Layout,
        answer: oneshot::Sender<Result<Layout, LogError>>,
    },
    /// [`crate::Log::create_log`].
    CreateLogs {
        layout: Layout,
        shards: Vec<ShardId>,
        answer: oneshot::Sender<Result<(), LogError>>,
    },
    /// [`crate::Log::change_layout`].
    ChangeLayout {
        from: Layout,
        to: Layout,
        answer: oneshot::Sender<Result<(), LogError>>,
    },
    /// [`crate::Log::remove`].
    Remove {
        log: LogName,
        answer: oneshot::Sender<Result<(), LogError>>,
    },
}

/// The thread's state.
pub(super) struct Committer {
    store: Arc<Store>,
    writers: Writers,
    purges: VecDeque<Purge>,
    failed: bool,
}

struct Purge {
    log: LogName,
    before: u64,
    answer: oneshot::Sender<Result<(), LogError>>,
}

/// What is committed together.
struct Batch {
    writes: WriteBatch,
    bytes: usize,
    /// Where the logs in it begin and end once it is committed.
    staged: BTreeMap<LogName, Extent>,
    appends: Vec<Answer>,
    /// Readers' positions once it is committed.
    positions: BTreeMap<(ReaderName, ShardId), ReaderPosition>,
    commits: Vec<CommitAnswer>,
    /// The purge that is complete with it.
    purge: Option<oneshot::Sender<Result<(), LogError>>>,
}

/// What an append is told once the batch is committed.
struct Answer {
    to: oneshot::Sender<Result<Sequence, AppendError>>,
    outcome: Result<Sequence, AppendError>,
}

/// Likewise for a commit of a reader's position.
struct CommitAnswer {
    to: oneshot::Sender<Result<ReaderPosition, CommitError>>,
    outcome: Result<ReaderPosition, CommitError>,
}

impl Committer {
    pub(super) fn new(store: Arc<Store>, writers: Writers) -> Self {
        Self {
            store,
            writers,
            purges: VecDeque::new(),
            failed: false,
        }
    }

    /// Serves `queue` until nobody can send to it any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        loop {
            let first = if self.purges.is_empty() {
                match queue.blocking_recv() {
                    Some(command) => Some(command),
                    None => return,
                }
            } else {
                queue.try_recv().ok()
            };
            let mut batch = Batch {
                writes: self.store.batch(),
                bytes: 0,
                staged: BTreeMap::new(),
                appends: Vec::new(),
                positions: BTreeMap::new(),
                commits: Vec::new(),
                purge: None,
            };
            let mut next = first;
            let mut commands = 0;
            while let Some(command) = next {
                self.take(command, &mut batch);
                commands += 1;
                let full = batch.bytes >= BATCH_BYTES || commands >= BATCH_COMMANDS;
                next = if full { None } else { queue.try_recv().ok() };
            }
            self.purge_some(&mut batch);
            self.commit(batch);
        }
    }

    fn take(&mut self, command: Command, batch: &mut Batch) {
        match command {
            Command::Append {
                log,
                expected,
                record,
                answer,
            } => {
                let outcome = self.append(log, expected, &record, batch);
                batch.appends.push(Answer { to: answer, outcome });
            }
            // Purges wait in memory, so not more of them than commands may.
            Command::Purge { answer, .. } if self.purges.len() >= BATCH_COMMANDS => {
                let busy = LogError::Unavailable("too many purges at once".to_owned());
                answer.send(Err(busy)).ok();
            }
            Command::Purge { log, before, answer } => self.purges.push_back(Purge {
                log,
                before: before.0,
                answer,
            }),
            Command::Commit {
                reader,
                shard,
                position,
                answer,
            } => {
                let outcome = self.move_position(reader, shard, position, batch);
                batch.commits.push(CommitAnswer { to: answer, outcome });
            }
            Command::Create { wanted, answer } => {
                answer.send(self.create(&wanted)).ok();
            }
            Command::CreateLogs {
                layout,
                shards,
                answer,
            } => {
                answer.send(self.create_logs(&layout, shards)).ok();
            }
            Command::ChangeLayout { from, to, answer } => {
                answer.send(self.change_layout(&from, &to)).ok();
            }
            Command::Remove { log, answer } => {
                let removed = if batch.staged.contains_key(&log) {
                    Err(LogError::Unavailable("the log is being written".to_owned()))
                } else {
                    self.writers.remove(&log);
                    self.store.remove(log)
                };
                answer.send(removed).ok();
            }
        }
    }

    fn append(
        &self,
        log: LogName,
        expected: Sequence,
        record: &[u8],
        batch: &mut Batch,
    ) -> Result<Sequence, AppendError> {
        let Some(writer) = self.writers.get(&log) else {
            return Err(AppendError::Unknown(LogError::Missing(log.shard).to_string()));
        };
        let mut extent = Self::extent(log, writer, batch);
        if extent.last != expected.0 {
            return Err(AppendError::WrongLast { expected });
        }
        let size = record.len() as u64;
        if self
            .store
            .max_bytes()
            .is_some_and(|max| extent.bytes() + size > max)
        {
            return Err(AppendError::Refused("maximum bytes exceeded".to_owned()));
        }
        let sequence = expected.next();
        extent.last = sequence.0;
        extent.bytes_end += size;
        let value = joined(extent.bytes_end, record);
        batch.bytes += value.len();
        batch
            .writes
            .insert(&writer.records, sequence.0.to_be_bytes(), value);
        batch.staged.insert(log, extent);
        Ok(sequence)
    }

    /// The position that is in force once the batch is committed.
    fn move_position(
        &self,
        reader: ReaderName,
        shard: ShardId,
        position: ReaderPosition,
        batch: &mut Batch,
    ) -> Result<ReaderPosition, CommitError> {
        let key = (reader, shard);
        let staged = batch.positions.get(&key).copied();
        let stored = staged.or_else(|| self.store.position(&key.0, shard));
        if let Advance::Stays(stored) = position.advance(shard, stored)? {
            return Ok(stored);
        }
        self.store
            .put_position(&mut batch.writes, &key.0, shard, position);
        batch.positions.insert(key, position);
        Ok(position)
    }

    fn create(&mut self, wanted: &Layout) -> Result<Layout, LogError> {
        if let Some(layout) = self.store.layout() {
            return Ok(layout);
        }
        self.create_logs(wanted, shards_of(wanted)?.iter().collect())?;
        self.store.put_layout(wanted)?;
        Ok(wanted.clone())
    }

    fn create_logs(&mut self, layout: &Layout, shards: Vec<ShardId>) -> Result<(), LogError> {
        let opened = self.store.create_logs(layout, shards)?;
        self.writers.extend(opened);
        Ok(())
    }

    fn change_layout(&self, from: &Layout, to: &Layout) -> Result<(), LogError> {
        match self.store.layout() {
            Some(layout) if layout == *to => Ok(()),
            Some(layout) if layout == *from => self.store.put_layout(to),
            Some(_) | None => Err(LogError::LayoutChanged),
        }
    }

    /// Adds the removal of some records of the purge whose turn it is.
    fn purge_some(&mut self, batch: &mut Batch) {
        let Some(purge) = self.purges.pop_front() else {
            return;
        };
        match self.stage_purge(&purge, batch) {
            Ok(true) => batch.purge = Some(purge.answer),
            Ok(false) => self.purges.push_front(purge),
            Err(error) => {
                purge.answer.send(Err(error)).ok();
            }
        }
    }

    /// Whether the purge is complete with this batch.
    fn stage_purge(&self, purge: &Purge, batch: &mut Batch) -> Result<bool, LogError> {
        let missing = || LogError::Missing(purge.log.shard);
        let writer = self.writers.get(&purge.log).ok_or_else(missing)?;
        // The last record is never purged (rule L4): `end` is the first that stays, and the last
        // that is committed at most. Records of this batch cannot be read back yet.
        let end = purge.before.min(writer.committed.borrow().last);
        let mut extent = Self::extent(purge.log, writer, batch);
        if end <= extent.first {
            return Ok(true);
        }
        let upto = end.min(extent.first + PURGE_RECORDS);
        let newest = (upto - 1).to_be_bytes();
        let value = writer.records.get(newest).map_err(damaged)?;
        let value = value.ok_or_else(|| LogError::Damaged(format!("no record {}", upto - 1)))?;
        for sequence in extent.first..upto {
            batch.writes.remove(&writer.records, sequence.to_be_bytes());
        }
        extent.bytes_before = split(value)?.0;
        extent.first = upto;
        self.store.put_start(&mut batch.writes, purge.log, &extent);
        // Announced before it is carried out: a reader who finds records gone can tell why.
        writer.committed.send_modify(|committed| {
            committed.first = extent.first;
            committed.bytes_before = extent.bytes_before;
        });
        batch.staged.insert(purge.log, extent);
        Ok(upto == end)
    }

    fn commit(&mut self, batch: Batch) {
        let outcome = batch.writes.commit();
        if outcome.is_ok() {
            self.store.moved(batch.positions);
            // Readers first: who is told of a record finds it.
            for (log, extent) in batch.staged {
                if let Some(writer) = self.writers.get(&log) {
                    writer.committed.send_replace(extent);
                }
            }
        }
        let failure = outcome.err().map(unavailable);
        if let Some(failure) = &failure
            && !self.failed
        {
            self.failed = true;
            tracing::error!(
                %failure,
                "the log's store refuses writes: see to disk and free space, then restart the process"
            );
        }
        for Answer { to, outcome } in batch.appends {
            let outcome = match &failure {
                // It may be there after a restart.
                Some(failure) => outcome.and(Err(AppendError::Unknown(failure.to_string()))),
                None => outcome,
            };
            to.send(outcome).ok();
        }
        for CommitAnswer { to, outcome } in batch.commits {
            let outcome = match &failure {
                Some(failure) => outcome.and(Err(LogError::Unavailable(failure.to_string()).into())),
                None => outcome,
            };
            to.send(outcome).ok();
        }
        if let Some(answer) = batch.purge {
            answer.send(failure.map_or(Ok(()), Err)).ok();
        } else if failure.is_some() {
            // The store takes nothing any more: purges would go round for ever.
            for purge in self.purges.drain(..) {
                let failed = LogError::Unavailable("the log's store refuses writes".to_owned());
                purge.answer.send(Err(failed)).ok();
            }
        }
    }

    fn extent(log: LogName, writer: &Writer, batch: &Batch) -> Extent {
        let staged = batch.staged.get(&log).copied();
        staged.unwrap_or_else(|| *writer.committed.borrow())
    }
}
