//! Who takes what, and when.

use std::collections::HashSet;

use uuid::Uuid;

use super::{
    LEASE, NOW, SECOND, StoreFixture, claim, claim_of, claim_one, delivery, due, enqueued, keep, opened,
    settle, settled, told,
};
use crate::model::{Delivery, Priority, State, Way};
use crate::store::{Claimed, Enqueued, NotifyStore};

fn notifications(claimed: &[Claimed]) -> Vec<Uuid> {
    claimed.iter().map(|claimed| claimed.notification.id).collect()
}

/// One of a digest, due then.
fn part(digest: &str, due_us: u64, most: u32) -> Enqueued {
    let mut part = due("alice", due_us, Priority::Normal);
    part.deliveries[0].digest = Some(digest.to_owned());
    part.deliveries[0].reason = crate::model::TOGETHER.to_owned();
    part.deliveries[0].state = State::Held;
    part.digest_most = most;
    part
}

async fn due_us(store: &dyn NotifyStore, enqueued: &Enqueued) -> u64 {
    delivery(store, enqueued.notification.id).await.due_us
}

/// What is claimed is being sent; what is held is claimed when it is due, and not before.
pub async fn only_what_is_due_is_claimed(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let (now, later) = (
        due("alice", NOW, Priority::Normal),
        due("bob", NOW + SECOND, Priority::Critical),
    );
    keep(&*store, &[now.clone(), later.clone()]).await;
    let by = Uuid::now_v7();
    assert!(claim(&*store, by, NOW - 1).await.is_empty());
    let claimed = claim_one(&*store, by).await;
    assert_eq!(*claimed.notification, now.notification);
    let expected = Delivery {
        state: State::Sending,
        claims: 1,
        due_us: NOW + LEASE,
        ..now.deliveries[0].clone()
    };
    assert_eq!(claimed.delivery, expected);
    assert_eq!(delivery(&*fixture.open(), now.notification.id).await, expected);
    assert!(claim(&*store, by, NOW + SECOND - 1).await.is_empty());
    let claimed = claim(&*store, by, NOW + SECOND).await;
    assert_eq!(notifications(&claimed), [later.notification.id]);
    assert_eq!(claimed[0].delivery.state, State::Sending);
}

/// Of what is due at once the critical goes first; what has waited for longer than a priority is worth goes before it.
pub async fn the_urgent_go_first_and_nothing_starves(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let at_once: Vec<Enqueued> = Priority::ALL
        .into_iter()
        .map(|priority| due("alice", NOW, priority))
        .collect();
    let advance = Priority::Critical.advance_us();
    let starving = due("bob", NOW - advance - 1, Priority::Low);
    let waiting = due("bob", NOW - advance + 1, Priority::Low);
    let mut batch = at_once.clone();
    batch.extend([waiting.clone(), starving.clone()]);
    keep(&*store, &batch).await;
    let order: Vec<Uuid> = [
        &starving,
        &at_once[3],
        &waiting,
        &at_once[2],
        &at_once[1],
        &at_once[0],
    ]
    .map(|enqueued| enqueued.notification.id)
    .into();
    let by = Uuid::now_v7();
    let mut claimed = Vec::new();
    for limit in [1, 2, 100] {
        claimed.extend(notifications(
            &store.claim(claim_of(by, NOW, limit)).await.unwrap(),
        ));
    }
    assert_eq!(claimed, order);
    // What was claimed in vain keeps its priority.
    assert_eq!(
        notifications(&claim(&*store, by, NOW + LEASE).await)[..3],
        [&at_once[3], &at_once[2], &at_once[1]].map(|one| one.notification.id)
    );
}

/// No more is claimed than was asked for, and a large claim is whole.
pub async fn claims_have_a_limit(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let batch: Vec<Enqueued> = (0..400).map(|_| enqueued("alice", &[Way::Push])).collect();
    keep(&*store, &batch).await;
    let by = Uuid::now_v7();
    for (limit, expected) in [(0, 0), (1, 1), (299, 299), (1_000, 100), (1_000, 0)] {
        assert_eq!(
            store.claim(claim_of(by, NOW, limit)).await.unwrap().len(),
            expected
        );
    }
}

