//! One configuration for all services of a process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use switchboard_bus::config::BusConfig;
use switchboard_service_kit::config::{Document, Effective, Faults};
use switchboard_service_kit::run::NodeConfig;

/// A service that a process may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Holds the clients' sockets.
    Gateway,
    /// Owns shards.
    Router,
    /// Will store and search messages.
    Persistence,
    /// Will know who is there.
    Presence,
    /// Will tell who is away.
    Notify,
}

impl Service {
    const NAMES: [(&'static str, Self); 5] = [
        ("gateway", Self::Gateway),
        ("router", Self::Router),
        ("persistence", Self::Persistence),
        ("presence", Self::Presence),
        ("notify", Self::Notify),
    ];
}

/// Everything that a process is told.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) node: NodeConfig,
    pub(crate) services: Vec<Service>,
    pub(crate) bus: BusConfig,
    pub(crate) gateway: switchboard_gateway::Config,
    pub(crate) router: switchboard_router_svc::Config,
    pub(crate) persistence: switchboard_persistence_svc::Config,
    pub(crate) presence: switchboard_presence_svc::Config,
    pub(crate) notify: switchboard_notify_svc::Config,
}

/// What holds where no file is given: a machine of one's own, to try things out.
const WITHOUT_A_FILE: &str = "gateway.insecure = true";

/// Where operators look, unless configured.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);

impl Config {
    /// Reads `file` and what `environment` overrides. Without a file, clients are let in without a
    /// token.
    ///
    /// # Errors
    /// All faults at once, each with key and remedy.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Effective), Faults> {
        let document = match file {
            Some(file) => Document::load(Some(file), environment)?,
            None => Document::parse(WITHOUT_A_FILE, environment)?,
        };
        Self::read(document)
    }

    /// Reads TOML text and nothing else.
    ///
    /// # Errors
    /// All faults at once, each with key and remedy.
    pub fn from_toml(text: &str) -> Result<Self, Faults> {
        let (config, _) = Self::read(Document::parse(text, [])?)?;
        Ok(config)
    }

    fn read(mut document: Document) -> Result<(Self, Effective), Faults> {
        let mut own = document.section("switchboard");
        let names: Vec<&str> = Service::NAMES.iter().map(|(name, _)| *name).collect();
        let wanted = own.list("services", &names, "services that this process runs");
        let mut services = Vec::new();
        for name in wanted {
            match Service::NAMES.iter().find(|(known, _)| *known == name) {
                Some((_, service)) => services.push(*service),
                None => {
                    let remedy = format!("take from {}", names.join(", "));
                    own.fault("services", format!("there is no service {name:?}"), remedy);
                }
            }
        }
        let config = Self {
            node: NodeConfig::read(&mut document, ADMIN),
            services,
            bus: BusConfig::read(&mut document),
            gateway: switchboard_gateway::Config::read(&mut document),
            router: switchboard_router_svc::Config::read(&mut document),
            persistence: switchboard_persistence_svc::Config::read(&mut document),
            presence: switchboard_presence_svc::Config::read(&mut document),
            notify: switchboard_notify_svc::Config::read(&mut document),
        };
        Ok((config, document.finish()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_reported_at_once() {
        let text =
            "switchboard.services = [\"gatway\"]\nrouter.links = 0\nbus.backend = \"kafka\"\nnonsense = 1";
        let faults = Config::from_toml(text).unwrap_err().to_string();
        for key in ["switchboard.services", "router.links", "bus.backend", "nonsense"] {
            assert!(faults.contains(key), "{key} is missing in: {faults}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let (_, effective) = Config::load(None, []).unwrap();
        let printed = effective.to_string();
        let again = Config::read(Document::parse(&printed, []).unwrap())
            .unwrap()
            .1
            .to_string();
        let values = |text: &str| -> Vec<String> {
            text.lines()
                .filter(|line| !line.trim_start().starts_with('#'))
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(values(&printed), values(&again));
    }
}
