//! What the service is asked: one method for each of `MessageService`, whoever asks and on whichever way.

mod conversations;
mod heads;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::messages::AskError;
use switchboard_proto::messages::{Method, method};

use crate::store::{Store, StoreError};

/// Answers from a store.
pub struct Service {
    store: Arc<dyn Store>,
}

impl Service {
    /// Answers from `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Answers the method of this name.
    ///
    /// # Errors
    /// [`AskError`], in words for who asked.
    pub async fn answer(&self, name: &str, request: Bytes) -> Result<Bytes, AskError> {
        // One line for each method.
        match name {
            method::Heads::NAME => {
                encoded::<method::Heads>(self.heads(decoded::<method::Heads>(request)?).await)
            }
            method::Standings::NAME => {
                encoded::<method::Standings>(self.standings(decoded::<method::Standings>(request)?).await)
            }
            method::Members::NAME => {
                encoded::<method::Members>(self.members(decoded::<method::Members>(request)?).await)
            }
            method::MarkReceipts::NAME => encoded::<method::MarkReceipts>(
                self.mark_receipts(decoded::<method::MarkReceipts>(request)?)
                    .await,
            ),
            method::MessageStatus::NAME => encoded::<method::MessageStatus>(
                self.message_status(decoded::<method::MessageStatus>(request)?)
                    .await,
            ),
            method::Conversations::NAME => encoded::<method::Conversations>(
                self.conversations(decoded::<method::Conversations>(request)?)
                    .await,
            ),
            _ => Err(AskError::NotAvailable(
                "this release of the persistence service does not know the method".to_owned(),
            )),
        }
    }
}

fn decoded<M: Method>(request: Bytes) -> Result<M::Request, AskError> {
    M::Request::decode(request).map_err(|error| AskError::Invalid(format!("request not read: {error}")))
}

fn encoded<M: Method>(response: Result<M::Response, AskError>) -> Result<Bytes, AskError> {
    Ok(response?.encode_to_vec().into())
}

/// What who asked is told of the store's trouble: nothing of its inside. The whole goes to the log.
fn fault(error: &StoreError) -> AskError {
    match error {
        StoreError::TooMany { .. } | StoreError::TooMuch { .. } => AskError::Invalid(error.to_string()),
        StoreError::Unavailable(_) | StoreError::WentBack { .. } | StoreError::Schema(_) => {
            tracing::warn!(%error, "question not answered");
            AskError::Unavailable("the message store cannot be used now".to_owned())
        }
        StoreError::Refused(_) | StoreError::Data(_) | StoreError::Damaged(_) => {
            tracing::error!(%error, "question not answered");
            AskError::Internal("the message store has a fault, its log tells".to_owned())
        }
    }
}