/// Replicas that claim at once share the queue, and nothing of it is left.
pub async fn claimers_never_share_a_delivery(fixture: &impl StoreFixture) {
    let stores = [opened(fixture).await, fixture.open(), fixture.open()];
    let batch: Vec<Enqueued> = (0..600).map(|_| enqueued("alice", &[Way::Push])).collect();
    keep(&*stores[0], &batch).await;
    let mut tasks = tokio::task::JoinSet::new();
    for store in stores {
        tasks.spawn(async move {
            let (by, mut mine) = (Uuid::now_v7(), Vec::new());
            loop {
                let claimed = store.claim(claim_of(by, NOW, 7)).await.unwrap();
                // Who finds all that is left in others' hands comes again; here nobody lets go of it.
                if claimed.is_empty() {
                    return mine;
                }
                mine.extend(notifications(&claimed));
            }
        });
    }
    let all: Vec<Uuid> = tasks.join_all().await.into_iter().flatten().collect();
    let different: HashSet<Uuid> = all.iter().copied().collect();
    assert_eq!((all.len(), different.len()), (600, 600));
}

/// A claim that is over is another's, with its claims counted, and so on.
pub async fn a_claim_that_is_over_is_anothers(fixture: &impl StoreFixture) {
    let (store, other) = (opened(fixture).await, fixture.open());
    keep(&*store, &[enqueued("alice", &[Way::Push])]).await;
    let mut now = NOW;
    for claims in 1..=7 {
        let by = Uuid::now_v7();
        assert!(claim(&*other, by, now - 1).await.is_empty());
        let claimed = claim(&*other, by, now).await;
        assert_eq!(claimed.len(), 1);
        assert_eq!(
            (claimed[0].delivery.claims, claimed[0].delivery.attempts),
            (claims, 0)
        );
        now += LEASE;
    }
    // A settlement ends the row of claims.
    let by = Uuid::now_v7();
    let claimed = claim(&*store, by, now).await.remove(0);
    let mut again = settled(&claimed.delivery, by, State::Queued);
    again.due_us = now;
    settle(&*store, again).await;
    assert_eq!(claim(&*store, by, now).await[0].delivery.claims, 1);
}

/// What waits is taken back; what is being sent, was sent, or is another notification's goes on.
pub async fn only_what_waits_is_cancelled(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let sending = enqueued("alice", &[Way::Push]);
    keep(&*store, std::slice::from_ref(&sending)).await;
    let by = Uuid::now_v7();
    let claimed = claim_one(&*store, by).await;
    let sent = enqueued("alice", &[Way::Push]);
    keep(&*store, std::slice::from_ref(&sent)).await;
    let is_sent = claim_one(&*store, by).await;
    settle(&*store, settled(&is_sent.delivery, by, State::Sent)).await;
    let queued = enqueued("alice", &[Way::Push, Way::Email]);
    let held = due("alice", NOW + SECOND, Priority::Low);
    let other = due("alice", NOW, Priority::Low);
    keep(&*store, &[queued.clone(), held.clone(), other.clone()]).await;
    let ids = [&sending, &sent, &queued, &held].map(|enqueued| enqueued.notification.id);
    assert_eq!(store.cancel(&ids, NOW).await.unwrap(), 3);
    assert_eq!(store.cancel(&ids, NOW).await.unwrap(), 0);
    assert_eq!(store.cancel(&[Uuid::now_v7()], NOW).await.unwrap(), 0);
    assert_eq!(delivery(&*store, ids[0]).await.state, State::Sending);
    assert_eq!(delivery(&*store, ids[1]).await.state, State::Sent);
    for (cancelled, _) in told(&*store, ids[2]).await.deliveries {
        assert_eq!(
            (cancelled.state, cancelled.reason.as_str()),
            (State::Cancelled, "cancelled")
        );
    }
    assert_eq!(
        notifications(&claim(&*store, by, NOW + SECOND).await),
        [other.notification.id]
    );
    // Its sender says what became of it all the same.
    settle(&*store, settled(&claimed.delivery, by, State::Sent)).await;
    assert_eq!(delivery(&*store, ids[0]).await.state, State::Sent);
}

