use std::sync::atomic::AtomicU32;

use super::*;

const BUDGET: Duration = Duration::from_secs(10);

fn tasks() -> (Tasks, Metrics) {
    let metrics = Metrics::new();
    (Tasks::new(&metrics), metrics)
}

#[tokio::test]
async fn an_essential_task_that_panics_or_ends_is_reported() {
    let (tasks, metrics) = tasks();
    tasks.spawn("heart", TaskKind::Essential, async { panic!("injected {}", 1) });
    let failure = tasks.failed().await;
    assert_eq!(
        failure,
        TaskFailure {
            task: "heart",
            cause: FailureCause::Panicked("injected 1".to_owned())
        }
    );
    assert_eq!(failure.to_string(), "essential task heart panicked: injected 1");
    let page = metrics.encode();
    assert!(
        page.contains("switchboard_tasks_panics_total{task=\"heart\"} 1"),
        "{page}"
    );

    let (other, _) = self::tasks();
    other.spawn("lung", TaskKind::Essential, async {});
    assert_eq!(
        other.failed().await,
        TaskFailure {
            task: "lung",
            cause: FailureCause::Ended
        }
    );
}

/// A gateway has a task for each connection.
#[tokio::test]
async fn a_task_takes_the_memory_of_its_future_once() {
    let (tasks, _) = tasks();
    let large = async {
        let room = std::hint::black_box([0_u8; 8192]);
        tokio::task::yield_now().await;
        std::hint::black_box(&room);
    };
    assert!(size_of_val(&large) > 8192);
    let entry = RunningTask::enter(&tasks, "large");
    let watched = tasks.watched(entry, TaskKind::Replaceable, CatchPanic::new(large));
    assert!(size_of_val(&watched) < 256, "{}", size_of_val(&watched));
}

