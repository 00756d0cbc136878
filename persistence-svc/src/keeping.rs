//! What is kept and for how long: retention, the archive, legal holds, erasure.
//!
//! Whatever changes what may be seen stands in the archive before it is done in the store: rows before they are deleted, erasures and
//! holds as acts. So a death at any moment loses nothing, and a store that is made anew is told ([`Keeper::recall`]) before
//! the first record is read into it.

pub mod archive;
mod config;
pub mod packed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use switchboard_proto::ids::Offset;

use crate::search::FOLLOWER;
use crate::store::keeping::{Erasure, Hold, Holds, Kept, Over, Subject, namespace};
use crate::store::{Place, Store, StoreError};
use archive::{Act, Archive, ArchiveError};

pub use config::{ArchiveSettings, KeepingSettings};

/// Rows that are looked at in one call of the store.
const PAGE: usize = 1000;

/// Channels of one such call.
const CHANNELS: usize = 1000;

/// Rows that are archived and removed at once, about, and bytes of them.
const BATCH_ROWS: usize = 4000;
const BATCH_BYTES: usize = 16 << 20;

/// A span of time in which rows of a user are looked for at once: a partition.
const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;

/// How long messages are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// `None`: for ever.
    pub time: Option<Duration>,
    /// Messages of a channel; `None`: all.
    pub count: Option<u64>,
}

impl Retention {
    fn over(self, now_us: u64) -> Over {
        let time_us = self
            .time
            .map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        Over {
            before_us: time_us.map(|time_us| now_us.saturating_sub(time_us)),
            count: self.count,
        }
    }
}

/// Which channels' messages are kept how long.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Of namespaces that are not named, and of channels without one.
    pub others: Retention,
    /// By namespace.
    pub namespaces: BTreeMap<String, Retention>,
}

impl Policy {
    /// Of a channel.
    pub fn of(&self, channel: &str) -> Retention {
        self.namespaces
            .get(namespace(channel))
            .copied()
            .unwrap_or(self.others)
    }

    /// Everything is kept for ever.
    pub fn keeps_all(&self) -> bool {
        let mut all = self.namespaces.values().chain([&self.others]);
        all.all(|retention| *retention == Retention::default())
    }
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Messages that expired.
    pub expired: u64,
    /// Files that were written to the archive.
    pub files: u64,
}

/// Why something was not kept, or not removed.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The user is under a legal hold.
    #[error("user {0} is under a legal hold: lift it first (`switchboard hold remove user {0}`)")]
    Held(String),
}

/// Keeps and removes.
#[derive(Clone)]
pub struct Keeper {
    store: Arc<dyn Store>,
    archive: Option<Archive>,
}

impl Keeper {
    /// Of `store`. Without an archive what expires is deleted for good, and a store that is made anew knows of no erasure.
    pub fn new(store: Arc<dyn Store>, archive: Option<Archive>) -> Self {
        Self { store, archive }
    }

    /// Archives and removes what is over. May be given up at any moment, and done by several at once.
    ///
    /// # Errors
    /// [`KeepError`]. What was not archived is not removed.
    pub async fn sweep(&self, policy: &Policy, now_us: u64) -> Result<Swept, KeepError> {
        let mut swept = Swept::default();
        if policy.keeps_all() {
            return Ok(swept);
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut after = String::new();
        loop {
            let holds = Holds::new(self.store.holds().await?);
            let channels = self.store.channels(&after, CHANNELS).await?;
            let Some(last) = channels.last().cloned() else {
                break;
            };
            for channel in &channels {
                let over = policy.of(channel).over(now_us);
                if over == Over::default() || holds.channel(channel) {
                    continue;
                }
                loop {
                    let rows = self.store.over(channel, over, PAGE).await?;
                    let is_all = rows.len() < PAGE;
                    bytes += rows.iter().map(|row| row.message.len()).sum::<usize>();
                    batch.extend(rows);
                    // The same rows are given until they are gone.
                    if !is_all || batch.len() >= BATCH_ROWS || bytes >= BATCH_BYTES {
                        let removed = self.expire(&batch, now_us, &mut swept).await?;
                        batch.clear();
                        bytes = 0;
                        if removed == 0 {
                            break;
                        }
                    }
                    if is_all {
                        break;
                    }
                }
            }
            after = last;
        }
        self.expire(&batch, now_us, &mut swept).await?;
        Ok(swept)
    }

    async fn expire(&self, rows: &[Kept], now_us: u64, swept: &mut Swept) -> Result<u64, KeepError> {
        if rows.is_empty() {
            return Ok(0);
        }
        if let Some(archive) = &self.archive {
            let mut parts: BTreeMap<_, Vec<&Kept>> = BTreeMap::new();
            for row in rows {
                let part = (row.time_us / DAY_US, row.shard);
                parts.entry(part).or_default().push(row);
            }
            for ((day, shard), rows) in parts {
                archive.write(day, shard, &rows, now_us).await?;
                swept.files += 1;
            }
        }
        let removed = self.store.remove(rows).await?;
        swept.expired += removed;
        Ok(removed)
    }

    /// Takes out what a user said up to now, and what is known about the user. How many messages were blanked. To be called again
    /// where it failed.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn erase(&self, user: &str, now_us: u64) -> Result<u64, KeepError> {
        if Holds::new(self.store.holds().await?).user(user) {
            return Err(KeepError::Held(user.to_owned()));
        }
        let erasure = Erasure {
            user: user.to_owned(),
            until_us: now_us,
        };
        self.record(&Act::Erase {
            at_us: now_us,
            user: user.to_owned(),
        })
        .await?;
        self.apply(&erasure, None).await
    }

