//! A disk that can be full: a small file system of its own, in memory.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// Between two looks whether something was freed.
const PAUSE: Duration = Duration::from_millis(20);

/// Bytes written at a time; the smallest is what such a disk counts in.
const PIECES: [usize; 2] = [256 * 1024, 4096];

/// See the module. Dropped: unmounted, and what was on it is gone.
#[derive(Debug)]
pub struct SmallDisk {
    // Freed before it is unmounted.
    filler: Option<Filler>,
    folder: TempDir,
}

/// Takes what is free for itself, in a thread of its own.
#[derive(Debug)]
struct Filler {
    file: PathBuf,
    /// Dropped: it ends.
    end: Sender<()>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl SmallDisk {
    /// Mounts one of `size` bytes. It takes as much memory as is written.
    ///
    /// # Errors
    /// If this machine does not let us mount: that needs root, or `sudo` without a password.
    pub fn mount(size: u64) -> Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let owner = folder.path().metadata()?;
        let options = format!("size={size},mode=700,uid={},gid={}", owner.uid(), owner.gid());
        let mut command = as_root(&owner, "mount");
        command.args(["-t", "tmpfs", "-o", &options, "switchboard-test"]);
        run(command.arg(folder.path())).context(
            "a disk that can be full has to be mounted, which needs root or sudo without a password; \
             `unshare --user --map-root-user --mount COMMAND` gives COMMAND a root of its own where the kernel allows it",
        )?;
        Ok(Self { filler: None, folder })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all of it that is free, and whatever is freed meanwhile, until [`SmallDisk::free`]. Returns when it is full.
    ///
    /// # Errors
    /// If it cannot be written to.
    pub fn fill(&mut self) -> Result<()> {
        self.free()?;
        let path = self.path().join("filler");
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        take(&mut file)?;
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || keep_full(&mut file, &ended));
        self.filler = Some(Filler {
            file: path,
            end,
            thread,
        });
        Ok(())
    }

    /// Gives back what [`SmallDisk::fill`] took; nothing to do where it did not.
    ///
    /// # Errors
    /// If it was not full all the time, or cannot be freed.
    pub fn free(&mut self) -> Result<()> {
        let Some(Filler { file, end, thread }) = self.filler.take() else {
            return Ok(());
        };
        drop(end);
        let filled = thread.join();
        std::fs::remove_file(file)?;
        match filled {
            Ok(filled) => filled.context("the disk was not kept full"),
            Err(_) => bail!("what filled the disk panicked"),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.free().ok();
        let Ok(owner) = self.path().metadata() else {
            return;
        };
        // Also where a process still has a file of it open: it is gone once nobody has.
        let mut command = as_root(&owner, "umount");
        run(command.arg("--lazy").arg(self.path())).ok();
    }
}

/// `program`, run by root. `owner`: of something that this process made.
fn as_root(owner: &std::fs::Metadata, program: &str) -> Command {
    if owner.uid() == 0 {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", program]);
    command
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Writes until nothing more fits.
fn take(file: &mut File) -> std::io::Result<()> {
    for size in PIECES {
        let piece = vec![0; size];
        loop {
            match file.write(&piece) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn keep_full(file: &mut File, ended: &Receiver<()>) -> std::io::Result<()> {
    while ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        take(file)?;
    }
    Ok(())
}
