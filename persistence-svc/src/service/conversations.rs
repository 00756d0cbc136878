//! Who is in a channel, up to where everybody has read, and what a user's conversations are.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use switchboard_bus::messages::AskError;
use switchboard_proto::bus::MemberRole;
use switchboard_proto::ids::{Offset, ShardId};
use switchboard_proto::messages::{
    Awaited, Conversation, ConversationsRequest, ConversationsResponse, LastMessage, MarkReceiptsRequest,
    MarkReceiptsResponse, Member, MembersRequest, MembersResponse, MessageStatusRequest,
    MessageStatusResponse, Place, Reached, Receipt, Role, SharedRequest, SharedResponse, Standing,
    StandingsRequest, StandingsResponse,
};

use super::{Service, fault, limit};
use crate::store;
use crate::store::conversations::{Conversations, MAX_LISTED, Mark};

/// What is not said otherwise.
const MEMBERS: u32 = 100;
const NAMED: u32 = 100;
const CONVERSATIONS: u32 = 20;
const COUNT_TO: u32 = 100;
const BYTES: u64 = 256 * 1024;

/// What may be asked for at most.
const MAX_CONVERSATIONS: usize = 100;
const MAX_COUNT_TO: usize = 1000;
const MAX_BYTES: u64 = 512 * 1024;

/// Users that a status counts, at most.
const COUNTED: u32 = 10_000;

impl Service {
    /// # Errors
    /// [`AskError::Invalid`] for too many pairs or what is no place, [`AskError::Unavailable`].
    pub(crate) async fn standings(&self, request: StandingsRequest) -> Result<StandingsResponse, AskError> {
        if let Some(awaited) = &request.awaited {
            self.stored(awaited).await?;
        }
        let pairs: Vec<(&str, &str)> = request
            .pairs
            .iter()
            .map(|pair| (pair.channel.as_str(), pair.user.as_str()))
            .collect();
        let standings = self
            .store
            .standings(&pairs)
            .await
            .map_err(|error| fault(&error))?;
        let standings = standings.into_iter().map(|standing| Standing {
            role: role(standing.role).into(),
            members: standing.members,
            owners: standing.owners,
            changed: standing.changed.map(told),
        });
        Ok(StandingsResponse {
            standings: standings.collect(),
        })
    }

    /// # Errors
    /// [`AskError::Invalid`] for too many others, [`AskError::Unavailable`].
    pub(crate) async fn shared(&self, request: SharedRequest) -> Result<SharedResponse, AskError> {
        let others: Vec<&str> = request.others.iter().map(String::as_str).collect();
        let shared = self.store.shared(&request.user, &others).await;
        Ok(SharedResponse {
            others: shared.map_err(|error| fault(&error))?,
        })
    }

    /// # Errors
    /// [`AskError::Invalid`] for a limit that is too high, [`AskError::Unavailable`].
    pub(crate) async fn members(&self, request: MembersRequest) -> Result<MembersResponse, AskError> {
        // One more tells whether there are more.
        let limit = limit(request.limit, MEMBERS, MAX_LISTED - 1)?;
        let members = self.store.members(&request.channel, &request.after, limit + 1);
        let members = members.await.map_err(|error| fault(&error))?;
        let of_channel = self.store.standings(&[(&request.channel, "")]).await;
        let of_channel = of_channel.map_err(|error| fault(&error))?;
        let more = members.len() > limit;
        let members = members.into_iter().take(limit).map(|member| Member {
            user: member.user,
            role: role(Some(member.role)).into(),
            since: Some(told(member.since)),
        });
        Ok(MembersResponse {
            members: members.collect(),
            more,
            count: of_channel.first().map_or(0, |standing| standing.members),
        })
    }

    /// # Errors
    /// [`AskError::Invalid`] for too many marks or what is no place, [`AskError::Unavailable`].
    pub(crate) async fn mark_receipts(
        &self,
        request: MarkReceiptsRequest,
    ) -> Result<MarkReceiptsResponse, AskError> {
        let marks: Vec<Mark> = request
            .receipts
            .into_iter()
            .map(|receipt| {
                let read = receipt.read.as_ref().map(place).transpose()?;
                let delivered = receipt.delivered.as_ref().map(place).transpose()?;
                Ok(Mark {
                    channel: receipt.channel,
                    user: receipt.user,
                    // What was read was delivered.
                    delivered: delivered.max(read),
                    read,
                })
            })
            .collect::<Result<_, AskError>>()?;
        let moved = self.store.mark(&marks).await.map_err(|error| fault(&error))?;
        let pairs: Vec<(&str, &str)> = moved.iter().map(|mark| (&*mark.channel, &*mark.user)).collect();
        let standings = self.store.standings(&pairs).await;
        let standings = standings.map_err(|error| fault(&error))?;
        let moved = moved.into_iter().zip(standings).map(|(mark, standing)| Receipt {
            channel: mark.channel,
            user: mark.user,
            delivered: mark.delivered.map(told),
            read: mark.read.map(told),
            members: standing.members,
        });
        Ok(MarkReceiptsResponse {
            moved: moved.collect(),
        })
    }

