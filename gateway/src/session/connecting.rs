//! The server-side subscriptions of a connection that is being connected: the reply to `connect` names
//! them all, so it waits until the links have answered each.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::SubscribeResult;
use switchboard_proto::codes::ErrorCode;
use tokio::sync::Notify;

/// See the module. Bounded by the number of channels that a session may have.
#[derive(Default)]
pub(super) struct Connecting {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    expected: usize,
    results: BTreeMap<String, SubscribeResult>,
    failed: Option<ErrorCode>,
}

impl Connecting {
    /// So many results will come.
    pub(super) fn begin(&self, expected: usize) {
        self.state.lock().expected = expected;
    }

    pub(super) fn subscribed(&self, channel: &ChannelName, result: SubscribeResult) {
        self.state
            .lock()
            .results
            .insert(channel.as_str().to_owned(), result);
        self.changed.notify_one();
    }

    pub(super) fn failed(&self, code: ErrorCode) {
        self.state.lock().failed.get_or_insert(code);
        self.changed.notify_one();
    }

    /// Waits until all results are there, or one failed. Cancel safe.
    pub(super) async fn finished(&self) -> Result<BTreeMap<String, SubscribeResult>, ErrorCode> {
        loop {
            {
                let mut state = self.state.lock();
                if let Some(code) = state.failed {
                    return Err(code);
                }
                if state.results.len() >= state.expected {
                    return Ok(std::mem::take(&mut state.results));
                }
            }
            self.changed.notified().await;
        }
    }
}
