//! Who comes, is let in, and goes again.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::way::Way;

/// Between two visits.
const PACE: Duration = Duration::from_millis(150);

/// What a visitor was told.
pub(super) struct Visited {
    /// When it was let in.
    pub(super) let_in: Vec<Instant>,
    pub(super) ended: Instant,
}

pub(super) struct Visitor {
    way: Way,
    visited: Visited,
}

impl Visitor {
    pub(super) fn new(way: Way) -> Self {
        Self {
            way,
            visited: Visited {
                let_in: Vec::new(),
                ended: Instant::now(),
            },
        }
    }

    pub(super) async fn visit(mut self, quiet: CancellationToken) -> Visited {
        while !quiet.is_cancelled() {
            if self.way.connect().await.is_ok() {
                self.visited.let_in.push(Instant::now());
            }
            sleep(PACE).await;
        }
        self.visited.ended = Instant::now();
        self.visited
    }
}
