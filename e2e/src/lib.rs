//! Whole-system tests: other people's SDKs, a real browser and a checking client of our own against all services together, on
//! both backends. They are in `tests/it`; here is what they share, and the faults that `switchboard-faults` does to a cluster under
//! load.
//!
//! Tests here see what a client or an operator sees, never private state. What they need besides Rust (`install-tools`) is
//! installed by `./test` at the root; where it is missing they fail, and say so.

pub mod child;
pub mod cluster;
pub mod faults;
pub mod process;
