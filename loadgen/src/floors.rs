//! What this machine does without a server of ours: the least that a figure can be compared with.

pub mod nats;
pub mod write;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::times::Latency;

/// How a floor was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Floor {
    /// Which.
    pub floor: String,
    /// What was done a second.
    pub per_second: f64,
    /// Until it was done.
    pub latency: Latency,
    /// Microseconds of processor for each, of this process alone.
    pub processor_us: f64,
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "floor                {}", self.floor)?;
        writeln!(f, "done                 {:.0} a second", self.per_second)?;
        writeln!(f, "until done           {}", self.latency)?;
        write!(f, "own processor        {:.1} us each", self.processor_us)
    }
}
