//! The frame around a node: arguments, configuration, log lines, runtime, start, signals, stop, exit
//! code. With it a service's `main` only says what it reads and what it starts.
//!
//! A stop has this order: not ready; every task is told and waited for, within `shutdown.budget`; what
//! the start returned is dropped (connections close); the admin endpoint ends. A second signal ends
//! the process at once.

use std::error::Error;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{self, AdminConfig};
use crate::config::{Document, Effective, Faults, process_environment};
use crate::service::Context;
use crate::tasks::{TaskKind, Tasks};
use crate::telemetry::{self, LogConfig};

/// What the admin endpoint gets to end its connections in, after everything else has stopped.
const ADMIN_STOP: Duration = Duration::from_secs(1);
/// What threads that still block get at the very end.
const BLOCKING_STOP: Duration = Duration::from_secs(1);

/// An error of a service's start, whatever its type.
pub type StartFailure = Box<dyn Error + Send + Sync>;

/// What a service's binary is.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Its name, as in log lines.
    pub name: &'static str,
    /// Its release.
    pub version: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// The default of `admin.listen`.
    pub admin: SocketAddr,
    /// Sections of the shared configuration file that are read by other services only.
    pub other_sections: &'static [&'static str],
}

/// What every node reads besides its services' own sections: `[log]`, `[admin]`, `[shutdown]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Where log lines go.
    pub log: LogConfig,
    /// The admin endpoint.
    pub admin: AdminConfig,
    /// What a stop may take before tasks are ended by force.
    pub shutdown_budget: Duration,
}

impl NodeConfig {
    /// Reads the three sections; `admin` is the default of `admin.listen`.
    pub fn read(document: &mut Document, admin: SocketAddr) -> Self {
        let log = LogConfig::read(document);
        let admin = AdminConfig::read(document, admin);
        let shutdown_budget = document.section("shutdown").duration(
            "budget",
            Duration::from_secs(30),
            Duration::ZERO..=Duration::from_secs(3600),
            "What a stop may take before it is forced. Kubernetes' grace period must be longer.",
        );
        Self {
            log,
            admin,
            shutdown_budget,
        }
    }
}

/// Reads a whole configuration: the node's sections, and what `read` reads.
///
/// # Errors
/// Every fault there is.
pub fn configure<C>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    admin: SocketAddr,
    read: impl FnOnce(&mut Document) -> C,
) -> Result<(NodeConfig, C, Effective), Faults> {
    let mut document = Document::load(file, environment)?;
    let node = NodeConfig::read(&mut document, admin);
    let config = read(&mut document);
    Ok((node, config, document.finish()?))
}

/// A service's whole `main`: `--config FILE`, `--help`, `--version`; reads the configuration with
/// `read`, starts with `start`, and stops as [`node`] does.
///
/// Exit code 0 after a clean stop, 1 after a failure, 2 for wrong arguments or configuration.
pub fn main<C, T, E, F>(
    program: Program,
    read: impl FnOnce(&mut Document) -> C,
    start: impl FnOnce(C, Context) -> F,
) -> ExitCode
where
    F: Future<Output = Result<T, E>>,
    E: Into<StartFailure>,
{
    let file = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(Arguments::Run { config }) => config,
        Ok(Arguments::Help) => {
            println!("{}", usage(&program));
            return ExitCode::SUCCESS;
        }
        Ok(Arguments::Version) => {
            println!("{} {}", program.name, program.version);
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{problem}\n\n{}", usage(&program));
            return ExitCode::from(2);
        }
    };
    let read = |document: &mut Document| {
        program
            .other_sections
            .iter()
            .for_each(|section| document.ignore(section));
        read(document)
    };
    match configure(file.as_deref(), process_environment(), program.admin, read) {
        Ok((config, service, _)) => node(program.name, &config, |context| start(service, context)),
        Err(faults) => {
            eprintln!("{}: the configuration is refused:\n{faults}", program.name);
            ExitCode::from(2)
        }
    }
}

/// Runs one node in this process until SIGTERM, SIGINT or the failure of an essential task, then
/// stops it. `start` is given a fresh [`Context`]; what it returns is kept until all tasks have ended.
///
/// Exit code 0 after a clean stop; 1 if the start failed, an essential task failed, the stop had to
/// be forced, or a second signal cut it short.
pub fn node<T, E, F>(name: &'static str, config: &NodeConfig, start: impl FnOnce(Context) -> F) -> ExitCode
where
    F: Future<Output = Result<T, E>>,
    E: Into<StartFailure>,
{
    let prepared = telemetry::init(&config.log)
        .map_err(StartFailure::from)
        .and_then(|()| Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?));
    let runtime = match prepared {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: cannot start: {}", chain(&*error));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        let context = Context::new();
        let aside = context.tasks.separate();
        let signals = match watch_signals(&aside) {
            Ok(signals) => signals,
            Err(error) => return Outcome::StartFailed(Box::new(error)),
        };
        let outcome = Box::pin(live(name, config, &context, &aside, signals, start)).await;
        if !matches!(outcome, Outcome::Interrupted) {
            aside.stop(ADMIN_STOP).await;
        }
        outcome
    });
    let code = outcome.report(name);
    if matches!(outcome, Outcome::Interrupted) {
        runtime.shutdown_background();
    } else {
        runtime.shutdown_timeout(BLOCKING_STOP);
    }
    code
}

