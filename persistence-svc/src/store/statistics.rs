//! Statistics: how much was said, by how many, where most, and how fast it arrived, as sums over periods of time.
//!
//! What is made of messages is counted by a follower, in one transaction with its position: each message counts once. What gateways
//! delivered they report by number, and each report counts once. Sums are kept, not what they are of; different users and channels
//! are told apart by hashes that are forgotten when nothing more is to be counted of their period.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Serialize;
use switchboard_bus::statistics::Latency;
use time::OffsetDateTime;

use super::{Step, StoreError};

pub(super) mod sql;

/// Rows of one answer, at most.
pub const MAX_POINTS: usize = 20_000;

/// Channels of one answer, at most.
pub const MAX_TOP: usize = 1_000;

/// Rows of sums, and of what is told apart, that one call removes, at most.
pub(super) const FORGOTTEN: i64 = 10_000;

/// What the store counts. Calls are bounded in time, and cancel safe, as those of [`MessageStore`](super::MessageStore).
#[async_trait]
pub trait StatisticsStore: Send + Sync + 'static {
    /// Adds what was counted in the step of a follower, and moves its position, in one transaction. `false`: the position is elsewhere,
    /// and nothing was added.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was added or, where the answer was lost, everything.
    async fn count(&self, step: &Step, counted: &Counted) -> Result<bool, StoreError>;

    /// Adds what a gateway delivered. `false`: a report of this number, or a later one, was added before.
    ///
    /// # Errors
    /// [`StoreError`]; report again under the same number.
    async fn add_deliveries(&self, report: &Report) -> Result<bool, StoreError>;

    /// Namespaces of which something is counted, by name, and [`ALL`](switchboard_bus::statistics::ALL).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn counted_namespaces(&self) -> Result<Vec<String>, StoreError>;

    /// Sums by namespace and time, [`MAX_POINTS`] at most.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn points(&self, span: &Span, namespaces: &[String]) -> Result<Points, StoreError>;

    /// Channels with most messages, most first, [`MAX_TOP`] at most; of one namespace, or of all.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn top_channels(
        &self,
        span: &Span,
        namespace: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, u64)>, StoreError>;

    /// Removes what is over: sums of each kind that begin before these Unix seconds, and what told users and channels apart. Of periods
    /// that are over, channels that are not among the busiest. A call removes some, and says how many; call it until these are none.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn forget_statistics(&self, over: &Forgotten) -> Result<u64, StoreError>;
}

/// A stretch of time that is counted as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// Of messages and deliveries alone.
    Minute,
    /// Of UTC, as all.
    Hour,
    /// A day.
    Day,
    /// Of the calendar.
    Month,
}

impl Period {
    /// All, the shortest first.
    pub const EACH: [Self; 4] = [Self::Minute, Self::Hour, Self::Day, Self::Month];

    /// As the database has it.
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Minute => 1,
            Self::Hour => 2,
            Self::Day => 3,
            Self::Month => 4,
        }
    }

    /// Whether different users and channels are counted.
    pub(crate) fn tells_apart(self) -> bool {
        self != Self::Minute
    }

    /// The beginning of the period in which a time lies; both in Unix seconds.
    pub fn begin(self, at: u64) -> u64 {
        match self {
            Self::Minute => at - at % 60,
            Self::Hour => at - at % 3_600,
            Self::Day => at - at % DAY,
            Self::Month => month(at),
        }
    }

    /// The beginning of the one behind that which begins at `begin`.
    pub fn next(self, begin: u64) -> u64 {
        match self {
            Self::Minute => begin + 60,
            Self::Hour => begin + 3_600,
            Self::Day => begin + DAY,
            // No month is longer, and two are never as short.
            Self::Month => month(begin + 31 * DAY),
        }
    }
}

/// Seconds.
const DAY: u64 = 86_400;

/// The beginning of the month in which a time lies.
fn month(at: u64) -> u64 {
    let day = i64::try_from(at)
        .ok()
        .and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    let first = day.and_then(|day| day.date().replace_day(1).ok());
    // Only times that no clock tells have no month.
    first.map_or(at, |first| {
        u64::try_from(first.midnight().assume_utc().unix_timestamp()).unwrap_or(0)
    })
}

