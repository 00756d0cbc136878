//! Quiet hours: the times of day at which a user does not want to be told.
//!
//! People think of them by the clock on their wall ("from ten in the evening to seven"), while the queue counts microseconds. Between
//! the two stand time zones whose clocks jump, so the rules of that are kept here, in one place, and the rest of the service only asks
//! until when it must wait. The table of time zones is built in: the answer does not depend on the machine.
//!
//! A period begins on each chosen day at `from`, and ends when the clock next reads `to`. Where clocks are changed, a period is as long
//! as it may be:
//! - a beginning that occurs twice (autumn) is the first of the two, an end that occurs twice is the last;
//! - a beginning or end that does not occur (spring) is the first moment after the gap, so a period that lies wholly in a gap is none.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZoneDatabase};
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Bytes of a time zone's name. The longest that exists has 32.
const LONGEST_NAME: usize = 64;

/// How far ends are joined, in microseconds: eight days, so that whoever is always quiet is asked about once a week.
const LONGEST_JOINED: i64 = 8 * 24 * 3600 * 1_000_000;

/// Why a name is no time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ZoneError {
    #[error("a time zone's name has 1 to 64 bytes, this has {length}")]
    Length { length: usize },
    #[error("there is no time zone {name:?}; names are like Europe/Berlin")]
    Unknown { name: String },
}

/// Why something is no quiet hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum QuietHoursError {
    #[error("{text:?} is no time of day from 00:00 to 23:59")]
    Time {
        /// Its first 16 characters.
        text: String,
    },
    #[error("quiet hours begin and end at {at}: they need two different times")]
    Empty { at: String },
}

/// A time zone of the IANA database.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct TimeZone {
    name: String,
    zone: jiff::tz::TimeZone,
}

impl TimeZone {
    /// The moment at which `clock` is read, in unix microseconds. Of a reading that occurs twice the one that `twice` says; for one that
    /// does not occur, the first moment after the gap. `None` where time as we count it ends.
    fn moment_us(&self, clock: DateTime, twice: Twice) -> Option<i64> {
        let found = self.zone.to_ambiguous_timestamp(clock);
        let moment = match found.offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(clock).ok()?,
            AmbiguousOffset::Fold { before, after } => match twice {
                Twice::First => before.to_timestamp(clock).ok()?,
                Twice::Last => after.to_timestamp(clock).ok()?,
            },
            AmbiguousOffset::Gap { before, after } => {
                // Counted by the new offset the reading lies before the change, by the old one at it or later.
                let earlier = after.to_timestamp(clock).ok()?;
                let later = before.to_timestamp(clock).ok()?;
                self.zone
                    .following(earlier)
                    .take_while(|change| change.timestamp() <= later)
                    .find(|change| change.offset() == after)
                    .map_or(later, |change| change.timestamp())
            }
        };
        Some(moment.as_microsecond())
    }
}

impl FromStr for TimeZone {
    type Err = ZoneError;

    /// By its name in the IANA database, in any case of letters.
    fn from_str(name: &str) -> Result<Self, ZoneError> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(ZoneError::Length { length: name.len() });
        }
        let unknown = || ZoneError::Unknown {
            name: name.to_owned(),
        };
        // The global database would look into the machine's files; this one is in the program.
        let zone = TimeZoneDatabase::bundled().get(name).map_err(|_| unknown())?;
        if zone.is_unknown() {
            return Err(unknown());
        }
        let name = zone.iana_name().ok_or_else(unknown)?.to_owned();
        Ok(Self { name, zone })
    }
}

impl TryFrom<String> for TimeZone {
    type Error = ZoneError;

    fn try_from(name: String) -> Result<Self, ZoneError> {
        name.parse()
    }
}

impl From<TimeZone> for String {
    fn from(zone: TimeZone) -> Self {
        zone.name
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimeZone({})", self.name)
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    pub(crate) const ALL: [Self; 7] = [
        Self::Mon,
        Self::Tue,
        Self::Wed,
        Self::Thu,
        Self::Fri,
        Self::Sat,
        Self::Sun,
    ];

    fn of(date: Date) -> Self {
        match date.weekday() {
            Weekday::Monday => Self::Mon,
            Weekday::Tuesday => Self::Tue,
            Weekday::Wednesday => Self::Wed,
            Weekday::Thursday => Self::Thu,
            Weekday::Friday => Self::Fri,
            Weekday::Saturday => Self::Sat,
            Weekday::Sunday => Self::Sun,
        }
    }
}

/// Which of two moments at which the clock reads the same.
#[derive(Clone, Copy)]
enum Twice {
    First,
    Last,
}

/// From when to when, and on which days that begins.
///
/// In JSON `{"from":"22:00","to":"07:00","days":["fri","sat"]}`; without days, or with none, every day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub(crate) struct QuietHours {
    from: Time,
    /// Never equal to `from`; on the next day when earlier.
    to: Time,
    /// Never empty.
    days: BTreeSet<Day>,
}

