//! Whole-system tests: other people's SDKs, a real browser and a checking client of our own against all services together, on
//! both backends. Everything is in `tests/it`; this library is empty.
//!
//! Tests here see what a client or an operator sees, never private state. What they need besides Rust (`install-tools`) is
//! installed by `./test` at the root; where it is missing they fail, and say so.
