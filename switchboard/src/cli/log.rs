//! `switchboard log …`: what an operator may do to the log. The steps are [`crate::log_life`]'s.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use switchboard_bus::Log;
use switchboard_bus::config::{Backend, Backends};
use switchboard_proto::ids::{MAX_SHARDS, ShardCount};

use super::{say, tell};
use crate::config::Service;
use crate::log_life::{self, Followed};
use crate::{Config, Switchboard};

#[derive(Debug, Clone, Subcommand)]
pub(super) enum LogCommand {
    /// Print how each shard's log stands.
    Status,
    /// Let an empty log follow the one of a shard, whatever became of that: clients are told that what they missed
    /// cannot be recovered. Routers and gateways go on; with the embedded backend the process must be stopped.
    NewEpoch {
        /// The shard.
        #[arg(long, required_unless_present = "all", conflicts_with = "all")]
        shard: Option<u32>,
        /// All shards, one after the other.
        #[arg(long)]
        all: bool,
        /// Remove the log that is followed, with all its messages.
        #[arg(long)]
        remove_old: bool,
    },
    /// Change the number of shards: publishes are refused, what waits is stored and derived, every shard gets an empty
    /// log; then every process is restarted with the new bus.shards. With the embedded backend the process must be
    /// stopped.
    ChangeShards {
        /// The new number.
        #[arg(required_unless_present = "cancel", conflicts_with = "cancel", value_parser = shard_count)]
        shards: Option<ShardCount>,
        /// Give up a change that was interrupted before the first log was closed.
        #[arg(long)]
        cancel: bool,
        /// How long to wait for what still has to be derived.
        #[arg(long, default_value = "60s", value_parser = super::ttl)]
        patience: Duration,
    },
}

fn shard_count(text: &str) -> Result<ShardCount, String> {
    let count = text.parse().ok().and_then(ShardCount::new);
    count.ok_or_else(|| format!("write a whole number from 1 to {MAX_SHARDS}"))
}

pub(super) async fn run(config: Config, command: LogCommand) -> anyhow::Result<ExitCode> {
    if let Backend::Embedded { path, .. } = &config.bus.backend
        && !path.exists()
    {
        // Opening would make one.
        bail!(
            "no log is in {}: run this in the folder of the system, or with its --config",
            path.display()
        );
    }
    let log = config.bus.open_log("switchboard").await?;
    match command {
        LogCommand::Status => status(&*log).await,
        LogCommand::NewEpoch {
            shard, remove_old, ..
        } => {
            let shards = match shard {
                Some(shard) => vec![shard],
                None => (0..log_life::layout(&*log).await?.shards).collect(),
            };
            for shard in shards {
                let followed = log_life::begin_epoch(&*log, shard).await?;
                tell_old(&*log, &config, followed, remove_old).await?;
            }
            Ok(ExitCode::SUCCESS)
        }
        LogCommand::ChangeShards { cancel: true, .. } => {
            log_life::cancel_change(&*log).await?;
            tell!("the change is given up, publishes are taken again");
            Ok(ExitCode::SUCCESS)
        }
        LogCommand::ChangeShards { shards, patience, .. } => {
            let count = shards.context("name the new number of shards")?;
            Box::pin(change_shards(config, log, count, patience)).await
        }
    }
}

async fn status(log: &dyn Log) -> anyhow::Result<ExitCode> {
    let (layout, infos) = log_life::status(log).await?;
    let mut text = format!(
        "{} shards, keys are known for {:?}\n",
        layout.shards,
        layout.key_window()
    );
    if layout.is_frozen() {
        writeln!(
            text,
            "the number of shards is being changed to {}, and publishes are refused meanwhile",
            layout.changing_to
        )?;
    }
    text.push_str("shard  ordinal  epoch                first         last        bytes    max bytes\n");
    for (shard, info) in infos {
        let ordinal = layout.ordinal(shard);
        match info {
            Some(info) => {
                let max_bytes = info
                    .max_bytes
                    .map_or_else(|| "-".to_owned(), |max| max.to_string());
                let epoch = info.epoch.to_string();
                writeln!(
                    text,
                    "{shard:>5}  {ordinal:>7}  {epoch:<14} {:>12} {:>12} {:>12} {max_bytes:>12}",
                    info.first.0, info.last.0, info.bytes
                )?;
            }
            None => writeln!(
                text,
                "{shard:>5}  {ordinal:>7}  missing: begin another with `log new-epoch --shard {shard}`"
            )?,
        }
    }
    Ok(say(&text))
}

async fn tell_old(log: &dyn Log, config: &Config, followed: Followed, remove: bool) -> anyhow::Result<()> {
    let Followed { shard, old, new } = followed;
    tell!("shard {shard}: log {new} is in force");
    if remove {
        log_life::remove_old(log, followed).await?;
        tell!("shard {shard}: log {old} is removed");
    } else {
        tell!(
            "shard {shard}: log {old} is kept, {}",
            where_it_is(config, &shard.to_string(), old)
        );
    }
    Ok(())
}

/// Where an old log is, and how to get rid of it.
fn where_it_is(config: &Config, shard: &str, ordinal: u32) -> String {
    match &config.bus.backend {
        Backend::Embedded { .. } => format!("as keyspace log-{ordinal}-{shard} of the data folder"),
        Backend::Nats(_) => {
            let prefix = config.bus.prefix.as_str().to_ascii_uppercase();
            format!("as stream {prefix}_LOG_{ordinal}_{shard}; `nats stream rm` removes it")
        }
    }
}

async fn change_shards(
    mut config: Config,
    log: Arc<dyn Log>,
    count: ShardCount,
    patience: Duration,
) -> anyhow::Result<ExitCode> {
    // No other process can own the shards of an embedded log, so this one does until they are drained.
    let owner = match &config.bus.backend {
        Backend::Nats(_) => None,
        Backend::Embedded { .. } => {
            let layout = log_life::layout(&*log).await?;
            let shards = layout.shard_count().context("the layout has no shards")?;
            let backends = Backends {
                bus: config.bus.open_bus("switchboard").await?,
                log: log.of(&layout),
                shards,
            };
            config.services = vec![Service::Router];
            config.node.admin.listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
            Some(Switchboard::start_on(config.clone(), &backends).await?)
        }
    };
    let changed = log_life::change_shards(&*log, count, patience, |step| tell!("{step}")).await;
    if let Some(owner) = owner {
        owner.stop().await;
    }
    let (before, after) = changed?;
    tell!(
        "set bus.shards = {} and restart every process, routers first; until then they are not ready",
        after.shards
    );
    tell!(
        "the {} logs of before are kept, {}",
        before.shards,
        where_it_is(&config, "<shard>", before.highest_ordinal())
    );
    Ok(ExitCode::SUCCESS)
}
