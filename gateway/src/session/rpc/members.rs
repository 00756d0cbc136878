//! `channel.members.add`, `channel.members.remove`, `channel.members.list`.

use bytes::Bytes;
use serde::Deserialize;
use switchboard_proto::bus::MemberRole;
use switchboard_proto::client::Error;
use switchboard_proto::codes::ErrorCode;

use super::Asking;
use crate::conversations::{ChangeMembers, Changed, MembersPage, Who, named_role};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    channel: String,
    users: Vec<String>,
    #[serde(default)]
    role: Role,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    channel: String,
    users: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    channel: String,
    #[serde(default)]
    after: String,
    #[serde(default)]
    limit: u32,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    #[default]
    Member,
    Owner,
}

pub(super) async fn add(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let Add { channel, users, role } =
        asking.parse(&data, "channel.members.add wants {channel, users, role?}")?;
    let role = match role {
        Role::Member => MemberRole::Member,
        Role::Owner => MemberRole::Owner,
    };
    let added = users.into_iter().map(|user| (user, role)).collect();
    change(asking, &channel, added, Vec::new()).await
}

pub(super) async fn remove(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let Remove { channel, users } = asking.parse(&data, "channel.members.remove wants {channel, users}")?;
    change(asking, &channel, Vec::new(), users).await
}

async fn change(
    asking: Asking,
    channel: &str,
    added: Vec<(String, MemberRole)>,
    removed: Vec<String>,
) -> Result<Bytes, Error> {
    let channel = asking.channel(channel)?;
    asking.exists(&channel)?;
    if asking.session.user().is_empty() {
        return Err(ErrorCode::PermissionDenied.into());
    }
    let change = ChangeMembers {
        by: Who::User(Box::new(asking.session.sender(&channel))),
        channel,
        added,
        removed,
        arrived: asking.arrived,
    };
    let Changed { users, at, members } = asking.gateway.change_members(change).await?;
    let mut answer = serde_json::json!({ "users": users });
    if let Some(answer) = answer.as_object_mut() {
        if let Some(members) = members {
            answer.insert("count".to_owned(), members.into());
        }
        if let Some((epoch, offset)) = at {
            answer.insert("offset".to_owned(), offset.into());
            answer.insert("epoch".to_owned(), epoch.into());
        }
    }
    Ok(answer.to_string().into())
}

/// For who may read the channel.
pub(super) async fn list(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let List {
        channel,
        after,
        limit,
    } = asking.parse(&data, "channel.members.list wants {channel, after?, limit?}")?;
    let channel = asking.channel(&channel)?;
    asking.may_read(&channel).await?;
    let page = asking
        .gateway
        .list_members(&channel, &after, limit, asking.arrived);
    let MembersPage { members, more, count } = page.await?;
    let members: Vec<_> = members
        .into_iter()
        .map(|(user, role)| serde_json::json!({"user": user, "role": named_role(role)}))
        .collect();
    let answer = serde_json::json!({"members": members, "more": more, "count": count});
    Ok(answer.to_string().into())
}
