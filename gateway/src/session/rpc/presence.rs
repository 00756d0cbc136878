//! `presence.get`, `presence.watch`, `presence.unwatch`, `presence.set`, `presence.me`, `presence.device`.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use switchboard_proto::client::Error;
use switchboard_proto::messages::{SharedRequest, method as messages};
use switchboard_proto::presence::{
    Device, GetUserRequest, GetUsersRequest, MAX_DEVICE_TEXT, MAX_USER, SetUserRequest, Status, Visibility,
    method,
};

use super::{Asking, bad, told};
use crate::presence::{WatchError, glance, told as seen};

/// Users of one call, at most.
const MAX_USERS: usize = 500;

/// How long the message store is waited for, about who shares channels.
const SHARED: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Users {
    users: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    text: Option<String>,
    /// Milliseconds.
    #[serde(default)]
    text_lasts: u64,
    #[serde(default)]
    visibility: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfDevice {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    platform: String,
    #[serde(default)]
    app_version: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// What is seen of some users now.
pub(super) async fn get(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let users = users(&asking, &data, "presence.get wants {users}")?;
    let viewer = asking.session.user().to_owned();
    let found = asking.ask::<method::GetUsers>(&GetUsersRequest { users }).await?;
    let hidden = (found.users.iter()).filter(|presence| presence.visibility() == Visibility::Shared);
    let hidden: Vec<String> = hidden.map(|presence| presence.user.clone()).collect();
    let shared = match hidden.is_empty() {
        true => HashSet::new(),
        false => shared(&asking, &hidden).await,
    };
    let users: Vec<_> = (found.users.iter())
        .map(|presence| seen(&glance(presence, &viewer, shared.contains(&presence.user))))
        .collect();
    Ok(json!({ "users": users }).to_string().into())
}

/// The same, and from now on every change of it.
pub(super) async fn watch(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let users = users(&asking, &data, "presence.watch wants {users}")?;
    let shared = shared(&asking, &users).await;
    let gateway = &asking.gateway;
    let watched = (gateway.presence)
        .watch(gateway.links.bus(), &asking.session, &users, &shared)
        .await;
    let users: Vec<_> = match watched {
        Ok(watched) => watched.iter().map(seen).collect(),
        Err(WatchError::Refused(code)) => return Err(code.into()),
        Err(WatchError::NotAnswered(error)) => return Err(told(error)),
    };
    Ok(json!({ "users": users }).to_string().into())
}

/// No more changes of these.
pub(super) async fn unwatch(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let users = users(&asking, &data, "presence.unwatch wants {users}")?;
    asking.gateway.presence.unwatch(asking.session.client(), &users);
    Ok(Bytes::from_static(b"{}"))
}

/// What the caller chose, with all of her connections and devices.
pub(super) async fn me(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let Nothing {} = asking.parse(&data, "presence.me wants {}")?;
    let user = asking.user()?;
    let found = asking.ask::<method::GetUser>(&GetUserRequest { user }).await?;
    let device = |device: Option<&Device>| {
        let device = device.cloned().unwrap_or_default();
        json!({
            "type": device.r#type,
            "name": device.name,
            "platform": device.platform,
            "app_version": device.app_version,
        })
    };
    let connections: Vec<_> = (found.sessions.iter())
        .map(|session| {
            json!({
                "client": uuid::Uuid::from_slice(&session.client).unwrap_or_default(),
                "since": session.since_ms,
                "active": session.active_ms,
                "device": device(session.device.as_ref()),
            })
        })
        .collect();
    let devices: Vec<_> = (found.devices.iter())
        .map(|known| json!({"device": device(known.device.as_ref()), "first": known.first_ms, "last": known.last_ms}))
        .collect();
    let presence = found.presence.clone().unwrap_or_default();
    let answer = json!({
        "presence": seen(&glance(&presence, &presence.user, true)),
        "chosen": match found.chosen() {
            Status::Unspecified => None,
            chosen => Some(chosen.word()),
        },
        "text_until": found.text_until_ms,
        "visibility": presence.visibility().word(),
        "connections": connections,
        "devices": devices,
    });
    Ok(answer.to_string().into())
}

/// Changes what the caller chose.
pub(super) async fn set(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let wanted = "presence.set wants {status?, text?, text_lasts?, visibility?}";
    let Set {
        status,
        text,
        text_lasts,
        visibility,
    } = asking.parse(&data, wanted)?;
    let user = asking.user()?;
    let status = match status {
        Some(word) => match Status::from_word(&word) {
            Some(status) if status != Status::Offline => Some(status.into()),
            _ => return Err(bad("status is one of online, away, busy and invisible")),
        },
        None => None,
    };
    let visibility = match visibility {
        Some(word) => match Visibility::from_word(&word) {
            Some(visibility) => Some(visibility.into()),
            None => return Err(bad("visibility is one of everybody, shared and nobody")),
        },
        None => None,
    };
    let request = SetUserRequest {
        user,
        status,
        text,
        text_lasts_ms: text_lasts,
        visibility,
    };
    let found = asking.ask::<method::SetUser>(&request).await?;
    let presence = found.presence.unwrap_or_default();
    let answer = json!({ "presence": seen(&glance(&presence, &presence.user, true)) });
    Ok(answer.to_string().into())
}

/// Says what the connection runs on.
pub(super) async fn device(asking: Asking, data: Bytes) -> Result<Bytes, Error> {
    let OfDevice {
        r#type,
        name,
        platform,
        app_version,
    } = asking.parse(
        &data,
        "presence.device wants {type?, name?, platform?, app_version?}",
    )?;
    asking.user()?;
    for text in [&r#type, &name, &platform, &app_version] {
        if text.len() > MAX_DEVICE_TEXT || text.chars().any(char::is_control) {
            return Err(bad(
                "what is said of a device is 64 bytes each at most, without control characters",
            ));
        }
    }
    let device = Device {
        r#type,
        name,
        platform,
        app_version,
    };
    asking
        .gateway
        .presence
        .set_device(asking.session.client(), device);
    Ok(Bytes::from_static(b"{}"))
}

/// The users of a call. Anonymous callers watch nobody: nobody would know whom to show what.
fn users(asking: &Asking, data: &[u8], wanted: &'static str) -> Result<Vec<String>, Error> {
    let Users { mut users } = asking.parse(data, wanted)?;
    asking.user()?;
    if users.is_empty() || users.len() > MAX_USERS {
        return Err(bad("users are 1 to 500"));
    }
    if users.iter().any(|user| user.is_empty() || user.len() > MAX_USER) {
        return Err(bad("a user's id has 1 to 255 bytes"));
    }
    users.sort_unstable();
    users.dedup();
    Ok(users)
}

/// Those of the users who are in a channel with the caller. Where the message store does not say, nobody is known to be: rather
/// hidden than shown.
async fn shared(asking: &Asking, users: &[String]) -> HashSet<String> {
    let request = SharedRequest {
        user: asking.session.user().to_owned(),
        others: users.to_vec(),
    };
    let answer = tokio::time::timeout(SHARED, asking.ask::<messages::Shared>(&request)).await;
    match answer {
        Ok(Ok(answer)) => answer.others.into_iter().collect(),
        Ok(Err(_)) | Err(_) => HashSet::new(),
    }
}
