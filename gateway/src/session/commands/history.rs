//! `history`: what was said in a channel, as far as the log has it.

use switchboard_proto::client::HistoryRequest;
use switchboard_proto::codes::ErrorCode;

use super::{Commands, Violation, violation};
use crate::links::HistoryQuery;
use crate::policy::Action;
use crate::session::questions::Wanted;

impl Commands {
    /// Answered beside the commands, so that those behind it do not wait for the log to be read.
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
        let config = &self.gateway.config;
        let most = config.history_limit;
        let query = HistoryQuery {
            since: request.since,
            reverse: request.reverse,
            // Below 0: as many as there may be.
            limit: u32::try_from(request.limit).map_or(most, |limit| limit.min(most)),
            // A session has room for an answer as long as less than a quarter of its queue waits.
            bytes: config.history_bytes.min(config.outgoing_queue / 4),
            ..HistoryQuery::default()
        };
        self.ask(id, Wanted::History { channel, query });
        Ok(())
    }
}
