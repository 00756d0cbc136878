//! Questions about statistics as administrators and backends ask them, and answers as they read them: JSON, and CSV for spreadsheets.

use serde::Deserialize;
use serde_json::{Value, json};
use switchboard_proto::messages::{
    Period, Series, StatisticsRequest, StatisticsResponse, StatisticsTick, TopChannelsRequest,
    TopChannelsResponse,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// `from`, `to`, `period` and `namespaces`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    from: Moment,
    to: Option<Moment>,
    #[serde(default)]
    period: PeriodName,
    #[serde(default)]
    namespaces: Option<Namespaces>,
    /// Of reports over HTTP.
    #[serde(default)]
    pub(crate) format: Format,
}

/// `from`, `to`, `namespace` and `limit`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TopQuestion {
    from: Moment,
    to: Option<Moment>,
    namespace: Option<String>,
    #[serde(default)]
    limit: Number,
    #[serde(default)]
    pub(crate) format: Format,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    #[default]
    Json,
    Csv,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PeriodName {
    /// The shortest that fits.
    #[default]
    Auto,
    Minute,
    Hour,
    Day,
    Month,
}

/// Unix milliseconds, an RFC 3339 time, or a date, which begins in UTC. In a query string all of it is text.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(try_from = "Value")]
struct Moment(u64);

/// A list, or in a query string names between commas.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Namespaces {
    List(Vec<String>),
    Text(String),
}

/// In a query string it is text.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(try_from = "Value")]
struct Number(u32);

impl TryFrom<Value> for Moment {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        const WANTED: &str = "a time is Unix milliseconds, an RFC 3339 time or a date as 2026-11-26";
        match value {
            Value::Number(number) => number.as_u64().map(Self).ok_or(WANTED),
            Value::String(text) => parse_time(&text).map(Self).ok_or(WANTED),
            _ => Err(WANTED),
        }
    }
}

fn parse_time(text: &str) -> Option<u64> {
    if let Ok(milliseconds) = text.parse() {
        return Some(milliseconds);
    }
    let date = time::Date::parse(text, format_description!("[year]-[month]-[day]"));
    let moment = match date {
        Ok(date) => date.midnight().assume_utc(),
        Err(_) => OffsetDateTime::parse(text, &Rfc3339).ok()?,
    };
    u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
}

impl TryFrom<Value> for Number {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let number = match &value {
            Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        number.map(Self).ok_or("a limit is a whole number")
    }
}

impl From<Question> for StatisticsRequest {
    fn from(question: Question) -> Self {
        let period = match question.period {
            PeriodName::Auto => Period::Unspecified,
            PeriodName::Minute => Period::Minute,
            PeriodName::Hour => Period::Hour,
            PeriodName::Day => Period::Day,
            PeriodName::Month => Period::Month,
        };
        Self {
            from_ms: question.from.0,
            to_ms: question.to.map_or(0, |to| to.0),
            period: period.into(),
            namespaces: match question.namespaces {
                None => Vec::new(),
                Some(Namespaces::List(names)) => names,
                Some(Namespaces::Text(names)) => names.split(',').map(str::to_owned).collect(),
            },
        }
    }
}

impl From<TopQuestion> for TopChannelsRequest {
    fn from(question: TopQuestion) -> Self {
        Self {
            from_ms: question.from.0,
            to_ms: question.to.map_or(0, |to| to.0),
            namespace: question.namespace,
            limit: question.limit.0,
        }
    }
}

fn name(period: Period) -> &'static str {
    match period {
        Period::Unspecified => "",
        Period::Minute => "minute",
        Period::Hour => "hour",
        Period::Day => "day",
        Period::Month => "month",
    }
}

/// The sums of one period, as columns with their names. `None`: not counted of minutes, or there was no delivery.
fn points(series: &Series, period: Period) -> impl Iterator<Item = (u64, Columns)> + '_ {
    let at = |list: &[u64], number: usize| list.get(number).copied().unwrap_or(0);
    let told_apart = period != Period::Minute;
    series.times.iter().enumerate().map(move |(number, time)| {
        let deliveries = at(&series.deliveries, number);
        let latency = |list: &[u64]| (deliveries > 0).then(|| Sum::Micros(at(list, number)));
        let columns = [
            ("messages", Some(Sum::Count(at(&series.messages, number)))),
            ("bytes", Some(Sum::Count(at(&series.bytes, number)))),
            ("users", told_apart.then(|| Sum::Count(at(&series.users, number)))),
            (
                "channels",
                told_apart.then(|| Sum::Count(at(&series.channels, number))),
            ),
            ("deliveries", Some(Sum::Count(deliveries))),
            ("latency_p50_ms", latency(&series.latency_p50_us)),
            ("latency_p99_ms", latency(&series.latency_p99_us)),
        ];
        (*time, columns)
    })
}

