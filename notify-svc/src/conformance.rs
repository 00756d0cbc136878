//! The suite every notification store must pass: the contract of [`crate::store::NotifyStore`] as tests. What is lost or sent twice
//! here nobody notices until a user complains, so each backend runs the same cases.
//!
//! A backend's tests implement [`StoreFixture`] and call [`crate::store_conformance`], which makes a test of each case.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a suite of tests, compiled for tests only"
)]

mod keeping;
mod looking;
mod queue;
mod settling;
mod users;

use std::sync::Arc;

use async_trait::async_trait;
use switchboard_proto::notifications as wire;
use uuid::Uuid;

pub use self::keeping::*;
pub use self::looking::*;
pub use self::queue::*;
pub use self::settling::*;
pub use self::users::*;
use crate::model::{Attempt, Delivery, Notification, Outcome, Priority, State, Unless, Way};
use crate::store::{Claim, Claimed, Enqueued, Kept, NotifyStore, Settled, Told};

/// A store to test.
#[async_trait]
pub trait StoreFixture: Send + Sync + Sized {
    /// An empty database without a schema.
    async fn start() -> Self;

    /// Opens it as one more process would.
    fn open(&self) -> Arc<dyn NotifyStore>;
}

const SECOND: u64 = 1_000_000;

/// How long a claim lasts.
const LEASE: u64 = 60 * SECOND;

/// The suite's now. Stores have no clock.
const NOW: u64 = 1_700_000_000 * SECOND;

async fn opened(fixture: &impl StoreFixture) -> Arc<dyn NotifyStore> {
    let store = fixture.open();
    store.migrate().await.unwrap();
    store
}

/// A notification with a delivery on each way, due now.
fn enqueued(user: &str, ways: &[Way]) -> Enqueued {
    let id = Uuid::now_v7();
    let notification = Notification {
        id,
        content: wire::Notification {
            user: user.to_owned(),
            category: "general".to_owned(),
            title: "A title".to_owned(),
            ..wire::Notification::default()
        },
        said: None,
        created_us: NOW,
        expires_us: 0,
        shown_us: 0,
        seen_us: 0,
        read_us: 0,
    };
    let deliveries = ways
        .iter()
        .map(|way| Delivery {
            id: Uuid::now_v7(),
            notification: id,
            user: user.to_owned(),
            way: *way,
            device: String::new(),
            unless: Unless::Never,
            state: State::Queued,
            reason: String::new(),
            advance_us: 0,
            due_us: NOW,
            attempts: 0,
            claims: 0,
            digest: None,
        })
        .collect();
    Enqueued {
        notification,
        deliveries,
        digest_most: 0,
    }
}

/// One of which a delivery is due then.
fn due(user: &str, due_us: u64, priority: Priority) -> Enqueued {
    let mut enqueued = enqueued(user, &[Way::Push]);
    enqueued.deliveries[0].due_us = due_us;
    enqueued.deliveries[0].advance_us = priority.advance_us();
    if due_us > NOW {
        enqueued.deliveries[0].state = State::Held;
    }
    enqueued
}

fn with_key(user: &str, key: &str) -> Enqueued {
    let mut enqueued = enqueued(user, &[Way::Push]);
    key.clone_into(&mut enqueued.notification.content.idempotency_key);
    enqueued
}

async fn keep(store: &dyn NotifyStore, batch: &[Enqueued]) -> Vec<Kept> {
    store.enqueue(batch, None).await.unwrap()
}

fn claim_of(by: Uuid, now_us: u64, limit: usize) -> Claim {
    Claim {
        by,
        now_us,
        until_us: now_us + LEASE,
        limit,
    }
}

async fn claim(store: &dyn NotifyStore, by: Uuid, now_us: u64) -> Vec<Claimed> {
    store.claim(claim_of(by, now_us, 1_000)).await.unwrap()
}

