//! What the service counts.

use prometheus_client::metrics::counter::Counter;
use switchboard_service_kit::metrics::Metrics;

/// Handles; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct PersistenceMetrics {
    pub(crate) rows: Counter,
    pub(crate) dead_letters: Counter,
    pub(crate) failures: Counter,
    pub(crate) questions: Counter,
    pub(crate) refused_questions: Counter,
    pub(crate) unanswered_questions: Counter,
}

impl PersistenceMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let counts = Self::default();
        metrics.register("persistence", |registry| {
            registry.register(
                "messages",
                "Messages written to the store; those that are read again count again",
                counts.rows.clone(),
            );
            registry.register(
                "dead_letters",
                "What was read from the log and is no message that can be stored",
                counts.dead_letters.clone(),
            );
            registry.register(
                "failed_writes",
                "Batches that the store did not take and that were tried again",
                counts.failures.clone(),
            );
            registry.register(
                "questions",
                "Questions of other services that were begun",
                counts.questions.clone(),
            );
            registry.register(
                "refused_questions",
                "Questions that found persistence.questions others at work",
                counts.refused_questions.clone(),
            );
            registry.register(
                "unanswered_questions",
                "Questions that were answered with a fault",
                counts.unanswered_questions.clone(),
            );
        });
        counts
    }
}
