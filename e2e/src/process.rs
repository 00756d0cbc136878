//! The shipped binaries as processes of their own: what a newcomer and an operator start, and what a test may kill.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use switchboard_testkit::wait_until;

use crate::child::Guarded;

/// Until a process serves, and until one that was asked to stop has ended.
const DEADLINE: Duration = Duration::from_secs(30);

/// A process that a test started, with addresses of its own. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Guarded,
    name: &'static str,
    folder: PathBuf,
    arguments: Vec<String>,
    addresses: Addresses,
}

impl Process {
    /// Starts the binary `name` in `folder`, and waits until it says that it is ready.
    pub async fn start(name: &'static str, folder: &Path, arguments: &[&str]) -> Result<Self> {
        let mut process = Self::spawn(name, folder, arguments)?;
        process.ready().await?;
        Ok(process)
    }

    /// As [`Self::start`], and does not wait.
    pub fn spawn(name: &'static str, folder: &Path, arguments: &[&str]) -> Result<Self> {
        let addresses = Addresses::own();
        let mut command = at(addresses, name, folder, arguments)?;
        Ok(Self {
            child: Guarded::spawn(&mut command)?,
            name,
            folder: folder.to_owned(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            addresses,
        })
    }

    pub async fn ready(&mut self) -> Result<()> {
        let url = format!("http://{}/health/ready", self.addresses.admin);
        let child = &mut self.child;
        let answered = async || {
            !child.runs()
                || reqwest::get(&url)
                    .await
                    .is_ok_and(|response| response.status().is_success())
        };
        wait_until(DEADLINE, answered)
            .await
            .with_context(|| format!("{} is not ready", self.name))?;
        if !self.child.runs() {
            bail!("{} ended: {}", self.name, self.printed()?);
        }
        Ok(())
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where clients connect.
    pub fn gateway(&self) -> SocketAddr {
        self.addresses.gateway
    }

    /// Where backends ask, if they can.
    pub fn api_url(&self) -> String {
        format!("http://{}/api", self.addresses.api)
    }

    pub fn websocket_url(&self) -> String {
        format!("ws://{}/connection/websocket", self.addresses.gateway)
    }

    pub fn page_url(&self) -> String {
        format!("http://{}/", self.addresses.gateway)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it has printed so far.
    pub fn printed(&self) -> Result<String> {
        self.child.printed()
    }

    /// What it says about being ready.
    pub async fn health(&self) -> Result<String> {
        let response = reqwest::get(format!("http://{}/health/ready", self.addresses.admin)).await?;
        Ok(response.text().await?)
    }

    /// The value of the metric `line`; 0 where it is not there.
    pub async fn metric(&self, line: &str) -> Result<u64> {
        let page = reqwest::get(format!("http://{}/metrics", self.addresses.admin))
            .await?
            .text()
            .await?;
        let value = page
            .lines()
            .find_map(|each| each.strip_prefix(line)?.strip_prefix(' '));
        Ok(value.unwrap_or("0").parse()?)
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Result<()> {
        self.kill_in_place()
    }

    /// `kill -9`, of one that is replaced later.
    pub fn kill_in_place(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("{} cannot be killed", self.name))
    }

    /// Starts it again on the same addresses, after [`Self::kill_in_place`] or [`Self::terminate_in_place`], and
    /// does not wait.
    pub fn respawn(&mut self) -> Result<()> {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let mut command = at(self.addresses, self.name, &self.folder, &arguments)?;
        self.child = Guarded::spawn(&mut command)?;
        Ok(())
    }

    /// SIGSTOP: it is there and does nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal("-STOP")
    }

    /// SIGCONT: it goes on where it was.
    pub fn resume(&self) -> Result<()> {
        self.signal("-CONT")
    }

    /// SIGHUP: look at the files again.
    pub fn hang_up(&self) -> Result<()> {
        self.signal("-HUP")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status()?;
        ensure!(sent.success(), "kill {signal} {id}: {sent}");
        Ok(())
    }

    /// SIGTERM, as Kubernetes and service managers send it; how the process ended.
    pub async fn terminate(mut self) -> Result<ExitStatus> {
        self.terminate_in_place().await
    }

    /// As [`Self::terminate`], of one that is started again later.
    pub async fn terminate_in_place(&mut self) -> Result<ExitStatus> {
        self.signal("-TERM")?;
        self.child
            .ended(DEADLINE)
            .await
            .with_context(|| format!("{} after SIGTERM", self.name))
    }
}

/// Runs the binary `name` in `folder` to its end: whether it succeeded, and what it printed.
pub async fn command(name: &'static str, folder: &Path, arguments: &[&str]) -> Result<(bool, String)> {
    let addresses = Addresses::own();
    let mut child = Guarded::spawn(&mut at(addresses, name, folder, arguments)?)?;
    let status = child.ended(DEADLINE).await?;
    Ok((status.success(), child.printed()?))
}

/// The binary `name`, to run in `folder` on these addresses.
fn at(addresses: Addresses, name: &str, folder: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary(name)?);
    command
        .args(arguments)
        .current_dir(folder)
        .env("SWITCHBOARD__GATEWAY__LISTEN", addresses.gateway.to_string())
        .env("SWITCHBOARD__GATEWAY__API__LISTEN", addresses.api.to_string())
        .env("SWITCHBOARD__ADMIN__LISTEN", addresses.admin.to_string());
    Ok(command)
}

/// Builds what is about to be started, once: `cargo test` alone does not, and a binary from before a
/// change would be tested in its place. Nothing to do where `./test` has built already: the same is named here, for of a part of it
/// what all depend on would be built anew, with other features.
fn build() -> Result<()> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        let all = ["--workspace", "--bins", "--tests", "--examples"];
        cargo.args(["build", "--quiet", "--locked"]).args(all);
        match cargo
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .status()
        {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(status.to_string()),
            Err(error) => Err(error.to_string()),
        }
    });
    built
        .as_ref()
        .map_err(|why| anyhow!("cargo build --workspace --bins: {why}"))?;
    Ok(())
}

pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // Tests lie in a folder of their own beside the binaries.
    let folder = own
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .context("this executable is not below target/")?;
    // Binaries that were copied elsewhere, so that a long run keeps them, are taken as they are.
    if folder.join("deps").is_dir() {
        build()?;
    }
    let binary = folder.join(name);
    ensure!(
        binary.exists(),
        "{} is missing: run ./test, or `cargo build --workspace --bins`",
        binary.display()
    );
    Ok(binary)
}

/// An address of this machine that no other test process has: loopback has 2^24 of them, and the process's id picks one.
pub fn host() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high, middle, low)
}

/// Where one process listens. The ports lie below those that the system gives away.
#[derive(Debug, Clone, Copy)]
struct Addresses {
    gateway: SocketAddr,
    admin: SocketAddr,
    api: SocketAddr,
}

impl Addresses {
    fn own() -> Self {
        static STARTED: AtomicU16 = AtomicU16::new(0);
        let host = host();
        // Some thousand processes later the first is long gone.
        let port = 10_000 + STARTED.fetch_add(1, Ordering::Relaxed) % 7_000 * 3;
        Self {
            gateway: (host, port).into(),
            admin: (host, port + 1).into(),
            api: (host, port + 2).into(),
        }
    }
}
