//! PostgreSQL. What it was told it keeps, whatever ends it: a restart has the data of before.

mod processes;
mod programs;

use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use self::programs::Programs;
use crate::program::{Program, free_port};

/// How long a server may take until it serves, on a machine busy with other tests. Recovery after a kill is
/// part of it.
const READY: Duration = Duration::from_secs(60);

/// Other processes take ports too: how often new ones are tried.
const TRIES: usize = 5;

/// Who may do everything in the server.
const USER: &str = "switchboard";

/// One PostgreSQL server, with data of its own. Killed when dropped with all of its processes, its data with it.
///
/// It listens on 127.0.0.1 and takes a random password (scram-sha-256). It does not wait for the disk
/// (`fsync=off`): what is committed outlives the end of its processes, not that of the machine. The data folder
/// takes about a second to make and 40 MB, so tests that only need an empty database share a server and take
/// one [`PostgresServer::database`] each.
#[derive(Debug)]
pub struct PostgresServer {
    program: Program,
    programs: Programs,
    port: u16,
    password: String,
    settings: Vec<String>,
    databases: AtomicU32,
    // Dropped after the program.
    folder: TempDir,
}

impl PostgresServer {
    /// Starts an empty server and waits until it answers.
    ///
    /// # Errors
    /// Where the programs are missing, and how to get them; else what they printed.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// As [`PostgresServer::start`], with settings of `postgresql.conf` such as `fsync=on` or
    /// `max_connections=10`.
    ///
    /// # Errors
    /// As [`PostgresServer::start`].
    pub async fn start_with(settings: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let mut server = Self {
            program: Program::new("postgres", folder.path().join("output")),
            programs: Programs::find(folder.path())?,
            port: 0,
            password: random_password(),
            settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
            databases: AtomicU32::new(0),
            folder,
        };
        server.make_data_folder().await?;
        let mut failure = None;
        for _ in 0..TRIES {
            server.port = free_port()?;
            match server.run().await {
                Ok(()) => return Ok(server),
                Err(error) => failure = Some(error),
            }
            server.kill()?;
        }
        Err(failure.unwrap_or_else(|| anyhow::anyhow!("postgres was never started")))
    }

    async fn make_data_folder(&self) -> Result<()> {
        let password = self.folder.path().join("password");
        std::fs::write(&password, &self.password)?;
        self.programs.own(&[self.folder.path(), &password])?;
        let mut command = self.programs.command("initdb");
        command
            .arg("--pgdata")
            .arg(self.data())
            .arg("--pwfile")
            .arg(&password)
            .args([
                &format!("--username={USER}"),
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
            ]);
        output_of("initdb", command)
            .await
            .context("no data folder for PostgreSQL")?;
        Ok(())
    }

