//! How the log lies in its folder.
//!
//! Beside the file that names the format ([`super::folder`]) there are the store's own:
//!
//! | keyspace | key | value |
//! | --- | --- | --- |
//! | `meta` | `layout` | the layout record, behind its own format byte |
//! | `meta` | `epoch/<log>` | the log epoch, as text |
//! | `meta` | `reader/<name>/<shard>` | a reader's position, behind its own format byte |
//! | `meta` | `start/<log>` | first sequence and the bytes of all records before it |
//! | `log-<ordinal>-<shard>` | sequence | bytes of all records up to and with this one, the record |
//!
//! Numbers are 8 bytes, big endian. The running count of bytes makes a log's size known without
//! reading it. `<log>` is `<shard>` for the first log of a shard and `<ordinal>-<shard>` for a later one. A keyspace per log keeps keys ascending, so that compaction hardly rewrites; its
//! name carries the ordinal, so that a log made anew shares nothing with the old one (rule L5).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch as WriteBatch, PersistMode, Slice};
use parking_lot::RwLock;
use switchboard_proto::bus::Layout;
use switchboard_proto::format;
use switchboard_proto::ids::{LogEpoch, ShardCount, ShardId};
use switchboard_proto::layout::FIRST_ORDINAL;
use tokio::sync::watch;

use super::EmbeddedDurability;
use super::folder::{FORMAT_FILE, OpenError, has_format, note_format};
use super::shard::{Extent, LogName, Shard, Shards, Writer, damaged, number, split, unavailable};
use crate::log::LogError;
use crate::position::{ReaderName, ReaderPosition, StoredReader};

/// Memory for records of all shards that are in the journal but not yet in a table. A shard's part
/// is flushed when it is full, and up to four parts of a shard may wait for the disk.
const MEMTABLES_BYTES: u64 = 128 << 20;

/// Journal files on disk beside the one that is written.
const JOURNAL_BYTES: u64 = 128 << 20;

/// Cache for blocks of tables. The newest records are in memtables and need none.
const CACHE_BYTES: u64 = 16 << 20;

/// What keys of readers' positions begin with.
const READERS: &str = "reader/";

/// Threads that flush and compact.
const WORKERS: usize = 2;

/// The committing thread's side of the logs that are open.
pub(super) type Writers = BTreeMap<LogName, Writer>;

