//! Log lines: to standard error, for people or as JSON, by one filter.
//!
//! Events are short and lower case, their data in fields. A line about a client's message carries
//! the field `correlation_id`: the trace id of the message's
//! [`TraceContext`](crate::trace_context::TraceContext) in hexadecimal, so that the lines of all
//! processes about one message are found by one search. Per-message lines are at level `trace` only.
//!
//! A panic becomes a line too, so that JSON output stays JSON. Writing blocks while standard error
//! is a pipe that nobody reads.

use std::io::{IsTerminal, stderr};
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Document;

/// What a log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One compact line, coloured on a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

/// The section `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// What a line looks like.
    pub format: LogFormat,
    /// Which lines are written, in the form of `tracing_subscriber::EnvFilter`.
    pub filter: String,
}

impl LogConfig {
    /// Reads the section `[log]`.
    pub fn read(document: &mut Document) -> Self {
        let mut log = document.section("log");
        let formats = [("human", LogFormat::Human), ("json", LogFormat::Json)];
        let format = log.choice("format", &formats, "human", "What a log line looks like.");
        let help =
            "Which lines are written: a level, and exceptions by module (`info,switchboard_bus=debug`).";
        let filter = log.text("filter", "info", help);
        if let Err(error) = EnvFilter::try_new(&filter) {
            log.fault(
                "filter",
                format!("{filter:?} is not a filter: {error}"),
                "set a level (error, warn, info, debug, trace), or module=level pairs separated by commas",
            );
        }
        Self { format, filter }
    }
}

/// Why log lines cannot be written as configured.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("log.filter {filter:?} is not a filter: set a level, or module=level pairs")]
    Filter {
        /// What was configured.
        filter: String,
        /// What the parser says.
        source: tracing_subscriber::filter::ParseError,
    },
}

/// What libraries tell of their ordinary work is of no use to an operator; the configured filter may
/// name them to hear it all the same.
const LIBRARIES: &str = "async_nats=warn,fjall=warn,lsm_tree=warn";

/// Sends this process's log lines where `config` says, and panics with them. Where log lines go
/// somewhere already, that stays as it is: the second node in a process changes nothing.
///
/// # Errors
/// [`TelemetryError::Filter`].
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(format!("{LIBRARIES},{}", config.filter)).map_err(|source| {
        TelemetryError::Filter {
            filter: config.filter.clone(),
            source,
        }
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    let taken = match config.format {
        LogFormat::Human => lines
            .compact()
            .with_ansi(stderr().is_terminal())
            .finish()
            .try_init(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .finish()
            .try_init(),
    };
    if taken.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
    Ok(())
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let text = panic.payload_as_str().unwrap_or("(no text)");
    let thread = std::thread::current();
    tracing::error!(
        location,
        text,
        thread = thread.name().unwrap_or("(no name)"),
        "panic"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_init_is_fine_and_a_bad_filter_is_not() {
        for format in [LogFormat::Json, LogFormat::Human] {
            init(&LogConfig {
                format,
                filter: "error".to_owned(),
            })
            .unwrap();
        }
        let error = init(&LogConfig {
            format: LogFormat::Human,
            filter: "a=b=c".to_owned(),
        })
        .unwrap_err();
        assert!(error.to_string().contains("\"a=b=c\""), "{error}");
    }
}
