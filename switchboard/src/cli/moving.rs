//! `switchboard export` and `switchboard import`: an embedded installation becomes a cluster. What is in the folder, and how it is written
//! into the other store, is [`switchboard_persistence_svc::moving`]'s; here is what log and processes have to do with it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use switchboard_bus::config::{Backend, Backends};
use switchboard_bus::{Log, LogInfo};
use switchboard_persistence_svc::keeping::Keeper;
use switchboard_persistence_svc::moving::{self, ExportedLog, Folder, Import};
use switchboard_persistence_svc::store::Store;
use switchboard_proto::ids::{Sequence, ShardId};
use switchboard_proto::time::now_us;
use tokio::time::Instant;

use super::{keep, tell};
use crate::config::Service;
use crate::{Config, Switchboard, log_life};

/// Between two looks at how far the store is.
const LOOK: Duration = Duration::from_millis(50);

/// Writes all that the store has into `folder`, once it has all that the log has.
pub(super) async fn export(config: Config, folder: &Path, patience: Duration) -> anyhow::Result<ExitCode> {
    let Backend::Embedded { path, .. } = &config.bus.backend else {
        bail!(
            "this is a cluster (bus.backend): a cluster's store is moved with the tools of its database, such as pg_dump"
        );
    };
    if !path.exists() {
        // Opening would make one.
        bail!(
            "no log is in {}: run this in the folder of the system, or with its --config",
            path.display()
        );
    }
    let folder = Folder::create(folder)?;
    // Held until the end: no process can say anything more meanwhile.
    let log = config.bus.open_log("switchboard").await?;
    let store = keep::store(&config).await?;
    read_the_rest(&config, &log, &*store, patience).await?;
    let manifest = moving::export(&*store, &folder, now_us(), tell_log).await?;
    store.close().await;
    tell!(
        "{} messages are exported; the process must not be started again, or what is said then is in no export",
        manifest.messages
    );
    Ok(ExitCode::SUCCESS)
}

/// Lets the persistence service store what the log has and the store has not.
async fn read_the_rest(
    config: &Config,
    log: &Arc<dyn Log>,
    store: &dyn Store,
    patience: Duration,
) -> anyhow::Result<()> {
    let (layout, infos) = log_life::status(&**log).await?;
    let mut config = config.clone();
    config.services = vec![Service::Persistence];
    config.persistence.grpc = None;
    config.node.admin.listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let backends = Backends {
        bus: config.bus.open_bus("switchboard").await?,
        log: log.of(&layout),
        shards: layout.shard_count().context("the layout has no shards")?,
    };
    let service = Switchboard::start_on(config, &backends).await?;
    let read = read_up_to(store, infos, patience).await;
    service.stop().await;
    read
}

async fn read_up_to(
    store: &dyn Store,
    logs: Vec<(ShardId, Option<LogInfo>)>,
    patience: Duration,
) -> anyhow::Result<()> {
    let end = Instant::now() + patience;
    for (shard, info) in logs {
        let Some(info) = info else { continue };
        loop {
            let progress = store.progress(shard, info.epoch).await?;
            let read_to = progress.map_or(Sequence(0), |progress| progress.read_to);
            if read_to >= info.last {
                break;
            }
            if Instant::now() >= end {
                bail!(
                    "the message store has read the log of shard {shard} up to record {read_to} of {} within {patience:?}: what hinders it is told \
                     above; mend that, or give it a longer --patience",
                    info.last
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Writes what is in `folder` into the store.
pub(super) async fn import(config: Config, folder: &Path) -> anyhow::Result<ExitCode> {
    let import = Import::open(Folder::open(folder)?).await?;
    let manifest = import.manifest();
    tell!(
        "{} messages of {} logs are as they were exported",
        manifest.messages,
        manifest.logs.len()
    );
    let store = keep::store(&config).await?;
    let log = config.bus.open_log("switchboard").await?;
    let (layout, infos) = log_life::status(&*log).await?;
    let highest = import.highest_ordinal();
    let lowest = infos.iter().map(|(shard, _)| layout.ordinal(*shard)).min();
    if lowest.is_some_and(|lowest| lowest <= highest) {
        bail!(
            "the export has logs up to ordinal {highest}, and a log of no higher ordinal is in force here, so that what is said here would stand \
             before what was said there: run `switchboard log new-epoch --all` until `switchboard log status` shows ordinals above \
             {highest}, then this again"
        );
    }
    let keeper = Keeper::new(Arc::clone(&store), keep::opened(&config)?);
    let imported = import.write(&*store, &keeper, tell_log).await?;
    store.close().await;
    tell!("{} messages are in the store", imported.messages);
    Ok(ExitCode::SUCCESS)
}

fn tell_log(log: &ExportedLog) {
    let messages: u64 = log.files.iter().map(|file| file.lines).sum();
    tell!("shard {} log {}: {messages} messages", log.shard, log.epoch);
}
