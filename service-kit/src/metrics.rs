//! The metrics of one node, in one registry.
//!
//! Names read `switchboard_<subsystem>_<what>_<unit>`. Labels come from enums and other small fixed
//! sets, never from a user, a channel or a session.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// A registry that is handed to everybody who counts. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// A registry that holds the build's version and the uptime, counted from now.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("switchboard");
        registry.register(
            "build",
            "The running build",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register_collector(Box::new(Uptime {
            since: Instant::now(),
        }));
        Self(Arc::new(Mutex::new(registry)))
    }

    /// Registers metrics whose names begin with `switchboard_<subsystem>_`. Once per subsystem and
    /// registry: names are not checked for doubles.
    ///
    /// `register` runs under the registry's lock, so it must not call back into this.
    pub fn register(&self, subsystem: &'static str, register: impl FnOnce(&mut Registry)) {
        register(self.0.lock().sub_registry_with_prefix(subsystem));
    }

    /// Everything, in the OpenMetrics text format ([`CONTENT_TYPE`]).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.0.lock()).is_err() {
            // Writing to a string cannot fail; only a metric's own encoder could, and says nothing.
            tracing::error!("a metric cannot be written, the metrics page is cut short");
        }
        text
    }
}

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug)]
struct Uptime {
    since: Instant,
}

impl Collector for Uptime {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let uptime = ConstGauge::new(self.since.elapsed().as_secs_f64());
        let metric = encoder.encode_descriptor(
            "process_uptime",
            "Time since this node started",
            Some(&Unit::Seconds),
            uptime.metric_type(),
        )?;
        uptime.encode(metric)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn names_have_our_prefix_and_the_subsystem() {
        let metrics = Metrics::new();
        let counter = Counter::<u64>::default();
        metrics.register("clock", |registry| {
            registry.register("ticks", "Ticks", counter.clone())
        });
        counter.inc_by(3);
        let page = metrics.encode();
        assert!(page.contains("\nswitchboard_clock_ticks_total 3\n"), "{page}");
        let build = format!(
            "switchboard_build_info{{version=\"{}\"}} 1\n",
            env!("CARGO_PKG_VERSION")
        );
        assert!(page.contains(&build), "{page}");
        assert!(page.contains("\nswitchboard_process_uptime_seconds "), "{page}");
        assert!(page.ends_with("# EOF\n"), "{page}");
    }

    #[test]
    fn registries_share_nothing() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.register("clock", |registry| {
            registry.register("ticks", "Ticks", Counter::<u64>::default())
        });
        assert!(!other.encode().contains("clock"));
    }
}
