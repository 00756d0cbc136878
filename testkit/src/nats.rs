//! nats-server with JetStream, alone or as a cluster.

mod monitor;
mod process;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use self::process::{Node, Ports, Process};

/// How long a server may take until it serves, on a machine busy with other tests.
const READY: Duration = Duration::from_secs(30);

/// Other processes take ports too: how often new ones are tried.
const TRIES: usize = 5;

/// One nats-server with JetStream. Killed when dropped, its data with it.
#[derive(Debug)]
pub struct NatsServer {
    process: Process,
    // Dropped after the process.
    _folder: TempDir,
}

impl NatsServer {
    /// Starts a server and waits until JetStream is ready.
    ///
    /// # Errors
    /// Where the program is missing, and how to get it; else what the server printed.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// As [`NatsServer::start`], with lines added to the server's configuration, such as
    /// `max_payload: 64KB`.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn start_with(configuration: &str) -> Result<Self> {
        let mut failure = None;
        for _ in 0..TRIES {
            let folder = tempfile::tempdir().context("no temporary folder")?;
            let mut process = Process::new(
                "n1",
                folder.path().to_owned(),
                Ports::free()?,
                configuration,
                None,
            )?;
            match process.start(READY).await {
                Ok(()) => {
                    return Ok(Self {
                        process,
                        _folder: folder,
                    });
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow::anyhow!("nats-server was never started")))
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        self.process.url()
    }

    /// Where its data lies.
    pub fn store(&self) -> PathBuf {
        self.process.store()
    }

    /// Ends it the orderly way (SIGTERM) and waits until it is gone.
    ///
    /// # Errors
    /// If it does not go.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.stop(READY).await
    }

    /// Ends it at once (SIGKILL).
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again, after [`NatsServer::stop`] or [`NatsServer::kill`] (or does the latter
    /// first): same ports, same data. Waits until it serves.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.start(READY).await
    }

    /// Stops it in its tracks (SIGSTOP), as a paused machine would.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self) -> Result<()> {
        self.process.signal("STOP")
    }

    /// Lets it go on after [`NatsServer::pause`].
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self) -> Result<()> {
        self.process.signal("CONT")
    }
}

/// Several nats-servers that replicate. Killed when dropped, their data with them.
#[derive(Debug)]
pub struct NatsCluster {
    nodes: Vec<Process>,
    // Dropped after the processes.
    _folder: TempDir,
}

impl NatsCluster {
    /// Starts `nodes` servers and waits until they have a leader and all of them serve.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn start(nodes: usize) -> Result<Self> {
        Self::start_with(nodes, &[], async |routes| Ok(vec![routes.to_owned(); nodes])).await
    }

    /// As [`NatsCluster::start`], with the nodes' data in `stores`, by node (it stays when the cluster goes; of nodes beyond them
    /// it goes too), and with routes of one's own: `routes` is told where the nodes listen for each other, and
    /// says for each node where it reaches the others. It is asked again where starting is tried again.
    ///
    /// # Errors
    /// As [`NatsServer::start`].
    pub async fn start_with(
        nodes: usize,
        stores: &[PathBuf],
        mut routes: impl AsyncFnMut(&[SocketAddr]) -> Result<Vec<Vec<SocketAddr>>>,
    ) -> Result<Self> {
        let mut failure = None;
        for _ in 0..TRIES {
            match Self::try_start(nodes, stores, &mut routes).await {
                Ok(cluster) => return Ok(cluster),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow::anyhow!("nats-server was never started")))
    }

    async fn try_start(
        nodes: usize,
        stores: &[PathBuf],
        routes: &mut impl AsyncFnMut(&[SocketAddr]) -> Result<Vec<Vec<SocketAddr>>>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let ports = (0..nodes)
            .map(|_| Ports::free())
            .collect::<Result<Vec<Ports>>>()?;
        let listening: Vec<SocketAddr> = ports.iter().map(Ports::route).collect();
        let routes = routes(&listening).await?;
        ensure!(
            routes.len() == nodes,
            "routes of {} nodes, of {nodes}",
            routes.len()
        );
        let mut processes = Vec::new();
        for (number, (own, routes)) in ports.iter().zip(routes).enumerate() {
            let name = format!("n{}", number + 1);
            // A folder for each try: another try's cluster is another one.
            let store = stores.get(number).map(tempfile::tempdir_in).transpose()?;
            let node = Node {
                routes,
                store: store.map(TempDir::keep),
            };
            processes.push(Process::new(
                &name,
                folder.path().join(&name),
                *own,
                "",
                Some(node),
            )?);
        }
        let mut cluster = Self {
            nodes: processes,
            _folder: folder,
        };
        for node in &mut cluster.nodes {
            node.spawn()?;
        }
        for node in &mut cluster.nodes {
            node.ready(READY).await?;
        }
        let complete = tokio::time::timeout(READY, cluster.complete()).await;
        complete.context("the servers do not find each other")?;
        Ok(cluster)
    }

    /// Waits until a server leads and sees all others.
    async fn complete(&self) {
        loop {
            for node in &self.nodes {
                if monitor::leads(node.monitor(), self.nodes.len() - 1).await {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Where clients connect, by node.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Process::url).collect()
    }

    /// The node (from 0) that leads the stream, if one does.
    pub async fn stream_leader(&self, stream: &str) -> Option<usize> {
        for node in &self.nodes {
            if let Some(leader) = monitor::stream_leader(node.monitor(), stream).await {
                return self.nodes.iter().position(|node| node.name() == leader);
            }
        }
        None
    }

    /// As [`NatsServer::stop`], for one node (from 0).
    ///
    /// # Errors
    /// If there is no such node, or it does not go.
    pub async fn stop(&mut self, node: usize) -> Result<()> {
        self.node_mut(node)?.stop(READY).await
    }

    /// As [`NatsServer::kill`], for one node (from 0).
    ///
    /// # Errors
    /// If there is no such node, or the operating system refuses.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        self.node_mut(node)?.kill()
    }

    /// As [`NatsServer::restart`], for one node (from 0).
    ///
    /// # Errors
    /// If there is no such node; else as [`NatsServer::start`].
    pub async fn restart(&mut self, node: usize) -> Result<()> {
        let node = self.node_mut(node)?;
        node.kill()?;
        node.start(READY).await
    }

    /// As [`NatsServer::pause`], for one node (from 0).
    ///
    /// # Errors
    /// If there is no such node, or it does not run.
    pub fn pause(&self, node: usize) -> Result<()> {
        self.node(node)?.signal("STOP")
    }

    /// As [`NatsServer::resume`], for one node (from 0).
    ///
    /// # Errors
    /// If there is no such node, or it does not run.
    pub fn resume(&self, node: usize) -> Result<()> {
        self.node(node)?.signal("CONT")
    }

    /// Whether it serves, and JetStream with it. A disk that is full, or was, makes a server give JetStream up and go on without.
    ///
    /// # Errors
    /// If there is no such node.
    pub async fn is_healthy(&self, node: usize) -> Result<bool> {
        Ok(monitor::is_healthy(self.node(node)?.monitor()).await)
    }

    fn node(&self, node: usize) -> Result<&Process> {
        self.nodes.get(node).with_context(|| format!("no node {node}"))
    }

    fn node_mut(&mut self, node: usize) -> Result<&mut Process> {
        self.nodes
            .get_mut(node)
            .with_context(|| format!("no node {node}"))
    }
}