/// A delivery becomes one for each device, all in the same hands; who dies of it leaves each to the next.
pub async fn each_device_has_its_own_delivery(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let kept = keep(&*store, &[enqueued("alice", &[Way::Push])]).await;
    let by = Uuid::now_v7();
    let claimed = claim_one(&*store, by).await;
    assert!(store.spread(&claimed.delivery, by, &[]).await.unwrap().is_none());
    let devices = ["phone", "tablet", "laptop"];
    let added = store
        .spread(&claimed.delivery, by, &devices)
        .await
        .unwrap()
        .unwrap();
    let expected: Vec<Delivery> = added
        .iter()
        .zip(["tablet", "laptop"])
        .map(|(added, device)| Delivery {
            id: added.id,
            device: device.to_owned(),
            ..claimed.delivery.clone()
        })
        .collect();
    assert_eq!(added, expected);
    let names = |deliveries: Vec<Delivery>| {
        let mut names: Vec<String> = deliveries.into_iter().map(|delivery| delivery.device).collect();
        names.sort();
        names
    };
    let all = told(&*store, kept[0].id).await.deliveries;
    assert_eq!(
        names(all.into_iter().map(|(delivery, _)| delivery).collect()),
        ["laptop", "phone", "tablet"]
    );
    // The others are its claimer's, too.
    settle(&*store, settled(&added[0], by, State::Sent)).await;
    let next = Uuid::now_v7();
    assert!(claim(&*store, next, NOW).await.is_empty());
    let again: Vec<Delivery> = claim(&*store, next, NOW + LEASE)
        .await
        .into_iter()
        .map(|one| one.delivery)
        .collect();
    assert!(again.iter().all(|delivery| delivery.claims == 2));
    assert_eq!(names(again.clone()), ["laptop", "phone"]);
    // Of what has its device already nothing more is made.
    for delivery in &again {
        assert!(store.spread(delivery, next, &devices).await.unwrap().is_none());
    }
    assert_eq!(told(&*store, kept[0].id).await.deliveries.len(), 3);
}

