//! Who listens to a room.

use std::sync::Arc;
use std::time::Duration;

use switchboard_client::{Client, Event, Place};
use switchboard_loadgen::checker::Receiver;
use switchboard_loadgen::message::Said;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::historian::Entry;
use super::way::Way;
use super::{AGAIN, Acknowledged};

/// How long who has everything still listens: nothing may come again.
const LINGERS: Duration = Duration::from_secs(1);

/// What a listener was told.
pub(super) struct Listened {
    pub(super) room: u32,
    pub(super) receiver: Receiver,
    pub(super) received: u64,
    /// All of it, in the order in which it came.
    pub(super) record: Vec<Entry>,
    pub(super) returned: u64,
}

pub(super) struct Listener {
    way: Way,
    channel: String,
    place: Place,
    listened: Listened,
}

impl Listener {
    /// It has all of the channel up to `place`.
    pub(super) fn new(way: Way, room: u32, channel: &str, place: Place) -> Self {
        Self {
            way,
            channel: channel.to_owned(),
            place,
            listened: Listened {
                room,
                receiver: Receiver::default(),
                received: 0,
                record: Vec::new(),
                returned: 0,
            },
        }
    }

    /// Until it has all that was acknowledged, or it is over. Without a client it comes back to where it left off.
    pub(super) async fn listen(
        mut self,
        mut connected: Option<Client>,
        mut all: watch::Receiver<Option<Arc<Acknowledged>>>,
        over: CancellationToken,
    ) -> Listened {
        let mut leaves = None;
        loop {
            let has_all = |all: &Option<Arc<Acknowledged>>| {
                let room = all.as_ref().and_then(|all| all.get(&self.listened.room));
                all.is_some() && room.is_none_or(|room| self.listened.receiver.has(room))
            };
            if has_all(&all.borrow_and_update()) {
                leaves.get_or_insert_with(|| Instant::now() + LINGERS);
            }
            if over.is_cancelled() || leaves.is_some_and(|at| at <= Instant::now()) {
                return self.listened;
            }
            let Some(client) = &mut connected else {
                connected = self.come_back().await;
                if connected.is_none() {
                    sleep(AGAIN).await;
                }
                continue;
            };
            tokio::select! {
                event = client.next() => match event {
                    Ok(Event::Publication { publication, .. }) => self.hear(publication.offset, &publication.data),
                    Ok(Event::Reply(_) | Event::Other(_)) => {}
                    Ok(Event::Unsubscribed { .. }) | Err(_) => {
                        connected = None;
                        self.listened.returned += 1;
                    }
                },
                Ok(()) = all.changed() => {}
                () = over.cancelled() => {}
                () = sleep_until(leaves.unwrap_or_else(Instant::now)), if leaves.is_some() => {}
            }
        }
    }

    async fn come_back(&mut self) -> Option<Client> {
        let mut client = self.way.connect().await.ok()?;
        let subscribed = client
            .subscribe(&self.channel, "", Some(&self.place))
            .await
            .ok()?;
        if !subscribed.recovered {
            self.listened.receiver.not_recovered();
            self.place.offset = subscribed.offset;
        }
        for publication in subscribed.publications {
            self.hear(publication.offset, &publication.data);
        }
        self.place.epoch = subscribed.epoch;
        Some(client)
    }

    fn hear(&mut self, offset: u64, data: &[u8]) {
        if let Some(said) = Said::decode(data) {
            self.listened.received += 1;
            self.listened.receiver.received(offset, said.sender, said.number);
            self.listened.record.push((offset, said.sender, said.number));
        }
        self.place.offset = self.place.offset.max(offset);
    }
}