impl QuietHours {
    /// From and to as `HH:MM`, 00:00 to 23:59; `days` are those on which the period begins, none means every day.
    ///
    /// # Errors
    /// For what is no time of day, and for two equal times: they could mean always or never.
    pub(crate) fn parse(
        from: &str,
        to: &str,
        days: impl IntoIterator<Item = Day>,
    ) -> Result<Self, QuietHoursError> {
        let hours = Self {
            from: time_of_day(from)?,
            to: time_of_day(to)?,
            days: days.into_iter().collect(),
        };
        if hours.from == hours.to {
            return Err(QuietHoursError::Empty { at: to.to_owned() });
        }
        Ok(if hours.days.is_empty() {
            Self {
                days: Day::ALL.into(),
                ..hours
            }
        } else {
            hours
        })
    }

    /// The end of the longest period in which `now_us` lies.
    fn period_end_us(&self, zone: &TimeZone, now_us: i64) -> Option<i64> {
        let now = Timestamp::from_microsecond(now_us).ok()?;
        let today = zone.zone.to_datetime(now).date();
        // A period lasts less than a day by the clock, and clocks are put back by up to a day (where the date line moves).
        (-2..=1)
            .filter_map(|days| today.checked_add(Span::new().try_days(days).ok()?).ok())
            .filter(|date| self.days.contains(&Day::of(*date)))
            .filter_map(|date| self.period_us(zone, date))
            .filter(|(start, end)| (*start..*end).contains(&now_us))
            .map(|(_, end)| end)
            .max()
    }

    /// Beginning and end of the period that begins on `date`.
    fn period_us(&self, zone: &TimeZone, date: Date) -> Option<(i64, i64)> {
        let last = if self.to > self.from {
            date
        } else {
            date.tomorrow().ok()?
        };
        Some((
            zone.moment_us(date.to_datetime(self.from), Twice::First)?,
            zone.moment_us(last.to_datetime(self.to), Twice::Last)?,
        ))
    }
}

/// When it is no longer quiet by any of `ranges`, in unix microseconds, later than `now_us`; `None` when it is not quiet at `now_us`.
///
/// Periods that follow each other without a gap count as one, also those of one range on successive days. Moments that no calendar has
/// (after the year 9999) are not quiet. Who has no moment that is not quiet gets an end eight to nine days ahead, at
/// which it is still quiet: whoever waited until then asks again. The time it takes grows with the number of ranges and with that of the
/// periods joined, so whoever stores ranges bounds their number.
pub(crate) fn ends_us_of(ranges: &[QuietHours], zone: &TimeZone, now_us: u64) -> Option<u64> {
    let now = i64::try_from(now_us).ok()?;
    let mut end = None;
    loop {
        let reached = end.unwrap_or(now);
        let next = ranges
            .iter()
            .filter_map(|range| range.period_end_us(zone, reached))
            .max();
        match next {
            // Every step ends later than the one before, as a period's end does not belong to it.
            Some(next) => end = Some(next),
            None => break,
        }
        if reached.saturating_sub(now) > LONGEST_JOINED {
            break;
        }
    }
    end.and_then(|end| u64::try_from(end).ok())
}

/// `HH:MM`, two digits each.
fn time_of_day(text: &str) -> Result<Time, QuietHoursError> {
    let wrong = || QuietHoursError::Time {
        text: text.chars().take(16).collect(),
    };
    let &[h1, h2, b':', m1, m2] = text.as_bytes() else {
        return Err(wrong());
    };
    let two = |tens: u8, ones: u8| {
        let digits = tens.is_ascii_digit() && ones.is_ascii_digit();
        let number = || i8::try_from((tens - b'0') * 10 + (ones - b'0')).ok();
        digits.then(number).flatten()
    };
    let (Some(hour), Some(minute)) = (two(h1, h2), two(m1, m2)) else {
        return Err(wrong());
    };
    Time::new(hour, minute, 0, 0).map_err(|_| wrong())
}

/// As it stands in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    from: String,
    to: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    days: Vec<Day>,
}

impl TryFrom<Written> for QuietHours {
    type Error = QuietHoursError;

    fn try_from(written: Written) -> Result<Self, QuietHoursError> {
        Self::parse(&written.from, &written.to, written.days)
    }
}

impl From<QuietHours> for Written {
    fn from(hours: QuietHours) -> Self {
        let text = |time: Time| format!("{:02}:{:02}", time.hour(), time.minute());
        let is_daily = hours.days.len() == Day::ALL.len();
        Self {
            from: text(hours.from),
            to: text(hours.to),
            days: if is_daily {
                Vec::new()
            } else {
                hours.days.into_iter().collect()
            },
        }
    }
}
