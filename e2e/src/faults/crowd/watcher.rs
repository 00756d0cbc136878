//! Who watches the others' presence, and keeps what it is told of each.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use switchboard_client::{Client, ClientError, Event};
use switchboard_proto::client::{Command, PresenceStatsRequest, RpcRequest};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::AGAIN;
use super::way::Way;

/// How often the channel's members are counted.
const PACE: Duration = Duration::from_millis(250);

/// What it knows now.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Whether each user is there.
    pub(super) users: BTreeMap<String, bool>,
    /// How many there are in the channel.
    pub(super) members: Option<u32>,
}

/// That somebody is there, or not, and when that was told.
pub(super) struct Observed {
    pub(super) at: Instant,
    pub(super) user: String,
    pub(super) is_there: bool,
}

pub(super) struct Watcher {
    way: Way,
    users: Vec<String>,
    channel: String,
    observed: Vec<Observed>,
    known: watch::Sender<Known>,
}

impl Watcher {
    /// Watches `users`, and counts who is in `channel`, in which it is not itself.
    pub(super) fn new(way: Way, users: Vec<String>, channel: &str, known: watch::Sender<Known>) -> Self {
        Self {
            way,
            users,
            channel: channel.to_owned(),
            observed: Vec::new(),
            known,
        }
    }

    pub(super) async fn watch(mut self, over: CancellationToken) -> Vec<Observed> {
        let watching = async {
            loop {
                // The connection is over, or the watch was refused for the time being.
                self.connection().await.ok();
                sleep(AGAIN).await;
            }
        };
        over.run_until_cancelled(watching).await;
        self.observed
    }

    async fn connection(&mut self) -> Result<(), ClientError> {
        let mut client = self.way.connect().await?;
        let request = json!({ "users": self.users }).to_string();
        let command = Command {
            rpc: Some(RpcRequest {
                method: "presence.watch".to_owned(),
                data: request.into(),
            }),
            ..Command::default()
        };
        let answer = client.command(command).await?.rpc.unwrap_or_default();
        let answer: Value = serde_json::from_slice(&answer.data).unwrap_or_default();
        for presence in answer
            .get("users")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            self.observe(presence);
        }
        loop {
            self.count(&mut client).await?;
            let next = tokio::time::timeout(PACE, client.next()).await;
            let Ok(event) = next else { continue };
            if let Event::Other(reply) = event?
                && let Some(message) = reply.push.and_then(|push| push.message)
                && let Ok(told) = serde_json::from_slice::<Value>(&message.data)
            {
                self.observe(told.get("presence").unwrap_or(&Value::Null));
            }
        }
    }

    /// How many there are in the channel, as far as that is told now.
    async fn count(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let command = Command {
            presence_stats: Some(PresenceStatsRequest {
                channel: self.channel.clone(),
            }),
            ..Command::default()
        };
        let members = match client.command(command).await {
            Ok(reply) => Some(reply.presence_stats.unwrap_or_default().num_clients),
            Err(ClientError::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        self.known.send_if_modified(|known| {
            let is_new = known.members != members;
            known.members = members;
            is_new
        });
        Ok(())
    }

    fn observe(&mut self, presence: &Value) {
        let text = |name: &str| presence.get(name).and_then(Value::as_str);
        let (Some(user), Some(status)) = (text("user"), text("status")) else {
            return;
        };
        let is_there = status != "offline";
        self.known.send_modify(|known| {
            known.users.insert(user.to_owned(), is_there);
        });
        self.observed.push(Observed {
            at: Instant::now(),
            user: user.to_owned(),
            is_there,
        });
    }
}
