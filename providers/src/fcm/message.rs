//! A message in FCM's form.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::push;
use crate::{Outgoing, SendError, Urgency};

/// Bytes of keys and values of the notification and the data that FCM takes for one device.
pub const LARGEST: usize = 4096;

/// The message in FCM's form, with what it needs to say the same to Android, to Apple's systems and to browsers.
pub(super) fn body(device: &str, message: &Outgoing) -> Result<Vec<u8>, SendError> {
    let mut data: BTreeMap<&str, &str> = BTreeMap::new();
    if !message.category.is_empty() {
        data.insert("category", &message.category);
    }
    if let Some(link) = &message.link {
        data.insert("link", link);
    }
    data.extend(
        message
            .data
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str())),
    );
    let has_text = !message.title.is_empty() || !message.body.is_empty();
    let notification = has_text.then(|| Notification {
        title: &message.title,
        body: &message.body,
    });
    let size = data
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum::<usize>()
        + notification.as_ref().map_or(0, Notification::size);
    if size > LARGEST {
        return Err(SendError::Refused {
            reason: format!("{size} bytes are more than the {LARGEST} that FCM takes"),
        });
    }
    let seconds = push::time_to_live(message);
    let is_high = message.urgency == Urgency::High;
    let topic = message.collapse.as_deref().map(push::hashed);
    let mut headers = BTreeMap::from([
        ("apns-priority", if is_high { "10" } else { "5" }.to_owned()),
        ("apns-expiration", expiration(seconds).to_string()),
    ]);
    let mut web = BTreeMap::from([
        ("TTL", seconds.to_string()),
        (
            "Urgency",
            match message.urgency {
                Urgency::Low => "low",
                Urgency::Normal => "normal",
                Urgency::High => "high",
            }
            .to_owned(),
        ),
    ]);
    if let Some(topic) = topic {
        headers.insert("apns-collapse-id", topic.clone());
        web.insert("Topic", topic);
    }
    let request = Request {
        message: Message {
            token: device,
            notification,
            data,
            android: Android {
                priority: if is_high { "HIGH" } else { "NORMAL" },
                ttl: format!("{seconds}s"),
                collapse_key: message.collapse.as_deref(),
                notification: message.badge.map(|count| AndroidNotification {
                    notification_count: count.min(i32::MAX.unsigned_abs()),
                }),
            },
            apns: Apns {
                headers,
                payload: ApnsPayload {
                    aps: Aps {
                        badge: message.badge,
                        sound: (message.urgency != Urgency::Low && has_text).then_some("default"),
                    },
                },
            },
            webpush: WebPush {
                headers: web,
                fcm_options: message
                    .link
                    .as_deref()
                    .filter(|link| link.starts_with("https://"))
                    .map(|link| FcmOptions { link }),
            },
        },
    };
    serde_json::to_vec(&request).map_err(|_| SendError::Refused {
        reason: "not JSON".to_owned(),
    })
}

/// When APNs forgets the message: Unix seconds, 0 for now or never.
fn expiration(seconds: u64) -> u64 {
    if seconds == 0 {
        0
    } else {
        push::unix_now() + seconds
    }
}

#[derive(Serialize)]
struct Request<'a> {
    message: Message<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    notification: Option<Notification<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    data: BTreeMap<&'a str, &'a str>,
    android: Android<'a>,
    apns: Apns,
    webpush: WebPush<'a>,
}

#[derive(Serialize)]
struct Notification<'a> {
    title: &'a str,
    body: &'a str,
}

impl Notification<'_> {
    /// As FCM counts: keys and values.
    fn size(&self) -> usize {
        "title".len() + self.title.len() + "body".len() + self.body.len()
    }
}

#[derive(Serialize)]
struct Android<'a> {
    priority: &'static str,
    ttl: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    collapse_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notification: Option<AndroidNotification>,
}

#[derive(Serialize)]
struct AndroidNotification {
    notification_count: u32,
}

#[derive(Serialize)]
struct Apns {
    headers: BTreeMap<&'static str, String>,
    payload: ApnsPayload,
}

#[derive(Serialize)]
struct ApnsPayload {
    aps: Aps,
}

#[derive(Serialize)]
struct Aps {
    #[serde(skip_serializing_if = "Option::is_none")]
    badge: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<&'static str>,
}

#[derive(Serialize)]
struct WebPush<'a> {
    headers: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fcm_options: Option<FcmOptions<'a>>,
}

#[derive(Serialize)]
struct FcmOptions<'a> {
    link: &'a str,
}
