//! How users want to be told, and how it is said: preferences, mutes, templates.

use switchboard_bus::messages::AskError;
use switchboard_proto::notifications::{
    DeleteTemplateRequest, DeleteTemplateResponse, GetPreferencesRequest, GetPreferencesResponse,
    ListTemplatesRequest, ListTemplatesResponse, MuteRequest, MuteResponse, Muted, PutTemplateRequest,
    PutTemplateResponse, SetPreferencesRequest, SetPreferencesResponse,
};
use switchboard_proto::time::now_us;

use super::Service;
use crate::accepting::{check_user, fault, invalid, micros};
use crate::preferences::Preferences;
use crate::saying::millis;
use crate::templates::Template;

/// Bytes of a channel's name, at most.
const LONGEST_CHANNEL: usize = 255;

impl Service {
    pub(crate) async fn get_preferences(
        &self,
        request: GetPreferencesRequest,
    ) -> Result<GetPreferencesResponse, AskError> {
        check_user(&request.user)?;
        let mut facts = self
            .store
            .facts(&[&request.user], now_us(), 0)
            .await
            .map_err(fault)?;
        let facts = facts.remove(&request.user).unwrap_or_default();
        let mut muted: Vec<Muted> = facts
            .mutes
            .into_iter()
            .map(|(conversation, until_us)| Muted {
                conversation,
                until: millis(until_us),
            })
            .collect();
        muted.sort_by(|one, other| one.conversation.cmp(&other.conversation));
        let preferences = match facts.preferences {
            Some(document) => document,
            None => serde_json::to_string(&Preferences::default())
                .map_err(|error| AskError::Internal(error.to_string()))?,
        };
        Ok(GetPreferencesResponse {
            preferences: preferences.into(),
            muted,
        })
    }

    pub(crate) async fn set_preferences(
        &self,
        request: SetPreferencesRequest,
    ) -> Result<SetPreferencesResponse, AskError> {
        check_user(&request.user)?;
        let read = Preferences::read(&request.preferences).map_err(|error| invalid(error.to_string()))?;
        let document = serde_json::to_string(&read).map_err(|error| AskError::Internal(error.to_string()))?;
        self.store
            .set_preferences(&request.user, &document)
            .await
            .map_err(fault)?;
        Ok(SetPreferencesResponse {})
    }

    pub(crate) async fn mute(&self, request: MuteRequest) -> Result<MuteResponse, AskError> {
        check_user(&request.user)?;
        let conversation = &request.conversation;
        if conversation.is_empty() || conversation.len() > LONGEST_CHANNEL || conversation.contains('\0') {
            return Err(invalid(format!(
                "a conversation is a channel, of 1 to {LONGEST_CHANNEL} bytes"
            )));
        }
        let now = now_us();
        let until_us = micros(request.until, "until")?;
        if until_us > 0 && until_us <= now && !request.unmute {
            return Err(invalid("until is over"));
        }
        let until = (!request.unmute).then_some(until_us);
        let is_done = self
            .store
            .mute(&request.user, conversation, until, now, self.limits.mutes)
            .await
            .map_err(fault)?;
        if !is_done {
            return Err(invalid(
                "as many conversations are muted as may be (notify.mutes)",
            ));
        }
        Ok(MuteResponse {})
    }

    pub(crate) async fn put_template(
        &self,
        request: PutTemplateRequest,
    ) -> Result<PutTemplateResponse, AskError> {
        let template: Template = serde_json::from_slice(&request.template)
            .map_err(|error| invalid(format!("template not understood: {error}")))?;
        template.check().map_err(|error| invalid(error.to_string()))?;
        if !self
            .store
            .put_template(&template, self.limits.templates)
            .await
            .map_err(fault)?
        {
            return Err(invalid(
                "there are as many templates as may be (notify.templates)",
            ));
        }
        self.saying.forget();
        Ok(PutTemplateResponse {})
    }

    pub(crate) async fn delete_template(
        &self,
        request: DeleteTemplateRequest,
    ) -> Result<DeleteTemplateResponse, AskError> {
        let deleted = self
            .store
            .delete_template(&request.name, &request.language)
            .await
            .map_err(fault)?;
        self.saying.forget();
        Ok(DeleteTemplateResponse { deleted })
    }

    pub(crate) async fn list_templates(
        &self,
        _: ListTemplatesRequest,
    ) -> Result<ListTemplatesResponse, AskError> {
        let templates = self.store.templates().await.map_err(fault)?;
        let templates =
            serde_json::to_vec(&templates).map_err(|error| AskError::Internal(error.to_string()))?;
        Ok(ListTemplatesResponse {
            templates: templates.into(),
        })
    }
}
