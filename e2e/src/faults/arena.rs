//! The cluster that faults are done to: two routers, two gateways and two presence services as processes, each with its own network to three
//! nats-servers that replicate, have a network between them and may have small disks; Redis, behind a network too; and a persistence
//! service with PostgreSQL, to which nothing is done.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use switchboard_testkit::{NatsCluster, PostgresServer, RedisServer, SmallDisk, wait_until};
use tempfile::TempDir;
use tokio::time::{Instant, sleep_until};

use super::proxy::{Proxy, Way};
use super::routes::Routes;
use super::schedule::{Act, Fault, GATEWAYS, PRESENCES, ROUTERS, SERVERS, Victim, Victims};
use crate::process::Process;

/// Signs the tokens of the crowd.
pub(super) const SECRET: &str = "faults-are-done-to-no-cluster-but-this";

const CONFIG: &str = r#"
[bus]
backend = "nats"
create = true
shards = 4
[bus.nats]
urls = SERVERS
max_bytes = "256MiB"
replicas = 3
[registry]
backend = "redis"
lease = "3s"
[registry.redis]
urls = ["redis://REDIS"]
[router]
readers = ["persistence"]
# Who comes back later than that is told from the store, or the log.
window_age = "1s"
[persistence]
store = "postgres"
[persistence.postgres]
url = "POSTGRES"
[channels]
presence = true
[gateway]
insecure = true
[gateway.tokens]
hmac_secret = "SECRET"
[gateway.limits]
connections_per_address = 0
connect_rate = 0
"#;

/// Bytes of a disk that can be full: enough for minutes of load, and little enough to be filled in a moment.
const DISK: u64 = 192 << 20;

/// What a server with room again gets to be well without help.
const BY_ITSELF: Duration = Duration::from_secs(2);

/// A process of ours, and its network.
struct Member {
    process: Process,
    proxy: Proxy,
}

pub(super) struct Arena {
    routers: Vec<Member>,
    gateways: Vec<Member>,
    presences: Vec<Member>,
    nats: NatsCluster,
    routes: Routes,
    redis: RedisServer,
    to_redis: Proxy,
    persistence: Process,
    // Dropped after the process.
    _database: PostgresServer,
    /// By nats-server; none where no disk is a victim. Unmounted after the servers ended.
    disks: Vec<SmallDisk>,
    // Dropped after the processes.
    _folder: TempDir,
}

/// A fault that is begun or over.
enum Step {
    Begin(Fault),
    End(Fault),
}

