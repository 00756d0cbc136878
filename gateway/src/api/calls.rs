//! What backends ask of sessions and channels, call by call: checked here, carried out by gateways and owners.

use std::collections::BTreeMap;
use std::time::Duration;

use globset::Glob;
use switchboard_proto::api::{
    ChannelInfo, ChannelsRequest, ChannelsResult, ClientInfo, DisconnectRequest, DisconnectResult,
    HistoryRemoveRequest, HistoryRemoveResult, HistoryRequest, HistoryResult, InfoRequest, InfoResult,
    NodeResult, PresenceRequest, PresenceResult, PresenceStatsRequest, PresenceStatsResult, Publication,
    RefreshRequest, RefreshResult, RpcRequest, RpcResult, SubscribeRequest, SubscribeResult,
    SystemMessageRequest, SystemMessageResult, UnsubscribeRequest, UnsubscribeResult,
};
use switchboard_proto::bus::control::Question;
use switchboard_proto::bus::control_answer::Answer;
use switchboard_proto::bus::{
    BeginSubscription, CloseSessions, CountChannels, DescribeGateway, EndSubscription, Left, Maintenance,
    PolicyChanged, RenewSessions, Target, TellSessions, tell_sessions,
};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::client::StreamPosition;
use switchboard_proto::codes::{DisconnectCode, ErrorCode};
use switchboard_proto::json;
use switchboard_proto::presence::{ChannelMember, ChannelMembersResponse};
use switchboard_proto::time::now_us;
use switchboard_registry::{KeepError, LONGEST_KEPT, SubscriptionOptions, SubscriptionOverrides};
use tokio::time::Instant;
use uuid::Uuid;

use super::Api;
use super::control::Answered;
use super::failure::Failure;
use crate::links::HistoryQuery;
use crate::presence;

/// Bytes of a user's name, at most: more than a channel's name can hold is nobody's.
const MAX_USER: usize = 1024;

/// Connections that a disconnect may spare.
const MAX_WHITELIST: usize = 1024;

/// Bytes of the `info` and `data` of a subscription, each.
const MAX_INFO: usize = 16 * 1024;

/// Bytes of the text of a system message.
const MAX_TEXT: usize = 4096;

/// Bytes of the reason in a close frame.
const MAX_REASON: usize = 123;

/// Bytes of the pattern of `channels`.
const MAX_PATTERN: usize = 512;

fn unavailable<T>(why: &'static str) -> Result<T, Failure> {
    Err(Failure::because(ErrorCode::NotAvailable, why))
}

/// The sessions of a user, or one of them.
fn target(user: String, client: &str, session: &str) -> Result<Target, Failure> {
    if !session.is_empty() {
        return unavailable("sessions have no id of their own; name the client");
    }
    if user.is_empty() && client.is_empty() {
        return Err(Failure::bad("neither user nor client"));
    }
    if user.len() > MAX_USER {
        return Err(Failure::bad("user longer than 1024 bytes"));
    }
    Ok(Target {
        user,
        client: connection(client)?,
        except: Vec::new(),
    })
}

/// A connection's id; empty stays empty.
fn connection(client: &str) -> Result<String, Failure> {
    if client.is_empty() {
        return Ok(String::new());
    }
    Uuid::try_parse(client)
        .map(|client| client.to_string())
        .map_err(|_| Failure::bad("client is not the id of a connection"))
}

/// JSON that clients are shown, or nothing.
fn check_json(data: &[u8]) -> Result<(), Failure> {
    if data.len() > MAX_INFO {
        return Err(Failure::because(
            ErrorCode::LimitExceeded,
            "info or data of more than 16 KiB",
        ));
    }
    if !data.is_empty() && !json::is_payload(data) {
        return Err(Failure::bad("info or data is not JSON"));
    }
    Ok(())
}

/// How many sessions it concerned; the error that a gateway answered.
pub(super) fn done(answers: &[Answered]) -> Result<u32, Failure> {
    let mut sessions = 0_u32;
    for answer in answers.iter().flat_map(|(_, answers)| answers) {
        match answer {
            Answer::Done(done) if done.error == 0 => sessions = sessions.saturating_add(done.sessions),
            Answer::Done(done) => {
                return Err(ErrorCode::from_code(done.error)
                    .unwrap_or(ErrorCode::Internal)
                    .into());
            }
            Answer::Description(_) | Answer::Counts(_) => return Err(ErrorCode::Internal.into()),
        }
    }
    Ok(sessions)
}

impl Api {
    /// The channel of a call, in a namespace that exists.
    pub(super) fn channel(&self, name: &str) -> Result<ChannelName, Failure> {
        super::publishing::channel(&self.gateway, name)
    }

