use jiff::civil::date;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const MINUTE: i64 = 60_000_000;

impl QuietHours {
    fn ends_us(&self, zone: &TimeZone, now_us: u64) -> Option<u64> {
        ends_us_of(std::slice::from_ref(self), zone, now_us)
    }
}

fn zone(name: &str) -> TimeZone {
    name.parse().unwrap()
}

fn hours(from: &str, to: &str) -> QuietHours {
    QuietHours::parse(from, to, []).unwrap()
}

/// A moment written with its offset, in unix microseconds.
fn at(text: &str) -> u64 {
    let moment: Timestamp = text.parse().unwrap();
    u64::try_from(moment.as_microsecond()).unwrap()
}

fn shown(us: Option<u64>) -> Option<String> {
    us.map(|us| {
        Timestamp::from_microsecond(i64::try_from(us).unwrap())
            .unwrap()
            .to_string()
    })
}

#[track_caller]
fn ends(hours: &QuietHours, zone_name: &str, now: &str, expected: Option<&str>) {
    let found = hours.ends_us(&zone(zone_name), at(now));
    assert_eq!(shown(found), shown(expected.map(at)), "{zone_name} at {now}");
}

#[test]
fn zones_are_known_by_name_in_any_case() {
    assert_eq!(zone("europe/berlin").to_string(), "Europe/Berlin");
    assert_eq!(zone("UTC").to_string(), "UTC");
    assert_eq!(zone("Asia/Kathmandu").to_string(), "Asia/Kathmandu");
    for bad in [
        "Mars/Olympus",
        "localtime",
        "/etc/localtime",
        "../etc/passwd",
        ":Europe/Berlin",
        "Etc/Unknown",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "+01:00",
        "Europe/Berlin ",
        "Europe/Berlin\0",
    ] {
        assert_eq!(
            bad.parse::<TimeZone>(),
            Err(ZoneError::Unknown { name: bad.into() }),
        );
    }
    assert_eq!("".parse::<TimeZone>(), Err(ZoneError::Length { length: 0 }));
    assert_eq!(
        "x".repeat(65).parse::<TimeZone>(),
        Err(ZoneError::Length { length: 65 })
    );
}

#[test]
fn zones_are_strings_in_json() {
    let read: TimeZone = serde_json::from_value(json!("america/new_york")).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), json!("America/New_York"));
    assert!(serde_json::from_value::<TimeZone>(json!("Nowhere")).is_err());
    assert!(serde_json::from_value::<TimeZone>(json!(1)).is_err());
}

#[test]
fn times_have_two_digits_each_and_differ() {
    for bad in [
        "24:00",
        "12:60",
        "7:00",
        "07:0",
        "0700",
        "07:00:00",
        "-1:00",
        "+1:00",
        "",
        "07 00",
        "ab:cd",
        "０７:00",
        "/0:00",
    ] {
        assert!(
            matches!(
                QuietHours::parse(bad, "08:00", []),
                Err(QuietHoursError::Time { .. })
            ),
            "{bad}"
        );
        assert!(QuietHours::parse("08:00", bad, []).is_err(), "{bad}");
    }
    assert_eq!(
        QuietHours::parse("08:00", "08:00", []),
        Err(QuietHoursError::Empty { at: "08:00".into() })
    );
    let long = QuietHours::parse(&"9".repeat(1000), "08:00", []).unwrap_err();
    assert!(long.to_string().len() < 100);
}

