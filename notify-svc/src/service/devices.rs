//! Where users are told.

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use switchboard_bus::messages::AskError;
use switchboard_proto::notifications as wire;
use switchboard_proto::notifications::{
    ListDevicesRequest, ListDevicesResponse, RegisterDeviceRequest, RegisterDeviceResponse,
    RemoveDeviceRequest, RemoveDeviceResponse,
};
use switchboard_proto::time::now_us;

use super::Service;
use crate::accepting::{check_user, fault, invalid};
use crate::model::{Device, Target, Way};
use crate::saying::millis;
use crate::sending::ROTATION_US;

/// Bytes of a token, an address or a URL, at most.
const LONGEST: usize = 2_048;

/// Bytes of a webhook's secret.
const SECRET: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hook {
    url: String,
    /// A new secret signs from now on, the one before for a day more.
    #[serde(default)]
    rotate: bool,
}

/// As `PushSubscription.toJSON()` has it.
#[derive(Deserialize)]
struct Subscription {
    endpoint: String,
    keys: Keys,
}

#[derive(Deserialize)]
struct Keys {
    p256dh: String,
    auth: String,
}

fn line(text: &str, what: &str) -> Result<(), AskError> {
    let is_fine = |byte: u8| byte.is_ascii_graphic();
    match text.len() {
        1..=LONGEST if text.bytes().all(is_fine) => Ok(()),
        _ => Err(invalid(format!(
            "{what} has 1 to {LONGEST} printable characters without spaces"
        ))),
    }
}

fn is_key(text: &str, bytes: usize) -> bool {
    let decoded = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
    decoded.is_ok_and(|decoded| decoded.len() == bytes)
}

/// Reads where a device is; `secret` of a webhook is to come.
fn target(device: &wire::Device) -> Result<(Way, Target, Option<String>), AskError> {
    let address = device.address.as_str();
    match device.provider.as_str() {
        "fcm" => {
            line(address, "a token")?;
            Ok((
                Way::Push,
                Target::Fcm(address.to_owned()),
                Some(address.to_owned()),
            ))
        }
        "apns" => {
            let is_hex = address.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !(32..=200).contains(&address.len()) || !is_hex {
                return Err(invalid("a device token of apns has 32 to 200 hexadecimal digits"));
            }
            let token = address.to_ascii_lowercase();
            Ok((Way::Push, Target::Apns(token.clone()), Some(token)))
        }
        "web_push" => {
            let subscription: Subscription = serde_json::from_slice(&device.subscription)
                .map_err(|error| invalid(format!("subscription not understood: {error}")))?;
            line(&subscription.endpoint, "an endpoint")?;
            let Keys { p256dh, auth } = subscription.keys;
            if !is_key(&p256dh, 65) || !is_key(&auth, 16) {
                return Err(invalid("the keys of the subscription are none"));
            }
            let token = subscription.endpoint.clone();
            let target = Target::WebPush {
                endpoint: subscription.endpoint,
                p256dh: p256dh.trim_end_matches('=').to_owned(),
                auth: auth.trim_end_matches('=').to_owned(),
            };
            Ok((Way::Push, target, Some(token)))
        }
        "email" => {
            let at = address.rfind('@').unwrap_or(0);
            if at == 0
                || at + 1 >= address.len()
                || address.len() > 254
                || address.contains(['\0', '\r', '\n', ' '])
            {
                return Err(invalid("an e-mail address is name@example.org"));
            }
            Ok((Way::Email, Target::Email(address.to_owned()), None))
        }
        "sms" => {
            let digits = address.strip_prefix('+').unwrap_or_default();
            if !(8..=15).contains(&digits.len())
                || !digits.bytes().all(|byte| byte.is_ascii_digit())
                || digits.starts_with('0')
            {
                return Err(invalid("a phone number is + and 8 to 15 digits (E.164)"));
            }
            Ok((Way::Sms, Target::Sms(address.to_owned()), None))
        }
        "webhook" => {
            let hook: Hook = serde_json::from_slice(&device.subscription)
                .map_err(|error| invalid(format!("subscription not understood: {error}")))?;
            line(&hook.url, "a URL")?;
            let target = Target::Webhook {
                url: hook.url,
                secret: String::new(),
                old: None,
            };
            Ok((Way::Webhook, target, None))
        }
        _ => Err(invalid(
            "provider is none of fcm, apns, web_push, email, sms and webhook",
        )),
    }
}

