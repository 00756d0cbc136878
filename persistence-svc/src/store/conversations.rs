//! Conversations: who is in a channel, up to where everybody has read, and what a user's conversations are.
//!
//! Members are what the log's events say, folded in the transaction that writes these; so a lost database has them again. An event
//! that is read twice, or in another order, changes nothing: the newest place counts, for each user by himself. Receipts are not in
//! the log.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use switchboard_proto::bus::change::What;
use switchboard_proto::bus::{MemberRole, MembersChanged};
use switchboard_proto::ids::Offset;

use super::columns::{self, Columns};
use super::moving::MemberRow;
use super::{Place, StoreError, Stored, Written, log_number, number, unsigned};

/// Channels of a user that are looked at for others in them, at most.
pub const MAX_SHARED: usize = 1_000;

/// Pairs of one question about standings, and marks of one write, at most.
pub const MAX_PAIRS: usize = 1000;

/// Members, readers or conversations in one answer, at most.
pub const MAX_LISTED: usize = 1000;

/// Conversations of one user that a list considers, at most: of members' channels, and of those that name him, each.
pub const MAX_CONSIDERED: i64 = 10_000;

/// Newest entries of a channel among which its last message is looked for.
pub(super) const LOOK_BACK: i64 = 64;

/// A count is made over so many entries for each that it may reach: others' messages may hide among own ones and changes.
pub(super) const SCANNED_PER_COUNTED: i64 = 10;

/// As `members.role` says it.
const GONE: i64 = 0;
const MEMBER: i64 = 1;
const OWNER: i64 = 2;

/// What the store knows of conversations.
///
/// # Contract
/// * What an event says is known once it is written, in the same transaction.
/// * A mark never goes back: the newest place counts, also over lives of the log.
/// * Nothing reads more rows than its limits say, however large a channel is.
///
/// Calls are bounded in time, and cancel safe, as those of [`MessageStore`](super::MessageStore).
#[async_trait]
pub trait ConversationStore: Send + Sync + 'static {
    /// What each of these (channel, user) has, in their order; [`MAX_PAIRS`] at most.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMuch`] for more pairs.
    async fn standings(&self, pairs: &[(&str, &str)]) -> Result<Vec<Standing>, StoreError>;

    /// Those of the others, [`MAX_PAIRS`] at most, who are a member of a channel that the user is a member of, or are named with the
    /// user by a channel in which something was said; by name. Of the user's channels of either kind the first [`MAX_SHARED`] by name
    /// are looked at.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMuch`] for more others.
    async fn shared(&self, user: &str, others: &[&str]) -> Result<Vec<String>, StoreError>;

    /// Members of a channel by name, behind `after`, `limit` at most (and [`MAX_LISTED`]).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn members(&self, channel: &str, after: &str, limit: usize) -> Result<Vec<Member>, StoreError>;

    /// Moves marks forward; [`MAX_PAIRS`] at most, of different users or channels. Those that moved, as they are now.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::TooMuch`] for more marks.
    async fn mark(&self, marks: &[Mark]) -> Result<Vec<Mark>, StoreError>;

    /// What became of a message; `None`: it is not stored. `limit` users at most (and [`MAX_LISTED`]) are named in each list, and
    /// counts go up to `count_to`. Its sender is not counted.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn status(
        &self,
        channel: &str,
        place: Place,
        limit: usize,
        count_to: u32,
    ) -> Result<Option<Status>, StoreError>;

    /// Conversations of a user, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn conversations(&self, question: &Conversations) -> Result<ConversationPage, StoreError>;
}

/// What a user is in a channel, and the channel's members as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// `None`: no member.
    pub role: Option<MemberRole>,
    /// How many members there are.
    pub members: u64,
    /// How many of them own it.
    pub owners: u64,
    /// The newest event that says so; `None`: there was none.
    pub changed: Option<Place>,
}

/// A member of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: String,
    /// As what.
    pub role: MemberRole,
    /// The event with which the user came.
    pub since: Place,
}