type Columns = [(&'static str, Option<Sum>); 7];

#[derive(Clone, Copy)]
enum Sum {
    Count(u64),
    /// Told in milliseconds.
    Micros(u64),
}

impl Sum {
    #[expect(clippy::cast_precision_loss, reason = "below 2^33")]
    fn value(self) -> Value {
        match self {
            Self::Count(count) => count.into(),
            Self::Micros(micros) => (micros as f64 / 1000.0).into(),
        }
    }
}

/// `{"period":…,"series":[{"namespace":…,"points":[{"time":…,…}]}]}`, with times in Unix milliseconds.
pub(crate) fn as_json(response: &StatisticsResponse) -> Value {
    let series = response.series.iter().map(|series| {
        let points = points(series, response.period()).map(|(time, columns)| {
            let mut point = serde_json::Map::from_iter([("time".to_owned(), (time * 1000).into())]);
            let told = columns
                .into_iter()
                .filter_map(|(name, sum)| Some((name.to_owned(), sum?.value())));
            point.extend(told);
            Value::Object(point)
        });
        json!({ "namespace": series.namespace, "points": points.collect::<Vec<_>>() })
    });
    json!({ "period": name(response.period()), "series": series.collect::<Vec<_>>() })
}

/// A line for each namespace and time, which is told as RFC 3339.
pub(crate) fn as_csv(response: &StatisticsResponse) -> String {
    let mut csv = String::from(
        "namespace,time,messages,bytes,users,channels,deliveries,latency_p50_ms,latency_p99_ms\r\n",
    );
    for series in &response.series {
        for (time, columns) in points(series, response.period()) {
            csv.push_str(&series.namespace);
            csv.push(',');
            csv.push_str(&rfc3339(time));
            for (_, sum) in columns {
                csv.push(',');
                if let Some(sum) = sum {
                    csv.push_str(&sum.value().to_string());
                }
            }
            csv.push_str("\r\n");
        }
    }
    csv
}

fn rfc3339(seconds: u64) -> String {
    let moment = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    moment
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// `{"period":…,"from":…,"to":…,"channels":[{"channel":…,"messages":…}]}`.
pub(crate) fn top_as_json(response: &TopChannelsResponse) -> Value {
    let channels = response
        .channels
        .iter()
        .map(|top| json!({ "channel": top.channel, "messages": top.messages }));
    json!({
        "period": name(response.period()),
        "from": response.from_ms,
        "to": response.to_ms,
        "channels": channels.collect::<Vec<_>>(),
    })
}

/// A line for each channel. Names stand in quotes: they may hold commas. What a spreadsheet would take for a formula has a `'` before it.
pub(crate) fn top_as_csv(response: &TopChannelsResponse) -> String {
    let mut csv = String::from("channel,messages\r\n");
    for top in &response.channels {
        let is_formula = top.channel.starts_with(['=', '+', '-', '@']);
        csv.push_str(if is_formula { "\"'" } else { "\"" });
        csv.push_str(&top.channel.replace('"', "\"\""));
        csv.push_str(&format!("\",{}\r\n", top.messages));
    }
    csv
}

/// `{"time":…,"over":…,"rates":[…]}`, with milliseconds.
pub(crate) fn tick_as_json(tick: &StatisticsTick) -> Value {
    let rates = tick.rates.iter().map(|rate| {
        json!({
            "namespace": rate.namespace,
            "messages": rate.messages,
            "bytes": rate.bytes,
            "deliveries": rate.deliveries,
            "latency_p50_ms": Sum::Micros(rate.latency_p50_us).value(),
            "latency_p99_ms": Sum::Micros(rate.latency_p99_us).value(),
        })
    });
    json!({ "time": tick.at_ms, "over": tick.over_ms, "rates": rates.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use switchboard_proto::messages::ChannelCount;

    use super::*;

    fn asked(question: Value) -> Result<StatisticsRequest, serde_json::Error> {
        serde_json::from_value::<Question>(question).map(StatisticsRequest::from)
    }

    #[test]
    fn times_are_milliseconds_rfc_3339_or_dates() {
        for (from, expected) in [
            (json!(1_795_651_200_000_u64), 1_795_651_200_000),
            (json!("1795651200000"), 1_795_651_200_000),
            (json!("2026-11-26"), 1_795_651_200_000),
            (json!("2026-11-26T01:00:00+01:00"), 1_795_651_200_000),
            (json!("2026-11-26T00:00:00.250Z"), 1_795_651_200_250),
        ] {
            assert_eq!(
                asked(json!({ "from": from })).unwrap().from_ms,
                expected,
                "{from}"
            );
        }
        for wrong in [
            json!("yesterday"),
            json!(-1),
            json!("1969-01-01"),
            json!(null),
            json!([1]),
        ] {
            asked(json!({ "from": wrong })).unwrap_err();
        }
    }

    #[test]
    fn questions_are_read_from_json_and_from_query_strings() {
        let question = json!({ "from": 1, "to": 2, "period": "day", "namespaces": ["", "room"] });
        let asked_for = asked(question).unwrap();
        assert_eq!((asked_for.to_ms, asked_for.period()), (2, Period::Day));
        assert_eq!(asked_for.namespaces, ["", "room"]);
        let text = asked(json!({ "from": "1", "namespaces": ",room" })).unwrap();
        assert_eq!(text.namespaces, ["", "room"]);
        assert_eq!(text.period(), Period::Unspecified);
        assert!(asked(json!({ "from": 1 })).unwrap().namespaces.is_empty(), "all");
        for wrong in [
            json!({}),
            json!({ "from": 1, "period": "year" }),
            json!({ "from": 1, "until": 2 }),
        ] {
            asked(wrong).unwrap_err();
        }
        let top: TopQuestion = serde_json::from_value(json!({ "from": "0", "limit": "7" })).unwrap();
        let top = TopChannelsRequest::from(top);
        assert_eq!((top.limit, top.namespace), (7, None));
    }

    #[test]
    fn answers_are_told_as_json_and_csv() {
        let mut response = StatisticsResponse {
            series: vec![Series {
                namespace: "room".to_owned(),
                times: vec![1_795_651_200],
                messages: vec![5],
                bytes: vec![50],
                users: vec![2],
                channels: vec![1],
                deliveries: vec![10],
                latency_p50_us: vec![1_500],
                latency_p99_us: vec![20_000],
            }],
            ..StatisticsResponse::default()
        };
        response.set_period(Period::Day);
        assert_eq!(
            as_json(&response),
            json!({"period": "day", "series": [{"namespace": "room", "points": [{
                "time": 1_795_651_200_000_u64, "messages": 5, "bytes": 50, "users": 2, "channels": 1, "deliveries": 10,
                "latency_p50_ms": 1.5, "latency_p99_ms": 20.0,
            }]}]})
        );
        response.series[0].deliveries = vec![0];
        response.set_period(Period::Minute);
        let line = as_csv(&response);
        assert!(
            line.ends_with("room,2026-11-26T00:00:00Z,5,50,,,0,,\r\n"),
            "{line}"
        );
        assert_eq!(
            as_json(&response)["series"][0]["points"][0],
            json!({"time": 1_795_651_200_000_u64, "messages": 5, "bytes": 50, "deliveries": 0})
        );
        response.series[0].deliveries = vec![10];
        response.set_period(Period::Day);
        let line = as_csv(&response);
        assert!(
            line.ends_with("room,2026-11-26T00:00:00Z,5,50,2,1,10,1.5,20.0\r\n"),
            "{line}"
        );
        let count = |channel: &str, messages| ChannelCount {
            channel: channel.to_owned(),
            messages,
        };
        let top = TopChannelsResponse {
            channels: vec![count("dm:#a,\"b", 3), count("=1+1", 2)],
            ..TopChannelsResponse::default()
        };
        assert_eq!(
            top_as_csv(&top),
            "channel,messages\r\n\"dm:#a,\"\"b\",3\r\n\"'=1+1\",2\r\n"
        );
    }
}
