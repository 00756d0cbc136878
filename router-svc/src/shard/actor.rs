//! Runs one shard: moves bytes between bus, log and [`Owner`], and decides nothing itself.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, future};
use switchboard_bus::{
    Bus, BusError, BusMessage, Log, LogError, LogInfo, Pattern, ReaderName, RecordAt, Subject, Subscription,
};
use switchboard_proto::bus::{
    BetweenOwners, Derivation, Derive, Down, HistoryAnswer, HistoryOutcome, HistoryQuestion, Layout,
    OwnerBeat, Up, between_owners,
};
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, SHARD_HASH, Sequence, ShardCount, ShardId};
use switchboard_proto::time::now_us;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::appender::{Settled, append};
use super::askings::{Ask, AskId, Told};
use super::budget::WindowBudget;
use super::claim::ClaimError;
use super::history::Begun;
use super::owner::{Limits, Output, Owner, Ownership, StepDown};
use super::questions::PageLimits;
use super::readers::ReaderAt;
use super::readings::{Reading, Readings};
use super::stored::{BusStore, PageOf, Store};
use super::successor::{Following, Signs};
use super::takeover::{OlderKey, TakenOver, read_older_keys, take_over};
use crate::metrics::RouterMetrics;

/// What a shard's actor keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShardSettings {
    pub(crate) limits: Limits,
    /// Between two owner beats.
    pub(crate) owner_beat: Duration,
    /// Frames from gateways that may wait for the actor.
    pub(crate) frames: usize,
    /// How long a stop waits for the append in flight.
    pub(crate) release: Duration,
    /// How long a planned move waits for its successor.
    pub(crate) hand_over: Duration,
    /// Bytes of the log that are read for one question of history, at most.
    pub(crate) history_reading: usize,
    /// How long an answer of the message store is waited for.
    pub(crate) store_timeout: Duration,
}

/// Who owns which shard, and its rank, as far as this process has heard.
pub(crate) type Owners = HashMap<ShardId, (Incarnation, (u32, u64))>;

/// Everything an actor works with.
pub(crate) struct Shard {
    pub(crate) shard: ShardId,
    pub(crate) shards: ShardCount,
    pub(crate) router: Incarnation,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) settings: ShardSettings,
    pub(crate) metrics: RouterMetrics,
    pub(crate) owners: watch::Receiver<Owners>,
    pub(crate) budget: Arc<WindowBudget>,
    /// The layout in force, at most a second late.
    pub(crate) layout: watch::Receiver<Arc<Layout>>,
    /// Readers of the log that a purge waits for.
    pub(crate) readers: Arc<[ReaderName]>,
    /// What was read of the log before the claim.
    pub(crate) following: Option<Following>,
}

/// How an actor is told to end. Cancelling is all that is done with these.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// Another router is to own the shard: hand it over once that one is ready (O5).
    pub(crate) hand_over: CancellationToken,
    /// At once.
    pub(crate) stop: CancellationToken,
}

/// Why an actor ended without being asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShardEnd {
    /// The claim did not succeed.
    #[error("claim failed: {0}")]
    Claim(#[from] ClaimError),
    /// Another router's record is in the log.
    #[error("another router took the shard over")]
    Deposed,
    /// The shard has another log. The one before may not even be there to say so.
    #[error("the shard goes on in log {0}")]
    Followed(u32),
    /// The log lost what it had acknowledged.
    #[error("the log lost acknowledged records: {0}")]
    LogLost(String),
    /// See [`StepDown`].
    #[error(transparent)]
    StepDown(#[from] StepDown),
    /// The bus is gone.
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl ShardEnd {
    /// Nobody may write the shard before an operator has looked.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::LogLost(_) | Self::StepDown(StepDown::WentBack { .. }))
    }

    /// Somebody else is the owner: it must not be said that nobody is.
    fn is_deposed(&self) -> bool {
        matches!(self, Self::Deposed | Self::StepDown(StepDown::Overtaken { .. }))
    }
}

type Pending<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// Keys that were read back, and the place to go on from; or why they were not.
type KeysPage = Result<(Vec<OlderKey>, Sequence), (String, Sequence)>;

/// What others send to an owner.
struct Inputs<'a> {
    /// From gateways, over links.
    frames: &'a mut Subscription,
    /// From the owners of other shards.
    between: &'a mut Subscription,
    /// Questions about history.
    asked: &'a mut Subscription,
}

