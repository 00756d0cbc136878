//! redis-server, alone or as a cluster. Nothing it holds survives a restart: what is kept in Redis has to be able
//! to be missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::program::{Program, find, free_port};

/// How long a server may take until it serves, on a machine busy with other tests.
const READY: Duration = Duration::from_secs(30);

/// Other processes take ports too: how often new ones are tried.
const TRIES: usize = 5;

const VARIABLE: &str = "SWITCHBOARD_REDIS_SERVER";

/// One redis-server. Killed when dropped, its data with it.
#[derive(Debug)]
pub struct RedisServer {
    program: Program,
    port: u16,
    scheme: &'static str,
    arguments: Vec<String>,
    // Dropped after the program.
    folder: TempDir,
}

/// What a server with TLS needs: files in PEM format.
#[derive(Debug, Clone)]
pub struct RedisTls {
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The certificate of who signed it.
    pub ca: PathBuf,
}

impl RedisServer {
    /// Starts an empty server and waits until it answers.
    ///
    /// # Errors
    /// Where the program is missing, and how to get it; else what the server printed.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// As [`RedisServer::start`], with arguments such as `--requirepass`, `secret`.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub async fn start_with(arguments: &[&str]) -> Result<Self> {
        Self::start_on_a_free_port(arguments, None).await
    }

    /// As [`RedisServer::start_with`], with TLS, and nothing but TLS.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub async fn start_with_tls(tls: &RedisTls, arguments: &[&str]) -> Result<Self> {
        Self::start_on_a_free_port(arguments, Some(tls)).await
    }

    async fn start_on_a_free_port(arguments: &[&str], tls: Option<&RedisTls>) -> Result<Self> {
        let mut failure = None;
        for _ in 0..TRIES {
            match Self::launch(free_port()?, arguments, tls).await {
                Ok(server) => return Ok(server),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow::anyhow!("redis-server was never started")))
    }

    async fn launch(port: u16, more: &[&str], tls: Option<&RedisTls>) -> Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let path = |path: &Path| path.display().to_string();
        let mut arguments: Vec<String> = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]
            .map(str::to_owned)
            .to_vec();
        arguments.push(path(folder.path()));
        match tls {
            None => arguments.extend(["--port".to_owned(), port.to_string()]),
            Some(RedisTls { certificate, key, ca }) => arguments.extend(
                [
                    ("--port", "0".to_owned()),
                    ("--tls-port", port.to_string()),
                    ("--tls-cert-file", path(certificate)),
                    ("--tls-key-file", path(key)),
                    ("--tls-ca-cert-file", path(ca)),
                    ("--tls-auth-clients", "no".to_owned()),
                ]
                .into_iter()
                .flat_map(|(name, value)| [name.to_owned(), value]),
            ),
        }
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let mut server = Self {
            program: Program::new("redis-server", folder.path().join("output")),
            port,
            scheme: if tls.is_some() { "rediss" } else { "redis" },
            arguments,
            folder,
        };
        server.run().await?;
        Ok(server)
    }

    async fn run(&mut self) -> Result<()> {
        let mut command = Command::new(find("redis-server", VARIABLE)?);
        command.args(&self.arguments);
        self.program.spawn(&mut command)?;
        let (port, tls) = (self.port, self.scheme == "rediss");
        self.program.ready(READY, || serves(port, tls)).await
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// A folder that lives as long as the server.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it the orderly way (SIGTERM) and waits until it is gone.
    ///
    /// # Errors
    /// If it does not go.
    pub async fn stop(&mut self) -> Result<()> {
        self.program.stop(READY).await
    }

    /// Ends it at once (SIGKILL).
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.program.kill()
    }

    /// Starts it again, after [`RedisServer::stop`] or [`RedisServer::kill`] (or does the latter first): same
    /// port, no data. Waits until it answers.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.program.kill()?;
        self.run().await
    }

    /// Stops it in its tracks (SIGSTOP), as a paused machine would.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self) -> Result<()> {
        self.program.signal("STOP")
    }

    /// Lets it go on after [`RedisServer::pause`].
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self) -> Result<()> {
        self.program.signal("CONT")
    }
}

/// Redis in several nodes that share the keys, without replicas. Killed when dropped.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts three nodes and waits until they serve all keys.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub async fn start() -> Result<Self> {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            // The nodes' own port would be 10,000 above, where the system takes outgoing connections from.
            let own = free_port()?.to_string();
            let arguments = ["--cluster-enabled", "yes", "--cluster-port", own.as_str()];
            nodes.push(RedisServer::start_with(&arguments).await?);
        }
        let addresses: Vec<String> = nodes
            .iter()
            .map(|node| format!("127.0.0.1:{}", node.port))
            .collect();
        let mut command = tokio::process::Command::new(find("redis-cli", "SWITCHBOARD_REDIS_CLI")?);
        command
            .args(["--cluster", "create"])
            .args(addresses)
            .arg("--cluster-yes")
            .stdin(Stdio::null());
        let output = tokio::time::timeout(READY, command.output())
            .await
            .context("redis-cli does not end")??;
        if !output.status.success() {
            bail!(
                "the nodes do not become a cluster: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        for node in &mut nodes {
            let port = node.port;
            node.program.ready(READY, || serves_all_keys(port)).await?;
        }
        Ok(Self { nodes })
    }

    /// Where clients connect, by node.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::url).collect()
    }
}

/// Whether a server answers on this port. Of one with TLS, whether it accepts is all that can be seen.
async fn serves(port: u16, tls: bool) -> bool {
    match tls {
        true => TcpStream::connect(("127.0.0.1", port)).await.is_ok(),
        false => answers(port).await,
    }
}

/// Whether a server answers on this port, with whatever: one with a password says so.
async fn answers(port: u16) -> bool {
    let answer = ask(port, "PING").await;
    answer.starts_with("+PONG") || answer.starts_with("-NOAUTH")
}

/// Whether a node of a cluster knows where all keys are.
async fn serves_all_keys(port: u16) -> bool {
    ask(port, "CLUSTER INFO").await.contains("cluster_state:ok")
}

/// The beginning of what a command is answered with; empty where it is not.
async fn ask(port: u16, command: &str) -> String {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut answer = vec![0; 1024];
        let read = stream.read(&mut answer).await?;
        answer.truncate(read);
        std::io::Result::Ok(answer)
    };
    match tokio::time::timeout(Duration::from_secs(1), asked).await {
        Ok(Ok(answer)) => String::from_utf8_lossy(&answer).into_owned(),
        _ => String::new(),
    }
}
