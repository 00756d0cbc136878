//! Who may do what in which channel: one pure decision, with the reason for it.
//!
//! Commands ask here and nowhere else, and `switchboard explain` prints what they would be told.
//!
//! What must hold, each with a test:
//! * What no setting allows is refused.
//! * A `$` channel and the users behind a `#` narrow who may, and no setting of the namespace widens
//!   it again; only a subscription token does, for its channel.

mod changes;
mod config;
mod current;
mod explain;
mod members;
mod payload;
pub(crate) mod reload;
mod typing;

use std::collections::BTreeMap;
use std::fmt;

use regex::Regex;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::codes::ErrorCode;

pub(crate) use self::changes::Changing;
pub(crate) use self::config::Bounds;
pub use self::current::CurrentPolicy;
pub(crate) use self::members::{ChangedBy, MembersRules};
pub(crate) use self::payload::Unfit;

/// Everybody's, by its name alone: no token is needed although it begins with `$`, and clients do
/// not publish to it unless that is configured.
pub(crate) const BROADCAST: &str = "$broadcast";

/// What is allowed in the channels of each namespace.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Everything is allowed where the namespace exists.
    insecure: bool,
    /// `[channels]`.
    without_namespace: Options,
    /// `[namespaces.NAME]`.
    namespaces: BTreeMap<String, Options>,
    broadcast_from_clients: bool,
}

/// The settings of a namespace.
#[derive(Debug, Clone)]
struct Options {
    /// The section that they are from.
    section: String,
    subscribe: Permission,
    publish: Permission,
    history: Permission,
    presence: Permission,
    user_limited: bool,
    name_length: usize,
    name_pattern: Option<Regex>,
    data_format: DataFormat,
    publish_size: usize,
    control_characters: bool,
    durable: bool,
    members: Option<MembersRules>,
    presence_rules: PresenceRules,
    changes: changes::Changes,
    typing: bool,
}

/// Who may, as far as settings say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Permission {
    /// Every user.
    client: bool,
    /// Every user who is subscribed. Not for `subscribe`.
    subscriber: bool,
    /// Anonymous users too, where one of the above holds.
    anonymous: bool,
}

/// Who is seen in a namespace's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PresenceRules {
    /// It is known who is there.
    pub(crate) presence: bool,
    /// Who joins and leaves is told to those who ask for it.
    pub(crate) join_leave: bool,
    /// And to those who do not ask.
    pub(crate) force_push_join_leave: bool,
}

/// What publications in a namespace may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DataFormat {
    /// JSON, whoever sends it.
    Json,
    /// Not JSON of a client that speaks JSON.
    Binary,
    /// Either.
    Any,
}

/// What somebody wants to do in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Subscribe,
    Publish,
    History,
    Presence,
}

/// Who wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asking<'a> {
    /// Empty: anonymous.
    pub(crate) user: &'a str,
    /// Subscribed to the channel. For [`Action::Subscribe`]: has a verified subscription token for it.
    pub(crate) is_in: bool,
}

/// What is decided, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decision<'a> {
    /// The error to answer with.
    pub(crate) outcome: Result<(), ErrorCode>,
    why: Why,
    section: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Insecure,
    UnknownNamespace,
    NameLength,
    NamePattern,
    Token,
    PrivateChannel,
    NotAmongUsers,
    AmongUsers,
    Broadcast,
    On(&'static str),
    Off(&'static str),
    /// On, but the user is anonymous.
    NotForAnonymous(&'static str),
    /// On, but the user is not subscribed.
    SubscribersOnly(&'static str),
}

impl Why {
    /// In words for a log: nothing of them is from the client.
    fn words(self) -> &'static str {
        match self {
            Self::Insecure => "gateway.insecure",
            Self::UnknownNamespace => "no namespace of that name is configured",
            Self::NameLength => "channel name longer than its namespace allows",
            Self::NamePattern => "channel name does not match its namespace's pattern",
            Self::Token => "subscription token",
            Self::PrivateChannel => "a channel that begins with $ needs a subscription token",
            Self::NotAmongUsers => "the user is not among those behind the #",
            Self::AmongUsers => "the user is among those behind the #",
            Self::Broadcast => "only the server publishes to $broadcast",
            Self::On(_) => "allowed by a setting of the namespace",
            Self::Off(_) => "no setting of the namespace allows it",
            Self::NotForAnonymous(_) => "no setting of the namespace allows it to anonymous users",
            Self::SubscribersOnly(_) => "only who is subscribed may",
        }
    }
}

impl Decision<'_> {
    /// In words for a log: nothing of them is from the client.
    pub(crate) fn words(self) -> &'static str {
        self.why.words()
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let section = self.section;
        match self.why {
            Why::On(key) => write!(f, "{section}.{key} is true"),
            Why::Off(key) => write!(f, "{section}.{key} is false"),
            Why::NotForAnonymous(key) => write!(f, "{section}.{key} is false, and the user is anonymous"),
            Why::SubscribersOnly(key) => write!(f, "{section}.{key} is true, but not subscribed"),
            Why::AmongUsers => write!(
                f,
                "{}, and {section}.allow_user_limited_channels is true",
                self.words()
            ),
            Why::NameLength => write!(f, "{section}.channel_length"),
            Why::NamePattern => write!(f, "{section}.channel_pattern"),
            Why::Broadcast => write!(f, "channels.allow_publish_to_broadcast is false"),
            Why::Insecure | Why::UnknownNamespace | Why::Token | Why::PrivateChannel | Why::NotAmongUsers => {
                f.write_str(self.words())
            }
        }
    }
}