/// Up to where a user has a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The channel.
    pub channel: String,
    /// Who.
    pub user: String,
    /// Up to here it was delivered to one of the user's devices.
    pub delivered: Option<Place>,
    /// Up to here the user has read.
    pub read: Option<Place>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Who sent it; `None`: a server, or an anonymous user.
    pub sender: Option<String>,
    /// When it was stored in the log, in Unix microseconds.
    pub time_us: u64,
    /// To whom it was delivered.
    pub delivered: Reached,
    /// Who has read it.
    pub read: Reached,
}

/// Users that a message has reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reached {
    /// How many, up to what was to be counted to.
    pub count: u64,
    /// Some of them, in the order of their marks.
    pub users: Vec<String>,
}

/// A question about a user's conversations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversations {
    /// Whose.
    pub user: String,
    /// Only those that come behind this one: the time of its newest entry, and its channel.
    pub before: Option<(u64, String)>,
    /// Conversations, at most (and [`MAX_LISTED`]).
    pub limit: usize,
    /// Unread messages are counted up to here.
    pub count_to: u32,
    /// Bytes of last messages after which the page ends. The first is given whatever its size.
    pub bytes: usize,
}

/// Some of a user's conversations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConversationPage {
    /// Newest first.
    pub conversations: Vec<Conversation>,
    /// There may be more behind the last of these.
    pub more: bool,
}

/// A conversation, as one of its users sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The channel.
    pub channel: String,
    /// The user's role, in a channel with members.
    pub role: Option<MemberRole>,
    /// When its newest entry was stored, in Unix microseconds; a change counts.
    pub time_us: u64,
    /// Its newest entry.
    pub head: Place,
    /// How many members it has; 0: its name says who is there.
    pub members: u64,
    /// Its newest message that is no change. `None`: there is none among the newest entries.
    pub last: Option<Stored>,
    /// Up to here the user has read.
    pub read: Option<Place>,
    /// Messages of others behind that, or since the user came.
    pub unread: u64,
    /// There are more than that.
    pub unread_is_bounded: bool,
}

/// What a write says of conversations.
#[derive(Debug, Default)]
pub(super) struct Told<'a> {
    /// Events about members, in order.
    pub(super) events: Vec<(&'a str, Offset, &'a MembersChanged)>,
    /// Entries that are no messages.
    pub(super) changes: Vec<(&'a str, Offset)>,
    /// Users, and the channels that name them.
    pub(super) named: BTreeSet<(&'a str, &'a str)>,
}

impl<'a> Told<'a> {
    /// Of most writes, nothing; then it has cost a look at each row's channel.
    pub(super) fn by(written: &'a Written) -> Self {
        let mut told = Self::default();
        for row in &written.rows {
            if let Some(change) = &row.change {
                told.changes.push((&row.channel, row.offset));
                if let Some(What::Members(members)) = &change.what {
                    told.events.push((&row.channel, row.offset, members));
                }
            }
            let users = named(&row.channel).map(|user| (user, row.channel.as_str()));
            told.named.extend(users);
        }
        told
    }
}

/// The users that a channel's name says are there, as `ChannelName::inboxes` has it. A name that is none was not accepted by any
/// gateway.
pub(super) fn named(channel: &str) -> impl Iterator<Item = &str> {
    let users = channel
        .rsplit_once('#')
        .filter(|(conversation, _)| !conversation.is_empty());
    users.into_iter().flat_map(|(_, users)| users.split(','))
}

/// Each user that an event names, once, and what he is from then on as `members.role` says it.
pub(super) fn roles(event: &MembersChanged) -> Vec<(&str, i64)> {
    let mut roles: Vec<(&str, i64)> = Vec::with_capacity(event.added.len() + event.removed.len());
    let removed = event.removed.iter().map(|user| (user.as_str(), GONE));
    let added = event
        .added
        .iter()
        .map(|member| (member.user.as_str(), role_number(Some(member.role()))));
    for (user, role) in removed.chain(added) {
        // No gateway names such a user.
        if !user.is_empty() && !user.contains('\0') && !roles.iter().any(|(other, _)| *other == user) {
            roles.push((user, role));
        }
    }
    roles
}

