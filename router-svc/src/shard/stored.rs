//! What the message store has of a shard's log, and how an owner asks for it (R6).
//!
//! The store reads the log behind the owner. What it says of a channel is true up to [`Reach::read_to`] as of one moment; from
//! there on the window, or the log, has it. So the parts touch, or what lies between them is read from the log.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use switchboard_bus::Bus;
use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::ids::{LogEpoch, Offset, Sequence, ShardId};
use switchboard_proto::messages::{self, HeadsRequest, HistoryRequest, Life, Place, method};

use crate::maps::HashMap;

/// The name of the store's reader among those of the log (`router.readers`): where a purge waits for it, it can be asked.
pub(crate) const STORE: &str = "persistence";

/// Channels of one question about heads, at most.
pub(crate) const MAX_HEADS: usize = 10_000;

/// How far the store is in this life of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// What stands up to here is stored, but for the holes.
    pub(crate) read_to: Offset,
    /// Records that the store never got: the first and the last of each.
    pub(crate) holes: Vec<(Sequence, Sequence)>,
}

/// What the store's answer is worth to somebody who has everything up to some offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worth {
    /// It holds everything from there up to [`Reach::read_to`].
    Whole,
    /// It has not come so far: only the log may have it.
    Behind,
    /// What lies behind is gone, also for the store.
    Lost,
    /// What lies behind was purged from the log, and the store has not said yet that it lacks it: it is being read into anew.
    Unknown,
}

impl Reach {
    /// For a channel of which nothing behind `removed` was ever removed from the log, and everything up to `after` is known.
    pub(crate) fn worth(&self, after: Offset, removed: Offset) -> Worth {
        // Of this channel nothing behind `after` went, whatever the store lacks.
        let may_lack = removed > after;
        let is_lost = self
            .holes
            .iter()
            .any(|(first, last)| Offset::end_of(*last) > after && Offset::new(*first, 0) <= removed);
        if may_lack && is_lost {
            Worth::Lost
        } else if may_lack && removed > self.read_to {
            Worth::Unknown
        } else if self.read_to <= after {
            Worth::Behind
        } else {
            Worth::Whole
        }
    }
}

/// A page of one channel's messages in this life of the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PageOf {
    pub(crate) channel: Arc<str>,
    /// Only messages behind this.
    pub(crate) after: Offset,
    /// Only messages before this; `None`: as far as there are.
    pub(crate) before: Option<Offset>,
    /// Only messages of this time on, in Unix microseconds.
    pub(crate) since_us: Option<u64>,
    pub(crate) reverse: bool,
    pub(crate) limit: usize,
    pub(crate) bytes: usize,
}

/// A message as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) offset: Offset,
    pub(crate) time_us: u64,
    /// An encoded `Message`.
    pub(crate) message: Bytes,
}

/// The store's answer to [`PageOf`]: all of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StoredPage {
    /// In the order that was asked for.
    pub(crate) messages: Vec<Found>,
    /// There may be more behind the last of them.
    pub(crate) more: bool,
    pub(crate) reach: Reach,
    /// The channel's messages up to here were removed from the store, or are hidden.
    pub(crate) removed_to: Offset,
}

/// The newest stored message of channels in this life of the log; those without one are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StoredHeads {
    pub(crate) heads: HashMap<String, Offset>,
    pub(crate) reach: Reach,
}

/// What an owner asks of the store.
#[async_trait]
pub(crate) trait Store: Send + Sync {
    /// # Errors
    /// [`AskError`].
    async fn page(&self, asked: &PageOf) -> Result<StoredPage, AskError>;

    /// Of [`MAX_HEADS`] channels at most.
    ///
    /// # Errors
    /// [`AskError`].
    async fn heads(&self, channels: &[Arc<str>]) -> Result<StoredHeads, AskError>;
}

/// The store behind the bus: whichever replica of the persistence service answers.
pub(crate) struct BusStore {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) shard: ShardId,
    /// The life of the log that is asked about.
    pub(crate) log: LogEpoch,
    /// How long an answer is waited for.
    pub(crate) within: Duration,
}

impl BusStore {
    fn place(&self, offset: Offset) -> Place {
        Place {
            log_epoch: self.log.to_string(),
            offset: offset.get(),
        }
    }
}

