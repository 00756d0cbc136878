//! The gateway as a process of its own. See the library.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use axum::Router;
use switchboard_bus::config::BusConfig;
use switchboard_gateway::{Config, Deps, start};
use switchboard_registry::config::RegistryConfig;
use switchboard_service_kit::run::{self, Program, StartFailure};

const PROGRAM: Program = Program {
    name: "switchboard-gateway",
    version: env!("CARGO_PKG_VERSION"),
    about: "holds clients' connections",
    admin: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8001),
    other_sections: &["switchboard", "router", "persistence", "presence", "notify"],
};

fn main() -> ExitCode {
    run::main(
        PROGRAM,
        |document| {
            let bus = BusConfig::read_shared(document);
            (bus, RegistryConfig::read(document), Config::read(document))
        },
        |(bus, registry, config), context| async move {
            let deps = Deps {
                bus: bus.open_bus(PROGRAM.name).await?,
                shards: bus.shards,
                registry: registry.open()?,
                data: None,
                extra: Router::new(),
            };
            start(config, deps, context).await.map_err(StartFailure::from)
        },
    )
}
