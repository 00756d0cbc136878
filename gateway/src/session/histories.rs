//! A session's questions about history: answered one after the other, beside its commands.
//!
//! What must hold, each with a test in `run/tests/history.rs`:
//! * An answer waits until the client has read enough to make room for it, so that asking much at once does
//!   not disconnect a client as slow.
//! * Each is answered within the time that commands have (P4), and no more wait than [`WAITING`].

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::Reply;
use switchboard_proto::codes::ErrorCode;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::SessionHandle;
use crate::gateway::Gateway;
use crate::links::HistoryQuery;

/// Questions of one session that wait; a further one is refused for the time being.
const WAITING: usize = 64;

/// Between two looks at whether the client has room for an answer.
const LOOK: Duration = Duration::from_millis(20);

/// A `history` command that may be answered.
pub(super) struct HistoryAsked {
    /// The command's.
    pub(super) id: u32,
    pub(super) channel: ChannelName,
    pub(super) query: HistoryQuery,
    /// When the command's frame came.
    pub(super) arrived: Instant,
}

/// Those that wait.
#[derive(Default)]
pub(super) struct Histories {
    waiting: Mutex<VecDeque<HistoryAsked>>,
    more: Notify,
}

impl Histories {
    /// `Err`: too many wait.
    pub(super) fn ask(&self, asked: HistoryAsked) -> Result<(), ErrorCode> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING {
            return Err(ErrorCode::TooManyRequests);
        }
        waiting.push_back(asked);
        drop(waiting);
        self.more.notify_one();
        Ok(())
    }

    fn take(&self) -> Option<HistoryAsked> {
        let mut waiting = self.waiting.lock();
        let next = waiting.pop_front();
        if waiting.is_empty() {
            // A burst's memory is not kept by a connection that is quiet afterwards.
            waiting.shrink_to(0);
        }
        next
    }
}

/// The work on them: polled by the session's task, and gone with it.
#[derive(Default)]
pub(super) struct Answering(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Answering {
    /// Answers whatever is asked. Never ends. Cancel safe.
    pub(super) async fn run(&mut self, gateway: &Arc<Gateway>, session: &Arc<SessionHandle>) {
        loop {
            if let Some(answering) = &mut self.0 {
                answering.await;
                self.0 = None;
            }
            match session.histories.take() {
                Some(asked) => {
                    let (gateway, session) = (Arc::clone(gateway), Arc::clone(session));
                    self.0 = Some(Box::pin(answer(gateway, session, asked)));
                }
                None => session.histories.more.notified().await,
            }
        }
    }
}

async fn answer(gateway: Arc<Gateway>, session: Arc<SessionHandle>, asked: HistoryAsked) {
    let HistoryAsked {
        id,
        channel,
        query,
        arrived,
    } = asked;
    let outcome = async {
        while !session.has_room() {
            tokio::time::sleep(LOOK).await;
        }
        // Closed never.
        let _place = gateway.histories.acquire().await;
        gateway.links.history(&channel, &query, arrived).await
    };
    let outcome = tokio::time::timeout_at(arrived + gateway.config.answer_timeout, outcome).await;
    match outcome.unwrap_or(Err(ErrorCode::Internal)) {
        Ok((result, payload)) => {
            let reply = Reply {
                id,
                history: Some(result),
                ..Reply::default()
            };
            session.reply_carrying(&reply, payload);
        }
        Err(code) => {
            gateway.metrics.error(code);
            tracing::debug!(client = %session.client(), command = id, code = code.code(), "history not answered");
            session.reply(&Reply {
                id,
                error: Some(code.into()),
                ..Reply::default()
            });
        }
    }
}
