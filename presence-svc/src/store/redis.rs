//! The store in Redis, alone or as a cluster: on the registry's link.
//!
//! All keys of a partition share a hash tag, so that a script may use them together. Everything is done by scripts, each
//! atomic, with Redis's own clock. `docs/presence.md` has the list of keys. Nothing here expires by itself: what a dead gateway left
//! is found by its lease, and who is forgotten by the time that she is due.

mod scripts;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::{FromRedisValue, ScriptInvocation};
use switchboard_proto::ids::Incarnation;
use switchboard_registry::redis::{Caller, Link};

use self::scripts::Scripts;
use super::{
    InChannel, Loaded, Look, MAX_BATCH, Moved, Moves, Partition, PresenceStore, REPORTED_ANEW, Saved, Stamp,
    StoreError, UNTOLD_AFTER, Versioned, Write, millis,
};
use crate::user::Lease;

/// See the module.
pub struct RedisStore {
    link: Link,
    prefix: String,
    scripts: Scripts,
}

impl RedisStore {
    /// A store behind a link. `prefix`: what all keys begin with.
    pub fn new(link: Link, prefix: &str) -> Self {
        Self {
            link,
            prefix: format!("{prefix}:pres"),
            scripts: Scripts::new(),
        }
    }

    fn key(&self, partition: Partition, name: &str) -> String {
        format!("{}:{{{}}}:{name}", self.prefix, partition.number())
    }

    /// The keys of a channel: members, users, leases. Its name comes last, whatever stands in it.
    fn channel_keys(&self, channel: &str) -> [String; 5] {
        let partition = Partition::of(channel);
        [
            self.key(partition, "leases"),
            self.key(partition, "marks"),
            self.key(partition, &format!("members:{channel}")),
            self.key(partition, &format!("users-of:{channel}")),
            self.key(partition, &format!("leases-of:{channel}")),
        ]
    }

    async fn run<T: FromRedisValue>(&self, invocation: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        let call = async |mut connection| invocation.invoke_async(&mut connection).await;
        let called = self.link.call(Caller::Background, call).await;
        called.map_err(|error| StoreError::Unavailable(error.to_string()))
    }
}

/// A lease as it stands in keys and values.
fn lease_text(lease: Lease) -> String {
    format!("{}:{}", lease.gateway, lease.number)
}

fn lease_of(text: &str) -> Result<Lease, StoreError> {
    let damaged = || StoreError::Damaged(format!("{text:?} as a lease"));
    let (gateway, number) = text.split_once(':').ok_or_else(damaged)?;
    Ok(Lease {
        gateway: gateway.parse().map_err(|_| damaged())?,
        number: number.parse().map_err(|_| damaged())?,
    })
}

/// What a script says of a channel that somebody came into or left.
type Found = (u64, u64, u64, Vec<Bytes>, Vec<Bytes>, Vec<String>);

fn moved(channel: &str, (before, clients, users, joined, left, leases): Found) -> Result<Moved, StoreError> {
    let leases = leases.iter().map(|lease| lease_of(lease));
    let mut gateways: Vec<Incarnation> = leases
        .map(|lease| Ok(lease?.gateway))
        .collect::<Result<_, StoreError>>()?;
    gateways.sort_unstable();
    gateways.dedup();
    Ok(Moved {
        channel: channel.to_owned(),
        joined,
        left,
        before,
        clients,
        users,
        gateways,
    })
}

#[async_trait]
impl PresenceStore for RedisStore {
    async fn hold(
        &self,
        partition: Partition,
        stamp: Stamp,
        begins: bool,
        lasts: Duration,
    ) -> Result<bool, StoreError> {
        let mut script = self.scripts.hold.prepare_invoke();
        script
            .key(self.key(partition, "leases"))
            .arg(stamp.lease.gateway.to_string())
            .arg(stamp.lease.number)
            .arg(stamp.report)
            .arg(u8::from(begins))
            .arg(millis(lasts));
        self.run(&script).await
    }

    async fn release(&self, partition: Partition, stamp: Stamp) -> Result<(), StoreError> {
        let mut script = self.scripts.release.prepare_invoke();
        script
            .key(self.key(partition, "leases"))
            .arg(stamp.lease.gateway.to_string())
            .arg(stamp.lease.number)
            .arg(stamp.report);
        self.run(&script).await
    }

    async fn load(&self, partition: Partition, users: &[&str]) -> Result<Loaded, StoreError> {
        let mut script = self.scripts.load.prepare_invoke();
        script
            .key(self.key(partition, "leases"))
            .key(self.key(partition, "users"))
            .arg(users);
        let (now_ms, leases, values): (u64, Vec<String>, Vec<Option<Bytes>>) = self.run(&script).await?;
        let leases = leases.iter().map(|lease| lease_of(lease));
        Ok(Loaded {
            now_ms,
            leases: leases
                .map(|lease| lease.map(|lease| (lease.gateway, lease.number)))
                .collect::<Result<_, _>>()?,
            users: values
                .into_iter()
                .map(|value| value.map(versioned).transpose())
                .collect::<Result<_, _>>()?,
        })
    }

