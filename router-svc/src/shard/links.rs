//! The links of one owner: which gateway is linked, what it is interested in, and the numbered frames
//! on their way to it. No I/O and no clock.
//!
//! A link that shows a gap is not repaired here: nothing of it is answered any more, the gateway
//! notices the silence and opens anew (K1).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use switchboard_proto::bus::{Applied, Delivered, Delivery, Down, DownBeat, DownItem, Opened, down_item};
use switchboard_proto::ids::{Incarnation, Offset};

use super::owner::Ownership;

/// Bytes of the items of one frame, about; a single larger item makes a frame of its own.
const FRAME: usize = 256 * 1024;

/// Which frame this is, from its head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameHead {
    pub(crate) gateway: Incarnation,
    pub(crate) open: u64,
    pub(crate) number: u64,
    /// The first item is an `Open`.
    pub(crate) opens: bool,
}

struct Link {
    open: u64,
    /// The channel set is complete: deliveries go out.
    live: bool,
    up_number: u64,
    down_number: u64,
    /// Up to where the gateway was told that it has everything.
    up_to: Offset,
    channels: HashSet<Arc<str>>,
    heard: Duration,
    sent: Duration,
    /// Messages of the batch that is being delivered.
    delivering: Vec<Delivered>,
    /// Items for the next flush.
    items: Vec<DownItem>,
}

/// See the module.
pub(crate) struct Links {
    is: Ownership,
    limit: usize,
    links: HashMap<Incarnation, Link>,
    interest: HashMap<Arc<str>, Vec<Incarnation>>,
    /// Links with items for the next flush.
    unflushed: Vec<Incarnation>,
}

impl Links {
    pub(crate) fn new(is: Ownership, limit: usize) -> Self {
        Self {
            is,
            limit,
            links: HashMap::new(),
            interest: HashMap::new(),
            unflushed: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }

    /// Channels that some gateway is interested in.
    pub(crate) fn channel_count(&self) -> usize {
        self.interest.len()
    }

    /// Whether a frame continues its link, or opens a newer one. What does not is dropped.
    pub(crate) fn accept(&mut self, head: FrameHead, now: Duration) -> bool {
        if head.opens && head.number == 1 && !self.open(head, now) {
            return false;
        }
        match self.links.get_mut(&head.gateway) {
            Some(link) if head.open == link.open && head.number == link.up_number + 1 => {
                link.up_number = head.number;
                link.heard = now;
                true
            }
            Some(_) | None => false,
        }
    }

    fn open(&mut self, head: FrameHead, now: Duration) -> bool {
        if self
            .links
            .get(&head.gateway)
            .is_some_and(|link| head.open <= link.open)
        {
            return false;
        }
        self.close(head.gateway);
        if self.links.len() >= self.limit {
            return false;
        }
        let link = Link {
            open: head.open,
            live: false,
            up_number: 0,
            down_number: 0,
            up_to: Offset::ZERO,
            channels: HashSet::new(),
            heard: now,
            sent: now,
            delivering: Vec::new(),
            items: Vec::new(),
        };
        self.links.insert(head.gateway, link);
        true
    }

    fn close(&mut self, gateway: Incarnation) {
        let Some(link) = self.links.remove(&gateway) else {
            return;
        };
        for channel in &link.channels {
            forget(&mut self.interest, channel, gateway);
        }
    }

    /// The channel set is complete; everything behind `position` will be delivered.
    pub(crate) fn opened(&mut self, gateway: Incarnation, position: Offset) {
        let log_epoch = self.is.log_epoch.to_string();
        let Some(link) = self.links.get_mut(&gateway) else {
            return;
        };
        link.live = true;
        link.up_to = position;
        self.push(
            gateway,
            down_item::Item::Opened(Opened {
                log_epoch,
                position: position.get(),
            }),
        );
    }

    pub(crate) fn add_interest(&mut self, gateway: Incarnation, channel: &str) {
        let Some(link) = self.links.get_mut(&gateway) else {
            return;
        };
        let channel: Arc<str> = match self.interest.get_key_value(channel) {
            Some((known, _)) => Arc::clone(known),
            None => channel.into(),
        };
        if link.channels.insert(Arc::clone(&channel)) {
            self.interest.entry(channel).or_default().push(gateway);
        }
    }

    pub(crate) fn remove_interest(&mut self, gateway: Incarnation, channel: &str) {
        let Some(link) = self.links.get_mut(&gateway) else {
            return;
        };
        if link.channels.remove(channel) {
            forget(&mut self.interest, channel, gateway);
        }
    }

    /// Interest of frames up to `up_number` is in force from `position` on.
    pub(crate) fn applied(&mut self, gateway: Incarnation, up_number: u64, position: Offset) {
        if !self.links.get(&gateway).is_some_and(|link| link.live) {
            return;
        }
        // The subscriber starts at the gateway's position, which therefore has to be ours first:
        // else it would lack what was stored in between, before there was interest.
        self.catch_up(gateway, position);
        self.push(gateway, down_item::Item::Applied(Applied { up_number }));
    }

    /// Delivers a settled batch to whoever is interested; `position` is its end.
    pub(crate) fn deliver<'a>(
        &mut self,
        batch: impl Iterator<Item = (Offset, &'a str, &'a Bytes)>,
        position: Offset,
    ) {
        let mut receivers = Vec::new();
        for (offset, channel, message) in batch {
            for gateway in self.interest.get(channel).into_iter().flatten() {
                let Some(link) = self.links.get_mut(gateway).filter(|link| link.live) else {
                    continue;
                };
                if link.delivering.is_empty() {
                    receivers.push(*gateway);
                }
                link.delivering.push(Delivered {
                    offset: offset.get(),
                    message: message.clone(),
                });
            }
        }
        for gateway in receivers {
            let Some(link) = self.links.get_mut(&gateway) else {
                continue;
            };
            let messages = std::mem::take(&mut link.delivering);
            let after = std::mem::replace(&mut link.up_to, position);
            let delivery = Delivery {
                after: after.get(),
                up_to: position.get(),
                messages,
            };
            self.push(gateway, down_item::Item::Delivery(delivery));
        }
    }

