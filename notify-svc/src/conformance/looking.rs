//! What operators look at, and what goes with time.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    LEASE, NOW, SECOND, StoreFixture, attempt, claim, claim_one, delivery, due, enqueued, fail, keep, opened,
    settle, settled, show, told,
};
use crate::model::{Outcome, Priority, State, Way};
use crate::store::{Settled, Sum, Waiting};

/// The newest first, each once, of all users or one.
pub async fn dead_letters_have_pages(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let mut failed = fail(&*store, "alice", 4, NOW).await;
    failed.extend(fail(&*store, "bob", 3, NOW + 3 * SECOND).await);
    show(&*store, "alice", 1, NOW).await;
    let (mut before, mut seen) = (None, Vec::new());
    loop {
        let page = store.dead_letters(None, before, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some((last.settled_us, last.delivery.id));
        for letter in &page {
            assert_eq!(
                (letter.category.as_str(), letter.delivery.state),
                ("general", State::Failed)
            );
            assert_eq!(letter.attempts, [attempt("fcm", Outcome::Refused, NOW)]);
            seen.push((letter.settled_us, letter.delivery.id));
        }
        // What fails meanwhile is on no page behind.
        fail(&*store, "carol", 1, NOW + 100 * SECOND).await;
    }
    assert!(seen.is_sorted_by(|one, next| one > next), "{seen:?}");
    let mut ids: Vec<Uuid> = seen.into_iter().map(|(_, id)| id).collect();
    let mut expected: Vec<Uuid> = failed.iter().map(|(_, id)| *id).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    let of_bob = store.dead_letters(Some("bob"), None, 9).await.unwrap();
    assert_eq!(of_bob.len(), 3);
    assert!(of_bob.iter().all(|letter| letter.delivery.user == "bob"));
    assert!(
        store
            .dead_letters(Some("dave"), None, 9)
            .await
            .unwrap()
            .is_empty()
    );
}

/// What is retried is due now and as if it had never been tried, but for the list of what was; what is dropped is over.
pub async fn dead_letters_are_retried_or_dropped(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let failed = fail(&*store, "alice", 3, NOW).await;
    let ids: Vec<Uuid> = failed.iter().map(|(_, id)| *id).collect();
    let now = NOW + 50 * SECOND;
    assert_eq!(store.retry(&ids[..1], now).await.unwrap(), 1);
    assert_eq!(store.retry(&ids[..1], now).await.unwrap(), 0);
    assert_eq!(store.drop_dead(&ids[..2], now).await.unwrap(), 1);
    assert_eq!(store.drop_dead(&[Uuid::now_v7()], now).await.unwrap(), 0);
    assert_eq!(store.retry(&ids[1..2], now).await.unwrap(), 0);
    let (retried, attempts) = told(&*store, failed[0].0).await.deliveries.remove(0);
    assert_eq!(
        (retried.state, retried.attempts, retried.due_us),
        (State::Queued, 0, now)
    );
    assert_eq!(attempts.len(), 1);
    assert_eq!(delivery(&*store, failed[1].0).await.state, State::Cancelled);
    assert_eq!(store.dead_letters(None, None, 9).await.unwrap().len(), 1);
    assert!(claim(&*store, Uuid::nil(), now - 1).await.is_empty());
    let claimed = claim(&*store, Uuid::nil(), now).await.remove(0);
    assert_eq!((claimed.delivery.id, claimed.delivery.claims), (ids[0], 1));
    let sent = Settled {
        attempts: vec![attempt("fcm", Outcome::Accepted, now)],
        ..settled(&claimed.delivery, Uuid::nil(), State::Sent)
    };
    settle(&*store, sent).await;
    let (sent, attempts) = told(&*store, failed[0].0).await.deliveries.remove(0);
    assert_eq!((sent.state, sent.attempts, attempts.len()), (State::Sent, 1, 2));
}

/// Tries are summed by way, provider and outcome, from a time up to, and without, another.
pub async fn sums_are_of_a_time(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    assert!(store.sums(0, u64::MAX).await.unwrap().is_empty());
    let by = Uuid::nil();
    for (way, attempts) in [
        (
            Way::Push,
            vec![
                attempt("apns", Outcome::Retry, NOW),
                attempt("fcm", Outcome::Accepted, NOW + 1),
            ],
        ),
        (Way::Push, vec![attempt("fcm", Outcome::Accepted, NOW + 2)]),
        (Way::Push, vec![attempt("fcm", Outcome::Gone, NOW + 2)]),
        (Way::Email, vec![attempt("fcm", Outcome::Accepted, NOW + 3)]),
    ] {
        keep(&*store, &[enqueued("alice", &[way])]).await;
        let claimed = claim_one(&*store, by).await;
        let sent = Settled {
            attempts,
            ..settled(&claimed.delivery, by, State::Sent)
        };
        settle(&*store, sent).await;
    }
    let sum = |way, provider: &str, outcome, count| Sum {
        way,
        provider: provider.to_owned(),
        outcome,
        count,
        latency_ms: count * 20,
    };
    let all = [
        sum(Way::Push, "apns", Outcome::Retry, 1),
        sum(Way::Push, "fcm", Outcome::Accepted, 2),
        sum(Way::Push, "fcm", Outcome::Gone, 1),
        sum(Way::Email, "fcm", Outcome::Accepted, 1),
    ];
    assert_eq!(store.sums(NOW, NOW + 4).await.unwrap(), all);
    assert_eq!(
        store.sums(NOW + 1, NOW + 2).await.unwrap(),
        [sum(Way::Push, "fcm", Outcome::Accepted, 1)]
    );
    assert!(store.sums(NOW + 4, u64::MAX).await.unwrap().is_empty());
}

/// What waits is counted up to a bound; the oldest is of what could go now.
pub async fn what_waits_is_counted(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let waiting = async |now_us, most| store.waiting(now_us, most).await.unwrap();
    assert_eq!(waiting(NOW, 99).await, Waiting::default());
    fail(&*store, "alice", 3, NOW).await;
    show(&*store, "alice", 1, NOW).await;
    let later = due("alice", NOW + 2 * SECOND, Priority::Critical);
    keep(&*store, &[later, due("alice", NOW + SECOND, Priority::Low)]).await;
    let expected = Waiting {
        count: 2,
        oldest_us: 0,
        dead: 3,
    };
    assert_eq!(waiting(NOW, 99).await, expected);
    let oldest_us = NOW + SECOND;
    assert_eq!(
        waiting(NOW + 5 * SECOND, 99).await,
        Waiting {
            oldest_us,
            ..expected
        }
    );
    assert_eq!(
        waiting(NOW, 1).await,
        Waiting {
            count: 1,
            dead: 1,
            ..expected
        }
    );
    // What is being sent waits, and could go once its sender is given up.
    assert_eq!(claim(&*store, Uuid::nil(), NOW + 5 * SECOND).await.len(), 2);
    assert_eq!(waiting(NOW + 5 * SECOND, 99).await, expected);
    let oldest_us = NOW + 5 * SECOND + LEASE;
    assert_eq!(
        waiting(oldest_us, 99).await,
        Waiting {
            oldest_us,
            ..expected
        }
    );
}

/// What was accepted long ago and is over goes, the oldest first, no more than was asked for; what waits stays, however old.
pub async fn only_what_is_old_and_over_is_purged(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let by = Uuid::nil();
    let mut over = Vec::new();
    for state in [
        State::Sent,
        State::Delivered,
        State::Failed,
        State::Cancelled,
        State::Suppressed,
    ] {
        let mut old = enqueued("alice", &[Way::Push]);
        old.notification.created_us = NOW - 100 + over.len() as u64;
        keep(&*store, std::slice::from_ref(&old)).await;
        let claimed = claim_one(&*store, by).await;
        let hour = over.len() as u64;
        let end = Settled {
            attempts: vec![attempt("fcm", Outcome::Accepted, NOW)],
            reference: Some(format!("fcm:{hour}")),
            counted: Some(("alice".to_owned(), "general".to_owned(), hour)),
            now_us: NOW - 50,
            ..settled(&claimed.delivery, by, state)
        };
        settle(&*store, end).await;
        over.push(old.notification.id);
    }
    // Of one with two ways one waits; one is in somebody's hands; one is held; and one is new.
    let mut waiting = enqueued("alice", &[Way::Push, Way::Email]);
    let mut held = due("alice", NOW + SECOND, Priority::Low);
    for old in [&mut waiting, &mut held] {
        old.notification.created_us = NOW - 200;
    }
    keep(&*store, &[waiting.clone(), held.clone()]).await;
    let claimed = claim(&*store, by, NOW).await;
    assert_eq!(claimed.len(), 2);
    settle(&*store, settled(&claimed[0].delivery, by, State::Sent)).await;
    let new = enqueued("alice", &[]);
    keep(&*store, std::slice::from_ref(&new)).await;
    // What was scheduled long before, and is told only now, is as new.
    let mut late = enqueued("alice", &[Way::InApp]);
    late.notification.created_us = NOW - 200;
    keep(&*store, std::slice::from_ref(&late)).await;
    let claimed = claim_one(&*store, by).await;
    settle(&*store, settled(&claimed.delivery, by, State::Sent)).await;

    assert_eq!(store.purge(NOW - 100, 0, 9).await.unwrap(), 0);
    assert_eq!(store.purge(NOW, 3, 2).await.unwrap(), 2);
    let mut left = Vec::new();
    for id in &over {
        left.push(store.told(*id).await.unwrap().is_some());
    }
    assert_eq!(left, [false, false, true, true, true]);
    assert_eq!(store.purge(NOW, 3, 9).await.unwrap(), 3);
    assert_eq!(store.purge(NOW, 3, 9).await.unwrap(), 0);
    for id in [&waiting, &held, &new, &late].map(|kept| kept.notification.id) {
        told(&*store, id).await;
    }
    assert!(store.sums(0, u64::MAX).await.unwrap().is_empty());
    assert!(store.dead_letters(None, None, 9).await.unwrap().is_empty());
    assert!(!store.report("fcm:1", None, NOW).await.unwrap());
    for hour in 0..5 {
        let facts = store.facts(&["alice"], NOW, hour).await.unwrap();
        let sent = facts
            .get("alice")
            .map(|facts| facts.sent.clone())
            .unwrap_or_default();
        let expected = HashMap::from([(("general".to_owned(), Way::Push), 1)]);
        assert_eq!(sent, if hour < 3 { HashMap::new() } else { expected });
    }
    // What waited goes once it is over, and with it what was new.
    let claimed = claim(&*store, by, NOW + LEASE).await;
    assert_eq!(claimed.len(), 2);
    for one in &claimed {
        settle(&*store, settled(&one.delivery, by, State::Sent)).await;
    }
    assert_eq!(store.purge(NOW, 3, 9).await.unwrap(), 0);
    assert_eq!(store.purge(NOW + 2 * SECOND, 3, 9).await.unwrap(), 4);
}
