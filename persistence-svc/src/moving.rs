//! Moving an installation: all that its store holds goes into a folder, and from there into another store.
//!
//! Messages are taken as rows of each life of each log, in order, and are written on the other side as if they were read from that log: so all
//! that is derived from messages is derived again there, and what came before stays before, as long as logs that are in force there have higher
//! ordinals. Beside them goes what messages do not tell: holds, erasures, hidden marks, receipts, members and channels whose messages expired.
//!
//! The manifest `export.json` is written last, so half an export has none; and nothing is written into a store before every file was
//! read and compared with it.

mod beside;
mod export;
mod import;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use serde::{Deserialize, Serialize};

use crate::keeping::KeepError;
use crate::keeping::archive::ArchiveError;
use crate::keeping::packed::PackError;
use crate::store::StoreError;

pub use export::export;
pub use import::{Import, Imported};

/// The version of all that is written here.
const FORMAT: u32 = 1;

/// The manifest's file.
const MANIFEST: &str = "export.json";

/// Why an installation is not moved. Each says what to do, or names the file.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is to be kept, on the other side.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The folder, or a file in it.
    #[error("folder of the export cannot be used: {0}")]
    Folder(#[from] object_store::Error),
    /// The folder cannot be made.
    #[error("folder of the export cannot be made: {0}")]
    Made(#[from] std::io::Error),
    /// What is to be written cannot be.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// There is an export already.
    #[error("the folder has an export ({MANIFEST}): name an empty one")]
    Exists,
    /// There is no export, or half of one.
    #[error(
        "the folder has no {MANIFEST}: it holds no export, or one that did not end; run `switchboard export` again"
    )]
    NoManifest,
    /// Another release wrote it.
    #[error(
        "the export has format {0}, and this release reads format {FORMAT}: export and import with one release"
    )]
    Format(u32),
    /// A file is not there.
    #[error("file {0} of the export is missing")]
    Missing(String),
    /// A file is not as it was written.
    #[error("file {0} of the export is damaged: {1}")]
    Damaged(String, String),
    /// The order of messages would not be that of their times.
    #[error(
        "messages were stored here in a log of ordinal {found}, and the export has logs up to ordinal {highest}: import into a store \
         that has none of its own yet"
    )]
    Occupied {
        /// The ordinal of a log with messages.
        found: u32,
        /// The highest one of the export.
        highest: u32,
    },
}

impl From<ArchiveError> for MoveError {
    fn from(error: ArchiveError) -> Self {
        Self::Keep(error.into())
    }
}

/// What is in the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// When it was written, in Unix microseconds.
    pub written_us: u64,
    /// Messages.
    pub messages: u64,
    /// Each life of each shard's log of which the store has something.
    pub logs: Vec<ExportedLog>,
    /// Holds and erasures.
    pub acts: FileTold,
    /// What messages do not tell.
    pub beside: Vec<FileTold>,
}

/// One life of a shard's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedLog {
    /// The shard, of the layout that was in force then.
    pub shard: u32,
    /// Its life, as clients see it.
    pub epoch: String,
    /// Up to this record it was read into the store.
    pub read_to: u64,
    /// Of the last record that counts.
    pub owner_epoch: u64,
    /// Records that were gone before they were read, the first and the last of each stretch; the first hundred.
    pub holes: Vec<(u64, u64)>,
    /// Its messages, in the order of the log. None begins within a record.
    pub files: Vec<FileTold>,
}

/// A file of lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTold {
    /// Its name in the folder.
    pub name: String,
    /// Lines.
    pub lines: u64,
    /// Bytes.
    pub bytes: u64,
    /// Of its bytes, in hexadecimal.
    pub sha256: String,
}

/// The folder.
#[derive(Clone)]
pub struct Folder(Arc<dyn ObjectStore>);

impl Folder {
    /// One to export into; it is made where it is missing.
    ///
    /// # Errors
    /// [`MoveError::Made`].
    pub fn create(path: &Path) -> Result<Self, MoveError> {
        std::fs::create_dir_all(path)?;
        Self::open(path)
    }

    /// One that is there.
    ///
    /// # Errors
    /// [`MoveError::Folder`].
    pub fn open(path: &Path) -> Result<Self, MoveError> {
        // What was moved may be deleted where it came from.
        let files = LocalFileSystem::new_with_prefix(path)?.with_fsync(true);
        Ok(Self(Arc::new(files)))
    }

    /// A file; `None`: it is not there.
    async fn get(&self, name: &str) -> Result<Option<Bytes>, MoveError> {
        match self.0.get(&name.into()).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), MoveError> {
        self.0.put(&name.into(), PutPayload::from(bytes)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
