//! Asks the owner of a channel's shard what was said there: a request of its own, beside the link.

use std::time::Duration;

use bytes::Bytes;
use switchboard_bus::{RequestError, Subject};
use switchboard_proto::bus::{HideHistory, HistoryAnswer, HistoryOutcome, HistoryQuestion, PayloadKind};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::{HistoryResult, StreamPosition};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::format;
use tokio::time::Instant;

use super::{Links, replies};

/// Until an owner that did not answer, or could not, is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// What is wanted of a channel's history.
#[derive(Debug, Clone, Default)]
pub(crate) struct HistoryQuery {
    /// Only what is behind it or, with `reverse`, before it.
    pub(crate) since: Option<StreamPosition>,
    /// Newest first.
    pub(crate) reverse: bool,
    /// Publications, at most; 0: only the stream's top.
    pub(crate) limit: u32,
    /// Bytes of them, about.
    pub(crate) bytes: usize,
    /// Only what was written into the log at this time or later, in Unix microseconds.
    pub(crate) since_us: Option<u64>,
    /// The times of the messages are wanted.
    pub(crate) times: bool,
    /// Only what is at the offset behind `since`.
    pub(crate) exact: bool,
}

/// What stands at a place of a channel.
#[derive(Debug)]
pub(crate) enum At {
    /// An encoded `Message`, as it is to be shown.
    Message(Bytes),
    Nothing,
    /// The log does not have the record any more.
    Purged,
}

