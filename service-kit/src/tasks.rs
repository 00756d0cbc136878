//! Tasks that are waited for at the stop, and whose panics and ends are noticed.
//!
//! Every task has a name and a kind: what its unplanned end means is said where it is spawned. A
//! bare `tokio::spawn` is forbidden by lint, since a stop would not wait for it and nobody would
//! learn of its panic.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::SetOnce;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;

/// The first wait of [`Tasks::supervise`] before it runs a future again.
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
/// The longest one. A run that lasts longer than this makes the next wait the first again.
const LAST_BACK_OFF: Duration = Duration::from_secs(10);
/// How long a stop waits for tasks to go away after it has dropped their futures.
const AFTER_FORCE: Duration = Duration::from_secs(1);

/// What the end of a task before the stop means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// The node cannot go on without it: its end before the stop, or its panic, is reported by
    /// [`Tasks::failed`].
    Essential,
    /// It may end at any time; its panic is logged and counted.
    Replaceable,
}

/// All tasks of one node. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Tasks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Shared by the groups of a node.
    counts: Arc<Counts>,
    tracker: TaskTracker,
    stop: CancellationToken,
    failure: SetOnce<TaskFailure>,
    /// By a number that is never used again. Locked when a task begins, ends or is ended.
    running: Mutex<BTreeMap<u64, Running>>,
    next_id: AtomicU64,
}

#[derive(Debug)]
struct Running {
    name: &'static str,
    /// `None` for the moment in which the task is spawned.
    handle: Option<AbortHandle>,
}

#[derive(Debug, Default)]
struct Counts {
    running: Family<TaskLabel, Gauge>,
    panics: Family<TaskLabel, Counter>,
    restarts: Family<TaskLabel, Counter>,
    forced: Family<TaskLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabel {
    task: &'static str,
}

/// An essential task that is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("essential task {task} {cause}")]
pub struct TaskFailure {
    /// Its name.
    pub task: &'static str,
    /// How it went.
    pub cause: FailureCause,
}

/// How a task went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailureCause {
    /// It returned before the stop.
    Ended,
    /// It panicked with this text.
    Panicked(String),
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("ended before the stop"),
            Self::Panicked(text) => write!(f, "panicked: {text}"),
        }
    }
}

/// How a stop went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopOutcome {
    /// How many tasks ended by themselves within the budget.
    pub clean: usize,
    /// The tasks whose futures were dropped because the budget was spent, by name. Work spawned on
    /// [`Tasks::tracker`] itself appears as `(unnamed)` and is only no longer waited for.
    pub forced: Vec<&'static str>,
}

impl Tasks {
    /// No tasks yet. Registers the subsystem `tasks`: once per registry.
    pub fn new(metrics: &Metrics) -> Self {
        let counts = Arc::new(Counts::default());
        metrics.register("tasks", |registry| {
            registry.register("running", "Tasks running now", counts.running.clone());
            registry.register("panics", "Tasks that panicked", counts.panics.clone());
            registry.register(
                "restarts",
                "Supervised tasks that were started again",
                counts.restarts.clone(),
            );
            registry.register(
                "forced",
                "Tasks that a stop did not wait for any longer",
                counts.forced.clone(),
            );
        });
        Self::group(counts)
    }

    /// Another group of tasks, stopped by itself, that counts into the same metrics: for what must
    /// outlive the others' stop.
    #[must_use]
    pub fn separate(&self) -> Self {
        Self::group(Arc::clone(&self.0.counts))
    }

    fn group(counts: Arc<Counts>) -> Self {
        Self(Arc::new(Inner {
            counts,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            failure: SetOnce::new(),
            running: Mutex::default(),
            next_id: AtomicU64::new(0),
        }))
    }

