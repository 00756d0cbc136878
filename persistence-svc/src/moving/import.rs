//! From a folder into a store.

use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use switchboard_proto::bus::Message;
use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};

use super::beside::{Beside, Line};
use super::{ExportedLog, FORMAT, FileTold, Folder, MANIFEST, Manifest, MoveError};
use crate::keeping::Keeper;
use crate::keeping::archive::Act;
use crate::keeping::packed::{self, unpack};
use crate::store::keeping::{Kept, Subject};
use crate::store::{Row, Store, Written};

/// Messages of one write, about, and bytes of them.
const WRITE_ROWS: usize = 1000;
const WRITE_BYTES: usize = 4 << 20;

/// An export that was read and compared with its manifest.
pub struct Import {
    folder: Folder,
    manifest: Manifest,
    logs: Vec<Log>,
}

/// What an import brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// Messages; those that were there count as well.
    pub messages: u64,
    /// Lives of logs.
    pub logs: usize,
}

/// A life of a shard's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Log {
    shard: ShardId,
    epoch: LogEpoch,
}

/// What can be read of every format.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Import {
    /// Opens an export, and reads all of it: there is no file that is missing or damaged.
    ///
    /// # Errors
    /// [`MoveError`].
    pub async fn open(folder: Folder) -> Result<Self, MoveError> {
        let damaged = |error: String| MoveError::Damaged(MANIFEST.to_owned(), error);
        let said = folder.get(MANIFEST).await?.ok_or(MoveError::NoManifest)?;
        let Format { format } = serde_json::from_slice(&said).map_err(|error| damaged(error.to_string()))?;
        if format != FORMAT {
            return Err(MoveError::Format(format));
        }
        let manifest: Manifest = serde_json::from_slice(&said).map_err(|error| damaged(error.to_string()))?;
        let logs = manifest.logs.iter().map(|exported| {
            let shard = ShardId::new(exported.shard);
            Ok(Log {
                shard: shard.ok_or_else(|| damaged(format!("{} as a shard", exported.shard)))?,
                epoch: packed::epoch(&exported.epoch).map_err(damaged)?,
            })
        });
        let import = Self {
            logs: logs.collect::<Result<_, MoveError>>()?,
            folder,
            manifest,
        };
        import.verify().await?;
        Ok(import)
    }

    /// What it says that it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The highest ordinal among its logs: those that are in force where it is imported have to have higher ones.
    pub fn highest_ordinal(&self) -> u32 {
        self.logs.iter().map(|log| log.epoch.ordinal).max().unwrap_or(0)
    }

    async fn verify(&self) -> Result<(), MoveError> {
        self.acts().await?;
        for file in &self.manifest.beside {
            self.beside(file).await?;
        }
        for (exported, log) in self.manifest.logs.iter().zip(&self.logs) {
            let mut after = Sequence(0);
            for file in &exported.files {
                let rows = self.rows(file, *log).await?;
                let order = rows.iter().map(|row| row.place.offset);
                let (first, last) = (rows.first(), rows.last());
                let is_ordered = order.is_sorted_by(|one, next| one < next)
                    && first.is_some_and(|first| record(first.place.offset) > after)
                    && last.is_some_and(|last| record(last.place.offset).0 <= exported.read_to);
                if !is_ordered {
                    return Err(damaged(file, "its messages are not in the order of the log"));
                }
                after = last.map_or(after, |last| record(last.place.offset));
            }
        }
        Ok(())
    }

    async fn lines<L: DeserializeOwned>(&self, file: &FileTold) -> Result<Vec<L>, MoveError> {
        let bytes = self.folder.get(&file.name).await?;
        let bytes = bytes.ok_or_else(|| MoveError::Missing(file.name.clone()))?;
        let lines: Vec<L> =
            unpack(&bytes, file.bytes, &file.sha256).map_err(|error| damaged(file, error.to_string()))?;
        if lines.len() as u64 != file.lines {
            return Err(damaged(
                file,
                format!("{} lines instead of {}", lines.len(), file.lines),
            ));
        }
        Ok(lines)
    }

    async fn rows(&self, file: &FileTold, log: Log) -> Result<Vec<Kept>, MoveError> {
        let lines: Vec<packed::Line> = self.lines(file).await?;
        let rows = lines.into_iter().map(packed::Line::kept);
        let rows: Vec<Kept> = rows.collect::<Result<_, _>>().map_err(|why| damaged(file, why))?;
        let is_of_log = |row: &Kept| (row.shard, row.place.log) == (log.shard, log.epoch);
        match rows.iter().all(is_of_log) {
            true => Ok(rows),
            false => Err(damaged(file, "it has messages of another log")),
        }
    }

    async fn beside(&self, file: &FileTold) -> Result<Vec<Beside>, MoveError> {
        let lines: Vec<Line> = self.lines(file).await?;
        let lines = lines.into_iter().map(Line::beside);
        lines.collect::<Result<_, _>>().map_err(|why| damaged(file, why))
    }

    async fn acts(&self) -> Result<Vec<Act>, MoveError> {
        let acts: Vec<Act> = self.lines(&self.manifest.acts).await?;
        let is_known = |act: &Act| match act {
            Act::Hold { kind, name, .. } | Act::Lift { kind, name, .. } => Subject::new(kind, name).is_some(),
            Act::Erase { .. } => true,
        };
        match acts.iter().all(is_known) {
            true => Ok(acts),
            false => Err(damaged(&self.manifest.acts, "a hold of a kind that there is not")),
        }
    }

    /// Whether the store's own messages, if it has any, come behind all of these.
    ///
    /// # Errors
    /// [`MoveError::Occupied`] where they do not.
    pub async fn fits(&self, store: &dyn Store) -> Result<(), MoveError> {
        let highest = self.highest_ordinal();
        for log in store.behind("").await? {
            let own = Log {
                shard: log.shard,
                epoch: log.log,
            };
            if own.epoch.ordinal > highest || self.logs.contains(&own) {
                continue;
            }
            let first = store
                .log_rows((own.shard, own.epoch), Offset::from_u64(0), log.stored_to, 1)
                .await?;
            if !first.is_empty() {
                return Err(MoveError::Occupied {
                    found: own.epoch.ordinal,
                    highest,
                });
            }
        }
        Ok(())
    }

    /// Writes everything into the store. What is there already is passed over, so it may be given up at any moment and begun anew.
    /// `keeper` is of the same store: it takes holds and erasures over. Calls `tell` with each log that is done.
    ///
    /// # Errors
    /// [`MoveError`]; what was written until then stays.
    pub async fn write(
        &self,
        store: &dyn Store,
        keeper: &Keeper,
        mut tell: impl FnMut(&ExportedLog),
    ) -> Result<Imported, MoveError> {
        self.fits(store).await?;
        // First what keeps or blanks messages, and what they are shown by; and members, for an old event counts where nothing newer is known.
        let acts = self.acts().await?;
        let forgotten = forgotten(store, &acts).await?;
        keeper.take_over(acts).await?;
        for file in &self.manifest.beside {
            take_beside(store, self.beside(file).await?, &forgotten).await?;
        }
        for (exported, log) in self.manifest.logs.iter().zip(&self.logs) {
            self.write_log(store, exported, *log).await?;
            tell(exported);
        }
        Ok(Imported {
            messages: self.manifest.messages,
            logs: self.logs.len(),
        })
    }

    async fn write_log(&self, store: &dyn Store, exported: &ExportedLog, log: Log) -> Result<(), MoveError> {
        let mut reading = Reading {
            store,
            log,
            owner_epoch: OwnerEpoch(exported.owner_epoch),
            read_to: Sequence(0),
            holes: exported.holes.iter().copied().rev().collect(),
        };
        for file in &exported.files {
            let rows = self.rows(file, log).await?;
            let mut rows = rows.as_slice();
            while !rows.is_empty() {
                let (batch, rest) = rows.split_at(batch(rows));
                let up_to = batch
                    .last()
                    .map_or(reading.read_to, |last| record(last.place.offset));
                reading.write(batch, up_to).await?;
                rows = rest;
            }
        }
        reading.write(&[], Sequence(exported.read_to)).await
    }
}

