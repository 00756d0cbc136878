//! Keys that backends prove themselves with: from the configuration or, on a machine of one's own, made at the
//! first start and kept in the data folder.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use secrecy::{ExposeSecret as _, SecretString};

/// The key's file in the data folder.
const FILE: &str = "api-key";

/// The name of a key that was made here.
const MADE_HERE: &str = "api-key";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("cannot keep the server API's key in {}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error("no key stands in {}: remove the file, and one is made at the next start", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
}

/// The keys that are accepted.
pub(super) struct Keys(Vec<(&'static str, Digest)>);

impl Keys {
    pub(super) fn new(keys: &[(&'static str, SecretString)]) -> Self {
        let hashed = keys
            .iter()
            .map(|(name, key)| (*name, digest(&SHA256, key.expose_secret().as_bytes())));
        Self(hashed.collect())
    }

    /// The name of the key that `given` is; `None`: of none. Takes the same time for every key that is wrong.
    pub(super) fn name(&self, given: &[u8]) -> Option<&'static str> {
        let given = digest(&SHA256, given);
        let mut found = None;
        for (name, key) in &self.0 {
            // All are compared, so that the time does not tell which it is.
            if verify_slices_are_equal(given.as_ref(), key.as_ref()).is_ok() {
                found = Some(*name);
            }
        }
        found
    }
}

/// The key that is kept in `folder`, and its file. It is made if there is none; of two processes that do so at once,
/// one wins.
pub(super) fn kept_in(folder: &Path) -> Result<((&'static str, SecretString), PathBuf), KeyError> {
    let file = folder.join(FILE);
    let failed = |source| KeyError::File {
        file: file.clone(),
        source,
    };
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make(&file).map_err(failed)?;
            fs::read_to_string(&file).map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    let mode = fs::metadata(&file).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(file = %file.display(), "others on this machine can read the server API's key: chmod 600");
    }
    let key = text.trim_end();
    if key.is_empty() {
        return Err(KeyError::Empty { file });
    }
    Ok(((MADE_HERE, key.into()), file))
}

/// Writes a new key, whole or not at all. One that is there already stays.
fn make(file: &Path) -> std::io::Result<()> {
    let new = file.with_extension(format!("{:016x}", rand::random::<u64>()));
    let random: [u8; 32] = rand::random();
    let mut key = String::with_capacity(65);
    for byte in random {
        key.push_str(&format!("{byte:02x}"));
    }
    key.push('\n');
    let linked = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut opened| {
            opened.write_all(key.as_bytes())?;
            opened.sync_all()
        })
        .and_then(|()| fs::hard_link(&new, file));
    // Whatever happened: only the other name is of use.
    fs::remove_file(&new).ok();
    match linked {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let ((name, first), file) = kept_in(folder.path()).unwrap();
        assert_eq!(name, MADE_HERE);
        assert_eq!(first.expose_secret().len(), 64);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let ((_, again), _) = kept_in(folder.path()).unwrap();
        assert_eq!(first.expose_secret(), again.expose_secret());
        make(&file).unwrap();
        let ((_, again), _) = kept_in(folder.path()).unwrap();
        assert_eq!(first.expose_secret(), again.expose_secret(), "the first stays");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left over"
        );
        fs::write(&file, " \n").unwrap();
        assert!(matches!(kept_in(folder.path()), Err(KeyError::Empty { .. })));
        let nowhere = folder.path().join("missing");
        assert!(matches!(kept_in(&nowhere), Err(KeyError::File { .. })));
    }

    #[test]
    fn only_whole_keys_are_accepted() {
        let keys = Keys::new(&[("key", "one".into()), ("key_previous", "two".into())]);
        assert_eq!(keys.name(b"one"), Some("key"));
        assert_eq!(keys.name(b"two"), Some("key_previous"));
        for wrong in ["", "on", "onee", "One", "one\n"] {
            assert_eq!(keys.name(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(Keys::new(&[]).name(b""), None);
    }
}
