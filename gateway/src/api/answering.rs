//! What other gateways' server APIs ask about the sessions of this one. Answered by every gateway, whether it has a
//! server API itself or not, until its last session has ended.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use globset::Glob;
use switchboard_bus::{Bus, BusMessage, Pattern, Subject, Subscription};
use switchboard_proto::bus::control::Question;
use switchboard_proto::bus::control_answer::Answer;
use switchboard_proto::bus::{
    BeginSubscription, ChannelCounts, ChannelMembersChanged, Control, ControlAnswer, CountChannels, Done,
    GatewayDescription, RenewSessions, Target, TellSessions, tell_sessions,
};
use switchboard_proto::channel::{ChannelName, MAX_CHANNEL_LENGTH};
use switchboard_proto::codes::ErrorCode;
use switchboard_proto::format;
use switchboard_proto::ids::{Incarnation, Offset};
use switchboard_service_kit::tasks::{TaskKind, Tasks};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use crate::auth::{Overrides, UnixTime};
use crate::conversations::Told;
use crate::gateway::Gateway;
use crate::links::Since;
use crate::session::{Given, SessionHandle};
use crate::system_message::{self, SystemMessage};

/// Questions that are worked on at a time; more wait in the subscription's queue.
const AT_ONCE: usize = 64;

/// How often it is seen that the process runs.
const TICK: Duration = Duration::from_millis(100);

/// One that did not run for longer than this may hold questions that nobody waits for any more: less than after what other
/// gateways take it for dead, and any caller gives up. Carried out late, an old call would undo what was called since. No clock is
/// compared with another's.
const STANDSTILL: Duration = Duration::from_secs(1);

/// How long the answer to an act of moderation may wait for it to be carried out. Less than a standstill: many such answers must not hold
/// up other questions for so long.
const CARRIED_OUT: Duration = Duration::from_millis(900);

/// Sessions that one question subscribes or unsubscribes at a time.
const SESSIONS_AT_ONCE: usize = 64;

/// Sessions that are looked at before others have their turn.
const A_TURN: usize = 256;

/// Bytes of channel names in one part of an answer.
const PART: usize = 128 * 1024;

/// See the module.
pub(crate) struct Answering {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) me: Incarnation,
    /// What the gateway is called in `info`.
    pub(crate) name: String,
    pub(crate) begun: Instant,
}

impl Answering {
    /// Answers until the bus is closed or `tasks` stop.
    pub(crate) async fn run(self, mut questions: Subscription, tasks: Tasks) {
        let stop = tasks.stop_token();
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let this = Arc::new(self);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let answering = async {
            loop {
                let turn_began = Instant::now();
                let question = tokio::select! {
                    question = questions.next() => match question {
                        Some(question) => Some(question),
                        None => return,
                    },
                    _ = tick.tick() => None,
                };
                let place = match &question {
                    Some(_) => Some(Arc::clone(&places).acquire_owned().await),
                    None => None,
                };
                if turn_began.elapsed() > STANDSTILL {
                    let dropped = this.drop_old(&mut questions).await + usize::from(question.is_some());
                    tracing::warn!(
                        dropped,
                        "this gateway stood still for {:?}: what it was asked meanwhile is not carried out any more",
                        turn_began.elapsed()
                    );
                    continue;
                }
                let (Some(question), Some(Ok(place))) = (question, place) else {
                    continue;
                };
                let this = Arc::clone(&this);
                tasks.spawn("control", TaskKind::Replaceable, async move {
                    let _place = place;
                    this.answer(question).await;
                });
            }
        };
        stop.run_until_cancelled(answering).await;
    }

    /// Drops all questions that were sent before now, and says how many: who asked them has given up, and was told
    /// that they failed.
    async fn drop_old(&self, questions: &mut Subscription) -> usize {
        // Where a subscription is in force, all that came before it on the same connection is in its queue.
        let own = Pattern::Exactly(Subject::ControlAnswer { gateway: self.me });
        while let Err(error) = self.bus.subscribe(own, 1).await {
            tracing::debug!(%error, "the bus does not answer yet");
            tokio::time::sleep(TICK).await;
        }
        let mut dropped = 0;
        while questions.try_next().is_some() {
            dropped += 1;
        }
        dropped
    }

