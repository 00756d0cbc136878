//! The archive: what expired, in files that outlive the store, and the acts that are applied again to whatever is read back.
//!
//! `messages/DAY/SHARD-….ndjson.gz` holds messages of one day and shard, a line of JSON each; `….json` beside it, the manifest, says
//! what is in it, and is written last: a file without one is what a death left behind, and its rows are in the store still. Names
//! follow from what is written, so the same again is the same file. `acts/…` are erasures and holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use serde::{Deserialize, Serialize};
use switchboard_proto::ids::{Offset, ShardId};

use super::packed::{Line, PackError, epoch, pack, sha256, unpack};
use crate::store::Place;
use crate::store::keeping::Kept;

/// The version of all that is written here.
const FORMAT: u32 = 1;

/// Files and acts, wherever they are.
#[derive(Clone)]
pub struct Archive {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
}

/// Why something was not archived, or not read back.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Where the archive is.
    #[error("archive cannot be used: {0}")]
    Unavailable(#[from] object_store::Error),
    /// A file is not what its manifest says, or is no file of the archive.
    #[error("archive file {0} is damaged: {1}")]
    Damaged(String, String),
    /// A row or manifest could not be written as JSON, or not be packed.
    #[error("archive file cannot be made: {0}")]
    Made(String),
}

impl From<PackError> for ArchiveError {
    fn from(error: PackError) -> Self {
        Self::Made(error.to_string())
    }
}

/// Something that was done to what is stored, and is done again to a store that is made anew.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "lowercase", deny_unknown_fields)]
pub enum Act {
    /// A user was erased.
    Erase {
        /// Unix microseconds.
        at_us: u64,
        /// Who.
        user: String,
    },
    /// A hold was placed.
    Hold {
        /// Unix microseconds.
        at_us: u64,
        /// `channel`, `namespace` or `user`.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A hold was lifted.
    Lift {
        /// Unix microseconds.
        at_us: u64,
        /// As of the hold.
        kind: String,
        /// Its name.
        name: String,
    },
}

/// What was done, as far as it can be read.
#[derive(Debug, Default)]
pub struct Acts {
    /// In the order of their times.
    pub acts: Vec<Act>,
    /// Of each file that is no act why not.
    pub damaged: Vec<ArchiveError>,
}

impl Act {
    fn at_us(&self) -> u64 {
        match self {
            Self::Erase { at_us, .. } | Self::Hold { at_us, .. } | Self::Lift { at_us, .. } => *at_us,
        }
    }
}

/// Where a message stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// Unix microseconds.
    pub time_us: u64,
    /// The life of the log, as clients see it.
    pub epoch: String,
    /// The offset.
    pub offset: u64,
}

impl At {
    fn of(row: &Kept) -> Self {
        Self {
            time_us: row.time_us,
            epoch: row.place.log.to_string(),
            offset: row.place.offset.get(),
        }
    }
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// The file's name, under `messages/`.
    pub file: String,
    /// Days since 1970.
    pub day: u64,
    /// The shard.
    pub shard: u32,
    /// When it was written, in Unix microseconds.
    pub written_us: u64,
    /// Messages.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Of the file's bytes, in hexadecimal.
    pub sha256: String,
    /// The first message, by time and place.
    pub first: At,
    /// The last.
    pub last: At,
    /// Of each channel the last message that went.
    pub edges: BTreeMap<String, At>,
}

impl Manifest {
    /// Up to where each channel expired with this file.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`].
    pub fn edges(&self) -> Result<Vec<(String, Place)>, ArchiveError> {
        let edges = self.edges.iter();
        edges
            .map(|(channel, at)| Ok((channel.clone(), self.place(&at.epoch, at.offset)?)))
            .collect()
    }

    fn place(&self, log: &str, offset: u64) -> Result<Place, ArchiveError> {
        Ok(Place {
            log: epoch(log).map_err(|why| self.damaged(why))?,
            offset: Offset::from_u64(offset),
        })
    }

    fn damaged(&self, what: impl Into<String>) -> ArchiveError {
        ArchiveError::Damaged(self.file.clone(), what.into())
    }
}

