//! The life of the log, as an operator changes it: another log for a shard (L5, O6), another number of shards (L7).
//!
//! Both go on while gateways and routers run, and rest on the same three things as routers do: a record that is
//! stored only behind a known last one, a layout that is changed only where a known one is in force, and names of logs that
//! are never used twice. Every step may be done again, so what was interrupted is run again.
//!
//! A log that is to be followed by another is closed first: its last record says so, whoever owned the shard is deposed
//! by it, and nobody claims behind it. Only then the layout names the other log. So nothing is acknowledged in a log
//! that is not in force any more.

use std::time::Duration;

use switchboard_bus::{AppendError, Log, LogError, LogInfo};
use switchboard_proto::bus::{Closed, Layout, Record, State, record};
use switchboard_proto::format::{self, FormatError};
use switchboard_proto::ids::{Incarnation, Offset, Sequence, ShardCount, ShardId};
use switchboard_proto::time::now_us;
use tokio::time::Instant;

/// How long a log's leader may take to settle an append.
const SETTLE: Duration = Duration::from_secs(30);

/// Between two tries or looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Between the two looks that have to find the same: longer than routers need to notice a layout, which they read each
/// second, so that one which was thawed and frozen again meanwhile is noticed. What is appended after the second look
/// is met by the compare-and-set that closes.
const SECOND_LOOK: Duration = Duration::from_millis(1500);

/// Why the log was not changed. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LogLifeError {
    /// The log cannot be read or changed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log was never set up.
    #[error("the log has no layout: run `switchboard migrate` first")]
    NoLayout,
    /// There is no such shard.
    #[error("there is no shard {shard}: the log has {shards} shards, from 0 on")]
    NoShard {
        /// The shard asked for.
        shard: u32,
        /// Shards of the layout.
        shards: u32,
    },
    /// The number of shards is being changed.
    #[error(
        "the number of shards is being changed to {0}: run `switchboard log change-shards {0}` again to finish it, or \
         with --cancel to give it up"
    )]
    Changing(u32),
    /// It is not being changed.
    #[error("the number of shards is not being changed")]
    NotChanging,
    /// It has that number already.
    #[error("the log has {0} shards already")]
    Already(u32),
    /// A log was closed, so its shard can only go on in another.
    #[error(
        "the log of shard {0} is closed already, so this cannot be cancelled: run `switchboard log change-shards` again"
    )]
    TooLate(ShardId),
    /// A log was closed by an interrupted `new-epoch`.
    #[error("the log of shard {0} is closed: finish with `switchboard log new-epoch --shard {0}` first")]
    ClosedAlone(ShardId),
    /// The log has no room for its last record.
    #[error("the log of shard {shard} refuses its last record ({reason}): raise its size, then try again")]
    Full {
        /// The shard.
        shard: ShardId,
        /// What the log says.
        reason: String,
    },
    /// A newer release wrote it.
    #[error("the log of shard {shard} cannot be closed")]
    Newer {
        /// The shard.
        shard: ShardId,
        /// What is wrong with its last record.
        source: FormatError,
    },
    /// The append was not settled in time.
    #[error("the log of shard {0} did not settle its last record within 30 s: try again when it answers")]
    Unsettled(ShardId),
    /// Routers do not say that nothing waits any more.
    #[error(
        "not everything is derived within {waited:?} (shard {shard}: {what}): see that routers run and are ready, then run \
         this again, or with --cancel; publishes are refused meanwhile"
    )]
    NotDrained {
        /// A shard that is not.
        shard: ShardId,
        /// What stands at the end of its log.
        what: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
}

/// The layout in force.
///
/// # Errors
/// [`LogLifeError`].
pub async fn layout(log: &dyn Log) -> Result<Layout, LogLifeError> {
    log.layout().await?.ok_or(LogLifeError::NoLayout)
}

