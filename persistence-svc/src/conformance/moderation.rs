//! Acts, their log, and what is in force: the contract of [`ModerationStore`](crate::store::ModerationStore).

use futures_util::future::join_all;

use super::{StoreFixture, opened};
use crate::store::moderation::{Act, Entry, Key, Kind, MAX_MODERATED, Restriction, Restrictions};
use crate::store::{Store, StoreError};

const NOW: u64 = 1_000_000_000;

fn key(kind: Kind, user: &str, channel: &str, token: &str) -> Key {
    Key {
        kind,
        user: user.to_owned(),
        channel: channel.to_owned(),
        token: token.to_owned(),
    }
}

fn act(key: Key) -> Act {
    Act {
        key,
        lifts: false,
        until_us: 0,
        issued_before_us: 0,
        reason: "spam".to_owned(),
        actor: "carol".to_owned(),
        api_key: "key".to_owned(),
        idempotency_key: String::new(),
    }
}

fn block(user: &str) -> Act {
    act(key(Kind::Block, user, "", ""))
}

fn mute(user: &str, channel: &str) -> Act {
    act(key(Kind::Mute, user, channel, ""))
}

fn lift(of: Act) -> Act {
    Act { lifts: true, ..of }
}

fn tokens(user: &str, issued_before_us: u64, until_us: u64) -> Act {
    Act {
        issued_before_us,
        until_us,
        ..act(key(Kind::Tokens, user, "", ""))
    }
}

async fn done(store: &dyn Store, act: &Act) -> Entry {
    let (entry, is_duplicate) = store.moderate(act, NOW).await.unwrap();
    assert!(!is_duplicate);
    entry
}

async fn all(store: &dyn Store, now: u64) -> Vec<Restriction> {
    let question = Restrictions {
        limit: 100,
        ..Restrictions::default()
    };
    store.restrictions(&question, now).await.unwrap().0
}

async fn whole_log(store: &dyn Store) -> Vec<Entry> {
    store.moderation_log(0, MAX_MODERATED).await.unwrap().0
}

/// What is done is in force and in the log, under the next number, for whoever opens the store later.
pub async fn acts_are_in_force_and_in_the_log(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    assert_eq!(store.moderation_log(0, 9).await.unwrap(), (Vec::new(), 0));
    let acts = [
        block("eve"),
        mute("bob", "room:1"),
        act(key(Kind::Token, "", "", "jti-1")),
        tokens("eve", 77, 0),
        tokens("", 78, 0),
        lift(block("eve")),
    ];
    for (number, act) in (1..).zip(&acts) {
        let entry = done(&*store, act).await;
        assert_eq!((entry.number, entry.time_us, entry.changed), (number, NOW, true));
        assert_eq!(entry.act, *act);
    }
    store.close().await;
    let store = fixture.open();
    let log = whole_log(&*store).await;
    let logged: Vec<&Act> = log.iter().map(|entry| &entry.act).collect();
    assert_eq!(logged, acts.iter().collect::<Vec<_>>());
    let in_force: Vec<Key> = all(&*store, NOW).await.into_iter().map(|one| one.key).collect();
    let [_, mute, token, of_eve, of_all, _] = acts.map(|act| act.key);
    assert_eq!(in_force, [mute, token, of_all, of_eve]);
}

/// Done again, it is an entry that says that nothing changed, and what is in force is there once.
pub async fn what_is_done_again_changes_nothing(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    assert!(done(&*store, &mute("bob", "room:1")).await.changed);
    assert!(!done(&*store, &mute("bob", "room:1")).await.changed);
    let [one] = &all(&*store, NOW).await[..] else {
        panic!("one is in force");
    };
    assert_eq!(one.number, 1);
    let longer = Act {
        until_us: NOW + 5,
        ..mute("bob", "room:1")
    };
    assert!(done(&*store, &longer).await.changed);
    assert_eq!(all(&*store, NOW).await[0].number, 3);
    assert!(done(&*store, &lift(longer.clone())).await.changed);
    assert!(!done(&*store, &lift(longer)).await.changed);
    assert_eq!(all(&*store, NOW).await, []);
    let changed: Vec<bool> = whole_log(&*store)
        .await
        .iter()
        .map(|entry| entry.changed)
        .collect();
    assert_eq!(changed, [true, false, true, true, false]);
}

/// One act with one key, however often and by however many it is sent.
pub async fn an_act_with_a_key_is_done_once(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let other = fixture.open();
    let keyed = Act {
        idempotency_key: "once".to_owned(),
        ..block("eve")
    };
    let outcomes = join_all((0..6).map(|turn| {
        let store = if turn % 2 == 0 { &store } else { &other };
        store.moderate(&keyed, NOW)
    }))
    .await;
    let outcomes: Vec<(Entry, bool)> = outcomes.into_iter().map(Result::unwrap).collect();
    assert_eq!(
        outcomes.iter().filter(|(_, is_duplicate)| !is_duplicate).count(),
        1
    );
    assert!(outcomes.iter().all(|(entry, _)| entry.number == 1));
    done(&*store, &lift(block("eve"))).await;
    // A late repeat does not block her again.
    let (entry, is_duplicate) = store.moderate(&keyed, NOW).await.unwrap();
    assert_eq!((entry.number, is_duplicate), (1, true));
    assert_eq!(all(&*store, NOW).await, []);
    assert_eq!(whole_log(&*store).await.len(), 2);
}

