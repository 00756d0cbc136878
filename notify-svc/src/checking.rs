//! What other services know of a user, asked right before a send: who is here (presence), who has read a message and who is in its
//! channel (the message store).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use switchboard_bus::Bus;
use switchboard_bus::messages::{AskError, ask};
use switchboard_proto::channel::ChannelName;
use switchboard_proto::messages::{
    FoldAt, FoldsRequest, MessageStatusRequest, Place, Role, StandingsRequest, UserInChannel,
    method as messages,
};
use switchboard_proto::presence::{GetUsersRequest, Status, method as presence};

use crate::judging::{Here, Message};
use crate::model::{Notification, Said};

/// What an answer may take.
const WITHIN: Duration = Duration::from_secs(3);

/// Users or pairs of one question, as both services take them.
const ASKED: usize = 1_000;

/// Bytes of a channel's name, at most.
const LONGEST: usize = 255;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Checking {
    pub(crate) bus: Arc<dyn Bus>,
}

/// What is not known now, so that nothing is sent before it is.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("the message store does not answer: {0}")]
pub(crate) struct NotKnown(String);

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
                Err(error) => tracing::debug!(%error, "it is not known who is here"),
            }
        }
        here
    }

    /// What became of the messages that notifications are about, for their users.
    pub(crate) async fn messages(
        &self,
        notifications: &[&Notification],
    ) -> Result<HashMap<(String, String, u64), Message>, NotKnown> {
        let mut found: HashMap<(String, String, u64), Message> = HashMap::new();
        let mut places: HashMap<(&str, Said), HashSet<&str>> = HashMap::new();
        let mut pairs = HashSet::new();
        for notification in notifications {
            let Some(said) = notification.said else { continue };
            let content = &notification.content;
            let users = places.entry((content.conversation.as_str(), said)).or_default();
            users.insert(content.user.as_str());
            if !names_its_users(&content.conversation) {
                pairs.insert((content.conversation.as_str(), content.user.as_str()));
            }
            found.entry(key(notification)).or_default();
        }
        for ((channel, said), users) in places {
            let request = MessageStatusRequest {
                channel: channel.to_owned(),
                place: Some(place(said)),
                shard: Some(u32::from(said.shard.get())),
                limit: 1_000,
            };
            let readers = match ask::<messages::MessageStatus>(self.bus.as_ref(), &request, WITHIN).await {
                Ok(status) => status.read.map(|read| read.users).unwrap_or_default(),
                Err(AskError::NotFound(_)) => {
                    for user in users {
                        let key = (channel.to_owned(), user.to_owned(), said.offset.get());
                        found.entry(key).or_default().is_gone = true;
                    }
                    continue;
                }
                // Nothing is stored here: nobody marks what was read.
                Err(AskError::NotAvailable(_)) => continue,
                Err(error) => return Err(NotKnown(error.to_string())),
            };
            for user in readers {
                let key = (channel.to_owned(), user.clone(), said.offset.get());
                if let Some(message) = found.get_mut(&key) {
                    message.is_read = true;
                }
            }
        }
        self.find_deleted(notifications, &mut found).await?;
        let pairs: Vec<(&str, &str)> = pairs.into_iter().collect();
        for chunk in pairs.chunks(ASKED) {
            let request = StandingsRequest {
                pairs: chunk
                    .iter()
                    .map(|(channel, user)| UserInChannel {
                        channel: (*channel).to_owned(),
                        user: (*user).to_owned(),
                    })
                    .collect(),
                awaited: None,
            };
            let standings = match ask::<messages::Standings>(self.bus.as_ref(), &request, WITHIN).await {
                Ok(answer) => answer.standings,
                Err(AskError::NotAvailable(_)) => continue,
                Err(error) => return Err(NotKnown(error.to_string())),
            };
            for ((channel, user), standing) in chunk.iter().zip(standings) {
                if standing.role() != Role::None {
                    continue;
                }
                for ((of, whom, _), message) in &mut found {
                    if of == channel && whom == user {
                        message.is_strange = true;
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Checking {
    /// What was deleted stays at its place, blank: that it was is asked for by itself.
    async fn find_deleted(
        &self,
        notifications: &[&Notification],
        found: &mut HashMap<(String, String, u64), Message>,
    ) -> Result<(), NotKnown> {
        let mut of_channels: HashMap<&str, HashMap<Said, HashSet<&str>>> = HashMap::new();
        for notification in notifications {
            let Some(said) = notification.said else { continue };
            let content = &notification.content;
            let places = of_channels.entry(content.conversation.as_str()).or_default();
            places.entry(said).or_default().insert(content.user.as_str());
        }
        for (channel, places) in of_channels {
            let request = FoldsRequest {
                channel: channel.to_owned(),
                places: places.keys().copied().map(place).collect(),
            };
            let folds = match ask::<messages::Folds>(self.bus.as_ref(), &request, WITHIN).await {
                Ok(answer) => answer.folds,
                Err(AskError::NotAvailable(_)) => continue,
                Err(error) => return Err(NotKnown(error.to_string())),
            };
            let is_deleted = |fold: &FoldAt| fold.fold.as_ref().is_some_and(|fold| fold.deleted_us > 0);
            for fold in folds.into_iter().filter(is_deleted) {
                let offset = fold.place.as_ref().map_or(0, |place| place.offset);
                for (said, users) in &places {
                    if said.offset.get() != offset {
                        continue;
                    }
                    for user in users {
                        let key = (channel.to_owned(), (*user).to_owned(), offset);
                        found.entry(key).or_default().is_gone = true;
                    }
                }
            }
        }
        Ok(())
    }
}

fn place(said: Said) -> Place {
    Place {
        log_epoch: said.log.to_string(),
        offset: said.offset.get(),
    }
}

/// What a notification's message is found by.
pub(crate) fn key(notification: &Notification) -> (String, String, u64) {
    let content = &notification.content;
    let offset = notification.said.map_or(0, |said| said.offset.get());
    (content.conversation.clone(), content.user.clone(), offset)
}

/// Whether the channel's name says who is in it.
pub(crate) fn names_its_users(channel: &str) -> bool {
    ChannelName::parse(channel, LONGEST).is_ok_and(|channel| channel.users().is_some())
}
