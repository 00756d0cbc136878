//! `switchboard archive|erase|hold …`: what an operator may do to what is stored. The steps are those of
//! [`switchboard_persistence_svc::keeping`].

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use switchboard_persistence_svc::keeping::Keeper;
use switchboard_persistence_svc::keeping::archive::{Archive, Manifest};
use switchboard_persistence_svc::store::Store;
use switchboard_persistence_svc::store::keeping::{Hold, Subject};
use switchboard_proto::time::now_us;

use super::tell;
use crate::Config;

#[derive(Debug, Clone, Subcommand)]
pub(super) enum ArchiveCommand {
    /// Print what is in the archive, a line for each file.
    List,
    /// Read every file, and compare it with its manifest.
    Verify,
    /// Write messages back into the message store, erasures applied. They have expired: clients are not shown them.
    Restore {
        /// Of this day, in days since 1970 as `list` has it; otherwise all.
        #[arg(long)]
        day: Option<u64>,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(super) enum HoldCommand {
    /// Keep all messages of a channel, a namespace or a user.
    Add {
        /// Of what.
        kind: Kind,
        /// Its name.
        name: String,
        /// Why, for whoever looks at the list.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Lift a hold. What was erased meanwhile is blanked now, what expired goes with the next look.
    Remove {
        /// Of what.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// Print all holds, a line each.
    List,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Kind {
    Channel,
    Namespace,
    User,
}

impl Kind {
    fn of(self, name: String) -> Subject {
        match self {
            Self::Channel => Subject::Channel(name),
            Self::Namespace => Subject::Namespace(name),
            Self::User => Subject::User(name),
        }
    }
}

/// The message store, with this release's schema.
pub(super) async fn store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let settings = config.persistence.store.as_ref();
    let store = settings
        .context("no messages are stored here (persistence.store)")?
        .open()?;
    store.check().await?;
    Ok(store)
}

pub(super) fn opened(config: &Config) -> anyhow::Result<Option<Archive>> {
    let settings = config.persistence.keeping.archive.as_ref();
    Ok(settings.map(|settings| settings.open()).transpose()?)
}

fn needed(config: &Config) -> anyhow::Result<Archive> {
    opened(config)?.context("there is no archive here: name its folder or bucket in [persistence.archive]")
}

fn line(manifest: &Manifest) -> String {
    format!(
        "day {} shard {} messages {} bytes {} channels {} {}",
        manifest.day,
        manifest.shard,
        manifest.rows,
        manifest.bytes,
        manifest.edges.len(),
        manifest.file
    )
}

pub(super) async fn archive(config: Config, command: ArchiveCommand) -> anyhow::Result<ExitCode> {
    let archive = needed(&config)?;
    let manifests = archive.manifests().await?;
    match command {
        ArchiveCommand::List => {
            for manifest in &manifests {
                tell!("{}", line(manifest));
            }
            for file in archive.unfinished().await? {
                tell!("unfinished, its messages are in the store still: {file}");
            }
            Ok(ExitCode::SUCCESS)
        }
        ArchiveCommand::Verify => {
            let mut damaged = 0_usize;
            for manifest in &manifests {
                if let Err(error) = archive.read(manifest).await {
                    damaged += 1;
                    tell!("{error}");
                }
            }
            if damaged > 0 {
                bail!("{damaged} of {} files cannot be read back", manifests.len());
            }
            let messages: u64 = manifests.iter().map(|manifest| manifest.rows).sum();
            tell!(
                "{} files with {messages} messages are as they were written",
                manifests.len()
            );
            Ok(ExitCode::SUCCESS)
        }
        ArchiveCommand::Restore { day } => {
            let store = store(&config).await?;
            let keeper = Keeper::new(Arc::clone(&store), Some(archive));
            // What the archive knows of erasures holds for what is read from it.
            keeper.recall().await?;
            let mut restored = 0;
            for manifest in manifests
                .iter()
                .filter(|manifest| day.is_none_or(|day| day == manifest.day))
            {
                restored += keeper.restore(manifest).await?;
            }
            store.close().await;
            tell!("{restored} messages are in the store again");
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub(super) async fn erase(config: Config, user: String, without_archive: bool) -> anyhow::Result<ExitCode> {
    if user.is_empty() {
        bail!("name the user");
    }
    let archive = opened(&config)?;
    if archive.is_none() && !without_archive {
        bail!(
            "there is no archive to record this in, so that a message store that is made anew would show again what is erased: name a folder or              bucket in [persistence.archive], or erase with --without-archive"
        );
    }
    let store = store(&config).await?;
    let blanked = Keeper::new(Arc::clone(&store), archive)
        .erase(&user, now_us())
        .await?;
    store.close().await;
    tell!("{blanked} messages are blank");
    if let Some(settings) = &config.notify.store {
        let notifications = switchboard_notify_svc::open_store(settings)?;
        notifications.check().await?;
        notifications.forget(&user).await?;
        notifications.close().await;
        tell!("what was told to the user, and where, is forgotten");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn hold(config: Config, command: HoldCommand) -> anyhow::Result<ExitCode> {
    let store = store(&config).await?;
    let keeper = Keeper::new(Arc::clone(&store), opened(&config)?);
    match command {
        HoldCommand::Add { kind, name, reason } => {
            let hold = Hold {
                subject: kind.of(name),
                since_us: now_us(),
                reason,
            };
            keeper.hold(&hold).await?;
            tell!("{} is held", hold.subject);
        }
        HoldCommand::Remove { kind, name } => {
            let subject = kind.of(name);
            if !keeper.lift(&subject, now_us()).await? {
                bail!("{subject} is not held");
            }
            tell!("{subject} is not held any more");
        }
        HoldCommand::List => {
            for hold in store.holds().await? {
                tell!("{} since {} {}", hold.subject, hold.since_us, hold.reason);
            }
        }
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}
