//! One line now and then that says how a service is doing, for an operator who reads the log before
//! any dashboard.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::tasks::{TaskKind, Tasks};

/// How often services print their line.
pub const INTERVAL: Duration = Duration::from_secs(60);

/// Prints one line at level info each `interval`, first after one interval, until the stop: the
/// service's name and the key numbers that `numbers` returns, in its order. `numbers` should be quick
/// (atomics, lengths): it runs on the runtime.
///
/// # Panics
/// Outside a Tokio runtime.
pub fn spawn(
    tasks: &Tasks,
    service: &'static str,
    interval: Duration,
    numbers: impl Fn() -> Vec<(&'static str, u64)> + Send + 'static,
) {
    let stop = tasks.stop_token();
    tasks.spawn("summary", TaskKind::Replaceable, async move {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            print(service, &numbers());
        }
    });
}

/// The names of the numbers differ by service, which an event's fields cannot; so they are its text.
fn print(service: &'static str, numbers: &[(&'static str, u64)]) {
    let numbers: Vec<String> = numbers
        .iter()
        .map(|(name, number)| format!("{name}={number}"))
        .collect();
    tracing::info!(service, "summary {}", numbers.join(" "));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use switchboard_testkit::Logged;

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test(start_paused = true)]
    async fn one_line_each_interval_with_the_numbers_of_that_moment() {
        let logged = Logged::on_this_thread();
        let tasks = Tasks::new(&Metrics::new());
        let sessions = Arc::new(AtomicU64::new(3));
        let numbers = Arc::clone(&sessions);
        spawn(&tasks, "clock", INTERVAL, move || {
            vec![("sessions", numbers.load(Ordering::Relaxed)), ("ticks", 9)]
        });
        tokio::time::sleep(INTERVAL + INTERVAL / 2).await;
        sessions.store(4, Ordering::Relaxed);
        tokio::time::sleep(INTERVAL).await;
        tasks.stop(INTERVAL).await;

        let text = logged.text();
        let found: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("service=\"clock\""))
            .collect();
        assert_eq!(found.len(), 2, "{text}");
        assert!(
            found[0].contains("INFO") && found[0].contains("summary sessions=3 ticks=9"),
            "{text}"
        );
        assert!(found[1].contains("summary sessions=4 ticks=9"), "{text}");
    }
}
