//! What methods ask before they do anything: is it a request, is it a channel, may the caller.

use bytes::Bytes;
use serde::Deserialize;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::Error;
use switchboard_proto::codes::ErrorCode;

use super::{Asking, bad};
use crate::links::HistoryQuery;
use crate::policy::{Action, Asking as Who};

impl Asking {
    /// The call's data; the error says what was `wanted`.
    pub(super) fn parse<'a, T: Deserialize<'a>>(
        &self,
        data: &'a [u8],
        wanted: &'static str,
    ) -> Result<T, Error> {
        serde_json::from_slice(data).map_err(|_| bad(wanted))
    }

    /// Bytes of stored messages that an answer may hold: a session has room for it as long as less than a quarter of its queue waits,
    /// and JSON takes more than what is stored.
    pub(super) fn answer_bytes(&self) -> u64 {
        let config = &self.gateway.config;
        (config.history_bytes.min(config.outgoing_queue / 4) / 2).max(1) as u64
    }

    /// An answer that a connection has room for; else what to do: `less`.
    pub(super) fn fits(&self, answer: String, less: &str) -> Result<Bytes, Error> {
        let most = self.gateway.config.outgoing_queue / 4;
        match answer.len() <= most {
            true => Ok(answer.into()),
            false => Err(Error {
                message: format!(
                    "{}: {} bytes for one answer, {most} are allowed: {less}",
                    ErrorCode::LimitExceeded.words(),
                    answer.len()
                ),
                ..Error::from(ErrorCode::LimitExceeded)
            }),
        }
    }

    /// Whose connection it is; nobody's is refused.
    pub(super) fn user(&self) -> Result<String, Error> {
        match self.session.user() {
            "" => Err(ErrorCode::PermissionDenied.into()),
            user => Ok(user.to_owned()),
        }
    }

    pub(super) fn channel(&self, name: &str) -> Result<ChannelName, Error> {
        ChannelName::parse(name, self.gateway.config.channel_name_length)
            .map_err(|_| bad("not a channel name"))
    }

    /// Whether there can be such a channel.
    pub(super) fn exists(&self, channel: &ChannelName) -> Result<(), Error> {
        let policy = self.gateway.config.policy.now();
        policy.decide_for_server(channel).map_err(Error::from)
    }

    /// Whether the caller may read what was said in the channel.
    pub(super) async fn may_read(&self, channel: &ChannelName) -> Result<(), Error> {
        let reading = self.gateway.may_read(&self.session, channel, self.arrived);
        Ok(reading.await?)
    }

    /// Whether the caller may read the channel's history: by its settings, also where it is subscribed, and by its members.
    pub(super) async fn may_read_history(&self, channel: &ChannelName) -> Result<(), Error> {
        let who = Who {
            user: self.session.user(),
            is_in: self.session.holds(channel),
        };
        let policy = self.gateway.config.policy.now();
        policy.decide(Action::History, channel, who).outcome?;
        let let_in = self.gateway.lets_in(channel, self.session.user(), self.arrived);
        Ok(let_in.await?)
    }

    /// The life of the log that `offset` is of, and whether that is the one in force, which has to have it. Not named, it is
    /// that one.
    pub(super) async fn epoch(
        &self,
        channel: &ChannelName,
        epoch: String,
        offset: u64,
    ) -> Result<(String, bool), Error> {
        let top = HistoryQuery::default();
        let (top, _) = self.gateway.links.history(channel, &top, self.arrived).await?;
        if !epoch.is_empty() && epoch != top.epoch {
            return Ok((epoch, false));
        }
        match offset <= top.offset {
            true => Ok((top.epoch, true)),
            false => Err(ErrorCode::BadRequest.into()),
        }
    }
}
