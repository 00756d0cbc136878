//! Adding and removing members: the caller's right is checked, the event is published in the channel, and the answer comes once the
//! store knows it and all gateways have heard of it.

use std::collections::BTreeSet;

use switchboard_bus::messages::ask;
use switchboard_proto::bus::change::What;
use switchboard_proto::bus::control::Question;
use switchboard_proto::bus::{
    Change, ChannelMember, ChannelMembersChanged, MemberRole, MembersChanged, Message, PayloadKind, Sender,
};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::Error;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::messages::{Awaited, Place, Standing, StandingsRequest, UserInChannel, method};
use switchboard_proto::tags;
use switchboard_service_kit::trace_context::TraceContext;
use tokio::time::Instant;
use uuid::Uuid;

use super::memberships::role;
use crate::gateway::Gateway;
use crate::links::{Publish, Stored};
use crate::policy::{ChangedBy, MembersRules};
use crate::session::told;

/// Users that one call names, at most.
const MAX_USERS: usize = 100;

/// Bytes of a user's name, at most.
const MAX_USER: usize = 255;

/// Who changes members.
#[derive(Debug, Clone)]
pub(crate) enum Who {
    /// A user; never an anonymous one.
    User(Box<Sender>),
    /// A backend, by this key.
    Server(&'static str),
}

/// What is to be changed.
#[derive(Debug, Clone)]
pub(crate) struct ChangeMembers {
    pub(crate) channel: ChannelName,
    pub(crate) added: Vec<(String, MemberRole)>,
    pub(crate) removed: Vec<String>,
    pub(crate) by: Who,
    /// When it was asked: all of it is done within the time that commands have.
    pub(crate) arrived: Instant,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Users for whom it made a difference.
    pub(crate) users: Vec<String>,
    /// Where the event stands; `None`: all was so already.
    pub(crate) at: Option<(String, u64)>,
    /// Members that there are now. `None`: who asked is a user and none of them.
    pub(crate) members: Option<u64>,
}

/// An error with words of its own for who asked. They hold nothing of what was sent.
fn because(code: ErrorCode, why: &'static str) -> Error {
    Error {
        message: format!("{}: {why}", code.words()),
        ..Error::from(code)
    }
}

impl ChangeMembers {
    fn check(&self) -> Result<(), Error> {
        let users = || {
            let added = self.added.iter().map(|(user, _)| user);
            added.chain(&self.removed)
        };
        if !(1..=MAX_USERS).contains(&users().count()) {
            return Err(because(ErrorCode::BadRequest, "between 1 and 100 users"));
        }
        if users().any(|user| user.is_empty() || user.len() > MAX_USER || user.chars().any(char::is_control))
        {
            return Err(because(
                ErrorCode::BadRequest,
                "a user's name has 1 to 255 bytes and no control characters",
            ));
        }
        let different: BTreeSet<&String> = users().collect();
        if different.len() != users().count() {
            return Err(because(ErrorCode::BadRequest, "a user is named twice"));
        }
        Ok(())
    }

