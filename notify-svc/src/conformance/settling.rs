//! What became of it.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    LEASE, NOW, SECOND, StoreFixture, attempt, claim, claim_one, delivery, enqueued, keep, opened, settle,
    settled, told,
};
use crate::model::{Delivery, Outcome, State, Way};
use crate::store::{Enqueued, NotifyStore, Settled};

const STATES: [State; 7] = [
    State::Queued,
    State::Held,
    State::Sent,
    State::Delivered,
    State::Failed,
    State::Cancelled,
    State::Suppressed,
];

async fn sent_to(store: &dyn NotifyStore, user: &str, hour: u64) -> HashMap<(String, Way), u64> {
    let mut facts = store.facts(&[user], NOW, hour).await.unwrap();
    facts.remove(user).unwrap_or_default().sent
}

fn counted(delivery: &Delivery, by: Uuid, category: &str, hour: u64) -> Settled {
    Settled {
        counted: Some((delivery.user.clone(), category.to_owned(), hour)),
        ..settled(delivery, by, State::Sent)
    }
}

/// Each state is written with its reason, and what waits is due again when it was said.
pub async fn each_state_is_settled(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let by = Uuid::now_v7();
    for state in STATES {
        let kept = keep(&*store, &[enqueued("alice", &[Way::Push])]).await;
        let claimed = claim_one(&*store, by).await;
        let due_us = if state.is_waiting() { NOW + 5 * SECOND } else { 0 };
        let reason = format!("it is {}", state.word());
        let one = Settled {
            reason: reason.clone(),
            due_us,
            ..settled(&claimed.delivery, by, state)
        };
        settle(&*store, one).await;
        let expected = Delivery {
            state,
            reason,
            due_us,
            claims: 0,
            ..claimed.delivery
        };
        assert_eq!(delivery(&*fixture.open(), kept[0].id).await, expected);
        assert!(claim(&*store, by, NOW + 5 * SECOND - 1).await.is_empty());
        let again = claim(&*store, by, NOW + 5 * SECOND).await;
        assert_eq!(again.len(), usize::from(state.is_waiting()));
        for one in again {
            settle(&*store, settled(&one.delivery, by, State::Cancelled)).await;
        }
    }
    assert!(claim(&*store, by, NOW + 100 * LEASE).await.is_empty());
    store.settle(&[]).await.unwrap();
    // Of what is not there nothing is written.
    let mut nothing = enqueued("alice", &[Way::Push]).deliveries.remove(0);
    nothing.id = Uuid::now_v7();
    let one = Settled {
        attempts: vec![attempt("fcm", Outcome::Accepted, NOW)],
        ..settled(&nothing, by, State::Sent)
    };
    settle(&*store, one).await;
}

/// Each try is written down, also several of one settlement that began at one moment, and they are counted.
pub async fn attempts_are_recorded_and_counted(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let by = Uuid::now_v7();
    let kept = keep(&*store, &[enqueued("alice", &[Way::Push])]).await;
    let outcomes = [
        vec![Outcome::Retry, Outcome::Account],
        vec![Outcome::Unknown],
        vec![],
        vec![Outcome::Refused, Outcome::Gone, Outcome::Accepted],
    ];
    let mut expected = Vec::new();
    for (round, outcomes) in (0..).zip(outcomes) {
        let claimed = claim(&*store, by, NOW + round).await.remove(0);
        assert_eq!(claimed.delivery.attempts as usize, expected.len());
        let attempts: Vec<_> = outcomes
            .into_iter()
            .enumerate()
            .map(|(index, outcome)| attempt(&format!("p{index}"), outcome, NOW + round))
            .collect();
        expected.extend(attempts.clone());
        let one = Settled {
            attempts,
            due_us: NOW + round + 1,
            ..settled(
                &claimed.delivery,
                by,
                if round == 3 { State::Failed } else { State::Queued },
            )
        };
        settle(&*store, one).await;
    }
    let (delivery, attempts) = told(&*store, kept[0].id).await.deliveries.remove(0);
    assert_eq!(delivery.attempts as usize, expected.len());
    assert_eq!(attempts, expected);
    let letters = store.dead_letters(None, None, 9).await.unwrap();
    assert_eq!(letters[0].attempts, expected);
}