    /// # Errors
    /// [`AskError::NotFound`], [`AskError::Invalid`], [`AskError::Unavailable`].
    pub(crate) async fn message_status(
        &self,
        request: MessageStatusRequest,
    ) -> Result<MessageStatusResponse, AskError> {
        let at = request.place.as_ref();
        let place = place(at.ok_or_else(|| AskError::Invalid("a place is missing".to_owned()))?)?;
        let named = limit(request.limit, NAMED, MAX_LISTED)?;
        if let Some(shard) = request.shard {
            // One that was just answered may not be stored yet.
            let awaited = Awaited {
                shard,
                place: request.place,
            };
            self.stored(&awaited).await?;
        }
        let status = self.store.status(&request.channel, place, named, COUNTED + 1);
        let status = status.await.map_err(|error| fault(&error))?;
        let status = status.ok_or_else(|| AskError::NotFound("no message at this place".to_owned()))?;
        Ok(MessageStatusResponse {
            sender: status.sender.unwrap_or_default(),
            time_us: status.time_us,
            delivered: Some(reached(status.delivered)),
            read: Some(reached(status.read)),
        })
    }

    /// # Errors
    /// [`AskError::Invalid`] for a cursor that is none, or a limit that is too high, [`AskError::Unavailable`].
    pub(crate) async fn conversations(
        &self,
        request: ConversationsRequest,
    ) -> Result<ConversationsResponse, AskError> {
        let limit_of_page = limit(request.limit, CONVERSATIONS, MAX_CONVERSATIONS)?;
        let bytes = match request.bytes {
            0 => BYTES,
            bytes => bytes.min(MAX_BYTES),
        };
        let question = Conversations {
            before: match request.cursor.as_str() {
                "" => None,
                cursor => Some(parse_cursor(cursor).ok_or_else(|| {
                    AskError::Invalid("the cursor is not one that an answer ended with".to_owned())
                })?),
            },
            user: request.user,
            limit: limit_of_page,
            count_to: u32::try_from(limit(request.count_to, COUNT_TO, MAX_COUNT_TO)?).unwrap_or(u32::MAX),
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
        };
        let page = self.store.conversations(&question).await;
        let page = page.map_err(|error| fault(&error))?;
        let last = page.conversations.last().filter(|_| page.more);
        let cursor = last.map_or_else(String::new, |last| cursor(last.time_us, &last.channel));
        let conversations = page.conversations.into_iter().map(|one| Conversation {
            channel: one.channel,
            role: role(one.role).into(),
            members: one.members,
            time_us: one.time_us,
            head: Some(told(one.head)),
            last: one.last.map(|last| LastMessage {
                place: Some(told(last.place)),
                time_us: last.time_us,
                message: last.message,
            }),
            read: one.read.map(told),
            unread: one.unread,
            unread_at_least: one.unread_is_bounded,
        });
        Ok(ConversationsResponse {
            conversations: conversations.collect(),
            cursor,
        })
    }

    /// Waits until the store has the record. Whoever asks bounds the time.
    async fn stored(&self, awaited: &Awaited) -> Result<(), AskError> {
        let (shard, place) = awaited_place(awaited)?;
        self.stored_up_to(shard, place).await
    }
}

fn awaited_place(awaited: &Awaited) -> Result<(ShardId, store::Place), AskError> {
    let shard = ShardId::new(awaited.shard).ok_or_else(|| AskError::Invalid("not a shard".to_owned()))?;
    let at = awaited.place.as_ref();
    let at = at.ok_or_else(|| AskError::Invalid("a place is missing".to_owned()))?;
    Ok((shard, place(at)?))
}

fn place(place: &Place) -> Result<store::Place, AskError> {
    let log = place.log_epoch.parse();
    Ok(store::Place {
        log: log.map_err(|_| AskError::Invalid("not an epoch".to_owned()))?,
        offset: Offset::from_u64(place.offset),
    })
}

fn told(place: store::Place) -> Place {
    Place {
        log_epoch: place.log.to_string(),
        offset: place.offset.get(),
    }
}

fn role(role: Option<MemberRole>) -> Role {
    match role {
        None => Role::None,
        Some(MemberRole::Member) => Role::Member,
        Some(MemberRole::Owner) => Role::Owner,
    }
}

fn reached(reached: store::conversations::Reached) -> Reached {
    let counted = u64::from(COUNTED);
    Reached {
        count: reached.count.min(counted),
        at_least: reached.count > counted,
        users: reached.users,
    }
}

/// What a page ended with, as text that nobody takes apart.
fn cursor(time_us: u64, channel: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{time_us} {channel}"))
}

fn parse_cursor(cursor: &str) -> Option<(u64, String)> {
    let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (time_us, channel) = text.split_once(' ')?;
    if channel.contains('\0') {
        return None;
    }
    Some((time_us.parse().ok()?, channel.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_those_of_answers() {
        let last = (u64::MAX, "dm:#alice,bob");
        assert_eq!(
            parse_cursor(&cursor(last.0, last.1)),
            Some((last.0, last.1.to_owned()))
        );
        for other in ["x", "MTIz", "!!", "LTEgYQ", "eCBh"] {
            assert_eq!(parse_cursor(other), None, "{other}");
        }
    }
}