/// What may be shown of an address: enough to know it again.
fn shown(target: &Target) -> String {
    match target {
        Target::Email(address) => match address.split_once('@') {
            Some((name, domain)) => format!("{}…@{domain}", name.chars().take(1).collect::<String>()),
            None => "…".to_owned(),
        },
        Target::Sms(number) => {
            let last = number.len().saturating_sub(2);
            format!("…{}", number.get(last..).unwrap_or_default())
        }
        Target::Webhook { url, .. } => url.split('?').next().unwrap_or_default().to_owned(),
        Target::Fcm(_) | Target::Apns(_) | Target::WebPush { .. } => String::new(),
    }
}

fn new_secret() -> Result<String, AskError> {
    let mut bytes = [0; SECRET];
    rand::fill(&mut bytes).map_err(|_| AskError::Internal("no random numbers".to_owned()))?;
    Ok(format!("whsec_{}", STANDARD.encode(bytes)))
}

impl Service {
    pub(crate) async fn register_device(
        &self,
        request: RegisterDeviceRequest,
    ) -> Result<RegisterDeviceResponse, AskError> {
        check_user(&request.user)?;
        let device = request.device.unwrap_or_default();
        line(&device.id, "a device's id")?;
        if device.id.len() > 128 {
            return Err(invalid("a device's id has 128 characters at most"));
        }
        let (way, mut address, token) = target(&device)?;
        let now = now_us();
        let mut told = String::new();
        // An address that is not allowed is refused when it is registered, and again each time it is sent to.
        if let Target::Webhook { url, .. } | Target::WebPush { endpoint: url, .. } = &address {
            self.guard
                .check(url)
                .map_err(|error| invalid(error.to_string()))?;
        }
        if let Target::Webhook { secret, old, .. } = &mut address {
            let facts = self.store.facts(&[&request.user], now, 0).await.map_err(fault)?;
            let before = facts
                .get(&request.user)
                .and_then(|facts| facts.devices.iter().find(|known| known.id == device.id))
                .and_then(|known| match &known.address {
                    Target::Webhook { secret, old, .. } => Some((secret.clone(), old.clone())),
                    _ => None,
                });
            let rotate = serde_json::from_slice::<Hook>(&device.subscription).is_ok_and(|hook| hook.rotate);
            match before {
                Some((known, older)) if !rotate => (*secret, *old) = (known, older),
                Some((known, _)) => {
                    *secret = new_secret()?;
                    *old = Some((known, now + ROTATION_US));
                    told.clone_from(secret);
                }
                None => {
                    *secret = new_secret()?;
                    told.clone_from(secret);
                }
            }
        }
        let device = Device {
            id: device.id,
            way,
            provider: device.provider,
            token,
            address,
            registered_us: now,
            failing_us: 0,
            disabled: false,
        };
        if !self
            .store
            .put_device(&request.user, &device, self.limits.devices)
            .await
            .map_err(fault)?
        {
            return Err(invalid("the user has as many devices as may be (notify.devices)"));
        }
        Ok(RegisterDeviceResponse { secret: told })
    }

    pub(crate) async fn remove_device(
        &self,
        request: RemoveDeviceRequest,
    ) -> Result<RemoveDeviceResponse, AskError> {
        check_user(&request.user)?;
        let removed = self
            .store
            .remove_device(&request.user, &request.id)
            .await
            .map_err(fault)?;
        Ok(RemoveDeviceResponse { removed })
    }

    pub(crate) async fn list_devices(
        &self,
        request: ListDevicesRequest,
    ) -> Result<ListDevicesResponse, AskError> {
        check_user(&request.user)?;
        let mut facts = self
            .store
            .facts(&[&request.user], now_us(), 0)
            .await
            .map_err(fault)?;
        let devices = facts.remove(&request.user).unwrap_or_default().devices;
        let devices = devices.into_iter().map(|device| wire::Device {
            address: shown(&device.address),
            id: device.id,
            provider: device.provider,
            subscription: bytes::Bytes::new(),
            registered: millis(device.registered_us),
            failing: millis(device.failing_us),
            disabled: device.disabled,
        });
        Ok(ListDevicesResponse {
            devices: devices.collect(),
            web_push_key: self.web_push_key.clone(),
        })
    }
}
