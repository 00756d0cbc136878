//! `receipt.delivered` and `receipt.read`: checked here, and collected with those of others.

use serde::Deserialize;
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::ids::Offset;

use super::Commands;
use crate::conversations::{Mark, Upto};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Receipt {
    channel: String,
    offset: u64,
    #[serde(default)]
    epoch: String,
}

impl Commands {
    /// Takes a receipt of who may read the channel. It is answered once it is stored.
    pub(super) async fn receipt(&self, id: u32, upto: Upto, data: &[u8]) {
        let Ok(receipt) = serde_json::from_slice::<Receipt>(data) else {
            return self.refuse(
                id,
                ErrorCode::BadRequest,
                "a receipt wants {channel, offset, epoch?}",
            );
        };
        let Some(channel) = self.channel(id, &receipt.channel) else {
            return;
        };
        let log_epoch = match receipt.epoch.as_str() {
            "" => None,
            epoch => match epoch.parse() {
                Ok(epoch) => Some(epoch),
                Err(_) => return self.refuse(id, ErrorCode::BadRequest, "not an epoch"),
            },
        };
        if self.session.user().is_empty() {
            return self.refuse(
                id,
                ErrorCode::PermissionDenied,
                "receipts are of users, and this one is anonymous",
            );
        }
        if let Err(code) = self.gateway.may_read(&self.session, &channel, self.arrived).await {
            return self.refuse(id, code, "a receipt of who may not read the channel");
        }
        if !self.is_durable(&channel) {
            return self.refuse(
                id,
                ErrorCode::NotAvailable,
                "the channel's messages are not stored",
            );
        }
        let mark = Mark {
            asker: self.asker(id),
            channel,
            upto,
            offset: Offset::from_u64(receipt.offset),
            log_epoch,
        };
        if let Err(code) = self.gateway.receipts.take(mark) {
            self.refuse(id, code, "too many receipts wait");
        }
    }
}