/// An event that takes a channel for its sender counts only where nobody has it.
pub(super) fn counts(event: &MembersChanged, at: Place, now: &Standing) -> bool {
    !event.claims || (now.members == 0 && now.changed.is_none_or(|changed| changed < at))
}

/// A place as two columns have it; zeros: none.
pub(super) fn numbers(place: Option<Place>) -> (i64, i64) {
    place.map_or((0, 0), |place| {
        (log_number(place.log), number(place.offset.get()))
    })
}

/// Two columns as a place; zeros: none.
fn optional_place(row: &impl Columns, from: usize) -> Result<Option<Place>, StoreError> {
    match row.number(from)? {
        0 => Ok(None),
        _ => Ok(Some(columns::place(row, from)?)),
    }
}

fn role(number: i64) -> Result<Option<MemberRole>, StoreError> {
    match number {
        GONE => Ok(None),
        MEMBER => Ok(Some(MemberRole::Member)),
        OWNER => Ok(Some(MemberRole::Owner)),
        other => Err(StoreError::Damaged(format!("{other} as a member's role"))),
    }
}

/// As `members.role` says it; `None`: no member any more.
pub(super) fn role_number(role: Option<MemberRole>) -> i64 {
    match role {
        None => GONE,
        Some(MemberRole::Member) => MEMBER,
        Some(MemberRole::Owner) => OWNER,
    }
}

/// `channel`, `user_name`, `role`, `log`, `offset`, `since_log`, `since_offset`.
pub(super) fn member_row(row: &impl Columns) -> Result<MemberRow, StoreError> {
    Ok(MemberRow {
        channel: row.text(0)?,
        user: row.text(1)?,
        role: role(row.number(2)?)?,
        place: columns::place(row, 3)?,
        since: columns::place(row, 5)?,
    })
}

/// `role`, `members`, `owners`, `log`, `offset`.
pub(super) fn standing(row: &impl Columns) -> Result<Standing, StoreError> {
    Ok(Standing {
        role: role(row.number(0)?)?,
        members: unsigned(row.number(1)?)?,
        owners: unsigned(row.number(2)?)?,
        changed: optional_place(row, 3)?,
    })
}

/// `user_name`, `role`, `since_log`, `since_offset`.
pub(super) fn member(row: &impl Columns) -> Result<Member, StoreError> {
    Ok(Member {
        user: row.text(0)?,
        role: role(row.number(1)?)?.unwrap_or(MemberRole::Member),
        since: columns::place(row, 2)?,
    })
}

/// `channel`, `user_name`, `delivered_log`, `delivered_offset`, `read_log`, `read_offset`.
pub(super) fn mark(row: &impl Columns) -> Result<Mark, StoreError> {
    Ok(Mark {
        channel: row.text(0)?,
        user: row.text(1)?,
        delivered: optional_place(row, 2)?,
        read: optional_place(row, 4)?,
    })
}

/// A conversation without its messages: `channel`, `role`, `log`, `offset`, `log_time`, `members`, `read_log`, `read_offset`,
/// `since_log`, `since_offset`. And from where on its messages count as unread.
pub(super) fn conversation(row: &impl Columns) -> Result<(Conversation, Option<Place>), StoreError> {
    let read = optional_place(row, 6)?;
    let since = optional_place(row, 8)?;
    let conversation = Conversation {
        channel: row.text(0)?,
        role: role(row.number(1)?)?,
        head: columns::place(row, 2)?,
        time_us: unsigned(row.number(4)?)?,
        members: unsigned(row.number(5)?)?,
        last: None,
        read,
        unread: 0,
        unread_is_bounded: false,
    };
    Ok((conversation, read.max(since)))
}

/// `log`, `offset`, `log_time`, `message`.
pub(super) fn stored(row: &impl Columns) -> Result<Stored, StoreError> {
    Ok(Stored {
        place: columns::place(row, 0)?,
        time_us: unsigned(row.number(2)?)?,
        message: Bytes::from(row.bytes(3)?),
    })
}

