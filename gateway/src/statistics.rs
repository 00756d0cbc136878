//! Statistics, as far as gateways make and tell them: links count what they deliver and how fast, which is reported to the persistence
//! service, who keeps the sums; administrators and backends are told them.
//!
//! | module | what |
//! | --- | --- |
//! | `counting` | what links count |
//! | `reporting` | reports it |
//! | `telling` | questions and answers, as JSON and CSV |

mod counting;
mod reporting;
pub(crate) mod telling;

pub(crate) use self::counting::Deliveries;
pub(crate) use self::reporting::{ReportMetrics, Reporting};