/// How each shard's log stands; `None`: it does not exist.
///
/// # Errors
/// [`LogLifeError`].
pub async fn status(log: &dyn Log) -> Result<(Layout, Vec<(ShardId, Option<LogInfo>)>), LogLifeError> {
    let layout = layout(log).await?;
    let view = log.of(&layout);
    let mut infos = Vec::new();
    for shard in shards(&layout)?.iter() {
        let info = match view.info(shard).await {
            Ok(info) => Some(info),
            Err(LogError::Missing(_)) => None,
            Err(other) => return Err(other.into()),
        };
        infos.push((shard, info));
    }
    Ok((layout, infos))
}

/// A shard's log that was followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// The shard.
    pub shard: ShardId,
    /// The ordinal of the log that is in force no more.
    pub old: u32,
    /// The ordinal of the one that is.
    pub new: u32,
}

/// Begins a new epoch of the shard's log: an empty log follows the one that there is, whatever became of that. Clients
/// are told that what they missed cannot be recovered. May be done again where it was interrupted.
///
/// # Errors
/// [`LogLifeError`].
pub async fn begin_epoch(log: &dyn Log, shard: u32) -> Result<Followed, LogLifeError> {
    let layout = layout(log).await?;
    let shards = layout.shards;
    let shard = ShardId::new(shard)
        .filter(|shard| u32::from(shard.get()) < shards)
        .ok_or(LogLifeError::NoShard { shard, shards })?;
    if layout.is_frozen() {
        return Err(LogLifeError::Changing(layout.changing_to));
    }
    let old = layout.ordinal(shard);
    let next = layout.followed();
    let mut to = next.with_ordinal(shard, old + 1);
    while !is_unused(&*log.of(&to), shard).await? {
        to = next.with_ordinal(shard, to.ordinal(shard) + 1);
    }
    let new = to.ordinal(shard);
    log.of(&to).create_log(shard).await?;
    let closed = Closed {
        next_ordinal: new,
        shards: 0,
    };
    close(&*log.of(&layout), shard, None, closed).await?;
    log.change_layout(&layout, &to).await?;
    Ok(Followed { shard, old, new })
}

/// Removes a log that is in force no more.
///
/// # Errors
/// [`LogLifeError`].
pub async fn remove_old(log: &dyn Log, followed: Followed) -> Result<(), LogLifeError> {
    let layout = layout(log).await?;
    let old = Layout {
        shards: layout.shards.max(u32::from(followed.shard.get()) + 1),
        ..layout
    };
    Ok(log
        .of(&old.with_ordinal(followed.shard, followed.old))
        .remove(followed.shard)
        .await?)
}

/// Changes the number of shards to `count`: every shard gets a new log. Waits up to `patience` until owners say that
/// nothing waits any more. `tell` is called with each step that is done. May be done again where it was interrupted.
///
/// Returns the layout before and the layout in force.
///
/// # Errors
/// [`LogLifeError`].
pub async fn change_shards(
    log: &dyn Log,
    count: ShardCount,
    patience: Duration,
    mut tell: impl FnMut(&str),
) -> Result<(Layout, Layout), LogLifeError> {
    let wanted = u32::from(count.get());
    let mut before = layout(log).await?;
    if !before.is_frozen() {
        if before.shards == wanted {
            return Err(LogLifeError::Already(wanted));
        }
        let view = log.of(&before);
        for shard in shards(&before)?.iter() {
            if let End::Closed(_) = end(&*view, shard).await? {
                return Err(LogLifeError::ClosedAlone(shard));
            }
        }
        let frozen = Layout {
            changing_to: wanted,
            ..before.followed()
        };
        log.change_layout(&before, &frozen).await?;
        before = frozen;
        tell("publishes are refused from now on");
    } else if before.changing_to != wanted {
        return Err(LogLifeError::Changing(before.changing_to));
    }
    let after = prepare(log, &before, count).await?;
    tell("the new logs are created");
    drain_and_close(log, &before, &after, patience, &mut tell).await?;
    log.change_layout(&before, &after).await?;
    tell("the new number of shards is in force");
    Ok((before, after))
}

