//! What other services know of a user, asked right before a send: who is here (presence), who has read a message and who is in its
//! channel (the message store).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use switchboard_bus::Bus;
use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::messages::{
    FoldAt, FoldsRequest, MessageStatusRequest, Place, Role, StandingsRequest, UserInChannel,
    method as messages,
};
use switchboard_proto::presence::{GetUsersRequest, Status, method as presence};
use switchboard_proto::questions::Method;

use tokio::time::Instant;

use crate::judging::{Here, Message};
use crate::model::{Notification, Said};

/// What an answer may take.
const WITHIN: Duration = Duration::from_secs(3);

/// What all answers about one batch may take.
const ALL_WITHIN: Duration = Duration::from_secs(4);

/// Questions of one batch at a time.
const AT_ONCE: usize = 16;

/// Users or pairs of one question, as both services take them.
const ASKED: usize = 1_000;

/// Bytes of a channel's name, at most.
const LONGEST: usize = 255;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Checking {
    pub(crate) bus: Arc<dyn Bus>,
}

/// What a notification's message is found by: channel, user, offset.
pub(crate) type Key = (String, String, u64);

/// The message store does not answer.
struct NotKnown;

impl NotKnown {
    fn because(error: &AskError) -> Self {
        tracing::debug!(%error, "the message store cannot be asked");
        Self
    }
}

impl Checking {
    /// Who of these is here. Those of whom nothing is known are left out: a presence service that does not answer keeps nothing back.
    pub(crate) async fn here(&self, users: &[&str]) -> HashMap<String, Here> {
        let mut here = HashMap::new();
        for chunk in users.chunks(ASKED) {
            let request = GetUsersRequest {
                users: chunk.iter().map(|user| (*user).to_owned()).collect(),
            };
            match ask::<presence::GetUsers>(self.bus.as_ref(), &request, WITHIN).await {
                Ok(answer) => here.extend(answer.users.into_iter().map(|found| {
                    let is = match found.status() {
                        Status::Online | Status::Busy => Here::Online,
                        Status::Away => Here::Away,
                        Status::Offline | Status::Invisible | Status::Unspecified => Here::Offline,
                    };
                    (found.user, is)
                })),
                Err(error) => {
                    tracing::debug!(%error, "it is not known who is here");
                    break;
                }
            }
        }
        here
    }