    /// Who asks; `None`: a server, which may do everything.
    fn user(&self) -> Option<&str> {
        match &self.by {
            Who::User(sender) => Some(&sender.user),
            Who::Server(_) => None,
        }
    }
}

/// What is decided about a change.
#[derive(Debug, Clone, PartialEq)]
enum Decision {
    /// All is so already.
    Nothing,
    /// This is to be published.
    Publish(MembersChanged),
}

/// Decides. `standings`: of the user who asks (of a server: anything), then of those added, then of those removed.
fn decide(
    rules: MembersRules,
    change: &ChangeMembers,
    caller: &Standing,
    standings: &[Standing],
) -> Result<Decision, Error> {
    let (of_added, of_removed) = standings.split_at(change.added.len().min(standings.len()));
    let mut event = MembersChanged::default();
    for ((user, wanted), now) in change.added.iter().zip(of_added) {
        if role(now.role()) != Some(*wanted) {
            event.added.push(ChannelMember {
                user: user.clone(),
                role: (*wanted).into(),
            });
        }
    }
    for (user, now) in change.removed.iter().zip(of_removed) {
        if role(now.role()).is_some() {
            event.removed.push(user.clone());
        }
    }
    let is_owner = |now: &&Standing| role(now.role()) == Some(MemberRole::Owner);
    if let Some(user) = change.user() {
        let denied = |why| Err(because(ErrorCode::PermissionDenied, why));
        let leaves = change.added.is_empty() && matches!(&*change.removed, [only] if only == user);
        // Of the owners among those that are changed.
        let concerns_owners = change.added.iter().any(|(_, role)| *role == MemberRole::Owner)
            || standings.iter().any(|now| is_owner(&now));
        match (rules.changed_by, role(caller.role())) {
            (ChangedBy::Server, _) => return denied("members are changed by the server alone"),
            (_, Some(MemberRole::Owner)) => {}
            (_, Some(MemberRole::Member)) if leaves => {}
            (ChangedBy::Members, Some(MemberRole::Member)) if concerns_owners => {
                return denied("only owners make owners, and change them");
            }
            (ChangedBy::Members, Some(MemberRole::Member)) => {}
            (ChangedBy::Owners, Some(MemberRole::Member)) => return denied("only owners change members"),
            (_, None) if leaves => {}
            (_, None) if caller.members > 0 || change.added.is_empty() => {
                return denied("only members change members");
            }
            (_, None) if !rules.created_by_client => {
                return denied("the channel has no members, and users do not take channels here");
            }
            (_, None) => {
                event.claims = true;
                event.added.retain(|member| member.user != user);
                event.added.push(ChannelMember {
                    user: user.to_owned(),
                    role: MemberRole::Owner.into(),
                });
            }
        }
        let lost = of_added
            .iter()
            .zip(&change.added)
            .filter(|(now, (_, role))| is_owner(now) && *role != MemberRole::Owner)
            .count()
            + of_removed.iter().filter(is_owner).count();
        let gained = event
            .added
            .iter()
            .any(|member| member.role() == MemberRole::Owner);
        let gone = u64::try_from(event.removed.len()).unwrap_or(u64::MAX);
        let is_last = lost > 0 && caller.owners <= u64::try_from(lost).unwrap_or(u64::MAX) && !gained;
        if is_last && caller.members > gone {
            return denied("the last owner; make somebody else an owner first");
        }
    }
    let new = of_added.iter().filter(|now| role(now.role()).is_none()).count();
    let new = u64::try_from(new).unwrap_or(u64::MAX);
    let gone = u64::try_from(event.removed.len()).unwrap_or(u64::MAX);
    if new > 0 && caller.members.saturating_add(new).saturating_sub(gone) > rules.limit {
        return Err(because(
            ErrorCode::LimitExceeded,
            "the channel has as many members as it may",
        ));
    }
    match event.added.is_empty() && event.removed.is_empty() {
        true => Ok(Decision::Nothing),
        false => Ok(Decision::Publish(event)),
    }
}

impl Gateway {
    /// Changes members, and waits until that holds everywhere: whoever asks the store from then on is answered by it, and at all
    /// gateways those removed have the channel no longer. At one that does not answer that is so within `members_ttl`, or as
    /// soon as it sees the event.
    ///
    /// Not cancel safe: it may be done all the same.
    ///
    /// # Errors
    /// What the caller is to be told. A temporary one: it may be done or not; asking again does it once.
    pub(crate) async fn change_members(&self, change: ChangeMembers) -> Result<Changed, Error> {
        let rules = self.config.policy.now().members_rules(&change.channel);
        let rules = rules.ok_or_else(|| {
            because(
                ErrorCode::NotAvailable,
                "channels of this namespace have no members, or their name says who they are",
            )
        })?;
        change.check()?;
        let standings = self.standings(&change, None).await?;
        let (caller, others) = standings.split_first().ok_or(ErrorCode::Internal)?;
        let event = match decide(rules, &change, caller, others)? {
            Decision::Publish(event) => event,
            Decision::Nothing => {
                let may_know = change.user().is_none() || role(caller.role()).is_some();
                return Ok(Changed {
                    users: Vec::new(),
                    at: None,
                    members: may_know.then_some(caller.members),
                });
            }
        };
        let message = message(&change, &event);
        let publish = Publish::plain(&message, true);
        let stored = self
            .links
            .publish_by_server(&change.channel, publish, change.arrived)
            .await
            .map_err(|refusal| Error {
                code: refusal.code,
                message: refusal.message,
                temporary: refusal.temporary,
            })?;
        // What was asked before the event was folded is wrong from here on.
        let now = self.standings(&change, Some(&stored)).await?;
        let now = now.first().ok_or(ErrorCode::Internal)?;
        if event.claims && role(now.role()).is_none() {
            return Err(because(
                ErrorCode::PermissionDenied,
                "somebody else took the channel",
            ));
        }
        self.tell_gateways(&change, &event, &stored).await;
        let added = event.added.into_iter().map(|member| member.user);
        Ok(Changed {
            users: added.chain(event.removed).collect(),
            at: Some((stored.log_epoch, stored.offset.get())),
            members: Some(now.members),
        })
    }