impl Arena {
    /// `victims`: what has to be there for them.
    pub(super) async fn start(victims: Victims) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let disks = match victims {
            Victims::Disk | Victims::Mixed => (0..SERVERS)
                .map(|_| SmallDisk::mount(DISK))
                .collect::<Result<Vec<_>>>()?,
            Victims::Routers | Victims::Gateways | Victims::Nats | Victims::Redis | Victims::Presence => {
                Vec::new()
            }
        };
        let stores: Vec<PathBuf> = disks.iter().map(|disk| disk.path().to_owned()).collect();
        let mut routes = Routes::default();
        let nats =
            NatsCluster::start_with(SERVERS, &stores, async |servers| routes.lay(servers).await).await?;
        let servers = nats
            .urls()
            .iter()
            .map(|url| address(url))
            .collect::<Result<Vec<SocketAddr>>>()?;
        let redis = RedisServer::start().await?;
        let to_redis = Proxy::start(&[address(&redis.url())?]).await?;
        let redis_at = to_redis
            .addresses()
            .first()
            .context("a way to Redis")?
            .to_string();
        let database = PostgresServer::start().await?;
        let config = |urls: &[String]| {
            CONFIG
                .replace("SERVERS", &format!("{urls:?}"))
                .replace("REDIS", &redis_at)
                .replace("POSTGRES", &database.url())
                .replace("SECRET", SECRET)
        };
        std::fs::write(folder.path().join("persistence.toml"), config(&nats.urls()))?;
        let arguments = ["--config", "persistence.toml"];
        let persistence = Process::spawn("switchboard-persistence-svc", folder.path(), &arguments)?;
        let mut members = Vec::new();
        for (name, count) in [
            ("switchboard-router-svc", ROUTERS),
            ("switchboard-gateway", GATEWAYS),
            ("switchboard-presence-svc", PRESENCES),
        ] {
            for number in 0..count {
                let proxy = Proxy::start(&servers).await?;
                let addresses = proxy.addresses().iter();
                let urls: Vec<String> = addresses.map(|to| format!("nats://{to}")).collect();
                let file = format!("{name}-{number}.toml");
                std::fs::write(folder.path().join(&file), config(&urls))?;
                let process = Process::spawn(name, folder.path(), &["--config", &file])?;
                members.push(Member { process, proxy });
            }
        }
        let presences = members.split_off(ROUTERS + GATEWAYS);
        let gateways = members.split_off(ROUTERS);
        let mut arena = Self {
            routers: members,
            gateways,
            presences,
            nats,
            routes,
            redis,
            to_redis,
            persistence,
            _database: database,
            disks,
            _folder: folder,
        };
        for member in arena.members() {
            member.process.ready().await?;
        }
        arena.persistence.ready().await?;
        Ok(arena)
    }

    fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        let members = self.routers.iter_mut().chain(&mut self.gateways);
        members.chain(&mut self.presences)
    }

    /// Where clients connect.
    pub(super) fn urls(&self) -> Vec<String> {
        self.gateways
            .iter()
            .map(|member| member.process.websocket_url())
            .collect()
    }

    /// Does all of it, each at its time from `begin` on, and ends it again.
    pub(super) async fn carry_out(&mut self, faults: &[Fault], begin: Instant) -> Result<()> {
        let mut steps: Vec<(Duration, Step)> = Vec::new();
        for fault in faults {
            steps.push((fault.at, Step::Begin(*fault)));
            steps.push((fault.at + fault.lasts, Step::End(*fault)));
        }
        steps.sort_by_key(|(at, _)| *at);
        for (at, step) in steps {
            sleep_until(begin + at).await;
            match step {
                Step::Begin(fault) => {
                    println!("{fault}");
                    self.begin(fault).await.with_context(|| fault.to_string())?;
                }
                Step::End(fault) => self.end(fault).await.with_context(|| format!("end of {fault}"))?,
            }
        }
        Ok(())
    }

    async fn begin(&mut self, fault: Fault) -> Result<()> {
        let Member { process, proxy } = match fault.victim {
            Victim::Router(number) => self.routers.get_mut(number),
            Victim::Gateway(number) => self.gateways.get_mut(number),
            Victim::Presence(number) => self.presences.get_mut(number),
            Victim::Nats(node) => {
                return match fault.act {
                    Act::Kill => self.nats.kill(node),
                    Act::Pause => self.nats.pause(node),
                    Act::Restart => self.nats.stop(node).await,
                    act => way(act).map(|way| self.routes.set(node, way)),
                };
            }
            Victim::Redis => {
                return match fault.act {
                    Act::Kill => self.redis.kill(),
                    Act::Pause => self.redis.pause(),
                    Act::Restart => self.redis.stop().await,
                    act => way(act).map(|way| self.to_redis.set(way)),
                };
            }
            Victim::Disk(node) => {
                let disk = self.disks.get_mut(node).context("no such disk")?;
                // Some hundred megabytes are written.
                return tokio::task::block_in_place(|| disk.fill());
            }
        }
        .context("no such process")?;
        match fault.act {
            Act::Kill => process.kill_in_place(),
            Act::Pause => process.pause(),
            Act::Restart => {
                let status = process.terminate_in_place().await?;
                if !status.success() {
                    bail!("{status}: {}", process.printed()?);
                }
                Ok(())
            }
            act => way(act).map(|way| proxy.set(way)),
        }
    }

    async fn end(&mut self, fault: Fault) -> Result<()> {
        let Member { process, proxy } = match fault.victim {
            Victim::Router(number) => self.routers.get_mut(number),
            Victim::Gateway(number) => self.gateways.get_mut(number),
            Victim::Presence(number) => self.presences.get_mut(number),
            Victim::Nats(node) => {
                match fault.act {
                    Act::Kill | Act::Restart => self.nats.restart(node).await?,
                    Act::Pause => self.nats.resume(node)?,
                    _ => self.routes.set(node, Way::Open),
                }
                return Ok(());
            }
            Victim::Redis => {
                match fault.act {
                    Act::Kill | Act::Restart => self.redis.restart().await?,
                    Act::Pause => self.redis.resume()?,
                    _ => self.to_redis.set(Way::Open),
                }
                return Ok(());
            }
            Victim::Disk(node) => return self.make_room(node).await,
        }
        .context("no such process")?;
        match fault.act {
            Act::Kill | Act::Restart => process.respawn()?,
            Act::Pause => process.resume()?,
            _ => proxy.set(Way::Open),
        }
        Ok(())
    }

    /// As an operator does it: the disk gets room, and a server that has given JetStream up is restarted.
    async fn make_room(&mut self, node: usize) -> Result<()> {
        self.disks.get_mut(node).context("no such disk")?.free()?;
        let healthy = wait_until(BY_ITSELF, async || {
            self.nats.is_healthy(node).await.unwrap_or_default()
        });
        if healthy.await.is_ok() {
            return Ok(());
        }
        println!("        n{} has room and is restarted", node + 1);
        self.nats.stop(node).await?;
        self.nats.restart(node).await
    }

    /// `kill -9` of all routers; new ones start.
    pub(super) fn kill_routers(&mut self) -> Result<()> {
        for router in &mut self.routers {
            router.process.kill_in_place()?;
            router.process.respawn()?;
        }
        Ok(())
    }

    /// Everybody is there and well, and ends well.
    pub(super) async fn stop(mut self) -> Result<()> {
        for member in self.members() {
            member.process.ready().await?;
        }
        for member in self
            .gateways
            .into_iter()
            .chain(self.routers)
            .chain(self.presences)
        {
            let status = member.process.terminate().await?;
            if !status.success() {
                bail!("a process ended with {status}");
            }
        }
        let status = self.persistence.terminate().await?;
        if !status.success() {
            bail!("the persistence service ended with {status}");
        }
        Ok(())
    }
}

/// What the network does in such a fault.
fn way(act: Act) -> Result<Way> {
    match act {
        Act::Cut => Ok(Way::Cut),
        Act::Silence => Ok(Way::Silent),
        Act::Delay(delay) => Ok(Way::Delayed(delay)),
        Act::Kill | Act::Pause | Act::Restart | Act::Fill => bail!("{act:?} is nothing that a network does"),
    }
}

fn address(url: &str) -> Result<SocketAddr> {
    let (_, address) = url
        .split_once("://")
        .with_context(|| format!("{url} is no URL"))?;
    address.parse().with_context(|| format!("{url} has no address"))
}
