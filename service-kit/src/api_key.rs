//! Keys that backends prove themselves with: from the configuration or, on a machine of one's own, made at the
//! first start and kept in the data folder. Whichever service is asked, a key is read, kept, given and compared alike.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use axum::http::{HeaderMap, HeaderValue, header};
use secrecy::{ExposeSecret as _, SecretString};

use crate::config::Section;

/// Bytes below which a key can be found by trying.
const SHORT_KEY: usize = 16;

/// Keys with the names of their configuration keys.
pub type NamedKeys = Vec<(&'static str, SecretString)>;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("cannot keep a key in {}", file.display())]
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
pub struct Keys(Vec<(&'static str, Digest)>);

impl Keys {
    /// Accepts these, by their names.
    pub fn new(keys: &[(&'static str, SecretString)]) -> Self {
        let hashed = keys
            .iter()
            .map(|(name, key)| (*name, digest(&SHA256, key.expose_secret().as_bytes())));
        Self(hashed.collect())
    }

    /// The name of the key that `given` is; `None`: of none. Takes the same time for every key that is wrong.
    pub fn name(&self, given: &[u8]) -> Option<&'static str> {
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

    /// The name of the key in `headers`: of `X-API-Key`, or of `Authorization: apikey KEY`. `None`: there is none that is accepted.
    pub fn given(&self, headers: &HeaderMap) -> Option<&'static str> {
        let own = headers.get("x-api-key").map(HeaderValue::as_bytes);
        let key = own.or_else(|| authorization(headers.get(header::AUTHORIZATION)?.as_bytes()))?;
        self.name(key)
    }
}

/// The key in `apikey KEY`.
fn authorization(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked("apikey ".len())?;
    scheme.eq_ignore_ascii_case(b"apikey ").then(|| key.trim_ascii())
}

/// Reads `key`, which `help` describes, and `key_previous`. What is no good as a key is a fault of the configuration.
pub fn read(section: &mut Section<'_>, help: &str) -> NamedKeys {
    let key = section.secret("key", help);
    let previous = section.secret(
        "key_previous",
        "The key before, which stays valid while it is changed.",
    );
    if key.is_none() && previous.is_some() {
        section.fault("key_previous", "given without key", "set key, or remove it");
    }
    let named = [("key", key), ("key_previous", previous)];
    let keys: NamedKeys = named
        .into_iter()
        .filter_map(|(name, key)| key.map(|key| (name, key)))
        .collect();
    for (name, key) in &keys {
        let key = key.expose_secret();
        if key.len() < SHORT_KEY {
            section.fault(
                name,
                format!("fewer than {SHORT_KEY} bytes, which can be found by trying"),
                "take 32 random bytes, such as of `openssl rand -hex 32`",
            );
        } else if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            section.fault(
                name,
                "has a character that is not printable ASCII, which no HTTP header carries",
                "take letters and digits",
            );
        }
    }
    keys
}

/// The key that is kept in `folder`, in a file of this name that is also the key's, and the file's path. It is made if there is none; of two
/// processes that do so at once, one wins.
///
/// # Errors
/// [`KeyError`].
pub fn kept_in(
    folder: &Path,
    name: &'static str,
) -> Result<((&'static str, SecretString), PathBuf), KeyError> {
    let file = folder.join(name);
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
        tracing::warn!(file = %file.display(), "others on this machine can read the key: chmod 600");
    }
    let key = text.trim_end();
    if key.is_empty() {
        return Err(KeyError::Empty { file });
    }
    Ok(((name, key.into()), file))
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
        let ((name, first), file) = kept_in(folder.path(), "api-key").unwrap();
        assert_eq!(name, "api-key");
        assert_eq!(first.expose_secret().len(), 64);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let ((_, again), _) = kept_in(folder.path(), "api-key").unwrap();
        assert_eq!(first.expose_secret(), again.expose_secret());
        make(&file).unwrap();
        let ((_, again), _) = kept_in(folder.path(), "api-key").unwrap();
        assert_eq!(first.expose_secret(), again.expose_secret(), "the first stays");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left over"
        );
        fs::write(&file, " \n").unwrap();
        assert!(matches!(
            kept_in(folder.path(), "api-key"),
            Err(KeyError::Empty { .. })
        ));
        let nowhere = folder.path().join("missing");
        assert!(matches!(kept_in(&nowhere, "api-key"), Err(KeyError::File { .. })));
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
