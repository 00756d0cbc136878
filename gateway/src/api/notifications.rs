//! What backends ask of the notify service, over HTTP: its own messages as JSON. (Over gRPC it is asked itself.)

use axum::response::Response;
use switchboard_bus::messages::AskError;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::notifications::{self as requests, method};
use switchboard_proto::questions::Method;

use super::failure::Failure;
use super::{Api, Call, Caller, http};
use crate::metrics::ApiMethod;
use crate::notifications;
use crate::session::told;

/// One line for each method: its name here, what is asked with it, and how it is counted.
macro_rules! methods {
    ($($name:literal => $question:ident($request:ident), $method:ident;)+) => {
        $(impl Call for requests::$request {
            type Result = <method::$question as Method>::Response;
            const METHOD: ApiMethod = ApiMethod::$method;

            async fn carry_out(self, api: &Api, _: Caller) -> Result<Self::Result, Failure> {
                let within = api.gateway.config.notifications.timeout;
                let asked = notifications::ask::<method::$question>(&api.gateway, &self, within).await;
                asked.map_err(|error| refused(Self::METHOD, error))
            }
        })+

        /// As [`http::one`]; `None`: there is no such method.
        pub(super) async fn answer(
            api: &Api,
            method: &str,
            body: &[u8],
            caller: Caller,
        ) -> Result<Option<Vec<u8>>, Response> {
            match method {
                $($name => http::one::<requests::$request>(api, body, caller).await.map(Some),)+
                _ => Ok(None),
            }
        }
    };
}

methods! {
    "notification_send" => Send(SendRequest), NotificationSend;
    "notification_cancel" => Cancel(CancelRequest), NotificationCancel;
    "notification_get" => Get(GetRequest), NotificationGet;
    "notification_inbox" => Inbox(InboxRequest), NotificationInbox;
    "notification_mark" => MarkInbox(MarkInboxRequest), NotificationMark;
    "notification_preferences" => GetPreferences(GetPreferencesRequest), NotificationPreferences;
    "notification_set_preferences" => SetPreferences(SetPreferencesRequest), NotificationSetPreferences;
    "notification_mute" => Mute(MuteRequest), NotificationMute;
    "notification_statistics" => Statistics(StatisticsRequest), NotificationStatistics;
    "device_register" => RegisterDevice(RegisterDeviceRequest), DeviceRegister;
    "device_remove" => RemoveDevice(RemoveDeviceRequest), DeviceRemove;
    "device_list" => ListDevices(ListDevicesRequest), DeviceList;
    "template_put" => PutTemplate(PutTemplateRequest), TemplatePut;
    "template_delete" => DeleteTemplate(DeleteTemplateRequest), TemplateDelete;
    "template_list" => ListTemplates(ListTemplatesRequest), TemplateList;
    "dead_letter_list" => DeadLetters(DeadLettersRequest), DeadLetterList;
    "dead_letter_retry" => RetryDeadLetters(RetryDeadLettersRequest), DeadLetterRetry;
    "dead_letter_drop" => DropDeadLetters(DropDeadLettersRequest), DeadLetterDrop;
    "user_forget_notifications" => ForgetUser(ForgetUserRequest), UserForgetNotifications;
}

/// As a backend is told it.
fn refused(method: ApiMethod, error: AskError) -> Failure {
    match error {
        AskError::Unavailable(words) => {
            tracing::debug!(
                method = method.as_str(),
                words,
                "the notify service does not answer"
            );
            Failure::because(
                ErrorCode::Internal,
                "the notify service does not answer; what was asked may be done or not, ask again",
            )
        }
        AskError::NotAvailable(words) => {
            let code = ErrorCode::NotAvailable;
            Failure::of(code.code(), format!("{}: {words}", code.words()))
        }
        error => told(error).into(),
    }
}
