//! What expires, is held and is erased: the contract of [`KeepStore`](crate::store::KeepStore).

use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::fold;
use switchboard_proto::bus::change::What;
use switchboard_proto::bus::{
    Change, ChannelMember, Delete, Edit, MemberRole, MembersChanged, Message, MessageAt, Sender,
};

use super::conversations::{added, event, records, role};
use super::{DAY_US, StoreFixture, log, now_us, opened, place, shard, written};
use crate::store::keeping::{Erasure, Hold, Kept, Over, Subject};
use crate::store::{History, Store, Written};

const COUNT: Over = Over {
    before_us: None,
    count: Some(2),
};

fn sequences(rows: &[Kept]) -> Vec<u64> {
    rows.iter().map(|row| row.place.offset.sequence().0).collect()
}

async fn shown(store: &dyn Store, channel: &str) -> Vec<u64> {
    let question = History::of(channel, 100);
    let joint = store.joint(&question, shard(3), Some(log(1, 7))).await.unwrap();
    let places = joint.page.messages.iter();
    places.map(|stored| stored.place.offset.sequence().0).collect()
}

async fn removed_to(store: &dyn Store, channel: &str) -> Option<crate::store::Place> {
    let question = History::of(channel, 1);
    let joint = store.joint(&question, shard(3), Some(log(1, 7))).await;
    joint.unwrap().removed_to
}

fn held(kind: &str, name: &str) -> Hold {
    Hold {
        subject: Subject::new(kind, name).unwrap(),
        since_us: 5,
        reason: "a case".to_owned(),
    }
}

/// A message of `user` as clients write it.
fn said(user: &str, sequence: u64) -> Bytes {
    Message {
        channel: "room:odd".to_owned(),
        payload: Bytes::from(format!("{{\"text\":\"secret {sequence}\"}}")),
        sender: Some(Sender {
            user: user.to_owned(),
            ..Sender::default()
        }),
        key: "key".to_owned(),
        ..Message::default()
    }
    .encode_to_vec()
    .into()
}

/// Messages of alice and bob in turn.
fn spoken(after: u64, up_to: u64) -> Written {
    let mut batch = written(after, up_to);
    for row in &mut batch.rows {
        let sequence = row.offset.sequence().0;
        let user = if sequence % 4 < 2 { "alice" } else { "bob" };
        row.sender = Some(user.to_owned());
        row.message = said(user, sequence);
    }
    batch
}

fn text(stored: &Bytes) -> String {
    String::from_utf8_lossy(stored).into_owned()
}

/// Too old or too many: the beginning of a channel goes, and the channel remembers up to where.
pub async fn what_expires_is_remembered_as_removed(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let today = now_us() / DAY_US * DAY_US;
    let mut batch = written(0, 12);
    for row in &mut batch.rows {
        row.time_us = today - 3 * DAY_US + row.offset.sequence().0 * DAY_US / 4;
    }
    store.write(&batch).await.unwrap();
    assert_eq!(store.channels("", 9).await.unwrap(), ["room:even", "room:odd"]);
    assert_eq!(store.channels("room:even", 9).await.unwrap(), ["room:odd"]);
    // Nothing is said about when messages are over: none is.
    let forever = store.over("room:odd", Over::default(), 9).await.unwrap();
    assert_eq!(forever, []);
    let old = Over {
        before_us: Some(today - 2 * DAY_US),
        count: None,
    };
    let over = store.over("room:odd", old, 9).await.unwrap();
    assert_eq!(sequences(&over), [1, 3]);
    assert_eq!(removed_to(&*store, "room:odd").await, None);
    assert_eq!(store.remove(&over).await.unwrap(), 2);
    assert_eq!(shown(&*store, "room:odd").await, [5, 7, 9, 11]);
    assert_eq!(removed_to(&*store, "room:odd").await, Some(place(1, 7, 3, 0)));
    // In pieces, and again: it changes nothing.
    assert_eq!(store.remove(&over).await.unwrap(), 0);
    let some = store.over("room:even", COUNT, 3).await.unwrap();
    assert_eq!(sequences(&some), [2, 4, 6]);
    store.remove(&some).await.unwrap();
    let rest = store.over("room:even", COUNT, 3).await.unwrap();
    assert_eq!(sequences(&rest), [8]);
    store.remove(&rest).await.unwrap();
    assert_eq!(store.over("room:even", COUNT, 3).await.unwrap(), []);
    assert_eq!(shown(&*store, "room:even").await, [10, 12]);
    assert_eq!(removed_to(&*store, "room:even").await, Some(place(1, 7, 8, 0)));
    // What was deleted is not shown when it comes again, from an archive, but it is there, once.
    assert_eq!(store.restore(&some).await.unwrap(), 3);
    assert_eq!(store.restore(&some).await.unwrap(), 0);
    assert_eq!(shown(&*store, "room:even").await, [10, 12]);
    let all = store.history(&History::of("room:even", 9)).await.unwrap();
    assert_eq!(all.messages.len(), 5);
}

