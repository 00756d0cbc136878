//! One nats-server process: its configuration, its ports, its life.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::monitor;
use crate::program::{Program, find, free_port};

/// The ports of one server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    client: u16,
    monitor: u16,
    cluster: u16,
}

impl Ports {
    /// Ports that are free at this moment.
    pub(super) fn free() -> Result<Self> {
        Ok(Self {
            client: free_port()?,
            monitor: free_port()?,
            cluster: free_port()?,
        })
    }

    /// Where other nodes reach the server.
    pub(super) fn route(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.cluster).into()
    }
}

/// A node of several.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Where it reaches the others.
    pub(super) routes: Vec<SocketAddr>,
    /// Where its data lies, if not in its own folder.
    pub(super) store: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Process {
    name: String,
    folder: PathBuf,
    store: PathBuf,
    ports: Ports,
    program: Program,
}

impl Process {
    /// Writes the configuration into `folder`.
    pub(super) fn new(
        name: &str,
        folder: PathBuf,
        ports: Ports,
        configuration: &str,
        node: Option<Node>,
    ) -> Result<Self> {
        let (routes, elsewhere) = match node {
            Some(node) => (Some(node.routes), node.store),
            None => (None, None),
        };
        let process = Self {
            name: name.to_owned(),
            program: Program::new("nats-server", folder.join("output")),
            store: elsewhere.unwrap_or_else(|| folder.join("store")),
            folder,
            ports,
        };
        // Without a limit of its own the server promises streams three quarters of what is free on the disk, and on a small
        // disk that is less than the logs of all shards may grow to.
        let mut text = format!(
            "server_name: {name}\nhost: 127.0.0.1\nport: {}\nhttp: \"127.0.0.1:{}\"\njetstream {{ store_dir: {:?}, max_file_store: 1TB }}\n",
            ports.client,
            ports.monitor,
            process.store(),
        );
        if let Some(routes) = routes {
            writeln!(
                text,
                "cluster {{ name: testkit, host: 127.0.0.1, no_advertise: true, port: {}",
                ports.cluster
            )?;
            // What nodes hear about each other leads nowhere, so that they have the routes they were given and no others.
            writeln!(text, "  advertise: \"127.0.0.1:1\"\n  routes: [")?;
            for route in routes {
                writeln!(text, "    \"nats://{route}\"")?;
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
        self.store.clone()
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("nats-server.conf")
    }

    pub(super) async fn start(&mut self, deadline: Duration) -> Result<()> {
        self.spawn()?;
        self.ready(deadline).await
    }

    pub(super) fn spawn(&mut self) -> Result<()> {
        let mut command = Command::new(find("nats-server", "SWITCHBOARD_NATS_SERVER")?);
        command.arg("--config").arg(self.configuration());
        self.program.spawn(&mut command)
    }

    /// Waits until it serves, or is gone.
    pub(super) async fn ready(&mut self, deadline: Duration) -> Result<()> {
        let port = self.ports.monitor;
        self.program.ready(deadline, || monitor::is_healthy(port)).await
    }

    pub(super) async fn stop(&mut self, deadline: Duration) -> Result<()> {
        self.program.stop(deadline).await
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.program.kill()
    }

    pub(super) fn signal(&self, signal: &str) -> Result<()> {
        self.program.signal(signal)
    }
}