/// Who did not hear the answer settles the same again: nothing of it is there twice.
pub async fn what_is_settled_again_is_written_once(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let by = Uuid::now_v7();
    let kept = keep(&*store, &[enqueued("alice", &[Way::Push])]).await;
    let claimed = claim_one(&*store, by).await;
    let one = Settled {
        attempts: vec![
            attempt("apns", Outcome::Retry, NOW),
            attempt("fcm", Outcome::Accepted, NOW),
        ],
        ..counted(&claimed.delivery, by, "general", 7)
    };
    for _ in 0..3 {
        settle(&*store, one.clone()).await;
        let (delivery, attempts) = told(&*store, kept[0].id).await.deliveries.remove(0);
        assert_eq!((delivery.state, delivery.attempts), (State::Sent, 2));
        assert_eq!(attempts, one.attempts);
    }
    assert_eq!(
        sent_to(&*store, "alice", 7).await,
        HashMap::from([(("general".to_owned(), Way::Push), 1)])
    );
    let sums = store.sums(0, u64::MAX).await.unwrap();
    assert_eq!(sums.iter().map(|sum| sum.count).sum::<u64>(), 2);
}

/// What another has claimed stays the other's: who was too late writes down that it was tried, and nothing else.
pub async fn who_settles_late_changes_only_the_attempts(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let (stale, by) = (Uuid::now_v7(), Uuid::now_v7());
    let kept = keep(&*store, &[enqueued("alice", &[Way::InApp])]).await;
    let claimed = claim_one(&*store, stale).await;
    let again = claim(&*store, by, NOW + LEASE).await.remove(0);
    let late = Settled {
        attempts: vec![attempt("in_app", Outcome::Accepted, NOW)],
        reference: Some("late".to_owned()),
        shown: true,
        ..counted(&claimed.delivery, stale, "general", 7)
    };
    settle(&*store, late.clone()).await;
    let after = told(&*store, kept[0].id).await;
    assert_eq!(after.notification.shown_us, 0);
    assert_eq!(
        after.deliveries,
        [(again.delivery.clone(), late.attempts.clone())]
    );
    assert!(sent_to(&*store, "alice", 7).await.is_empty());
    assert!(!store.report("late", None, NOW).await.unwrap());
    // Whoever has it goes on, and its own try stands beside the other.
    let own = Settled {
        attempts: vec![attempt("in_app", Outcome::Accepted, NOW + LEASE)],
        ..settled(&again.delivery, by, State::Sent)
    };
    settle(&*store, own.clone()).await;
    // Also after the end.
    settle(&*store, late).await;
    let (delivery, attempts) = told(&*store, kept[0].id).await.deliveries.remove(0);
    assert_eq!(
        (delivery.state, delivery.attempts, attempts.len()),
        (State::Sent, 1, 2)
    );
    assert_eq!(attempts[1], own.attempts[0]);
}

/// A claim that is over and nobody else's is still settled: it was sent, and must not be sent again.
pub async fn what_nobody_else_has_claimed_is_settled_late(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let by = Uuid::now_v7();
    let kept = keep(&*store, &[enqueued("alice", &[Way::Push])]).await;
    let claimed = claim_one(&*store, by).await;
    let mut late = settled(&claimed.delivery, by, State::Sent);
    late.now_us = NOW + 2 * LEASE;
    settle(&*store, late).await;
    assert_eq!(delivery(&*store, kept[0].id).await.state, State::Sent);
    assert!(claim(&*store, Uuid::now_v7(), NOW + 3 * LEASE).await.is_empty());
}

