//! Who is there all the time, in a channel in which it is known who is there, and comes back at once when a connection ends. In the end it
//! goes without a word.

use std::time::Duration;

use switchboard_client::Client;
use switchboard_proto::client::{Command, RpcRequest};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::AGAIN;
use super::way::Way;

/// Between two signs that all is well.
const PACE: Duration = Duration::from_millis(400);

/// When it had a connection by which the presence service answered.
pub(super) struct Stayed {
    pub(super) user: String,
    pub(super) well: Vec<Instant>,
}

pub(super) struct Neighbour {
    way: Way,
    channel: String,
    stayed: Stayed,
}

impl Neighbour {
    pub(super) fn new(way: Way, channel: &str) -> Self {
        Self {
            stayed: Stayed {
                user: way.user().to_owned(),
                well: Vec::new(),
            },
            way,
            channel: channel.to_owned(),
        }
    }

    pub(super) async fn stay(mut self, leave: CancellationToken) -> Stayed {
        let staying = async {
            let mut connected = None;
            loop {
                if self.is_well(&mut connected).await {
                    self.stayed.well.push(Instant::now());
                    sleep(PACE).await;
                } else {
                    sleep(AGAIN).await;
                }
            }
        };
        leave.run_until_cancelled(staying).await;
        self.stayed
    }

    async fn is_well(&mut self, connected: &mut Option<Client>) -> bool {
        let client = match connected {
            Some(client) => client,
            None => match self.way.subscribe(&self.channel, None).await {
                Ok((client, _)) => connected.insert(client),
                Err(_) => return false,
            },
        };
        let request = format!(r#"{{"users":["{}"]}}"#, self.stayed.user);
        let command = Command {
            rpc: Some(RpcRequest {
                method: "presence.get".to_owned(),
                data: request.into(),
            }),
            ..Command::default()
        };
        match client.command(command).await {
            Ok(_) => true,
            // A refusal says that the service does not answer for now; anything else that the connection is over.
            Err(switchboard_client::ClientError::Refused { .. }) => false,
            Err(_) => {
                *connected = None;
                false
            }
        }
    }
}