/// A channel all of whose messages went still has its head: who was there last missed nothing.
pub async fn channel_that_expired_whole_keeps_its_head(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    store.write(&written(0, 4)).await.unwrap();
    let all = Over {
        before_us: Some(u64::MAX),
        count: None,
    };
    let over = store.over("room:odd", all, 9).await.unwrap();
    store.remove(&over).await.unwrap();
    assert_eq!(shown(&*store, "room:odd").await, [0; 0]);
    let heads = store.heads(&["room:odd"]).await.unwrap();
    assert_eq!(heads["room:odd"], place(1, 7, 3, 0));
    assert_eq!(removed_to(&*store, "room:odd").await, Some(place(1, 7, 3, 0)));
}

/// What is held is neither deleted nor blanked until the hold is lifted.
pub async fn what_is_held_stays(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    store.write(&spoken(0, 12)).await.unwrap();
    let before = store.over("room:odd", COUNT, 9).await.unwrap();
    assert_eq!(sequences(&before), [1, 3, 5, 7]);
    for hold in [held("channel", "room:odd"), held("namespace", "room")] {
        store.hold(&hold).await.unwrap();
        store
            .hold(&Hold {
                since_us: 9,
                ..hold.clone()
            })
            .await
            .unwrap();
        assert_eq!(store.holds().await.unwrap(), std::slice::from_ref(&hold));
        // Also what was on its way out when the hold came.
        assert_eq!(store.remove(&before).await.unwrap(), 0);
        assert_eq!(store.blank(&before).await.unwrap(), []);
        assert_eq!(removed_to(&*store, "room:odd").await, None);
        assert!(store.lift(&hold.subject, u64::MAX).await.unwrap());
        assert!(!store.lift(&hold.subject, u64::MAX).await.unwrap());
    }
    store.hold(&held("user", "alice")).await.unwrap();
    let over = store.over("room:odd", COUNT, 9).await.unwrap();
    assert_eq!(sequences(&over), [3, 7], "bob's");
    assert_eq!(store.remove(&before).await.unwrap(), 2);
    // Hers are there still, and go when the hold is lifted.
    let hers = store.said_by("alice", (0, u64::MAX), None, 100).await.unwrap();
    assert_eq!(sequences(&hers), [1, 4, 5, 8, 9, 12]);
    store
        .lift(&Subject::User("alice".to_owned()), u64::MAX)
        .await
        .unwrap();
    let over = store.over("room:odd", COUNT, 9).await.unwrap();
    assert_eq!(sequences(&over), [1, 5]);
    assert_eq!(store.remove(&over).await.unwrap(), 2);
    assert_eq!(removed_to(&*store, "room:odd").await, Some(place(1, 7, 7, 0)));
}

/// An erased user's rows are blank at their places, and stay so when they are written again or read back.
pub async fn what_is_erased_is_blank_whoever_writes_it(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    store.write(&spoken(0, 8)).await.unwrap();
    let everything = (0, u64::MAX);
    let hers = store.said_by("alice", everything, None, 100).await.unwrap();
    assert_eq!(sequences(&hers), [1, 4, 5, 8]);
    let rest = store
        .said_by("alice", everything, Some(&hers[1]), 1)
        .await
        .unwrap();
    assert_eq!(rest, hers[2..3]);
    let until_us = hers[3].time_us;
    let erasure = Erasure {
        user: "alice".to_owned(),
        until_us,
    };
    store.erase(&erasure, None).await.unwrap();
    store
        .erase(
            &Erasure {
                until_us: 1,
                ..erasure.clone()
            },
            None,
        )
        .await
        .unwrap();
    assert_eq!(store.erasures().await.unwrap(), std::slice::from_ref(&erasure));
    assert_eq!(store.blank(&hers).await.unwrap().len(), 4);
    assert_eq!(store.said_by("alice", everything, None, 100).await.unwrap(), []);
    assert_eq!(
        shown(&*store, "room:odd").await,
        [1, 3, 5, 7],
        "each place is there"
    );
    let page = store.history(&History::of("room:odd", 9)).await.unwrap();
    for (stored, is_hers) in page.messages.iter().zip([true, false, true, false]) {
        let message = Message::decode(stored.message.clone()).unwrap();
        assert_eq!(fold::is_deleted(&message), is_hers);
        assert_eq!(message.sender.is_none(), is_hers);
        assert_eq!(text(&stored.message).contains("secret"), !is_hers);
    }
    // Read back from where they were kept.
    store.remove(&hers).await.unwrap();
    assert_eq!(store.restore(&hers).await.unwrap(), 4);
    assert_eq!(store.said_by("alice", everything, None, 100).await.unwrap(), []);
    // A log that is read later: what is covered is blank, what came after is not.
    store.write(&spoken(8, 12)).await.unwrap();
    let later = store.said_by("alice", everything, None, 100).await.unwrap();
    assert_eq!(sequences(&later), [9, 12]);
    let mut late = spoken(12, 16);
    for row in &mut late.rows {
        row.time_us = until_us;
    }
    store.write(&late).await.unwrap();
    assert_eq!(
        store.said_by("alice", everything, None, 100).await.unwrap(),
        later
    );
}