/// When a notification was first shown stays as it was.
pub async fn what_is_shown_is_shown_once(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let by = Uuid::now_v7();
    let mut twice = enqueued("alice", &[Way::InApp, Way::InApp]);
    twice.deliveries[1].unless = crate::model::Unless::Seen;
    let kept = keep(&*store, &[twice]).await;
    for (index, claimed) in (1..).zip(claim(&*store, by, NOW).await) {
        let shown = Settled {
            shown: true,
            now_us: NOW + index * SECOND,
            ..settled(&claimed.delivery, by, State::Sent)
        };
        settle(&*store, shown).await;
        assert_eq!(
            told(&*store, kept[0].id).await.notification.shown_us,
            NOW + SECOND
        );
    }
    assert_eq!(store.inbox("alice", None, 9).await.unwrap().len(), 1);
}

/// What was sent counts for its user, category, way and hour, and for no other.
pub async fn what_is_sent_is_counted_by_the_hour(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let by = Uuid::now_v7();
    let mut batch = Vec::new();
    for (user, way, category, hour) in [
        ("alice", Way::Push, "chat", 7),
        ("alice", Way::Push, "chat", 7),
        ("alice", Way::Push, "news", 7),
        ("alice", Way::Email, "chat", 7),
        ("alice", Way::Push, "chat", 8),
        ("bob", Way::Push, "chat", 7),
    ] {
        keep(&*store, &[enqueued(user, &[way])]).await;
        let claimed = claim_one(&*store, by).await;
        batch.push(counted(&claimed.delivery, by, category, hour));
    }
    store.settle(&batch[..1]).await.unwrap();
    store.settle(&batch[1..]).await.unwrap();
    let expected = HashMap::from([
        (("chat".to_owned(), Way::Push), 2),
        (("news".to_owned(), Way::Push), 1),
        (("chat".to_owned(), Way::Email), 1),
    ]);
    assert_eq!(sent_to(&*store, "alice", 7).await, expected);
    assert_eq!(
        sent_to(&*store, "alice", 8).await,
        HashMap::from([(("chat".to_owned(), Way::Push), 1)])
    );
    assert_eq!(
        sent_to(&*store, "bob", 7).await,
        HashMap::from([(("chat".to_owned(), Way::Push), 1)])
    );
    assert!(sent_to(&*store, "alice", 9).await.is_empty());
    assert!(sent_to(&*store, "carol", 7).await.is_empty());
}

/// Replicas that count for the same users at once, in opposite order, do not wait for each other in a circle.
pub async fn replicas_settle_at_the_same_time(fixture: &impl StoreFixture) {
    let (store, other) = (opened(fixture).await, fixture.open());
    let by = Uuid::now_v7();
    for _ in 0..5 {
        let batch: Vec<Enqueued> = (0..200)
            .map(|index| enqueued(&format!("user {}", index / 2), &[Way::Push]))
            .collect();
        keep(&*store, &batch).await;
        let mut halves = (Vec::new(), Vec::new());
        for (index, enqueued) in batch.iter().enumerate() {
            let half = if index % 2 == 0 {
                &mut halves.0
            } else {
                &mut halves.1
            };
            half.push(counted(&enqueued.deliveries[0], by, "general", 7));
        }
        assert_eq!(claim(&*store, by, NOW).await.len(), 200);
        halves.1.reverse();
        let (one, two) = tokio::join!(store.settle(&halves.0), other.settle(&halves.1));
        one.unwrap();
        two.unwrap();
    }
    assert_eq!(
        sent_to(&*store, "user 99", 7).await,
        HashMap::from([(("general".to_owned(), Way::Push), 10)])
    );
}