/// An open folder.
pub(super) struct Store {
    database: Database,
    meta: Keyspace,
    durability: PersistMode,
    max_bytes: Option<u64>,
    layout: RwLock<Option<Layout>>,
    /// What is committed of readers.
    positions: RwLock<BTreeMap<(ReaderName, ShardId), ReaderPosition>>,
    shards: RwLock<Shards>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("durability", &self.durability)
            .field("layout", &self.layout)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the folder, and the logs in force.
    pub(super) fn open(
        dir: &Path,
        durability: EmbeddedDurability,
        max_bytes: Option<u64>,
    ) -> Result<(Self, Writers), OpenError> {
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
            positions: RwLock::default(),
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
            return Ok((store, Writers::new()));
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
            .open_in_force(&layout)
            .map_err(|error| broken(error.to_string()))?;
        let positions = store
            .read_positions()
            .map_err(|error| broken(error.to_string()))?;
        *store.positions.write() = positions;
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

    /// The log of that name, if it is open.
    pub(super) fn log(&self, name: LogName) -> Option<Arc<Shard>> {
        self.shards.read().get(&name).cloned()
    }

    /// A batch that is as durable as configured once committed.
    pub(super) fn batch(&self) -> WriteBatch {
        self.database.batch().durability(Some(self.durability))
    }

    /// Notes in `batch` that a log now begins at `extent.first`.
    pub(super) fn put_start(&self, batch: &mut WriteBatch, log: LogName, extent: &Extent) {
        let mut value = BytesMut::with_capacity(16);
        value.put_u64(extent.first);
        value.put_u64(extent.bytes_before);
        batch.insert(&self.meta, key("start", log), value.freeze());
    }

    /// The committed position of a reader, of whichever life of the log.
    pub(super) fn position(&self, reader: &ReaderName, shard: ShardId) -> Option<ReaderPosition> {
        self.positions.read().get(&(reader.clone(), shard)).copied()
    }

    /// All of them.
    pub(super) fn positions(&self) -> Vec<StoredReader> {
        let positions = self.positions.read();
        let stored = positions.iter().map(|((reader, shard), position)| StoredReader {
            reader: reader.clone(),
            shard: *shard,
            position: *position,
        });
        stored.collect()
    }

    /// Notes in `batch` how far a reader is.
    pub(super) fn put_position(
        &self,
        batch: &mut WriteBatch,
        reader: &ReaderName,
        shard: ShardId,
        position: ReaderPosition,
    ) {
        let key = format!("{READERS}{reader}/{shard}");
        batch.insert(&self.meta, key, position.encode());
    }

    /// What was noted in a batch is committed.
    pub(super) fn moved(&self, positions: BTreeMap<(ReaderName, ShardId), ReaderPosition>) {
        self.positions.write().extend(positions);
    }

    fn read_positions(&self) -> Result<BTreeMap<(ReaderName, ShardId), ReaderPosition>, LogError> {
        let mut positions = BTreeMap::new();
        for guard in self.meta.prefix(READERS) {
            let (key, value) = guard.into_inner().map_err(damaged)?;
            let wrong = || LogError::Damaged(format!("a reader's key: {}", String::from_utf8_lossy(&key)));
            let name = std::str::from_utf8(&key).map_err(|_| wrong())?;
            let name = name.strip_prefix(READERS).and_then(|name| name.split_once('/'));
            let (reader, shard) = name.ok_or_else(wrong)?;
            let reader = ReaderName::new(reader).ok_or_else(wrong)?;
            let shard = shard.parse().ok().and_then(ShardId::new).ok_or_else(wrong)?;
            positions.insert((reader, shard), ReaderPosition::decode(value.into())?);
        }
        Ok(positions)
    }

    /// Brings a layout into force.
    pub(super) fn put_layout(&self, layout: &Layout) -> Result<(), LogError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, "layout", format::encode(layout));
        batch.commit().map_err(unavailable)?;
        *self.layout.write() = Some(layout.clone());
        Ok(())
    }

    /// Creates those logs that do not exist, and opens those that are not open; returns their
    /// writers. Keyspaces without a noted epoch, left by a crash in here, are empty and taken as they are.
    pub(super) fn create_logs(&self, layout: &Layout, shards: Vec<ShardId>) -> Result<Writers, LogError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        let count = shards.len().max(usize::try_from(layout.shards).unwrap_or(1));
        for shard in &shards {
            let log = LogName::of(layout, *shard);
            if self.get(&key("epoch", log)).map_err(damaged)?.is_some() {
                continue;
            }
            let epoch = LogEpoch {
                ordinal: log.ordinal,
                random: rand::random(),
            };
            self.keyspace(log, count).map_err(damaged)?;
            batch.insert(&self.meta, key("epoch", log), epoch.to_string());
        }
        batch.commit().map_err(unavailable)?;
        self.open_logs(layout, shards)
    }

    fn open_in_force(&self, layout: &Layout) -> Result<Writers, LogError> {
        self.open_logs(layout, shards_of(layout)?.iter().collect())
    }

    fn open_logs(&self, layout: &Layout, shards: Vec<ShardId>) -> Result<Writers, LogError> {
        let mut opened = Shards::new();
        let mut writers = Writers::new();
        let count = shards.len().max(usize::try_from(layout.shards).unwrap_or(1));
        for shard in shards {
            let log = LogName::of(layout, shard);
            if self.log(log).is_some() {
                continue;
            }
            let epoch = self.epoch(log)?;
            let name = keyspace_name(log);
            if epoch.ordinal != log.ordinal || !self.database.keyspace_exists(&name) {
                return Err(LogError::Damaged(format!("keyspace {name} is missing")));
            }
            let records = self.keyspace(log, count).map_err(damaged)?;
            let (committed, extent) = watch::channel(self.extent(log, &records)?);
            let writer = Writer {
                records: records.clone(),
                committed,
            };
            writers.insert(log, writer);
            opened.insert(log, Arc::new(Shard::new(epoch, records, extent)));
        }
        self.shards.write().extend(opened);
        Ok(writers)
    }

    /// Forgets a log and all its records. The caller drops its writer.
    pub(super) fn remove(&self, log: LogName) -> Result<(), LogError> {
        self.shards.write().remove(&log);
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.remove(&self.meta, key("epoch", log));
        batch.remove(&self.meta, key("start", log));
        batch.commit().map_err(unavailable)?;
        let name = keyspace_name(log);
        if self.database.keyspace_exists(&name) {
            let options = KeyspaceCreateOptions::default;
            let records = self.database.keyspace(&name, options).map_err(damaged)?;
            self.database.delete_keyspace(records).map_err(damaged)?;
        }
        Ok(())
    }

    /// Opens a log, or makes it as one of `shards`.
    fn keyspace(&self, log: LogName, shards: usize) -> fjall::Result<Keyspace> {
        let memtable = (MEMTABLES_BYTES / shards.max(1) as u64).clamp(256 << 10, 16 << 20);
        let options = || KeyspaceCreateOptions::default().max_memtable_size(memtable);
        self.database.keyspace(&keyspace_name(log), options)
    }

    fn epoch(&self, log: LogName) -> Result<LogEpoch, LogError> {
        let wrong = || LogError::Damaged(format!("no log epoch is noted for {}", keyspace_name(log)));
        let text = self.get(&key("epoch", log)).map_err(damaged)?.ok_or_else(wrong)?;
        let text = std::str::from_utf8(&text).map_err(|_| wrong())?;
        text.parse().map_err(|_| wrong())
    }

    fn extent(&self, log: LogName, records: &Keyspace) -> Result<Extent, LogError> {
        let mut extent = Extent::EMPTY;
        if let Some(start) = self.get(&key("start", log)).map_err(damaged)? {
            let (first, bytes_before) = start
                .split_at_checked(8)
                .ok_or_else(|| LogError::Damaged(format!("start of {}", keyspace_name(log))))?;
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
                "{} begins at {} and ends at {}",
                keyspace_name(log),
                extent.first,
                extent.last
            )));
        }
        Ok(extent)
    }
}

