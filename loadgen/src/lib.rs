//! Puts load on a server of the Centrifuge client protocol, and checks what it is promised.
//!
//! It speaks the protocol and nothing else, so the same run can be pointed at another server. Every message says
//! whose it is and which, so that a [`checker`] can tell afterwards what was lost, doubled or out of order. [`floors`]
//! are what this machine does without a server of ours: what a figure is compared with.
//!
//! | module | what |
//! | --- | --- |
//! | [`plan`] | what a run is to do |
//! | `run` | from the plan to the report |
//! | `generator` | the connections of one process, phase by phase |
//! | `processes` | several processes as one |
//! | `member` | one connection |
//! | `pacer` | when something is due |
//! | `server` | what the server's processes use |
//! | [`checker`], [`numbers`] | the verdict |
//! | [`report`], [`times`], [`summary`] | what is told |

pub mod checker;
pub mod floors;
mod generator;
mod member;
pub mod message;
pub mod numbers;
mod pacer;
pub mod plan;
mod processes;
pub mod report;
mod run;
mod server;
pub mod summary;
pub mod times;

pub use plan::Plan;
pub use processes::{PART, part};
pub use report::Report;
pub use run::run;
