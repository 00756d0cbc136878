//! How the log lies in its folder.
//!
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `meta` | `format` | one byte, [`STORE_FORMAT`] |
//! | `meta` | `layout` | the layout record, behind its own format byte |
//! | `meta` | `epoch/<shard>` | the log epoch, as text |
//! | `meta` | `start/<shard>` | first sequence and the bytes of all records before it |
//! | `log-<ordinal>-<shard>` | sequence | bytes of all records up to and with this one, the record |
//!
//! Numbers are 8 bytes, big endian. The running count of bytes makes a log's size known without
//! reading it. A keyspace per shard keeps keys ascending, so that compaction hardly rewrites; its
//! name carries the ordinal, so that a log made anew shares nothing with the old one (rule L5).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch as WriteBatch, PersistMode, Slice};
use parking_lot::RwLock;
use switchboard_proto::bus::Layout;
use switchboard_proto::format;
use switchboard_proto::ids::{LogEpoch, ShardCount, ShardId};
use tokio::sync::watch;

use super::EmbeddedDurability;
use crate::log::LogError;

/// The newest layout of the folder that this release reads, and the one it writes.
const STORE_FORMAT: u8 = 1;

/// Memory for one shard's records that are in the journal but not yet in a table.
const MEMTABLE_BYTES: u64 = 8 << 20;

/// Journal files on disk, which also bounds all memtables together.
const JOURNAL_BYTES: u64 = 128 << 20;

/// Cache for blocks of tables. The newest records are in memtables and need none.
const CACHE_BYTES: u64 = 16 << 20;

/// Threads that flush and compact.
const WORKERS: usize = 2;

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be created or written.
    #[error(
        "log folder {} cannot be written: {source}; make it writable or configure another one",
        path.display()
    )]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error(
        "log folder {} is in use by another process; stop that one or configure another folder",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A newer release wrote it.
    #[error(
        "log folder {} was written by a newer release ({found}, this release reads up to {STORE_FORMAT}); \
         start that release, or configure another folder",
        path.display()
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The format found.
        found: String,
    },
    /// What is in it cannot be understood.
    #[error(
        "log folder {} is damaged: {reason}; restore it from a backup, or move it away to begin anew without its messages",
        path.display()
    )]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The machine refused something else.
    #[error("log folder {} cannot be opened: {reason}", path.display())]
    Failed {
        /// The folder.
        path: PathBuf,
        /// What the operating system says.
        reason: String,
    },
}

impl OpenError {
    fn of(path: &Path, error: fjall::Error) -> Self {
        let path = path.to_owned();
        match error {
            fjall::Error::Locked => Self::InUse { path },
            fjall::Error::InvalidVersion(None) => Self::Newer {
                path,
                found: "unknown store version".to_owned(),
            },
            fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => {
                Self::of_io(path, source)
            }
            other => Self::Damaged {
                path,
                reason: other.to_string(),
            },
        }
    }

    fn of_io(path: PathBuf, source: std::io::Error) -> Self {
        match source.kind() {
            ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotADirectory
            | ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded => Self::Unwritable { path, source },
            // A file that the store expects is missing, cut off, or there when it is to be made.
            ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::UnexpectedEof
            | ErrorKind::InvalidData => Self::Damaged {
                path,
                reason: source.to_string(),
            },
            _ => Self::Failed {
                path,
                reason: source.to_string(),
            },
        }
    }
}

/// An open folder.
pub(super) struct Store {
    database: Database,
    meta: Keyspace,
    durability: PersistMode,
    max_bytes: Option<u64>,
    layout: RwLock<Option<Layout>>,
    shards: RwLock<Shards>,
}

/// The shards' logs, by number. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Shards(Arc<[Arc<Shard>]>);

impl Shards {
    pub(super) fn get(&self, shard: ShardId) -> Option<Arc<Shard>> {
        self.0.get(usize::from(shard.get())).cloned()
    }
}

/// One shard's log, as readers see it.
pub(super) struct Shard {
    epoch: LogEpoch,
    records: Keyspace,
    extent: watch::Receiver<Extent>,
}

/// One shard's log, as the committing thread sees it.
pub(super) struct Writer {
    pub(super) records: Keyspace,
    /// What is committed; the thread stages changes in a copy.
    pub(super) committed: watch::Sender<Extent>,
}

/// Where a log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first record still there; `last + 1` where none is.
    pub(super) first: u64,
    /// The last record; 0 where none ever was.
    pub(super) last: u64,
    /// Bytes of all records before `first`.
    pub(super) bytes_before: u64,
    /// Bytes of all records up to `last`.
    pub(super) bytes_end: u64,
}

impl Extent {
    const EMPTY: Self = Self {
        first: 1,
        last: 0,
        bytes_before: 0,
        bytes_end: 0,
    };

    /// Bytes of the records that are there.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes_end.saturating_sub(self.bytes_before)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("durability", &self.durability)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("epoch", &self.epoch)
            .field("extent", &*self.extent.borrow())
            .finish_non_exhaustive()
    }
}

