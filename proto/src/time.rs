//! The time that records and messages carry. Nothing about order or safety depends on it; how long messages and keys
//! are kept does, so the clocks of routers should agree to within a small part of `router.key_window`.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix microseconds, by this machine's clock; 0 where that stands before 1970.
pub fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