/// Gives up a change of the number of shards. Publishes are taken again.
///
/// # Errors
/// [`LogLifeError::TooLate`] where a log was closed already, and others.
pub async fn cancel_change(log: &dyn Log) -> Result<(), LogLifeError> {
    let frozen = layout(log).await?;
    if !frozen.is_frozen() {
        return Err(LogLifeError::NotChanging);
    }
    let view = log.of(&frozen);
    for shard in shards(&frozen)?.iter() {
        if let End::Closed(Closed { shards: 1.., .. }) = end(&*view, shard).await? {
            return Err(LogLifeError::TooLate(shard));
        }
    }
    let thawed = Layout {
        changing_to: 0,
        ..frozen.followed()
    };
    Ok(log.change_layout(&frozen, &thawed).await?)
}

/// Creates the logs of the layout that is to come: all of one ordinal, which none of them ever had.
async fn prepare(log: &dyn Log, before: &Layout, count: ShardCount) -> Result<Layout, LogLifeError> {
    let mut ordinal = before.highest_ordinal();
    'search: loop {
        ordinal += 1;
        let after = Layout {
            shards: u32::from(count.get()),
            ordinals: vec![ordinal; usize::from(count.get())],
            changing_to: 0,
            ..before.followed()
        };
        let view = log.of(&after);
        for shard in count.iter() {
            if !is_unused(&*view, shard).await? {
                continue 'search;
            }
        }
        for shard in count.iter() {
            view.create_log(shard).await?;
        }
        return Ok(after);
    }
}

/// Closes every log of `before`, once the owners of all of them say that nothing waits any more: two looks in a row find
/// the same ends, so between them nothing was on its way from one shard to another.
async fn drain_and_close(
    log: &dyn Log,
    before: &Layout,
    after: &Layout,
    patience: Duration,
    tell: &mut impl FnMut(&str),
) -> Result<(), LogLifeError> {
    let view = log.of(before);
    let begun = Instant::now();
    let mut last_look: Option<Vec<Sequence>> = None;
    let mut told = false;
    'drain: loop {
        let mut ends = Vec::new();
        let mut waiting = None;
        // The first log is closed only when all are drained, and since then nothing can have come: the others follow.
        let mut has_begun = false;
        for shard in shards(before)?.iter() {
            match end(&*view, shard).await? {
                End::Closed(Closed { shards: 0, .. }) => return Err(LogLifeError::ClosedAlone(shard)),
                End::Closed(_) => has_begun = true,
                End::Drained(sequence) => ends.push((shard, sequence)),
                End::Other(sequence, what) => {
                    waiting.get_or_insert((shard, what));
                    ends.push((shard, sequence));
                }
                End::Missing => {}
            }
        }
        if let (Some((shard, what)), false) = (waiting, has_begun) {
            let waited = begun.elapsed();
            if waited > patience {
                return Err(LogLifeError::NotDrained { shard, what, waited });
            }
            last_look = None;
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let look: Vec<Sequence> = ends.iter().map(|(_, sequence)| *sequence).collect();
        if !has_begun && last_look.as_ref() != Some(&look) {
            last_look = Some(look);
            tokio::time::sleep(SECOND_LOOK).await;
            continue;
        }
        if !std::mem::replace(&mut told, true) {
            tell("everything is stored and derived");
        }
        for (shard, sequence) in ends {
            let closed = Closed {
                next_ordinal: after.highest_ordinal(),
                shards: after.shards,
            };
            if !close(&*view, shard, Some(sequence), closed).await? {
                // An owner wrote meanwhile.
                last_look = None;
                continue 'drain;
            }
        }
        tell("the old logs are closed");
        return Ok(());
    }
}

