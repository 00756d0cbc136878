//! What clients call by `rpc`: the table of methods that are answered beside a session's commands. (`message.send` is not among
//! them: it keeps its place among the publishes.)
//!
//! A method is a function in a file of its own below this one: it checks the caller's rights, asks who knows, and gives JSON.

mod changes;
mod cursor;
mod history;
mod inbox;
mod listed;
mod members;
mod notifications;
mod presence;
mod rights;
mod search;
mod statistics;
mod status;
mod threads;
mod typing;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use switchboard_bus::messages::AskError;
use switchboard_proto::client::Error;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::questions::Method;
use tokio::time::Instant;

use super::SessionHandle;
use crate::changes::bad;
use crate::gateway::Gateway;

/// A method's work: from the rpc's data to its answer, both JSON.
type Handler = fn(Asking, Bytes) -> BoxFuture<'static, Result<Bytes, Error>>;

/// Who calls, and what the call may use.
pub(super) struct Asking {
    pub(super) gateway: Arc<Gateway>,
    pub(super) session: Arc<SessionHandle>,
    /// When the command's frame came: its answer is due within `gateway.answer_timeout` of it (P4).
    pub(super) arrived: Instant,
}

/// A call of a method that exists.
pub(super) struct Call {
    handler: Handler,
    data: Bytes,
}

impl Call {
    /// `None`: there is no such method.
    pub(super) fn find(method: &str, data: Bytes) -> Option<Self> {
        let (_, handler) = METHODS.iter().find(|(name, _)| *name == method)?;
        Some(Self {
            handler: *handler,
            data,
        })
    }

    pub(super) async fn run(self, asking: Asking) -> Result<Bytes, Error> {
        (self.handler)(asking, self.data).await
    }
}

macro_rules! methods {
    ($($name:literal => $handler:path,)*) => {
        &[$(($name, |asking, data| Box::pin($handler(asking, data))),)*]
    };
}

/// One line for each method.
const METHODS: &[(&str, Handler)] = methods! {
    "channel.members.add" => members::add,
    "channel.members.list" => members::list,
    "channel.members.remove" => members::remove,
    "device.list" => notifications::list_devices,
    "device.register" => notifications::register_device,
    "device.remove" => notifications::remove_device,
    "history.list" => history::list,
    "history.search" => search::search,
    "inbox.list" => inbox::list,
    "message.delete" => changes::delete,
    "message.edit" => changes::edit,
    "message.react" => changes::react,
    "message.status" => status::status,
    "notification.list" => notifications::list,
    "notification.mark" => notifications::mark,
    "notification.mute" => notifications::mute,
    "notification.preferences.get" => notifications::preferences,
    "notification.preferences.set" => notifications::set_preferences,
    "presence.device" => presence::device,
    "presence.get" => presence::get,
    "presence.me" => presence::me,
    "presence.set" => presence::set,
    "presence.unwatch" => presence::unwatch,
    "presence.watch" => presence::watch,
    "statistics.channels" => statistics::channels,
    "statistics.get" => statistics::get,
    "thread.list" => threads::list,
    "typing.start" => typing::start,
    "typing.stop" => typing::stop,
};

impl Asking {
    /// Asks a service, within the time that the call has left.
    ///
    /// # Errors
    /// As the client is told them.
    pub(super) async fn ask<M: Method>(&self, request: &M::Request) -> Result<M::Response, Error> {
        let bus = self.gateway.links.bus();
        let asked = switchboard_bus::messages::ask::<M>(bus, request, self.time_left()).await;
        asked.map_err(|error| self.not_answered(M::NAME, error))
    }

    /// Until the call's answer is due.
    fn time_left(&self) -> Duration {
        let due = self.arrived + self.gateway.config.answer_timeout;
        due.saturating_duration_since(Instant::now())
    }

    fn not_answered(&self, method: &str, error: AskError) -> Error {
        tracing::debug!(client = %self.session.client(), method, %error, "service did not answer");
        told(error)
    }
}

/// A store's fault as clients are told of it. What is wrong with a request is told in its words.
pub(crate) fn told(error: AskError) -> Error {
    let with = |code: ErrorCode, words: String| Error {
        message: format!("{}: {words}", code.words()),
        ..Error::from(code)
    };
    match error {
        AskError::Invalid(words) => with(ErrorCode::BadRequest, words),
        AskError::NotFound(words) => with(ErrorCode::BadRequest, words),
        AskError::Denied(_) => ErrorCode::PermissionDenied.into(),
        AskError::NotAvailable(_) => ErrorCode::NotAvailable.into(),
        AskError::Unavailable(_) | AskError::Internal(_) => ErrorCode::Internal.into(),
    }
}