/// A provider's report changes what was sent, once; of what it did not take, or took without our knowledge, nothing is known.
pub async fn reports_follow_what_was_sent(fixture: &impl StoreFixture) {
    let store = opened(fixture).await;
    let by = Uuid::now_v7();
    let mut ids = Vec::new();
    for reference in ["sms:1", "sms:2"] {
        let kept = keep(&*store, &[enqueued("alice", &[Way::Sms])]).await;
        let claimed = claim_one(&*store, by).await;
        assert!(!store.report(reference, None, NOW).await.unwrap());
        let sent = Settled {
            reference: Some(reference.to_owned()),
            ..settled(&claimed.delivery, by, State::Sent)
        };
        settle(&*store, sent).await;
        ids.push(kept[0].id);
    }
    assert!(store.report("sms:1", None, NOW).await.unwrap());
    assert!(
        store
            .report("sms:2", Some("no such number"), NOW + 9)
            .await
            .unwrap()
    );
    assert!(!store.report("sms:3", None, NOW).await.unwrap());
    let failed = delivery(&*store, ids[1]).await;
    assert_eq!(
        (failed.state, failed.reason.as_str()),
        (State::Failed, "no such number")
    );
    let letters = store.dead_letters(None, None, 9).await.unwrap();
    assert_eq!((letters.len(), letters[0].settled_us), (1, NOW + 9));
    // What comes late, or twice, is known and changes nothing.
    assert!(store.report("sms:1", Some("expired"), NOW + 20).await.unwrap());
    assert!(store.report("sms:2", None, NOW + 20).await.unwrap());
    assert_eq!(delivery(&*store, ids[0]).await.state, State::Delivered);
    assert_eq!(delivery(&*store, ids[1]).await.state, State::Failed);
    // What is tried again is no longer what the report was about.
    assert_eq!(store.retry(&[failed.id], NOW).await.unwrap(), 1);
    store.report("sms:2", Some("too late"), NOW + 30).await.unwrap();
    assert_eq!(delivery(&*store, ids[1]).await.state, State::Queued);
}

/// Whoever dies, in whatever state a delivery is: another process on the same database goes on with it as it must.
pub async fn any_state_goes_on_after_a_crash(fixture: &impl StoreFixture) {
    let by = Uuid::now_v7();
    for state in STATES.into_iter().chain([State::Sending]) {
        let store = opened(fixture).await;
        let user = state.word();
        let kept = keep(&*store, &[enqueued(user, &[Way::Push])]).await;
        let claimed = claim_one(&*store, by).await;
        let added = store
            .spread(&claimed.delivery, by, &["phone", "tablet"])
            .await
            .unwrap()
            .unwrap();
        if state != State::Sending {
            let end = |delivery| Settled {
                due_us: if state.is_waiting() { NOW + SECOND } else { 0 },
                attempts: vec![attempt("fcm", Outcome::Retry, NOW)],
                ..settled(delivery, by, state)
            };
            store
                .settle(&[end(&claimed.delivery), end(&added[0])])
                .await
                .unwrap();
        }
        store.close().await;

        let next = fixture.open();
        next.check().await.unwrap();
        let after = Uuid::now_v7();
        let due_us = if state == State::Sending {
            NOW + LEASE
        } else {
            NOW + SECOND
        };
        assert!(claim(&*next, after, due_us - 1).await.is_empty(), "{state:?}");
        let claimed = claim(&*next, after, due_us).await;
        assert_eq!(claimed.len(), if state.is_waiting() { 2 } else { 0 }, "{state:?}");
        let expected = if state == State::Sending { (0, 2) } else { (1, 1) };
        for one in &claimed {
            assert_eq!(
                (one.delivery.attempts, one.delivery.claims),
                expected,
                "{state:?}"
            );
            settle(&*next, settled(&one.delivery, after, State::Sent)).await;
        }
        let end = if state.is_waiting() { State::Sent } else { state };
        for (delivery, attempts) in told(&*next, kept[0].id).await.deliveries {
            assert_eq!(
                (delivery.state, attempts.len()),
                (end, expected.0 as usize),
                "{state:?}"
            );
        }
        // The dead one's last words.
        let late = Settled {
            attempts: vec![attempt("fcm", Outcome::Accepted, NOW + 1)],
            ..settled(&added[0], by, State::Failed)
        };
        settle(&*next, late).await;
        for (delivery, _) in told(&*next, kept[0].id).await.deliveries {
            assert_eq!(delivery.state, end, "{state:?}");
        }
        next.close().await;
    }
}
