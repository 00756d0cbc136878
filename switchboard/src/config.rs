//! One configuration for all services of a process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use switchboard_bus::config::{Backend, BusConfig, EMBEDDED_LOG};
use switchboard_database::config::Defaults;
use switchboard_notify_svc::SQLITE_PATH as NOTIFICATIONS;
use switchboard_persistence_svc::SQLITE_PATH as MESSAGES;
use switchboard_registry::config::RegistryConfig;
use switchboard_service_kit::config::{Document, Effective, Faults};
use switchboard_service_kit::run::NodeConfig;

/// A service that a process may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Holds the clients' sockets.
    Gateway,
    /// Owns shards.
    Router,
    /// Stores what is said for good.
    Persistence,
    /// Knows who is there.
    Presence,
    /// Tells those who are away.
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
    pub(crate) registry: RegistryConfig,
    pub(crate) gateway: switchboard_gateway::Config,
    pub(crate) router: switchboard_router_svc::Config,
    pub(crate) persistence: switchboard_persistence_svc::Config,
    pub(crate) presence: switchboard_presence_svc::Config,
    /// Boxed, for it is large and what starts holds all of this.
    pub(crate) notify: Box<switchboard_notify_svc::Config>,
}

/// What holds where no file is given: a machine of one's own, to try things out.
const WITHOUT_A_FILE: &str = "gateway.insecure = true";

/// Where operators look, unless configured.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);

impl Config {
    /// Reads `file` and what `environment` overrides. Without a file, clients are let in without a
    /// token, and tokens are signed with a secret that everybody knows.
    ///
    /// # Errors
    /// All faults at once, each with key and remedy.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Effective), Faults> {
        let document = match file {
            Some(file) => Document::load(Some(file), environment)?,
            None => Document::without_a_file(WITHOUT_A_FILE, environment)?,
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
        let wanted = own.list("services", &names, "Services that this process runs.");
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
        if services.is_empty() {
            own.fault(
                "services",
                "names no service",
                format!("take from {}", names.join(", ")),
            );
        }
        let node = NodeConfig::read(&mut document, ADMIN);
        let bus = BusConfig::read(&mut document);
        let messages = stores(&bus, &services, Service::Persistence, ("messages.db", MESSAGES));
        let notifications = stores(
            &bus,
            &services,
            Service::Notify,
            ("notifications.db", NOTIFICATIONS),
        );
        let mut config = Self {
            node,
            services,
            bus,
            registry: RegistryConfig::read(&mut document),
            gateway: switchboard_gateway::Config::read(&mut document),
            router: switchboard_router_svc::Config::read(&mut document),
            persistence: switchboard_persistence_svc::Config::read(&mut document, &messages),
            presence: switchboard_presence_svc::Config::read(&mut document),
            notify: Box::new(switchboard_notify_svc::Config::read(
                &mut document,
                &notifications,
            )),
        };
        config.bus.key_window = Some(config.router.key_window);
        let runs = |service| config.services.contains(&service);
        if runs(Service::Router) && runs(Service::Persistence) && config.persistence.store.is_some() {
            // The log keeps what was not stored yet.
            config.router.read_by(switchboard_persistence_svc::READER);
        }
        if runs(Service::Router) && runs(Service::Notify) && config.notify.reads_the_log() {
            config.router.read_by(switchboard_notify_svc::READER);
        }
        let embedded = matches!(config.bus.backend, Backend::Embedded { .. });
        if embedded
            && config.services.contains(&Service::Gateway)
            && !config.services.contains(&Service::Router)
        {
            document.section("switchboard").fault(
                "services",
                "a gateway without a router, on a bus that no other process can join",
                "add \"router\", or set bus.backend = \"nats\"",
            );
        }
        if config.gateway.drain_spread >= config.node.shutdown_budget {
            document.section("gateway").fault(
                "drain_spread",
                "not shorter than shutdown.budget, so a stop would always be forced",
                "lower it, or raise shutdown.budget",
            );
        }
        Ok((config, document.finish()?))
    }
}