/// How a node's life went.
#[derive(Debug)]
enum Outcome {
    /// Asked to stop, stopped.
    Stopped,
    /// Asked to stop, or failed, and some tasks did not end by themselves.
    Forced,
    StartFailed(StartFailure),
    /// An essential task failed; the stop after it was clean.
    TaskFailed,
    /// A second signal came.
    Interrupted,
}

impl Outcome {
    fn report(&self, name: &str) -> ExitCode {
        match self {
            Self::Stopped => {
                tracing::info!(service = name, "stopped");
                return ExitCode::SUCCESS;
            }
            Self::Forced => {
                tracing::error!(service = name, "stopped by force: shutdown.budget was too short")
            }
            Self::StartFailed(error) => {
                tracing::error!(service = name, error = chain(&**error), "cannot start");
            }
            Self::TaskFailed => tracing::error!(service = name, "stopped after a failure"),
            Self::Interrupted => tracing::error!(service = name, "second signal, ended at once"),
        }
        ExitCode::FAILURE
    }
}

/// From start to stop. `signals` yields the name of each signal.
async fn live<T, E, F>(
    name: &'static str,
    config: &NodeConfig,
    context: &Context,
    aside: &Tasks,
    mut signals: mpsc::Receiver<&'static str>,
    start: impl FnOnce(Context) -> F,
) -> Outcome
where
    F: Future<Output = Result<T, E>>,
    E: Into<StartFailure>,
{
    let starting = async {
        let listener = admin::bind("admin.listen", config.admin.listen).await?;
        let admin = listener.local_addr()?;
        admin::serve(
            listener,
            admin::router(context.health.clone(), context.metrics.clone()),
            aside,
        )
        .await;
        tracing::info!(service = name, %admin, "starting");
        start(context.clone()).await.map_err(Into::into)
    };
    let (running, failed) = tokio::select! {
        started = starting => match started {
            Ok(running) => {
                tracing::info!(service = name, "started");
                (Ok(Some(running)), wait(name, context, aside, &mut signals).await)
            }
            Err(error) => (Err(error), true),
        },
        signal = signals.recv() => {
            tracing::info!(service = name, signal, "stopping before the start was done");
            (Ok(None), false)
        }
    };
    context.health.stop();
    let stopped = tokio::select! {
        stopped = context.tasks.stop(config.shutdown_budget) => stopped,
        Some(_) = signals.recv() => return Outcome::Interrupted,
    };
    match running {
        Err(error) => Outcome::StartFailed(error),
        Ok(_) if !stopped.forced.is_empty() => Outcome::Forced,
        Ok(_) if failed => Outcome::TaskFailed,
        Ok(_) => Outcome::Stopped,
    }
}

/// Until there is a reason to stop; whether it is a failure.
async fn wait(
    name: &str,
    context: &Context,
    aside: &Tasks,
    signals: &mut mpsc::Receiver<&'static str>,
) -> bool {
    let failure = tokio::select! {
        Some(signal) = signals.recv() => {
            tracing::info!(service = name, signal, "stopping");
            return false;
        }
        failure = context.tasks.failed() => failure,
        failure = aside.failed() => failure,
    };
    tracing::error!(service = name, task = failure.task, cause = %failure.cause, "stopping after a failure");
    true
}

fn watch_signals(aside: &Tasks) -> std::io::Result<mpsc::Receiver<&'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Two are all that have a meaning; more are dropped.
    let (seen, signals) = mpsc::channel(2);
    let stop = aside.stop_token();
    aside.spawn("signals", TaskKind::Replaceable, async move {
        loop {
            let name = tokio::select! {
                Some(()) = terminate.recv() => "SIGTERM",
                Some(()) = interrupt.recv() => "SIGINT",
                () = stop.cancelled() => return,
            };
            seen.try_send(name).ok();
        }
    });
    Ok(signals)
}

/// What a service's binary was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Arguments {
    Run { config: Option<PathBuf> },
    Help,
    Version,
}

impl Arguments {
    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = arguments.into_iter();
        let mut config = None;
        while let Some(argument) = arguments.next() {
            let text = argument.to_string_lossy();
            match &*text {
                "--help" | "-h" => return Ok(Self::Help),
                "--version" | "-V" => return Ok(Self::Version),
                "--config" => {
                    config = Some(
                        arguments
                            .next()
                            .ok_or("--config needs the path of a file")?
                            .into(),
                    )
                }
                other => match other.strip_prefix("--config=") {
                    Some(path) => config = Some(path.into()),
                    None => return Err(format!("unknown argument {other}")),
                },
            }
        }
        Ok(Self::Run { config })
    }
}

fn usage(program: &Program) -> String {
    let Program {
        name, version, about, ..
    } = program;
    format!(
        "{name} {version}: {about}

Usage: {name} [--config FILE]

  --config FILE  read the configuration from FILE (TOML); defaults hold without it
  --help         print this
  --version      print the version

Environment variables override single keys: SWITCHBOARD__LOG__FILTER=debug sets log.filter.
SIGTERM or SIGINT stops it, a second one ends it at once.
Exit code: 0 stopped cleanly, 1 failure, 2 wrong arguments or configuration."
    )
}

/// An error and its sources on one line; a source whose text its parent has already said is left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut said = text.clone();
    for source in std::iter::successors(error.source(), |&error| error.source()) {
        let next = source.to_string();
        if !said.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        said = next;
    }
    text.replace('\n', "; ")
}

#[cfg(test)]
mod tests;