    /// The standings of who asks, of those added, and of those removed, as the store has them once it has what is `stored`.
    async fn standings(
        &self,
        change: &ChangeMembers,
        stored: Option<&Stored>,
    ) -> Result<Vec<Standing>, Error> {
        let added = change.added.iter().map(|(user, _)| user.as_str());
        let users = std::iter::once(change.user().unwrap_or(""))
            .chain(added)
            .chain(change.removed.iter().map(String::as_str));
        let request = StandingsRequest {
            pairs: users
                .map(|user| UserInChannel {
                    channel: change.channel.as_str().to_owned(),
                    user: user.to_owned(),
                })
                .collect(),
            awaited: stored.map(|stored| Awaited {
                shard: u32::from(self.links.shard_of(&change.channel).get()),
                place: Some(Place {
                    log_epoch: stored.log_epoch.clone(),
                    offset: stored.offset.get(),
                }),
            }),
        };
        let due = change.arrived + self.config.answer_timeout;
        let within = due.saturating_duration_since(Instant::now());
        let answer = ask::<method::Standings>(self.links.bus(), &request, within).await;
        let answer = answer.map_err(|error| {
            tracing::debug!(channel = %change.channel, %error, "store did not say who is a member");
            told(error)
        })?;
        if answer.standings.len() != request.pairs.len() {
            return Err(ErrorCode::Internal.into());
        }
        for (pair, standing) in request.pairs.iter().zip(&answer.standings) {
            if !pair.user.is_empty() {
                self.memberships.answered(pair, standing);
            }
        }
        Ok(answer.standings)
    }

    /// Has all gateways, this one among them, take the event. It holds also where one does not answer, only later.
    async fn tell_gateways(&self, change: &ChangeMembers, event: &MembersChanged, stored: &Stored) {
        let mut event = event.clone();
        // It counted, which the store knows.
        event.claims = false;
        let question = Question::ChannelMembersChanged(ChannelMembersChanged {
            channel: change.channel.as_str().to_owned(),
            log_epoch: stored.log_epoch.clone(),
            offset: stored.offset.get(),
            event: Some(event),
        });
        let due = change.arrived + self.config.answer_timeout;
        let asked = tokio::time::timeout_at(due, self.gateways.ask(question)).await;
        if !matches!(asked, Ok(Ok(_))) {
            tracing::warn!(channel = %change.channel, "a gateway did not say that it knows of changed members; it does soon");
        }
    }
}

/// The event as a message of the channel.
fn message(change: &ChangeMembers, event: &MembersChanged) -> Message {
    let named = |wanted: MemberRole| {
        let users = event.added.iter().filter(move |member| member.role() == wanted);
        users.map(|member| member.user.as_str()).collect::<Vec<_>>()
    };
    let payload = serde_json::json!({
        "members": named(MemberRole::Member),
        "owners": named(MemberRole::Owner),
        "removed": event.removed,
    });
    let id = Uuid::now_v7();
    let mut message = Message {
        id: id.into_bytes().to_vec().into(),
        channel: change.channel.as_str().to_owned(),
        kind: PayloadKind::Json.into(),
        payload: payload.to_string().into(),
        trace: TraceContext::random(false).to_bytes().to_vec().into(),
        change: Some(Change {
            what: Some(What::Members(event.clone())),
        }),
        ..Message::default()
    };
    match &change.by {
        Who::User(sender) => message.sender = Some((**sender).clone()),
        Who::Server(key) => (*key).clone_into(&mut message.api_key),
    }
    message.tags.insert(tags::ID.to_owned(), id.to_string());
    message.tags.insert(tags::CHANGE.to_owned(), "members".to_owned());
    message
}

#[cfg(test)]
mod tests {
    use switchboard_proto::messages::Role;