    pub(super) async fn subscribe(&self, request: SubscribeRequest) -> Result<SubscribeResult, Failure> {
        if !request.b64info.is_empty() || !request.b64data.is_empty() {
            return unavailable("info and data are JSON");
        }
        check_json(&request.info)?;
        check_json(&request.data)?;
        if request.expire_at < 0 {
            return Err(Failure::bad("expire_at before 1970"));
        }
        let channel = self.channel(&request.channel)?;
        let options = request.r#override.unwrap_or_default();
        let value = |option: Option<switchboard_proto::api::BoolValue>| option.map(|option| option.value);
        let question = BeginSubscription {
            target: Some(target(request.user, &request.client, &request.session)?),
            channel: channel.as_str().to_owned(),
            info: request.info,
            data: request.data,
            expire_at: request.expire_at,
            since: request.recover_since.map(|since| Left {
                log_epoch: since.epoch,
                offset: since.offset,
            }),
            presence: value(options.presence),
            join_leave: value(options.join_leave),
            force_recovery: value(options.force_recovery),
            force_positioning: value(options.force_positioning),
            force_push_join_leave: value(options.force_push_join_leave),
        };
        if let Some(target) = &question.target
            && target.client.is_empty()
        {
            self.may_be_given(&target.user).await?;
            self.gateway
                .lets_in(&channel, &target.user, Instant::now())
                .await?;
            self.keep(&target.user, &channel, &question).await?;
        }
        let answers = self.gateways.ask(Question::BeginSubscription(question)).await?;
        done(&answers)?;
        Ok(SubscribeResult {})
    }

    /// Keeps a subscription of a user, so that connections that begin later have it as well. Before those that are
    /// there are asked: one that begins between both has it from here.
    async fn keep(
        &self,
        user: &str,
        channel: &ChannelName,
        question: &BeginSubscription,
    ) -> Result<(), Failure> {
        let options = SubscriptionOptions {
            info: question.info.clone(),
            data: question.data.clone(),
            overrides: SubscriptionOverrides {
                presence: question.presence,
                join_leave: question.join_leave,
                force_recovery: question.force_recovery,
                force_positioning: question.force_positioning,
                force_push_join_leave: question.force_push_join_leave,
            },
        };
        let lasts = match u64::try_from(question.expire_at) {
            Ok(0) | Err(_) => LONGEST_KEPT,
            Ok(at) => Duration::from_secs(at).saturating_sub(Duration::from_micros(now_us())),
        };
        let registry = self.gateway.announcer.registry();
        match registry.keep_subscription(user, channel, &options, lasts).await {
            Ok(()) => Ok(()),
            Err(KeepError::Full { .. }) => Err(Failure::because(
                ErrorCode::LimitExceeded,
                "as many subscriptions are kept for this user as may be, see registry.kept_per_user",
            )),
            Err(KeepError::TooLarge { .. }) => Err(Failure::because(
                ErrorCode::LimitExceeded,
                "info and data are larger than what is kept",
            )),
            Err(KeepError::Registry(error)) => {
                tracing::warn!(%channel, %error, "subscription of a user is not kept");
                Err(Failure::because(
                    ErrorCode::Internal,
                    "the registry does not answer, and nobody was subscribed",
                ))
            }
        }
    }

    pub(super) async fn unsubscribe(
        &self,
        request: UnsubscribeRequest,
    ) -> Result<UnsubscribeResult, Failure> {
        let channel = self.channel(&request.channel)?;
        let target = target(request.user, &request.client, &request.session)?;
        if target.client.is_empty() {
            let registry = self.gateway.announcer.registry();
            if let Err(error) = registry.forget_subscription(&target.user, &channel).await {
                tracing::warn!(%channel, %error, "subscription of a user is still kept");
                return Err(Failure::because(
                    ErrorCode::Internal,
                    "the registry does not answer, and nobody was unsubscribed",
                ));
            }
        }
        let question = EndSubscription {
            target: Some(target),
            channel: channel.as_str().to_owned(),
        };
        let answers = self.gateways.ask(Question::EndSubscription(question)).await?;
        done(&answers)?;
        Ok(UnsubscribeResult {})
    }

