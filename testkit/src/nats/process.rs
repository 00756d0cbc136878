//! One nats-server process: its configuration, its ports, its life.

use std::fmt::Write as _;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::monitor;
/// Between two looks at a process that starts or ends.
const PAUSE: Duration = Duration::from_millis(10);

/// The ports of one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    client: u16,
    monitor: u16,
    cluster: u16,
}

impl Ports {
    /// Ports that are free at this moment, below those that the system hands out for outgoing
    /// connections.
    pub(super) fn free() -> Result<Self> {
        Ok(Self {
            client: free_port()?,
            monitor: free_port()?,
            cluster: free_port()?,
        })
    }
}

fn free_port() -> Result<u16> {
    for try_number in 0..100_u64 {
        let number = RandomState::new().hash_one(try_number) % 20_000;
        let port = 12_000 + number as u16;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between 12000 and 32000")
}

#[derive(Debug)]
pub(super) struct Process {
    name: String,
    folder: PathBuf,
    ports: Ports,
    child: Option<Child>,
}

impl Process {
    /// Writes the configuration into `folder`. `cluster`: the ports of all its nodes.
    pub(super) fn new(
        name: &str,
        folder: PathBuf,
        ports: Ports,
        configuration: &str,
        cluster: Option<&[Ports]>,
    ) -> Result<Self> {
        let process = Self {
            name: name.to_owned(),
            folder,
            ports,
            child: None,
        };
        let mut text = format!(
            "server_name: {name}\nhost: 127.0.0.1\nport: {}\nhttp: \"127.0.0.1:{}\"\njetstream {{ store_dir: {:?} }}\n",
            ports.client,
            ports.monitor,
            process.store(),
        );
        if let Some(cluster) = cluster {
            writeln!(
                text,
                "cluster {{ name: testkit, host: 127.0.0.1, no_advertise: true, port: {}",
                ports.cluster
            )?;
            writeln!(text, "  routes: [")?;
            for node in cluster {
                writeln!(text, "    \"nats://127.0.0.1:{}\"", node.cluster)?;
            }
            writeln!(text, "  ]\n}}")?;
        }
        writeln!(text, "{configuration}")?;
        std::fs::create_dir_all(&process.folder)?;
        std::fs::write(process.configuration(), text)?;
        Ok(process)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.ports.client)
    }

    pub(super) fn monitor(&self) -> u16 {
        self.ports.monitor
    }

    pub(super) fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("nats-server.conf")
    }

    fn output(&self) -> PathBuf {
        self.folder.join("output")
    }

    pub(super) async fn start(&mut self, deadline: Duration) -> Result<()> {
        self.spawn()?;
        self.ready(deadline).await
    }

    pub(super) fn spawn(&mut self) -> Result<()> {
        let program = program()?;
        let output = File::create(self.output())?;
        let child = Command::new(&program)
            .arg("--config")
            .arg(self.configuration())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| {
                format!(
                    "{} cannot be run: remove it, then ./test installs it",
                    program.display()
                )
            })?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it serves, or is gone.
    pub(super) async fn ready(&mut self, deadline: Duration) -> Result<()> {
        let port = self.ports.monitor;
        let waited = tokio::time::timeout(deadline, async {
            while self.is_running() {
                if monitor::is_healthy(port).await {
                    return true;
                }
                tokio::time::sleep(PAUSE).await;
            }
            false
        });
        let waited = waited.await;
        if !matches!(waited, Ok(true)) {
            let output = std::fs::read_to_string(self.output()).unwrap_or_default();
            let what = if waited.is_ok() { "ended" } else { "is not ready" };
            bail!("nats-server {what}; it printed:\n{output}");
        }
        Ok(())
    }

    fn is_running(&mut self) -> bool {
        matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    pub(super) async fn stop(&mut self, deadline: Duration) -> Result<()> {
        self.signal("TERM")?;
        let ended = tokio::time::timeout(deadline, async {
            while self.is_running() {
                tokio::time::sleep(PAUSE).await;
            }
        });
        ended.await.context("nats-server does not stop")?;
        self.child = None;
        Ok(())
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub(super) fn signal(&self, signal: &str) -> Result<()> {
        let child = self.child.as_ref().context("nats-server does not run")?;
        let command = format!("kill -s {signal} {}", child.id());
        let status = Command::new("sh").arg("-c").arg(&command).status()?;
        ensure!(status.success(), "{command}: {status}");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing more can be done for a process that cannot be killed.
        self.kill().ok();
    }
}

/// Where the program is: as the environment says, else as `./test` installed it, else on the path.
#[expect(
    clippy::disallowed_methods,
    reason = "a tool of the tests has no configuration file"
)]
fn program() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("SWITCHBOARD_NATS_SERVER") {
        let named = PathBuf::from(named);
        ensure!(
            named.is_file(),
            "SWITCHBOARD_NATS_SERVER names {}, which is no file",
            named.display()
        );
        return Ok(named);
    }
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/nats-server");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("nats-server"));
    std::iter::once(installed)
        .chain(on_path)
        .find(|program| program.is_file())
        .context(
            "nats-server is missing: run ./test, which installs it, or name it in SWITCHBOARD_NATS_SERVER",
        )
}