/// Where one process has all there is, a service stores what it stores in a file beside the log.
fn stores(bus: &BusConfig, services: &[Service], service: Service, (name, usual): (&str, &str)) -> Defaults {
    let mut defaults = Defaults::of_many(usual);
    if let Backend::Embedded { path, .. } = &bus.backend {
        defaults.sqlite = services.contains(&service) && services.contains(&Service::Router);
        if path != Path::new(EMBEDDED_LOG) {
            defaults.path = path.join(name);
        }
    }
    defaults
}

#[cfg(test)]
mod tests {
    use switchboard_database::config::DatabaseSettings;

    use super::*;

    #[test]
    fn messages_are_stored_where_one_process_has_all_there_is() {
        let read = |text: &str| Config::from_toml(text).unwrap();
        let path = |settings: Option<&DatabaseSettings>| match settings {
            Some(DatabaseSettings::Sqlite(sqlite)) => Some(sqlite.path.clone()),
            Some(DatabaseSettings::Postgres(_)) | None => None,
        };
        let messages = |config: &Config| path(config.persistence.store.as_ref().map(|store| &store.0));
        let notifications = |config: &Config| path(config.notify.store.as_ref());
        let alone = read("gateway.insecure = true");
        assert_eq!(messages(&alone), Some("./data/messages.db".into()));
        assert_eq!(notifications(&alone), Some("./data/notifications.db".into()));
        assert!(
            alone
                .router
                .readers
                .iter()
                .any(|reader| reader.as_str() == "persistence")
        );
        let elsewhere = read("gateway.insecure = true\nbus.embedded.path = \"/srv/log\"");
        assert_eq!(messages(&elsewhere), Some("/srv/log/messages.db".into()));
        assert_eq!(
            notifications(&elsewhere),
            Some("/srv/log/notifications.db".into())
        );
        for text in [
            "gateway.insecure = true\npersistence.store = \"none\"",
            "gateway.insecure = true\nswitchboard.services = [\"router\", \"gateway\"]",
            "gateway.insecure = true\nbus.backend = \"nats\"",
        ] {
            let config = read(text);
            assert!(config.persistence.store.is_none(), "{text}");
            assert!(config.router.readers.is_empty(), "{text}");
        }
    }

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
    fn services_that_cannot_work_are_refused() {
        for (text, key) in [
            ("switchboard.services = []", "switchboard.services"),
            ("switchboard.services = [\"gateway\"]", "switchboard.services"),
            ("gateway.drain_spread = \"30s\"", "gateway.drain_spread"),
            ("gateway.publish_size = \"128KiB\"", "gateway.publish_size"),
        ] {
            let faults = Config::from_toml(text).unwrap_err().to_string();
            assert!(faults.contains(key), "{text}: {faults}");
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

    /// The page in `docs/` is what this release reads.
    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a switch for whoever changes a key, no configuration"
    )]
    fn reference_page_is_true() {
        let (_, effective) = Config::load(None, []).unwrap();
        let page = format!(
            "# Configuration\n\nEvery key of the file that `--config` names. A variable such as \
             `SWITCHBOARD__GATEWAY__LISTEN` overrides its key; the texts of a list are separated by commas there. `switchboard \
             print-config` prints what is in force. \
             `[namespaces.NAME]` takes the keys of `[channels]`, but for `allow_publish_to_broadcast`, for the channels \
             `NAME:…`; [channels.md](channels.md) says more. \
             Written by `WRITE_REFERENCE=1 cargo test -p switchboard reference_page`.\n\n{}",
            effective.reference()
        );
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        if std::env::var_os("WRITE_REFERENCE").is_some() {
            std::fs::write(file, &page).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(file).unwrap(),
            page,
            "write it anew, as the page says"
        );
    }
}