#[async_trait]
impl Store for BusStore {
    async fn page(&self, asked: &PageOf) -> Result<StoredPage, AskError> {
        let request = HistoryRequest {
            channel: asked.channel.to_string(),
            after: Some(self.place(asked.after)),
            before: asked.before.map(|before| self.place(before)),
            since_us: asked.since_us,
            reverse: asked.reverse,
            limit: u32::try_from(asked.limit).unwrap_or(u32::MAX),
            bytes: asked.bytes as u64,
            log_epoch: self.log.to_string(),
            at_least: None,
        };
        let answer = ask::<method::History>(&*self.bus, &request, self.within).await?;
        let log = self.log.to_string();
        let messages = answer.messages.into_iter().filter_map(|stored| {
            let place = stored.place.filter(|place| place.log_epoch == log)?;
            Some(Found {
                offset: Offset::from_u64(place.offset),
                time_us: stored.time_us,
                message: stored.message,
            })
        });
        Ok(StoredPage {
            messages: messages.collect(),
            more: answer.more,
            reach: answer.reach.map(reach).unwrap_or_default(),
            removed_to: removed_to(answer.removed_to.as_ref(), self.log),
        })
    }

    async fn heads(&self, channels: &[Arc<str>]) -> Result<StoredHeads, AskError> {
        let request = HeadsRequest {
            channels: channels.iter().map(ToString::to_string).collect(),
            of: Some(Life {
                shard: u32::from(self.shard.get()),
                log_epoch: self.log.to_string(),
            }),
        };
        let answer = ask::<method::Heads>(&*self.bus, &request, self.within).await?;
        let log = self.log.to_string();
        let heads = answer.heads.into_iter().filter_map(|head| {
            let place = head.place.filter(|place| place.log_epoch == log)?;
            Some((head.channel, Offset::from_u64(place.offset)))
        });
        Ok(StoredHeads {
            heads: heads.collect(),
            reach: answer.reach.map(reach).unwrap_or_default(),
        })
    }
}

fn reach(told: messages::Reach) -> Reach {
    Reach {
        read_to: if told.read_to == 0 {
            Offset::ZERO
        } else {
            Offset::end_of(Sequence(told.read_to))
        },
        holes: told
            .holes
            .iter()
            .map(|hole| (Sequence(hole.first), Sequence(hole.last)))
            .collect(),
    }
}

/// In this life of the log: a mark of an older one removes nothing here, one of a later one everything.
fn removed_to(told: Option<&Place>, log: LogEpoch) -> Offset {
    let Some(place) = told else { return Offset::ZERO };
    match place.log_epoch.parse::<LogEpoch>() {
        Ok(of) if of == log => Offset::from_u64(place.offset),
        Ok(of) if of > log => Offset::from_u64(u64::MAX),
        Ok(_) | Err(_) => Offset::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> Offset {
        Offset::new(Sequence(sequence), 0)
    }

    fn end(sequence: u64) -> Offset {
        Offset::end_of(Sequence(sequence))
    }

    #[test]
    fn hole_counts_only_for_channels_that_may_have_lost_something_in_it() {
        let reach = Reach {
            read_to: end(20),
            holes: vec![(Sequence(5), Sequence(7))],
        };
        let cases = [
            // Everything up to `after` is known; nothing behind `removed` was removed from the log.
            (at(4), at(6), Worth::Lost),
            // Its record may have held more of the channel.
            (at(7), end(7), Worth::Lost),
            (at(4), at(5), Worth::Lost),
            (at(4), at(4), Worth::Whole),
            // It has the last of them itself.
            (at(6), at(6), Worth::Whole),
            (at(1), at(3), Worth::Whole),
            (end(7), at(15), Worth::Whole),
            (end(7), Offset::ZERO, Worth::Whole),
            (end(20), Offset::ZERO, Worth::Behind),
            (at(21), at(21), Worth::Behind),
            (end(20), at(22), Worth::Unknown),
        ];
        for (after, removed, worth) in cases {
            assert_eq!(
                reach.worth(after, removed),
                worth,
                "after {after}, removed {removed}"
            );
        }
        assert_eq!(Reach::default().worth(at(3), Offset::ZERO), Worth::Behind);
        assert_eq!(Reach::default().worth(at(3), at(9)), Worth::Unknown);
    }

    #[test]
    fn mark_of_another_life_of_the_log_is_no_offset_of_this_one() {
        let log = |ordinal| LogEpoch { ordinal, random: 1 };
        let place = |ordinal| Place {
            log_epoch: log(ordinal).to_string(),
            offset: 77,
        };
        assert_eq!(removed_to(None, log(2)), Offset::ZERO);
        assert_eq!(removed_to(Some(&place(1)), log(2)), Offset::ZERO);
        assert_eq!(removed_to(Some(&place(2)), log(2)), Offset::from_u64(77));
        assert_eq!(removed_to(Some(&place(3)), log(2)), Offset::from_u64(u64::MAX));
    }
}
