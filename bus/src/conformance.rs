//! The suite every backend must pass: the contracts of [`crate::Bus`] and [`crate::Log`] as tests.
//!
//! A backend's tests implement [`BusFixture`] and [`LogFixture`] and call [`crate::bus_conformance`]
//! and [`crate::log_conformance`], which make a test of each case.

pub mod bus;
pub mod log;
pub mod readers;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use switchboard_proto::bus::Layout;
use switchboard_proto::ids::{SHARD_HASH, ShardId};

use crate::{Bus, Log};

/// A bus to test.
#[async_trait]
pub trait BusFixture: Send + Sized {
    /// A bus that nobody is on.
    async fn start() -> Self;

    /// Joins the bus as one more process would.
    async fn connect(&self) -> Arc<dyn Bus>;
}

/// A log to test.
#[async_trait]
pub trait LogFixture: Send + Sized {
    /// An empty log without layout, of which each shard takes `max_bytes`.
    async fn start(max_bytes: u64) -> Self;

    /// The log. Several handles may be alive, as several processes', if the backend allows it.
    async fn open(&mut self) -> Arc<dyn Log>;

    /// Takes back the only handle, ends whatever the backend has in this process, and opens the
    /// log again as a new process would.
    async fn reopen(&mut self, log: Arc<dyn Log>) -> Arc<dyn Log>;

    /// Takes back the only handle, replaces the logs by empty ones of another epoch, and opens them.
    async fn begin_anew(&mut self, log: Arc<dyn Log>) -> Arc<dyn Log>;
}

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits, but not for ever.
///
/// # Panics
/// If `future` is not ready in time.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// A layout of so many shards.
pub fn layout(shards: u32) -> Layout {
    Layout {
        shards,
        hash: SHARD_HASH.to_owned(),
        created_us: 1,
        ..Layout::default()
    }
}

/// A shard by its number.
///
/// # Panics
/// If no layout could have it.
pub fn shard(number: u32) -> ShardId {
    ShardId::new(number).unwrap()
}

/// Makes a test of each case of the bus's suite.
#[macro_export]
macro_rules! bus_conformance {
    ($fixture:ty) => {
        $crate::bus_conformance!(
            $fixture:
            messages_keep_their_publishers_order,
            subscribing_takes_effect_before_it_returns,
            full_queue_drops_the_newest_and_tells,
            group_shares_messages,
            wildcard_covers_all_shards,
            dropped_subscription_ends,
            request_is_answered,
            request_without_listener_fails_at_once,
            request_without_answer_times_out,
            late_answer_is_lost_without_harm,
            too_large_payload_is_refused,
        );
    };
    ($fixture:ty: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = <$fixture as $crate::conformance::BusFixture>::start().await;
                $crate::conformance::bus::$case(&fixture).await;
            }
        )*
    };
}

/// Makes a test of each case of the log's suite.
#[macro_export]
macro_rules! log_conformance {
    ($fixture:ty) => {
        $crate::log_conformance!(
            $fixture: log:
            nothing_is_there_before_it_is_created,
            layout_is_created_once,
            concurrent_creators_agree,
            another_log_begins_anew_and_apart,
            layout_is_changed_by_one_at_a_time,
            appends_follow_each_other,
            append_elsewhere_is_refused_and_nothing_stored,
            of_racing_writers_exactly_one_wins,
            shards_are_independent,
            many_writers_at_once_lose_nothing,
            bounds_are_told,
            get_finds_what_is_there,
            reader_goes_from_store_to_live,
            reader_begins_after_what_was_purged,
            reader_waits_for_a_place_beyond_the_end,
            reader_overtaken_by_a_purge_is_told,
            purge_keeps_the_last_record,
            too_large_record_is_refused_before_anything,
            full_log_refuses_and_stores_nothing,
            reopened_log_has_everything,
        );
        $crate::log_conformance!(
            $fixture: readers:
            unknown_reader_has_no_position,
            position_moves_when_told,
            position_never_moves_back,
            racing_commits_only_move_forward,
            commit_beyond_the_end_is_refused,
            reader_goes_on_after_a_purge,
            readers_of_many_shards_are_apart,
            position_survives_reopening,
            another_log_is_read_from_its_beginning,
            a_batch_that_fails_comes_again,
            dead_replicas_shards_are_taken_over,
            replicas_share_the_shards,
            reader_begins_with_another_log,
            running_reader_follows_another_log,
        );
    };
    ($fixture:ty: $suite:ident: $($case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let max_bytes = $crate::conformance::log::MAX_BYTES;
                let mut fixture = <$fixture as $crate::conformance::LogFixture>::start(max_bytes).await;
                $crate::conformance::$suite::$case(&mut fixture).await;
            }
        )*
    };
}
