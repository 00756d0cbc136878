//! From messages of channels to notifications: a durable reader of the log.
//!
//! Each message that a rule of its namespace wants told becomes one notification for each user, under an idempotency key that is the
//! message's place; so what is read twice is told once. What was decided and how far the log was read are one transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use switchboard_bus::Bus;
use switchboard_bus::messages::{AskError, ask};
use switchboard_bus::reader::{Batch, HandleError, Handler};
use switchboard_bus::records::{Body, Reading};
use switchboard_proto::bus::{Message, PayloadKind};
use switchboard_proto::channel::{self, ChannelName};
use switchboard_proto::ids::{LogEpoch, Offset, OwnerEpoch, Sequence, ShardId};
use switchboard_proto::messages::{MembersRequest, method};
use switchboard_proto::notifications as wire;
use switchboard_proto::presence::MAX_USER;
use switchboard_proto::time::now_us;

use crate::accepting::Accepting;
use crate::checking::Checking;
use crate::config::{Category, Recipients, Rule, Tell};
use crate::judging::Here;
use crate::model::{Said, Way, us};
use crate::store::{Enqueued, MAX_BATCH, NotifyStore, Progress};

/// What an answer of the message store may take.
const WITHIN: Duration = Duration::from_secs(3);

/// Who is mentioned in one message, at most.
const MENTIONED: usize = 100;

/// Characters of a message's text that are told.
const TEXT: usize = 500;

/// Messages older than this are not told any more: a reader that comes back after days does not wake everybody.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// See the module.
pub(crate) struct Deciding {
    pub(crate) store: Arc<dyn NotifyStore>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) accepting: Accepting,
    pub(crate) checking: Checking,
    pub(crate) categories: Arc<BTreeMap<String, Category>>,
    pub(crate) rules: Arc<BTreeMap<String, Rule>>,
    /// Where each shard was read to, and whose records count there.
    pub(crate) known: Mutex<HashMap<ShardId, (LogEpoch, Sequence, OwnerEpoch)>>,
}

/// Members of channels as one batch meets them; `None`: more than are told.
type Members = HashMap<String, Option<Vec<String>>>;

/// A message that is told.
struct Told {
    said: Said,
    message: Message,
    /// Users, and whether they are mentioned.
    to: BTreeMap<String, bool>,
}

#[async_trait]
impl Handler for Deciding {
    async fn position(&self, shard: ShardId, log: LogEpoch) -> Result<Option<Sequence>, HandleError> {
        Ok(self
            .store
            .progress(shard, log)
            .await?
            .map(|progress| progress.read_to))
    }

    async fn handle(&self, batch: &Batch) -> Result<(), HandleError> {
        if self.accepting.is_full() {
            return Err("as many notifications wait as may (notify.waiting)".into());
        }
        let Some(last) = batch.records.last() else {
            return Ok(());
        };
        let mut reading = Reading::after(self.owner_epoch(batch).await?);
        let now = now_us();
        let mut members = Members::new();
        let (mut told, mut users) = (Vec::new(), 0);
        for at in &batch.records {
            let Some(Body::Batch(entries)) = reading.record(at) else {
                continue;
            };
            if reading.head.time_us + us(OLD) < now {
                continue;
            }
            for (index, entry) in entries.into_iter().enumerate() {
                let said = Said {
                    shard: batch.shard,
                    log: batch.log,
                    offset: Offset::new(at.sequence, index),
                };
                let Some(one) = self.told(said, entry.message, &mut members).await? else {
                    continue;
                };
                users += one.to.len();
                told.push(one);
                if users >= MAX_BATCH {
                    // A part: what is read again is known by its key.
                    self.keep(std::mem::take(&mut told), now, None).await?;
                    users = 0;
                }
            }
        }
        let progress = Progress {
            shard: batch.shard,
            log: batch.log,
            read_to: last.sequence,
            owner_epoch: reading.owner_epoch(),
        };
        // How far it was read goes with the last part.
        self.keep(told, now, Some(progress)).await?;
        self.known
            .lock()
            .insert(batch.shard, (batch.log, last.sequence, progress.owner_epoch));
        Ok(())
    }
}

