//! The newest stored message of channels.

use switchboard_bus::messages::AskError;
use switchboard_proto::messages::{Head, HeadsRequest, HeadsResponse, Place};

use super::{Service, fault};

impl Service {
    /// # Errors
    /// [`AskError::Invalid`] for more than 10,000 channels, [`AskError::Unavailable`].
    pub(super) async fn heads(&self, request: HeadsRequest) -> Result<HeadsResponse, AskError> {
        let channels: Vec<&str> = request.channels.iter().map(String::as_str).collect();
        let heads = self.store.heads(&channels).await.map_err(|error| fault(&error))?;
        let heads = heads.into_iter().map(|(channel, place)| Head {
            channel,
            place: Some(Place {
                log_epoch: place.log.to_string(),
                offset: place.offset.get(),
            }),
        });
        Ok(HeadsResponse {
            heads: heads.collect(),
        })
    }
}
