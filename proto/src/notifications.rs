//! What the notify service is asked: the messages of its service (generated), and each method as a type, for who asks over the
//! bus.

use crate::questions::{Service, methods};

/// The messages themselves (generated).
#[allow(clippy::all, unreachable_pub, missing_docs, reason = "generated code")]
mod generated {
    include!("generated/switchboard.notifications.rs");
}

pub use generated::*;

/// The service's name, and descriptors of all of it, as reflection answers with them.
pub const SERVICE: &str = "switchboard.notifications.NotificationService";
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/switchboard.notifications.descriptors");

methods! {
    Service::Notifications;
    /// Accepts notifications.
    Send: SendRequest => SendResponse,
    /// Cancels what was not sent yet.
    Cancel: CancelRequest => CancelResponse,
    /// What became of a notification.
    Get: GetRequest => GetResponse,
    /// What a user was told in the app.
    Inbox: InboxRequest => InboxResponse,
    /// Marks what a user has seen or read in the app.
    MarkInbox: MarkInboxRequest => MarkInboxResponse,
    /// How a user wants to be told.
    GetPreferences: GetPreferencesRequest => GetPreferencesResponse,
    /// Changes it.
    SetPreferences: SetPreferencesRequest => SetPreferencesResponse,
    /// Nothing of a conversation, for a time.
    Mute: MuteRequest => MuteResponse,
    /// Where a user is told.
    RegisterDevice: RegisterDeviceRequest => RegisterDeviceResponse,
    /// Where no longer.
    RemoveDevice: RemoveDeviceRequest => RemoveDeviceResponse,
    /// All of a user's.
    ListDevices: ListDevicesRequest => ListDevicesResponse,
    /// How it is said.
    PutTemplate: PutTemplateRequest => PutTemplateResponse,
    /// How no longer.
    DeleteTemplate: DeleteTemplateRequest => DeleteTemplateResponse,
    /// All of them.
    ListTemplates: ListTemplatesRequest => ListTemplatesResponse,
    /// What could not be delivered.
    DeadLetters: DeadLettersRequest => DeadLettersResponse,
    /// Tries it again.
    RetryDeadLetters: RetryDeadLettersRequest => RetryDeadLettersResponse,
    /// Gives it up.
    DropDeadLetters: DropDeadLettersRequest => DropDeadLettersResponse,
    /// How much was sent.
    Statistics: StatisticsRequest => StatisticsResponse,
    /// Forgets all that is known of a user.
    ForgetUser: ForgetUserRequest => ForgetUserResponse,
}