/// Acts at the same time, through two processes, have numbers without gaps, and who sees one sees all before it.
pub async fn acts_at_the_same_time_stand_one_behind_the_other(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let other = fixture.open();
    let users: Vec<String> = (0..40).map(|number| format!("user-{number:02}")).collect();
    let acting = join_all(users.iter().enumerate().map(async |(turn, user)| {
        let store = if turn % 2 == 0 { &store } else { &other };
        done(&**store, &block(user)).await.number
    }));
    let reading = async {
        let mut seen = 0;
        while seen < 40 {
            let (entries, last) = store.moderation_log(seen, MAX_MODERATED).await.unwrap();
            for entry in entries {
                seen += 1;
                assert_eq!(entry.number, seen, "seen without one before it");
            }
            assert!(last >= seen);
        }
    };
    let (mut numbers, ()) = futures_util::join!(acting, reading);
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=40).collect::<Vec<u64>>());
    assert_eq!(all(&*store, NOW).await.len(), 40);
}

/// What has ended by its time is told no more, and can be placed again.
pub async fn restrictions_end_by_their_time(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let short = Act {
        until_us: NOW + 10,
        ..block("eve")
    };
    done(&*store, &short).await;
    let eve = [key(Kind::Block, "eve", "", ""), key(Kind::Block, "bob", "", "")];
    assert_eq!(store.restricted(&eve, NOW + 9).await.unwrap().len(), 1);
    assert_eq!(store.restricted(&eve, NOW + 10).await.unwrap(), []);
    assert_eq!(all(&*store, NOW + 9).await.len(), 1);
    assert_eq!(all(&*store, NOW + 10).await, []);
    let again = Act {
        until_us: NOW + 30,
        ..short
    };
    let (entry, _) = store.moderate(&again, NOW + 20).await.unwrap();
    assert!(entry.changed);
    assert_eq!(all(&*store, NOW + 20).await.len(), 1);
    let too_many = vec![key(Kind::Block, "eve", "", ""); MAX_MODERATED + 1];
    let refused = store.restricted(&too_many, NOW).await;
    assert!(matches!(refused, Err(StoreError::TooMuch { .. })));
}

/// A token that was revoked for long is not let in earlier by what is said later.
pub async fn tokens_do_not_come_back(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    done(&*store, &tokens("eve", 500, 0)).await;
    let earlier = done(&*store, &tokens("eve", 400, NOW + 1)).await;
    assert!(!earlier.changed);
    assert_eq!((earlier.act.issued_before_us, earlier.act.until_us), (500, 0));
    let later = done(&*store, &tokens("eve", 600, NOW + 1)).await;
    assert!(later.changed);
    assert_eq!((later.act.issued_before_us, later.act.until_us), (600, 0));
    let revoked = |until_us| Act {
        until_us,
        ..act(key(Kind::Token, "", "", "t"))
    };
    done(&*store, &revoked(NOW + 50)).await;
    assert_eq!(done(&*store, &revoked(NOW + 20)).await.act.until_us, NOW + 50);
    assert_eq!(done(&*store, &revoked(NOW + 90)).await.act.until_us, NOW + 90);
}

/// Pages follow each other without a hole, of all, of a kind and of a user; the log's as well.
pub async fn moderation_is_listed_in_pages(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    for user in ["amy", "bob", "eve"] {
        done(&*store, &block(user)).await;
        done(&*store, &mute(user, "room:1")).await;
        done(&*store, &mute(user, "room:2")).await;
    }
    done(&*store, &tokens("", 5, 0)).await;
    let paged = async |kind: Option<Kind>, user: &str| {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let question = Restrictions {
                kind,
                user: user.to_owned(),
                after: after.take(),
                limit: 2,
            };
            let (page, number) = store.restrictions(&question, NOW).await.unwrap();
            assert_eq!(number, 10);
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            found.extend(page.into_iter().map(|one| one.key));
        }
        assert!(found.is_sorted());
        found.len()
    };
    assert_eq!(paged(None, "").await, 10);
    assert_eq!(paged(Some(Kind::Mute), "").await, 6);
    assert_eq!(paged(None, "eve").await, 3);
    assert_eq!(paged(Some(Kind::Mute), "bob").await, 2);
    assert_eq!(paged(Some(Kind::Token), "").await, 0);
    let (page, last) = store.moderation_log(3, 4).await.unwrap();
    let numbers: Vec<u64> = page.iter().map(|entry| entry.number).collect();
    assert_eq!((numbers, last), (vec![4, 5, 6, 7], 10));
    assert_eq!(store.moderation_log(10, 4).await.unwrap(), (Vec::new(), 10));
}
