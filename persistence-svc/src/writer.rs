//! From the log into the store: what each record holds becomes rows, and the log's position moves behind them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use switchboard_bus::RecordAt;
use switchboard_bus::reader::{Batch, HandleError, Handler};
use switchboard_bus::records::{Body, Entry, Reading};
use switchboard_proto::format::FORMAT;
use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};

use crate::follow::Writes;
use crate::metrics::PersistenceMetrics;
use crate::store::{DeadLetter, LogStore, Progress, Row, StoreError, Written};

/// Writes what a durable reader of the log reads.
pub struct Writer {
    store: Arc<dyn LogStore>,
    metrics: PersistenceMetrics,
    /// By shard: up to where it was written here, and by whom the last record that counts was.
    known: Mutex<HashMap<ShardId, (LogEpoch, Sequence, OwnerEpoch)>>,
    /// What followers wait for.
    writes: Arc<Writes>,
    /// Bytes of records that are much for one write.
    much: usize,
}

impl Writer {
    /// Writes into `store`.
    pub fn new(store: Arc<dyn LogStore>, metrics: PersistenceMetrics) -> Self {
        Self {
            store,
            metrics,
            known: Mutex::default(),
            writes: Arc::default(),
            much: usize::MAX,
        }
    }

    /// Tells followers of what is written. Batches of `much` bytes or more tell them to wait.
    #[must_use]
    pub(crate) fn telling(self, writes: Arc<Writes>, much: usize) -> Self {
        Self { writes, much, ..self }
    }

    /// Who had written the last record that counts before the batch (rule L2).
    async fn owner_epoch(&self, batch: &Batch) -> Result<OwnerEpoch, HandleError> {
        let known = self.known.lock().get(&batch.shard).copied();
        if let Some((log, at, owner_epoch)) = known
            && (log, at) == (batch.log, batch.after)
        {
            return Ok(owner_epoch);
        }
        let stored = self.store.progress(batch.shard, batch.log).await?;
        let stored = stored.unwrap_or(Progress::START);
        if stored.read_to != batch.after {
            // Another replica is further, or the store went back. Reading begins anew where the store is.
            return Err(format!("the store is at {}, not at {}", stored.read_to, batch.after).into());
        }
        Ok(stored.owner_epoch)
    }

    async fn write(&self, batch: &Batch) -> Result<(), HandleError> {
        let (Some(first), Some(last)) = (batch.records.first(), batch.records.last()) else {
            return Ok(());
        };
        let after = Sequence(first.sequence.0.saturating_sub(1));
        let mut reading = Reading::after(self.owner_epoch(batch).await?);
        let mut written = Written {
            shard: batch.shard,
            log: batch.log,
            read_after: batch.after,
            after,
            up_to: last.sequence,
            owner_epoch: OwnerEpoch(0),
            rows: Vec::new(),
            dead: Vec::new(),
        };
        // Where records end among rows and dead letters, for a store that refuses one of them.
        let mut parts = Vec::with_capacity(batch.records.len());
        let mut hidden = BTreeMap::new();
        for at in &batch.records {
            decode(&mut reading, at, &mut written, &mut hidden)?;
            parts.push((
                at.sequence,
                reading.owner_epoch(),
                written.rows.len(),
                written.dead.len(),
            ));
        }
        written.owner_epoch = reading.owner_epoch();
        // Before how far the shard is: a mark that was read is there.
        let hidden: Vec<(String, Offset)> = hidden.into_iter().collect();
        self.store.hide(batch.log, &hidden).await?;
        match self.store.write(&written).await {
            Ok(_) => {}
            Err(StoreError::Data(error)) => {
                tracing::error!(shard = %batch.shard, %error, "the store refuses a message, records are written one by one");
                self.one_by_one(&written, &parts).await?;
            }
            Err(error) => return Err(error.into()),
        }
        self.metrics.rows.inc_by(written.rows.len() as u64);
        self.metrics.dead_letters.inc_by(written.dead.len() as u64);
        let progress = (batch.log, last.sequence, reading.owner_epoch());
        self.known.lock().insert(batch.shard, progress);
        Ok(())
    }

