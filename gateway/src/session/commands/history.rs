//! `history`: what was said in a channel, as far as the log has it.

use std::sync::Arc;

use switchboard_proto::client::{HistoryRequest, Reply};
use switchboard_proto::codes::ErrorCode;

use super::{Commands, Violation, violation};
use crate::links::HistoryQuery;
use crate::policy::Action;

impl Commands {
    /// Answered by a task of its own, so that commands behind it do not wait for the log to be read.
    pub(super) async fn history(&self, id: u32, request: HistoryRequest) -> Result<(), Violation> {
        if request.channel.is_empty() {
            return Err(violation("history without channel"));
        }
        let Some(channel) = self.channel(id, &request.channel) else {
            return Ok(());
        };
        if !self.may(Action::History, id, &channel, self.session.holds(&channel)) {
            return Ok(());
        }
        if !self.is_durable(&channel) {
            self.refuse(
                id,
                ErrorCode::NotAvailable,
                "the channel's messages are not stored",
            );
            return Ok(());
        }
        if request.reverse && request.since.as_ref().is_some_and(|since| since.offset == 0) {
            self.refuse(id, ErrorCode::BadRequest, "history before the first offset");
            return Ok(());
        }
        let gateway = Arc::clone(&self.gateway);
        let Ok(place) = Arc::clone(&gateway.histories).try_acquire_owned() else {
            self.refuse(
                id,
                ErrorCode::TooManyRequests,
                "gateway.history_questions are open already",
            );
            return Ok(());
        };
        let most = gateway.config.history_limit;
        let query = HistoryQuery {
            since: request.since,
            reverse: request.reverse,
            // Below 0: as many as there may be.
            limit: u32::try_from(request.limit).map_or(most, |limit| limit.min(most)),
            // More than a part of its queue would disconnect the client as slow.
            bytes: gateway
                .config
                .history_bytes
                .min(gateway.config.outgoing_queue / 4),
        };
        let (session, arrived) = (Arc::clone(&self.session), self.arrived);
        let answering = async move {
            let _place = place;
            match gateway.links.history(&channel, &query, arrived).await {
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
        };
        // Counted as part of the sessions: it ends within the time that commands have.
        tokio::spawn(self.gateway.sessions.track_future(answering));
        Ok(())
    }
}
