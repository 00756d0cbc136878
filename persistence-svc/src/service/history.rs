//! What was said in a channel, as far as it is stored, over all lives of its log.

use switchboard_bus::messages::AskError;
use switchboard_proto::ids::{LogEpoch, Offset, ShardId};
use switchboard_proto::messages::{self, HistoryRequest, HistoryResponse, StoredMessage};

use super::{Service, fault};
use crate::store::{History, MAX_LIMIT, Place, Reach};

/// Bytes of messages in a page, at most: it has to fit into a message of the bus, with one message more.
const PAGE_BYTES: u64 = 512 * 1024;

/// A channel's name, at most, in bytes: more than a gateway may be configured to take.
const CHANNEL_BYTES: usize = 4096;

impl Service {
    /// A page of a channel's messages. Waits until what the request names is stored, as long as its asker does.
    ///
    /// # Errors
    /// [`AskError::Invalid`] for what is no channel, place or limit, [`AskError::Unavailable`].
    pub(crate) async fn history(&self, request: HistoryRequest) -> Result<HistoryResponse, AskError> {
        if request.channel.is_empty() || request.channel.len() > CHANNEL_BYTES {
            return Err(AskError::Invalid(
                "no channel, or one with too long a name".to_owned(),
            ));
        }
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(AskError::Invalid(format!(
                "a limit of 1 to {MAX_LIMIT} is allowed"
            )));
        }
        let log = match request.log_epoch.as_str() {
            "" => None,
            epoch => Some(log_of(epoch)?),
        };
        let question = History {
            after: request.after.as_ref().map(place_of).transpose()?,
            before: request.before.as_ref().map(place_of).transpose()?,
            since_us: request.since_us,
            reverse: request.reverse,
            limit,
            bytes: usize::try_from(match request.bytes {
                0 => PAGE_BYTES,
                bytes => bytes.min(PAGE_BYTES),
            })
            .unwrap_or(usize::MAX),
            channel: request.channel,
        };
        let shard = ShardId::of_channel(&question.channel, self.shards);
        if let Some(at_least) = request.at_least.as_ref().map(place_of).transpose()? {
            self.stored_up_to(shard, at_least).await?;
        }
        let joint = self.store.joint(&question, shard, log).await;
        let joint = joint.map_err(|error| fault(&error))?;
        let messages = joint.page.messages.into_iter().map(|stored| StoredMessage {
            place: Some(told(stored.place)),
            time_us: stored.time_us,
            message: stored.message,
        });
        Ok(HistoryResponse {
            messages: messages.collect(),
            more: joint.page.more,
            reach: joint.reach.map(reach),
            removed_to: joint.removed_to.map(told),
        })
    }
}

pub(super) fn log_of(epoch: &str) -> Result<LogEpoch, AskError> {
    epoch
        .parse()
        .map_err(|_| AskError::Invalid("no epoch of a log".to_owned()))
}

fn place_of(place: &messages::Place) -> Result<Place, AskError> {
    Ok(Place {
        log: log_of(&place.log_epoch)?,
        offset: Offset::from_u64(place.offset),
    })
}

fn told(place: Place) -> messages::Place {
    messages::Place {
        log_epoch: place.log.to_string(),
        offset: place.offset.get(),
    }
}

pub(super) fn reach(reach: Reach) -> messages::Reach {
    messages::Reach {
        read_to: reach.progress.read_to.0,
        complete_to: reach.progress.complete_to.0,
        holes: reach
            .holes
            .iter()
            .map(|hole| messages::Hole {
                first: hole.first.0,
                last: hole.last.0,
            })
            .collect(),
    }
}
