//! What is handed in.

use std::collections::HashSet;

use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};
use switchboard_proto::notifications as wire;
use uuid::Uuid;

use super::{NOW, SECOND, StoreFixture, claim, delivery, enqueued, keep, opened, told, with_key};
use crate::model::{Said, State, Unless, Way};
use crate::store::{Enqueued, Kept, MAX_BATCH, Progress, StoreError};

fn read_to(sequence: u64) -> Progress {
    Progress {
        shard: ShardId::new(3).unwrap(),
        log: LogEpoch {
            ordinal: 1,
            random: u32::MAX,
        },
        read_to: Sequence(sequence),
        owner_epoch: OwnerEpoch(sequence * 10),
    }
}

/// All of it comes back, to every process, at once.
pub async fn what_is_kept_is_told_as_it_was(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut whole = enqueued("alice", &[Way::InApp, Way::Push, Way::Email]);
    whole.notification.content = wire::Notification {
        user: "alice".to_owned(),
        category: "chat".to_owned(),
        priority: "high".to_owned(),
        template: "message".to_owned(),
        variables: r#"{"name":"Ann","count":12345678901234567890}"#.into(),
        title: "A title".to_owned(),
        body: "A body".to_owned(),
        html: "<p>A body</p>".to_owned(),
        link: "https://example.com/?a=1&b=2".to_owned(),
        data: r#"{"deep":{"a":[1,null]}}"#.into(),
        conversation: "room:1".to_owned(),
        ways: vec!["push".to_owned(), "email".to_owned()],
        send_at: 1_700_000_000_000,
        expire_at: 1_700_000_060_000,
        collapse: "room".to_owned(),
        idempotency_key: "a key".to_owned(),
    };
    whole.notification.said = Some(Said {
        shard: ShardId::new(3).unwrap(),
        log: LogEpoch {
            ordinal: 1,
            random: u32::MAX,
        },
        offset: Offset::new(Sequence(7), 2),
    });
    whole.notification.expires_us = NOW + 60 * SECOND;
    whole.deliveries[1].device = "phone".to_owned();
    whole.deliveries[1].digest = Some("push:5:alice:4:chat:".to_owned());
    whole.deliveries[1].advance_us = 60 * SECOND;
    whole.deliveries[2].unless = Unless::Read;
    whole.deliveries[2].state = State::Held;
    whole.deliveries[2].reason = "scheduled".to_owned();
    whole.deliveries[2].due_us = NOW + SECOND;
    whole.digest_most = 5;
    let kept = keep(&*store, std::slice::from_ref(&whole)).await;
    let id = whole.notification.id;
    assert_eq!(kept, [Kept { id, duplicate: false }]);
    let told = told(&*fixture.open(), id).await;
    assert_eq!(told.notification, whole.notification);
    let deliveries: Vec<_> = told
        .deliveries
        .iter()
        .map(|(delivery, _)| delivery.clone())
        .collect();
    assert_eq!(deliveries, whole.deliveries);
    assert!(told.deliveries.iter().all(|(_, attempts)| attempts.is_empty()));
    assert!(store.told(Uuid::now_v7()).await.unwrap().is_none());
}

/// What looks like SQL, or has every kind of letter, is text like any other.
pub async fn hostile_texts_come_back(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let longest = "\u{e9}".repeat(127) + "x";
    assert_eq!(longest.len(), 255);
    let users = [
        "'; DROP TABLE notify_deliveries; --",
        "\" OR \"\"=\"",
        "%_\\",
        "$1",
        "\u{1f600}\u{200d}\u{1f469}",
        "\u{202e}ab\u{301}",
        "A",
        "a",
        "a ",
        longest.as_str(),
    ];
    for user in users {
        let mut hostile = with_key(user, user);
        let content = &mut hostile.notification.content;
        for text in [
            &mut content.title,
            &mut content.body,
            &mut content.conversation,
            &mut content.collapse,
        ] {
            user.clone_into(text);
        }
        hostile.deliveries[0].reason = user.to_owned();
        hostile.deliveries[0].device = user.to_owned();
        hostile.deliveries[0].digest = Some(user.to_owned());
        hostile.digest_most = 10;
        keep(&*store, std::slice::from_ref(&hostile)).await;
        let told = told(&*store, hostile.notification.id).await;
        assert_eq!(told.notification, hostile.notification);
        assert_eq!(told.deliveries[0].0, hostile.deliveries[0]);
        store.set_preferences(user, user).await.unwrap();
        assert!(store.mute(user, user, Some(0), NOW, 9).await.unwrap());
    }
    let facts = store.facts(&users, NOW, 0).await.unwrap();
    assert_eq!(facts.len(), users.len());
    for user in users {
        assert_eq!(facts[user].preferences.as_deref(), Some(user));
        assert_eq!(facts[user].mutes.get(user), Some(&0));
    }
    assert_eq!(claim(&*store, Uuid::now_v7(), NOW).await.len(), users.len());
}

/// One value that the database refuses keeps all of its batch out, and the log is not read further.
pub async fn a_batch_is_kept_whole_or_not_at_all(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut batch: Vec<Enqueued> = (0..250).map(|_| enqueued("alice", &[Way::Push])).collect();
    // A delivery of nothing.
    batch[230].deliveries[0].notification = Uuid::now_v7();
    let refused = store.enqueue(&batch, Some(read_to(5))).await.unwrap_err();
    assert!(matches!(refused, StoreError::Data(_)), "{refused:?}");
    for one in &batch {
        assert!(store.told(one.notification.id).await.unwrap().is_none());
    }
    assert!(claim(&*store, Uuid::now_v7(), NOW).await.is_empty());
    assert_eq!(
        store.progress(read_to(5).shard, read_to(5).log).await.unwrap(),
        None
    );
}