/// What the owner wants done, collected during one turn of the loop.
#[derive(Default)]
struct Turn {
    append: Option<(Sequence, Bytes)>,
    read: Option<(Sequence, Sequence)>,
    purge: Option<Sequence>,
    down: Vec<(Incarnation, Down)>,
    hidden: Vec<(String, HistoryOutcome)>,
    between: Vec<(ShardId, Incarnation, BetweenOwners)>,
    asks: Vec<(AskId, Ask)>,
}

impl Turn {
    fn between(&mut self, to: u32, router: Incarnation, item: between_owners::Item) {
        if let Some(shard) = ShardId::new(to) {
            self.between
                .push((shard, router, BetweenOwners { item: Some(item) }));
        }
    }
}

impl Output for Turn {
    fn append(&mut self, expected: Sequence, record: Bytes) {
        self.append = Some((expected, record));
    }

    fn down(&mut self, gateway: Incarnation, frame: Down) {
        self.down.push((gateway, frame));
    }

    fn read(&mut self, from: Sequence, to: Sequence) {
        self.read = Some((from, to));
    }

    fn derive(&mut self, router: Incarnation, frame: Derive) {
        self.between(frame.target, router, between_owners::Item::Derive(frame));
    }

    fn derivation(&mut self, router: Incarnation, frame: Derivation) {
        self.between(frame.source, router, between_owners::Item::Derivation(frame));
    }

    fn hidden(&mut self, to: String, outcome: HistoryOutcome) {
        self.hidden.push((to, outcome));
    }

    fn purge(&mut self, before: Sequence) {
        self.purge = Some(before);
    }

    fn ask(&mut self, id: AskId, ask: Ask) {
        self.asks.push((id, ask));
    }
}

/// Frames that are taken in one turn, so that beats and the log's answer are not starved.
const FRAMES_A_TURN: usize = 256;

/// Bytes of records in one page of a reading, about.
const PAGE: usize = 4 * 1024 * 1024;

/// Questions about history that wait for the actor; those above are told to try again.
const HISTORY_QUESTIONS: usize = 1024;

/// Between two questions to the log's leader (O4).
const LOOK: Duration = Duration::from_secs(1);

impl Shard {
    /// Takes the shard over and owns it until it is told of its `ending`, then gives it up in order: the
    /// append in flight is settled and answered first.
    ///
    /// # Errors
    /// [`ShardEnd`] where it stops owning for another reason; the shard may be claimed again.
    pub(crate) async fn run(mut self, ending: Ending) -> Result<(), ShardEnd> {
        let (shard, router) = (self.shard, self.router);
        let up = Pattern::Exactly(Subject::LinkUp { shard, router });
        let mut frames = self.bus.subscribe(up, self.settings.frames).await?;
        let derive = Pattern::Exactly(Subject::Derive { shard, router });
        let mut between = self.bus.subscribe(derive, self.settings.frames).await?;
        let history = Pattern::Exactly(Subject::History { shard, router });
        let mut asked = self.bus.subscribe(history, HISTORY_QUESTIONS).await?;
        let taking = self.take_over();
        let (log, taken, layout) = tokio::select! {
            taken = Box::pin(taking) => taken?,
            () = ending.stop.cancelled() => return Ok(()),
            // Nobody reads ahead of one that owns nothing yet.
            () = ending.hand_over.cancelled() => return Ok(()),
        };
        self.log = log;
        let is = taken.is;
        tracing::info!(
            %shard,
            ordinal = is.log_epoch.ordinal,
            owner_epoch = %is.owner_epoch,
            records = taken.records,
            read_ahead = taken.read_ahead,
            took_ms = taken.took.as_millis(),
            "shard taken over"
        );
        self.metrics.claims.inc();
        if taken.read_ahead > 0 {
            self.metrics.prepared_claims.inc();
        }
        self.metrics.owned_shards.inc();
        let mut used = 0;
        let inputs = Inputs {
            frames: &mut frames,
            between: &mut between,
            asked: &mut asked,
        };
        let result = self.own(taken, &layout, inputs, &mut used, &ending).await;
        self.budget.report(used, 0);
        self.metrics.owned_shards.dec();
        self.metrics.forget(shard);
        for reader in self.readers.iter() {
            self.metrics.reader_lag(shard, reader, None);
        }
        if result.as_ref().is_err_and(ShardEnd::is_deposed) {
            // There is an owner: nobody else should claim.
            return result;
        }
        // Gateways stop sending here, and the successor need not wait for silence.
        let released = self.beat(is, true).await;
        tracing::info!(%shard, owner_epoch = %is.owner_epoch, "shard released");
        result.and(released)
    }