#[test]
fn json_is_read_and_written() {
    let read = |value| serde_json::from_value::<QuietHours>(value);
    let night = read(json!({"from": "22:00", "to": "07:05", "days": ["tue", "mon", "tue"]})).unwrap();
    assert_eq!(
        serde_json::to_value(&night).unwrap(),
        json!({"from": "22:00", "to": "07:05", "days": ["mon", "tue"]})
    );
    let daily = json!({"from": "22:00", "to": "07:00"});
    for same in [
        daily.clone(),
        json!({"from": "22:00", "to": "07:00", "days": []}),
        json!({"from": "22:00", "to": "07:00", "days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}),
    ] {
        let read = read(same).unwrap();
        assert_eq!(read, hours("22:00", "07:00"));
        assert_eq!(serde_json::to_value(&read).unwrap(), daily);
    }
    for bad in [
        json!({"from": "22:00"}),
        json!({"from": "22:00", "to": "22:00"}),
        json!({"from": "22:00", "to": "07:00", "zone": "UTC"}),
        json!({"from": "22:00", "to": "07:00", "days": ["monday"]}),
        json!({"from": 22, "to": "07:00"}),
    ] {
        assert!(read(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn a_night_ends_on_the_next_morning() {
    let night = hours("22:00", "07:00");
    let berlin = "Europe/Berlin";
    ends(&night, berlin, "2026-01-15T21:59:59.999999+01:00", None);
    let morning = Some("2026-01-16T07:00:00+01:00");
    ends(&night, berlin, "2026-01-15T22:00:00+01:00", morning);
    ends(&night, berlin, "2026-01-16T00:00:00+01:00", morning);
    ends(&night, berlin, "2026-01-16T06:59:59.999999+01:00", morning);
    ends(&night, berlin, "2026-01-16T07:00:00+01:00", None);
}

#[test]
fn a_noon_ends_on_the_same_day() {
    let noon = hours("12:00", "13:30");
    ends(&noon, "Asia/Kolkata", "2026-06-01T11:59:00+05:30", None);
    let end = Some("2026-06-01T13:30:00+05:30");
    ends(&noon, "Asia/Kolkata", "2026-06-01T12:00:00+05:30", end);
    ends(&noon, "Asia/Kolkata", "2026-06-01T13:30:00+05:30", None);
}

#[test]
fn days_are_those_of_the_beginning() {
    // 2026-01-16 was a Friday.
    let friday = QuietHours::parse("22:00", "07:00", [Day::Fri]).unwrap();
    ends(&friday, "UTC", "2026-01-16T06:00:00Z", None);
    let end = Some("2026-01-17T07:00:00Z");
    ends(&friday, "UTC", "2026-01-16T23:00:00Z", end);
    ends(&friday, "UTC", "2026-01-17T06:00:00Z", end);
    ends(&friday, "UTC", "2026-01-17T23:00:00Z", None);
    // The day is that of the user's wall, not of Greenwich: in Auckland it is Friday already.
    let end = Some("2026-01-17T07:00:00+13:00");
    ends(&friday, "Pacific/Auckland", "2026-01-16T10:00:00Z", end);
    ends(&friday, "Pacific/Auckland", "2026-01-15T10:00:00Z", None);
}

#[test]
fn what_does_not_exist_in_spring_is_the_first_moment_after() {
    // On 2026-03-29 the clock went from 02:00 to 03:00.
    let berlin = "Europe/Berlin";
    let change = "2026-03-29T03:00:00+02:00";
    ends(
        &hours("22:00", "02:30"),
        berlin,
        "2026-03-29T01:59:59+01:00",
        Some(change),
    );
    ends(&hours("22:00", "02:30"), berlin, change, None);
    ends(
        &hours("22:00", "02:00"),
        berlin,
        "2026-03-29T01:59:59+01:00",
        Some(change),
    );
    let end = Some("2026-03-29T07:00:00+02:00");
    ends(&hours("02:30", "07:00"), berlin, change, end);
    ends(
        &hours("02:30", "07:00"),
        berlin,
        "2026-03-29T01:59:59+01:00",
        None,
    );
    // Wholly in the gap: no period.
    ends(&hours("02:15", "02:45"), berlin, change, None);
    ends(
        &hours("02:15", "02:45"),
        berlin,
        "2026-03-29T01:59:59.999999+01:00",
        None,
    );
    // The night is an hour shorter.
    ends(&hours("22:00", "07:00"), berlin, "2026-03-28T22:00:00+01:00", end);
}

#[test]
fn of_what_occurs_twice_in_autumn_the_beginning_is_the_first_and_the_end_the_last() {
    // On 2026-10-25 the clock went from 03:00 to 02:00.
    let berlin = "Europe/Berlin";
    let end = Some("2026-10-25T02:30:00+01:00");
    ends(&hours("22:00", "02:30"), berlin, "2026-10-25T02:29:00+02:00", end);
    ends(&hours("22:00", "02:30"), berlin, "2026-10-25T02:45:00+02:00", end);
    ends(
        &hours("22:00", "02:30"),
        berlin,
        "2026-10-25T02:30:00+01:00",
        None,
    );
    let end = Some("2026-10-25T07:00:00+01:00");
    ends(
        &hours("02:30", "07:00"),
        berlin,
        "2026-10-25T02:29:00+02:00",
        None,
    );
    ends(&hours("02:30", "07:00"), berlin, "2026-10-25T02:30:00+02:00", end);
    ends(&hours("02:30", "07:00"), berlin, "2026-10-25T02:15:00+01:00", end);
    // Both in the hour that occurs twice: from its first pass to its second.
    let both = hours("02:15", "02:30");
    let end = Some("2026-10-25T02:30:00+01:00");
    ends(&both, berlin, "2026-10-25T02:15:00+02:00", end);
    ends(&both, berlin, "2026-10-25T02:45:00+02:00", end);
    // The night is an hour longer.
    let end = Some("2026-10-25T07:00:00+01:00");
    ends(&hours("22:00", "07:00"), berlin, "2026-10-24T22:00:00+02:00", end);
}

#[test]
fn odd_changes_of_clocks() {
    // By half an hour: on 2026-10-04 from 02:00 to 02:30.
    ends(
        &hours("22:00", "02:10"),
        "Australia/Lord_Howe",
        "2026-10-04T01:00:00+10:30",
        Some("2026-10-04T02:30:00+11:00"),
    );
    // At midnight: on 2025-04-25 (last Friday) Cairo went from 00:00 to 01:00.
    ends(
        &hours("00:00", "07:00"),
        "Africa/Cairo",
        "2025-04-24T22:00:00Z",
        Some("2025-04-25T04:00:00Z"),
    );
    ends(
        &hours("00:00", "07:00"),
        "Africa/Cairo",
        "2025-04-24T21:59:59Z",
        None,
    );
    // A whole day that did not exist, 2011-12-30: the night before ends when the next day begins.
    ends(
        &hours("22:00", "07:00"),
        "Pacific/Apia",
        "2011-12-29T23:00:00-10:00",
        Some("2011-12-31T07:00:00+14:00"),
    );
    ends(
        &QuietHours::parse("22:00", "07:00", [Day::Thu]).unwrap(),
        "Pacific/Apia",
        "2011-12-29T23:00:00-10:00",
        Some("2011-12-31T00:00:00+14:00"),
    );
}

#[test]
fn a_minute_that_is_not_quiet_separates_days() {
    let long = hours("22:00", "21:59");
    ends(&long, "UTC", "2026-01-15T22:00:00Z", Some("2026-01-16T21:59:00Z"));
    ends(&long, "UTC", "2026-01-16T21:59:00Z", None);
    ends(&long, "UTC", "2026-01-16T21:59:59.999999Z", None);
}

#[test]
fn ranges_without_a_gap_are_joined() {
    let utc = zone("UTC");
    let found = |ranges: &[QuietHours], now| shown(ends_us_of(ranges, &utc, at(now)));
    let evening = hours("20:00", "22:00");
    let night = hours("22:00", "06:00");
    let morning = hours("05:00", "08:00");
    let noon = hours("12:00", "13:00");
    let all = [noon.clone(), morning.clone(), evening.clone(), night.clone()];
    let end = Some("2026-01-16T08:00:00Z".to_owned());
    assert_eq!(found(&all, "2026-01-15T20:00:00Z"), end);
    assert_eq!(found(&all, "2026-01-16T05:30:00Z"), end);
    assert_eq!(found(&all, "2026-01-16T08:00:00Z"), None);
    assert_eq!(
        found(&all, "2026-01-16T12:30:00Z").unwrap(),
        "2026-01-16T13:00:00Z"
    );
    // A minute's gap is a gap.
    assert_eq!(
        found(&[hours("20:00", "21:59"), night], "2026-01-15T20:00:00Z").unwrap(),
        "2026-01-15T21:59:00Z"
    );
    assert_eq!(found(&[], "2026-01-15T20:00:00Z"), None);
}

#[test]
fn days_join_only_where_they_follow() {
    // Friday evening to Monday morning, in two ranges.
    let weekend = [
        QuietHours::parse("18:00", "00:00", [Day::Fri]).unwrap(),
        QuietHours::parse("00:00", "12:00", [Day::Sat, Day::Sun]).unwrap(),
        QuietHours::parse("12:00", "00:00", [Day::Sat, Day::Sun]).unwrap(),
        QuietHours::parse("00:00", "07:00", [Day::Mon]).unwrap(),
    ];
    assert_eq!(
        shown(ends_us_of(&weekend, &zone("UTC"), at("2026-01-16T18:00:00Z"))).unwrap(),
        "2026-01-19T07:00:00Z"
    );
}

#[test]
fn who_is_always_quiet_is_asked_again_after_a_week() {
    let always = [hours("00:00", "12:00"), hours("12:00", "00:00")];
    let now = at("2026-01-16T18:00:00Z");
    let end = ends_us_of(&always, &zone("Europe/Paris"), now).unwrap();
    let days = (end - now) / (24 * 3600 * 1_000_000);
    assert!((8..=9).contains(&days), "{days}");
    assert!(ends_us_of(&always, &zone("Europe/Paris"), end).is_some());
}

#[test]
fn the_ends_of_time_are_not_quiet() {
    let night = hours("00:00", "23:59");
    for zone_name in ["UTC", "Pacific/Kiritimati", "Pacific/Niue"] {
        let zone = zone(zone_name);
        assert!(night.ends_us(&zone, 0).is_some());
        for now in [u64::MAX, i64::MAX as u64, 253_402_300_800_000_000] {
            assert_eq!(night.ends_us(&zone, now), None);
        }
        for before in 0..48 {
            // Must not panic.
            night.ends_us(&zone, 253_402_300_799_000_000 - before * 3_600_000_000);
        }
    }
}

const ZONES: [&str; 16] = [
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "Europe/Dublin",
    "America/New_York",
    "America/Los_Angeles",
    "America/St_Johns",
    "America/Santiago",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "Asia/Gaza",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Antarctica/Troll",
];

/// What the clock reads at each minute of a stretch of time.
struct Clock {
    start: i64,
    readings: Vec<DateTime>,
}

impl Clock {
    /// From four days before `now` to three days after it.
    fn around(zone: &TimeZone, now: i64) -> Self {
        let start = (now / MINUTE - 4 * 1440) * MINUTE;
        let readings = (0..7 * 1440)
            .map(|minute| Timestamp::from_microsecond(start + minute * MINUTE).unwrap())
            .map(|moment| moment.to_zoned_datetime(zone.zone.clone()).datetime())
            .collect();
        Self { start, readings }
    }

    /// The first minute that reads `clock` or later.
    fn first_from(&self, clock: DateTime) -> Option<i64> {
        let found = self.readings.iter().position(|reading| *reading >= clock)?;
        Some(self.start + found as i64 * MINUTE)
    }

    /// The last minute that reads `clock`, or the first that reads later if none does.
    fn last_at(&self, clock: DateTime) -> Option<i64> {
        match self.readings.iter().rposition(|reading| *reading == clock) {
            Some(found) => Some(self.start + found as i64 * MINUTE),
            None => self.first_from(clock),
        }
    }

    /// The periods of `hours` that lie in the stretch.
    fn periods(&self, hours: &QuietHours) -> Vec<(i64, i64)> {
        let mut periods = Vec::new();
        let mut date = self.readings[0].date().tomorrow().unwrap();
        while date < self.readings[self.readings.len() - 1].date() {
            let next = date.tomorrow().unwrap();
            if hours.days.contains(&Day::of(date)) {
                let last = if hours.to > hours.from { date } else { next };
                let start = self.first_from(date.to_datetime(hours.from));
                let end = self.last_at(last.to_datetime(hours.to));
                periods.extend(start.zip(end));
            }
            date = next;
        }
        periods
    }
}

/// Any moment of 2020 to 2035, every second one near a change of the clocks.
fn any_moment() -> impl Strategy<Value = (TimeZone, i64)> {
    let seconds = |year: i16| {
        date(year, 1, 1)
            .at(0, 0, 0, 0)
            .to_zoned_datetime(jiff::tz::TimeZone::UTC)
            .unwrap()
            .timestamp()
            .as_microsecond()
    };
    let near = -30 * 3_600_000_000_i64..30 * 3_600_000_000;
    (
        proptest::sample::select(&ZONES[..]),
        seconds(2020)..seconds(2036),
        proptest::option::of(near),
    )
        .prop_map(|(name, moment, near)| {
            let zone = zone(name);
            let change = zone
                .zone
                .following(Timestamp::from_microsecond(moment).unwrap())
                .next()
                .map(|change| change.timestamp().as_microsecond());
            let moment = match (change, near) {
                (Some(change), Some(near)) => change + near,
                _ => moment,
            };
            (zone, moment)
        })
}

fn any_hours() -> impl Strategy<Value = QuietHours> {
    // Many in the small hours, in which clocks are changed, and on whole hours.
    let minute = || prop_oneof![0..1440_u32, 0..240_u32, (0..24_u32).prop_map(|hour| hour * 60)];
    let days = proptest::collection::vec(proptest::sample::select(&Day::ALL[..]), 0..8);
    let text = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
    (minute(), minute(), days).prop_filter_map("equal times", move |(from, to, days)| {
        QuietHours::parse(&text(from), &text(to), days).ok()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_end_is_where_counting_minutes_finds_it(
        (zone, now) in any_moment(),
        ranges in proptest::collection::vec(any_hours(), 1..4),
    ) {
        let clock = Clock::around(&zone, now);
        let periods: Vec<_> = ranges.iter().flat_map(|range| clock.periods(range)).collect();
        let is_quiet = |moment: i64| periods.iter().any(|(start, end)| (*start..*end).contains(&moment));
        let found = ends_us_of(&ranges, &zone, u64::try_from(now).unwrap());
        prop_assert_eq!(found.is_some(), is_quiet(now));
        if let Some(end) = found {
            let end = i64::try_from(end).unwrap();
            prop_assert!(end > now);
            // What lies further ahead than the counted stretch is not compared.
            let last = (now + 2 * 1440 * MINUTE).min(end);
            let mut minute = now;
            while minute < last {
                prop_assert!(is_quiet(minute), "not quiet at {minute}");
                minute += MINUTE;
            }
            prop_assert!(is_quiet(last - 1));
            if last == end {
                prop_assert!(!is_quiet(end));
            }
        }
    }

    #[test]
    fn just_before_the_end_it_is_quiet_and_at_it_no_longer(
        (zone, now) in any_moment(),
        range in any_hours(),
    ) {
        let now = u64::try_from(now).unwrap();
        if let Some(end) = range.ends_us(&zone, now) {
            prop_assert!(end > now);
            prop_assert_eq!(range.ends_us(&zone, end - 1), Some(end));
            prop_assert_eq!(range.ends_us(&zone, end), None);
        }
    }

    #[test]
    fn what_is_written_is_read_again(range in any_hours()) {
        let written = serde_json::to_string(&range).unwrap();
        prop_assert_eq!(serde_json::from_str::<QuietHours>(&written).unwrap(), range);
    }
}
