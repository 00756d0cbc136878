//! What a gateway tells clients about itself: maintenance, a limit that is near, a changed policy.
//!
//! They come as the client protocol's `message` push, which belongs to no channel, is not stored and not
//! answered: a client that is not there misses it. `gateway.system_messages` switches all of them off.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use switchboard_proto::client::{Message, Push, Reply};
use uuid::Uuid;

use crate::gateway::Gateway;
use crate::session::SharedReply;

/// What is told. Its JSON, under the key `system`, is part of the client protocol: see `docs/protocol.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum SystemMessage {
    /// The service is, or will be, interrupted for this client.
    Maintenance {
        /// For people; empty: nothing is said.
        #[serde(skip_serializing_if = "String::is_empty")]
        text: String,
        /// When it begins, in milliseconds since 1970.
        at: u64,
    },
    /// A limit of this connection is nearly met.
    LimitNear {
        limit: NearLimit,
        /// How much is used, of how much: channels, commands, or bytes.
        used: u64,
        of: u64,
    },
    /// What is allowed in which channel may be different from now on.
    PolicyChanged {
        /// For people; empty: nothing is said.
        #[serde(skip_serializing_if = "String::is_empty")]
        text: String,
    },
}

/// The limits that a client is warned of, each at most once a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NearLimit {
    /// `gateway.channels_per_connection`.
    Channels,
    /// `gateway.limits.command_burst`: what is left of it, which `command_rate` fills again.
    CommandRate,
    /// `gateway.outgoing_queue`, in bytes.
    OutgoingQueue,
}

impl NearLimit {
    pub(crate) const ALL: [Self; 3] = [Self::Channels, Self::CommandRate, Self::OutgoingQueue];
}

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// The connection with this id.
    Session(Uuid),
    /// All connections of a user to this gateway.
    User(&'a str),
    /// All connections to this gateway.
    Everybody,
}

impl SystemMessage {
    /// The push that tells it.
    pub(crate) fn push(&self) -> Reply {
        #[derive(Serialize)]
        struct Data<'a> {
            system: &'a SystemMessage,
        }
        // Cannot fail: there is no map in it, and writing to memory does not.
        let data = serde_json::to_vec(&Data { system: self }).unwrap_or_default();
        let message = Message { data: data.into() };
        let push = Push {
            message: Some(message),
            ..Push::default()
        };
        Reply {
            push: Some(push),
            ..Reply::default()
        }
    }
}

impl Gateway {
    /// Queues a system message for whoever of `target` is connected to this gateway, before what waits for them,
    /// and says how many sessions that are. None where `gateway.system_messages` is off. Does not wait.
    pub(crate) fn tell(&self, target: Target<'_>, message: &SystemMessage) -> usize {
        if !self.config.system_messages {
            return 0;
        }
        let sessions = match target {
            Target::Session(client) => self.sessions.by_client(client).into_iter().collect(),
            Target::User(user) => self.sessions.of_user(user),
            Target::Everybody => self.sessions.all(),
        };
        // Encoded at most once per encoding.
        let shared = SharedReply::system(message.push());
        for session in &sessions {
            session.push_shared(&shared);
        }
        sessions.len()
    }

    /// Tells every client of this gateway that what it may do may have changed. For who loads a policy anew,
    /// behind that. See [`Gateway::tell`].
    pub(crate) fn policy_changed(&self, text: String) -> usize {
        self.tell(Target::Everybody, &SystemMessage::PolicyChanged { text })
    }
}

/// A time as clients are told it: milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn json(message: &SystemMessage) -> serde_json::Value {
        let data = message.push().push.unwrap().message.unwrap().data;
        serde_json::from_slice(&data).unwrap()
    }

    /// The order of keys is nobody's concern.
    fn parsed(text: &str) -> serde_json::Value {
        serde_json::from_str(text).unwrap()
    }

    /// Applications read this.
    #[test]
    fn the_json_is_that_of_the_protocol_page() {
        let maintenance = SystemMessage::Maintenance {
            text: "back in a minute".to_owned(),
            at: millis(UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
        };
        assert_eq!(
            json(&maintenance),
            parsed(r#"{"system":{"type":"maintenance","text":"back in a minute","at":1700000000000}}"#)
        );
        let near = |limit| SystemMessage::LimitNear {
            limit,
            used: 103,
            of: 128,
        };
        for (limit, name) in NearLimit::ALL
            .into_iter()
            .zip(["channels", "command_rate", "outgoing_queue"])
        {
            let expected =
                format!(r#"{{"system":{{"type":"limit_near","limit":"{name}","used":103,"of":128}}}}"#);
            assert_eq!(json(&near(limit)), parsed(&expected));
        }
        let changed = SystemMessage::PolicyChanged { text: String::new() };
        assert_eq!(json(&changed), parsed(r#"{"system":{"type":"policy_changed"}}"#));
    }
}
