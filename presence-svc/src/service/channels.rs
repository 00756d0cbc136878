//! Questions about who is in channels.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use switchboard_bus::messages::AskError;
use switchboard_proto::channel::MAX_CHANNEL_LENGTH;
use switchboard_proto::format;
use switchboard_proto::presence::{
    ChannelCount, ChannelCountsRequest, ChannelCountsResponse, ChannelMembersRequest, ChannelMembersResponse,
};

use super::{Service, check_count, fault};

/// Channels that are counted at the same time.
const AT_ONCE: usize = 64;

impl Service {
    /// Who is in a channel; only how many where there are more than `presence.channel_members`.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn channel_members(
        &self,
        request: ChannelMembersRequest,
    ) -> Result<ChannelMembersResponse, AskError> {
        check_channel(&request.channel)?;
        let found = self
            .store
            .in_channel(&request.channel, self.settings.channel_members)
            .await;
        let found = found.map_err(|error| fault(&error))?;
        // One that a newer release wrote is counted, and not shown.
        let members: Vec<_> = (found.members.into_iter())
            .filter_map(|member| format::decode(member).ok())
            .collect();
        Ok(ChannelMembersResponse {
            too_many: members.is_empty() && found.clients > 0,
            members,
            clients: found.clients,
            users: found.users,
        })
    }

    /// How many are in channels.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn channel_counts(
        &self,
        request: ChannelCountsRequest,
    ) -> Result<ChannelCountsResponse, AskError> {
        check_count("channels", request.channels.len())?;
        for channel in &request.channels {
            check_channel(channel)?;
        }
        let counts = stream::iter(request.channels)
            .map(|channel| async move {
                let found = self
                    .store
                    .in_channel(&channel, self.settings.channel_members)
                    .await?;
                Ok(ChannelCount {
                    clients: found.clients,
                    users: found.users,
                })
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await;
        Ok(ChannelCountsResponse {
            counts: counts.map_err(|error| fault(&error))?,
        })
    }
}

fn check_channel(channel: &str) -> Result<(), AskError> {
    match channel.len() {
        1..=MAX_CHANNEL_LENGTH => Ok(()),
        _ => Err(AskError::Invalid(
            "a channel's name is empty or too long".to_owned(),
        )),
    }
}
