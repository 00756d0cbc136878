//! What stands in a token, in types: claims are read once, here.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::json::{MAX_NESTING, nesting};
use switchboard_proto::time::now_us;

use super::{Overrides, ServerSubscription, Stamp, TokenError, UnixTime};

/// Bytes of a user's id, at most: it goes with every message, and into channel names.
const USER_LENGTH: usize = 255;

/// How much later than now a token may say that it was issued: clocks differ.
const SKEW_US: u64 = 60 * 1_000_000;

/// Bytes of a token's id (`jti`) by which it can be revoked, at most.
const ID_LENGTH: usize = 255;

/// Libraries of backends differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The claims of either kind of token. Others are the application's own.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    sub: Option<String>,
    pub(super) exp: Option<UnixTime>,
    pub(super) nbf: Option<UnixTime>,
    /// These two were ignored in older releases, so whatever stands there is no reason to refuse a token.
    iat: Option<Box<RawValue>>,
    jti: Option<Box<RawValue>>,
    /// When what the token grants ends, where that is not `exp`; 0: never.
    pub(super) expire_at: Option<UnixTime>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    channels: Option<Vec<String>>,
    subs: Option<BTreeMap<String, Subscription>>,
    pub(super) channel: Option<String>,
    pub(super) client: Option<String>,
    /// May ask for what concerns everybody. Whatever is not `true` is not that.
    sb_admin: Option<Box<RawValue>>,
    #[serde(rename = "override")]
    overrides: Option<RawOverrides>,
}

#[derive(Debug, Deserialize)]
struct Subscription {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<RawOverrides>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(default)]
struct RawOverrides {
    presence: Option<Value>,
    join_leave: Option<Value>,
    force_push_join_leave: Option<Value>,
    force_positioning: Option<Value>,
    force_recovery: Option<Value>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Value {
    #[serde(default)]
    value: bool,
}

/// Seconds since 1970, with or without a fraction.
impl<'de> Deserialize<'de> for UnixTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        if seconds < 0.0 {
            return Err(serde::de::Error::custom("a time before 1970"));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and is not negative"
        )]
        Ok(Self((seconds * 1000.0) as u64))
    }
}

impl Claims {
    /// The user's id; empty: anonymous.
    pub(super) fn user(&self) -> Result<String, TokenError> {
        let user = self.sub.clone().unwrap_or_default();
        if user.len() > USER_LENGTH {
            return Err(TokenError::Invalid("sub has more than 255 bytes"));
        }
        if user.contains('\0') {
            return Err(TokenError::Invalid("sub holds a zero byte, which no store takes"));
        }
        Ok(user)
    }

    /// By what the token can be revoked.
    pub(super) fn stamp(&self) -> Stamp {
        let id = self.jti.as_deref().and_then(|jti| {
            // An id that is a number is that number's text.
            let text = serde_json::from_str::<String>(jti.get()).ok();
            let text = text.unwrap_or_else(|| jti.get().to_owned());
            (1..=ID_LENGTH)
                .contains(&text.len())
                .then(|| text.into_boxed_str())
        });
        let issued_at = self.iat.as_deref();
        let issued_at: Option<UnixTime> = issued_at.and_then(|iat| serde_json::from_str(iat.get()).ok());
        // One that says it comes from the future, in milliseconds perhaps, would outlive every invalidation.
        let latest = now_us().saturating_add(SKEW_US);
        Stamp {
            id,
            issued_at: issued_at.filter(|issued_at| issued_at.micros() <= latest),
        }
    }

    /// Whether its bearer may ask for what concerns everybody.
    pub(super) fn is_admin(&self) -> bool {
        self.sb_admin
            .as_deref()
            .is_some_and(|value| value.get() == "true")
    }

    /// `info` or `b64info`.
    pub(super) fn info(&self, limit: usize) -> Result<Bytes, TokenError> {
        payload(self.info.as_deref(), self.b64info.as_deref(), limit)
    }

    /// `data` or `b64data`.
    pub(super) fn data(&self, limit: usize) -> Result<Bytes, TokenError> {
        payload(self.data.as_deref(), self.b64data.as_deref(), limit)
    }

    pub(super) fn overrides(&self) -> Overrides {
        self.overrides.unwrap_or_default().into()
    }

    /// `subs`, or else `channels`.
    pub(super) fn server_subscriptions(
        &self,
        limit: usize,
        name_length: usize,
    ) -> Result<BTreeMap<ChannelName, ServerSubscription>, TokenError> {
        let name = |name: &str| {
            ChannelName::parse(name, name_length)
                .map_err(|_| TokenError::Invalid("a channel in it has no valid name"))
        };
        if let Some(subs) = &self.subs {
            let options = |options: &Subscription| -> Result<ServerSubscription, TokenError> {
                Ok(ServerSubscription {
                    info: payload(options.info.as_deref(), options.b64info.as_deref(), limit)?,
                    data: payload(options.data.as_deref(), options.b64data.as_deref(), limit)?,
                    overrides: options.overrides.unwrap_or_default().into(),
                })
            };
            return subs
                .iter()
                .map(|(channel, given)| Ok((name(channel)?, options(given)?)))
                .collect();
        }
        self.channels
            .iter()
            .flatten()
            .map(|channel| Ok((name(channel)?, ServerSubscription::default())))
            .collect()
    }
}

impl From<RawOverrides> for Overrides {
    fn from(raw: RawOverrides) -> Self {
        let value = |value: Option<Value>| value.map(|value| value.value);
        Self {
            presence: value(raw.presence),
            join_leave: value(raw.join_leave),
            force_push_join_leave: value(raw.force_push_join_leave),
            force_positioning: value(raw.force_positioning),
            force_recovery: value(raw.force_recovery),
        }
    }
}

/// The JSON of a claim, or of its base64 form, which goes before. It is embedded into other
/// clients' messages as it stands, so it has to be JSON in both.
fn payload(json: Option<&RawValue>, base64: Option<&str>, limit: usize) -> Result<Bytes, TokenError> {
    let bytes = match (base64.filter(|text| !text.is_empty()), json) {
        (Some(text), _) => {
            let bytes = BASE64
                .decode(text)
                .map_err(|_| TokenError::Invalid("a base64 claim is not base64"))?;
            if serde_json::from_slice::<&RawValue>(&bytes).is_err() {
                return Err(TokenError::Invalid("a base64 claim does not hold JSON"));
            }
            Bytes::from(bytes)
        }
        (None, Some(json)) => Bytes::copy_from_slice(json.get().as_bytes()),
        (None, None) => Bytes::new(),
    };
    if bytes.len() > limit {
        return Err(TokenError::Invalid(
            "info or data is larger than gateway.tokens.info_size",
        ));
    }
    if nesting(&bytes) > MAX_NESTING {
        return Err(TokenError::Invalid("info or data nests too deep"));
    }
    Ok(bytes)
}