impl Archive {
    /// In `objects`, all names behind `prefix`.
    pub fn new(objects: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { objects, prefix }
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.prefix))
    }

    async fn get(&self, path: &Path) -> Result<Bytes, ArchiveError> {
        Ok(self.objects.get(path).await?.bytes().await?)
    }

    /// Names under a folder of the archive, sorted.
    async fn names(&self, folder: &str) -> Result<Vec<Path>, ArchiveError> {
        let folder = self.path(folder);
        let listed = self.objects.list(Some(&folder));
        let mut names: Vec<Path> = listed.map_ok(|object| object.location).try_collect().await?;
        names.sort_unstable();
        Ok(names)
    }

    /// Writes messages of one day and shard, and then their manifest.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn write(
        &self,
        day: u64,
        shard: ShardId,
        rows: &[&Kept],
        now_us: u64,
    ) -> Result<Manifest, ArchiveError> {
        let mut rows = rows.to_vec();
        rows.sort_unstable_by_key(|row| (row.time_us, row.place));
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            return Err(ArchiveError::Made("no rows".to_owned()));
        };
        let mut edges: BTreeMap<String, (Place, At)> = BTreeMap::new();
        for row in &rows {
            let edge = edges
                .entry(row.channel.clone())
                .or_insert_with(|| (row.place, At::of(row)));
            if row.place > edge.0 {
                *edge = (row.place, At::of(row));
            }
        }
        let packed = pack(rows.iter().map(|row| Line::of(row)))?;
        let sha256 = packed.sha256;
        let short = sha256.get(..16).unwrap_or(&sha256);
        let name = format!("{day}/{:05}-{}-{short}", shard.get(), first.time_us);
        let manifest = Manifest {
            format: FORMAT,
            file: format!("{name}.ndjson.gz"),
            day,
            shard: u32::from(shard.get()),
            written_us: now_us,
            rows: rows.len() as u64,
            bytes: packed.bytes.len() as u64,
            sha256,
            first: At::of(first),
            last: At::of(last),
            edges: edges
                .into_iter()
                .map(|(channel, (_, at))| (channel, at))
                .collect(),
        };
        let said =
            serde_json::to_vec_pretty(&manifest).map_err(|error| ArchiveError::Made(error.to_string()))?;
        let file = self.path(&format!("messages/{}", manifest.file));
        self.objects.put(&file, PutPayload::from(packed.bytes)).await?;
        let path = self.path(&format!("messages/{name}.json"));
        self.objects.put(&path, PutPayload::from(said)).await?;
        Ok(manifest)
    }

    /// All manifests, by day and shard.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn manifests(&self) -> Result<Vec<Manifest>, ArchiveError> {
        let mut manifests = Vec::new();
        for path in self.names("messages").await? {
            if path.extension() != Some("json") {
                continue;
            }
            let said = self.get(&path).await?;
            let manifest: Manifest = serde_json::from_slice(&said)
                .map_err(|error| ArchiveError::Damaged(path.to_string(), error.to_string()))?;
            if manifest.format != FORMAT {
                return Err(manifest.damaged(format!("format {} is not this release's", manifest.format)));
            }
            manifests.push(manifest);
        }
        manifests.sort_by(|one, other| {
            (one.day, one.shard, &one.file).cmp(&(other.day, other.shard, &other.file))
        });
        Ok(manifests)
    }

    /// The messages of a file, which is compared with its manifest.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`] where they differ.
    pub async fn read(&self, manifest: &Manifest) -> Result<Vec<Kept>, ArchiveError> {
        let packed = self
            .get(&self.path(&format!("messages/{}", manifest.file)))
            .await?;
        let lines = unpack::<Line>(&packed, manifest.bytes, &manifest.sha256);
        let lines = lines.map_err(|error| manifest.damaged(error.to_string()))?;
        let rows = lines.into_iter().map(Line::kept);
        let rows = rows.collect::<Result<Vec<Kept>, String>>();
        let rows = rows.map_err(|why| manifest.damaged(why))?;
        let ends = (rows.first().map(At::of), rows.last().map(At::of));
        if rows.len() as u64 != manifest.rows
            || ends != (Some(manifest.first.clone()), Some(manifest.last.clone()))
        {
            return Err(manifest.damaged("it has other messages than its manifest tells of"));
        }
        Ok(rows)
    }

    /// Files without a manifest: a death left them, and their rows are in the store still.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn unfinished(&self) -> Result<Vec<String>, ArchiveError> {
        let names = self.names("messages").await?;
        let is_there = |name: &str| names.iter().any(|path| path.as_ref() == name);
        let files = names.iter().filter_map(|path| {
            let stem = path.as_ref().strip_suffix(".ndjson.gz")?;
            (!is_there(&format!("{stem}.json"))).then(|| path.to_string())
        });
        Ok(files.collect())
    }

    /// Writes an act down.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn record(&self, act: &Act) -> Result<(), ArchiveError> {
        let said = serde_json::to_vec(act).map_err(|error| ArchiveError::Made(error.to_string()))?;
        let sha256 = sha256(&said);
        let short = sha256.get(..16).unwrap_or(&sha256);
        let path = self.path(&format!("acts/{:020}-{short}.json", act.at_us()));
        self.objects.put(&path, PutPayload::from(said)).await?;
        Ok(())
    }

    /// All acts, in the order of their times. One that cannot be read keeps none of the others.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn acts(&self) -> Result<Acts, ArchiveError> {
        let mut read = Acts::default();
        for path in self.names("acts").await? {
            let said = self.get(&path).await?;
            match serde_json::from_slice(&said) {
                Ok(act) => read.acts.push(act),
                Err(error) => {
                    let damaged = ArchiveError::Damaged(path.to_string(), error.to_string());
                    read.damaged.push(damaged);
                }
            }
        }
        read.acts.sort_by_key(Act::at_us);
        Ok(read)
    }
}