    async fn answer(&self, question: BusMessage) {
        let control = match format::decode::<Control>(question.payload) {
            Ok(control) => control,
            Err(error) => {
                tracing::warn!(%error, "question of a gateway dropped");
                return;
            }
        };
        let Ok(asker) = Incarnation::try_from(&*control.gateway) else {
            tracing::warn!("question of a gateway without a name dropped");
            return;
        };
        // One that this release does not know is not answered: the asker must not take it for done.
        let Some(question) = control.question else {
            tracing::warn!("question of a newer gateway not answered; update this one");
            return;
        };
        let answers = self.carry_out(question).await;
        let parts = u32::try_from(answers.len()).unwrap_or(u32::MAX);
        for (part, answer) in (0..).zip(answers) {
            let answer = ControlAnswer {
                gateway: self.me.to_bytes(),
                number: control.number,
                parts,
                part,
                answer: Some(answer),
            };
            let subject = Subject::ControlAnswer { gateway: asker };
            if let Err(error) = self.bus.publish(subject, format::encode(&answer)).await {
                tracing::warn!(%error, "question of a gateway not answered");
                return;
            }
        }
    }

    async fn carry_out(&self, question: Question) -> Vec<Answer> {
        let done = match question {
            Question::BeginSubscription(begin) => self.begin(begin).await,
            Question::EndSubscription(end) => {
                let sessions = self.sessions(end.target.as_ref());
                let ended = stream::iter(sessions)
                    .map(async |session| session.unsubscribe_by_server(&self.gateway, &end.channel).await)
                    .buffer_unordered(SESSIONS_AT_ONCE)
                    .filter(|ended| std::future::ready(*ended))
                    .count();
                done(ended.await)
            }
            Question::CloseSessions(close) => {
                let sessions = self.sessions(close.target.as_ref());
                let code = u16::try_from(close.code).unwrap_or(0);
                for session in &sessions {
                    session.disconnect_by_server(code, &close.reason);
                }
                done(sessions.len())
            }
            Question::RenewSessions(renew) => self.renew(&renew),
            Question::TellSessions(tell) => self.tell(tell),
            Question::ChannelMembersChanged(changed) => self.members_changed(changed).await,
            Question::ModerationMoved(moved) => {
                match self.gateway.moderation.caught_up(moved.number, CARRIED_OUT).await {
                    true => done(0),
                    false => failed(ErrorCode::Internal),
                }
            }
            Question::DescribeGateway(_) => return vec![Answer::Description(self.describe().await)],
            Question::CountChannels(count) => return self.count(&count).await,
        };
        vec![Answer::Done(done)]
    }

    async fn begin(&self, begin: BeginSubscription) -> Done {
        let arrived = Instant::now();
        let Ok(channel) = ChannelName::parse(&begin.channel, MAX_CHANNEL_LENGTH) else {
            return failed(ErrorCode::BadRequest);
        };
        let given = Given {
            channel,
            expires_at: expiry(begin.expire_at),
            info: begin.info,
            data: begin.data,
            overrides: Overrides {
                presence: begin.presence,
                join_leave: begin.join_leave,
                force_push_join_leave: begin.force_push_join_leave,
                force_positioning: begin.force_positioning,
                force_recovery: begin.force_recovery,
            },
            since: begin.since.map(|left| Since {
                epoch: left.log_epoch,
                offset: Offset::from_u64(left.offset),
            }),
        };
        let sessions = self.sessions(begin.target.as_ref());
        let outcomes: Vec<_> = stream::iter(sessions)
            .map(async |session| {
                let given = given.clone();
                session.subscribe_by_server(&self.gateway, given, arrived).await
            })
            .buffer_unordered(SESSIONS_AT_ONCE)
            .collect()
            .await;
        let mut answer = Done::default();
        for outcome in outcomes {
            match outcome {
                Ok(()) => answer.sessions += 1,
                // It is over, or not connected yet, so that there is nothing to subscribe.
                Err(ErrorCode::Expired) => {}
                Err(code) => answer.error = code.code(),
            }
        }
        answer
    }

    fn renew(&self, renew: &RenewSessions) -> Done {
        let sessions = self.sessions(renew.target.as_ref());
        for session in &sessions {
            session.refresh_by_server(&self.gateway, expiry(renew.expire_at), renew.info.clone());
        }
        done(sessions.len())
    }

    async fn members_changed(&self, changed: ChannelMembersChanged) -> Done {
        let (Ok(log), Some(event)) = (changed.log_epoch.parse(), changed.event) else {
            return failed(ErrorCode::BadRequest);
        };
        let told = Told {
            channel: changed.channel,
            place: (log, Offset::from_u64(changed.offset)),
            event,
        };
        done(self.gateway.members_changed(&told).await)
    }