    use super::*;

    const OWNERS: MembersRules = MembersRules {
        changed_by: ChangedBy::Owners,
        created_by_client: false,
        limit: 5,
    };

    /// alice and anna own the channel, bob and bert are members.
    fn role_of(user: &str) -> Role {
        match user {
            "alice" | "anna" => Role::Owner,
            "bob" | "bert" => Role::Member,
            _ => Role::None,
        }
    }

    fn standing(user: &str, members: u64, owners: u64) -> Standing {
        Standing {
            role: if members > 0 { role_of(user) } else { Role::None }.into(),
            members,
            owners,
            changed: None,
        }
    }

    fn change(by: &str, added: &[(&str, MemberRole)], removed: &[&str]) -> ChangeMembers {
        ChangeMembers {
            channel: ChannelName::parse("room:1", 255).unwrap(),
            added: added
                .iter()
                .map(|(user, role)| ((*user).to_owned(), *role))
                .collect(),
            removed: removed.iter().map(|user| (*user).to_owned()).collect(),
            by: match by {
                "" => Who::Server("key"),
                user => Who::User(Box::new(Sender {
                    user: user.to_owned(),
                    ..Sender::default()
                })),
            },
            arrived: Instant::now(),
        }
    }

    fn decided(
        rules: MembersRules,
        (members, owners): (u64, u64),
        by: &str,
        added: &[(&str, MemberRole)],
        removed: &[&str],
    ) -> Result<Decision, u32> {
        let change = change(by, added, removed);
        let users = added.iter().map(|(user, _)| *user).chain(removed.iter().copied());
        let standings: Vec<_> = users.map(|user| standing(user, members, owners)).collect();
        decide(rules, &change, &standing(by, members, owners), &standings).map_err(|error| error.code)
    }

    const MEMBER: MemberRole = MemberRole::Member;
    const OWNER: MemberRole = MemberRole::Owner;
    const DENIED: Result<Decision, u32> = Err(103);

    #[test]
    fn who_may_change_members() {
        let by_members = MembersRules {
            changed_by: ChangedBy::Members,
            ..OWNERS
        };
        let by_server = MembersRules {
            changed_by: ChangedBy::Server,
            ..OWNERS
        };
        let there = (4, 2);
        for (rules, by, added, removed, expected) in [
            (OWNERS, "alice", &[("eve", MEMBER)][..], &[][..], true),
            (OWNERS, "alice", &[], &["bob"], true),
            (OWNERS, "alice", &[], &["anna"], true),
            (OWNERS, "bob", &[("eve", MEMBER)], &[], false),
            (OWNERS, "bob", &[], &["bert"], false),
            (OWNERS, "bob", &[], &["bob"], true),
            (OWNERS, "eve", &[("eve", MEMBER)], &[], false),
            (OWNERS, "eve", &[], &["bob"], false),
            (OWNERS, "", &[("eve", OWNER)], &["alice", "anna"], true),
            (by_members, "bob", &[("eve", MEMBER)], &["bert"], true),
            (by_members, "bob", &[("eve", OWNER)], &[], false),
            (by_members, "bob", &[("bob", OWNER)], &[], false),
            (by_members, "bob", &[("alice", MEMBER)], &[], false),
            (by_members, "bob", &[], &["alice"], false),
            (by_members, "eve", &[("eve", MEMBER)], &[], false),
            (by_server, "alice", &[("eve", MEMBER)], &[], false),
            (by_server, "bob", &[], &["bob"], false),
            (by_server, "", &[("eve", MEMBER)], &[], true),
        ] {
            let decision = decided(rules, there, by, added, removed);
            let is_allowed = matches!(decision, Ok(Decision::Publish(_)));
            assert_eq!(is_allowed, expected, "{by}: {added:?} {removed:?}");
            assert!(is_allowed || decision == DENIED, "{decision:?}");
        }
    }