    async fn save(
        &self,
        partition: Partition,
        stamp: Option<Stamp>,
        writes: &[Write],
    ) -> Result<Saved, StoreError> {
        let mut script = self.scripts.save.prepare_invoke();
        for name in ["leases", "users", "due", "at", "marks", "untold"] {
            script.key(self.key(partition, name));
        }
        match stamp {
            Some(stamp) => script
                .arg(stamp.lease.gateway.to_string())
                .arg(stamp.lease.number)
                .arg(stamp.report),
            None => script.arg("").arg(0).arg(0),
        };
        for write in writes {
            let value = match &write.value {
                Some(value) => {
                    let version = write.expected.map_or(1, |version| version + 1);
                    [format!("{version}:").as_bytes(), value].concat()
                }
                None => Vec::new(),
            };
            script
                .arg(&write.user)
                .arg(
                    write
                        .expected
                        .map(|version| version.to_string())
                        .unwrap_or_default(),
                )
                .arg(value)
                .arg(write.due_ms.map(|due| due.to_string()).unwrap_or_default())
                .arg(write.news.as_deref().unwrap_or_default())
                .arg(write.not_at.len())
                .arg(write.at.len());
            for lease in write.not_at.iter().chain(&write.at) {
                script.arg(lease_text(*lease));
            }
        }
        let done: Option<Vec<bool>> = self.run(&script).await?;
        Ok(done.map_or(Saved::NotHeld, Saved::Done))
    }

    async fn look(&self, partition: Partition) -> Result<Look, StoreError> {
        let mut script = self.scripts.look.prepare_invoke();
        for name in ["leases", "due", "at", "marks", "untold"] {
            script.key(self.key(partition, name));
        }
        script
            .arg(MAX_BATCH)
            .arg(millis(UNTOLD_AFTER))
            .arg(millis(REPORTED_ANEW));
        let (due, over, untold): (Vec<String>, Vec<(String, String, String)>, Vec<Bytes>) =
            self.run(&script).await?;
        let more = due.len() >= MAX_BATCH || over.len() >= MAX_BATCH;
        let mut users: BTreeMap<String, Vec<Lease>> =
            due.into_iter().map(|user| (user, Vec::new())).collect();
        let mut channels = Vec::new();
        for (kind, lease, name) in over {
            match kind.as_str() {
                "u" => users.entry(name).or_default().push(lease_of(&lease)?),
                _ => channels.push((name, lease_of(&lease)?)),
            }
        }
        Ok(Look {
            users: users.into_iter().collect(),
            channels,
            untold,
            more,
        })
    }

    async fn told(&self, partition: Partition, news: &[Bytes]) -> Result<(), StoreError> {
        let mut command = redis::cmd("ZREM");
        command.arg(self.key(partition, "untold"));
        for news in news {
            command.arg(news.as_ref());
        }
        let call = async |mut connection| command.query_async(&mut connection).await;
        let called = self.link.call::<(), _>(Caller::Background, call).await;
        called.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    async fn moves(&self, stamp: Stamp, moves: &Moves) -> Result<Option<Moved>, StoreError> {
        let mut script = self.scripts.moves.prepare_invoke();
        for key in self.channel_keys(&moves.channel) {
            script.key(key);
        }
        script
            .key(self.key(Partition::of(&moves.channel), "at"))
            .arg(stamp.lease.gateway.to_string())
            .arg(stamp.lease.number)
            .arg(stamp.report)
            .arg(&moves.channel)
            .arg(moves.left.len());
        for client in &moves.left {
            script.arg(client.as_ref());
        }
        for member in &moves.joined {
            let before = format!(
                "{}:{}:{}",
                lease_text(stamp.lease),
                member.user.len(),
                member.user
            );
            let value = [before.as_bytes(), &member.value].concat();
            script.arg(member.client.as_ref()).arg(value).arg(&member.user);
        }
        let found: Option<Found> = self.run(&script).await?;
        found.map(|found| moved(&moves.channel, found)).transpose()
    }

    async fn clear(&self, channel: &str, lease: Lease) -> Result<(Moved, bool), StoreError> {
        let mut script = self.scripts.clear.prepare_invoke();
        for key in self.channel_keys(channel) {
            script.key(key);
        }
        script
            .key(self.key(Partition::of(channel), "at"))
            .arg(lease.gateway.to_string())
            .arg(lease.number)
            .arg(channel)
            .arg(MAX_BATCH)
            .arg(millis(REPORTED_ANEW));
        let (found, more): (Found, bool) = self.run(&script).await?;
        Ok((moved(channel, found)?, more))
    }

    async fn in_channel(&self, channel: &str, most: usize) -> Result<InChannel, StoreError> {
        let mut script = self.scripts.in_channel.prepare_invoke();
        for key in self.channel_keys(channel) {
            script.key(key);
        }
        script.arg(most);
        let (members, clients, users): (Vec<Bytes>, u64, u64) = self.run(&script).await?;
        Ok(InChannel {
            members,
            clients,
            users,
        })
    }
}

/// What stands of a user: `version:value`.
fn versioned(stored: Bytes) -> Result<Versioned, StoreError> {
    let damaged = || StoreError::Damaged("a user without a version".to_owned());
    let colon = stored.iter().position(|byte| *byte == b':').ok_or_else(damaged)?;
    let version = stored
        .get(..colon)
        .and_then(|digits| std::str::from_utf8(digits).ok());
    Ok(Versioned {
        version: version
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(damaged)?,
        value: stored.slice(colon + 1..),
    })
}