/// What a follower counted, in the order in which it is written: two that write the same rows never wait for each other in a circle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// Who and what is to be told apart.
    pub seen: Vec<Seen>,
    /// Messages by period, its beginning, and channel, with the channel's namespace.
    pub channels: BTreeMap<(Period, u64, String), (String, u64)>,
    /// Messages and their bytes by period, namespace, and the period's beginning.
    pub sums: BTreeMap<(Period, String, u64), (u64, u64)>,
}

/// A user, or a channel, in a period of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seen {
    /// How long.
    pub period: Period,
    /// Since when, in Unix seconds.
    pub at: u64,
    /// Where.
    pub namespace: String,
    /// Which of them.
    pub kind: Kind,
    /// Its name's.
    pub hash: i64,
}

/// What is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Who said or changed something.
    User,
    /// Where something was said.
    Channel,
}

impl Kind {
    pub(super) fn number(self) -> i64 {
        match self {
            Self::User => 1,
            Self::Channel => 2,
        }
    }
}

/// What a gateway delivered since its report before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// This life of the gateway.
    pub gateway: String,
    /// Of the report; they grow.
    pub number: u64,
    /// When, in Unix seconds.
    pub at: u64,
    /// Latencies by namespace.
    pub deliveries: BTreeMap<String, Latency>,
}

/// Periods that begin at `from` or later and before `to`, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Of which length.
    pub period: Period,
    /// From when on.
    pub from: u64,
    /// Until when.
    pub to: u64,
}

/// Sums by namespace and the period's beginning.
pub type Points = BTreeMap<(String, u64), Point>;

/// The sums of one namespace and period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Point {
    /// Messages that were said.
    pub messages: u64,
    /// Of their payloads.
    pub bytes: u64,
    /// Different users.
    pub users: u64,
    /// Different channels.
    pub channels: u64,
    /// Deliveries.
    pub latency: Latency,
}

/// What is over. Times in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Sums of minutes that begin before.
    pub minutes: u64,
    /// Of hours.
    pub hours: u64,
    /// Of days and months.
    pub days: u64,
    /// Counts of channels by day.
    pub channel_days: u64,
    /// Nothing more is counted before: who was told apart in periods that are over by then is forgotten, and so are channels that are
    /// not among the busiest.
    pub settled: u64,
    /// Channels of a period that is over, at most.
    pub channels: u64,
}

impl Forgotten {
    /// Before when sums of a period are over.
    pub(super) fn before(&self, period: Period) -> u64 {
        match period {
            Period::Minute => self.minutes,
            Period::Hour => self.hours,
            Period::Day | Period::Month => self.days,
        }
    }
}

/// A row as both databases are given it, in JSON.
#[derive(Debug, Default, Serialize)]
pub(super) struct Given<'a> {
    pub(super) period: i64,
    pub(super) at: i64,
    pub(super) namespace: &'a str,
    pub(super) kind: i64,
    pub(super) hash: i64,
    pub(super) channel: &'a str,
    pub(super) messages: i64,
    pub(super) bytes: i64,
    pub(super) users: i64,
    pub(super) channels: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-26 15:04:05.
    const NOW: u64 = 1_795_705_445;

    #[test]
    fn periods_begin_where_the_clock_and_the_calendar_say() {
        assert_eq!(Period::Minute.begin(NOW), 1_795_705_440);
        assert_eq!(Period::Hour.begin(NOW), 1_795_705_200);
        assert_eq!(Period::Day.begin(NOW), 1_795_651_200);
        assert_eq!(Period::Month.begin(NOW), 1_793_491_200, "2026-11-01");
        assert_eq!(Period::Month.next(1_793_491_200), 1_796_083_200, "2026-12-01");
        assert_eq!(Period::Month.next(1_796_083_200), 1_798_761_600, "2027-01-01");
    }

    #[test]
    fn months_follow_each_other_through_leap_years() {
        let mut begin = 0;
        let mut days = Vec::new();
        for _ in 0..12 * 140 {
            let next = Period::Month.next(begin);
            assert_eq!(Period::Month.begin(next - 1), begin);
            assert_eq!(Period::Month.begin(next), next);
            days.push((next - begin) / DAY);
            begin = next;
        }
        let february = |year: usize| days[(year - 1970) * 12 + 1];
        assert_eq!([2023, 2024, 2000, 2100].map(february), [28, 29, 29, 28]);
        assert_eq!(days.iter().sum::<u64>(), 140 * 365 + 34, "from 1970 to 2110");
    }
}
