//! The contract of [`crate::store::ConversationStore`] as tests.

use std::sync::Arc;

use bytes::Bytes;
use switchboard_proto::bus::change::What;
use switchboard_proto::bus::{Change, ChannelMember, Edit, MemberRole, MembersChanged};
use switchboard_proto::ids::{Offset, OwnerEpoch, Sequence};

use super::{DAY_US, StoreFixture, log, now_us, opened, place, shard};
use crate::store::conversations::{
    Conversation, ConversationPage, Conversations, MAX_PAIRS, Mark, Member, Standing,
};
use crate::store::{Place, Row, Store, StoreError, Written};

const OWNER: MemberRole = MemberRole::Owner;
const MEMBER: MemberRole = MemberRole::Member;

/// Records, one row each, behind `after`.
pub(super) fn records(after: u64, rows: Vec<Row>) -> Written {
    Written {
        shard: shard(3),
        log: log(1, 7),
        read_after: Sequence(after),
        after: Sequence(after),
        up_to: Sequence(after + rows.len() as u64),
        owner_epoch: OwnerEpoch(1),
        rows: rows
            .into_iter()
            .zip(after + 1..)
            .map(|(row, sequence)| Row {
                offset: Offset::new(Sequence(sequence), 0),
                time_us: now_us() / DAY_US * DAY_US + sequence,
                ..row
            })
            .collect(),
        dead: Vec::new(),
    }
}

fn said(channel: &str, sender: &str, text: &str) -> Row {
    Row {
        offset: Offset::ZERO,
        time_us: 0,
        channel: channel.to_owned(),
        sender: (!sender.is_empty()).then(|| sender.to_owned()),
        message: Bytes::from(text.to_owned()),
        change: None,
    }
}

pub(super) fn event(channel: &str, event: MembersChanged) -> Row {
    Row {
        change: Some(Change {
            what: Some(What::Members(event)),
        }),
        ..said(channel, "alice", "members")
    }
}

pub(super) fn added(users: &[(&str, MemberRole)]) -> MembersChanged {
    MembersChanged {
        added: users
            .iter()
            .map(|(user, role)| ChannelMember {
                user: (*user).to_owned(),
                role: (*role).into(),
            })
            .collect(),
        ..MembersChanged::default()
    }
}

fn claimed(user: &str) -> MembersChanged {
    MembersChanged {
        claims: true,
        ..added(&[(user, OWNER)])
    }
}

fn removed(users: &[&str]) -> MembersChanged {
    MembersChanged {
        removed: users.iter().map(|user| (*user).to_owned()).collect(),
        ..MembersChanged::default()
    }
}

async fn standing(store: &dyn Store, channel: &str, user: &str) -> Standing {
    store.standings(&[(channel, user)]).await.unwrap()[0]
}

pub(super) async fn role(store: &dyn Store, channel: &str, user: &str) -> Option<MemberRole> {
    standing(store, channel, user).await.role
}

/// Events make members, for every process, at once.
pub async fn events_make_members(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let first = records(
        0,
        vec![
            event("room:1", claimed("alice")),
            event("room:1", added(&[("bob", MEMBER), ("carol", MEMBER)])),
            event("room:2", added(&[("o'brien %_\"", MEMBER)])),
            said("room:1", "alice", "hello"),
        ],
    );
    store.write(&first).await.unwrap();
    let other = fixture.open();
    let pairs = [
        ("room:1", "bob"),
        ("room:1", "alice"),
        ("room:1", "dave"),
        ("room:3", "alice"),
        ("room:2", "o'brien %_\""),
        ("room:1", "bob"),
    ];
    let standings = other.standings(&pairs).await.unwrap();
    let in_room = |role, changed| Standing {
        role,
        members: 3,
        owners: 1,
        changed: Some(place(1, 7, changed, 0)),
    };
    assert_eq!(standings[0], in_room(Some(MEMBER), 2));
    assert_eq!(standings[1], in_room(Some(OWNER), 2));
    assert_eq!(standings[2], in_room(None, 2));
    assert_eq!(standings[3], Standing::default());
    assert_eq!(
        (standings[4].role, standings[4].members, standings[4].owners),
        (Some(MEMBER), 1, 0)
    );
    assert_eq!(standings[5], standings[0]);
    let then = records(
        4,
        vec![
            event("room:1", added(&[("bob", OWNER)])),
            event("room:1", removed(&["carol", "nobody"])),
        ],
    );
    store.write(&then).await.unwrap();
    let member = |user: &str, role, since| Member {
        user: user.to_owned(),
        role,
        since: place(1, 7, since, 0),
    };
    assert_eq!(
        other.members("room:1", "", 10).await.unwrap(),
        [member("alice", OWNER, 1), member("bob", OWNER, 2)],
        "who only changes his role is there since he came"
    );
    assert_eq!(
        other.members("room:1", "", 1).await.unwrap(),
        [member("alice", OWNER, 1)]
    );
    assert_eq!(
        other.members("room:1", "alice", 9).await.unwrap(),
        [member("bob", OWNER, 2)]
    );
    assert_eq!(other.members("room:9", "", 9).await.unwrap(), []);
    let now = standing(&*other, "room:1", "carol").await;
    assert_eq!((now.role, now.members, now.owners), (None, 2, 2));
    store
        .write(&records(6, vec![event("room:1", added(&[("carol", MEMBER)]))]))
        .await
        .unwrap();
    assert_eq!(
        other.members("room:1", "bob", 9).await.unwrap(),
        [member("carol", MEMBER, 7)]
    );
}

