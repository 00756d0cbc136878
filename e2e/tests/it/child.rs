//! A child process that is waited for with a deadline, and does not outlive the test.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use switchboard_testkit::wait_until;

#[derive(Debug)]
pub(crate) struct Guarded(Child);

impl Guarded {
    /// Starts it, without an input.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("{command:?} did not start"))?;
        Ok(Self(child))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self, deadline: Duration) -> Result<ExitStatus> {
        wait_until(deadline, async || !self.runs())
            .await
            .context("the process still runs")?;
        Ok(self.0.wait()?)
    }

    /// `kill -9`; returns when it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.runs() {
            // Nothing is left to tell it to.
            self.kill().ok();
        }
    }
}