/// Who is erased is no member any more, and is none when the events are read again.
pub async fn who_is_erased_is_no_member(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let event = |sequence: u64, users: &[&str]| {
        let mut batch = written(sequence - 1, sequence);
        let added = users.iter().map(|user| ChannelMember {
            user: (*user).to_owned(),
            role: MemberRole::Owner.into(),
        });
        let change = Change {
            what: Some(What::Members(MembersChanged {
                added: added.collect(),
                ..MembersChanged::default()
            })),
        };
        for row in &mut batch.rows {
            row.channel = "room:odd".to_owned();
            row.sender = None;
            row.change = Some(change.clone());
            row.message = Message {
                channel: "room:odd".to_owned(),
                change: Some(change.clone()),
                ..Message::default()
            }
            .encode_to_vec()
            .into();
        }
        batch
    };
    store.write(&event(1, &["alice", "bob"])).await.unwrap();
    let erasure = Erasure {
        user: "alice".to_owned(),
        until_us: now_us() + DAY_US,
    };
    store.erase(&erasure, None).await.unwrap();
    let is_bob_alone = async || {
        let members = store.members("room:odd", "", 9).await.unwrap();
        let users: Vec<&str> = members.iter().map(|member| member.user.as_str()).collect();
        assert_eq!(users, ["bob"]);
        let standing = store.standings(&[("room:odd", "bob")]).await.unwrap()[0];
        assert_eq!((standing.members, standing.owners), (1, 1));
    };
    is_bob_alone().await;
    store.write(&event(2, &["bob", "alice"])).await.unwrap();
    is_bob_alone().await;
}

/// In held channels an erased user stays what she was until the holds are lifted; and what she has done since is hers.
pub async fn holds_keep_what_an_erased_user_was(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let member = MemberRole::Member;
    let today = now_us() / DAY_US * DAY_US;
    let channels = ["case:1", "held:1", "free:1"];
    let both = || added(&[("alice", member), ("bob", member)]);
    let events = channels.map(|channel| event(channel, both()));
    store.write(&records(0, events.into())).await.unwrap();
    let is_in = async || {
        let mut is_in = [false; 3];
        for (channel, is_in) in channels.iter().zip(&mut is_in) {
            *is_in = role(&*store, channel, "alice").await.is_some();
            let standing = store.standings(&[(channel, "bob")]).await.unwrap()[0];
            assert_eq!(standing.members, 1 + u64::from(*is_in), "{channel}");
        }
        is_in
    };
    let (case, namespace) = (held("channel", "case:1"), held("namespace", "held"));
    store.hold(&case).await.unwrap();
    store.hold(&namespace).await.unwrap();
    let erasure = Erasure {
        user: "alice".to_owned(),
        until_us: today + 3,
    };
    store.erase(&erasure, None).await.unwrap();
    assert_eq!(is_in().await, [true, true, false]);
    assert_eq!(store.unfinished().await.unwrap(), std::slice::from_ref(&erasure));
    store.erased(&erasure).await.unwrap();
    assert_eq!(store.unfinished().await.unwrap(), []);

    let back = records(3, vec![event("free:1", added(&[("alice", member)]))]);
    store.write(&back).await.unwrap();
    assert_eq!(is_in().await, [true, true, true]);
    assert!(
        !store.lift(&case.subject, 4).await.unwrap(),
        "it was placed later"
    );
    assert!(store.lift(&case.subject, 5).await.unwrap());
    store.erase(&erasure, Some(&case.subject)).await.unwrap();
    assert_eq!(is_in().await, [false, true, true]);
    assert!(store.lift(&namespace.subject, 5).await.unwrap());
    store.erase(&erasure, Some(&namespace.subject)).await.unwrap();
    assert_eq!(is_in().await, [false, false, true]);
}