/// Who is in a channel with whom, by its members or by its name.
pub async fn users_share_channels(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let written = records(
        0,
        vec![
            event(
                "room:1",
                added(&[("alice", MEMBER), ("bob", MEMBER), ("carol", MEMBER)]),
            ),
            event("room:2", added(&[("dave", MEMBER)])),
            said("dm:#alice,erin", "erin", "hello"),
            event("room:1", removed(&["carol"])),
        ],
    );
    store.write(&written).await.unwrap();
    let others = ["erin", "dave", "carol", "bob", "bob", "nobody"];
    assert_eq!(store.shared("alice", &others).await.unwrap(), ["bob", "erin"]);
    assert_eq!(store.shared("erin", &["bob", "alice"]).await.unwrap(), ["alice"]);
    assert!(store.shared("carol", &others).await.unwrap().is_empty());
    assert!(store.shared("alice", &[]).await.unwrap().is_empty());
    let many = vec!["bob"; 1_001];
    assert!(matches!(
        store.shared("alice", &many).await,
        Err(StoreError::TooMuch { .. })
    ));
}

/// What is read again, or late, brings nobody back and sends nobody away.
pub async fn newest_event_of_each_user_counts(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let all = [
        event("room:1", added(&[("alice", OWNER), ("bob", MEMBER)])),
        event("room:1", removed(&["bob"])),
        event("room:1", added(&[("carol", MEMBER)])),
        said("room:1", "alice", "hello"),
        event("room:1", removed(&["carol"])),
        event("room:1", added(&[("carol", OWNER)])),
    ];
    // The first record is a hole at first.
    let mut late = records(1, all[1..].to_vec());
    late.read_after = Sequence(0);
    store.write(&late).await.unwrap();
    assert_eq!(role(&*store, "room:1", "alice").await, None);
    for (after, up_to) in [(0, 1), (0, 6), (1, 3), (4, 6)] {
        store
            .write(&records(after, all[after as usize..up_to].to_vec()))
            .await
            .unwrap();
        let now = standing(&*store, "room:1", "carol").await;
        assert_eq!((now.role, now.members, now.owners), (Some(OWNER), 2, 2));
        assert_eq!(
            now.changed,
            Some(place(1, 7, 6, 0)),
            "what comes late is not the newest"
        );
        assert_eq!(role(&*store, "room:1", "bob").await, None);
        assert_eq!(role(&*store, "room:1", "alice").await, Some(OWNER));
    }
    // A new life of the log begins with small offsets.
    let mut next = records(0, vec![event("room:1", removed(&["carol"]))]);
    next.log = log(2, 1);
    store.write(&next).await.unwrap();
    assert_eq!(role(&*store, "room:1", "carol").await, None);
    let mut before = records(6, vec![event("room:1", added(&[("carol", MEMBER)]))]);
    before.rows[0].time_us = now_us();
    store.write(&before).await.unwrap();
    assert_eq!(role(&*store, "room:1", "carol").await, None, "of the life before");
}