impl Deciding {
    /// Whose records count after those that were read.
    async fn owner_epoch(&self, batch: &Batch) -> Result<OwnerEpoch, HandleError> {
        let known = self.known.lock().get(&batch.shard).copied();
        if let Some((log, read_to, owner_epoch)) = known
            && log == batch.log
            && read_to == batch.after
        {
            return Ok(owner_epoch);
        }
        let stored = self.store.progress(batch.shard, batch.log).await?;
        Ok(stored.map_or(OwnerEpoch(0), |progress| progress.owner_epoch))
    }

    /// Whom a message is told; `None`: nobody.
    async fn told(
        &self,
        said: Said,
        message: Message,
        known: &mut Members,
    ) -> Result<Option<Told>, HandleError> {
        // Entries of inboxes tell of messages that are told by themselves, changes are none.
        if message.origin.is_some() || message.change.is_some() {
            return Ok(None);
        }
        let Some(rule) = channel::namespace_of(&message.channel).and_then(|name| self.rules.get(name)) else {
            return Ok(None);
        };
        let payload = parsed(&message);
        let sender = message.sender.as_ref().map_or("", |sender| sender.user.as_str());
        let mentioned: BTreeSet<String> = field(&payload, &rule.mentions)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter(|user| (1..=MAX_USER).contains(&user.len()) && !user.contains('\0'))
            .take(MENTIONED)
            .map(str::to_owned)
            .collect();
        if rule.recipients == Recipients::Mentioned && mentioned.is_empty() {
            return Ok(None);
        }
        let named: Option<Vec<String>> = ChannelName::parse(&message.channel, MAX_USER)
            .ok()
            .and_then(|channel| Some(channel.users()?.map(str::to_owned).collect()));
        let members = match named {
            Some(named) => Some(named),
            // Those mentioned are judged again before each send: who is no member is told nothing.
            None if rule.recipients == Recipients::Mentioned => Some(mentioned.iter().cloned().collect()),
            None => match known.get(&message.channel) {
                Some(members) => members.clone(),
                None => {
                    let members = self.members(&message.channel, rule.most).await?;
                    known.insert(message.channel.clone(), members.clone());
                    members
                }
            },
        };
        let mut to = BTreeMap::new();
        // More members than are told: those mentioned alone.
        for user in members.unwrap_or_else(|| mentioned.iter().cloned().collect()) {
            if user == sender {
                continue;
            }
            let is_mentioned = mentioned.contains(&user);
            if is_mentioned || rule.recipients == Recipients::Members {
                to.insert(user, is_mentioned);
            }
        }
        Ok((!to.is_empty()).then_some(Told { said, message, to }))
    }

    /// The members of a channel; `None`: more than `most`.
    async fn members(&self, channel: &str, most: usize) -> Result<Option<Vec<String>>, HandleError> {
        let mut members = Vec::new();
        let mut after = String::new();
        loop {
            let request = MembersRequest {
                channel: channel.to_owned(),
                after,
                limit: 1_000,
            };
            let page = match ask::<method::Members>(self.bus.as_ref(), &request, WITHIN).await {
                Ok(page) => page,
                // Nothing is stored here: nobody is a member.
                Err(AskError::NotAvailable(_) | AskError::NotFound(_)) => return Ok(Some(Vec::new())),
                Err(error) => return Err(error.into()),
            };
            members.extend(page.members.into_iter().map(|member| member.user));
            if members.len() > most {
                return Ok(None);
            }
            match members.last() {
                Some(last) if page.more => after = last.clone(),
                _ => return Ok(Some(members)),
            }
        }
    }

