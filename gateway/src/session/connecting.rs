//! The server-side subscriptions of a connection that is being connected: the reply to `connect` names
//! them all, so it waits until the links have answered each.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use switchboard_proto::bus::PayloadKind;
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
    /// Bytes of the pages that the reply holds.
    pages: usize,
    /// The results are there, or one failed.
    is_over: bool,
    results: BTreeMap<String, SubscribeResult>,
    /// Of a payload in the results that is not JSON.
    not_json: Option<PayloadKind>,
    failed: Option<ErrorCode>,
}

impl State {
    fn is_waiting(&self) -> bool {
        self.expected > 0 && !self.is_over
    }
}

impl Connecting {
    /// So many results will come.
    pub(super) fn begin(&self, expected: usize) {
        self.state.lock().expected = expected;
    }

    /// The reply waits for results.
    pub(super) fn is_waiting(&self) -> bool {
        self.state.lock().is_waiting()
    }

    /// Whether the reply has room for a page of `bytes`, up to `limit` with the others; after the reply any has.
    pub(super) fn takes(&self, bytes: usize, limit: usize) -> bool {
        let mut state = self.state.lock();
        if !state.is_waiting() {
            return true;
        }
        let takes = state.pages + bytes <= limit;
        if takes {
            state.pages += bytes;
        }
        takes
    }

    /// `payload`: of which kind the payloads in the result are.
    pub(super) fn subscribed(&self, channel: &ChannelName, result: SubscribeResult, payload: PayloadKind) {
        {
            let mut state = self.state.lock();
            state.results.insert(channel.as_str().to_owned(), result);
            if payload != PayloadKind::Json {
                state.not_json = Some(payload);
            }
        }
        self.changed.notify_one();
    }

    pub(super) fn failed(&self, code: ErrorCode) {
        self.state.lock().failed.get_or_insert(code);
        self.changed.notify_one();
    }

    /// Waits until all results are there, or one failed. With them, of which kind their payloads are:
    /// JSON where all are. Cancel safe.
    pub(super) async fn finished(
        &self,
    ) -> Result<(BTreeMap<String, SubscribeResult>, PayloadKind), ErrorCode> {
        loop {
            {
                let mut state = self.state.lock();
                if let Some(code) = state.failed {
                    state.is_over = true;
                    return Err(code);
                }
                if state.results.len() >= state.expected {
                    state.is_over = true;
                    let payload = state.not_json.unwrap_or(PayloadKind::Json);
                    return Ok((std::mem::take(&mut state.results), payload));
                }
            }
            self.changed.notified().await;
        }
    }
}