/// Of several who take a channel at the same time the first has it, and nobody takes what others are in.
pub async fn channel_is_claimed_by_the_first(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let all = vec![
        event("room:1", claimed("alice")),
        event("room:1", claimed("mallory")),
        event("room:1", removed(&["alice"])),
        event("room:1", claimed("bob")),
        event("room:1", removed(&["bob"])),
    ];
    for (after, up_to, owner) in [(0, 2, "alice"), (2, 3, ""), (3, 4, "bob")] {
        store
            .write(&records(after, all[after as usize..up_to].to_vec()))
            .await
            .unwrap();
        for user in ["alice", "bob", "mallory"] {
            let expected = (user == owner).then_some(OWNER);
            assert_eq!(
                role(&*store, "room:1", user).await,
                expected,
                "{user} after {up_to}"
            );
        }
    }
    store.write(&records(4, all[4..].to_vec())).await.unwrap();
    // With a hole before it nothing is complete, so that all is written again.
    let mut jump = records(7, vec![said("room:2", "", "")]);
    jump.read_after = Sequence(5);
    store.write(&jump).await.unwrap();
    let mut again = records(0, all);
    again.up_to = Sequence(6);
    store.write(&again).await.unwrap();
    let now = standing(&*store, "room:1", "mallory").await;
    assert_eq!(
        (now.role, now.members),
        (None, 0),
        "a claim that is read again is none"
    );
}

fn mark(channel: &str, user: &str, delivered: Option<Place>, read: Option<Place>) -> Mark {
    Mark {
        channel: channel.to_owned(),
        user: user.to_owned(),
        delivered,
        read,
    }
}

/// Marks go forward only, also over lives of the log; each of the two by itself.
pub async fn marks_never_go_back(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let at = |sequence| Some(place(1, 7, sequence, 0));
    let first = [
        mark("room:1", "alice", at(5), at(3)),
        mark("room:1", "bob", at(9), None),
        mark("room:2", "alice", None, at(2)),
    ];
    let mut moved = store.mark(&first).await.unwrap();
    moved.sort_by(|one, other| (&one.channel, &one.user).cmp(&(&other.channel, &other.user)));
    assert_eq!(moved, first);
    assert_eq!(store.mark(&first).await.unwrap(), [], "again");
    let moved = store
        .mark(&[
            mark("room:1", "alice", at(4), at(4)),
            mark("room:1", "bob", at(8), None),
        ])
        .await
        .unwrap();
    assert_eq!(moved, [mark("room:1", "alice", at(5), at(4))]);
    let next = Some(place(2, 3, 1, 0));
    let moved = store.mark(&[mark("room:1", "alice", next, next)]).await.unwrap();
    assert_eq!(moved, [mark("room:1", "alice", next, next)]);
    assert_eq!(
        store
            .mark(&[mark("room:1", "alice", at(99), at(99))])
            .await
            .unwrap(),
        []
    );
    let many: Vec<Mark> = (0..=MAX_PAIRS)
        .map(|index| mark("room:3", &index.to_string(), at(1), None))
        .collect();
    assert!(matches!(
        store.mark(&many).await,
        Err(StoreError::TooMuch { asked, most }) if (asked, most) == (MAX_PAIRS + 1, MAX_PAIRS)
    ));
    assert_eq!(store.mark(&many[1..]).await.unwrap().len(), MAX_PAIRS);
    assert_eq!(store.mark(&[]).await.unwrap(), []);
}

/// Processes that write marks of the same users at the same time end with the highest.
pub async fn marks_that_race_end_with_the_highest(fixture: &impl StoreFixture) {
    let (one, two) = (opened(fixture).await, fixture.open());
    let replica = async |store: Arc<dyn Store>, reverse: bool| {
        for sequence in 1..=20 {
            let at = Some(place(1, 7, sequence, 0));
            let mut marks: Vec<Mark> = (0..20)
                .map(|user| mark("room:1", &user.to_string(), at, at))
                .collect();
            if reverse {
                marks.reverse();
            }
            store.mark(&marks).await.unwrap();
        }
    };
    tokio::join!(replica(one.clone(), false), replica(two, true));
    let last = Some(place(1, 7, 21, 0));
    let moved = one.mark(&[mark("room:1", "7", last, None)]).await.unwrap();
    assert_eq!(moved[0].read, Some(place(1, 7, 20, 0)));
}

