//! Full-text search.

use switchboard_bus::messages::AskError;
use switchboard_proto::messages::{Place, SearchMatch, SearchRequest, SearchResponse};

use super::Service;
use crate::search::{Question, Shown};

impl Service {
    /// # Errors
    /// [`AskError::Invalid`] says what is wrong with the question; [`AskError::NotAvailable`] where messages are not searched;
    /// [`AskError::Unavailable`].
    pub(crate) async fn search(&self, request: SearchRequest) -> Result<SearchResponse, AskError> {
        let Some(searching) = &self.searching else {
            return Err(AskError::NotAvailable(
                "messages are not searched here (persistence.search.enabled)".to_owned(),
            ));
        };
        let time = |ms: Option<u64>| ms.map(|ms| ms.saturating_mul(1000).min(i64::MAX.cast_unsigned()));
        let question = Question {
            query: request.query,
            channels: request.channels.map(|channels| channels.names),
            sender: Some(request.sender),
            from_us: time(request.from_ms),
            to_us: time(request.to_ms),
            bytes: usize::try_from(request.bytes).unwrap_or(usize::MAX),
            limit: usize::try_from(request.limit).unwrap_or(usize::MAX),
            cursor: Some(request.cursor),
            language: Some(request.language),
        };
        let found = searching.search(&question).await?;
        let shown = |shown: Shown| SearchMatch {
            channel: shown.channel,
            place: Some(Place {
                log_epoch: shown.place.log.to_string(),
                offset: shown.place.offset.get(),
            }),
            time_ms: shown.time_us / 1000,
            score: shown.score,
            snippet: shown.snippet,
            message: shown.message,
        };
        Ok(SearchResponse {
            matches: found.matches.into_iter().map(shown).collect(),
            cursor: found.cursor.unwrap_or_default(),
        })
    }
}