    async fn run(&mut self) -> Result<()> {
        let mut command = self.programs.command("postgres");
        command.arg("-D").arg(self.data());
        let own = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            format!("unix_socket_directories={}", self.folder.path().display()),
            "max_connections=100".to_owned(),
            "fsync=off".to_owned(),
            // Else a killed server would leave files in /dev/shm for ever.
            "dynamic_shared_memory_type=mmap".to_owned(),
        ];
        for setting in own.iter().chain(&self.settings) {
            command.args(["-c", setting]);
        }
        self.program.spawn(&mut command)?;
        let (lock_file, pid) = (self.lock_file(), self.program.pid());
        self.program
            .ready(READY, || async { serves(&lock_file, pid) })
            .await
    }

    /// Where clients connect, as the superuser: `postgres://USER:PASSWORD@127.0.0.1:PORT/postgres`.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Makes an empty database and says where clients connect to it, as the superuser.
    ///
    /// # Errors
    /// If the server does not run, or refuses.
    pub async fn database(&self) -> Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed) + 1);
        // Of template1 no copy can be made while somebody is connected to it.
        let statement = format!("CREATE DATABASE {name} TEMPLATE template0");
        self.psql(&self.url(), &statement).await?;
        Ok(self.url_of(&name))
    }

    /// Runs SQL in the database of `url` through `psql`, and stops at the first error. The answer has a line for
    /// each row, with `|` between columns.
    ///
    /// # Errors
    /// What `psql` printed; and if it takes longer than a minute.
    pub async fn psql(&self, url: &str, sql: &str) -> Result<String> {
        let mut command = self.programs.command("psql");
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
        command.args(["--set=ON_ERROR_STOP=1", "--no-password"]);
        command.args(["--command", sql, "--dbname", url]);
        Ok(output_of("psql", command).await?.trim_end().to_owned())
    }

    /// A folder that lives as long as the server. Its Unix socket is there.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends it the orderly way, connections with it (SIGINT, PostgreSQL's fast shutdown), and waits until it is
    /// gone.
    ///
    /// # Errors
    /// If it does not go.
    pub async fn stop(&mut self) -> Result<()> {
        self.program.stop_by("INT", READY).await
    }

    /// Ends it at once (SIGKILL): the server and the processes of its connections, as the end of a machine would.
    /// Returns when they are gone.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn kill(&mut self) -> Result<()> {
        let Some(pid) = self.program.pid() else {
            return Ok(());
        };
        let children = processes::freeze(pid)?;
        self.program.kill()?;
        processes::kill(&children)
    }

    /// Starts it again, after [`PostgresServer::stop`] or [`PostgresServer::kill`] (or does the latter first):
    /// same port, same data. Waits until it answers.
    ///
    /// # Errors
    /// As [`PostgresServer::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.run().await
    }

    /// Stops it in its tracks with all of its connections (SIGSTOP), as a paused machine would.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self) -> Result<()> {
        let children = processes::freeze(self.program.pid().context("postgres does not run")?)?;
        processes::signal("STOP", &children)
    }

    /// Lets it go on after [`PostgresServer::pause`].
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self) -> Result<()> {
        let pid = self.program.pid().context("postgres does not run")?;
        processes::signal("CONT", &processes::children(pid))?;
        self.program.signal("CONT")
    }

    fn url_of(&self, database: &str) -> String {
        format!(
            "postgres://{USER}:{}@127.0.0.1:{}/{database}",
            self.password, self.port
        )
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn lock_file(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Nothing more can be done for a server that cannot be killed.
        self.kill().ok();
        // A killed server leaves its System V segment, of which a machine has room for 4096. A restart would
        // have taken it over.
        if let Some(segment) = shared_memory(&self.lock_file()) {
            self.programs.run_quietly("ipcrm", &["-m", &segment]);
        }
    }
}

/// What a program printed that ended well.
async fn output_of(name: &str, command: std::process::Command) -> Result<String> {
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(READY, command.output())
        .await
        .with_context(|| format!("{name} does not end"))?
        .with_context(|| format!("{name} cannot be run"))?;
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the server with this process id takes connections. Its lock file says so: the first line is the process
/// id (a killed server leaves its file), the eighth what it does.
fn serves(lock_file: &Path, pid: Option<u32>) -> bool {
    let content = std::fs::read_to_string(lock_file).unwrap_or_default();
    let mut lines = content.lines().map(str::trim);
    let written_by = lines.next().and_then(|line| line.parse().ok());
    written_by.is_some() && written_by == pid && lines.nth(6) == Some("ready")
}

/// The id of the System V segment of a server that was killed: in the seventh line of its lock file, after the
/// key.
fn shared_memory(lock_file: &Path) -> Option<String> {
    let content = std::fs::read_to_string(lock_file).ok()?;
    let id = content.lines().nth(6)?.split_whitespace().nth(1)?;
    Some(id.to_owned())
}

/// 128 bits that nobody on the machine guesses.
fn random_password() -> String {
    let part = |number: u64| RandomState::new().hash_one(number);
    format!("{:016x}{:016x}", part(0), part(1))
}