    /// Places a hold.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn hold(&self, hold: &Hold) -> Result<(), KeepError> {
        self.record(&Act::Hold {
            at_us: hold.since_us,
            kind: hold.subject.kind().to_owned(),
            name: hold.subject.name().to_owned(),
            reason: hold.reason.clone(),
        })
        .await?;
        Ok(self.store.hold(hold).await?)
    }

    /// Lifts a hold, and erases what it kept from that; `false`: there was none.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn lift(&self, subject: &Subject, now_us: u64) -> Result<bool, KeepError> {
        self.record(&Act::Lift {
            at_us: now_us,
            kind: subject.kind().to_owned(),
            name: subject.name().to_owned(),
        })
        .await?;
        if !self.store.lift(subject, now_us).await? {
            return Ok(false);
        }
        for erasure in self.store.erasures().await? {
            self.apply(&erasure, Some(subject)).await?;
        }
        Ok(true)
    }

    async fn record(&self, act: &Act) -> Result<(), KeepError> {
        if let Some(archive) = &self.archive {
            archive.record(act).await?;
        }
        Ok(())
    }

    /// Erases what a user was in channels, and blanks what she said. `within`: what a hold covered that was lifted; elsewhere what she has done
    /// since is left alone.
    async fn apply(&self, erasure: &Erasure, within: Option<&Subject>) -> Result<u64, KeepError> {
        let is_hers = |subject: &&Subject| !matches!(subject, Subject::User(user) if *user != erasure.user);
        match within {
            Some(subject) if !is_hers(&subject) => return Ok(0),
            within => self.store.erase(erasure, within).await?,
        }
        let blanked = self.blank(erasure).await?;
        self.store.erased(erasure).await?;
        Ok(blanked)
    }

    /// Blanks what an erasure covers, day by day, and takes it out of the index of search.
    async fn blank(&self, erasure: &Erasure) -> Result<u64, KeepError> {
        let end = erasure.until_us.saturating_add(1);
        let mut blanked = 0;
        let mut from = self.store.oldest_us().await?.unwrap_or(end);
        while from < end {
            let to = (from / DAY_US + 1).saturating_mul(DAY_US).min(end);
            let mut after: Option<Kept> = None;
            loop {
                let rows = self
                    .store
                    .said_by(&erasure.user, (from, to), after.as_ref(), PAGE)
                    .await?;
                let Some(last) = rows.last() else { break };
                after = Some(last.clone());
                for row in self.store.blank(&rows).await? {
                    if let Some(stored) = self.store.stored_at(&row.channel, row.place).await? {
                        self.store.reindex(FOLLOWER, &stored.hit, None).await?;
                    }
                    blanked += 1;
                }
            }
            from = to;
        }
        Ok(blanked)
    }

    /// Does in the store what the archive says was done: holds and erasures, and in a store without messages up to where
    /// channels expired. What the store knows and the archive, which may be a new one, does not, is written into that. To be called before
    /// anything is written into the store.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn recall(&self) -> Result<(), KeepError> {
        for broken_off in self.store.unfinished().await? {
            self.apply(&broken_off, None).await?;
        }
        let Some(archive) = &self.archive else {
            return Ok(());
        };
        let recorded = archive.acts().await?;
        self.act(recorded.clone()).await?;
        for act in acts_in(&*self.store).await? {
            if !recorded.contains(&act) {
                archive.record(&act).await?;
            }
        }
        if self.store.oldest_us().await?.is_none() {
            for manifest in archive.manifests().await? {
                self.remember(&manifest).await?;
            }
        }
        Ok(())
    }

    /// Does what was done to another store, whose messages are to be written here, to this one. To be called before they are.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn take_over(&self, acts: Vec<Act>) -> Result<(), KeepError> {
        for act in &acts {
            self.record(act).await?;
        }
        self.act(acts).await
    }

    /// Does what these say that is not done yet.
    async fn act(&self, acts: Vec<Act>) -> Result<(), KeepError> {
        let mut holds: BTreeMap<Subject, Hold> = BTreeMap::new();
        let mut lifted: BTreeMap<Subject, u64> = BTreeMap::new();
        let mut erasures: BTreeMap<String, u64> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Erase { at_us, user } => {
                    let until = erasures.entry(user).or_default();
                    *until = at_us.max(*until);
                }
                Act::Hold {
                    at_us,
                    kind,
                    name,
                    reason,
                } => {
                    if let Some(subject) = Subject::new(&kind, &name) {
                        lifted.remove(&subject);
                        holds.entry(subject.clone()).or_insert(Hold {
                            subject,
                            since_us: at_us,
                            reason,
                        });
                    }
                }
                Act::Lift { at_us, kind, name } => {
                    if let Some(subject) = Subject::new(&kind, &name) {
                        holds.remove(&subject);
                        lifted.insert(subject, at_us);
                    }
                }
            }
        }
        let mut were_lifted = Vec::new();
        for (subject, at_us) in lifted {
            if self.store.lift(&subject, at_us).await? {
                were_lifted.push(subject);
            }
        }
        for hold in holds.values() {
            match self.store.hold(hold).await {
                Err(error @ StoreError::TooMuch { .. }) => {
                    tracing::error!(%error, kind = hold.subject.kind(), name = hold.subject.name(), "a hold of the archive is not placed");
                }
                placed => placed?,
            }
        }
        let known = self.store.erasures().await?;
        let unfinished = self.store.unfinished().await?;
        for (user, until_us) in erasures {
            let is_known = |known: &Erasure| known.user == user && known.until_us >= until_us;
            let is_done = known.iter().any(is_known) && !unfinished.iter().any(|broken| broken.user == user);
            let erasure = Erasure { user, until_us };
            if !is_done {
                self.apply(&erasure, None).await?;
                continue;
            }
            for subject in &were_lifted {
                self.apply(&erasure, Some(subject)).await?;
            }
        }
        Ok(())
    }

    async fn remember(&self, manifest: &archive::Manifest) -> Result<(), KeepError> {
        let mut marks: BTreeMap<_, Vec<(String, Offset)>> = BTreeMap::new();
        for (channel, place) in manifest.edges()? {
            let Place { log, offset } = place;
            marks
                .entry(log.to_string())
                .or_insert_with(Vec::new)
                .push((channel, offset));
        }
        for (log, marks) in marks {
            let log = log.parse().map_err(|_| {
                ArchiveError::Damaged(manifest.file.clone(), "a place that is none".to_owned())
            })?;
            self.store.hide(log, &marks).await?;
        }
        Ok(())
    }

    /// Puts the rows of an archived file back into the store, erasures applied. They stay out of what clients are shown, for
    /// they have expired. How many were not there.
    ///
    /// # Errors
    /// [`KeepError`].
    pub async fn restore(&self, manifest: &archive::Manifest) -> Result<u64, KeepError> {
        let Some(archive) = &self.archive else {
            return Ok(0);
        };
        let rows = archive.read(manifest).await?;
        // First, so that none of them is ever shown.
        self.remember(manifest).await?;
        let mut restored = 0;
        for rows in rows.chunks(PAGE) {
            restored += self.store.restore(rows).await?;
        }
        Ok(restored)
    }
}

/// The erasures and holds that a store knows of, as acts.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn acts_in(store: &dyn Store) -> Result<Vec<Act>, StoreError> {
    let erasures = store.erasures().await?.into_iter().map(|erasure| Act::Erase {
        at_us: erasure.until_us,
        user: erasure.user,
    });
    let holds = store.holds().await?.into_iter().map(|hold| Act::Hold {
        at_us: hold.since_us,
        kind: hold.subject.kind().to_owned(),
        name: hold.subject.name().to_owned(),
        reason: hold.reason,
    });
    Ok(erasures.chain(holds).collect())
}

#[cfg(test)]
mod tests;
