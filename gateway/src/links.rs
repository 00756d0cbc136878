//! The gateway's side of its links: one actor per shard, which holds the shard's part of the table
//! channel ▶ local sessions. Sessions talk to it through [`Links`].

use std::sync::Arc;

use switchboard_proto::bus::Message;
use switchboard_proto::channel::ChannelName;

use crate::session::SessionHandle;

/// Hands what sessions ask for to the shard's link. Cheap to clone.
///
/// All calls wait while the link's queue is full, so a session that asks faster than its shard can
/// serve stops being read. Answers are put into the session's outgoing queue by the link itself, so
/// that the replies and publications of a channel keep their order (rule R2).
#[derive(Clone)]
pub(crate) struct Links {}

impl Links {
    /// Subscribes `session` to `channel` and answers its command `id` (a `subscribe` result or an
    /// error) before any publication of the channel.
    pub(crate) async fn subscribe(&self, session: &Arc<SessionHandle>, id: u32, channel: ChannelName) {}

    /// Ends the subscription. Answers command `id` where there is one (none: the session is going).
    pub(crate) async fn unsubscribe(&self, session: &Arc<SessionHandle>, id: Option<u32>, channel: ChannelName) {}

    /// Publishes and answers command `id` once the message is stored or refused.
    pub(crate) async fn publish(&self, session: &Arc<SessionHandle>, id: u32, message: Message) {}
}
