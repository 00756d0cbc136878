//! Statistics: sums by periods, the busiest channels, what happens now, and what gateways deliver.

use std::collections::BTreeMap;

use switchboard_bus::messages::AskError;
use switchboard_bus::statistics::{ALL, Latency};
use switchboard_proto::messages::{
    self as wire, ChannelCount, LiveCount, LiveRequest, LiveResponse, ReportDeliveriesRequest,
    ReportDeliveriesResponse, Series, StatisticsRequest, StatisticsResponse, TopChannelsRequest,
    TopChannelsResponse,
};
use switchboard_proto::time::now_us;

use super::{Service, fault, limit};
use crate::statistics::StatisticsSettings;
use crate::store::statistics::{MAX_POINTS, MAX_TOP, Period, Point, Report, Span};

/// Points of one series, at most, where the caller does not say how long each is.
const POINTS: u64 = 1_000;

/// Days of a range up to which channels are counted by days.
const TOP_DAYS: u64 = 14;

/// Channels that are told where nothing else is asked for.
const TOP: u32 = 20;

/// Namespaces of one question or report, at most.
const NAMESPACES: usize = 1_000;

/// Bytes of a namespace's name, at most.
const NAMESPACE: usize = 255;

/// Deliveries of one bucket of a report: more than a gateway can make, and few enough that sums never overflow.
const MAX_COUNT: u64 = 1 << 40;

/// Seconds of which live counts are told: a minute that is over still gets what arrives late.
const LIVE: u64 = 180;

/// Seconds of the latest time that there can be: far enough for every clock, and near enough to be added to.
const LATEST: u64 = 1 << 36;

/// Whoever names an earlier time means seconds.
const EARLIEST_MS: u64 = 100_000_000_000;

/// Whether there can be one of this name.
fn is_namespace(name: &str) -> bool {
    name.len() <= NAMESPACE && !name.contains('\0')
}

fn now() -> u64 {
    now_us() / 1_000_000
}

/// From milliseconds to seconds, each end included in its period.
fn range(from_ms: u64, to_ms: u64) -> Result<(u64, u64), AskError> {
    if [from_ms, to_ms].iter().any(|at| (1..EARLIEST_MS).contains(at)) {
        return Err(AskError::Invalid(
            "a time before 1973: times are milliseconds since 1970, not seconds".to_owned(),
        ));
    }
    let from = from_ms / 1000;
    let to = match to_ms {
        0 => now() + 1,
        to_ms => to_ms.div_ceil(1000).min(LATEST),
    };
    match from < to {
        true => Ok((from, to)),
        false => Err(AskError::Invalid("a range that ends before it begins".to_owned())),
    }
}

fn periods(span: &Span) -> u64 {
    let length = match span.period {
        Period::Minute => 60,
        Period::Hour => 3_600,
        Period::Day => 86_400,
        Period::Month => 28 * 86_400,
    };
    (span.to - span.from).div_ceil(length)
}

fn span(period: Period, (from, to): (u64, u64)) -> Span {
    Span {
        period,
        from: period.begin(from),
        to,
    }
}

impl Service {
    fn is_counted(&self) -> Result<&StatisticsSettings, AskError> {
        self.statistics.as_ref().ok_or_else(|| {
            AskError::NotAvailable("nothing is counted here (persistence.statistics.enabled)".to_owned())
        })
    }

    /// # Errors
    /// [`AskError::Invalid`] for a range that is none or too long, [`AskError::NotAvailable`], [`AskError::Unavailable`].
    pub(crate) async fn statistics(
        &self,
        request: StatisticsRequest,
    ) -> Result<StatisticsResponse, AskError> {
        let settings = self.is_counted()?;
        let range = range(request.from_ms, request.to_ms)?;
        let now = now();
        let is_kept = |span: &Span| span.from >= settings.kept_from(span.period, now);
        let span = match request.period() {
            wire::Period::Minute => span(Period::Minute, range),
            wire::Period::Hour => span(Period::Hour, range),
            wire::Period::Day => span(Period::Day, range),
            wire::Period::Month => span(Period::Month, range),
            wire::Period::Unspecified => {
                let fits = Period::EACH
                    .into_iter()
                    .map(|period| span(period, range))
                    .find(|span| periods(span) <= POINTS && is_kept(span));
                fits.unwrap_or_else(|| span(Period::Month, range))
            }
        };
        let namespaces = match request.namespaces.is_empty() {
            false => request.namespaces,
            true => self.namespaces().await?,
        };
        if namespaces.len() > NAMESPACES || !namespaces.iter().all(|name| is_namespace(name)) {
            return Err(AskError::Invalid(format!(
                "{NAMESPACES} namespaces at most, of {NAMESPACE} bytes each"
            )));
        }
        let asked = periods(&span).saturating_mul(namespaces.len() as u64);
        if asked > MAX_POINTS as u64 {
            return Err(AskError::Invalid(format!(
                "{asked} points in one answer, {MAX_POINTS} are allowed: ask for longer periods, a shorter range, or fewer namespaces"
            )));
        }
        let points = self.store.points(&span, &namespaces).await;
        let mut series: BTreeMap<String, Series> = BTreeMap::new();
        for ((namespace, at), point) in points.map_err(|error| fault(&error))? {
            let of = series.entry(namespace).or_default();
            add(of, at, &point);
        }
        let told = |(namespace, series)| Series { namespace, ..series };
        Ok(StatisticsResponse {
            period: on_wire(span.period).into(),
            series: series.into_iter().map(told).collect(),
        })
    }

