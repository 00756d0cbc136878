//! The members of channels: what backends may change everywhere, whatever users may.

use switchboard_proto::api::{
    ChannelMember, ChannelMembersAddRequest, ChannelMembersAddResult, ChannelMembersListRequest,
    ChannelMembersListResult, ChannelMembersRemoveRequest, ChannelMembersRemoveResult,
};
use switchboard_proto::bus::MemberRole;
use switchboard_proto::client::Error;

use super::failure::Failure;
use super::{Api, Caller};
use crate::conversations::{ChangeMembers, Changed, MembersPage, Who, named_role};

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(error.code, error.message)
    }
}

impl Api {
    pub(super) async fn add_members(
        &self,
        request: ChannelMembersAddRequest,
        caller: Caller,
    ) -> Result<ChannelMembersAddResult, Failure> {
        let role = match request.role.as_str() {
            "" | "member" => MemberRole::Member,
            "owner" => MemberRole::Owner,
            _ => return Err(Failure::bad("role is neither member nor owner")),
        };
        let added = request.users.into_iter().map(|user| (user, role)).collect();
        let changed = self
            .change_members(&request.channel, added, Vec::new(), caller)
            .await?;
        let (epoch, offset) = changed.at.unwrap_or_default();
        Ok(ChannelMembersAddResult {
            users: changed.users,
            offset,
            epoch,
            count: changed.members.unwrap_or(0),
        })
    }

    pub(super) async fn remove_members(
        &self,
        request: ChannelMembersRemoveRequest,
        caller: Caller,
    ) -> Result<ChannelMembersRemoveResult, Failure> {
        let changed = self
            .change_members(&request.channel, Vec::new(), request.users, caller)
            .await?;
        let (epoch, offset) = changed.at.unwrap_or_default();
        Ok(ChannelMembersRemoveResult {
            users: changed.users,
            offset,
            epoch,
            count: changed.members.unwrap_or(0),
        })
    }

    async fn change_members(
        &self,
        channel: &str,
        added: Vec<(String, MemberRole)>,
        removed: Vec<String>,
        caller: Caller,
    ) -> Result<Changed, Failure> {
        let change = ChangeMembers {
            channel: self.channel(channel)?,
            added,
            removed,
            by: Who::Server(caller.key),
            arrived: caller.arrived,
        };
        Ok(self.gateway.change_members(change).await?)
    }

    pub(super) async fn list_members(
        &self,
        request: ChannelMembersListRequest,
        caller: Caller,
    ) -> Result<ChannelMembersListResult, Failure> {
        let channel = self.channel(&request.channel)?;
        let page = self
            .gateway
            .list_members(&channel, &request.after, request.limit, caller.arrived);
        let MembersPage { members, more, count } = page.await?;
        let members = members.into_iter().map(|(user, role)| ChannelMember {
            user,
            role: named_role(role).to_owned(),
        });
        Ok(ChannelMembersListResult {
            members: members.collect(),
            more,
            count,
        })
    }
}