/// How many of these messages are one write: whole records of about so many.
fn batch(rows: &[Kept]) -> usize {
    let mut bytes = 0;
    let enough = rows.iter().enumerate().position(|(at, row)| {
        bytes += row.message.len();
        at + 1 >= WRITE_ROWS || bytes >= WRITE_BYTES
    });
    let Some(last) = enough.and_then(|at| rows.get(at)) else {
        return rows.len();
    };
    rows.partition_point(|row| record(row.place.offset) <= record(last.place.offset))
}

fn record(offset: Offset) -> Sequence {
    offset.sequence()
}

fn damaged(file: &FileTold, why: impl Into<String>) -> MoveError {
    MoveError::Damaged(file.name.clone(), why.into())
}

/// A log that is written as if it were read.
struct Reading<'a> {
    store: &'a dyn Store,
    log: Log,
    owner_epoch: OwnerEpoch,
    /// What was written.
    read_to: Sequence,
    /// What lies behind and was never there, the last first.
    holes: Vec<(u64, u64)>,
}

impl Reading<'_> {
    /// Writes what is behind `read_to`, up to `up_to`. A hole begins another write.
    async fn write(&mut self, mut rows: &[Kept], up_to: Sequence) -> Result<(), MoveError> {
        while self.read_to < up_to {
            let read_after = self.read_to;
            let mut after = read_after;
            while let Some((_, last)) = self.holes.pop_if(|(first, _)| *first <= after.next().0) {
                after = Sequence(last).max(after);
            }
            let next_hole = self
                .holes
                .last()
                .map_or(u64::MAX, |(first, _)| first.saturating_sub(1));
            let end = up_to.min(Sequence(next_hole)).max(after);
            let (now, rest) = rows.split_at(rows.partition_point(|row| record(row.place.offset) <= end));
            let written = Written {
                shard: self.log.shard,
                log: self.log.epoch,
                read_after,
                after,
                up_to: end,
                owner_epoch: self.owner_epoch,
                rows: now.iter().map(row).collect(),
                dead: Vec::new(),
            };
            self.store.write(&written).await?;
            rows = rest;
            self.read_to = end;
        }
        Ok(())
    }
}