/// Whom a message reached: bounded names, bounded counts, without its sender.
pub async fn status_tells_whom_a_message_reached(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let batch = records(0, vec![said("room:1", "alice", "one"), said("room:1", "", "two")]);
    store.write(&batch).await.unwrap();
    let at = |sequence| Some(place(1, 7, sequence, 0));
    store
        .mark(&[
            mark("room:1", "alice", at(2), at(2)),
            mark("room:1", "bob", at(2), at(1)),
            mark("room:1", "carol", at(1), None),
            mark("room:2", "dave", at(2), at(2)),
        ])
        .await
        .unwrap();
    let one = store
        .status("room:1", place(1, 7, 1, 0), 10, 100)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(one.sender.as_deref(), Some("alice"));
    assert_eq!(one.time_us, batch.rows[0].time_us);
    assert_eq!(
        (one.delivered.count, one.delivered.users),
        (2, vec!["carol".into(), "bob".into()])
    );
    assert_eq!((one.read.count, one.read.users), (1, vec!["bob".into()]));
    let two = store
        .status("room:1", place(1, 7, 2, 0), 1, 1)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(two.sender, None);
    assert_eq!(
        (two.delivered.count, two.delivered.users),
        (1, vec!["alice".into()]),
        "bounded"
    );
    for (channel, place) in [
        ("room:1", place(1, 7, 3, 0)),
        ("room:1", place(1, 8, 1, 0)),
        ("room:2", place(1, 7, 1, 0)),
    ] {
        assert_eq!(store.status(channel, place, 10, 100).await.unwrap(), None);
    }
}

fn of(user: &str) -> Conversations {
    Conversations {
        user: user.to_owned(),
        before: None,
        limit: 10,
        count_to: 100,
        bytes: usize::MAX,
    }
}

fn brief(page: &ConversationPage) -> Vec<(&str, u64, Option<&str>)> {
    let text = |conversation: &'_ Conversation| {
        let last = conversation.last.as_ref()?;
        // Of a row that these tests have written.
        match &last.message[..] {
            b"one" => Some("one"),
            b"two" => Some("two"),
            b"three" => Some("three"),
            b"four" => Some("four"),
            _ => Some("?"),
        }
    };
    page.conversations
        .iter()
        .map(|conversation| {
            (
                conversation.channel.as_str(),
                conversation.unread,
                text(conversation),
            )
        })
        .collect()
}

/// What a backend removed (`history_remove`) is neither told nor counted.
pub async fn hidden_messages_are_no_conversation(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let batch = records(
        0,
        vec![
            said("dm:#alice,bob", "bob", "one"),
            said("dm:#alice,bob", "bob", "two"),
            said("dm:#alice,carol", "carol", "three"),
        ],
    );
    store.write(&batch).await.unwrap();
    let there = place(1, 7, 2, 0);
    let status = async || store.status("dm:#alice,bob", there, 9, 9).await.unwrap();
    assert!(status().await.is_some());
    let mark = ("dm:#alice,bob".to_owned(), there.offset);
    store.hide(there.log, &[mark]).await.unwrap();
    assert!(status().await.is_none());
    let hers = store.conversations(&of("alice")).await.unwrap();
    assert_eq!(
        brief(&hers),
        [("dm:#alice,carol", 1, Some("three")), ("dm:#alice,bob", 0, None)]
    );
}