    /// Writes each record by itself. The messages of one that the store refuses become dead letters.
    async fn one_by_one(
        &self,
        written: &Written,
        parts: &[(Sequence, OwnerEpoch, usize, usize)],
    ) -> Result<(), StoreError> {
        let (mut rows, mut dead) = (0, 0);
        let mut after = written.after;
        for &(up_to, owner_epoch, rows_end, dead_end) in parts {
            let mut one = Written {
                read_after: if after == written.after {
                    written.read_after
                } else {
                    after
                },
                after,
                up_to,
                owner_epoch,
                rows: written.rows.get(rows..rows_end).unwrap_or_default().to_vec(),
                dead: written.dead.get(dead..dead_end).unwrap_or_default().to_vec(),
                ..*written
            };
            let refusal = match self.store.write(&one).await {
                Ok(_) => None,
                Err(StoreError::Data(error)) => Some(error),
                Err(error) => return Err(error),
            };
            if let Some(error) = refusal {
                let refused = std::mem::take(&mut one.rows);
                self.metrics.dead_letters.inc_by(refused.len() as u64);
                one.dead.extend(refused.into_iter().map(|row| DeadLetter {
                    shard: written.shard,
                    log: written.log,
                    offset: row.offset,
                    reason: format!("the store refuses its record: {error}"),
                    bytes: row.message,
                }));
                self.store.write(&one).await?;
            }
            (after, rows, dead) = (up_to, rows_end, dead_end);
        }
        Ok(())
    }
}

/// Formats that newer releases may write, as far as this one believes it: a first byte beyond these is no format.
const NEWER: std::ops::RangeInclusive<u8> = FORMAT + 1..=FORMAT + 8;

/// What a record brings. One of a newer format is nobody's to pass over: it is read by a newer release.
fn decode(
    reading: &mut Reading,
    at: &RecordAt,
    written: &mut Written,
    hidden: &mut BTreeMap<String, Offset>,
) -> Result<(), HandleError> {
    if at.record.first().is_some_and(|format| NEWER.contains(format)) {
        return Err(format!("record {} is of a newer format: update this process", at.sequence).into());
    }
    let damaged = reading.damaged();
    let body = reading.record(at);
    let dead = |index, reason: &str, bytes| DeadLetter {
        shard: written.shard,
        log: written.log,
        offset: Offset::new(at.sequence, index),
        reason: reason.to_owned(),
        bytes,
    };
    if reading.damaged() > damaged {
        let letter = dead(0, "not a record", at.record.clone());
        written.dead.push(letter);
        return Ok(());
    }
    let entries = match body {
        Some(Body::Batch(entries)) => entries,
        Some(Body::State(state)) => {
            for mark in state.hidden {
                if !mark.channel.contains('\0') {
                    let up_to = hidden.entry(mark.channel).or_default();
                    *up_to = Offset::from_u64(mark.up_to).max(*up_to);
                }
            }
            return Ok(());
        }
        Some(Body::Fence | Body::Closed) | None => return Ok(()),
    };
    for (index, entry) in entries.into_iter().enumerate() {
        let letter = match row(at.sequence, index, reading.head.time_us, &entry) {
            Ok(row) => {
                written.rows.push(row);
                continue;
            }
            Err(reason) => DeadLetter {
                shard: written.shard,
                log: written.log,
                offset: Offset::new(at.sequence, index),
                reason: reason.to_owned(),
                bytes: entry.encoded,
            },
        };
        written.dead.push(letter);
    }
    Ok(())
}

fn row(sequence: Sequence, index: usize, time_us: u64, entry: &Entry) -> Result<Row, &'static str> {
    let message = &entry.message;
    if message.channel.is_empty() {
        return Err("not a message, or one without a channel");
    }
    let sender = message.sender.as_ref().map_or("", |sender| sender.user.as_str());
    if message.channel.contains('\0') || sender.contains('\0') {
        return Err("a zero byte in its channel's or its sender's name, which no database takes");
    }
    Ok(Row {
        offset: Offset::new(sequence, index),
        time_us,
        channel: message.channel.clone(),
        sender: (!sender.is_empty()).then(|| sender.to_owned()),
        message: entry.encoded.clone(),
        change: message.change.clone(),
    })
}

#[async_trait]
impl Handler for Writer {
    async fn position(&self, shard: ShardId, log: LogEpoch) -> Result<Option<Sequence>, HandleError> {
        let progress = self.store.progress(shard, log).await?;
        Ok(Some(progress.map_or(Sequence(0), |progress| progress.read_to)))
    }

    async fn handle(&self, batch: &Batch) -> Result<(), HandleError> {
        let written = self.write(batch).await;
        if written.is_err() {
            self.metrics.failures.inc();
            self.writes.is_hindered();
        } else {
            let bytes: usize = batch.records.iter().map(|at| at.record.len()).sum();
            self.writes.wrote(bytes >= self.much);
        }
        written
    }
}

#[cfg(test)]
mod tests;
