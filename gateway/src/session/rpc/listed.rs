//! A message as lists of messages tell it: where it stands, when it came, what it says, who said it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use switchboard_proto::bus::{Message, PayloadKind};

#[derive(Serialize)]
pub(super) struct Listed<'a> {
    epoch: String,
    offset: u64,
    /// Unix milliseconds.
    time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    /// Instead of `data`, where that is no JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<Info<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Info<'a> {
    user: &'a str,
    client: &'a str,
}

impl<'a> Listed<'a> {
    /// The message that stands at this place since `time_us`, in Unix microseconds.
    pub(super) fn new((epoch, offset): (String, u64), time_us: u64, message: &'a Message) -> Self {
        let data = match message.kind() {
            PayloadKind::Json => serde_json::from_slice(&message.payload).ok(),
            PayloadKind::Unspecified | PayloadKind::Binary | PayloadKind::Opaque => None,
        };
        Self {
            epoch,
            offset,
            time: time_us / 1000,
            b64data: data.is_none().then(|| BASE64_STANDARD.encode(&message.payload)),
            data,
            info: message.sender.as_ref().map(|sender| Info {
                user: &sender.user,
                client: &sender.client,
            }),
            tags: &message.tags,
        }
    }
}