/// Claims the only delivery that is due now.
async fn claim_one(store: &dyn NotifyStore, by: Uuid) -> Claimed {
    let mut claimed = claim(store, by, NOW).await;
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

fn attempt(provider: &str, outcome: Outcome, time_us: u64) -> Attempt {
    Attempt {
        time_us,
        provider: provider.to_owned(),
        outcome,
        reason: "said so".to_owned(),
        reference: "ref".to_owned(),
        latency_ms: 20,
    }
}

fn settled(delivery: &Delivery, by: Uuid, state: State) -> Settled {
    Settled {
        delivery: delivery.id,
        by,
        state,
        reason: "settled".to_owned(),
        due_us: 0,
        since_us: None,
        attempts: Vec::new(),
        reference: None,
        shown: false,
        counted: None,
        now_us: NOW + SECOND,
    }
}

async fn settle(store: &dyn NotifyStore, settled: Settled) {
    store.settle(&[settled]).await.unwrap();
}

async fn told(store: &dyn NotifyStore, id: Uuid) -> Told {
    store.told(id).await.unwrap().unwrap()
}

/// The only delivery of a notification.
async fn delivery(store: &dyn NotifyStore, id: Uuid) -> Delivery {
    let mut told = told(store, id).await;
    assert_eq!(told.deliveries.len(), 1);
    told.deliveries.remove(0).0
}

/// Shows notifications of a user, one a second from then on.
async fn show(store: &dyn NotifyStore, user: &str, count: u64, from_us: u64) -> Vec<Uuid> {
    let by = Uuid::now_v7();
    let mut shown = Vec::new();
    for index in 0..count {
        let kept = keep(store, &[enqueued(user, &[Way::InApp])]).await;
        let claimed = claim_one(store, by).await;
        let seen = Settled {
            shown: true,
            now_us: from_us + index * SECOND,
            ..settled(&claimed.delivery, by, State::Sent)
        };
        settle(store, seen).await;
        shown.push(kept[0].id);
    }
    shown
}

/// Makes dead letters, one a second from then on. Answers with the notifications and their deliveries.
async fn fail(store: &dyn NotifyStore, user: &str, count: u64, from_us: u64) -> Vec<(Uuid, Uuid)> {
    let by = Uuid::now_v7();
    let mut failed = Vec::new();
    for index in 0..count {
        let kept = keep(store, &[enqueued(user, &[Way::Push])]).await;
        let claimed = claim_one(store, by).await;
        let dead = Settled {
            now_us: from_us + index * SECOND,
            attempts: vec![attempt("fcm", Outcome::Refused, NOW)],
            ..settled(&claimed.delivery, by, State::Failed)
        };
        settle(store, dead).await;
        failed.push((kept[0].id, claimed.delivery.id));
    }
    failed
}

/// Queues deliveries for a test of one backend.
pub async fn queue_some(store: &dyn NotifyStore, count: usize) {
    let batch: Vec<Enqueued> = (0..count).map(|_| enqueued("alice", &[Way::Push])).collect();
    keep(store, &batch).await;
}

/// Claims all that can be claimed, for a test of one backend.
pub async fn claim_all(store: &dyn NotifyStore) -> usize {
    claim(store, Uuid::now_v7(), NOW).await.len()
}

/// Without its schema a store says what to do; several processes may make it at once.
pub async fn schema_is_made_once_by_whoever_comes(fixture: &impl StoreFixture) {
    let stores = [fixture.open(), fixture.open(), fixture.open()];
    let missing = stores[0].check().await.unwrap_err();
    assert!(missing.to_string().contains("switchboard migrate"), "{missing}");
    let (one, two, three) = tokio::join!(stores[0].migrate(), stores[1].migrate(), stores[2].migrate());
    for migrated in [one, two, three] {
        migrated.unwrap();
    }
    stores[1].check().await.unwrap();
    let kept = keep(&*stores[2], &[enqueued("alice", &[Way::Push])]).await;
    stores[2].migrate().await.unwrap();
    assert_eq!(told(&*stores[0], kept[0].id).await.deliveries.len(), 1);
    stores[0].check().await.unwrap();
}

/// Makes a test of each case.
#[macro_export]
macro_rules! store_conformance {
    ($fixture:ty) => {
        $crate::store_conformance!(
            $fixture:
            schema_is_made_once_by_whoever_comes,
            what_is_kept_is_told_as_it_was,
            hostile_texts_come_back,
            a_batch_is_kept_whole_or_not_at_all,
            a_key_counts_once_for_each_user,
            a_key_counts_once_within_a_batch,
            a_key_counts_once_whoever_races,
            what_is_handed_in_again_is_a_duplicate,
            progress_is_kept_with_its_batch_and_never_goes_back,
            only_what_is_due_is_claimed,
            the_urgent_go_first_and_nothing_starves,
            claims_have_a_limit,
            claimers_never_share_a_delivery,
            a_claim_that_is_over_is_anothers,
            only_what_waits_is_cancelled,
            each_device_has_its_own_delivery,
            a_stale_holder_spreads_nothing,
            a_digest_is_due_with_its_first,
            a_full_digest_is_due_at_once,
            a_digest_is_claimed_whole_and_alone,
            a_digest_takes_the_place_of_its_parts,
            a_stolen_part_stops_the_digest,
            each_state_is_settled,
            attempts_are_recorded_and_counted,
            what_is_settled_again_is_written_once,
            who_settles_late_changes_only_the_attempts,
            what_nobody_else_has_claimed_is_settled_late,
            what_is_shown_is_shown_once,
            what_is_sent_is_counted_by_the_hour,
            replicas_settle_at_the_same_time,
            reports_follow_what_was_sent,
            any_state_goes_on_after_a_crash,
            inbox_has_pages,
            news_are_counted_and_marked,
            marks_touch_nobody_else,
            preferences_replace_each_other,
            mutes_end_and_are_limited,
            devices_are_kept_and_limited,
            a_token_is_one_place,
            a_device_may_be_kept_by_several_at_once,
            a_device_fails_and_works,
            templates_are_kept_and_limited,
            who_is_forgotten_leaves_nothing,
            dead_letters_have_pages,
            dead_letters_are_retried_or_dropped,
            sums_are_of_a_time,
            what_waits_is_counted,
            only_what_is_old_and_over_is_purged,
        );
    };
    ($fixture:ty: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = <$fixture as $crate::conformance::StoreFixture>::start().await;
                $crate::conformance::$case(&fixture).await;
            }
        )*
    };
}
