//! What is kept and for how long: retention, the archive, legal holds, erasure.
//!
//! Whatever changes what may be seen stands in the archive before it is done in the store: rows before they are deleted, erasures and
//! holds as acts. So a death at any moment loses nothing, and a store that is made anew is told ([`Keeper::recall`]) before
//! the first record is read into it.

pub mod archive;
mod config;
pub mod packed;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use switchboard_proto::ids::Offset;

use crate::search::FOLLOWER;
use crate::store::keeping::{Erasure, Hold, Holds, Kept, MAX_HOLDS, Over, Subject, Unkeepable, namespace};
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

/// Failed channels of one sweep that are named in the log; the others are counted.
const TOLD: u64 = 10;

/// A span of time in which rows of a user are looked for at once: a partition.
const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;

/// The last time that databases hold.
const LAST_US: u64 = i64::MAX as u64;

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
    /// Channels that failed and were passed over: the next sweep comes to them again.
    pub failed: u64,
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
    /// Nothing was recorded.
    #[error("{0} cannot be kept: {1}")]
    Unkeepable(String, #[source] Unkeepable),
}

impl KeepError {
    /// Whether others would fail as well: it is the archive that is not there.
    fn is_of_all(&self) -> bool {
        matches!(self, Self::Archive(ArchiveError::Unavailable(_)))
    }
}

/// Keeps and removes.
#[derive(Clone)]
pub struct Keeper {
    store: Arc<dyn Store>,
    archive: Option<Archive>,
    bad_acts: Counter,
}

impl Keeper {
    /// Of `store`. Without an archive what expires is deleted for good, and a store that is made anew knows of no erasure.
    pub fn new(store: Arc<dyn Store>, archive: Option<Archive>) -> Self {
        Self {
            store,
            archive,
            bad_acts: Counter::default(),
        }
    }

    /// Counts there what is recorded and cannot be done.
    #[must_use]
    pub fn counting(self, bad_acts: Counter) -> Self {
        Self { bad_acts, ..self }
    }

    /// Archives and removes what is over. May be given up at any moment, and done by several at once. A channel that fails is passed
    /// over where others may do better.
    ///
    /// # Errors
    /// [`KeepError`]: the store or the archive as a whole. What was not archived is not removed.
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
                    let rows = match self.store.over(channel, over, PAGE).await {
                        Ok(rows) => rows,
                        Err(error) => {
                            self.pass_over(channel, error.into(), &mut swept).await?;
                            break;
                        }
                    };
                    let is_all = rows.len() < PAGE;
                    bytes += rows.iter().map(|row| row.message.len()).sum::<usize>();
                    batch.extend(rows);
                    // The same rows are given until they are gone.
                    if !is_all || batch.len() >= BATCH_ROWS || bytes >= BATCH_BYTES {
                        let removed = self.expire_each(&batch, now_us, &mut swept).await?;
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
        self.expire_each(&batch, now_us, &mut swept).await?;
        Ok(swept)
    }

    /// Rows of several channels at once; where that fails, channel by channel, so that one keeps no other.
    async fn expire_each(&self, rows: &[Kept], now_us: u64, swept: &mut Swept) -> Result<u64, KeepError> {
        match self.expire(rows, now_us, swept).await {
            Err(error) if !error.is_of_all() => {}
            done => return done,
        }
        let mut removed = 0;
        for rows in rows.chunk_by(|one, other| one.channel == other.channel) {
            let Some(first) = rows.first() else { continue };
            match self.expire(rows, now_us, swept).await {
                Ok(of_this) => removed += of_this,
                Err(error) => self.pass_over(&first.channel, error, swept).await?,
            }
        }
        Ok(removed)
    }

    /// A channel failed: is it the channel?
    async fn pass_over(&self, channel: &str, error: KeepError, swept: &mut Swept) -> Result<(), KeepError> {
        if error.is_of_all() {
            return Err(error);
        }
        self.store.check().await?;
        swept.failed += 1;
        if swept.failed <= TOLD {
            tracing::warn!(channel, %error, "what is over in a channel stays for now");
        }
        Ok(())
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
        erasure
            .check()
            .map_err(|why| KeepError::Unkeepable(format!("an erasure of user {user:.40}"), why))?;
        self.record(&Act::Erase {
            at_us: now_us,
            user: user.to_owned(),
        })
        .await?;
        self.apply(&erasure).await
    }

    /// Places a hold.
    ///
    /// # Errors
    /// [`KeepError`]. One that is refused is recorded nowhere.
    pub async fn hold(&self, hold: &Hold) -> Result<(), KeepError> {
        hold.check().map_err(|why| {
            KeepError::Unkeepable(format!("a hold of {:.40}", hold.subject.to_string()), why)
        })?;
        let holds = self.store.holds().await?;
        if holds.len() >= MAX_HOLDS && !holds.iter().any(|held| held.subject == hold.subject) {
            return Err(KeepError::Store(StoreError::TooMuch {
                asked: holds.len() + 1,
                most: MAX_HOLDS,
            }));
        }
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
        let was_held = self.store.lift(subject, now_us).await?;
        self.finish_lifts().await?;
        Ok(was_held)
    }

