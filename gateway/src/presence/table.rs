//! What there is to report: every session, who of them is in which channel, and which of it the presence service does not know yet.
//! No I/O.
//!
//! A report is made of what is there when it is made, so that whatever happened twice since the last one is told once, and
//! a report that failed is simply made again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use indexmap::IndexMap;
use prost::Message as _;
use switchboard_proto::channel::ChannelName;
use switchboard_proto::presence::{
    ChannelMember, Device, ReportRequest, ReportedChannel, ReportedSession, ReportedUser,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::Joining;
use crate::session::SessionHandle;

/// Bytes of what ended, and what stands around each entry.
const ENDED: usize = 64;

/// See the module. Holds no more than the sessions and their subscriptions are; of those that ended what was not reported yet, up to
/// [`MAX_UNREPORTED`].
#[derive(Default)]
pub(super) struct Table {
    /// In an order in which looking for activity can go on.
    sessions: IndexMap<Uuid, Session>,
    looking: Looking,
    channels: HashMap<ChannelName, HashMap<Uuid, Local>>,
    touched: HashMap<Box<str>, HashSet<Uuid>>,
    touched_channels: HashMap<ChannelName, HashSet<Uuid>>,
    /// Entries of both.
    unreported: usize,
}

/// How long looking for activity in all sessions takes, at most. In one go it would hold up, for milliseconds, whoever comes or goes.
const LOOK: Duration = Duration::from_secs(5);

/// Where looking for activity goes on, and since when it waits there.
#[derive(Default)]
struct Looking {
    next: usize,
    since: Option<Instant>,
}

/// What is not reported, beyond which it is forgotten: then everything is reported anew.
const MAX_UNREPORTED: usize = 200_000;

struct Session {
    handle: Arc<SessionHandle>,
    device: Option<Box<Device>>,
    since: Instant,
    /// The activity that was reported.
    reported: Instant,
    channels: BTreeSet<ChannelName>,
}

struct Local {
    joining: Joining,
    member: ChannelMember,
}

/// What is to be reported, and how it is made again.
pub(super) struct Taken {
    users: Vec<(Box<str>, Vec<Uuid>)>,
    channels: Vec<(ChannelName, Vec<Uuid>)>,
}

impl Table {
    pub(super) fn enter(&mut self, handle: &Arc<SessionHandle>, device: Device) {
        let now = Instant::now();
        let session = Session {
            handle: Arc::clone(handle),
            device: (device != Device::default()).then(|| Box::new(device)),
            since: now,
            reported: now,
            channels: BTreeSet::new(),
        };
        self.sessions.insert(handle.client(), session);
        self.touch(handle.user(), handle.client());
    }

    pub(super) fn set_device(&mut self, client: Uuid, device: Device) -> bool {
        let Some(session) = self.sessions.get_mut(&client) else {
            return false;
        };
        session.device = Some(Box::new(device));
        let handle = Arc::clone(&session.handle);
        self.touch(handle.user(), client);
        true
    }

    pub(super) fn leave(&mut self, client: Uuid) {
        let Some(session) = self.sessions.swap_remove(&client) else {
            return;
        };
        for channel in &session.channels {
            self.forget(client, channel);
        }
        self.touch(session.handle.user(), client);
        // A crowd's memory is not kept after it.
        if self.sessions.capacity() > 1024 && self.sessions.len() < self.sessions.capacity() / 8 {
            self.sessions.shrink_to(self.sessions.len() * 2);
        }
    }

    /// `true`: there is something to report.
    pub(super) fn joined(
        &mut self,
        client: Uuid,
        channel: &ChannelName,
        joining: Joining,
        mut member: ChannelMember,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(&client) else {
            return false;
        };
        session.channels.insert(channel.clone());
        session.handle.user().clone_into(&mut member.user);
        let locals = self.channels.entry(channel.clone()).or_default();
        locals.insert(client, Local { joining, member });
        if joining.is_seen {
            self.touch_channel(channel, client);
        }
        joining.is_seen
    }

    /// `true`: there is something to report.
    pub(super) fn left(&mut self, client: Uuid, channel: &str) -> bool {
        let session = self.sessions.get_mut(&client);
        let Some(channel) = session.and_then(|session| session.channels.take(channel)) else {
            return false;
        };
        self.forget(client, &channel)
    }

    fn forget(&mut self, client: Uuid, channel: &ChannelName) -> bool {
        let Some(locals) = self.channels.get_mut(channel) else {
            return false;
        };
        let was_seen = locals.remove(&client).is_some_and(|local| local.joining.is_seen);
        if locals.is_empty() {
            self.channels.remove(channel);
        }
        if was_seen {
            self.touch_channel(channel, client);
        }
        was_seen
    }

    fn touch(&mut self, user: &str, client: Uuid) {
        // Anonymous sessions are nobody's.
        if user.is_empty() {
            return;
        }
        let is_new = match self.touched.get_mut(user) {
            Some(clients) => clients.insert(client),
            None => {
                self.touched.insert(user.into(), HashSet::from([client]));
                true
            }
        };
        self.unreported += usize::from(is_new);
    }

    fn touch_channel(&mut self, channel: &ChannelName, client: Uuid) {
        let clients = self.touched_channels.entry(channel.clone()).or_default();
        self.unreported += usize::from(clients.insert(client));
    }

    /// Touches sessions that were active since, if their activity was reported `interval` ago. Looks at a part of all sessions that grows with
    /// the time since the last call: at all of them within a quarter of the interval, and within 5 s.
    pub(super) fn touch_active(&mut self, interval: Duration) {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.looking.since.replace(now).unwrap_or(now));
        let round = LOOK.min(interval / 4).as_micros().max(1);
        let count = self.sessions.len();
        let part = (count as u128 * passed.as_micros()).div_ceil(round);
        let looked = usize::try_from(part).unwrap_or(count).min(count);
        let mut active = Vec::new();
        for _ in 0..looked {
            let next = self.looking.next % count;
            self.looking.next = next + 1;
            if let Some((_, session)) = self.sessions.get_index(next)
                && session.handle.last_active() >= session.reported + interval
            {
                active.push(Arc::clone(&session.handle));
            }
        }
        for session in active {
            self.touch(session.user(), session.client());
        }
    }

    /// Everything that is there is to be reported, and nothing else.
    pub(super) fn touch_all(&mut self) {
        self.forget_unreported();
        let sessions: Vec<Arc<SessionHandle>> = (self.sessions.values())
            .map(|session| Arc::clone(&session.handle))
            .collect();
        for session in sessions {
            self.touch(session.user(), session.client());
        }
        let members: Vec<(ChannelName, Uuid)> = (self.channels.iter())
            .flat_map(|(channel, locals)| {
                let seen = locals.iter().filter(|(_, local)| local.joining.is_seen);
                seen.map(|(client, _)| (channel.clone(), *client))
            })
            .collect();
        for (channel, client) in members {
            self.touch_channel(&channel, client);
        }
    }

    fn forget_unreported(&mut self) {
        self.touched = HashMap::new();
        self.touched_channels = HashMap::new();
        self.unreported = 0;
    }

    /// So much is not reported that it is quicker to begin anew. What ended is forgotten then.
    pub(super) fn gives_up(&mut self) -> bool {
        let gives_up = self.unreported > MAX_UNREPORTED;
        if gives_up {
            self.forget_unreported();
        }
        gives_up
    }

    /// Whether there is something to report.
    pub(super) fn has_more(&self) -> bool {
        self.unreported > 0
    }

    /// Fills a report with some of what is not reported: about `entries`, and `bytes` at most but for the first of them.
    pub(super) fn take(&mut self, report: &mut ReportRequest, entries: usize, bytes: usize) -> Taken {
        let mut taken = Taken {
            users: Vec::new(),
            channels: Vec::new(),
        };
        let mut room = Room { entries, bytes };
        let now = Instant::now();
        while !room.is_full()
            && let Some(user) = self.touched.keys().next().cloned()
        {
            let mut reported = ReportedUser {
                user: String::from(&*user),
                ..ReportedUser::default()
            };
            let clients: Vec<Uuid> = self.touched.remove(&user).into_iter().flatten().collect();
            self.unreported -= clients.len();
            let mut of_this = Vec::new();
            for client in clients {
                if room.is_full() {
                    self.touch(&user, client);
                    continue;
                }
                match self.sessions.get_mut(&client) {
                    Some(session) => {
                        let session = session.reported(client, now);
                        room.take(session.encoded_len());
                        reported.sessions.push(session);
                    }
                    None => {
                        room.take(ENDED);
                        reported.ended.push(id(client));
                    }
                }
                of_this.push(client);
            }
            report.users.push(reported);
            taken.users.push((user, of_this));
        }
        while !room.is_full()
            && let Some(channel) = self.touched_channels.keys().next().cloned()
        {
            let mut reported = ReportedChannel {
                channel: channel.as_str().to_owned(),
                ..ReportedChannel::default()
            };
            let clients: Vec<Uuid> = (self.touched_channels.remove(&channel).into_iter())
                .flatten()
                .collect();
            self.unreported -= clients.len();
            let mut of_this = Vec::new();
            for client in clients {
                if room.is_full() {
                    self.touch_channel(&channel, client);
                    continue;
                }
                let locals = self.channels.get(&channel);
                match locals.and_then(|locals| locals.get(&client)) {
                    Some(local) if local.joining.is_seen => {
                        room.take(local.member.encoded_len());
                        reported.joined.push(local.member.clone());
                    }
                    _ => {
                        room.take(ENDED);
                        reported.left.push(id(client));
                    }
                }
                of_this.push(client);
            }
            report.channels.push(reported);
            taken.channels.push((channel, of_this));
        }
        taken
    }

    /// What was taken was not reported, or it is not known.
    pub(super) fn failed(&mut self, taken: &Taken) {
        for (user, clients) in &taken.users {
            for client in clients {
                self.touch(user, *client);
            }
        }
        for (channel, clients) in &taken.channels {
            for client in clients {
                self.touch_channel(channel, *client);
            }
        }
    }

    /// Sessions of this gateway that are told of joins and leaves in a channel.
    pub(super) fn told_of(&self, channel: &str) -> Vec<Arc<SessionHandle>> {
        let locals = self.channels.get(channel).into_iter().flatten();
        locals
            .filter(|(_, local)| local.joining.is_told)
            .filter_map(|(client, _)| self.sessions.get(client))
            .map(|session| Arc::clone(&session.handle))
            .collect()
    }
}

/// What a report has room for.
struct Room {
    entries: usize,
    bytes: usize,
}

impl Room {
    fn is_full(&self) -> bool {
        self.entries == 0 || self.bytes == 0
    }

    fn take(&mut self, bytes: usize) {
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes + ENDED);
    }
}

impl Session {
    fn reported(&mut self, client: Uuid, now: Instant) -> ReportedSession {
        let active = self.handle.last_active().max(self.since);
        self.reported = active;
        ReportedSession {
            client: id(client),
            since_ago_ms: millis(now.saturating_duration_since(self.since)),
            active_ago_ms: millis(now.saturating_duration_since(active)),
            device: self.device.as_deref().cloned(),
        }
    }
}

fn id(client: Uuid) -> Bytes {
    Bytes::copy_from_slice(client.as_bytes())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
