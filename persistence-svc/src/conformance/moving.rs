//! What is taken to another store beside the messages: the contract of [`MoveStore`](crate::store::MoveStore).

use std::collections::{BTreeSet, HashSet};

use switchboard_proto::bus::MemberRole;

use super::{StoreFixture, opened, place};
use crate::store::conversations::Mark;
use crate::store::moving::{ChannelHead, MAX_MOVED, MemberRow};
use crate::store::{Store, StoreError};

fn head(channel: &str, ordinal: u32, sequence: u64) -> ChannelHead {
    ChannelHead {
        channel: channel.to_owned(),
        place: place(ordinal, 7, sequence, 0),
        time_us: sequence,
    }
}

fn member(user: &str, role: Option<MemberRole>, sequence: u64) -> MemberRow {
    MemberRow {
        channel: "team:1".to_owned(),
        user: user.to_owned(),
        role,
        place: place(1, 7, sequence, 0),
        since: place(1, 7, 1, 0),
    }
}

async fn standing(store: &dyn Store, user: &str) -> (Option<MemberRole>, u64, u64) {
    let standing = store.standings(&[("team:1", user)]).await.unwrap()[0];
    (standing.role, standing.members, standing.owners)
}

/// What one store tells another takes over; what is newer there stays, and again changes nothing.
pub async fn what_stands_beside_messages_is_taken_over(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    assert_eq!(store.all_heads("").await.unwrap(), []);
    assert_eq!(store.all_members(("", "")).await.unwrap(), []);
    assert_eq!(store.all_receipts(("", "")).await.unwrap(), []);
    assert_eq!(store.all_hidden("").await.unwrap(), []);

    let heads = [head("dm:#alice,bob", 1, 9), head("room:1", 1, 4)];
    let (owner, mere) = (Some(MemberRole::Owner), Some(MemberRole::Member));
    let members = [
        member("alice", owner, 5),
        member("bob", mere, 6),
        member("carol", None, 7),
    ];
    for _ in 0..2 {
        store.take_heads(&heads, &HashSet::new()).await.unwrap();
        store.take_members(&members).await.unwrap();
    }
    assert_eq!(store.all_heads("").await.unwrap(), heads);
    assert_eq!(store.all_heads("dm:#alice,bob").await.unwrap(), heads[1..]);
    assert_eq!(store.all_members(("", "")).await.unwrap(), members);
    assert_eq!(
        store.all_members(("team:1", "alice")).await.unwrap(),
        members[1..]
    );
    assert_eq!(standing(&*store, "alice").await, (owner, 2, 1));
    assert_eq!(standing(&*store, "carol").await, (None, 2, 1));
    // Whom a channel names has it as a conversation, also where all that was said in it expired.
    let question = crate::store::conversations::Conversations {
        user: "bob".to_owned(),
        before: None,
        limit: 9,
        count_to: 9,
        bytes: usize::MAX,
    };
    let listed = store.conversations(&question).await.unwrap().conversations;
    let channels: Vec<&str> = listed.iter().map(|one| one.channel.as_str()).collect();
    assert_eq!(channels, ["dm:#alice,bob"]);

    // What was said and done here since then.
    store
        .take_heads(&[head("room:1", 2, 1)], &HashSet::new())
        .await
        .unwrap();
    store.take_members(&[member("bob", None, 8)]).await.unwrap();
    store.take_heads(&heads, &HashSet::new()).await.unwrap();
    store.take_members(&members).await.unwrap();
    assert_eq!(standing(&*store, "bob").await, (None, 1, 1));
    let known = store.heads(&["room:1"]).await.unwrap();
    assert_eq!(known["room:1"], place(2, 7, 1, 0));

    let mark = |user: &str, sequence| Mark {
        channel: "room:1".to_owned(),
        user: user.to_owned(),
        delivered: Some(place(1, 7, sequence, 0)),
        read: (sequence > 1).then(|| place(1, 7, sequence, 0)),
    };
    let marks = [mark("alice", 1), mark("bob", 2)];
    store.mark(&marks).await.unwrap();
    assert_eq!(store.all_receipts(("", "")).await.unwrap(), marks);
    assert_eq!(store.all_receipts(("room:1", "alice")).await.unwrap(), marks[1..]);
    let hidden = place(1, 7, 3, 0);
    store
        .hide(hidden.log, &[("room:1".to_owned(), hidden.offset)])
        .await
        .unwrap();
    assert_eq!(
        store.all_hidden("").await.unwrap(),
        [("room:1".to_owned(), hidden)]
    );

    // Page after page there are all of them.
    let many: Vec<ChannelHead> = (0..MAX_MOVED + 10)
        .map(|number| head(&format!("many:{number:05}"), 1, 1))
        .collect();
    for some in many.chunks(MAX_MOVED) {
        store.take_heads(some, &HashSet::new()).await.unwrap();
    }
    let (mut all, mut after) = (BTreeSet::new(), String::new());
    loop {
        let page = store.all_heads(&after).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= MAX_MOVED);
        after.clone_from(&last.channel);
        all.extend(page.into_iter().map(|head| head.channel));
    }
    assert_eq!(all.len(), many.len() + 2);
    let too_many = store.take_heads(&many, &HashSet::new()).await;
    assert!(matches!(too_many, Err(StoreError::TooMuch { .. })));
}