/// As the log has it.
fn row(kept: &Kept) -> Row {
    // What does not decode changes nothing.
    let message = Message::decode(kept.message.clone()).unwrap_or_default();
    Row {
        offset: kept.place.offset,
        time_us: kept.time_us,
        channel: kept.channel.clone(),
        sender: kept.sender.clone(),
        message: kept.message.clone(),
        change: message.change,
    }
}

/// Users who were erased here since the export was made, which does not know of it: what they were in it they are no more. Events and
/// messages tell when they are of, and need no such list.
async fn forgotten(store: &dyn Store, acts: &[Act]) -> Result<HashSet<String>, MoveError> {
    let mut known: HashMap<&str, u64> = HashMap::new();
    for act in acts {
        if let Act::Erase { at_us, user } = act {
            let at = known.entry(user).or_default();
            *at = (*at).max(*at_us);
        }
    }
    let erasures = store.erasures().await?.into_iter();
    Ok(erasures
        .filter(|erasure| {
            known
                .get(erasure.user.as_str())
                .is_none_or(|at_us| *at_us < erasure.until_us)
        })
        .map(|erasure| erasure.user)
        .collect())
}

async fn take_beside(
    store: &dyn Store,
    lines: Vec<Beside>,
    forgotten: &HashSet<String>,
) -> Result<(), MoveError> {
    let (mut heads, mut members, mut marks) = (Vec::new(), Vec::new(), Vec::new());
    let mut hidden: BTreeMap<(u32, u32), Vec<(String, Offset)>> = BTreeMap::new();
    for line in lines {
        match line {
            Beside::Head(head) => heads.push(head),
            Beside::Member(member) if forgotten.contains(&member.user) => {}
            Beside::Receipt(mark) if forgotten.contains(&mark.user) => {}
            Beside::Member(member) => members.push(member),
            Beside::Receipt(mark) => marks.push(mark),
            Beside::Hidden(channel, place) => {
                let log = (place.log.ordinal, place.log.random);
                hidden.entry(log).or_default().push((channel, place.offset));
            }
        }
    }
    store.take_heads(&heads, forgotten).await?;
    store.take_members(&members).await?;
    if !marks.is_empty() {
        store.mark(&marks).await?;
    }
    for ((ordinal, random), marks) in hidden {
        store.hide(LogEpoch { ordinal, random }, &marks).await?;
    }
    Ok(())
}