    /// Cancelled when the stop begins. Cancelling this one reaches only its own clones and children,
    /// not the node. Waiting on a token takes its lock, so tasks that run often get one each rather
    /// than share a clone.
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stop.child_token()
    }

    /// For libraries that spawn by themselves: the stop waits for what is spawned there.
    pub fn tracker(&self) -> TaskTracker {
        self.0.tracker.clone()
    }

    /// Runs `future` as a task. It should end soon after [`Tasks::stop_token`] is cancelled; when
    /// the stop's budget is spent it is dropped at its next await.
    ///
    /// An aborted task counts as ended by whoever aborted it, never as failed.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn spawn(
        &self,
        name: &'static str,
        kind: TaskKind,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let entry = RunningTask::enter(self, name);
        let id = entry.id;
        let watched = self.watched(entry, kind, CatchPanic::new(future));
        let handle = self.0.tracker.spawn(watched).abort_handle();
        // It may have ended already.
        if let Some(running) = self.0.running.lock().get_mut(&id) {
            running.handle = Some(handle.clone());
        }
        handle
    }

    /// What a task runs: a few words, however large the future. It comes boxed, because what an async block captures
    /// keeps its place there also after it was moved into a box.
    fn watched<F: Future<Output = ()> + Send + 'static>(
        &self,
        entry: RunningTask,
        kind: TaskKind,
        caught: CatchPanic<F>,
    ) -> impl Future<Output = ()> + Send + use<F> {
        let tasks = self.clone();
        async move {
            // All of it, not the one field alone: it ends with the task.
            let entry = entry;
            let task = entry.label.task;
            let cause = match caught.await {
                Ok(()) if tasks.0.stop.is_cancelled() || kind == TaskKind::Replaceable => return,
                Ok(()) => {
                    tracing::error!(task, "essential task ended before the stop");
                    FailureCause::Ended
                }
                Err(text) => tasks.count_panic(task, text),
            };
            if kind == TaskKind::Essential {
                // Only the first counts: it is the cause, later ones may be its consequences.
                drop(tasks.0.failure.set(TaskFailure { task, cause }));
            }
        }
    }

    /// Runs futures from `factory` one after the other, until the stop: after an end or a panic the
    /// next one starts, with a back-off that doubles from 100 ms to 10 s and starts over after a run
    /// of more than 10 s. A running future is not interrupted by the stop: it should watch
    /// [`Tasks::stop_token`].
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn supervise<F, Fut>(&self, name: &'static str, mut factory: F)
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.clone();
        self.spawn(name, TaskKind::Essential, async move {
            let mut back_off = FIRST_BACK_OFF;
            loop {
                let started = Instant::now();
                let made = std::panic::catch_unwind(AssertUnwindSafe(&mut factory)).map_err(panic_text);
                let ended = match made {
                    Ok(future) => CatchPanic::new(future).await,
                    Err(text) => Err(text),
                };
                let cause = match ended {
                    Ok(()) => FailureCause::Ended,
                    Err(text) => tasks.count_panic(name, text),
                };
                if tasks.0.stop.is_cancelled() {
                    return;
                }
                if started.elapsed() > LAST_BACK_OFF {
                    back_off = FIRST_BACK_OFF;
                }
                tracing::warn!(task = name, %cause, back_off_ms = back_off.as_millis(), "task is started again");
                let stopped = tasks.0.stop.cancelled();
                if tokio::time::timeout(back_off, stopped).await.is_ok() {
                    return;
                }
                tasks.0.counts.restarts.get_or_create(&TaskLabel { task: name }).inc();
                back_off = (back_off * 2).min(LAST_BACK_OFF);
            }
        });
    }

    /// The first failure of an essential task. Waits until there is one; cancel safe.
    pub async fn failed(&self) -> TaskFailure {
        self.0.failure.wait().await.clone()
    }

    /// Begins the stop, waits at most `budget` for all tasks to end, and drops those that are left.
    ///
    /// Cancel safe: a second call goes on with the stop.
    pub async fn stop(&self, budget: Duration) -> StopOutcome {
        self.0.stop.cancel();
        self.0.tracker.close();
        let before = self.0.tracker.len();
        if tokio::time::timeout(budget, self.0.tracker.wait()).await.is_ok() {
            return StopOutcome {
                clean: before,
                forced: Vec::new(),
            };
        }
        let (mut forced, handles): (Vec<&'static str>, Vec<Option<AbortHandle>>) = self
            .0
            .running
            .lock()
            .values()
            .map(|task| (task.name, task.handle.clone()))
            .unzip();
        forced.resize(self.0.tracker.len().max(forced.len()), "(unnamed)");
        for task in &forced {
            self.0.counts.forced.get_or_create(&TaskLabel { task }).inc();
        }
        tracing::warn!(tasks = ?forced, budget_ms = budget.as_millis(), "tasks did not stop in time");
        handles.iter().flatten().for_each(AbortHandle::abort);
        // Those that do not await cannot be ended; the process's end takes them.
        drop(tokio::time::timeout(AFTER_FORCE, self.0.tracker.wait()).await);
        StopOutcome {
            clean: before.saturating_sub(forced.len()),
            forced,
        }
    }

    fn count_panic(&self, task: &'static str, text: String) -> FailureCause {
        self.0.counts.panics.get_or_create(&TaskLabel { task }).inc();
        tracing::error!(task, panic = text, "task panicked");
        FailureCause::Panicked(text)
    }
}

/// Stands in the list of running tasks, however the task ends.
struct RunningTask {
    tasks: Tasks,
    id: u64,
    label: TaskLabel,
}

impl RunningTask {
    fn enter(tasks: &Tasks, task: &'static str) -> Self {
        let id = tasks.0.next_id.fetch_add(1, Ordering::Relaxed);
        tasks.0.running.lock().insert(
            id,
            Running {
                name: task,
                handle: None,
            },
        );
        let label = TaskLabel { task };
        tasks.0.counts.running.get_or_create(&label).inc();
        Self {
            tasks: tasks.clone(),
            id,
            label,
        }
    }
}

impl Drop for RunningTask {
    fn drop(&mut self) {
        self.tasks.0.running.lock().remove(&self.id);
        self.tasks.0.counts.running.get_or_create(&self.label).dec();
    }
}

/// A future whose panic is its result. After a panic the future is not polled again, only dropped,
/// so whatever state it broke is seen by nobody else through it.
struct CatchPanic<F> {
    future: Pin<Box<F>>,
}

impl<F> CatchPanic<F> {
    fn new(future: F) -> Self {
        Self {
            future: Box::pin(future),
        }
    }
}

impl<F: Future<Output = ()>> Future for CatchPanic<F> {
    type Output = Result<(), String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = AssertUnwindSafe(|| self.future.as_mut().poll(context));
        match std::panic::catch_unwind(polled) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => Poll::Ready(Err(panic_text(payload))),
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "this is the form in which the standard library hands it out"
)]
fn panic_text(payload: Box<dyn std::any::Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
        .to_owned()
}

#[cfg(test)]
mod tests;