    /// Takes over the log that is in force now. The layout is read again when the fence is stored: who freezes it
    /// later meets the fence.
    async fn take_over(&mut self) -> Result<(Arc<dyn Log>, TakenOver, Layout), ClaimError> {
        let layout = self.layout_in_force().await?;
        let log = self.log.of(&layout);
        let limits = self.settings.limits.memory;
        let following = self.following.take();
        let taken = take_over(
            log.as_ref(),
            self.shard,
            self.shards,
            self.router,
            limits,
            now_us(),
            following,
        )
        .await?;
        let now = self.layout_in_force().await?;
        if now.ordinal(self.shard) != layout.ordinal(self.shard) {
            return Err(ClaimError::Lost);
        }
        Ok((log, taken, now))
    }

    async fn layout_in_force(&self) -> Result<Layout, ClaimError> {
        let layout = self.log.layout().await?.ok_or(LogError::Missing(self.shard))?;
        if layout.shard_count() != Some(self.shards) {
            return Err(ClaimError::OtherLayout {
                found: layout.shards,
                configured: self.shards.get(),
            });
        }
        Ok(layout)
    }

    async fn own(
        &self,
        taken: TakenOver,
        known: &Layout,
        inputs: Inputs<'_>,
        used: &mut u64,
        ending: &Ending,
    ) -> Result<(), ShardEnd> {
        let begun = Instant::now();
        let is = taken.is;
        let mut owner = Owner::new(is, self.settings.limits, taken.memory, taken.info);
        let Inputs {
            frames,
            between,
            asked,
        } = inputs;
        let store: Option<Arc<dyn Store>> = self.settings.limits.store.then(|| -> Arc<dyn Store> {
            Arc::new(BusStore {
                bus: Arc::clone(&self.bus),
                shard: self.shard,
                log: is.log_epoch,
                within: self.settings.store_timeout,
            })
        });
        let mut histories = Readings::new(Reading {
            bus: Arc::clone(&self.bus),
            log: Arc::clone(&self.log),
            shard: self.shard,
            store: store.clone(),
            allowed: self.settings.history_reading,
            metrics: self.metrics.clone(),
        });
        let mut storing = JoinSet::new();
        let mut asked_by: HashMap<Id, AskId> = HashMap::new();
        let mut owners = self.owners.clone();
        owners.mark_changed();
        owner.freeze(known.is_frozen());
        let mut layout = self.layout.clone();
        let mut appending: Pending<Settled> = None;
        let mut append_begun = begun;
        let mut reading: Pending<Result<Vec<RecordAt>, String>> = None;
        let mut looking: Pending<(u64, Result<LogInfo, LogError>)> = None;
        let mut asking: Pending<Result<Vec<ReaderAt>, LogError>> = None;
        let mut purging: Pending<(Sequence, Result<(), LogError>)> = None;
        let (keys_from, keys_before) = taken.older_keys;
        let mut keys = self.keys_page(keys_from, keys_before);
        let mut beats = tokio::time::interval(self.settings.owner_beat);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut give_up: Option<Instant> = None;
        let mut handing_over: Option<Instant> = None;
        let mut signs = Signs::default();
        let mut is_told_full = false;
        let mut told_holding = Vec::new();
        let append_due = tokio::time::sleep_until(begun);
        tokio::pin!(append_due);
        loop {
            let stopping = give_up.is_some();
            let is_append_due = owner.append_due().map(|due| begun + due);
            if let Some(due) = is_append_due
                && append_due.deadline() != due
            {
                append_due.as_mut().reset(due);
            }
            let mut turn = Turn::default();
            let mut stored: Option<Instant> = None;
            tokio::select! {
                biased;
                settled = pending(&mut appending) => {
                    appending = None;
                    match settled {
                        Settled::Stored(sequence) => {
                            stored = Some(Instant::now());
                            self.metrics.append_seconds.took(append_begun.elapsed());
                            let messages = owner.stored(sequence, begun.elapsed(), &mut turn)?;
                            self.metrics.appends.inc();
                            self.metrics.messages.inc_by(messages as u64);
                        }
                        Settled::Refused(why) => {
                            tracing::error!(shard = %self.shard, why, "log refuses messages");
                            self.metrics.refused.inc();
                            owner.refused(&mut turn);
                        }
                        Settled::Deposed => return Err(ShardEnd::Deposed),
                        Settled::LogLost(why) => return Err(ShardEnd::LogLost(why)),
                    }
                }
                // Begun below.
                () = &mut append_due, if is_append_due.is_some() => {}
                () = ending.stop.cancelled(), if !stopping => give_up = Some(Instant::now() + self.settings.release),
                () = ending.hand_over.cancelled(), if handing_over.is_none() => handing_over = Some(Instant::now()),
                _ = beats.tick() => {
                    owner.tick(begun.elapsed(), now_us());
                    let now = owner.memory().window.bytes() as u64;
                    let allowed = self.budget.report(std::mem::replace(used, now), now);
                    owner.set_window_bytes(usize::try_from(allowed).unwrap_or(usize::MAX));
                    if !stopping {
                        self.beat(is, false).await?;
                    }
                    self.measure(&owner);
                    if owner.upkeep().is_full() != is_told_full {
                        is_told_full = !is_told_full;
                        self.tell_full(is_told_full, owner.upkeep().fill());
                    }
                    self.tell_readers(&owner, &mut told_holding);
                }
                // What the leader says while a purge runs does not tell what that brings.
                _ = look.tick(), if looking.is_none() && purging.is_none() => {
                    let (log, shard, appends) = (Arc::clone(&self.log), self.shard, owner.append_number());
                    looking = Some(Box::pin(async move { (appends, log.info(shard).await) }));
                    if asking.is_none() && owner.upkeep().readers().is_asking() {
                        asking = Some(self.ask_readers());
                    }
                }
                told = pending(&mut asking) => {
                    asking = None;
                    match told {
                        Ok(told) => owner.readers(&told),
                        // What was told before still holds: positions only move forward.
                        Err(error) => {
                            tracing::warn!(shard = %self.shard, %error, "readers' positions not known, the purge waits");
                        }
                    }
                }
                (appends, info) = pending(&mut looking) => {
                    looking = None;
                    match info {
                        Ok(info) => owner.leader(info, appends)?,
                        // An append in flight tells as well, and tries until it is settled.
                        Err(error) => tracing::debug!(shard = %self.shard, %error, "log's leader does not answer"),
                    }
                }
                (before, purged) = pending(&mut purging) => {
                    purging = None;
                    match purged {
                        Ok(()) => tracing::info!(shard = %self.shard, %before, "oldest records purged to make room"),
                        // The next purge takes them too.
                        Err(error) => tracing::warn!(shard = %self.shard, %before, %error, "log not purged"),
                    }
                }
                page = pending(&mut reading) => {
                    reading = None;
                    if let Err(error) = &page {
                        tracing::warn!(shard = %self.shard, error, "log not read");
                    }
                    owner.page(page.as_deref().map_err(|_| ()));
                }
                page = pending(&mut keys) => {
                    keys = self.keys(page, keys_before, &mut owner, keys_from, begun);
                }
                Ok(()) = owners.changed() => {
                    for (shard, (router, rank)) in owners.borrow_and_update().iter() {
                        owner.owner_beat(*shard, *router, *rank);
                    }
                }
                Ok(()) = layout.changed() => {
                    let layout = Arc::clone(&layout.borrow_and_update());
                    let ordinal = layout.ordinal(self.shard);
                    if ordinal > is.log_epoch.ordinal {
                        return Err(ShardEnd::Followed(ordinal));
                    }
                    // What was read at the take-over may be newer.
                    if layout.revision > known.revision {
                        owner.freeze(layout.is_frozen());
                    }
                }
                frame = between.next(), if !stopping => {
                    let Some(frame) = frame else { return Err(BusError::Closed.into()) };
                    self.between(&mut owner, frame.payload, &mut turn, &mut signs);
                    for _ in 1..FRAMES_A_TURN {
                        let Some(frame) = between.try_next() else { break };
                        self.between(&mut owner, frame.payload, &mut turn, &mut signs);
                    }
                }
                () = histories.ended() => {}
                Some(told) = storing.join_next_with_id(), if !storing.is_empty() => {
                    let (task, told) = match told {
                        Ok((task, told)) => (task, told),
                        Err(error) => {
                            tracing::error!(shard = %self.shard, %error, "asking the message store ended badly");
                            (error.id(), Told::Nothing)
                        }
                    };
                    if let Some(id) = asked_by.remove(&task) {
                        self.count(&told);
                        owner.told(id, told);
                    }
                }
                frame = frames.next(), if !stopping => {
                    let Some(frame) = frame else { return Err(BusError::Closed.into()) };
                    let now = begun.elapsed();
                    self.up(&mut owner, frame.payload, now)?;
                    for _ in 1..FRAMES_A_TURN {
                        let Some(frame) = frames.try_next() else { break };
                        self.up(&mut owner, frame.payload, now)?;
                    }
                }
                Some(question) = asked.next(), if !stopping => {
                    self.history(question, &mut owner, &mut histories).await;
                }
            }
            if let (Some(since), None) = (handing_over, give_up) {
                let now = Instant::now();
                let is_over = now.saturating_duration_since(since) >= self.settings.hand_over;
                if is_over || signs.may_hand_over(since, now) {
                    give_up = Some(now + self.settings.release);
                }
            }
            // One a turn while there is more to do: links must not wait for questions, nor these for ever.
            if give_up.is_none()
                && let Some(question) = asked.try_next()
            {
                self.history(question, &mut owner, &mut histories).await;
            }
            owner.flush(begun.elapsed(), now_us(), &mut turn);
            if let Some((expected, record)) = turn.append {
                let (log, shard) = (Arc::clone(&self.log), self.shard);
                append_begun = Instant::now();
                appending = Some(Box::pin(async move {
                    append(log.as_ref(), shard, expected, record).await
                }));
            }
            if let Some((from, to)) = turn.read {
                let (log, shard) = (Arc::clone(&self.log), self.shard);
                reading = Some(Box::pin(async move {
                    read_patiently(log.as_ref(), shard, from, to).await
                }));
            }
            for (gateway, frame) in turn.down {
                let shard = self.shard;
                self.send(Subject::LinkDown { gateway, shard }, format::encode(&frame))
                    .await?;
            }
            if let Some(stored) = stored {
                self.metrics.delivery_seconds.took(stored.elapsed());
            }
            for (id, ask) in turn.asks {
                if let Some(store) = store.clone() {
                    self.metrics.store_questions.inc();
                    let (page, shard) = (self.settings.limits.page, self.shard);
                    let task =
                        storing.spawn(async move { ask_store(store.as_ref(), shard, ask, page).await });
                    asked_by.insert(task.id(), id);
                }
            }
            for (to, outcome) in turn.hidden {
                answer_history(self.bus.as_ref(), &to, &only(outcome)).await;
            }
            for (shard, router, frame) in turn.between {
                self.send(Subject::Derive { shard, router }, format::encode(&frame))
                    .await?;
            }
            if let Some(before) = turn.purge {
                // Beside everything else: a slow purge must not make a healthy owner look dead (O3).
                let (log, shard) = (Arc::clone(&self.log), self.shard);
                purging = Some(Box::pin(async move { (before, log.purge(shard, before).await) }));
            }
            match give_up {
                Some(_) if owner.is_idle() => return Ok(()),
                Some(deadline) if Instant::now() >= deadline => {
                    // The successor finds out whether it is stored.
                    tracing::warn!(shard = %self.shard, "shard given up with an append in flight");
                    return Ok(());
                }
                Some(_) | None => {}
            }
        }
    }

