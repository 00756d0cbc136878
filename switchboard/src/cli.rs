//! The operator's command line. What goes wrong is one line with what, where and what to do.

mod keep;
mod log;
mod moving;
mod talk;

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use switchboard_gateway::{IssueError, TokenRequest};
use switchboard_service_kit::config::{parse_duration, process_environment};
use switchboard_service_kit::run::chain;
use switchboard_service_kit::telemetry;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Config, Effective, Switchboard};

/// A realtime communication service.
#[derive(Debug, Parser)]
#[command(name = "switchboard", version)]
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

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Start the configured services and run until SIGTERM or SIGINT (the default).
    Serve,
    /// Create what the backends need: the layout, each shard's log, and the schemas of the message store and of the notification
    /// store, which are also brought up to this release's. Changes nothing else that exists.
    Migrate,
    /// Look at the log, or change what it is made of.
    Log {
        #[command(subcommand)]
        command: log::LogCommand,
    },
    /// List, verify or read back what expired from the message store.
    Archive {
        #[command(subcommand)]
        command: keep::ArchiveCommand,
    },
    /// Delete what USER said, and what is known about USER, from the message store and from the notification store. Each message stays
    /// at its place, blank.
    Erase {
        /// The user's id.
        user: String,
        /// Although there is no archive to record it in: a message store that is made anew will not know of it.
        #[arg(long)]
        without_archive: bool,
    },
    /// Keep messages from expiry and erasure.
    Hold {
        #[command(subcommand)]
        command: keep::HoldCommand,
    },
    /// Write all that is stored in this embedded installation into FOLDER, to be imported into a cluster. The process must be stopped.
    Export {
        /// An empty folder; it is made where it is missing.
        folder: PathBuf,
        /// How long to wait until the message store has read the log to its end.
        #[arg(long, default_value = "60s", value_parser = ttl)]
        patience: Duration,
    },
    /// Write what was exported into FOLDER into the message store of this cluster. May be run again where it was broken off.
    Import {
        /// What `switchboard export` has written.
        folder: PathBuf,
    },
    /// Make a pair of keys for Web Push: the private one for notify.web_push.private_key, the public one for browsers.
    WebPushKeys,
    /// Report every fault of the configuration.
    CheckConfig,
    /// Print every key with its meaning, value and source; secrets are hidden.
    PrintConfig,
    /// Print what USER may do in CHANNEL, and which setting decides it.
    Explain {
        /// The user's id; "" for an anonymous one.
        user: String,
        /// The channel's name.
        channel: String,
    },
    /// Publish DATA to CHANNEL, as a client of the gateway, and print the message's id and offset.
    Publish {
        #[command(flatten)]
        who: talk::As,
        #[command(flatten)]
        said: talk::Said,
    },
    /// Print what is said in CHANNELS, a line of JSON each, until Ctrl-C. What is said while the gateway is gone comes when it
    /// is back.
    Listen {
        #[command(flatten)]
        who: talk::As,
        #[command(flatten)]
        heard: talk::Heard,
    },
    /// Print a token that lets USER connect, or subscribe to CHANNEL, signed with gateway.tokens.hmac_secret.
    Token {
        /// The user's id.
        user: String,
        /// A subscription token for this channel instead of a connection token.
        #[arg(long)]
        channel: Option<String>,
        /// How long the token is valid: a whole number with one of the units s, m, h, d.
        #[arg(long, default_value = "1h", value_parser = ttl)]
        ttl: Duration,
        /// JSON that goes with everything its bearer publishes.
        #[arg(long, value_name = "JSON")]
        info: Option<String>,
        /// Its bearer is an administrator: may ask for statistics.
        #[arg(long)]
        admin: bool,
    },
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
        Command::Serve => {
            let token = token_command(&config, arguments.config.as_deref());
            run(&config.clone(), serve(config, token))
        }
        Command::Migrate => run(&config.clone(), migrate(config)),
        Command::Log { command } => run(&config.clone(), log::run(config, command)),
        Command::Archive { command } => run(&config.clone(), keep::archive(config, command)),
        Command::Erase {
            user,
            without_archive,
        } => run(&config.clone(), keep::erase(config, user, without_archive)),
        Command::Hold { command } => run(&config.clone(), keep::hold(config, command)),
        Command::Export { folder, patience } => {
            run(&config.clone(), moving::export(config, &folder, patience))
        }
        Command::Import { folder } => run(&config.clone(), moving::import(config, &folder)),
        Command::WebPushKeys => web_push_keys(),
        Command::CheckConfig => {
            for warning in config.gateway.warnings() {
                eprintln!("switchboard: {warning}");
            }
            tell!("configuration is valid");
            ExitCode::SUCCESS
        }
        Command::PrintConfig => print(&effective),
        Command::Publish { who, said } => run_quietly(talk::publish(&config, &who, &said)),
        Command::Listen { who, heard } => run_quietly(talk::listen(&config, &who, &heard)),
        Command::Explain { user, channel } => explain(&config, &user, &channel),
        Command::Token {
            user,
            channel,
            ttl,
            info,
            admin,
        } => token(
            &config,
            TokenRequest {
                user: &user,
                channel: channel.as_deref(),
                ttl,
                info: info.as_deref(),
                admin,
            },
        ),
    }
}