impl Conversation {
    /// Takes a count that was made up to `count_to` of what `scanned` entries hold.
    pub(super) fn count(&mut self, counted: i64, scanned: i64, count_to: u32) -> Result<(), StoreError> {
        let counted = unsigned(counted)?;
        let most = u64::from(count_to);
        self.unread = counted.min(most);
        self.unread_is_bounded = counted > most || scanned >= to_scan(count_to);
        Ok(())
    }
}

/// Entries that a count looks at.
pub(super) fn to_scan(count_to: u32) -> i64 {
    (i64::from(count_to) + 1) * SCANNED_PER_COUNTED
}

/// Cuts a page where its messages are too many bytes.
pub(super) fn cut(page: &mut ConversationPage, bytes: usize) {
    let mut sum = 0_usize;
    let fits = page.conversations.iter().position(|conversation| {
        let size = conversation.last.as_ref().map_or(0, |last| last.message.len());
        sum = sum.saturating_add(size);
        sum > bytes
    });
    if let Some(fits) = fits {
        let kept = fits.max(1);
        page.more |= kept < page.conversations.len();
        page.conversations.truncate(kept);
    }
}

/// More than one question may hold.
pub(super) fn too_much(asked: usize, most: usize) -> Result<(), StoreError> {
    if asked > most {
        return Err(StoreError::TooMuch { asked, most });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use switchboard_proto::bus::ChannelMember;
    use switchboard_proto::ids::{LogEpoch, Sequence};

    use super::*;

    fn place(sequence: u64) -> Place {
        Place {
            log: LogEpoch {
                ordinal: 1,
                random: 1,
            },
            offset: Offset::new(Sequence(sequence), 0),
        }
    }

    #[test]
    fn each_user_of_an_event_counts_once() {
        let member = |user: &str, role: MemberRole| ChannelMember {
            user: user.to_owned(),
            role: role.into(),
        };
        let event = MembersChanged {
            added: vec![
                member("alice", MemberRole::Owner),
                member("alice", MemberRole::Member),
                member("bob", MemberRole::Member),
                member("a\0b", MemberRole::Member),
                member("", MemberRole::Member),
            ],
            removed: vec!["bob".to_owned(), "carol".to_owned()],
            ..MembersChanged::default()
        };
        assert_eq!(roles(&event), [("bob", GONE), ("carol", GONE), ("alice", OWNER)]);
    }

    #[test]
    fn a_claim_counts_only_where_nobody_is_and_nothing_newer_is_known() {
        let claim = MembersChanged {
            claims: true,
            ..MembersChanged::default()
        };
        let standing = |members, changed| Standing {
            members,
            changed,
            ..Standing::default()
        };
        assert!(counts(&claim, place(5), &standing(0, None)));
        assert!(counts(&claim, place(5), &standing(0, Some(place(4)))));
        assert!(!counts(&claim, place(5), &standing(1, Some(place(4)))));
        assert!(
            !counts(&claim, place(5), &standing(0, Some(place(5)))),
            "read again"
        );
        assert!(counts(
            &MembersChanged::default(),
            place(5),
            &standing(1, Some(place(9)))
        ));
    }

    #[test]
    fn a_page_ends_where_its_bytes_do() {
        let conversation = |size: usize| Conversation {
            channel: String::new(),
            role: None,
            time_us: 0,
            head: place(1),
            members: 0,
            last: Some(Stored {
                place: place(1),
                time_us: 0,
                message: vec![0; size].into(),
            }),
            read: None,
            unread: 0,
            unread_is_bounded: false,
        };
        for (sizes, bytes, kept, more) in [
            (vec![5, 5, 5], 15, 3, false),
            (vec![5, 5, 5], 14, 2, true),
            (vec![50, 5], 14, 1, true),
            (vec![50], 14, 1, false),
        ] {
            let mut page = ConversationPage {
                conversations: sizes.into_iter().map(conversation).collect(),
                more: false,
            };
            cut(&mut page, bytes);
            assert_eq!((page.conversations.len(), page.more), (kept, more));
        }
    }
}