impl Links {
    /// What was said in `channel`, and of which kind the payloads are: JSON where all are. Holds all that was
    /// acknowledged or delivered by this gateway before the call (R6). Answers within the time that commands have,
    /// counted from `arrived` (P4).
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ErrorCode::UnrecoverablePosition`]: `since` is of another epoch. [`ErrorCode::LimitExceeded`]: too much of
    /// the log would have to be read. [`ErrorCode::Internal`], temporary: it could not be told in time.
    pub(crate) async fn history(
        &self,
        channel: &ChannelName,
        query: &HistoryQuery,
        arrived: Instant,
    ) -> Result<(HistoryResult, PayloadKind), ErrorCode> {
        let answer = self.history_page(channel, query, arrived).await?;
        let is_other_log =
            |since: &StreamPosition| !since.epoch.is_empty() && since.epoch != answer.log_epoch;
        if query.since.as_ref().is_some_and(is_other_log) {
            return Err(ErrorCode::UnrecoverablePosition);
        }
        let (publications, kind) = replies::publications(&answer.messages);
        let result = HistoryResult {
            publications,
            epoch: answer.log_epoch,
            offset: answer.head,
        };
        Ok((result, kind))
    }

    /// As [`Links::history`], in the owner's words; the epoch of `since` is not looked at.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`Links::history`].
    pub(crate) async fn history_page(
        &self,
        channel: &ChannelName,
        query: &HistoryQuery,
        arrived: Instant,
    ) -> Result<HistoryAnswer, ErrorCode> {
        let asking = self.ask_owner(channel, query, None);
        tokio::time::timeout_at(arrived + self.answer_timeout, asking)
            .await
            .map_err(|_| ErrorCode::Internal)?
    }

    /// What stands in `channel` at the offset behind `before`, and in which life of the log. Answers within the time that commands
    /// have, counted from `arrived` (P4).
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`], temporary: it could not be told in time.
    pub(crate) async fn message_behind(
        &self,
        channel: &ChannelName,
        before: u64,
        arrived: Instant,
    ) -> Result<(String, At), ErrorCode> {
        let query = HistoryQuery {
            since: Some(StreamPosition {
                offset: before,
                ..StreamPosition::default()
            }),
            limit: 1,
            bytes: 1,
            exact: true,
            ..HistoryQuery::default()
        };
        let asking = async {
            match self.ask_owner(channel, &query, None).await {
                Ok(answer) => Ok((answer, false)),
                // Only the life of the log is still to be told.
                Err(ErrorCode::LimitExceeded) => {
                    let nothing = HistoryQuery::default();
                    Ok((self.ask_owner(channel, &nothing, None).await?, true))
                }
                Err(error) => Err(error),
            }
        };
        let (answer, is_purged) = tokio::time::timeout_at(arrived + self.answer_timeout, asking)
            .await
            .map_err(|_| ErrorCode::Internal)??;
        let found = answer
            .messages
            .into_iter()
            .find(|found| Some(found.offset) == before.checked_add(1));
        let at = match found {
            Some(found) => At::Message(found.message),
            None if is_purged => At::Purged,
            None => At::Nothing,
        };
        Ok((answer.log_epoch, at))
    }

    /// Hides all that was said in `channel` from history and recoveries, as its shard's owner has it stored. What is said
    /// while this runs may be hidden or not; what is said later is not, even if this call's last question arrives only
    /// then.
    ///
    /// Cancel safe; what was asked may be done all the same.
    ///
    /// # Errors
    /// [`ErrorCode::LimitExceeded`]: the shard has no room for a further channel's mark. [`ErrorCode::NotAvailable`]:
    /// its owner is of a version that hides nothing. [`ErrorCode::Internal`], temporary: it was not done in time.
    pub(crate) async fn hide_history(
        &self,
        channel: &ChannelName,
        arrived: Instant,
    ) -> Result<(), ErrorCode> {
        let hiding = async {
            let nothing = HistoryQuery::default();
            let seen = self.ask_owner(channel, &nothing, None).await?;
            let hide = HideHistory {
                up_to: seen.head,
                log_epoch: seen.log_epoch,
            };
            self.ask_owner(channel, &nothing, Some(hide)).await
        };
        tokio::time::timeout_at(arrived + self.answer_timeout, hiding)
            .await
            .map_err(|_| ErrorCode::Internal)??;
        Ok(())
    }

    /// Asks until there is an answer.
    async fn ask_owner(
        &self,
        channel: &ChannelName,
        query: &HistoryQuery,
        hide: Option<HideHistory>,
    ) -> Result<HistoryAnswer, ErrorCode> {
        let shard = self.shard_of(channel);
        let mut known = match self.known.get(usize::from(shard.get())) {
            Some(known) => known.clone(),
            None => return Err(ErrorCode::Internal),
        };
        // What this gateway's sessions were told before they asked.
        let before = *known.borrow();
        loop {
            let Ok(owner) = known.wait_for(Option::is_some).await.map(|owner| *owner) else {
                // Stopped: every session is being closed.
                return Err(ErrorCode::Internal);
            };
            let Some(owner) = owner else { continue };
            let question = HistoryQuestion {
                channel: channel.as_str().to_owned(),
                reverse: query.reverse,
                since: query.since.as_ref().map(|since| since.offset),
                limit: query.limit,
                bytes: u64::try_from(query.bytes).unwrap_or(u64::MAX),
                at_least: before
                    .filter(|before| before.rank.0 == owner.rank.0)
                    .map_or(0, |before| before.told.get()),
                hide: hide.clone(),
                since_us: query.since_us,
                times: query.times,
                exact: query.exact,
            };
            let subject = Subject::History {
                shard,
                router: owner.router,
            };
            let request = self
                .bus
                .request(subject, format::encode(&question), self.answer_timeout);
            let asked = tokio::select! {
                asked = request => asked,
                // One that died does not answer any more.
                _ = known.wait_for(|now| now.is_some_and(|now| now.rank != owner.rank)) => continue,
            };
            match asked.map(format::decode::<HistoryAnswer>) {
                Ok(Ok(answer)) => match answer.outcome() {
                    // It read over what it does not know, and took this for a question.
                    HistoryOutcome::Complete if hide.is_some() => return Err(ErrorCode::NotAvailable),
                    HistoryOutcome::Complete | HistoryOutcome::Hidden => return Ok(answer),
                    HistoryOutcome::TooFar | HistoryOutcome::NoRoom => return Err(ErrorCode::LimitExceeded),
                    HistoryOutcome::Unavailable => {}
                },
                Ok(Err(error)) => {
                    tracing::warn!(%shard, %error, "answer about history dropped");
                    return Err(ErrorCode::Internal);
                }
                Err(RequestError::NoResponders | RequestError::TimedOut(_) | RequestError::Bus(_)) => {}
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
