//! `message_edit` and `message_delete`: what backends may do to whatever anybody said.

use switchboard_proto::api::{MessageChangeResult, MessageDeleteRequest, MessageEditRequest};
use switchboard_proto::tags;

use super::failure::Failure;
use super::publishing::Payload;
use super::{Api, Caller};
use crate::changes::{By, Wanted, What, publish};

impl Api {
    pub(super) async fn edit(
        &self,
        request: MessageEditRequest,
        caller: Caller,
    ) -> Result<MessageChangeResult, Failure> {
        let Payload { data, kind, is_json } = Payload::read(caller, request.data, &request.b64data)?;
        let wanted = Wanted {
            channel: self.channel(&request.channel)?,
            offset: request.offset,
            epoch: request.epoch,
            key: request.idempotency_key,
            what: What::Edit { data, kind, is_json },
        };
        self.change(wanted, caller).await
    }

    pub(super) async fn delete(
        &self,
        request: MessageDeleteRequest,
        caller: Caller,
    ) -> Result<MessageChangeResult, Failure> {
        let wanted = Wanted {
            channel: self.channel(&request.channel)?,
            offset: request.offset,
            epoch: request.epoch,
            key: request.idempotency_key,
            what: What::Delete,
        };
        self.change(wanted, caller).await
    }

    async fn change(&self, wanted: Wanted, caller: Caller) -> Result<MessageChangeResult, Failure> {
        let by = By::Server {
            api_key: caller.key.to_owned(),
        };
        let (id, stored) = publish(&self.gateway, by, wanted, caller.arrived).await?;
        let duplicate = !stored.duplicate_of.is_empty();
        let id = if duplicate { &stored.duplicate_of } else { &id };
        Ok(MessageChangeResult {
            id: tags::id_text(id),
            offset: stored.offset.get(),
            epoch: stored.log_epoch,
            duplicate,
        })
    }
}
