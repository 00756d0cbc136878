//! What a user is told, how, and where: `notification.list`, `notification.mark`, `notification.mute`, `notification.preferences.get`
//! and `.set`, `device.register`, `device.remove`, `device.list`. Always the caller's own; the notify service knows.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use switchboard_proto::client::Error;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::json;
use switchboard_proto::notifications::{
    Device, GetPreferencesRequest, InboxRequest, ListDevicesRequest, MarkInboxRequest, MuteRequest,
    RegisterDeviceRequest, RemoveDeviceRequest, SetPreferencesRequest, method,
};
use switchboard_proto::questions::Method;

use super::{Asking, bad};
use crate::notifications;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    limit: u32,
    #[serde(default)]
    cursor: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    #[serde(default)]
    ids: Vec<String>,
    #[serde(default)]
    read: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Preferences<'a> {
    #[serde(borrow)]
    preferences: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mute {
    conversation: String,
    /// Unix milliseconds.
    #[serde(default)]
    until: i64,
    #[serde(default)]
    unmute: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Register<'a> {
    #[serde(borrow)]
    device: Registered<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registered<'a> {
    id: String,
    provider: String,
    #[serde(default)]
    address: String,
    #[serde(borrow, default)]
    subscription: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Remove {
    id: String,
}

/// What the caller was told in the app, the newest first. As many as the connection has room for.
pub(super) async fn list(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let List { limit, cursor } = asking.parse(&data, "notification.list wants {limit?, cursor?}")?;
    let mut request = InboxRequest {
        user: asking.user()?,
        limit,
        cursor,
    };
    loop {
        let page = asking.notify::<method::Inbox>(&request).await?;
        let half = u32::try_from(page.entries.len() / 2).unwrap_or(0);
        let is_less = half > 0 && (request.limit == 0 || half < request.limit);
        match asking.shown(&page) {
            // The page that the cursor of a shorter one leads to has the others.
            Err(error) if error.code == ErrorCode::LimitExceeded.code() && is_less => request.limit = half,
            outcome => return outcome,
        }
    }
}

/// Some of it was seen or read, or all of it.
pub(super) async fn mark(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let Mark { ids, read } = asking.parse(&data, "notification.mark wants {ids?, read?}")?;
    let user = asking.user()?;
    let request = MarkInboxRequest { user, ids, read };
    asking.pass_on::<method::MarkInbox>(&request).await
}

/// How the caller wants to be told.
pub(super) async fn preferences(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let Nothing {} = asking.parse(&data, "notification.preferences.get wants {}")?;
    let user = asking.user()?;
    let request = GetPreferencesRequest { user };
    asking.pass_on::<method::GetPreferences>(&request).await
}

/// All of it anew.
pub(super) async fn set_preferences(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let Preferences { preferences } =
        asking.parse(&data, "notification.preferences.set wants {preferences}")?;
    let user = asking.user()?;
    let preferences = value(preferences)?;
    let request = SetPreferencesRequest { user, preferences };
    asking.pass_on::<method::SetPreferences>(&request).await
}

/// Nothing of a conversation any more, for a time.
pub(super) async fn mute(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let Mute {
        conversation,
        until,
        unmute,
    } = asking.parse(&data, "notification.mute wants {conversation, until?, unmute?}")?;
    let request = MuteRequest {
        user: asking.user()?,
        // Of what the caller may not read, too: nothing is told of it.
        conversation: asking.channel(&conversation)?.as_str().to_owned(),
        until,
        unmute,
    };
    asking.pass_on::<method::Mute>(&request).await
}

/// Where the caller is told from now on.
pub(super) async fn register_device(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let wanted = "device.register wants {device: {id, provider, address?, subscription?}}";
    let Register { device } = asking.parse(&data, wanted)?;
    let user = asking.user()?;
    asking.may_register(&device.provider)?;
    let device = Device {
        id: device.id,
        provider: device.provider,
        address: device.address,
        subscription: device.subscription.map(value).transpose()?.unwrap_or_default(),
        ..Device::default()
    };
    let request = RegisterDeviceRequest {
        user,
        device: Some(device),
    };
    // It has a secret for webhooks alone.
    asking.notify::<method::RegisterDevice>(&request).await?;
    Ok(Bytes::from_static(b"{}"))
}

/// Where no longer.
pub(super) async fn remove_device(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let Remove { id } = asking.parse(&data, "device.remove wants {id}")?;
    let user = asking.user()?;
    let request = RemoveDeviceRequest { user, id };
    asking.pass_on::<method::RemoveDevice>(&request).await
}

/// All devices of the caller.
pub(super) async fn list_devices(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let Nothing {} = asking.parse(&data, "device.list wants {}")?;
    let user = asking.user()?;
    asking
        .pass_on::<method::ListDevices>(&ListDevicesRequest { user })
        .await
}

/// A JSON value for the service, whichever encoding the client speaks.
fn value(value: &RawValue) -> Result<Bytes, Error> {
    let value = value.get().as_bytes();
    match json::is_payload(value) {
        true => Ok(Bytes::copy_from_slice(value)),
        false => Err(bad("JSON that nests too deep")),
    }
}

impl Asking {
    /// Asks the notify service.
    async fn notify<M: Method>(&self, request: &M::Request) -> Result<M::Response, Error> {
        let within = self.time_left().min(self.gateway.config.notifications.timeout);
        let asked = notifications::ask::<M>(&self.gateway, request, within).await;
        asked.map_err(|error| self.not_answered(M::NAME, error))
    }

    /// Asks it, and answers what it says.
    async fn pass_on<M: Method>(&self, request: &M::Request) -> Result<Bytes, Error>
    where
        M::Response: Serialize,
    {
        self.shown(&self.notify::<M>(request).await?)
    }

    fn shown(&self, answer: &impl Serialize) -> Result<Bytes, Error> {
        let answer = serde_json::to_string(answer).map_err(|error| {
            tracing::warn!(%error, "an answer of the notify service cannot be shown as JSON");
            ErrorCode::Internal
        })?;
        self.fits(answer, "ask for less")
    }

    /// A device that the client is on proves itself by its token. An address is whoever's, and what a webhook is sent is for backends.
    fn may_register(&self, provider: &str) -> Result<(), Error> {
        match provider {
            "fcm" | "apns" | "web_push" => Ok(()),
            "email" | "sms" if self.gateway.config.notifications.allow_addresses => Ok(()),
            "email" | "sms" | "webhook" => Err(ErrorCode::PermissionDenied.into()),
            _ => Err(bad("provider is one of fcm, apns, web_push, email and sms")),
        }
    }
}
