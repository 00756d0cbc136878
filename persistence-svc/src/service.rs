//! What the service is asked: one method for each of `MessageService`, whoever asks and on whichever way.

mod changes;
mod conversations;
mod heads;
mod history;
mod moderation;
mod search;
pub(crate) mod statistics;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::answering::Answers;
use switchboard_bus::messages::AskError;
use switchboard_proto::ids::{ShardCount, ShardId};
use switchboard_proto::messages::{Method, method};

use crate::search::Searching;
use crate::statistics::StatisticsSettings;
use crate::store::{Place, Store, StoreError};

/// Gives each method of `MessageService` that has one answer, with who answers it, to a macro. One line for each.
macro_rules! each_method {
    ($what:ident) => {
        $what! {
            Heads => heads,
            Message => message,
            Folds => folds,
            Thread => thread,
            History => history,
            Standings => standings,
            Shared => shared,
            Members => members,
            MarkReceipts => mark_receipts,
            MessageStatus => message_status,
            Conversations => conversations,
            Search => search,
            Statistics => statistics,
            TopChannels => top_channels,
            Moderate => moderate,
            ModerationLog => moderation_log,
            Restrictions => restrictions,
            Restricted => restricted,
        }
    };
}
pub(crate) use each_method;

/// The same of what is asked over the bus alone.
macro_rules! each_method_of_the_bus {
    ($what:ident) => {
        $what! {
            Live => live,
            ReportDeliveries => report_deliveries,
        }
    };
}

/// Between two looks at how far the store is, doubling.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LOOK: Duration = Duration::from_millis(40);

/// Answers from a store.
pub struct Service {
    store: Arc<dyn Store>,
    /// Of the layout: which channel is in which shard.
    shards: ShardCount,
    /// `None`: messages are not searched here.
    searching: Option<Searching>,
    /// `None`: nothing is counted here.
    statistics: Option<StatisticsSettings>,
}

impl Service {
    /// Answers from `store`.
    pub fn new(store: Arc<dyn Store>, shards: ShardCount) -> Self {
        Self {
            store,
            shards,
            searching: None,
            statistics: None,
        }
    }

    /// Answers searches, too.
    #[must_use]
    pub fn with_search(self, searching: Searching) -> Self {
        Self {
            searching: Some(searching),
            ..self
        }
    }

    /// Tells statistics, too.
    #[must_use]
    pub fn with_statistics(self, settings: Option<StatisticsSettings>) -> Self {
        Self {
            statistics: settings,
            ..self
        }
    }

    /// Waits until everything up to `place` was read into the store. Never ends where the log has no such place: whoever asks
    /// gives up.
    async fn stored_up_to(&self, shard: ShardId, place: Place) -> Result<(), AskError> {
        let mut pause = FIRST_LOOK;
        loop {
            let progress = self.store.progress(shard, place.log).await;
            let progress = progress.map_err(|error| fault(&error))?;
            if progress.is_some_and(|progress| progress.read_to >= place.offset.sequence()) {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK);
        }
    }
}

macro_rules! by_name {
    ($($method:ident => $answer:ident,)*) => {
        #[async_trait]
        impl Answers for Service {
            async fn answer(&self, name: &str, request: Bytes) -> Result<Bytes, AskError> {
                match name {
                    $(method::$method::NAME => {
                        encoded::<method::$method>(self.$answer(decoded::<method::$method>(request)?).await)
                    })*
                    _ => self.answer_of_the_bus(name, request).await,
                }
            }
        }
    };
}
each_method!(by_name);

macro_rules! of_the_bus {
    ($($method:ident => $answer:ident,)*) => {
        impl Service {
            async fn answer_of_the_bus(&self, name: &str, request: Bytes) -> Result<Bytes, AskError> {
                match name {
                    $(method::$method::NAME => {
                        encoded::<method::$method>(self.$answer(decoded::<method::$method>(request)?).await)
                    })*
                    _ => Err(AskError::NotAvailable(
                        "this release of the persistence service does not know the method".to_owned(),
                    )),
                }
            }
        }
    };
}
each_method_of_the_bus!(of_the_bus);

/// Answers where nothing is stored: that it is so.
pub(crate) struct NothingStored;

#[async_trait]
impl Answers for NothingStored {
    async fn answer(&self, _name: &str, _request: Bytes) -> Result<Bytes, AskError> {
        Err(nothing_stored())
    }
}

pub(crate) fn nothing_stored() -> AskError {
    AskError::NotAvailable("nothing is stored here (persistence.store)".to_owned())
}

fn decoded<M: Method>(request: Bytes) -> Result<M::Request, AskError> {
    M::Request::decode(request).map_err(|error| AskError::Invalid(format!("request not read: {error}")))
}

fn encoded<M: Method>(response: Result<M::Response, AskError>) -> Result<Bytes, AskError> {
    Ok(response?.encode_to_vec().into())
}

/// As many as are asked for, or as is usual.
fn limit(asked: u32, usual: u32, most: usize) -> Result<usize, AskError> {
    let limit = usize::try_from(if asked == 0 { usual } else { asked }).unwrap_or(usize::MAX);
    match limit <= most {
        true => Ok(limit),
        false => Err(AskError::Invalid(format!("{asked} asked for, {most} at most"))),
    }
}

/// What who asked is told of the store's trouble: nothing of its inside. The whole goes to the log.
pub(crate) fn fault(error: &StoreError) -> AskError {
    match error {
        StoreError::TooMany { .. } | StoreError::TooMuch { .. } => AskError::Invalid(error.to_string()),
        StoreError::Unavailable(_)
        | StoreError::WentBack { .. }
        | StoreError::Schema(_)
        | StoreError::OtherIndex => {
            tracing::warn!(%error, "question not answered");
            AskError::Unavailable("the message store cannot be used now".to_owned())
        }
        StoreError::Refused(_) | StoreError::Data(_) | StoreError::Damaged(_) => {
            tracing::error!(%error, "question not answered");
            AskError::Internal("the message store has a fault, its log tells".to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