fn keyspace_name(log: LogName) -> String {
    format!("log-{}-{}", log.ordinal, log.shard)
}

/// A key of `meta` about a log.
fn key(what: &str, log: LogName) -> String {
    match log.ordinal {
        FIRST_ORDINAL => format!("{what}/{}", log.shard),
        ordinal => format!("{what}/{ordinal}-{}", log.shard),
    }
}

pub(super) fn shards_of(layout: &Layout) -> Result<ShardCount, LogError> {
    layout
        .shard_count()
        .ok_or_else(|| LogError::Damaged(format!("layout of {} shards", layout.shards)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Result<(Store, Writers), OpenError> {
        Store::open(folder, EmbeddedDurability::Memory, None)
    }

    fn layout() -> Layout {
        Layout {
            shards: 2,
            hash: "none".to_owned(),
            created_us: 1,
            ..Layout::default()
        }
    }

    fn both() -> Vec<ShardId> {
        shards_of(&layout()).unwrap().iter().collect()
    }

    /// A folder whose `meta` holds `value` at `key`.
    fn folder_with(key: &str, value: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = open(folder.path()).unwrap();
        store.create_logs(&layout(), both()).unwrap();
        store.put_layout(&layout()).unwrap();
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
            ("reader/persistence/0", &[9; 3]),
            ("reader/persistence", b""),
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
        let log = LogName::of(&layout(), ShardId::new(0).unwrap());
        store.keyspace(log, 2).unwrap();
        drop(store);
        let (store, writers) = open(folder.path()).unwrap();
        assert!(writers.is_empty() && store.layout().is_none());
        assert_eq!(store.create_logs(&layout(), both()).unwrap().len(), 2);
    }
}
