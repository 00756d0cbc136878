//! How a run went.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checker::Violations;
use crate::generator::Seen;
use crate::plan::{Pace, Plan};
use crate::times::Latency;

/// What one process of the server used while it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) pid: u32,
    pub(crate) processor: Duration,
    /// Resident memory at the end.
    pub(crate) bytes: u64,
}

/// One process of the server.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Processors that it kept busy while it was measured.
    pub processors: f64,
    /// Resident bytes before the first connection.
    pub bytes_before: u64,
    /// Resident bytes at the end of the load.
    pub bytes: u64,
}

/// How it went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// What kind of run.
    pub scenario: String,
    /// Connections.
    pub connections: usize,
    /// Processes that they were shared out over.
    pub processes: usize,
    /// Publishes that were acknowledged, all in all.
    pub acknowledged: u64,
    /// Publishes that were refused, or whose connection was cut before the answer.
    pub unacknowledged: u64,
    /// Of these, what the server refused.
    pub refused: u64,
    /// Publishes that were due while the generator had too many before them: it did not keep up.
    pub skipped: u64,
    /// Publishes a second that were acknowledged while it was measured.
    pub publishes_per_second: f64,
    /// Deliveries, all in all, also by recovery.
    pub deliveries: u64,
    /// Deliveries a second, while it was measured.
    pub deliveries_per_second: f64,
    /// From the intended time of a publish until it is handed to the socket: the generator's own part.
    pub late: Latency,
    /// From the intended time of a publish to its answer.
    pub answered: Latency,
    /// From the intended time of a publish to its delivery, each receiver counted; not by recovery.
    pub delivered: Latency,
    /// Connections that were cut and came back.
    pub returned: u64,
    /// From the cut until the subscription goes on.
    pub back: Latency,
    /// The fewest pings that a connection saw.
    pub pings: u64,
    /// The server's.
    pub server: Vec<Process>,
    /// Microseconds of processor that the server took for a delivery; `None`: no process was named.
    pub processor_us_per_delivery: Option<f64>,
    /// What the server's resident memory grew by for each connection; `None`: no process was named.
    pub bytes_per_connection: Option<f64>,
    /// What was not as promised.
    pub violations: Violations,
}

impl Report {
    pub(crate) fn new(
        plan: &Plan,
        processes: usize,
        seen: Seen,
        used: Vec<Used>,
        bytes_before: Vec<u64>,
    ) -> Self {
        let seconds = plan.duration.as_secs_f64();
        let (answered, delivered) = (seen.answered.latency(), seen.delivered.latency());
        let processor: Duration = used.iter().map(|used| used.processor).sum();
        let server: Vec<Process> = used
            .iter()
            .zip(bytes_before)
            .map(|(used, bytes_before)| Process {
                pid: used.pid,
                processors: used.processor.as_secs_f64() / seconds,
                bytes_before,
                bytes: used.bytes,
            })
            .collect();
        let grown: f64 = server
            .iter()
            .map(|process| process.bytes as f64 - process.bytes_before as f64)
            .sum();
        let is_measured = !server.is_empty();
        Self {
            scenario: plan.scenario.clone(),
            connections: plan.connections(),
            processes,
            acknowledged: seen.acknowledged,
            unacknowledged: seen.progress.said - seen.acknowledged,
            refused: seen.progress.refused,
            skipped: seen.skipped,
            publishes_per_second: answered.count as f64 / seconds,
            deliveries: seen.progress.deliveries,
            deliveries_per_second: delivered.count as f64 / seconds,
            late: seen.late.latency(),
            answered,
            delivered,
            returned: seen.progress.returned,
            back: seen.back.latency(),
            pings: seen.pings.unwrap_or(0),
            processor_us_per_delivery: (is_measured && delivered.count > 0 && plan.pace != Pace::Once)
                .then(|| processor.as_secs_f64() * 1e6 / delivered.count as f64),
            bytes_per_connection: is_measured.then(|| grown / plan.connections() as f64),
            server,
            violations: seen.violations,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "scenario             {}", self.scenario)?;
        writeln!(
            f,
            "connections          {} (in {} processes)",
            self.connections, self.processes
        )?;
        writeln!(
            f,
            "publishes            {} acknowledged, {} not (of which {} refused), {:.0} a second",
            self.acknowledged, self.unacknowledged, self.refused, self.publishes_per_second
        )?;
        writeln!(
            f,
            "deliveries           {}, {:.0} a second",
            self.deliveries, self.deliveries_per_second
        )?;
        writeln!(f, "generator is late    {}", self.late)?;
        if self.skipped > 0 {
            writeln!(
                f,
                "generator skipped    {} publishes: it did not keep up",
                self.skipped
            )?;
        }
        writeln!(f, "publish to answer    {}", self.answered)?;
        writeln!(f, "publish to delivery  {}", self.delivered)?;
        if self.returned > 0 {
            writeln!(f, "cut to recovered     {}", self.back)?;
        }
        for process in &self.server {
            writeln!(
                f,
                "server {:<8}      {:.2} processors, {:.1} MiB before, {:.1} MiB at the end",
                process.pid,
                process.processors,
                process.bytes_before as f64 / f64::from(1 << 20),
                process.bytes as f64 / f64::from(1 << 20)
            )?;
        }
        if let Some(processor) = self.processor_us_per_delivery {
            writeln!(f, "server processor     {processor:.1} us a delivery")?;
        }
        if let Some(bytes) = self.bytes_per_connection {
            writeln!(
                f,
                "server memory        {:.1} KiB a connection, each saw {} pings or more",
                bytes / 1024.0,
                self.pings
            )?;
        }
        let Violations {
            lost,
            doubled,
            disordered,
            unrecovered,
        } = self.violations;
        write!(
            f,
            "violations           {lost} lost, {doubled} doubled, {disordered} out of order, {unrecovered} not recovered"
        )
    }
}
