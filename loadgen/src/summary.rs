//! One table of several results, with what they are compared with.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize;

use crate::floors::Floor;
use crate::report::Report;

/// What `--json` wrote.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Written {
    Report(Box<Report>),
    Floor(Floor),
}

/// A table in Markdown of these results. A result is compared with a floor where the name of its file is the floor's
/// with `floor-` left out, or begins with that and a dash: `publish.json` and `publish-cluster.json` with
/// `floor-publish.json`.
///
/// # Errors
/// A file that cannot be read, or holds something else.
pub fn markdown(files: &[PathBuf]) -> anyhow::Result<String> {
    let mut results = Vec::new();
    for file in files {
        let name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let written: Written =
            serde_json::from_str(&text).with_context(|| format!("{} is no result", file.display()))?;
        results.push((name, written));
    }
    Ok(table(&results))
}

fn table(results: &[(String, Written)]) -> String {
    let mut text = String::from(
        "| run | connections | publishes/s | deliveries/s | delivery p50 ms | p99 ms | p99.9 ms | generator late p99 ms | \
         processor µs/delivery | KiB/connection | violations | to its floor |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    let ms = |us: u64| format!("{:.2}", us as f64 / 1000.0);
    let or_none = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.1}"));
    for (name, result) in results {
        match result {
            Written::Report(report) => {
                let violations = report.violations;
                let all =
                    violations.lost + violations.doubled + violations.disordered + violations.unrecovered;
                let kib = report.bytes_per_connection.map(|bytes| bytes / 1024.0);
                // A failed write to a String does not happen.
                writeln!(
                    text,
                    "| {name} | {} | {:.0} | {:.0} | {} | {} | {} | {} | {} | {} | {all} | {} |",
                    report.connections,
                    report.publishes_per_second,
                    report.deliveries_per_second,
                    ms(report.delivered.p50_us),
                    ms(report.delivered.p99_us),
                    ms(report.delivered.p999_us),
                    ms(report.late.p99_us),
                    or_none(report.processor_us_per_delivery),
                    or_none(kib),
                    compared(name, report, results),
                )
                .ok();
            }
            Written::Floor(floor) => {
                writeln!(
                    text,
                    "| {name} ({}) | – | {:.0} | – | {} | {} | {} | – | {:.1} | – | – | – |",
                    floor.floor,
                    floor.per_second,
                    ms(floor.latency.p50_us),
                    ms(floor.latency.p99_us),
                    ms(floor.latency.p999_us),
                    floor.processor_us,
                )
                .ok();
            }
        }
    }
    text
}

/// The ratios of a result to its floor.
fn compared(name: &str, report: &Report, results: &[(String, Written)]) -> String {
    // The longest name counts: `fanout-saturated-cluster` is compared with `floor-fanout-saturated`, not `floor-fanout`.
    let floor = results
        .iter()
        .filter_map(|(other, result)| match result {
            Written::Floor(floor) => Some((other.strip_prefix("floor-")?, floor)),
            Written::Report(_) => None,
        })
        .filter(|(base, _)| {
            name.strip_prefix(base)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
        .max_by_key(|(base, _)| base.len())
        .map(|(_, floor)| floor);
    let Some(floor) = floor else {
        return "–".to_owned();
    };
    // Whoever fans out is compared by deliveries, whoever publishes to one by publishes.
    let is_fan_out = report.deliveries_per_second > 2.0 * report.publishes_per_second;
    match (is_fan_out, report.processor_us_per_delivery) {
        (true, Some(processor)) => format!("processor × {:.2}", processor / floor.processor_us),
        (true, None) => "–".to_owned(),
        (false, _) => format!(
            "publishes/s × {:.2}",
            report.publishes_per_second / floor.per_second
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::times::Latency;

    #[test]
    fn a_result_stands_beside_its_floor() {
        let mut report = Report::new(&Plan::default(), 1, Default::default(), Vec::new(), Vec::new());
        report.publishes_per_second = 90.0;
        report.deliveries_per_second = 90.0;
        let floor = Floor {
            floor: "a floor".to_owned(),
            per_second: 60.0,
            latency: Latency::default(),
            processor_us: 2.0,
        };
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            file
        };
        let files = [
            write("publish-cluster.json", serde_json::to_string(&report).unwrap()),
            write("floor-publish.json", serde_json::to_string(&floor).unwrap()),
        ];
        let text = markdown(&files).unwrap();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("publishes/s × 1.50"), "{text}");
        assert!(markdown(&[write("wrong.json", "{}".to_owned())]).is_err());
    }
}
