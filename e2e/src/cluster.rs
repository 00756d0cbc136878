//! Switchboard as an operator runs it: processes of their own over a NATS cluster.

use anyhow::{Result, ensure};
use switchboard_testkit::NatsCluster;
use tempfile::TempDir;

use crate::process::Process;

/// Separate processes over three nats-servers, each log on all of them.
pub struct Cluster {
    pub routers: Vec<Process>,
    pub gateways: Vec<Process>,
    pub nats: NatsCluster,
    folder: TempDir,
}

const ARGUMENTS: [&str; 2] = ["--config", "switchboard.toml"];

impl Cluster {
    /// Two of each.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// As [`Self::start`], with `more` in everybody's configuration, behind what `[gateway]` has.
    pub async fn start_with(more: &str) -> Result<Self> {
        Self::start_as("insecure = true\n", more).await
    }

    /// As [`Self::start_with`], with these keys of `[gateway]`.
    pub async fn start_as(gateway: &str, more: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let nats = NatsCluster::start(3).await?;
        let config = format!(
            "[bus]\nbackend = \"nats\"\ncreate = true\nshards = 6\n[bus.nats]\nurls = {:?}\nmax_bytes = \"64MiB\"\nreplicas = 3\n[gateway]\n{gateway}{more}",
            nats.urls()
        );
        std::fs::write(folder.path().join("switchboard.toml"), config)?;
        let pair = |name| -> Result<Vec<Process>> {
            (0..2)
                .map(|_| Process::spawn(name, folder.path(), &ARGUMENTS))
                .collect()
        };
        let mut routers = pair("switchboard-router-svc")?;
        let mut gateways = pair("switchboard-gateway")?;
        for process in routers.iter_mut().chain(&mut gateways) {
            process.ready().await?;
        }
        Ok(Self {
            routers,
            gateways,
            nats,
            folder,
        })
    }

    /// One more of these.
    pub async fn join(&self, name: &'static str) -> Result<Process> {
        Process::start(name, self.folder.path(), &ARGUMENTS).await
    }

    /// One more of each of these, in this order.
    pub async fn join_all(&self, names: &[&'static str]) -> Result<Vec<Process>> {
        let mut joined = Vec::with_capacity(names.len());
        for name in names {
            joined.push(self.join(name).await?);
        }
        Ok(joined)
    }

    /// As [`Self::stop`], after these ended well.
    pub async fn stop_with(self, joined: Vec<Process>) -> Result<()> {
        for process in joined {
            let status = process.terminate().await?;
            ensure!(status.success(), "one that joined does not end well: {status}");
        }
        self.stop().await
    }

    /// Whoever is left ends well.
    pub async fn stop(self) -> Result<()> {
        for process in self.gateways.into_iter().chain(self.routers) {
            let status = process.terminate().await?;
            ensure!(status.success(), "{status}");
        }
        Ok(())
    }
}
