//! `switchboard-loadgen`: see the library.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use switchboard_loadgen::rooms::{self, Rooms};

/// Puts load on a server and checks what it promises. Exit code: 0 all as promised, 1 failure, 3 something was lost,
/// doubled, out of order, or not recovered.
#[derive(Debug, Parser)]
#[command(name = "switchboard-loadgen", version)]
struct Arguments {
    /// Where to connect; several are used in turn.
    #[arg(
        long,
        global = true,
        default_value = "ws://127.0.0.1:8000/connection/websocket"
    )]
    url: Vec<String>,
    /// A connection token for all clients.
    #[arg(long, global = true, default_value = "")]
    token: String,
    /// Processes whose time is reported for each delivery.
    #[arg(long, global = true)]
    pid: Vec<u32>,
    /// Write the result there, as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Connections in rooms; each publishes now and then, at times set beforehand (open loop).
    Rooms {
        #[arg(long, default_value_t = 1000)]
        connections: usize,
        /// Connections in one room.
        #[arg(long, default_value_t = 10)]
        room: usize,
        /// Publishes a second, of all connections together.
        #[arg(long, default_value_t = 2000.0)]
        rate: f64,
        /// Bytes of each message's text.
        #[arg(long, default_value_t = 100)]
        size: usize,
        /// Seconds that are not counted.
        #[arg(long, default_value_t = 10)]
        warm_up: u64,
        /// Seconds that are.
        #[arg(long, default_value_t = 60)]
        duration: u64,
        /// Connections that are cut and come back, at random times.
        #[arg(long, default_value_t = 0)]
        cuts: usize,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("switchboard-loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Scenario::Rooms {
        connections,
        room,
        rate,
        size,
        warm_up,
        duration,
        cuts,
    } = arguments.scenario;
    let report = rooms::run(Rooms {
        urls: arguments.url,
        token: arguments.token,
        connections,
        room,
        rate,
        size,
        warm_up: Duration::from_secs(warm_up),
        duration: Duration::from_secs(duration),
        cuts,
        pids: arguments.pid,
        progress: true,
    })
    .await?;
    println!("{report}");
    if let Some(file) = arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(match report.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(3),
    })
}
