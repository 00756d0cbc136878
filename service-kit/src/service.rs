//! What every service's `start` is given.

use crate::health::Health;
use crate::metrics::Metrics;
use crate::tasks::Tasks;

/// The node that a service runs in: where it spawns, says that it is ready, and counts. Services in
/// one process share one. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where it spawns, and by which it is stopped.
    pub tasks: Tasks,
    /// Where it says that it is ready.
    pub health: Health,
    /// Where it counts.
    pub metrics: Metrics,
}

impl Context {
    /// A fresh node.
    pub fn new() -> Self {
        let metrics = Metrics::new();
        Self {
            tasks: Tasks::new(&metrics),
            health: Health::new(),
            metrics,
        }
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}