    fn up(&self, owner: &mut Owner, payload: Bytes, now: Duration) -> Result<(), StepDown> {
        match format::decode::<Up>(payload) {
            Ok(frame) => owner.up(frame, now),
            Err(error) => {
                self.metrics.bad_frames.inc();
                tracing::warn!(shard = %self.shard, %error, "frame from a gateway dropped");
                Ok(())
            }
        }
    }

    /// Answers at once, or begins a reading that does.
    async fn history(&self, asked: BusMessage, owner: &mut Owner, readings: &mut Readings) {
        let Some(to) = asked.reply else { return };
        let encoded = asked.payload;
        let mut question = match format::decode::<HistoryQuestion>(encoded) {
            Ok(question) => question,
            Err(error) => {
                self.metrics.bad_frames.inc();
                tracing::warn!(shard = %self.shard, %error, "question from a gateway dropped");
                return;
            }
        };
        self.metrics.history_questions.inc();
        let bus = Arc::clone(&self.bus);
        if let Some(hide) = question.hide.take() {
            if let Some(outcome) = owner.hide(question.channel, &hide, to.clone()) {
                answer_history(bus.as_ref(), &to, &only(outcome)).await;
            }
            return;
        }
        let view = owner.view(&question.channel);
        let Some(to) = readings.join(&question, &view, to) else {
            return;
        };
        match owner.history(question.clone()) {
            Begun::Answered(answer) => answer_history(bus.as_ref(), &to, &answer).await,
            Begun::NeedsMore(_) if readings.is_full() => {
                answer_history(bus.as_ref(), &to, &only(HistoryOutcome::Unavailable)).await;
            }
            Begun::NeedsMore(unfinished) => {
                self.metrics.history_readings.inc();
                readings.begin(question, unfinished, view, to);
            }
        }
    }