/// Whose claim was taken over makes nothing of it.
pub async fn a_stale_holder_spreads_nothing(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let kept = keep(&*store, &[enqueued("alice", &[Way::Push])]).await;
    let (stale, by) = (Uuid::now_v7(), Uuid::now_v7());
    let claimed = claim_one(&*store, stale).await;
    let again = claim(&*store, by, NOW + LEASE).await.remove(0);
    assert!(
        store
            .spread(&claimed.delivery, stale, &["phone", "tablet"])
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(delivery(&*store, kept[0].id).await, again.delivery);
    assert_eq!(
        store
            .spread(&again.delivery, by, &["phone", "tablet"])
            .await
            .unwrap()
            .unwrap()
            .len(),
        1
    );
}

/// What comes later to a digest goes with what came first.
pub async fn a_digest_is_due_with_its_first(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let first = part("d", NOW + 10 * SECOND, 9);
    let second = part("d", NOW + 15 * SECOND, 9);
    let other = part("e", NOW + 20 * SECOND, 9);
    keep(&*store, std::slice::from_ref(&first)).await;
    keep(&*store, &[second.clone(), other.clone()]).await;
    assert_eq!(due_us(&*store, &first).await, NOW + 10 * SECOND);
    assert_eq!(due_us(&*store, &second).await, NOW + 10 * SECOND);
    assert_eq!(due_us(&*store, &other).await, NOW + 20 * SECOND);
    assert!(
        claim(&*store, Uuid::now_v7(), NOW + 10 * SECOND - 1)
            .await
            .is_empty()
    );
    assert_eq!(claim(&*store, Uuid::now_v7(), NOW + 10 * SECOND).await.len(), 2);
}

/// As many as may be told together are told at once.
pub async fn a_full_digest_is_due_at_once(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let parts: Vec<Enqueued> = (0..3)
        .map(|index| part("d", NOW + (10 + index) * SECOND, 3))
        .collect();
    keep(&*store, &parts[..2]).await;
    assert!(claim(&*store, Uuid::now_v7(), NOW).await.is_empty());
    keep(&*store, &parts[2..]).await;
    for part in &parts {
        assert_eq!(due_us(&*store, part).await, NOW);
    }
    assert_eq!(claim(&*store, Uuid::now_v7(), NOW).await.len(), 3);
    // What is being sent is not counted again: the next one waits.
    let next = part("d", NOW + 30 * SECOND, 3);
    keep(&*store, std::slice::from_ref(&next)).await;
    assert_eq!(due_us(&*store, &next).await, NOW + 30 * SECOND);
}

/// All that waits of a digest is taken, whenever it is due, and nothing else.
pub async fn a_digest_is_claimed_whole_and_alone(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let parts = [part("d", NOW, 9), part("d", NOW, 9)];
    let (other, none) = (part("e", NOW, 9), due("alice", NOW, Priority::Normal));
    keep(
        &*store,
        &[parts[0].clone(), parts[1].clone(), other.clone(), none.clone()],
    )
    .await;
    let (by, next) = (Uuid::now_v7(), Uuid::now_v7());
    let held = claim(&*store, by, NOW).await;
    assert_eq!(held.len(), 4);
    // One is in another's hands, one was put off, and one came later.
    let put_off = held
        .iter()
        .find(|one| one.notification.id == parts[1].notification.id)
        .unwrap();
    let mut later = settled(&put_off.delivery, by, State::Held);
    later.due_us = NOW + 1_000 * SECOND;
    settle(&*store, later).await;
    let last = part("d", NOW + 2_000 * SECOND, 9);
    keep(&*store, std::slice::from_ref(&last)).await;
    let mut ids = vec![parts[1].notification.id, last.notification.id];
    ids.sort();
    let one = store.claim_digest("d", claim_of(next, NOW, 1)).await.unwrap();
    let rest = store.claim_digest("d", claim_of(next, NOW, 9)).await.unwrap();
    assert_eq!((one.len(), rest.len()), (1, 1));
    let mut claimed = notifications(&[one, rest].concat());
    claimed.sort();
    assert_eq!(claimed, ids);
    assert!(
        store
            .claim_digest("d", claim_of(next, NOW, 9))
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        store
            .claim_digest("", claim_of(next, NOW, 9))
            .await
            .unwrap()
            .is_empty()
    );
    let taken = delivery(&*store, last.notification.id).await;
    assert_eq!(
        (taken.state, taken.claims, taken.due_us),
        (State::Sending, 1, NOW + LEASE)
    );
}

/// The parts are sent by the digest, and it waits in their place, all at one moment.
pub async fn a_digest_takes_the_place_of_its_parts(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let parts: Vec<Enqueued> = (0..120).map(|_| part("d", NOW, 200)).collect();
    keep(&*store, &parts).await;
    let by = Uuid::now_v7();
    let merged: Vec<Uuid> = claim(&*store, by, NOW)
        .await
        .iter()
        .map(|one| one.delivery.id)
        .collect();
    assert_eq!(merged.len(), 120);
    let digest = due("alice", NOW, Priority::Normal);
    assert!(store.merge(&merged, by, &digest, NOW + 1).await.unwrap());
    for part in &parts {
        let part = delivery(&*store, part.notification.id).await;
        assert_eq!(part.state, State::Sent);
        assert!(
            part.reason.contains(&digest.notification.id.to_string()),
            "{}",
            part.reason
        );
    }
    assert_eq!(
        delivery(&*store, digest.notification.id).await,
        digest.deliveries[0]
    );
    // Done is done.
    assert!(
        !store
            .merge(&merged, by, &due("alice", NOW, Priority::Low), NOW + 1)
            .await
            .unwrap()
    );
    assert_eq!(
        notifications(&claim(&*store, by, NOW + LEASE).await),
        [digest.notification.id]
    );
}

/// Where one part is another's by now nothing changes, and no digest is there.
pub async fn a_stolen_part_stops_the_digest(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    keep(
        &*store,
        &[part("d", NOW, 9), part("d", NOW, 9), part("d", NOW, 9)],
    )
    .await;
    let (stale, by) = (Uuid::now_v7(), Uuid::now_v7());
    let merged: Vec<Uuid> = claim(&*store, stale, NOW)
        .await
        .iter()
        .map(|one| one.delivery.id)
        .collect();
    let stolen = store.claim(claim_of(by, NOW + LEASE, 1)).await.unwrap().remove(0);
    let digest = due("alice", NOW, Priority::Normal);
    assert!(!store.merge(&merged, stale, &digest, NOW).await.unwrap());
    assert!(store.told(digest.notification.id).await.unwrap().is_none());
    assert_eq!(delivery(&*store, stolen.notification.id).await, stolen.delivery);
    let rest = claim(&*store, by, NOW + LEASE).await;
    assert_eq!(rest.len(), 2);
    assert!(rest.iter().all(|one| one.delivery.claims == 2));
    assert!(store.merge(&merged, by, &digest, NOW).await.unwrap());
}