    /// Erases what holds kept that are lifted, also those whose lifting was broken off.
    async fn finish_lifts(&self) -> Result<(), KeepError> {
        let lifts = self.store.lifts().await?;
        if lifts.is_empty() {
            return Ok(());
        }
        let is_of_all = lifts.iter().any(|lift| !matches!(lift, Subject::User(_)));
        let users: HashSet<&str> = lifts
            .iter()
            .filter_map(|lift| match lift {
                Subject::User(user) => Some(user.as_str()),
                Subject::Channel(_) | Subject::Namespace(_) => None,
            })
            .collect();
        for erasure in self.store.erasures().await? {
            let is_lifted = users.contains(erasure.user.as_str());
            if !is_of_all && !is_lifted {
                continue;
            }
            for lift in lifts.iter().filter(|lift| !matches!(lift, Subject::User(_))) {
                self.store.erase(&erasure, Some(lift)).await?;
            }
            if is_lifted {
                let hers = Subject::User(erasure.user.clone());
                self.store.erase(&erasure, Some(&hers)).await?;
            }
            // Once, however many were lifted: it goes through all that was said.
            self.blank(&erasure).await?;
        }
        for lift in &lifts {
            self.store.lifted(lift).await?;
        }
        Ok(())
    }

    async fn record(&self, act: &Act) -> Result<(), KeepError> {
        if let Some(archive) = &self.archive {
            archive.record(act).await?;
        }
        Ok(())
    }

    /// Erases what a user was in channels, and blanks what she said.
    async fn apply(&self, erasure: &Erasure) -> Result<u64, KeepError> {
        self.store.erase(erasure, None).await?;
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
            self.apply(&broken_off).await?;
        }
        self.finish_lifts().await?;
        let Some(archive) = &self.archive else {
            return Ok(());
        };
        let recorded = archive.acts().await?;
        for error in &recorded.damaged {
            self.bad_acts.inc();
            tracing::error!(%error, "what is recorded there is not done");
        }
        self.act(recorded.acts.clone()).await?;
        let recorded: BTreeSet<Act> = recorded.acts.into_iter().collect();
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
        for act in acts.iter().filter(|act| is_doable(act)) {
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
                    let erasure = Erasure {
                        user,
                        until_us: at_us,
                    };
                    if erasure.check().is_err() {
                        self.cannot_do("an erasure", "user", at_us);
                        continue;
                    }
                    let until = erasures.entry(erasure.user).or_default();
                    *until = at_us.max(*until);
                }
                Act::Hold {
                    at_us,
                    kind,
                    name,
                    reason,
                } => {
                    let hold = Subject::new(&kind, &name).map(|subject| Hold {
                        subject,
                        since_us: at_us,
                        reason,
                    });
                    match hold {
                        Some(hold) if hold.check().is_ok() => {
                            lifted.remove(&hold.subject);
                            holds.entry(hold.subject.clone()).or_insert(hold);
                        }
                        Some(_) | None => self.cannot_do("a hold", &kind, at_us),
                    }
                }
                Act::Lift { at_us, kind, name } => {
                    // What was never held is not lifted, whatever its name is.
                    let subject = Subject::new(&kind, &name);
                    if let Some(subject) = subject.filter(|subject| !subject.name().contains('\0')) {
                        holds.remove(&subject);
                        lifted.insert(subject, at_us.min(LAST_US));
                    }
                }
            }
        }
        let held: HashSet<Subject> = self
            .store
            .holds()
            .await?
            .into_iter()
            .map(|hold| hold.subject)
            .collect();
        for (subject, at_us) in lifted {
            if held.contains(&subject) {
                self.store.lift(&subject, at_us).await?;
            }
        }
        // Each that is placed is looked at beside all others: those that are placed are passed over.
        for hold in holds.values().filter(|hold| !held.contains(&hold.subject)) {
            match self.store.hold(hold).await {
                Err(error @ (StoreError::TooMuch { .. } | StoreError::Data(_) | StoreError::Refused(_))) => {
                    self.bad_acts.inc();
                    tracing::error!(%error, kind = hold.subject.kind(), name = hold.subject.name(), "a hold of the archive is not placed");
                }
                placed => placed?,
            }
        }
        let known = self.store.erasures().await?.into_iter();
        let known: HashMap<String, u64> = known.map(|one| (one.user, one.until_us)).collect();
        let unfinished = self.store.unfinished().await?.into_iter();
        let unfinished: HashSet<String> = unfinished.map(|one| one.user).collect();
        for (user, until_us) in erasures {
            let is_known = known.get(&user).is_some_and(|known| *known >= until_us);
            if is_known && !unfinished.contains(&user) {
                continue;
            }
            let erasure = Erasure { user, until_us };
            match self.apply(&erasure).await {
                Err(KeepError::Store(error @ (StoreError::Data(_) | StoreError::Refused(_)))) => {
                    self.bad_acts.inc();
                    tracing::error!(%error, at_us = until_us, "an erasure that is recorded cannot be done");
                }
                done => {
                    done?;
                }
            }
        }
        self.finish_lifts().await
    }

    /// A record that no store takes: the service is of more use with all others than without any.
    fn cannot_do(&self, what: &str, kind: &str, at_us: u64) {
        self.bad_acts.inc();
        tracing::error!(what, kind, at_us, "what is recorded is nothing that can be done");
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

fn is_doable(act: &Act) -> bool {
    match act.clone() {
        Act::Erase { at_us, user } => Erasure {
            user,
            until_us: at_us,
        }
        .check()
        .is_ok(),
        Act::Hold {
            at_us: since_us,
            kind,
            name,
            reason,
        } => Subject::new(&kind, &name).is_some_and(|subject| {
            let hold = Hold {
                subject,
                since_us,
                reason,
            };
            hold.check().is_ok()
        }),
        Act::Lift { .. } => true,
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
