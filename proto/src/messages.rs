//! What the persistence service is asked: the messages of its service (generated), and each method as a type, for who asks over the
//! bus.

pub use crate::questions::Method;
use crate::questions::{Service, methods};

/// The messages themselves (generated).
#[allow(clippy::all, unreachable_pub, missing_docs, reason = "generated code")]
mod generated {
    include!("generated/switchboard.messages.rs");
}

pub use generated::*;

/// The service's name, and descriptors of all of it, as reflection answers with them.
pub const SERVICE: &str = "switchboard.messages.MessageService";
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/switchboard.messages.descriptors");

methods! {
    Service::Messages;
    /// The newest stored message of each of these channels.
    Heads: HeadsRequest => HeadsResponse,
    /// A channel's stored messages, over all lives of its log.
    History: HistoryRequest => HistoryResponse,
    /// What users are in channels, and how many members these have.
    Standings: StandingsRequest => StandingsResponse,
    /// Who is in a channel with a user.
    Shared: SharedRequest => SharedResponse,
    /// The members of a channel.
    Members: MembersRequest => MembersResponse,
    /// Moves forward up to where users were given and have read channels.
    MarkReceipts: MarkReceiptsRequest => MarkReceiptsResponse,
    /// To whom a message was delivered, and who has read it.
    MessageStatus: MessageStatusRequest => MessageStatusResponse,
    /// A user's conversations: last message, unread, members.
    Conversations: ConversationsRequest => ConversationsResponse,
    /// Messages that hold given words.
    Search: SearchRequest => SearchResponse,
    /// One stored message and what became of it.
    Message: MessageRequest => MessageResponse,
    /// What became of messages of one channel.
    Folds: FoldsRequest => FoldsResponse,
    /// Messages of a thread.
    Thread: ThreadRequest => ThreadResponse,
    /// How much was said, by how many and how fast it arrived, by periods.
    Statistics: StatisticsRequest => StatisticsResponse,
    /// Channels in which most was said.
    TopChannels: TopChannelsRequest => TopChannelsResponse,
    /// What was counted of the last minutes. Over the bus only.
    Live: LiveRequest => LiveResponse,
    /// What a gateway delivered. Over the bus only.
    ReportDeliveries: ReportDeliveriesRequest => ReportDeliveriesResponse,
    /// Blocks, mutes, revokes, and takes it back.
    Moderate: ModerateRequest => ModerateResponse,
    /// What was done so.
    ModerationLog: ModerationLogRequest => ModerationLogResponse,
    /// What is in force.
    Restrictions: RestrictionsRequest => RestrictionsResponse,
    /// Which of some are in force.
    Restricted: RestrictedRequest => RestrictedResponse,
}