fn print(effective: &Effective) -> ExitCode {
    say(&format!("{effective}\n"))
}

/// Prints a line to standard output. That nobody reads it, such as `head` that has seen enough, is no reason to stop.
macro_rules! tell {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        writeln!(std::io::stdout(), $($line)*).ok();
    }};
}
pub(crate) use tell;

/// Prints to standard output. A reader that has seen enough, such as `head`, is no fault.
fn say(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("switchboard: standard output cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

fn explain(config: &Config, user: &str, channel: &str) -> ExitCode {
    match config.gateway.policy.now().explain(user, channel) {
        Ok(text) => say(&text),
        Err(error) => {
            eprintln!("switchboard: {error}; clients are answered with error 107");
            ExitCode::from(USAGE)
        }
    }
}

fn ttl(text: &str) -> Result<Duration, &'static str> {
    match parse_duration(text) {
        Some(ttl) if ttl >= Duration::from_secs(1) => Ok(ttl),
        Some(_) | None => Err("write a whole number with one of the units s, m, h, d, such as 1h"),
    }
}

/// Prints the token alone, so that it can be used in scripts.
fn token(config: &Config, request: TokenRequest<'_>) -> ExitCode {
    match config.gateway.tokens.issue(request) {
        Ok(token) => {
            tell!("{token}");
            ExitCode::SUCCESS
        }
        Err(error @ IssueError::Info(_)) => {
            eprintln!("switchboard: {}", chain(&error));
            ExitCode::from(USAGE)
        }
        Err(error) => {
            eprintln!("switchboard: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
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

/// As [`run`], for commands that say what they have to say themselves.
fn run_quietly(command: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(command));
    result.unwrap_or_else(|error| {
        eprintln!("switchboard: {}", chain(error.as_ref()));
        ExitCode::FAILURE
    })
}

fn web_push_keys() -> ExitCode {
    match switchboard_notify_svc::web_push_keys() {
        Ok((private, public)) => {
            tell!("private_key = {private:?}");
            tell!("# Browsers subscribe with this as applicationServerKey: {public}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("switchboard: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn migrate(mut config: Config) -> anyhow::Result<ExitCode> {
    config.bus.create = true;
    let backends = config.bus.open("switchboard").await?;
    tell!(
        "the layout of {} shards is in force, and each has its log",
        backends.shards.get()
    );
    if let Some(settings) = &config.persistence.store {
        let store = settings.open()?;
        store.migrate().await?;
        store.close().await;
        tell!("the message store has this release's schema");
    }
    if let Some(settings) = &config.notify.store {
        let store = switchboard_notify_svc::open_store(settings)?;
        store.migrate().await?;
        store.close().await;
        tell!("the notification store has this release's schema");
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: Config, token: Option<String>) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let insecure = config.gateway.insecure;
    let system = tokio::select! {
        system = Switchboard::start(config) => system?,
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    };
    announce(&system, insecure, token.as_deref());
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
    tell!("stopping; a second signal ends it at once");
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

/// What to type for a token; `None` where none can be signed here.
fn token_command(config: &Config, file: Option<&Path>) -> Option<String> {
    let request = TokenRequest {
        user: "alice",
        channel: None,
        ttl: Duration::from_secs(1),
        info: None,
        admin: false,
    };
    config.gateway.tokens.issue(request).ok()?;
    let program = std::env::args().next()?;
    let file = file.map_or(String::new(), |file| format!(" --config {}", file.display()));
    Some(format!("{program} token alice{file}"))
}

fn announce(system: &Switchboard, insecure: bool, token: Option<&str>) {
    tell!("Switchboard {} is running", env!("CARGO_PKG_VERSION"));
    if let (Some(demo), Some(websocket)) = (system.demo_url(), system.websocket_url()) {
        tell!("  demo page   {demo}");
        tell!("  WebSocket   {websocket}");
    }
    tell!("  health      {}/health/ready", system.admin_url());
    tell!("  metrics     {}/metrics", system.admin_url());
    if let Some(api) = system.api_url() {
        match system.api_key_file() {
            Some(file) => tell!("  server API  {api}, with the key in {}", file.display()),
            None => tell!("  server API  {api}"),
        }
    }
    for (name, grpc) in [
        ("messages", system.messages()),
        ("presence", system.presence()),
        ("notifications", system.notifications()),
    ] {
        let Some(grpc) = grpc else { continue };
        match &grpc.key_file {
            Some(file) => tell!(
                "  {name:<12}gRPC on {}, with the key in {}",
                grpc.address,
                file.display()
            ),
            None => tell!("  {name:<12}gRPC on {}", grpc.address),
        }
    }
    if let Some(folder) = system.data_folder() {
        tell!("  data        {}", folder.display());
    }
    if let Some(token) = token {
        tell!("  a token     {token}");
    }
    if insecure {
        tell!("  clients are let in without a token (gateway.insecure; accepted on loopback only)");
    }
    tell!("Ctrl-C stops it.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_understood() {
        let parse = |arguments: &[&str]| Arguments::try_parse_from([&["switchboard"], arguments].concat());
        let arguments = parse(&[
            "token",
            "alice",
            "--channel",
            "room:1",
            "--ttl",
            "5m",
            "--info",
            "1",
        ])
        .unwrap();
        let Some(Command::Token {
            user,
            channel,
            ttl,
            info,
            admin,
        }) = arguments.command
        else {
            panic!("{arguments:?}");
        };
        assert_eq!(
            (user.as_str(), channel.as_deref(), info.as_deref()),
            ("alice", Some("room:1"), Some("1"))
        );
        assert_eq!(ttl, Duration::from_secs(300));
        assert!(!admin);
        for wrong in ["5", "0s", "10ms", "-1h", "1y", ""] {
            assert!(parse(&["token", "alice", "--ttl", wrong]).is_err(), "{wrong}");
        }
        assert!(parse(&["token"]).is_err());
    }

    #[test]
    fn the_command_that_is_announced_works_without_a_file_and_not_without_a_secret() {
        let (config, _) = Config::load(None, []).unwrap();
        assert!(token_command(&config, None).unwrap().ends_with(" token alice"));
        // Whoever switches insecure off has to name a secret of their own.
        let secure = ("SWITCHBOARD__GATEWAY__INSECURE".to_owned(), "false".to_owned());
        let (config, _) = Config::load(None, [secure]).unwrap();
        assert_eq!(token_command(&config, None), None);
        let config = Config::from_toml("[gateway.tokens]\nhmac_secret = \"x\"").unwrap();
        let command = token_command(&config, Some(Path::new("s.toml"))).unwrap();
        assert!(command.ends_with(" token alice --config s.toml"), "{command}");
    }
}
