//! A child process that is waited for with a deadline, does not outlive the test, and whose output is the test's own.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use switchboard_testkit::wait_until;

static IS_SHOWN: AtomicBool = AtomicBool::new(true);

/// Whether what processes printed is printed when they are dropped. A test's own output is shown only where it fails.
pub fn show(is_shown: bool) {
    IS_SHOWN.store(is_shown, Ordering::Relaxed);
}

/// See the module.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    /// Both of its outputs.
    printed: File,
}

impl Guarded {
    /// Starts it, without an input.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let printed = tempfile::NamedTempFile::new()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(printed.as_file().try_clone()?)
            .stderr(printed.as_file().try_clone()?)
            .spawn()
            .with_context(|| format!("{command:?} did not start"))?;
        // Read by a handle with a place of its own.
        Ok(Self {
            child,
            printed: printed.reopen()?,
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn printed(&self) -> Result<String> {
        // By a place of its own, so that all of it is shown at the end.
        let mut text = vec![0; usize::try_from(self.printed.metadata()?.len())?];
        let read = self.printed.read_at(&mut text, 0)?;
        text.truncate(read);
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub async fn ended(&mut self, deadline: Duration) -> Result<ExitStatus> {
        wait_until(deadline, async || !self.runs())
            .await
            .context("the process still runs")?;
        Ok(self.child.wait()?)
    }

    /// `kill -9`; returns when it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.runs() {
            // Nothing is left to tell it to.
            self.kill().ok();
        }
        if !IS_SHOWN.load(Ordering::Relaxed) {
            return;
        }
        // Not inherited, because what the test itself prints is shown only where it fails.
        let mut printed = Vec::new();
        self.printed.read_to_end(&mut printed).ok();
        println!("{}", String::from_utf8_lossy(&printed));
    }
}