    /// What became of the messages that notifications are about, for their users. What cannot be asked in time is left out.
    pub(crate) async fn messages(&self, notifications: &[&Notification]) -> HashMap<Key, Message> {
        let mut found: HashMap<Key, Message> = HashMap::new();
        let mut places: HashMap<(&str, Said), HashSet<&str>> = HashMap::new();
        let mut channels: HashMap<&str, HashSet<Said>> = HashMap::new();
        let mut pairs = HashSet::new();
        for notification in notifications {
            let Some(said) = notification.said else { continue };
            let (channel, user) = (
                notification.content.conversation.as_str(),
                notification.content.user.as_str(),
            );
            places.entry((channel, said)).or_default().insert(user);
            channels.entry(channel).or_default().insert(said);
            if !names_its_users(channel) {
                pairs.insert((channel, user));
            }
            found.entry(key(notification)).or_default();
        }
        let deadline = Instant::now() + ALL_WITHIN;
        let mut unknown: HashSet<Key> = HashSet::new();
        let key_of =
            |channel: &str, user: &str, said: Said| (channel.to_owned(), user.to_owned(), said.offset.get());

        let asked: Vec<(String, Said)> = places
            .keys()
            .map(|(channel, said)| ((*channel).to_owned(), *said))
            .collect();
        let read = stream::iter(asked)
            .map(|(channel, said)| {
                let checking = self.clone();
                async move {
                    let readers = checking.readers(&channel, said, deadline).await;
                    (channel, said, readers)
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>();
        for (channel, said, readers) in read.await {
            let channel = channel.as_str();
            let users = places.get(&(channel, said)).into_iter().flatten();
            for user in users {
                let key = key_of(channel, user, said);
                let message = found.entry(key.clone()).or_default();
                match &readers {
                    Ok(Some(readers)) => message.is_read = readers.contains(*user),
                    Ok(None) => message.is_gone = true,
                    Err(NotKnown) => drop(unknown.insert(key)),
                }
            }
        }
        // What was deleted stays at its place, blank: that it was is asked for by itself.
        let asked: Vec<(String, HashSet<Said>)> = channels
            .into_iter()
            .map(|(channel, said)| (channel.to_owned(), said))
            .collect();
        let deleted = stream::iter(asked)
            .map(|(channel, said)| {
                let checking = self.clone();
                async move {
                    let deleted = checking.deleted(&channel, &said, deadline).await;
                    (channel, deleted)
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>();
        for (channel, deleted) in deleted.await {
            for ((of, said), users) in places.iter().filter(|((of, _), _)| *of == channel) {
                for user in users {
                    let key = key_of(of, user, *said);
                    match &deleted {
                        Ok(deleted) if deleted.contains(&said.offset.get()) => {
                            found.entry(key).or_default().is_gone = true;
                        }
                        Ok(_) => {}
                        Err(NotKnown) => drop(unknown.insert(key)),
                    }
                }
            }
        }
        let pairs: Vec<(&str, &str)> = pairs.into_iter().collect();
        for chunk in pairs.chunks(ASKED) {
            let standings = self.standings(chunk, deadline).await;
            let strange: Result<HashSet<(&str, &str)>, NotKnown> = standings.map(|standings| {
                let of = chunk.iter().copied().zip(standings);
                of.filter_map(|(pair, is_member)| (!is_member).then_some(pair))
                    .collect()
            });
            for ((channel, user, offset), message) in &mut found {
                let pair = (channel.as_str(), user.as_str());
                match &strange {
                    Ok(strange) if strange.contains(&pair) => message.is_strange = true,
                    Ok(_) => {}
                    Err(NotKnown) if chunk.contains(&pair) => {
                        unknown.insert((channel.clone(), user.clone(), *offset));
                    }
                    Err(NotKnown) => {}
                }
            }
        }
        found.retain(|key, _| !unknown.contains(key));
        found
    }

    async fn asked<M: Method>(
        &self,
        request: &M::Request,
        deadline: Instant,
    ) -> Result<M::Response, AskError> {
        let within = deadline.saturating_duration_since(Instant::now()).min(WITHIN);
        if within.is_zero() {
            return Err(AskError::Unavailable("too late to ask".to_owned()));
        }
        ask::<M>(self.bus.as_ref(), request, within).await
    }

    /// Who has read a message; `None`: it is gone.
    async fn readers(
        &self,
        channel: &str,
        said: Said,
        deadline: Instant,
    ) -> Result<Option<HashSet<String>>, NotKnown> {
        let request = MessageStatusRequest {
            channel: channel.to_owned(),
            place: Some(place(said)),
            shard: Some(u32::from(said.shard.get())),
            limit: 1_000,
        };
        match self.asked::<messages::MessageStatus>(&request, deadline).await {
            Ok(status) => {
                let readers = status.read.map(|read| read.users).unwrap_or_default();
                Ok(Some(readers.into_iter().collect()))
            }
            Err(AskError::NotFound(_)) => Ok(None),
            // Nothing is stored here: nobody marks what was read.
            Err(AskError::NotAvailable(_)) => Ok(Some(HashSet::new())),
            Err(error) => Err(NotKnown::because(&error)),
        }
    }

    /// Those of the messages that were deleted, by their offsets.
    async fn deleted(
        &self,
        channel: &str,
        said: &HashSet<Said>,
        deadline: Instant,
    ) -> Result<HashSet<u64>, NotKnown> {
        let request = FoldsRequest {
            channel: channel.to_owned(),
            places: said.iter().copied().map(place).collect(),
        };
        let folds = match self.asked::<messages::Folds>(&request, deadline).await {
            Ok(answer) => answer.folds,
            Err(AskError::NotAvailable(_)) => Vec::new(),
            Err(error) => return Err(NotKnown::because(&error)),
        };
        let is_deleted = |fold: &FoldAt| fold.fold.as_ref().is_some_and(|fold| fold.deleted_us > 0);
        let deleted = folds.iter().filter(|fold| is_deleted(fold));
        Ok(deleted
            .filter_map(|fold| Some(fold.place.as_ref()?.offset))
            .collect())
    }

    /// Whether each is a member.
    async fn standings(&self, pairs: &[(&str, &str)], deadline: Instant) -> Result<Vec<bool>, NotKnown> {
        let pair = |(channel, user): &(&str, &str)| UserInChannel {
            channel: (*channel).to_owned(),
            user: (*user).to_owned(),
        };
        let request = StandingsRequest {
            pairs: pairs.iter().map(pair).collect(),
            awaited: None,
        };
        match self.asked::<messages::Standings>(&request, deadline).await {
            Ok(answer) => Ok(answer
                .standings
                .iter()
                .map(|standing| standing.role() != Role::None)
                .collect()),
            Err(AskError::NotAvailable(_)) => Ok(vec![true; pairs.len()]),
            Err(error) => Err(NotKnown::because(&error)),
        }
    }
}

fn place(said: Said) -> Place {
    Place {
        log_epoch: said.log.to_string(),
        offset: said.offset.get(),
    }
}

/// What a notification's message is found by.
pub(crate) fn key(notification: &Notification) -> Key {
    let content = &notification.content;
    let offset = notification.said.map_or(0, |said| said.offset.get());
    (content.conversation.clone(), content.user.clone(), offset)
}

/// Whether the channel's name says who is in it.
pub(crate) fn names_its_users(channel: &str) -> bool {
    ChannelName::parse(channel, LONGEST).is_ok_and(|channel| channel.users().is_some())
}
