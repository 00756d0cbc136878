//! Writing what a turn of a link has queued: by the link itself where few receive, by many short tasks where many do.

use std::sync::Arc;

use switchboard_service_kit::tasks::{TaskKind, Tasks};

use crate::metrics::LinkMetrics;
use crate::session::{SessionHandle, Written};

/// Sessions that the link's own task writes to, at most: a write takes some microseconds, and the next frame waits
/// meanwhile.
const BY_ITSELF: usize = 32;

/// Sessions that one task writes to. Enough that the task itself costs little, few enough that a runtime's other threads
/// get their share.
const BY_A_TASK: usize = 64;

/// Sessions that have something to be written.
pub(super) struct Delivering {
    sessions: Vec<Arc<SessionHandle>>,
    metrics: LinkMetrics,
    tasks: Tasks,
}

impl Delivering {
    pub(super) fn new(metrics: LinkMetrics, tasks: Tasks) -> Self {
        Self {
            sessions: Vec::new(),
            metrics,
            tasks,
        }
    }

    /// The session's queue is to be written.
    pub(super) fn add(&mut self, session: &Arc<SessionHandle>) {
        self.sessions.push(Arc::clone(session));
    }

    /// Has all of it written; never waits. What a socket does not take at once its session's task writes.
    pub(super) fn run(&mut self) {
        if self.sessions.len() <= BY_ITSELF {
            write_out(&self.sessions, &self.metrics);
            self.sessions.clear();
            return;
        }
        // Freed with the tasks: a turn with many receivers is no reason to keep room for as many.
        let mut sessions = std::mem::take(&mut self.sessions);
        while !sessions.is_empty() {
            let part = sessions.split_off(sessions.len().saturating_sub(BY_A_TASK));
            let metrics = self.metrics.clone();
            // Each session stands in one part, until its queue is empty: so there are never more of these than
            // sessions to write to.
            self.tasks.spawn("delivery", TaskKind::Replaceable, async move {
                write_out(&part, &metrics);
            });
        }
    }
}

fn write_out(sessions: &[Arc<SessionHandle>], metrics: &LinkMetrics) {
    let mut all = Written::default();
    for session in sessions {
        let written = session.write_out();
        all.frames += written.frames;
        all.bytes += written.bytes;
    }
    metrics.written(all);
}