#[tokio::test]
async fn a_replaceable_task_fails_alone() {
    let (tasks, metrics) = tasks();
    tasks.spawn("hair", TaskKind::Replaceable, async { panic!("injected") });
    tasks.spawn("nail", TaskKind::Replaceable, async {});
    let outcome = tasks.stop(BUDGET).await;
    assert!(outcome.forced.is_empty(), "{outcome:?}");
    assert!(
        metrics
            .encode()
            .contains("switchboard_tasks_panics_total{task=\"hair\"} 1")
    );
    assert!(
        tokio::time::timeout(Duration::from_millis(10), tasks.failed())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn an_end_after_the_stop_is_no_failure() {
    let (tasks, metrics) = tasks();
    let stop = tasks.stop_token();
    tasks.spawn(
        "heart",
        TaskKind::Essential,
        async move { stop.cancelled().await },
    );
    assert!(
        metrics
            .encode()
            .contains("switchboard_tasks_running{task=\"heart\"} 1")
    );
    assert_eq!(
        tasks.stop(BUDGET).await,
        StopOutcome {
            clean: 1,
            forced: Vec::new()
        }
    );
    assert!(
        metrics
            .encode()
            .contains("switchboard_tasks_running{task=\"heart\"} 0")
    );
    assert!(
        tokio::time::timeout(Duration::from_millis(10), tasks.failed())
            .await
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn what_does_not_stop_in_time_is_dropped_and_named() {
    struct Dropped(Arc<AtomicU32>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (tasks, metrics) = tasks();
    let stop = tasks.stop_token();
    let drops = Arc::new(AtomicU32::new(0));
    let held = Dropped(Arc::clone(&drops));
    tasks.spawn("stubborn", TaskKind::Essential, async move {
        let _held = held;
        std::future::pending().await
    });
    tasks.spawn(
        "obedient",
        TaskKind::Essential,
        async move { stop.cancelled().await },
    );
    assert_eq!(
        tasks.stop(BUDGET).await,
        StopOutcome {
            clean: 1,
            forced: vec!["stubborn"]
        }
    );
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    assert!(
        metrics
            .encode()
            .contains("switchboard_tasks_forced_total{task=\"stubborn\"} 1")
    );
}

#[tokio::test(start_paused = true)]
async fn the_stop_waits_for_work_on_the_tracker_itself() {
    let (tasks, _) = tasks();
    tasks.tracker().spawn(std::future::pending::<()>());
    assert_eq!(tasks.stop(BUDGET).await.forced, ["(unnamed)"]);
}

#[tokio::test]
async fn an_aborted_task_is_no_failure() {
    let (tasks, metrics) = tasks();
    let handle = tasks.spawn("heart", TaskKind::Essential, std::future::pending());
    handle.abort();
    assert!(tasks.stop(BUDGET).await.forced.is_empty());
    assert!(
        tokio::time::timeout(Duration::from_millis(10), tasks.failed())
            .await
            .is_err()
    );
    assert!(
        metrics
            .encode()
            .contains("switchboard_tasks_running{task=\"heart\"} 0")
    );
}

#[tokio::test]
async fn cancelling_ones_own_stop_token_stops_nobody_else() {
    let (tasks, _) = tasks();
    tasks.stop_token().cancel();
    assert!(!tasks.stop_token().is_cancelled());
}

#[tokio::test]
async fn groups_stop_apart_and_count_together() {
    let (tasks, metrics) = tasks();
    let aside = tasks.separate();
    let stop = aside.stop_token();
    aside.spawn("last", TaskKind::Essential, async move { stop.cancelled().await });
    tasks.stop(BUDGET).await;
    assert!(
        metrics
            .encode()
            .contains("switchboard_tasks_running{task=\"last\"} 1")
    );
    assert_eq!(aside.stop(BUDGET).await.clean, 1);
}

/// Runs that end, panic, or cannot even be made are followed by the next, later and later.
#[tokio::test(start_paused = true)]
async fn supervised_work_starts_again_with_back_off() {
    let (tasks, metrics) = tasks();
    let (starts, mut seen) = tokio::sync::mpsc::channel(64);
    let stop = tasks.stop_token();
    let mut run = 0;
    tasks.supervise("worker", move || {
        run += 1;
        starts.try_send(Instant::now()).unwrap();
        assert!(run != 2, "injected while making the second");
        let (run, stop) = (run, stop.clone());
        async move {
            match run {
                1 => panic!("injected"),
                3..=9 => {}
                10 => tokio::time::sleep(LAST_BACK_OFF * 2).await,
                11 => {}
                _ => stop.cancelled().await,
            }
        }
    });
    let mut times = Vec::new();
    for _ in 0..12 {
        times.push(seen.recv().await.unwrap());
    }
    let waits: Vec<u64> = times
        .windows(2)
        .map(|pair| u64::try_from((pair[1] - pair[0]).as_millis()).unwrap())
        .collect();
    let expected = [
        100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000, 20_100, 200,
    ];
    for (wait, expected) in waits.iter().zip(expected) {
        // The runtime's timer has millisecond steps.
        assert!((expected..=expected + 2).contains(wait), "{waits:?}");
    }
    let page = metrics.encode();
    assert!(
        page.contains("switchboard_tasks_restarts_total{task=\"worker\"} 11"),
        "{page}"
    );
    assert!(
        page.contains("switchboard_tasks_panics_total{task=\"worker\"} 2"),
        "{page}"
    );
    assert_eq!(
        tasks.stop(BUDGET).await,
        StopOutcome {
            clean: 1,
            forced: Vec::new()
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_back_off_does_not_wait_for_it() {
    let (tasks, metrics) = tasks();
    tasks.supervise("worker", || async { panic!("injected") });
    while !metrics.encode().contains("restarts_total{task=\"worker\"} 5") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = Instant::now();
    assert!(tasks.stop(BUDGET).await.forced.is_empty());
    assert!(before.elapsed() < FIRST_BACK_OFF);
}