    /// Keeps what messages cause, and how far the log was read that they came from.
    async fn keep(&self, told: Vec<Told>, now: u64, progress: Option<Progress>) -> Result<(), HandleError> {
        if self.accepting.is_full() {
            return Err("as many notifications wait as may (notify.waiting)".into());
        }
        let enqueued = self.enqueued(told, now).await;
        let mut parts = enqueued.chunks(MAX_BATCH).peekable();
        while let Some(part) = parts.next() {
            let progress = progress.filter(|_| parts.peek().is_none());
            self.accepting.keep(part, progress).await?;
        }
        if enqueued.is_empty() && progress.is_some() {
            self.store.enqueue(&[], progress).await?;
        }
        self.accepting.metrics.decided.inc_by(enqueued.len() as u64);
        Ok(())
    }

    /// What is kept of it: who is here is not told on other ways than in the app.
    async fn enqueued(&self, told: Vec<Told>, now: u64) -> Vec<Enqueued> {
        let users: BTreeSet<&str> = told
            .iter()
            .flat_map(|told| told.to.keys().map(String::as_str))
            .collect();
        let users: Vec<&str> = users.into_iter().collect();
        let here = self.checking.here(&users).await;
        let mut enqueued = Vec::new();
        for Told { said, message, to } in &told {
            let rule = channel::namespace_of(&message.channel).and_then(|name| self.rules.get(name));
            let Some(rule) = rule else { continue };
            for (user, is_mentioned) in to {
                let category = if *is_mentioned {
                    &rule.mention
                } else {
                    &rule.category
                };
                let Some(settings) = self.categories.get(category) else {
                    continue;
                };
                let is_here = match (settings.tell, here.get(user)) {
                    (Tell::Away, Some(Here::Online)) | (Tell::Offline, Some(Here::Online | Here::Away)) => {
                        true
                    }
                    (Tell::Always | Tell::Away | Tell::Offline, _) => false,
                };
                // Judged once more before it is sent; here it only spares the queue what nobody wants.
                if is_here && !settings.ways.contains(&Way::InApp) && settings.later.is_empty() {
                    continue;
                }
                let content = content(rule, *said, message, user, *is_mentioned);
                match self.accepting.enqueued(content, Some(*said), now).await {
                    Ok(one) => enqueued.push(one),
                    // Such as a user's id that no store can hold: no reason to read no further.
                    Err(error) => tracing::warn!(%error, "a message is not told"),
                }
            }
        }
        enqueued
    }
}

fn content(rule: &Rule, said: Said, message: &Message, user: &str, is_mentioned: bool) -> wire::Notification {
    let payload = parsed(message);
    let text = field(&payload, &rule.text)
        .and_then(Value::as_str)
        .unwrap_or_default();
    let text: String = text.replace('\0', "").chars().take(TEXT).collect();
    let sender = message.sender.as_ref().map_or("", |sender| sender.user.as_str());
    let category = if is_mentioned {
        &rule.mention
    } else {
        &rule.category
    };
    let variables = json!({"sender": sender, "channel": message.channel, "text": text, "count": 1});
    let data = json!({
        "message": uuid::Uuid::from_slice(&message.id).unwrap_or_default().to_string(),
        "offset": said.offset.get(),
    });
    wire::Notification {
        user: user.to_owned(),
        category: category.clone(),
        template: if is_mentioned { "mention" } else { "message" }.to_owned(),
        variables: variables.to_string().into(),
        data: data.to_string().into(),
        conversation: message.channel.clone(),
        collapse: message.channel.clone(),
        idempotency_key: format!("message:{}:{}:{}", said.shard, said.log, said.offset.get()),
        ..wire::Notification::default()
    }
}

/// The payload of a message; null where it is none of ours to read.
fn parsed(message: &Message) -> Value {
    match message.kind() {
        PayloadKind::Json | PayloadKind::Unspecified => {
            serde_json::from_slice(&message.payload).unwrap_or_default()
        }
        PayloadKind::Binary | PayloadKind::Opaque => Value::Null,
    }
}

/// A field of a JSON value, an inner one by dots.
fn field<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}