impl Shard {
    pub(super) fn epoch(&self) -> LogEpoch {
        self.epoch
    }

    pub(super) fn extent(&self) -> Extent {
        *self.extent.borrow()
    }

    /// Changes whenever [`Shard::extent`] does; closed with the log.
    pub(super) fn watch(&self) -> watch::Receiver<Extent> {
        self.extent.clone()
    }

    /// The record at `sequence`, if it is committed and there. Blocks on the disk.
    pub(super) fn record(&self, sequence: u64) -> Result<Option<Bytes>, LogError> {
        // The store shows a record a moment before its commit is complete.
        if sequence > self.extent().last {
            return Ok(None);
        }
        let value = self.records.get(sequence.to_be_bytes()).map_err(damaged)?;
        value.map(|value| Ok(split(value)?.1)).transpose()
    }

    /// Records from `from` to `to`, at most about `bytes` of them but at least one. Blocks on the
    /// disk.
    pub(super) fn records(&self, from: u64, to: u64, bytes: usize) -> Result<Vec<(u64, Bytes)>, LogError> {
        let mut found = Vec::new();
        let mut taken = 0;
        for guard in self.records.range(from.to_be_bytes()..=to.to_be_bytes()) {
            let (key, value) = guard.into_inner().map_err(damaged)?;
            let (_, record) = split(value)?;
            taken += record.len();
            found.push((number(&key)?, record));
            if taken >= bytes {
                break;
            }
        }
        Ok(found)
    }
}

impl Store {
    /// Opens or creates the folder. The writers are the committing thread's, by shard.
    pub(super) fn open(
        dir: &Path,
        durability: EmbeddedDurability,
        max_bytes: Option<u64>,
    ) -> Result<(Self, Vec<Writer>), OpenError> {
        let failed = |error| OpenError::of(dir, error);
        std::fs::create_dir_all(dir).map_err(|source| OpenError::Unwritable {
            path: dir.to_owned(),
            source,
        })?;
        let database = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(WORKERS)
            .open()
            .map_err(failed)?;
        let meta = database
            .keyspace("meta", || KeyspaceCreateOptions::default().max_memtable_size(1 << 20))
            .map_err(failed)?;
        let store = Self {
            database,
            meta,
            durability: match durability {
                EmbeddedDurability::Memory => PersistMode::Buffer,
                EmbeddedDurability::Synced => PersistMode::SyncData,
            },
            max_bytes,
            layout: RwLock::default(),
            shards: RwLock::default(),
        };
        store.check_format(dir)?;
        let Some(layout) = store.get("layout").map_err(failed)? else {
            return Ok((store, Vec::new()));
        };
        let broken = |reason: String| OpenError::Damaged {
            path: dir.to_owned(),
            reason,
        };
        let layout: Layout = match format::decode(layout.into()) {
            Ok(layout) => layout,
            Err(format::FormatError::Newer { found }) => {
                return Err(OpenError::Newer {
                    path: dir.to_owned(),
                    found: format!("layout format {found}"),
                });
            }
            Err(other) => return Err(broken(format!("layout record: {other}"))),
        };
        let writers = store
            .open_shards(&layout)
            .map_err(|error| broken(error.to_string()))?;
        *store.layout.write() = Some(layout);
        Ok((store, writers))
    }

    fn check_format(&self, dir: &Path) -> Result<(), OpenError> {
        let failed = |error| OpenError::of(dir, error);
        match self.get("format").map_err(failed)?.as_deref() {
            Some([STORE_FORMAT]) => Ok(()),
            Some([newer]) if *newer > STORE_FORMAT => Err(OpenError::Newer {
                path: dir.to_owned(),
                found: format!("format {newer}"),
            }),
            Some(_) => Err(OpenError::Damaged {
                path: dir.to_owned(),
                reason: "unknown format".to_owned(),
            }),
            None if self.database.keyspace_count() > 1 => Err(OpenError::Damaged {
                path: dir.to_owned(),
                reason: "no format is noted".to_owned(),
            }),
            None => {
                let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
                batch.insert(&self.meta, "format", [STORE_FORMAT]);
                batch.commit().map_err(failed)
            }
        }
    }

    fn get(&self, key: &str) -> fjall::Result<Option<Slice>> {
        self.meta.get(key)
    }

    pub(super) fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    pub(super) fn layout(&self) -> Option<Layout> {
        self.layout.read().clone()
    }

    pub(super) fn shards(&self) -> Shards {
        self.shards.read().clone()
    }

    /// A batch that is as durable as configured once committed.
    pub(super) fn batch(&self) -> WriteBatch {
        self.database.batch().durability(Some(self.durability))
    }

    /// Notes in `batch` that a log now begins at `extent.first`.
    pub(super) fn put_start(&self, batch: &mut WriteBatch, shard: ShardId, extent: &Extent) {
        let mut value = BytesMut::with_capacity(16);
        value.put_u64(extent.first);
        value.put_u64(extent.bytes_before);
        batch.insert(&self.meta, format!("start/{shard}"), value.freeze());
    }

