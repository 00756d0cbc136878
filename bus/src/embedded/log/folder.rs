//! The folder of an embedded log: whether it can be used, and which format it is in.
//!
//! The file [`FORMAT_FILE`] names the format of the rest, as a line of text, so that it can be read
//! whatever the rest has become. It is written last when a folder is made: what it promises and is
//! not there was lost.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// The newest layout of the folder that this release reads, and the one it writes.
const STORE_FORMAT: u64 = 1;

/// In the folder.
pub(super) const FORMAT_FILE: &str = "switchboard-log-format";

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be created or written.
    #[error(
        "log folder {} cannot be written: make it writable or configure another one",
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
    pub(super) fn of(path: &Path, error: fjall::Error) -> Self {
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

    pub(super) fn of_io(path: PathBuf, source: std::io::Error) -> Self {
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

/// Whether the folder was made already, by a release whose format this one reads.
pub(super) fn has_format(dir: &Path) -> Result<bool, OpenError> {
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
pub(super) fn note_format(dir: &Path) -> std::io::Result<()> {
    let unfinished = dir.join(format!("{FORMAT_FILE}.new"));
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{STORE_FORMAT}")?;
    file.sync_all()?;
    std::fs::rename(&unfinished, dir.join(FORMAT_FILE))?;
    File::open(dir)?.sync_all()
}
