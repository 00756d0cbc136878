//! A program that runs beside a test: found, started, watched, ended.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// Between two looks at a program that starts or ends.
const PAUSE: Duration = Duration::from_millis(10);

/// Killed when dropped.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    /// What it prints goes there.
    output: PathBuf,
    child: Option<Child>,
}

impl Program {
    pub(crate) fn new(name: &'static str, output: PathBuf) -> Self {
        Self {
            name,
            output,
            child: None,
        }
    }

    pub(crate) fn spawn(&mut self, command: &mut Command) -> Result<()> {
        let output = std::fs::File::create(&self.output)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| {
                format!(
                    "{} cannot be run: remove it, then ./test installs it",
                    command.get_program().display()
                )
            })?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until `ready` says that it serves, or it is gone.
    pub(crate) async fn ready<F: Future<Output = bool>>(
        &mut self,
        deadline: Duration,
        ready: impl Fn() -> F,
    ) -> Result<()> {
        let waited = tokio::time::timeout(deadline, async {
            while self.is_running() {
                if ready().await {
                    return true;
                }
                tokio::time::sleep(PAUSE).await;
            }
            false
        });
        let waited = waited.await;
        if !matches!(waited, Ok(true)) {
            let output = std::fs::read_to_string(&self.output).unwrap_or_default();
            let what = if waited.is_ok() { "ended" } else { "is not ready" };
            bail!("{} {what}; it printed:\n{output}", self.name);
        }
        Ok(())
    }

    fn is_running(&mut self) -> bool {
        matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    pub(crate) async fn stop(&mut self, deadline: Duration) -> Result<()> {
        self.stop_by("TERM", deadline).await
    }

    /// As [`Program::stop`], for a program to which another signal means the same.
    pub(crate) async fn stop_by(&mut self, signal: &str, deadline: Duration) -> Result<()> {
        self.signal(signal)?;
        let ended = tokio::time::timeout(deadline, async {
            while self.is_running() {
                tokio::time::sleep(PAUSE).await;
            }
        });
        ended
            .await
            .with_context(|| format!("{} does not stop", self.name))?;
        self.child = None;
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Nothing where it was not started, or stopped or killed since.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        let child = self
            .child
            .as_ref()
            .with_context(|| format!("{} does not run", self.name))?;
        let command = format!("kill -s {signal} {}", child.id());
        let status = Command::new("sh").arg("-c").arg(&command).status()?;
        ensure!(status.success(), "{command}: {status}");
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Nothing more can be done for a program that cannot be killed.
        self.kill().ok();
    }
}

/// Where a program is: as the environment variable says, else as `./test` installed it, else on the path.
#[expect(
    clippy::disallowed_methods,
    reason = "a tool of the tests has no configuration file"
)]
pub(crate) fn find(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(variable) {
        let named = PathBuf::from(named);
        ensure!(
            named.is_file(),
            "{variable} names {}, which is no file",
            named.display()
        );
        return Ok(named);
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../.tools/bin")
        .join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(name));
    std::iter::once(installed)
        .chain(on_path)
        .find(|program| program.is_file())
        .with_context(|| {
            format!("{name} is missing: run ./test, which installs it, or name it in {variable}")
        })
}

/// A port of the loopback address that is free at this moment, below those that the system hands out for
/// outgoing connections.
pub(crate) fn free_port() -> Result<u16> {
    for try_number in 0..100_u64 {
        let number = RandomState::new().hash_one(try_number) % 20_000;
        let port = 12_000 + number as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between 12000 and 32000")
}