    pub(super) async fn disconnect(&self, request: DisconnectRequest) -> Result<DisconnectResult, Failure> {
        if request.whitelist.len() > MAX_WHITELIST {
            return Err(Failure::because(
                ErrorCode::LimitExceeded,
                "whitelist of more than 1024 connections",
            ));
        }
        let mut target = target(request.user, &request.client, &request.session)?;
        for client in &request.whitelist {
            target.except.push(connection(client)?);
        }
        let disconnect = request.disconnect.unwrap_or_default();
        let code = match disconnect.code {
            0 => DisconnectCode::ForceDisconnect.code(),
            code @ 3000..=4999 => code,
            _ => return Err(Failure::bad("disconnect code outside 3000 to 4999")),
        };
        let known = DisconnectCode::from_code(code).map_or("", DisconnectCode::words);
        let reason = match disconnect.reason {
            reason if reason.is_empty() => known.to_owned(),
            // SDKs take a reason that is JSON for something else.
            reason if reason.len() > MAX_REASON || json::is_payload(reason.as_bytes()) => {
                return Err(Failure::bad(
                    "disconnect reason that is JSON or longer than 123 bytes",
                ));
            }
            reason => reason,
        };
        self.close(target, code, reason).await?;
        Ok(DisconnectResult {})
    }

    async fn close(&self, target: Target, code: u32, reason: String) -> Result<u32, Failure> {
        let question = CloseSessions {
            target: Some(target),
            code,
            reason,
        };
        let answers = self.gateways.ask(Question::CloseSessions(question)).await?;
        done(&answers)
    }

    pub(super) async fn refresh(&self, request: RefreshRequest) -> Result<RefreshResult, Failure> {
        check_json(&request.info)?;
        if request.expire_at < 0 {
            return Err(Failure::bad("expire_at before 1970"));
        }
        let target = target(request.user, &request.client, &request.session)?;
        if request.expired {
            let code = DisconnectCode::ConnectionExpired;
            self.close(target, code.code(), code.words().to_owned()).await?;
            return Ok(RefreshResult {});
        }
        let question = RenewSessions {
            target: Some(target),
            expire_at: request.expire_at,
            info: request.info,
        };
        let answers = self.gateways.ask(Question::RenewSessions(question)).await?;
        done(&answers)?;
        Ok(RefreshResult {})
    }

    pub(super) async fn system_message(
        &self,
        request: SystemMessageRequest,
    ) -> Result<SystemMessageResult, Failure> {
        let whom = match (request.everybody, &*request.user, &*request.client) {
            (true, "", "") => None,
            (false, "", _) | (false, _, "") => Some(target(request.user, &request.client, "")?),
            _ => return Err(Failure::bad("more than one of user, client and everybody")),
        };
        let message = if let Some(maintenance) = request.maintenance {
            tell_sessions::Message::Maintenance(Maintenance {
                text: maintenance.text,
                at: maintenance.at,
            })
        } else if let Some(changed) = request.policy_changed {
            tell_sessions::Message::PolicyChanged(PolicyChanged { text: changed.text })
        } else {
            return Err(Failure::bad("neither maintenance nor policy_changed"));
        };
        let text = match &message {
            tell_sessions::Message::Maintenance(maintenance) => &maintenance.text,
            tell_sessions::Message::PolicyChanged(changed) => &changed.text,
        };
        if text.len() > MAX_TEXT {
            return Err(Failure::because(
                ErrorCode::LimitExceeded,
                "text of more than 4 KiB",
            ));
        }
        let question = TellSessions {
            target: whom,
            message: Some(message),
        };
        let answers = self.gateways.ask(Question::TellSessions(question)).await?;
        Ok(SystemMessageResult {
            clients: done(&answers)?,
        })
    }

    pub(super) async fn history(&self, request: HistoryRequest) -> Result<HistoryResult, Failure> {
        let arrived = Instant::now();
        let channel = self.channel(&request.channel)?;
        let config = &self.gateway.config;
        if !config.policy.now().is_durable(&channel) {
            return unavailable("the channel's messages are not stored");
        }
        if request.reverse && request.since.as_ref().is_some_and(|since| since.offset == 0) {
            return Err(Failure::bad("history before the first offset"));
        }
        let most = config.history_limit;
        let query = HistoryQuery {
            since: request.since.map(|since| StreamPosition {
                offset: since.offset,
                epoch: since.epoch,
            }),
            reverse: request.reverse,
            limit: u32::try_from(request.limit).map_or(most, |limit| limit.min(most)),
            bytes: config.history_bytes,
            ..HistoryQuery::default()
        };
        let asking = async {
            // Closed never.
            let _place = self.gateway.questions.acquire().await;
            self.gateway.links.history(&channel, &query, arrived).await
        };
        let (result, _) = tokio::time::timeout_at(arrived + config.answer_timeout, asking)
            .await
            .map_err(|_| ErrorCode::Internal)??;
        let publications = result.publications.into_iter().map(|publication| Publication {
            data: publication.data,
            info: publication.info.map(|info| ClientInfo {
                user: info.user,
                client: info.client,
                conn_info: info.conn_info,
                chan_info: info.chan_info,
            }),
            offset: publication.offset,
            tags: publication.tags,
            b64data: String::new(),
        });
        Ok(HistoryResult {
            publications: publications.collect(),
            epoch: result.epoch,
            offset: result.offset,
        })
    }

