//! The memory of all windows of a process, shared out by use (R9).

use std::sync::atomic::{AtomicU64, Ordering};

/// See the module. Shards report what they use and are told what they may.
#[derive(Debug)]
pub(crate) struct WindowBudget {
    /// Bytes of all windows together.
    total: u64,
    /// Bytes of one window.
    each: u64,
    used: AtomicU64,
}

impl WindowBudget {
    pub(crate) fn new(total: u64, each: u64) -> Self {
        Self {
            total,
            each,
            used: AtomicU64::new(0),
        }
    }

    /// A shard uses `now` bytes, and used `before` when it last said so. Returns what it may use: all
    /// that one window may have, or when all together are over the total, its part of it.
    pub(crate) fn report(&self, before: u64, now: u64) -> u64 {
        // Each shard takes back just what it added, so the sum never goes below zero.
        let used = self.used.fetch_add(now, Ordering::Relaxed) + now - before;
        self.used.fetch_sub(before, Ordering::Relaxed);
        if used <= self.total {
            return self.each;
        }
        let part = u128::from(now) * u128::from(self.total) / u128::from(used.max(1));
        u64::try_from(part).unwrap_or(self.each).min(self.each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r9_shards_share_by_use_when_all_together_are_over() {
        let budget = WindowBudget::new(100, 64);
        assert_eq!(budget.report(0, 60), 64);
        assert_eq!(budget.report(0, 30), 64, "together below the total");
        assert_eq!(budget.report(30, 60), 50, "half of the use, half of the total");
        assert_eq!(budget.report(60, 50), 45);
        assert_eq!(budget.report(60, 0), 64, "one that goes gives all back");
        assert_eq!(budget.report(50, 64), 64);
    }
}
