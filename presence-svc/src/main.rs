//! The presence service as a process of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use switchboard_bus::config::BusConfig;
use switchboard_presence_svc::{Config, Deps, start};
use switchboard_registry::config::RegistryConfig;
use switchboard_service_kit::run::{self, Program, StartFailure};

const PROGRAM: Program = Program {
    name: "switchboard-presence-svc",
    version: env!("CARGO_PKG_VERSION"),
    about: "knows who is here, and tells",
    admin: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8004),
    other_sections: &[
        "channels",
        "gateway",
        "namespaces",
        "notify",
        "persistence",
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
                Config::read(document),
                RegistryConfig::read(document),
            )
        },
        |(bus, config, registry), context| async move {
            let bus = bus.open_bus(PROGRAM.name).await?;
            let deps = Deps {
                bus: bus.clone(),
                registry,
                data: None,
            };
            let running = start(config, deps, context).await?;
            Ok::<_, StartFailure>((running, bus))
        },
    )
}