    #[test]
    fn what_is_so_already_is_not_published() {
        let there = (4, 2);
        let nothing = Ok(Decision::Nothing);
        assert_eq!(
            decided(OWNERS, there, "alice", &[("bob", MEMBER)], &["eve"]),
            nothing
        );
        assert_eq!(decided(OWNERS, there, "eve", &[], &["eve"]), nothing);
        let both = decided(
            OWNERS,
            there,
            "alice",
            &[("bob", MEMBER), ("bert", OWNER)],
            &["eve"],
        );
        let event = MembersChanged {
            added: vec![ChannelMember {
                user: "bert".to_owned(),
                role: OWNER.into(),
            }],
            ..MembersChanged::default()
        };
        assert_eq!(both, Ok(Decision::Publish(event)));
    }

    #[test]
    fn an_empty_channel_is_taken_where_users_may() {
        let open = MembersRules {
            created_by_client: true,
            ..OWNERS
        };
        assert_eq!(decided(OWNERS, (0, 0), "eve", &[("eve", MEMBER)], &[]), DENIED);
        let Ok(Decision::Publish(event)) = decided(open, (0, 0), "eve", &[("kim", MEMBER)], &[]) else {
            panic!("not allowed");
        };
        assert!(event.claims);
        let added: Vec<_> = event
            .added
            .iter()
            .map(|member| (member.user.as_str(), member.role()))
            .collect();
        assert_eq!(added, [("kim", MEMBER), ("eve", OWNER)]);
        assert_eq!(decided(open, (4, 2), "eve", &[("eve", MEMBER)], &[]), DENIED);
    }

    #[test]
    fn the_last_owner_stays_while_others_do() {
        assert_eq!(decided(OWNERS, (3, 1), "alice", &[], &["alice"]), DENIED);
        assert_eq!(
            decided(OWNERS, (3, 1), "alice", &[("alice", MEMBER)], &[]),
            DENIED
        );
        assert_eq!(decided(OWNERS, (4, 2), "alice", &[], &["alice", "anna"]), DENIED);
        for (added, removed, there) in [
            (&[][..], &["alice"][..], (1, 1)),
            (&[], &["alice"], (4, 2)),
            (&[("bob", OWNER)], &["alice"], (3, 1)),
        ] {
            let decision = decided(OWNERS, there, "alice", added, removed);
            assert!(matches!(decision, Ok(Decision::Publish(_))), "{decision:?}");
        }
    }

    #[test]
    fn members_are_bounded() {
        let two = [("eve", MEMBER), ("kim", MEMBER)];
        assert_eq!(decided(OWNERS, (4, 2), "alice", &two, &[]), Err(106));
        assert_eq!(decided(OWNERS, (4, 2), "", &two, &[]), Err(106));
        assert!(decided(OWNERS, (4, 2), "alice", &two, &["bob"]).is_ok());
        assert!(decided(OWNERS, (4, 2), "alice", &two[..1], &[]).is_ok());
    }

    #[test]
    fn users_are_checked() {
        let long = "x".repeat(256);
        for (added, removed) in [
            (&[][..], &[][..]),
            (&[("", MEMBER)], &[]),
            (&[(long.as_str(), MEMBER)], &[]),
            (&[("a\nb", MEMBER)], &[]),
            (&[("eve", MEMBER), ("eve", OWNER)], &[]),
            (&[("eve", MEMBER)], &["eve"]),
        ] {
            assert_eq!(change("", added, removed).check().unwrap_err().code, 107);
        }
        let many = vec!["x"; 101];
        assert!(change("", &[], &many).check().is_err());
        assert!(change("", &[("Zoë Ω", MEMBER)], &["bob"]).check().is_ok());
    }
}