    /// `*` first.
    async fn namespaces(&self) -> Result<Vec<String>, AskError> {
        let counted = self.store.counted_namespaces().await;
        let mut namespaces = counted.map_err(|error| fault(&error))?;
        namespaces.retain(|name| name != ALL);
        namespaces.insert(0, ALL.to_owned());
        // Where everybody may make namespaces there are more than anybody wants to be told.
        namespaces.truncate(NAMESPACES);
        Ok(namespaces)
    }

    /// # Errors
    /// [`AskError::Invalid`] for a range that is none, or too many channels, [`AskError::NotAvailable`], [`AskError::Unavailable`].
    pub(crate) async fn top_channels(
        &self,
        request: TopChannelsRequest,
    ) -> Result<TopChannelsResponse, AskError> {
        self.is_counted()?;
        let range = range(request.from_ms, request.to_ms)?;
        let limit = limit(request.limit, TOP, MAX_TOP)?;
        let by_days = span(Period::Day, range);
        let are_kept = by_days.from >= StatisticsSettings::channels_kept_from(now());
        let span = match periods(&by_days) <= TOP_DAYS && are_kept {
            true => by_days,
            false => span(Period::Month, range),
        };
        if !is_namespace(request.namespace.as_deref().unwrap_or_default()) {
            return Err(AskError::Invalid("not a namespace".to_owned()));
        }
        let namespace = request.namespace.as_deref().filter(|namespace| *namespace != ALL);
        let top = self.store.top_channels(&span, namespace, limit).await;
        let channels = top
            .map_err(|error| fault(&error))?
            .into_iter()
            .map(|(channel, messages)| ChannelCount { channel, messages });
        // The last period is counted whole.
        let last = span.period.begin(span.to - 1);
        Ok(TopChannelsResponse {
            period: on_wire(span.period).into(),
            from_ms: span.from * 1000,
            to_ms: span.period.next(last) * 1000,
            channels: channels.collect(),
        })
    }

    /// # Errors
    /// [`AskError::NotAvailable`], [`AskError::Unavailable`].
    pub(crate) async fn live(&self, _request: LiveRequest) -> Result<LiveResponse, AskError> {
        self.is_counted()?;
        let namespaces = self.namespaces().await?;
        let at_us = now_us();
        let span = Span {
            period: Period::Minute,
            from: (at_us / 1_000_000).saturating_sub(LIVE),
            // Messages of a clock that is ahead count, too.
            to: at_us / 1_000_000 + LIVE,
        };
        let points = self.store.points(&span, &namespaces).await;
        let counts = points.map_err(|error| fault(&error))?.into_iter();
        let counts = counts.map(|((namespace, minute), point)| LiveCount {
            namespace,
            minute,
            messages: point.messages,
            bytes: point.bytes,
            latency: point.latency.buckets().to_vec(),
        });
        Ok(LiveResponse {
            at_ms: at_us / 1000,
            counts: counts.collect(),
        })
    }

    /// # Errors
    /// [`AskError::Invalid`] for a report that is none, [`AskError::NotAvailable`], [`AskError::Unavailable`].
    pub(crate) async fn report_deliveries(
        &self,
        request: ReportDeliveriesRequest,
    ) -> Result<ReportDeliveriesResponse, AskError> {
        self.is_counted()?;
        let is_known = request.gateway.len() == 16 && request.number > 0;
        let fits = |of: &wire::NamespaceDeliveries| {
            is_namespace(&of.namespace)
                && of.namespace != ALL
                && of.latency.iter().all(|count| *count <= MAX_COUNT)
        };
        if !is_known || request.deliveries.len() > NAMESPACES || !request.deliveries.iter().all(fits) {
            return Err(AskError::Invalid("not a report of deliveries".to_owned()));
        }
        let mut deliveries: BTreeMap<String, Latency> = BTreeMap::new();
        for of in request.deliveries {
            for namespace in [of.namespace, ALL.to_owned()] {
                deliveries.entry(namespace).or_default().merge(&of.latency);
            }
        }
        let report = Report {
            gateway: request.gateway.iter().map(|byte| format!("{byte:02x}")).collect(),
            number: request.number,
            at: now(),
            deliveries,
        };
        let added = self.store.add_deliveries(&report).await;
        added.map_err(|error| fault(&error))?;
        Ok(ReportDeliveriesResponse {})
    }
}

fn on_wire(period: Period) -> wire::Period {
    match period {
        Period::Minute => wire::Period::Minute,
        Period::Hour => wire::Period::Hour,
        Period::Day => wire::Period::Day,
        Period::Month => wire::Period::Month,
    }
}

fn add(series: &mut Series, at: u64, point: &Point) {
    series.times.push(at);
    series.messages.push(point.messages);
    series.bytes.push(point.bytes);
    series.users.push(point.users);
    series.channels.push(point.channels);
    series.deliveries.push(point.latency.deliveries());
    series.latency_p50_us.push(point.latency.permille_us(500));
    series.latency_p99_us.push(point.latency.permille_us(990));
}
