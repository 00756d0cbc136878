//! How Switchboard's processes talk and where they write: the [`Bus`], the [`Log`] and who else is
//! there ([`membership`]), each with an embedded backend (one process) and a NATS backend.
//!
//! The traits' documentation is the contract; `conformance` tests it on both backends. Nothing of
//! a backend shows in a trait, and no other crate may see `async-nats`. What a message means is
//! none of this crate's business; which of a log's [`records`] count is, how the message store is asked ([`messages`]), and how latencies are counted ([`statistics`]).

pub mod answering;
mod bus;
pub mod config;
#[cfg(feature = "conformance")]
#[expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a suite of tests, compiled for tests only"
)]
pub mod conformance;
pub mod embedded;
pub mod fold;
mod log;
pub mod membership;
pub mod messages;
pub mod nats;
mod position;
pub mod reader;
pub mod records;
pub mod statistics;
mod subject;

pub use bus::{Bus, BusError, BusMessage, RequestError, Subscription};
pub use log::{AppendError, Log, LogError, LogInfo, RecordAt, RecordStream};
pub use position::{CommitError, Committed, ReaderName, ReaderPosition, StoredReader};
pub use subject::{Pattern, QueueGroup, Subject, SubjectPrefix};
