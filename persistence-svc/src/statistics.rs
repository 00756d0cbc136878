//! Statistics: a follower counts what is said, this module says how long sums are kept, and forgets the others. What gateways
//! delivered they report themselves ([`crate::service`]).

mod counting;

use std::sync::Arc;
use std::time::Duration;

use switchboard_service_kit::config::Document;

pub use self::counting::Counting;
use crate::store::statistics::{Forgotten, Period};
use crate::store::{Store, StoreError};

/// The follower's name.
pub const FOLLOWER: &str = "statistics";

/// How long after the end of a period messages of it are still told apart: clocks differ, and logs are read late.
const LATE: Duration = Duration::from_secs(86_400);

/// How long minutes are kept.
const MINUTES: Duration = Duration::from_secs(2 * 86_400);

/// How long counts of channels by day are kept: the longest range that is told by days, and a day more.
const CHANNEL_DAYS: Duration = Duration::from_secs(15 * 86_400);

/// The section `[persistence.statistics]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatisticsSettings {
    /// How long sums of hours are kept.
    pub hours: Duration,
    /// How long sums of days and months are kept.
    pub days: Duration,
    /// Channels of each day and month that are kept, once it is over.
    pub channels: u64,
    /// Users and channels that a process knows to be counted, so that the store is not asked, at most.
    pub known: usize,
    /// Streams over gRPC, at most.
    pub watches: usize,
}

impl StatisticsSettings {
    /// `None`: nothing is counted.
    pub(crate) fn read(document: &mut Document) -> Option<Self> {
        let day = Duration::from_secs(86_400);
        let mut section = document.section("persistence.statistics");
        let enabled = section.boolean(
            "enabled",
            true,
            "Whether is counted what is said, by how many, and how fast it arrives. Counting comes after storing: under load it lags.",
        );
        let hours = section.duration(
            "hours",
            400 * day,
            2 * day..=10_000 * day,
            "How long sums of hours are kept.",
        );
        let days = section.duration(
            "days",
            1_830 * day,
            32 * day..=10_000 * day,
            "How long sums of days and months are kept.",
        );
        let channels = section.integer(
            "channels",
            10_000,
            100..=1_000_000,
            "Channels of each day and month whose messages stay counted once it is over: the busiest.",
        );
        let known = section.integer(
            "known",
            200_000,
            1_000..=10_000_000,
            "Users and channels of an hour, day or month that one process knows to be counted, about 50 bytes each; for others it asks the store.",
        );
        let watches = section.integer(
            "watches",
            64,
            1..=10_000,
            "Streams of statistics over gRPC at a time, at most; a further one is refused with RESOURCE_EXHAUSTED.",
        );
        let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
        enabled.then_some(Self {
            hours,
            days,
            channels,
            known: size(known),
            watches: size(watches),
        })
    }

    /// Forgets what is over; `now` in Unix seconds. How many rows that were.
    ///
    /// # Errors
    /// [`StoreError`]; the rest is forgotten the next time.
    pub async fn forget(&self, store: &Arc<dyn Store>, now: u64) -> Result<u64, StoreError> {
        let before = |kept: Duration| now.saturating_sub(kept.as_secs());
        let mut settled = before(LATE);
        // What is not counted yet, such as all that was stored before statistics were switched on, may be of any time.
        for behind in store.behind(FOLLOWER).await? {
            let log = (behind.shard, behind.log);
            let next = store.log_rows(log, behind.done_to, behind.stored_to, 1).await?;
            if let Some(next) = next.first() {
                settled = settled.min(next.time_us / 1_000_000);
            }
        }
        let over = Forgotten {
            minutes: before(MINUTES),
            hours: before(self.hours),
            days: before(self.days),
            channel_days: before(CHANNEL_DAYS),
            settled,
            channels: self.channels,
        };
        let mut forgotten = 0;
        loop {
            match store.forget_statistics(&over).await? {
                0 => return Ok(forgotten),
                more => forgotten += more,
            }
        }
    }

    /// Since when sums of a period are kept at `now`, in Unix seconds.
    pub(crate) fn kept_from(&self, period: Period, now: u64) -> u64 {
        now.saturating_sub(match period {
            Period::Minute => MINUTES.as_secs(),
            Period::Hour => self.hours.as_secs(),
            Period::Day | Period::Month => self.days.as_secs(),
        })
    }

    /// The same of counts of channels by day.
    pub(crate) fn channels_kept_from(now: u64) -> u64 {
        now.saturating_sub(CHANNEL_DAYS.as_secs())
    }
}