/// What stands at the end of a log.
enum End {
    Missing,
    Closed(Closed),
    /// An owner that takes no publishes says that nothing waits any more.
    Drained(Sequence),
    Other(Sequence, &'static str),
}

async fn end(view: &dyn Log, shard: ShardId) -> Result<End, LogLifeError> {
    let info = match view.info(shard).await {
        Ok(info) => info,
        Err(LogError::Missing(_)) => return Ok(End::Missing),
        Err(other) => return Err(other.into()),
    };
    let last = info.last;
    let Some(found) = view.get(shard, last).await? else {
        return Ok(End::Other(
            last,
            "its last record is not readable yet, or it has none",
        ));
    };
    let record: Record = match format::decode(found) {
        Ok(record) => record,
        Err(source @ FormatError::Newer { .. }) => return Err(LogLifeError::Newer { shard, source }),
        Err(_) => return Ok(End::Other(last, "its last record is not readable")),
    };
    if record.sequence != last.0 {
        return Ok(End::Other(last, "its last record is void"));
    }
    Ok(match record.body {
        Some(record::Body::Closed(closed)) => End::Closed(closed),
        Some(record::Body::State(state)) if is_drained(&state, last) => End::Drained(last),
        Some(record::Body::State(_)) => End::Other(last, "its owner still stores or derives"),
        Some(record::Body::Fence(_)) => End::Other(last, "its owner has just taken over"),
        Some(record::Body::Batch(_)) | None => {
            End::Other(last, "its owner has not noticed yet, or there is none")
        }
    })
}

/// Everything before this state record is stored where it went, and its writer takes no more.
fn is_drained(state: &State, at: Sequence) -> bool {
    state.frozen && Offset::from_u64(state.derived_up_to) >= Offset::end_of(Sequence(at.0.saturating_sub(1)))
}

/// Appends the record behind which nothing follows. `behind`: only behind this record; `false` where another stands
/// there by now. A log that does not exist needs none.
async fn close(
    view: &dyn Log,
    shard: ShardId,
    behind: Option<Sequence>,
    closed: Closed,
) -> Result<bool, LogLifeError> {
    let begun = Instant::now();
    let me = Incarnation::random();
    while begun.elapsed() < SETTLE {
        let last = match end(view, shard).await? {
            End::Missing | End::Closed(_) => return Ok(true),
            End::Drained(last) | End::Other(last, _) => last,
        };
        if behind.is_some_and(|behind| behind != last) {
            return Ok(false);
        }
        let place = last.next();
        let record = format::encode(&Record {
            owner_epoch: place.0,
            sequence: place.0,
            owner: me.to_bytes(),
            append_number: 1,
            time_us: now_us(),
            state_at: 0,
            body: Some(record::Body::Closed(closed)),
        });
        match view.append(shard, last, record).await {
            // Whatever the answer: what can be read at the end counts.
            Ok(_) | Err(AppendError::WrongLast { .. } | AppendError::Unknown(_)) => {}
            Err(error @ (AppendError::Refused(_) | AppendError::TooLarge { .. })) => {
                let reason = error.to_string();
                return Err(LogLifeError::Full { shard, reason });
            }
        }
        if let End::Closed(_) = end(view, shard).await? {
            return Ok(true);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(LogLifeError::Unsettled(shard))
}

/// Whether nothing was ever written to the log.
async fn is_unused(view: &dyn Log, shard: ShardId) -> Result<bool, LogLifeError> {
    match view.info(shard).await {
        Ok(info) => Ok(info.last == Sequence(0)),
        Err(LogError::Missing(_)) => Ok(true),
        Err(other) => Err(other.into()),
    }
}

fn shards(layout: &Layout) -> Result<ShardCount, LogLifeError> {
    let shards = layout.shard_count();
    let wrong = || LogError::Damaged(format!("layout of {} shards", layout.shards));
    Ok(shards.ok_or_else(wrong)?)
}
