//! `switchboard-loadgen`: see the library.

mod arguments;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use serde::Serialize;
use switchboard_loadgen::floors::{nats, write};
use switchboard_loadgen::{part, run, summary};

use crate::arguments::{Arguments, Command};

/// Something was lost, doubled, out of order, or not recovered.
const VIOLATED: u8 = 3;

#[tokio::main]
async fn main() -> ExitCode {
    match perform(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("switchboard-loadgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn perform(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let json = arguments.json.as_deref();
    match &arguments.command {
        Command::Part => part().await?,
        Command::Drain { to, sockets } => write::drain(*to, *sockets).await?,
        Command::Summary { files } => print!("{}", summary::markdown(files)?),
        Command::FloorWrite {
            sockets,
            rate,
            size,
            duration,
        } => {
            let (sockets, rate, size) = (*sockets, *rate, *size);
            let duration = Duration::from_secs(*duration);
            // Not on a thread of the runtime, which it would block.
            let measuring = move || write::run(sockets, rate, size, duration);
            let floor = tokio::task::spawn_blocking(measuring).await??;
            tell(&floor, json)?;
        }
        Command::FloorNats {
            nats,
            replicas,
            connections,
            unanswered,
            size,
            duration,
        } => {
            let duration = Duration::from_secs(*duration);
            let floor = nats::run(nats, *replicas, connections * unanswered, *size, duration).await?;
            tell(&floor, json)?;
        }
        Command::Idle { .. }
        | Command::Rooms { .. }
        | Command::Fanout { .. }
        | Command::Storm { .. }
        | Command::Publish { .. } => {
            let report = run(arguments.plan()?, arguments.processes).await?;
            tell(&report, json)?;
            if !report.violations.is_empty() {
                return Ok(ExitCode::from(VIOLATED));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(result: &(impl Serialize + std::fmt::Display), json: Option<&Path>) -> anyhow::Result<()> {
    println!("{result}");
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(result)?;
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
