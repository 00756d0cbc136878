//! The newest stored message of channels.

use switchboard_bus::messages::AskError;
use switchboard_proto::ids::ShardId;
use switchboard_proto::messages::{Head, HeadsRequest, HeadsResponse, Place};

use super::history::{log_of, reach};
use super::{Service, fault};

impl Service {
    /// # Errors
    /// [`AskError::Invalid`] for more than 10,000 channels, [`AskError::Unavailable`].
    pub(crate) async fn heads(&self, request: HeadsRequest) -> Result<HeadsResponse, AskError> {
        let channels: Vec<&str> = request.channels.iter().map(String::as_str).collect();
        let (heads, reached) = match &request.of {
            Some(of) => {
                let shard = ShardId::new(of.shard);
                let shard = shard.ok_or_else(|| AskError::Invalid("no shard".to_owned()))?;
                let log = log_of(&of.log_epoch)?;
                self.store.joint_heads(&channels, shard, log).await
            }
            None => self.store.heads(&channels).await.map(|heads| (heads, None)),
        }
        .map_err(|error| fault(&error))?;
        let heads = heads.into_iter().map(|(channel, place)| Head {
            channel,
            place: Some(Place {
                log_epoch: place.log.to_string(),
                offset: place.offset.get(),
            }),
        });
        Ok(HeadsResponse {
            heads: heads.collect(),
            reach: reached.map(reach),
        })
    }
}