    /// Messages of one channel cannot be taken out of the log, which is that of many; they are hidden.
    pub(super) async fn history_remove(
        &self,
        request: HistoryRemoveRequest,
    ) -> Result<HistoryRemoveResult, Failure> {
        let arrived = Instant::now();
        let channel = self.channel(&request.channel)?;
        if !self.gateway.config.policy.now().is_durable(&channel) {
            return unavailable("the channel's messages are not stored");
        }
        match self.gateway.links.hide_history(&channel, arrived).await {
            Ok(()) => Ok(HistoryRemoveResult {}),
            Err(ErrorCode::LimitExceeded) => Err(Failure::because(
                ErrorCode::LimitExceeded,
                "the channel's shard keeps as many removals as it can, and nothing was removed",
            )),
            Err(code) => Err(code.into()),
        }
    }

    pub(super) async fn presence(&self, request: PresenceRequest) -> Result<PresenceResult, Failure> {
        let members = self.members(&request.channel).await?;
        if members.too_many {
            return Err(Failure::because(
                ErrorCode::LimitExceeded,
                "more connections are there than presence.channel_members: only presence_stats tells of them",
            ));
        }
        let info = |member: ChannelMember| {
            let info = presence::info(member);
            let info = ClientInfo {
                user: info.user,
                client: info.client,
                conn_info: info.conn_info,
                chan_info: info.chan_info,
            };
            (info.client.clone(), info)
        };
        Ok(PresenceResult {
            presence: members.members.into_iter().map(info).collect(),
        })
    }

    pub(super) async fn presence_stats(
        &self,
        request: PresenceStatsRequest,
    ) -> Result<PresenceStatsResult, Failure> {
        let members = self.members(&request.channel).await?;
        let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(PresenceStatsResult {
            num_clients: count(members.clients),
            num_users: count(members.users),
        })
    }

    async fn members(&self, channel: &str) -> Result<ChannelMembersResponse, Failure> {
        let channel = self.channel(channel)?;
        let members = self.gateway.channel_members(&channel, Instant::now()).await;
        members.map_err(Failure::from)
    }

    pub(super) async fn channels(&self, request: ChannelsRequest) -> Result<ChannelsResult, Failure> {
        if request.pattern.len() > MAX_PATTERN || Glob::new(&request.pattern).is_err() {
            return Err(Failure::bad("pattern is not a glob of at most 512 bytes"));
        }
        let question = CountChannels {
            pattern: request.pattern,
            limit: u32::try_from(self.config.channels).unwrap_or(u32::MAX),
        };
        let answers = self.gateways.ask(Question::CountChannels(question)).await?;
        let mut channels: BTreeMap<String, ChannelInfo> = BTreeMap::new();
        let mut over_limit = false;
        for answer in answers.into_iter().flat_map(|(_, answers)| answers) {
            let Answer::Counts(counts) = answer else {
                return Err(ErrorCode::Internal.into());
            };
            over_limit |= counts.over_limit;
            for (channel, clients) in counts.clients {
                let info = channels.entry(channel).or_default();
                info.num_clients = info.num_clients.saturating_add(clients);
            }
        }
        if over_limit || channels.len() > self.config.channels {
            return Err(Failure::because(
                ErrorCode::LimitExceeded,
                "more channels than gateway.api.channels; ask with a pattern",
            ));
        }
        Ok(ChannelsResult { channels })
    }

    pub(super) async fn info(&self, InfoRequest {}: InfoRequest) -> Result<InfoResult, Failure> {
        let question = Question::DescribeGateway(DescribeGateway {});
        let answers = self.gateways.ask(question).await?;
        let mut nodes = Vec::with_capacity(answers.len());
        for (gateway, answers) in answers {
            let [Answer::Description(description)] = &*answers else {
                return Err(ErrorCode::Internal.into());
            };
            nodes.push(NodeResult {
                uid: gateway.to_string(),
                name: description.name.clone(),
                version: description.version.clone(),
                num_clients: description.clients,
                num_users: description.users,
                num_channels: description.channels,
                uptime: u32::try_from(description.uptime_seconds).unwrap_or(u32::MAX),
                num_subs: description.subscriptions,
                ..NodeResult::default()
            });
        }
        Ok(InfoResult { nodes })
    }

    /// There is no method yet that a backend could call.
    pub(super) fn rpc(&self, _: &RpcRequest) -> Result<RpcResult, Failure> {
        Err(ErrorCode::MethodNotFound.into())
    }
}
