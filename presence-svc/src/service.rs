//! What the service is told and asked: one method each, whoever asks and on whichever way.

mod changing;
mod channels;
mod report;
mod users;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::answering::Answers;
use switchboard_bus::messages::AskError;
use switchboard_proto::presence::{MAX_USER, method};
use switchboard_proto::questions::Method;

use crate::metrics::PresenceMetrics;
use crate::store::{PresenceStore, StoreError};
use crate::telling::Telling;
use crate::user::Rules;

/// Users or channels of one question, at most.
pub const MAX_ASKED: usize = 1_000;

/// What the service keeps to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What users are judged by.
    pub rules: Rules,
    /// How long what a gateway reported holds after it was heard of last.
    pub lease: Duration,
    /// Members of a channel that are told one by one, at most.
    pub channel_members: usize,
    /// Members of a channel in which joins and leaves are told, at most.
    pub told_to: u64,
}

/// See the module.
pub struct Service {
    pub(crate) store: Arc<dyn PresenceStore>,
    pub(crate) settings: Settings,
    pub(crate) telling: Telling,
    pub(crate) metrics: PresenceMetrics,
}

#[async_trait]
impl Answers for Service {
    async fn answer(&self, name: &str, request: Bytes) -> Result<Bytes, AskError> {
        match name {
            method::Report::NAME => {
                encoded::<method::Report>(self.report(decoded::<method::Report>(request)?).await)
            }
            method::GetUsers::NAME => {
                encoded::<method::GetUsers>(self.get_users(decoded::<method::GetUsers>(request)?).await)
            }
            method::GetUser::NAME => {
                encoded::<method::GetUser>(self.get_user(decoded::<method::GetUser>(request)?).await)
            }
            method::SetUser::NAME => {
                encoded::<method::SetUser>(self.set_user(decoded::<method::SetUser>(request)?).await)
            }
            method::ChannelMembers::NAME => encoded::<method::ChannelMembers>(
                self.channel_members(decoded::<method::ChannelMembers>(request)?)
                    .await,
            ),
            method::ChannelCounts::NAME => encoded::<method::ChannelCounts>(
                self.channel_counts(decoded::<method::ChannelCounts>(request)?)
                    .await,
            ),
            _ => Err(AskError::NotAvailable(
                "this release of the presence service does not know the method".to_owned(),
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

/// What who asked is told of the store's trouble. The whole goes to the log.
fn fault(error: &StoreError) -> AskError {
    match error {
        StoreError::Unavailable(_) => {
            tracing::debug!(%error, "question not answered");
            AskError::Unavailable("the presence store cannot be used now".to_owned())
        }
        StoreError::Damaged(_) => {
            tracing::error!(%error, "question not answered");
            AskError::Internal("the presence store has a fault, the service's log tells".to_owned())
        }
    }
}

/// Checks the id of a user who is asked about.
fn check_user(user: &str) -> Result<(), AskError> {
    match user.len() {
        1..=MAX_USER => Ok(()),
        _ => Err(AskError::Invalid(format!(
            "a user's id has 1 to {MAX_USER} bytes"
        ))),
    }
}

fn check_count(what: &str, asked: usize) -> Result<(), AskError> {
    match asked {
        0 => Err(AskError::Invalid(format!("no {what} asked for"))),
        1..=MAX_ASKED => Ok(()),
        _ => Err(AskError::Invalid(format!(
            "{asked} {what} in one question, {MAX_ASKED} are allowed"
        ))),
    }
}