    /// Creates the layout and all logs. The caller has seen that there is no layout. Logs without
    /// a layout, left by a crash in here, are empty and taken as they are.
    pub(super) fn create(&self, layout: &Layout) -> Result<Vec<Writer>, LogError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for shard in shards_of(layout)?.iter() {
            let epoch = LogEpoch {
                ordinal: 1,
                random: rand::random(),
            };
            self.keyspace(shard, epoch).map_err(damaged)?;
            batch.insert(&self.meta, format!("epoch/{shard}"), epoch.to_string());
        }
        batch.insert(&self.meta, "layout", format::encode(layout));
        batch.commit().map_err(unavailable)?;
        let writers = self.open_shards(layout)?;
        *self.layout.write() = Some(layout.clone());
        Ok(writers)
    }

    fn open_shards(&self, layout: &Layout) -> Result<Vec<Writer>, LogError> {
        let mut shards = Vec::new();
        let mut writers = Vec::new();
        for shard in shards_of(layout)?.iter() {
            let epoch = self.epoch(shard)?;
            let name = keyspace_name(shard, epoch);
            if !self.database.keyspace_exists(&name) {
                return Err(LogError::Damaged(format!("keyspace {name} is missing")));
            }
            let records = self.keyspace(shard, epoch).map_err(damaged)?;
            let (committed, extent) = watch::channel(self.extent(shard, &records)?);
            writers.push(Writer {
                records: records.clone(),
                committed,
            });
            shards.push(Arc::new(Shard {
                epoch,
                records,
                extent,
            }));
        }
        *self.shards.write() = Shards(shards.into());
        Ok(writers)
    }

    fn keyspace(&self, shard: ShardId, epoch: LogEpoch) -> fjall::Result<Keyspace> {
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        self.database.keyspace(&keyspace_name(shard, epoch), options)
    }

    fn epoch(&self, shard: ShardId) -> Result<LogEpoch, LogError> {
        let wrong = || LogError::Damaged(format!("no log epoch is noted for shard {shard}"));
        let text = self.get(&format!("epoch/{shard}")).map_err(damaged)?.ok_or_else(wrong)?;
        let text = std::str::from_utf8(&text).map_err(|_| wrong())?;
        text.parse().map_err(|_| wrong())
    }

    fn extent(&self, shard: ShardId, records: &Keyspace) -> Result<Extent, LogError> {
        let mut extent = Extent::EMPTY;
        if let Some(start) = self.get(&format!("start/{shard}")).map_err(damaged)? {
            let (first, bytes_before) = start
                .split_at_checked(8)
                .ok_or_else(|| LogError::Damaged(format!("start of shard {shard}'s log")))?;
            extent.first = number(first)?;
            extent.bytes_before = number(bytes_before)?;
        }
        if let Some(guard) = records.last_key_value() {
            let (key, value) = guard.into_inner().map_err(damaged)?;
            extent.last = number(&key)?;
            extent.bytes_end = split(value)?.0;
        }
        if extent.first > extent.last + 1 {
            return Err(LogError::Damaged(format!(
                "shard {shard}'s log begins at {} and ends at {}",
                extent.first, extent.last
            )));
        }
        Ok(extent)
    }
}

fn keyspace_name(shard: ShardId, epoch: LogEpoch) -> String {
    format!("log-{}-{shard}", epoch.ordinal)
}

fn shards_of(layout: &Layout) -> Result<ShardCount, LogError> {
    ShardCount::new(layout.shards)
        .ok_or_else(|| LogError::Damaged(format!("layout of {} shards", layout.shards)))
}

/// A record as it is stored: `bytes_end` is the running count with it.
pub(super) fn joined(bytes_end: u64, record: &[u8]) -> Bytes {
    let mut value = BytesMut::with_capacity(8 + record.len());
    value.put_u64(bytes_end);
    value.put_slice(record);
    value.freeze()
}

/// What [`joined`] put together, without a copy.
pub(super) fn split(value: Slice) -> Result<(u64, Bytes), LogError> {
    let mut value = Bytes::from(value);
    if value.len() < 8 {
        return Err(LogError::Damaged("a record without its count".to_owned()));
    }
    let count = number(&value.split_to(8))?;
    Ok((count, value))
}

fn number(bytes: &[u8]) -> Result<u64, LogError> {
    let bytes = bytes
        .try_into()
        .map_err(|_| LogError::Damaged(format!("a number of {} bytes", bytes.len())))?;
    Ok(u64::from_be_bytes(bytes))
}

pub(super) fn damaged(error: fjall::Error) -> LogError {
    match error {
        fjall::Error::Io(error) => LogError::Unavailable(error.to_string()),
        other => LogError::Damaged(other.to_string()),
    }
}

pub(super) fn unavailable(error: fjall::Error) -> LogError {
    LogError::Unavailable(error.to_string())
}
