//! A notification as providers take it.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};
use switchboard_providers::{Address, Outgoing, Urgency};

use crate::links::{Links, Unsubscribe};
use crate::model::{Device, Priority, Target, Way};
use crate::saying::{Said, millis};
use crate::store::Claimed;

/// How long the secret before the last one signs, too.
pub(crate) const ROTATION_US: u64 = 24 * 3_600 * 1_000_000;

/// Bytes of a title and of a body on a device: with data they fit into the 4 KiB of push services.
const TITLE: usize = 256;
const BODY: usize = 1_024;

/// The first bytes of a text, whole characters of it.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most - 3);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// Where a device is.
pub(super) fn address(target: &Target, now_us: u64) -> Address {
    match target.clone() {
        Target::Fcm(token) => Address::Fcm { token },
        Target::Apns(token) => Address::Apns { token },
        Target::WebPush {
            endpoint,
            p256dh,
            auth,
        } => Address::WebPush {
            endpoint,
            p256dh,
            auth,
        },
        Target::Email(address) => Address::Email { address },
        Target::Sms(number) => Address::Sms { number },
        Target::Webhook { url, secret, old } => {
            let old = old.filter(|(_, until_us)| *until_us > now_us).map(|(old, _)| old);
            Address::Webhook {
                url,
                secrets: [secret].into_iter().chain(old).map(SecretString::from).collect(),
            }
        }
    }
}

pub(super) fn outgoing(
    claimed: &Claimed,
    said: Said,
    priority: Priority,
    device: &Device,
    links: Option<&Links>,
    now_us: u64,
) -> Outgoing {
    let (delivery, notification) = (&claimed.delivery, &*claimed.notification);
    let content = &notification.content;
    let custom: Value = serde_json::from_slice(&content.data).unwrap_or(Value::Null);
    let mut data: BTreeMap<String, String> = BTreeMap::new();
    if let Value::Object(fields) = &custom {
        data.extend(fields.iter().map(|(name, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            (name.clone(), text)
        }));
    }
    data.insert("notification".to_owned(), notification.id.to_string());
    if !content.conversation.is_empty() {
        data.insert("conversation".to_owned(), content.conversation.clone());
    }
    let payload = (device.way == Way::Webhook).then(|| {
        json!({
            "type": format!("notification.{}", content.category),
            "timestamp": millis(notification.created_us),
            "data": {
                "id": notification.id.to_string(),
                "user": content.user,
                "category": content.category,
                "priority": priority.word(),
                "title": said.title,
                "body": said.body,
                "link": said.link,
                "conversation": content.conversation,
                "data": custom,
            },
        })
        .to_string()
    });
    let unsubscribe = links.filter(|_| device.way == Way::Email).map(|links| {
        links.unsubscribe(&Unsubscribe {
            user: delivery.user.clone(),
            category: content.category.clone(),
            way: Way::Email,
        })
    });
    let (title, body) = match device.way {
        Way::Email => (said.subject, said.body),
        Way::Sms => match said.short {
            Some(short) => (String::new(), short),
            None => (said.title, said.body),
        },
        Way::Push => (cut(&said.title, TITLE), cut(&said.body, BODY)),
        Way::InApp | Way::Webhook => (said.title, said.body),
    };
    Outgoing {
        id: delivery.id,
        category: content.category.clone(),
        title,
        body,
        html: said.html,
        data,
        payload,
        link: said.link,
        collapse: (!content.collapse.is_empty()).then(|| content.collapse.clone()),
        badge: None,
        urgency: match priority {
            Priority::Low => Urgency::Low,
            Priority::Normal => Urgency::Normal,
            Priority::High | Priority::Critical => Urgency::High,
        },
        expires_in: (notification.expires_us > 0)
            .then(|| Duration::from_micros(notification.expires_us.saturating_sub(now_us))),
        unsubscribe,
    }
}
