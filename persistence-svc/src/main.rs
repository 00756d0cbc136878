//! The persistence service as a process of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use switchboard_bus::config::BusConfig;
use switchboard_database::config::Defaults;
use switchboard_persistence_svc::{Config, Deps, SQLITE_PATH, start};
use switchboard_service_kit::run::{self, Program, StartFailure};

const PROGRAM: Program = Program {
    name: "switchboard-persistence-svc",
    version: env!("CARGO_PKG_VERSION"),
    about: "stores what is said for good",
    admin: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8003),
    other_sections: &[
        "channels",
        "gateway",
        "namespaces",
        "notify",
        "presence",
        "registry",
        "router",
        "switchboard",
    ],
};

fn main() -> ExitCode {
    run::main(
        PROGRAM,
        |document| {
            (
                BusConfig::read_shared(document),
                Config::read(document, &Defaults::of_many(SQLITE_PATH)),
            )
        },
        |(bus, config), context| async move {
            // Who stores nothing needs no right to the log.
            if config.store.is_none() {
                let opened = bus.open_bus(PROGRAM.name).await?;
                let deps = Deps {
                    bus: opened,
                    log: None,
                    shards: bus.shards,
                    data: None,
                };
                return start(config, deps, context).await.map_err(StartFailure::from);
            }
            let backends = bus.open(PROGRAM.name).await?;
            let deps = Deps {
                bus: backends.bus,
                log: Some(backends.log),
                shards: backends.shards,
                data: None,
            };
            start(config, deps, context).await.map_err(StartFailure::from)
        },
    )
}
