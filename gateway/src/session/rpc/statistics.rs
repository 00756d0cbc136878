//! `statistics.get` and `statistics.channels`, for administrators.

use bytes::Bytes;
use switchboard_proto::client::Error;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::messages::method;

use super::Asking;
use crate::statistics::telling::{self, Question, TopQuestion};

/// What to do about an answer that is too long.
const LESS: &str = "ask for longer periods, a shorter range or fewer namespaces";

/// Sums by periods, for who may know them.
pub(super) async fn get(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    asking.is_admin()?;
    let question: Question = asking.parse(&data, "statistics.get wants {from, to?, period?, namespaces?}")?;
    let response = asking.ask::<method::Statistics>(&question.into()).await?;
    asking.fits(telling::as_json(&response).to_string(), LESS)
}

/// The busiest channels, for who may know them.
pub(super) async fn channels(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    asking.is_admin()?;
    let question: TopQuestion =
        asking.parse(&data, "statistics.channels wants {from, to?, namespace?, limit?}")?;
    let response = asking.ask::<method::TopChannels>(&question.into()).await?;
    asking.fits(telling::top_as_json(&response).to_string(), LESS)
}

impl Asking {
    /// Whose token says so; everybody where everybody may do everything.
    fn is_admin(&self) -> Result<(), Error> {
        let is_admin = self.session.identity().is_some_and(|identity| identity.is_admin);
        match is_admin || self.gateway.config.insecure {
            true => Ok(()),
            false => Err(ErrorCode::PermissionDenied.into()),
        }
    }
}
