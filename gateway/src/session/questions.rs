//! A session's questions, about history and by rpc: answered one after the other, beside its commands.
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
use switchboard_proto::bus::PayloadKind;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::{Error, Reply, RpcResult};
use switchboard_proto::codes::ErrorCode;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::SessionHandle;
use super::presence::{Listing, list};
use super::rpc::{Asking, Call};
use crate::gateway::Gateway;
use crate::links::HistoryQuery;

/// Questions of one session that wait; a further one is refused for the time being.
const WAITING: usize = 64;

/// Between two looks at whether the client has room for an answer.
const LOOK: Duration = Duration::from_millis(20);

/// A command that is answered beside the others.
pub(super) struct Question {
    /// The command's.
    pub(super) id: u32,
    pub(super) wanted: Wanted,
    /// When the command's frame came.
    pub(super) arrived: Instant,
}

/// What is asked. Whatever can be refused at once has been.
pub(super) enum Wanted {
    History {
        channel: ChannelName,
        query: HistoryQuery,
    },
    /// Who is in the channel.
    Presence {
        channel: ChannelName,
        listing: Listing,
    },
    Rpc(Call),
}

/// Those that wait.
#[derive(Default)]
pub(super) struct Questions {
    waiting: Mutex<VecDeque<Question>>,
    more: Notify,
}

impl Questions {
    /// `Err`: too many wait.
    pub(super) fn ask(&self, question: Question) -> Result<(), ErrorCode> {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING {
            return Err(ErrorCode::TooManyRequests);
        }
        waiting.push_back(question);
        drop(waiting);
        self.more.notify_one();
        Ok(())
    }

    fn take(&self) -> Option<Question> {
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
            match session.questions.take() {
                Some(question) => {
                    let (gateway, session) = (Arc::clone(gateway), Arc::clone(session));
                    self.0 = Some(Box::pin(answer(gateway, session, question)));
                }
                None => session.questions.more.notified().await,
            }
        }
    }
}

async fn answer(gateway: Arc<Gateway>, session: Arc<SessionHandle>, question: Question) {
    let Question { id, wanted, arrived } = question;
    let outcome = async {
        while !session.has_room() {
            tokio::time::sleep(LOOK).await;
        }
        let places = match wanted {
            Wanted::History { .. } => &gateway.questions,
            Wanted::Presence { .. } | Wanted::Rpc(_) => &gateway.rpcs,
        };
        // Closed never.
        let _place = places.acquire().await;
        answered(&gateway, &session, wanted, arrived).await
    };
    let outcome = tokio::time::timeout_at(arrived + gateway.config.answer_timeout, outcome).await;
    match outcome.unwrap_or(Err(ErrorCode::Internal.into())) {
        Ok((reply, payload)) => session.reply_carrying(&Reply { id, ..reply }, payload),
        Err(error) => {
            gateway.metrics.error_number(error.code);
            tracing::debug!(client = %session.client(), command = id, code = error.code, "question not answered");
            session.reply(&Reply {
                id,
                error: Some(error),
                ..Reply::default()
            });
        }
    }
}

/// The answer without the command's id, and of which kind its payloads are.
async fn answered(
    gateway: &Arc<Gateway>,
    session: &Arc<SessionHandle>,
    wanted: Wanted,
    arrived: Instant,
) -> Result<(Reply, PayloadKind), Error> {
    match wanted {
        Wanted::History { channel, query } => {
            let (result, payload) = gateway.links.history(&channel, &query, arrived).await?;
            let reply = Reply {
                history: Some(result),
                ..Reply::default()
            };
            Ok((reply, payload))
        }
        Wanted::Presence { channel, listing } => {
            let reply = list(gateway, &channel, listing, arrived).await?;
            Ok((reply, PayloadKind::Json))
        }
        Wanted::Rpc(call) => {
            let asking = Asking {
                gateway: Arc::clone(gateway),
                session: Arc::clone(session),
                arrived,
            };
            let data = call.run(asking).await?;
            let reply = Reply {
                rpc: Some(RpcResult { data }),
                ..Reply::default()
            };
            Ok((reply, PayloadKind::Json))
        }
    }
}