/// The namespace without a name is that of the channels that have none, for messages and for members.
pub async fn hold_of_no_namespace_is_of_channels_without_one(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let member = MemberRole::Member;
    let channels = ["plain", ":odd", "room:1"];
    let both = || added(&[("alice", member), ("bob", member)]);
    let events = channels.map(|channel| event(channel, both()));
    store.write(&records(0, events.into())).await.unwrap();
    let is_in = async || {
        let mut is_in = [false; 3];
        for (channel, is_in) in channels.iter().zip(&mut is_in) {
            *is_in = role(&*store, channel, "alice").await.is_some();
        }
        is_in
    };
    let none = held("namespace", "");
    store.hold(&none).await.unwrap();
    let all = Over {
        before_us: Some(u64::MAX),
        count: None,
    };
    for (channel, removed) in channels.iter().zip([0, 0, 1]) {
        let over = store.over(channel, all, 9).await.unwrap();
        assert_eq!(store.remove(&over).await.unwrap(), removed, "{channel}");
    }
    let erasure = Erasure {
        user: "alice".to_owned(),
        until_us: now_us() + DAY_US,
    };
    store.erase(&erasure, None).await.unwrap();
    assert_eq!(is_in().await, [true, true, false]);
    assert!(store.lift(&none.subject, u64::MAX).await.unwrap());
    assert_eq!(store.lifts().await.unwrap(), std::slice::from_ref(&none.subject));
    store.erase(&erasure, Some(&none.subject)).await.unwrap();
    assert_eq!(is_in().await, [false, false, false]);
    store.lifted(&none.subject).await.unwrap();
    assert_eq!(store.lifts().await.unwrap(), []);
}

/// A message that expired before it was deleted is blank when it is read back, and so are its edits, in whichever order they come.
pub async fn what_was_deleted_since_is_blank_when_it_is_read_back(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let change = |batch: &mut Written, what: What| {
        for row in &mut batch.rows {
            row.channel = "room:odd".to_owned();
            row.sender = Some("bob".to_owned());
            row.change = Some(Change {
                what: Some(what.clone()),
            });
            row.message = Message {
                change: row.change.clone(),
                ..Message::decode(said("bob", row.offset.sequence().0)).unwrap()
            }
            .encode_to_vec()
            .into();
        }
    };
    let about = |sequence: u64| {
        Some(MessageAt {
            offset: place(1, 7, sequence, 0).offset.get(),
            ..MessageAt::default()
        })
    };
    store.write(&spoken(0, 4)).await.unwrap();
    let mut edit = written(4, 5);
    change(&mut edit, What::Edit(Edit { target: about(3) }));
    store.write(&edit).await.unwrap();
    let all = Over {
        before_us: Some(u64::MAX),
        count: None,
    };
    let gone = store.over("room:odd", all, 9).await.unwrap();
    assert_eq!(sequences(&gone), [1, 3, 5]);
    store.remove(&gone).await.unwrap();
    let mut delete = written(5, 6);
    change(&mut delete, What::Delete(Delete { target: about(3) }));
    store.write(&delete).await.unwrap();
    let deletion = store.over("room:odd", all, 9).await.unwrap();
    let secrets = async || {
        let page = store.history(&History::of("room:odd", 9)).await.unwrap();
        let is_said = |stored: &&crate::store::Stored| text(&stored.message).contains("secret");
        let said = page.messages.iter().filter(is_said);
        said.map(|stored| stored.place.offset.sequence().0)
            .collect::<Vec<u64>>()
    };
    // More than once: the deletion outlives that the message expires again.
    for _ in 0..2 {
        assert_eq!(store.restore(&gone).await.unwrap(), 3);
        assert_eq!(secrets().await.first(), Some(&1));
        assert!(!secrets().await.contains(&3) && !secrets().await.contains(&5));
        store.remove(&gone).await.unwrap();
    }
    // All of it expires and is given back, the last first.
    store.remove(&deletion).await.unwrap();
    for row in deletion.iter().chain(gone.iter().rev()) {
        store.restore(std::slice::from_ref(row)).await.unwrap();
    }
    assert!(!secrets().await.contains(&3) && !secrets().await.contains(&5));
}