    fn count(&self, told: &Told) {
        if matches!(told, Told::Nothing) {
            self.metrics.store_failures.inc();
        }
    }

    fn between(&self, owner: &mut Owner, payload: Bytes, turn: &mut Turn, signs: &mut Signs) {
        match format::decode::<BetweenOwners>(payload) {
            Ok(frame) => match frame.item {
                Some(between_owners::Item::Derive(frame)) => owner.derive(frame, turn),
                Some(between_owners::Item::Derivation(frame)) => owner.derivation(&frame),
                Some(between_owners::Item::Successor(sign)) => signs.heard(sign.ready, Instant::now()),
                None => {}
            },
            Err(error) => {
                self.metrics.bad_frames.inc();
                tracing::warn!(shard = %self.shard, %error, "frame from an owner dropped");
            }
        }
    }

    fn keys_page(&self, from: Sequence, before: Sequence) -> Pending<KeysPage> {
        let (log, shard) = (Arc::clone(&self.log), self.shard);
        Some(Box::pin(async move {
            if from >= before {
                return Ok((Vec::new(), before));
            }
            let page = read_older_keys(log.as_ref(), shard, from, before).await;
            page.map_err(|error| (error, from))
        }))
    }

    /// Hands a page of keys to the owner; the reading of the next one, if there is more.
    fn keys(
        &self,
        page: KeysPage,
        before: Sequence,
        owner: &mut Owner,
        from: Sequence,
        begun: Instant,
    ) -> Pending<KeysPage> {
        let next = match page {
            Ok((keys, next)) => {
                for key in keys {
                    owner.older_keys(key.name, key.offset, key.id, key.time_us);
                }
                if next >= before {
                    owner.keys_known(from, begun.elapsed());
                    return None;
                }
                next
            }
            Err((error, next)) => {
                tracing::warn!(shard = %self.shard, error, "keys of the log not read, trying again");
                let (log, shard) = (Arc::clone(&self.log), self.shard);
                return Some(Box::pin(async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let page = read_older_keys(log.as_ref(), shard, next, before).await;
                    page.map_err(|error| (error, next))
                }));
            }
        };
        self.keys_page(next, before)
    }

    async fn send(&self, subject: Subject, payload: Bytes) -> Result<(), ShardEnd> {
        match self.bus.publish(subject, payload).await {
            Ok(()) => Ok(()),
            Err(BusError::Closed) => Err(BusError::Closed.into()),
            // A gateway sees the gap and opens its link anew; an owner is sent it again.
            Err(error @ BusError::Unreachable(_)) => {
                tracing::debug!(shard = %self.shard, ?subject, %error, "frame lost");
                Ok(())
            }
            Err(error) => {
                tracing::warn!(shard = %self.shard, ?subject, %error, "frame lost");
                Ok(())
            }
        }
    }

    /// Asks how far the readers are that a purge waits for.
    fn ask_readers(&self) -> Pin<Box<dyn Future<Output = Result<Vec<ReaderAt>, LogError>> + Send>> {
        let (log, shard, readers) = (Arc::clone(&self.log), self.shard, Arc::clone(&self.readers));
        Box::pin(async move {
            let asked = readers.iter().map(async |reader| {
                let position = log.position(reader, shard).await?;
                Ok(ReaderAt {
                    reader: reader.clone(),
                    position,
                })
            });
            future::try_join_all(asked).await
        })
    }

    /// How far behind readers are while a purge is wanted, and who keeps it from coming.
    fn tell_readers(&self, owner: &Owner, told: &mut Vec<ReaderName>) {
        let (readers, last) = (owner.upkeep().readers(), owner.upkeep().last());
        for reader in self.readers.iter() {
            let mut lags = readers.lags(last);
            let lag = lags.find(|(name, _)| *name == reader).map(|(_, lag)| lag);
            self.metrics.reader_lag(self.shard, reader, lag);
        }
        let holding: Vec<ReaderName> = readers.holding().map(|(reader, _)| reader.clone()).collect();
        if holding == *told {
            return;
        }
        for (reader, done) in readers.holding() {
            tracing::warn!(
                shard = %self.shard,
                %reader,
                behind_records = last.0.saturating_sub(done.0),
                percent = owner.upkeep().fill(),
                "log cannot be purged before this reader is done with it; is it running?"
            );
        }
        if holding.is_empty() {
            tracing::info!(shard = %self.shard, "no reader keeps the log from being purged any more");
        }
        *told = holding;
    }

    fn tell_full(&self, is_full: bool, percent: u64) {
        if is_full {
            tracing::error!(
                shard = %self.shard,
                percent,
                "log is full and publishes are refused; raise max_bytes of the log, or see what keeps it from being purged"
            );
        } else {
            tracing::info!(shard = %self.shard, percent, "log takes messages again");
        }
    }

    async fn beat(&self, is: Ownership, released: bool) -> Result<(), ShardEnd> {
        let beat = OwnerBeat {
            shard: u32::from(self.shard.get()),
            router: self.router.to_bytes(),
            ordinal: is.log_epoch.ordinal,
            owner_epoch: is.owner_epoch.0,
            released,
            shards: u32::from(self.shards.get()),
            hash: SHARD_HASH.to_owned(),
        };
        let subject = Subject::OwnerBeat { shard: self.shard };
        match self.bus.publish(subject, format::encode(&beat)).await {
            Ok(()) | Err(BusError::Unreachable(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn measure(&self, owner: &Owner) {
        let shard = self.metrics.of(self.shard);
        let memory = owner.memory();
        shard.first_sequence.set(owner.upkeep().first().0.cast_signed());
        shard
            .last_sequence
            .set(owner.position().sequence().0.cast_signed());
        shard.links.set(owner.links().len() as i64);
        shard.lagging_links.set(owner.links().lagging_count() as i64);
        shard.channels.set(owner.links().channel_count() as i64);
        shard.queued_bytes.set(owner.queued_bytes() as i64);
        shard.window_bytes.set(memory.window.bytes() as i64);
        shard.hidden_bytes.set(memory.hidden.bytes() as i64);
        shard.deleted_marks.set(memory.deleted.len() as i64);
        shard.known_channels.set(memory.window.channel_count() as i64);
        shard.known_keys.set(memory.keys.len() as i64);
        shard.publishers.set(memory.publishers.len() as i64);
        shard.waiting_recoveries.set(owner.questions().len() as i64);
        shard.underived.set(owner.deriver().pending() as i64);
        shard.fill_percent.set(owner.upkeep().fill().cast_signed());
        shard.log_readings.set(owner.questions().scans().cast_signed());
        shard.duplicates.set(owner.duplicates().cast_signed());
        shard.link_resets.set(owner.links().resets().cast_signed());
        shard.purges.set(owner.upkeep().purges().cast_signed());
    }
}

/// An answer that holds nothing else.
fn only(outcome: HistoryOutcome) -> HistoryAnswer {
    HistoryAnswer {
        outcome: outcome.into(),
        ..HistoryAnswer::default()
    }
}

/// Asks the message store for a recovery.
async fn ask_store(store: &dyn Store, shard: ShardId, ask: Ask, page: PageLimits) -> Told {
    let told = match ask {
        Ask::Heads(channels) => store.heads(&channels).await.map(Told::Heads),
        Ask::Page(channel, after) => {
            let asked = PageOf {
                channel,
                after,
                before: None,
                since_us: None,
                reverse: false,
                limit: page.messages,
                bytes: page.bytes,
            };
            store.page(&asked).await.map(Told::Page)
        }
    };
    told.unwrap_or_else(|error| {
        tracing::debug!(%shard, %error, "the message store does not answer, the log is read");
        Told::Nothing
    })
}

pub(super) async fn answer_history(bus: &dyn Bus, to: &str, answer: &HistoryAnswer) {
    if let Err(error) = bus.reply(to, format::encode(answer)).await {
        // Whoever asked tries again.
        tracing::debug!(%error, "answer about history lost");
    }
}

/// The outcome of what is under way; pending where nothing is. Cancel safe.
async fn pending<T>(future: &mut Pending<T>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// How long a page that cannot be read is tried again: while a stream elects another leader, clients that are
/// in the middle of a recovery had better wait than begin anew.
const READING: Duration = Duration::from_secs(3);

/// As [`read_page`], again and again for a while where it fails.
async fn read_patiently(
    log: &dyn Log,
    shard: ShardId,
    from: Sequence,
    to: Sequence,
) -> Result<Vec<RecordAt>, String> {
    let until = Instant::now() + READING;
    loop {
        match read_page(log, shard, from, to).await {
            Err(error) if Instant::now() < until => {
                tracing::debug!(%shard, error, "log not read, trying again");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            read => return read,
        }
    }
}

/// Records from `from` to `to`, about a page of them. None: there are none any more.
async fn read_page(
    log: &dyn Log,
    shard: ShardId,
    from: Sequence,
    to: Sequence,
) -> Result<Vec<RecordAt>, String> {
    let mut page = Vec::new();
    let mut bytes = 0;
    if from > to {
        return Ok(page);
    }
    let mut records = log.read(shard, from).await.map_err(|error| error.to_string())?;
    while bytes < PAGE {
        let at = match tokio::time::timeout(Duration::from_secs(2), records.next()).await {
            Ok(Some(Ok(at))) => at,
            Ok(Some(Err(error))) => return Err(error.to_string()),
            Ok(None) | Err(_) => return Err("no record within 2 s".to_owned()),
        };
        if at.sequence > to {
            break;
        }
        bytes += at.record.len();
        let is_last = at.sequence == to;
        page.push(at);
        if is_last {
            break;
        }
    }
    Ok(page)
}
