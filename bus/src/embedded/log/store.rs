//! How the log lies in its folder.
//!
//! The file [`FORMAT_FILE`] names the format of the rest, as a line of text, so that it can be read
//! whatever the rest has become. It is written last when a folder is made: what it promises and is
//! not there was lost. The rest is the store's:
//!
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `meta` | `layout` | the layout record, behind its own format byte |
//! | `meta` | `epoch/<shard>` | the log epoch, as text |
//! | `meta` | `start/<shard>` | first sequence and the bytes of all records before it |
//! | `log-<ordinal>-<shard>` | sequence | bytes of all records up to and with this one, the record |
//!
//! Numbers are 8 bytes, big endian. The running count of bytes makes a log's size known without
//! reading it. A keyspace per shard keeps keys ascending, so that compaction hardly rewrites; its
//! name carries the ordinal, so that a log made anew shares nothing with the old one (rule L5).

use std::fs::File;
use std::io::{ErrorKind, Write as _};
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
const STORE_FORMAT: u64 = 1;

/// See above.
const FORMAT_FILE: &str = "switchboard-log-format";

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
        let is_new = !has_format(dir)?;
        let database = Database::builder(dir)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(WORKERS)
            .open()
            .map_err(failed)?;
        let broken = |reason: String| OpenError::Damaged {
            path: dir.to_owned(),
            reason,
        };
        // The store itself would go on with an empty folder.
        if !is_new && !database.keyspace_exists("meta") {
            return Err(broken("its keyspaces are gone".to_owned()));
        }
        let meta = database
            .keyspace("meta", || {
                KeyspaceCreateOptions::default().max_memtable_size(1 << 20)
            })
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
        let layout = store.get("layout").map_err(failed)?;
        if is_new {
            if layout.is_some() {
                return Err(broken(format!("its file {FORMAT_FILE} is gone")));
            }
            note_format(dir).map_err(|source| OpenError::of_io(dir.to_owned(), source))?;
        }
        let Some(layout) = layout else {
            return Ok((store, Vec::new()));
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
        let text = self
            .get(&format!("epoch/{shard}"))
            .map_err(damaged)?
            .ok_or_else(wrong)?;
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

/// Whether the folder was made already, by a release whose format this one reads.
fn has_format(dir: &Path) -> Result<bool, OpenError> {
    let path = dir.to_owned();
    let text = match std::fs::read(dir.join(FORMAT_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(OpenError::of_io(path, error)),
    };
    let found = std::str::from_utf8(&text)
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    match found {
        Some(found) if found == STORE_FORMAT => Ok(true),
        Some(found) if found > STORE_FORMAT => Err(OpenError::Newer {
            path,
            found: format!("format {found}"),
        }),
        _ => Err(OpenError::Damaged {
            path,
            reason: format!("its file {FORMAT_FILE} holds no format"),
        }),
    }
}

/// Notes the format, whole or not at all.
fn note_format(dir: &Path) -> std::io::Result<()> {
    let unfinished = dir.join(format!("{FORMAT_FILE}.new"));
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{STORE_FORMAT}")?;
    file.sync_all()?;
    std::fs::rename(&unfinished, dir.join(FORMAT_FILE))?;
    File::open(dir)?.sync_all()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Result<(Store, Vec<Writer>), OpenError> {
        Store::open(folder, EmbeddedDurability::Memory, None)
    }

    fn layout() -> Layout {
        Layout {
            shards: 2,
            hash: "none".to_owned(),
            created_us: 1,
        }
    }

    /// A folder whose `meta` holds `value` at `key`.
    fn folder_with(key: &str, value: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = open(folder.path()).unwrap();
        store.create(&layout()).unwrap();
        store.meta.insert(key, value).unwrap();
        folder
    }

    fn refusal(folder: &tempfile::TempDir) -> OpenError {
        open(folder.path()).err().unwrap()
    }

    #[test]
    fn newer_release_is_refused_and_named() {
        let newer_layout = folder_with("layout", &[format::FORMAT + 1, 1, 2, 3]);
        let newer_store = folder_with("other", &[]);
        std::fs::write(newer_store.path().join(FORMAT_FILE), "2\n").unwrap();
        for (folder, found) in [(newer_layout, "layout format 2"), (newer_store, "format 2")] {
            let error = refusal(&folder);
            assert!(matches!(error, OpenError::Newer { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains(found) && text.contains("start that release"),
                "{text}"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_damage() {
        let undecodable = [format::FORMAT, 0xff];
        for (key, value) in [
            ("layout", &undecodable[..]),
            ("epoch/1", b"first"),
            ("start/0", &[9; 16]),
            ("start/0", &[9; 3]),
        ] {
            let error = refusal(&folder_with(key, value));
            assert!(matches!(error, OpenError::Damaged { .. }), "{key}: {error}");
        }
    }

    #[test]
    fn what_is_gone_is_damage_and_not_a_new_log() {
        let folder = folder_with("other", &[]);
        std::fs::write(folder.path().join(FORMAT_FILE), "old").unwrap();
        assert!(refusal(&folder).to_string().contains("holds no format"));
        std::fs::remove_file(folder.path().join(FORMAT_FILE)).unwrap();
        assert!(refusal(&folder).to_string().contains("is gone"));
        let folder = folder_with("other", &[]);
        std::fs::remove_dir_all(folder.path().join("keyspaces")).unwrap();
        assert!(refusal(&folder).to_string().contains("are gone"));
    }

    #[test]
    fn creation_that_was_cut_off_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = open(folder.path()).unwrap();
        let epoch = LogEpoch {
            ordinal: 1,
            random: 7,
        };
        store.keyspace(ShardId::new(0).unwrap(), epoch).unwrap();
        drop(store);
        let (store, writers) = open(folder.path()).unwrap();
        assert!(writers.is_empty() && store.layout().is_none());
        assert_eq!(store.create(&layout()).unwrap().len(), 2);
    }

    #[test]
    fn joined_is_split_again() {
        let value = Slice::from(joined(7, b"record"));
        assert_eq!(split(value).unwrap(), (7, Bytes::from_static(b"record")));
        assert!(split(Slice::from(&b"short"[..])).is_err());
    }
}