/// A user's key names one notification. Another user may have the same, and none is no key.
pub async fn a_key_counts_once_for_each_user(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let first = keep(&*store, &[with_key("alice", "k")]).await[0];
    assert!(!first.duplicate);
    let batch = [
        with_key("alice", "k"),
        with_key("bob", "k"),
        with_key("alice", "K"),
        with_key("alice", ""),
        with_key("alice", ""),
    ];
    let kept = keep(&*store, &batch).await;
    let duplicates: Vec<bool> = kept.iter().map(|kept| kept.duplicate).collect();
    assert_eq!(duplicates, [true, false, false, false, false]);
    assert_eq!(kept[0].id, first.id);
    for (kept, handed_in) in kept.iter().zip(&batch).skip(1) {
        assert_eq!(kept.id, handed_in.notification.id);
    }
    // The duplicate has no delivery of its own.
    assert!(store.told(batch[0].notification.id).await.unwrap().is_none());
    assert_eq!(claim(&*store, Uuid::now_v7(), NOW).await.len(), 5);
}

/// Also within one batch the first counts, however far away the others are.
pub async fn a_key_counts_once_within_a_batch(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut batch: Vec<Enqueued> = (0..MAX_BATCH)
        .map(|index| with_key("alice", &format!("k{index}")))
        .collect();
    for again in [1, 150, 999] {
        batch[again] = with_key("alice", "k0");
    }
    let kept = keep(&*store, &batch).await;
    for (index, kept) in kept.iter().enumerate() {
        let is_again = [1, 150, 999].contains(&index);
        let of = if is_again { 0 } else { index };
        assert_eq!(
            (kept.id, kept.duplicate),
            (batch[of].notification.id, is_again),
            "{index}"
        );
    }
    assert_eq!(claim(&*store, Uuid::now_v7(), NOW).await.len(), MAX_BATCH - 3);
}

/// Callers that hand in the same keys at once, in opposite order, hear the same ids, and neither fails.
pub async fn a_key_counts_once_whoever_races(fixture: &impl StoreFixture) {
    let (store, other) = (opened(fixture).await, fixture.open());
    for round in 0..5 {
        let key = |index: usize| format!("{round}/{index}");
        let one: Vec<Enqueued> = (0..300).map(|index| with_key("alice", &key(index))).collect();
        let two: Vec<Enqueued> = (0..300)
            .rev()
            .map(|index| with_key("alice", &key(index)))
            .collect();
        let (one, two) = tokio::join!(store.enqueue(&one, None), other.enqueue(&two, None));
        let (one, mut two) = (one.unwrap(), two.unwrap());
        two.reverse();
        for (one, two) in one.iter().zip(&two) {
            assert_eq!(one.id, two.id);
            assert!(one.duplicate != two.duplicate);
        }
        assert_eq!(claim(&*store, Uuid::now_v7(), NOW).await.len(), 300);
    }
}

/// Who did not hear the answer hands in the same again, with a key or without.
pub async fn what_is_handed_in_again_is_a_duplicate(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let batch = [with_key("alice", "k"), enqueued("bob", &[Way::Push])];
    keep(&*store, &batch).await;
    let again = keep(&*store, &batch).await;
    for (kept, handed_in) in again.iter().zip(&batch) {
        assert_eq!((kept.id, kept.duplicate), (handed_in.notification.id, true));
        delivery(&*store, kept.id).await;
    }
}

/// What a log's records caused is there together with how far they were read. What was read again counts no further.
pub async fn progress_is_kept_with_its_batch_and_never_goes_back(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let (shard, log) = (read_to(0).shard, read_to(0).log);
    assert_eq!(store.progress(shard, log).await.unwrap(), None);
    store
        .enqueue(&[with_key("alice", "5")], Some(read_to(5)))
        .await
        .unwrap();
    assert_eq!(
        fixture.open().progress(shard, log).await.unwrap(),
        Some(read_to(5))
    );
    // Records that cause nothing count, too.
    assert!(store.enqueue(&[], Some(read_to(9))).await.unwrap().is_empty());
    assert_eq!(store.progress(shard, log).await.unwrap(), Some(read_to(9)));
    let kept = store
        .enqueue(
            &[with_key("alice", "5"), with_key("alice", "7")],
            Some(read_to(7)),
        )
        .await
        .unwrap();
    assert!(kept[0].duplicate && !kept[1].duplicate);
    assert_eq!(store.progress(shard, log).await.unwrap(), Some(read_to(9)));
    let life = LogEpoch {
        ordinal: 2,
        random: 0,
    };
    assert_eq!(store.progress(shard, life).await.unwrap(), None);
    assert_eq!(store.progress(ShardId::new(4).unwrap(), log).await.unwrap(), None);
    let larger: Vec<Enqueued> = (0..MAX_BATCH + 50)
        .map(|_| enqueued("bob", &[Way::Push]))
        .collect();
    let kept = store.enqueue(&larger, Some(read_to(10))).await.unwrap();
    let ids: HashSet<Uuid> = kept.iter().map(|kept| kept.id).collect();
    assert_eq!(ids.len(), MAX_BATCH + 50);
}
