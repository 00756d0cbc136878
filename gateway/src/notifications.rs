//! What is asked of the notify service: by backends (`api/notifications.rs`), and by clients about their own settings
//! (`session/rpc/notifications.rs`).

mod config;

use std::time::Duration;

use prost::Message as _;
use switchboard_bus::messages::{self, AskError};
use switchboard_proto::questions::Method;

pub use self::config::NotificationsConfig;
use crate::gateway::Gateway;

/// What a question takes on the bus besides its request.
const AROUND: usize = 1024;

/// Asks the notify service, within this time.
///
/// # Errors
/// [`AskError`]. One that is unavailable may have done what was asked.
pub(crate) async fn ask<M: Method>(
    gateway: &Gateway,
    request: &M::Request,
    within: Duration,
) -> Result<M::Response, AskError> {
    let bus = gateway.links.bus();
    // The bus would refuse it as well, and who asked would be told to try again.
    if request.encoded_len() + AROUND > bus.max_payload() {
        let words = "more than the bus carries at once: send it in parts";
        return Err(AskError::Invalid(words.to_owned()));
    }
    messages::ask::<M>(bus, request, within).await
}