    /// "Nothing for you up to here."
    fn catch_up(&mut self, gateway: Incarnation, position: Offset) {
        let Some(link) = self.links.get_mut(&gateway).filter(|link| link.up_to < position) else {
            return;
        };
        let after = std::mem::replace(&mut link.up_to, position);
        let delivery = Delivery {
            after: after.get(),
            up_to: position.get(),
            messages: Vec::new(),
        };
        self.push(gateway, down_item::Item::Delivery(delivery));
    }

    /// Sends `item` with the next flush, if the gateway still has the opening it is meant for.
    pub(crate) fn push_to(&mut self, gateway: Incarnation, open: u64, item: down_item::Item) {
        if self.links.get(&gateway).is_some_and(|link| link.open == open) {
            self.push(gateway, item);
        }
    }

    fn push(&mut self, gateway: Incarnation, item: down_item::Item) {
        let Some(link) = self.links.get_mut(&gateway) else {
            return;
        };
        if link.items.is_empty() {
            self.unflushed.push(gateway);
        }
        link.items.push(DownItem { item: Some(item) });
    }

    /// A frame for each link that has something, and more where one would grow too large.
    pub(crate) fn flush(&mut self, now: Duration, mut send: impl FnMut(Incarnation, Down)) {
        for gateway in self.unflushed.drain(..) {
            let Some(link) = self.links.get_mut(&gateway).filter(|link| !link.items.is_empty()) else {
                continue;
            };
            link.sent = now;
            let mut items = std::mem::take(&mut link.items).into_iter().peekable();
            while items.peek().is_some() {
                link.down_number += 1;
                let mut bytes = 0;
                let mut frame = Down {
                    shard: u32::from(self.is.shard.get()),
                    ordinal: self.is.log_epoch.ordinal,
                    owner_epoch: self.is.owner_epoch.0,
                    open: link.open,
                    number: link.down_number,
                    items: Vec::new(),
                };
                // A delivery is one item, and as large as its batch; what is small is gathered.
                while let Some(item) = items.next_if(|item| bytes == 0 || bytes + item.encoded_len() <= FRAME)
                {
                    bytes += item.encoded_len().max(1);
                    frame.items.push(item);
                }
                send(gateway, frame);
            }
        }
    }

    /// Beats to links that were sent nothing for `beat`; the end of links silent for `silence`.
    pub(crate) fn tick(&mut self, now: Duration, beat: Duration, silence: Duration, position: Offset) {
        let since = |then: Duration| now.saturating_sub(then);
        let silent: Vec<Incarnation> = self
            .links
            .iter()
            .filter(|(_, link)| since(link.heard) >= silence)
            .map(|(gateway, _)| *gateway)
            .collect();
        for gateway in silent {
            self.close(gateway);
        }
        let quiet: Vec<Incarnation> = self
            .links
            .iter()
            .filter(|(_, link)| link.live && link.items.is_empty() && since(link.sent) >= beat)
            .map(|(gateway, _)| *gateway)
            .collect();
        for gateway in quiet {
            self.catch_up(gateway, position);
            self.push(gateway, down_item::Item::Beat(DownBeat {}));
        }
    }
}

fn forget(interest: &mut HashMap<Arc<str>, Vec<Incarnation>>, channel: &str, gateway: Incarnation) {
    if let Some(gateways) = interest.get_mut(channel) {
        gateways.retain(|other| *other != gateway);
        if gateways.is_empty() {
            interest.remove(channel);
        }
    }
}
