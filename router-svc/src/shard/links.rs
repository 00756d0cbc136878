//! The links of one owner: which gateway is linked, what it is interested in, how far it was given
//! everything, and the numbered frames on their way to it. No I/O and no clock.
//!
//! A link that shows a gap is not repaired here: nothing of it is answered any more, the gateway
//! is told and opens anew (K1).
//!
//! Invariants, tested in `owner/tests`:
//! * A link is given every message behind its position, of the channels it is interested in, in order,
//!   or is reset.
//! * A gateway that does not confirm is held back beyond its credit, and no other with it (K6).

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use switchboard_proto::bus::{
    Delivered, Delivery, Down, DownBeat, DownItem, Ephemeral, InForce, Opened, Reset, SendChannels, Wait,
    down_item,
};
use switchboard_proto::channel::ChannelSet;
use switchboard_proto::ids::{Incarnation, Offset};

use super::owner::Ownership;
use super::window::Window;
use crate::maps::{HashMap, HashSet};
use crate::rules::{Rule, is_kept};

/// Bytes of the items of one frame, about; a single larger item makes a frame of its own.
pub(crate) const FRAME: usize = 256 * 1024;

/// What a link keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkLimits {
    /// Gateways linked at once; a further one is not answered until another's link ends.
    pub(crate) links: usize,
    /// Openings whose channels are being sent at once; the others wait their turn (K3).
    pub(crate) openings: usize,
    /// A gateway that is silent this long has no link any more.
    pub(crate) silence: Duration,
    /// Without another frame, a link is sent a beat this often.
    pub(crate) beat: Duration,
}

/// Which frame this is, from its head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameHead {
    pub(crate) gateway: Incarnation,
    pub(crate) open: u64,
    pub(crate) number: u64,
    /// The first item is an `Open`.
    pub(crate) opens: bool,
    pub(crate) confirmed: Offset,
}

/// What an `Open` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    /// The gateway has everything up to here for the channels it holds; `None`: it starts anew.
    pub(crate) position: Option<Offset>,
    pub(crate) set: ChannelSet,
    /// Bytes that it takes unconfirmed.
    pub(crate) credit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Others are being served first.
    Queued,
    /// The gateway sends its channels.
    Listing,
    /// Deliveries go out.
    Live,
}

struct Link {
    open: u64,
    phase: Phase,
    opening: Opening,
    up_number: u64,
    down_number: u64,
    /// Up to where the gateway was told that it has everything.
    up_to: Offset,
    /// `Some`: it was given everything up to here, and what follows waits until it confirms. `None`: it
    /// was given everything there is.
    lagging: Option<Offset>,
    /// Deliveries that are not confirmed: where each ends, and its bytes.
    unconfirmed: VecDeque<(Offset, usize)>,
    unconfirmed_bytes: usize,
    channels: HashSet<Arc<str>>,
    set: ChannelSet,
    /// Channels that were asked for since the last `InForce`, with the number of the frame that did.
    asked: Vec<(u64, Arc<str>)>,
    heard: Duration,
    sent: Duration,
    /// Messages of the batch that is being delivered.
    delivering: Vec<Delivered>,
    /// Items for the next flush.
    items: Vec<DownItem>,
}

impl Link {
    fn has_credit(&self) -> bool {
        self.unconfirmed_bytes < self.opening.credit || self.unconfirmed.is_empty()
    }

    fn confirm(&mut self, confirmed: Offset) {
        while let Some((_, bytes)) = self.unconfirmed.pop_front_if(|(up_to, _)| *up_to <= confirmed) {
            self.unconfirmed_bytes -= bytes;
        }
    }
}

/// See the module.
pub(crate) struct Links {
    is: Ownership,
    limits: LinkLimits,
    links: HashMap<Incarnation, Link>,
    interest: HashMap<Arc<str>, Vec<Incarnation>>,
    /// Links with items for the next flush.
    unflushed: Vec<Incarnation>,
    /// Links that lag behind.
    lagging: HashSet<Incarnation>,
    /// Openings that wait their turn.
    queued: VecDeque<Incarnation>,
    listing: usize,
    resets: u64,
}

