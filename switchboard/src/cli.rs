//! The operator's command line. What goes wrong is one line with what, where and what to do.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use switchboard_service_kit::config::process_environment;
use switchboard_service_kit::run::chain;
use switchboard_service_kit::telemetry;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Config, Effective, Switchboard};

/// A realtime communication service.
#[derive(Debug, Parser)]
#[command(name = "switchboard", version, about)]
#[command(
    after_help = "Environment variables override single keys: SWITCHBOARD__GATEWAY__LISTEN=127.0.0.1:9000 sets \
                        gateway.listen.\nExit code: 0 done or stopped cleanly, 1 failure, 2 wrong arguments or \
                        configuration."
)]
struct Arguments {
    /// Configuration file (TOML). Without it: all services in this process, embedded backends, loopback only, clients
    /// need no token.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Start the configured services and run until SIGTERM or SIGINT (the default).
    Serve,
    /// Create what the bus backend needs: the layout and each shard's log. Changes nothing that exists.
    Migrate,
    /// Report every fault of the configuration.
    CheckConfig,
    /// Print every key with its meaning, value and source; secrets are hidden.
    PrintConfig,
}

/// Wrong arguments or configuration.
const USAGE: u8 = 2;

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (config, effective) = match Config::load(arguments.config.as_deref(), process_environment()) {
        Ok(loaded) => loaded,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(USAGE);
        }
    };
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => run(&config.clone(), serve(config)),
        Command::Migrate => run(&config.clone(), migrate(config)),
        Command::CheckConfig => {
            println!("configuration is valid");
            ExitCode::SUCCESS
        }
        Command::PrintConfig => print(&effective),
    }
}

fn print(effective: &Effective) -> ExitCode {
    println!("{effective}");
    ExitCode::SUCCESS
}

fn run(config: &Config, command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let result = telemetry::init(&config.node.log)
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?))
        .and_then(|runtime| runtime.block_on(command));
    result.unwrap_or_else(|error| {
        eprintln!("switchboard: {}", chain(error.as_ref()));
        ExitCode::FAILURE
    })
}

async fn migrate(mut config: Config) -> anyhow::Result<ExitCode> {
    config.bus.create = true;
    let backends = config.bus.open("migrate").await?;
    println!(
        "the layout of {} shards is in force, and each has its log",
        backends.shards.get()
    );
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let insecure = config.gateway.insecure;
    let system = tokio::select! {
        system = Box::pin(Switchboard::start(config)) => system?,
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    };
    announce(&system, insecure);
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failure = system.failed() => Some(failure),
    };
    let mut code = ExitCode::SUCCESS;
    if let Some(failure) = failure {
        tracing::error!(%failure, "stopping after a failure");
        code = ExitCode::FAILURE;
    }
    println!("stopping; a second signal ends it at once");
    let stopped = tokio::select! {
        stopped = system.stop() => stopped,
        _ = terminate.recv() => return Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => return Ok(ExitCode::FAILURE),
    };
    if !stopped.forced.is_empty() {
        tracing::warn!(tasks = ?stopped.forced, "shutdown.budget was too short for these");
        code = ExitCode::FAILURE;
    }
    Ok(code)
}

fn announce(system: &Switchboard, insecure: bool) {
    println!("Switchboard {} is running", env!("CARGO_PKG_VERSION"));
    if let (Some(demo), Some(websocket)) = (system.demo_url(), system.websocket_url()) {
        println!("  demo page   {demo}");
        println!("  WebSocket   {websocket}");
    }
    println!("  health      {}/health/ready", system.admin_url());
    println!("  metrics     {}/metrics", system.admin_url());
    if let Some(folder) = system.data_folder() {
        println!("  data        {}", folder.display());
    }
    if insecure {
        println!("  clients are let in without a token (gateway.insecure; accepted on loopback only)");
    }
    println!("Ctrl-C stops it.");
}
