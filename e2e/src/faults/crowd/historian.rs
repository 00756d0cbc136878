//! Who reads a room's history when all is over: what everybody was told has to be what it says.

use switchboard_client::ClientError;
use switchboard_loadgen::message::Said;
use switchboard_proto::client::{Command, HistoryRequest, StreamPosition};
use tokio::time::sleep;

use super::AGAIN;
use super::way::Way;

/// A message as somebody was told it: offset, sender, and which of the sender's.
pub(super) type Entry = (u64, u32, u64);

/// Messages in a page.
const PAGE: i32 = 100;

pub(super) struct Historian {
    way: Way,
    channel: String,
}

impl Historian {
    pub(super) fn new(way: Way, channel: &str) -> Self {
        Self {
            way,
            channel: channel.to_owned(),
        }
    }

    /// All of it, the oldest first. Tries until it succeeds.
    pub(super) async fn read(mut self) -> Vec<Entry> {
        loop {
            match self.try_read().await {
                Ok(entries) => return entries,
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    async fn try_read(&mut self) -> Result<Vec<Entry>, ClientError> {
        // Rights to history are those of who is subscribed.
        let (mut client, _) = self.way.subscribe(&self.channel, None).await?;
        let mut entries = Vec::new();
        let mut since = StreamPosition::default();
        loop {
            let command = Command {
                history: Some(HistoryRequest {
                    channel: self.channel.clone(),
                    limit: PAGE,
                    since: Some(since.clone()),
                    ..HistoryRequest::default()
                }),
                ..Command::default()
            };
            let page = client.command(command).await?.history.unwrap_or_default();
            let Some(last) = page.publications.last() else {
                return Ok(entries);
            };
            since = StreamPosition {
                offset: last.offset,
                epoch: page.epoch.clone(),
            };
            entries.extend(page.publications.iter().filter_map(|publication| {
                let said = Said::decode(&publication.data)?;
                Some((publication.offset, said.sender, said.number))
            }));
        }
    }
}

/// In how many places a client's record is not what the history says, up to where the client listened.
pub(super) fn differing(record: &[Entry], history: &[Entry]) -> u64 {
    let last = record.iter().map(|(offset, ..)| *offset).max().unwrap_or(0);
    let until: Vec<&Entry> = history.iter().filter(|(offset, ..)| *offset <= last).collect();
    let differ = record
        .iter()
        .zip(&until)
        .filter(|(one, other)| one != *other)
        .count();
    (differ + record.len().abs_diff(until.len())) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_compared_with_what_was_said_while_its_client_listened() {
        let history = [(1, 1, 1), (2, 2, 1), (3, 1, 2), (4, 2, 2)];
        assert_eq!(differing(&history, &history), 0);
        assert_eq!(differing(&history[..2], &history), 0, "it left before the others");
        assert_eq!(differing(&[], &history), 0);
        let missing = [history[0], history[2], history[3]];
        assert!(differing(&missing, &history) > 0);
        assert!(differing(&history, &missing) > 0);
        let doubled = [history[0], history[0], history[1]];
        assert!(differing(&doubled, &history) > 0);
        let swapped = [history[1], history[0], history[2]];
        assert!(differing(&swapped, &history) > 0);
        assert_eq!(differing(&[(1, 1, 2)], &history), 1, "another message");
    }
}
