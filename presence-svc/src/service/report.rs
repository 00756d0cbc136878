//! What gateways report: sessions, and who is in channels.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use switchboard_bus::messages::AskError;
use switchboard_proto::ids::Incarnation;
use switchboard_proto::presence::{
    ChannelMember, MAX_DEVICE_TEXT, MAX_USER, ReportRequest, ReportResponse, ReportedChannel,
    ReportedSession, ReportedUser,
};
use switchboard_proto::{channel, format};

use super::{Service, fault};
use crate::store::{Member, Moves, Partition, Stamp, StoreError};
use crate::user::{Lease, User};

/// Channels whose joins and leaves are written at the same time.
const AT_ONCE: usize = 64;

/// Entries of one report, at most: users, sessions, channels and connections in them.
const MAX_REPORTED: usize = 20_000;

/// Bytes of a connection's id.
const CLIENT: usize = 16;

impl Service {
    /// Takes a gateway's report.
    ///
    /// # Errors
    /// [`AskError`]: some of it may be applied. The gateway repeats it.
    pub async fn report(&self, request: ReportRequest) -> Result<ReportResponse, AskError> {
        check(&request)?;
        let gateway = Incarnation::try_from(request.gateway.as_ref())
            .map_err(|error| AskError::Invalid(format!("gateway: {error}")))?;
        let stamp = Stamp {
            lease: Lease {
                gateway,
                number: request.lease,
            },
            report: request.number,
        };
        let answer = self.apply_report(stamp, &request).await;
        let held = answer.map_err(|error| fault(&error))?;
        self.metrics.reports.inc();
        if request.begins {
            self.metrics.resyncs.inc();
        }
        Ok(ReportResponse { held })
    }

    async fn apply_report(&self, stamp: Stamp, request: &ReportRequest) -> Result<bool, StoreError> {
        if request.ends {
            let releases = Partition::all().map(|partition| self.store.release(partition, stamp));
            futures_util::future::try_join_all(releases).await?;
            return Ok(true);
        }
        let holds = Partition::all().map(|partition| {
            self.store
                .hold(partition, stamp, request.begins, self.settings.lease)
        });
        let holds = futures_util::future::join_all(holds).await;
        if holds.iter().any(|held| matches!(held, Ok(false))) {
            return Ok(false);
        }
        // A partition that cannot be reached holds up no other: its part is reported again, with all of the report.
        let mut reached = BTreeSet::new();
        let mut failed = None;
        for (partition, held) in Partition::all().zip(holds) {
            match held {
                Ok(_) => drop(reached.insert(partition)),
                Err(error) => failed = Some(error),
            }
        }
        let is_reached = |name: &str| reached.contains(&Partition::of(name));
        let mut users: BTreeMap<Partition, BTreeMap<&str, &ReportedUser>> = BTreeMap::new();
        for user in request.users.iter().filter(|user| is_reached(&user.user)) {
            let partition = users.entry(Partition::of(&user.user)).or_default();
            partition.insert(&user.user, user);
        }
        let users = users.into_iter().map(|(partition, reports)| async move {
            let names: Vec<(&str, Vec<Lease>)> = reports.keys().map(|name| (*name, Vec::new())).collect();
            let change = |name: &str, user: &mut User, now_ms| {
                if let Some(report) = reports.get(name) {
                    user.report(stamp.lease, report, now_ms, &self.settings.rules);
                }
            };
            self.change(partition, Some(stamp), names, &change).await
        });
        let held = futures_util::future::try_join_all(users).await?;
        if held.contains(&false) {
            return Ok(false);
        }
        let channels = (request.channels.iter()).filter(|channel| is_reached(&channel.channel));
        let moves: Vec<Moves> = channels.map(moves).collect();
        let held = stream::iter(moves)
            .map(|moves| async move {
                let moved = self.store.moves(stamp, &moves).await?;
                let is_held = moved.is_some();
                if let Some(moved) = moved {
                    self.telling.moved(moved, self.settings.told_to);
                }
                Ok(is_held)
            })
            .buffer_unordered(AT_ONCE)
            .try_fold(true, async |all, held| Ok(all && held))
            .await?;
        match failed {
            Some(error) if held => Err(error),
            _ => Ok(held),
        }
    }
}

fn moves(channel: &ReportedChannel) -> Moves {
    Moves {
        channel: channel.channel.clone(),
        joined: (channel.joined.iter())
            .map(|member| Member {
                client: member.client.clone(),
                user: member.user.clone(),
                value: format::encode(member),
            })
            .collect(),
        left: channel.left.clone(),
    }
}

/// Gateways send what this release's gateways send: the rest is somebody else's, or a fault.
fn check(request: &ReportRequest) -> Result<(), AskError> {
    let invalid = |words: String| Err(AskError::Invalid(words));
    if request.lease == 0
        || request.lease > i64::MAX.cast_unsigned()
        || request.number > i64::MAX.cast_unsigned()
    {
        return invalid("leases are counted from 1".to_owned());
    }
    let users = request
        .users
        .iter()
        .map(|user| 1 + user.sessions.len() + user.ended.len());
    let channels = (request.channels.iter()).map(|channel| 1 + channel.joined.len() + channel.left.len());
    let entries: usize = users.chain(channels).sum();
    if entries > MAX_REPORTED {
        return invalid(format!(
            "{entries} entries in one report, {MAX_REPORTED} are allowed"
        ));
    }
    let mut seen = BTreeSet::new();
    for user in &request.users {
        if user.user.is_empty() || user.user.len() > MAX_USER {
            return invalid(format!("a user's id has 1 to {MAX_USER} bytes"));
        }
        if !seen.insert(&user.user) {
            return invalid("a user stands twice in a report".to_owned());
        }
        let ids = user
            .sessions
            .iter()
            .map(|session| &session.client)
            .chain(&user.ended);
        if ids.into_iter().any(|id| id.len() != CLIENT) {
            return invalid(format!("a connection's id has {CLIENT} bytes"));
        }
        if !user.sessions.iter().all(is_fit) {
            return invalid(format!("a device's texts have {MAX_DEVICE_TEXT} bytes at most"));
        }
    }
    for channel in &request.channels {
        if channel.channel.is_empty() || channel.channel.len() > channel::MAX_CHANNEL_LENGTH {
            return invalid("a channel's name is empty or too long".to_owned());
        }
        let joined = |member: &ChannelMember| member.client.len() == CLIENT && member.user.len() <= MAX_USER;
        if !channel.joined.iter().all(joined) || channel.left.iter().any(|id| id.len() != CLIENT) {
            return invalid(format!(
                "a connection's id has {CLIENT} bytes, a user's {MAX_USER} at most"
            ));
        }
    }
    Ok(())
}

fn is_fit(session: &ReportedSession) -> bool {
    session.device.as_ref().is_none_or(|device| {
        [
            &device.r#type,
            &device.name,
            &device.platform,
            &device.app_version,
        ]
        .iter()
        .all(|text| text.len() <= MAX_DEVICE_TEXT)
    })
}
