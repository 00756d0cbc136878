//! Who is in a channel, for who may know.

use switchboard_bus::messages::ask;
use switchboard_proto::bus::MemberRole;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::Error;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::messages::{MembersRequest, method};
use tokio::time::Instant;

use super::memberships::role;
use crate::gateway::Gateway;
use crate::session::told;

/// Members of a channel, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MembersPage {
    pub(crate) members: Vec<(String, MemberRole)>,
    /// There may be more behind the last.
    pub(crate) more: bool,
    /// How many there are in all.
    pub(crate) count: u64,
}

/// A role as clients and backends are told it.
pub(crate) fn named_role(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Member => "member",
        MemberRole::Owner => "owner",
    }
}

impl Gateway {
    /// Members behind `after`; `limit` 0: as many as are usual. Where the name says who is there, these. Whether the caller may
    /// know is not asked here. Cancel safe.
    ///
    /// # Errors
    /// What the caller is to be told.
    pub(crate) async fn list_members(
        &self,
        channel: &ChannelName,
        after: &str,
        limit: u32,
        arrived: Instant,
    ) -> Result<MembersPage, Error> {
        if let Some(users) = channel.users() {
            // A name holds no more than fit into one page.
            let members: Vec<_> = users.map(|user| (user.to_owned(), MemberRole::Member)).collect();
            return Ok(MembersPage {
                count: members.len() as u64,
                more: false,
                members: members
                    .into_iter()
                    .filter(|(user, _)| user.as_str() > after)
                    .collect(),
            });
        }
        if self.config.policy.now().members_rules(channel).is_none() {
            return Err(ErrorCode::NotAvailable.into());
        }
        if after.contains('\0') {
            return Err(ErrorCode::BadRequest.into());
        }
        let request = MembersRequest {
            channel: channel.as_str().to_owned(),
            after: after.to_owned(),
            limit,
        };
        let within = (arrived + self.config.answer_timeout).saturating_duration_since(Instant::now());
        let page = ask::<method::Members>(self.links.bus(), &request, within).await;
        let page = page.map_err(told)?;
        let members = page.members.into_iter().map(|member| {
            let role = role(member.role()).unwrap_or(MemberRole::Member);
            (member.user, role)
        });
        Ok(MembersPage {
            members: members.collect(),
            more: page.more,
            count: page.count,
        })
    }
}
