//! The programs of PostgreSQL: Debian keeps them off the path, and they refuse to be run by root.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

const VARIABLE: &str = "SWITCHBOARD_POSTGRES_BIN";

/// Where Debian's packages put what they do not put on the path, by version.
const INSTALLED: &str = "/usr/lib/postgresql";

const NAMES: [&str; 3] = ["initdb", "postgres", "psql"];

/// Whom root runs them as. Debian's package makes this user, and a group of the same name.
const SYSTEM_USER: &str = "postgres";

#[derive(Debug)]
pub(super) struct Programs {
    folder: PathBuf,
    /// A folder that the programs may enter.
    working_directory: PathBuf,
    as_root: bool,
}

impl Programs {
    /// `own_folder` is one that this process made: who owns it shows who we are.
    #[expect(
        clippy::disallowed_methods,
        reason = "a tool of the tests has no configuration file"
    )]
    pub(super) fn find(own_folder: &Path) -> Result<Self> {
        let named = std::env::var_os(VARIABLE).map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        Ok(Self {
            folder: folder(named, &path, Path::new(INSTALLED))?,
            working_directory: own_folder.to_owned(),
            as_root: own_folder.metadata()?.uid() == 0,
        })
    }

    /// Gives files and folders to whom the programs run as.
    pub(super) fn own(&self, paths: &[&Path]) -> Result<()> {
        if !self.as_root {
            return Ok(());
        }
        let output = Command::new("chown")
            .arg(format!("{SYSTEM_USER}:{SYSTEM_USER}"))
            .args(paths)
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "root may not run PostgreSQL, and there is nothing to be had as user {SYSTEM_USER}: run ./test as \
             another user, or apt-get install postgresql, which makes this one: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// To run one of the programs.
    pub(super) fn command(&self, name: &str) -> Command {
        self.command_of(&self.folder.join(name))
    }

    /// Runs a program of the system as whom those of PostgreSQL are run. What comes of it is not told.
    pub(super) fn run_quietly(&self, name: &str, arguments: &[&str]) {
        let mut command = self.command_of(Path::new(name));
        command.args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().ok();
    }

    fn command_of(&self, program: &Path) -> Command {
        let mut command;
        if self.as_root {
            // Becomes the program: its process id is the program's.
            command = Command::new("setpriv");
            command.args([
                "--reuid",
                SYSTEM_USER,
                "--regid",
                SYSTEM_USER,
                "--clear-groups",
                "--",
            ]);
            command.arg(program);
        } else {
            command = Command::new(program);
        }
        command.current_dir(&self.working_directory).env("LC_ALL", "C");
        command
    }
}

/// The folder of the programs: the one named, else that which the path leads to, else the newest installed.
fn folder(named: Option<PathBuf>, path: &OsStr, installed: &Path) -> Result<PathBuf> {
    if let Some(named) = named {
        ensure!(
            has_all(&named),
            "{VARIABLE} names {}, which has not all of {}",
            named.display(),
            NAMES.join(", ")
        );
        return Ok(named);
    }
    let on_path = std::env::split_paths(path)
        // What is on the path may be a link to where all of them are.
        .filter_map(|folder| Some(folder.join("initdb").canonicalize().ok()?.parent()?.to_owned()))
        .find(|folder| has_all(folder));
    on_path.or_else(|| newest(installed)).with_context(|| {
        format!(
            "PostgreSQL is missing: run ./test, which installs it, or apt-get install postgresql, or name the \
             folder that has {} in {VARIABLE}",
            NAMES.join(", ")
        )
    })
}

fn newest(installed: &Path) -> Option<PathBuf> {
    std::fs::read_dir(installed)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse::<u32>().ok()?,
                entry.path().join("bin"),
            ))
        })
        .filter(|(_, folder)| has_all(folder))
        .max_by_key(|(version, _)| *version)
        .map(|(_, folder)| folder)
}

fn has_all(folder: &Path) -> bool {
    NAMES.iter().all(|name| folder.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(folder: &Path) -> PathBuf {
        std::fs::create_dir_all(folder).unwrap();
        for name in NAMES {
            std::fs::write(folder.join(name), "").unwrap();
        }
        folder.canonicalize().unwrap()
    }

    #[test]
    fn missing_programs_are_an_error_that_says_how_to_get_them() {
        let empty = tempfile::tempdir().unwrap();
        let error = folder(None, empty.path().as_os_str(), &empty.path().join("none")).unwrap_err();
        assert!(
            error.to_string().contains("apt-get install postgresql"),
            "{error}"
        );
        let named = make(&empty.path().join("there"));
        let error = folder(Some(empty.path().into()), named.as_os_str(), empty.path()).unwrap_err();
        assert!(error.to_string().contains(VARIABLE), "{error}");
    }

    #[test]
    fn named_goes_before_path_goes_before_newest() {
        let root = tempfile::tempdir().unwrap();
        let named = make(&root.path().join("named"));
        let linked = make(&root.path().join("linked"));
        let on_path = root.path().join("on_path");
        std::fs::create_dir(&on_path).unwrap();
        std::os::unix::fs::symlink(linked.join("initdb"), on_path.join("initdb")).unwrap();
        let installed = root.path().join("installed");
        make(&installed.join("9/bin"));
        let newest = make(&installed.join("15/bin"));
        std::fs::create_dir_all(installed.join("16/bin")).unwrap();

        let nothing = OsStr::new("");
        let path = on_path.as_os_str();
        assert_eq!(folder(Some(named.clone()), path, &installed).unwrap(), named);
        assert_eq!(folder(None, path, &installed).unwrap(), linked);
        let found = folder(None, nothing, &installed).unwrap();
        assert_eq!(found.canonicalize().unwrap(), newest);
    }
}