/// The keys of an action's settings: for every user, for subscribers, for anonymous users.
fn keys(action: Action) -> (&'static str, &'static str, &'static str) {
    match action {
        Action::Subscribe => (
            "allow_subscribe_for_client",
            "allow_subscribe_for_client",
            "allow_subscribe_for_anonymous",
        ),
        Action::Publish => (
            "allow_publish_for_client",
            "allow_publish_for_subscriber",
            "allow_publish_for_anonymous",
        ),
        Action::History => (
            "allow_history_for_client",
            "allow_history_for_subscriber",
            "allow_history_for_anonymous",
        ),
        Action::Presence => (
            "allow_presence_for_client",
            "allow_presence_for_subscriber",
            "allow_presence_for_anonymous",
        ),
    }
}

impl Policy {
    /// Decides. `channel` is a valid name.
    pub(crate) fn decide(&self, action: Action, channel: &ChannelName, who: Asking<'_>) -> Decision<'_> {
        let Some(options) = self.options(channel) else {
            return Decision {
                outcome: Err(ErrorCode::UnknownChannel),
                why: Why::UnknownNamespace,
                section: "namespaces",
            };
        };
        let (outcome, why) = match self.in_namespace(options, action, channel, who) {
            Ok(why) => (Ok(()), why),
            Err(why @ (Why::NameLength | Why::NamePattern)) => (Err(ErrorCode::BadRequest), why),
            Err(why) => (Err(ErrorCode::PermissionDenied), why),
        };
        Decision {
            outcome,
            why,
            section: &options.section,
        }
    }

    fn in_namespace(
        &self,
        options: &Options,
        action: Action,
        channel: &ChannelName,
        who: Asking<'_>,
    ) -> Result<Why, Why> {
        options.name_fits(channel)?;
        let name = channel.as_str();
        if action == Action::Subscribe && who.is_in {
            return Ok(Why::Token);
        }
        if self.insecure {
            return Ok(Why::Insecure);
        }
        let is_broadcast = name == BROADCAST;
        if is_broadcast && action == Action::Publish && !self.broadcast_from_clients {
            return Err(Why::Broadcast);
        }
        // Who is subscribed had a token, or is among the users.
        let is_subscribed = action != Action::Subscribe && who.is_in;
        if name.starts_with('$') && !is_broadcast && !is_subscribed {
            return Err(Why::PrivateChannel);
        }
        if let Some(mut users) = channel.users() {
            let is_among = !who.user.is_empty() && users.any(|user| user == who.user);
            if !is_among && !is_subscribed {
                return Err(Why::NotAmongUsers);
            }
            if is_among && options.user_limited && action == Action::Subscribe {
                return Ok(Why::AmongUsers);
            }
        }
        options.permission(action).decide(action, who)
    }

    /// What the server API is told, which may do everything in every channel that there can be.
    pub(crate) fn decide_for_server(&self, channel: &ChannelName) -> Result<(), ErrorCode> {
        let options = self.options(channel).ok_or(ErrorCode::UnknownChannel)?;
        options.name_fits(channel).map_err(|_| ErrorCode::BadRequest)
    }

    /// Whether publications in the channel are stored.
    pub(crate) fn is_durable(&self, channel: &ChannelName) -> bool {
        self.options(channel).is_none_or(|options| options.durable)
    }

    /// Who is seen in the channel.
    pub(crate) fn presence_rules(&self, channel: &ChannelName) -> PresenceRules {
        let options = self.options(channel);
        options.map(|options| options.presence_rules).unwrap_or_default()
    }

    /// The settings of the channel's namespace; `None`: it does not exist.
    fn options(&self, channel: &ChannelName) -> Option<&Options> {
        match channel.namespace() {
            None => Some(&self.without_namespace),
            // Where nobody has named namespaces and all is allowed, there is nothing to mistype.
            Some(_) if self.insecure && self.namespaces.is_empty() => Some(&self.without_namespace),
            Some(namespace) => self.namespaces.get(namespace),
        }
    }
}

impl Options {
    fn name_fits(&self, channel: &ChannelName) -> Result<(), Why> {
        let name = channel.as_str();
        if name.len() > self.name_length {
            return Err(Why::NameLength);
        }
        let own_part = name.split_once(':').map_or(name, |(_, rest)| rest);
        if self
            .name_pattern
            .as_ref()
            .is_some_and(|pattern| !pattern.is_match(own_part))
        {
            return Err(Why::NamePattern);
        }
        Ok(())
    }

    fn permission(&self, action: Action) -> Permission {
        match action {
            Action::Subscribe => self.subscribe,
            Action::Publish => self.publish,
            Action::History => self.history,
            Action::Presence => self.presence,
        }
    }
}

impl Permission {
    fn decide(self, action: Action, who: Asking<'_>) -> Result<Why, Why> {
        let (client, subscriber, anonymous) = keys(action);
        let by = if self.client {
            client
        } else if self.subscriber && who.is_in {
            subscriber
        } else if self.subscriber {
            return Err(Why::SubscribersOnly(subscriber));
        } else {
            return Err(Why::Off(client));
        };
        if who.user.is_empty() && !self.anonymous {
            return Err(Why::NotForAnonymous(anonymous));
        }
        Ok(Why::On(by))
    }
}

#[cfg(test)]
mod tests;