impl Links {
    pub(crate) fn new(is: Ownership, limits: LinkLimits) -> Self {
        Self {
            is,
            limits,
            links: HashMap::default(),
            interest: HashMap::default(),
            unflushed: Vec::new(),
            lagging: HashSet::default(),
            queued: VecDeque::new(),
            listing: 0,
            resets: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }

    /// Channels that some gateway is interested in.
    pub(crate) fn channel_count(&self) -> usize {
        self.interest.len()
    }

    /// Links that wait for their gateway to confirm, for metrics.
    pub(crate) fn lagging_count(&self) -> usize {
        self.lagging.len()
    }

    /// Links that the owner ended, for metrics.
    pub(crate) fn resets(&self) -> u64 {
        self.resets
    }

    /// Whether the gateway still has this opening.
    pub(crate) fn has(&self, gateway: Incarnation, open: u64) -> bool {
        self.links.get(&gateway).is_some_and(|link| link.open == open)
    }

    /// Whether a frame continues its link, or begins a newer opening. What does not is dropped.
    pub(crate) fn accept(&mut self, head: FrameHead, now: Duration) -> bool {
        let link = self.links.get_mut(&head.gateway);
        if head.opens && head.number == 1 {
            return match link {
                Some(link) => head.open > link.open,
                None => self.links.len() < self.limits.links,
            };
        }
        let Some(link) = link.filter(|link| head.open == link.open && head.number > link.up_number) else {
            return false;
        };
        if head.number != link.up_number + 1 && is_kept(Rule::K1) {
            // The gateway hears our beats, so it would notice nothing before this link has fallen silent.
            self.reset(head.gateway);
            return false;
        }
        link.up_number = head.number;
        link.heard = now;
        link.confirm(head.confirmed);
        true
    }

    /// Begins the opening of an accepted frame. Where the channel set is known it is live at once.
    pub(crate) fn open(
        &mut self,
        head: FrameHead,
        opening: Opening,
        window: &Window,
        position: Offset,
        now: Duration,
    ) {
        let (channels, set) = match self.take(head.gateway) {
            Some(old) if old.set == opening.set && old.phase == Phase::Live => (old.channels, old.set),
            Some(old) => {
                self.forget_interest(head.gateway, &old.channels);
                (HashSet::default(), ChannelSet::default())
            }
            None => (HashSet::default(), ChannelSet::default()),
        };
        let is_held = set == opening.set;
        let link = Link {
            open: head.open,
            phase: Phase::Queued,
            opening,
            up_number: head.number,
            down_number: 0,
            up_to: Offset::ZERO,
            lagging: None,
            unconfirmed: VecDeque::new(),
            unconfirmed_bytes: 0,
            channels,
            set,
            asked: Vec::new(),
            heard: now,
            sent: now,
            delivering: Vec::new(),
            items: Vec::new(),
        };
        self.links.insert(head.gateway, link);
        if is_held {
            self.live(head.gateway, window, position);
        } else {
            self.queued.push_back(head.gateway);
            self.admit();
            if self
                .links
                .get(&head.gateway)
                .is_some_and(|link| link.phase == Phase::Queued)
            {
                self.push(head.gateway, down_item::Item::Wait(Wait {}));
            }
        }
    }

    /// Lets waiting openings send their channels, as many at once as the limit says (K3).
    fn admit(&mut self) {
        while self.listing < self.limits.openings
            && let Some(gateway) = self.queued.pop_front()
        {
            let Some(link) = self.links.get_mut(&gateway) else {
                continue;
            };
            if link.phase == Phase::Queued {
                link.phase = Phase::Listing;
                self.listing += 1;
                self.push(gateway, down_item::Item::SendChannels(SendChannels {}));
            }
        }
    }

    /// The gateway's channels arrive: it is told that they do.
    pub(crate) fn listed(&mut self, gateway: Incarnation) {
        if self
            .links
            .get(&gateway)
            .is_some_and(|link| link.phase == Phase::Listing)
        {
            self.push(gateway, down_item::Item::Wait(Wait {}));
        }
    }

    /// The channel set is complete. One that is not what was announced opens anew.
    pub(crate) fn open_end(&mut self, gateway: Incarnation, window: &Window, position: Offset) {
        let Some(link) = self
            .links
            .get(&gateway)
            .filter(|link| link.phase == Phase::Listing)
        else {
            return;
        };
        if link.set == link.opening.set {
            self.live(gateway, window, position);
        } else {
            self.reset(gateway);
        }
    }

    /// Deliveries begin: behind the gateway's position, or where that is before the window, here.
    fn live(&mut self, gateway: Incarnation, window: &Window, position: Offset) {
        let log_epoch = self.is.log_epoch.to_string();
        let Some(link) = self.links.get_mut(&gateway) else {
            return;
        };
        let start = match link.opening.position {
            Some(held) if held >= window.start() => held.min(position),
            Some(_) | None => position,
        };
        if link.phase == Phase::Listing {
            self.listing -= 1;
        }
        link.phase = Phase::Live;
        link.up_to = start;
        if start < position {
            link.lagging = Some(start);
            self.lagging.insert(gateway);
        }
        self.push(
            gateway,
            down_item::Item::Opened(Opened {
                log_epoch,
                position: start.get(),
            }),
        );
        self.admit();
    }

    /// Takes a link away; its interest stays entered.
    fn take(&mut self, gateway: Incarnation) -> Option<Link> {
        let link = self.links.remove(&gateway)?;
        self.lagging.remove(&gateway);
        match link.phase {
            Phase::Queued => self.queued.retain(|other| *other != gateway),
            Phase::Listing => self.listing -= 1,
            Phase::Live => {}
        }
        Some(link)
    }

    fn close(&mut self, gateway: Incarnation) {
        if let Some(link) = self.take(gateway) {
            self.forget_interest(gateway, &link.channels);
            self.admit();
        }
    }

    /// Ends a link that cannot go on: the gateway is told, and opens anew.
    fn reset(&mut self, gateway: Incarnation) {
        self.resets += 1;
        self.push(gateway, down_item::Item::Reset(Reset {}));
        if let Some(link) = self.links.get_mut(&gateway) {
            // The next flush still sends what is queued; no later frame of this opening fits.
            link.up_number = u64::MAX - 1;
            link.channels.iter().for_each(|channel| {
                forget(&mut self.interest, channel, gateway);
            });
            link.channels.clear();
            link.set = ChannelSet::default();
            link.lagging = None;
            self.lagging.remove(&gateway);
        }
    }

    fn forget_interest(&mut self, gateway: Incarnation, channels: &HashSet<Arc<str>>) {
        for channel in channels {
            forget(&mut self.interest, channel, gateway);
        }
    }

    pub(crate) fn add_interest(&mut self, gateway: Incarnation, channel: &str, window: &Window) {
        let Some(link) = self.links.get_mut(&gateway) else {
            return;
        };
        let channel: Arc<str> = match self.interest.get_key_value(channel) {
            Some((known, _)) => Arc::clone(known),
            None => window.name(channel).unwrap_or_else(|| channel.into()),
        };
        link.asked.push((link.up_number, Arc::clone(&channel)));
        if link.channels.insert(Arc::clone(&channel)) {
            link.set.insert(&channel);
            match self.interest.entry(channel) {
                Entry::Occupied(mut interested) => interested.get_mut().push(gateway),
                // Most channels have one, for which `push` would make room for four.
                Entry::Vacant(nobody) => drop(nobody.insert(vec![gateway])),
            }
        }
    }

    pub(crate) fn remove_interest(&mut self, gateway: Incarnation, channel: &str) {
        let Some(link) = self.links.get_mut(&gateway) else {
            return;
        };
        if link.channels.remove(channel) {
            link.set.remove(channel);
            forget(&mut self.interest, channel, gateway);
        }
    }

    /// The gateway says what it holds; a link that holds something else is reset (K5).
    pub(crate) fn compare(&mut self, gateway: Incarnation, set: ChannelSet) {
        let differs = self
            .links
            .get(&gateway)
            .is_some_and(|link| link.phase == Phase::Live && link.set != set);
        if differs {
            self.reset(gateway);
        }
    }

    /// Interest of frames up to `up_number` is in force from the link's position on.
    pub(crate) fn in_force(
        &mut self,
        gateway: Incarnation,
        up_number: u64,
        window: &Window,
        position: Offset,
    ) {
        let Some(link) = self
            .links
            .get_mut(&gateway)
            .filter(|link| link.phase == Phase::Live)
        else {
            return;
        };
        // As of now: while the list came, more may have been stored. One for each frame that asked, since all of a
        // long list would be larger than what the bus takes.
        let mut answers: Vec<InForce> = Vec::new();
        for (number, channel) in std::mem::take(&mut link.asked) {
            let head = window.head(&channel).get();
            match answers.last_mut() {
                Some(last) if last.up_number == number => last.heads.push(head),
                Some(_) | None => answers.push(InForce {
                    up_number: number,
                    heads: vec![head],
                }),
            }
        }
        if answers.last().is_none_or(|last| last.up_number < up_number) {
            answers.push(InForce {
                up_number,
                heads: Vec::new(),
            });
        }
        // The subscriber starts at the gateway's position, which therefore has to be ours first: else it
        // would lack what was stored in between, before there was interest. What a lagging link is
        // still to be given includes the new channels.
        let given = link.lagging.unwrap_or(position);
        self.catch_up(gateway, given);
        for answer in answers {
            self.push(gateway, down_item::Item::InForce(answer));
        }
    }

    /// Delivers a settled batch to whoever is interested. It follows `previous`; `position` is its end.
    pub(crate) fn deliver<'a>(
        &mut self,
        batch: impl Iterator<Item = (Offset, &'a str, &'a Bytes)>,
        previous: Offset,
        position: Offset,
    ) {
        let mut receivers = Vec::new();
        for (offset, channel, message) in batch {
            for gateway in self.interest.get(channel).into_iter().flatten() {
                let Some(link) = self
                    .links
                    .get_mut(gateway)
                    .filter(|link| link.phase == Phase::Live && link.lagging.is_none())
                else {
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
            if link.has_credit() {
                self.send_messages(gateway, messages, position);
            } else {
                link.lagging = Some(previous);
                self.lagging.insert(gateway);
            }
        }
    }

    /// Messages that are not stored go to whoever is interested and has credit.
    pub(crate) fn deliver_ephemeral(&mut self, channel: &str, message: &Bytes) {
        let receivers: Vec<Incarnation> = self
            .interest
            .get(channel)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for gateway in receivers {
            if self
                .links
                .get(&gateway)
                .is_some_and(|link| link.phase == Phase::Live && link.has_credit())
            {
                let message = message.clone();
                self.push(gateway, down_item::Item::Ephemeral(Ephemeral { message }));
            }
        }
    }

    fn send_messages(&mut self, gateway: Incarnation, messages: Vec<Delivered>, up_to: Offset) {
        let Some(link) = self.links.get_mut(&gateway) else {
            return;
        };
        let bytes: usize = messages.iter().map(|message| message.message.len() + 16).sum();
        let after = std::mem::replace(&mut link.up_to, up_to);
        link.unconfirmed.push_back((up_to, bytes));
        link.unconfirmed_bytes += bytes;
        let delivery = Delivery {
            after: after.get(),
            up_to: up_to.get(),
            messages,
        };
        self.push(gateway, down_item::Item::Delivery(delivery));
    }

    /// Gives lagging links what they have credit for, out of the window.
    pub(crate) fn pump(&mut self, window: &Window, position: Offset) {
        let ready: Vec<Incarnation> = self
            .lagging
            .iter()
            .filter(|gateway| self.links.get(gateway).is_some_and(Link::has_credit))
            .copied()
            .collect();
        for gateway in ready {
            while self.pump_one(gateway, window, position) {}
        }
    }

    /// One delivery to a lagging link. `true`: it has credit for more.
    fn pump_one(&mut self, gateway: Incarnation, window: &Window, position: Offset) -> bool {
        let Some(link) = self.links.get_mut(&gateway) else {
            return false;
        };
        let Some(from) = link.lagging else { return false };
        if from < window.start() {
            // What it lacks left the window: its opening tells it so (R8).
            self.reset(gateway);
            return false;
        }
        let mut messages = Vec::new();
        let mut bytes = 0;
        let mut up_to = position;
        let mut is_all = true;
        for (offset, kept) in window.since(from) {
            if !link.channels.contains(&kept.channel) {
                continue;
            }
            if bytes + kept.message.len() > FRAME && !messages.is_empty() {
                is_all = false;
                break;
            }
            bytes += kept.message.len();
            up_to = offset;
            messages.push(Delivered {
                offset: offset.get(),
                message: kept.message.clone(),
            });
        }
        if is_all {
            up_to = position;
            link.lagging = None;
            self.lagging.remove(&gateway);
        } else {
            link.lagging = Some(up_to);
        }
        if messages.is_empty() {
            self.catch_up(gateway, up_to);
        } else {
            self.send_messages(gateway, messages, up_to);
        }
        !is_all && self.links.get(&gateway).is_some_and(Link::has_credit)
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
        if self.has(gateway, open) {
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

    /// Beats to links that were sent nothing lately; the end of silent ones.
    pub(crate) fn tick(&mut self, now: Duration, position: Offset) {
        let since = |then: Duration| now.saturating_sub(then);
        let silent: Vec<Incarnation> = self
            .links
            .iter()
            .filter(|(_, link)| {
                // One that stalls in the middle must not keep the others waiting.
                let patience = match link.phase {
                    Phase::Listing => self.limits.silence / 4,
                    Phase::Queued | Phase::Live => self.limits.silence,
                };
                since(link.heard) >= patience
            })
            .map(|(gateway, _)| *gateway)
            .collect();
        for gateway in silent {
            self.close(gateway);
        }
        let quiet: Vec<(Incarnation, Phase)> = self
            .links
            .iter()
            .filter(|(_, link)| {
                // A gateway that waits for its turn gives up after the time of a beat.
                let beat = match link.phase {
                    Phase::Queued => self.limits.beat / 2,
                    Phase::Listing | Phase::Live => self.limits.beat,
                };
                link.items.is_empty() && since(link.sent) >= beat
            })
            .map(|(gateway, link)| (*gateway, link.phase))
            .collect();
        for (gateway, phase) in quiet {
            match phase {
                Phase::Queued => self.push(gateway, down_item::Item::Wait(Wait {})),
                Phase::Listing => {}
                Phase::Live => {
                    let given = self.links.get(&gateway).and_then(|link| link.lagging);
                    self.catch_up(gateway, given.unwrap_or(position));
                    self.push(gateway, down_item::Item::Beat(DownBeat {}));
                }
            }
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