/// A user's conversations: those whose name has him, and those he is a member of.
pub async fn conversations_are_listed_newest_first(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let edit = Row {
        change: Some(Change {
            what: Some(What::Edit(Edit::default())),
        }),
        ..said("dm:#alice,bob", "bob", "edit")
    };
    let batch = records(
        0,
        vec![
            said("room:1", "carol", "before alice came"),
            event("room:1", added(&[("alice", MEMBER), ("bob", OWNER)])),
            said("dm:#alice,bob", "bob", "one"),
            said("dm:#alice,bob", "alice", "own"),
            said("dm:#alice,bob", "bob", "two"),
            said("#alice", "bob", "an inbox is no conversation"),
            said("room:1", "bob", "three"),
            said("room:2", "bob", "not hers"),
            edit,
            said("dm:#bob,carol", "bob", "four"),
        ],
    );
    store.write(&batch).await.unwrap();
    let hers = store.conversations(&of("alice")).await.unwrap();
    assert_eq!(
        brief(&hers),
        [("dm:#alice,bob", 2, Some("two")), ("room:1", 1, Some("three"))]
    );
    let room = &hers.conversations[1];
    assert_eq!((room.role, room.members, room.read), (Some(MEMBER), 2, None));
    assert_eq!(
        (room.head, room.time_us),
        (place(1, 7, 7, 0), batch.rows[6].time_us)
    );
    let dm = &hers.conversations[0];
    assert_eq!((dm.role, dm.members), (None, 0));
    assert_eq!(dm.head, place(1, 7, 9, 0), "a change is its newest entry");
    let his = store.conversations(&of("bob")).await.unwrap();
    assert_eq!(
        brief(&his),
        [
            ("dm:#bob,carol", 0, Some("four")),
            ("dm:#alice,bob", 1, Some("two")),
            ("room:1", 0, Some("three"))
        ]
    );
    assert!(
        store
            .conversations(&of("mallory"))
            .await
            .unwrap()
            .conversations
            .is_empty()
    );
    // Pages follow each other.
    let mut question = Conversations {
        limit: 1,
        ..of("bob")
    };
    let mut pages = Vec::new();
    loop {
        let page = store.conversations(&question).await.unwrap();
        assert_eq!(page.conversations.len(), 1);
        let last = &page.conversations[0];
        pages.push(last.channel.clone());
        question.before = Some((last.time_us, last.channel.clone()));
        if !page.more {
            break;
        }
    }
    assert_eq!(pages, ["dm:#bob,carol", "dm:#alice,bob", "room:1"]);
    let small = Conversations {
        bytes: 4,
        ..of("bob")
    };
    let page = store.conversations(&small).await.unwrap();
    assert_eq!((page.conversations.len(), page.more), (1, true));
    // Who leaves has it no longer.
    store
        .write(&records(10, vec![event("room:1", removed(&["alice"]))]))
        .await
        .unwrap();
    let hers = store.conversations(&of("alice")).await.unwrap();
    assert_eq!(brief(&hers), [("dm:#alice,bob", 2, Some("two"))]);
}

/// What is unread: others' messages behind the mark, none of them a change, counted up to a bound.
pub async fn unread_is_what_others_said_behind_the_mark(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let channel = "dm:#alice,bob";
    let rows = |sender: &str, count: usize| vec![said(channel, sender, "one"); count];
    store.write(&records(0, rows("bob", 30))).await.unwrap();
    let unread = async |count_to: u32| {
        let question = Conversations {
            count_to,
            ..of("alice")
        };
        let page = store.conversations(&question).await.unwrap();
        let conversation = &page.conversations[0];
        (conversation.unread, conversation.unread_is_bounded)
    };
    assert_eq!(unread(100).await, (30, false));
    assert_eq!(unread(30).await, (30, false));
    assert_eq!(unread(29).await, (29, true));
    let read = |sequence| {
        let at = Some(place(1, 7, sequence, 0));
        [mark(channel, "alice", at, at)]
    };
    store.mark(&read(28)).await.unwrap();
    assert_eq!(unread(100).await, (2, false));
    store.mark(&read(30)).await.unwrap();
    assert_eq!(unread(100).await, (0, false));
    // Own messages are not unread; where they hide what others said, it is told that there may be more.
    store.write(&records(30, rows("alice", 15))).await.unwrap();
    assert_eq!(unread(100).await, (0, false));
    assert_eq!(unread(0).await, (0, true));
    let page = store.conversations(&of("alice")).await.unwrap();
    assert_eq!(page.conversations[0].read, Some(place(1, 7, 30, 0)));
    store.write(&records(45, rows("", 1))).await.unwrap();
    assert_eq!(unread(100).await, (1, false), "a server's message");
    let mut next = records(0, rows("bob", 2));
    next.log = log(2, 1);
    store.write(&next).await.unwrap();
    assert_eq!(unread(100).await, (3, false), "over lives of the log");
}

/// Makes a test of each case of the suite.
#[macro_export]
macro_rules! conversations_conformance {
    ($fixture:ty) => {
        $crate::conversations_conformance!(
            $fixture:
            events_make_members,
            users_share_channels,
            newest_event_of_each_user_counts,
            hidden_messages_are_no_conversation,
            channel_is_claimed_by_the_first,
            marks_never_go_back,
            marks_that_race_end_with_the_highest,
            status_tells_whom_a_message_reached,
            conversations_are_listed_newest_first,
            unread_is_what_others_said_behind_the_mark,
        );
    };
    ($fixture:ty: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = <$fixture as $crate::conformance::StoreFixture>::start().await;
                $crate::conformance::conversations::$case(&fixture).await;
            }
        )*
    };
}