    fn tell(&self, tell: TellSessions) -> Done {
        let message = match tell.message {
            Some(tell_sessions::Message::Maintenance(maintenance)) => SystemMessage::Maintenance {
                text: maintenance.text,
                at: maintenance.at,
            },
            Some(tell_sessions::Message::PolicyChanged(changed)) => {
                SystemMessage::PolicyChanged { text: changed.text }
            }
            None => return failed(ErrorCode::NotAvailable),
        };
        let whom = match &tell.target {
            None => system_message::Target::Everybody,
            Some(target) if target.client.is_empty() => system_message::Target::User(&target.user),
            Some(target) => match Uuid::try_parse(&target.client) {
                Ok(client) => system_message::Target::Session(client),
                Err(_) => return failed(ErrorCode::BadRequest),
            },
        };
        done(self.gateway.tell(whom, &message))
    }

    async fn describe(&self) -> GatewayDescription {
        let mut channels = HashSet::new();
        let mut subscriptions = 0;
        let sessions = self.gateway.sessions.all();
        for turn in sessions.chunks(A_TURN) {
            for session in turn {
                let of_this = session.channels();
                subscriptions += of_this.len();
                channels.extend(of_this);
            }
            tokio::task::yield_now().await;
        }
        GatewayDescription {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clients: number(sessions.len()),
            users: number(self.gateway.sessions.user_count()),
            channels: number(channels.len()),
            subscriptions: number(subscriptions),
            uptime_seconds: self.begun.elapsed().as_secs(),
        }
    }

    async fn count(&self, asked: &CountChannels) -> Vec<Answer> {
        let matcher = match asked.pattern.as_str() {
            "" => None,
            pattern => match Glob::new(pattern) {
                Ok(glob) => Some(glob.compile_matcher()),
                Err(_) => return vec![Answer::Done(failed(ErrorCode::BadRequest))],
            },
        };
        let limit = usize::try_from(asked.limit).unwrap_or(usize::MAX);
        let mut counts: BTreeMap<ChannelName, u32> = BTreeMap::new();
        let mut over_limit = false;
        for turn in self.gateway.sessions.all().chunks(A_TURN) {
            for channel in turn.iter().flat_map(|session| session.channels()) {
                if matcher
                    .as_ref()
                    .is_some_and(|matcher| !matcher.is_match(channel.as_str()))
                {
                    continue;
                }
                if counts.len() >= limit && !counts.contains_key(&channel) {
                    over_limit = true;
                    break;
                }
                *counts.entry(channel).or_default() += 1;
            }
            tokio::task::yield_now().await;
        }
        let mut parts = vec![ChannelCounts::default()];
        let mut bytes = 0;
        for (channel, clients) in counts {
            if bytes > PART {
                bytes = 0;
                parts.push(ChannelCounts::default());
            }
            bytes += channel.as_str().len() + 16;
            if let Some(part) = parts.last_mut() {
                part.clients.insert(channel.as_str().to_owned(), clients);
                part.over_limit = over_limit;
            }
        }
        parts.into_iter().map(Answer::Counts).collect()
    }

    /// The sessions of this gateway that are meant.
    fn sessions(&self, target: Option<&Target>) -> Vec<Arc<SessionHandle>> {
        let Some(target) = target else {
            return Vec::new();
        };
        let sessions = &self.gateway.sessions;
        let mut found: Vec<_> = if target.client.is_empty() {
            sessions.of_user(&target.user)
        } else {
            let client = Uuid::try_parse(&target.client).ok();
            client
                .and_then(|client| sessions.by_client(client))
                .filter(|session| target.user.is_empty() || session.user() == target.user)
                .into_iter()
                .collect()
        };
        if !target.except.is_empty() {
            let except: HashSet<Uuid> = target
                .except
                .iter()
                .filter_map(|client| Uuid::try_parse(client).ok())
                .collect();
            found.retain(|session| !except.contains(&session.client()));
        }
        found
    }
}

fn done(sessions: usize) -> Done {
    Done {
        sessions: number(sessions),
        error: 0,
    }
}

fn failed(code: ErrorCode) -> Done {
    Done {
        sessions: 0,
        error: code.code(),
    }
}

fn number(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// 0 is never.
fn expiry(seconds: i64) -> Option<UnixTime> {
    u64::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(UnixTime::from_seconds)
}
