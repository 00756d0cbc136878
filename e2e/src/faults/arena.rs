//! The cluster that faults are done to: two routers and two gateways as processes, each with its own network to three
//! nats-servers that replicate.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use switchboard_testkit::NatsCluster;
use tempfile::TempDir;
use tokio::time::{Instant, sleep_until};

use super::proxy::{Proxy, Way};
use super::schedule::{Act, Fault, GATEWAYS, ROUTERS, SERVERS, Victim};
use crate::process::Process;

/// Signs the tokens of the crowd.
pub(super) const SECRET: &str = "faults-are-done-to-no-cluster-but-this";

const CONFIG: &str = r#"
[bus]
backend = "nats"
create = true
shards = 4
[bus.nats]
max_bytes = "256MiB"
replicas = 3
[gateway]
insecure = true
[gateway.tokens]
hmac_secret = "SECRET"
[gateway.limits]
connections_per_address = 0
connect_rate = 0
"#;

/// A process of ours, and its network.
struct Member {
    process: Process,
    proxy: Proxy,
}

pub(super) struct Arena {
    routers: Vec<Member>,
    gateways: Vec<Member>,
    nats: NatsCluster,
    // Dropped after the processes.
    _folder: TempDir,
}

/// A fault that is begun or over.
enum Step {
    Begin(Fault),
    End(Fault),
}

impl Arena {
    pub(super) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let nats = NatsCluster::start(SERVERS).await?;
        let servers = nats
            .urls()
            .iter()
            .map(|url| {
                let address = url.trim_start_matches("nats://");
                address.parse().with_context(|| format!("{url} is no address"))
            })
            .collect::<Result<Vec<SocketAddr>>>()?;
        let mut arena = Self {
            routers: Vec::new(),
            gateways: Vec::new(),
            nats,
            _folder: folder,
        };
        for (name, count) in [
            ("switchboard-router-svc", ROUTERS),
            ("switchboard-gateway", GATEWAYS),
        ] {
            for number in 0..count {
                let proxy = Proxy::start(&servers).await?;
                let urls: Vec<String> = proxy
                    .addresses()
                    .iter()
                    .map(|to| format!("nats://{to}"))
                    .collect();
                let file = format!("{name}-{number}.toml");
                let config = CONFIG
                    .replace("[bus.nats]\n", &format!("[bus.nats]\nurls = {urls:?}\n"))
                    .replace("SECRET", SECRET);
                std::fs::write(arena._folder.path().join(&file), config)?;
                let process = Process::spawn(name, arena._folder.path(), &["--config", &file])?;
                let members = match name {
                    "switchboard-gateway" => &mut arena.gateways,
                    _ => &mut arena.routers,
                };
                members.push(Member { process, proxy });
            }
        }
        for member in arena.routers.iter_mut().chain(&mut arena.gateways) {
            member.process.ready().await?;
        }
        Ok(arena)
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
        let mut steps: Vec<(std::time::Duration, Step)> = Vec::new();
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

    fn member(&mut self, victim: Victim) -> Result<&mut Member> {
        let member = match victim {
            Victim::Router(number) => self.routers.get_mut(number),
            Victim::Gateway(number) => self.gateways.get_mut(number),
            Victim::Nats(_) => None,
        };
        member.with_context(|| format!("no {victim:?}"))
    }

    async fn begin(&mut self, fault: Fault) -> Result<()> {
        if let Victim::Nats(node) = fault.victim {
            return match fault.act {
                Act::Kill => self.nats.kill(node),
                Act::Pause => self.nats.pause(node),
                Act::Restart => self.nats.stop(node).await,
                Act::Cut | Act::Silence | Act::Delay(_) => bail!("there is no network between servers"),
            };
        }
        let Member { process, proxy } = self.member(fault.victim)?;
        match fault.act {
            Act::Kill => process.kill_in_place()?,
            Act::Pause => process.pause()?,
            Act::Restart => {
                let status = process.terminate_in_place().await?;
                if !status.success() {
                    bail!("{status}: {}", process.printed()?);
                }
            }
            Act::Cut => proxy.set(Way::Cut),
            Act::Silence => proxy.set(Way::Silent),
            Act::Delay(delay) => proxy.set(Way::Delayed(delay)),
        }
        Ok(())
    }

    async fn end(&mut self, fault: Fault) -> Result<()> {
        if let Victim::Nats(node) = fault.victim {
            return match fault.act {
                Act::Pause => self.nats.resume(node),
                _ => self.nats.restart(node).await,
            };
        }
        let Member { process, proxy } = self.member(fault.victim)?;
        match fault.act {
            Act::Kill | Act::Restart => process.respawn()?,
            Act::Pause => process.resume()?,
            Act::Cut | Act::Silence | Act::Delay(_) => proxy.set(Way::Open),
        }
        Ok(())
    }

    /// Everybody is there and well, and ends well.
    pub(super) async fn stop(mut self) -> Result<()> {
        for member in self.gateways.iter_mut().chain(&mut self.routers) {
            member.process.ready().await?;
        }
        for member in self.gateways.into_iter().chain(self.routers) {
            let status = member.process.terminate().await?;
            if !status.success() {
                bail!("a process ended with {status}");
            }
        }
        Ok(())
    }
}
