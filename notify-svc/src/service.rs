//! What the service is asked: one method each, whoever asks and on whichever way.

mod devices;
mod looking;
mod wishes;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message as _;
use switchboard_bus::answering::Answers;
use switchboard_bus::messages::AskError;
use switchboard_proto::notifications::{
    CancelRequest, CancelResponse, ForgetUserRequest, ForgetUserResponse, SendRequest, SendResponse, Sent,
    method,
};
use switchboard_proto::questions::Method;
use switchboard_proto::time::now_us;
use uuid::Uuid;

use crate::accepting::{Accepting, check_user, fault};
use crate::config::Limits;
use crate::saying::Saying;
use crate::store::{MAX_BATCH, NotifyStore};

/// See the module.
pub(crate) struct Service {
    pub(crate) store: Arc<dyn NotifyStore>,
    pub(crate) saying: Arc<Saying>,
    pub(crate) accepting: Accepting,
    pub(crate) limits: Limits,
    /// What browsers subscribe with; empty: there is no Web Push here.
    pub(crate) web_push_key: String,
    /// Where webhooks may be.
    pub(crate) guard: switchboard_providers::guard::Guard,
}

/// Answers where nothing is kept.
pub(crate) struct NobodyTold;

#[async_trait]
impl Answers for NobodyTold {
    async fn answer(&self, _: &str, _: Bytes) -> Result<Bytes, AskError> {
        Err(AskError::NotAvailable(
            "nobody is told here (notify.store)".to_owned(),
        ))
    }
}

/// All methods: `handlers` is given each with the name of the function that answers it.
macro_rules! each_method {
    ($handlers:ident) => {
        $handlers! {
            Send: send,
            Cancel: cancel,
            Get: get,
            Inbox: inbox,
            MarkInbox: mark_inbox,
            GetPreferences: get_preferences,
            SetPreferences: set_preferences,
            Mute: mute,
            RegisterDevice: register_device,
            RemoveDevice: remove_device,
            ListDevices: list_devices,
            PutTemplate: put_template,
            DeleteTemplate: delete_template,
            ListTemplates: list_templates,
            DeadLetters: dead_letters,
            RetryDeadLetters: retry_dead_letters,
            DropDeadLetters: drop_dead_letters,
            Statistics: statistics,
            ForgetUser: forget_user,
        }
    };
}
pub(crate) use each_method;

macro_rules! answers {
    ($($method:ident: $function:ident,)*) => {
        #[async_trait]
        impl Answers for Service {
            async fn answer(&self, name: &str, request: Bytes) -> Result<Bytes, AskError> {
                match name {
                    $(method::$method::NAME => {
                        let request = <method::$method as Method>::Request::decode(request)
                            .map_err(|error| AskError::Invalid(format!("request not read: {error}")))?;
                        Ok(self.$function(request).await?.encode_to_vec().into())
                    })*
                    _ => Err(AskError::NotAvailable(
                        "this release of the notify service does not know the method".to_owned(),
                    )),
                }
            }
        }
    };
}
each_method!(answers);

/// Reads ids, 1 to [`MAX_BATCH`] of them.
fn ids(texts: &[String]) -> Result<Vec<Uuid>, AskError> {
    if texts.is_empty() || texts.len() > MAX_BATCH {
        return Err(AskError::Invalid(format!("1 to {MAX_BATCH} ids are asked for")));
    }
    texts.iter().map(|text| id(text)).collect()
}

fn id(text: &str) -> Result<Uuid, AskError> {
    Uuid::try_parse(text).map_err(|_| AskError::Invalid("an id is no UUID".to_owned()))
}

impl Service {
    pub(crate) async fn send(&self, request: SendRequest) -> Result<SendResponse, AskError> {
        let kept = self.accepting.send(request.notifications, now_us()).await?;
        let sent = kept.into_iter().map(|kept| Sent {
            id: kept.id.to_string(),
            duplicate: kept.duplicate,
        });
        Ok(SendResponse { sent: sent.collect() })
    }

    pub(crate) async fn cancel(&self, request: CancelRequest) -> Result<CancelResponse, AskError> {
        let cancelled = self
            .store
            .cancel(&ids(&request.ids)?, now_us())
            .await
            .map_err(fault)?;
        Ok(CancelResponse {
            cancelled: u32::try_from(cancelled).unwrap_or(u32::MAX),
        })
    }

    pub(crate) async fn forget_user(
        &self,
        request: ForgetUserRequest,
    ) -> Result<ForgetUserResponse, AskError> {
        check_user(&request.user)?;
        self.store.forget(&request.user).await.map_err(fault)?;
        Ok(ForgetUserResponse {})
    }
}
